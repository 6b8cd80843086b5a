/**
 * Which known mistake explains a failing answer; and where none does, what is certain about it.
 *
 * Every mutant that can change the failing operator answers the same requests. The backend's answer is then measured
 * against the mutant's as it was against the reference's, in units of the noise that the tier may have: a mutant explains the answer
 * when it lies within a few units of it where the reference lies far away.
 */
#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "judge_internal.h"
#include "mutants.h"
#include "run.h"
#include "trial.h"

#define CASE_SECONDS 8.0    /* of processor time spent on mutants for one failing case: 4 s on two cores */
#define ALIKE_SECONDS 0.5   /* of it, once one mutant explains the case, to find others that answer alike */
#define RUN_SECONDS 60.0    /* and in one run, before only mistakes already named are tried */
#define VISIBLE 6.0         /* units of noise from which on an element is wrong, not noisy */
#define CAP 1000.0          /* one wild element is no more than this many units */
#define EXPLAINED_UNITS 4.0 /* root mean square distance to the mutant */
#define EXPLAINED_PART 0.05 /* of the squared distance to the reference that may remain */

/* ---- what is compared ---- */

/** One output: backend and reference, and the noise of each element. Without truth (a refusal was due) `ref` is empty. */
typedef struct picture {
  const char *name;
  const mr3d_tensor *expected, *got;
  bool comparable, floating; /* same shape and a type that can be compared */
  mr3d_output output;        /* floating */
  double *noise;
} picture;

typedef struct scene {
  mr3d_result *result;
  mr3d_truth *truth;
  const mr3d_bundle *request, *answer, *reference; /* reference NULL: a refusal was due */
  const char *op;
  mr3d_tier tier;
  int n_pictures;
  picture *pictures;
  mr3d_trial *trial;
} scene;

/** Noise of a row from the runs that the judge made, or a rough one: 16 roundings of the row's size. */
static double row_noise(const scene *s, int index, const mr3d_output *output, int64_t row) {
  double squares = 0, size = 0;
  int n = 0;
  for (int r = 0; r < MR3D_MANY_RUNS; r++) {
    float *const *errors = s->truth->runs[r].errors;
    if (!errors || !errors[index]) continue;
    n++;
    for (int64_t c = 0; c < output->cols; c++) squares += (double)errors[index][row * output->cols + c] * errors[index][row * output->cols + c];
  }
  for (int64_t c = 0; c < output->cols; c++) size += output->ref[row * output->cols + c] * output->ref[row * output->cols + c];
  size = sqrt(size / (double)output->cols);
  double own = n ? sqrt(squares / (double)n / (double)output->cols) * (s->tier == MR3D_FP64 ? ldexp(1, -MR3D_FP64_COARSER) : 1) : 16 * output->units.u * size;
  return isfinite(own) ? own + output->units.u * size : 16 * output->units.u * size;
}

static void add_noise(const scene *s, int index, picture *p) {
  const mr3d_output *output = &p->output;
  p->noise = mr3d_allocate(output->rows * output->cols, sizeof *p->noise);
  for (int64_t r = 0; r < output->rows; r++) {
    double noise = output->scale ? 0 : row_noise(s, index, output, r);
    for (int64_t i = r * output->cols; i < (r + 1) * output->cols; i++) p->noise[i] = (output->scale ? output->scale[i] : noise) + 1e-300;
  }
}

static bool same_shape(const mr3d_tensor *a, const mr3d_tensor *b) {
  if (a->rank != b->rank) return false;
  for (int i = 0; i < a->rank; i++)
    if (a->shape[i] != b->shape[i]) return false;
  return true;
}

static bool comparable(const mr3d_tensor *a, const mr3d_tensor *b) {
  return same_shape(a, b) && mr3d_dtype_is_float(a->dtype) == mr3d_dtype_is_float(b->dtype) && (mr3d_dtype_is_float(a->dtype) || a->dtype == b->dtype);
}

