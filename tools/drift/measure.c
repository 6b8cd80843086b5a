/** Errors of a point in units of noise, summed by token, head, dimension and class; and the verdict on it. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "engine_internal.h"

#define CAP 1e6 /* of one element, in units: infinities and NaNs count as this */

typedef struct sums {
  double squares;
  int64_t n;
} sums;

static double rms(sums s) { return s.n ? sqrt(s.squares / (double)s.n) : NAN; }

static void add(sums *s, double e) {
  s->squares += e * e;
  s->n++;
}

static double bounded(double e) { return e <= CAP && e >= -CAP ? e : CAP; }

/** One kind of error of all elements. `unit` gives an element's error in units; `plain` the error itself. */
static void gather(const mr3d_drift_sheet *sheet, bool local, const mr3d_units *units, mr3d_drift_errors *errors) {
  const int64_t B = sheet->B, q = sheet->q, heads = sheet->heads, cols = sheet->cols;
  const double *other = local ? sheet->expected : sheet->truth;
  sums all = {0}, plain = {0}, class[MR3D_N_CLASSES] = {{0}};
  sums *token = mr3d_allocate(B * q, sizeof *token), *dim = mr3d_allocate(heads * cols, sizeof *dim);
  errors->measured = true;
  errors->token = mr3d_allocate(B * q, sizeof(float));
  errors->token_worst = mr3d_allocate(B * q, sizeof(float));
  for (int64_t row = 0; row < B * heads * q; row++) {
    const int64_t head = row / q % heads, at = row / (heads * q) * q + row % q;
    if ((sheet->skip && sheet->skip[at]) || (local && sheet->inherits && sheet->inherits[row])) continue;
    double size = 0, noise = local ? 0 : sheet->row_noise[row];
    for (int64_t c = 0; c < cols && !local; c++) size += other[row * cols + c] * other[row * cols + c];
    if (!local) noise = sqrt(noise + units->u * units->u * size / (double)cols + units->eta * units->eta);
    for (int64_t c = 0; c < cols; c++) {
      const int64_t i = row * cols + c;
      const double difference = sheet->got[i] - other[i], unit = local ? sheet->scale[i] : noise;
      const double e = difference == 0 ? 0 : bounded(difference / unit);
      add(&all, e);
      if (isfinite(difference)) add(&plain, difference);
      add(&token[at], e);
      add(&dim[head * cols + c], e);
      add(&class[sheet->token_class[at]], e);
      errors->token_worst[at] = fmaxf(errors->token_worst[at], (float)fabs(e));
      errors->worst = fmax(errors->worst, fabs(e));
      const double place = floor((e + 8.125) / 0.25);
      errors->histogram[place < 0 ? 0 : place >= MR3D_DRIFT_HISTOGRAM ? MR3D_DRIFT_HISTOGRAM - 1 : (int)place]++;
    }
  }
  errors->rms = all.n ? rms(all) : 0;
  errors->absolute = plain.n ? rms(plain) : 0;
  for (int64_t t = 0; t < B * q; t++) errors->token[t] = token[t].n ? (float)rms(token[t]) : 0;
  for (int k = 0; k < MR3D_N_CLASSES; k++) errors->of_class[k] = rms(class[k]);
  if (sheet->has_heads) {
    errors->head_dim = mr3d_allocate(heads * cols, sizeof(float));
    for (int64_t d = 0; d < heads * cols; d++) errors->head_dim[d] = dim[d].n ? (float)rms(dim[d]) : 0;
  }
  free(token);
  free(dim);
}

static bool is_finite(const double *row, int64_t n) {
  for (int64_t i = 0; i < n; i++)
    if (!isfinite(row[i])) return false;
  return true;
}

bool mr3d_drift_mark_inherited(mr3d_drift_sheet *sheet, const bool *also) {
  const int64_t rows = sheet->B * sheet->heads * sheet->q;
  int64_t n = 0;
  for (int64_t r = 0; r < rows && sheet->expected; r++) {
    const bool inherits = !is_finite(sheet->expected + r * sheet->cols, sheet->cols) || (also && also[r] && !is_finite(sheet->got + r * sheet->cols, sheet->cols));
    if (inherits && !sheet->inherits) sheet->inherits = mr3d_allocate(rows, sizeof *sheet->inherits);
    if (inherits) sheet->inherits[r] = true;
    n += inherits;
  }
  return rows > 0 && n == rows;
}

void mr3d_drift_measure(const mr3d_drift_run *drift, const mr3d_drift_sheet *sheet, mr3d_drift_record *record) {
  record->tokens = sheet->B * sheet->q;
  record->heads = sheet->has_heads ? sheet->heads : 0;
  record->dims = sheet->has_heads ? sheet->cols : 0;
  const int64_t count = sheet->B * sheet->q * sheet->heads * sheet->cols;
  const double *reference = sheet->truth ? sheet->truth : sheet->expected;
  double squares = 0, noise = 0;
  for (int64_t i = 0; i < count && reference; i++) squares += reference[i] * reference[i];
  record->size = reference && count ? sqrt(squares / (double)count) : 0;
  record->emulated = NAN;
  if (sheet->truth) {
    for (int64_t r = 0; r < count / sheet->cols; r++) noise += sheet->row_noise[r];
    record->emulated = count ? sqrt(noise / (double)(count / sheet->cols)) : 0;
    gather(sheet, false, &drift->units, &record->total);
  }
  if (sheet->expected && sheet->scale) gather(sheet, true, &drift->units, &record->local);
}

/* ---- verdicts ---- */

