#include "verdict.h"

#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "compare.h"

#define FAR 3.0          /* times the emulated runs' error: honest stacks stay near 1 (docs/drift.md, "How sure") */
#define VISIBLE 2.0      /* units of the scale: a head, a dimension, a token with more is out of bounds (the limit of a slice) */
#define NUMBERS 24       /* of a list */

const char *mr3d_drift_kind_name(mr3d_drift_kind kind) {
  static const char *const names[] = {"nothing judged", "rounding", "fault", "different inputs", "unexplained"};
  return names[kind];
}

char *mr3d_drift_place(const mr3d_drift_record *r, char text[64]) {
  if (r->layer < 0) snprintf(text, 64, "%lld.model.%s", (long long)r->step, mr3d_points_about[r->point].name);
  else snprintf(text, 64, "%lld.%lld.%s", (long long)r->step, (long long)r->layer, mr3d_points_about[r->point].name);
  return text;
}

/** "3", "0 .. 23", "3, 7, 11 and 9 more" of ascending numbers. */
static void list_numbers(const int64_t *numbers, int n, char text[160]) {
  text[0] = 0;
  for (int i = 0, shown = 0; i < n; shown++) {
    int end = i;
    while (end + 1 < n && numbers[end + 1] == numbers[end] + 1) end++;
    const size_t used = strlen(text);
    if (shown == 8) {
      snprintf(text + used, 160 - used, " and %d more", n - i);
      return;
    }
    if (end > i + 1) snprintf(text + used, 160 - used, "%s%lld .. %lld", used ? ", " : "", (long long)numbers[i], (long long)numbers[end]);
    else {
      snprintf(text + used, 160 - used, "%s%lld", used ? ", " : "", (long long)numbers[i]);
      end = i;
    }
    i = end + 1;
  }
}

static void add_number(int64_t *numbers, int *n, int most, int64_t number) {
  int at = 0;
  while (at < *n && numbers[at] < number) at++;
  if ((at < *n && numbers[at] == number) || *n == most) return;
  memmove(numbers + at + 1, numbers + at, (size_t)(*n - at) * sizeof *numbers);
  numbers[at] = number;
  ++*n;
}

/** The same mistake; where none is named, the same point, queries and keys of a rotation being one. */
static bool is_one(const mr3d_drift_record *a, const mr3d_drift_record *b) {
  if (a->mistake[0] || b->mistake[0]) return strcmp(a->mistake, b->mistake) == 0;
  return a->point == b->point || (strcmp(mr3d_points_about[a->point].op, "mixed_rope") == 0 && strcmp(mr3d_points_about[b->point].op, "mixed_rope") == 0);
}

/** Heads and dimensions of the first record that are out of bounds. */
static void say_where(const mr3d_drift_record *r, mr3d_drift_fault *fault) {
  int64_t heads[NUMBERS], dims[NUMBERS];
  int n_heads = 0, n_dims = 0;
  fault->heads[0] = fault->dims[0] = fault->classes[0] = 0;
  for (int64_t h = 0; r->local.head_dim && h < r->heads; h++) {
    double squares = 0;
    for (int64_t d = 0; d < r->dims; d++) squares += (double)r->local.head_dim[h * r->dims + d] * (double)r->local.head_dim[h * r->dims + d];
    if (sqrt(squares / (double)r->dims) > VISIBLE) add_number(heads, &n_heads, NUMBERS, h);
  }
  for (int64_t d = 0; r->local.head_dim && d < r->dims; d++)
    for (int64_t h = 0; h < r->heads; h++)
      if ((double)r->local.head_dim[h * r->dims + d] > VISIBLE) add_number(dims, &n_dims, NUMBERS, d);
  if (r->heads && n_heads == r->heads) snprintf(fault->heads, sizeof fault->heads, "all");
  else if (n_heads) list_numbers(heads, n_heads, fault->heads);
  int64_t all = 0;
  for (int64_t d = 0; r->local.head_dim && d < r->dims; d++) {
    bool any = false;
    for (int64_t h = 0; h < r->heads; h++) any |= (double)r->local.head_dim[h * r->dims + d] > VISIBLE;
    all += any;
  }
  if (r->heads && all == r->dims) snprintf(fault->dims, sizeof fault->dims, "all");
  else if (n_dims) list_numbers(dims, n_dims, fault->dims);
  if (!r->local.measured) return;
  bool every = true;
  for (int k = 0; k < MR3D_N_CLASSES; k++) every &= isnan(r->local.of_class[k]) || r->local.of_class[k] > VISIBLE;
  for (int k = 0; k < MR3D_N_CLASSES && !every; k++) {
    const size_t used = strlen(fault->classes);
    if (r->local.of_class[k] > VISIBLE) snprintf(fault->classes + used, sizeof fault->classes - used, "%s%s", used ? ", " : "", mr3d_token_class_name((mr3d_token_class)k));
  }
  if (every) snprintf(fault->classes, sizeof fault->classes, "all tokens");
}

