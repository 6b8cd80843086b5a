/** RMSNorm (spec.md section 6). */
#include <math.h>

#include "../base/product.h"
#include "mr3d/ops.h"

/**
 * y [rows,n] = x / sqrt(mean(x^2) + eps) * weight, the mean a sum in index order divided by n, the quotient before the product.
 *
 * Emulated: the sum's accumulation, x / rms, and the product with the weight. Error: mr3d_rmsnorm_scale with u = ua = 2^-53.
 */
void mr3d_rmsnorm(const mr3d_context *context, const mr3d_rmsnorm_in *in, double *y) {
  const mr3d_rounder sum_noise = mr3d_rounder_at(context, MR3D_AT_ACCUMULATION);
  const mr3d_rounder normed = mr3d_rounder_at(context, MR3D_AT_NORM), weighted = mr3d_rounder_at(context, MR3D_AT_NORM);
  const double n = (double)in->n;
#pragma omp parallel for num_threads(mr3d_thread_count(context->threads)) if (in->rows * in->n > 16384)
  for (int64_t r = 0; r < in->rows; r++) {
    const double *x = in->x + r * in->n;
    double *row = y + r * in->n, sum = 0, squares = 0;
    for (int64_t i = 0; i < in->n; i++)
      sum = sum + x[i] * x[i];
    if (sum_noise.on) {
      for (int64_t i = 0; i < in->n; i++)
        squares += x[i] * x[i] * (x[i] * x[i]);
      sum += sum_noise.ua * sqrt(n / 6 * squares) * mr3d_noise_at(&sum_noise, 0, 0, r, 0);
    }
    const double rms = sqrt(sum / n + in->eps);
    for (int64_t i = 0; i < in->n; i++)
      row[i] = x[i] / rms;
    mr3d_round_row(&normed, 0, 0, r, in->n, row);
    for (int64_t i = 0; i < in->n; i++)
      row[i] = row[i] * in->weight[i];
    mr3d_round_row(&weighted, 0, 0, r, in->n, row);
  }
}

/**
 * scale = |y| (u + ua (4 + sqrt n)) + eta (1 + |weight|): 4 roundings of the quotient and the product and sqrt n of the sum (a random walk; one
 * massive early term makes more of it, still within the limit at n = 896); eta for x / rms and for y below the type's range.
 */
void mr3d_rmsnorm_scale(const mr3d_units *units, const mr3d_rmsnorm_in *in, double *scale) {
  const double relative = (units->narrow ? units->u : 0) + units->ua * (4 + sqrt((double)in->n));
  for (int64_t r = 0; r < in->rows; r++) {
    const double *x = in->x + r * in->n;
    double sum = 0;
    for (int64_t i = 0; i < in->n; i++)
      sum = sum + x[i] * x[i];
    const double rms = sqrt(sum / (double)in->n + in->eps);
    for (int64_t i = 0; i < in->n; i++)
      scale[r * in->n + i] = fabs(x[i] / rms * in->weight[i]) * relative + units->eta * (1 + fabs(in->weight[i]));
  }
}
