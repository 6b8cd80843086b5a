#include "sensitivity.h"

#include <fnmatch.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "frames.h"
#include "golden.h"
#include "judge_internal.h"
#include "parallel.h"
#include "posing.h"

#define SMALLEST -50 /* powers of two that are tried */
#define STEPS 4      /* a factor of two is divided in so many */
#define HONEST_RUN 99 /* an emulated run that no yardstick uses */

const char *mr3d_defect_text(mr3d_defect defect) {
  static const char *const texts[MR3D_N_DEFECTS] = {"outputs x (1 + e)", "one head x (1 + e)",  "one token x (1 + e)",
                                                    "one element + e rms", "angles + e radians", "a key of weight e lost"};
  return texts[defect];
}

/** One answer under test: the truth, an honest answer, and what the defects need. */
typedef struct subject {
  mr3d_truth *truth;
  const mr3d_bundle *request, *exact, *honest;
  const mr3d_bundle *scaled; /* with turn: tensors */
} subject;

/* ---- defects ---- */

/** The part of an output that a defect of size 1 adds. */
typedef struct addition {
  mr3d_tensor *tensor; /* of the answer, F64 */
  const double *exact;
  int64_t rows, cols, per_head, heads;
} addition;

static addition addition_of(const subject *s, mr3d_tensor *tensor) {
  const mr3d_tensor *exact = mr3d_bundle_find(s->exact, tensor->name);
  int64_t count = mr3d_tensor_count(tensor), cols = tensor->rank > 0 ? tensor->shape[tensor->rank - 1] : 1;
  return (addition){.tensor = tensor,
                    .exact = exact->data,
                    .cols = cols,
                    .rows = cols > 0 ? count / cols : 0,
                    .per_head = tensor->rank > 1 ? tensor->shape[tensor->rank - 2] : 1,
                    .heads = tensor->rank == 4 ? tensor->shape[1] : 1};
}

/** A row that the judge compares, in the middle of those there are; -1: none. */
static int64_t middle_row(const subject *s, const addition *a) {
  char name[96];
  snprintf(name, sizeof name, "skip:%s", a->tensor->name);
  const mr3d_tensor *skip = mr3d_bundle_find(s->exact, name);
  for (int64_t k = 0; k < a->rows; k++) {
    int64_t row = (a->rows / 2 + k) % a->rows, sample = row / (a->heads * a->per_head), token = row % a->per_head;
    if (!skip || !((const uint8_t *)skip->data)[sample * a->per_head + token]) return row;
  }
  return -1;
}

static double row_size(const addition *a, int64_t row) {
  double squares = 0;
  for (int64_t i = row * a->cols; i < (row + 1) * a->cols; i++) squares += a->exact[i] * a->exact[i];
  return a->cols > 0 ? sqrt(squares / (double)a->cols) : 0;
}

/** A zero stays the zero it is: -0 + 0 would be +0, which the judge sees. */
static void add(double *y, double size, double what) {
  if (what != 0) *y += size * what;
}

/** The element of a row that is largest. */
static int64_t largest_in(const addition *a, int64_t row) {
  int64_t largest = row * a->cols;
  for (int64_t i = row * a->cols; i < (row + 1) * a->cols; i++)
    if (fabs(a->exact[i]) > fabs(a->exact[largest])) largest = i;
  return largest;
}

/**
 * y without the part `size` of the query's weights that key j has: (y - size v) / (1 - size). The query is the last of the first head, the key that with
 * its largest weight. False where it has not that much, or none at all.
 */
