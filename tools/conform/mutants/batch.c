/** P6: one sample's coordinates, point mask or range used for every sample. */
#include <stdlib.h>
#include <string.h>

#include "mutants_internal.h"

static mr3d_status coords_of_sample_0(const mr3d_context *context, const mr3d_config *config, const mr3d_mixed_rope_in *in, double *query,
                                      double *key, mr3d_error *error) {
  if (!in->points.mask || in->B < 2) return mr3d_mixed_rope(context, config, in, query, key, error);
  int64_t size = in->points.N * 3;
  double *coords = mr3d_allocate(in->B * size, sizeof *coords);
  for (int64_t b = 0; b < in->B; b++) memcpy(coords + b * size, in->points.coords, (size_t)size * sizeof *coords);
  mr3d_mixed_rope_in changed = *in;
  changed.points.coords = coords;
  mr3d_status status = mr3d_mixed_rope(context, config, &changed, query, key, error);
  free(coords);
  return status;
}

static mr3d_status mask_of_sample_0(const mr3d_context *context, const mr3d_config *config, const mr3d_mixed_rope_in *in, double *query,
                                    double *key, mr3d_error *error) {
  if (!in->points.mask || in->B < 2) return mr3d_mixed_rope(context, config, in, query, key, error);
  bool *mask = mr3d_allocate(in->B * in->S, sizeof *mask);
  int64_t *counts = mr3d_allocate(in->B, sizeof *counts);
  for (int64_t b = 0; b < in->B; b++) {
    memcpy(mask + b * in->S, in->points.mask, (size_t)in->S * sizeof *mask);
    counts[b] = in->points.counts ? in->points.counts[0] : in->points.N;
  }
  mr3d_mixed_rope_in changed = *in;
  changed.points.mask = mask;
  changed.points.counts = counts;
  mr3d_status status = mr3d_mixed_rope(context, config, &changed, query, key, error);
  free(mask);
  free(counts);
  return status;
}

MR3D_MIXED_ROPE(only_sample_0) {
  if (!in->points.mask || in->B < 2) return mr3d_mixed_rope(context, config, in, query, key, error);
  mr3d_status status = mr3d_points_check(&in->points, in->B, in->S, error);
  if (status != MR3D_OK) return status;
  bool *mask = mr3d_allocate(in->B * in->S, sizeof *mask);
  int64_t *counts = mr3d_allocate(in->B, sizeof *counts);
  memcpy(mask, in->points.mask, (size_t)in->S * sizeof *mask);
  counts[0] = mr3d_rows_of(in->points.counts, 0, in->points.N);
  mr3d_mixed_rope_in changed = *in;
  changed.points.mask = mask;
  changed.points.counts = counts;
  status = mr3d_mixed_rope(context, config, &changed, query, key, error);
  free(mask);
  free(counts);
  return status;
}

/** Rows of all samples follow each other without padding. */
MR3D_MIXED_ROPE(rows_in_a_row) {
  if (!in->points.mask) return mr3d_mixed_rope(context, config, in, query, key, error);
  int64_t size = in->points.N * 3, next = 0;
  double *coords = mr3d_allocate(in->B * size, sizeof *coords);
  for (int64_t b = 0; b < in->B; b++) {
    int64_t count = mr3d_rows_of(in->points.counts, b, in->points.N);
    memcpy(coords + b * size, in->points.coords + next * 3, (size_t)count * 3 * sizeof *coords);
    next += count;
  }
  mr3d_mixed_rope_in changed = *in;
  changed.points.coords = coords;
  mr3d_status status = mr3d_mixed_rope(context, config, &changed, query, key, error);
  free(coords);
  return status;
}

static mr3d_bundle *positions_of_sample_0(const mr3d_bundle *request) {
  const mr3d_tensor *positions = mr3d_bundle_find(request, "position_ids");
  if (!positions || positions->dtype != MR3D_I64 || positions->rank != 2 || positions->shape[0] < 2) return NULL;
  mr3d_bundle *changed = mr3d_request_without(request, "position_ids");
  mr3d_tensor *same = mr3d_bundle_add(changed, "position_ids", MR3D_I64, 2, positions->shape);
  size_t row = (size_t)positions->shape[1] * sizeof(int64_t);
  for (int64_t b = 0; b < positions->shape[0]; b++) memcpy((char *)same->data + (size_t)b * row, positions->data, row);
  return changed;
}

