#include "norm.h"

#include <math.h>

mr3d_norm_rounders mr3d_norm_rounders_at(const mr3d_context *context) {
  mr3d_norm_rounders r;
  r.mean = mr3d_rounder_at(context, MR3D_AT_ACCUMULATION);
  r.variance = mr3d_rounder_at(context, MR3D_AT_ACCUMULATION);
  r.normed = mr3d_rounder_at(context, MR3D_AT_NORM);
  r.weighted = mr3d_rounder_at(context, MR3D_AT_NORM);
  r.shifted = mr3d_rounder_at(context, MR3D_AT_NORM);
  return r;
}

/**
 * What a sum of `count` terms in index order loses by its accumulation, `squares` being the sum of their squares: each partial sum is rounded, by ua^2/3 of its square in the mean. Partial
 * sums grow evenly to `sum`, their squares adding up to count sum^2 / 3, and stray from that as a random walk, by count squares / 2 in all. Over a whole scan the first term decides: a
 * variance has one sign.
 */
static double lost(const mr3d_rounder *noise, int64_t row, int64_t channel, double count, double sum, double squares) {
  return noise->on ? noise->ua * sqrt(count / 3 * (sum * sum / 3 + squares / 2)) * mr3d_noise_at(noise, 0, 0, row, channel) : 0;
}

void mr3d_norm_group(const mr3d_norm_in *in, const mr3d_norm_rounders *r, int64_t first_row, int64_t rows, int64_t first_channel, int64_t channels, double *y) {
  const double *x = in->x + first_row * in->C + first_channel, count = (double)rows * (double)channels;
  double sum = 0, squares = 0;
  for (int64_t p = 0; p < rows; p++)
    for (int64_t c = 0; c < channels; c++) {
      sum = sum + x[p * in->C + c];
      squares = squares + x[p * in->C + c] * x[p * in->C + c];
    }
  const double mean = (sum + lost(&r->mean, first_row, first_channel, count, sum, squares)) / count;

  double deviations = 0, fourth = 0;
  for (int64_t p = 0; p < rows; p++)
    for (int64_t c = 0; c < channels; c++) {
      const double d = x[p * in->C + c] - mean;
      deviations = deviations + d * d;
      fourth += d * d * (d * d);
    }
  const double variance = (deviations + lost(&r->variance, first_row, first_channel, count, deviations, fourth)) / count, spread = sqrt(variance + in->eps);

  for (int64_t p = 0; p < rows; p++) {
    double *row = y + (first_row + p) * in->C + first_channel;
    for (int64_t c = 0; c < channels; c++)
      row[c] = (x[p * in->C + c] - mean) / spread;
    mr3d_round_row(&r->normed, 0, first_channel, first_row + p, channels, row);
    for (int64_t c = 0; c < channels; c++)
      row[c] = row[c] * in->norm.weight[first_channel + c];
    mr3d_round_row(&r->weighted, 0, first_channel, first_row + p, channels, row);
    for (int64_t c = 0; c < channels; c++)
      row[c] = row[c] + in->norm.bias[first_channel + c];
    mr3d_round_row(&r->shifted, 0, first_channel, first_row + p, channels, row);
  }
}
