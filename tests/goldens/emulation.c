/**
 * Emulated arithmetic against the arithmetic it emulates: rounded to nearest at the points where PyTorch's eager model stores a value, the reference errs
 * by what that model erred when the golden set was made (docs/tolerance.md, "The yardstick").
 */
#include <math.h>

#include "../folder.h"
#include "../suite.h"
#include "posing.h"

/* The widest profile, less what the eager model keeps: F.linear adds the bias in its accumulator, and points are turned as complex numbers of binary32. */
#define EAGER (~(1u << MR3D_AT_BEFORE_BIAS | 1u << MR3D_AT_TABLE_3D | 1u << MR3D_AT_TURNED_3D))

#define ENOUGH 800       /* values of an output: fewer say little about a root mean square */
#define ONE_LAYER 0.015  /* how far the ratio of both errors may be from 1; every point that is wrong moves some ratio by 0.03 or more */
#define MANY_LAYERS 0.15 /* a value rounded the other way in one layer changes all after it: from then on the two are independent draws */

static char folder[256];
static mr3d_suite *suite;

static int open_suite(void **state) {
  (void)state;
  mr3d_error error = {0};
  make_folder(folder);
  if (mr3d_suite_open(committed_set(), NULL, &suite, &error) != MR3D_OK) fail_msg("%s", error.message);
  return 0;
}

static int close_suite(void **state) {
  (void)state;
  mr3d_suite_close(&suite);
  remove_folder(folder);
  return 0;
}

static bool has_tag(const mr3d_case *test, const char *tag) {
  for (int t = 0; t < test->n_tags; t++)
    if (strcmp(test->tags[t], tag) == 0) return true;
  return false;
}

static mr3d_bundle *golden_of(const mr3d_case *test) {
  char name[128], path[4200];
  mr3d_error error = {0};
  mr3d_bundle *file = NULL;
  snprintf(name, sizeof name, "%s", test->id);
  for (char *c = name; *c; c++)
    if (*c == '/') *c = '_';
  snprintf(path, sizeof path, "%s/set/%s.safetensors.gz", committed_set(), name);
  if (mr3d_safetensors_open(path, 0, &file, &error) != MR3D_OK) fail_msg("%s", error.message);
  return file;
}

static const mr3d_tensor *tensor_of(const mr3d_bundle *golden, int step, const char *name, const char *suffix) {
  char key[160];
  snprintf(key, sizeof key, "%d.%s%s", step, name, suffix);
  return mr3d_bundle_find(golden, key);
}

/** Root mean square error of the eager model over that of the emulation; NAN where the golden has too few of its values. */
static double ratio_of(const mr3d_bundle *golden, int step, mr3d_tier tier, const mr3d_tensor *truth, const mr3d_tensor *emulated) {
  char suffix[32];
  snprintf(suffix, sizeof suffix, ".stock.%s", mr3d_tier_name(tier));
  const mr3d_tensor *stock = tensor_of(golden, step, truth->name, suffix), *rows = tensor_of(golden, step, truth->name, ".row_index");
  int64_t n = stock ? mr3d_tensor_count(stock) : 0, columns = rows ? n / mr3d_tensor_count(rows) : n;
  if (n < ENOUGH) return NAN;
  double *eager = mr3d_allocate(n, sizeof *eager), eager_squares = 0, squares = 0;
  mr3d_tensor_to_double(stock, eager);
  for (int64_t i = 0; i < n; i++) {
    int64_t at = rows ? ((const int64_t *)rows->data)[i / columns] * columns + i % columns : i;
    double exact = ((const double *)truth->data)[at], error = ((const double *)emulated->data)[at] - exact;
    eager_squares += (eager[i] - exact) * (eager[i] - exact);
    squares += error * error;
  }
  free(eager);
  return sqrt(eager_squares / squares);
}

