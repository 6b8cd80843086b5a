/** SwiGLU (spec.md section 6). */
#include "ops_test.h"

static void known_values(void **state) {
  (void)state;
  const double gate[] = {0, 1, -1, 800, -800}, up[] = {5, 2, 2, 1, 1};
  double y[5];
  mr3d_swiglu(&exact, &(mr3d_swiglu_in){1, 5, gate, up}, y);
  assert_true(y[0] == 0);
  assert_near(y[1], 2 / (1 + exp(-1)), 1e-15);
  assert_near(y[2], -2 / (1 + exp(1)), 1e-15);
  assert_true(y[3] == 800 && y[4] == 0);
}

static void every_gate_agrees_with_long_double_down_to_the_smallest_normal_number(void **state) {
  (void)state;
  enum { COUNT = 3001 };
  double *gate = unwritten(COUNT), *up = numbers(COUNT, 3, 1), *y = unwritten(COUNT);
  for (int i = 0; i < COUNT; i++) {
    gate[i] = -713 + i * 0.3; /* e^713 overflows, silu(-713) does not yet underflow */
    up[i] += up[i] > 0 ? 1 : -1;
  }
  mr3d_swiglu(&exact, &(mr3d_swiglu_in){3, 1000, gate, up}, y);
  mr3d_swiglu(&exact, &(mr3d_swiglu_in){1, 1, gate + 3000, up + 3000}, y + 3000);
  for (int i = 0; i < COUNT; i++) {
    const long double g = gate[i], expected = g / (1 + expl(-g)) * (long double)up[i];
    assert_near_at(i, y[i], (double)expected, 4 * 0x1p-53 * fabs((double)expected) + fabs(gate[i] * up[i]) * 0x1p-1074);
  }
  free(gate);
  free(up);
  free(y);
}

static void float_code_stays_within_the_scale_and_gelu_or_swapped_inputs_do_not(void **state) {
  (void)state;
  enum { COUNT = 20000 };
  double *gate = numbers(COUNT, 12, 1), *up = numbers(COUNT, 3, 2), *reference = unwritten(COUNT), *scale = unwritten(COUNT);
  double *direct = unwritten(COUNT), *by_tanh = unwritten(COUNT), *gelu = unwritten(COUNT), *swapped = unwritten(COUNT);
  for (int i = 0; i < COUNT; i++) {
    gate[i] = (float)gate[i];
    up[i] = (float)up[i];
    direct[i] = (double)((float)gate[i] / (1 + expf(-(float)gate[i])) * (float)up[i]);
    by_tanh[i] = (double)((float)gate[i] * (0.5F * tanhf(0.5F * (float)gate[i]) + 0.5F) * (float)up[i]);
    gelu[i] = gate[i] * 0.5 * (1 + erf(gate[i] / sqrt(2))) * up[i];
    swapped[i] = up[i] / (1 + exp(-up[i])) * gate[i];
  }
  const mr3d_swiglu_in in = {1, COUNT, gate, up};
  const mr3d_units fp32 = mr3d_tier_units(MR3D_FP32);
  mr3d_swiglu(&exact, &in, reference);
  mr3d_swiglu_scale(&fp32, &in, scale);
  const double e = worst_error(COUNT, by_tanh, reference, scale);
  assert_honest("float code", worst_error(COUNT, direct, reference, scale), 0.1);
  assert_honest("float code by tanh", e, 0.1);
  assert_true(worst_error(COUNT, gelu, reference, scale) > 1000);
  assert_true(worst_error(COUNT, swapped, reference, scale) > 1000);
  free(gate);
  free(up);
  free(reference);
  free(scale);
  free(direct);
  free(by_tanh);
  free(gelu);
  free(swapped);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(known_values),
      cmocka_unit_test(every_gate_agrees_with_long_double_down_to_the_smallest_normal_number),
      cmocka_unit_test(float_code_stays_within_the_scale_and_gelu_or_swapped_inputs_do_not),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
