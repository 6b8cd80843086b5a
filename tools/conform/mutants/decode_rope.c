/** P2: a decode step rotates as if it were a point, or at the wrong position. */
#include <stdlib.h>
#include <string.h>

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

MR3D_LAYER(position_one_early) { return at_position(in->L - 1, context, config, layer, in, out, error); }

MR3D_LAYER(chunk_at_one_position) {
  if (in->L == 0 || in->position_rows) return mr3d_attention_block(context, config, layer, in, out, error);
  int64_t *positions = mr3d_allocate(in->q, sizeof *positions);
  for (int64_t i = 0; i < in->q; i++) positions[i] = in->L;
  mr3d_block_in changed = *in;
  changed.position_rows = 1;
  changed.position_ids = positions;
  mr3d_status status = mr3d_attention_block(context, config, layer, &changed, out, error);
  free(positions);
  return status;
}

/** Each sample's text tokens are counted; a point stands where the text before it ended. */
MR3D_LAYER(prefill_counts_text) {
  if (in->position_rows || !in->points.mask) return mr3d_attention_block(context, config, layer, in, out, error);
  int64_t *positions = mr3d_allocate(in->B * in->q, sizeof *positions);
  for (int64_t b = 0; b < in->B; b++)
    for (int64_t i = 0, text = in->L; i < in->q; i++) {
      bool point = in->points.mask[b * in->q + i];
      positions[b * in->q + i] = point && text > 0 ? text - 1 : text;
      text += !point;
    }
  mr3d_block_in changed = *in;
  changed.position_rows = in->B;
  changed.position_ids = positions;
  mr3d_status status = mr3d_attention_block(context, config, layer, &changed, out, error);
  free(positions);
  return status;
}

MR3D_LAYER(later_ids_ignored) {
  mr3d_block_in changed = *in;
  if (in->L > 0) changed.position_rows = 0;
  return mr3d_attention_block(context, config, layer, &changed, out, error);
}

static mr3d_bundle *ids_ignored(const mr3d_bundle *request) {
  const char *op = mr3d_bundle_get(request, "op");
  bool has_default = op && strcmp(op, "rope1d") != 0;
  return has_default && mr3d_bundle_find(request, "position_ids") ? mr3d_request_without(request, "position_ids") : NULL;
}

/** How far the positions that a call gave lie from its cache slots is kept for the calls that give none. */
MR3D_LAYER(goes_on_from_ids) {
  double offset = in->position_rows ? (double)(in->position_ids[0] - in->L) : 0;
  if (in->position_rows || in->L == 0) mr3d_mutant_remember("offset", 1, &offset);
  const double *kept = mr3d_mutant_remembered("offset", 1);
  int64_t first = in->L + (kept ? (int64_t)*kept : 0);
  return at_position(first, context, config, layer, in, out, error);
}

/** The first call's point mask and coordinates stay: their first q entries serve the next call, too. */
MR3D_LAYER(stale_point_mask) {
  bool learned = config->rope_mixed_3d && config->rope_3d_kind == MR3D_MIXED;
  int64_t tokens = in->B * in->q;
  if (in->points.mask) {
    double *kept = mr3d_allocate(in->B * in->q * 4, sizeof *kept); /* of each token: whether it is a point, and where */
    for (int64_t b = 0; b < in->B; b++)
      for (int64_t i = 0, n = 0; i < in->q; i++) {
        double *token = kept + (b * in->q + i) * 4;
        if (!(token[0] = in->points.mask[b * in->q + i]) || n >= in->points.N) continue;
        memcpy(token + 1, in->points.coords + (b * in->points.N + n++) * 3, 3 * sizeof *token);
      }
    double size[2] = {(double)in->B, (double)in->q};
    mr3d_mutant_remember("points of", 2, size);
    mr3d_mutant_remember("points", tokens * 4, kept);
    free(kept);
  }
  const double *size = mr3d_mutant_remembered("points of", 2);
  int64_t S = size && (int64_t)size[0] == in->B ? (int64_t)size[1] : 0;
  const double *kept = mr3d_mutant_remembered("points", in->B * S * 4);
  if (in->points.mask || in->L == 0 || in->q > S || !kept || (learned && !layer->rotary_q.freqs))
    return mr3d_attention_block(context, config, layer, in, out, error);
  bool *mask = mr3d_allocate(tokens, sizeof *mask);
  int64_t *counts = mr3d_allocate(in->B, sizeof *counts);
  double *coords = mr3d_allocate(tokens * 3, sizeof *coords);
  for (int64_t b = 0; b < in->B; b++)
    for (int64_t i = 0; i < in->q; i++) {
      const double *token = kept + (b * S + i) * 4;
      if ((mask[b * in->q + i] = token[0] != 0)) memcpy(coords + (b * in->q + counts[b]++) * 3, token + 1, 3 * sizeof *coords);
    }
  mr3d_block_in changed = *in;
  changed.points = (mr3d_points){.mask = mask, .N = in->q, .coords = coords, .counts = counts};
  mr3d_status status = mr3d_attention_block(context, config, layer, &changed, out, error);
  free(mask);
  free(counts);
  free(coords);
  return status;
}

static const mr3d_mutant entries[] = {
    {"decode-rope", "points-at-decode", "the new token of a decode step is rotated in 3D, as if it were a point, instead of by its position alone", MR3D_LAYERS,
     {.attention_block = points_at_decode}},
    {"decode-rope", "position-restarts", "the new token is rotated at position 0 instead of 786: positions restart with every call", MR3D_LAYERS,
     {.attention_block = position_restarts}},
    {"decode-rope", "position-text-only", "the new token is rotated at position 231 instead of 786: only text tokens are counted", MR3D_LAYERS,
     {.attention_block = position_text_only}},
    {"decode-rope", "position-off-by-one", "the new token is rotated at position 787 instead of 786", MR3D_LAYERS, {.attention_block = position_off_by_one}},
    {"decode-rope", "position-one-early", "the new token is rotated at position 785 instead of 786: that of the last key in the cache", MR3D_LAYERS,
     {.attention_block = position_one_early}},
    {"decode-rope", "chunk-at-one-position", "all new tokens of a later call are rotated at position L instead of at L, L + 1 and so on", MR3D_LAYERS,
     {.attention_block = chunk_at_one_position}},
    {"decode-rope", "prefill-counts-text", "positions of a call with points count text tokens only: the text behind 556 points goes on where the text before them ended",
     MR3D_LAYERS, {.attention_block = prefill_counts_text}},
    {"decode-rope", "later-ids-ignored", "position_ids are ignored when there is a past: tokens are rotated at L, L + 1 and so on", MR3D_LAYERS,
     {.attention_block = later_ids_ignored}},
    {"decode-rope", "ids-ignored", "position_ids are ignored: tokens are rotated at their index", MR3D_ROTATIONS, {NULL}, ids_ignored},
    {"decode-rope", "goes-on-from-ids", "a decode step goes on from the last of the prefill's position_ids instead of the cache's length", MR3D_LAYERS,
     {.attention_block = goes_on_from_ids}},
    {"decode-rope", "stale-point-mask", "the point mask of the call before is used again: the first q entries of it decide which new tokens are points", MR3D_LAYERS,
     {.attention_block = stale_point_mask}},
};
const mr3d_mutant_set mr3d_mutants_decode_rope = MR3D_MUTANT_SET(entries);
