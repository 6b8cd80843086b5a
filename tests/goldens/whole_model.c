/**
 * The whole model - 24 layers, a vocabulary of 151,936 - against the golden set: the reference agrees with PyTorch in float64 after every layer and chooses its
 * tokens, and PyTorch in float32, bfloat16 and float16 stays within the yardstick after every layer.
 */
#include <math.h>

#include "../suite.h"
#include "case_internal.h"
#include "golden.h"
#include "judge_internal.h"
#include "posing.h"
#include "scratch.h"

enum { DEEP = 24, TOKENS = 16 };
#define OF_SCALE 1e-9 /* the reference against PyTorch in float64 */

static mr3d_suite *suite;
static mr3d_weights_cache *weights;
static const char *scratch;

static int open_suite(void **state) {
  (void)state;
  mr3d_error error = {0};
  if (mr3d_suite_open(committed_set(), NULL, &suite, &error) != MR3D_OK || mr3d_scratch_open(&scratch, &error) != MR3D_OK) fail_msg("%s", error.message);
  weights = mr3d_weights_cache_new();
  return 0;
}

static int close_suite(void **state) {
  (void)state;
  mr3d_weights_cache_free(&weights);
  mr3d_scratch_close();
  mr3d_suite_close(&suite);
  return 0;
}

static const mr3d_case *case_named(const char *id) {
  const mr3d_case *test = mr3d_suite_find(suite, id);
  if (!test) fail_msg("there is no case %s", id);
  return test;
}

/* Poses a step, the layers' outputs traced where it is the first, and has it answered. */
static void pose(mr3d_posing *posed, int step) {
  mr3d_error error = {0};
  mr3d_status status = mr3d_posing_request(posed, step, &error);
  if (status == MR3D_OK && step == 0) mr3d_bundle_set(posed->requests[0], "trace", "*.output");
  if (status == MR3D_OK) status = mr3d_posing_answer(posed, step, NULL, &error);
  if (status != MR3D_OK) fail_msg("%s: %s", posed->test->id, error.message);
}

static const mr3d_tensor *after_layer(const mr3d_bundle *answer, int layer) {
  char name[32];
  snprintf(name, sizeof name, "trace.%d.output", layer);
  const mr3d_tensor *output = mr3d_bundle_find(answer, name);
  if (!output) fail_msg("the answer has no %s", name);
  return output;
}

/* ---- float64 ---- */

static void agrees(const char *id) {
  mr3d_posing posed;
  mr3d_golden *golden = NULL;
  mr3d_error error = {0};
  const mr3d_case *test = case_named(id);
  double worst = 0;
  char tokens[512] = "";
  int n_tokens = 0;
  if (mr3d_golden_open(suite, test, &golden, &error) != MR3D_OK) fail_msg("%s", error.message);
  mr3d_posing_open(&posed, suite, test, MR3D_FP64, 0, scratch, weights, 0);
  for (int s = 0; s < test->n_steps; s++) {
    double step_worst, token;
    pose(&posed, s);
    if (mr3d_golden_compare(golden, test, s, posed.requests[s], posed.answers[s], &step_worst, &error) != MR3D_OK) fail_msg("%s, step %d: %s", id, s, error.message);
    worst = fmax(worst, step_worst);
    mr3d_greedy_tokens(mr3d_bundle_find(posed.answers[s], "logits"), &token);
    snprintf(tokens + strlen(tokens), sizeof tokens - strlen(tokens), "%s%.0f", n_tokens++ ? "," : "", token);
  }
  for (int layer = 0; layer < DEEP; layer++) after_layer(posed.answers[0], layer); /* were compared with what the golden has of them */
  assert_true(worst <= OF_SCALE);
  if (mr3d_golden_tokens(golden, NULL)) {
    assert_int_equal(n_tokens, TOKENS);
    assert_string_equal(tokens, mr3d_golden_tokens(golden, NULL));
  }
  print_message("%s: largest difference %.2g of the tensor's scale\n", id, worst);
  mr3d_golden_close(&golden);
  mr3d_posing_close(&posed);
}

