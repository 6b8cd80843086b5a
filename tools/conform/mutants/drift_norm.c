/** P25: order or axis of normalisation and drift. */
#include <math.h>
#include <stdlib.h>

#include "mutants_internal.h"

static int64_t count_of(const mr3d_normalize_coords_in *in, int64_t b) { return mr3d_rows_of(in->point_counts, b, in->N); }

static bool uses_range(const mr3d_config *config) {
  return config->coord_norm == MR3D_NORM_UNIT_RANGE || config->coord_norm == MR3D_NORM_VIRTUAL_RESOLUTION;
}

static mr3d_status drift_first(const mr3d_context *context, const mr3d_config *config, const mr3d_normalize_coords_in *in, double *out,
                               mr3d_error *error) {
  mr3d_config drift_only = *config, norm_only = *config;
  drift_only.coord_norm = MR3D_NORM_NONE;
  norm_only.drift = MR3D_DRIFT_NONE;
  double *drifted = mr3d_allocate(in->B * in->N * 3, sizeof *drifted);
  mr3d_status status = mr3d_normalize_coords(context, &drift_only, in, drifted, error);
  mr3d_normalize_coords_in second = *in;
  second.coords = drifted;
  if (status == MR3D_OK) status = mr3d_normalize_coords(context, &norm_only, &second, out, error);
  free(drifted);
  return status;
}

/** unit_range with another span: (c - minimum) / span(axis), minimum per axis or over all. */
static mr3d_status other_range(bool all_axes, double eps, const mr3d_context *context, const mr3d_config *config, const mr3d_normalize_coords_in *in,
                               double *out, mr3d_error *error) {
  if (!uses_range(config)) return mr3d_normalize_coords(context, config, in, out, error);
  double *ranged = mr3d_allocate(in->B * in->N * 3, sizeof *ranged);
  for (int64_t b = 0; b < in->B; b++) {
    double low[3] = {INFINITY, INFINITY, INFINITY}, high[3] = {-INFINITY, -INFINITY, -INFINITY};
    const double *rows = in->coords + b * in->N * 3;
    for (int64_t i = 0; i < count_of(in, b) * 3; i++)
      for (int64_t a = 0; a < 3; a++)
        if (all_axes || i % 3 == a) low[a] = fmin(low[a], rows[i]), high[a] = fmax(high[a], rows[i]);
    for (int64_t i = 0; i < count_of(in, b) * 3; i++) {
      double span = high[i % 3] - low[i % 3] + eps, unit = (rows[i] - low[i % 3]) / span;
      ranged[b * in->N * 3 + i] = unit * (config->coord_norm == MR3D_NORM_VIRTUAL_RESOLUTION ? config->virtual_resolution : 1);
    }
  }
  mr3d_config drift_only = *config;
  drift_only.coord_norm = MR3D_NORM_NONE;
  mr3d_normalize_coords_in second = *in;
  second.coords = ranged;
  mr3d_status status = mr3d_normalize_coords(context, &drift_only, &second, out, error);
  free(ranged);
  return status;
}

static mr3d_status range_of_all_axes(const mr3d_context *context, const mr3d_config *config, const mr3d_normalize_coords_in *in, double *out,
                                     mr3d_error *error) {
  return other_range(true, 1e-8, context, config, in, out, error);
}

static mr3d_status integer_half(const mr3d_context *context, const mr3d_config *config, const mr3d_normalize_coords_in *in, double *out,
                                mr3d_error *error) {
  mr3d_status status = mr3d_normalize_coords(context, config, in, out, error);
  for (int64_t b = 0; status == MR3D_OK && config->drift == MR3D_DRIFT_AVERAGE && b < in->B; b++)
    for (int64_t i = 0; count_of(in, b) % 2 && i < count_of(in, b) * 3; i++) out[b * in->N * 3 + i] -= 0.5;
  return status;
}

static const mr3d_mutant entries[] = {
    {"drift-norm", "drift-first", "drift is added before normalisation instead of after", "normalize_coords " MR3D_ROTATIONS, {.normalize_coords = drift_first}},
    {"drift-norm", "range-of-all-axes", "minimum and maximum are taken over all axes together instead of per axis", "normalize_coords " MR3D_ROTATIONS,
     {.normalize_coords = range_of_all_axes}},
    {"drift-norm", "integer-half", "average drift adds N/2 by integer division: half a cell too little for odd N", "normalize_coords " MR3D_ROTATIONS,
     {.normalize_coords = integer_half}},
};
const mr3d_mutant_set mr3d_mutants_drift_norm = MR3D_MUTANT_SET(entries);