static void open_pictures(scene *s) {
  s->pictures = mr3d_allocate(mr3d_bundle_count(s->answer), sizeof *s->pictures);
  for (int i = 0; i < mr3d_bundle_count(s->answer); i++) {
    picture *p = &s->pictures[s->n_pictures++];
    p->got = mr3d_bundle_at(s->answer, i);
    p->name = p->got->name;
    p->expected = s->reference ? mr3d_bundle_find(s->reference, p->name) : NULL;
    p->comparable = p->expected && comparable(p->got, p->expected);
    p->floating = mr3d_dtype_is_float(p->got->dtype);
    if (!p->comparable || !p->floating) continue;
    mr3d_output_open(s->truth, p->expected, p->got, &p->output);
    int index = 0; /* in the reference's answer, where the runs' errors are */
    while (mr3d_bundle_at(s->reference, index) != p->expected) index++;
    add_noise(s, index, p);
  }
}

static void close_pictures(scene *s) {
  for (int i = 0; i < s->n_pictures; i++) {
    free(s->pictures[i].noise);
    mr3d_output_close(&s->pictures[i].output);
  }
  free(s->pictures);
}

typedef struct text {
  char *at;
  size_t left;
} text;

static void say(text *t, const char *format, ...) MR3D_PRINTF(2, 3);
static void say(text *t, const char *format, ...) {
  va_list arguments;
  va_start(arguments, format);
  int n = vsnprintf(t->at, t->left, format, arguments);
  va_end(arguments);
  if (n < 0) return;
  size_t used = (size_t)n < t->left ? (size_t)n : t->left - 1;
  t->at += used;
  t->left -= used;
}

/* ---- mutants ---- */

/** Squared distances over the elements of the rows that the mistake or the backend touches. */
typedef struct distance {
  double to_mutant, to_reference;
  int64_t n;
  bool impossible; /* other shapes, a missing tensor */
} distance;

static bool explained(const distance *d) {
  return !d->impossible && d->to_reference > 0 && sqrt(d->to_mutant / (double)d->n) <= EXPLAINED_UNITS && d->to_mutant <= EXPLAINED_PART * d->to_reference;
}

static double units(double difference, double noise) {
  double d = fabs(difference) / noise;
  return d <= CAP ? d : CAP; /* a NaN too */
}

/** The same NaN or infinity is no distance. */
static bool alike(double a, double b) { return a == b || (isnan(a) && isnan(b)); }

/** Of padding only the finiteness is judged. */
static double units_apart(bool padding, double got, double other, double noise) {
  if (padding) return !isfinite(got) != !isfinite(other) ? CAP : 0;
  return alike(got, other) ? 0 : units(got - other, noise);
}

static void add_floats(const scene *s, const picture *p, const double *mutant, bool touched_only, distance *d) {
  const mr3d_output *o = &p->output;
  for (int64_t r = 0; r < o->rows; r++) {
    double to_mutant = 0, to_reference = 0;
    const bool padding = o->skip && o->skip[r];
    bool touched = !touched_only;
    if (strcmp(p->name, "hidden") == 0 && !mr3d_trial_has(s->trial, r % o->per_head)) continue;
    for (int64_t i = r * o->cols; i < (r + 1) * o->cols; i++) {
      double a = units_apart(padding, o->got[i], mutant[i], p->noise[i]), b = units_apart(padding, o->got[i], o->ref[i], p->noise[i]);
      to_mutant += a * a;
      to_reference += b * b;
      touched = touched || b > VISIBLE || units_apart(padding, mutant[i], o->ref[i], p->noise[i]) > VISIBLE;
    }
    if (!touched) continue;
    d->to_mutant += to_mutant;
    d->to_reference += to_reference;
    d->n += o->cols;
  }
}

/** Integers, and floats where no reference gives a noise: equal, or CAP units apart. */
static void add_exact(const mr3d_tensor *got, const mr3d_tensor *mutant, const mr3d_tensor *reference, double tolerance, distance *d) {
  int64_t count = mr3d_tensor_count(got);
  double *values = mr3d_allocate(3 * count, sizeof *values), *a = values, *b = values + count, *c = values + 2 * count;
  mr3d_tensor_to_double(got, a);
  mr3d_tensor_to_double(mutant, b);
  if (reference) mr3d_tensor_to_double(reference, c);
  for (int64_t i = 0; i < count; i++) {
    double to_mutant = alike(a[i], b[i]) || fabs(a[i] - b[i]) <= tolerance * fabs(b[i]) ? 0 : CAP, to_reference = reference && a[i] == c[i] ? 0 : CAP;
    if (reference && to_reference == 0 && b[i] == c[i]) continue;
    d->to_mutant += to_mutant * to_mutant;
    d->to_reference += to_reference * to_reference;
    d->n++;
  }
  free(values);
}