static void the_reference_agrees_after_every_layer_and_so_do_16_tokens(void **state) {
  (void)state;
  agrees("decode/whole-231");
  agrees("decode/whole-116");
  agrees("decode/whole-30");
}

/* ---- narrower tiers ---- */

/* What a golden has of a tensor at a tier, beside the truth and the runs' errors at the same places. */
typedef struct excerpt {
  int64_t rows, cols;
  double *truth, *got;
  float *errors[MR3D_FEW_RUNS];
} excerpt;

static void take_rows(excerpt *x, const mr3d_tensor *from, const int64_t *index, double *to) {
  for (int64_t r = 0; r < x->rows; r++) memcpy(to + r * x->cols, (const double *)from->data + (index ? index[r] : r) * x->cols, (size_t)x->cols * sizeof *to);
}

static excerpt excerpt_of(const mr3d_bundle *golden, const char *name, mr3d_tier tier, const mr3d_bundle *truth, mr3d_bundle *const runs[]) {
  char key[96];
  snprintf(key, sizeof key, "0.%s.stock.%s", name, mr3d_tier_name(tier));
  const mr3d_tensor *stock = mr3d_bundle_find(golden, key), *exact = mr3d_bundle_find(truth, name);
  snprintf(key, sizeof key, "0.%s.row_index", name);
  const mr3d_tensor *index = mr3d_bundle_find(golden, key);
  if (!stock || !exact) fail_msg("the golden has no %s at %s, or the answer none", name, mr3d_tier_name(tier));
  excerpt x = {.cols = exact->shape[exact->rank - 1]};
  x.rows = mr3d_tensor_count(stock) / x.cols;
  assert_int_equal(x.rows, index ? mr3d_tensor_count(index) : mr3d_tensor_count(exact) / x.cols);
  x.truth = mr3d_allocate(x.rows * x.cols, sizeof *x.truth);
  x.got = mr3d_allocate(x.rows * x.cols, sizeof *x.got);
  double *run = mr3d_allocate(x.rows * x.cols, sizeof *run);
  take_rows(&x, exact, index ? index->data : NULL, x.truth);
  mr3d_tensor_to_double(stock, x.got);
  for (int r = 0; r < MR3D_FEW_RUNS; r++) {
    x.errors[r] = mr3d_allocate(x.rows * x.cols, sizeof *x.errors[r]);
    take_rows(&x, mr3d_bundle_find(runs[r], name), index ? index->data : NULL, run);
    for (int64_t i = 0; i < x.rows * x.cols; i++) x.errors[r][i] = (float)(run[i] - x.truth[i]);
  }
  free(run);
  return x;
}

static void free_excerpt(excerpt *x) {
  free(x->truth);
  free(x->got);
  for (int r = 0; r < MR3D_FEW_RUNS; r++) free(x->errors[r]);
}

/** The judge's verdict on an excerpt, the errors in it taken `times` their size. */
static mr3d_tensor_verdict judged(const excerpt *x, const char *name, mr3d_tier tier, double times) {
  double *got = mr3d_allocate(x->rows * x->cols, sizeof *got);
  for (int64_t i = 0; i < x->rows * x->cols; i++) got[i] = x->truth[i] + times * (x->got[i] - x->truth[i]);
  const mr3d_tensor shape = {.name = name, .dtype = MR3D_F64, .rank = 2, .shape = {x->rows, x->cols}};
  const mr3d_output output = {.expected = &shape, .units = mr3d_tier_units(tier), .tier = tier, .rows = x->rows, .cols = x->cols, .heads = 1, .per_head = x->rows, .got = got, .ref = x->truth};
  const float *errors[MR3D_FEW_RUNS];
  for (int r = 0; r < MR3D_FEW_RUNS; r++) errors[r] = x->errors[r];
  mr3d_tensor_verdict verdict = {.passed = true};
  mr3d_judge_by_yardstick(&output, name, MR3D_FEW_RUNS, errors, &verdict);
  free(got);
  return verdict;
}

static double nearest_to_its_limit(const mr3d_tensor_verdict *verdict) {
  double most = 0;
  for (int i = 0; i < verdict->n_statistics; i++)
    if (verdict->statistics[i].tested && verdict->statistics[i].limit > 0) most = fmax(most, verdict->statistics[i].value / verdict->statistics[i].limit);
  return most;
}

