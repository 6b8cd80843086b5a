/** The reference's own error: rmsnorm (spec.md section 6). */
#include "oracle.h"

/**
 * The scale is (4 + sqrt(n)) u |y| (fp64 has no output term). Sum of n squares: lambda sqrt(n) u (Higham and Mary, docs/tolerance.md), of which the root keeps half; the
 * squares, the mean and eps one rounding each, also halved (1.5), root, quotient and product one each (3): 4.5 u. With lambda = 4 (missed
 * once in 1500 sums) at most 2.
 */
#define LIMIT 2.0
/** Where one early square dwarfs the others their roundings have one sign: no more than (n - 1)/2 + 4.5 roundings, the worst case. */
#define LIMIT_MASSIVE(n) ((((n) - 1) / 2.0 + 4.5) / (4 + sqrt(n)))

static void measure(oracle_maximum *m, int64_t rows, int64_t n, double eps, const double *x, const double *weight) {
  const mr3d_rmsnorm_in in = {rows, n, eps, x, weight};
  const mr3d_units fp64 = mr3d_tier_units(MR3D_FP64), fp32 = mr3d_tier_units(MR3D_FP32);
  double *y = unwritten(rows * n), *wide = unwritten(rows * n), *narrow = unwritten(rows * n);
  mr3d_rmsnorm(&exact, &in, y);
  mr3d_rmsnorm_scale(&fp64, &in, wide);
  mr3d_rmsnorm_scale(&fp32, &in, narrow);
  mpfr_t root, t;
  mpfr_inits2(ORACLE_BITS, root, t, (mpfr_ptr)0);
  for (int64_t row = 0; row < rows; row++) {
    mpfr_set_zero(root, 1);
    for (int64_t i = 0; i < n; i++) {
      mpfr_set_d(t, x[row * n + i], MPFR_RNDN);
      mpfr_sqr(t, t, MPFR_RNDN);
      mpfr_add(root, root, t, MPFR_RNDN);
    }
    mpfr_div_si(root, root, (long)n, MPFR_RNDN);
    mpfr_add_d(root, root, eps, MPFR_RNDN);
    mpfr_sqrt(root, root, MPFR_RNDN);
    for (int64_t i = 0; i < n; i++) {
      mpfr_set_d(t, x[row * n + i], MPFR_RNDN);
      mpfr_div(t, t, root, MPFR_RNDN);
      mpfr_mul_d(t, t, weight[i], MPFR_RNDN);
      oracle_add(m, y[row * n + i], t, wide[row * n + i], narrow[row * n + i], fabs(mpfr_get_d(t, MPFR_RNDN)));
    }
  }
  mpfr_clears(root, t, (mpfr_ptr)0);
  free(y);
  free(wide);
  free(narrow);
}

enum { N = 896, ROWS = 20 };

static void canonical(void **state) {
  (void)state;
  oracle_maximum m = {"rmsnorm", "canonical"};
  double *x = drawn_normal("rmsnorm/canonical", ROWS * N, 1), *w = drawn_uniform("rmsnorm/weight", N, 0.2, 4);
  measure(&m, ROWS, N, 1e-6, x, w);
  assert_oracle(&m, LIMIT);
  free(x);
  free(w);
}

static void massive(void **state) {
  (void)state;
  oracle_maximum m = {"rmsnorm", "massive"};
  double *x = drawn_normal("rmsnorm/massive", ROWS * N, 1), *w = drawn_uniform("rmsnorm/weight", N, 0.2, 4);
  for (int row = 0; row < ROWS; row++)
    x[row * N + row % 4] = ldexp(1, 20 + row % 10); /* squares beyond 2^40 beside 1, up to 2^58 */
  measure(&m, ROWS, N, 1e-6, x, w);
  assert_oracle(&m, LIMIT_MASSIVE(N));
  free(x);
  free(w);
}

static void denormal(void **state) {
  (void)state;
  oracle_maximum m = {"rmsnorm", "denormal"};
  double *x = drawn_denormal("rmsnorm/denormal", ROWS * N), *w = drawn_normal("rmsnorm/denormal/weight", N, 1);
  measure(&m, ROWS, N, 1e-6, x, w);
  measure(&m, ROWS, N, 1e6, x, w); /* results below the smallest normal number */
  assert_oracle(&m, LIMIT);
  free(x);
  free(w);
}

static void random_sizes(void **state) {
  (void)state;
  oracle_maximum m = {"rmsnorm", "random"};
  const int64_t sizes[] = {1, 2, 3, 17, 100, 1000};
  const double eps[] = {1e-6, 1e-5, 1e-12, 0.5, 1e-6, 1e-3};
  for (int k = 0; k < 6; k++) {
    double *x = drawn_heavy("rmsnorm/random", 20 * sizes[k], pow(10, k - 4)), *w = drawn_heavy("rmsnorm/random/weight", sizes[k], 2);
    measure(&m, 20, sizes[k], eps[k], x, w);
    free(x);
    free(w);
  }
  assert_oracle(&m, LIMIT);
}

int main(void) {
  /* squares do not cancel */
  const struct CMUnitTest tests[] = {cmocka_unit_test(canonical), cmocka_unit_test(massive), cmocka_unit_test(denormal), cmocka_unit_test(random_sizes)};
  return cmocka_run_group_tests(tests, NULL, NULL);
}
