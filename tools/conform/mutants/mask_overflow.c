/** P10: hidden keys hidden by a number that is added, and rows in which nothing is left to see. */
#include <stdlib.h>

#include "mutants_internal.h"

static bool sees_any(int64_t keys, const bool *visible) {
  for (int64_t j = 0; j < keys; j++)
    if (visible[j]) return true;
  return false;
}

/** The softmax of all keys, hidden or not. */
static void over_all(int64_t keys, double *s) {
  bool *all = mr3d_allocate(keys, sizeof *all);
  for (int64_t j = 0; j < keys; j++) all[j] = true;
  mr3d_softmax_row(keys, all, s);
  free(all);
}

static void nan_row(int64_t keys, const bool *visible, double *s) {
  mr3d_softmax_row(keys, visible, s);
  for (int64_t j = 0; j < keys && !sees_any(keys, visible); j++) s[j] = NAN;
}

static void mean_row(int64_t keys, const bool *visible, double *s) {
  mr3d_softmax_row(keys, visible, s);
  for (int64_t j = 0; j < keys && !sees_any(keys, visible); j++) s[j] = 1 / (double)keys;
}

static void unmasked_row(int64_t keys, const bool *visible, double *s) {
  if (sees_any(keys, visible)) mr3d_softmax_row(keys, visible, s);
  else over_all(keys, s);
}

static void added(double minimum, int64_t keys, const bool *visible, double *s) {
  for (int64_t j = 0; j < keys; j++) s[j] += visible[j] ? 0 : minimum;
  over_all(keys, s);
}
static void minus_10000_row(int64_t keys, const bool *visible, double *s) { added(-10000, keys, visible, s); }
static void minus_100_row(int64_t keys, const bool *visible, double *s) { added(-100, keys, visible, s); }

static void filled(double fill, int64_t keys, const bool *visible, double *s) {
  for (int64_t j = 0; j < keys; j++) s[j] = visible[j] ? s[j] : fill;
  over_all(keys, s);
}
static void filled_10000_row(int64_t keys, const bool *visible, double *s) { filled(-10000, keys, visible, s); }
static void zeroed_row(int64_t keys, const bool *visible, double *s) { filled(0, keys, visible, s); }

static void masked_after_row(int64_t keys, const bool *visible, double *s) {
  over_all(keys, s);
  for (int64_t j = 0; j < keys; j++) s[j] *= visible[j];
}

/** exp(s - max) of every visible key is 0 where a hidden score is far above, and 0/0 follows. */
static void maximum_row(int64_t keys, const bool *visible, double *s) {
  double max = -INFINITY, sum = 0;
  for (int64_t j = 0; j < keys; j++) max = fmax(max, s[j]);
  for (int64_t j = 0; j < keys; j++) sum += s[j] = visible[j] ? exp(s[j] - max) : 0;
  for (int64_t j = 0; j < keys && sees_any(keys, visible); j++) s[j] /= sum;
}

/** One minimum for the causal step, one for padding: two add up to -inf, so a row without keys averages those that are hidden once. */
static void added_minima_rows(const mr3d_scores *scores) {
  const int64_t K = scores->K;
  const bool *last = scores->visible + (scores->q - 1 - scores->first) * K; /* the last query sees whatever is no padding */
  mr3d_scores_by_row(scores, mr3d_softmax_row);
  for (int64_t i = 0; i < scores->queries; i++) {
    if (sees_any(K, scores->visible + i * K)) continue;
    const int64_t own = K - scores->q + scores->first + i;
    double *s = scores->s + i * K, once = 0;
    for (int64_t j = 0; j < K; j++) once += s[j] = j <= own || last[j];
    for (int64_t j = 0; j < K; j++) s[j] /= once;
  }
}

static void sees_itself_rows(const mr3d_scores *scores) {
  const int64_t K = scores->K, own = K - scores->q + scores->first;
  mr3d_scores_by_row(scores, mr3d_softmax_row);
  for (int64_t i = 0; i < scores->queries; i++)
    if (own + i >= 0 && !sees_any(K, scores->visible + i * K)) scores->s[i * K + own + i] = 1;
}

#define ROWS(name, hidden_too)                                                                        \
  static void name##_attention(const mr3d_context *context, const mr3d_attention_in *in, double *y) { \
    mr3d_attend_with(name##_rows, hidden_too, context, in, y);                                        \
  }
#define ROW(name, hidden_too)                                                                    \
  static void name##_rows(const mr3d_scores *scores) { mr3d_scores_by_row(scores, name##_row); } \
  ROWS(name, hidden_too)

ROW(nan, false)
ROW(mean, false)
ROW(unmasked, false)
ROW(minus_10000, true)
ROW(minus_100, true)
ROW(filled_10000, true)
ROW(zeroed, true)
ROW(masked_after, true)
ROW(maximum, true)
ROWS(added_minima, false)
ROWS(sees_itself, false)

#define ATTENTION "attention " MR3D_LAYERS

static const mr3d_mutant entries[] = {
    {"mask-overflow", "nan-row", "a query that sees no key, as left padding has them, gives NaN instead of zeros: all its scores are -inf", ATTENTION,
     {.attention = nan_attention}},
    {"mask-overflow", "mean-row", "a query that sees no key gives the mean of all values instead of zeros: all its scores are the same minimum", ATTENTION,
     {.attention = mean_attention}},
    {"mask-overflow", "added-minima",
     "causal and padding mask are added, each with the smallest finite number: a query that sees no key averages the keys that only one of them hides, instead of giving zeros",
     ATTENTION, {.attention = added_minima_attention}},
    {"mask-overflow", "unmasked-row", "a query that sees no key attends to all keys instead of giving zeros: its row of the mask was opened against NaN", ATTENTION,
     {.attention = unmasked_attention}},
    {"mask-overflow", "row-sees-itself", "a query that sees no key gives its own value instead of zeros: the diagonal of the mask was opened against NaN", ATTENTION,
     {.attention = sees_itself_attention}},
    {"mask-overflow", "minus-10000-added", "hidden keys get -10000 added to their score: one that lies 10000 above the visible ones is seen", ATTENTION,
     {.attention = minus_10000_attention}},
    {"mask-overflow", "minus-10000-filled", "hidden keys get the score -10000: where every visible score lies lower still, only hidden keys are seen", ATTENTION,
     {.attention = filled_10000_attention}},
    {"mask-overflow", "minus-100-added", "hidden keys get -100 added to their score: trained keys have scores in the hundreds, so hidden ones are seen", ATTENTION,
     {.attention = minus_100_attention}},
    {"mask-overflow", "score-times-mask", "scores are multiplied by the mask: hidden keys have score 0 instead of no weight", ATTENTION, {.attention = zeroed_attention}},
    {"mask-overflow", "masked-after-softmax", "hidden keys are masked after softmax: they have no weight, but the weights of a row sum to less than 1", ATTENTION,
     {.attention = masked_after_attention}},
    {"mask-overflow", "maximum-of-hidden", "softmax subtracts the maximum of all keys, hidden ones included: where a hidden score lies far above, 0/0 gives NaN", ATTENTION,
     {.attention = maximum_attention}},
};
const mr3d_mutant_set mr3d_mutants_mask_overflow = MR3D_MUTANT_SET(entries);
