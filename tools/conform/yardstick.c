/**
 * Judging a composed operator by the yardstick (docs/tolerance.md, "The yardstick").
 *
 * The same request runs through the reference in emulated arithmetic, k times with stochastic rounding. Their errors give
 * every element a standard deviation,
 *
 *     sigma^2 = v + median of v over the row + (u ref)^2 + eta^2,     v = mean square error of the runs,
 *
 * and the backend's error is measured in it. All statistics are divided by what a run scores against the others.
 */
#include <math.h>
#include <omp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "judge_internal.h"
#include "judge_limits.h"

#define ELEMENT_LIMIT 12.0
#define NARROW_SLICE_LIMIT 4.0 /* rows of fewer than WIDE values: token x head */
#define WIDE_SLICE_LIMIT 3.0   /* whole tokens */
#define WIDE 512
#define MIN_SLICE 16
#define MIN_TENSOR 64
#define TENSOR_LIMIT 1.25
#define GAIN_LIMIT 10.0
#define MIN_ROWS 32
#define MIN_ELEMENTS 1024
#define KL_LIMIT 16.0
#define MARGIN_SIGMAS 10.0
#define FREEDOM_ROWS 256          /* are looked at, and of wide rows fewer */
#define FREEDOM_ELEMENTS (1 << 22)
#define MIN_RUNS 4 /* of finite answers; fewer are no yardstick */

/** What one row contributes; `run_*` hold one value for each run. */
typedef struct row_sums {
  bool active;                 /* some run erred here; else the row is copied, not computed, and only u and eta count */
  double squares, runs_squares; /* of err/sigma: the backend; the runs against the others, averaged */
  double largest, sigma_rms;
  int64_t at;                  /* of the largest */
  double gain, weight, run_gain[MR3D_MANY_RUNS];
  double kl, run_kl, margin;   /* logits */
  bool top1_differs;
} row_sums;

typedef struct yardstick {
  const mr3d_output *output;
  int n;                       /* usable runs */
  const float *runs[MR3D_MANY_RUNS];
  double run_scale;            /* of the runs' errors: fp64 is emulated with coarser units */
  double own_scale;            /* of the backend's error */
} yardstick;

/** The runs' squared errors of a row, summed; whether there are any. */
static bool sum_squares(const yardstick *stick, int64_t row, double *sum) {
  int64_t cols = stick->output->cols;
  bool active = false;
  for (int64_t i = 0; i < cols; i++) sum[i] = 0;
  for (int r = 0; r < stick->n; r++)
    for (int64_t i = 0; i < cols; i++) {
      double error = stick->run_scale * (double)stick->runs[r][row * cols + i];
      sum[i] += error * error;
      active |= error != 0;
    }
  return active;
}

/** sigma of a row, from the sum of the runs' squared errors without run `without` (-1: all); v is scratch and is clobbered. */
static void sigmas_of(const yardstick *stick, int64_t row, int without, const double *sum, double *v, double *scratch, double *sigma) {
  const mr3d_output *output = stick->output;
  int64_t cols = output->cols, base = row * cols;
  int n = stick->n - (without >= 0);
  for (int64_t i = 0; i < cols; i++) {
    double own = without >= 0 ? stick->run_scale * (double)stick->runs[without][base + i] : 0;
    v[i] = fmax(0, sum[i] - own * own) / n;
    scratch[i] = v[i];
  }
  double median = mr3d_select(scratch, cols, cols / 2);
  for (int64_t i = 0; i < cols; i++) {
    double rounding = output->units.u * output->ref[base + i];
    sigma[i] = sqrt(v[i] + median + rounding * rounding + output->units.eta * output->units.eta);
  }
}

/**
 * Kullback-Leibler divergence of softmax(ref + difference) from softmax(ref), in a form without cancellation:
 * log1p(sum p (exp(d) - 1 - d)) where d is the difference less its mean under p.
 */
static double divergence(const double *p, const double *difference, int64_t cols) {
  double mean = 0, sum = 0;
  for (int64_t i = 0; i < cols; i++) mean += p[i] * difference[i];
  for (int64_t i = 0; i < cols; i++) {
    double d = difference[i] - mean;
    sum += p[i] * (fabs(d) < 1e-5 ? d * d / 2 * (1 + d / 3) : expm1(d) - d);
  }
  return log1p(sum);
}

