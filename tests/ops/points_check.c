/** Points of a call: mask, coordinates and counts agree or are refused (spec.md section 3.4, pitfall coords-count). */
#include "ops_test.h"

static const double some[3 * 4];

static void matching_points_are_accepted(void **state) {
  (void)state;
  const bool mask[] = {false, true, false, true, /**/ true, false, false, false};
  const int64_t counts[] = {2, 1};
  mr3d_error error = {0};
  assert_int_equal(mr3d_points_check(&(mr3d_points){mask, 2, some, counts}, 2, 4, &error), MR3D_OK);
  assert_int_equal(mr3d_points_check(&(mr3d_points){mask, 2, some, NULL}, 1, 4, &error), MR3D_OK);
  assert_int_equal(mr3d_points_check(&(mr3d_points){0}, 2, 4, &error), MR3D_OK);
  const bool none[4] = {false};
  assert_int_equal(mr3d_points_check(&(mr3d_points){none, 0, some, NULL}, 1, 4, &error), MR3D_OK);
}

static void raw_scan_beside_556_marks_is_refused_with_both_numbers(void **state) {
  (void)state;
  bool mask[786] = {false};
  for (int i = 100; i < 656; i++)
    mask[i] = true;
  mr3d_error error = {0};
  assert_refused(mr3d_points_check(&(mr3d_points){mask, 106328, some, NULL}, 1, 786, &error), &error,
                 "point_coords has 106328 rows, point_token_mask marks 556", "raw scan");
  assert_refused(mr3d_points_check(&(mr3d_points){mask, 555, some, NULL}, 1, 786, &error), &error, "point_coords has 555 rows, point_token_mask marks 556");
  const struct {
    int64_t rows;
    bool raw;
  } marked_one[] = {{2, false}, {7, false}, {8, true}};
  mask[100] = false;
  for (int i = 0; i < 3; i++) { /* of the mask's first 102 entries one is set */
    error = (mr3d_error){0};
    assert_refused(mr3d_points_check(&(mr3d_points){mask, marked_one[i].rows, some, NULL}, 1, 102, &error), &error, "marks 1 ");
    assert_int_equal(strstr(error.message, "raw scan") != NULL, marked_one[i].raw);
  }
  assert_refused(mr3d_points_check(&(mr3d_points){mask, 3, some, NULL}, 1, 100, &error), &error, "has 3 rows, point_token_mask marks 0");
  assert_null(strstr(error.message, "raw scan"));
  assert_refused(mr3d_points_check(&(mr3d_points){mask, 1, some, NULL}, 1, 100, &error), &error, "has 1 row, ");
  mask[100] = true;
  const int64_t counts[] = {556};
  assert_refused(mr3d_points_check(&(mr3d_points){mask, 500, some, counts}, 1, 786, &error), &error, "point_counts[0] is 556", "500 rows");
}

static void counts_are_checked_for_each_sample(void **state) {
  (void)state;
  const bool mask[] = {true, true, true, false};
  const int64_t counts[] = {2, 2}, negative[] = {2, -1};
  mr3d_error error = {0};
  assert_refused(mr3d_points_check(&(mr3d_points){mask, 2, some, counts}, 2, 2, &error), &error, "has 2 rows, point_token_mask marks 1", "sample 1");
  assert_refused(mr3d_points_check(&(mr3d_points){mask, 2, some, NULL}, 2, 2, &error), &error, "has 2 rows, point_token_mask marks 1", "sample 1");
  assert_refused(mr3d_points_check(&(mr3d_points){mask, 2, some, negative}, 2, 2, &error), &error, "point_counts[1] is -1");
}

static void one_of_mask_and_coordinates_alone_is_refused(void **state) {
  (void)state;
  const bool mask[1] = {false};
  const int64_t counts[1] = {0};
  mr3d_error error = {0};
  assert_refused(mr3d_points_check(&(mr3d_points){mask, 0, NULL, NULL}, 1, 1, &error), &error, "point_token_mask without point_coords");
  assert_refused(mr3d_points_check(&(mr3d_points){NULL, 1, some, NULL}, 1, 1, &error), &error, "point_coords without point_token_mask");
  assert_refused(mr3d_points_check(&(mr3d_points){NULL, 0, NULL, counts}, 1, 1, &error), &error, "point_counts without point_token_mask");
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(matching_points_are_accepted),
      cmocka_unit_test(raw_scan_beside_556_marks_is_refused_with_both_numbers),
      cmocka_unit_test(counts_are_checked_for_each_sample),
      cmocka_unit_test(one_of_mask_and_coordinates_alone_is_refused),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
