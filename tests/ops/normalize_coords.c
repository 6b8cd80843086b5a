/** Coordinate normalisation and drift (spec.md section 3.4, pitfalls drift-norm and batch). */
#include "ops_test.h"

static const double coords[] = {0, 10, 79, /**/ 20, 10, 0, /**/ 79, 10, 40};

static void normalised(const char *json, int64_t B, int64_t N, const double *c, const int64_t *counts, double *out) {
  const mr3d_config config = config_of(json);
  mr3d_error error = {0};
  if (mr3d_normalize_coords(&exact, &config, &(mr3d_normalize_coords_in){B, N, c, counts}, out, &error) != MR3D_OK)
    fail_msg("%s", error.message);
}

static void grid_divides_by_size_minus_one(void **state) {
  (void)state;
  double out[9];
  normalised("{}", 1, 3, coords, NULL, out);
  for (int i = 0; i < 9; i++)
    assert_true(out[i] == coords[i] / 79);
  assert_true(out[2] == 1 && out[6] == 1);
  normalised("{\"reduced_grid_size\": 2}", 1, 3, coords, NULL, out);
  assert_same_bits(out, coords, 9);
  normalised("{\"num_bins\": 640}", 1, 3, coords, NULL, out);
  assert_true(out[3] == 20.0 / 39);
}

static void none_leaves_indices_as_they_are(void **state) {
  (void)state;
  double out[9];
  normalised("{\"coord_norm\": \"none\"}", 1, 3, coords, NULL, out);
  assert_same_bits(out, coords, 9);
}

static void unit_range_uses_each_axis_own_range_and_survives_equal_coordinates(void **state) {
  (void)state;
  double out[9];
  normalised("{\"coord_norm\": \"unit_range\"}", 1, 3, coords, NULL, out);
  const double expected[] = {0, 0, 79 / (79 + 1e-8), /**/ 20 / (79 + 1e-8), 0, 0, /**/ 79 / (79 + 1e-8), 0, 40 / (79 + 1e-8)};
  assert_same_bits(out, expected, 9);
  assert_true(out[2] < 1);
  normalised("{\"coord_norm\": \"virtual_resolution\", \"virtual_resolution\": 256}", 1, 3, coords, NULL, out);
  for (int i = 0; i < 9; i++)
    assert_true(out[i] == expected[i] * 256);
}

static void drift_comes_after_normalisation_and_halves_odd_counts_exactly(void **state) {
  (void)state;
  double out[9];
  normalised("{\"drift\": \"average\"}", 1, 3, coords, NULL, out);
  for (int i = 0; i < 9; i++)
    assert_true(out[i] == coords[i] / 79 + 1.5);
  normalised("{\"drift\": \"pointwise\", \"coord_norm\": \"unit_range\"}", 1, 3, coords, NULL, out);
  assert_true(out[0] == 0 && out[4] == 1 && out[7] == 2 && out[6] == 79 / (79 + 1e-8) + 2);
}

static void each_sample_uses_its_own_rows_and_the_rest_is_zero(void **state) {
  (void)state;
  const double batch[] = {5, 6, 7, /**/ 9, 9, 9, /**/ NAN, INFINITY, 1e300, /****/ 100, 0, 0, /**/ 0, 50, 0, /**/ 0, 0, 25};
  const int64_t counts[] = {2, 3};
  double out[18];
  normalised("{\"coord_norm\": \"unit_range\", \"drift\": \"average\"}", 2, 3, batch, counts, out);
  const double expected[] = {1, 1, 1, /**/ 4 / (4 + 1e-8) + 1, 3 / (3 + 1e-8) + 1, 2 / (2 + 1e-8) + 1, /**/ 0, 0, 0,
                             /****/ 100 / (100 + 1e-8) + 1.5, 1.5, 1.5, /**/ 1.5, 50 / (50 + 1e-8) + 1.5, 1.5, /**/ 1.5, 1.5, 25 / (25 + 1e-8) + 1.5};
  assert_same_bits(out, expected, 18);
  normalised("{\"coord_norm\": \"unit_range\"}", 1, 0, batch, NULL, out); /* no points at all */
}

