/** Splice: which token stands where (spec.md section 2, pitfall splice). */
#include "ops_test.h"

enum { START = 151652, PAD = 151654, END = 151653 };

static mr3d_status splice(int64_t B, int64_t T, const int64_t *ids, const int64_t *mask, const int64_t *counts, const int64_t *labels,
                          mr3d_splice_out *out, mr3d_error *error) {
  return mr3d_splice(&exact, &(mr3d_splice_in){B, T, ids, mask, counts, labels, START, END}, out, error);
}

static void assert_row(const int64_t *got, const int64_t *expected, int64_t n) { assert_memory_equal(got, expected, (size_t)n * sizeof *got); }

static void prompt_of_231_and_556_points_make_786(void **state) {
  (void)state;
  enum { T = 231, N = 556, AT = 200 };
  int64_t ids[T], mask[T], counts[1] = {N};
  for (int64_t t = 0; t < T; t++) {
    ids[t] = 1000 + t;
    mask[t] = 1;
  }
  ids[AT] = START;
  ids[AT + 1] = PAD;
  ids[AT + 2] = END;
  mr3d_splice_out out;
  mr3d_error error = {0};
  assert_int_equal(splice(1, T, ids, mask, counts, NULL, &out, &error), MR3D_OK);
  assert_int_equal(out.S, 231 - 1 + 556);
  assert_int_equal(out.S, 786);
  assert_null(out.labels);
  int64_t points = 0;
  for (int64_t i = 0; i < out.S; i++) {
    points += out.point_token_mask[i];
    assert_int_equal(out.point_token_mask[i], i > AT && i <= AT + N);
    assert_int_equal(out.attention_mask[i], 1);
    assert_int_equal(out.source[i], i <= AT ? i : i <= AT + N ? -1 - (i - AT - 1) : i - N + 1);
  }
  assert_int_equal(points, 556);
  assert_int_equal(ids[out.source[AT]], START);
  assert_int_equal(ids[out.source[AT + N + 1]], END);
  mr3d_splice_free(&out);
  assert_null(out.source);
}

static void batch_is_padded_on_the_right_by_its_last_token(void **state) {
  (void)state;
  const int64_t ids[] = {1, START, PAD, END, 2, /**/ START, PAD, END, 3, 4, /**/ 5, 6, START, END, 7};
  const int64_t mask[] = {0, 1, 1, 1, 1, /**/ 1, 1, 1, 1, 0, /**/ 1, 1, 1, 1, 1};
  const int64_t labels[] = {10, 11, 12, 13, 14, /**/ 20, 21, 22, 23, 24, /**/ 30, 31, 32, 33, 34};
  const int64_t counts[] = {1, 3, 0};
  mr3d_splice_out out;
  mr3d_error error = {0};
  assert_int_equal(splice(3, 5, ids, mask, counts, labels, &out, &error), MR3D_OK);
  assert_int_equal(out.S, 7);
  assert_row(out.source, (int64_t[]){0, 1, -1, 3, 4, 4, 4}, 7);
  assert_row(out.source + 7, (int64_t[]){0, -1, -2, -3, 2, 3, 4}, 7);
  assert_row(out.source + 14, (int64_t[]){0, 1, 2, 3, 4, 4, 4}, 7);
  assert_row(out.attention_mask, (int64_t[]){0, 1, 1, 1, 1, 0, 0, 1, 1, 1, 1, 1, 1, 0, 1, 1, 1, 1, 1, 0, 0}, 21);
  assert_row(out.labels, (int64_t[]){10, 11, -100, 13, 14, -100, -100, 20, -100, -100, -100, 22, 23, 24, 30, 31, 32, 33, 34, -100, -100}, 21);
  const bool points[21] = {[2] = true, [8] = true, [9] = true, [10] = true};
  assert_memory_equal(out.point_token_mask, points, sizeof points);
  mr3d_splice_free(&out);
}

static void padding_of_a_sample_that_ends_in_points_does_not_exist_because_the_end_marker_stays(void **state) {
  (void)state;
  const int64_t ids[] = {START, END, START, END}, mask[] = {1, 1, 1, 1}, counts[] = {1, 2};
  mr3d_splice_out out;
  mr3d_error error = {0};
  assert_int_equal(splice(2, 2, ids, mask, counts, NULL, &out, &error), MR3D_OK);
  assert_row(out.source, (int64_t[]){0, -1, 1, 1, 0, -1, -2, 1}, 8);
  mr3d_splice_free(&out);
}

