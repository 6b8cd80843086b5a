/** Submanifold convolution (encoders.md, `conv` and `subm3`). */
#include "cells_test.h"

enum { C_IN = 5, C_OUT = 4, SIZE = 7 };

/** As a dense convolution over a grid of zeros with a margin, axis by axis, then read at the cells: another formulation. */
static void compare_with_dense(mr3d_kernel_layout layout, int64_t k) {
  const int64_t half = (k - 1) / 2, edge = SIZE + 2 * half, taps = k * k * k;
  int64_t n, *cells = some_cells(SIZE, 13, &n);
  double *x = numbers(n * C_IN, 2, 1), *weight = numbers(taps * C_IN * C_OUT, 1, 2), *bias = numbers(C_OUT, 1, 3), *y = unwritten(n * C_OUT);
  double *dense = calloc((size_t)(edge * edge * edge * C_IN), sizeof *dense);
  for (int64_t p = 0; p < n; p++)
    memcpy(dense + (((cells[3 * p] + half) * edge + cells[3 * p + 1] + half) * edge + cells[3 * p + 2] + half) * C_IN, x + p * C_IN, C_IN * sizeof *x);
  mr3d_submanifold_conv(&exact, &(mr3d_sparse_conv_in){n, n, cells, cells, k, C_IN, C_OUT, x, layout, {weight, bias}}, y);
  for (int64_t p = 0; p < n; p++)
    for (int64_t o = 0; o < C_OUT; o++) {
      long double sum = (long double)bias[o], size = 0;
      for (int64_t a = 0; a < k; a++)
        for (int64_t b = 0; b < k; b++)
          for (int64_t c = 0; c < k; c++)
            for (int64_t i = 0; i < C_IN; i++) {
              const double value = dense[(((cells[3 * p] + a) * edge + cells[3 * p + 1] + b) * edge + cells[3 * p + 2] + c) * C_IN + i];
              const double w = layout == MR3D_KERNEL_X_FASTEST ? weight[((c * k + b) * k + a) * C_IN * C_OUT + i * C_OUT + o] : weight[(((o * k + a) * k + b) * k + c) * C_IN + i];
              sum += (long double)value * (long double)w;
              size += fabsl((long double)value * (long double)w);
            }
      assert_near_at(p * C_OUT + o, y[p * C_OUT + o], (double)sum, 1e-15 * (double)size + 1e-15);
    }
  free(cells);
  free(x);
  free(weight);
  free(bias);
  free(y);
  free(dense);
}

static void it_is_the_dense_convolution_at_the_occupied_cells(void **state) {
  (void)state;
  compare_with_dense(MR3D_KERNEL_X_FASTEST, 3);
  compare_with_dense(MR3D_KERNEL_X_FASTEST, 7);
  compare_with_dense(MR3D_KERNEL_OUT_FIRST, 3);
}

static void each_tap_reads_the_cell_on_its_own_side(void **state) {
  (void)state;
  const int64_t cells[] = {4, 5, 5, /**/ 5, 5, 5, /**/ 5, 5, 7};
  const double x[] = {10, 1, 1000};
  double y[3], scenescript[27] = {0}, sonata[27] = {0};
  scenescript[0 + 3 * (1 + 3 * 1)] = 1; /* dx = -1: x fastest */
  mr3d_submanifold_conv(&exact, &(mr3d_sparse_conv_in){3, 3, cells, cells, 3, 1, 1, x, MR3D_KERNEL_X_FASTEST, {scenescript, NULL}}, y);
  assert_true(y[0] == 0 && y[1] == 10 && y[2] == 0);
  sonata[(0 * 3 + 1) * 3 + 1] = 1; /* a = 0 */
  mr3d_submanifold_conv(&exact, &(mr3d_sparse_conv_in){3, 3, cells, cells, 3, 1, 1, x, MR3D_KERNEL_OUT_FIRST, {sonata, NULL}}, y);
  assert_true(y[0] == 0 && y[1] == 10 && y[2] == 0);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(it_is_the_dense_convolution_at_the_occupied_cells),
      cmocka_unit_test(each_tap_reads_the_cell_on_its_own_side),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
