/** P4: raw scan coordinates where token coordinates belong, 106,328 against 556; rows, columns or range mixed up. */
#include <stdlib.h>
#include <string.h>

#include "mutants_internal.h"

static int64_t marked_in(const bool *mask, int64_t count) {
  int64_t n = 0;
  for (int64_t i = 0; i < count; i++) n += mask[i];
  return n;
}

/**
 * A request with more coordinate rows than marked tokens, which must be refused, made answerable: of every sample's rows,
 * every k-th is kept (k = 1: the first ones).
 */
static mr3d_bundle *keep_rows(const mr3d_bundle *request, bool spread) {
  const mr3d_tensor *mask = mr3d_bundle_find(request, "point_token_mask"), *coords = mr3d_bundle_find(request, "point_coords");
  if (!mask || !coords || mask->dtype != MR3D_BOOL || mask->rank != 2 || coords->rank < 2 || mr3d_bundle_find(request, "point_counts")) return NULL;
  int64_t B = coords->rank == 3 ? coords->shape[0] : 1, rows = coords->shape[coords->rank - 2], most = 0;
  if (mask->shape[0] != B || coords->shape[coords->rank - 1] != 3) return NULL;
  for (int64_t b = 0; b < B; b++) {
    int64_t marked = marked_in((const bool *)mask->data + b * mask->shape[1], mask->shape[1]);
    if (marked > most) most = marked;
  }
  if (most == 0 || most >= rows) return NULL;

  mr3d_bundle *changed = mr3d_bundle_new();
  for (int i = 0; i < mr3d_bundle_meta_count(request); i++) {
    const char *key, *value;
    mr3d_bundle_meta_at(request, i, &key, &value);
    mr3d_bundle_set(changed, key, value);
  }
  for (int i = 0; i < mr3d_bundle_count(request); i++) {
    const mr3d_tensor *tensor = mr3d_bundle_at(request, i);
    if (tensor != coords) mr3d_bundle_borrow(changed, tensor->name, tensor->dtype, tensor->rank, tensor->shape, tensor->data);
  }
  int64_t shape[3] = {B, most, 3}, step = spread ? rows / most : 1;
  mr3d_tensor *kept = mr3d_bundle_add(changed, "point_coords", coords->dtype, coords->rank, shape + 3 - coords->rank);
  size_t row_size = 3 * mr3d_dtype_size(coords->dtype);
  for (int64_t b = 0; b < B; b++)
    for (int64_t n = 0; n < most; n++)
      memcpy((char *)kept->data + (size_t)(b * most + n) * row_size, (const char *)coords->data + (size_t)(b * rows + n * step) * row_size, row_size);
  return changed;
}

static mr3d_bundle *first_rows(const mr3d_bundle *request) { return keep_rows(request, false); }
static mr3d_bundle *every_kth_row(const mr3d_bundle *request) { return keep_rows(request, true); }

/** The rotation with coordinates [B,N,3] rearranged: row n, axis a comes from row `row`, axis a - `shift` (an axis before the first is the sample's number). */
static mr3d_status rearranged(bool reversed, bool batch_column, const mr3d_context *context, const mr3d_config *config, const mr3d_mixed_rope_in *in,
                              double *query, double *key, mr3d_error *error) {
  if (!in->points.mask) return mr3d_mixed_rope(context, config, in, query, key, error);
  int64_t N = in->points.N;
  double *coords = mr3d_allocate(in->B * N * 3, sizeof *coords);
  for (int64_t b = 0; b < in->B; b++)
    for (int64_t n = 0; n < N; n++) {
      int64_t count = mr3d_rows_of(in->points.counts, b, N), row = reversed && n < count ? count - 1 - n : n;
      const double *from = in->points.coords + (b * N + row) * 3;
      double *to = coords + (b * N + n) * 3;
      for (int a = 0; a < 3; a++) to[a] = !batch_column ? from[a] : a == 0 ? (double)b : from[a - 1];
    }
  mr3d_mixed_rope_in changed = *in;
  changed.points.coords = coords;
  mr3d_status status = mr3d_mixed_rope(context, config, &changed, query, key, error);
  free(coords);
  return status;
}

static mr3d_status reversed_rows(const mr3d_context *context, const mr3d_config *config, const mr3d_mixed_rope_in *in, double *query, double *key,
                                 mr3d_error *error) {
  return rearranged(true, false, context, config, in, query, key, error);
}

static mr3d_status batch_column(const mr3d_context *context, const mr3d_config *config, const mr3d_mixed_rope_in *in, double *query, double *key,
                                mr3d_error *error) {
  return rearranged(false, true, context, config, in, query, key, error);
}

static mr3d_status not_normalised(const mr3d_context *context, const mr3d_config *config, const mr3d_normalize_coords_in *in, double *out,
                                  mr3d_error *error) {
  mr3d_config changed = *config;
  changed.coord_norm = MR3D_NORM_NONE;
  return mr3d_normalize_coords(context, &changed, in, out, error);
}

static mr3d_status divided_by_size(const mr3d_context *context, const mr3d_config *config, const mr3d_normalize_coords_in *in, double *out,
                                   mr3d_error *error) {
  mr3d_config changed = *config;
  changed.reduced_grid_size++;
  return mr3d_normalize_coords(context, &changed, in, out, error);
}

static mr3d_status axes_swapped(const mr3d_context *context, const mr3d_config *config, const mr3d_normalize_coords_in *in, double *out,
                                mr3d_error *error) {
  mr3d_status status = mr3d_normalize_coords(context, config, in, out, error);
  for (int64_t n = 0; status == MR3D_OK && n < in->B * in->N; n++) {
    double x = out[3 * n];
    out[3 * n] = out[3 * n + 2];
    out[3 * n + 2] = x;
  }
  return status;
}

static const mr3d_mutant entries[] = {
    {"coords-count", "first-rows", "raw scan coordinates are accepted and the first rows used: 556 of 106328 instead of a refusal", "mixed_rope " MR3D_LAYERS,
     {NULL}, first_rows},
    {"coords-count", "every-kth-row", "raw scan coordinates are accepted and every k-th row used: 556 of 106328 instead of a refusal", "mixed_rope " MR3D_LAYERS,
     {NULL}, every_kth_row},
    {"coords-count", "reversed-rows", "coordinates stand in another order than the features: reversed", MR3D_ROTATIONS, {.mixed_rope = reversed_rows}},
    {"coords-count", "batch-column", "the batch index is taken for x: coordinates are (batch, x, y) instead of (x, y, z)", MR3D_ROTATIONS,
     {.mixed_rope = batch_column}},
    {"coords-count", "not-normalised", "coordinates are grid indices 0..79 where 0..1 is expected: not normalised", "normalize_coords " MR3D_ROTATIONS,
     {.normalize_coords = not_normalised}},
    {"coords-count", "divided-by-size", "coordinates are divided by reduced_grid_size (80) instead of reduced_grid_size - 1 (79)",
     "normalize_coords " MR3D_ROTATIONS, {.normalize_coords = divided_by_size}},
    {"coords-count", "axes-swapped", "the axes x and z of the coordinates are exchanged", "normalize_coords " MR3D_ROTATIONS, {.normalize_coords = axes_swapped}},
};
const mr3d_mutant_set mr3d_mutants_coords_count = MR3D_MUTANT_SET(entries);
