/** Base frequencies of the 3D rotation where nothing is learned (spec.md sections 3.2 and 8). */
#include <math.h>

#include "mr3d/ops.h"

/**
 * freqs [3,heads,F], the same for all heads, F = Ds/2:
 *
 *     mixed:   freqs[a,h,f] = rope_theta_3d^(-2f/Ds)                    the same for the three axes
 *     axial:   n = (Ds//3)//2 bins turn by x, the next n by y, the other F-2n by z;
 *              bin i of its axis (counted from 0, past n on z) has rope_theta_3d^(-i/n), and 0 on the other two axes
 *
 * Unit: radians per unit of the coordinate. Errors: `axial` with Ds < 6, where n is 0.
 */
mr3d_status mr3d_base_frequencies(const mr3d_config *config, int64_t heads, int64_t F, double *freqs, mr3d_error *error) {
  const int64_t Ds = 2 * F, n = Ds / 3 / 2;
  const bool axial = config->rope_3d_kind == MR3D_AXIAL;
  if (axial && n == 0)
    return mr3d_fail(error, MR3D_INVALID, "rope_3d_kind \"axial\" shares %lld spatial dimensions among three axes, which leaves x and y none: at least 6 are needed",
                     (long long)Ds);
  for (int64_t a = 0; a < 3; a++)
    for (int64_t h = 0; h < heads; h++)
      for (int64_t f = 0; f < F; f++) {
        double frequency;
        if (axial) {
          const int64_t axis = f < n ? 0 : f < 2 * n ? 1 : 2, i = f - axis * n;
          frequency = axis == a ? pow(config->rope_theta_3d, -(double)i / (double)n) : 0;
        } else {
          frequency = pow(config->rope_theta_3d, -2.0 * (double)f / (double)Ds);
        }
        freqs[(a * heads + h) * F + f] = frequency;
      }
  return MR3D_OK;
}
