/** ReLU (encoders.md, "SceneScript"). */
#include "mr3d/encoders.h"

/** y [n,C] = max(x, 0). Exact. */
void mr3d_relu(const mr3d_context *context, int64_t n, int64_t C, const double *x, double *y) {
  (void)context;
  for (int64_t i = 0; i < n * C; i++)
    y[i] = x[i] > 0 ? x[i] : 0;
}
