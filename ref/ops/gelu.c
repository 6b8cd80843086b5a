/** GELU, the exact one (encoders.md). */
#include <math.h>

#include "../base/product.h"
#include "mr3d/encoders.h"

#define SQRT_HALF 0x1.6a09e667f3bcdp-1

/**
 * y [n,C] = x Phi(x) = x/2 erfc(-x / sqrt 2), which keeps its digits where 1 + erf would cancel. Error: 4 ulp, and x^2 ulp where x is below 0 (the
 * argument's rounding).
 *
 * Emulated: Phi is off by a relative ua (1 + x^2 where x < 0) and y is stored.
 */
void mr3d_gelu(const mr3d_context *context, int64_t n, int64_t C, const double *x, double *y) {
  const mr3d_rounder noise = mr3d_rounder_at(context, MR3D_AT_ACCUMULATION), activated = mr3d_rounder_at(context, MR3D_AT_SILU);
#pragma omp parallel for num_threads(mr3d_thread_count(context->threads)) if (n * C > 16384)
  for (int64_t p = 0; p < n; p++) {
    const double *from = x + p * C;
    double *row = y + p * C;
    for (int64_t c = 0; c < C; c++) {
      const double v = from[c];
      row[c] = 0.5 * v * erfc(-v * SQRT_HALF);
      if (noise.on)
        row[c] += noise.ua * fabs(v < 0 ? row[c] * (1 + v * v) : row[c]) * mr3d_noise_at(&noise, 0, 0, p, c);
    }
    mr3d_round_row(&activated, 0, 0, p, C, row);
  }
}