static bool lose_key(const subject *s, const addition *a, double size) {
  const mr3d_tensor *query = mr3d_bundle_find(s->request, "query"), *key = mr3d_bundle_find(s->request, "key"), *value = mr3d_bundle_find(s->request, "value"),
                    *visible = mr3d_bundle_find(s->request, "visible");
  if (!query || query->rank != 4 || !key || !value || !visible || query->shape[0] < 1) return false;
  int64_t q = query->shape[2], D = query->shape[3], K = key->shape[2];
  const uint8_t *sees = (const uint8_t *)visible->data + (q - 1) * K;
  if (q < 1 || K < 1) return false;
  double *all = mr3d_allocate(mr3d_tensor_count(query) + mr3d_tensor_count(key) + mr3d_tensor_count(value) + K, sizeof *all);
  double *keys = all + mr3d_tensor_count(query), *values = keys + mr3d_tensor_count(key), *p = values + mr3d_tensor_count(value), max = -INFINITY, sum = 0;
  mr3d_tensor_to_double(query, all);
  mr3d_tensor_to_double(key, keys);
  mr3d_tensor_to_double(value, values);
  for (int64_t j = 0; j < K; j++) {
    for (int64_t d = 0; d < D; d++) p[j] += all[(q - 1) * D + d] * keys[j * D + d] / sqrt((double)D);
    if (sees[j]) max = fmax(max, p[j]);
  }
  int64_t largest = -1;
  for (int64_t j = 0; j < K; j++) {
    p[j] = sees[j] ? exp(p[j] - max) : 0;
    sum += p[j];
    if (sees[j] && (largest < 0 || p[j] > p[largest])) largest = j;
  }
  bool enough = largest >= 0 && size < 1 && size <= p[largest] / sum && a->rows > q - 1;
  double *y = enough ? (double *)a->tensor->data + (q - 1) * D : NULL;
  const double *exact = a->exact + (q - 1) * D;
  for (int64_t d = 0; enough && d < D; d++) add(&y[d], size / (1 - size), exact[d] - values[largest * D + d]);
  free(all);
  return enough;
}

/** Puts the defect into one output. False where there is no such defect in it. */
static bool spoil(const subject *s, mr3d_tensor *tensor, mr3d_defect defect, double size) {
  addition a = addition_of(s, tensor);
  double *y = tensor->data;
  int64_t row = middle_row(s, &a);
  char name[96];
  if (row < 0 || a.cols == 0) return false;
  switch (defect) {
  case MR3D_DEFECT_SCALE:
    for (int64_t i = 0; i < a.rows * a.cols; i++) add(&y[i], size, a.exact[i]);
    return true;
  case MR3D_DEFECT_HEAD:
    for (int64_t r = 0; r < a.rows; r++)
      for (int64_t i = r * a.cols; r / a.per_head % a.heads == a.heads - 1 && i < (r + 1) * a.cols; i++) add(&y[i], size, a.exact[i]);
    return a.heads > 1;
  case MR3D_DEFECT_TOKEN:
    for (int64_t i = row * a.cols; i < (row + 1) * a.cols; i++) add(&y[i], size, a.exact[i]);
    return a.rows > 1;
  case MR3D_DEFECT_ELEMENT: add(&y[largest_in(&a, row)], size, row_size(&a, row)); return row_size(&a, row) > 0;
  case MR3D_DEFECT_ANGLE: {
    snprintf(name, sizeof name, "turn:%s", tensor->name);
    const mr3d_tensor *turn = mr3d_bundle_find(s->scaled, name);
    for (int64_t i = 0; turn && i < a.rows * a.cols; i++) add(&y[i], size, ((const double *)turn->data)[i]);
    return turn != NULL;
  }
  case MR3D_DEFECT_KEY: return strcmp(mr3d_truth_op(s->truth), "attention") == 0 && lose_key(s, &a, size);
  case MR3D_N_DEFECTS: break;
  }
  return false;
}

/* ---- search ---- */

static bool is_judged_right(const subject *s, const mr3d_bundle *answer) {
  mr3d_judgement judgement;
  mr3d_judge(s->truth, answer, &judgement);
  bool passed = judgement.passed;
  mr3d_judgement_clear(&judgement);
  return passed;
}

static mr3d_bundle *copy_of(const mr3d_bundle *answer) {
  mr3d_bundle *copy = mr3d_bundle_new();
  for (int i = 0; i < mr3d_bundle_count(answer); i++)
    if (!strchr(mr3d_bundle_at(answer, i)->name, ':')) mr3d_bundle_copy(copy, NULL, mr3d_bundle_at(answer, i));
  return copy;
}

typedef enum { NO_SUCH_DEFECT, SEEN, NOT_SEEN } outcome;

/** Whether the defect is seen in output number `index`. */
static outcome try_size(const subject *s, int index, mr3d_defect defect, double size) {
  mr3d_bundle *answer = copy_of(s->honest);
  mr3d_tensor *tensor = mr3d_bundle_at(answer, index);
  outcome how = NO_SUCH_DEFECT;
  if (tensor->dtype == MR3D_F64 && spoil(s, tensor, defect, size)) how = is_judged_right(s, answer) ? NOT_SEEN : SEEN;
  mr3d_bundle_free(&answer);
  return how;
}

