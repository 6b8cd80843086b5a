/** The kill matrix, computed by processes that take one case at one tier after the other. */
#include "matrix.h"

#include <fnmatch.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "frames.h"
#include "golden.h"
#include "parallel.h"
#include "posing.h"
#include "thinning.h"
#include "trial.h"
#include "widened_request.h"
#include "words.h"

#define THIN_TOKENS 12    /* of many tokens of a hidden state or logits, this many are compared */
#define PART_FROM 256     /* of so many tokens the first few are tried by themselves before all are */
enum { PADDING = 1, LEFT_OUT = 2 }; /* of a row that is not compared */
#define SILENCE 0.02      /* seconds that a mutant which never answers is waited for */

/** One case at one tier. */
typedef struct job {
  const mr3d_matrix *matrix;
  mr3d_worker *worker;
  int tier_index, test_index;
  const mr3d_case *test;
  mr3d_tier tier;
  mr3d_posing posed;
  mr3d_cell *cells;                  /* [mutants] */
} job;

static mr3d_cell *cells_of(const mr3d_matrix *x, int tier, int test) { return x->cells + ((int64_t)tier * x->n_cases + test) * x->n_mutants; }

mr3d_cell mr3d_matrix_cell(const mr3d_matrix *x, int tier, int test, int mutant) { return cells_of(x, tier, test)[mutant]; }

static bool touches(const mr3d_case *test, const mr3d_mutant *mutant, mr3d_tier tier) {
  if (!(test->tiers >> tier & 1) || !mr3d_mutant_is_mistake_at(mutant, tier)) return false;
  for (int s = 0; s < test->n_steps; s++)
    if (mr3d_mutant_touches(mutant, test->steps[s].op)) return true;
  return false;
}

/**
 * Whether the mutant is asked. Not where it answered the case at an earlier tier as the reference does, bit for bit: what does not show in exact arithmetic
 * does not show in the same case's rounded inputs, and if it did, only a kill would be missed.
 */
static bool is_asked_in(job *j, int mutant) {
  if (!touches(j->test, j->matrix->mutants[mutant], j->tier)) return false;
  for (int t = 0; t < j->tier_index; t++)
    if (mr3d_matrix_cell(j->matrix, t, j->test_index, mutant).state == MR3D_CELL_EQUAL) j->cells[mutant].state = MR3D_CELL_EQUAL;
  return j->cells[mutant].state != MR3D_CELL_EQUAL;
}

/* ---- one answer ---- */

static void kill_unjudged(mr3d_cell *cell) {
  cell->state = MR3D_CELL_KILLED;
  cell->not_judged = true;
}

/** The largest statistic over its limit; infinite where an exact rule is broken or no rule could be tried. */
static double size_of(const mr3d_judgement *judgement) {
  double size = 0;
  for (int t = 0; t < judgement->n_tensors; t++) {
    const mr3d_tensor_verdict *v = &judgement->tensors[t];
    if (!v->passed && v->n_statistics == 0) return INFINITY;
    for (int s = 0; s < v->n_statistics; s++) {
      const mr3d_statistic *rule = &v->statistics[s];
      double part = rule->limit > 0 ? fabs(rule->value) / rule->limit : rule->value == 0 ? 0 : INFINITY;
      if (rule->tested && !(part <= size)) size = part;
    }
  }
  return size;
}

/** The mutant's answer to the latest step, NULL if it refused; `due` is whether a refusal is. */
static void enter(job *j, bool due, const mr3d_bundle *answer, mr3d_cell *cell) {
  if (due || !answer) {
    if (due == (answer != NULL)) kill_unjudged(cell);
    else if (cell->state == MR3D_CELL_UNTOUCHED) cell->state = MR3D_CELL_EQUAL;
    return;
  }
  mr3d_judgement judgement;
  mr3d_judge(j->posed.truth, answer, &judgement);
  double size = size_of(&judgement);
  if (size > cell->size || isnan(size)) cell->size = (float)size;
  if (!judgement.passed && !judgement.in_doubt) {
    if (isfinite(size)) cell->state = MR3D_CELL_KILLED;
    else kill_unjudged(cell);
  } else if (cell->state != MR3D_CELL_HIDDEN) cell->state = cell->size > 0 ? MR3D_CELL_HIDDEN : MR3D_CELL_EQUAL;
  mr3d_judgement_clear(&judgement);
}