static void judge_logits_row(const yardstick *stick, int64_t row, double *p, double *difference, row_sums *sums) {
  const mr3d_output *output = stick->output;
  int64_t cols = output->cols, base = row * cols, top = 0, got_top = 0;
  double total = 0, second = -INFINITY, floor = 0;
  for (int64_t i = 1; i < cols; i++) {
    if (output->ref[base + i] > output->ref[base + top]) top = i;
    if (output->got[base + i] > output->got[base + got_top]) got_top = i;
  }
  for (int64_t i = 0; i < cols; i++) {
    if (i != top) second = fmax(second, output->ref[base + i]);
    total += p[i] = exp(output->ref[base + i] - output->ref[base + top]);
    difference[i] = stick->own_scale * (output->got[base + i] - output->ref[base + i]);
  }
  for (int64_t i = 0; i < cols; i++) {
    double rounding = output->units.u * output->ref[base + i];
    p[i] /= total;
    floor += p[i] * rounding * rounding / 2;
  }
  sums->margin = output->ref[base + top] - second;
  sums->top1_differs = top != got_top;
  sums->kl = divergence(p, difference, cols);
  sums->run_kl = floor;
  for (int r = 0; r < stick->n; r++) {
    for (int64_t i = 0; i < cols; i++) difference[i] = stick->run_scale * (double)stick->runs[r][base + i];
    sums->run_kl += divergence(p, difference, cols) / stick->n;
  }
}

/** `work` holds 5 * cols values. */
static void judge_row(const yardstick *stick, int64_t row, bool logits, double *work, row_sums *sums) {
  const mr3d_output *output = stick->output;
  int64_t cols = output->cols, base = row * cols;
  double *sum = work, *v = work + cols, *scratch = work + 2 * cols, *sigma = work + 3 * cols, *weight = work + 4 * cols;
  sums->active = sum_squares(stick, row, sum);
  sigmas_of(stick, row, -1, sum, v, scratch, sigma);
  sums->largest = -1;
  for (int64_t i = 0; i < cols; i++) {
    double error = stick->own_scale * (output->got[base + i] - output->ref[base + i]), ref = output->ref[base + i];
    double z = error == 0 ? 0 : error / sigma[i];
    weight[i] = sigma[i] > 0 ? ref / (sigma[i] * sigma[i]) : 0;
    sums->squares += z * z;
    sums->sigma_rms += sigma[i] * sigma[i] / (double)cols;
    sums->gain += error * weight[i];
    sums->weight += ref * weight[i];
    if (!(fabs(z) <= sums->largest)) sums->largest = fabs(z), sums->at = base + i;
  }
  sums->sigma_rms = sqrt(sums->sigma_rms);
  if (sums->active)
    for (int r = 0; r < stick->n; r++) {
      sigmas_of(stick, row, r, sum, v, scratch, sigma);
      for (int64_t i = 0; i < cols; i++) {
        double error = stick->run_scale * (double)stick->runs[r][base + i], z = error == 0 ? 0 : error / sigma[i];
        sums->runs_squares += z * z / stick->n;
        sums->run_gain[r] += error * weight[i];
      }
    }
  if (logits) judge_logits_row(stick, row, v, scratch, sums);
}

/** The group's gain over the root mean square of the runs' gains. */
static double gain_of(const row_sums *sums, const mr3d_output *output, int n_runs, int64_t head, int64_t *rows) {
  double gain = 0, run_gain[MR3D_MANY_RUNS] = {0}, squares = 0;
  *rows = 0;
  for (int64_t r = 0; r < output->rows; r++) {
    if (!sums[r].active || (output->skip && output->skip[r])) continue;
    if (head >= 0 && r / output->per_head % output->heads != head) continue;
    gain += sums[r].gain;
    for (int k = 0; k < n_runs; k++) run_gain[k] += sums[r].run_gain[k];
    ++*rows;
  }
  for (int k = 0; k < n_runs; k++) squares += run_gain[k] * run_gain[k] / n_runs;
  return gain == 0 ? 0 : fabs(gain) / sqrt(squares);
}

