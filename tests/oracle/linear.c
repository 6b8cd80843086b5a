/** The reference's own error: linear (spec.md section 6). */
#include "oracle.h"

/**
 * Limit 2 of the scale sqrt(K) u (sum of |x w| + |b|): K partial sums of one sign stray by sigma = sqrt(K)/3 u sum of |x w| (docs/tolerance.md,
 * "Scores of one sign"), 5 sigma are 1.67 (missed once in 1.7 million elements); at K = 1 a product and a bias are the 2.
 */
#define LIMIT 2.0
/** Where one early term dwarfs the others their roundings have one sign: no more than K products and additions, the worst case. */
#define LIMIT_MASSIVE(K) (((K) + 1) / sqrt(K))

static void measure(oracle_maximum *m, int64_t rows, int64_t K, int64_t out, const double *x, const double *weight, const double *bias) {
  const mr3d_linear_in in = {rows, K, out, x, weight, bias};
  const mr3d_units fp64 = mr3d_tier_units(MR3D_FP64), fp32 = mr3d_tier_units(MR3D_FP32);
  double *y = unwritten(rows * out), *wide = unwritten(rows * out), *narrow = unwritten(rows * out);
  mr3d_linear(&exact, &in, y);
  mr3d_linear_scale(&fp64, &in, wide);
  mr3d_linear_scale(&fp32, &in, narrow);
  mpfr_t sum, t;
  mpfr_inits2(ORACLE_BITS, sum, t, (mpfr_ptr)0);
  for (int64_t r = 0; r < rows; r++)
    for (int64_t o = 0; o < out; o++) {
      double size = bias != NULL ? fabs(bias[o]) : 0;
      mpfr_set_d(sum, bias != NULL ? bias[o] : 0, MPFR_RNDN);
      for (int64_t k = 0; k < K; k++) {
        mpfr_set_d(t, x[r * K + k], MPFR_RNDN);
        mpfr_mul_d(t, t, weight[o * K + k], MPFR_RNDN);
        mpfr_add(sum, sum, t, MPFR_RNDN);
        size += fabs(x[r * K + k] * weight[o * K + k]);
      }
      oracle_add(m, y[r * out + o], sum, wide[r * out + o], narrow[r * out + o], size);
    }
  mpfr_clears(sum, t, (mpfr_ptr)0);
  free(y);
  free(wide);
  free(narrow);
}

enum { K = 896, OUT = 48, ROWS = 4 };

/** The canonical product; `change` edits its inputs. */
static void changed(const char *inputs, void (*change)(double *x, double *w), double limit) {
  oracle_maximum m = {"linear", inputs};
  double *x = drawn_normal("linear/x", ROWS * K, 1), *w = drawn_normal("linear/weight", OUT * K, 0.02), *b = drawn_heavy("linear/bias", OUT, 3);
  if (change != NULL)
    change(x, w);
  measure(&m, ROWS, K, OUT, x, w, b);
  measure(&m, ROWS, K, OUT, x, w, NULL);
  assert_oracle(&m, limit);
  free(x);
  free(w);
  free(b);
}

static void canonical(void **state) {
  (void)state;
  changed("canonical", NULL, LIMIT);
}

static void make_one_sign(double *x, double *w) {
  for (int i = 0; i < ROWS * K; i++)
    x[i] = fabs(x[i]);
  for (int i = 0; i < OUT * K; i++)
    w[i] = fabs(w[i]);
}
static void one_sign(void **state) {
  (void)state;
  changed("one sign", make_one_sign, LIMIT);
}

/** The second half takes the first back but for the last bits. */
static void make_cancelling(double *x, double *w) {
  for (int r = 0; r < ROWS; r++)
    for (int k = 0; k < K / 2; k++)
      x[r * K + K / 2 + k] = -x[r * K + k] * (1 + 0x1p-50);
  for (int o = 0; o < OUT; o++)
    memcpy(w + o * K + K / 2, w + o * K, K / 2 * sizeof *w);
}
static void cancelling(void **state) {
  (void)state;
  changed("cancelling", make_cancelling, LIMIT);
}

static void make_massive(double *x, double *w) {
  make_one_sign(x, w);
  for (int r = 0; r < ROWS; r++)
    x[r * K + r] = ldexp(1, 20 + 8 * r);
}
static void massive(void **state) {
  (void)state;
  changed("massive", make_massive, LIMIT_MASSIVE(K));
}

/** Below 2^-1022 each product may lose 2^-1075, half of the eta_term that the scale grants for it. */
static void denormal(void **state) {
  (void)state;
  oracle_maximum m = {"linear", "denormal"};
  double *x = drawn_denormal("linear/denormal", ROWS * K), *w = drawn_normal("linear/weight", OUT * K, 0.02), *large = drawn_normal("linear/large", OUT * K, 1000);
  measure(&m, ROWS, K, OUT, x, large, NULL);
  assert_oracle(&m, LIMIT);
  m = (oracle_maximum){"linear", "denormal products"};
  measure(&m, ROWS, K, OUT, x, w, NULL);
  assert_oracle(&m, LIMIT);
  free(x);
  free(w);
  free(large);
}

static void random_sizes(void **state) {
  (void)state;
  oracle_maximum m = {"linear", "random"};
  const int64_t sizes[] = {1, 2, 5, 64, 333, 2000};
  for (int k = 0; k < 6; k++) {
    double *x = drawn_heavy("linear/random", 5 * sizes[k], 40), *w = drawn_heavy("linear/random/weight", 7 * sizes[k], 1), *b = drawn_heavy("linear/random/bias", 7, 50);
    measure(&m, 5, sizes[k], 7, x, w, b);
    free(x);
    free(w);
    free(b);
  }
  assert_oracle(&m, LIMIT);
}

int main(void) {
  const struct CMUnitTest tests[] = {cmocka_unit_test(canonical), cmocka_unit_test(one_sign), cmocka_unit_test(cancelling), cmocka_unit_test(massive),
                                     cmocka_unit_test(denormal),  cmocka_unit_test(random_sizes)};
  return cmocka_run_group_tests(tests, NULL, NULL);
}
