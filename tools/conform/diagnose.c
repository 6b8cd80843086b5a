/**
 * Which known mistake explains a failing answer; and where none does, what is certain about it.
 *
 * Every mutant that can change the failing operator answers the same requests. The backend's answer is then measured
 * against the mutant's as it was against the reference's, in units of the noise that the tier may have: a mutant explains the answer
 * when it lies within a few units of it where the reference lies far away.
 */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "diagnose_internal.h"

#define CASE_SECONDS 8.0  /* of processor time spent on mutants for one failing case */
#define ALIKE_SECONDS 0.5 /* of it, once one mutant explains the case, to find others that answer alike */
#define RUN_SECONDS 60.0  /* and in one run, before only mistakes already named are tried */

static double processor_seconds(void) {
  struct timespec t;
  clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &t);
  return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

#define MAX_MUTANTS 1024

/* What earlier cases of this run taught; the runner judges one case after the other. One mistake shows in many cases, so mutants
   that explained some are tried first and, among those that answer alike, preferred. */
static int explained_before[MAX_MUTANTS];
static double seconds_spent;

/** How far the backend's answer is from mutant `m`, when that explains it; else a negative number. */
static double explains(const mr3d_scene *s, int m) {
  mr3d_bundle *answer = mr3d_trial_answer(s->trial, mr3d_mutant_at(m));
  if (!answer) return -1;
  mr3d_distance d = mr3d_distance_to(s, answer);
  mr3d_bundle_free(&answer);
  return mr3d_distance_explains(&d) ? sqrt(d.to_mistake / (double)d.n) : -1;
}

/** The case is about this mutant's pitfall. */
static bool is_about(const mr3d_result *result, int m) {
  for (int p = 0; result->test && p < result->test->n_pitfalls; p++)
    if (strcmp(result->test->pitfalls[p], mr3d_mutant_at(m)->slug) == 0) return true;
  return false;
}

/** Of two mutants that answer alike: the one that explained more earlier cases, else the one that the case is about. */
static bool likelier(const mr3d_result *result, int a, int b) {
  if (explained_before[a] != explained_before[b]) return explained_before[a] > explained_before[b];
  return is_about(result, a) && !is_about(result, b);
}

static bool can_explain(const mr3d_mutant *mutant, const mr3d_scene *s) {
  return !mutant->hangs && mr3d_mutant_is_mistake_at(mutant, s->tier) && mr3d_mutant_touches(mutant, s->op);
}

/** The distance of every mutant that explains the answer, else -1; and which is nearest, or -1. */
static int search(const mr3d_scene *s, double apart[]) {
  int best = -1, n = mr3d_mutant_count() < MAX_MUTANTS ? mr3d_mutant_count() : MAX_MUTANTS;
  double start = processor_seconds();
  for (int m = 0; m < n; m++) apart[m] = -1;
  for (int rank = 0; rank < 3; rank++) /* those named before, those that the case is about, the others */
    for (int m = 0; m < n; m++) {
      if ((explained_before[m] > 0 ? 0 : is_about(s->result, m) ? 1 : 2) != rank || !can_explain(mr3d_mutant_at(m), s)) continue;
      double spent = processor_seconds() - start;
      if (spent > (best >= 0 ? ALIKE_SECONDS : CASE_SECONDS) || (rank > 0 && seconds_spent > RUN_SECONDS)) break;
      apart[m] = explains(s, m);
      if (apart[m] < 0) continue;
      if (best < 0 || apart[m] < apart[best] || (apart[m] == apart[best] && likelier(s->result, m, best))) best = m;
    }
  seconds_spent += processor_seconds() - start;
  for (int m = 0; m < n; m++) explained_before[m] += apart[m] >= 0;
  return best;
}

/** "your output equals SLUG/NAME: ..." and which others answer alike on this request. */
static void name(mr3d_result *result, const char *how, int best, const double apart[]) {
  const mr3d_mutant *mutant = mr3d_mutant_at(best);
  mr3d_text t = {result->diagnosis, sizeof result->diagnosis};
  snprintf(result->mistake, sizeof result->mistake, "%s/%s", mutant->slug, mutant->name);
  mr3d_say(&t, "%s %s: %s", how, result->mistake, mutant->says);
  for (int m = 0, said = 0; apart && m < mr3d_mutant_count() && m < MAX_MUTANTS; m++)
    if (m != best && apart[m] == apart[best]) mr3d_say(&t, "%s%s/%s", said++ ? ", " : "; on this request the same as ", mr3d_mutant_at(m)->slug, mr3d_mutant_at(m)->name);
}

