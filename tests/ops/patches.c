/** Runs of tokens along a curve (encoders.md, "Attention in patches"). */
#include "cells_test.h"

static const mr3d_point_order both[] = {MR3D_Z, MR3D_Z_TRANS};

static mr3d_patches_out patches(int64_t n, const int64_t *cells, int64_t block, int64_t size) {
  mr3d_patches_out out;
  mr3d_patches(&exact, &(mr3d_patches_in){n, cells, 2, both, 9, block, size}, &out);
  return out;
}

static void seven_tokens_in_runs_of_three_by_hand(void **state) {
  (void)state;
  const int64_t cells[] = {0, 0, 0, 0, 0, 1, 0, 0, 2, 0, 0, 3, 0, 0, 4, 0, 0, 5, 0, 0, 6}; /* already in the order of their codes */
  mr3d_patches_out out = patches(7, cells, 0, 3);
  const int64_t token[] = {0, 1, 2, /**/ 3, 4, 5, /**/ 6, 4, 5}; /* places 1 and 2 of the run before fill the last */
  assert_int_equal(out.runs, 3);
  assert_int_equal(out.K, 3);
  assert_memory_equal(out.token, token, sizeof token);
  for (int i = 0; i < 9; i++)
    assert_int_equal(out.keep[i], i < 7);
  mr3d_patches_free(&out);
}

/** Codes 73, 2, 4 along z and 73, 4, 2 along z-trans. */
static void the_first_cell_need_not_be_the_first_on_the_curve(void **state) {
  (void)state;
  const int64_t cells[] = {0, 0, 7, 0, 1, 0, 1, 0, 0}, along_z[] = {1, 2, 0}, along_trans[] = {2, 1, 0};
  mr3d_patches_out z = patches(3, cells, 0, 3), trans = patches(3, cells, 1, 3);
  assert_memory_equal(z.token, along_z, sizeof along_z);
  assert_memory_equal(trans.token, along_trans, sizeof along_trans);
  mr3d_patches_free(&z);
  mr3d_patches_free(&trans);
}

static void no_tokens_are_no_runs(void **state) {
  (void)state;
  const int64_t none[3] = {0};
  mr3d_patches_out out = patches(0, none, 0, 1024);
  assert_true(out.runs == 0 && out.K == 0);
  mr3d_patches_free(&out);
}

static void few_tokens_are_one_run_and_whole_runs_need_no_fillers(void **state) {
  (void)state;
  const int64_t cells[] = {0, 0, 0, 0, 0, 1, 0, 0, 2, 0, 0, 3};
  mr3d_patches_out few = patches(4, cells, 0, 1024), whole = patches(4, cells, 0, 2);
  assert_true(few.runs == 1 && few.K == 4 && whole.runs == 2 && whole.K == 2);
  for (int i = 0; i < 4; i++)
    assert_true(few.keep[i] && whole.keep[i] && few.token[i] == i && whole.token[i] == i);
  mr3d_patches_free(&few);
  mr3d_patches_free(&whole);
}

static void tokens_are_sorted_by_their_codes_and_the_block_chooses_the_order(void **state) {
  (void)state;
  int64_t n, *cells = some_cells(6, 2, &n);
  uint64_t *codes = malloc((size_t)n * sizeof *codes);
  for (int64_t block = 0; block < 5; block++) {
    mr3d_patches_out out = patches(n, cells, block, 10);
    mr3d_z_order(&exact, block % 2 ? MR3D_Z_TRANS : MR3D_Z, n, cells, codes);
    for (int64_t i = 1; i < n; i++)
      assert_true(codes[out.token[i - 1]] < codes[out.token[i]]);
    mr3d_patches_free(&out);
  }
  free(codes);
  free(cells);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(seven_tokens_in_runs_of_three_by_hand),
      cmocka_unit_test(the_first_cell_need_not_be_the_first_on_the_curve),
      cmocka_unit_test(no_tokens_are_no_runs),
      cmocka_unit_test(few_tokens_are_one_run_and_whole_runs_need_no_fillers),
      cmocka_unit_test(tokens_are_sorted_by_their_codes_and_the_block_chooses_the_order),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
