/** P17: the phase is decided by the cache's existence, or by q = 1. */
#include <stdlib.h>

#include "mutants_internal.h"

/** The block with its points taken as text, once they have passed the checks. */
static mr3d_status as_text(const mr3d_context *context, const mr3d_config *config, const mr3d_layer *layer, const mr3d_block_in *in, mr3d_block_out *out,
                           mr3d_error *error) {
  mr3d_block_in changed = *in;
  changed.points = (mr3d_points){0};
  mr3d_status status = context->op->points_check(&in->points, in->B, in->q, error);
  return status == MR3D_OK ? mr3d_attention_block(context, config, layer, &changed, out, error) : status;
}

static mr3d_status cache_exists(const mr3d_context *context, const mr3d_config *config, const mr3d_layer *layer, const mr3d_block_in *in, mr3d_block_out *out,
                                mr3d_error *error) {
  return (in->L == 0 && in->past_key ? as_text : mr3d_attention_block)(context, config, layer, in, out, error);
}

static mr3d_status cache_always(const mr3d_context *context, const mr3d_config *config, const mr3d_layer *layer, const mr3d_block_in *in, mr3d_block_out *out,
                                mr3d_error *error) {
  return as_text(context, config, layer, in, out, error);
}

static mr3d_status one_token(const mr3d_context *context, const mr3d_config *config, const mr3d_layer *layer, const mr3d_block_in *in, mr3d_block_out *out,
                             mr3d_error *error) {
  return (in->q == 1 ? as_text : mr3d_attention_block)(context, config, layer, in, out, error);
}

static mr3d_status later_points(const mr3d_context *context, const mr3d_config *config, const mr3d_layer *layer, const mr3d_block_in *in, mr3d_block_out *out,
                                mr3d_error *error) {
  return (in->L > 0 ? as_text : mr3d_attention_block)(context, config, layer, in, out, error);
}

static bool is_chunk(int64_t L, int64_t q) { return L > 0 && q > 1; }

static mr3d_status chunk_restarts(const mr3d_context *context, const mr3d_config *config, const mr3d_layer *layer, const mr3d_block_in *in,
                                  mr3d_block_out *out, mr3d_error *error) {
  if (!is_chunk(in->L, in->q) || in->position_rows) return mr3d_attention_block(context, config, layer, in, out, error);
  int64_t *positions = mr3d_allocate(in->q, sizeof *positions);
  for (int64_t i = 0; i < in->q; i++) positions[i] = i;
  mr3d_block_in changed = *in;
  changed.position_rows = 1;
  changed.position_ids = positions;
  mr3d_status status = mr3d_attention_block(context, config, layer, &changed, out, error);
  free(positions);
  return status;
}

/** A chunk's mask where query i sees of the keys that are present those for which `sees` holds. */
static mr3d_status chunk_by(bool (*sees)(int64_t L, int64_t i, int64_t j), const mr3d_context *context, const mr3d_mask_in *in, bool *visible,
                            mr3d_error *error) {
  mr3d_status status = mr3d_mask(context, in, visible, error);
  const int64_t K = in->L + in->q;
  for (int64_t b = 0; status == MR3D_OK && is_chunk(in->L, in->q) && b < in->B; b++) {
    bool *rows = visible + b * in->q * K;
    const bool *present = rows + (in->q - 1) * K; /* the last token sees whatever is; changed last */
    for (int64_t i = 0; i < in->q; i++)
      for (int64_t j = 0; j < K; j++) rows[i * K + j] = present[j] && sees(in->L, i, j);
  }
  return status;
}

static bool from_0(int64_t L, int64_t i, int64_t j) { return (void)L, j <= i; }
static bool among_new(int64_t L, int64_t i, int64_t j) { return j >= L && j <= L + i; }
static bool any_key(int64_t L, int64_t i, int64_t j) { return (void)L, (void)i, (void)j, true; }

static mr3d_status chunk_mask_from_0(const mr3d_context *context, const mr3d_mask_in *in, bool *visible, mr3d_error *error) {
  return chunk_by(from_0, context, in, visible, error);
}
static mr3d_status chunk_without_past(const mr3d_context *context, const mr3d_mask_in *in, bool *visible, mr3d_error *error) {
  return chunk_by(among_new, context, in, visible, error);
}
static mr3d_status chunk_not_causal(const mr3d_context *context, const mr3d_mask_in *in, bool *visible, mr3d_error *error) {
  return chunk_by(any_key, context, in, visible, error);
}

static const mr3d_mutant entries[] = {
    {"empty-cache", "empty-cache-is-decode", "an empty cache that is handed over is taken for decode: points are rotated by their position alone",
     "attention_block decoder_layer", {.attention_block = cache_exists}},
    {"empty-cache", "one-token-is-decode", "a call with one new token is taken for decode: a point that comes alone is rotated as text", MR3D_LAYERS,
     {.attention_block = one_token}},
    {"empty-cache", "later-points-as-text", "points of a later chunk are rotated as text: 3D is for calls without a past", MR3D_LAYERS,
     {.attention_block = later_points}},
    {"empty-cache", "always-decode", "every call is taken for decode, because a cache always exists: no point is ever rotated in 3D", MR3D_LAYERS,
     {.attention_block = cache_always}},
    {"empty-cache", "chunk-restarts", "a later call with more than one token is taken for prefill: its positions start at 0 instead of 786", MR3D_LAYERS,
     {.attention_block = chunk_restarts}},
    {"empty-cache", "chunk-mask-from-0", "a later call with more than one token is taken for prefill: new token i sees keys 0 .. i instead of 0 .. L+i",
     "mask " MR3D_LAYERS, {.mask = chunk_mask_from_0}},
    {"empty-cache", "chunk-without-past", "a later call with more than one token is taken for prefill: its tokens see each other but not the cache",
     "mask " MR3D_LAYERS, {.mask = chunk_without_past}},
    {"empty-cache", "chunk-not-causal", "a later call with more than one token is taken for a decode step: its tokens see later ones", "mask " MR3D_LAYERS,
     {.mask = chunk_not_causal}},
};
const mr3d_mutant_set mr3d_mutants_empty_cache = MR3D_MUTANT_SET(entries);
