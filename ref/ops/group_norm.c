/** GroupNorm over the cells of a sample, and over each row alone (encoders.md, "SceneScript"). */
#include "../base/product.h"
#include "norm.h"

/**
 * y [n,C]: each group of C / groups channels is normalised by its mean and variance over all n rows of the sample and the group's channels
 * (mr3d_norm_group).
 *
 * Emulated: both sums' accumulations; (x - mean) / spread, the product with the weight and the sum with the bias are stored.
 */
void mr3d_group_norm_sparse(const mr3d_context *context, const mr3d_norm_in *in, double *y) {
  const mr3d_norm_rounders r = mr3d_norm_rounders_at(context);
  const int64_t channels = in->C / in->groups;
#pragma omp parallel for num_threads(mr3d_thread_count(context->threads)) if (in->n * in->C > 16384)
  for (int64_t group = 0; group < in->groups; group++)
    mr3d_norm_group(in, &r, 0, in->n, group * channels, channels, y);
}

/** y [n,C]: the same with mean and variance of each row's group alone. Emulated alike. */
void mr3d_group_norm_rows(const mr3d_context *context, const mr3d_norm_in *in, double *y) {
  const mr3d_norm_rounders r = mr3d_norm_rounders_at(context);
  const int64_t channels = in->C / in->groups;
#pragma omp parallel for num_threads(mr3d_thread_count(context->threads)) if (in->n * in->C > 16384)
  for (int64_t p = 0; p < in->n; p++)
    for (int64_t group = 0; group < in->groups; group++)
      mr3d_norm_group(in, &r, p, 1, group * channels, channels, y);
}
