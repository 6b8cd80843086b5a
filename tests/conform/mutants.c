/** Mutants: each is one mistake, shows in a committed case, and is named by the diagnosis; what no mutant explains is described, not named. */
#include "posed.h"

#include "case.h"
#include "mutants.h"
#include "pitfalls.h"
#include "posing.h"
#include "run.h"
#include "scratch.h"
#include "trial.h"
#include "widened_request.h"

static mr3d_lessons lessons;

static const char *name_of(const mr3d_mutant *mutant, char name[128]) {
  snprintf(name, 128, "%s/%s", mutant->slug, mutant->name);
  return name;
}

static bool in_list(const char *list, const char *word) {
  char a[1024], b[128];
  snprintf(a, sizeof a, " %s ", list);
  snprintf(b, sizeof b, " %s ", word);
  return strstr(a, b) != NULL;
}

static void every_mutant_is_one_mistake_of_a_known_pitfall(void **state) {
  (void)state;
  enum { N = sizeof(mr3d_operators) / sizeof(void (*)(void)) };
  assert_true(mr3d_mutant_count() >= 50);
  for (int m = 0; m < mr3d_mutant_count(); m++) {
    const mr3d_mutant *mutant = mr3d_mutant_at(m);
    char name[128], word[64];
    assert_ptr_equal(mr3d_mutant_named(name_of(mutant, name)), mutant);
    if (!mr3d_pitfall_named(mutant->slug)) fail_msg("%s: no such pitfall", name);
    assert_true(mutant->says && strlen(mutant->says) > 20 && mutant->says[strlen(mutant->says) - 1] != '.');

    void (*mine[N])(void), (*reference[N])(void);
    memcpy(mine, &mutant->operators, sizeof mine);
    memcpy(reference, &mr3d_reference_operators, sizeof reference);
    int mistakes = (mutant->decorate != NULL && mutant->distort == NULL) + (mutant->distort != NULL) + mutant->hangs;
    assert_int_equal(mutant->tiers != 0, mutant->harmless != NULL);
    for (int i = 0; i < N; i++) {
      assert_non_null(mine[i]);
      mistakes += mine[i] != reference[i];
    }
    if (mistakes != 1) fail_msg("%s: %d mistakes, expected 1", name, mistakes);

    for (const char *at = mutant->ops; *at; at += strspn(at, " ")) {
      snprintf(word, sizeof word, "%.*s", (int)strcspn(at, " "), at);
      bool known = false;
      for (const char *const *op = mr3d_server_ops(); *op; op++) known = known || strcmp(*op, word) == 0;
      if (!known) fail_msg("%s: no operator \"%s\"", name, word);
      at += strlen(word);
    }
  }
  assert_null(mr3d_mutant_named("mask-length"));
  assert_null(mr3d_mutant_named("mask-length/"));
  assert_null(mr3d_mutant_at(mr3d_mutant_count()));
}

/** Where cases, weights files and widened weights come from. */
typedef struct cases {
  mr3d_suite *suite;
  const char *folder;
  mr3d_weights_cache *weights;
} cases;

/** Asks a mutant all steps of a case; whether an answer of it failed and the diagnosis named the mutant. */
static bool shows_in(const cases *from, const mr3d_case *test, const mr3d_mutant *mutant, mr3d_tier tier) {
  char name[128];
  bool named = false, stop = false;
  mr3d_posing posed;
  mr3d_posing_open(&posed, from->suite, test, tier, 0, from->folder, from->weights, 1);
  mr3d_mutant_server *server = mr3d_mutant_server_new(mutant, NULL, &(mr3d_server_options){.threads = 1, .weights = from->weights});
  for (int s = 0; s < test->n_steps && !stop; s++) {
    mr3d_error error = {0};
    if (mr3d_posing_request(&posed, s, &error) != MR3D_OK || mr3d_posing_answer(&posed, s, NULL, &error) != MR3D_OK) fail_msg("%s: %s", test->id, error.message);
    bool refused = !posed.answers[s];
    mr3d_reply reply = {.kind = MR3D_REPLY_ANSWER};
    bool answered = mr3d_mutant_server_answer(server, posed.requests[s], &reply.answer, &error) == MR3D_OK;
    mr3d_judgement judgement = {.passed = refused != answered};
    if (answered && !refused) mr3d_judge(posed.truth, reply.answer, &judgement);
    if (answered && !judgement.passed) {
      mr3d_result *result = mr3d_allocate(1, sizeof *result);
      result->test = test;
      mr3d_diagnose(&lessons, result, posed.truth, s + 1, posed.requests, &reply, from->weights, 1);
      named = strcmp(result->mistake, name_of(mutant, name)) == 0;
      free(result);
    }
    stop = !judgement.passed;
    mr3d_judgement_clear(&judgement);
    mr3d_bundle_free(&reply.answer);
  }
  mr3d_posing_close(&posed);
  mr3d_mutant_server_free(&server);
  return named;
}

