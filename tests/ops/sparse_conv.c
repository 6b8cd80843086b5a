/** The convolution through the packed product has the bits of its definition, whatever the sizes, the layout, the instruction set and the threads. */
#include "../../ref/base/product.h"
#include "../../ref/ops/sparse_conv.h"
#include "cells_test.h"

static void compare(mr3d_kernel_layout layout, int64_t k, int64_t c_in, int64_t c_out, bool biased, int64_t size) {
  int64_t n, *cells = some_cells(size, 5, &n);
  const int64_t taps = k * k * k;
  double *x = numbers(n * c_in, 2, 1), *weight = numbers(taps * c_in * c_out, 1, 2), *bias = numbers(c_out, 1, 3), *plain = unwritten(n * c_out), *y = unwritten(n * c_out);
  int64_t *rows = malloc((size_t)(taps * n) * sizeof *rows);
  const mr3d_sparse_conv_in in = {n, n, cells, cells, k, c_in, c_out, x, layout, {weight, biased ? bias : NULL}};
  mr3d_neighbours(&exact, &(mr3d_neighbours_in){n, n, cells, cells, k, 1, -(k - 1) / 2, layout}, rows);
  mr3d_sparse_conv_plain(&in, rows, plain);
  for (int threads = 1; threads <= 3; threads++)
    for (int bytes = 64; bytes >= 16; bytes /= 2) {
      if (mr3d_product_widest(bytes) != bytes)
        continue;
      const mr3d_context context = {.op = &mr3d_reference_operators, .threads = threads};
      mr3d_sparse_conv(&context, &in, rows, y);
      assert_same_bits(y, plain, n * c_out);
    }
  mr3d_product_widest(64);
  free(cells);
  free(x);
  free(weight);
  free(bias);
  free(plain);
  free(y);
  free(rows);
}

static void packed_and_plain_have_the_same_bits(void **state) {
  (void)state;
  for (mr3d_kernel_layout layout = MR3D_KERNEL_X_FASTEST; layout <= MR3D_KERNEL_OUT_FIRST; layout++)
    for (int biased = 0; biased < 2; biased++) {
      compare(layout, 3, 1, 1, biased, 1);
      compare(layout, 3, 6, 16, biased, 7);
      compare(layout, 3, 17, 70, biased, 5);
      compare(layout, 2, 5, 9, biased, 6);
      compare(layout, 7, 6, 5, biased, 6);
      compare(layout, 1, 4, 3, biased, 12);
    }
}

static void a_cell_without_neighbours_gets_its_own_tap_and_the_bias_alone(void **state) {
  (void)state;
  const int64_t cells[] = {5, 5, 5};
  double weight[27] = {0}, y = 77;
  weight[13] = 3; /* the middle one */
  weight[12] = 100;
  mr3d_submanifold_conv(&exact, &(mr3d_sparse_conv_in){1, 1, cells, cells, 3, 1, 1, (double[]){2}, MR3D_KERNEL_X_FASTEST, {weight, (double[]){10}}}, &y);
  assert_true(y == 16);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(packed_and_plain_have_the_same_bits),
      cmocka_unit_test(a_cell_without_neighbours_gets_its_own_tap_and_the_bias_alone),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