static void judge_gain(const row_sums *sums, const yardstick *stick, mr3d_tensor_verdict *verdict) {
  const mr3d_output *output = stick->output;
  double worst = 0;
  int64_t worst_head = -1;
  bool tested = false;
  for (int64_t head = -1; head < (output->has_heads ? output->heads : 0); head++) {
    int64_t rows;
    double gain = gain_of(sums, output, stick->n, head, &rows);
    if (rows < MIN_ROWS || rows * output->cols < MIN_ELEMENTS) continue;
    tested = true;
    if (!(gain <= worst)) worst = gain, worst_head = head;
  }
  char where[48] = "";
  if (worst_head >= 0) snprintf(where, sizeof where, " of head %lld", (long long)worst_head);
  mr3d_verdict_add(verdict, "gain", worst, GAIN_LIMIT, tested,
                   "magnitudes%s are biased: a common factor %.3g times as large as honest arithmetic's, at most %g allowed", where, worst, GAIN_LIMIT);
}

static void judge_logits(const row_sums *sums, const yardstick *stick, double unit, mr3d_tensor_verdict *verdict) {
  const mr3d_output *output = stick->output;
  double worst = 0;
  int64_t worst_row = 0, flipped = 0, first = 0, compared = 0;
  for (int64_t r = 0; r < output->rows; r++) {
    if (output->skip && output->skip[r]) continue;
    double ratio = sums[r].kl == 0 ? 0 : sums[r].kl / sums[r].run_kl;
    if (!(ratio <= worst)) worst = ratio, worst_row = r;
    bool clear = sums[r].margin > MARGIN_SIGMAS * unit * sums[r].sigma_rms;
    compared += clear;
    if (clear && sums[r].top1_differs && flipped++ == 0) first = r;
  }
  char row[96];
  mr3d_index_text(output->expected, worst_row, true, row);
  mr3d_verdict_add(verdict, "kl", worst, KL_LIMIT, output->rows > 0,
                   "row %s: divergence %.3g is %.3g times that of honest arithmetic, at most %g allowed", row,
                   output->rows > 0 ? sums[worst_row].kl : 0, worst, KL_LIMIT);
  mr3d_index_text(output->expected, first, true, row);
  mr3d_verdict_add(verdict, "top1", (double)flipped, 0, compared > 0,
                   "%lld of %lld rows with a clear favourite choose another token, the first is row %s", (long long)flipped, (long long)compared, row);
}

/** A run that overflowed or did not answer is no measure of honest arithmetic. */
static bool usable(const mr3d_output *output, const float *errors) {
  if (!errors) return false;
  for (int64_t r = 0; r < output->rows; r++) {
    if (output->skip && output->skip[r]) continue;
    for (int64_t i = r * output->cols; i < (r + 1) * output->cols; i++)
      if (!isfinite(errors[i])) return false;
  }
  return true;
}

/** Elements beyond the limit; sigma is found again, since it isn't kept. */
static int64_t count_wrong(const yardstick *stick, const row_sums *sums, double unit) {
  const mr3d_output *output = stick->output;
  int64_t cols = output->cols, wrong = 0;
  double *work = mr3d_allocate(4 * cols, sizeof *work), *sum = work, *sigma = work + 3 * cols;
  for (int64_t r = 0; r < output->rows; r++) {
    double row_unit = sums[r].active ? unit : 1;
    if ((output->skip && output->skip[r]) || sums[r].largest <= ELEMENT_LIMIT * row_unit) continue;
    sum_squares(stick, r, sum);
    sigmas_of(stick, r, -1, sum, work + cols, work + 2 * cols, sigma);
    for (int64_t i = 0; i < cols; i++) {
      double error = stick->own_scale * fabs(output->got[r * cols + i] - output->ref[r * cols + i]);
      wrong += !(error <= ELEMENT_LIMIT * row_unit * sigma[i]);
    }
  }
  free(work);
  return wrong;
}

/** 4 sigma of the mean square of n values with variance 1 (Wilson and Hilferty's approximation of chi square's quantile). */
static double largest_mean_square(double n) {
  const double part = 2 / (9 * n);
  return pow(1 - part + 4 * sqrt(part), 3);
}

