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

#include "diagnose_internal.h"

/* Processor time spent on mistakes: so little that a failing run is hardly longer than a passing one. */
#define CASE_SECONDS 2.0
#define ALIKE_SECONDS 0.2 /* of it, once a mistake explains the case, to find others that answer alike */
#define RUN_SECONDS 5.0   /* of all cases */
#define DEAR_SECONDS 0.2  /* where the reference takes longer, only mistakes named before are tried, once there are any */
#define ALIKE 0.05        /* units of noise, and a part, by which answers that are alike may lie apart */
#define NAMED 8           /* of those named before, so many are tried on each case */
#define PART 0.5            /* of what is wrong; a mistake that leaves more unexplained is no part of it */
#define DOUBT 3             /* times as many failures that rule a mistake out as it explains: then it is not named */
#define PARTS 6           /* mistakes that explain most of an answer are tried together with every other */

/** The search for one case. */
typedef struct search {
  const mr3d_scene *scene;
  mr3d_lessons *lessons;
  double start;
  double cost;               /* of one try in a session of several requests, about */
  int n;                     /* mutants */
  double left[MR3D_MAX_MUTANTS];  /* part of what is wrong that the mutant leaves unexplained; 1 where it changes nothing, 2: not tried */
  int n_found;               /* mistakes that explain the answer, and how far it is from each, in units of noise */
  mr3d_suspect found[MR3D_MAX_SUSPECTS];
  double apart[MR3D_MAX_SUSPECTS];
} search;

static bool is_same(mr3d_suspect a, mr3d_suspect b) { return a.first == b.first && a.second == b.second; }

static int times_explained(const mr3d_lessons *lessons, mr3d_suspect suspect) {
  for (int i = 0; i < lessons->n_known; i++)
    if (is_same(lessons->known[i].suspect, suspect)) return lessons->known[i].explained;
  return 0;
}

static void remember(mr3d_lessons *lessons, mr3d_suspect suspect) {
  int i = 0;
  while (i < lessons->n_known && !is_same(lessons->known[i].suspect, suspect)) i++;
  if (i == MR3D_MAX_MUTANTS) return;
  if (i == lessons->n_known) {
    lessons->known[i].suspect = suspect, lessons->known[i].explained = 0;
    lessons->n_known++;
  }
  int explained = ++lessons->known[i].explained;
  for (; i > 0 && explained > lessons->known[i - 1].explained; i--) lessons->known[i] = lessons->known[i - 1]; /* most often explained first */
  lessons->known[i].suspect = suspect, lessons->known[i].explained = explained;
}

/** The case is about this mutant's pitfall. */
static bool is_about(const mr3d_result *result, int m) {
  for (int p = 0; result->test && p < result->test->n_pitfalls; p++)
    if (strcmp(result->test->pitfalls[p], mr3d_mutant_at(m)->slug) == 0) return true;
  return false;
}

static bool can_explain(const mr3d_mutant *mutant, const mr3d_scene *s) {
  return !mutant->hangs && mr3d_mutant_is_mistake_at(mutant, s->tier) && mr3d_mutant_touches(mutant, s->op);
}

static bool time_is_left(search *look) {
  double spent = mr3d_processor_seconds() - look->start;
  bool left = spent + look->cost < (look->n_found > 0 ? ALIKE_SECONDS : CASE_SECONDS) && look->lessons->seconds + spent < RUN_SECONDS;
  look->scene->result->not_all_tried |= !left;
  return left;
}

/** Tries one mistake, or two at once. */
static void try_out(search *look, mr3d_suspect suspect) {
  bool alone = suspect.second < 0;
  mr3d_bundle *answer = mr3d_trial_answer(look->scene->trial, mr3d_mutant_at(suspect.first), alone ? NULL : mr3d_mutant_at(suspect.second));
  if (alone) look->left[suspect.first] = 1;
  if (!answer) return;
  mr3d_distance d = mr3d_distance_to(look->scene, answer);
  mr3d_bundle_free(&answer);
  bool changes = d.impossible || d.to_mistake != d.to_reference;
  if (alone && !look->scene->reference) look->left[suspect.first] = 0.5; /* it answers what must be refused, and so may be a part */
  else if (alone && !d.impossible && d.plain_to_reference > 0) look->left[suspect.first] = d.plain_to_mistake / d.plain_to_reference;
  if (alone && changes && (d.impossible || look->left[suspect.first] > PART)) look->scene->result->ruled_out[suspect.first / 64] |= UINT64_C(1) << suspect.first % 64;
  if (!mr3d_distance_explains(&d) || look->n_found == MR3D_MAX_SUSPECTS) return;
  look->apart[look->n_found] = sqrt(d.to_mistake / (double)d.n);
  look->found[look->n_found++] = suspect;
}

