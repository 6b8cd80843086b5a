/** Grouped-query attention over visible keys (spec.md sections 4 and 6). */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "../base/product.h"
#include "mr3d/ops.h"
#include "mr3d/trace.h"

enum { QUERY_TILE = 64 }; /* queries of one head worked on together; any number gives the same bits */

/** All roundings of one call, in the order of the computation. */
typedef struct roundings {
  bool emulated;
  mr3d_rounder score_noise, score, softmax_noise, probability, probability_input, context_noise, context;
} roundings;

/** Statistics of each query's scores over its visible keys, [B,H,q]; NULL where nobody traces them. A query without visible keys has zeros. */
typedef struct statistics {
  double *max, *mean, *lse;
} statistics;

/** How many keys matter to a query: all up to the last one visible. */
static int64_t last_visible(const bool *visible, int64_t K) {
  while (K > 0 && !visible[K - 1])
    K--;
  return K;
}

/**
 * Scores to probabilities, over visible keys: p = exp(s - max) / sum, the sum in key order; 0 for hidden keys, and everywhere in a row without
 * visible keys. `noise` has room for a row.
 */
static void softmax(const bool *visible, int64_t keys, const roundings *r, int64_t batch, int64_t head, int64_t row, double *noise, double *s) {
  const int64_t seen = last_visible(visible, keys);
  double max = -INFINITY, sum = 0;
  if (r->softmax_noise.on)
    mr3d_noise_row(&r->softmax_noise, batch, head, row, seen, noise);
  for (int64_t j = 0; j < seen; j++)
    if (visible[j] && s[j] > max)
      max = s[j];
  for (int64_t j = 0; j < seen; j++) {
    const double below = s[j] - max;
    s[j] = visible[j] ? exp(below) : 0;
    if (r->softmax_noise.on && visible[j])
      s[j] *= 1 + r->softmax_noise.ua * (1 + fabs(below)) * noise[j];
    sum = sum + s[j];
  }
  mr3d_divide(seen, sum, s);
  for (int64_t j = seen; j < keys; j++)
    s[j] = 0;
  mr3d_round_row(&r->probability, batch, head, row, keys, s);
  mr3d_round_row(&r->probability_input, batch, head, row, keys, s);
}

/** max, mean and log(sum of exp(s)) of one query's scores s. */
static void take_statistics(const statistics *to, int64_t at, const bool *visible, int64_t keys, const double *s) {
  double max = -INFINITY, sum = 0, total = 0;
  int64_t n = 0;
  for (int64_t j = 0; j < keys; j++)
    if (visible[j]) {
      max = fmax(max, s[j]);
      total += s[j];
      n++;
    }
  for (int64_t j = 0; j < keys; j++)
    if (visible[j])
      sum += exp(s[j] - max);
  to->max[at] = n ? max : 0;
  to->mean[at] = n ? total / (double)n : 0;
  to->lse[at] = n ? max + log(sum) : 0;
}

