/** RMSNorm (spec.md section 6, pitfall qwen2-details). */
#include "ops_test.h"

static void known_vector_is_divided_by_its_root_mean_square(void **state) {
  (void)state;
  const double x[] = {3, -4, 0, 0, /**/ 0, 0, 0, 0}, weight[] = {1, 2, 3, 4};
  double y[8];
  mr3d_rmsnorm(&exact, &(mr3d_rmsnorm_in){2, 4, 0, x, weight}, y);
  assert_true(y[0] == 3 / 2.5 && y[1] == -4 / 2.5 * 2 && y[2] == 0 && y[3] == 0); /* mean square 25/4 */
  mr3d_rmsnorm(&exact, &(mr3d_rmsnorm_in){2, 4, 1e-6, x, weight}, y);
  assert_true(y[4] == 0 && y[7] == 0);                      /* zeros stay zeros with eps */
  assert_true(fabs(y[0]) < 3 / 2.5 && fabs(y[0]) > 1.1999); /* which is inside the root */
}

static void every_element_agrees_with_long_double(void **state) {
  (void)state;
  const int64_t sizes[] = {1, 7, 64, 896}, rows = 5;
  for (int k = 0; k < 4; k++) {
    const int64_t n = sizes[k];
    double *x = numbers(rows * n, 3, 1), *weight = numbers(n, 4, 2), *y = unwritten(rows * n), *scale = unwritten(rows * n);
    for (int64_t i = 0; i < n; i++)
      x[i] *= 1e-3; /* where eps matters */
    x[rows * n - 1] = 4000; /* one massive activation */
    const mr3d_rmsnorm_in in = {rows, n, 1e-6, x, weight};
    const mr3d_units fp64 = mr3d_tier_units(MR3D_FP64);
    mr3d_rmsnorm(&exact, &in, y);
    mr3d_rmsnorm_scale(&fp64, &in, scale);
    for (int64_t r = 0; r < rows; r++) {
      long double sum = 0;
      for (int64_t i = 0; i < n; i++)
        sum += (long double)x[r * n + i] * (long double)x[r * n + i];
      for (int64_t i = 0; i < n; i++)
        assert_near_at(r * n + i, y[r * n + i], (double)((long double)x[r * n + i] / sqrtl(sum / (long double)n + 1e-6L) * (long double)weight[i]), scale[r * n + i]);
    }
    free(x);
    free(weight);
    free(y);
    free(scale);
  }
}

static void float_loops_stay_within_the_scale_and_habits_of_other_models_do_not(void **state) {
  (void)state;
  enum { ROWS = 60, WIDTH = 896, COUNT = ROWS * WIDTH };
  double *x = numbers(COUNT, 2, 3), *weight = numbers(WIDTH, 2, 4), *reference = unwritten(COUNT), *scale = unwritten(COUNT), *y = unwritten(COUNT);
  double *plus_one = unwritten(COUNT), *wide_eps = unwritten(COUNT);
  for (int i = 0; i < COUNT; i++)
    x[i] = (float)(i < WIDTH ? x[i] * 1e-3 : x[i]);
  for (int i = 0; i < WIDTH; i++)
    weight[i] = (float)weight[i];
  const mr3d_rmsnorm_in in = {ROWS, WIDTH, 1e-6, x, weight};
  const mr3d_units fp32 = mr3d_tier_units(MR3D_FP32);
  mr3d_rmsnorm(&exact, &in, reference);
  mr3d_rmsnorm_scale(&fp32, &in, scale);
  for (int r = 0; r < ROWS; r++) {
    float sum = 0;
    for (int i = 0; i < WIDTH; i++)
      sum += (float)x[r * WIDTH + i] * (float)x[r * WIDTH + i];
    for (int i = 0; i < WIDTH; i++) {
      const float normed = (float)x[r * WIDTH + i] * (1 / sqrtf(sum / WIDTH + 1e-6F));
      y[r * WIDTH + i] = (double)(normed * (float)weight[i]);
      plus_one[r * WIDTH + i] = (double)(normed * (1 + (float)weight[i]));
      wide_eps[r * WIDTH + i] = (double)((float)x[r * WIDTH + i] / sqrtf(sum / WIDTH + 1e-5F) * (float)weight[i]);
    }
  }
  const double e = worst_error(COUNT, y, reference, scale);
  assert_honest("float loops", e, 0.05);
  assert_true(worst_error(COUNT, plus_one, reference, scale) > 1000);
  assert_true(worst_error(COUNT, wide_eps, reference, scale) > 1000);
  free(x);
  free(weight);
  free(reference);
  free(scale);
  free(y);
  free(plus_one);
  free(wide_eps);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(known_vector_is_divided_by_its_root_mean_square),
      cmocka_unit_test(every_element_agrees_with_long_double),
      cmocka_unit_test(float_loops_stay_within_the_scale_and_habits_of_other_models_do_not),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