static void float_arithmetic_stays_within_the_scale_and_a_missing_minus_one_does_not(void **state) {
  (void)state;
  enum { N = 500 };
  const char *const options[] = {"{}", "{\"coord_norm\": \"unit_range\"}", "{\"coord_norm\": \"virtual_resolution\", \"virtual_resolution\": 100.3}",
                                 "{\"coord_norm\": \"none\", \"drift\": \"average\"}", "{\"drift\": \"pointwise\"}"};
  double *c = numbers(N * 3, 40, 2), *reference = unwritten(N * 3), *scale = unwritten(N * 3), *y = unwritten(N * 3), *wrong = unwritten(N * 3);
  float min[3] = {1e9F, 1e9F, 1e9F}, max[3] = {-1, -1, -1};
  for (int i = 0; i < 3 * N; i++) {
    c[i] = floor(c[i] + 40);
    min[i % 3] = fminf(min[i % 3], (float)c[i]);
    max[i % 3] = fmaxf(max[i % 3], (float)c[i]);
  }
  const mr3d_normalize_coords_in in = {1, N, c, NULL};
  const mr3d_units fp32 = mr3d_tier_units(MR3D_FP32);
  for (int k = 0; k < 5; k++) {
    const mr3d_config config = config_of(options[k]);
    mr3d_error error = {0};
    assert_int_equal(mr3d_normalize_coords(&exact, &config, &in, reference, &error), MR3D_OK);
    mr3d_normalize_coords_scale(&fp32, &config, &in, scale, NULL);
    for (int i = 0; i < 3 * N; i++) {
      const float unit = ((float)c[i] - min[i % 3]) / (max[i % 3] - min[i % 3] + 1e-8F);
      float v = k == 1 ? unit : k == 2 ? unit * 100.3F : k == 3 ? (float)c[i] : (float)c[i] * (1 / 79.0F);
      v = k == 3 ? v + N / 2.0F : k == 4 ? v + (float)(i / 3) : v;
      y[i] = (double)v;
      wrong[i] = k == 3 ? c[i] + N / 2 - 1 : y[i] * 79 / 80;
    }
    assert_honest(options[k], worst_error(3 * N, y, reference, scale), k == 3 ? -1 : 0.1); /* index + 250 is exact */
    assert_true(worst_error(3 * N, wrong, reference, scale) > 1000);
  }
  free(c);
  free(reference);
  free(scale);
  free(y);
  free(wrong);
}

static void impossible_options_and_counts_are_refused(void **state) {
  (void)state;
  double out[9] = {5};
  mr3d_error error = {0};
  mr3d_config config = config_of("{}");
  config.reduced_grid_size = 1;
  const mr3d_normalize_coords_in in = {1, 3, coords, NULL};
  assert_refused(mr3d_normalize_coords(&exact, &config, &in, out, &error), &error, "reduced_grid_size is 1");
  config = config_of("{\"coord_norm\": \"unit_range\"}");
  config.coord_norm = MR3D_NORM_VIRTUAL_RESOLUTION;
  assert_refused(mr3d_normalize_coords(&exact, &config, &in, out, &error), &error, "virtual_resolution, which has no default");
  config = config_of("{}");
  const int64_t counts[] = {4};
  assert_refused(mr3d_normalize_coords(&exact, &config, &(mr3d_normalize_coords_in){1, 3, coords, counts}, out, &error), &error, "point_counts[0] is 4",
                 "3 rows");
  assert_true(out[0] == 5);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(grid_divides_by_size_minus_one),
      cmocka_unit_test(none_leaves_indices_as_they_are),
      cmocka_unit_test(unit_range_uses_each_axis_own_range_and_survives_equal_coordinates),
      cmocka_unit_test(drift_comes_after_normalisation_and_halves_odd_counts_exactly),
      cmocka_unit_test(each_sample_uses_its_own_rows_and_the_rest_is_zero),
      cmocka_unit_test(float_arithmetic_stays_within_the_scale_and_a_missing_minus_one_does_not),
      cmocka_unit_test(impossible_options_and_counts_are_refused),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