static void markers_without_points_drop_the_text_between_them(void **state) {
  (void)state;
  const int64_t ids[] = {1, START, 8, 9, PAD, END, 2}, mask[] = {1, 1, 1, 1, 1, 1, 1}, counts[] = {0};
  mr3d_splice_out out;
  mr3d_error error = {0};
  assert_int_equal(splice(1, 7, ids, mask, counts, NULL, &out, &error), MR3D_OK);
  assert_int_equal(out.S, 4);
  assert_row(out.source, (int64_t[]){0, 1, 5, 6}, 4);
  mr3d_splice_free(&out);
}

static void text_without_markers_and_points_stays(void **state) {
  (void)state;
  const int64_t ids[] = {1, PAD, 3}, mask[] = {0, 1, 1}, counts[] = {0};
  mr3d_splice_out out;
  mr3d_error error = {0};
  assert_int_equal(splice(1, 3, ids, mask, counts, NULL, &out, &error), MR3D_OK);
  assert_int_equal(out.S, 3);
  assert_row(out.source, (int64_t[]){0, 1, 2}, 3);
  assert_row(out.attention_mask, mask, 3);
  assert_false(out.point_token_mask[0] || out.point_token_mask[1] || out.point_token_mask[2]);
  mr3d_splice_free(&out);
}

static void wrong_markers_name_the_sample_and_what_was_found(void **state) {
  (void)state;
  const int64_t mask[] = {1, 1, 1, 1, 1, 1, 1, 1}, good[4] = {START, PAD, END, 1};
  const struct {
    int64_t ids[4], points;
    const char *found;
  } wrong[] = {{{1, 2, 3, 4}, 5, "0 start markers (id 151652) and 0 end markers (id 151653) for 5 points"},
               {{START, START, END, 4}, 5, "2 start markers"},
               {{START, END, 1, END}, 5, "2 end markers"},
               {{START, 1, 2, 3}, 5, "1 start markers (id 151652) and 0 end markers"},
               {{START, 1, 2, 3}, 0, "expected one of each, or neither"},
               {{1, 2, 3, END}, 0, "0 start markers (id 151652) and 1 end markers"},
               {{END, 1, START, 2}, 5, "end marker at index 0, before its start marker at 2"}};
  for (size_t k = 0; k < sizeof wrong / sizeof *wrong; k++) {
    int64_t ids[8], counts[2] = {1, wrong[k].points};
    memcpy(ids, good, sizeof good);
    memcpy(ids + 4, wrong[k].ids, sizeof good);
    mr3d_splice_out out = {.S = -7};
    mr3d_error error = {0};
    assert_refused(splice(2, 4, ids, mask, counts, NULL, &out, &error), &error, "sample 1", wrong[k].found);
    assert_int_equal(out.S, -7);
  }
}

static void mask_values_and_counts_are_checked(void **state) {
  (void)state;
  const int64_t ids[] = {START, PAD, END}, mask[] = {1, 1, 1}, two[] = {1, 2, 1}, counts[] = {1}, negative[] = {-3};
  mr3d_splice_out out;
  mr3d_error error = {0};
  assert_refused(splice(1, 3, ids, two, counts, NULL, &out, &error), &error, "attention_mask[0][1] is 2");
  assert_refused(splice(1, 3, ids, mask, negative, NULL, &out, &error), &error, "point_counts[0] is -3");
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(prompt_of_231_and_556_points_make_786),
      cmocka_unit_test(batch_is_padded_on_the_right_by_its_last_token),
      cmocka_unit_test(padding_of_a_sample_that_ends_in_points_does_not_exist_because_the_end_marker_stays),
      cmocka_unit_test(markers_without_points_drop_the_text_between_them),
      cmocka_unit_test(text_without_markers_and_points_stays),
      cmocka_unit_test(wrong_markers_name_the_sample_and_what_was_found),
      cmocka_unit_test(mask_values_and_counts_are_checked),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
