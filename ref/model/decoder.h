/** The decoder over a KV cache: prefill and decode are one function, told apart by the cache's length alone (spec.md 5). */
#ifndef MR3D_DECODER_H
#define MR3D_DECODER_H

#include "weights.h"

/** Rotated keys and values of every layer, [B,G,L,D] each. Zero-initialised: empty. */
typedef struct mr3d_kv_cache {
  int64_t L;
  int n_layers;
  double **key, **value;
} mr3d_kv_cache;
void mr3d_kv_cache_free(mr3d_kv_cache *);

typedef struct mr3d_decoder {
  const mr3d_config *config; /**< holds all sizes */
  mr3d_weights *weights;
  mr3d_decoder_ends ends;
  mr3d_sizes *sizes;  /**< the configuration's */
  bool has_points;    /**< the call marks points: rotary parameters are read */
  const mr3d_watch *watch; /**< NULL: none */
} mr3d_decoder;

/** Rows of the embedding: embeds [count,hidden]. Requires: ids below V. */
mr3d_status mr3d_decoder_embed(const mr3d_decoder *, int64_t count, const int64_t *ids, double *embeds, mr3d_error *);

/**
 * All layers and the final norm. `in` describes the new tokens: hidden holds their embeddings, L is the past's; past_key and past_value
 * are not looked at.
 *
 * Returns in hidden [B,q,hidden] the normed rows, in *grown the cache with the new tokens (the caller's; past is unchanged).
 */
mr3d_status mr3d_decoder_forward(const mr3d_context *, const mr3d_decoder *, const mr3d_kv_cache *past, const mr3d_block_in *in, double *hidden,
                                 mr3d_kv_cache *grown, mr3d_error *);

/** logits [B,keep,V] of the last `keep` of each sample's q normed rows. */
mr3d_status mr3d_decoder_logits(const mr3d_context *, const mr3d_decoder *, int64_t B, int64_t q, int64_t keep, const double *hidden, double *logits,
                                mr3d_error *);

#endif