#define SAMPLED_TOKENS 6

static int ascending(const void *a, const void *b) { return (*(const int64_t *)a > *(const int64_t *)b) - (*(const int64_t *)a < *(const int64_t *)b); }

/** Tokens of `hidden` on which mutants are compared where all are too many: some spread evenly, and those with the largest errors. */
static int64_t sample_tokens(const mr3d_scene *s, int64_t tokens[2 * SAMPLED_TOKENS]) {
  for (int i = 0; i < s->n_pictures; i++) {
    const mr3d_picture *p = &s->pictures[i];
    const mr3d_output *o = &p->output;
    if (strcmp(p->name, "hidden") != 0 || !p->comparable || o->per_head < 2 * SAMPLED_TOKENS) continue;
    int64_t n = 0;
    bool *taken = mr3d_allocate(o->per_head, sizeof *taken);
    double *error = mr3d_allocate(o->per_head, sizeof *error);
    for (int64_t r = 0; r < o->rows; r++)
      for (int64_t c = r * o->cols; c < (r + 1) * o->cols; c++) error[r % o->per_head] += mr3d_units_of(o->got[c] - o->ref[c], p->noise[c]);
    for (int64_t k = 0; k < SAMPLED_TOKENS; k++) taken[tokens[n++] = k * (o->per_head - 1) / (SAMPLED_TOKENS - 1)] = true;
    for (int64_t k = 0; k < SAMPLED_TOKENS; k++) {
      int64_t worst = -1;
      for (int64_t t = 0; t < o->per_head; t++)
        if (!taken[t] && (worst < 0 || error[t] > error[worst])) worst = t;
      taken[tokens[n++] = worst] = true;
    }
    qsort(tokens, (size_t)n, sizeof *tokens, ascending);
    free(taken);
    free(error);
    return n;
  }
  return 0;
}

void mr3d_diagnose_forget(void) {
  memset(explained_before, 0, sizeof explained_before);
  seconds_spent = 0;
}

static void diagnose_answer(mr3d_result *result, mr3d_truth *truth, int n_requests, mr3d_bundle *const requests[], const mr3d_reply *reply,
                            mr3d_weights_cache *weights, int threads) {
  const mr3d_bundle *request = requests[n_requests - 1];
  mr3d_scene s = {.result = result, .truth = truth, .request = request, .answer = reply->answer, .op = mr3d_bundle_get(request, "op"), .tier = truth->tier};
  if (!s.op || !s.answer) return;
  bool refusal_due = truth->n_steps == 0 || truth->requests[truth->n_steps - 1] != request;
  if (!refusal_due) s.reference = truth->answers[truth->n_steps - 1];
  mr3d_scene_open(&s);
  double apart[MAX_MUTANTS];
  int64_t tokens[2 * SAMPLED_TOKENS], n_tokens = sample_tokens(&s, tokens);
  s.trial = mr3d_trial_new(n_requests, requests, n_tokens, tokens, weights, threads);
  int best = search(&s, apart);
  mr3d_trial_free(&s.trial);
  if (best >= 0) name(result, apart[best] == 0 ? "your output equals" : "your output is, within rounding,", best, apart);
  else if (!refusal_due) mr3d_say_facts(&s, result);
  mr3d_scene_close(&s);
}

void mr3d_diagnose(mr3d_result *result, mr3d_truth *truth, int n_requests, mr3d_bundle *const requests[], const mr3d_reply *reply,
                   mr3d_weights_cache *weights, int threads) {
  result->diagnosis[0] = result->mistake[0] = 0;
  if (n_requests < 1) return;
  const char *op = mr3d_bundle_get(requests[n_requests - 1], "op");
  bool answer_due = truth->n_steps > 0 && truth->requests[truth->n_steps - 1] == requests[n_requests - 1];
  if (reply->kind == MR3D_REPLY_ANSWER) {
    diagnose_answer(result, truth, n_requests, requests, reply, weights, threads);
  } else if (reply->kind == MR3D_REPLY_TIMEOUT) {
    for (int m = 0; m < mr3d_mutant_count(); m++)
      if (mr3d_mutant_at(m)->hangs && op && mr3d_mutant_touches(mr3d_mutant_at(m), op)) name(result, "a call that never returns is", m, NULL);
  } else if (answer_due && reply->kind != MR3D_REPLY_UNSUPPORTED) {
    mr3d_say_symptom(n_requests, requests, reply, result);
  }
}
