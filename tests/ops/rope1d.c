/** One-dimensional rotation of text tokens (spec.md section 3.1, pitfalls pairing and decode-rope). */
#include "ops_test.h"

static void quarter_turn_sends_the_first_half_to_the_second(void **state) {
  (void)state;
  const double x[4] = {1, 10, 0, 0};
  const int64_t position[1] = {1};
  double y[4];
  mr3d_rope1d(&exact, &(mr3d_rope1d_in){1, 1, 1, 4, 100, x, 1, position}, y);
  /* D = 4, theta = 100: dimensions 0 and 2 turn by 1 rad, dimensions 1 and 3 by 0.1 rad */
  assert_near(y[0], cos(1), 1e-15);
  assert_near(y[2], sin(1), 1e-15);
  assert_near(y[1], 10 * cos(0.1), 1e-14);
  assert_near(y[3], 10 * sin(0.1), 1e-14);
}

static void every_element_agrees_with_a_complex_product_in_long_double(void **state) {
  (void)state;
  const int64_t B = 2, heads = 3, q = 7, sizes[] = {32, 64, 128};
  for (int k = 0; k < 3; k++) {
    const int64_t D = sizes[k], half = D / 2, n = B * heads * q * D;
    const int64_t positions[14] = {0, 1, 2, 3, 4, 5, 6, 786, 787, 5, 5, 4000, 1, 32767};
    double *x = numbers(n, 3, 11 + (uint64_t)k), *y = unwritten(n);
    mr3d_rope1d(&exact, &(mr3d_rope1d_in){B, heads, q, D, 1e6, x, 2, positions}, y);
    for (int64_t i = 0; i < n; i += D)
      for (int64_t j = 0; j < half; j++) {
        const int64_t b = i / D / q / heads, t = i / D % q;
        const long double angle = (long double)positions[b * q + t] * powl(1e6L, -2.0L * (long double)j / (long double)D);
        const long double re = (long double)x[i + j] * cosl(angle) - (long double)x[i + j + half] * sinl(angle);
        const long double im = (long double)x[i + j + half] * cosl(angle) + (long double)x[i + j] * sinl(angle);
        const double bound = (20 * (double)angle + 8) * 0x1p-53 * 6;
        assert_near_at(i + j, y[i + j], (double)re, bound);
        assert_near_at(i + j, y[i + j + half], (double)im, bound);
      }
    free(x);
    free(y);
  }
}

static void one_row_of_positions_serves_all_samples(void **state) {
  (void)state;
  const int64_t one[] = {5, 900, 2}, both[] = {5, 900, 2, 5, 900, 2};
  double *x = numbers(2 * 2 * 3 * 8, 1, 3), *a = unwritten(96), *b = unwritten(96);
  mr3d_rope1d(&exact, &(mr3d_rope1d_in){2, 2, 3, 8, 1e6, x, 1, one}, a);
  mr3d_rope1d(&exact, &(mr3d_rope1d_in){2, 2, 3, 8, 1e6, x, 2, both}, b);
  assert_same_bits(a, b, 96);
  free(x);
  free(a);
  free(b);
}

static double score(const double *q, const double *k, int64_t p, int64_t r) {
  double a[64], b[64], sum = 0;
  mr3d_rope1d(&exact, &(mr3d_rope1d_in){1, 1, 1, 64, 1e6, q, 1, &p}, a);
  mr3d_rope1d(&exact, &(mr3d_rope1d_in){1, 1, 1, 64, 1e6, k, 1, &r}, b);
  for (int j = 0; j < 64; j++)
    sum += a[j] * b[j];
  return sum;
}

static void rotation_keeps_norms_and_scores_depend_on_relative_position_only(void **state) {
  (void)state;
  double *q = numbers(64, 1, 5), *k = numbers(64, 1, 6), norm = 0;
  for (int j = 0; j < 64; j++)
    norm += q[j] * q[j];
  assert_near(score(q, q, 786, 786), norm, 1e-13);
  assert_near(score(q, k, 787, 780), score(q, k, 107, 100), 1e-11);
  assert_true(fabs(score(q, k, 787, 780) - score(q, k, 787, 779)) > 1e-3);
  free(q);
  free(k);
}

