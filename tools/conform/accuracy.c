#include "accuracy.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "frames.h"
#include "mr3d/random.h"
#include "parallel.h"
#include "posing.h"

#define CASES 16          /* of those that kill a mutant, so many are asked */
#define LONGEST 0.03f     /* seconds that the matrix may have spent on one mutant in a case */

typedef struct task {
  const mr3d_matrix *matrix;
  mr3d_namesake *all;
} task;

static bool kills(const mr3d_matrix *x, int tier, int test, int mutant) {
  return mutant >= 0 && mr3d_matrix_cell(x, tier, test, mutant).state == MR3D_CELL_KILLED && x->case_seconds[tier * x->n_cases + test] <= LONGEST * (float)x->n_mutants;
}

/** Cases that kill a mutant, spread over those there are. */
static int spread_killers(const mr3d_matrix *x, int tier, int mutant, int wanted, bool chosen[]) {
  int n = 0, seen = 0;
  for (int i = 0; i < x->n_cases; i++) n += kills(x, tier, i, mutant);
  for (int i = 0; i < x->n_cases; i++) {
    if (!kills(x, tier, i, mutant)) continue;
    if (n <= wanted || seen * wanted / n != (seen + 1) * wanted / n) chosen[i] = true;
    seen++;
  }
  return n;
}

/* ---- one backend ---- */

static mr3d_status ask_case(const task *t, const mr3d_namesake *who, mr3d_worker *worker, mr3d_lessons *lessons, mr3d_result *result, mr3d_error *error) {
  const mr3d_matrix *x = t->matrix;
  const mr3d_case *test = result->test;
  mr3d_server_options options = {.threads = 1, .weights = worker->weights, .emulate = result->tier != MR3D_FP64,
                                 .arithmetic = mr3d_arithmetic_of(result->tier, MR3D_NEAREST, false, 1)};
  mr3d_mutant_server *backend = mr3d_mutant_server_new(x->mutants[who->first], who->second >= 0 ? x->mutants[who->second] : NULL, &options);
  mr3d_posing posed;
  mr3d_posing_open(&posed, x->suite, test, result->tier, x->seed, worker->scratch, worker->weights, 1);
  mr3d_status status = MR3D_OK;
  result->verdict = MR3D_PASSED;
  for (int s = 0; s < test->n_steps && result->verdict == MR3D_PASSED; s++) {
    mr3d_error refusal = {0};
    status = mr3d_posing_request(&posed, s, error);
    if (status == MR3D_OK) status = mr3d_posing_answer(&posed, s, NULL, error);
    if (status != MR3D_OK) break;
    bool due = test->steps[s].expect_error;
    mr3d_reply reply = {.kind = MR3D_REPLY_ANSWER};
    if (mr3d_mutant_server_answer(backend, posed.requests[s], &reply.answer, &refusal) != MR3D_OK) {
      reply.answer = NULL;
      reply.kind = MR3D_REPLY_ERROR;
      snprintf(reply.message, sizeof reply.message, "%s", refusal.message);
    }
    mr3d_judgement judgement = {.passed = due == (reply.answer == NULL)};
    if (reply.answer && !due) mr3d_judge(posed.truth, reply.answer, &judgement);
    if (!judgement.passed) {
      result->verdict = MR3D_FAILED;
      mr3d_diagnose(lessons, result, posed.truth, s + 1, posed.requests, &reply, worker->weights, 1);
    }
    mr3d_judgement_clear(&judgement);
    mr3d_bundle_free(&reply.answer);
  }
  mr3d_mutant_server_free(&backend);
  mr3d_posing_close(&posed);
  return status;
}

/** Whether a finding holds the name, alone or as a part of two. */
static bool is_found(const mr3d_run *run, const mr3d_mutant *mutant) {
  char name[128];
  size_t n = (size_t)snprintf(name, sizeof name, "%s/%s", mutant->slug, mutant->name);
  for (int i = 0; i < run->n_results; i++)
    for (const char *at = run->results[i].mistake; (at = strstr(at, name)); at += n)
      if ((at == run->results[i].mistake || at[-1] == '+') && (at[n] == 0 || at[n] == '+')) return true;
  return false;
}

static int index_among_all(const mr3d_mutant *mutant) {
  int m = 0;
  while (mr3d_mutant_at(m) != mutant) m++;
  return m;
}

/** How many failed results a finding has, and of how many the mutant would explain the answer as well. */
static void weigh(const mr3d_matrix *x, const mr3d_run *run, mr3d_namesake *who) {
  int most = 0, alike = 0, self = index_among_all(x->mutants[who->first]);
  for (int i = 0; i < run->n_results; i++) {
    int same = 0;
    for (int k = 0; k < run->n_results; k++)
      same += run->results[i].verdict == MR3D_FAILED && run->results[k].verdict == MR3D_FAILED && run->results[i].mistake[0] &&
              strcmp(run->results[i].mistake, run->results[k].mistake) == 0;
    if (same > most) {
      most = same;
      snprintf(who->named, sizeof who->named, "%s", run->results[i].mistake);
    }
    who->failed += run->results[i].verdict == MR3D_FAILED;
    for (int s = 0; s < run->results[i].n_suspects; s++) alike += run->results[i].suspects[s].first == self && run->results[i].suspects[s].second < 0;
  }
  char name[128];
  snprintf(name, sizeof name, "%s/%s", x->mutants[who->first]->slug, x->mutants[who->first]->name);
  bool first = is_found(run, x->mutants[who->first]), second = who->second >= 0 && is_found(run, x->mutants[who->second]);
  if (who->failed == 0) who->naming = MR3D_NOT_SEEN;
  else if (most == 0) who->naming = MR3D_NOT_NAMED;
  else if (who->second >= 0) who->naming = first && second ? MR3D_NAMED : first || second ? MR3D_HALF_NAMED : MR3D_NAMED_OTHER;
  else who->naming = strcmp(who->named, name) == 0 ? MR3D_NAMED : alike >= most ? MR3D_NAMED_ALIKE : MR3D_NAMED_OTHER;
}

