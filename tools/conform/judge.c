/**
 * The judge's frame: which tensors must be there, of which types and shapes; what is NaN, infinite or an integer; then
 * the rules of judge_scale.c or yardstick.c.
 */
#include "judge_internal.h"

#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

void mr3d_verdict_add(mr3d_tensor_verdict *verdict, const char *rule, double value, double limit, bool tested,
                      const char *format, ...) {
  bool passed = !tested || value <= limit; /* false for a NaN */
  if (verdict->n_statistics < MR3D_MAX_STATISTICS)
    verdict->statistics[verdict->n_statistics++] = (mr3d_statistic){rule, value, limit, tested, passed};
  if (passed) return;
  verdict->passed = false;
  if (verdict->problem[0]) return;
  va_list arguments;
  va_start(arguments, format);
  vsnprintf(verdict->problem, sizeof verdict->problem, format, arguments);
  va_end(arguments);
}

char *mr3d_index_text(const mr3d_tensor *tensor, int64_t index, bool row, char text[96]) {
  int64_t at[MR3D_MAX_RANK];
  int rank = tensor->rank - (row && tensor->rank > 0 ? 1 : 0);
  for (int a = rank - 1; a >= 0; a--) {
    at[a] = tensor->shape[a] ? index % tensor->shape[a] : 0;
    index = tensor->shape[a] ? index / tensor->shape[a] : 0;
  }
  int n = snprintf(text, 96, "[");
  for (int a = 0; a < rank && n < 80; a++) n += snprintf(text + n, 96 - (size_t)n, "%s%lld", a ? "," : "", (long long)at[a]);
  snprintf(text + n, 96 - (size_t)n, "%s]", row ? (rank ? ",:" : ":") : "");
  return text;
}

double mr3d_select(double *values, int64_t n, int64_t k) {
  int64_t low = 0, high = n - 1;
  while (low < high) {
    double pivot = values[low + (high - low) / 2];
    int64_t i = low, j = high;
    while (i <= j) {
      while (values[i] < pivot) i++;
      while (values[j] > pivot) j--;
      if (i > j) break;
      double swap = values[i];
      values[i++] = values[j];
      values[j--] = swap;
    }
    if (k <= j) high = j;
    else if (k >= i) low = i;
    else break;
  }
  return values[k];
}

/* ---- types and shapes ---- */

/** Whether a backend may answer with that type, protocol.md "Types"; writes the list of the types allowed. */
static bool type_allowed(const char *op, const mr3d_tensor *expected, mr3d_tier tier, mr3d_dtype dtype, char list[64]) {
  mr3d_dtype storage = mr3d_tier_storage(tier);
  if (!mr3d_dtype_is_float(expected->dtype)) {
    snprintf(list, 64, "%s", mr3d_dtype_name(expected->dtype));
    return dtype == expected->dtype;
  }
  bool wide_only = strcmp(op, "cis3d") == 0 || strcmp(op, "normalize_coords") == 0; /* angles and coordinates are never narrowed */
  if (wide_only || storage == MR3D_F64 || storage == MR3D_F32) {
    snprintf(list, 64, "F32 or F64");
    return dtype == MR3D_F32 || dtype == MR3D_F64;
  }
  snprintf(list, 64, "F32, F64 or %s", mr3d_dtype_name(storage));
  return dtype == MR3D_F32 || dtype == MR3D_F64 || dtype == storage;
}

static bool same_shape(const mr3d_tensor *a, const mr3d_tensor *b) {
  if (a->rank != b->rank) return false;
  for (int i = 0; i < a->rank; i++)
    if (a->shape[i] != b->shape[i]) return false;
  return true;
}

static void fail(mr3d_tensor_verdict *verdict, const char *format, ...) MR3D_PRINTF(2, 3);
static void fail(mr3d_tensor_verdict *verdict, const char *format, ...) {
  verdict->passed = false;
  va_list arguments;
  va_start(arguments, format);
  vsnprintf(verdict->problem, sizeof verdict->problem, format, arguments);
  va_end(arguments);
}