static void say_confidence(const mr3d_drift_record *r, mr3d_drift_fault *fault) {
  const mr3d_point_about *about = &mr3d_points_about[r->point];
  const bool close = r->local_ratio < 2;
  fault->settle[0] = 0;
  if (r->composite) {
    fault->confidence = close ? "low" : "medium";
    snprintf(fault->why, sizeof fault->why, "the trace lacks %s, so the fault lies somewhere from there to %s", mr3d_points_about[r->from].name, about->name);
    if (r->mistake[0]) snprintf(fault->why + strlen(fault->why), sizeof fault->why - strlen(fault->why), "; there %s", r->n_alike == 1 ? "one known mistake alone gives these values" : "several known mistakes give these values");
    if (r->layer < 0) snprintf(fault->settle, sizeof fault->settle, "a trace that has %s, too", r->from == MR3D_P_FINAL_NORM ? "model.final_norm" : "the last layer's output");
    else snprintf(fault->settle, sizeof fault->settle, "a trace of layer %lld that has %s, too", (long long)r->layer, mr3d_points_about[r->from].name);
    return;
  }
  if (close) {
    fault->confidence = fault->n > 2 ? "medium" : "low";
    snprintf(fault->why, sizeof fault->why, "the rule is broken by less than twice its limit%s", fault->n > 2 ? ", but at several places alike" : "");
    snprintf(fault->settle, sizeof fault->settle, "the same with another prompt or seed: rounding changes sides, a mistake does not");
    return;
  }
  if (r->mistake[0] && r->n_alike == 1) {
    fault->confidence = "high";
    snprintf(fault->why, sizeof fault->why, "the rule is broken %.3g times over, and of all known mistakes this one alone gives the same values%s", r->local_ratio,
             r->layer < 0 ? "" : r->whole_layer ? ", here and in the rest of the layer" : r->gives ? ", here and, with its other faults put right, in the rest of the layer" : "");
    if (r->layer >= 0 && !r->whole_layer && !r->gives) snprintf(fault->settle, sizeof fault->settle, "another operator of this layer is off as well: mend this one and trace again");
    return;
  }
  if (r->mistake[0]) {
    fault->confidence = "medium";
    snprintf(fault->why, sizeof fault->why, "the place is certain (%.3g times the limit), but %d known mistakes give the same values in these calls", r->local_ratio, r->n_alike);
    snprintf(fault->settle, sizeof fault->settle, "calls in which they differ; `mr3d explain mutant:%s` says where it shows", r->mistake);
    return;
  }
  fault->confidence = "medium";
  snprintf(fault->why, sizeof fault->why, "the place is certain (%.3g times the limit), the mistake is none that is known", r->local_ratio);
  if (strcmp(about->op, "residual") == 0 || strcmp(about->op, "wiring") == 0 || strcmp(about->op, "embedding") == 0 || strcmp(about->op, "cache") == 0)
    snprintf(fault->settle, sizeof fault->settle, "what your code adds or hands on there, read beside docs/spec.md section 6");
  else
    snprintf(fault->settle, sizeof fault->settle, "your %s alone: `mr3d check --op %s --backend ...` gives it small inputs and says more", about->op, about->op);
}