static double size_at(int step) { return exp2((double)step / STEPS); }

/** The smallest size that is seen in one output; INFINITY: not even the largest that there can be; NAN: no such defect. */
static float least_in(const subject *s, int index, mr3d_defect defect) {
  int above = 0, below = SMALLEST * STEPS;
  while (above > below && try_size(s, index, defect, size_at(above)) == NO_SUCH_DEFECT) above -= STEPS; /* a key of that weight */
  if (above <= below) return NAN;
  if (try_size(s, index, defect, size_at(above)) == NOT_SEEN) return INFINITY;
  while (above - below > 1) {
    int middle = below + (above - below) / 2;
    if (try_size(s, index, defect, size_at(middle)) == SEEN) above = middle;
    else below = middle;
  }
  return (float)size_at(above);
}

static double noise_of(const subject *s) {
  double noise = 0;
  for (int i = 0; i < mr3d_bundle_count(s->honest); i++) {
    const mr3d_tensor *got = mr3d_bundle_at(s->honest, i), *exact = mr3d_bundle_find(s->exact, got->name);
    double error = 0, size = 0;
    for (int64_t k = 0; got->dtype == MR3D_F64 && k < mr3d_tensor_count(got); k++) {
      double truth = ((const double *)exact->data)[k], difference = ((const double *)got->data)[k] - truth;
      error += difference * difference;
      size += truth * truth;
    }
    if (size > 0) noise = fmax(noise, sqrt(error / size));
  }
  return noise;
}

static void sense(const subject *s, mr3d_sensed *out) {
  out->asked = true;
  out->noise = noise_of(s);
  out->false_alarm = !is_judged_right(s, s->honest);
  for (int d = 0; d < MR3D_N_DEFECTS; d++) {
    out->least[d] = NAN;
    for (int i = 0; i < mr3d_bundle_count(s->honest) && !out->false_alarm; i++) {
      float least = least_in(s, i, (mr3d_defect)d);
      if (!isnan(least) && (isnan(out->least[d]) || least > out->least[d])) out->least[d] = least; /* of several outputs, the one where it hides best */
    }
  }
}

/* ---- cases ---- */

/** Honest arithmetic of the tier: rounded to nearest where storage is narrow, with the accumulation's noise where it is all there is; fp64: the reference. */
static mr3d_server *honest_server(mr3d_tier tier, mr3d_weights_cache *weights) {
  mr3d_server_options options = {.threads = 1, .weights = weights, .emulate = tier != MR3D_FP64};
  options.arithmetic = mr3d_arithmetic_of(tier, mr3d_tier_units(tier).narrow ? MR3D_NEAREST : MR3D_STOCHASTIC, false, HONEST_RUN);
  return mr3d_server_new(&options);
}

static bool has_floats(const mr3d_bundle *answer) {
  for (int i = 0; answer && i < mr3d_bundle_count(answer); i++)
    if (mr3d_bundle_at(answer, i)->dtype == MR3D_F64 && mr3d_tensor_count(mr3d_bundle_at(answer, i)) > 0) return true;
  return false;
}

static mr3d_status sense_case(const mr3d_sensitivity *x, mr3d_worker *worker, int tier, int index, mr3d_error *error) {
  const mr3d_case *test = x->cases[index];
  if (!(test->tiers >> x->tiers[tier] & 1) || test->steps[test->n_steps - 1].expect_error) return MR3D_OK;
  mr3d_posing posed;
  mr3d_posing_open(&posed, x->suite, test, x->tiers[tier], x->seed, worker->scratch, worker->weights, 1);
  mr3d_server *server = honest_server(x->tiers[tier], worker->weights);
  mr3d_bundle *honest = NULL;
  mr3d_status status = MR3D_OK;
  for (int step = 0; step < test->n_steps && status == MR3D_OK; step++) {
    mr3d_error refusal = {0};
    mr3d_bundle_free(&honest);
    status = mr3d_posing_request(&posed, step, error);
    if (status == MR3D_OK) status = mr3d_posing_answer(&posed, step, NULL, error);
    if (status == MR3D_OK && mr3d_server_answer(server, posed.requests[step], &honest, &refusal) != MR3D_OK) honest = NULL;
  }
  int last = test->n_steps - 1;
  if (status == MR3D_OK && honest && has_floats(posed.answers[last])) {
    mr3d_bundle *answer = copy_of(honest);
    const subject s = {.truth = posed.truth, .request = posed.requests[last], .exact = posed.answers[last], .honest = answer, .scaled = mr3d_truth_scaled(posed.truth)};
    sense(&s, &x->sensed[tier * x->n_cases + index]);
    mr3d_bundle_free(&answer);
  }
  mr3d_bundle_free(&honest);
  mr3d_server_free(&server);
  mr3d_posing_close(&posed);
  return status;
}

