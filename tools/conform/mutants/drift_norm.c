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

MR3D_NORMALIZE_COORDS(eps_missing) { return other_range(false, 0, context, config, in, out, error); }

/** What a sample's row n gets on axis a beside its right value, under one drift or one norm. */
typedef double extra(const mr3d_config *config, int64_t count, int64_t n, int64_t a);

static mr3d_status with_extra(extra *of, const mr3d_context *context, const mr3d_config *config, const mr3d_normalize_coords_in *in, double *out,
                              mr3d_error *error) {
  mr3d_status status = mr3d_normalize_coords(context, config, in, out, error);
  for (int64_t b = 0; status == MR3D_OK && b < in->B; b++)
    for (int64_t i = 0; i < count_of(in, b) * 3; i++) out[b * in->N * 3 + i] += of(config, count_of(in, b), i / 3, i % 3);
  return status;
}

static double half_more(const mr3d_config *config, int64_t count, int64_t n, int64_t a) {
  return (void)n, (void)a, config->drift == MR3D_DRIFT_AVERAGE ? (double)count / 2 : 0;
}
static double one_more(const mr3d_config *config, int64_t count, int64_t n, int64_t a) { return (void)count, (void)n, (void)a, config->drift == MR3D_DRIFT_POINTWISE; }
static double not_xy(const mr3d_config *config, int64_t count, int64_t n, int64_t a) {
  return (void)count, config->drift == MR3D_DRIFT_POINTWISE && a < 2 ? -(double)n : 0;
}
static double half_less(const mr3d_config *config, int64_t count, int64_t n, int64_t a) {
  return (void)count, (void)n, (void)a, config->coord_norm == MR3D_NORM_UNIT_RANGE ? -0.5 : 0;
}

MR3D_NORMALIZE_COORDS(whole_count) { return with_extra(half_more, context, config, in, out, error); }
MR3D_NORMALIZE_COORDS(pointwise_from_one) { return with_extra(one_more, context, config, in, out, error); }
MR3D_NORMALIZE_COORDS(pointwise_on_z) { return with_extra(not_xy, context, config, in, out, error); }
MR3D_NORMALIZE_COORDS(centred) { return with_extra(half_less, context, config, in, out, error); }

MR3D_NORMALIZE_COORDS(pointwise_through_batch) {
  mr3d_status status = mr3d_normalize_coords(context, config, in, out, error);
  int64_t before = 0;
  for (int64_t b = 0; status == MR3D_OK && config->drift == MR3D_DRIFT_POINTWISE && b < in->B; b++) {
    for (int64_t i = 0; i < count_of(in, b) * 3; i++) out[b * in->N * 3 + i] += (double)before;
    before += count_of(in, b);
  }
  return status;
}

MR3D_NORMALIZE_COORDS(drift_ignored) {
  mr3d_config changed = *config;
  changed.drift = MR3D_DRIFT_NONE;
  return mr3d_normalize_coords(context, &changed, in, out, error);
}

static mr3d_status at_resolution(double resolution, const mr3d_context *context, const mr3d_config *config, const mr3d_normalize_coords_in *in, double *out,
                                 mr3d_error *error) {
  mr3d_config changed = *config;
  if (config->virtual_resolution > 0) changed.virtual_resolution = resolution;
  if (resolution <= 0) return mr3d_normalize_coords(context, config, in, out, error);
  return mr3d_normalize_coords(context, &changed, in, out, error);
}

MR3D_NORMALIZE_COORDS(resolution_ignored) { return at_resolution(1, context, config, in, out, error); }
MR3D_NORMALIZE_COORDS(resolution_minus_one) { return at_resolution(config->virtual_resolution - 1, context, config, in, out, error); }

/** unit_range of a sample with one row more, which has no count of its own to hide it. */
static mr3d_status with_row(const double row[3], const mr3d_context *context, const mr3d_config *config, int64_t count, const double *rows, double *out,
                            mr3d_error *error) {
  double *more = mr3d_allocate((count + 1) * 6, sizeof *more), *normed = more + (count + 1) * 3;
  for (int64_t i = 0; i < count * 3; i++) more[i] = rows[i];
  for (int a = 0; a < 3; a++) more[count * 3 + a] = row[a];
  mr3d_config norm_only = *config;
  norm_only.drift = MR3D_DRIFT_NONE;
  mr3d_status status = mr3d_normalize_coords(context, &norm_only, &(mr3d_normalize_coords_in){.B = 1, .N = count + 1, .coords = more}, normed, error);
  for (int64_t i = 0; status == MR3D_OK && i < count * 3; i++) out[i] = normed[i];
  free(more);
  return status;
}