/* ---- integers and booleans ---- */

static double integer_at(const mr3d_tensor *tensor, int64_t i) {
  return tensor->dtype == MR3D_BOOL ? ((const uint8_t *)tensor->data)[i] : (double)((const int64_t *)tensor->data)[i];
}

static void judge_exact(const mr3d_tensor *expected, const mr3d_tensor *got, mr3d_tensor_verdict *verdict) {
  size_t size = mr3d_dtype_size(expected->dtype);
  const char *a = got->data, *b = expected->data;
  int64_t first = -1;
  for (int64_t i = 0; i < verdict->elements; i++) {
    if (memcmp(a + (size_t)i * size, b + (size_t)i * size, size) == 0) continue;
    if (first < 0) first = i;
    verdict->wrong++;
  }
  if (first >= 0) {
    mr3d_index_text(expected, first, false, verdict->index);
    verdict->got = integer_at(got, first);
    verdict->expected = integer_at(expected, first);
  }
  mr3d_verdict_add(verdict, "exact", (double)verdict->wrong, 0, true, "%lld of %lld elements differ",
                   (long long)verdict->wrong, (long long)verdict->elements);
}

/* ---- floating outputs ---- */

double mr3d_ulp(mr3d_tier tier, double value) {
  static const struct { int digits, minimum; } formats[MR3D_N_TIERS] = {
      [MR3D_FP64] = {53, -1021}, [MR3D_FP32] = {24, -125}, [MR3D_TF32] = {24, -125}, [MR3D_BF16_TIER] = {8, -125}, [MR3D_FP16] = {11, -13}};
  int exponent;
  frexp(value, &exponent);
  if (exponent < formats[tier].minimum || value == 0) exponent = formats[tier].minimum;
  return ldexp(1, exponent - formats[tier].digits);
}

#define FAVOURITES 5

/** Indices of the largest values of a row, the largest first; ties go to the lower index. Returns how many there are. */
static int favourites_of(const double *row, int64_t cols, int64_t favourites[FAVOURITES]) {
  int n = 0;
  for (int64_t c = 0; c < cols; c++) {
    int at = n;
    while (at > 0 && row[c] > row[favourites[at - 1]]) at--;
    if (at == FAVOURITES) continue;
    if (n < FAVOURITES) n++;
    for (int k = n - 1; k > at; k--) favourites[k] = favourites[k - 1];
    favourites[at] = c;
  }
  return n;
}

static double top5_overlap(const mr3d_output *output) {
  double overlap = 0, *answered = mr3d_allocate(output->cols, sizeof *answered);
  int64_t rows = 0;
  for (int64_t r = 0; r < output->rows; r++) {
    if (output->skip && output->skip[r]) continue;
    int64_t right[FAVOURITES], got[FAVOURITES];
    int n = favourites_of(output->ref + r * output->cols, output->cols, right), shared = 0;
    mr3d_output_row(output, r, answered);
    favourites_of(answered, output->cols, got);
    for (int a = 0; a < n; a++)
      for (int b = 0; b < n; b++) shared += right[a] == got[b];
    overlap += n ? (double)shared / n : 1;
    rows++;
  }
  free(answered);
  return rows ? overlap / (double)rows : NAN;
}

