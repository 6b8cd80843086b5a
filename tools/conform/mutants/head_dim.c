/** P19: head_dim taken as a constant, or as hidden / heads where the configuration gives it apart. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "mutants_internal.h"

static void scaled_for(int64_t head_dim, const mr3d_context *context, const mr3d_attention_in *in, double *y) {
  const int64_t count = in->B * in->H * in->q * in->D;
  double *query = mr3d_allocate(count, sizeof *query), factor = sqrt((double)in->D / (double)head_dim);
  for (int64_t i = 0; i < count; i++) query[i] = in->query[i] * factor;
  mr3d_attention_in changed = *in;
  changed.query = query;
  mr3d_attention(context, &changed, y);
  free(query);
}

static void scale_of_32(const mr3d_context *context, const mr3d_attention_in *in, double *y) { scaled_for(32, context, in, y); }
static void scale_of_64(const mr3d_context *context, const mr3d_attention_in *in, double *y) { scaled_for(64, context, in, y); }

/** theta^(-2j/head_dim) = (theta^(D/head_dim))^(-2j/D) */
static void frequencies_for(int64_t head_dim, const mr3d_context *context, int64_t P, int64_t D, double rope_theta, const int64_t *positions,
                            double *cos_table, double *sin_table) {
  mr3d_rotary_table(context, P, D, pow(rope_theta, (double)D / (double)head_dim), positions, cos_table, sin_table);
}

static void frequencies_of_32(const mr3d_context *context, int64_t P, int64_t D, double rope_theta, const int64_t *positions, double *cos_table,
                              double *sin_table) {
  frequencies_for(32, context, P, D, rope_theta, positions, cos_table, sin_table);
}
static void frequencies_of_64(const mr3d_context *context, int64_t P, int64_t D, double rope_theta, const int64_t *positions, double *cos_table,
                              double *sin_table) {
  frequencies_for(64, context, P, D, rope_theta, positions, cos_table, sin_table);
}

/** The first `to` of `from` bins, for tensors [rows,from,width]. NULL stays NULL. */
static double *first_bins(const double *values, int64_t rows, int64_t from, int64_t to, int64_t width) {
  if (!values) return NULL;
  double *kept = mr3d_allocate(rows * to * width, sizeof *kept);
  for (int64_t r = 0; r < rows; r++) memcpy(kept + r * to * width, values + r * from * width, (size_t)(to * width) * sizeof *kept);
  return kept;
}

static mr3d_rotary_parameters with_bins(const mr3d_config *config, mr3d_rotary_parameters all, int64_t heads, int64_t from, int64_t to) {
  return (mr3d_rotary_parameters){first_bins(all.freqs, (config->learned_per_axis ? 3 : 1) * heads, from, to, 1),
                                  first_bins(all.axial_weights, heads, from, to, 3)};
}

static void parameters_free(mr3d_rotary_parameters parameters) {
  free((double *)parameters.freqs);
  free((double *)parameters.axial_weights);
}

/** As many spatial dimensions as a head of 32 would have, turned by the first of the bins; the rest is temporal. */
static mr3d_status split_of_32(const mr3d_context *context, const mr3d_config *config, const mr3d_mixed_rope_in *in, double *query, double *key,
                               mr3d_error *error) {
  mr3d_split right, of_32, taken;
  mr3d_config changed = *config;
  if (in->D <= 32 || mr3d_split_head(config, in->D, &right, NULL) != MR3D_OK) return mr3d_mixed_rope(context, config, in, query, key, error);
  const int64_t bins = right.Ds / 2;
  mr3d_split_free(&right);
  bool fits = mr3d_split_head(config, 32, &of_32, NULL) == MR3D_OK;
  if (fits) {
    changed.strategy = MR3D_CUSTOM_RATIO;
    changed.spatial_ratio = (double)of_32.Ds / (double)in->D;
    mr3d_split_free(&of_32);
    fits = mr3d_split_head(&changed, in->D, &taken, NULL) == MR3D_OK;
  }
  if (!fits) return mr3d_mixed_rope(context, config, in, query, key, error);
  const int64_t fewer = taken.Ds / 2;
  mr3d_split_free(&taken);
  mr3d_mixed_rope_in with_fewer = *in;
  with_fewer.q = with_bins(config, in->q, in->H, bins, fewer);
  with_fewer.kv = with_bins(config, in->kv, in->G, bins, fewer);
  mr3d_status status = mr3d_mixed_rope(context, &changed, &with_fewer, query, key, error);
  parameters_free(with_fewer.q);
  parameters_free(with_fewer.kv);
  return status;
}