static bool is_about(const mr3d_case *test, const char *slug) {
  for (int p = 0; p < test->n_pitfalls; p++)
    if (strcmp(test->pitfalls[p], slug) == 0) return true;
  return false;
}

/** No long ones, none that goes on from answers. */
static bool is_short(const mr3d_case *test, mr3d_tier tier) {
  if (test->needs_data || !(test->tiers >> tier & 1) || strstr(test->id, "canonical-prefill") || strstr(test->id, "full-width")) return false;
  for (int t = 0; t < test->n_tags; t++)
    if (strcmp(test->tags[t], "slow") == 0 || strcmp(test->tags[t], "greedy") == 0) return false;
  return true;
}

/** Whether some committed case names the mutant; the pitfall's own cases first, and of them the small ones. */
static bool is_named_at(const cases *from, const mr3d_mutant *mutant, mr3d_tier tier) {
  bool named = false;
  lessons = (mr3d_lessons){0};
  for (int rank = 3; rank >= 0 && !named; rank--)
    for (int i = 0; i < mr3d_suite_count(from->suite) && !named; i++) {
      const mr3d_case *test = mr3d_suite_at(from->suite, i);
      bool touches = false;
      for (int s = 0; s < test->n_steps; s++) touches = touches || in_list(mutant->ops, test->steps[s].op);
      int its_rank = 2 * is_about(test, mutant->slug) + !strstr(test->id, "canonical");
      if (touches && is_short(test, tier) && its_rank == rank) named = shows_in(from, test, mutant, tier);
    }
  return named;
}

/** A tier at which it is a mistake: fp32, where most are. */
static mr3d_tier tier_of(const mr3d_mutant *mutant) {
  static const mr3d_tier order[] = {MR3D_FP32, MR3D_FP64, MR3D_TF32, MR3D_BF16_TIER, MR3D_FP16};
  for (int t = 0; t < MR3D_N_TIERS; t++)
    if (mr3d_mutant_is_mistake_at(mutant, order[t])) return order[t];
  fail_msg("%s/%s is a mistake at no tier", mutant->slug, mutant->name);
  return MR3D_FP32;
}

static void every_mutant_fails_a_committed_case_and_is_named(void **state) {
  (void)state;
  mr3d_error error = {0};
  cases from = {.weights = mr3d_weights_cache_new()};
  const char *golden = getenv("MR3D_GOLDEN");
  if (!golden) fail_msg("MR3D_GOLDEN must name the folder of the golden set");
  if (mr3d_suite_open(golden, NULL, &from.suite, &error) != MR3D_OK || mr3d_scratch_open(&from.folder, &error) != MR3D_OK) fail_msg("%s", error.message);
  int unnamed = 0;
  for (int m = 0; m < mr3d_mutant_count(); m++) {
    const mr3d_mutant *mutant = mr3d_mutant_at(m);
    char name[128];
    mr3d_tier tier = tier_of(mutant);
    if (!mutant->hangs && !is_named_at(&from, mutant, tier)) /* one that hangs is tested below */
      print_error("%s is named on no committed case at %s\n", name_of(mutant, name), mr3d_tier_name(tier)), unnamed++;
  }
  assert_int_equal(unnamed, 0);
  mr3d_suite_close(&from.suite);
  mr3d_weights_cache_free(&from.weights);
  mr3d_scratch_close();
}

static mr3d_result *diagnosed(const problem *p, mr3d_bundle *answer, mr3d_reply_kind kind) {
  mr3d_result *result = mr3d_allocate(1, sizeof *result);
  mr3d_reply reply = {.kind = kind, .answer = answer};
  mr3d_diagnose(&lessons, result, p->truth, 1, &p->request, &reply, NULL, 1);
  mr3d_bundle_free(&answer);
  return result;
}

static void a_call_that_never_returns_is_named_where_a_mask_is_built(void **state) {
  (void)state;
  problem p = pose(layer_request(MR3D_FP32, 1, 1, 30));
  mr3d_result *result = diagnosed(&p, NULL, MR3D_REPLY_TIMEOUT);
  assert_string_equal(result->mistake, "mask-ownership/never-returns");
  assert_non_null(strstr(result->diagnosis, "never returns"));
  free(result);
  drop(&p);
  p = pose(rmsnorm_request(MR3D_FP32, 1, 4, 8));
  result = diagnosed(&p, NULL, MR3D_REPLY_TIMEOUT);
  assert_string_equal(result->mistake, "");
  free(result);
  drop(&p);
}

