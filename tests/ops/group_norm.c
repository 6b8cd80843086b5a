/** GroupNorm over a sample's cells and over single rows (encoders.md, "SceneScript"). */
#include "mr3d/encoders.h"
#include "ops_test.h"

enum { N = 37, C = 24 };

/** By E[x^2] - E[x]^2 in long double, over the rows and channels that `shared` says belong together. */
static long double expected_at(const double *x, int64_t row, int64_t channel, int64_t groups, bool per_row, double eps, const double *weight, const double *bias) {
  const int64_t width = C / groups, first = channel / width * width;
  long double sum = 0, squares = 0, count = 0;
  for (int64_t p = per_row ? row : 0; p < (per_row ? row + 1 : N); p++)
    for (int64_t c = first; c < first + width; c++) {
      sum += (long double)x[p * C + c];
      squares += (long double)x[p * C + c] * (long double)x[p * C + c];
      count += 1;
    }
  const long double mean = sum / count, variance = squares / count - mean * mean;
  return ((long double)x[row * C + channel] - mean) / sqrtl(variance + (long double)eps) * (long double)weight[channel] + (long double)bias[channel];
}

static void mean_and_variance_are_the_groups(void **state) {
  (void)state;
  double *x = numbers(N * C, 3, 1), *weight = numbers(C, 2, 2), *bias = numbers(C, 1, 3), *y = unwritten(N * C);
  for (int64_t i = 0; i < N * C; i++)
    x[i] = x[i] * (1 + (double)(i % C / 8)) + (double)(i / C % 5); /* groups and rows that differ */
  for (int64_t groups = 1; groups <= C; groups *= 2) {
    if (C % groups)
      continue;
    const mr3d_norm_in in = {N, C, groups, 1e-5, x, {weight, bias}};
    for (int per_row = 0; per_row < 2; per_row++) {
      (per_row ? mr3d_group_norm_rows : mr3d_group_norm_sparse)(&exact, &in, y);
      for (int64_t i = 0; i < N * C; i++)
        assert_near_at(i, y[i], (double)expected_at(x, i / C, i % C, groups, per_row, 1e-5, weight, bias), 1e-13);
    }
  }
  free(x);
  free(weight);
  free(bias);
  free(y);
}

static void known_values_by_hand_and_in_place(void **state) {
  (void)state;
  double x[] = {1, 10, /**/ 3, 30}, y[4];
  const double weight[] = {1, 2}, bias[] = {0, 5};
  const mr3d_norm_in in = {2, 2, 2, 0, x, {weight, bias}}; /* a channel a group: 1, 3 and 10, 30 */
  mr3d_group_norm_sparse(&exact, &in, y);
  assert_true(y[0] == -1 && y[2] == 1 && y[1] == -2 + 5 && y[3] == 2 + 5);
  mr3d_group_norm_sparse(&exact, &in, x);
  assert_same_bits(x, y, 4);
}

static void equal_values_become_the_bias(void **state) {
  (void)state;
  const double x[] = {4, 4, 4, 4}, weight[] = {3, 3}, bias[] = {-1, 2};
  double y[4];
  mr3d_group_norm_rows(&exact, &(mr3d_norm_in){2, 2, 1, 1e-5, x, {weight, bias}}, y);
  assert_true(y[0] == -1 && y[1] == 2 && y[2] == -1 && y[3] == 2);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(mean_and_variance_are_the_groups),
      cmocka_unit_test(known_values_by_hand_and_in_place),
      cmocka_unit_test(equal_values_become_the_bias),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
