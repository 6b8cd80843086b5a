/** Sessions: a name, what it was opened with, and the KV cache (docs/protocol.md, "Sessions"). */
#ifndef MR3D_SESSION_H
#define MR3D_SESSION_H

#include "decoder.h"

struct mr3d_session {
  mr3d_session *next;
  char *name, *config_json;
  mr3d_config config; /**< all sizes and tie_word_embeddings filled in from the weights */
  mr3d_tier tier;
  mr3d_weights *weights;
  int64_t B;
  mr3d_kv_cache cache;
  int64_t *prefill_mask; /**< [B,prefill_len]: the attention_mask of the last prefill */
  int64_t prefill_len;
};

/** The session of that name, or NULL. */
mr3d_session *mr3d_session_find(mr3d_session *table, const char *name);
/** Puts an empty session into the table. Ownership: the table's. */
mr3d_session *mr3d_session_open(mr3d_session **table, const char *name);
/** Requires: it is in the table. */
void mr3d_session_drop(mr3d_session **table, mr3d_session *);

/** Takes the grown cache over; the old one is freed. */
void mr3d_session_grow(mr3d_session *, mr3d_kv_cache *grown);
/** Replaces the prefill mask by a copy of [B,columns]. */
void mr3d_session_set_mask(mr3d_session *, int64_t columns, const int64_t *mask);
/** Whether sample b's last prefill had padding behind its tokens: a 0 behind a 1, or no 1 at all. */
bool mr3d_session_padded(const mr3d_session *, int64_t b);

/** Whether the tier, the weights path (NULL: not named) and each key of the configuration are the session's. Errors name both values. */
mr3d_status mr3d_session_agrees(const mr3d_session *, mr3d_tier, const char *weights, const char *config_json, mr3d_error *);
/** "no session is open" or the open sessions' names, for messages. */
const char *mr3d_session_list(const mr3d_session *table, char text[400]);

struct mr3d_server {
  const mr3d_operators *operators;
  mr3d_arithmetic arithmetic;
  bool emulate, with_scale, finite, init_missing;
  uint64_t init_seed;
  mr3d_kept_squares *squares;
  const mr3d_tracer *tracer;
  const mr3d_watch *watch;
  int threads;
  uint32_t kept;
  mr3d_weights_cache *weights, *own_weights;
  mr3d_session *sessions;
  uint64_t answered;
};

#endif