static void an_answer_rounded_to_the_tier_is_still_named(void **state) {
  (void)state;
  static const mr3d_tier tiers[] = {MR3D_FP32, MR3D_BF16_TIER, MR3D_FP16};
  for (int t = 0; t < 3; t++) {
    problem p = pose(layer_request(tiers[t], 2, 1, 40));
    const mr3d_mutant *mutant = mr3d_mutant_named("pairing/half-split-in-3d");
    mr3d_server_options options = {.operators = &mutant->operators, .threads = 1, .emulate = true, .arithmetic = mr3d_arithmetic_of(tiers[t], MR3D_NEAREST, false, 1)};
    mr3d_server *server = mr3d_server_new(&options);
    mr3d_bundle *answer = NULL;
    mr3d_judgement judgement;
    assert_int_equal(mr3d_server_answer(server, p.request, &answer, NULL), MR3D_OK);
    mr3d_server_free(&server);
    mr3d_judge(p.truth, answer, &judgement);
    assert_false(judgement.passed);
    mr3d_judgement_clear(&judgement);
    lessons = (mr3d_lessons){0};
    mr3d_result *result = diagnosed(&p, answer, MR3D_REPLY_ANSWER);
    assert_string_equal(result->mistake, "pairing/half-split-in-3d");
    assert_non_null(strstr(result->diagnosis, "within rounding"));
    free(result);
    drop(&p);
  }
}

static void two_mistakes_at_once_are_both_named(void **state) {
  (void)state;
  static const char *const pairs[][3] = {{"qwen2-details/gelu", "gqa-heads/kv-head-modulo", "gqa-heads/kv-head-modulo+qwen2-details/gelu"},
                                         {"pairing/conjugate", "qwen2-details/weight-plus-one", "pairing/conjugate+qwen2-details/weight-plus-one"},
                                         {"mask-ownership/strictly-causal", "pairing/adjacent-in-1d", "mask-ownership/strictly-causal+pairing/adjacent-in-1d"}};
  for (int i = 0; i < 3; i++) {
    problem p = pose(layer_request(MR3D_FP32, 2, 1, 40));
    mr3d_server_options options = {.threads = 1, .emulate = true, .arithmetic = mr3d_arithmetic_of(MR3D_FP32, MR3D_NEAREST, false, 1)};
    mr3d_mutant_server *server = mr3d_mutant_server_new(mr3d_mutant_named(pairs[i][0]), mr3d_mutant_named(pairs[i][1]), &options);
    mr3d_bundle *answer = NULL;
    mr3d_judgement judgement;
    assert_int_equal(mr3d_mutant_server_answer(server, p.request, &answer, NULL), MR3D_OK);
    mr3d_mutant_server_free(&server);
    mr3d_judge(p.truth, answer, &judgement);
    assert_false(judgement.passed);
    mr3d_judgement_clear(&judgement);
    lessons = (mr3d_lessons){0};
    mr3d_result *result = diagnosed(&p, answer, MR3D_REPLY_ANSWER);
    assert_string_equal(result->mistake, pairs[i][2]);
    assert_non_null(strstr(result->diagnosis, "two mistakes at once"));
    free(result);
    drop(&p);
  }
}

/** With one new token, new-keys-hidden hides the same key: what explains all cases is named in all of them. */
static void one_mistake_in_many_cases_reads_as_one(void **state) {
  (void)state;
  mr3d_run *run = NULL;
  mr3d_error error = {0};
  mr3d_run_options options = {.backend = "mutant:mask-length/one-short", .golden_dir = getenv("MR3D_GOLDEN"), .threads = 1, .selection = {.op = "mask"}};
  if (mr3d_run_suite(&options, NULL, NULL, &run, &error) != MR3D_OK) fail_msg("%s", error.message);
  int alike = 0;
  for (int i = 0; i < run->n_results; i++) {
    if (run->results[i].verdict != MR3D_FAILED) continue;
    assert_string_equal(run->results[i].mistake, "mask-length/one-short");
    alike += strstr(run->results[i].diagnosis, "the same as mask-length/new-keys-hidden") != NULL;
  }
  assert_true(run->failed >= 5 && alike >= 1 && alike < run->failed);
  mr3d_run_free(&run);
}

