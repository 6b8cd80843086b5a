/** Rotation of adjacent pairs by a given table (spec.md section 3.2, pitfall pairing). */
#include "ops_test.h"

#include <complex.h>

static void adjacent_pair_is_one_complex_number(void **state) {
  (void)state;
  const double x[4] = {1, 2, 3, 4}, c[2] = {0, 0.6}, s[2] = {1, 0.8};
  double y[4];
  mr3d_rope3d(&exact, &(mr3d_rope3d_in){1, 1, 1, 4, x, c, s}, y);
  assert_true(y[0] == -2 && y[1] == 1); /* (1 + 2i) i */
  assert_near(y[2], 3 * 0.6 - 4 * 0.8, 1e-15);
  assert_near(y[3], 4 * 0.6 + 3 * 0.8, 1e-15);
}

static void every_element_agrees_with_complex_multiplication(void **state) {
  (void)state;
  const int64_t B = 2, heads = 3, N = 13, Ds = 32, F = 16, n = B * heads * N * Ds;
  double *x = numbers(n, 2, 1), *angle = numbers(heads * N * F, 50, 2), *c = unwritten(heads * N * F), *s = unwritten(heads * N * F), *y = unwritten(n);
  double *scale = unwritten(n), *turn = unwritten(n);
  for (int64_t i = 0; i < heads * N * F; i++) {
    c[i] = cos(angle[i]);
    s[i] = sin(angle[i]);
  }
  const mr3d_rope3d_in in = {B, heads, N, Ds, x, c, s};
  const mr3d_units fp64 = mr3d_tier_units(MR3D_FP64);
  mr3d_rope3d(&exact, &in, y);
  mr3d_rope3d_scale(&fp64, &in, scale, turn);
  for (int64_t b = 0; b < B; b++)
    for (int64_t k = 0; k < heads * N * F; k++) {
      const int64_t at = b * heads * N * Ds + 2 * k;
      const long double complex z = ((long double)x[at] + (long double)x[at + 1] * I) * ((long double)c[k] + (long double)s[k] * I);
      assert_near_at(at, y[at], (double)creall(z), scale[at]);
      assert_near_at(at, y[at + 1], (double)cimagl(z), scale[at + 1]);
      assert_near_at(at, turn[at], -y[at + 1], 1e-15);
      assert_near_at(at, turn[at + 1], y[at], 1e-15);
    }
  free(x);
  free(angle);
  free(c);
  free(s);
  free(y);
  free(scale);
  free(turn);
}

static void narrow_storage_of_both_products_stays_within_the_scale_and_half_split_does_not(void **state) {
  (void)state;
  enum { N = 300, DS = 32, COUNT = N * DS };
  double *x = numbers(COUNT, 2, 3), *angle = numbers(N * 16, 9, 4), *c = unwritten(N * 16), *s = unwritten(N * 16);
  double *reference = unwritten(COUNT), *scale = unwritten(COUNT), *y = unwritten(COUNT), *split = unwritten(COUNT);
  for (int i = 0; i < N * 16; i++) {
    c[i] = cos(angle[i]);
    s[i] = sin(angle[i]);
  }
#define BF16(v) mr3d_bf16_to_double(mr3d_bf16_from_double(v))
  for (int i = 0; i < COUNT; i++)
    x[i] = BF16(x[i]);
  const mr3d_rope3d_in in = {1, 1, N, DS, x, c, s};
  const mr3d_units bf16 = mr3d_tier_units(MR3D_BF16_TIER);
  mr3d_rope3d(&exact, &in, reference);
  mr3d_rope3d_scale(&bf16, &in, scale, NULL);
  for (int n = 0; n < N; n++)
    for (int j = 0; j < DS; j++) {
      const int i = n * DS + j, other = j % 2 == 0 ? i + 1 : i - 1, k = n * 16 + j / 2;
      y[i] = BF16(BF16(x[i] * BF16(c[k])) + BF16((j % 2 == 0 ? -x[other] : x[other]) * BF16(s[k])));
      split[i] = x[i] * c[n * 16 + j % 16] + (j < 16 ? -x[i + 16] : x[i - 16]) * s[n * 16 + j % 16];
    }
  const double e = worst_error(COUNT, y, reference, scale);
  assert_honest("bf16 products and tables", e, 0.5);
  assert_true(worst_error(COUNT, split, reference, scale) > 100);
  free(x);
  free(angle);
  free(c);
  free(s);
  free(reference);
  free(scale);
  free(y);
  free(split);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(adjacent_pair_is_one_complex_number),
      cmocka_unit_test(every_element_agrees_with_complex_multiplication),
      cmocka_unit_test(narrow_storage_of_both_products_stays_within_the_scale_and_half_split_does_not),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