/** A mutant that never answers runs into the time limit like any backend. */
static void enter_silence(job *j, const mr3d_mutant *mutant, const mr3d_bundle *request, mr3d_cell *cell) {
  char spec[160];
  mr3d_backend *backend = NULL;
  mr3d_reply reply = {0};
  mr3d_error error = {0};
  snprintf(spec, sizeof spec, "mutant:%s/%s", mutant->slug, mutant->name);
  if (mr3d_backend_open(spec, &(mr3d_backend_options){.threads = 1, .weights = j->worker->weights}, &backend, &error) != MR3D_OK) return;
  mr3d_backend_ask(backend, request, SILENCE, &reply);
  if (reply.kind == MR3D_REPLY_TIMEOUT) kill_unjudged(cell);
  else if (cell->state == MR3D_CELL_UNTOUCHED) cell->state = MR3D_CELL_EQUAL;
  mr3d_reply_clear(&reply);
  mr3d_backend_close(&backend);
}

/* ---- one case ---- */

static mr3d_status ask_reference(job *j, int step, mr3d_error *error) {
  mr3d_status status = mr3d_posing_request(&j->posed, step, error);
  return status == MR3D_OK ? mr3d_posing_answer(&j->posed, step, NULL, error) : status;
}

/** THIN_TOKENS of q tokens, spread over all: the first, the last, and those between. */
static int64_t spread_tokens(int64_t q, int64_t tokens[THIN_TOKENS]) {
  int64_t n = 0;
  for (int64_t k = 0; k < THIN_TOKENS && q > 0; k++) {
    int64_t token = k * (q - 1) / (THIN_TOKENS - 1);
    if (n == 0 || tokens[n - 1] != token) tokens[n++] = token;
  }
  return n;
}

/** Tokens of the request's hidden states; 0: it has none. */
static int64_t tokens_of(const mr3d_bundle *request) {
  const mr3d_tensor *hidden = mr3d_bundle_find(request, "hidden"), *embeds = mr3d_bundle_find(request, "inputs_embeds");
  if (!hidden) hidden = embeds;
  return hidden && hidden->rank == 3 ? hidden->shape[1] : 0;
}

/** For all tokens, or for the first `part` of them alone. */
static mr3d_thinning *thin(const mr3d_bundle *request, int64_t part) {
  int64_t tokens[THIN_TOKENS], q = tokens_of(request);
  return mr3d_thinning_new(request, spread_tokens(part ? part : q, tokens), tokens, part > 0);
}

/** Rows of `name`, the last ones of q tokens, that are left out, or all, are compared no more than padding is. */
static void skip_others(mr3d_bundle *answer, const char *name, int64_t q, const mr3d_thinning *thinning, bool all) {
  char skip_name[32];
  const mr3d_tensor *tensor = mr3d_bundle_find(answer, name);
  if (!tensor) return;
  snprintf(skip_name, sizeof skip_name, "skip:%s", name);
  mr3d_tensor *skip = mr3d_bundle_find(answer, skip_name);
  if (!skip) skip = mr3d_bundle_add(answer, skip_name, MR3D_BOOL, 2, tensor->shape);
  const int64_t rows = tensor->shape[1];
  for (int64_t i = 0; i < tensor->shape[0] * rows; i++)
    ((uint8_t *)skip->data)[i] = (((uint8_t *)skip->data)[i] & PADDING) | (all || !mr3d_thinning_has(thinning, q - rows + i % rows) ? LEFT_OUT : 0);
}

/** `servers` has one for each mutant that is asked, NULL for one that is not, or not any more, and behind them the reference's. */
static void start(const job *j, mr3d_mutant_server *servers[], int m) {
  const mr3d_mutant *mutant = m < j->matrix->n_mutants ? j->matrix->mutants[m] : NULL;
  const mr3d_operators thin_ones = mr3d_thinning_operators(mutant, NULL);
  const mr3d_server_options options = {.operators = &thin_ones, .threads = 1, .weights = j->worker->weights};
  mr3d_mutant_server_free(&servers[m]);
  servers[m] = mr3d_mutant_server_new(mutant, NULL, &options);
}

/** All of them answer a step's request, thinned; `part`: its first tokens alone. Who is killed is asked no more. */
static void ask_all(job *j, mr3d_mutant_server *servers[], int step, const mr3d_bundle *request, int64_t part) {
  const int n = j->matrix->n_mutants;
  mr3d_bundle *due = j->posed.answers[step];
  mr3d_thinning *thinning = thin(request, part);
  mr3d_bundle *answer = mr3d_thinning_answer(thinning, servers[n], NULL, NULL, request);
  mr3d_bundle_free(&answer);
  if (due && mr3d_thinning_is_thin(thinning)) {
    mr3d_truth_spare_runs(j->posed.truth);
    skip_others(due, "hidden", tokens_of(request), thinning, false);
    skip_others(due, "logits", tokens_of(request), thinning, part > 0);
  }
  for (int m = 0; m < n; m++) {
    if (!servers[m] || j->matrix->mutants[m]->hangs) continue;
    answer = mr3d_thinning_answer(thinning, servers[m], j->matrix->mutants[m], NULL, request);
    if (!part || !mr3d_thinning_saw_beyond(thinning)) enter(j, due == NULL, answer, &j->cells[m]);
    if (j->cells[m].state == MR3D_CELL_KILLED) mr3d_mutant_server_free(&servers[m]);
    mr3d_bundle_free(&answer);
  }
  mr3d_thinning_free(&thinning);
}