/** Those named before, the most often first, then two of them at once. */
static void try_named_before(search *look) {
  int singles[NAMED], n = 0;
  for (int i = 0, tried = 0; i < look->lessons->n_known && tried < NAMED && time_is_left(look); i++) {
    mr3d_suspect s = look->lessons->known[i].suspect;
    if (!can_explain(mr3d_mutant_at(s.first), look->scene) || (s.second >= 0 && !can_explain(mr3d_mutant_at(s.second), look->scene))) continue;
    try_out(look, s);
    tried++;
    if (s.second < 0) singles[n++] = s.first;
  }
  for (int i = 0; i < n && look->n_found == 0; i++)
    for (int k = i + 1; k < n && look->n_found == 0 && time_is_left(look); k++)
      if (mr3d_mutants_combine(mr3d_mutant_at(singles[i]), mr3d_mutant_at(singles[k])))
        try_out(look, singles[i] < singles[k] ? (mr3d_suspect){singles[i], singles[k]} : (mr3d_suspect){singles[k], singles[i]});
}

static void try_singles(search *look) {
  for (int rank = 0; rank < 2; rank++) /* those that the case is about, the others */
    for (int m = 0; m < look->n && time_is_left(look); m++)
      if (look->left[m] == 2 && is_about(look->scene->result, m) == (rank == 0) && can_explain(mr3d_mutant_at(m), look->scene)) try_out(look, (mr3d_suspect){m, -1});
}

/** The mistakes that explain most of the answer, each together with every other that changes it; where a refusal is due, with any. */
static void try_pairs(search *look) {
  bool done[MR3D_MAX_MUTANTS] = {false};
  for (int part = 0; part < PARTS && look->n_found == 0; part++) {
    int a = -1;
    for (int m = 0; m < look->n; m++)
      if (!done[m] && look->left[m] < 0.999 && (a < 0 || look->left[m] < look->left[a])) a = m;
    if (a < 0) return;
    done[a] = true;
    for (int b = 0; b < look->n && time_is_left(look); b++)
      if (!done[b] && look->left[b] != 2 && (look->left[b] != 1 || !look->scene->reference) && mr3d_mutants_combine(mr3d_mutant_at(a), mr3d_mutant_at(b)))
        try_out(look, a < b ? (mr3d_suspect){a, b} : (mr3d_suspect){b, a});
  }
}

/** Keeps those as near as the nearest, give or take what rounding moves, the likeliest first: what explained more cases, then what the case is about. */
static void keep_nearest(search *look) {
  double nearest = INFINITY;
  int n = 0;
  for (int i = 0; i < look->n_found; i++) nearest = fmin(nearest, look->apart[i]);
  for (int i = 0; i < look->n_found; i++)
    if (look->apart[i] <= nearest + ALIKE * nearest + ALIKE * (nearest > 0)) look->found[n++] = look->found[i];
  look->n_found = n;
  look->apart[0] = nearest;
  for (int i = 1; i < n; i++) {
    mr3d_suspect best = look->found[0], other = look->found[i];
    int times = times_explained(look->lessons, best), other_times = times_explained(look->lessons, other);
    bool likelier = other_times != times ? other_times > times : is_about(look->scene->result, other.first) && !is_about(look->scene->result, best.first);
    if (likelier) look->found[0] = other, look->found[i] = best;
  }
}

static void run_search(search *look) {
  bool dear = look->scene->truth->seconds > DEAR_SECONDS;
  look->start = mr3d_processor_seconds();
  look->n = mr3d_mutant_count() < MR3D_MAX_MUTANTS ? mr3d_mutant_count() : MR3D_MAX_MUTANTS;
  for (int m = 0; m < look->n; m++) look->left[m] = 2;
  try_named_before(look);
  if (!dear || look->lessons->n_known == 0) {
    if (look->n_found == 0 || times_explained(look->lessons, look->found[0]) < 3) try_singles(look);
    if (look->n_found == 0) try_pairs(look);
  } else look->scene->result->not_all_tried = true;
  if (look->n_found > 0) keep_nearest(look);
  for (int i = 0; i < look->n_found; i++) remember(look->lessons, look->found[i]);
  look->lessons->seconds += mr3d_processor_seconds() - look->start;
}