/**
 * A row's errors may come from a single one, as logits from one element of the hidden state: n rows then hold n independent values. Honest errors are 0.7 of a run's,
 * so their root mean square is at most sqrt(q / 2), q as above; from 14 rows on that is below the limit.
 */
static double limit_of_rows(int64_t rows) { return rows > 0 ? fmax(TENSOR_LIMIT, sqrt(largest_mean_square((double)rows) / 2)) : TENSOR_LIMIT; }

/**
 * Rows may err together, as tokens that all attend to the same few. `freedom` independent values are in the whole tensor then, however many rows. Where sums decide, and
 * not the rounding of what is stored, an honest backend that adds in order errs as a run does: 1 of it, not 0.7.
 */
static double limit_of_freedom(double freedom, bool narrow) { return fmax(TENSOR_LIMIT, sqrt(largest_mean_square(freedom) * (narrow ? 0.5 : 1))); }

/**
 * How many independent values the runs' errors hold: errors e, f of two runs, in units of sigma, have an expected (e f)^2 / (e^2 f^2) of 1/n. From some of the rows,
 * evenly spread: where those are independent there are enough.
 */
static double freedom_of(const yardstick *stick, const row_sums *sums, int64_t active_rows) {
  const mr3d_output *output = stick->output;
  const int64_t cols = output->cols, most = FREEDOM_ELEMENTS / cols < FREEDOM_ROWS ? FREEDOM_ELEMENTS / cols + 1 : FREEDOM_ROWS, step = (active_rows + most - 1) / most;
  double gram[MR3D_MANY_RUNS][MR3D_MANY_RUNS] = {{0}}, overlap = 0, *work = mr3d_allocate((4 + stick->n) * cols, sizeof *work), *sigma = work + 3 * cols, *scaled = work + 4 * cols;
  int64_t seen = 0;
  for (int64_t r = 0; r < output->rows; r++) {
    if (!sums[r].active || seen++ % step != 0) continue;
    sum_squares(stick, r, work);
    sigmas_of(stick, r, -1, work, work + cols, work + 2 * cols, sigma);
    for (int a = 0; a < stick->n; a++)
      for (int64_t i = 0; i < cols; i++) scaled[a * cols + i] = sigma[i] > 0 ? (double)stick->runs[a][r * cols + i] / sigma[i] : 0;
    for (int a = 0; a < stick->n; a++)
      for (int b = 0; b <= a; b++)
        for (int64_t i = 0; i < cols; i++) gram[a][b] += scaled[a * cols + i] * scaled[b * cols + i];
  }
  for (int a = 0; a < stick->n; a++)
    for (int b = 0; b < a; b++)
      if (gram[a][a] > 0 && gram[b][b] > 0) overlap += gram[a][b] / gram[a][a] * (gram[a][b] / gram[b][b]);
  free(work);
  return overlap > 0 ? stick->n * (stick->n - 1) / 2 / overlap : INFINITY;
}

bool mr3d_yardstick_limit(const char *rule, double *least, double *most) {
  const struct { const char *rule; double least, most; } limits[] = {
      {"finite", 0, 0}, {"yardstick", 0, 0}, {"element", ELEMENT_LIMIT, ELEMENT_LIMIT}, {"slice", WIDE_SLICE_LIMIT, NARROW_SLICE_LIMIT},
      {"tensor", TENSOR_LIMIT, limit_of_freedom(1, false)}, {"gain", GAIN_LIMIT, GAIN_LIMIT}, {"kl", KL_LIMIT, KL_LIMIT}, {"top1", 0, 0}};
  for (size_t i = 0; i < sizeof limits / sizeof *limits; i++) {
    if (strcmp(limits[i].rule, rule) != 0) continue;
    *least = limits[i].least, *most = limits[i].most;
    return true;
  }
  return false;
}

