/** Matrix product with bias (spec.md section 6). */
#include "../../ref/ops/linear.h"
#include "ops_test.h"

static void rows_of_the_weight_are_outputs_and_the_bias_comes_last(void **state) {
  (void)state;
  const double x[] = {1, 2, 3, /**/ 0, -1, 0}, weight[] = {1, 10, 100, /**/ 0, 0, 5}, bias[] = {0.5, -7};
  double y[4];
  mr3d_linear(&exact, &(mr3d_linear_in){2, 3, 2, x, weight, bias}, y);
  const double expected[] = {321.5, 8, -9.5, -7};
  assert_same_bits(y, expected, 4);
  mr3d_linear(&exact, &(mr3d_linear_in){2, 3, 2, x, weight, NULL}, y);
  assert_true(y[0] == 321 && y[3] == 0);
}

static void sum_runs_in_index_order_and_starts_from_zero(void **state) {
  (void)state;
  /* 1e16 + 1 + ... loses each 1; 1 + ... + 1 + 1e16 does not; the bias does not take part until the end */
  double x[9] = {1e16, 1, 1, 1, 1, 1, 1, 1, 1}, ones[9] = {1, 1, 1, 1, 1, 1, 1, 1, 1}, y;
  const double bias[1] = {-1e16};
  mr3d_linear(&exact, &(mr3d_linear_in){1, 9, 1, x, ones, bias}, &y);
  assert_true(y == 0);
  x[0] = 1;
  x[8] = 1e16;
  mr3d_linear(&exact, &(mr3d_linear_in){1, 9, 1, x, ones, bias}, &y);
  assert_true(y == 8);
}

static void every_size_has_the_bits_of_the_plain_loop_and_is_near_long_double(void **state) {
  (void)state;
  const int64_t sizes[][3] = {{1, 1, 1}, {0, 4, 4}, {3, 0, 5}, {2, 5, 0}, {1, 896, 128}, {7, 300, 65}, {5, 17, 131}};
  for (size_t k = 0; k < sizeof sizes / sizeof *sizes; k++) {
    const int64_t rows = sizes[k][0], n = sizes[k][1], out = sizes[k][2];
    double *x = numbers(rows * n, 3, 1), *w = numbers(out * n, 0.1, 2), *bias = numbers(out, 300, 3);
    double *y = unwritten(rows * out), *plain = unwritten(rows * out), *scale = unwritten(rows * out);
    const mr3d_linear_in in = {rows, n, out, x, w, bias};
    const mr3d_units fp64 = mr3d_tier_units(MR3D_FP64);
    mr3d_linear(&exact, &in, y);
    mr3d_linear_plain(&in, plain);
    mr3d_linear_scale(&fp64, &in, scale);
    assert_same_bits(y, plain, rows * out);
    for (int64_t i = 0; i < rows * out; i++) {
      long double sum = bias[i % out];
      for (int64_t j = 0; j < n; j++)
        sum += (long double)x[i / out * n + j] * (long double)w[i % out * n + j];
      assert_near_at(i, y[i], (double)sum, scale[i] + 1e-300);
    }
    free(x);
    free(w);
    free(bias);
    free(y);
    free(plain);
    free(scale);
  }
}


/* What a file has narrow is widened within the product: the bits are those of the widened weight. */
static void stored_weights_have_the_bits_of_widened_ones(void **state) {
  (void)state;
  const mr3d_dtype types[] = {MR3D_BF16, MR3D_F16, MR3D_F32};
  const int64_t sizes[][3] = {{1, 1, 1}, {1, 896, 131}, {4, 512, 8}, {3, 513, 65}, {2, 1030, 9}, {2, 0, 3}, {6, 70, 130}};
  for (size_t t = 0; t < sizeof types / sizeof *types; t++)
    for (size_t k = 0; k < sizeof sizes / sizeof *sizes; k++)
      for (int threads = 1; threads <= 2; threads++) {
        const int64_t rows = sizes[k][0], n = sizes[k][1], out = sizes[k][2];
        double *x = numbers(rows * n, 3, 1), *w = numbers(out * n, 0.1, 2), *bias = numbers(out, 300, 3), *y = unwritten(rows * out), *plain = unwritten(rows * out);
        mr3d_tensor stored = {.dtype = types[t], .rank = 2, .shape = {out, n}, .data = calloc((size_t)(out * n + 1), mr3d_dtype_size(types[t]))};
        mr3d_tensor_from_double(&stored, w);
        mr3d_tensor_to_double(&stored, w);
        mr3d_linear_plain(&(mr3d_linear_in){rows, n, out, x, w, bias}, plain);
        mr3d_context context = exact;
        context.threads = threads;
        mr3d_linear(&context, &(mr3d_linear_in){.rows = rows, .in = n, .out = out, .x = x, .bias = bias, .stored = &stored}, y);
        assert_same_bits(y, plain, rows * out);
        free(x), free(w), free(bias), free(y), free(plain), free(stored.data);
      }
}

