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

static const mr3d_mutant entries[] = {
    {"batch", "coords-of-sample-0", "every sample is rotated with the coordinates of sample 0", MR3D_ROTATIONS, {.mixed_rope = coords_of_sample_0}},
    {"batch", "mask-of-sample-0", "every sample's points are taken where sample 0 has its points", MR3D_ROTATIONS, {.mixed_rope = mask_of_sample_0}},
    {"batch", "range-of-batch", "minimum and maximum are taken over the batch instead of over each sample", "normalize_coords " MR3D_ROTATIONS,
     {.normalize_coords = range_of_batch}},
    {"batch", "padding-counted", "padded coordinate rows are counted as points", "normalize_coords " MR3D_ROTATIONS, {.normalize_coords = padding_counted}},
};
const mr3d_mutant_set mr3d_mutants_batch = MR3D_MUTANT_SET(entries);
