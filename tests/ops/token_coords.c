/** From cells to token coordinates (spec.md section 7, step 4). */
#include "ops_test.h"

static void four_halvings_merge_sixteen_cells_an_axis_and_sort(void **state) {
  (void)state;
  const int64_t grid[] = {0, 31, 0, /**/ 1, 0, 0, /**/ 15, 15, 15, /**/ 16, 0, 0, /**/ 1279, 1279, 1279, /**/ 0, 16, 3};
  mr3d_token_coords_out out;
  mr3d_error error = {0};
  assert_int_equal(mr3d_token_coords(&exact, 6, grid, 4, &out, &error), MR3D_OK);
  const int64_t coords[] = {0, 0, 0, /**/ 0, 1, 0, /**/ 1, 0, 0, /**/ 79, 79, 79}, count[] = {2, 2, 1, 1};
  assert_int_equal(out.N, 4);
  assert_memory_equal(out.coords, coords, sizeof coords);
  assert_memory_equal(out.count, count, sizeof count);
  mr3d_token_coords_free(&out);
  assert_null(out.coords);
}

static void stages_0_sorts_and_merges_nothing(void **state) {
  (void)state;
  const int64_t grid[] = {5, 0, 1, /**/ 5, 0, 0, /**/ 4, 9, 9};
  mr3d_token_coords_out out;
  mr3d_error error = {0};
  assert_int_equal(mr3d_token_coords(&exact, 3, grid, 0, &out, &error), MR3D_OK);
  const int64_t coords[] = {4, 9, 9, /**/ 5, 0, 0, /**/ 5, 0, 1}, count[] = {1, 1, 1};
  assert_int_equal(out.N, 3);
  assert_memory_equal(out.coords, coords, sizeof coords);
  assert_memory_equal(out.count, count, sizeof count);
  mr3d_token_coords_free(&out);
}

static void a_cell_given_twice_counts_once(void **state) {
  (void)state;
  const int64_t grid[] = {3, 3, 3, /**/ 2, 3, 3, /**/ 3, 3, 3};
  mr3d_token_coords_out out;
  mr3d_error error = {0};
  assert_int_equal(mr3d_token_coords(&exact, 3, grid, 1, &out, &error), MR3D_OK);
  assert_int_equal(out.N, 1);
  assert_int_equal(out.count[0], 2);
  mr3d_token_coords_free(&out);
}

static void many_stages_end_in_one_token_and_no_cells_in_none(void **state) {
  (void)state;
  const int64_t grid[] = {INT64_MAX, 0, 1, /**/ 0, 5, 6};
  mr3d_token_coords_out out;
  mr3d_error error = {0};
  assert_int_equal(mr3d_token_coords(&exact, 2, grid, 1000000, &out, &error), MR3D_OK);
  assert_int_equal(out.N, 1);
  assert_true(out.coords[0] == 0 && out.coords[1] == 0 && out.coords[2] == 0 && out.count[0] == 2);
  mr3d_token_coords_free(&out);
  assert_int_equal(mr3d_token_coords(&exact, 0, grid, 4, &out, &error), MR3D_OK);
  assert_int_equal(out.N, 0);
  mr3d_token_coords_free(&out);
}

static void negative_indices_and_stages_are_refused(void **state) {
  (void)state;
  const int64_t grid[] = {0, 0, 0, /**/ 4, -1, 7};
  mr3d_token_coords_out out = {.N = -5};
  mr3d_error error = {0};
  assert_refused(mr3d_token_coords(&exact, 2, grid, 4, &out, &error), &error, "grid[1] is (4, -1, 7)");
  for (int i = 0; i < 6; i++) {
    int64_t one[6] = {0};
    one[i] = -3;
    assert_refused(mr3d_token_coords(&exact, 2, one, 4, &out, &error), &error, i < 3 ? "grid[0]" : "grid[1]", "-3");
  }
  assert_refused(mr3d_token_coords(&exact, 1, grid, -2, &out, &error), &error, "stages is -2");
  assert_int_equal(out.N, -5);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(four_halvings_merge_sixteen_cells_an_axis_and_sort),
      cmocka_unit_test(stages_0_sorts_and_merges_nothing),
      cmocka_unit_test(a_cell_given_twice_counts_once),
      cmocka_unit_test(many_stages_end_in_one_token_and_no_cells_in_none),
      cmocka_unit_test(negative_indices_and_stages_are_refused),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