/** They go on step by step until they are killed, and share what does not differ between them. */
static mr3d_status run_steps(job *j, mr3d_error *error) {
  const int n = j->matrix->n_mutants;
  mr3d_mutant_server **servers = mr3d_allocate(n + 1, sizeof *servers);
  for (int m = 0; m <= n; m++)
    if (m == n || is_asked_in(j, m)) start(j, servers, m);
  mr3d_status status = MR3D_OK;
  bool refuses = false;
  for (int s = 0; s < j->test->n_steps; s++) refuses |= j->test->steps[s].expect_error;
  for (int s = 0; s < j->test->n_steps && status == MR3D_OK; s++) {
    status = ask_reference(j, s, error);
    if (status != MR3D_OK) break;
    mr3d_bundle *request = mr3d_widened_request(j->posed.requests[s], !refuses);
    if (s == 0 && j->test->n_steps > 1 && tokens_of(request) >= PART_FROM) {
      ask_all(j, servers, s, request, tokens_of(request) / 5);
      for (int m = 0; m <= n; m++)
        if (servers[m]) start(j, servers, m);
    }
    ask_all(j, servers, s, request, 0);
    for (int m = 0; m < n; m++)
      if (servers[m] && j->matrix->mutants[m]->hangs && j->cells[m].state != MR3D_CELL_KILLED) enter_silence(j, j->matrix->mutants[m], j->posed.requests[s], &j->cells[m]);
    mr3d_bundle_free(&request);
  }
  for (int m = 0; m <= n; m++) mr3d_mutant_server_free(&servers[m]);
  free(servers);
  return status;
}

static mr3d_status run_case(const mr3d_matrix *x, mr3d_worker *w, int tier, int test, mr3d_error *error) {
  job j = {.matrix = x, .worker = w, .tier_index = tier, .test_index = test, .test = x->cases[test], .tier = x->tiers[tier], .cells = cells_of(x, tier, test)};
  if (!(j.test->tiers >> j.tier & 1)) return MR3D_OK;
  double start = mr3d_now();
  mr3d_posing_open(&j.posed, x->suite, j.test, j.tier, x->seed, w->scratch, w->weights, 1);
  mr3d_status status = run_steps(&j, error);
  mr3d_posing_close(&j.posed);
  x->case_seconds[tier * x->n_cases + test] = (float)(mr3d_now() - start);
  return status;
}

/* ---- all ---- */

/** Cases of many tokens first, so that no process is left with one at the end. */
static int *long_ones_first(const mr3d_matrix *x) {
  int *order = mr3d_allocate(x->n_cases, sizeof *order), n = 0;
  for (int pass = 0; pass < 3; pass++)
    for (int i = 0; i < x->n_cases; i++) {
      const char *id = x->cases[i]->id, *level = x->cases[i]->level;
      int its = strcmp(level, "L0") != 0 && (strstr(id, "canonical") || strstr(id, "full-width")) ? 0 : strcmp(level, "L0") != 0 || strstr(id, "canonical") ? 1 : 2;
      if (its == pass) order[n++] = i;
    }
  return order;
}

typedef struct all {
  const mr3d_matrix *matrix;
  const int *order;
} all;

static mr3d_status run_one(void *user, mr3d_worker *worker, int index, mr3d_error *error) {
  const all *a = user;
  mr3d_status status = MR3D_OK;
  for (int t = 0; t < a->matrix->n_tiers && status == MR3D_OK; t++) status = run_case(a->matrix, worker, t, a->order[index], error);
  return status;
}

static const char *name_one(void *user, int index) {
  const all *a = user;
  return a->matrix->cases[a->order[index]]->id;
}

static mr3d_status run_all(mr3d_matrix *x, mr3d_matrix_progress *progress, void *user, mr3d_error *error) {
  int *order = long_ones_first(x);
  all a = {x, order};
  mr3d_work work = {.total = x->n_cases, .one = run_one, .name = name_one, .user = &a, .progress = progress, .progress_user = user};
  mr3d_status status = mr3d_parallel(&work, x->jobs, error);
  free(order);
  return status;
}