/** hidden / heads, or 0 where that says nothing else than head_dim. */
static double derived(const mr3d_config *config, int64_t D) {
  if (config->hidden_size <= 0 || config->num_attention_heads <= 0) return 0;
  const double derived = (double)config->hidden_size / (double)config->num_attention_heads;
  return derived == (double)D ? 0 : derived;
}

static mr3d_status derived_for_frequencies(const mr3d_context *context, const mr3d_config *config, const mr3d_mixed_rope_in *in, double *query, double *key,
                                           mr3d_error *error) {
  mr3d_config changed = *config;
  if (derived(config, in->D) > 0) changed.rope_theta = pow(config->rope_theta, (double)in->D / derived(config, in->D));
  return mr3d_mixed_rope(context, &changed, in, query, key, error);
}

/** Scores scaled through the query's projection. */
static mr3d_status derived_for_scale(const mr3d_context *context, const mr3d_config *config, const mr3d_layer *layer, const mr3d_block_in *in,
                                     mr3d_block_out *out, mr3d_error *error) {
  const int64_t D = config->head_dim, rows = config->num_attention_heads * D, count = rows * config->hidden_size;
  if (derived(config, D) == 0) return mr3d_attention_block(context, config, layer, in, out, error);
  const double factor = sqrt((double)D / derived(config, D));
  double *weight = mr3d_allocate(count, sizeof *weight), *bias = mr3d_allocate(rows, sizeof *bias);
  for (int64_t i = 0; i < count; i++) weight[i] = layer->q_weight[i] * factor;
  for (int64_t i = 0; i < rows; i++) bias[i] = layer->q_bias[i] * factor;
  mr3d_layer changed = *layer;
  changed.q_weight = weight;
  changed.q_bias = bias;
  mr3d_status status = mr3d_attention_block(context, config, &changed, in, out, error);
  free(weight);
  free(bias);
  return status;
}

static const mr3d_mutant entries[] = {
    {"head-dim", "scale-of-32", "scores are divided by sqrt(32), a head_dim assumed, instead of sqrt(head_dim)", MR3D_ATTENDING,
     {.attention = scale_of_32}},
    {"head-dim", "scale-of-64", "scores are divided by sqrt(64), a head_dim compiled in, instead of sqrt(head_dim)", MR3D_ATTENDING,
     {.attention = scale_of_64}},
    {"head-dim", "frequencies-of-32", "1D frequencies have the exponent -2j/32, a head_dim assumed, instead of -2j/head_dim", "rope1d " MR3D_ROTATIONS,
     {.rotary_table = frequencies_of_32}},
    {"head-dim", "frequencies-of-64", "1D frequencies have the exponent -2j/64, a head_dim compiled in, instead of -2j/head_dim", "rope1d " MR3D_ROTATIONS,
     {.rotary_table = frequencies_of_64}},
    {"head-dim", "split-of-32", "points have the spatial dimensions of a head of 32 (16, 8 bins) instead of those of their own head (32 of 64, 16 bins)",
     MR3D_ROTATIONS, {.mixed_rope = split_of_32}},
    {"head-dim", "derived-for-frequencies", "1D frequencies are made for hidden_size / num_attention_heads although head_dim is given apart", MR3D_ROTATIONS,
     {.mixed_rope = derived_for_frequencies}},
    {"head-dim", "derived-for-scale", "scores are divided by sqrt(hidden_size / num_attention_heads) although head_dim is given apart", MR3D_LAYERS,
     {.attention_block = derived_for_scale}},
};
const mr3d_mutant_set mr3d_mutants_head_dim = MR3D_MUTANT_SET(entries);