/** One scene [N,3] in front of a batch: every sample's. */
static mr3d_bundle *scene_for_all(const mr3d_bundle *request) {
  const mr3d_tensor *mask = mr3d_bundle_find(request, "point_token_mask"), *coords = mr3d_bundle_find(request, "point_coords");
  if (!mask || !coords || mask->rank != 2 || mask->shape[0] < 2 || coords->rank != 2) return NULL;
  mr3d_bundle *changed = mr3d_request_without(request, "point_coords");
  int64_t shape[3] = {mask->shape[0], coords->shape[0], coords->shape[1]};
  mr3d_tensor *all = mr3d_bundle_add(changed, "point_coords", coords->dtype, 3, shape);
  size_t size = (size_t)mr3d_tensor_count(coords) * mr3d_dtype_size(coords->dtype);
  for (int64_t b = 0; b < shape[0]; b++) memcpy((char *)all->data + (size_t)b * size, coords->data, size);
  return changed;
}

/** What the masks mark is counted; what the request says of it is not looked at. */
static mr3d_bundle *counts_of_mask(const mr3d_bundle *request) {
  const mr3d_tensor *mask = mr3d_bundle_find(request, "point_token_mask"), *given = mr3d_bundle_find(request, "point_counts");
  if (!mask || !given || mask->rank != 2 || mask->dtype != MR3D_BOOL || given->dtype != MR3D_I64) return NULL;
  mr3d_bundle *changed = mr3d_request_without(request, "point_counts");
  int64_t *counts = mr3d_bundle_add(changed, "point_counts", MR3D_I64, 1, mask->shape)->data;
  for (int64_t i = 0; i < mr3d_tensor_count(mask); i++) counts[i / mask->shape[1]] += ((const bool *)mask->data)[i];
  return changed;
}

/** As many points for every sample with a start marker as sample 0 has. */
static mr3d_status spliced_by_count_0(const mr3d_context *context, const mr3d_splice_in *in, mr3d_splice_out *out, mr3d_error *error) {
  mr3d_status status = mr3d_splice(context, in, out, error);
  if (status != MR3D_OK || in->B < 2) return status;
  int64_t *counts = mr3d_allocate(in->B, sizeof *counts);
  for (int64_t i = 0; i < in->B * in->T; i++)
    if (in->input_ids[i] == in->point_start_token_id) counts[i / in->T] = in->point_counts[0];
  mr3d_splice_in changed = *in;
  changed.point_counts = counts;
  mr3d_splice_free(out);
  status = mr3d_splice(context, &changed, out, error);
  free(counts);
  return status;
}

static void visible_of_sample_0(const mr3d_context *context, const mr3d_attention_in *in, double *y) {
  size_t size = (size_t)(in->q * in->K);
  bool *visible = mr3d_allocate(in->B * in->q * in->K, sizeof *visible);
  for (int64_t b = 0; b < in->B; b++) memcpy(visible + (size_t)b * size, in->visible, size * sizeof *visible);
  mr3d_attention_in changed = *in;
  changed.visible = visible;
  mr3d_attention(context, &changed, y);
  free(visible);
}

MR3D_LAYER(cache_of_sample_0) {
  int64_t size = config->num_key_value_heads * in->L * config->head_dim;
  if (in->L == 0 || in->B < 2) return mr3d_attention_block(context, config, layer, in, out, error);
  double *key = mr3d_allocate(in->B * size, sizeof *key), *value = mr3d_allocate(in->B * size, sizeof *value);
  for (int64_t b = 0; b < in->B; b++) {
    memcpy(key + b * size, in->past_key, (size_t)size * sizeof *key);
    memcpy(value + b * size, in->past_value, (size_t)size * sizeof *value);
  }
  mr3d_block_in changed = *in;
  changed.past_key = key;
  changed.past_value = value;
  mr3d_status status = mr3d_attention_block(context, config, layer, &changed, out, error);
  free(key);
  free(value);
  return status;
}

static int64_t count_of(const mr3d_normalize_coords_in *in, int64_t b) { return mr3d_rows_of(in->point_counts, b, in->N); }

static mr3d_status range_of_batch(const mr3d_context *context, const mr3d_config *config, const mr3d_normalize_coords_in *in, double *out,
                                  mr3d_error *error) {
  /* All samples' rows as one sample's, normalised, and put back; drift stays each sample's own. */
  double *rows = mr3d_allocate(in->B * in->N * 3, sizeof *rows), *spread = mr3d_allocate(in->B * in->N * 3, sizeof *spread);
  mr3d_normalize_coords_in one = {.B = 1, .coords = rows};
  for (int64_t b = 0; b < in->B; b++)
    for (int64_t n = 0; n < count_of(in, b); n++) memcpy(rows + 3 * one.N++, in->coords + (b * in->N + n) * 3, 3 * sizeof *rows);
  mr3d_config norm_only = *config, drift_only = *config;
  norm_only.drift = MR3D_DRIFT_NONE;
  drift_only.coord_norm = MR3D_NORM_NONE;
  double *normalised = mr3d_allocate(one.N * 3, sizeof *normalised);
  mr3d_status status = mr3d_normalize_coords(context, &norm_only, &one, normalised, error);
  int64_t next = 0;
  for (int64_t b = 0; status == MR3D_OK && b < in->B; b++)
    for (int64_t n = 0; n < count_of(in, b); n++) memcpy(spread + (b * in->N + n) * 3, normalised + 3 * next++, 3 * sizeof *spread);
  mr3d_normalize_coords_in back = *in;
  back.coords = spread;
  if (status == MR3D_OK) status = mr3d_normalize_coords(context, &drift_only, &back, out, error);
  free(rows);
  free(spread);
  free(normalised);
  return status;
}