/* ---- what is selected ---- */

static bool is_wide(const mr3d_case *test) {
  for (int t = 0; t < test->n_tags; t++)
    if (strcmp(test->tags[t], "wide") == 0) return true;
  return false;
}

static void select_cases(mr3d_matrix *x, const mr3d_matrix_options *options) {
  x->cases = mr3d_allocate(mr3d_suite_count(x->suite), sizeof *x->cases);
  for (int i = 0; i < mr3d_suite_count(x->suite); i++) {
    const mr3d_case *test = mr3d_suite_at(x->suite, i);
    if (!mr3d_case_selected(test, &options->selection) || (options->without && fnmatch(options->without, test->id, 0) == 0)) continue;
    if (is_wide(test) && options->selection.without_slow) continue; /* they take half of the time, and their small twins are there */
    if (test->needs_data && !mr3d_suite_data_dir(x->suite)) x->left_out++;
    else x->cases[x->n_cases++] = test;
  }
}

/** Whether a selected case asks the mutant at a selected tier. Without a selection of cases all must be: one that is not is a hole. */
static bool is_asked(const mr3d_matrix *x, const mr3d_selection *selection, const mr3d_mutant *mutant) {
  if (!selection->case_glob && !selection->op && !selection->level && !selection->pitfall && !selection->tag) return true;
  for (int i = 0; i < x->n_cases; i++)
    for (int t = 0; t < x->n_tiers; t++)
      if (touches(x->cases[i], mutant, x->tiers[t])) return true;
  return false;
}

static void select_mutants(mr3d_matrix *x, const mr3d_matrix_options *options) {
  x->mutants = mr3d_allocate(mr3d_mutant_count(), sizeof *x->mutants);
  for (int m = 0; m < mr3d_mutant_count(); m++) {
    const mr3d_mutant *mutant = mr3d_mutant_at(m);
    char name[128];
    snprintf(name, sizeof name, "%s/%s", mutant->slug, mutant->name);
    if ((options->mutant_glob && fnmatch(options->mutant_glob, name, 0) != 0) || !mr3d_word_selected(options->mutant_pitfall, mutant->slug)) continue;
    if (is_asked(x, &options->selection, mutant)) x->mutants[x->n_mutants++] = mutant;
    else x->not_asked++;
  }
}

/** The options that leave out cases or mutants, as they are typed. */
static void describe_selection(mr3d_matrix *x, const mr3d_matrix_options *o) {
  const struct {
    const char *option, *value;
  } given[] = {{"--mutant", o->mutant_glob},      {"--mutants-of", o->mutant_pitfall}, {"--level", o->selection.level}, {"--op", o->selection.op},
               {"--case", o->selection.case_glob}, {"--pitfall", o->selection.pitfall}, {"--tag", o->selection.tag},     {"--without", o->without}};
  for (size_t i = 0; i < sizeof given / sizeof *given; i++) {
    const size_t used = strlen(x->selected);
    if (given[i].value) snprintf(x->selected + used, sizeof x->selected - used, " %s %s", given[i].option, given[i].value);
  }
}

mr3d_status mr3d_matrix_run(const mr3d_matrix_options *options, mr3d_matrix_progress *progress, void *user, mr3d_matrix **out, mr3d_error *error) {
  mr3d_matrix *x = mr3d_allocate(1, sizeof *x);
  double start = mr3d_now();
  int n_files = 0;
  x->jobs = mr3d_parallel_jobs(options->jobs);
  x->seed = options->seed;
  describe_selection(x, options);
  uint32_t tiers = options->selection.tiers ? options->selection.tiers : 1u << MR3D_FP64 | 1u << MR3D_FP32;
  for (int t = 0; t < MR3D_N_TIERS; t++)
    if (tiers >> t & 1) x->tiers[x->n_tiers++] = (mr3d_tier)t;
  mr3d_status status = mr3d_golden_verify(options->golden_dir, NULL, NULL, &n_files, error);
  if (status == MR3D_OK) status = mr3d_suite_open(options->golden_dir, options->data_dir, &x->suite, error);
  if (status == MR3D_OK) status = mr3d_selection_check(x->suite, &options->selection, error);
  if (status == MR3D_OK) {
    select_cases(x, options);
    select_mutants(x, options);
    if (x->n_cases == 0)
      status = x->left_out ? mr3d_fail(error, MR3D_INVALID, "the selection of cases is empty: all %d need the data folder (--data)", x->left_out)
                           : mr3d_fail(error, MR3D_INVALID, "the selection of cases is empty: --without leaves none");
    else if (x->n_mutants == 0)
      status = mr3d_fail(error, MR3D_INVALID, "the selection of mutants is empty%s; `mr3d list mutants` shows what there is",
                         x->not_asked ? ": no selected case asks the operators of those selected" : "");
  }
  if (status == MR3D_OK) {
    x->cells = mr3d_shared_memory((size_t)x->n_tiers * (size_t)x->n_cases * (size_t)x->n_mutants * sizeof *x->cells);
    x->case_seconds = mr3d_shared_memory((size_t)x->n_tiers * (size_t)x->n_cases * sizeof *x->case_seconds);
    status = x->cells && x->case_seconds ? run_all(x, progress, user, error) : mr3d_fail(error, MR3D_IO, "no shared memory");
  }
  x->seconds = mr3d_now() - start;
  if (status == MR3D_OK) *out = x;
  else mr3d_matrix_free(&x);
  return status;
}