static void float_loops_stay_within_the_scale_and_a_wrong_pairing_does_not(void **state) {
  (void)state;
  enum { Q = 200, D = 64, N = Q * D };
  int64_t positions[Q];
  for (int t = 0; t < Q; t++)
    positions[t] = 41 * t;
  double *x = numbers(N, 3, 9), *reference = unwritten(N), *scale = unwritten(N), *turn = unwritten(N), *y = unwritten(N), *adjacent = unwritten(N);
  for (int i = 0; i < N; i++)
    x[i] = (float)x[i];
  const mr3d_rope1d_in in = {1, 1, Q, D, 1e6, x, 1, positions};
  const mr3d_units fp32 = mr3d_tier_units(MR3D_FP32);
  mr3d_rope1d(&exact, &in, reference);
  mr3d_rope1d_scale(&fp32, &in, scale, turn);
  for (int t = 0; t < Q; t++)
    for (int j = 0; j < D; j++) {
      const float angle = (float)positions[t] * (1.0F / powf(1e6F, (float)(2 * (j % 32)) / (float)D));
      const float other = j < 32 ? -(float)x[t * D + j + 32] : (float)x[t * D + j - 32];
      y[t * D + j] = (double)((float)x[t * D + j] * cosf(angle) + other * sinf(angle));
      const float neighbour = j % 2 == 0 ? -(float)x[t * D + j + 1] : (float)x[t * D + j - 1];
      adjacent[t * D + j] = (double)((float)x[t * D + j] * cosf(angle) + neighbour * sinf(angle));
    }
  const double e = worst_error(N, y, reference, scale);
  assert_honest("float loops", e, 0.1);
  assert_true(worst_error(N, adjacent, reference, scale) > 1000);
  free(x);
  free(reference);
  free(scale);
  free(turn);
  free(y);
  free(adjacent);
}

static void turn_is_the_derivative_to_the_angle(void **state) {
  (void)state;
  /* D = 2 has one frequency, 1 rad a position: advancing by one position turns by 1 rad */
  const double x[2] = {0.7, -0.4};
  const int64_t p[1] = {12};
  double y[2], scale[2], turn[2];
  const mr3d_rope1d_in in = {1, 1, 1, 2, 100, x, 1, p};
  const mr3d_units fp64 = mr3d_tier_units(MR3D_FP64);
  mr3d_rope1d(&exact, &in, y);
  mr3d_rope1d_scale(&fp64, &in, scale, turn);
  const double step = 1e-6;
  assert_near(turn[0], (x[0] * cos(12 + step) - x[1] * sin(12 + step) - y[0]) / step, 1e-5);
  assert_near(turn[1], (x[1] * cos(12 + step) + x[0] * sin(12 + step) - y[1]) / step, 1e-5);
}

static void zero_vector_demands_zeros_exactly(void **state) {
  (void)state;
  const double x[4] = {0, 1, 0, 0};
  const int64_t p[1] = {3};
  double scale[4];
  const mr3d_units bf16 = mr3d_tier_units(MR3D_BF16_TIER);
  mr3d_rope1d_scale(&bf16, &(mr3d_rope1d_in){1, 1, 1, 4, 100, x, 1, p}, scale, NULL);
  assert_true(scale[0] == 0 && scale[2] == 0 && scale[1] > 0x1p-8 && scale[3] > 0x1p-8);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(quarter_turn_sends_the_first_half_to_the_second),
      cmocka_unit_test(every_element_agrees_with_a_complex_product_in_long_double),
      cmocka_unit_test(one_row_of_positions_serves_all_samples),
      cmocka_unit_test(rotation_keeps_norms_and_scores_depend_on_relative_position_only),
      cmocka_unit_test(float_loops_stay_within_the_scale_and_a_wrong_pairing_does_not),
      cmocka_unit_test(turn_is_the_derivative_to_the_angle),
      cmocka_unit_test(zero_vector_demands_zeros_exactly),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