/** Diagnosis of a changed answer: no mistake is named, and the text holds `fact`. */
static void says(const problem *p, mr3d_bundle *answer, const char *fact) {
  mr3d_judgement judgement;
  mr3d_judge(p->truth, answer, &judgement);
  assert_false(judgement.passed);
  mr3d_judgement_clear(&judgement);
  mr3d_result *result = diagnosed(p, answer, MR3D_REPLY_ANSWER);
  if (result->mistake[0]) fail_msg("named %s, which it is not", result->mistake);
  if (!strstr(result->diagnosis, fact)) fail_msg("expected \"%s\" in: %s", fact, result->diagnosis);
  free(result);
}

static void what_no_mutant_explains_is_described(void **state) {
  (void)state;
  problem p = pose(attention_request(MR3D_FP32, 3)); /* y [1,4,40,32] */
  mr3d_bundle *answer = exact_answer(&p);
  double *y = values_of(answer, "y");
  for (int i = 2 * 1280; i < 3 * 1280; i++) y[i] += 0.1 * (i % 7 - 3);
  says(&p, answer, "only heads 2");

  answer = exact_answer(&p), y = values_of(answer, "y");
  for (int i = 0; i < 4 * 40 * 32; i++) y[i] = -y[i];
  says(&p, answer, "sign flipped");

  answer = exact_answer(&p), y = values_of(answer, "y");
  for (int i = 0; i < 4 * 40 * 32; i++) y[i] *= 1.5;
  says(&p, answer, "the reference times 1.5");

  answer = exact_answer(&p), y = values_of(answer, "y");
  for (int h = 0; h < 4; h++)
    for (int s = 25; s < 40; s++) y[(h * 40 + s) * 32 + 3] += 0.5, y[(h * 40 + s) * 32 + 20] -= 0.5;
  says(&p, answer, "everything from token 25 on");

  answer = exact_answer(&p), y = values_of(answer, "y");
  for (int r = 0; r < 4 * 40; r++)
    for (int d = 0; d < 16; d++) y[r * 32 + d] += 0.2 * (d % 3 + 1);
  says(&p, answer, "only in the first half of the last axis");

  answer = exact_answer(&p), y = values_of(answer, "y");
  const double *ref = mr3d_bundle_find(p.answer, "y")->data;
  for (int h = 0; h < 4; h++)
    for (int s = 0; s < 40; s++) memcpy(y + (h * 40 + s) * 32, ref + (h * 40 + 39 - s) * 32, 32 * sizeof *y);
  says(&p, answer, "reverse order");

  answer = exact_answer(&p), y = values_of(answer, "y");
  for (int r = 0; r < 160; r++) memcpy(y + r * 32, ref + (r % 4 * 40 + r / 4) * 32, 32 * sizeof *y); /* [S,H,D] read as [H,S,D] */
  says(&p, answer, "heads and tokens are exchanged");

  answer = exact_answer(&p), y = values_of(answer, "y");
  for (int h = 0; h < 4; h++)
    for (int s = 39; s > 0; s--) memcpy(y + (h * 40 + s) * 32, y + (h * 40 + s - 1) * 32, 32 * sizeof *y);
  says(&p, answer, "rows are shifted by one");

  answer = exact_answer(&p), y = values_of(answer, "y");
  for (int h = 0; h < 4; h++) y[h * 40 * 32 + 5] = NAN; /* token 0 sees no key */
  says(&p, answer, "4 are NaN, in 4 rows, exactly those that see no key");
  drop(&p);

  p = pose(layer_request(MR3D_FP32, 4, 1, 40)); /* points are tokens 2 .. 21 */
  answer = exact_answer(&p), y = values_of(answer, "hidden");
  for (int i = 2 * 128; i < 22 * 128; i++) y[i] *= 1 + 0.1 * (i % 5);
  says(&p, answer, "only points");
  drop(&p);

  p = pose(rope1d_request(MR3D_FP32, 5, 48, 41));
  answer = exact_answer(&p);
  mr3d_tensor_to_double(mr3d_bundle_find(p.request, "x"), values_of(answer, "y"));
  says(&p, answer, "equals the input");
  drop(&p);
}

static double in_bf16(double x) { return mr3d_bf16_to_double(mr3d_bf16_from_double(x)); }
static double in_f16(double x) { return mr3d_f16_to_double(mr3d_f16_from_double(x)); }

