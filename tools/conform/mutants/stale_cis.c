/** P22: tables kept beyond what they were made from. All of it lives in the server's memory. */
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "mutants_internal.h"

/** What memory holds under a name; the first time, NULL, and `values` are kept. Names tell sizes, so what is found has `count` values. */
static const void *kept_before(const char *name, mr3d_dtype dtype, int64_t count, const void *values) {
  mr3d_bundle *memory = mr3d_mutant_memory();
  if (!memory) return NULL;
  const mr3d_tensor *found = mr3d_bundle_find(memory, name);
  if (found) return found->data;
  if (count > 0) memcpy(mr3d_bundle_add(memory, name, dtype, 1, &count)->data, values, (size_t)count * mr3d_dtype_size(dtype));
  return NULL;
}

static void replace(const char *name, int64_t count, double *values) {
  const double *kept = kept_before(name, MR3D_F64, count, values);
  for (int64_t i = 0; kept && i < count; i++) values[i] = kept[i];
}

static void tables_by_shape(const mr3d_context *context, const mr3d_cis3d_in *in, double *cos_table, double *sin_table) {
  char name[128];
  mr3d_cis3d(context, in, cos_table, sin_table);
  snprintf(name, sizeof name, "cos %" PRId64 " %" PRId64 " %" PRId64, in->heads, in->N, in->F);
  replace(name, in->heads * in->N * in->F, cos_table);
  memcpy(name, "sin", 3);
  replace(name, in->heads * in->N * in->F, sin_table);
}

static void positions_by_shape(const mr3d_context *context, int64_t P, int64_t D, double rope_theta, const int64_t *positions, double *cos_table,
                               double *sin_table) {
  char name[128];
  mr3d_rotary_table(context, P, D, rope_theta, positions, cos_table, sin_table);
  snprintf(name, sizeof name, "cos 1D %" PRId64 " %" PRId64, P, D);
  replace(name, P * D, cos_table);
  memcpy(name, "sin", 3);
  replace(name, P * D, sin_table);
}

static mr3d_status coords_by_shape(const mr3d_context *context, const mr3d_config *config, const mr3d_mixed_rope_in *in, double *query, double *key,
                                   mr3d_error *error) {
  char name[128];
  mr3d_mixed_rope_in changed = *in;
  snprintf(name, sizeof name, "coords %" PRId64 " %" PRId64, in->B, in->points.N);
  const double *kept = in->points.coords ? kept_before(name, MR3D_F64, in->B * in->points.N * 3, in->points.coords) : NULL;
  if (kept) changed.points.coords = kept;
  return mr3d_mixed_rope(context, config, &changed, query, key, error);
}

/** The kept mask marks as many tokens in every sample, so nobody notices. */
static bool marks_alike(const mr3d_mixed_rope_in *in, const bool *mask) {
  for (int64_t b = 0; b < in->B; b++) {
    int64_t more = 0;
    for (int64_t i = b * in->S; i < (b + 1) * in->S; i++) more += mask[i] - in->points.mask[i];
    if (more != 0) return false;
  }
  return true;
}

static mr3d_status mask_by_shape(const mr3d_context *context, const mr3d_config *config, const mr3d_mixed_rope_in *in, double *query, double *key,
                                 mr3d_error *error) {
  char name[128];
  mr3d_mixed_rope_in changed = *in;
  snprintf(name, sizeof name, "points %" PRId64 " %" PRId64 " %" PRId64, in->B, in->S, in->points.N);
  const bool *kept = in->points.mask ? kept_before(name, MR3D_BOOL, in->B * in->S, in->points.mask) : NULL;
  if (kept && marks_alike(in, kept)) changed.points.mask = kept;
  return mr3d_mixed_rope(context, config, &changed, query, key, error);
}

