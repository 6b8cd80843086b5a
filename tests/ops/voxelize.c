/** From a scan to cells (spec.md section 7, pitfalls dirty-scan and narrow-angles). */
#include "ops_test.h"

static mr3d_status voxelize(const char *json, int64_t rows, int64_t columns, const double *points, mr3d_voxelize_out *out, mr3d_error *error) {
  const mr3d_config config = config_of(json);
  return mr3d_voxelize(&exact, &config, rows, columns, points, out, error);
}

static void dirty_rows_go_and_the_lowest_row_of_a_cell_stays(void **state) {
  (void)state;
  const double points[] = {NAN, 0, 0, 10, 10, 10,          /* NaN in a coordinate */
                           1, 1, 1, 0, INFINITY, 0,        /* infinity in a colour */
                           2.06, 1, 1, 255, 0, 127.5,      /* cell (2,0,0) */
                           2.0, 1, 1.01, 255, 255, 255,    /* cell (0,0,0) */
                           2.02, 1.001, 1, 0, 0, 0,        /* cell (0,0,0) again */
                           -INFINITY, 1, 1, 0, 0, 0,
                           2.0, 1, 1.03, 1, 2, 3};         /* cell (0,0,1) */
  mr3d_voxelize_out out;
  mr3d_error error = {0};
  assert_int_equal(voxelize("{}", 7, 6, points, &out, &error), MR3D_OK);
  assert_int_equal(out.dropped, 3);
  assert_int_equal(out.M, 3);
  const int64_t grid[] = {0, 0, 0, /**/ 0, 0, 1, /**/ 2, 0, 0}, row[] = {3, 6, 2};
  assert_memory_equal(out.grid, grid, sizeof grid);
  assert_memory_equal(out.row, row, sizeof row);
  const double features[] = {0, 0, 1.01 - 1, 1, 1, 1, /**/ 0, 0, 1.03 - 1, 1 / 127.5 - 1, 2 / 127.5 - 1, 3 / 127.5 - 1, /**/ 2.06 - 2.0, 0, 0, 1, -1, 0};
  assert_same_bits(out.features, features, 18);
  mr3d_voxelize_free(&out);
  assert_null(out.grid);
}

static void dividing_by_the_cell_differs_from_multiplying_by_40_on_47_of_1280_multiples(void **state) {
  (void)state;
  enum { N = 1280 };
  double points[N * 3] = {0};
  for (int k = 0; k < N; k++)
    points[k * 3] = k * 0.025;
  mr3d_voxelize_out out;
  mr3d_error error = {0};
  assert_int_equal(voxelize("{}", N, 3, points, &out, &error), MR3D_OK);
  int by_product = 0, by_bf16 = 0, found = 0;
  for (int64_t m = 0; m < out.M; m++) {
    const double x = points[out.row[m] * 3];
    assert_int_equal(out.grid[m * 3], (int64_t)floor(x / 0.025));
    found++;
  }
  for (int k = 0; k < N; k++) {
    by_product += floor(k * 0.025 / 0.025) != floor(k * 0.025 * 40);
    by_bf16 += mr3d_bf16_to_double(mr3d_bf16_from_double(k)) != k;
  }
  assert_int_equal(by_product, 47);
  assert_int_equal(by_bf16, 736);
  assert_true(found > N - 100);
  mr3d_voxelize_free(&out);
}

static void index_beyond_the_grid_is_refused_or_clipped(void **state) {
  (void)state;
  const double points[] = {0, 0, 0, /**/ 31.99, 0, 0, /**/ 0, 32.5, 0, /**/ 0, 40, 0};
  mr3d_voxelize_out out = {.M = -1};
  mr3d_error error = {0};
  assert_refused(voxelize("{}", 4, 3, points, &out, &error), &error, "points[2]", "smallest y", "grid index 1300", "num_bins is 1280", "32 m");
  assert_int_equal(out.M, -1);
  assert_int_equal(voxelize("{\"grid_overflow\": \"clip\"}", 4, 3, points, &out, &error), MR3D_OK);
  assert_int_equal(out.M, 3); /* both far points fall into cell 1279 */
  assert_int_equal(out.grid[3 + 1], 1279);
  assert_int_equal(out.row[1], 2);
  assert_true(out.features[3 + 1] == 32.5);
  mr3d_voxelize_free(&out);
  assert_int_equal(voxelize("{\"num_bins\": 2560}", 4, 3, points, &out, &error), MR3D_OK);
  assert_int_equal(out.M, 4);
  mr3d_voxelize_free(&out);
}