static distance distance_over(const scene *s, const mr3d_bundle *mutant, bool touched_only) {
  distance d = {0};
  for (int i = 0; i < s->n_pictures; i++) {
    const picture *p = &s->pictures[i];
    const mr3d_tensor *tensor = mr3d_bundle_find(mutant, p->name);
    if (!tensor || !comparable(p->got, tensor)) {
      d.impossible = true;
      return d;
    }
    if (!p->comparable) d.to_reference += CAP * CAP, d.n++; /* another shape, perhaps without elements */
    if (p->comparable && p->floating) add_floats(s, p, tensor->data, touched_only, &d);
    else add_exact(p->got, tensor, p->comparable ? p->expected : NULL, p->floating ? 64 * mr3d_tier_units(s->tier).u : 0, &d);
  }
  return d;
}

static distance distance_to(const scene *s, const mr3d_bundle *mutant) {
  distance d = distance_over(s, mutant, true);
  return d.impossible || d.n > 0 ? d : distance_over(s, mutant, false); /* a bias, below the noise of every element */
}

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
static double explains(const scene *s, int m) {
  mr3d_bundle *answer = mr3d_trial_answer(s->trial, mr3d_mutant_at(m));
  if (!answer) return -1;
  distance d = distance_to(s, answer);
  mr3d_bundle_free(&answer);
  return explained(&d) ? sqrt(d.to_mutant / (double)d.n) : -1;
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

static bool can_explain(const mr3d_mutant *mutant, const scene *s) {
  return !mutant->hangs && mr3d_mutant_is_mistake_at(mutant, s->tier) && mr3d_mutant_touches(mutant, s->op);
}

/** The distance of every mutant that explains the answer, else -1; and which is nearest, or -1. */
static int search(const scene *s, double apart[]) {
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
  text t = {result->diagnosis, sizeof result->diagnosis};
  snprintf(result->mistake, sizeof result->mistake, "%s/%s", mutant->slug, mutant->name);
  say(&t, "%s %s: %s", how, result->mistake, mutant->says);
  for (int m = 0, said = 0; apart && m < mr3d_mutant_count() && m < MAX_MUTANTS; m++)
    if (m != best && apart[m] == apart[best]) say(&t, "%s%s/%s", said++ ? ", " : "; on this request the same as ", mr3d_mutant_at(m)->slug, mr3d_mutant_at(m)->name);
}

/* ---- what is certain when no mutant explains it ---- */

/** Which rows, heads, columns and halves hold wrong elements. */
typedef struct census {
  int64_t rows, wrong_rows, wrong, first_row, last_row;
  int64_t points, wrong_points, texts, wrong_texts;
  bool *head, *column, *row;
  int64_t wrong_heads, wrong_columns;
} census;

static census count_wrong(const picture *p) {
  const mr3d_output *o = &p->output;
  census c = {.first_row = -1, .head = mr3d_allocate(o->heads, sizeof(bool)), .column = mr3d_allocate(o->cols, sizeof(bool)), .row = mr3d_allocate(o->rows, sizeof(bool))};
  for (int64_t r = 0; r < o->rows; r++) {
    if (o->skip && o->skip[r]) continue;
    for (int64_t k = 0; k < o->cols; k++) {
      int64_t i = r * o->cols + k;
      if (units(o->got[i] - o->ref[i], p->noise[i]) <= VISIBLE) continue;
      c.wrong++;
      c.row[r] = c.head[r / o->per_head % o->heads] = c.column[k] = true;
    }
    c.rows++;
    c.wrong_rows += c.row[r];
    if (c.row[r] && c.first_row < 0) c.first_row = r;
    if (c.row[r]) c.last_row = r;
    if (o->point) {
      *(o->point[r] ? &c.points : &c.texts) += 1;
      *(o->point[r] ? &c.wrong_points : &c.wrong_texts) += c.row[r];
    }
  }
  for (int64_t h = 0; h < o->heads; h++) c.wrong_heads += c.head[h];
  for (int64_t k = 0; k < o->cols; k++) c.wrong_columns += c.column[k];
  return c;
}

static void free_census(census *c) {
  free(c->head);
  free(c->column);
  free(c->row);
}

/** Whether got is the reference seen through `from`, got[i] = factor * ref[from(i)], as well as a mutant would have to be. */
static bool matches(const picture *p, int64_t (*from)(const mr3d_output *, int64_t), double factor) {
  const mr3d_output *o = &p->output;
  distance d = {0};
  for (int64_t i = 0; i < o->rows * o->cols; i++) {
    int64_t j = from(o, i);
    if (j < 0 || (o->skip && o->skip[i / o->cols])) continue;
    double a = units(o->got[i] - factor * o->ref[j], p->noise[i] + fabs(factor) * p->noise[j]), b = units(o->got[i] - o->ref[i], p->noise[i]);
    d.to_mutant += a * a;
    d.to_reference += b * b;
    d.n++;
  }
  return explained(&d);
}

static int64_t itself(const mr3d_output *o, int64_t i) { return (void)o, i; }
static int64_t row_before(const mr3d_output *o, int64_t i) { return i / o->cols % o->per_head == 0 ? -1 : i - o->cols; }
static int64_t row_after(const mr3d_output *o, int64_t i) { return i / o->cols % o->per_head == o->per_head - 1 ? -1 : i + o->cols; }
static int64_t rows_reversed(const mr3d_output *o, int64_t i) {
  int64_t row = i / o->cols, in_head = row % o->per_head;
  return (row - in_head + o->per_head - 1 - in_head) * o->cols + i % o->cols;
}
static int64_t heads_reversed(const mr3d_output *o, int64_t i) {
  int64_t row = i / o->cols, head = row / o->per_head % o->heads;
  return i + (o->heads - 1 - 2 * head) * o->per_head * o->cols;
}
static int64_t halves_swapped(const mr3d_output *o, int64_t i) {
  int64_t column = i % o->cols;
  return o->cols % 2 ? i : i - column + (column + o->cols / 2) % o->cols;
}
static int64_t pairs_swapped(const mr3d_output *o, int64_t i) { return o->cols % 2 ? i : i % o->cols % 2 ? i - 1 : i + 1; }
static int64_t pairs_for_halves(const mr3d_output *o, int64_t i) {
  int64_t column = i % o->cols, half = o->cols / 2;
  return o->cols % 2 ? i : i - column + (column < half ? 2 * column : 2 * (column - half) + 1);
}
/** Laid out [.., per_head, heads, cols] and read as [.., heads, per_head, cols]. */
static int64_t heads_and_tokens(const mr3d_output *o, int64_t i) {
  int64_t size = o->heads * o->per_head, row = i / o->cols, block = row / size * size, in = row % size;
  return (block + in % o->heads * o->per_head + in / o->heads) * o->cols + i % o->cols;
}
static int64_t axes_reversed(const mr3d_output *o, int64_t i) { return i - i % o->cols + o->cols - 1 - i % o->cols; }

/** The common factor of got over ref, when there is one beside 1. */
static bool has_factor(const picture *p, double *factor) {
  const mr3d_output *o = &p->output;
  double up = 0, down = 0;
  for (int64_t i = 0; i < o->rows * o->cols; i++) {
    if (o->ref[i] == 0 || (o->skip && o->skip[i / o->cols])) continue;
    double weight = 1 / (p->noise[i] * p->noise[i]);
    up += weight * o->got[i] * o->ref[i];
    down += weight * o->ref[i] * o->ref[i];
  }
  *factor = up / down;
  return isfinite(*factor) && matches(p, itself, *factor);
}

/** The input that a rotation's output equals when nothing was rotated. */
static bool is_input(const scene *s, const picture *p) {
  const mr3d_tensor *input = mr3d_bundle_find(s->request, strcmp(p->name, "y") == 0 ? "x" : p->name);
  const mr3d_output *o = &p->output;
  if (!input || !comparable(p->got, input)) return false;
  int64_t count = o->rows * o->cols;
  double *x = mr3d_allocate(count, sizeof *x);
  mr3d_tensor_to_double(input, x);
  bool equal = true;
  for (int64_t i = 0; i < count && equal; i++) equal = o->got[i] == x[i];
  free(x);
  return equal;
}

static bool say_pattern(const scene *s, const picture *p, text *t) {
  static const struct { int64_t (*from)(const mr3d_output *, int64_t); double factor; bool heads; const char *what; } patterns[] = {
      {itself, -1, false, "it is the reference with its sign flipped"},
      {row_before, 1, false, "row i holds what belongs in row i-1: rows are shifted by one"},
      {row_after, 1, false, "row i holds what belongs in row i+1: rows are shifted by one"},
      {rows_reversed, 1, false, "the rows stand in reverse order"},
      {heads_reversed, 1, true, "the heads stand in reverse order"},
      {heads_and_tokens, 1, true, "the axes of heads and tokens are exchanged"},
      {halves_swapped, 1, false, "the two halves of the last axis are exchanged"},
      {pairs_swapped, 1, false, "neighbours in the last axis are exchanged"},
      {pairs_for_halves, 1, false, "the last axis is deinterleaved: even dimensions first, then odd ones"},
      {axes_reversed, 1, false, "the last axis runs backwards"},
  };
  double factor;
  if (is_input(s, p)) return say(t, "it equals the input: nothing was done to it"), true;
  for (size_t i = 0; i < sizeof patterns / sizeof *patterns; i++)
    if ((!patterns[i].heads || p->output.heads > 1) && matches(p, patterns[i].from, patterns[i].factor)) return say(t, "%s", patterns[i].what), true;
  if (has_factor(p, &factor)) return say(t, "it is the reference times %.9g", factor), true;
  return false;
}

/** "0, 3, 7" or "0..6", of the flags that are set. */
static void say_list(text *t, const bool *flags, int64_t n) {
  int said = 0;
  for (int64_t i = 0; i < n; i++) {
    if (!flags[i]) continue;
    int64_t end = i;
    while (end + 1 < n && flags[end + 1]) end++;
    if (said++ == 6) {
      say(t, ", ..");
      return;
    }
    say(t, end > i ? "%s%lld..%lld" : "%s%lld", said > 1 ? ", " : "", (long long)i, (long long)end);
    i = end;
  }
}

/** Only every second one, from `first` on. */
static bool every_second(const bool *flags, int64_t n, int64_t first) {
  for (int64_t i = 0; i < n; i++)
    if (flags[i] != (i % 2 == first)) return false;
  return n > 2;
}

/** Errors of the later half of each head's wrong rows against the earlier half, in the order of rows. */
static bool grows(const picture *p, const census *c) {
  const mr3d_output *o = &p->output;
  double early = 0, late = 0;
  if (c->wrong_rows < 16 || o->per_head < 16) return false;
  for (int64_t r = 0; r < o->rows; r++) {
    if (o->skip && o->skip[r]) continue;
    for (int64_t i = r * o->cols; i < (r + 1) * o->cols; i++) {
      double d = units(o->got[i] - o->ref[i], p->noise[i]);
      *(r % o->per_head < o->per_head / 2 ? &early : &late) += d * d;
    }
  }
  return late > 9 * early;
}

static void say_where(const picture *p, const census *c, text *t) {
  const mr3d_output *o = &p->output;
  say(t, "%lld of %lld elements in %lld of %lld rows are wrong", (long long)c->wrong, (long long)(c->rows * o->cols), (long long)c->wrong_rows, (long long)c->rows);
  if (o->point && c->wrong_points > 0 && c->wrong_texts == 0 && c->texts > 0) say(t, "; only points");
  if (o->point && c->wrong_texts > 0 && c->wrong_points == 0 && c->points > 0) say(t, "; only text tokens");
  if (o->heads > 1 && c->wrong_heads < o->heads) say(t, "; only heads "), say_list(t, c->head, o->heads);
  if (c->wrong_columns < o->cols) {
    bool first = true, second = true;
    for (int64_t k = 0; k < o->cols; k++) *(k < o->cols / 2 ? &second : &first) &= !c->column[k];
    if (first && o->cols > 3) say(t, "; only in the first half of the last axis (dimensions "), say_list(t, c->column, o->cols), say(t, ")");
    else if (second && o->cols > 3) say(t, "; only in the second half of the last axis (dimensions "), say_list(t, c->column, o->cols), say(t, ")");
    else if (every_second(c->column, o->cols, 0)) say(t, "; only even dimensions");
    else if (every_second(c->column, o->cols, 1)) say(t, "; only odd dimensions");
    else say(t, "; only dimensions "), say_list(t, c->column, o->cols);
  }
  int64_t samples = o->rows / (o->heads * o->per_head);
  if (samples > 1 && c->first_row >= o->heads * o->per_head) say(t, "; sample 0 is right");
  int64_t from = o->per_head, right_behind = 0;
  for (int64_t r = 0; r < o->rows; r++)
    if (c->row[r] && r % o->per_head < from) from = r % o->per_head;
  for (int64_t r = 0; r < o->rows; r++) right_behind += !c->row[r] && r % o->per_head >= from;
  if (c->wrong_rows == 1) say(t, "; only row %lld", (long long)c->first_row);
  else if (from > 0 && right_behind == 0) say(t, "; everything from token %lld on, nothing before", (long long)from);
  else if (from > 0) say(t, "; the first wrong token is %lld", (long long)from);
  if (grows(p, c)) say(t, "; the error grows with the position");
}

static void say_facts(const scene *s, mr3d_result *result) {
  text t = {result->diagnosis, sizeof result->diagnosis};
  for (int i = 0; i < s->n_pictures; i++) {
    const picture *p = &s->pictures[i];
    if (!p->comparable || !p->floating || p->output.rows == 0) continue;
    census c = count_wrong(p);
    if (c.wrong > 0) {
      say(&t, t.at == result->diagnosis ? "no known mistake explains it; certain is: \"%s\": " : ". \"%s\": ", p->name);
      if (!say_pattern(s, p, &t)) say_where(p, &c, &t);
    }
    free_census(&c);
  }
}

/* ---- entry ---- */

#define SAMPLED_TOKENS 6

static int ascending(const void *a, const void *b) { return (*(const int64_t *)a > *(const int64_t *)b) - (*(const int64_t *)a < *(const int64_t *)b); }

/** Tokens of `hidden` on which mutants are compared where all are too many: some spread evenly, and those with the largest errors. */
static int64_t sample_tokens(const scene *s, int64_t tokens[2 * SAMPLED_TOKENS]) {
  for (int i = 0; i < s->n_pictures; i++) {
    const picture *p = &s->pictures[i];
    const mr3d_output *o = &p->output;
    if (strcmp(p->name, "hidden") != 0 || !p->comparable || o->per_head < 2 * SAMPLED_TOKENS) continue;
    int64_t n = 0;
    bool *taken = mr3d_allocate(o->per_head, sizeof *taken);
    double *error = mr3d_allocate(o->per_head, sizeof *error);
    for (int64_t r = 0; r < o->rows; r++)
      for (int64_t c = r * o->cols; c < (r + 1) * o->cols; c++) error[r % o->per_head] += units(o->got[c] - o->ref[c], p->noise[c]);
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
  scene s = {.result = result, .truth = truth, .request = request, .answer = reply->answer, .op = mr3d_bundle_get(request, "op"), .tier = truth->tier};
  if (!s.op || !s.answer) return;
  bool refusal_due = truth->n_steps == 0 || truth->requests[truth->n_steps - 1] != request;
  if (!refusal_due) s.reference = truth->answers[truth->n_steps - 1];
  open_pictures(&s);
  double apart[MAX_MUTANTS];
  int64_t tokens[2 * SAMPLED_TOKENS], n_tokens = sample_tokens(&s, tokens);
  s.trial = mr3d_trial_new(n_requests, requests, n_tokens, tokens, weights, threads);
  int best = search(&s, apart);
  mr3d_trial_free(&s.trial);
  if (best >= 0) name(result, apart[best] == 0 ? "your output equals" : "your output is, within rounding,", best, apart);
  else if (!refusal_due) say_facts(&s, result);
  close_pictures(&s);
}

void mr3d_diagnose(mr3d_result *result, mr3d_truth *truth, int n_requests, mr3d_bundle *const requests[], const mr3d_reply *reply,
                   mr3d_weights_cache *weights, int threads) {
  result->diagnosis[0] = result->mistake[0] = 0;
  if (n_requests < 1) return;
  const char *op = mr3d_bundle_get(requests[n_requests - 1], "op");
  if (reply->kind == MR3D_REPLY_ANSWER) {
    diagnose_answer(result, truth, n_requests, requests, reply, weights, threads);
  } else if (reply->kind == MR3D_REPLY_TIMEOUT) {
    for (int m = 0; m < mr3d_mutant_count(); m++)
      if (mr3d_mutant_at(m)->hangs && op && mr3d_mutant_touches(mr3d_mutant_at(m), op)) name(result, "a call that never returns is", m, NULL);
  }
}
