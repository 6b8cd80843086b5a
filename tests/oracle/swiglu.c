/** The reference's own error: swiglu, silu(gate) up (spec.md section 6). */
#include "oracle.h"

/**
 * Limit 1 of the scale u ((4 + |g|) |y| + |g up|) + eta (...): exp below 1 ulp (2 u), 1 + exp, the quotient and the product one each: 5 u |y|,
 * of which the fifth is within u |g up|. Where exp(-g) leaves the range of binary64 all of y may be lost, less than exp(-700) |g up|.
 */
#define LIMIT (1 + 0x1p-40) /* second order */

static void measure(oracle_maximum *m, int64_t n, const double *gate, const double *up) {
  const mr3d_swiglu_in in = {1, n, gate, up};
  const mr3d_units fp64 = mr3d_tier_units(MR3D_FP64), fp32 = mr3d_tier_units(MR3D_FP32);
  double *y = unwritten(n), *wide = unwritten(n), *narrow = unwritten(n);
  mr3d_swiglu(&exact, &in, y);
  mr3d_swiglu_scale(&fp64, &in, wide);
  mr3d_swiglu_scale(&fp32, &in, narrow);
  mpfr_t v, e;
  mpfr_inits2(ORACLE_BITS, v, e, (mpfr_ptr)0);
  for (int64_t i = 0; i < n; i++) {
    mpfr_set_d(e, -gate[i], MPFR_RNDN);
    mpfr_exp(e, e, MPFR_RNDN);
    mpfr_add_si(e, e, 1, MPFR_RNDN);
    mpfr_set_d(v, gate[i], MPFR_RNDN);
    mpfr_div(v, v, e, MPFR_RNDN);
    mpfr_mul_d(v, v, up[i], MPFR_RNDN);
    oracle_add(m, y[i], v, wide[i], narrow[i], fabs(mpfr_get_d(v, MPFR_RNDN)));
  }
  mpfr_clears(v, e, (mpfr_ptr)0);
  free(y);
  free(wide);
  free(narrow);
}

enum { N = 4864 };

static void of(const char *inputs, double *gate) {
  oracle_maximum m = {"swiglu", inputs};
  double *up = drawn_normal("swiglu/up", N, 2);
  measure(&m, N, gate, up);
  assert_oracle(&m, LIMIT);
  free(gate);
  free(up);
}

static void canonical(void **state) {
  (void)state;
  of("canonical", drawn_normal("swiglu/canonical", N, 3));
}
static void large(void **state) {
  (void)state;
  of("large", drawn_uniform("swiglu/large", N, -700, 700));
}
static void overflowing_exponential(void **state) {
  (void)state;
  of("exp(-g) near overflow", drawn_uniform("swiglu/overflow", N, -760, -700));
}
static void denormal(void **state) {
  (void)state;
  of("denormal", drawn_denormal("swiglu/denormal", N));
}
static void random_gates(void **state) {
  (void)state;
  of("random", drawn_heavy("swiglu/random", N, 20));
}

int main(void) {
  /* nothing cancels: 1 + exp is a sum of positive numbers */
  const struct CMUnitTest tests[] = {cmocka_unit_test(canonical), cmocka_unit_test(large), cmocka_unit_test(overflowing_exponential),
                                     cmocka_unit_test(denormal), cmocka_unit_test(random_gates)};
  return cmocka_run_group_tests(tests, NULL, NULL);
}