void mr3d_judge_by_yardstick(const mr3d_output *output, const char *name, int n_runs, const float *const runs[], mr3d_tensor_verdict *verdict) {
  bool logits = strcmp(name, "logits") == 0;
  yardstick stick = {.output = output, .run_scale = 1, .own_scale = 1};
  if (output->tier == MR3D_FP64) {
    stick.run_scale = ldexp(1, -MR3D_FP64_COARSER);
    stick.own_scale = sqrt(0.5); /* the reference is a binary64 run as well: two honest ones differ by sqrt 2 */
  }
  for (int r = 0; r < n_runs; r++)
    if (usable(output, runs[r])) stick.runs[stick.n++] = runs[r];
  if (stick.n < MIN_RUNS) {
    mr3d_verdict_add(verdict, "yardstick", MIN_RUNS - stick.n, 0, true,
                     "no yardstick: only %d of %d emulated runs gave finite answers, so this case can't be judged at this tier", stick.n, n_runs);
    return;
  }
  row_sums *sums = mr3d_allocate(output->rows, sizeof *sums);
#pragma omp parallel num_threads(output->threads > 0 ? output->threads : omp_get_max_threads()) if (output->rows * output->cols > 16384)
  {
    double *work = mr3d_allocate(5 * output->cols, sizeof *work);
#pragma omp for schedule(dynamic, 16)
    for (int64_t r = 0; r < output->rows; r++)
      if (!(output->skip && output->skip[r])) judge_row(&stick, r, logits, work, &sums[r]);
    free(work);
  }

  double squares = 0, runs_squares = 0;
  int64_t active = 0, compared = 0;
  for (int64_t r = 0; r < output->rows; r++) {
    compared += !(output->skip && output->skip[r]);
    if (!sums[r].active) continue;
    active += output->cols;
    squares += sums[r].squares;
    runs_squares += sums[r].runs_squares;
  }
  /* What a run scores against the others: the unit of every statistic below. */
  double unit = active > 0 ? sqrt(runs_squares / (double)active) : 1;
  double element = 0, slice = 0, slice_limit = output->cols >= WIDE ? WIDE_SLICE_LIMIT : NARROW_SLICE_LIMIT;
  int64_t worst_element = -1, worst_row = 0, worst_element_row = 0;
  for (int64_t r = 0; r < output->rows; r++) {
    if (output->skip && output->skip[r]) continue;
    double row_unit = sums[r].active ? unit : 1;
    double z = sums[r].largest / row_unit, rms = sqrt(sums[r].squares / (double)output->cols) / row_unit;
    if (worst_element < 0 || !(z <= element)) element = z, worst_element = sums[r].at, worst_element_row = r;
    if (sums[r].active && !(rms <= slice)) slice = rms, worst_row = r;
  }
  if (worst_element >= 0) {
    double error = fabs(output->got[worst_element] - output->ref[worst_element]);
    mr3d_index_text(output->expected, worst_element, false, verdict->index);
    verdict->got = output->got[worst_element];
    verdict->expected = output->ref[worst_element];
    verdict->bound = element > 0 ? ELEMENT_LIMIT * error / element : ELEMENT_LIMIT * unit * sums[worst_element_row].sigma_rms;
  }
  char row[96];
  mr3d_index_text(output->expected, worst_row, true, row);
  if (!(element <= ELEMENT_LIMIT)) verdict->wrong = count_wrong(&stick, sums, unit);
  mr3d_verdict_add(verdict, "element", element, ELEMENT_LIMIT, compared > 0 && output->cols > 0,
                   "one element's error is %.3g times that of honest arithmetic, at most %g allowed", element, ELEMENT_LIMIT);
  mr3d_verdict_add(verdict, "slice", slice, slice_limit, output->cols >= MIN_SLICE && active > 0,
                   "row %s: root mean square error %.3g times that of honest arithmetic, at most %g allowed", row, slice, slice_limit);
  const int64_t active_rows = output->cols > 0 ? active / output->cols : 0;
  const double freedom = active_rows > 0 ? freedom_of(&stick, sums, active_rows) : INFINITY;
  const double limit = fmax(limit_of_rows(active_rows), limit_of_freedom(freedom, output->units.narrow));
  mr3d_verdict_add(verdict, "tensor", active > 0 ? sqrt(squares / (double)active) / unit : 0, limit, active >= MIN_TENSOR,
                   "root mean square error %.3g times that of honest arithmetic, at most %.3g allowed", sqrt(squares / (double)active) / unit, limit);
  judge_gain(sums, &stick, verdict);
  if (logits) judge_logits(sums, &stick, unit, verdict);
  free(sums);
}