/* ---- names ---- */

static void full_name(mr3d_suspect s, char *to, size_t size) {
  const mr3d_mutant *first = mr3d_mutant_at(s.first), *second = s.second < 0 ? NULL : mr3d_mutant_at(s.second);
  snprintf(to, size, "%s/%s%s%s%s%s", first->slug, first->name, second ? "+" : "", second ? second->slug : "", second ? "/" : "", second ? second->name : "");
}

/** "your output equals SLUG/NAME: ..." of the result's first suspect, and which others answer alike on this request. */
static void name(mr3d_result *result) {
  mr3d_text t = {result->diagnosis, sizeof result->diagnosis};
  mr3d_suspect s = result->suspects[0];
  full_name(s, result->mistake, sizeof result->mistake);
  mr3d_say(&t, "%s %s%s: %s", result->is_exact ? "your output equals" : "your output is, within rounding,", s.second < 0 ? "" : "two mistakes at once, ", result->mistake,
           mr3d_mutant_at(s.first)->says);
  if (s.second >= 0) mr3d_say(&t, "; and %s", mr3d_mutant_at(s.second)->says);
  for (int i = 1; i < result->n_suspects; i++) {
    char other[256];
    full_name(result->suspects[i], other, sizeof other);
    mr3d_say(&t, "%s%s", i > 1 ? ", " : "; on this request the same as ", other);
  }
}

/** Failed results that nothing explains, although the mistake was compared with them and would change them. */
static int times_ruled_out(const mr3d_run *run, mr3d_suspect suspect) {
  int n = 0;
  for (int i = 0; i < run->n_results && suspect.second < 0; i++)
    n += run->results[i].n_suspects == 0 && (run->results[i].ruled_out[suspect.first / 64] >> suspect.first % 64 & 1);
  return n;
}

/** The answer equals a mistake's by chance, for one that would show in all these others does not. */
static void doubt(mr3d_result *result, int others) {
  mr3d_text t = {result->diagnosis, sizeof result->diagnosis};
  char name[256];
  full_name(result->suspects[0], name, sizeof name);
  mr3d_say(&t, "no known mistake explains all that is wrong: on this request alone the answer is that of %s, which %d other failures rule out", name, others);
  result->mistake[0] = 0;
}

void mr3d_diagnose_settle(mr3d_run *run, const mr3d_lessons *lessons) {
  bool *settled = mr3d_allocate(run->n_results, sizeof *settled);
  for (;;) {
    int best = -1, best_count = 0;
    for (int k = 0; k < lessons->n_known; k++) {
      int count = 0;
      for (int i = 0; i < run->n_results; i++)
        for (int s = 0; s < run->results[i].n_suspects; s++) count += !settled[i] && is_same(run->results[i].suspects[s], lessons->known[k].suspect);
      if (count > best_count) best = k, best_count = count;
    }
    if (best < 0) break;
    int others = times_ruled_out(run, lessons->known[best].suspect);
    for (int i = 0; i < run->n_results; i++) {
      mr3d_result *result = &run->results[i];
      for (int s = 0; s < result->n_suspects && !settled[i]; s++) {
        if (!is_same(result->suspects[s], lessons->known[best].suspect)) continue;
        mr3d_suspect swapped = result->suspects[0];
        result->suspects[0] = result->suspects[s];
        result->suspects[s] = swapped;
        settled[i] = true;
        if (others > DOUBT * best_count) doubt(result, others);
        else name(result);
      }
    }
  }
  free(settled);
}