/** Products of x and weight in parts that are rounded by `held` before they are added; of as many parts as terms, each partial sum is rounded. */
static void sum_in_parts(const problem *p, int64_t parts, double held(double), double *y) {
  const mr3d_tensor *x = mr3d_bundle_find(p->request, "x"), *weight = mr3d_bundle_find(p->request, "weight"), *bias = mr3d_bundle_find(p->request, "bias");
  const int64_t in = weight->shape[1], out = weight->shape[0], rows = mr3d_tensor_count(x) / in;
  double *a = mr3d_allocate(rows * in, sizeof *a), *b = mr3d_allocate(out * in, sizeof *b), *c = mr3d_allocate(out, sizeof *c);
  mr3d_tensor_to_double(x, a);
  mr3d_tensor_to_double(weight, b);
  if (bias) mr3d_tensor_to_double(bias, c);
  for (int64_t r = 0; r < rows; r++)
    for (int64_t o = 0; o < out; o++) {
      double whole = 0;
      for (int64_t part = 0; part < parts; part++) {
        double sum = 0;
        for (int64_t k = part * in / parts; k < (part + 1) * in / parts; k++) sum += a[r * in + k] * b[o * in + k];
        whole = parts == in ? held(whole + sum) : whole + held(sum);
      }
      y[r * out + o] = whole + c[o];
    }
  free(a);
  free(b);
  free(c);
}

static void sums_in_a_narrow_type_are_told_by_the_size_of_their_errors(void **state) {
  (void)state;
  problem p = pose(linear_request(MR3D_FP32, 2, 40));
  mr3d_bundle *answer = exact_answer(&p);
  sum_in_parts(&p, 4, in_bf16, values_of(answer, "y"));
  says(&p, answer, "the errors are random, 2^-8.");
  answer = exact_answer(&p);
  sum_in_parts(&p, 8, in_f16, values_of(answer, "y"));
  says(&p, answer, "the errors are random, 2^-11.");
  answer = exact_answer(&p);
  sum_in_parts(&p, mr3d_bundle_find(p.request, "weight")->shape[1], in_f16, values_of(answer, "y"));
  says(&p, answer, "the errors are random, 2^-8.");

  /* a term that is missing is no rounding, though its error is as good as random in each row */
  answer = exact_answer(&p);
  const mr3d_tensor *x = mr3d_bundle_find(p.request, "x"), *weight = mr3d_bundle_find(p.request, "weight");
  const int64_t in = weight->shape[1], out = weight->shape[0];
  double *a = mr3d_allocate(mr3d_tensor_count(x) + out * in, sizeof *a), *b = a + mr3d_tensor_count(x), *y = values_of(answer, "y");
  mr3d_tensor_to_double(x, a);
  mr3d_tensor_to_double(weight, b);
  for (int64_t i = 0; i < mr3d_tensor_count(x) / in * out; i++) y[i] -= a[i / out * in + 5] * b[i % out * in + 5];
  free(a);
  mr3d_result *result = diagnosed(&p, answer, MR3D_REPLY_ANSWER);
  assert_null(strstr(result->diagnosis, "random"));
  free(result);
  drop(&p);

  /* at bf16 an output's own rounding is as large; where the terms cancel, it is not, and what is only that is not told */
  mr3d_bundle *request = request_of("linear", MR3D_BF16_TIER);
  draw(request, "x", MR3D_BF16, normal, 2, SHAPE(1, 40, 128));
  draw(request, "weight", MR3D_BF16, normal, 2, SHAPE(64, 128));
  p = pose(request);
  answer = exact_answer(&p), y = values_of(answer, "y");
  sum_in_parts(&p, 4, in_bf16, y);
  for (int i = 0; i < 40 * 64; i++) y[i] = in_bf16(y[i]);
  says(&p, answer, "the errors are random, 2^-8.");
  answer = exact_answer(&p), y = values_of(answer, "y");
  for (int i = 0; i < 40 * 64; i++) y[i] = in_bf16(y[i]);
  int far = 0; /* an output that is large, where the others' roundings do not look at it */
  for (int i = 0; i < 40 * 64; i++) far = fabs(y[i]) > fabs(y[far]) ? i : far;
  y[far] *= 1.5;
  result = diagnosed(&p, answer, MR3D_REPLY_ANSWER);
  assert_non_null(strstr(result->diagnosis, "1 of 2560 elements"));
  assert_null(strstr(result->diagnosis, "random"));
  free(result);
  drop(&p);
}

