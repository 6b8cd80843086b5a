/** GELU, the exact one (encoders.md). */
#include "mr3d/encoders.h"
#include "ops_test.h"

static double gelu(double x) {
  double y;
  mr3d_gelu(&exact, 1, 1, &x, &y);
  return y;
}

static void known_values(void **state) {
  (void)state;
  assert_true(gelu(0) == 0);
  assert_near(gelu(1), 0.84134474606854294859, 2e-16);   /* Phi(1) */
  assert_near(gelu(-1), -0.15865525393145705141, 1e-16); /* -Phi(-1) */
  assert_near(gelu(2), 2 * 0.97724986805182079280, 4e-16);
  assert_true(gelu(40) == 40);
}

/** The normal distribution in long double without erf: a series (Marsaglia) near 0, a continued fraction (Laplace) in the left tail. */
static long double phi(long double x) {
  const long double density = expl(-x * x / 2) * 0.398942280401432677939946L;
  if (x < -3) {
    long double fraction = -x;
    for (int k = 200; k > 0; k--)
      fraction = -x + k / fraction;
    return density / fraction;
  }
  long double sum = x, term = x;
  for (int k = 3; k < 400; k += 2)
    sum += term *= x * x / k;
  return 0.5L + density * sum;
}

static void it_is_x_times_the_normal_distribution_with_all_digits_on_both_sides(void **state) {
  (void)state;
  for (double x = -9; x <= 6; x += 0.37) {
    const double expected = (double)((long double)x * phi((long double)x));
    assert_near(gelu(x), expected, 1e-13 * fabs(expected));
  }
}

static void the_tanh_formula_is_another_function(void **state) {
  (void)state;
  const double x = 1.5, other = 0.5 * x * (1 + tanh(sqrt(2 / 3.14159265358979323846) * (x + 0.044715 * x * x * x)));
  assert_true(fabs(gelu(x) - other) > 1e-5);
}

static void in_place_is_the_same(void **state) {
  (void)state;
  double *x = numbers(60, 3, 1), *y = unwritten(60);
  mr3d_gelu(&exact, 6, 10, x, y);
  mr3d_gelu(&exact, 6, 10, x, x);
  assert_same_bits(x, y, 60);
  free(x);
  free(y);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(known_values),
      cmocka_unit_test(it_is_x_times_the_normal_distribution_with_all_digits_on_both_sides),
      cmocka_unit_test(the_tanh_formula_is_another_function),
      cmocka_unit_test(in_place_is_the_same),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
