/** The cos/sin table of one-dimensional rotary embeddings (spec.md section 3.1). */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "../base/product.h"
#include "mr3d/ops.h"

/* Tags of values that a stack computes once and uses in every layer, for queries and keys alike (mr3d_rounder_fixed). */
enum { INV_FREQ = 1, ANGLE = 2 };

/**
 * cos, sin [P,D] of
 *
 *     inv_freq[j] = rope_theta^(-2j/D)              j = 0 .. D/2-1, in binary64 by pow of the quotient -2j/D rounded once
 *     theta[p,j]  = position[p] * inv_freq[j mod D/2]   radians, rounded once; the table repeats
 *
 * Emulated: inv_freq is off by a relative error of standard deviation ua (1 + t) / 2, t = -ln inv_freq, but for j = 0, where every way gives 1. pow, exp(-t)
 * and exp2 in binary32 have 0.3, 0.8 to 1.3 and 0.8 to 1.1 times that (rope_theta 1e2 to 1e6, D 32 to 128). It is the same one in every call of
 * a run, as is the rounding of theta: an error that query and key share is far more harmless than two independent ones.
 *
 * Error: each angle within 1 ulp plus |position| times inv_freq's ulp; cos and sin as libm's (below 1 ulp).
 */
void mr3d_rotary_table(const mr3d_context *context, int64_t P, int64_t D, double rope_theta, const int64_t *positions, double *cos_table,
                       double *sin_table) {
  const int64_t half = D / 2;
  double *inv_freq = mr3d_allocate(half, sizeof *inv_freq), *theta = mr3d_allocate_unset(P * half, sizeof *theta);
  const mr3d_rounder inv_freq_rounder = mr3d_rounder_fixed(context, MR3D_AT_ANGLE, INV_FREQ);
  const mr3d_rounder angle_rounder = mr3d_rounder_fixed(context, MR3D_AT_ANGLE, ANGLE);
  for (int64_t j = 0; j < half; j++) {
    inv_freq[j] = pow(rope_theta, -2.0 * (double)j / (double)D);
    if (j > 0 && inv_freq_rounder.on) {
      const double t = -log(inv_freq[j]);
      inv_freq[j] *= 1 + inv_freq_rounder.ua * (1 + t) / 2 * mr3d_noise_at(&inv_freq_rounder, 0, 0, 0, half + j);
    }
  }
  mr3d_round_row(&inv_freq_rounder, 0, 0, 0, half, inv_freq);

#pragma omp parallel for num_threads(mr3d_thread_count(context->threads)) if (P * half > 1024)
  for (int64_t p = 0; p < P; p++) {
    double *cos_row = cos_table + p * D, *sin_row = sin_table + p * D, *angle = theta + p * half;
    for (int64_t j = 0; j < half; j++)
      angle[j] = (double)positions[p] * inv_freq[j];
    mr3d_round_row(&angle_rounder, 0, 0, positions[p], half, angle);
    for (int64_t j = 0; j < half; j++) {
      cos_row[j] = cos_row[j + half] = cos(angle[j]);
      sin_row[j] = sin_row[j + half] = sin(angle[j]);
    }
  }
  mr3d_round(context, MR3D_AT_TABLE, 1, 1, P, D, cos_table);
  mr3d_round(context, MR3D_AT_TABLE, 1, 1, P, D, sin_table);
  free(inv_freq);
  free(theta);
}