/** In attention it is the sum of values: here that of the earlier and of the later keys, each rounded. */
static void narrow_sums_of_attention_are_told_too(void **state) {
  (void)state;
  enum { HEADS = 4, GROUPS = 2, TOKENS = 40, DIM = 32 };
  problem p = pose(attention_request(MR3D_FP32, 3));
  mr3d_bundle *answer = exact_answer(&p);
  const mr3d_tensor *query = mr3d_bundle_find(p.request, "query"), *key = mr3d_bundle_find(p.request, "key"), *value = mr3d_bundle_find(p.request, "value"), *visible = mr3d_bundle_find(p.request, "visible");
  assert_int_equal(mr3d_tensor_count(query), HEADS * TOKENS * DIM);
  assert_int_equal(mr3d_tensor_count(key), GROUPS * TOKENS * DIM);
  double *a = mr3d_allocate(HEADS * TOKENS * DIM, sizeof *a), *b = mr3d_allocate(GROUPS * TOKENS * DIM, sizeof *b), *c = mr3d_allocate(GROUPS * TOKENS * DIM, sizeof *c), *y = values_of(answer, "y");
  mr3d_tensor_to_double(query, a);
  mr3d_tensor_to_double(key, b);
  mr3d_tensor_to_double(value, c);
  for (int row = 0; row < HEADS * TOKENS; row++) {
    const int group = row / TOKENS / (HEADS / GROUPS), i = row % TOKENS;
    double s[TOKENS], total = 0, part[2][DIM] = {{0}};
    for (int j = 0; j < TOKENS; j++) {
      s[j] = 0;
      for (int d = 0; d < DIM; d++) s[j] += a[row * DIM + d] * b[(group * TOKENS + j) * DIM + d];
      total += s[j] = ((const uint8_t *)visible->data)[i * TOKENS + j] ? exp(s[j] / sqrt(DIM)) : 0;
    }
    for (int j = 0; j < TOKENS; j++)
      for (int d = 0; d < DIM; d++) part[j >= TOKENS / 2][d] += s[j] * c[(group * TOKENS + j) * DIM + d];
    for (int d = 0; d < DIM && total > 0; d++) y[row * DIM + d] = in_bf16(part[0][d] / total) + in_bf16(part[1][d] / total);
  }
  free(a);
  free(b);
  free(c);
  says(&p, answer, "the errors are random, 2^-");
  drop(&p);
}

static void a_refusal_that_names_known_sizes_is_explained(void **state) {
  (void)state;
  mr3d_bundle *request = layer_request(MR3D_FP32, 6, 1, 30);
  draw(request, "past_key", MR3D_F32, normal, 6, SHAPE(1, 2, 757, 32));
  draw(request, "past_value", MR3D_F32, normal, 6, SHAPE(1, 2, 757, 32));
  int64_t *mask = mr3d_bundle_add(request, "key_mask", MR3D_I64, SHAPE(1, 232))->data;
  for (int j = 0; j < 232; j++) mask[j] = 1;
  problem p = pose(request);
  static const struct { const char *message, *fact; } errors[] = {
      {"The size of tensor a (787) must match the size of tensor b (232) at non-singleton dimension 3", "mask has 232 columns where 787 keys stand (mr3d explain mask-length)"},
      {"The size of tensor a (4) must match the size of tensor b (2)", "the numbers of query and of key/value heads (mr3d explain gqa-heads)"},
      {"a7870 b1232", ""},
  };
  for (int i = 0; i < 3; i++) {
    mr3d_result *result = mr3d_allocate(1, sizeof *result);
    mr3d_reply reply = {.kind = MR3D_REPLY_ERROR};
    snprintf(reply.message, sizeof reply.message, "%s", errors[i].message);
    mr3d_diagnose(&lessons, result, p.truth, 1, &p.request, &reply, NULL, 1);
    assert_non_null(strstr(result->diagnosis, errors[i].fact));
    assert_true(*errors[i].fact || !*result->diagnosis);
    assert_string_equal(result->mistake, ""); /* which of the pitfall's mistakes it is, no message tells */
    free(result);
  }
  drop(&p);
}

/** A request for the mask of `q` queries on as many keys. */
static problem pose_mask(int64_t q) {
  mr3d_bundle *r = request_of("mask", MR3D_FP32);
  mr3d_bundle_setf(r, "q_len", "%lld", (long long)q);
  mr3d_bundle_set(r, "past_len", "0");
  return pose(r);
}

