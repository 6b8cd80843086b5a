/** Which cells a convolution's taps see (encoders.md, `conv`, `down`, `subm3`). */
#include "cells_test.h"

/** Against a search through all cells, the tap's number made from its offset by the formula of each layout. */
static void compare(mr3d_kernel_layout layout, int64_t k, int64_t stride) {
  int64_t n, *cells = some_cells(6, 11, &n), *out_cells = cells, n_out = n;
  mr3d_coarse_cells_out coarse = {0};
  if (stride > 1) {
    mr3d_coarse_cells(&exact, n, cells, stride, &coarse);
    out_cells = coarse.cells;
    n_out = coarse.n;
  }
  const int64_t first = stride > 1 ? 0 : -(k - 1) / 2;
  int64_t *rows = malloc((size_t)(k * k * k * n_out) * sizeof *rows), found = 0;
  mr3d_neighbours(&exact, &(mr3d_neighbours_in){n, n_out, cells, out_cells, k, stride, first, layout}, rows);
  for (int64_t dx = 0; dx < k; dx++)
    for (int64_t dy = 0; dy < k; dy++)
      for (int64_t dz = 0; dz < k; dz++)
        for (int64_t p = 0; p < n_out; p++) {
          const int64_t tap = layout == MR3D_KERNEL_X_FASTEST ? dx + k * (dy + k * dz) : dz + k * (dy + k * dx);
          const int64_t expected = row_of(n, cells, stride * out_cells[3 * p] + dx + first, stride * out_cells[3 * p + 1] + dy + first, stride * out_cells[3 * p + 2] + dz + first);
          assert_int_equal(rows[tap * n_out + p], expected);
          found += expected >= 0;
        }
  assert_true(found > n_out && found < k * k * k * n_out); /* some are there, some are missing */
  free(rows);
  free(cells);
  mr3d_coarse_cells_free(&coarse);
}

static void taps_are_numbered_as_each_layout_says(void **state) {
  (void)state;
  compare(MR3D_KERNEL_X_FASTEST, 3, 1);
  compare(MR3D_KERNEL_X_FASTEST, 7, 1);
  compare(MR3D_KERNEL_Z_FASTEST, 2, 2);
  compare(MR3D_KERNEL_OUT_FIRST, 3, 1);
}

int main(void) {
  const struct CMUnitTest tests[] = {cmocka_unit_test(taps_are_numbered_as_each_layout_says)};
  return cmocka_run_group_tests(tests, NULL, NULL);
}
