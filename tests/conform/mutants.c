/** Mutants: each is one mistake, shows in a committed case, and is named by the diagnosis; what no mutant explains is described, not named. */
#include "posed.h"

#include "case.h"
#include "mutants.h"
#include "pitfalls.h"
#include "run.h"
#include "scratch.h"

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

/** fp32, or where it is a mistake. */
static mr3d_tier tier_of(const mr3d_mutant *mutant) {
  int tier = MR3D_FP32;
  for (int t = 0; t < MR3D_N_TIERS && !mr3d_mutant_is_mistake_at(mutant, (mr3d_tier)tier); t++) tier = t;
  return (mr3d_tier)tier;
}

/** The committed cases, and where files of their weights are. */
typedef struct bench {
  mr3d_suite *suite;
  const char *scratch;
  mr3d_weights_cache *weights;
} bench;

/** The request of a step, with a file of its weights where it names some. */
static mr3d_bundle *request_of_step(const bench *on, const mr3d_case *test, int step, mr3d_tier tier, mr3d_bundle *const answers[]) {
  char path[4096];
  const char *set = test->steps[step].weights;
  mr3d_error error = {0};
  mr3d_bundle *request = NULL;
  bool done = !set || mr3d_suite_weights(on->suite, set, tier, 0, on->scratch, path, &error) == MR3D_OK;
  if (!done || mr3d_case_request(on->suite, test, step, tier, 0, set ? path : NULL, answers, &request, &error) != MR3D_OK) fail_msg("%s: %s", test->id, error.message);
  return request;
}

/** Asks a mutant all steps of a case; whether an answer of it failed and the diagnosis named the mutant. */
static bool shows_in(const bench *on, const mr3d_case *test, const mr3d_mutant *mutant) {
  char name[128];
  bool named = false, stop = false;
  mr3d_bundle **requests = mr3d_allocate(test->n_steps, sizeof *requests), **answers = mr3d_allocate(test->n_steps, sizeof *answers);
  mr3d_truth *truth = mr3d_truth_new(tier_of(mutant), NULL, on->weights, 1);
  mr3d_mutant_server *server = mr3d_mutant_server_new(mutant, NULL, &(mr3d_server_options){.threads = 1, .weights = on->weights});
  for (int s = 0; s < test->n_steps && !stop; s++) {
    mr3d_error error = {0};
    const mr3d_bundle *answer = NULL;
    requests[s] = request_of_step(on, test, s, tier_of(mutant), answers);
    bool refused = mr3d_truth_step(truth, requests[s], &answer, &error) != MR3D_OK;
    answers[s] = (mr3d_bundle *)answer; /* read only: greedy steps take their token from it */
    mr3d_reply reply = {.kind = MR3D_REPLY_ANSWER};
    bool answered = mr3d_mutant_server_answer(server, requests[s], &reply.answer, &error) == MR3D_OK;
    mr3d_judgement judgement = {.passed = refused != answered};
    if (answered && !refused) mr3d_judge(truth, reply.answer, &judgement);
    if (answered && !judgement.passed) {
      mr3d_result *result = mr3d_allocate(1, sizeof *result);
      result->test = test;
      mr3d_diagnose(result, truth, s + 1, requests, &reply, on->weights, 1);
      named = strcmp(result->mistake, name_of(mutant, name)) == 0;
      free(result);
    }
    stop = !judgement.passed;
    mr3d_judgement_clear(&judgement);
    mr3d_bundle_free(&reply.answer);
  }
  mr3d_truth_free(&truth);
  mr3d_mutant_server_free(&server);
  for (int s = 0; s < test->n_steps; s++) mr3d_bundle_free(&requests[s]);
  free(requests);
  free(answers);
  return named;
}

static bool is_about(const mr3d_case *test, const char *slug) {
  for (int p = 0; p < test->n_pitfalls; p++)
    if (strcmp(test->pitfalls[p], slug) == 0) return true;
  return false;
}

/** No long ones. */
static bool is_short(const mr3d_case *test, mr3d_tier tier) {
  if (test->needs_data || !(test->tiers >> tier & 1) || strstr(test->id, "canonical-prefill") || strstr(test->id, "full-width")) return false;
  for (int t = 0; t < test->n_tags; t++)
    if (strcmp(test->tags[t], "slow") == 0) return false;
  return true;
}

static void every_mutant_fails_a_committed_case_and_is_named(void **state) {
  (void)state;
  mr3d_error error = {0};
  bench on = {.weights = mr3d_weights_cache_new()};
  const char *golden = getenv("MR3D_GOLDEN");
  if (!golden) fail_msg("MR3D_GOLDEN must name the folder of the golden set");
  if (mr3d_suite_open(golden, NULL, &on.suite, &error) != MR3D_OK || mr3d_scratch_open(&on.scratch, &error) != MR3D_OK) fail_msg("%s", error.message);
  int unnamed = 0;
  for (int m = 0; m < mr3d_mutant_count(); m++) {
    const mr3d_mutant *mutant = mr3d_mutant_at(m);
    char name[128];
    bool named = mutant->hangs; /* tested below */
    mr3d_diagnose_forget();
    for (int rank = 3; rank >= 0 && !named; rank--) /* the pitfall's own cases first, and of them the small ones */
      for (int i = 0; i < mr3d_suite_count(on.suite) && !named; i++) {
        const mr3d_case *test = mr3d_suite_at(on.suite, i);
        bool touches = false;
        for (int s = 0; s < test->n_steps; s++) touches = touches || in_list(mutant->ops, test->steps[s].op);
        int its_rank = 2 * is_about(test, mutant->slug) + !strstr(test->id, "canonical");
        if (touches && is_short(test, tier_of(mutant)) && its_rank == rank) named = shows_in(&on, test, mutant);
      }
    if (!named) print_error("%s is named on no committed case\n", name_of(mutant, name)), unnamed++;
  }
  assert_int_equal(unnamed, 0);
  mr3d_weights_cache_free(&on.weights);
  mr3d_scratch_close();
  mr3d_suite_close(&on.suite);
}

static mr3d_result *diagnosed(const problem *p, mr3d_bundle *answer, mr3d_reply_kind kind) {
  mr3d_result *result = mr3d_allocate(1, sizeof *result);
  mr3d_reply reply = {.kind = kind, .answer = answer};
  mr3d_diagnose(result, p->truth, 1, &p->request, &reply, NULL, 1);
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
    mr3d_diagnose_forget();
    mr3d_result *result = diagnosed(&p, answer, MR3D_REPLY_ANSWER);
    assert_string_equal(result->mistake, "pairing/half-split-in-3d");
    assert_non_null(strstr(result->diagnosis, "within rounding"));
    free(result);
    drop(&p);
  }
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

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(every_mutant_is_one_mistake_of_a_known_pitfall),
      cmocka_unit_test(every_mutant_fails_a_committed_case_and_is_named),
      cmocka_unit_test(a_call_that_never_returns_is_named_where_a_mask_is_built),
      cmocka_unit_test(an_answer_rounded_to_the_tier_is_still_named),
      cmocka_unit_test(what_no_mutant_explains_is_described),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