static void assert_within(const excerpt *x, const char *name, mr3d_tier tier, double *worst) {
  const mr3d_tensor_verdict verdict = judged(x, name, tier, 1);
  if (!verdict.passed) fail_msg("PyTorch's %s at %s: %s", name, mr3d_tier_name(tier), verdict.problem);
  *worst = fmax(*worst, nearest_to_its_limit(&verdict));
  const mr3d_tensor_verdict larger = judged(x, name, tier, 10);
  if (larger.passed) fail_msg("%s at %s: ten times PyTorch's error passes", name, mr3d_tier_name(tier));
}

static mr3d_bundle *emulated(const mr3d_posing *posed, int run) {
  mr3d_bundle *answer = NULL;
  mr3d_error error = {0};
  mr3d_server *server = mr3d_server_new(&(mr3d_server_options){.weights = weights, .emulate = true, .arithmetic = mr3d_arithmetic_of(posed->tier, MR3D_STOCHASTIC, run % 2 == 1, (uint64_t)run + 1)});
  if (mr3d_server_answer(server, posed->requests[0], &answer, &error) != MR3D_OK) fail_msg("%s", error.message);
  mr3d_server_free(&server);
  return answer;
}

static void narrow_goldens_lie_within(mr3d_tier tier) {
  const mr3d_case *test = case_named("decode/whole-30");
  mr3d_error error = {0};
  mr3d_posing posed;
  mr3d_bundle *golden = NULL, *runs[MR3D_FEW_RUNS];
  char path[4200];
  snprintf(path, sizeof path, "%s/set/decode_whole-30.safetensors.gz", committed_set());
  if (mr3d_safetensors_open(path, 0, &golden, &error) != MR3D_OK) fail_msg("%s", error.message);
  mr3d_posing_open(&posed, suite, test, tier, 0, scratch, weights, 0);
  pose(&posed, 0);
  for (int r = 0; r < MR3D_FEW_RUNS; r++) runs[r] = emulated(&posed, r);
  double worst = 0, worst_logits = 0;
  for (int layer = 0; layer < DEEP; layer++) {
    const mr3d_tensor *output = after_layer(posed.answers[0], layer);
    excerpt x = excerpt_of(golden, output->name, tier, posed.answers[0], runs);
    assert_within(&x, output->name, tier, &worst);
    free_excerpt(&x);
  }
  static const char *const ends[] = {"hidden", "logits"};
  for (int i = 0; i < 2; i++) {
    excerpt x = excerpt_of(golden, ends[i], tier, posed.answers[0], runs);
    assert_within(&x, ends[i], tier, i ? &worst_logits : &worst);
    free_excerpt(&x);
  }
  print_message("%s: PyTorch reaches %.2g of a limit in hidden states, %.2g in logits\n", mr3d_tier_name(tier), worst, worst_logits);
  for (int r = 0; r < MR3D_FEW_RUNS; r++) mr3d_bundle_free(&runs[r]);
  mr3d_bundle_free(&golden);
  mr3d_posing_close(&posed);
}

static mr3d_tier asked; /* argv[1]: one test a tier */

static void pytorch_stays_within_the_yardstick_after_every_layer(void **state) {
  (void)state;
  narrow_goldens_lie_within(asked);
}

int main(int argc, char **argv) {
  asked = argc == 2 ? mr3d_tier_named(argv[1]) : MR3D_N_TIERS;
  if (asked == MR3D_N_TIERS) return fprintf(stderr, "usage: %s TIER\n", argv[0]), 2;
  const struct CMUnitTest truth[] = {cmocka_unit_test(the_reference_agrees_after_every_layer_and_so_do_16_tokens)};
  const struct CMUnitTest narrow[] = {cmocka_unit_test(pytorch_stays_within_the_yardstick_after_every_layer)};
  return asked == MR3D_FP64 ? cmocka_run_group_tests_name(argv[1], truth, open_suite, close_suite) : cmocka_run_group_tests_name(argv[1], narrow, open_suite, close_suite);
}