static void flags_and_integers_and_shapes_are_described(void **state) {
  (void)state;
  problem p = pose_mask(12); /* visible [1,12,12] */
  mr3d_bundle *answer = exact_answer(&p);
  uint8_t *visible = (uint8_t *)mr3d_bundle_find(answer, "visible")->data;
  for (int i = 8; i < 12; i++)
    for (int j = 0; j <= i - 8; j++) visible[i * 12 + j] = 0; /* a window of eight keys */
  says(&p, answer, "all of them are false where true belongs; only rows 8..11; only columns 0..3");

  answer = exact_answer(&p), visible = (uint8_t *)mr3d_bundle_find(answer, "visible")->data;
  for (int i = 0; i < 144; i++) visible[i] = !visible[i];
  says(&p, answer, "it is inverted");
  drop(&p);

  mr3d_bundle *r = request_of("token_coords", MR3D_FP32);
  mr3d_bundle_set(r, "stages", "2");
  int64_t *grid = mr3d_bundle_add(r, "grid", MR3D_I64, SHAPE(40, 3))->data;
  for (int i = 0; i < 120; i++) grid[i] = (i * 7 + i / 3) % 23;
  p = pose(r);
  answer = exact_answer(&p);
  const mr3d_tensor *coords = mr3d_bundle_find(answer, "coords");
  for (int64_t n = 0; n < coords->shape[0]; n++) ((int64_t *)coords->data)[3 * n + 1] += 5;
  says(&p, answer, "each of them by +5; only columns 1");

  mr3d_bundle *all = exact_answer(&p);
  answer = mr3d_bundle_new();
  coords = mr3d_bundle_find(all, "coords");
  int64_t shape[2] = {coords->shape[0] - 2, 3};
  memcpy(mr3d_bundle_add(answer, "coords", MR3D_I64, 2, shape)->data, coords->data, (size_t)(3 * shape[0]) * sizeof(int64_t));
  mr3d_bundle_copy(answer, NULL, mr3d_bundle_find(all, "count"));
  says(&p, answer, "2 too few along axis 0; the first ");
  mr3d_bundle_free(&all);

  all = exact_answer(&p), answer = mr3d_bundle_new();
  coords = mr3d_bundle_find(all, "coords");
  float *floats = mr3d_bundle_add(answer, "coords", MR3D_F32, 2, coords->shape)->data;
  for (int64_t i = 0; i < 3 * coords->shape[0]; i++) floats[i] = (float)((int64_t *)coords->data)[i];
  mr3d_bundle_copy(answer, NULL, mr3d_bundle_find(all, "count"));
  says(&p, answer, "its type is F32 instead of I64");
  mr3d_bundle_free(&all);
  drop(&p);
}

/** One result that a mutant explains by chance beside `others` that nothing explains, though the mutant would show there; the name that is left. */
static void settle_beside(int others, mr3d_result results[8]) {
  lessons = (mr3d_lessons){0};
  mr3d_run run = {.results = results};
  for (int i = 0; i <= others; i++) {
    problem p = pose(attention_request(MR3D_FP32, 20 + (uint64_t)i));
    mr3d_bundle *answer = NULL;
    mr3d_error error = {0};
    if (i == 0) {
      mr3d_mutant_server *server = mr3d_mutant_server_new(mr3d_mutant_named("gqa-heads/kv-head-modulo"), NULL, &(mr3d_server_options){.threads = 1});
      assert_int_equal(mr3d_mutant_server_answer(server, p.request, &answer, &error), MR3D_OK);
      mr3d_mutant_server_free(&server);
    } else {
      answer = exact_answer(&p);
      for (int k = 0; k < 4 * 40 * 32; k++) values_of(answer, "y")[k] += 0.3 * (k % 11 - 5) * (k % 3);
    }
    mr3d_reply reply = {.kind = MR3D_REPLY_ANSWER, .answer = answer};
    results[run.n_results] = (mr3d_result){.tier = MR3D_FP32, .verdict = MR3D_FAILED};
    mr3d_diagnose(&lessons, &results[run.n_results++], p.truth, 1, &p.request, &reply, NULL, 1);
    mr3d_bundle_free(&answer);
    drop(&p);
  }
  assert_string_equal(results[0].mistake, "gqa-heads/kv-head-modulo");
  mr3d_diagnose_settle(&run, &lessons);
}

static void a_mistake_that_most_failures_rule_out_is_not_named(void **state) {
  (void)state;
  mr3d_result *results = mr3d_allocate(8, sizeof *results);
  settle_beside(3, results);
  assert_string_equal(results[0].mistake, "gqa-heads/kv-head-modulo");
  settle_beside(4, results);
  assert_string_equal(results[0].mistake, "");
  assert_non_null(strstr(results[0].diagnosis, "on this request alone the answer is that of gqa-heads/kv-head-modulo, which 4 other failures rule out"));
  free(results);
}