/** Queries first .. first+queries-1 of one head. */
static void attend(const mr3d_attention_in *in, const roundings *r, const statistics *traced, int64_t b, int64_t h, int64_t first, int64_t queries,
                   double *y) {
  const int64_t D = in->D, K = in->K, kv = (b * in->G + h / (in->H / in->G)) * K * D;
  const bool *visible = in->visible + (b * in->q + first) * K;
  int64_t keys = 0;
  for (int64_t i = 0; i < queries; i++) {
    const int64_t seen = last_visible(visible + i * K, K);
    keys = seen > keys ? seen : keys;
  }
  double *scores = mr3d_allocate_unset(queries * keys, sizeof *scores), *noise = mr3d_allocate_unset(keys, sizeof *noise);
  float *squares = r->score_noise.on && r->score_noise.stochastic ? mr3d_allocate_unset(queries * (keys > D ? keys : D), sizeof *squares) : NULL;

  const mr3d_product_in dot = {.rows = queries, .in = D, .out = keys, .x = in->query + ((b * in->H + h) * in->q + first) * D, .x_row = D,
                               .w = in->key + kv, .w_out = D, .w_in = 1, .y_row = keys, .fused = r->emulated};
  mr3d_product(&dot, 1, scores);
  if (squares != NULL)
    mr3d_product_squares(&dot, 1, squares);
  for (int64_t i = 0; i < queries; i++) {
    double *s = scores + i * keys;
    if (squares != NULL)
      mr3d_noise_add(&r->score_noise, b, h, first + i, keys, D, squares + i * keys, NULL, s);
    mr3d_divide(keys, sqrt((double)D), s);
    mr3d_round_row(&r->score, b, h, first + i, keys, s);
    if (traced->max != NULL)
      take_statistics(traced, (b * in->H + h) * in->q + first + i, visible + i * K, keys, s);
    softmax(visible + i * K, keys, r, b, h, first + i, noise, s);
  }

  double *context = y + ((b * in->H + h) * in->q + first) * D;
  const mr3d_product_in mix = {.rows = queries, .in = keys, .out = D, .x = scores, .x_row = keys, .w = in->value + kv, .w_out = 1, .w_in = D, .y_row = D, .fused = r->emulated};
  mr3d_product(&mix, 1, context);
  if (squares != NULL)
    mr3d_product_squares(&mix, 1, squares);
  for (int64_t i = 0; i < queries; i++) {
    if (squares != NULL)
      mr3d_noise_add(&r->context_noise, b, h, first + i, D, keys, squares + i * D, NULL, context + i * D);
    mr3d_round_row(&r->context, b, h, first + i, D, context + i * D);
  }
  free(scores);
  free(noise);
  free(squares);
}

static double *rounded_copy(const mr3d_context *context, int64_t B, int64_t heads, int64_t rows, int64_t D, const double *x) {
  double *copy = mr3d_allocate_unset(B * heads * rows * D, sizeof *copy);
  memcpy(copy, x, (size_t)(B * heads * rows * D) * sizeof *copy);
  mr3d_round(context, MR3D_AT_PRODUCT_INPUT, B, heads, rows, D, copy);
  return copy;
}

/**
 * y [B,H,q,D]: query head h reads key/value head h / (H/G), integer division.
 *
 *     s[i,j] = (sum over d of query[i,d] key[j,d]) / sqrt(D)
 *     p[i,j] = exp(s[i,j] - max) / sum over visible j of exp(s[i,j] - max);  0 for hidden keys
 *     y[i,d] = sum over j of p[i,j] value[j,d]
 *
 * max and sums over visible keys, each sum in index order. A query without visible keys gives zeros. Requires: H is a multiple of G; values are
 * finite, behind hidden keys too (their products are +-0 and change no sum).
 *
 * Traced: max, mean and log(sum of exp(s)) of a query's visible scores, scores_max, scores_mean and scores_lse.
 *
 * Emulated: product inputs, scores, probabilities and the context are stored; both products are fused and accumulate with noise; each exponential is off by a
 * relative ua (1 + |s - max|). Error: mr3d_attention_scale with u = ua = 2^-53.
 */
