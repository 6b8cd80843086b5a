/** Strided convolution (encoders.md, `down`; pitfall dirty-scan: the last slab). */
#include "cells_test.h"

enum { C_IN = 3, C_OUT = 4 };

/** By walking over the children and adding each to its parent, the other way round than the operator looks. */
static void every_child_gives_to_its_parent_through_the_tap_of_its_corner(void **state) {
  (void)state;
  for (int64_t size = 2; size <= 9; size++) {
    int64_t n, *cells = some_cells(size, 17, &n);
    mr3d_coarse_cells_out coarse;
    mr3d_coarse_cells(&exact, n, cells, 2, &coarse);
    double *x = numbers(n * C_IN, 2, 1), *weight = numbers(8 * C_IN * C_OUT, 1, 2), *y = unwritten(coarse.n * C_OUT);
    long double *expected = calloc((size_t)(coarse.n * C_OUT), sizeof *expected);
    for (int64_t p = 0; p < n; p++) {
      const int64_t parent = row_of(coarse.n, coarse.cells, cells[3 * p] / 2, cells[3 * p + 1] / 2, cells[3 * p + 2] / 2);
      const int64_t tap = cells[3 * p + 2] % 2 + 2 * (cells[3 * p + 1] % 2 + 2 * (cells[3 * p] % 2)); /* z fastest */
      for (int64_t i = 0; i < C_IN; i++)
        for (int64_t o = 0; o < C_OUT; o++)
          expected[parent * C_OUT + o] += (long double)x[p * C_IN + i] * (long double)weight[(tap * C_IN + i) * C_OUT + o];
    }
    mr3d_strided_conv(&exact, &(mr3d_sparse_conv_in){n, coarse.n, cells, coarse.cells, 2, C_IN, C_OUT, x, MR3D_KERNEL_Z_FASTEST, {weight, NULL}}, y);
    for (int64_t i = 0; i < coarse.n * C_OUT; i++)
      assert_near_at(i, y[i], (double)expected[i], 1e-13);
    free(cells);
    free(x);
    free(weight);
    free(y);
    free(expected);
    mr3d_coarse_cells_free(&coarse);
  }
}

int main(void) {
  const struct CMUnitTest tests[] = {cmocka_unit_test(every_child_gives_to_its_parent_through_the_tap_of_its_corner)};
  return cmocka_run_group_tests(tests, NULL, NULL);
}
