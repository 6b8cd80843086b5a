/**
 * Judging a single operator by its error scale (docs/tolerance.md, "Single operators").
 *
 * e = (got - ref) / scale, element by element. Each rule looks for another kind of mistake: `element` for a wrong value,
 * `slice` for a wrong row, `tensor` for an arithmetic that is too coarse, `gain` for a factor or an offset hidden below one
 * rounding, `angle` for a rotation that turns too far in one frequency bin. Rules that average need independent units: rows
 * that differ, not elements.
 */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "judge_internal.h"
#include "judge_limits.h"

#define SLICE_LIMIT 2.0
#define TENSOR_LIMIT 1.0
#define MIN_SLICE 16     /* elements: below, a root mean square says no more than its largest element */
#define MIN_TENSOR 64
#define BIAS_FLOOR 0.1   /* gain and angle: what honest stacks show over many rows */
#define BIAS_SIGMAS 4.0
#define ROW_SHARE 0.25   /* of a row's error is one factor common to the row (a norm's reciprocal) */
#define TABLE_SHARE 0.184 /* of a rotated row's error along the turn is its table's, which all heads at a position share: 2/pi of 1/sqrt(12) roundings */
#define MIN_ROWS 32
#define MIN_ELEMENTS 1024

/** What makes a row an independent unit of a rotation: its length, for the same vector turned is no new vector. */
static uint64_t length_of(const mr3d_output *output, int64_t row) {
  double length2 = 0;
  for (int64_t i = row * output->cols; i < (row + 1) * output->cols; i++) length2 += output->ref[i] * output->ref[i];
  return length2 > 0 ? (uint64_t)llrint(log2(length2) * 0x1p28) : 0;
}

/** Marks rows (of the same head, when `by_head`) whose length no earlier row has. */
static void mark_distinct(const mr3d_output *output, bool by_head, bool *first) {
  int64_t capacity = 16;
  while (capacity < 2 * output->rows) capacity *= 2;
  uint64_t *table = mr3d_allocate(capacity, sizeof *table);
  for (int64_t r = 0; r < output->rows; r++) {
    uint64_t head = by_head ? (uint64_t)(r / output->per_head % output->heads) + 1 : 0;
    uint64_t hash = ((length_of(output, r) * 0x9E3779B97F4A7C15u ^ head * 0xD6E8FEB86659FD93u) * 0x9E3779B97F4A7C15u) | 1; /* 0 marks an empty place */
    int64_t at = (int64_t)((hash >> 32) % (uint64_t)capacity);
    while (table[at] && table[at] != hash) at = (at + 1) % capacity;
    first[r] = table[at] == 0;
    table[at] = hash;
  }
  free(table);
}

static double bias_limit(const mr3d_bias *group, int64_t units) {
  double rms = sqrt(group->squares / (double)group->n);
  double sigma = hypot(fmax(rms / sqrt((double)group->n), ROW_SHARE / sqrt((double)units)), group->shared);
  return BIAS_FLOOR + BIAS_SIGMAS * sigma + group->allowance / (double)group->n;
}

/** The group nearest to or furthest beyond its limit. */
typedef struct worst {
  double value, limit;
  bool tested;
  int64_t head, column, rows;
  const char *what;
} worst;

static void take(worst *so_far, const mr3d_bias *group, double sum, int64_t units, int64_t head, int64_t column, const char *what) {
  double value = fabs(sum / (double)group->n), limit = bias_limit(group, units);
  if (so_far->tested && value / limit <= so_far->value / so_far->limit) return;
  *so_far = (worst){value, limit, true, head, column, group->rows, what};
}

/** " of head 3", or nothing. */
static const char *head_text(const worst *found, char text[32]) {
  text[0] = '\0';
  if (found->head >= 0) snprintf(text, 32, " of head %lld", (long long)found->head);
  return text;
}

static double sign_of(double x) { return (x > 0) - (x < 0); }