void mr3d_attention(const mr3d_context *context, const mr3d_attention_in *in, double *y) {
  mr3d_attention_in rounded = *in;
  double *copies[3] = {NULL, NULL, NULL};
  if (context->arithmetic != NULL) {
    rounded.query = copies[0] = rounded_copy(context, in->B, in->H, in->q, in->D, in->query);
    rounded.key = copies[1] = rounded_copy(context, in->B, in->G, in->K, in->D, in->key);
    rounded.value = copies[2] = rounded_copy(context, in->B, in->G, in->K, in->D, in->value);
  }
  roundings r = {
      .emulated = context->arithmetic != NULL,
      .score_noise = mr3d_rounder_at(context, MR3D_AT_ACCUMULATION), .score = mr3d_rounder_at(context, MR3D_AT_SCORE),
      .softmax_noise = mr3d_rounder_at(context, MR3D_AT_ACCUMULATION), .probability = mr3d_rounder_at(context, MR3D_AT_PROBABILITY),
      .probability_input = mr3d_rounder_at(context, MR3D_AT_PRODUCT_INPUT), .context_noise = mr3d_rounder_at(context, MR3D_AT_ACCUMULATION),
      .context = mr3d_rounder_at(context, MR3D_AT_CONTEXT)};
  r.probability_input.on = r.probability_input.on && r.probability.on; /* kept wide into the product */
  r.score_noise.equal_columns = r.softmax_noise.equal_columns = r.probability_input.equal_columns = true;

  const int64_t rows = in->B * in->H * in->q, shape[3] = {in->B, in->H, in->q};
  statistics traced = {NULL, NULL, NULL};
  if (mr3d_trace_wanted(context, "scores_max") || mr3d_trace_wanted(context, "scores_mean") || mr3d_trace_wanted(context, "scores_lse"))
    traced = (statistics){mr3d_allocate(rows, sizeof(double)), mr3d_allocate(rows, sizeof(double)), mr3d_allocate(rows, sizeof(double))};
  const int64_t tiles = (in->q + QUERY_TILE - 1) / QUERY_TILE;
#pragma omp parallel for num_threads(mr3d_thread_count(context->threads)) schedule(dynamic)
  for (int64_t task = 0; task < in->B * in->H * tiles; task++) {
    const int64_t first = task % tiles * QUERY_TILE, left = in->q - first;
    attend(&rounded, &r, &traced, task / tiles / in->H, task / tiles % in->H, first, left < QUERY_TILE ? left : QUERY_TILE, y);
  }
  if (traced.max != NULL) {
    mr3d_trace(context, "scores_max", MR3D_F64, 3, shape, traced.max);
    mr3d_trace(context, "scores_mean", MR3D_F64, 3, shape, traced.mean);
    mr3d_trace(context, "scores_lse", MR3D_F64, 3, shape, traced.lse);
  }
  free(traced.max);
  free(traced.mean);
  free(traced.lse);
  for (int i = 0; i < 3; i++)
    free(copies[i]);
}

/** Buffers of one query's scale: p, delta [K]; y, spread, size, squares, norm [D]. */
typedef struct scale_work {
  double *p, *delta, *y, *spread, *size, *squares, *norm;
} scale_work;

/**
 * An error delta of score j moves y by shift (v_j - y): p (e^d - 1) / (1 + p (e^d - 1)) for d = delta or -delta, whichever moves more; p delta where
 * delta is small, at most 1 where large scores are stored coarsely and any key may win.
 */
static double shift(double p, double delta) {
  const double lost = -expm1(-delta), up = p * lost / fmax(exp(-delta) + p * lost, 0x1p-1000), down = p * lost / fmax(1 - p * lost, 0x1p-52);
  return fmax(up, down);
}

/**
 * What a running sum near `total` may lose of one addend to stagnation: all of it, where it is below half a spacing, with the same sign each time. Addends
 * of many spacings are rounded up as often as down, which sqrt(n) covers.
 */
static double stagnant(double ua, double addend, double total) { return addend <= 8 * ua * total ? fmin(addend, ua * total) : 0; }

