/** LayerNorm (encoders.md, "Sonata"). */
#include "../base/product.h"
#include "norm.h"

/**
 * y [n,C] = (x - mean) / sqrt(variance + eps) * weight + bias, mean and biased variance of each row (mr3d_norm_group).
 *
 * Emulated: both sums' accumulations; (x - mean) / spread, the product with the weight and the sum with the bias are stored.
 */
void mr3d_layernorm(const mr3d_context *context, const mr3d_norm_in *in, double *y) {
  const mr3d_norm_rounders r = mr3d_norm_rounders_at(context);
#pragma omp parallel for num_threads(mr3d_thread_count(context->threads)) if (in->n * in->C > 16384)
  for (int64_t p = 0; p < in->n; p++)
    mr3d_norm_group(in, &r, p, 1, 0, in->C, y);
}
