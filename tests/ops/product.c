/** The fast product has the bits of the plain loop, fused or not, whatever the size, the strides, the instruction set and the threads. */
#include "../../ref/base/product.h"
#include "ops_test.h"

enum { MARGIN = 3 };

/** x rows and y rows with gaps, w transposed or not; sentinels between and behind the rows of y. */
static void compare(int64_t rows, int64_t in, int64_t out, bool transposed, bool onto, bool fused, int threads) {
  const int64_t x_row = in + MARGIN, y_row = out + MARGIN, w_out = transposed ? 1 : in, w_in = transposed ? out : 1;
  double *x = numbers(rows * x_row, 3, 1), *w = numbers(out * in, 1, 2), *y = unwritten(rows * y_row + MARGIN);
  float *squares = calloc((size_t)(rows * y_row + 1), sizeof *squares);
  const mr3d_product_in p = {rows, in, out, x, x_row, w, w_out, w_in, y_row, onto, fused};
  double *start = numbers(rows * y_row, 5, 3);
  for (int64_t i = 0; i < rows * y_row && onto; i++)
    if (i % y_row < out) {
      y[i] = start[i];
      squares[i] = (float)fabs(start[i]);
    }
  mr3d_product(&p, threads, y);
  mr3d_product_squares(&p, threads, squares);
  for (int64_t r = 0; r < rows; r++)
    for (int64_t o = 0; o < y_row; o++) {
      double sum = onto ? start[r * y_row + o] : 0;
      float square = onto && o < out ? (float)fabs(start[r * y_row + o]) : 0;
      for (int64_t i = 0; i < in && o < out; i++) {
        const double a = x[r * x_row + i], b = w[o * w_out + i * w_in];
        sum = fused ? fma(a, b, sum) : sum + a * b;
        square = fmaf((float)(a * a), (float)(b * b), square);
      }
      const double expected[] = {o < out ? sum : 1e77, (double)square}, got[] = {y[r * y_row + o], (double)squares[r * y_row + o]};
      assert_same_bits(got, expected, 2);
    }
  for (int64_t i = rows * y_row; i < rows * y_row + MARGIN; i++)
    assert_true(y[i] == 1e77);
  free(x);
  free(w);
  free(y);
  free(start);
  free(squares);
}

static void awkward_sizes(void **state) {
  (void)state;
  const int64_t sizes[][3] = {{1, 1, 1},   {4, 8, 8},    {5, 7, 9},     {3, 256, 64},  {4, 257, 65},  {9, 255, 63},    {2, 512, 128}, {13, 600, 131},
                              {0, 5, 5},   {5, 0, 5},    {5, 5, 0},     {1, 896, 17},  {1, 4864, 7},  {131, 3, 200},   {8, 64, 787},  {64, 787, 64},
                              {6, 448, 64}, {7, 449, 65}, {12, 447, 63}, {13, 897, 33}};
  for (size_t k = 0; k < sizeof sizes / sizeof *sizes; k++)
    for (int threads = 1; threads <= 3; threads++)
      for (int mode = 0; mode < 8; mode++)
        for (int bytes = 64; bytes >= 16; bytes /= 2)
          if (mr3d_product_widest(bytes) == bytes) compare(sizes[k][0], sizes[k][1], sizes[k][2], mode & 1, mode & 2, mode & 4, threads);
  mr3d_product_widest(64);
}

static void an_addition_is_fused_with_a_product_only_where_asked(void **state) {
  (void)state;
  /* (1 + e)(1 - e) rounds to 1; fused with -1 it would leave -e^2 */
  const double e = 0x1p-30, x[2] = {1, 1 + e}, w[2] = {-1, 1 - e};
  for (int bytes = 16; bytes <= 64; bytes *= 2) {
    double y = 5;
    mr3d_product_widest(bytes);
    mr3d_product(&(mr3d_product_in){1, 2, 1, x, 2, w, 2, 1, 1}, 1, &y);
    assert_true(y == 0);
    mr3d_product(&(mr3d_product_in){1, 2, 1, x, 2, w, 2, 1, 1, .fused = true}, 1, &y);
    assert_true(y == -e * e);
    double many[5 * 9], x4[10], w9[18];
    for (int i = 0; i < 10; i++)
      x4[i] = x[i % 2];
    for (int i = 0; i < 18; i++)
      w9[i] = w[i % 2];
    mr3d_product(&(mr3d_product_in){5, 2, 9, x4, 2, w9, 2, 1, 9}, 1, many);
    for (int i = 0; i < 45; i++)
      assert_true(many[i] == 0);
    mr3d_product(&(mr3d_product_in){5, 2, 9, x4, 2, w9, 2, 1, 9, .fused = true}, 1, many);
    for (int i = 0; i < 45; i++)
      assert_true(many[i] == -e * e);
  }
}

static void sum_over_nothing_is_plus_zero_and_infinities_stay_in_their_row(void **state) {
  (void)state;
  double y[10] = {0};
  const double x[4] = {INFINITY, 1, 1, 1}, w[4] = {1, 2, 3, 4};
  mr3d_product(&(mr3d_product_in){5, 0, 2, x, 0, w, 0, 1, 2}, 1, y);
  for (int i = 0; i < 10; i++)
    assert_true(y[i] == 0 && !signbit(y[i]));
  mr3d_product(&(mr3d_product_in){2, 2, 2, x, 2, w, 2, 1, 2}, 1, y);
  assert_true(isinf(y[0]) && isinf(y[1]) && y[2] == 3 && y[3] == 7);
}

static void quotients_side_by_side_are_those_of_a_plain_loop(void **state) {
  (void)state;
  const double by[] = {8, 3, 0x1p-1040, INFINITY, 0};
  for (size_t k = 0; k < sizeof by / sizeof *by; k++)
    for (int64_t count = 0; count < 11; count++) {
      double *x = numbers(count + 1, 4, 1), *expected = calloc((size_t)count + 1, sizeof *expected);
      for (int64_t i = 0; i <= count; i++) {
        x[i] *= i % 3 == 2 ? 0x1p-1030 : 1; /* quotients that are subnormal, too */
        expected[i] = i < count ? x[i] / by[k] : x[i];
      }
      mr3d_divide(count, by[k], x);
      assert_same_bits(x, expected, count + 1);
      free(x);
      free(expected);
    }
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(awkward_sizes),
      cmocka_unit_test(an_addition_is_fused_with_a_product_only_where_asked),
      cmocka_unit_test(quotients_side_by_side_are_those_of_a_plain_loop),
      cmocka_unit_test(sum_over_nothing_is_plus_zero_and_infinities_stay_in_their_row),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