/** What is out of bounds, in the order of the calls; the caller's. */
static mr3d_drift_fault *gather_faults(const mr3d_drift_run *d, int *n_faults) {
  const int n = mr3d_drift_records(d);
  bool *done = mr3d_allocate(n, sizeof *done);
  mr3d_drift_fault *faults = mr3d_allocate(n, sizeof *faults);
  *n_faults = 0;
  for (int i = 0; i < n; i++) {
    const mr3d_drift_record *r = mr3d_drift_record_at(d, i);
    if (done[i] || r->verdict.passed) continue;
    mr3d_drift_fault *fault = &faults[(*n_faults)++];
    int64_t layers[512], steps[512];
    int n_layers = 0, n_steps = 0;
    *fault = (mr3d_drift_fault){.first = i};
    for (int k = i; k < n; k++) {
      const mr3d_drift_record *other = mr3d_drift_record_at(d, k);
      if (done[k] || other->verdict.passed || !is_one(r, other)) continue;
      done[k] = true;
      fault->n++;
      if (other->layer >= 0) add_number(layers, &n_layers, 512, other->layer);
      add_number(steps, &n_steps, 512, other->step);
    }
    list_numbers(layers, n_layers, fault->layers);
    list_numbers(steps, n_steps, fault->steps);
    say_where(r, fault);
    say_confidence(r, fault);
  }
  free(done);
  return faults;
}

/* ---- growth ---- */

typedef struct fit {
  int n;
  double x, y, xx, xy;
} fit;

static void add_to_fit(fit *f, double x, double value) {
  if (!(value > 0)) return;
  const double y = log(value);
  f->n++, f->x += x, f->y += y, f->xx += x * x, f->xy += x * y;
}

static void solve(const fit *f, double *start, double *factor) {
  const double below = f->n * f->xx - f->x * f->x;
  *start = *factor = NAN;
  if (f->n < 3 || !(below > 0)) return;
  const double slope = (f->n * f->xy - f->x * f->y) / below;
  *factor = exp(slope);
  *start = exp((f->y - slope * f->x) / f->n);
}

static mr3d_drift_growth grow(const mr3d_drift_run *d, bool over_steps) {
  mr3d_drift_growth g = {0};
  fit own = {0}, emulated = {0};
  for (int i = 0; i < mr3d_drift_records(d); i++) {
    const mr3d_drift_record *r = mr3d_drift_record_at(d, i);
    const bool wanted = over_steps ? r->layer < 0 && r->point == MR3D_P_FINAL_NORM : r->step == 0 && r->layer >= 0 && r->point == MR3D_P_OUTPUT;
    if (!wanted || !r->total.measured || !(r->size > 0)) continue;
    add_to_fit(&own, (double)(over_steps ? r->step : r->layer), r->total.absolute / r->size);
    add_to_fit(&emulated, (double)(over_steps ? r->step : r->layer), r->emulated / r->size);
  }
  g.n = own.n;
  solve(&own, &g.start, &g.factor);
  solve(&emulated, &g.emulated_start, &g.emulated_factor);
  return g;
}

/* ---- words ---- */

static void evidence(mr3d_drift_verdict *v, const char *format, ...) MR3D_PRINTF(2, 3);
static void evidence(mr3d_drift_verdict *v, const char *format, ...) {
  if (v->n_evidence == (int)(sizeof v->evidence / sizeof *v->evidence)) return;
  va_list arguments;
  va_start(arguments, format);
  vsnprintf(v->evidence[v->n_evidence++], sizeof *v->evidence, format, arguments);
  va_end(arguments);
}