static void scale_row(const mr3d_units *units, const mr3d_attention_in *in, const double *query, const double *key, const double *value,
                      const bool *visible, const scale_work *work, double *scale) {
  const int64_t D = in->D, K = in->K;
  const double u = units->u, ua = units->ua, up = units->up, root = sqrt((double)D);
  const double score = mr3d_stored_unit(units, MR3D_AT_SCORE), probability = mr3d_stored_unit(units, MR3D_AT_PROBABILITY);
  double *p = work->p, *delta = work->delta, *y = work->y, *spread = work->spread, *size = work->size, *squares = work->squares, *norm = work->norm;
  double max = -INFINITY, sum = 0, lost = 0;
  int64_t n = 0;
  for (int64_t j = 0; j < K; j++) {
    if (!visible[j])
      continue;
    double dot = 0, dot_size = 0, dot_squares = 0;
    for (int64_t d = 0; d < D; d++) {
      const double term = query[d] * key[j * D + d];
      dot += term;
      dot_size += fabs(term);
      dot_squares += term * term;
    }
    p[j] = dot / root;
    delta[j] = ua * (fmax(2, root) * dot_size / root + 2) + score * fabs(p[j]) + up * (2 * fabs(dot) + sqrt(dot_squares)) / root;
    max = fmax(max, p[j]);
    n++;
  }
  for (int64_t j = 0; j < K; j++)
    if (visible[j]) {
      delta[j] += ua * 2 * fabs(p[j] - max);
      p[j] = exp(p[j] - max);
      sum += p[j];
    }
  for (int64_t d = 0; d < D; d++)
    y[d] = spread[d] = size[d] = squares[d] = norm[d] = 0;
  for (int64_t j = 0; j < K; j++) {
    if (!visible[j])
      continue;
    p[j] /= sum;
    lost += stagnant(ua, p[j], 1);
    for (int64_t d = 0; d < D; d++) {
      const double v = value[j * D + d], term = p[j] * v;
      y[d] += term;
      size[d] += fabs(term);
      squares[d] += term * term;
      norm[d] += v * v;
    }
  }
  for (int64_t j = 0; j < K; j++) {
    if (!visible[j])
      continue;
    /* p delta where delta is small; else what 4 delta does in 4 scales, the judge's limit, and delta in one */
    const double moved = fmax(shift(p[j], 4 * delta[j]) / 4, shift(p[j], delta[j])), factor = moved * moved;
    for (int64_t d = 0; d < D; d++)
      spread[d] += factor * (value[j * D + d] - y[d]) * (value[j * D + d] - y[d]);
  }
  for (int64_t d = 0; d < D; d++)
    scale[d] = n == 0 ? 0
                      : (units->narrow ? u * fabs(y[d]) : 0) + sqrt(spread[d] + probability * probability * squares[d] + units->eta * units->eta * norm[d]) +
                            ua * (4 + sqrt((double)n) / 2) * size[d] + lost * (fabs(y[d]) + size[d]) + up * (2 * fabs(y[d]) + sqrt(squares[d])) + units->eta +
                            (double)n * units->eta_term;
}

/**
 * scale = u |y| + sqrt(sum_j (moved_j |v_j - y|)^2 + ((u p_j + eta) v_j)^2) + (ua (4 + sqrt(n) / 2) + lost) sum p |v| + lost |y| + up (...) + eta + n eta_term
 * delta_j = ua (max(2, sqrt D) sum |q k| / sqrt D + 2 + 2 |s_j - max|) + u |s_j| + up (2 |q k| + sqrt(sum (q k)^2)) / sqrt D,   n visible keys
 * moved_j = max(shift(p_j, 4 delta_j) / 4, shift(p_j, delta_j)), which is p_j delta_j where delta_j is small
 *
 * An error delta_j of a score moves y by p_j (v_j - y) delta_j where it is small, independently for each key. delta_j holds the product's accumulation
 * (sqrt D as in mr3d_linear_scale: terms of one sign, added in order, stray by sqrt(D) / 3), the exponential and its argument, and the stored score (eager
 * stacks: 62 without). (u p_j + eta) v_j: probabilities stored in the tier (SDPA: 720 without). ua (4 + sqrt(n)/2): both sums over keys and the division.
 * lost: of both sums, the sum over p_j <= 8 ua of min(p_j, ua): where one key has nearly all weight, a sum in key order loses the small ones after it (5.5
 * without). Promised scores or probabilities have ua for u. up and eta_term as in mr3d_linear_scale. Without visible keys: 0, zeros are demanded.
 */
void mr3d_attention_scale(const mr3d_units *units, const mr3d_attention_in *in, double *scale) {
  const int64_t D = in->D, K = in->K, q = in->q;
#pragma omp parallel for schedule(dynamic)
  for (int64_t head = 0; head < in->B * in->H; head++) {
    const int64_t b = head / in->H, kv = (b * in->G + head % in->H / (in->H / in->G)) * K * D;
    double *memory = mr3d_allocate(2 * K + 5 * D, sizeof *memory), *rest = memory + 2 * K;
    const scale_work work = {memory, memory + K, rest, rest + D, rest + 2 * D, rest + 3 * D, rest + 4 * D};
    for (int64_t i = 0; i < q; i++)
      scale_row(units, in, in->query + (head * q + i) * D, in->key + kv, in->value + kv, in->visible + (b * q + i) * K, &work, scale + (head * q + i) * D);
    free(memory);
  }
}
