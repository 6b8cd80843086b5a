/** One-dimensional rotary embedding of text tokens, over the full head_dim (spec.md section 3.1). */
#include <stdlib.h>

#include "../base/product.h"
#include "mr3d/model.h"
#include "rotation.h"

/**
 * y [B,heads,q,D], half-split pairing: for j < D/2 and theta of mr3d_rotary_table,
 *
 *     y[j]     = x[j] cos theta[p,j]         - x[j+D/2] sin theta[p,j]
 *     y[j+D/2] = x[j+D/2] cos theta[p,j+D/2] + x[j] sin theta[p,j+D/2]
 *
 * position_ids [B,q] or [1,q]. Error: mr3d_rope1d_scale with u = ua = 2^-53.
 */
void mr3d_rope1d(const mr3d_context *context, const mr3d_rope1d_in *in, double *y) {
  const int64_t P = in->position_rows * in->q, D = in->D, count = in->B * in->heads * in->q * D;
  double *cos_table = mr3d_allocate_unset(P * D, sizeof *cos_table), *sin_table = mr3d_allocate_unset(P * D, sizeof *sin_table);
  double *cos_part = mr3d_allocate_unset(count, sizeof *cos_part), *sin_part = mr3d_allocate_unset(count, sizeof *sin_part);
  context->op->rotary_table(context, P, D, in->rope_theta, in->position_ids, cos_table, sin_table);
#pragma omp parallel for collapse(3) num_threads(mr3d_thread_count(context->threads)) if (count > 16384)
  for (int64_t b = 0; b < in->B; b++)
    for (int64_t h = 0; h < in->heads; h++)
      for (int64_t i = 0; i < in->q; i++) {
        const int64_t p = (in->position_rows == 1 ? 0 : b) * in->q + i, at = ((b * in->heads + h) * in->q + i) * D;
        mr3d_half_split(D, in->x + at, cos_table + p * D, sin_table + p * D, cos_part + at, sin_part + at);
      }
  mr3d_rotation_sum(context, MR3D_AT_TURNED, in->B, in->heads, in->q, D, cos_part, sin_part, y);
  free(cos_table);
  free(sin_table);
  free(cos_part);
  free(sin_part);
}

/**
 * scale = r (min(2, ua (4 + 2t) |theta|) + 3 ua) + u r + eta, r the norm of the element's pair, t = -ln inv_freq[j]; the terms' reasons
 * are told in rotation.h. turn[j] = dy[j] / dtheta[p,j].
 */
void mr3d_rope1d_scale(const mr3d_units *units, const mr3d_rope1d_in *in, double *scale, double *turn) {
  const int64_t D = in->D, half = D / 2;
#pragma omp parallel for collapse(3) if (in->B * in->heads * in->q * D > 16384)
  for (int64_t b = 0; b < in->B; b++)
    for (int64_t h = 0; h < in->heads; h++)
      for (int64_t i = 0; i < in->q; i++) {
        const double position = (double)in->position_ids[(in->position_rows == 1 ? 0 : b) * in->q + i];
        const int64_t at = ((b * in->heads + h) * in->q + i) * D;
        const double *x = in->x + at;
        for (int64_t j = 0; j < half; j++) {
          const double inv_freq = pow(in->rope_theta, -2.0 * (double)j / (double)D), theta = position * inv_freq;
          const double error = mr3d_angle_error_1d(units, position, inv_freq);
          scale[at + j] = scale[at + j + half] = mr3d_rotation_scale(units, hypot(x[j], x[j + half]), error);
          if (turn != NULL) {
            turn[at + j] = -x[j] * sin(theta) - x[j + half] * cos(theta);
            turn[at + j + half] = -x[j + half] * sin(theta) + x[j] * cos(theta);
          }
        }
      }
}
