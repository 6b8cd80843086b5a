/** The runner: golden agreement first, then the backend, step by step, under the judge (docs/concepts.md, "How a verdict comes about"). */
#include "run.h"

#include <math.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>

#include "case_internal.h"
#include "golden.h"
#include "parallel.h"
#include "posing.h"
#include "repeat.h"
#include "scratch.h"
#include "team.h"
#include "yardstick_cache.h"

/** After so many requests of one operator without a reply, the operator is not asked again. */
#define MR3D_TIMEOUTS_PER_OP 2
/** Bytes of first answers that are kept whole where cases are asked again. */
#define MR3D_MEMORY_ROOM (1 << 30)

enum { NOT_COMPARED, AGREES, PARTS };

/** Whether the reference agrees with a case's golden: found out once, needed at every tier. */
struct agreement {
  int state;
  double worst;
  char message[1024];
};

struct silent_op {
  const char *op;
  atomic_int timeouts;
};

enum { FINISHED = -1, FAILED = -2, AGAIN = -3, LATE = -4 }; /* what a process tells beside results, each after its number */

/** What a result means for the next ones; shared by the processes of a run. */
struct ledger {
  atomic_int next_case; /**< to be taken */
  atomic_int settled;   /**< results from the first on of which all is known */
  atomic_bool over;     /**< nothing more is to be asked */
  mr3d_lessons lessons; /**< and diagnosis_seconds: written by the process whose turn it is */
  double diagnosis_seconds;
  atomic_int n_silent; /**< and what follows: written as results are settled */
  struct silent_op silent[64];
  char silence_diagnosis[1024], silence_mistake[256]; /**< of the last timeout; given to requests not asked after it */
};

struct runner {
  mr3d_run *run;
  mr3d_backend *backend;
  mr3d_weights_cache *weights;
  mr3d_yardstick_cache *yardsticks;
  const char *scratch;
  struct ledger *ledger;
  int total;   /**< results planned: run->results has all, those judged or told have steps */
  int n_cases; /**< selected */
  int *firsts; /**< [n_cases + 1]: each case's first result; the last is `total` */
  int member, members; /**< which process of how many this is */
  atomic_int *at;      /**< [members], shared: the case that each process is at; n_cases: it has none */
  mr3d_memory *memory; /**< of the first answers, or NULL: nothing is asked again */
  const mr3d_case *last_asked;
  int last_index;      /**< of the result whose step was asked last; -1: none */
  int threads;         /**< that the backend was begun anew with; 0: it was not */
  int late;            /**< timeouts of what was asked again */
  int to;      /**< where results are told, in a process of several; -1: this process settles them itself */
  mr3d_progress *progress;
  void *user;
};

/** One case at one tier under way. */
struct session {
  struct runner *runner;
  mr3d_posing posed;
  mr3d_golden *golden; /**< to compare the reference with, or NULL */
  double golden_worst;
  double weight_elements; /**< of the largest weights file so far */
};