static void float_loops_stay_within_the_scale_wherever_they_start(void **state) {
  (void)state;
  enum { ROWS = 50, K = 896, OUT = 64, COUNT = ROWS * OUT };
  double *x = numbers(ROWS * K, 2, 3), *w = numbers(OUT * K, 0.05, 4), *bias = numbers(OUT, 300, 5);
  double *reference = unwritten(COUNT), *scale = unwritten(COUNT), *from_zero = unwritten(COUNT), *from_bias = unwritten(COUNT), *wrong = unwritten(COUNT);
  for (int i = 0; i < ROWS * K; i++)
    x[i] = (float)x[i];
  for (int i = 0; i < OUT * K; i++)
    w[i] = (float)w[i];
  for (int i = 0; i < OUT; i++)
    bias[i] = (float)bias[i];
  const mr3d_linear_in in = {ROWS, K, OUT, x, w, bias};
  const mr3d_units fp32 = mr3d_tier_units(MR3D_FP32);
  mr3d_linear(&exact, &in, reference);
  mr3d_linear_scale(&fp32, &in, scale);
  for (int i = 0; i < COUNT; i++) {
    float zero = 0, start = (float)bias[i % OUT];
    for (int j = 0; j < K; j++) {
      zero += (float)x[i / OUT * K + j] * (float)w[i % OUT * K + j];
      start += (float)x[i / OUT * K + j] * (float)w[i % OUT * K + j];
    }
    from_zero[i] = (double)(zero + (float)bias[i % OUT]);
    from_bias[i] = (double)start;
    wrong[i] = reference[i] + (i % OUT == 1 ? 1e-2 : 0);
  }
  assert_honest("float loops from 0", worst_error(COUNT, from_zero, reference, scale), 0.02);
  const double e = worst_error(COUNT, from_bias, reference, scale);
  assert_honest("float loops from the bias", e, 0.05);
  assert_true(worst_error(COUNT, wrong, reference, scale) > 4);
  free(x);
  free(w);
  free(bias);
  free(reference);
  free(scale);
  free(from_zero);
  free(from_bias);
  free(wrong);
}

static void tf32_inputs_rounded_or_cut_stay_within_its_scale_and_bf16_inputs_do_not(void **state) {
  (void)state;
  enum { ROWS = 50, K = 896, OUT = 64, COUNT = ROWS * OUT };
  double *x = numbers(ROWS * K, 2, 3), *w = numbers(OUT * K, 0.05, 4), *kept[2][3];
  double *reference = unwritten(COUNT), *scale = unwritten(COUNT), *y = unwritten(COUNT);
  for (int m = 0; m < 2; m++)
    for (int way = 0; way < 3; way++) {
      const double *from = m == 0 ? x : w;
      kept[m][way] = unwritten((m == 0 ? ROWS : OUT) * K);
      for (int i = 0; i < (m == 0 ? ROWS : OUT) * K; i++) {
        const float value = (float)from[i];
        uint32_t bits;
        memcpy(&bits, &value, sizeof bits);
        bits = way == 0 ? (bits + 0x1000) & ~UINT32_C(0x1FFF) : bits & ~UINT32_C(0x1FFF); /* to nearest; cut */
        float result;
        memcpy(&result, &bits, sizeof result);
        kept[m][way][i] = way == 2 ? mr3d_bf16_to_double(mr3d_bf16_from_double(from[i])) : (double)result;
      }
    }
  const mr3d_units tf32 = mr3d_tier_units(MR3D_TF32);
  mr3d_linear(&exact, &(mr3d_linear_in){ROWS, K, OUT, x, w, NULL}, reference);
  mr3d_linear_scale(&tf32, &(mr3d_linear_in){ROWS, K, OUT, x, w, NULL}, scale);
  double e[3];
  for (int way = 0; way < 3; way++) {
    mr3d_linear(&exact, &(mr3d_linear_in){ROWS, K, OUT, kept[0][way], kept[1][way], NULL}, y);
    e[way] = worst_error(COUNT, y, reference, scale);
  }
  assert_honest("tf32 inputs to nearest", e[0], 0.5);
  assert_honest("tf32 inputs cut", e[1], 0.5);
  assert_true(e[2] > 4);
  for (int way = 0; way < 3; way++) {
    free(kept[0][way]);
    free(kept[1][way]);
  }
  free(x);
  free(w);
  free(reference);
  free(scale);
  free(y);
}

static void emulated_sums_are_fused(void **state) {
  (void)state;
  const double e = 0x1p-30, x[2] = {1, 1 + e}, w[2] = {-1, 1 - e}; /* (1 + e)(1 - e) rounds to 1 */
  mr3d_arithmetic arithmetic = mr3d_arithmetic_of(MR3D_FP32, MR3D_NEAREST, false, 1);
  arithmetic.points = 0;
  uint64_t calls = 0;
  double y = 5;
  mr3d_linear(&(mr3d_context){&mr3d_reference_operators, &arithmetic, 1, &calls}, &(mr3d_linear_in){.rows = 1, .in = 2, .out = 1, .x = x, .weight = w}, &y);
  assert_true(y == -e * e);
  mr3d_linear(&exact, &(mr3d_linear_in){.rows = 1, .in = 2, .out = 1, .x = x, .weight = w}, &y);
  assert_true(y == 0);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(rows_of_the_weight_are_outputs_and_the_bias_comes_last),
      cmocka_unit_test(sum_runs_in_index_order_and_starts_from_zero),
      cmocka_unit_test(every_size_has_the_bits_of_the_plain_loop_and_is_near_long_double),
      cmocka_unit_test(stored_weights_have_the_bits_of_widened_ones),
      cmocka_unit_test(emulated_sums_are_fused),
      cmocka_unit_test(float_loops_stay_within_the_scale_wherever_they_start),
      cmocka_unit_test(tf32_inputs_rounded_or_cut_stay_within_its_scale_and_bf16_inputs_do_not),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