/** How many columns differ: where errors are shared along columns, they are units as well (few bins, many coordinates). */
static int64_t distinct_columns(const mr3d_output *output, int64_t head) {
  int64_t n = 0, total = (head < 0 ? output->heads : 1) * output->cols;
  uint64_t *hashes = mr3d_allocate(total, sizeof *hashes);
  for (int64_t c = 0; c < total; c++) {
    int64_t h = head < 0 ? c / output->cols : head;
    for (int64_t s = 0; s < output->per_head; s++) {
      uint64_t bits;
      memcpy(&bits, &output->ref[(h * output->per_head + s) * output->cols + c % output->cols], sizeof bits);
      hashes[c] = (hashes[c] ^ bits) * 0x9E3779B97F4A7C15u;
      hashes[c] ^= hashes[c] >> 29;
    }
    bool known = false;
    for (int64_t d = 0; d < c && !known; d++) known = hashes[d] == hashes[c];
    n += !known;
  }
  free(hashes);
  return n;
}

/** gain: mean of e * sign(ref), a factor; and mean of e, an offset. Over the tensor and over each head. */
static void judge_gain(const mr3d_output *output, const mr3d_tally *tally, mr3d_tensor_verdict *verdict) {
  worst found = {.limit = BIAS_FLOOR, .head = -1, .what = ""};
  const int64_t heads = output->has_heads && output->heads > 1 ? output->heads : 0;
  for (int64_t h = -1; h < heads; h++) {
    const mr3d_bias *group = h < 0 ? &tally->whole : &tally->heads[h];
    if (group->rows < MIN_ROWS || group->n < MIN_ELEMENTS) continue;
    int64_t units = group->rows;
    if (output->columns_share) {
      int64_t columns = distinct_columns(output, h);
      if (columns < units) units = columns;
    }
    take(&found, group, group->signed_sum, units, h, -1, "magnitudes");
    take(&found, group, group->sum, units, h, -1, "values");
  }
  char head[32];
  mr3d_verdict_add(verdict, "gain", found.value, found.limit, found.tested,
                   "%s%s are biased: mean signed error %.3g of the scale over %lld differing rows, at most %.3g allowed", found.what,
                   head_text(&found, head), found.value, (long long)found.rows, found.limit);
}

/**
 * What may have one sign in the error along a turn, in units of the scale. An inverse frequency's rounding is shared by all positions: what the
 * scale grants the angle. And a turn by less than half a spacing of the storage type is lost, for what is turned lies on its grid.
 */
static double angle_allowance(const mr3d_output *output, int64_t i, double radius) {
  double storage = 3 * output->units.ua + (output->units.narrow ? output->units.u : 0);
  double of_angle = fmax(0, output->scale[i] - storage * radius - output->units.eta) * fabs(output->turn[i]) / radius;
  double moved = output->input ? fabs(output->ref[i] - output->input[i]) : 0;
  double lost = output->input && moved < mr3d_ulp(output->tier, output->input[i]) / 2 ? moved : 0;
  return (of_angle + lost) / output->scale[i];
}

/** At how many places of the sequence a row of each kind (text, points) is marked: rows of other heads or batch entries may share their tables. */
static void count_tokens(const mr3d_output *output, const bool *marked, int64_t tokens[2]) {
  bool *seen = mr3d_allocate(2 * output->per_head, sizeof *seen);
  tokens[0] = tokens[1] = 0;
  for (int64_t r = 0; r < output->rows; r++) {
    int64_t kind = output->point && output->point[r];
    bool *place = &seen[kind * output->per_head + r % output->per_head];
    if (marked[r] && !*place) tokens[kind]++;
    *place |= marked[r];
  }
  free(seen);
}

/** What the mean over `rows` rows varies more than that of independent ones, for only `tokens` tables were rounded. */
static double table_sigma(int64_t rows, int64_t tokens) {
  return tokens < rows ? TABLE_SHARE * sqrt(1.0 / (double)tokens - 1.0 / (double)rows) : 0;
}

