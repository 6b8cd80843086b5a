/** Watching a decoder's call layer by layer, an encoder's part by part: for showing how far it is, and for keeping what it has so that a stopped run can go on. */
#ifndef MR3D_WATCH_H
#define MR3D_WATCH_H

#include <stdbool.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

/** All that a call has after its first `done` layers; with its request it is all that is needed to go on from there. Valid during the callback. */
typedef struct mr3d_call_state {
  int64_t B, q, L;            /**< samples, new tokens, tokens in the cache before */
  int64_t hidden_size, kv_heads, head_dim;
  int64_t done, layers;
  double *hidden;             /**< [B,q,hidden]: what the next layer is given */
  double *const *key, *const *value;           /**< `layers` arrays [B,G,L+q,D], rotated keys; those of the first `done` layers hold values */
  double *const *past_key, *const *past_value; /**< `layers` arrays [B,G,L,D]; NULL where L is 0. Read only */
} mr3d_call_state;

/** Who watches what a server is asked. Any callback may be NULL. */
typedef struct mr3d_watch {
  void *user;
  /** Before the first layer; `done` is 0. May fill hidden, key and value as an earlier run of the same call left them after n layers; returns n, else 0. */
  int64_t (*start)(void *user, const mr3d_call_state *);
  /** After each layer that was computed. Changes nothing. */
  void (*layer_done)(void *user, const mr3d_call_state *);
  /** After the last layer: whether anyone reads the logits. If not they are not computed, and the answer has zeros in their place. */
  bool (*wants_logits)(void *user);
  /** After each part of a point encoder: its convolutions or blocks, and what stands before and behind them. */
  void (*part_done)(void *user, int64_t done, int64_t parts);
} mr3d_watch;

#ifdef __cplusplus
}
#endif
#endif
