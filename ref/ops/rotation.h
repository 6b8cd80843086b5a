/** What the rotations share: the half-split pairing and the rounding of the two products and their sum (private header). */
#ifndef MR3D_ROTATION_H
#define MR3D_ROTATION_H

#include <math.h>

#include "../base/product.h"
#include "mr3d/ops.h"

/**
 * The products of one half-split rotation of n dimensions, j paired with j + n/2 (spec.md section 3.1):
 *
 *     y[j]       = x[j] cos[j]             - x[j+n/2] sin[j]
 *     y[j+n/2]   = x[j+n/2] cos[j+n/2]     + x[j] sin[j+n/2]
 */
static inline void mr3d_half_split(int64_t n, const double *x, const double *cos_row, const double *sin_row, double *cos_part, double *sin_part) {
  const int64_t half = n / 2;
  for (int64_t j = 0; j < half; j++) {
    cos_part[j] = x[j] * cos_row[j];
    sin_part[j] = -(x[j + half] * sin_row[j]);
    cos_part[j + half] = x[j + half] * cos_row[j + half];
    sin_part[j + half] = x[j] * sin_row[j + half];
  }
}

/** Derivative of the half-split rotation to its angle (each dimension's own). */
static inline void mr3d_half_split_turn(int64_t n, const double *x, const double *cos_row, const double *sin_row, double *turn) {
  const int64_t half = n / 2;
  for (int64_t j = 0; j < half; j++) {
    turn[j] = -x[j] * sin_row[j] - x[j + half] * cos_row[j];
    turn[j + half] = -x[j + half] * sin_row[j + half] + x[j] * cos_row[j + half];
  }
}

/** y [batches,heads,rows,n] = cos part + sin part, each of the three stored as real stacks store it, the parts at `parts`. These are overwritten. */
static inline void mr3d_rotation_sum(const mr3d_context *context, mr3d_rounding_point parts, int64_t batches, int64_t heads, int64_t rows, int64_t n,
                                     double *cos_part, double *sin_part, double *y) {
  mr3d_round(context, parts, batches, heads, rows, n, cos_part);
  mr3d_round(context, parts, batches, heads, rows, n, sin_part);
  const int64_t count = batches * heads * rows * n;
#pragma omp parallel for num_threads(mr3d_thread_count(context->threads)) if (count > 16384)
  for (int64_t i = 0; i < count; i++)
    y[i] = cos_part[i] + sin_part[i];
  mr3d_round(context, MR3D_AT_ROTATION, batches, heads, rows, n, y);
}

/**
 * Scale of one rotated element: its pair's norm r times what the angle may be off (never more than 2: any two points of the circle),
 * three roundings of the accumulator (two products, one sum), and the output's own: u r, not u |y|, because real stacks store both
 * products, and the table rounded to the tier costs as much; eta where the type has no smaller numbers.
 */
static inline double mr3d_rotation_scale(const mr3d_units *units, double r, double angle_error) {
  return r * (fmin(2, angle_error) + 3 * units->ua) + (units->narrow ? units->u * r : 0) + (r > 0 ? units->eta : 0);
}

/** What binary32 code may make of theta = position * inv_freq, t = -ln inv_freq: 2t admits every way to build inv_freq (tolerance.md). */
static inline double mr3d_angle_error_1d(const mr3d_units *units, double position, double inv_freq) {
  return units->ua * (4 - 2 * log(inv_freq)) * fabs(position * inv_freq);
}

#endif
