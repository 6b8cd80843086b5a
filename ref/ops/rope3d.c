/** Three-dimensional rotation of the spatial part of point tokens (spec.md section 3.2). */
#include <stdlib.h>

#include "mr3d/ops.h"
#include "rotation.h"

/**
 * y [B,heads,N,Ds], adjacent pairing: (x[2f], x[2f+1]) is one complex number, multiplied by cos + i sin of its bin,
 *
 *     y[2f]   = x[2f]   cos[h,n,f] - x[2f+1] sin[h,n,f]
 *     y[2f+1] = x[2f+1] cos[h,n,f] + x[2f]   sin[h,n,f]
 *
 * cos, sin [heads,N,Ds/2]: one table for all samples. Error: mr3d_rope3d_scale with u = ua = 2^-53.
 */
void mr3d_rope3d(const mr3d_context *context, const mr3d_rope3d_in *in, double *y) {
  const int64_t F = in->Ds / 2, count = in->B * in->heads * in->N * in->Ds;
  double *cos_part = mr3d_allocate_unset(count, sizeof *cos_part), *sin_part = mr3d_allocate_unset(count, sizeof *sin_part);
#pragma omp parallel for collapse(3) num_threads(mr3d_thread_count(context->threads)) if (count > 16384)
  for (int64_t b = 0; b < in->B; b++)
    for (int64_t h = 0; h < in->heads; h++)
      for (int64_t n = 0; n < in->N; n++)
        for (int64_t f = 0; f < F; f++) {
          const double c = in->cos_table[(h * in->N + n) * F + f], s = in->sin_table[(h * in->N + n) * F + f];
          const int64_t re = ((b * in->heads + h) * in->N + n) * in->Ds + 2 * f, im = re + 1;
          cos_part[re] = in->x[re] * c;
          sin_part[re] = -(in->x[im] * s);
          cos_part[im] = in->x[im] * c;
          sin_part[im] = in->x[re] * s;
        }
  mr3d_rotation_sum(context, MR3D_AT_TURNED_3D, in->B, in->heads, in->N, in->Ds, cos_part, sin_part, y);
  free(cos_part);
  free(sin_part);
}

/**
 * scale = 3 ua r + u r + eta, r = |(x[2f], x[2f+1])|: the angle is given, so only the roundings of the rotation remain (rotation.h).
 * turn[2f] = -y[2f+1], turn[2f+1] = y[2f]: the derivative to the angle.
 */
void mr3d_rope3d_scale(const mr3d_units *units, const mr3d_rope3d_in *in, double *scale, double *turn) {
  const int64_t F = in->Ds / 2;
#pragma omp parallel for collapse(3) if (in->B * in->heads * in->N * in->Ds > 16384)
  for (int64_t b = 0; b < in->B; b++)
    for (int64_t h = 0; h < in->heads; h++)
      for (int64_t n = 0; n < in->N; n++)
        for (int64_t f = 0; f < F; f++) {
          const double c = in->cos_table[(h * in->N + n) * F + f], s = in->sin_table[(h * in->N + n) * F + f];
          const int64_t re = ((b * in->heads + h) * in->N + n) * in->Ds + 2 * f, im = re + 1;
          scale[re] = scale[im] = mr3d_rotation_scale(units, hypot(in->x[re], in->x[im]), 0);
          if (turn != NULL) {
            turn[re] = -in->x[re] * s - in->x[im] * c;
            turn[im] = -in->x[im] * s + in->x[re] * c;
          }
        }
}
