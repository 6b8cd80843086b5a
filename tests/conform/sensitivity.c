/** What the judge sees, on the committed cases: planted errors of the sizes that docs/tolerance.md promises. */
#include <math.h>

#include "../suite.h"
#include "sensitivity.h"

static mr3d_sensitivity *sense(const char *level, const char *ops, const char *glob, mr3d_tier tier) {
  mr3d_error error = {0};
  mr3d_sensitivity *x = NULL;
  mr3d_sensitivity_options options = {.selection = {.op = ops, .level = level, .case_glob = glob, .tiers = 1u << tier}, .without = "*/*canonical*", .golden_dir = committed_set()};
  if (mr3d_sensitivity_run(&options, NULL, NULL, &x, &error) != MR3D_OK) fail_msg("%s", error.message);
  for (int i = 0; i < x->n_cases; i++)
    if (x->sensed[i].false_alarm) fail_msg("honest arithmetic fails %s", x->cases[i]->id);
  return x;
}

static void sees(const mr3d_sensitivity *x, const char *op, mr3d_defect defect, double size) {
  const mr3d_case *where;
  double least = mr3d_sensitivity_least(x, 0, op, defect, &where);
  if (!(least <= size)) fail_msg("%s, %s: %g is the least that is seen, %g is promised", op, mr3d_defect_text(defect), least, size);
  assert_non_null(where);
}

static void outputs_times_1_003_are_seen_at_bf16(void **state) {
  (void)state;
  mr3d_sensitivity *x = sense("L0", "rope1d,mixed_rope,rmsnorm,linear,attention", NULL, MR3D_BF16_TIER);
  static const char *const ops[] = {"rope1d", "mixed_rope", "rmsnorm", "linear", "attention"};
  for (int i = 0; i < 5; i++) sees(x, ops[i], MR3D_DEFECT_SCALE, 0.003);
  sees(x, "rope1d", MR3D_DEFECT_ANGLE, 0.01);
  sees(x, "mixed_rope", MR3D_DEFECT_ANGLE, 0.01);
  sees(x, "attention", MR3D_DEFECT_HEAD, 0.01);
  sees(x, "attention", MR3D_DEFECT_TOKEN, 0.03);
  sees(x, "attention", MR3D_DEFECT_KEY, 0.001);
  mr3d_sensitivity_free(&x);
}

static void a_few_roundings_are_seen_at_fp32(void **state) {
  (void)state;
  mr3d_sensitivity *x = sense("L0", "rmsnorm,linear,attention", NULL, MR3D_FP32);
  sees(x, "rmsnorm", MR3D_DEFECT_SCALE, 10 * 0x1p-24);
  sees(x, "linear", MR3D_DEFECT_TOKEN, 20 * 0x1p-24);
  sees(x, "attention", MR3D_DEFECT_KEY, 10 * 0x1p-24);
  mr3d_sensitivity_free(&x);
}

/** Few tokens that attend to each other: their errors have less freedom than rows. */
static void honest_arithmetic_of_a_point_encoder_is_not_refused(void **state) {
  (void)state;
  mr3d_sensitivity *x = sense("L5", "encode_points", "encode-points/sonata", MR3D_FP32);
  sees(x, "encode_points", MR3D_DEFECT_SCALE, 50 * 0x1p-24);
  sees(x, "encode_points", MR3D_DEFECT_TOKEN, 300 * 0x1p-24);
  mr3d_sensitivity_free(&x);
}

static void what_is_no_output_of_the_operator_is_not_spoiled(void **state) {
  (void)state;
  mr3d_sensitivity *x = sense("L0", "rmsnorm", "rmsnorm/*", MR3D_FP32);
  const mr3d_case *where;
  assert_true(isnan(mr3d_sensitivity_least(x, 0, "rmsnorm", MR3D_DEFECT_ANGLE, &where))); /* no rotation */
  assert_true(isnan(mr3d_sensitivity_least(x, 0, "rmsnorm", MR3D_DEFECT_KEY, &where)));   /* no keys */
  assert_true(isnan(mr3d_sensitivity_least(x, 0, "linear", MR3D_DEFECT_SCALE, &where)));  /* no case */
  mr3d_sensitivity_free(&x);
}

static void an_empty_selection_is_an_error(void **state) {
  (void)state;
  mr3d_error error = {0};
  mr3d_sensitivity *x = NULL;
  assert_int_equal(mr3d_sensitivity_run(&(mr3d_sensitivity_options){.without = "*", .golden_dir = committed_set()}, NULL, NULL, &x, &error), MR3D_INVALID);
  assert_non_null(strstr(error.message, "empty"));
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(outputs_times_1_003_are_seen_at_bf16),
      cmocka_unit_test(a_few_roundings_are_seen_at_fp32),
      cmocka_unit_test(honest_arithmetic_of_a_point_encoder_is_not_refused),
      cmocka_unit_test(what_is_no_output_of_the_operator_is_not_spoiled),
      cmocka_unit_test(an_empty_selection_is_an_error),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