/** What every report shows, and whether all is finite. */
static void report_tally(const mr3d_output *output, const mr3d_tally *tally, mr3d_tensor_verdict *verdict) {
  if (tally->bad > 0) {
    double got;
    mr3d_tensor one = *output->answer;
    one.rank = 0;
    one.data = (char *)one.data + (size_t)tally->first_bad * mr3d_dtype_size(one.dtype);
    mr3d_tensor_to_double(&one, &got);
    mr3d_index_text(output->expected, tally->first_bad, false, verdict->index);
    verdict->got = got;
    verdict->expected = output->ref[tally->first_bad];
    verdict->bound = 0;
    verdict->wrong = tally->bad;
  }
  mr3d_verdict_add(verdict, "finite", (double)tally->bad, 0, true, "%lld of %lld elements are NaN or infinite", (long long)tally->bad, (long long)verdict->elements);
  const bool finite = tally->bad == 0;
  verdict->relative_l2 = finite ? tally->relative_l2 : NAN;
  verdict->worst_slice_relative_l2 = finite ? tally->worst_slice_relative_l2 : NAN;
  verdict->ulp_p50 = finite ? tally->ulp_p50 : NAN;
  verdict->ulp_p99 = finite ? tally->ulp_p99 : NAN;
  verdict->ulp_max = finite ? tally->ulp_max : NAN;
  if (finite && strcmp(verdict->name, "logits") == 0) verdict->top5_overlap = top5_overlap(output);
}

/** A BOOL tensor that has one entry per leading index, [B,per_head] or [B,1,per_head], spread over all rows. */
static bool *spread(const mr3d_tensor *flags, const mr3d_output *output) {
  if (!flags || flags->dtype != MR3D_BOOL || output->rows == 0) return NULL;
  int64_t samples = output->rows / (output->heads * output->per_head);
  if (mr3d_tensor_count(flags) != samples * output->per_head) return NULL;
  const uint8_t *data = flags->data;
  bool *rows = mr3d_allocate(output->rows, sizeof *rows);
  for (int64_t r = 0; r < output->rows; r++)
    rows[r] = data[r / (output->heads * output->per_head) * output->per_head + r % output->per_head] != 0;
  return rows;
}

static const mr3d_tensor *companion(const mr3d_bundle *answer, const char *prefix, const char *name) {
  char key[96];
  snprintf(key, sizeof key, "%s:%s", prefix, name);
  return mr3d_bundle_find(answer, key);
}

void mr3d_output_open(mr3d_truth *truth, const mr3d_tensor *expected, const mr3d_tensor *got, mr3d_output *output) {
  const char *op = mr3d_truth_op(truth);
  const mr3d_bundle *answer = mr3d_truth_scaled(truth), *request = truth->requests[truth->n_steps - 1];
  int64_t count = mr3d_tensor_count(expected);
  *output = (mr3d_output){.expected = expected, .answer = got, .ref = expected->data, .tier = truth->tier, .threads = truth->threads, .units = mr3d_tier_units(truth->tier), .heads = 1};
  output->cols = expected->rank > 0 ? expected->shape[expected->rank - 1] : 1;
  output->rows = output->cols > 0 ? count / output->cols : 0;
  output->per_head = expected->rank > 1 ? expected->shape[expected->rank - 2] : 1;
  output->columns_share = strcmp(op, "cis3d") == 0;
  output->any_zero = strcmp(op, "attention") == 0;
  output->has_heads = expected->rank == 4 || (output->columns_share && expected->rank == 3);
  if (output->has_heads) output->heads = expected->shape[expected->rank - 3];
  const mr3d_tensor *scale = companion(answer, "scale", expected->name), *turn = companion(answer, "turn", expected->name),
                    *shared = companion(answer, "shared", expected->name);
  output->scale = scale ? scale->data : NULL;
  output->turn = turn ? turn->data : NULL;
  output->shared = shared ? shared->data : NULL;
  const mr3d_tensor *input = mr3d_bundle_find(request, strcmp(expected->name, "y") == 0 ? "x" : expected->name);
  if (turn && input && same_shape(input, expected)) {
    output->input = mr3d_allocate(count, sizeof *output->input);
    mr3d_tensor_to_double(input, output->input);
  }
  output->skip = spread(companion(answer, "skip", expected->name), output);
  output->point = spread(mr3d_bundle_find(request, "point_token_mask"), output);
}

void mr3d_output_widen(mr3d_output *output) {
  output->got = mr3d_allocate(output->rows * output->cols, sizeof *output->got);
  mr3d_tensor_to_double(output->answer, output->got);
}