/** angle: mean of e * sign(turn) in one dimension, over all heads and in each, text and points apart: a bin that turns too far. */
static void judge_angle(const mr3d_output *output, mr3d_tensor_verdict *verdict) {
  bool *first = mr3d_allocate(output->rows, sizeof *first);
  double *got = mr3d_allocate(output->cols, sizeof *got);
  worst found = {.limit = BIAS_FLOOR, .head = -1, .what = ""};
  for (int by_head = 0; by_head <= (output->has_heads && output->heads > 1); by_head++) {
    int64_t n_groups = (by_head ? output->heads : 1) * output->cols;
    mr3d_bias *groups = mr3d_allocate(2 * n_groups, sizeof *groups); /* text, then points */
    int64_t tokens[2];
    mark_distinct(output, by_head, first);
    count_tokens(output, first, tokens);
    for (int64_t r = 0; r < output->rows; r++) {
      if (!first[r]) continue;
      mr3d_output_row(output, r, got);
      int64_t head = by_head ? r / output->per_head % output->heads : 0, kind = output->point && output->point[r];
      for (int64_t c = 0; c < output->cols; c++) {
        int64_t i = r * output->cols + c;
        double radius = hypot(output->ref[i], output->turn[i]);
        if (output->turn[i] == 0 || radius == 0) continue;
        mr3d_bias *group = &groups[kind * n_groups + head * output->cols + c];
        const double e = mr3d_error_of(output, i, got[c]);
        group->sum += e * sign_of(output->turn[i]);
        group->squares += e * e;
        group->allowance += angle_allowance(output, i, radius);
        group->n++;
        group->rows++;
      }
    }
    for (int64_t g = 0; g < 2 * n_groups; g++) {
      if (groups[g].rows < MIN_ROWS) continue;
      groups[g].shared = table_sigma(groups[g].rows, tokens[g / n_groups]);
      take(&found, &groups[g], groups[g].sum, groups[g].rows, by_head ? g % n_groups / output->cols : -1, g % output->cols, "angle");
    }
    free(groups);
  }
  free(first);
  free(got);
  char head[32];
  mr3d_verdict_add(verdict, "angle", found.value, found.limit, found.tested,
                   "dimension %lld%s is turned by another angle: mean error along the turn %.3g of the scale over %lld rows, at most %.3g allowed",
                   (long long)found.column, head_text(&found, head), found.value, (long long)found.rows, found.limit);
}

bool mr3d_scale_limit(const char *rule, double *least, double *most) {
  /* A passing element is within its limit, so the root mean square of any group is too; one row may be one unit; an allowance is a part of the scale. */
  const double bias = BIAS_FLOOR + BIAS_SIGMAS * hypot(MR3D_ELEMENT_LIMIT / sqrt(MIN_ROWS), TABLE_SHARE) + 2;
  const struct { const char *rule; double least, most; } limits[] = {
      {"finite", 0, 0}, {"element", MR3D_ELEMENT_LIMIT, MR3D_ELEMENT_LIMIT}, {"slice", SLICE_LIMIT, SLICE_LIMIT}, {"tensor", TENSOR_LIMIT, TENSOR_LIMIT},
      {"gain", BIAS_FLOOR, bias}, {"angle", BIAS_FLOOR, bias}};
  for (size_t i = 0; i < sizeof limits / sizeof *limits; i++) {
    if (strcmp(limits[i].rule, rule) != 0) continue;
    *least = limits[i].least, *most = limits[i].most;
    return true;
  }
  return false;
}

void mr3d_judge_by_scale(const mr3d_output *output, const mr3d_tally *tally, mr3d_tensor_verdict *verdict) {
  const int64_t count = output->rows * output->cols, at = tally->worst_element;
  const double worst_e = count ? tally->worst_e : 0, tensor = count ? sqrt(tally->squares / (double)count) : 0;
  char row[96];
  mr3d_index_text(output->expected, tally->worst_row, true, row);
  verdict->wrong = tally->wrong;
  if (count > 0) {
    mr3d_index_text(output->expected, at, false, verdict->index);
    verdict->got = tally->worst_got;
    verdict->expected = output->ref[at];
    verdict->bound = MR3D_ELEMENT_LIMIT * output->scale[at];
  }
  mr3d_verdict_add(verdict, "element", worst_e, MR3D_ELEMENT_LIMIT, count > 0,
                   count > 0 && output->scale[at] == 0 ? "must be exact, the sign of zero included"
                                                       : "one element's error is %.3g times its scale, at most %g allowed",
                   worst_e, MR3D_ELEMENT_LIMIT);
  mr3d_verdict_add(verdict, "slice", tally->worst_slice, SLICE_LIMIT, output->cols >= MIN_SLICE && output->rows > 0,
                   "row %s: root mean square error %.3g of the scale, at most %.3g allowed", row, tally->worst_slice, SLICE_LIMIT);
  mr3d_verdict_add(verdict, "tensor", tensor, TENSOR_LIMIT, count >= MIN_TENSOR,
                   "root mean square error %.3g of the scale, at most %.3g allowed: the arithmetic is coarser than its tier", tensor,
                   TENSOR_LIMIT);
  judge_gain(output, tally, verdict);
  if (output->turn) judge_angle(output, verdict);
}
