/** The reference's own error: rope1d (spec.md section 3.1). */
#include "oracle.h"

/**
 * Limit (2 + sqrt(2)) / 3 = 1.14. Angle: pow below 1 ulp (2 u), its exponent -2j/D rounded where D is no power of two (u t, t = -ln inv_freq), the product
 * p inv_freq (u): (3 + t) u |theta| where the scale grants (4 + 2t). Rotation: cos and sin below 1 ulp (u each, at most sqrt(2) u r),
 * two products (u r together) and their sum (u r): 3.42 u r where it grants 3 (fp64 has no output
 * term). Two products below 2^-1022 lose 2^-1075 each: eta.
 */
#define LIMIT 1.14

static void measure(oracle_maximum *m, const mr3d_rope1d_in *in) {
  const int64_t D = in->D, half = D / 2, n = in->B * in->heads * in->q * D;
  const mr3d_units fp64 = mr3d_tier_units(MR3D_FP64), fp32 = mr3d_tier_units(MR3D_FP32);
  double *y = unwritten(n), *wide = unwritten(n), *narrow = unwritten(n);
  mr3d_rope1d(&exact, in, y);
  mr3d_rope1d_scale(&fp64, in, wide, NULL);
  mr3d_rope1d_scale(&fp32, in, narrow, NULL);
  mpfr_t theta, exponent, angle, c, s, y0, y1;
  mpfr_inits2(ORACLE_BITS, theta, exponent, angle, c, s, y0, y1, (mpfr_ptr)0);
  mpfr_set_d(theta, in->rope_theta, MPFR_RNDN);
  for (int64_t b = 0; b < in->B; b++)
    for (int64_t t = 0; t < in->q; t++)
      for (int64_t j = 0; j < half; j++) {
        mpfr_set_si(exponent, (long)(-2 * j), MPFR_RNDN);
        mpfr_div_si(exponent, exponent, (long)D, MPFR_RNDN);
        mpfr_pow(angle, theta, exponent, MPFR_RNDN);
        mpfr_mul_si(angle, angle, (long)in->position_ids[(in->position_rows == 1 ? 0 : b) * in->q + t], MPFR_RNDN);
        mpfr_sin_cos(s, c, angle, MPFR_RNDN);
        for (int64_t h = 0; h < in->heads; h++) {
          const int64_t i = ((b * in->heads + h) * in->q + t) * D + j;
          const double r = oracle_norm(in->x[i], in->x[i + half]);
          oracle_turn(y0, y1, in->x[i], in->x[i + half], c, s);
          oracle_add(m, y[i], y0, wide[i], narrow[i], r);
          oracle_add(m, y[i + half], y1, wide[i + half], narrow[i + half], r);
        }
      }
  mpfr_clears(theta, exponent, angle, c, s, y0, y1, (mpfr_ptr)0);
  free(y);
  free(wide);
  free(narrow);
}

static void canonical(void **state) {
  (void)state;
  oracle_maximum m = {"rope1d", "canonical"};
  double *x = drawn_normal("rope1d/canonical", 14 * 40 * 64, 1);
  int64_t positions[40];
  for (int t = 0; t < 40; t++)
    positions[t] = t < 39 ? t * 20 : 786;
  measure(&m, &(mr3d_rope1d_in){1, 14, 40, 64, 1e6, x, 1, positions});
  assert_oracle(&m, LIMIT);
  free(x);
}

static void large_angle(void **state) {
  (void)state;
  oracle_maximum m = {"rope1d", "large-angle"};
  double *x = drawn_normal("rope1d/large-angle", 2 * 60 * 64, 1);
  int64_t *positions = drawn_whole("rope1d/large-angle/positions", 60, 32768, 1000000);
  positions[0] = 1000000;
  measure(&m, &(mr3d_rope1d_in){1, 2, 60, 64, 1e6, x, 1, positions});
  measure(&m, &(mr3d_rope1d_in){1, 2, 60, 64, 1e4, x, 1, positions});
  assert_oracle(&m, LIMIT);
  free(x);
  free(positions);
}

static void denormal(void **state) {
  (void)state;
  oracle_maximum m = {"rope1d", "denormal"};
  double *x = drawn_denormal("rope1d/denormal", 2 * 30 * 64);
  int64_t *positions = drawn_whole("rope1d/denormal/positions", 30, 0, 787);
  measure(&m, &(mr3d_rope1d_in){1, 2, 30, 64, 1e6, x, 1, positions});
  assert_oracle(&m, LIMIT);
  free(x);
  free(positions);
}

/** One half of each pair cancels: x = (sin, cos) of the angle, so x0 cos - x1 sin is what roundings left. */
static void cancelling(void **state) {
  (void)state;
  enum { Q = 60, D = 64 };
  oracle_maximum m = {"rope1d", "cancelling"};
  double x[Q * D];
  int64_t *positions = drawn_whole("rope1d/cancelling/positions", Q, 0, 100000);
  for (int t = 0; t < Q; t++)
    for (int j = 0; j < D / 2; j++) {
      const double angle = (double)positions[t] * pow(1e6, -2.0 * j / D);
      x[t * D + j] = sin(angle);
      x[t * D + j + D / 2] = cos(angle);
    }
  measure(&m, &(mr3d_rope1d_in){1, 1, Q, D, 1e6, x, 1, positions});
  assert_oracle(&m, LIMIT);
  free(positions);
}

static void random_sizes(void **state) {
  (void)state;
  oracle_maximum m = {"rope1d", "random"};
  const int64_t sizes[] = {2, 24, 48, 80, 96, 128};
  const double thetas[] = {10000, 1e6, 5e5, 123.25, 1.5, 1e9};
  for (int k = 0; k < 6; k++) {
    double *x = drawn_heavy("rope1d/random", 2 * 2 * 10 * sizes[k], 30);
    int64_t *positions = drawn_whole("rope1d/random/positions", 20, 0, 131072);
    measure(&m, &(mr3d_rope1d_in){2, 2, 10, sizes[k], thetas[k], x, 2, positions});
    free(x);
    free(positions);
  }
  assert_oracle(&m, LIMIT);
}

int main(void) {
  const struct CMUnitTest tests[] = {cmocka_unit_test(canonical), cmocka_unit_test(large_angle), cmocka_unit_test(denormal), cmocka_unit_test(cancelling),
                                     cmocka_unit_test(random_sizes)};
  return cmocka_run_group_tests(tests, NULL, NULL);
}