static mr3d_status padding_counted(const mr3d_context *context, const mr3d_config *config, const mr3d_normalize_coords_in *in, double *out,
                                   mr3d_error *error) {
  mr3d_normalize_coords_in changed = *in;
  changed.point_counts = NULL;
  return mr3d_normalize_coords(context, config, &changed, out, error);
}

MR3D_NORMALIZE_COORDS(counts_of_sample_0) {
  mr3d_status status = mr3d_normalize_coords(context, config, in, out, error);
  if (status != MR3D_OK || !in->point_counts || in->B < 2) return status;
  int64_t *counts = mr3d_allocate(in->B, sizeof *counts);
  for (int64_t b = 0; b < in->B; b++) counts[b] = in->point_counts[0];
  mr3d_normalize_coords_in changed = *in;
  changed.point_counts = counts;
  status = mr3d_normalize_coords(context, config, &changed, out, error);
  free(counts);
  return status;
}

MR3D_NORMALIZE_COORDS(drift_by_padded_rows) {
  mr3d_status status = mr3d_normalize_coords(context, config, in, out, error);
  for (int64_t b = 0; status == MR3D_OK && config->drift == MR3D_DRIFT_AVERAGE && b < in->B; b++)
    for (int64_t i = 0; i < count_of(in, b) * 3; i++) out[b * in->N * 3 + i] += (double)(in->N - count_of(in, b)) / 2;
  return status;
}

static const mr3d_mutant entries[] = {
    {"batch", "coords-of-sample-0", "every sample is rotated with the coordinates of sample 0", MR3D_ROTATIONS, {.mixed_rope = coords_of_sample_0}},
    {"batch", "mask-of-sample-0", "every sample's points are taken where sample 0 has its points", MR3D_ROTATIONS, {.mixed_rope = mask_of_sample_0}},
    {"batch", "range-of-batch", "minimum and maximum are taken over the batch instead of over each sample", "normalize_coords " MR3D_ROTATIONS,
     {.normalize_coords = range_of_batch}},
    {"batch", "padding-counted", "padded coordinate rows are counted as points", "normalize_coords " MR3D_ROTATIONS, {.normalize_coords = padding_counted}},
    {"batch", "only-sample-0", "only sample 0's points are rotated in 3D, those of the others as text", MR3D_ROTATIONS, {.mixed_rope = only_sample_0}},
    {"batch", "rows-in-a-row", "[B,N,3] is read as [N,3]: samples take coordinate rows one after the other, rows of padding included", MR3D_ROTATIONS,
     {.mixed_rope = rows_in_a_row}},
    {"batch", "positions-of-sample-0", "every sample is rotated at the positions of sample 0", "rope1d " MR3D_ROTATIONS, {NULL}, positions_of_sample_0},
    {"batch", "visible-of-sample-0", "every sample sees the keys that sample 0 sees", "attention " MR3D_LAYERS, {.attention = visible_of_sample_0}},
    {"batch", "cache-of-sample-0", "every sample reads the cached keys and values of sample 0", MR3D_LAYERS, {.attention_block = cache_of_sample_0}},
    {"batch", "counts-of-sample-0", "range and drift of every sample go over as many rows as sample 0 has points", "normalize_coords " MR3D_ROTATIONS,
     {.normalize_coords = counts_of_sample_0}},
    {"batch", "drift-by-padded-rows", "average drift adds half of the padded row count to every sample instead of half of its own count",
     "normalize_coords " MR3D_ROTATIONS, {.normalize_coords = drift_by_padded_rows}},
    {"batch", "scene-for-all", "coordinates [N,3] are accepted for a batch and used for every sample instead of a refusal", MR3D_ROTATIONS, {NULL}, scene_for_all},
    {"batch", "counts-of-mask", "point_counts are not looked at: a sample has as many points as its mask marks", MR3D_ROTATIONS, {NULL}, counts_of_mask},
    {"batch", "spliced-by-count-0", "every sample with markers gets as many points as sample 0", "splice", {.splice = spliced_by_count_0}},
};
const mr3d_mutant_set mr3d_mutants_batch = MR3D_MUTANT_SET(entries);
