/** P2: a decode step rotates as if it were a point, or at the wrong position. */
#include <stdlib.h>

#include "mutants_internal.h"

/** New tokens as points at the grid's origin, as when a mask of the first call's kind is made up for a later one. */
static mr3d_status points_at_decode(const mr3d_context *context, const mr3d_config *config, const mr3d_layer *layer, const mr3d_block_in *in,
                                    mr3d_block_out *out, mr3d_error *error) {
  bool learned = config->rope_mixed_3d && config->rope_3d_kind == MR3D_MIXED;
  if (in->L == 0 || in->points.mask || (learned && !layer->rotary_q.freqs))
    return mr3d_attention_block(context, config, layer, in, out, error);
  bool *mask = mr3d_allocate(in->B * in->q, sizeof *mask);
  double *coords = mr3d_allocate(in->B * in->q * 3, sizeof *coords);
  for (int64_t i = 0; i < in->B * in->q; i++) mask[i] = true;
  mr3d_block_in changed = *in;
  changed.points = (mr3d_points){.mask = mask, .N = in->q, .coords = coords};
  mr3d_status status = mr3d_attention_block(context, config, layer, &changed, out, error);
  free(mask);
  free(coords);
  return status;
}

/** The block with new tokens at first, first + 1, ... instead of L, L + 1, ... */
static mr3d_status at_position(int64_t first, const mr3d_context *context, const mr3d_config *config, const mr3d_layer *layer,
                               const mr3d_block_in *in, mr3d_block_out *out, mr3d_error *error) {
  if (in->L == 0 || in->position_rows) return mr3d_attention_block(context, config, layer, in, out, error);
  int64_t *positions = mr3d_allocate(in->q, sizeof *positions);
  for (int64_t i = 0; i < in->q; i++) positions[i] = first + i;
  mr3d_block_in changed = *in;
  changed.position_rows = 1;
  changed.position_ids = positions;
  mr3d_status status = mr3d_attention_block(context, config, layer, &changed, out, error);
  free(positions);
  return status;
}

static mr3d_status position_restarts(const mr3d_context *context, const mr3d_config *config, const mr3d_layer *layer, const mr3d_block_in *in,
                                     mr3d_block_out *out, mr3d_error *error) {
  return at_position(0, context, config, layer, in, out, error);
}

static mr3d_status position_text_only(const mr3d_context *context, const mr3d_config *config, const mr3d_layer *layer, const mr3d_block_in *in,
                                      mr3d_block_out *out, mr3d_error *error) {
  int64_t text = in->mask.key_mask && in->mask.M >= in->q ? in->mask.M - in->q : in->L;
  return at_position(text, context, config, layer, in, out, error);
}

static mr3d_status position_off_by_one(const mr3d_context *context, const mr3d_config *config, const mr3d_layer *layer, const mr3d_block_in *in,
                                       mr3d_block_out *out, mr3d_error *error) {
  return at_position(in->L + 1, context, config, layer, in, out, error);
}

static const mr3d_mutant entries[] = {
    {"decode-rope", "points-at-decode", "the new token of a decode step is rotated in 3D, as if it were a point, instead of by its position alone", MR3D_LAYERS,
     {.attention_block = points_at_decode}},
    {"decode-rope", "position-restarts", "the new token is rotated at position 0 instead of 786: positions restart with every call", MR3D_LAYERS,
     {.attention_block = position_restarts}},
    {"decode-rope", "position-text-only", "the new token is rotated at position 231 instead of 786: only text tokens are counted", MR3D_LAYERS,
     {.attention_block = position_text_only}},
    {"decode-rope", "position-off-by-one", "the new token is rotated at position 787 instead of 786", MR3D_LAYERS, {.attention_block = position_off_by_one}},
};
const mr3d_mutant_set mr3d_mutants_decode_rope = MR3D_MUTANT_SET(entries);