/**
 * A mutant (NULL: the reference) answers the second request of a case, or the only one, which must be refused; `widened` as a server would that takes all
 * types for binary64. Which mistake is named: "" where none is.
 */
static void named_when_accepted(const cases *from, const char *id, const char *mutant, bool widened, char mistake[256]) {
  const mr3d_case *test = mr3d_suite_find(from->suite, id);
  mr3d_posing posed;
  mr3d_error error = {0};
  assert_non_null(test);
  mr3d_posing_open(&posed, from->suite, test, MR3D_FP64, 0, from->folder, from->weights, 1);
  const int last = test->n_steps > 1; /* the step that matters */
  mr3d_mutant_server *server = mr3d_mutant_server_new(mutant ? mr3d_mutant_named(mutant) : NULL, NULL, &(mr3d_server_options){.threads = 1, .weights = from->weights});
  mr3d_reply reply = {.kind = MR3D_REPLY_ANSWER};
  for (int s = 0; s <= last; s++) {
    if (mr3d_posing_request(&posed, s, &error) != MR3D_OK || mr3d_posing_answer(&posed, s, NULL, &error) != MR3D_OK) fail_msg("%s: %s", id, error.message);
    mr3d_bundle *request = mr3d_widened_request(posed.requests[s], widened);
    mr3d_bundle_free(&reply.answer);
    if (mr3d_mutant_server_answer(server, request, &reply.answer, &error) != MR3D_OK) fail_msg("%s refuses: %s", mutant, error.message);
    mr3d_bundle_free(&request);
  }
  assert_true(test->steps[last].expect_error);
  mr3d_result *result = mr3d_allocate(1, sizeof *result);
  result->test = test;
  lessons = (mr3d_lessons){0};
  mr3d_diagnose(&lessons, result, posed.truth, last + 1, posed.requests, &reply, from->weights, 1);
  snprintf(mistake, 256, "%s", result->mistake);
  free(result);
  mr3d_bundle_free(&reply.answer);
  mr3d_mutant_server_free(&server);
  mr3d_posing_close(&posed);
}

static void accepting_what_must_be_refused_is_named_by_the_reason_alone(void **state) {
  (void)state;
  mr3d_error error = {0};
  cases from = {.weights = mr3d_weights_cache_new()};
  char mistake[256];
  assert_int_equal(mr3d_suite_open(getenv("MR3D_GOLDEN"), NULL, &from.suite, &error), MR3D_OK);
  assert_int_equal(mr3d_scratch_open(&from.folder, &error), MR3D_OK);
  /* the type is the reason, which no mutant forgets: that most give the same answer to the widened request says nothing */
  named_when_accepted(&from, "cis3d/refuse-narrow-coords", NULL, true, mistake);
  assert_string_equal(mistake, "");
  /* the first step was refused, rightly: a mutant that accepts it is no explanation for what happens at the second */
  named_when_accepted(&from, "decode/refused-opens-nothing", "coords-count/missing-rows-zero", false, mistake);
  assert_string_equal(mistake, "");
  /* and where a mutant is the explanation, it is named */
  named_when_accepted(&from, "decode/refuse-other-config", "mask-length/spliced-for-pad-end", false, mistake);
  assert_string_equal(mistake, "mask-length/spliced-for-pad-end");
  mr3d_scratch_close();
  mr3d_suite_close(&from.suite);
  mr3d_weights_cache_free(&from.weights);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(every_mutant_is_one_mistake_of_a_known_pitfall),
      cmocka_unit_test(every_mutant_fails_a_committed_case_and_is_named),
      cmocka_unit_test(a_call_that_never_returns_is_named_where_a_mask_is_built),
      cmocka_unit_test(an_answer_rounded_to_the_tier_is_still_named),
      cmocka_unit_test(two_mistakes_at_once_are_both_named),
      cmocka_unit_test(one_mistake_in_many_cases_reads_as_one),
      cmocka_unit_test(what_no_mutant_explains_is_described),
      cmocka_unit_test(sums_in_a_narrow_type_are_told_by_the_size_of_their_errors),
      cmocka_unit_test(narrow_sums_of_attention_are_told_too),
      cmocka_unit_test(flags_and_integers_and_shapes_are_described),
      cmocka_unit_test(a_mistake_that_most_failures_rule_out_is_not_named),
      cmocka_unit_test(a_refusal_that_names_known_sizes_is_explained),
      cmocka_unit_test(accepting_what_must_be_refused_is_named_by_the_reason_alone),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