void mr3d_matrix_free(mr3d_matrix **pointer) {
  mr3d_matrix *x = *pointer;
  if (!x) return;
  mr3d_shared_free(x->cells, (size_t)x->n_tiers * (size_t)x->n_cases * (size_t)x->n_mutants * sizeof *x->cells);
  mr3d_shared_free(x->case_seconds, (size_t)x->n_tiers * (size_t)x->n_cases * sizeof *x->case_seconds);
  free(x->cases);
  free(x->mutants);
  mr3d_suite_close(&x->suite);
  free(x);
  *pointer = NULL;
}

/* ---- what it says ---- */

mr3d_matrix_row mr3d_matrix_row_of(const mr3d_matrix *x, int tier, int mutant) {
  mr3d_matrix_row row = {.mistake = mr3d_mutant_is_mistake_at(x->mutants[mutant], x->tiers[tier]), .first_killer = -1, .largest_case = -1};
  for (int i = 0; i < x->n_cases; i++) {
    mr3d_cell cell = mr3d_matrix_cell(x, tier, i, mutant);
    row.touched += cell.state != MR3D_CELL_UNTOUCHED;
    row.killed += cell.state == MR3D_CELL_KILLED;
    row.hidden += cell.state == MR3D_CELL_HIDDEN;
    row.equal += cell.state == MR3D_CELL_EQUAL;
    if (cell.state == MR3D_CELL_KILLED && row.first_killer < 0) row.first_killer = i;
    if (cell.state == MR3D_CELL_HIDDEN && cell.size > row.largest) row.largest = cell.size, row.largest_case = i;
  }
  return row;
}

bool mr3d_matrix_survives(const mr3d_matrix *x, int tier, int mutant) {
  mr3d_matrix_row row = mr3d_matrix_row_of(x, tier, mutant);
  return row.mistake && row.killed == 0;
}

int mr3d_matrix_holes(const mr3d_matrix *x) {
  int holes = 0;
  for (int t = 0; t < x->n_tiers; t++)
    for (int m = 0; m < x->n_mutants; m++) holes += (x->tiers[t] == MR3D_FP64 || x->tiers[t] == MR3D_FP32) && mr3d_matrix_survives(x, t, m);
  return holes;
}

int mr3d_matrix_kills(const mr3d_matrix *x, int test) {
  int kills = 0;
  for (int m = 0; m < x->n_mutants; m++) {
    bool killed = false;
    for (int t = 0; t < x->n_tiers; t++) killed = killed || mr3d_matrix_cell(x, t, test, m).state == MR3D_CELL_KILLED;
    kills += killed;
  }
  return kills;
}

bool mr3d_matrix_is_needed(const mr3d_matrix *x, int test) {
  for (int t = 0; t < x->n_tiers; t++)
    for (int m = 0; m < x->n_mutants; m++)
      if (mr3d_matrix_cell(x, t, test, m).state == MR3D_CELL_KILLED && mr3d_matrix_row_of(x, t, m).killed == 1) return true;
  return false;
}

const char *mr3d_matrix_unproven(const mr3d_matrix *x, int test, int pitfall) {
  const char *slug = x->cases[test]->pitfalls[pitfall];
  bool any = false;
  for (int s = 0; s < x->cases[test]->n_steps; s++)
    if (x->cases[test]->steps[s].expect_error) return NULL; /* whoever answers fails, whatever the mistake behind it */
  for (int m = 0; m < x->n_mutants; m++) {
    if (strcmp(x->mutants[m]->slug, slug) != 0) continue;
    any = true;
    for (int t = 0; t < x->n_tiers; t++)
      if (mr3d_matrix_cell(x, t, test, m).state == MR3D_CELL_KILLED) return NULL;
  }
  return any ? slug : NULL;
}