void mr3d_output_close(mr3d_output *output) {
  free(output->got);
  free(output->input);
  free(output->skip);
  free(output->point);
  *output = (mr3d_output){0};
}

/** Whether a rule is broken so far that more runs can't lift it. */
static bool is_hopeless(const mr3d_tensor_verdict *verdict, double times) {
  for (int s = 0; s < verdict->n_statistics; s++)
    if (verdict->statistics[s].tested && !(verdict->statistics[s].value <= times * verdict->statistics[s].limit)) return true;
  return false;
}

static void judge_by_yardstick(mr3d_truth *truth, const mr3d_output *output, mr3d_tensor_verdict *verdict) {
  /* Eight runs decide, but four see what is wholly wrong, and a failure that is close is declared only after thirty-two. */
  static const struct { int runs; double hopeless; } stages[] = {{4, 100}, {MR3D_FEW_RUNS, 8}, {MR3D_MANY_RUNS, 0}};
  mr3d_tensor_verdict before = *verdict;
  for (int stage = 0; stage < 3; stage++) {
    if (stage == 2 && truth->spare_runs) {
      truth->in_doubt = true;
      return;
    }
    const float *runs[MR3D_MANY_RUNS] = {NULL};
    mr3d_truth_emulate(truth, stages[stage].runs);
    for (int r = 0; r < stages[stage].runs; r++) runs[r] = mr3d_emulated_errors(&truth->runs[r], output->expected);
    *verdict = before;
    mr3d_judge_by_yardstick(output, output->expected->name, stages[stage].runs, runs, verdict);
    if (is_hopeless(verdict, stages[stage].hopeless) || (stage > 0 && verdict->passed)) return;
  }
}

static void judge_float(mr3d_truth *truth, const mr3d_tensor *expected, const mr3d_tensor *got, mr3d_tensor_verdict *verdict) {
  if (got->dtype == MR3D_F64 && memcmp(got->data, expected->data, (size_t)verdict->elements * sizeof(double)) == 0) {
    mr3d_verdict_add(verdict, "exact", 0, 0, true, "%s", "");
    if (strcmp(verdict->name, "logits") == 0) verdict->top5_overlap = 1;
    return;
  }
  mr3d_output output;
  mr3d_output_open(truth, expected, got, &output);
  mr3d_tally tally;
  mr3d_tally_open(&output, &tally);
  report_tally(&output, &tally, verdict);
  if (verdict->passed && output.scale) mr3d_judge_by_scale(&output, &tally, verdict);
  else if (verdict->passed) {
    output.got = mr3d_allocate(output.rows * output.cols, sizeof *output.got);
    for (int64_t r = 0; r < output.rows; r++) mr3d_output_row(&output, r, output.got + r * output.cols);
    judge_by_yardstick(truth, &output, verdict);
  }
  mr3d_tally_close(&tally);
  mr3d_output_close(&output);
}

/* ---- the whole answer ---- */

static void judge_tensor(mr3d_truth *truth, const char *op, const mr3d_tensor *expected, const mr3d_bundle *answer,
                         mr3d_tensor_verdict *verdict) {
  char list[64], found[96], wanted[96];
  const mr3d_tensor *got = mr3d_bundle_find(answer, expected->name);
  bool allowed = type_allowed(op, expected, truth->tier, got ? got->dtype : MR3D_N_DTYPES, list);
  mr3d_shape_text(expected->rank, expected->shape, wanted);
  verdict->elements = mr3d_tensor_count(expected);
  if (!got) fail(verdict, "missing; expected %s %s", list, wanted);
  else if (!same_shape(got, expected))
    fail(verdict, "shape %s, expected %s", mr3d_shape_text(got->rank, got->shape, found), wanted);
  else if (!allowed) fail(verdict, "type %s, expected %s", mr3d_dtype_name(got->dtype), list);
  else if (mr3d_dtype_is_float(expected->dtype)) judge_float(truth, expected, got, verdict);
  else judge_exact(expected, got, verdict);
}