static void gather_evidence(const mr3d_drift_run *d, mr3d_drift_verdict *v) {
  char place[64];
  int out = 0;
  for (int i = 0; i < mr3d_drift_records(d); i++) out += !mr3d_drift_record_at(d, i)->verdict.passed;
  if (v->compared) evidence(v, "%d points compared; a unit is what rounding makes of a value in a decoder (docs/drift.md, \"Two traces\")", mr3d_drift_records(d));
  if (v->judged) evidence(v, "%d points judged by replaying the reference's operator on the subject's own inputs: %d out of bounds", v->judged, out);
  int rounded = 0;
  for (int i = 0; i < mr3d_drift_records(d); i++) rounded += mr3d_drift_record_at(d, i)->rounded_inputs;
  if (rounded) evidence(v, "%d of them are within bounds if the subject goes on from more digits than its trace holds, as where a compiler drops casts between operators", rounded);
  if (v->worst_local >= 0) {
    const mr3d_drift_record *r = mr3d_drift_record_at(d, v->worst_local);
    evidence(v, "the nearest to a bound of the others is %s, at %.2g of it", mr3d_drift_place(r, place), r->local_ratio);
  }
  if (v->composite) evidence(v, "%d of them over several operators at once, by the yardstick, for want of the points between", v->composite);
  if (v->worst_total >= 0) {
    const mr3d_drift_record *r = mr3d_drift_record_at(d, v->worst_total);
    evidence(v, v->compared ? "they differ by at most %.3g times what %s arithmetic makes of it, at %s" : "the total error is at most %.3g times that of emulated %s arithmetic, at %s", r->total.rms, mr3d_tier_name(mr3d_drift_tier(d)), mr3d_drift_place(r, place));
  }
  if (isfinite(v->layers.factor) && v->compared) evidence(v, "over %d layers the relative difference goes from %.2g by %.3g a layer", v->layers.n, v->layers.start, v->layers.factor);
  else if (isfinite(v->layers.factor))
    evidence(v, "over %d layers the relative error goes from %.2g by %.3g a layer; emulated: from %.2g by %.3g", v->layers.n, v->layers.start, v->layers.factor, v->layers.emulated_start,
             v->layers.emulated_factor);
  if (isfinite(v->steps.factor) && v->compared) evidence(v, "over %d steps it goes by %.3g a step", v->steps.n, v->steps.factor);
  else if (isfinite(v->steps.factor))
    evidence(v, "over %d steps it goes by %.3g a step; emulated: by %.3g", v->steps.n, v->steps.factor, v->steps.emulated_factor);
}

static void gather_missing(const mr3d_drift_run *d, mr3d_drift_verdict *v) {
  int seen[MR3D_N_LAYER_POINTS] = {0}, most = 0;
  for (int i = 0; i < mr3d_drift_records(d); i++) {
    const mr3d_drift_record *r = mr3d_drift_record_at(d, i);
    if (r->layer >= 0 && ++seen[r->point] > most) most = seen[r->point];
  }
  for (int p = 0; p < MR3D_N_LAYER_POINTS; p++) {
    if (seen[p] == most) continue;
    const size_t used = strlen(v->missing);
    v->n_missing++;
    if (seen[p]) snprintf(v->missing + used, sizeof v->missing - used, "%s%s (at %d of %d places)", used ? ", " : "", mr3d_points_about[p].name, most - seen[p], most);
    else snprintf(v->missing + used, sizeof v->missing - used, "%s%s", used ? ", " : "", mr3d_points_about[p].name);
  }
}

/** Of two traces: what is said of the one that is not at fault, or of both. */
static const char *of_the_other(const mr3d_drift_run *d, const mr3d_drift_verdict *v) {
  if (!v->compared || !mr3d_drift_other(d)) return "";
  if (v->n_faults) return v->n_other_faults ? "; the other trace has faults, too" : "; the other trace, replayed on its own inputs, is right there";
  return "; the subject, replayed on its own inputs, is right there";
}