static mr3d_status judge_one(void *user, mr3d_worker *worker, int index, mr3d_error *error) {
  const task *t = user;
  const mr3d_matrix *x = t->matrix;
  mr3d_namesake *who = &t->all[index];
  bool *chosen = mr3d_allocate(x->n_cases, sizeof *chosen);
  mr3d_run run = {.results = mr3d_allocate(x->n_cases, sizeof *run.results)};
  mr3d_lessons lessons = {0};
  mr3d_status status = MR3D_OK;
  spread_killers(x, who->tier, who->first, CASES, chosen);
  spread_killers(x, who->tier, who->second, CASES, chosen);
  for (int i = 0; i < x->n_cases && status == MR3D_OK; i++) {
    if (!chosen[i]) continue;
    mr3d_result *result = &run.results[run.n_results++];
    *result = (mr3d_result){.test = x->cases[i], .tier = x->tiers[who->tier], .seed = x->seed};
    status = ask_case(t, who, worker, &lessons, result, error);
  }
  who->asked = run.n_results;
  if (status == MR3D_OK) {
    mr3d_diagnose_settle(&run, &lessons);
    weigh(x, &run, who);
  }
  free(run.results);
  free(chosen);
  return status;
}

static const char *name_one(void *user, int index) {
  const task *t = user;
  return t->matrix->mutants[t->all[index].first]->name;
}

/* ---- all ---- */

static bool is_killed(const mr3d_matrix *x, int tier, int mutant) {
  if (x->mutants[mutant]->hangs) return false; /* named by its silence alone */
  for (int i = 0; i < x->n_cases; i++)
    if (kills(x, tier, i, mutant)) return true;
  return false;
}

mr3d_status mr3d_accuracy_run(const mr3d_matrix *x, int pairs, mr3d_matrix_progress *progress, void *user, mr3d_accuracy **out, mr3d_error *error) {
  int most = x->n_tiers * (x->n_mutants + pairs), n = 0;
  size_t size = (size_t)most * sizeof(mr3d_namesake);
  mr3d_namesake *all = mr3d_shared_memory(size);
  double start = mr3d_now();
  if (!all) return mr3d_fail(error, MR3D_IO, "no shared memory");
  for (int t = 0; t < x->n_tiers; t++) {
    for (int m = 0; m < x->n_mutants; m++)
      if (is_killed(x, t, m)) all[n++] = (mr3d_namesake){.first = m, .second = -1, .tier = t};
    mr3d_stream stream = mr3d_stream_named(x->seed, "accuracy/pairs");
    for (int drawn = 0, taken = 0; taken < pairs && drawn < 100 * pairs; drawn++) {
      int a = (int)(mr3d_random_raw(stream, 2 * (uint64_t)drawn) % (uint64_t)x->n_mutants), b = (int)(mr3d_random_raw(stream, 2 * (uint64_t)drawn + 1) % (uint64_t)x->n_mutants);
      if (!mr3d_mutants_combine(x->mutants[a], x->mutants[b]) || !is_killed(x, t, a) || !is_killed(x, t, b)) continue;
      all[n++] = (mr3d_namesake){.first = a, .second = b, .tier = t};
      taken++;
    }
  }
  task t = {x, all};
  mr3d_work work = {.total = n, .one = judge_one, .name = name_one, .user = &t, .progress = progress, .progress_user = user};
  mr3d_status status = mr3d_parallel(&work, x->jobs, error);
  if (status == MR3D_OK) {
    mr3d_accuracy *accuracy = mr3d_allocate(1, sizeof *accuracy);
    *accuracy = (mr3d_accuracy){.n = n, .all = mr3d_allocate(n, sizeof *accuracy->all), .seconds = mr3d_now() - start};
    memcpy(accuracy->all, all, (size_t)n * sizeof *all);
    *out = accuracy;
  }
  mr3d_shared_free(all, size);
  return status;
}

void mr3d_accuracy_free(mr3d_accuracy **pointer) {
  if (!*pointer) return;
  free((*pointer)->all);
  free(*pointer);
  *pointer = NULL;
}

int mr3d_accuracy_count(const mr3d_accuracy *accuracy, int tier, bool pairs, mr3d_naming naming) {
  int n = 0;
  for (int i = 0; i < accuracy->n; i++) n += accuracy->all[i].tier == tier && (accuracy->all[i].second >= 0) == pairs && accuracy->all[i].naming == naming;
  return n;
}