/** A refusal where an answer is due, as some mutants refuse: named when only one does. */
static void name_refusals(mr3d_lessons *lessons, mr3d_result *result, mr3d_scene *s, int n_requests, mr3d_bundle *const requests[], const bool refused[],
                          mr3d_weights_cache *weights) {
  double start = mr3d_processor_seconds();
  mr3d_text t = {result->diagnosis, sizeof result->diagnosis};
  int refusing = 0, last = -1;
  s->trial = mr3d_trial_new(n_requests, requests, refused, false, 0, NULL, weights, 1);
  for (int m = 0; m < mr3d_mutant_count() && mr3d_processor_seconds() - start < CASE_SECONDS && lessons->seconds < RUN_SECONDS; m++) {
    if (!can_explain(mr3d_mutant_at(m), s)) continue;
    mr3d_bundle *answer = mr3d_trial_answer(s->trial, mr3d_mutant_at(m), NULL);
    if (!answer) {
      mr3d_say(&t, "%s%s/%s: %s", refusing++ ? "; or " : "this request is refused with the mistake ", mr3d_mutant_at(m)->slug, mr3d_mutant_at(m)->name, mr3d_mutant_at(m)->says);
      last = m;
    }
    mr3d_bundle_free(&answer);
  }
  mr3d_trial_free(&s->trial);
  lessons->seconds += mr3d_processor_seconds() - start;
  if (refusing == 1) full_name((mr3d_suspect){last, -1}, result->mistake, sizeof result->mistake);
  if (refusing > 3) result->diagnosis[0] = 0; /* so many that it says nothing */
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

/** Whether the reference answered the request, and did not refuse it. */
static bool was_answered(const mr3d_truth *truth, const mr3d_bundle *request) {
  for (int i = 0; i < truth->n_steps; i++)
    if (truth->requests[i] == request) return true;
  return false;
}

static void diagnose_answer(mr3d_lessons *lessons, mr3d_result *result, mr3d_truth *truth, int n_requests, mr3d_bundle *const requests[], const bool refused[],
                            const mr3d_reply *reply, mr3d_weights_cache *weights, int threads) {
  const mr3d_bundle *request = requests[n_requests - 1];
  mr3d_scene s = {.result = result, .truth = truth, .request = request, .answer = reply->answer, .op = mr3d_bundle_get(request, "op"), .tier = truth->tier};
  if (!s.op || !s.answer) return;
  bool refusal_due = !was_answered(truth, request);
  if (!refusal_due) s.reference = truth->answers[truth->n_steps - 1];
  mr3d_scene_open(&s);
  search look = {.scene = &s, .lessons = lessons, .cost = n_requests > 1 ? truth->seconds : 0};
  int64_t tokens[2 * SAMPLED_TOKENS], n_tokens = sample_tokens(&s, tokens);
  /* threads that wait use up processor time, too */
  s.trial = mr3d_trial_new(n_requests, requests, refused, refusal_due, n_tokens, tokens, weights, truth->seconds < 1 ? 1 : threads);
  run_search(&look);
  mr3d_trial_free(&s.trial);
  result->n_suspects = look.n_found;
  memcpy(result->suspects, look.found, sizeof look.found);
  result->is_exact = look.n_found > 0 && look.apart[0] == 0;
  if (look.n_found > 0) name(result);
  else if (!refusal_due) mr3d_say_facts(&s, result->not_all_tried ? "not all known mistakes could be tried in the time there is" : "no known mistake explains it", result);
  mr3d_scene_close(&s);
}

void mr3d_diagnose(mr3d_lessons *lessons, mr3d_result *result, mr3d_truth *truth, int n_requests, mr3d_bundle *const requests[], const mr3d_reply *reply,
                   mr3d_weights_cache *weights, int threads) {
  result->diagnosis[0] = result->mistake[0] = 0;
  result->not_all_tried = false;
  memset(result->ruled_out, 0, sizeof result->ruled_out);
  if (n_requests < 1) return;
  bool *refused = mr3d_allocate(n_requests, sizeof *refused);
  for (int i = 0; i + 1 < n_requests; i++) refused[i] = !was_answered(truth, requests[i]); /* and rightly so by the backend: a case ends with its first failure */
  const char *op = mr3d_bundle_get(requests[n_requests - 1], "op");
  bool answer_due = was_answered(truth, requests[n_requests - 1]);
  if (reply->kind == MR3D_REPLY_ANSWER) {
    diagnose_answer(lessons, result, truth, n_requests, requests, refused, reply, weights, threads);
  } else if (reply->kind == MR3D_REPLY_TIMEOUT) {
    for (int m = 0; m < mr3d_mutant_count(); m++) {
      if (!mr3d_mutant_at(m)->hangs || !op || !mr3d_mutant_touches(mr3d_mutant_at(m), op)) continue;
      full_name((mr3d_suspect){m, -1}, result->mistake, sizeof result->mistake);
      snprintf(result->diagnosis, sizeof result->diagnosis, "a call that never returns is %s: %s", result->mistake, mr3d_mutant_at(m)->says);
    }
  } else if (answer_due && reply->kind != MR3D_REPLY_UNSUPPORTED) {
    mr3d_say_symptom(n_requests, requests, reply, result);
    mr3d_scene s = {.result = result, .truth = truth, .op = op, .tier = truth->tier};
    if (reply->kind == MR3D_REPLY_ERROR && !result->diagnosis[0]) name_refusals(lessons, result, &s, n_requests, requests, refused, weights);
  }
  free(refused);
}
