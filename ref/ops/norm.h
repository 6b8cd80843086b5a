/** What group norms and the layer norm share: normalising the values that have one mean and one variance (private header). */
#ifndef MR3D_NORM_H
#define MR3D_NORM_H

#include "mr3d/encoders.h"

/** All roundings of one norm, in the order of the computation. */
typedef struct mr3d_norm_rounders {
  mr3d_rounder mean, variance, normed, weighted, shifted;
} mr3d_norm_rounders;
mr3d_norm_rounders mr3d_norm_rounders_at(const mr3d_context *);

/**
 * Rows first_row .. first_row+rows-1 and channels first_channel .. first_channel+channels-1 of x [..,C], which share mean and variance:
 *
 *     mean = sum of x / count;  variance = sum of (x - mean)^2 / count, biased, both sums row by row in index order
 *     y = (x - mean) / sqrt(variance + eps) * weight[c] + bias[c]
 */
void mr3d_norm_group(const mr3d_norm_in *, const mr3d_norm_rounders *, int64_t first_row, int64_t rows, int64_t first_channel, int64_t channels, double *y);

#endif
