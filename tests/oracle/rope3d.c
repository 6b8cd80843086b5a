/** The reference's own error: rope3d (spec.md section 3.2, adjacent pairs). */
#include "oracle.h"

/**
 * Limit 2/3 of the scale 3 u r + eta (fp64 has no output term): two products (u r together, by Cauchy and |cis| = 1) and their sum (u r). Where products lie below
 * 2^-1022 they lose 2^-1075 each, eta together, but then their sum is exact, so there the limit is 1.
 */
#define LIMIT (2.0 / 3 * (1 + 0x1p-40)) /* second order, and cis rounded */
#define LIMIT_DENORMAL 1.0

static void measure(oracle_maximum *m, const mr3d_rope3d_in *in) {
  const int64_t Ds = in->Ds, F = Ds / 2, n = in->B * in->heads * in->N * Ds;
  const mr3d_units fp64 = mr3d_tier_units(MR3D_FP64), fp32 = mr3d_tier_units(MR3D_FP32);
  double *y = unwritten(n), *wide = unwritten(n), *narrow = unwritten(n);
  mr3d_rope3d(&exact, in, y);
  mr3d_rope3d_scale(&fp64, in, wide, NULL);
  mr3d_rope3d_scale(&fp32, in, narrow, NULL);
  mpfr_t c, s, y0, y1;
  mpfr_inits2(ORACLE_BITS, c, s, y0, y1, (mpfr_ptr)0);
  for (int64_t row = 0; row < in->B * in->heads * in->N; row++)
    for (int64_t f = 0; f < F; f++) {
      const int64_t i = row * Ds + 2 * f, cis = row % (in->heads * in->N) * F + f;
      const double r = oracle_norm(in->x[i], in->x[i + 1]);
      mpfr_set_d(c, in->cos_table[cis], MPFR_RNDN);
      mpfr_set_d(s, in->sin_table[cis], MPFR_RNDN);
      oracle_turn(y0, y1, in->x[i], in->x[i + 1], c, s);
      oracle_add(m, y[i], y0, wide[i], narrow[i], r);
      oracle_add(m, y[i + 1], y1, wide[i + 1], narrow[i + 1], r);
    }
  mpfr_clears(c, s, y0, y1, (mpfr_ptr)0);
  free(y);
  free(wide);
  free(narrow);
}

/** Tables of angles up to `angle`; x NULL: pairs (sin, cos), whose first component cancels. */
static void turned(oracle_maximum *m, int64_t B, int64_t heads, int64_t N, int64_t Ds, double angle, const double *x) {
  const int64_t n = heads * N * Ds / 2;
  double *c = drawn_uniform("rope3d/angle", n, -angle, angle), *s = unwritten(n), *pairs = unwritten(2 * n);
  for (int64_t i = 0; i < n; i++) {
    s[i] = sin(c[i]);
    c[i] = cos(c[i]);
    pairs[2 * i] = s[i];
    pairs[2 * i + 1] = c[i];
  }
  measure(m, &(mr3d_rope3d_in){B, heads, N, Ds, x != NULL ? x : pairs, c, s});
  free(c);
  free(s);
  free(pairs);
}

static void canonical(void **state) {
  (void)state;
  oracle_maximum m = {"rope3d", "canonical"};
  double *x = drawn_normal("rope3d/canonical", 14 * 60 * 32, 1);
  turned(&m, 1, 14, 60, 32, 3, x);
  assert_oracle(&m, LIMIT);
  free(x);
}

static void large_angle(void **state) {
  (void)state;
  oracle_maximum m = {"rope3d", "large-angle"};
  double *x = drawn_normal("rope3d/large-angle", 4 * 60 * 32, 1);
  turned(&m, 1, 4, 60, 32, 1e6, x);
  assert_oracle(&m, LIMIT);
  free(x);
}

static void denormal(void **state) {
  (void)state;
  oracle_maximum m = {"rope3d", "denormal"};
  double *x = drawn_denormal("rope3d/denormal", 4 * 60 * 32);
  turned(&m, 1, 4, 60, 32, 3, x);
  assert_oracle(&m, LIMIT_DENORMAL);
  free(x);
}

static void cancelling(void **state) {
  (void)state;
  oracle_maximum m = {"rope3d", "cancelling"};
  turned(&m, 1, 4, 60, 32, 3, NULL);
  assert_oracle(&m, LIMIT);
}

static void random_sizes(void **state) {
  (void)state;
  oracle_maximum m = {"rope3d", "random"};
  const int64_t sizes[] = {2, 6, 24, 64, 96};
  for (int k = 0; k < 5; k++) {
    double *x = drawn_heavy("rope3d/random", 2 * 3 * 30 * sizes[k], 30);
    turned(&m, 2, 3, 30, sizes[k], 100, x);
    free(x);
  }
  assert_oracle(&m, LIMIT);
}

int main(void) {
  const struct CMUnitTest tests[] = {cmocka_unit_test(canonical), cmocka_unit_test(large_angle), cmocka_unit_test(denormal), cmocka_unit_test(cancelling),
                                     cmocka_unit_test(random_sizes)};
  return cmocka_run_group_tests(tests, NULL, NULL);
}