/** unit_range over a range that `row` widens, sample by sample; then the drift. */
static mr3d_status widened(void (*row)(const double *rows, int64_t count, double row[3]), const mr3d_context *context, const mr3d_config *config,
                           const mr3d_normalize_coords_in *in, double *out, mr3d_error *error) {
  mr3d_status status = mr3d_normalize_coords(context, config, in, out, error);
  if (status != MR3D_OK || !uses_range(config)) return status;
  double *ranged = mr3d_allocate(in->B * in->N * 3, sizeof *ranged);
  for (int64_t b = 0; status == MR3D_OK && b < in->B; b++) {
    double one[3];
    row(in->coords + b * in->N * 3, count_of(in, b), one);
    status = with_row(one, context, config, count_of(in, b), in->coords + b * in->N * 3, ranged + b * in->N * 3, error);
  }
  mr3d_config drift_only = *config;
  drift_only.coord_norm = MR3D_NORM_NONE;
  mr3d_normalize_coords_in second = *in;
  second.coords = ranged;
  if (status == MR3D_OK) status = mr3d_normalize_coords(context, &drift_only, &second, out, error);
  free(ranged);
  return status;
}

/** Each axis is widened to the largest extent. */
static void largest_extent(const double *rows, int64_t count, double row[3]) {
  double low[3] = {INFINITY, INFINITY, INFINITY}, high[3] = {-INFINITY, -INFINITY, -INFINITY}, extent = 0;
  for (int64_t i = 0; i < count * 3; i++) low[i % 3] = fmin(low[i % 3], rows[i]), high[i % 3] = fmax(high[i % 3], rows[i]);
  for (int a = 0; a < 3; a++) extent = fmax(extent, high[a] - low[a]);
  for (int a = 0; a < 3; a++) row[a] = count > 0 ? low[a] + extent : 0;
}
static void origin(const double *rows, int64_t count, double row[3]) { (void)rows, (void)count, row[0] = row[1] = row[2] = 0; }

MR3D_NORMALIZE_COORDS(by_largest_extent) { return widened(largest_extent, context, config, in, out, error); }
MR3D_NORMALIZE_COORDS(minimum_zero) { return widened(origin, context, config, in, out, error); }

static const mr3d_mutant entries[] = {
    {"drift-norm", "drift-first", "drift is added before normalisation instead of after", "normalize_coords " MR3D_ROTATIONS, {.normalize_coords = drift_first}},
    {"drift-norm", "range-of-all-axes", "minimum and maximum are taken over all axes together instead of per axis", "normalize_coords " MR3D_ROTATIONS,
     {.normalize_coords = range_of_all_axes}},
    {"drift-norm", "integer-half", "average drift adds N/2 by integer division: half a cell too little for odd N", "normalize_coords " MR3D_ROTATIONS,
     {.normalize_coords = integer_half}},
    {"drift-norm", "eps-missing", "unit_range divides by max - min without the 1e-8: 0/0 where all coordinates are equal", "normalize_coords " MR3D_ROTATIONS,
     {.normalize_coords = eps_missing}},
    {"drift-norm", "whole-count", "average drift adds N instead of N/2", "normalize_coords " MR3D_ROTATIONS,
     {.normalize_coords = whole_count}},
    {"drift-norm", "pointwise-from-one", "pointwise drift counts from 1 instead of 0", "normalize_coords " MR3D_ROTATIONS,
     {.normalize_coords = pointwise_from_one}},
    {"drift-norm", "pointwise-on-z", "pointwise drift is added to z only instead of to all axes", "normalize_coords " MR3D_ROTATIONS,
     {.normalize_coords = pointwise_on_z}},
    {"drift-norm", "pointwise-through-batch", "pointwise drift counts on through the batch instead of from 0 in each sample", "normalize_coords " MR3D_ROTATIONS,
     {.normalize_coords = pointwise_through_batch}},
    {"drift-norm", "drift-ignored", "drift is ignored: nothing is added", "normalize_coords " MR3D_ROTATIONS,
     {.normalize_coords = drift_ignored}},
    {"drift-norm", "resolution-ignored", "virtual_resolution is ignored: coordinates stay in 0..1", "normalize_coords " MR3D_ROTATIONS,
     {.normalize_coords = resolution_ignored}},
    {"drift-norm", "resolution-minus-one", "coordinates are multiplied by virtual_resolution - 1 instead of virtual_resolution", "normalize_coords " MR3D_ROTATIONS,
     {.normalize_coords = resolution_minus_one}},
    {"drift-norm", "centred", "unit_range goes from -0.5 to 0.5 instead of from 0 to 1", "normalize_coords " MR3D_ROTATIONS,
     {.normalize_coords = centred}},
    {"drift-norm", "by-largest-extent", "unit_range divides all axes by the largest extent instead of each by its own", "normalize_coords " MR3D_ROTATIONS,
     {.normalize_coords = by_largest_extent}},
    {"drift-norm", "minimum-zero", "unit_range takes 0 for the minimum, as if every scan began at the origin", "normalize_coords " MR3D_ROTATIONS,
     {.normalize_coords = minimum_zero}},
};
const mr3d_mutant_set mr3d_mutants_drift_norm = MR3D_MUTANT_SET(entries);
