/** cos and sin of the three-dimensional rotation angles (spec.md section 3.2). */
#include <math.h>
#include <stdlib.h>

#include "../base/product.h"
#include "mr3d/ops.h"

static double weight_of(const mr3d_cis3d_in *in, int64_t h, int64_t f, int64_t a) {
  return in->axial_weights != NULL ? in->axial_weights[(h * in->F + f) * 3 + a] : 1;
}
static double frequency_of(const mr3d_cis3d_in *in, int64_t h, int64_t f, int64_t a) {
  return in->freqs[((in->freq_axes == 1 ? 0 : a) * in->heads + h) * in->F + f];
}

/**
 * cos, sin [heads,N,F] of
 *
 *     angle[h,n,f] = sum over a = x, y, z, in this order, of (w[h,f,a] * freqs[a,h,f]) * c[n,a]        radians
 *
 * freqs [3,heads,F] or [1,heads,F] (shared by the axes), w [heads,F,3] or none (1), c [N,3] as given: neither normalised nor drifted here.
 * Emulated: w f, each product and each partial sum are rounded to the accumulator's precision, never to the tier's.
 *
 * Error of an angle: 3 ulp of sum |w f c|; of cos and sin: that, plus libm's.
 */
void mr3d_cis3d(const mr3d_context *context, const mr3d_cis3d_in *in, double *cos_table, double *sin_table) {
  const int64_t heads = in->heads, F = in->F, N = in->N, count = heads * N * F;
  double *angle = mr3d_allocate(count, sizeof *angle), *part = mr3d_allocate(count, sizeof *part);
  double *mixed = mr3d_allocate(heads * F, sizeof *mixed);
  for (int64_t a = 0; a < 3; a++) {
    for (int64_t h = 0; h < heads; h++)
      for (int64_t f = 0; f < F; f++)
        mixed[h * F + f] = weight_of(in, h, f, a) * frequency_of(in, h, f, a);
    mr3d_round(context, MR3D_AT_ANGLE, 1, heads, 1, F, mixed);
    for (int64_t h = 0; h < heads; h++)
      for (int64_t n = 0; n < N; n++)
        for (int64_t f = 0; f < F; f++)
          part[(h * N + n) * F + f] = mixed[h * F + f] * in->coords[n * 3 + a];
    mr3d_round(context, MR3D_AT_ANGLE, 1, heads, N, F, part);
    for (int64_t i = 0; i < count; i++)
      angle[i] = angle[i] + part[i];
    mr3d_round(context, MR3D_AT_ANGLE, 1, heads, N, F, angle);
  }
#pragma omp parallel for num_threads(mr3d_thread_count(context->threads)) if (count > 1024)
  for (int64_t i = 0; i < count; i++) {
    cos_table[i] = cos(angle[i]);
    sin_table[i] = sin(angle[i]);
  }
  mr3d_round(context, MR3D_AT_TABLE_3D, 1, heads, N, F, cos_table);
  mr3d_round(context, MR3D_AT_TABLE_3D, 1, heads, N, F, sin_table);
  free(angle);
  free(part);
  free(mixed);
}

/**
 * scale = ua (3 sum |w f c| + 2) + u |y|: each term passes three roundings (w f, times c, the sum) whose errors go with the terms' sizes
 * and not with the angle, because axes cancel; 2 for the function itself; the output's own rounding where storage is narrower.
 */
void mr3d_cis3d_scale(const mr3d_units *units, const mr3d_cis3d_in *in, double *cos_scale, double *sin_scale) {
  const double u = units->narrow ? units->u : 0;
  for (int64_t h = 0; h < in->heads; h++)
    for (int64_t n = 0; n < in->N; n++)
      for (int64_t f = 0; f < in->F; f++) {
        double angle = 0, size = 0;
        for (int64_t a = 0; a < 3; a++) {
          const double term = weight_of(in, h, f, a) * frequency_of(in, h, f, a) * in->coords[n * 3 + a];
          angle += term;
          size += fabs(term);
        }
        const int64_t at = (h * in->N + n) * in->F + f;
        cos_scale[at] = units->ua * (3 * size + 2) + u * fabs(cos(angle));
        sin_scale[at] = units->ua * (3 * size + 2) + u * fabs(sin(angle));
      }
}
