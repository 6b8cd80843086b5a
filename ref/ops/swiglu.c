/** SwiGLU: the gate of the MLP (spec.md section 6). */
#include <math.h>
#include <stdlib.h>

#include "../base/product.h"
#include "mr3d/ops.h"

/** x sigmoid(x) = x / (1 + e^-x), for x < 0 written as x e^x / (1 + e^x), which does not overflow. Error: 3 ulp. */
static double silu(double x) {
  const double e = exp(-fabs(x));
  return (x < 0 ? x * e : x) / (1 + e);
}

/**
 * y [rows,n] = silu(gate) * up, elementwise.
 *
 * Emulated: silu is off by a relative ua (1 + |gate|/4) in standard deviation (the exponential, whose argument is scaled and rounded, the sum, the
 * quotient) and stored, as is the product. Error: mr3d_swiglu_scale with u = ua = 2^-53.
 */
void mr3d_swiglu(const mr3d_context *context, const mr3d_swiglu_in *in, double *y) {
  const mr3d_rounder noise = mr3d_rounder_at(context, MR3D_AT_ACCUMULATION);
  const mr3d_rounder activated = mr3d_rounder_at(context, MR3D_AT_SILU), gated = mr3d_rounder_at(context, MR3D_AT_GATED);
#pragma omp parallel for num_threads(mr3d_thread_count(context->threads)) if (in->rows * in->n > 16384)
  for (int64_t r = 0; r < in->rows; r++) {
    const double *gate = in->gate + r * in->n, *up = in->up + r * in->n;
    double *row = y + r * in->n;
    for (int64_t i = 0; i < in->n; i++)
      row[i] = silu(gate[i]);
    if (noise.on) {
      double *strayed = mr3d_allocate_unset(in->n, sizeof *strayed);
      mr3d_noise_row(&noise, 0, 0, r, in->n, strayed);
      for (int64_t i = 0; i < in->n; i++)
        row[i] *= 1 + noise.ua * (1 + fabs(gate[i]) / 4) * strayed[i];
      free(strayed);
    }
    mr3d_round_row(&activated, 0, 0, r, in->n, row);
    for (int64_t i = 0; i < in->n; i++)
      row[i] = row[i] * up[i];
    mr3d_round_row(&gated, 0, 0, r, in->n, row);
  }
}

/**
 * scale = |y| (u sqrt(4 + (1 - sigma)^2) + ua (4 + |gate|)) + ua |gate up| + eta (1 + |gate|) (1 + |up|),   sigma = 1 / (1 + e^-gate)
 *
 * A stack that computes in a narrow type (XLA on CPUs) stores five values: e^-gate, whose error moves sigma by 1 - sigma of it, the sum, the quotient, gate
 * sigma, and y. They round independently, hence the root of their squares; u alone is exceeded by their root mean square (1.13 u at gates near -6).
 *
 * 4 + |gate|: sum, quotient, product, and an exponential whose argument is rounded; ua |gate up|: a sigmoid may be accurate only absolutely (clamped,
 * or by tanh); eta: sigmoid, silu and y may each fall below the type's range, the first two before they are multiplied.
 */
void mr3d_swiglu_scale(const mr3d_units *units, const mr3d_swiglu_in *in, double *scale) {
  const double u = units->narrow ? units->u : 0, ua = units->ua;
  for (int64_t i = 0; i < in->rows * in->n; i++) {
    const double gate = in->gate[i], up = in->up[i], y = silu(gate) * up;
    const double below = 1 / (1 + exp(gate)); /* 1 - sigma */
    scale[i] = fabs(y) * (u * sqrt(4 + below * below) + ua * (4 + fabs(gate))) + ua * fabs(gate * up) + units->eta * (1 + fabs(gate)) * (1 + fabs(up));
  }
}
