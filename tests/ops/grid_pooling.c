/** Grid pooling (encoders.md, "Pooling"). */
#include "cells_test.h"

enum { C = 5, C_OUT = 7 };

static void the_largest_of_the_children_is_normed_and_activated(void **state) {
  (void)state;
  int64_t n, *cells = some_cells(5, 21, &n);
  mr3d_coarse_cells_out coarse;
  mr3d_coarse_cells(&exact, n, cells, 2, &coarse);
  double *x = numbers(n * C, 2, 1), *weight = numbers(C * C_OUT, 1, 2), *bias = numbers(C_OUT, 1, 3), *scale = numbers(C_OUT, 2, 4), *shift = numbers(C_OUT, 1, 5);
  double *y = unwritten(coarse.n * C_OUT);
  mr3d_grid_pooling(&exact, &(mr3d_grid_pooling_in){n, C, C_OUT, x, coarse.parent, coarse.n, 1e-5, {weight, bias}, {scale, shift}}, y);
  for (int64_t t = 0; t < coarse.n; t++) {
    long double largest[C_OUT], mean = 0, variance = 0;
    for (int64_t c = 0; c < C_OUT; c++) {
      largest[c] = -1e30L;
      for (int64_t p = 0; p < n; p++) {
        if (cells[3 * p] / 2 != coarse.cells[3 * t] || cells[3 * p + 1] / 2 != coarse.cells[3 * t + 1] || cells[3 * p + 2] / 2 != coarse.cells[3 * t + 2])
          continue;
        long double value = (long double)bias[c];
        for (int64_t i = 0; i < C; i++)
          value += (long double)x[p * C + i] * (long double)weight[c * C + i];
        largest[c] = fmaxl(largest[c], value);
      }
      mean += largest[c] / C_OUT;
    }
    for (int64_t c = 0; c < C_OUT; c++)
      variance += (largest[c] - mean) * (largest[c] - mean) / C_OUT;
    for (int64_t c = 0; c < C_OUT; c++) {
      const long double v = (largest[c] - mean) / sqrtl(variance + 1e-5L) * (long double)scale[c] + (long double)shift[c];
      assert_near_at(t * C_OUT + c, y[t * C_OUT + c], (double)(v / 2 * (1 + erfl(v / sqrtl(2)))), 1e-13);
    }
  }
  free(cells);
  free(x);
  free(weight);
  free(bias);
  free(scale);
  free(shift);
  free(y);
  mr3d_coarse_cells_free(&coarse);
}

int main(void) {
  const struct CMUnitTest tests[] = {cmocka_unit_test(the_largest_of_the_children_is_normed_and_activated)};
  return cmocka_run_group_tests(tests, NULL, NULL);
}
