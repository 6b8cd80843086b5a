/** Angles in three dimensions (spec.md section 3.2, pitfalls broadcast and axial-weights). */
#include "ops_test.h"

static void angle_sums_weight_times_frequency_times_coordinate_over_the_axes(void **state) {
  (void)state;
  /* one head, two bins, two points; every factor different */
  const double freqs[] = {1, 2, /**/ 3, 4, /**/ 5, 6}, weights[] = {0.5, 0.25, 2, /**/ 1, -1, 0.125}, coords[] = {1, 0, 0, /**/ 0.5, 2, -1};
  double c[4], s[4];
  mr3d_cis3d(&exact, &(mr3d_cis3d_in){1, 2, 2, 3, freqs, weights, coords}, c, s);
  const double angles[] = {0.5, 2, 0.5 * 1 * 0.5 + 0.25 * 3 * 2 - 2 * 5, 1 * 2 * 0.5 - 4 * 2 - 0.125 * 6};
  for (int i = 0; i < 4; i++) {
    assert_near_at(i, c[i], cos(angles[i]), 1e-15);
    assert_near_at(i, s[i], sin(angles[i]), 1e-15);
  }
}

static void check_shape(int64_t heads, int64_t F, int64_t N, int64_t axes, bool weighted) {
  double *freqs = numbers(axes * heads * F, 1, 1), *weights = numbers(heads * F * 3, 2, 2), *coords = numbers(N * 3, 80, 3);
  double *c = unwritten(heads * N * F), *s = unwritten(heads * N * F), *cs = unwritten(heads * N * F), *ss = unwritten(heads * N * F);
  const mr3d_cis3d_in in = {heads, F, N, axes, freqs, weighted ? weights : NULL, coords};
  const mr3d_units fp64 = mr3d_tier_units(MR3D_FP64);
  mr3d_cis3d(&exact, &in, c, s);
  mr3d_cis3d_scale(&fp64, &in, cs, ss);
  for (int64_t h = 0; h < heads; h++)
    for (int64_t n = 0; n < N; n++)
      for (int64_t f = 0; f < F; f++) {
        long double angle = 0;
        for (int64_t a = 0; a < 3; a++)
          angle += (weighted ? (long double)weights[(h * F + f) * 3 + a] : 1) * (long double)freqs[((axes == 3 ? a : 0) * heads + h) * F + f] *
                   (long double)coords[n * 3 + a];
        const int64_t at = (h * N + n) * F + f;
        assert_near_at(at, c[at], (double)cosl(angle), cs[at]);
        assert_near_at(at, s[at], (double)sinl(angle), ss[at]);
      }
  free(freqs);
  free(weights);
  free(coords);
  free(c);
  free(s);
  free(cs);
  free(ss);
}

static void every_shape_agrees_with_long_double(void **state) {
  (void)state;
  const int64_t points[] = {0, 1, 2, 13, 14, 556}; /* N = heads is where the transposed product goes unnoticed */
  for (int k = 0; k < 6; k++) {
    check_shape(14, 16, points[k], 3, true);
    check_shape(2, 16, points[k], 1, true);
    check_shape(3, 5, points[k], 3, false);
  }
}

static void float_loops_stay_within_the_scale_and_swapped_axes_do_not(void **state) {
  (void)state;
  enum { HEADS = 2, F = 16, N = 200, COUNT = HEADS * N * F };
  double *freqs = numbers(3 * HEADS * F, 1, 4), *weights = numbers(HEADS * F * 3, 1.5, 5), *coords = numbers(N * 3, 40, 6);
  double *c = unwritten(COUNT), *s = unwritten(COUNT), *cs = unwritten(COUNT), *ss = unwritten(COUNT), *y = unwritten(COUNT), *swapped = unwritten(COUNT);
  for (int i = 0; i < 3 * HEADS * F; i++) {
    freqs[i] = (float)freqs[i];
    weights[i] = (float)weights[i];
  }
  for (int i = 0; i < 3 * N; i++)
    coords[i] = floor(coords[i] + 40);
  const mr3d_cis3d_in in = {HEADS, F, N, 3, freqs, weights, coords};
  const mr3d_units fp32 = mr3d_tier_units(MR3D_FP32);
  mr3d_cis3d(&exact, &in, c, s);
  mr3d_cis3d_scale(&fp32, &in, cs, ss);
  for (int h = 0; h < HEADS; h++)
    for (int n = 0; n < N; n++)
      for (int f = 0; f < F; f++) {
        float angle = 0, other = 0;
        for (int a = 0; a < 3; a++) {
          const float wf = (float)weights[(h * F + f) * 3 + a] * (float)freqs[(a * HEADS + h) * F + f];
          angle += wf * (float)coords[n * 3 + a];
          other += wf * (float)coords[n * 3 + 2 - a];
        }
        y[(h * N + n) * F + f] = (double)cosf(angle);
        swapped[(h * N + n) * F + f] = (double)cosf(other);
      }
  const double e = worst_error(COUNT, y, c, cs);
  assert_honest("float loops", e, 0.1);
  assert_true(worst_error(COUNT, swapped, c, cs) > 1000);
  free(freqs);
  free(weights);
  free(coords);
  free(c);
  free(s);
  free(cs);
  free(ss);
  free(y);
  free(swapped);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(angle_sums_weight_times_frequency_times_coordinate_over_the_axes),
      cmocka_unit_test(every_shape_agrees_with_long_double),
      cmocka_unit_test(float_loops_stay_within_the_scale_and_swapped_axes_do_not),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
