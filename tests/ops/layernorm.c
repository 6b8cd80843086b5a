/** LayerNorm (encoders.md, "Sonata"). */
#include "mr3d/encoders.h"
#include "ops_test.h"

static void known_vector_has_mean_zero_and_the_biased_variance_one(void **state) {
  (void)state;
  const double x[] = {1, 3, 5, 7}, weight[] = {1, 1, 2, 1}, bias[] = {0, 0, 0, 10};
  double y[4];
  mr3d_layernorm(&exact, &(mr3d_norm_in){.n = 1, .C = 4, .eps = 0, .x = x, .norm = {weight, bias}}, y); /* mean 4, variance 20/4 = 5 */
  const double s = sqrt(5);
  assert_true(y[0] == -3 / s && y[1] == -1 / s && y[2] == 1 / s * 2 && y[3] == 3 / s + 10);
}

static void eps_is_added_to_the_variance_and_shows_where_that_is_small(void **state) {
  (void)state;
  const double x[] = {1e-3, -1e-3}, weight[] = {1, 1}, bias[] = {0, 0};
  double y[2];
  mr3d_layernorm(&exact, &(mr3d_norm_in){.n = 1, .C = 2, .eps = 1e-5, .x = x, .norm = {weight, bias}}, y);
  assert_near(y[0], 1e-3 / sqrt(1e-6 + 1e-5), 1e-15);
}

static void every_row_agrees_with_long_double(void **state) {
  (void)state;
  const int64_t sizes[] = {1, 7, 48, 512}, rows = 6;
  for (int k = 0; k < 4; k++) {
    const int64_t C = sizes[k];
    double *x = numbers(rows * C, 3, 1), *weight = numbers(C, 2, 2), *bias = numbers(C, 1, 3), *y = unwritten(rows * C);
    for (int64_t i = 0; i < rows * C; i++)
      x[i] += 5 * (double)(i / C); /* means that differ */
    mr3d_layernorm(&exact, &(mr3d_norm_in){.n = rows, .C = C, .eps = 1e-5, .x = x, .norm = {weight, bias}}, y);
    for (int64_t p = 0; p < rows; p++) {
      long double sum = 0, squares = 0;
      for (int64_t c = 0; c < C; c++) {
        sum += (long double)x[p * C + c];
        squares += (long double)x[p * C + c] * (long double)x[p * C + c];
      }
      const long double mean = sum / (long double)C, spread = sqrtl(squares / (long double)C - mean * mean + 1e-5L);
      for (int64_t c = 0; c < C; c++)
        assert_near_at(p * C + c, y[p * C + c], (double)(((long double)x[p * C + c] - mean) / spread * (long double)weight[c] + (long double)bias[c]), 2e-12);
    }
    free(x);
    free(weight);
    free(bias);
    free(y);
  }
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(known_vector_has_mean_zero_and_the_biased_variance_one),
      cmocka_unit_test(eps_is_added_to_the_variance_and_shows_where_that_is_small),
      cmocka_unit_test(every_row_agrees_with_long_double),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
