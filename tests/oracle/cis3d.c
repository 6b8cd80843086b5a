/** The reference's own error: cis3d (spec.md section 3.2). */
#include "oracle.h"

/**
 * Limit 4/3. With A = sum of |w f c|: two products a term (2 u A) and two additions of at most A (2 u A) where the scale grants 3 u A;
 * cos and sin below 1 ulp (u) where it grants 2 u and more. What a product below 2^-1022 loses vanishes beside 2 u.
 */
#define LIMIT (4.0 / 3 * (1 + 0x1p-40)) /* second order */

static void measure(oracle_maximum *m, const mr3d_cis3d_in *in) {
  const int64_t F = in->F, n = in->heads * in->N * F;
  const mr3d_units fp64 = mr3d_tier_units(MR3D_FP64), fp32 = mr3d_tier_units(MR3D_FP32);
  double *cosines = unwritten(n), *sines = unwritten(n), *wide[2] = {unwritten(n), unwritten(n)}, *narrow[2] = {unwritten(n), unwritten(n)};
  mr3d_cis3d(&exact, in, cosines, sines);
  mr3d_cis3d_scale(&fp64, in, wide[0], wide[1]);
  mr3d_cis3d_scale(&fp32, in, narrow[0], narrow[1]);
  mpfr_t angle, term, c, s;
  mpfr_inits2(ORACLE_BITS, angle, term, c, s, (mpfr_ptr)0);
  for (int64_t h = 0; h < in->heads; h++)
    for (int64_t p = 0; p < in->N; p++)
      for (int64_t f = 0; f < F; f++) {
        double size = 1;
        mpfr_set_zero(angle, 1);
        for (int64_t a = 0; a < 3; a++) {
          mpfr_set_d(term, in->freqs[((in->freq_axes == 3 ? a : 0) * in->heads + h) * F + f], MPFR_RNDN);
          mpfr_mul_d(term, term, in->axial_weights != NULL ? in->axial_weights[(h * F + f) * 3 + a] : 1, MPFR_RNDN);
          mpfr_mul_d(term, term, in->coords[p * 3 + a], MPFR_RNDN);
          size += fabs(mpfr_get_d(term, MPFR_RNDN));
          mpfr_add(angle, angle, term, MPFR_RNDN);
        }
        mpfr_sin_cos(s, c, angle, MPFR_RNDN);
        const int64_t i = (h * in->N + p) * F + f;
        oracle_add(m, cosines[i], c, wide[0][i], narrow[0][i], size);
        oracle_add(m, sines[i], s, wide[1][i], narrow[1][i], size);
      }
  mpfr_clears(angle, term, c, s, (mpfr_ptr)0);
  free(cosines);
  free(sines);
  for (int k = 0; k < 2; k++) {
    free(wide[k]);
    free(narrow[k]);
  }
}

/** Parameters as a learned model starts: 100^(-2f/32) + 0.01 normal, weights 1 + 0.01 normal. */
static void learned(oracle_maximum *m, int64_t heads, int64_t N, const double *coords) {
  double *freqs = drawn_normal("cis3d/freqs", 3 * heads * 16, 0.01), *weights = drawn_normal("cis3d/weights", heads * 16 * 3, 0.01);
  for (int64_t i = 0; i < 3 * heads * 16; i++) {
    freqs[i] += pow(100, -(double)(i % 16) / 16);
    weights[i] += 1;
  }
  measure(m, &(mr3d_cis3d_in){heads, 16, N, 3, freqs, weights, coords});
  free(freqs);
  free(weights);
}

static void canonical(void **state) {
  (void)state;
  oracle_maximum m = {"cis3d", "canonical"};
  double c[60 * 3];
  int64_t *grid = drawn_whole("cis3d/canonical", 60 * 3, 0, 79);
  for (int i = 0; i < 60 * 3; i++)
    c[i] = (double)grid[i] / 79;
  learned(&m, 14, 60, c);
  assert_oracle(&m, LIMIT);
  free(grid);
}

static void large_angle(void **state) {
  (void)state;
  oracle_maximum m = {"cis3d", "large-angle"};
  double *c = drawn_uniform("cis3d/large-angle", 60 * 3, -1e6, 1e6);
  learned(&m, 4, 60, c);
  assert_oracle(&m, LIMIT);
  free(c);
}

static void denormal(void **state) {
  (void)state;
  oracle_maximum m = {"cis3d", "denormal"};
  double *c = drawn_denormal("cis3d/denormal", 30 * 3), *freqs = drawn_denormal("cis3d/denormal/freqs", 3 * 2 * 16);
  double *large = drawn_uniform("cis3d/denormal/large", 30 * 3, -1e6, 1e6), *weights = drawn_normal("cis3d/denormal/weights", 2 * 16 * 3, 1);
  learned(&m, 2, 30, c);
  measure(&m, &(mr3d_cis3d_in){2, 16, 30, 3, freqs, weights, c});
  measure(&m, &(mr3d_cis3d_in){2, 16, 30, 3, freqs, weights, large});
  assert_oracle(&m, LIMIT);
  free(c);
  free(freqs);
  free(large);
  free(weights);
}

/** x and y cancel but for roundings of large terms, and z is small. */
static void cancelling(void **state) {
  (void)state;
  enum { H = 2, F = 16, N = 60 };
  oracle_maximum m = {"cis3d", "cancelling"};
  double *c = drawn_uniform("cis3d/cancelling", N * 3, 0, 1e5), *weights = drawn_uniform("cis3d/cancelling/weights", H * F * 3, 0.5, 1.5);
  double *freqs = drawn_uniform("cis3d/cancelling/freqs", 3 * H * F, 0.1, 1);
  for (int i = 0; i < N; i++) {
    c[i * 3 + 1] = -c[i * 3];
    c[i * 3 + 2] *= 1e-5;
  }
  for (int i = 0; i < H * F; i++)
    freqs[H * F + i] = freqs[i] * weights[i * 3] / weights[i * 3 + 1];
  measure(&m, &(mr3d_cis3d_in){H, F, N, 3, freqs, weights, c});
  assert_oracle(&m, LIMIT);
  free(c);
  free(weights);
  free(freqs);
}

static void random_parameters(void **state) {
  (void)state;
  oracle_maximum m = {"cis3d", "random"};
  double *c = drawn_heavy("cis3d/random", 50 * 3, 40), *freqs = drawn_heavy("cis3d/random/freqs", 3 * 3 * 12, 1);
  double *weights = drawn_heavy("cis3d/random/weights", 3 * 12 * 3, 2);
  measure(&m, &(mr3d_cis3d_in){3, 12, 50, 3, freqs, weights, c});
  measure(&m, &(mr3d_cis3d_in){3, 12, 50, 1, freqs, NULL, c});
  assert_oracle(&m, LIMIT);
  free(c);
  free(freqs);
  free(weights);
}

int main(void) {
  const struct CMUnitTest tests[] = {cmocka_unit_test(canonical), cmocka_unit_test(large_angle), cmocka_unit_test(denormal), cmocka_unit_test(cancelling),
                                     cmocka_unit_test(random_parameters)};
  return cmocka_run_group_tests(tests, NULL, NULL);
}