/** The first call's positions, of which a later call that is no longer takes the first. */
static mr3d_status positions_of_first_call(const mr3d_context *context, const mr3d_config *config, const mr3d_mixed_rope_in *in, double *query, double *key,
                                           mr3d_error *error) {
  mr3d_bundle *memory = mr3d_mutant_memory();
  const mr3d_tensor *first = memory ? mr3d_bundle_find(memory, "positions") : NULL;
  if (memory && !first) {
    first = mr3d_bundle_add(memory, "positions", MR3D_I64, 2, (int64_t[]){in->position_rows, in->S});
    memcpy(first->data, in->position_ids, (size_t)(in->position_rows * in->S) * sizeof(int64_t));
  }
  if (!first || first->shape[0] != in->position_rows || first->shape[1] < in->S) return mr3d_mixed_rope(context, config, in, query, key, error);
  int64_t *positions = mr3d_allocate(in->position_rows * in->S, sizeof *positions);
  for (int64_t b = 0; b < in->position_rows; b++)
    memcpy(positions + b * in->S, (const int64_t *)first->data + b * first->shape[1], (size_t)in->S * sizeof *positions);
  mr3d_mixed_rope_in changed = *in;
  changed.position_ids = positions;
  mr3d_status status = mr3d_mixed_rope(context, config, &changed, query, key, error);
  free(positions);
  return status;
}

/** A parameter as this request's first layer had it; a context counts its roundings from the number of its request << 32. */
static const double *of_layer_0(const mr3d_context *context, const char *what, int64_t count, const double *own) {
  char name[128];
  if (!own || !context->calls) return own;
  snprintf(name, sizeof name, "%s %" PRIu64 " %" PRId64, what, *context->calls >> 32, count);
  const double *kept = kept_before(name, MR3D_F64, count, own);
  return kept ? kept : own;
}

static mr3d_status layer_0_for_all(const mr3d_context *context, const mr3d_config *config, const mr3d_layer *layer, const mr3d_block_in *in,
                                   mr3d_block_out *out, mr3d_error *error) {
  mr3d_split split;
  mr3d_layer changed = *layer;
  mr3d_status status = mr3d_split_head(config, config->head_dim, &split, error);
  if (status != MR3D_OK) return status;
  const int64_t F = split.Ds / 2, axes = config->learned_per_axis ? 3 : 1, H = config->num_attention_heads, G = config->num_key_value_heads;
  mr3d_split_free(&split);
  if (in->points.mask) {
    changed.rotary_q.freqs = of_layer_0(context, "freqs_q", axes * H * F, layer->rotary_q.freqs);
    changed.rotary_q.axial_weights = of_layer_0(context, "axial_weights_q", H * F * 3, layer->rotary_q.axial_weights);
    changed.rotary_kv.freqs = of_layer_0(context, "freqs_kv", axes * G * F, layer->rotary_kv.freqs);
    changed.rotary_kv.axial_weights = of_layer_0(context, "axial_weights_kv", G * F * 3, layer->rotary_kv.axial_weights);
  }
  return mr3d_attention_block(context, config, &changed, in, out, error);
}

static const mr3d_mutant entries[] = {
    {"stale-cis", "layer-0-for-all-layers", "every layer rotates points with the frequencies and weights of layer 0", "prefill decode",
     {.attention_block = layer_0_for_all}},
    {"stale-cis", "tables-by-shape", "the 3D cos and sin of an earlier call or layer of the same shape are used again", "cis3d " MR3D_ROTATIONS,
     {.cis3d = tables_by_shape}},
    {"stale-cis", "coords-by-shape", "the coordinates of an earlier scan with as many tokens are used again", MR3D_ROTATIONS, {.mixed_rope = coords_by_shape}},
    {"stale-cis", "point-mask-by-shape", "the point mask of an earlier call of the same shape is used again", MR3D_ROTATIONS, {.mixed_rope = mask_by_shape}},
    {"stale-cis", "positions-by-shape", "the 1D cos and sin of an earlier call of the same shape are used again, though positions have moved on: every decode step turns as the first",
     "rope1d " MR3D_ROTATIONS, {.rotary_table = positions_by_shape}},
    {"stale-cis", "positions-of-first-call", "positions are those of the first call: later calls take the first ones of them", MR3D_ROTATIONS,
     {.mixed_rope = positions_of_first_call}},
};
const mr3d_mutant_set mr3d_mutants_stale_cis = MR3D_MUTANT_SET(entries);