static void settle(mr3d_drift_record *record) {
  const mr3d_tensor_verdict *v = &record->verdict;
  record->judged = true;
  for (int s = 0; s < v->n_statistics; s++) {
    const mr3d_statistic *found = &v->statistics[s];
    if (!found->tested) continue;
    const double ratio = found->limit > 0 ? found->value / found->limit : found->value > 0 ? CAP : 0;
    if (!(ratio <= record->local_ratio)) record->local_ratio = isfinite(ratio) ? ratio : CAP;
  }
}

/** A copy of values [rows,cols], zero in rows that inherit NaN; NULL where there are none. */
static double *without_inherited(const mr3d_drift_sheet *sheet, const double *values) {
  const int64_t rows = sheet->B * sheet->heads * sheet->q, cols = sheet->cols;
  if (!sheet->inherits || !values) return NULL;
  double *copy = mr3d_allocate(rows * cols, sizeof *copy);
  for (int64_t r = 0; r < rows; r++)
    if (!sheet->inherits[r]) memcpy(copy + r * cols, values + r * cols, (size_t)cols * sizeof *copy);
  return copy;
}

/** Flags of tokens for rows [B,heads,q]. */
static bool *spread(const mr3d_drift_sheet *sheet, const bool *of_token) {
  if (!of_token) return NULL;
  bool *rows = mr3d_allocate(sheet->B * sheet->heads * sheet->q, sizeof *rows);
  for (int64_t r = 0; r < sheet->B * sheet->heads * sheet->q; r++) rows[r] = of_token[r / (sheet->heads * sheet->q) * sheet->q + r % sheet->q];
  return rows;
}

void mr3d_drift_judge(const mr3d_drift_run *drift, const mr3d_drift_sheet *sheet, const char *name, int n_runs, float *const runs[], mr3d_drift_record *record) {
  const int64_t shape[4] = {sheet->B, sheet->has_heads ? sheet->heads : sheet->q, sheet->has_heads ? sheet->q : sheet->cols, sheet->cols};
  mr3d_tensor expected = {.name = name, .dtype = MR3D_F64, .rank = sheet->has_heads ? 4 : 3, .data = (void *)(uintptr_t)sheet->expected};
  mr3d_tensor answer = expected;
  memcpy(expected.shape, shape, sizeof shape);
  memcpy(answer.shape, shape, sizeof shape);
  double *spared = without_inherited(sheet, sheet->got), *spared_turn = without_inherited(sheet, sheet->turn), *spared_input = without_inherited(sheet, sheet->input);
  const double *got = spared ? spared : sheet->got;
  answer.data = (void *)(uintptr_t)got;
  mr3d_output output = {.expected = &expected, .answer = &answer, .units = drift->units, .tier = drift->options.tier, .threads = drift->options.threads,
                        .rows = sheet->B * sheet->heads * sheet->q, .cols = sheet->cols, .heads = sheet->heads, .per_head = sheet->q, .has_heads = sheet->has_heads,
                        .any_zero = strcmp(name, "context") == 0, .ref = sheet->expected, .scale = sheet->scale, .turn = spared_turn ? spared_turn : sheet->turn, .input = spared_input ? spared_input : (double *)(uintptr_t)sheet->input,
                        .skip = spread(sheet, sheet->skip), .point = spread(sheet, sheet->point)};
  if (spared && !output.skip) output.skip = mr3d_allocate(output.rows, sizeof *output.skip);
  for (int64_t r = 0; spared && r < output.rows; r++) output.skip[r] |= sheet->inherits[r];
  mr3d_tensor_verdict *verdict = &record->verdict;
  mr3d_tally tally;
  verdict->passed = true;
  verdict->elements = output.rows * output.cols;
  snprintf(verdict->name, sizeof verdict->name, "%s", name);
  mr3d_tally_open(&output, &tally);
  mr3d_verdict_add(verdict, "finite", (double)tally.bad, 0, true, "%lld of %lld elements are NaN or infinite", (long long)tally.bad, (long long)verdict->elements);
  if (!verdict->passed) {
    mr3d_index_text(&expected, tally.first_bad, false, verdict->index);
    verdict->got = sheet->got[tally.first_bad];
    verdict->expected = sheet->expected[tally.first_bad];
    verdict->wrong = tally.bad;
  }
  verdict->relative_l2 = tally.relative_l2;
  verdict->ulp_p50 = tally.ulp_p50, verdict->ulp_p99 = tally.ulp_p99, verdict->ulp_max = tally.ulp_max;
  if (verdict->passed && sheet->scale && !runs) mr3d_judge_by_scale(&output, &tally, verdict);
  else if (verdict->passed) {
    const float *errors[MR3D_MANY_RUNS] = {NULL};
    for (int r = 0; r < n_runs; r++) errors[r] = runs[r];
    output.got = (double *)(uintptr_t)got;
    mr3d_judge_by_yardstick(&output, name, n_runs, errors, verdict);
  }
  mr3d_tally_close(&tally);
  free(output.skip);
  free(output.point);
  free(spared), free(spared_turn), free(spared_input);
  settle(record);
}

void mr3d_drift_judge_exact(int64_t count, const char *name, const unsigned char *got, const unsigned char *expected, size_t size, mr3d_drift_record *record) {
  mr3d_tensor_verdict *verdict = &record->verdict;
  verdict->passed = true;
  verdict->elements = count;
  snprintf(verdict->name, sizeof verdict->name, "%s", name);
  for (int64_t i = 0; i < count; i++) verdict->wrong += memcmp(got + (size_t)i * size, expected + (size_t)i * size, size) != 0;
  mr3d_verdict_add(verdict, "exact", (double)verdict->wrong, 0, true, "%lld of %lld elements differ", (long long)verdict->wrong, (long long)count);
  settle(record);
}