static void numbers_beyond_all_grids_are_refused_even_when_clipping(void **state) {
  (void)state;
  const double far[] = {0, 0, 0, 1e300, 0, 0}, apart[] = {-1.7e308, 0, 0, 1.7e308, 0, 0};
  mr3d_voxelize_out out;
  mr3d_error error = {0};
  assert_refused(voxelize("{}", 2, 3, far, &out, &error), &error, "points[1]");
  assert_refused(voxelize("{\"grid_overflow\": \"clip\"}", 2, 3, apart, &out, &error), &error, "points[1]");
}

static void cloud_without_a_finite_row_is_refused(void **state) {
  (void)state;
  const double points[] = {NAN, 0, 0, 0, INFINITY, 0};
  mr3d_voxelize_out out;
  mr3d_error error = {0};
  assert_refused(voxelize("{}", 2, 3, points, &out, &error), &error, "2 rows, of which 0 are finite");
  assert_refused(voxelize("{}", 0, 3, points, &out, &error), &error, "0 rows");
  assert_refused(voxelize("{}", 1, 4, points, &out, &error), &error, "4 columns", "3 (x, y, z) or 6");
}

static void result_does_not_depend_on_the_order_of_distinct_cells(void **state) {
  (void)state;
  enum { N = 500 };
  double *points = numbers(N * 3, 10, 7), *reversed = unwritten(N * 3);
  for (int n = 0; n < N; n++)
    memcpy(reversed + 3 * n, points + 3 * (N - 1 - n), 3 * sizeof *points);
  mr3d_voxelize_out a, b;
  mr3d_error error = {0};
  assert_int_equal(voxelize("{}", N, 3, points, &a, &error), MR3D_OK);
  assert_int_equal(voxelize("{}", N, 3, reversed, &b, &error), MR3D_OK);
  assert_int_equal(a.M, b.M);
  assert_memory_equal(a.grid, b.grid, (size_t)a.M * 3 * sizeof *a.grid);
  for (int64_t m = 1; m < a.M; m++)
    assert_true(memcmp(a.grid + 3 * m, a.grid + 3 * m - 3, 3 * sizeof *a.grid) != 0);
  mr3d_voxelize_free(&a);
  mr3d_voxelize_free(&b);
  free(points);
  free(reversed);
}

static void float_features_stay_within_the_scale_and_unshifted_ones_do_not(void **state) {
  (void)state;
  enum { N = 400 };
  double *points = numbers(N * 6, 8, 3);
  for (int i = 0; i < 6 * N; i++)
    points[i] = i % 6 < 3 ? (double)(float)points[i] : floor((points[i] + 8) * 15.9);
  mr3d_voxelize_out out;
  mr3d_error error = {0};
  assert_int_equal(voxelize("{}", N, 6, points, &out, &error), MR3D_OK);
  double *scale = unwritten(out.M * 6), *y = unwritten(out.M * 6), *unshifted = unwritten(out.M * 6);
  float min[3] = {100, 100, 100};
  for (int i = 0; i < 6 * N; i++)
    if (i % 6 < 3)
      min[i % 6] = fminf(min[i % 6], (float)points[i]);
  for (int64_t i = 0; i < out.M * 6; i++) {
    const float value = (float)points[out.row[i / 6] * 6 + i % 6];
    y[i] = (double)(i % 6 < 3 ? value - min[i % 6] : value * (1 / 127.5F) - 1);
    unshifted[i] = (double)(i % 6 < 3 ? value : value / 255);
  }
  const mr3d_units fp32 = mr3d_tier_units(MR3D_FP32);
  mr3d_voxelize_scale(&fp32, &out, scale, NULL);
  assert_honest("float features", worst_error(out.M * 6, y, out.features, scale), 0.1);
  assert_true(worst_error(out.M * 6, unshifted, out.features, scale) > 1000);
  free(scale);
  free(y);
  free(unshifted);
  free(points);
  mr3d_voxelize_free(&out);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(dirty_rows_go_and_the_lowest_row_of_a_cell_stays),
      cmocka_unit_test(dividing_by_the_cell_differs_from_multiplying_by_40_on_47_of_1280_multiples),
      cmocka_unit_test(index_beyond_the_grid_is_refused_or_clipped),
      cmocka_unit_test(numbers_beyond_all_grids_are_refused_even_when_clipping),
      cmocka_unit_test(cloud_without_a_finite_row_is_refused),
      cmocka_unit_test(result_does_not_depend_on_the_order_of_distinct_cells),
      cmocka_unit_test(float_features_stay_within_the_scale_and_unshifted_ones_do_not),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
