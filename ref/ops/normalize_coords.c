/** Coordinate normalisation and drift (spec.md section 3.4). */
#include <math.h>

#include "mr3d/ops.h"

static int64_t count_of(const mr3d_normalize_coords_in *in, int64_t b) { return in->point_counts != NULL ? in->point_counts[b] : in->N; }

/** Smallest and largest coordinate of one axis over a sample's own rows. */
static void range_of(const double *coords, int64_t count, int64_t axis, double *min, double *max) {
  *min = *max = count > 0 ? coords[axis] : 0;
  for (int64_t n = 1; n < count; n++) {
    *min = fmin(*min, coords[n * 3 + axis]);
    *max = fmax(*max, coords[n * 3 + axis]);
  }
}

/**
 * out [B,N,3], per sample and axis over its own `count` rows, from left to right:
 *
 *     grid                 c / (reduced_grid_size - 1)
 *     none                 c
 *     unit_range           (c - min) / ((max - min) + 1e-8)
 *     virtual_resolution   unit_range * virtual_resolution
 *
 * then drift: none; average: + count / 2 (a real division); pointwise: + row number. Rows beyond the count are 0.
 *
 * Errors: a count outside 0..N; `grid` with reduced_grid_size 1 (a division by 0); `virtual_resolution` without its value.
 */
mr3d_status mr3d_normalize_coords(const mr3d_context *context, const mr3d_config *config, const mr3d_normalize_coords_in *in, double *out,
                                  mr3d_error *error) {
  if (config->coord_norm == MR3D_NORM_GRID && config->reduced_grid_size <= 1)
    return mr3d_fail(error, MR3D_INVALID,
                     "reduced_grid_size is %lld, and coord_norm \"grid\" divides by reduced_grid_size - 1: it must be at least 2, or choose another coord_norm",
                     (long long)config->reduced_grid_size);
  if (config->coord_norm == MR3D_NORM_VIRTUAL_RESOLUTION && !(config->virtual_resolution > 0))
    return mr3d_fail(error, MR3D_INVALID, "coord_norm \"virtual_resolution\" needs the option virtual_resolution, which has no default");
  for (int64_t b = 0; b < in->B; b++)
    if (count_of(in, b) < 0 || count_of(in, b) > in->N)
      return mr3d_fail(error, MR3D_INVALID, "point_counts[%lld] is %lld, but coords has %lld rows", (long long)b, (long long)count_of(in, b),
                       (long long)in->N);

  const bool ranged = config->coord_norm == MR3D_NORM_UNIT_RANGE || config->coord_norm == MR3D_NORM_VIRTUAL_RESOLUTION;
  for (int64_t b = 0; b < in->B; b++)
    for (int64_t a = 0; a < 3; a++) {
      const double *coords = in->coords + b * in->N * 3;
      const int64_t count = count_of(in, b);
      double min, max;
      range_of(coords, count, a, &min, &max);
      for (int64_t n = 0; n < in->N; n++) {
        double c = n < count ? coords[n * 3 + a] : 0;
        if (n < count && config->coord_norm == MR3D_NORM_GRID)
          c = c / (double)(config->reduced_grid_size - 1);
        if (n < count && ranged)
          c = (c - min) / ((max - min) + 1e-8);
        if (n < count && config->coord_norm == MR3D_NORM_VIRTUAL_RESOLUTION)
          c = c * config->virtual_resolution;
        out[(b * in->N + n) * 3 + a] = c;
      }
    }
  mr3d_round(context, MR3D_AT_ANGLE, in->B, 1, in->N, 3, out);
  if (config->drift == MR3D_DRIFT_NONE)
    return MR3D_OK;
  for (int64_t b = 0; b < in->B; b++)
    for (int64_t n = 0; n < count_of(in, b); n++)
      for (int64_t a = 0; a < 3; a++)
        out[(b * in->N + n) * 3 + a] += config->drift == MR3D_DRIFT_AVERAGE ? (double)count_of(in, b) / 2 : (double)n;
  mr3d_round(context, MR3D_AT_ANGLE, in->B, 1, in->N, 3, out);
  return MR3D_OK;
}

/**
 * scale = ua (k |v| + |y| if there is a drift), v the value before drift; k counts the roundings of an accumulator-wide computation from
 * coordinates that it holds exactly: none 0 (exact is demanded), grid 2 (a division, or a product with a rounded reciprocal), unit_range 5 (two
 * differences, the sum with 1e-8, 1e-8 itself, the division), virtual_resolution 7 (its rounded value, the product). Coordinates are never
 * stored narrower, so no term of the tier's u stands here.
 * shared (may be NULL) = ua s |v|: what has one sign in all rows, because it stems from numbers that all share: grid 1 (the rounded reciprocal of G-1),
 * unit_range 4 (the range, 1e-8, their sum, its reciprocal), virtual_resolution 5 (its rounded value too).
 */
void mr3d_normalize_coords_scale(const mr3d_units *units, const mr3d_config *config, const mr3d_normalize_coords_in *in, double *scale, double *shared) {
  static const double roundings[] = {[MR3D_NORM_GRID] = 2, [MR3D_NORM_NONE] = 0, [MR3D_NORM_UNIT_RANGE] = 5, [MR3D_NORM_VIRTUAL_RESOLUTION] = 7};
  static const double constants[] = {[MR3D_NORM_GRID] = 1, [MR3D_NORM_NONE] = 0, [MR3D_NORM_UNIT_RANGE] = 4, [MR3D_NORM_VIRTUAL_RESOLUTION] = 5};
  for (int64_t b = 0; b < in->B; b++)
    for (int64_t a = 0; a < 3; a++) {
      const double *coords = in->coords + b * in->N * 3;
      const int64_t count = count_of(in, b);
      double min, max;
      range_of(coords, count, a, &min, &max);
      for (int64_t n = 0; n < in->N; n++) {
        const double c = n < count ? coords[n * 3 + a] : 0, unit = (c - min) / ((max - min) + 1e-8);
        const double v = config->coord_norm == MR3D_NORM_GRID         ? c / (double)(config->reduced_grid_size - 1)
                         : config->coord_norm == MR3D_NORM_NONE       ? c
                         : config->coord_norm == MR3D_NORM_UNIT_RANGE ? unit
                                                                      : unit * config->virtual_resolution;
        const double drift = config->drift == MR3D_DRIFT_AVERAGE ? (double)count / 2 : config->drift == MR3D_DRIFT_POINTWISE ? (double)n : 0;
        const double drifted = config->drift != MR3D_DRIFT_NONE ? fabs(v + drift) : 0;
        if (shared != NULL)
          shared[(b * in->N + n) * 3 + a] = n < count ? units->ua * constants[config->coord_norm] * fabs(v) : 0;
        scale[(b * in->N + n) * 3 + a] = n < count ? units->ua * (roundings[config->coord_norm] * fabs(v) + drifted) : 0;
      }
    }
}