/** The ratio that is farthest from 1 among the outputs of a case. Their number is added to *outputs. */
static double worst_ratio(const mr3d_case *test, mr3d_tier tier, uint32_t points, int *outputs) {
  mr3d_error error = {0};
  double worst = 1;
  mr3d_bundle *golden = golden_of(test);
  mr3d_arithmetic arithmetic = mr3d_arithmetic_of(tier, MR3D_NEAREST, false, 1);
  arithmetic.points = points;
  mr3d_weights_cache *weights = mr3d_weights_cache_new();
  mr3d_posing posed;
  mr3d_posing_open(&posed, suite, test, tier, 0, folder, weights, 0);
  mr3d_server *emulated = mr3d_server_new(&(mr3d_server_options){.weights = weights, .emulate = true, .arithmetic = arithmetic});
  for (int s = 0; s < test->n_steps; s++) {
    mr3d_bundle *answer = NULL;
    mr3d_status status = mr3d_posing_request(&posed, s, &error);
    if (status == MR3D_OK) status = mr3d_posing_answer(&posed, s, NULL, &error);
    if (status == MR3D_OK) status = mr3d_server_answer(emulated, posed.requests[s], &answer, &error);
    if (status != MR3D_OK) fail_msg("%s: %s", test->id, error.message);
    for (int i = 0; i < mr3d_bundle_count(posed.answers[s]); i++) {
      const mr3d_tensor *truth = mr3d_bundle_at(posed.answers[s], i);
      if (strchr(truth->name, ':') || truth->dtype != MR3D_F64) continue;
      double ratio = ratio_of(golden, s, tier, truth, mr3d_bundle_find(answer, truth->name));
      if (isnan(ratio)) continue;
      ++*outputs;
      if (fabs(ratio - 1) > fabs(worst - 1)) worst = ratio;
    }
    mr3d_bundle_free(&answer);
  }
  mr3d_posing_close(&posed);
  mr3d_server_free(&emulated);
  mr3d_weights_cache_free(&weights);
  mr3d_bundle_free(&golden);
  return worst;
}

static void nearest_rounding_errs_as_eager_pytorch_does(void **state) {
  (void)state;
  static const mr3d_tier tiers[] = {MR3D_BF16_TIER, MR3D_FP16};
  int one_layer = 0;
  for (int i = 0; i < mr3d_suite_count(suite); i++) {
    const mr3d_case *test = mr3d_suite_at(suite, i);
    if (!has_tag(test, "yardstick") || has_tag(test, "slow") || has_tag(test, "wide")) continue;
    bool one = strcmp(test->level, "L1") == 0 || strcmp(test->level, "L2") == 0;
    for (int t = 0; t < 2; t++) {
      int outputs = 0;
      double ratio = worst_ratio(test, tiers[t], EAGER, &outputs);
      print_message("%s at %s: %.4f, %d outputs\n", test->id, mr3d_tier_name(tiers[t]), ratio, outputs);
      if (!(fabs(ratio - 1) <= (one ? ONE_LAYER : MANY_LAYERS)))
        fail_msg("%s at %s: PyTorch's eager model errs %.4g times as much as its emulation", test->id, mr3d_tier_name(tiers[t]), ratio);
      if (one) one_layer += outputs;
    }
  }
  assert_true(one_layer >= 30);
}

static void a_point_too_few_or_too_many_shows(void **state) {
  (void)state;
  /* Not among them: probabilities, context and gated values, which are rounded again as inputs of the products that follow. */
  static const struct { mr3d_rounding_point point; const char *id; } points[] = {
      {MR3D_AT_BEFORE_BIAS, "attention-block/full-width-chunk"}, {MR3D_AT_PRODUCT, "attention-block/full-width-chunk"},
      {MR3D_AT_TABLE, "attention-block/full-width-chunk"},       {MR3D_AT_TABLE_3D, "attention-block/full-width-probe"},
      {MR3D_AT_TURNED, "attention-block/full-width-chunk"},      {MR3D_AT_TURNED_3D, "attention-block/full-width-probe"},
      {MR3D_AT_ROTATION, "attention-block/full-width-chunk"},    {MR3D_AT_SCORE, "attention-block/full-width-chunk"},
      {MR3D_AT_NORM, "decoder-layer/full-width-probe"},          {MR3D_AT_SILU, "decoder-layer/full-width-probe"},
      {MR3D_AT_RESIDUAL, "decoder-layer/full-width-probe"},
  };
  for (size_t i = 0; i < sizeof points / sizeof *points; i++) {
    int outputs = 0;
    double ratio = worst_ratio(mr3d_suite_find(suite, points[i].id), MR3D_BF16_TIER, EAGER ^ 1u << points[i].point, &outputs);
    if (fabs(ratio - 1) <= 2 * ONE_LAYER) fail_msg("rounding point %d makes no difference in %s: %.4f", points[i].point, points[i].id, ratio);
  }
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(nearest_rounding_errs_as_eager_pytorch_does),
      cmocka_unit_test(a_point_too_few_or_too_many_shows),
  };
  return cmocka_run_group_tests(tests, open_suite, close_suite);
}
