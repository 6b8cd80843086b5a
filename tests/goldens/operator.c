/** One operator against the golden set: C reference and PyTorch model, written apart from one specification, give the same numbers. */
#include <math.h>

#include "../suite.h"

static const char *op; /* argv[1]: one test an operator */

static void reference_agrees_with_pytorch_on_every_case(void **state) {
  (void)state;
  char glob[64];
  snprintf(glob, sizeof glob, "%s/*", op);
  for (char *c = glob; *c; c++)
    if (*c == '_') *c = '-';
  mr3d_run *run =
      run_suite((mr3d_run_options){.backend = "builtin:reference", .selection = {.case_glob = glob, .tiers = 1u << MR3D_FP64}}, NULL, NULL);
  double worst = 0;
  int agreed = 0, skipped = 0;
  for (int i = 0; i < run->n_results; i++) {
    const mr3d_result *result = &run->results[i];
    if (result->verdict == MR3D_SKIPPED) { /* real prompts, without the data folder */
      assert_true(result->test->needs_data && !getenv("MR3D_DATA"));
      skipped++;
      continue;
    }
    if (result->verdict != MR3D_PASSED) fail_msg("%s: %s", result->test->id, result->reason);
    assert_false(isnan(result->golden_worst)); /* compared, not merely run */
    worst = fmax(worst, result->golden_worst);
    agreed++;
  }
  assert_true(agreed > 0);
  print_message("%s: %d cases agree, largest difference %.2g of the tensor's scale; %d skipped\n", op, agreed, worst, skipped);
  mr3d_run_free(&run);
}

int main(int argc, char **argv) {
  if (argc != 2) return fprintf(stderr, "usage: %s OPERATOR\n", argv[0]), 2;
  op = argv[1];
  const struct CMUnitTest tests[] = {cmocka_unit_test(reference_agrees_with_pytorch_on_every_case)};
  return cmocka_run_group_tests_name(op, tests, NULL, NULL);
}