static double now(void) {
  struct timespec t;
  clock_gettime(CLOCK_MONOTONIC, &t);
  return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

/* ---- what is offered ---- */

static uint32_t announced_tiers(const mr3d_backend_info *info) {
  uint32_t tiers = 0;
  for (int i = 0; i < info->n_tiers; i++) tiers |= 1u << info->tiers[i];
  return tiers;
}

/** Without --tier: what the backend claims; fp64 alone for the reference and its mutants, which compute in binary64 whatever the tier. */
static uint32_t default_tiers(const mr3d_backend_info *info) {
  const bool in_process = strcmp(info->spec, "builtin:reference") == 0 || strncmp(info->spec, "mutant:", 7) == 0;
  return in_process ? 1u << MR3D_FP64 : announced_tiers(info);
}

/* ---- one step ---- */

static double bundle_elements(const mr3d_bundle *bundle) {
  double count = 0;
  for (int i = 0; i < mr3d_bundle_count(bundle); i++) count += (double)mr3d_tensor_count(mr3d_bundle_at(bundle, i));
  return count;
}

/** Generous: 20 s, in which an interpreter may still be compiling, and 1 s a million elements of input and weights. */
static double timeout_of(const struct session *s, const mr3d_bundle *request) {
  const mr3d_run_options *options = &s->runner->run->options;
  return options->timeout > 0 ? options->timeout : 20 + 1e-6 * (bundle_elements(request) + s->weight_elements);
}

static mr3d_status make_request(struct session *s, int step, mr3d_error *error) {
  mr3d_status status = mr3d_posing_request(&s->posed, step, error);
  const char *weights = status == MR3D_OK ? mr3d_bundle_get(s->posed.requests[step], "weights") : NULL;
  struct stat file;
  if (weights && stat(weights, &file) == 0)
    s->weight_elements = fmax(s->weight_elements, (double)file.st_size / (double)mr3d_dtype_size(mr3d_tier_storage(s->posed.tier)));
  return status;
}

/** The reference's part of a step: it must do as the case expects and agree with the golden. `refusal` is its message where it refused. */
static mr3d_status ask_reference(struct session *s, int step, mr3d_error *refusal, mr3d_error *error) {
  mr3d_status status = mr3d_posing_answer(&s->posed, step, refusal, error);
  if (status != MR3D_OK || !s->golden) return status;
  double worst = 0;
  status = mr3d_golden_compare(s->golden, s->posed.test, step, s->posed.requests[step], s->posed.answers[step], &worst, error);
  if (worst > s->golden_worst) s->golden_worst = worst;
  return status;
}

/** The greedy tokens of the reference against those of PyTorch's own generate(). */
static mr3d_status check_tokens(const struct session *s, mr3d_error *error) {
  int step = 0;
  const char *golden = mr3d_golden_tokens(s->golden, &step);
  if (!golden) return MR3D_OK;
  char tokens[4096] = "";
  for (; step < s->posed.test->n_steps; step++) {
    const mr3d_tensor *logits = s->posed.answers[step] ? mr3d_bundle_find(s->posed.answers[step], "logits") : NULL;
    if (!logits || logits->shape[0] != 1 || logits->shape[1] < 1) continue;
    double token;
    mr3d_greedy_tokens(logits, &token);
    snprintf(tokens + strlen(tokens), sizeof tokens - strlen(tokens), "%s%.0f", *tokens ? "," : "", token);
  }
  if (strcmp(tokens, golden) == 0) return MR3D_OK;
  return mr3d_fail(error, MR3D_INVALID, "reference and golden part: greedy tokens are %.400s, PyTorch's generate() gave %.400s", tokens,
                   golden);
}

/* ---- operators without replies ---- */

static struct silent_op *silence_of(struct ledger *ledger, const char *op) {
  int n = atomic_load(&ledger->n_silent);
  for (int i = 0; i < n; i++)
    if (strcmp(ledger->silent[i].op, op) == 0) return &ledger->silent[i];
  return NULL;
}

static bool is_silent(struct ledger *ledger, const char *op) {
  struct silent_op *silence = silence_of(ledger, op);
  return silence && atomic_load(&silence->timeouts) >= MR3D_TIMEOUTS_PER_OP;
}

static void note_timeout(struct ledger *ledger, const char *op, const mr3d_result *result) {
  struct silent_op *silence = silence_of(ledger, op);
  if (!silence && atomic_load(&ledger->n_silent) == (int)(sizeof ledger->silent / sizeof *ledger->silent)) return;
  if (!silence) {
    silence = &ledger->silent[atomic_load(&ledger->n_silent)];
    silence->op = op;
    atomic_fetch_add(&ledger->n_silent, 1);
  }
  atomic_fetch_add(&silence->timeouts, 1);
  snprintf(ledger->silence_diagnosis, sizeof ledger->silence_diagnosis, "%s", result->diagnosis);
  snprintf(ledger->silence_mistake, sizeof ledger->silence_mistake, "%s", result->mistake);
}

/** The verdict on a result whose step is not asked because its operator is silent. */
static mr3d_verdict not_asked(struct ledger *ledger, mr3d_result *result, int step) {
  const char *op = result->test->steps[step].op;
  for (int s = step; s < result->n_steps; s++) {
    mr3d_reply_clear(&result->steps[s].reply);
    mr3d_judgement_clear(&result->steps[s].judgement);
  }
  result->steps[step] = (mr3d_step_result){.op = op};
  result->n_steps = step + 1;
  snprintf(result->reason, sizeof result->reason, "step %d (%s): not asked, because %d requests of %s had no reply in time", step, op,
           MR3D_TIMEOUTS_PER_OP, op);
  snprintf(result->diagnosis, sizeof result->diagnosis, "%s", ledger->silence_diagnosis);
  snprintf(result->mistake, sizeof result->mistake, "%s", ledger->silence_mistake);
  return MR3D_FAILED;
}

/** The first step whose operator is silent by now, or n_steps. */
static int first_silent(struct ledger *ledger, const mr3d_result *result) {
  int step = 0;
  while (step < result->n_steps && !is_silent(ledger, result->steps[step].op)) step++;
  return step;
}

/* ---- verdicts ---- */

/** The first broken rule of a judgement, in one line. */
static void describe_judgement(const mr3d_judgement *judgement, int step, const char *op, char *reason, size_t size) {
  snprintf(reason, size, "step %d (%s): the judge refused the answer", step, op);
  for (int t = 0; t < judgement->n_tensors; t++) {
    const mr3d_tensor_verdict *v = &judgement->tensors[t];
    if (v->passed) continue;
    int n = snprintf(reason, size, "step %d (%s): \"%s\": %s", step, op, v->name, v->problem);
    if (v->index[0] && n > 0 && n < (int)size)
      snprintf(reason + n, size - (size_t)n, "; worst at %s: got %.*g, expected %.*g, bound %.3g", v->index, mr3d_verdict_digits(v), v->got, mr3d_verdict_digits(v),
               v->expected, v->bound);
    return;
  }
}

mr3d_verdict mr3d_judge_reply(mr3d_truth *truth, const mr3d_error *refusal, int step, double timeout, mr3d_result *result,
                              mr3d_step_result *out) {
  const mr3d_reply *reply = &out->reply;
  char *reason = result->reason;
  size_t size = sizeof result->reason;
  switch (reply->kind) {
  case MR3D_REPLY_ANSWER:
    if (refusal) {
      snprintf(reason, size, "step %d (%s): must be refused: %.600s; the backend answered", step, out->op, refusal->message);
      break;
    }
    mr3d_judge(truth, reply->answer, &out->judgement);
    if (out->judgement.passed) return MR3D_PASSED;
    describe_judgement(&out->judgement, step, out->op, reason, size);
    break;
  case MR3D_REPLY_ERROR:
    if (refusal) return MR3D_PASSED;
    snprintf(reason, size, "step %d (%s): refused a request that must be answered: %.700s", step, out->op, reply->message);
    break;
  case MR3D_REPLY_UNSUPPORTED:
    if (!refusal) {
      snprintf(reason, size, "step %d (%s): unsupported: %.700s", step, out->op, reply->message);
      return MR3D_SKIPPED;
    }
    snprintf(reason, size, "step %d (%s): must be refused: %.500s; the backend says \"unsupported\": %.300s", step, out->op,
             refusal->message, reply->message);
    break;
  case MR3D_REPLY_TIMEOUT:
    if (timeout > 0) {
      const char *said = strncmp(reply->message, "no answer within", 16) == 0 ? strstr(reply->message, "; ") : NULL; /* the limit, once */
      snprintf(reason, size, "step %d (%s): no reply within %.3g s (--timeout)%.700s", step, out->op, timeout, said ? said : "");
    } else snprintf(reason, size, "step %d (%s): no reply in time: %.700s", step, out->op, reply->message);
    break;
  case MR3D_REPLY_CRASH: snprintf(reason, size, "step %d (%s): the backend crashed: %.700s", step, out->op, reply->message); break;
  case MR3D_REPLY_MALFORMED: snprintf(reason, size, "step %d (%s): malformed reply: %.700s", step, out->op, reply->message); break;
  }
  return MR3D_FAILED;
}

/** Waits until the results before this one are settled: what is learnt from failures then does not depend on the number of processes. False: the run is over. */
static bool has_turn(const struct runner *r, const mr3d_result *result) {
  while (atomic_load(&r->ledger->settled) < result - r->run->results && !atomic_load(&r->ledger->over)) nanosleep(&(struct timespec){0, 1000000}, NULL);
  return !atomic_load(&r->ledger->over);
}

static void diagnose(struct session *s, int n_requests, const mr3d_reply *reply, mr3d_result *result) {
  struct runner *r = s->runner;
  if (!has_turn(r, result) || first_silent(r->ledger, result) < result->n_steps) return;
  double start = now();
  mr3d_diagnose(&r->ledger->lessons, result, s->posed.truth, n_requests, s->posed.requests, reply, r->weights, r->run->options.threads);
  r->ledger->diagnosis_seconds += now() - start;
}

/** A result that passed, and then turned out to have been no good end: counted anew where it was counted. */
static void note_late(mr3d_run *run, int index, const char *message) {
  mr3d_result *result = &run->results[index];
  if (result->verdict != MR3D_PASSED) return;
  result->verdict = MR3D_FAILED;
  snprintf(result->reason, sizeof result->reason, "step %d (%s): passed, but then %.900s", result->n_steps - 1, result->test->steps[result->n_steps - 1].op, message);
  if (index < run->n_results) run->passed--, run->failed++;
}

static void tell_late(struct runner *r, int index, const char *message) {
  char text[1024];
  snprintf(text, sizeof text, "%s", message);
  if (index < 0) return; /* before the first case: it is asked again, that is all */
  if (r->to < 0) note_late(r->run, index, text);
  else if (mr3d_tell(r->to, &(int){LATE}, sizeof(int)) && mr3d_tell(r->to, &index, sizeof index)) mr3d_tell(r->to, text, sizeof text);
}

/** Asks; where the backend had come to grief before it looked at a case's first request, that is the doing of the case before, and it is asked anew. */
static void ask_step(struct session *s, int step, double timeout, mr3d_reply *reply) {
  struct runner *r = s->runner;
  mr3d_backend_about(r->backend, s->posed.test->id, step, s->posed.tier, s->posed.seed);
  mr3d_backend_ask(r->backend, s->posed.requests[step], timeout, reply);
  if (!reply->before || step > 0) return;
  tell_late(r, r->last_index, reply->message);
  mr3d_reply_clear(reply);
  mr3d_backend_ask(r->backend, s->posed.requests[step], timeout, reply);
}

/** The backend's part of a step: asked, and its reply judged. */
static mr3d_verdict ask_backend(struct session *s, int step, const mr3d_error *refusal, mr3d_result *result) {
  const mr3d_step *expected = &s->posed.test->steps[step];
  mr3d_step_result *out = &result->steps[step];
  result->n_steps = step + 1;
  out->op = expected->op;
  if (is_silent(s->runner->ledger, expected->op)) return not_asked(s->runner->ledger, result, step);
  double timeout = timeout_of(s, s->posed.requests[step]);
  out->asked = true;
  ask_step(s, step, timeout, &out->reply);
  mr3d_verdict verdict = mr3d_judge_reply(s->posed.truth, expected->expect_error ? refusal : NULL, step, timeout, result, out);
  if (verdict == MR3D_FAILED) diagnose(s, step + 1, &out->reply, result);
  if (verdict == MR3D_PASSED && out->reply.answer && mr3d_case_generates(result->test))
    mr3d_generation_note(&result->generation, step, s->posed.answers[step], out->reply.answer);
  if (s->runner->memory && result->again) mr3d_memory_keep(s->runner->memory, (int)(result - s->runner->run->results), step, s->runner->last_asked, &out->reply);
  mr3d_bundle_free(&out->reply.answer);
  return verdict;
}

/* ---- one case at one tier ---- */

/** Lets the backend forget the sessions that a case opened. Not judged: a step that drops a session is. `late`: what it had come to before, or "". */
static void drop_sessions(struct session *s, const mr3d_result *result, char late[1024]) {
  late[0] = 0;
  if (!mr3d_backend_offers(mr3d_backend_info_of(s->runner->backend), "drop_session")) return;
  for (int i = 0; i < result->n_steps; i++) {
    const char *session = s->posed.requests[i] ? mr3d_bundle_get(s->posed.requests[i], "session") : NULL;
    if (!session || strcmp(result->steps[i].op, "prefill") != 0 || result->steps[i].reply.kind != MR3D_REPLY_ANSWER) continue;
    mr3d_bundle *request = mr3d_bundle_new();
    mr3d_reply reply = {0};
    mr3d_bundle_set(request, "op", "drop_session");
    mr3d_bundle_set(request, "tier", mr3d_tier_name(s->posed.tier));
    mr3d_bundle_set(request, "config", "{}");
    mr3d_bundle_set(request, "session", session);
    mr3d_backend_ask(s->runner->backend, request, timeout_of(s, request), &reply); /* refused where a step has dropped it already */
    if (reply.before && !late[0]) snprintf(late, 1024, "%s", reply.message);
    mr3d_reply_clear(&reply);
    mr3d_bundle_free(&request);
  }
}

/**
 * Where the tokens part, the case is asked once more, fed with the backend's own: up to there that is what it was asked already. Its answers are not judged, there is
 * no truth about them.
 */
static void run_free(struct session *s, mr3d_result *result) {
  mr3d_posing free_run;
  mr3d_error error = {0};
  const mr3d_posing *p = &s->posed;
  char late[1024];
  mr3d_posing_open(&free_run, p->suite, p->test, p->tier, p->seed, p->scratch, s->runner->weights, 1);
  drop_sessions(s, result, late);
  for (int step = 0; step < p->test->n_steps; step++) {
    mr3d_reply reply = {0};
    if (mr3d_posing_request(&free_run, step, &error) == MR3D_OK) {
      mr3d_backend_about(s->runner->backend, p->test->id, step, p->tier, p->seed);
      mr3d_backend_ask(s->runner->backend, free_run.requests[step], timeout_of(s, free_run.requests[step]), &reply);
    }
    free_run.answers[step] = reply.answer;
    reply.answer = NULL;
    mr3d_reply_clear(&reply);
    result->generation.n = step;
    if (!free_run.answers[step]) break; /* what it gave up to here stays */
    mr3d_generation_note(&result->generation, step, NULL, free_run.answers[step]);
  }
  for (int step = 0; step < p->test->n_steps; step++) mr3d_bundle_free(&free_run.answers[step]);
  mr3d_posing_close(&free_run);
}

static void close_session(struct session *s) {
  mr3d_posing_close(&s->posed);
  mr3d_golden_close(&s->golden);
}

static void open_session(struct session *s, struct runner *r, const mr3d_case *test, mr3d_tier tier, uint64_t seed, const mr3d_beside *beside) {
  *s = (struct session){.runner = r};
  mr3d_posing_open(&s->posed, r->run->suite, test, tier, seed, r->scratch, r->weights, r->run->options.threads);
  s->posed.beside = beside;
  mr3d_truth_promise(s->posed.truth, r->run->info.kept);
  mr3d_truth_keep_runs(s->posed.truth, r->yardsticks);
}

/** Compares the reference alone with the golden. MR3D_UNSUPPORTED: the data folder is needed. */
static mr3d_status compare_with_golden(struct runner *r, const mr3d_case *test, double *worst, mr3d_error *error) {
  struct session s;
  mr3d_error refusal = {0};
  open_session(&s, r, test, MR3D_FP64, 0, NULL);
  mr3d_status status = mr3d_golden_open(r->run->suite, test, &s.golden, error);
  for (int step = 0; step < test->n_steps && status == MR3D_OK; step++) {
    status = make_request(&s, step, error);
    if (status == MR3D_OK) status = ask_reference(&s, step, &refusal, error);
  }
  if (status == MR3D_OK) status = check_tokens(&s, error);
  *worst = s.golden_worst;
  close_session(&s);
  return status;
}

/** Asks and judges all steps; compares the reference with the golden on the way where this is the golden's tier and seed. */
static mr3d_verdict run_steps(struct runner *r, mr3d_result *result, struct agreement *agreement) {
  struct session s;
  mr3d_error error = {0};
  open_session(&s, r, result->test, result->tier, result->seed, result->variant == MR3D_BESIDE ? &result->beside : NULL);
  mr3d_verdict verdict = MR3D_PASSED;
  mr3d_status status = MR3D_OK;
  bool compare = agreement->state == NOT_COMPARED; /* run_case has settled it for any other tier and seed */
  if (compare) status = mr3d_golden_open(r->run->suite, result->test, &s.golden, &error);
  int step = 0;
  for (; step < result->test->n_steps && status == MR3D_OK && verdict == MR3D_PASSED; step++) {
    mr3d_error refusal = {0};
    status = make_request(&s, step, &error);
    if (status == MR3D_OK) status = ask_reference(&s, step, &refusal, &error);
    if (status == MR3D_OK) verdict = ask_backend(&s, step, &refusal, result);
  }
  if (status == MR3D_OK && compare && verdict == MR3D_PASSED) {
    status = check_tokens(&s, &error);
    if (status == MR3D_OK) *agreement = (struct agreement){AGREES, s.golden_worst, ""};
  }
  if (compare) result->golden_worst = s.golden_worst;
  if (status != MR3D_OK) {
    verdict = status == MR3D_UNSUPPORTED ? MR3D_SKIPPED : MR3D_BROKEN;
    snprintf(result->reason, sizeof result->reason, "%s", error.message);
    if (compare && verdict == MR3D_BROKEN) {
      agreement->state = PARTS;
      snprintf(agreement->message, sizeof agreement->message, "%s", error.message);
    }
  }
  if (verdict != MR3D_PASSED || status != MR3D_OK) result->generation.n = 0;
  else if (mr3d_generation_parts_at(&result->generation) < result->generation.n && strncmp(mr3d_backend_info_of(r->backend)->spec, "dir:", 4) != 0) run_free(&s, result);
  char message[1024] = "", late[1024];
  const bool astray = mr3d_backend_went_astray(r->backend, message);
  drop_sessions(&s, result, late);
  if (verdict == MR3D_PASSED && (astray || late[0])) {
    verdict = MR3D_FAILED;
    snprintf(result->reason, sizeof result->reason, "step %d (%s): %.900s", step - 1, result->test->steps[step - 1].op, astray ? message : late);
  }
  close_session(&s);
  return verdict;
}

static mr3d_verdict run_case(struct runner *r, mr3d_result *result, struct agreement *agreement) {
  const mr3d_backend_info *info = mr3d_backend_info_of(r->backend);
  if (!(announced_tiers(info) >> result->tier & 1)) {
    snprintf(result->reason, sizeof result->reason, "the backend does not offer tier %s", mr3d_tier_name(result->tier));
    return MR3D_SKIPPED;
  }
  for (int s = 0; s < result->test->n_steps; s++)
    if (!mr3d_backend_offers(info, result->test->steps[s].op)) {
      snprintf(result->reason, sizeof result->reason, "the backend does not offer %s", result->test->steps[s].op);
      return MR3D_SKIPPED;
    }
  if (result->test->needs_data && !r->run->suite->data_dir) {
    snprintf(result->reason, sizeof result->reason, "needs the data folder (prompt_ids.json): give --data DIR or set MR3D_DATA");
    return MR3D_SKIPPED;
  }
  if (agreement->state == NOT_COMPARED && !(result->tier == MR3D_FP64 && result->seed == 0)) {
    mr3d_error error = {0};
    mr3d_status status = compare_with_golden(r, result->test, &agreement->worst, &error);
    if (status == MR3D_UNSUPPORTED) {
      snprintf(result->reason, sizeof result->reason, "%s", error.message);
      return MR3D_SKIPPED;
    }
    agreement->state = status == MR3D_OK ? AGREES : PARTS;
    snprintf(agreement->message, sizeof agreement->message, "%s", error.message);
  }
  if (agreement->state == AGREES) result->golden_worst = agreement->worst;
  if (agreement->state == PARTS) {
    snprintf(result->reason, sizeof result->reason, "%s", agreement->message);
    return MR3D_BROKEN;
  }
  return run_steps(r, result, agreement);
}

/* ---- the run ---- */

static void clear_set(const char *set) {
  char prefix[256];
  snprintf(prefix, sizeof prefix, "%s.", set);
  mr3d_scratch_clear(prefix);
}

/** Under a challenge a case has weights of its own: they are gone with it. */
static void drop_own_weights(const mr3d_case *test) {
  for (int s = 0; s < test->n_steps; s++)
    if (test->steps[s].weights) clear_set(test->steps[s].weights);
}

static bool needs_weights(const mr3d_case *test, const char *set) {
  for (int s = 0; s < test->n_steps; s++)
    if (test->steps[s].weights && strcmp(test->steps[s].weights, set) == 0) return true;
  return false;
}

/** Removes the weights files of a case's sets that no case needs which a process is at, or which is to come. */
static void drop_weights(struct runner *r, int c) {
  const mr3d_case *test = r->run->results[r->firsts[c]].test;
  int oldest = r->n_cases;
  for (int m = 0; m < r->members; m++) oldest = atomic_load(&r->at[m]) < oldest ? atomic_load(&r->at[m]) : oldest;
  for (int s = 0; s < test->n_steps; s++) {
    const char *set = test->steps[s].weights;
    bool needed = false;
    for (int i = oldest; set && i < r->n_cases && !needed; i++) needed = needs_weights(r->run->results[r->firsts[i]].test, set);
    if (set && !needed) clear_set(set);
  }
}

static bool is_asked(const mr3d_run_options *options, const mr3d_case *test, mr3d_tier tier, mr3d_variant variant) {
  const mr3d_challenge *challenge = options->challenge;
  if (challenge ? !mr3d_challenge_asks(challenge, test, tier, variant) : variant != MR3D_PLAIN && variant != MR3D_AGAIN) return false;
  return !options->wanted || options->wanted(options->wanted_user, test, tier, variant);
}

static mr3d_result planned(const mr3d_run_options *options, const mr3d_case *test, mr3d_tier tier, mr3d_variant variant) {
  mr3d_result result = {.test = test, .tier = tier, .variant = variant, .seed = options->seed, .golden_worst = NAN};
  result.again = variant == MR3D_PLAIN && is_asked(options, test, tier, MR3D_AGAIN);
  if (options->challenge) result.seed = mr3d_challenge_seed(options->challenge, test->id, variant);
  if (variant == MR3D_BESIDE) {
    const uint64_t neighbour = mr3d_challenge_neighbour_seed(options->challenge, test->id);
    result.beside = (mr3d_beside){.seed = neighbour, .first = neighbour % 2};
  }
  return result;
}

/** Lists the results to come, those of a case one after the other. */
static void plan(struct runner *r, uint32_t tiers) {
  mr3d_run *run = r->run;
  int n = run->suite->n_cases;
  run->results = mr3d_allocate((long long)n * MR3D_N_TIERS * MR3D_AGAIN, sizeof *run->results);
  r->firsts = mr3d_allocate(n + 1, sizeof *r->firsts);
  for (int i = 0; i < n; i++) {
    const mr3d_case *test = &run->suite->cases[i];
    if (!(tiers & test->tiers) || !mr3d_case_selected(test, &run->options.selection)) continue;
    const int first = r->total;
    for (int tier = 0; tier < MR3D_N_TIERS; tier++)
      for (int variant = MR3D_PLAIN; variant < MR3D_AGAIN; variant++)
        if (tiers & test->tiers & 1u << tier && is_asked(&run->options, test, (mr3d_tier)tier, (mr3d_variant)variant))
          run->results[r->total++] = planned(&run->options, test, (mr3d_tier)tier, (mr3d_variant)variant);
    if (r->total > first) r->firsts[r->n_cases++] = first;
  }
  r->firsts[r->n_cases] = r->total;
}

static void copy_info(mr3d_run *run, const mr3d_backend_info *info) {
  const char **ops = mr3d_allocate(info->n_ops, sizeof *ops);
  mr3d_tier *tiers = mr3d_allocate(info->n_tiers, sizeof *tiers);
  for (int i = 0; i < info->n_ops; i++) ops[i] = strdup(info->ops[i]);
  for (int i = 0; i < info->n_tiers; i++) tiers[i] = info->tiers[i];
  run->info = (mr3d_backend_info){
      .spec = strdup(info->spec), .name = strdup(info->name ? info->name : ""), .version = strdup(info->version ? info->version : "")};
  run->info.protections = strdup(info->protections), run->info.missing_protections = strdup(info->missing_protections);
  run->info.n_ops = info->n_ops, run->info.ops = ops;
  run->info.n_tiers = info->n_tiers, run->info.tiers = tiers;
  run->info.kept = info->kept;
}

/** Counts the results that are there, in their order, and tells of them. */
static void settle(struct runner *r) {
  mr3d_run *run = r->run;
  while (run->n_results < r->total && run->results[run->n_results].steps && !atomic_load(&r->ledger->over)) {
    mr3d_result *result = &run->results[run->n_results++];
    int step = first_silent(r->ledger, result);
    if (step < result->n_steps) result->verdict = not_asked(r->ledger, result, step); /* another process had asked it by then */
    else if (step > 0 && result->steps[step - 1].asked && result->steps[step - 1].reply.kind == MR3D_REPLY_TIMEOUT)
      note_timeout(r->ledger, result->steps[step - 1].op, result);
    int *const counts[] = {&run->passed, &run->failed, &run->skipped, &run->broken}; /* in the order of mr3d_verdict */
    ++*counts[result->verdict];
    atomic_store(&r->ledger->settled, run->n_results);
    if (r->progress && !r->progress(r->user, run, r->total)) atomic_store(&r->ledger->over, true);
  }
}

static void judge(struct runner *r, mr3d_result *result, struct agreement *agreement) {
  double start = now();
  result->steps = mr3d_allocate(result->test->n_steps, sizeof *result->steps);
  result->verdict = run_case(r, result, agreement);
  result->seconds = now() - start;
}

/** The next case, whoever is free; where cases are asked again, dealt out by turns, so that the same command gives each backend the same requests. */
static int next_case(struct runner *r, int last) {
  if (!r->memory) return atomic_fetch_add(&r->ledger->next_case, 1);
  return last < 0 ? r->member : last + r->members;
}

/** Takes a case after the other, until none is left. */
static void judge_cases(struct runner *r) {
  mr3d_run *run = r->run;
  for (int c = -1; (c = next_case(r, c)) < r->n_cases;) {
    struct agreement agreement = {0};
    atomic_store(&r->at[r->member], c);
    for (int i = r->firsts[c]; i < r->firsts[c + 1]; i++) {
      if (atomic_load(&r->ledger->over)) return;
      judge(r, &run->results[i], &agreement);
      if (run->results[i].n_steps > 0) r->last_asked = run->results[i].test, r->last_index = i;
      if (r->to < 0) settle(r);
      else if (!mr3d_tell(r->to, &i, sizeof i) || !mr3d_result_tell(&run->results[i], r->to)) return;
    }
    if (run->options.challenge) drop_own_weights(run->results[r->firsts[c]].test);
    else if (!r->memory) drop_weights(r, c);
  }
  atomic_store(&r->at[r->member], r->n_cases);
}

/* ---- once more ---- */

/** Notes what was found when a result was asked again; of several differences the first, or the first that fails. */
static void note_again(struct runner *r, int index, const mr3d_difference *d) {
  mr3d_run *run = r->run;
  mr3d_result *result = &run->results[index];
  run->asked_again++;
  if (d->repetition && (!result->difference.repetition || (d->failed && !result->difference.failed))) result->difference = *d;
  if (d->reason[0] && result->verdict == MR3D_PASSED) {
    result->verdict = MR3D_FAILED;
    result->failed_again = true;
    snprintf(result->reason, sizeof result->reason, "passed the first time; asked again (time %d): %.900s", d->repetition, d->reason);
    run->passed--, run->failed++;
  }
  if (r->progress && !r->progress(r->user, run, r->total)) atomic_store(&r->ledger->over, true);
}

static bool can_be_asked_again(struct runner *r, const mr3d_result *result) {
  if (!result->again || result->verdict == MR3D_SKIPPED || result->verdict == MR3D_BROKEN || result->n_steps == 0 || r->late >= MR3D_TIMEOUTS_PER_OP) return false;
  const mr3d_step_result *last = &result->steps[result->n_steps - 1];
  return last->asked && last->reply.kind != MR3D_REPLY_TIMEOUT && first_silent(r->ledger, result) == result->n_steps;
}

static bool takes_threads(const mr3d_backend_info *info) { return strncmp(info->spec, "dir:", 4) != 0; }

/** Compares the reply to one step with the first; one that differs is judged. */
static bool compare_again(struct session *s, int step, const mr3d_error *refusal, mr3d_result *result, mr3d_difference *d) {
  struct runner *r = s->runner;
  mr3d_result judged = {.test = result->test, .tier = result->tier};
  mr3d_step_result out = {.op = s->posed.test->steps[step].op};
  double timeout = timeout_of(s, s->posed.requests[step]);
  ask_step(s, step, timeout, &out.reply);
  r->late += out.reply.kind == MR3D_REPLY_TIMEOUT;
  bool differs = mr3d_memory_differs(r->memory, (int)(result - r->run->results), step, &out.reply, d);
  if (differs) {
    bool was_wrong = result->steps[step].judgement.n_tensors ? !result->steps[step].judgement.passed : result->verdict == MR3D_FAILED && step == result->n_steps - 1;
    bool passes = mr3d_judge_reply(s->posed.truth, s->posed.test->steps[step].expect_error ? refusal : NULL, step, timeout, &judged, &out) == MR3D_PASSED;
    snprintf(d->reason, sizeof d->reason, "%s", passes ? "" : judged.reason);
    d->failed = was_wrong || !passes;
  }
  mr3d_judgement_clear(&out.judgement);
  mr3d_reply_clear(&out.reply);
  return differs;
}

/** Asks a result's steps again, up to the first reply that is another. */
static void ask_again(struct runner *r, mr3d_result *result, int repetition, mr3d_difference *d) {
  struct session s;
  mr3d_error error = {0};
  bool differs = false;
  open_session(&s, r, result->test, result->tier, result->seed, result->variant == MR3D_BESIDE ? &result->beside : NULL);
  for (int step = 0; step < result->n_steps && !differs; step++) {
    mr3d_error refusal = {0};
    if (make_request(&s, step, &error) != MR3D_OK || ask_reference(&s, step, &refusal, &error) != MR3D_OK) break;
    differs = compare_again(&s, step, &refusal, result, d);
  }
  char message[256], late[1024];
  if (mr3d_backend_went_astray(r->backend, message) && !differs && result->verdict == MR3D_PASSED) {
    differs = true;
    *d = (mr3d_difference){.step = result->n_steps - 1, .kind = MR3D_REPLY_CRASH, .failed = true};
    snprintf(d->reason, sizeof d->reason, "%s", message);
  }
  if (differs) d->repetition = repetition, d->after = r->last_asked, d->threads = takes_threads(mr3d_backend_info_of(r->backend)) && r->threads != r->run->options.threads ? r->threads : 0;
  else *d = (mr3d_difference){0};
  drop_sessions(&s, result, late);
  close_session(&s);
  r->last_asked = result->test, r->last_index = (int)(result - r->run->results);
}

/** Asks again what this process has judged. */
static void repeat_cases(struct runner *r) {
  const mr3d_run *run = r->run;
  int n = 0, *mine = mr3d_allocate(r->total, sizeof *mine), *order = mr3d_allocate(r->total, sizeof *order);
  for (int c = r->member; c < r->n_cases; c += r->members)
    for (int i = r->firsts[c]; i < r->firsts[c + 1]; i++)
      if (run->results[i].again) mine[n++] = i;
  for (int repetition = 2; repetition <= run->options.repeat; repetition++) {
    for (int k = 0; k < n; k++) order[k] = k;
    if (run->options.shuffle) {
      mr3d_shuffle(run->options.shuffle_seed, repetition, n, order);
      r->threads = repetition % 2 ? run->options.threads : run->options.threads == 1 ? 2 : 1;
      mr3d_backend_rest(r->backend, r->threads); /* what it kept of the first order could hide that it keeps */
      r->last_asked = NULL;
    }
    for (int k = 0; k < n && !atomic_load(&r->ledger->over); k++) {
      const int index = mine[order[k]];
      mr3d_difference d = {0};
      if (can_be_asked_again(r, &run->results[index])) ask_again(r, &run->results[index], repetition, &d);
      if (run->options.challenge) drop_own_weights(run->results[index].test);
      if (r->to < 0) note_again(r, index, &d);
      else if (!mr3d_tell(r->to, &(int){AGAIN}, sizeof(int)) || !mr3d_tell(r->to, &index, sizeof index) || !mr3d_tell(r->to, &d, sizeof d)) break;
    }
  }
  free(mine);
  free(order);
}

/** All that this process has to do. */
static void do_share(struct runner *r, int member, int members) {
  r->member = member, r->members = members;
  if (r->run->options.repeat > 1) r->memory = mr3d_memory_new(r->total, (uint64_t)MR3D_MEMORY_ROOM / (uint64_t)members);
  judge_cases(r);
  if (r->memory) repeat_cases(r);
  mr3d_memory_free(&r->memory);
}

/** A failure that comes and goes is no known mistake but this pitfall, unless it is one of its mutants. */
static void name_order_sensitivity(mr3d_run *run) {
  for (int i = 0; i < run->n_results; i++) {
    mr3d_result *result = &run->results[i];
    char before[sizeof result->diagnosis], what[600];
    if (!result->difference.failed || result->verdict != MR3D_FAILED) continue;
    memcpy(before, result->diagnosis, sizeof before);
    mr3d_difference_say(&result->difference, result, what, sizeof what);
    snprintf(result->diagnosis, sizeof result->diagnosis, "the answer depends on repetition or on what was asked before (P26): %s%s%.300s", what,
             before[0] ? "; of the first answer: " : "", before);
    if (strncmp(result->mistake, "order-sensitivity", 17) != 0) snprintf(result->mistake, sizeof result->mistake, "order-sensitivity");
  }
}

/** What passes with one seed or in a batch of its own, and fails with another or beside others, depends on what it must not depend on. */
static void name_dependence(mr3d_run *run) {
  const mr3d_result *plain = NULL;
  for (int i = 0; i < run->n_results; i++) {
    mr3d_result *result = &run->results[i];
    if (result->variant == MR3D_PLAIN) plain = result;
    if (result->variant == MR3D_PLAIN || result->verdict != MR3D_FAILED || result->mistake[0] || !plain || plain->test != result->test || plain->verdict != MR3D_PASSED) continue;
    char before[sizeof result->diagnosis];
    memcpy(before, result->diagnosis, sizeof before);
    snprintf(result->diagnosis, sizeof result->diagnosis, "%s (P26)%s%.700s",
             result->variant == MR3D_BESIDE ? "passed in a batch of its own, fails beside other samples: the answer depends on its neighbours"
                                            : "passed with one seed, fails with another: the answer depends on which inputs were drawn",
             before[0] ? "; " : "", before);
    snprintf(result->mistake, sizeof result->mistake, "order-sensitivity");
  }
}

/* ---- several processes ---- */

static void be_one_of_several(void *user, int member, int to) {
  struct runner *r = user;
  mr3d_error error = {0};
  r->to = to;
  /* weights files are shared; under a challenge each case has its own */
  if (!r->run->options.challenge || mr3d_scratch_open(&r->scratch, &error) == MR3D_OK) {
    do_share(r, member, r->members);
    mr3d_backend_close(&r->backend);
    if (r->run->options.challenge) mr3d_scratch_close();
    int found = r->yardsticks ? mr3d_yardstick_cache_found(r->yardsticks) : 0;
    if (mr3d_tell(to, &(int){FINISHED}, sizeof(int))) mr3d_tell(to, &found, sizeof found);
  } else if (mr3d_tell(to, &(int){FAILED}, sizeof(int))) mr3d_tell(to, &error, sizeof error);
}

static mr3d_status hear_one_of_several(void *user, int from, bool *finished, mr3d_error *error) {
  struct runner *r = user;
  mr3d_error said = {.status = MR3D_IO, .message = "a process that judges ended before it had finished"};
  mr3d_difference d;
  int what = FAILED, found = 0, index = 0;
  char late[1024];
  bool told = mr3d_told(from, &what, sizeof what);
  if (told && what >= 0 && mr3d_result_hear(&r->run->results[what], from)) {
    settle(r);
    return MR3D_OK;
  }
  if (told && what == AGAIN && mr3d_told(from, &index, sizeof index) && mr3d_told(from, &d, sizeof d)) {
    note_again(r, index, &d);
    return MR3D_OK;
  }
  if (told && what == LATE && mr3d_told(from, &index, sizeof index) && mr3d_told(from, late, sizeof late)) {
    note_late(r->run, index, late);
    return MR3D_OK;
  }
  if (told && what == FINISHED && mr3d_told(from, &found, sizeof found)) {
    r->run->yardsticks_found += found;
    *finished = true;
    return MR3D_OK;
  }
  atomic_store(&r->ledger->over, true);
  if (told && what == FAILED) mr3d_told(from, &said, sizeof said);
  return mr3d_fail(error, said.status, "%s", said.message);
}

static mr3d_status run_all(struct runner *r, mr3d_error *error) {
  int jobs = r->run->options.jobs < r->n_cases ? r->run->options.jobs : r->n_cases;
  mr3d_status status = MR3D_OK;
  r->members = jobs > 1 ? jobs : 1;
  r->at = mr3d_shared_memory((size_t)r->members * sizeof *r->at);
  if (!r->at) return mr3d_fail(error, MR3D_IO, "no shared memory");
  if (jobs > 1) {
    mr3d_backend_rest(r->backend, r->run->options.threads); /* each process starts its own */
    status = mr3d_team_run(&(mr3d_team){jobs, r->run->options.threads, be_one_of_several, hear_one_of_several, r}, error);
  } else do_share(r, 0, 1);
  mr3d_shared_free(r->at, (size_t)r->members * sizeof *r->at);
  for (int i = r->run->n_results; i < r->total; i++) mr3d_result_clear(&r->run->results[i]); /* judged by others after the end */
  return status;
}

static char *copied(const char *text) { return text ? strdup(text) : NULL; }

static void copy_options(mr3d_run *run, const mr3d_run_options *options) {
  run->options = *options;
  if (options->challenge) {
    run->challenge = *options->challenge;
    run->options.challenge = &run->challenge;
    run->options.repeat = 2, run->options.shuffle = true, run->options.shuffle_seed = mr3d_challenge_order_seed(&run->challenge);
  } else if (options->shuffle && options->repeat < 2) run->options.repeat = 2;
  if (options->jobs > 1) {
    int threads = (options->threads > 0 ? options->threads : mr3d_parallel_jobs(0)) / options->jobs;
    run->options.threads = threads > 1 ? threads : 1;
  }
  mr3d_selection *selection = &run->options.selection;
  run->options.backend = copied(options->backend);
  run->options.golden_dir = copied(options->golden_dir);
  run->options.data_dir = copied(options->data_dir);
  run->options.yardsticks_dir = copied(options->yardsticks_dir);
  selection->case_glob = copied(selection->case_glob);
  selection->op = copied(selection->op);
  selection->level = copied(selection->level);
  selection->pitfall = copied(selection->pitfall);
  selection->tag = copied(selection->tag);
}

/** Plans and judges with a backend that is open. */
static mr3d_status run_selection(struct runner *r, mr3d_error *error) {
  mr3d_run *run = r->run;
  const mr3d_backend_info *info = mr3d_backend_info_of(r->backend);
  copy_info(run, info);
  plan(r, run->options.selection.tiers ? run->options.selection.tiers : default_tiers(info));
  if (r->total == 0) return mr3d_fail(error, MR3D_INVALID, "the selection is empty: no selected case runs at the selected tiers");
  mr3d_status status = run_all(r, error);
  mr3d_diagnose_settle(run, &r->ledger->lessons);
  name_order_sensitivity(run);
  name_dependence(run);
  run->diagnosis_seconds = r->ledger->diagnosis_seconds;
  mr3d_backend_rest(r->backend, run->options.threads); /* how it ends is worth a remark */
  run->remarks = mr3d_backend_remarks(r->backend);
  return status;
}

mr3d_status mr3d_run_suite(const mr3d_run_options *options, mr3d_progress *progress, void *user, mr3d_run **out, mr3d_error *error) {
  mr3d_run *run = mr3d_allocate(1, sizeof *run);
  struct runner r = {.run = run, .to = -1, .last_index = -1, .progress = progress, .user = user, .ledger = mr3d_shared_memory(sizeof *r.ledger)};
  double start = now();
  copy_options(run, options);
  mr3d_status status = r.ledger ? MR3D_OK : mr3d_fail(error, MR3D_IO, "no shared memory");
  if (status == MR3D_OK) status = mr3d_golden_verify(options->golden_dir, NULL, NULL, &run->n_golden_files, error);
  if (status == MR3D_OK) status = mr3d_suite_open(options->golden_dir, options->data_dir, &run->suite, error);
  if (status == MR3D_OK) status = mr3d_selection_check(run->suite, &options->selection, error);
  if (status == MR3D_OK && options->yardsticks_dir) status = mr3d_yardstick_cache_open(options->yardsticks_dir, &r.yardsticks, error);
  if (status == MR3D_OK) status = mr3d_scratch_open(&r.scratch, error);
  if (status == MR3D_OK) {
    r.weights = mr3d_weights_cache_new();
    const char *const kept[] = {r.scratch, options->golden_dir, options->data_dir ? options->data_dir : r.scratch, options->yardsticks_dir, NULL};
    const mr3d_backend_options backend = {.threads = run->options.threads, .weights = r.weights, .no_isolation = options->no_isolation,
                                          .memory = options->memory, .hidden = options->golden_dir, .kept = kept, .secrets = options->secrets,
                                          .forgets = options->challenge != NULL};
    if (options->jobs <= 1) mr3d_team_threads(run->options.threads);
    status = mr3d_backend_open(options->backend, &backend, &r.backend, error);
  }
  if (status == MR3D_OK) status = run_selection(&r, error);
  mr3d_backend_close(&r.backend);
  if (r.weights) mr3d_weights_cache_free(&r.weights);
  if (r.scratch) mr3d_scratch_close();
  if (r.yardsticks) run->yardsticks_found += mr3d_yardstick_cache_found(r.yardsticks);
  mr3d_yardstick_cache_close(&r.yardsticks);
  mr3d_shared_free(r.ledger, sizeof *r.ledger);
  free(r.firsts);
  run->seconds = now() - start;
  if (status == MR3D_OK) *out = run;
  else mr3d_run_free(&run);
  return status;
}

void mr3d_run_free(mr3d_run **pointer) {
  mr3d_run *run = *pointer;
  if (!run) return;
  for (int i = 0; i < run->n_results; i++) mr3d_result_clear(&run->results[i]);
  free(run->results);
  free(run->remarks);
  for (int i = 0; i < run->info.n_ops; i++) free((void *)run->info.ops[i]);
  free((void *)run->info.ops);
  free((void *)run->info.tiers);
  free((void *)run->info.spec);
  free((void *)run->info.name);
  free((void *)run->info.version);
  free((void *)run->info.protections);
  free((void *)run->info.missing_protections);
  mr3d_suite_close(&run->suite);
  const mr3d_selection *selection = &run->options.selection;
  const char *const texts[] = {run->options.backend, run->options.golden_dir, run->options.data_dir, run->options.yardsticks_dir, selection->case_glob,
                               selection->op,        selection->level,        selection->pitfall,    selection->tag};
  for (size_t i = 0; i < sizeof texts / sizeof *texts; i++) free((void *)texts[i]);
  free(run);
  *pointer = NULL;
}

int mr3d_run_exit_status(const mr3d_run *run) {
  if (run->broken || run->passed + run->failed == 0) return 1;
  return run->failed ? 2 : 0;
}

const char *mr3d_run_common_skip(const mr3d_run *run) {
  const char *common = "";
  int most = 0;
  for (int i = 0; i < run->n_results; i++) {
    if (run->results[i].verdict != MR3D_SKIPPED) continue;
    int same = 0;
    for (int j = i; j < run->n_results; j++)
      same += run->results[j].verdict == MR3D_SKIPPED && strcmp(run->results[i].reason, run->results[j].reason) == 0;
    if (same > most) most = same, common = run->results[i].reason;
  }
  return common;
}