static mr3d_status sense_one(void *user, mr3d_worker *worker, int index, mr3d_error *error) {
  const mr3d_sensitivity *x = user;
  mr3d_status status = MR3D_OK;
  for (int t = 0; t < x->n_tiers && status == MR3D_OK; t++) status = sense_case(x, worker, t, index, error);
  return status;
}

static const char *name_one(void *user, int index) { return ((const mr3d_sensitivity *)user)->cases[index]->id; }

mr3d_status mr3d_sensitivity_run(const mr3d_sensitivity_options *options, void (*progress)(void *, int, int), void *user, mr3d_sensitivity **out, mr3d_error *error) {
  mr3d_sensitivity *x = mr3d_allocate(1, sizeof *x);
  double start = mr3d_now();
  int n_files = 0;
  x->seed = options->seed;
  uint32_t tiers = options->selection.tiers ? options->selection.tiers : ~(1u << MR3D_TF32);
  for (int t = 0; t < MR3D_N_TIERS; t++)
    if (tiers >> t & 1) x->tiers[x->n_tiers++] = (mr3d_tier)t;
  mr3d_status status = mr3d_golden_verify(options->golden_dir, NULL, NULL, &n_files, error);
  if (status == MR3D_OK) status = mr3d_suite_open(options->golden_dir, NULL, &x->suite, error);
  if (status == MR3D_OK) status = mr3d_selection_check(x->suite, &options->selection, error);
  if (status == MR3D_OK) {
    x->cases = mr3d_allocate(mr3d_suite_count(x->suite), sizeof *x->cases);
    for (int i = 0; i < mr3d_suite_count(x->suite); i++) {
      const mr3d_case *test = mr3d_suite_at(x->suite, i);
      bool left_out = test->needs_data || (options->without && fnmatch(options->without, test->id, 0) == 0);
      if (!left_out && mr3d_case_selected(test, &options->selection)) x->cases[x->n_cases++] = test;
    }
    if (x->n_cases == 0) status = mr3d_fail(error, MR3D_INVALID, "the selection of cases is empty: all that are selected are left out or need the data folder");
  }
  if (status == MR3D_OK) {
    x->sensed = mr3d_shared_memory((size_t)x->n_tiers * (size_t)x->n_cases * sizeof *x->sensed);
    mr3d_work work = {.total = x->n_cases, .one = sense_one, .name = name_one, .user = x, .progress = progress, .progress_user = user};
    status = x->sensed ? mr3d_parallel(&work, options->jobs, error) : mr3d_fail(error, MR3D_IO, "no shared memory");
  }
  x->seconds = mr3d_now() - start;
  if (status == MR3D_OK) *out = x;
  else mr3d_sensitivity_free(&x);
  return status;
}

void mr3d_sensitivity_free(mr3d_sensitivity **pointer) {
  mr3d_sensitivity *x = *pointer;
  if (!x) return;
  mr3d_shared_free(x->sensed, (size_t)x->n_tiers * (size_t)x->n_cases * sizeof *x->sensed);
  free(x->cases);
  mr3d_suite_close(&x->suite);
  free(x);
  *pointer = NULL;
}

double mr3d_sensitivity_least(const mr3d_sensitivity *x, int tier, const char *op, mr3d_defect defect, const mr3d_case **where) {
  double least = NAN;
  *where = NULL;
  for (int i = 0; i < x->n_cases; i++) {
    const mr3d_sensed *s = &x->sensed[tier * x->n_cases + i];
    if (!s->asked || s->false_alarm || strcmp(mr3d_case_op(x->cases[i]), op) != 0 || isnan(s->least[defect])) continue;
    if (!isnan(least) && !(s->least[defect] < least)) continue;
    least = s->least[defect];
    *where = isinf(least) ? NULL : x->cases[i];
  }
  return least;
}