static void say_headline(const mr3d_drift_run *d, mr3d_drift_verdict *v) {
  char place[64];
  if (v->kind == MR3D_DRIFT_FAULT || v->kind == MR3D_DRIFT_INPUTS) {
    const mr3d_drift_record *r = v->n_faults ? mr3d_drift_record_at(d, v->faults[0].first) : mr3d_drift_record_at(mr3d_drift_other(d), v->other_faults[0].first);
    const mr3d_point_about *about = &mr3d_points_about[r->point];
    mr3d_drift_place(r, place);
    if (v->kind == MR3D_DRIFT_INPUTS)
      snprintf(v->headline, sizeof v->headline, "different inputs: %s of step %lld is not what the weights and ids make it (first at token %lld)%s%.400s", about->name, (long long)r->step, (long long)r->first_token,
               r->diagnosis[0] ? ": " : "", r->diagnosis);
    else if (r->composite && r->layer < 0)
      snprintf(v->headline, sizeof v->headline, "a local fault between %s and %s, behind the last layer, at step %lld: %.250s", mr3d_points_about[r->from].name, about->name, (long long)r->step, r->verdict.problem);
    else if (r->composite)
      snprintf(v->headline, sizeof v->headline, "a local fault between %s and %s of layer %lld, at step %lld: %.250s", mr3d_points_about[r->from].name, about->name, (long long)r->layer, (long long)r->step,
               r->diagnosis[0] ? r->diagnosis : r->verdict.problem);
    else
      snprintf(v->headline, sizeof v->headline, "a local fault%s at %s: %s%s%.400s%s", v->n_faults ? "" : " of the other trace", place, about->part, r->mistake[0] ? "; " : ": ",
               r->mistake[0] ? r->diagnosis : r->verdict.problem, of_the_other(d, v));
  } else if (v->kind == MR3D_DRIFT_ROUNDING && v->compared)
    snprintf(v->headline, sizeof v->headline, "rounding: nowhere do the two traces lie further apart than %s arithmetic puts them", mr3d_tier_name(mr3d_drift_tier(d)));
  else if (v->kind == MR3D_DRIFT_UNEXPLAINED && v->compared) {
    const mr3d_drift_record *r = mr3d_drift_record_at(d, v->first_far);
    snprintf(v->headline, sizeof v->headline, "the traces part at %s, by %.3g times what %s arithmetic makes of it; %s", mr3d_drift_place(r, place), r->total.rms, mr3d_tier_name(mr3d_drift_tier(d)),
             v->judged ? "replayed on their own inputs, both are right there: what they were given differs, or a bias below the bounds" : "with --weights the operators there are replayed, and which of the two is at fault is said");
  } else if (v->kind == MR3D_DRIFT_ROUNDING)
    snprintf(v->headline, sizeof v->headline, "rounding: every operator does what the reference does on the same inputs, within the bounds of %s", mr3d_tier_name(mr3d_drift_tier(d)));
  else if (v->kind == MR3D_DRIFT_UNEXPLAINED) {
    const mr3d_drift_record *r = mr3d_drift_record_at(d, v->worst_total);
    snprintf(v->headline, sizeof v->headline, "unexplained: no operator that the trace shows is at fault, yet at %s the total error is %.3g times what %s arithmetic makes of it", mr3d_drift_place(r, place),
             r->total.rms, mr3d_tier_name(mr3d_drift_tier(d)));
  } else snprintf(v->headline, sizeof v->headline, "nothing could be judged: the trace has no point that the reference could replay");
}

void mr3d_drift_conclude(const mr3d_drift_run *d, const char *difference, mr3d_drift_verdict *v) {
  *v = (mr3d_drift_verdict){.worst_local = -1, .worst_total = -1, .first_far = -1, .compared = mr3d_drift_is_comparison(d)};
  for (int i = 0; i < mr3d_drift_records(d); i++) {
    const mr3d_drift_record *r = mr3d_drift_record_at(d, i);
    v->judged += r->judged;
    v->unjudged += !r->judged;
    v->composite += r->judged && r->composite;
    if (r->judged && r->verdict.passed && (v->worst_local < 0 || r->local_ratio > mr3d_drift_record_at(d, v->worst_local)->local_ratio)) v->worst_local = i;
    if (r->total.measured && v->first_far < 0 && !(r->total.rms <= FAR)) v->first_far = i;
    if (r->total.measured && (v->worst_total < 0 || r->total.rms > mr3d_drift_record_at(d, v->worst_total)->total.rms)) v->worst_total = i;
  }
  v->faults = gather_faults(d, &v->n_faults);
  if (mr3d_drift_other(d)) v->other_faults = gather_faults(mr3d_drift_other(d), &v->n_other_faults);
  v->layers = grow(d, false);
  v->steps = grow(d, true);
  const bool far = v->worst_total >= 0 && !(mr3d_drift_record_at(d, v->worst_total)->total.rms <= FAR);
  v->kind = difference    ? MR3D_DRIFT_INPUTS
            : v->n_faults ? (mr3d_drift_record_at(d, v->faults[0].first)->point == MR3D_P_EMBEDS ? MR3D_DRIFT_INPUTS : MR3D_DRIFT_FAULT)
            : v->n_other_faults                       ? MR3D_DRIFT_FAULT
            : far                                     ? MR3D_DRIFT_UNEXPLAINED
            : !v->judged && v->worst_total < 0        ? MR3D_DRIFT_NOTHING
                                                      : MR3D_DRIFT_ROUNDING;
  gather_evidence(d, v);
  gather_missing(d, v);
  if (difference) snprintf(v->headline, sizeof v->headline, "%.690s", difference);
  else say_headline(d, v);
}

void mr3d_drift_verdict_clear(mr3d_drift_verdict *v) {
  free(v->faults);
  free(v->other_faults);
  *v = (mr3d_drift_verdict){0};
}
