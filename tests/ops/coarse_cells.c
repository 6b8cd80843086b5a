/** Cells floor-divided by a stride (encoders.md, `down` and "Pooling"; pitfall dirty-scan: the last slab). */
#include "cells_test.h"

static void every_parent_is_there_once_in_order_with_all_its_children(void **state) {
  (void)state;
  for (int64_t size = 1; size <= 9; size++)
    for (int64_t stride = 1; stride <= 4; stride *= 2) {
      int64_t n, *cells = some_cells(size, 3, &n);
      mr3d_coarse_cells_out out;
      mr3d_coarse_cells(&exact, n, cells, stride, &out);
      int64_t expected = 0;
      for (int64_t x = 0; x < size; x++)
        for (int64_t y = 0; y < size; y++)
          for (int64_t z = 0; z < size; z++) {
            int64_t children = 0;
            for (int64_t p = 0; p < n; p++)
              if (cells[3 * p] / stride == x && cells[3 * p + 1] / stride == y && cells[3 * p + 2] / stride == z) {
                assert_int_equal(out.parent[p], expected);
                children++;
              }
            if (children == 0)
              continue;
            assert_true(expected < out.n && out.cells[3 * expected] == x && out.cells[3 * expected + 1] == y && out.cells[3 * expected + 2] == z);
            expected++;
          }
      assert_int_equal(out.n, expected);
      mr3d_coarse_cells_free(&out);
      free(cells);
    }
}

static void the_slab_of_an_even_largest_index_stays(void **state) {
  (void)state;
  const int64_t cells[] = {0, 0, 0, /**/ 4, 4, 4};
  mr3d_coarse_cells_out out;
  mr3d_coarse_cells(&exact, 2, cells, 2, &out);
  assert_int_equal(out.n, 2);
  assert_true(out.cells[3] == 2 && out.cells[4] == 2 && out.cells[5] == 2);
  mr3d_coarse_cells_free(&out);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(every_parent_is_there_once_in_order_with_all_its_children),
      cmocka_unit_test(the_slab_of_an_even_largest_index_stays),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