/* Points of a trace are no outputs: where the request asks for them, they are not judged. */
static bool is_traced(const mr3d_tensor *tensor) { return strncmp(tensor->name, "trace.", 6) == 0; }

void mr3d_judge(mr3d_truth *truth, const mr3d_bundle *got, mr3d_judgement *judgement) {
  const mr3d_bundle *expected = truth->answers[truth->n_steps - 1];
  const char *op = mr3d_truth_op(truth);
  bool traced = false;
  *judgement = (mr3d_judgement){.passed = true, .in_doubt = true};
  judgement->tensors = mr3d_allocate(mr3d_bundle_count(expected) + mr3d_bundle_count(got), sizeof *judgement->tensors);
  for (int i = 0; i < mr3d_bundle_count(expected); i++) {
    const mr3d_tensor *tensor = mr3d_bundle_at(expected, i);
    if (strchr(tensor->name, ':')) continue;
    if (is_traced(tensor)) {
      traced = true;
      continue;
    }
    mr3d_tensor_verdict *verdict = &judgement->tensors[judgement->n_tensors++];
    verdict->passed = true;
    verdict->top5_overlap = NAN;
    snprintf(verdict->name, sizeof verdict->name, "%s", tensor->name);
    truth->in_doubt = false;
    judge_tensor(truth, op, tensor, got, verdict);
    judgement->in_doubt = judgement->in_doubt && (verdict->passed || truth->in_doubt);
  }
  for (int i = 0; i < mr3d_bundle_count(got); i++) {
    const mr3d_tensor *tensor = mr3d_bundle_at(got, i);
    char shape[96];
    if (traced && is_traced(tensor)) continue;
    if (!strchr(tensor->name, ':') && mr3d_bundle_find(expected, tensor->name)) continue;
    mr3d_tensor_verdict *verdict = &judgement->tensors[judgement->n_tensors++];
    snprintf(verdict->name, sizeof verdict->name, "%s", tensor->name);
    judgement->in_doubt = false;
    fail(verdict, "unexpected: %s %s is no output of %s for this request", mr3d_dtype_name(tensor->dtype),
         mr3d_shape_text(tensor->rank, tensor->shape, shape), op);
  }
  for (int i = 0; i < judgement->n_tensors; i++) judgement->passed = judgement->passed && judgement->tensors[i].passed;
  judgement->in_doubt = judgement->in_doubt && !judgement->passed;
}

int mr3d_verdict_digits(const mr3d_tensor_verdict *verdict) {
  char got[40], expected[40];
  snprintf(got, sizeof got, "%.9g", verdict->got);
  snprintf(expected, sizeof expected, "%.9g", verdict->expected);
  return strcmp(got, expected) == 0 ? 17 : 9;
}

void mr3d_judgement_clear(mr3d_judgement *judgement) {
  free(judgement->tensors);
  *judgement = (mr3d_judgement){0};
}

mr3d_status mr3d_judge_answer(const mr3d_bundle *request, const mr3d_bundle *answer, uint32_t kept, int threads, mr3d_judgement *judgement, mr3d_error *error) {
  const char *name = mr3d_bundle_get(request, "tier");
  const mr3d_tier tier = name ? mr3d_tier_named(name) : MR3D_N_TIERS;
  if (tier == MR3D_N_TIERS) return mr3d_fail(error, MR3D_INVALID, "metadata tier is %s%.40s; expected fp64, fp32, tf32, bf16 or fp16", name ? "" : "missing", name ? name : "");
  mr3d_truth *truth = mr3d_truth_new(tier, NULL, NULL, threads);
  const mr3d_bundle *expected;
  mr3d_truth_promise(truth, kept);
  const mr3d_status status = mr3d_truth_step(truth, request, &expected, error);
  if (status == MR3D_OK) mr3d_judge(truth, answer, judgement);
  mr3d_truth_free(&truth);
  return status;
}
