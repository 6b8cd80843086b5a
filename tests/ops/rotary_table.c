/** The cos/sin table of positions (spec.md section 3.1). */
#include "ops_test.h"

static void table(int64_t P, int64_t D, double theta, const int64_t *positions, double *c, double *s) { mr3d_rotary_table(&exact, P, D, theta, positions, c, s); }

static void first_frequency_is_one_radian_a_position_and_the_table_repeats(void **state) {
  (void)state;
  enum { P = 5, D = 64 };
  const int64_t positions[P] = {0, 1, 2, 786, 32767};
  double c[P * D], s[P * D];
  table(P, D, 1e6, positions, c, s);
  for (int p = 0; p < P; p++) {
    assert_true(c[p * D] == cos((double)positions[p]) && s[p * D] == sin((double)positions[p]));
    for (int j = 0; j < D; j++)
      assert_true(c[p * D + j] == c[p * D + j % 32] && s[p * D + j] == s[p * D + j % 32]);
  }
  for (int j = 0; j < D; j++)
    assert_true(c[j] == 1 && s[j] == 0);
}

static void angles_agree_with_long_double_at_every_size(void **state) {
  (void)state;
  const int64_t sizes[] = {2, 16, 32, 64, 80, 128}, positions[] = {3, 231, 786, 4095, 32767};
  const double thetas[] = {1e4, 1e6, 1.5};
  for (size_t k = 0; k < 18; k++) {
    const int64_t D = sizes[k % 6];
    const double theta = thetas[k / 6];
    double *c = unwritten(5 * D), *s = unwritten(5 * D);
    table(5, D, theta, positions, c, s);
    for (int64_t p = 0; p < 5; p++)
      for (int64_t j = 0; j < D; j++) {
        const long double angle = (long double)positions[p] * expl(-2.0L * (long double)(j % (D / 2)) / (long double)D * logl((long double)theta));
        /* exponent, pow and product: three roundings of the angle; one of the function */
        const double bound = (3.5 + fabs(log(theta))) * 0x1p-53 * (double)angle + 0x1p-52;
        assert_near_at(j, c[p * D + j], (double)cosl(angle), bound);
        assert_near_at(j, s[p * D + j], (double)sinl(angle), bound);
      }
    free(c);
    free(s);
  }
}

static void angle_is_the_position_times_pow_rounded_once(void **state) {
  (void)state;
  enum { D = 128 };
  const int64_t positions[1] = {787};
  double c[D], s[D];
  table(1, D, 1e6, positions, c, s);
  for (int j = 0; j < D / 2; j++)
    assert_true(c[j] == cos(787 * pow(1e6, -2.0 * j / D)) && s[j] == sin(787 * pow(1e6, -2.0 * j / D)));
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(first_frequency_is_one_radian_a_position_and_the_table_repeats),
      cmocka_unit_test(angles_agree_with_long_double_at_every_size),
      cmocka_unit_test(angle_is_the_position_times_pow_rounded_once),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
