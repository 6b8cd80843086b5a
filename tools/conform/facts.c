/** What is certain about an answer that no mutant explains: which rows, heads and dimensions are wrong, and simple patterns. */
#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "diagnose_internal.h"
#include "mutants/mutants_internal.h"

void mr3d_say(mr3d_text *t, const char *format, ...) {
  va_list arguments;
  va_start(arguments, format);
  int n = vsnprintf(t->at, t->left, format, arguments);
  va_end(arguments);
  if (n < 0) return;
  size_t used = (size_t)n < t->left ? (size_t)n : t->left - 1;
  t->at += used;
  t->left -= used;
}

/** Which rows, heads, columns and halves hold wrong elements. */
typedef struct census {
  int64_t rows, wrong_rows, wrong, first_row, last_row;
  int64_t points, wrong_points, texts, wrong_texts;
  bool *head, *column, *row;
  int64_t wrong_heads, wrong_columns;
  int64_t nans, nan_rows;
} census;

static census count_wrong(const mr3d_picture *p) {
  const mr3d_output *o = &p->output;
  census c = {.first_row = -1, .head = mr3d_allocate(o->heads, sizeof(bool)), .column = mr3d_allocate(o->cols, sizeof(bool)), .row = mr3d_allocate(o->rows, sizeof(bool))};
  for (int64_t r = 0; r < o->rows; r++) {
    if (o->skip && o->skip[r]) continue;
    int64_t nans = c.nans;
    for (int64_t k = 0; k < o->cols; k++) {
      int64_t i = r * o->cols + k;
      c.nans += isnan(o->got[i]) != 0;
      if (mr3d_units_of(o->got[i] - o->ref[i], p->noise[i]) <= MR3D_VISIBLE) continue;
      c.wrong++;
      c.row[r] = c.head[r / o->per_head % o->heads] = c.column[k] = true;
    }
    c.nan_rows += c.nans > nans;
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
static bool matches(const mr3d_picture *p, int64_t (*from)(const mr3d_output *, int64_t), double factor) {
  const mr3d_output *o = &p->output;
  mr3d_distance d = {0};
  for (int64_t i = 0; i < o->rows * o->cols; i++) {
    int64_t j = from(o, i);
    if (j < 0 || (o->skip && o->skip[i / o->cols])) continue;
    double a = mr3d_units_of(o->got[i] - factor * o->ref[j], p->noise[i] + fabs(factor) * p->noise[j]), b = mr3d_units_of(o->got[i] - o->ref[i], p->noise[i]);
    d.to_mistake += a * a;
    d.to_reference += b * b;
    d.n++;
  }
  return mr3d_distance_explains(&d);
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
static bool has_factor(const mr3d_picture *p, double *factor) {
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
static bool is_input(const mr3d_scene *s, const mr3d_picture *p) {
  const mr3d_tensor *input = mr3d_bundle_find(s->request, strcmp(p->name, "y") == 0 ? "x" : p->name);
  const mr3d_output *o = &p->output;
  if (!input || !mr3d_comparable(p->got, input)) return false;
  int64_t count = o->rows * o->cols;
  double *x = mr3d_allocate(count, sizeof *x);
  mr3d_tensor_to_double(input, x);
  bool equal = true;
  for (int64_t i = 0; i < count && equal; i++) equal = o->got[i] == x[i];
  free(x);
  return equal;
}

static bool say_pattern(const mr3d_scene *s, const mr3d_picture *p, mr3d_text *t) {
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
  if (is_input(s, p)) return mr3d_say(t, "it equals the input: nothing was done to it"), true;
  for (size_t i = 0; i < sizeof patterns / sizeof *patterns; i++)
    if ((!patterns[i].heads || p->output.heads > 1) && matches(p, patterns[i].from, patterns[i].factor)) return mr3d_say(t, "%s", patterns[i].what), true;
  if (has_factor(p, &factor)) return mr3d_say(t, "it is the reference times %.9g", factor), true;
  return false;
}

/** "0, 3, 7" or "0..6", of the flags that are set. */
static void say_list(mr3d_text *t, const bool *flags, int64_t n) {
  int said = 0;
  for (int64_t i = 0; i < n; i++) {
    if (!flags[i]) continue;
    int64_t end = i;
    while (end + 1 < n && flags[end + 1]) end++;
    if (said++ == 6) {
      mr3d_say(t, ", ..");
      return;
    }
    mr3d_say(t, end > i ? "%s%lld..%lld" : "%s%lld", said > 1 ? ", " : "", (long long)i, (long long)end);
    i = end;
  }
}

/** Only every second one, from `first` on. */
static bool every_second(const bool *flags, int64_t n, int64_t first) {
  for (int64_t i = 0; i < n; i++)
    if (flags[i] != (i % 2 == first)) return false;
  return n > 3;
}

/** Errors of the later half of each head's wrong rows against the earlier half, in the order of rows. */
static bool grows(const mr3d_picture *p, const census *c) {
  const mr3d_output *o = &p->output;
  double early = 0, late = 0;
  if (c->wrong_rows < 16 || o->per_head < 16) return false;
  for (int64_t r = 0; r < o->rows; r++) {
    if (o->skip && o->skip[r]) continue;
    for (int64_t i = r * o->cols; i < (r + 1) * o->cols; i++) {
      double d = mr3d_units_of(o->got[i] - o->ref[i], p->noise[i]);
      *(r % o->per_head < o->per_head / 2 ? &early : &late) += d * d;
    }
  }
  return late > 9 * early;
}

/** Whether the rows with a NaN are those of attention that see no key. */
static bool only_blind_rows(const mr3d_scene *s, const mr3d_output *o) {
  const mr3d_tensor *visible = mr3d_bundle_find(s->request, "visible");
  if (strcmp(s->op, "attention") != 0 || !visible || visible->rank != 3) return false;
  int64_t q = visible->shape[1], K = visible->shape[2];
  for (int64_t r = 0; r < o->rows; r++) {
    const uint8_t *row = (const uint8_t *)visible->data + (r / (o->heads * o->per_head) * q + r % o->per_head) * K;
    bool blind = true, nan = false;
    for (int64_t j = 0; j < K; j++) blind = blind && !row[j];
    for (int64_t i = r * o->cols; i < (r + 1) * o->cols; i++) nan = nan || isnan(o->got[i]);
    if (nan != blind) return false;
  }
  return true;
}

/** What is known of a product's errors, each in units of the root of the sum of its squared terms; where these cancel, so that an output's own rounding is no part of it. */
typedef struct product_errors {
  double n, sum, squares, largest, with_value, values; /* with_value: error times value */
  double scaled;                                       /* squares, in units of each element's error scale */
  double of_half[2][2];                                /* squares: of the earlier and later rows, of the first and second half of the columns */
} product_errors;

static product_errors measure_product(const mr3d_picture *p, const double *terms) {
  const mr3d_output *o = &p->output;
  product_errors e = {0};
  for (int64_t i = 0; i < o->rows * o->cols; i++) {
    if (terms[i] == 0) continue;
    const double error = (o->got[i] - o->ref[i]) / sqrt(terms[i]), value = o->ref[i] / sqrt(terms[i]);
    if (fabs(value) > 0.25 && o->units.u * fabs(value) > 0x1p-14) continue;
    e.n++;
    e.sum += error;
    e.squares += error * error;
    e.scaled += pow((o->got[i] - o->ref[i]) / o->scale[i], 2);
    e.largest = fmax(e.largest, fabs(error));
    e.with_value += error * value;
    e.values += value * value;
    e.of_half[0][i / o->cols >= o->rows / 2] += error * error;
    e.of_half[1][i % o->cols >= o->cols / 2] += error * error;
  }
  return e;
}

/** Whether neighbouring rows err independently: a term that is missing or too many errs by a multiple of one row of weights everywhere. */
static bool rows_independent(const mr3d_picture *p, const double *terms) {
  const mr3d_output *o = &p->output;
  double alike = 0;
  int64_t pairs = 0;
  for (int64_t r = 0; r + 1 < o->rows; r++) {
    double a = 0, b = 0, both = 0;
    for (int64_t i = r * o->cols; i < (r + 1) * o->cols; i++) {
      const int64_t j = i + o->cols;
      if (terms[i] == 0 || terms[j] == 0) continue;
      const double first = (o->got[i] - o->ref[i]) / sqrt(terms[i]), second = (o->got[j] - o->ref[j]) / sqrt(terms[j]);
      a += first * first, b += second * second, both += first * second;
    }
    if (a > 0 && b > 0) alike += both * both / (a * b), pairs++;
  }
  return pairs >= 4 && alike / (double)pairs * (double)o->cols < 2; /* 1 for independent ones, the number of columns for multiples */
}

/** Beyond the tier's own roundings, without bias, without a part of the value, everywhere of one size: what rounding does, and no mistake in which numbers are taken. */
static bool is_random(const product_errors *e) {
  const double n = e->n, deviation = sqrt(e->squares / n);
  bool even = true;
  for (int a = 0; a < 2; a++) even = even && e->of_half[a][0] < 4 * e->of_half[a][1] && e->of_half[a][1] < 4 * e->of_half[a][0];
  return n >= 100 && e->scaled > 4 * n && even && fabs(e->sum / n) < 5 * deviation / sqrt(n) && e->largest < 8 * deviation && fabs(e->with_value) < 5 * deviation * sqrt(e->values);
}

#define MOST_TERMS ((int64_t)1 << 27) /* of attention looked at for one failure: half a second */

static double *values_of(const mr3d_tensor *t) {
  double *values = mr3d_allocate(mr3d_tensor_count(t), sizeof *values);
  mr3d_tensor_to_double(t, values);
  return values;
}

/** Sum of the squared terms of each output of `linear` [rows,out]; NULL where the request lacks something. */
static double *linear_terms(const mr3d_bundle *request, int64_t count) {
  const mr3d_tensor *x = mr3d_bundle_find(request, "x"), *weight = mr3d_bundle_find(request, "weight");
  if (!x || !weight || weight->rank != 2 || weight->shape[1] == 0) return NULL;
  const int64_t in = weight->shape[1], out = weight->shape[0], rows = mr3d_tensor_count(x) / in;
  if (rows * out != count) return NULL;
  double *a = values_of(x), *b = values_of(weight), *terms = mr3d_allocate(count, sizeof *terms);
  for (int64_t i = 0; i < rows * in; i++) a[i] *= a[i];
  for (int64_t i = 0; i < out * in; i++) b[i] *= b[i];
  const mr3d_context context = {.op = &mr3d_reference_operators};
  mr3d_linear(&context, &(mr3d_linear_in){.rows = rows, .in = in, .out = out, .x = a, .weight = b}, terms);
  free(a);
  free(b);
  return terms;
}

static void squared_row(int64_t keys, const bool *visible, double *s) {
  mr3d_softmax_row(keys, visible, s);
  for (int64_t j = 0; j < keys; j++) s[j] *= s[j];
}
static void squared_rows(const mr3d_scores *scores) { mr3d_scores_by_row(scores, squared_row); }

/** The same of `attention` [B,H,q,D]: probabilities times values. */
static double *attention_terms(const mr3d_bundle *request, int64_t count) {
  const mr3d_tensor *query = mr3d_bundle_find(request, "query"), *key = mr3d_bundle_find(request, "key"), *value = mr3d_bundle_find(request, "value"),
                    *visible = mr3d_bundle_find(request, "visible");
  if (!query || !key || !value || !visible || query->rank != 4 || key->rank != 4 || mr3d_tensor_count(query) != count || key->shape[1] == 0) return NULL;
  const int64_t B = query->shape[0], H = query->shape[1], q = query->shape[2], D = query->shape[3], G = key->shape[1], K = key->shape[2];
  if (count * K > MOST_TERMS) return NULL;
  double *a = values_of(query), *b = values_of(key), *c = values_of(value), *terms = mr3d_allocate(count, sizeof *terms);
  for (int64_t i = 0; i < B * G * K * D; i++) c[i] *= c[i];
  const mr3d_context context = {.op = &mr3d_reference_operators};
  mr3d_attend_with(squared_rows, false, &context, &(mr3d_attention_in){B, H, G, q, K, D, a, b, c, visible->data}, terms);
  free(a);
  free(b);
  free(c);
  return terms;
}

/**
 * Sums held in a narrow type: which numbers come out depends on the order of summation, so no mutant gives them, but their size does not. Parts of a sum that are rounded to u err by
 * u / √3 of the root of their sum of squares, which is that of the terms, however many parts there are; where every partial sum of n terms is rounded, by √(n / 2) times that.
 */
static bool is_summed_narrowly(const mr3d_scene *s, const mr3d_picture *p, double *rounding) {
  const int64_t count = p->output.rows * p->output.cols;
  double *terms = NULL;
  if (p->output.scale && strcmp(s->op, "linear") == 0) terms = linear_terms(s->request, count);
  if (p->output.scale && strcmp(s->op, "attention") == 0) terms = attention_terms(s->request, count);
  if (!terms) return false;
  const product_errors e = measure_product(p, terms);
  const bool random = is_random(&e) && rows_independent(p, terms);
  *rounding = sqrt(3 * e.squares / e.n);
  free(terms);
  return random;
}

static void say_summed_narrowly(double rounding, mr3d_text *t) {
  mr3d_say(t, "the errors are random, 2^%.1f of the root sum of squares of each output's terms: as where sums, or parts of them, are held in a narrow type in whatever order (rounding to bfloat16 loses 2^-9 to 2^-8, to "
              "float16 2^-12 to 2^-11, more where every partial sum is rounded)", log2(rounding));
}

static void say_where(const mr3d_scene *s, const mr3d_picture *p, const census *c, mr3d_text *t) {
  const mr3d_output *o = &p->output;
  mr3d_say(t, "%lld of %lld elements in %lld of %lld rows are wrong", (long long)c->wrong, (long long)(c->rows * o->cols), (long long)c->wrong_rows, (long long)c->rows);
  if (c->nans > 0)
    mr3d_say(t, "; %lld are NaN, in %lld rows%s", (long long)c->nans, (long long)c->nan_rows, only_blind_rows(s, o) ? ", exactly those that see no key" : "");
  if (o->point && c->wrong_points > 0 && c->wrong_texts == 0 && c->texts > 0) mr3d_say(t, "; only points");
  if (o->point && c->wrong_texts > 0 && c->wrong_points == 0 && c->points > 0) mr3d_say(t, "; only text tokens");
  if (o->heads > 1 && c->wrong_heads < o->heads) mr3d_say(t, "; only heads "), say_list(t, c->head, o->heads);
  if (c->wrong_columns < o->cols) {
    bool first = true, second = true;
    for (int64_t k = 0; k < o->cols; k++) *(k < o->cols / 2 ? &second : &first) &= !c->column[k];
    if (first && o->cols > 3) mr3d_say(t, "; only in the first half of the last axis (dimensions "), say_list(t, c->column, o->cols), mr3d_say(t, ")");
    else if (second && o->cols > 3) mr3d_say(t, "; only in the second half of the last axis (dimensions "), say_list(t, c->column, o->cols), mr3d_say(t, ")");
    else if (strcmp(p->name, "coords") == 0 && o->cols == 3) {
      mr3d_say(t, "; only on the axes");
      for (int a = 0; a < 3; a++)
        if (c->column[a]) mr3d_say(t, " %c", "xyz"[a]);
    } else if (every_second(c->column, o->cols, 0)) mr3d_say(t, "; only even dimensions");
    else if (every_second(c->column, o->cols, 1)) mr3d_say(t, "; only odd dimensions");
    else mr3d_say(t, "; only dimensions "), say_list(t, c->column, o->cols);
  }
  int64_t samples = o->rows / (o->heads * o->per_head);
  if (samples > 1 && c->first_row >= o->heads * o->per_head) mr3d_say(t, "; sample 0 is right");
  int64_t from = o->per_head, right_behind = 0;
  for (int64_t r = 0; r < o->rows; r++)
    if (c->row[r] && r % o->per_head < from) from = r % o->per_head;
  for (int64_t r = 0; r < o->rows; r++) right_behind += !c->row[r] && r % o->per_head >= from;
  if (c->wrong_rows == 1) mr3d_say(t, "; only row %lld", (long long)c->first_row);
  else if (from > 0 && right_behind == 0) mr3d_say(t, "; everything from token %lld on, nothing before", (long long)from);
  else if (from > 0) mr3d_say(t, "; the first wrong token is %lld", (long long)from);
  if (grows(p, c)) mr3d_say(t, "; the error grows with the position");
}

/* ---- integers, booleans, other shapes ---- */

/** An exact output seen as rows of its last axis; values as binary64, which holds every integer that occurs. */
typedef struct exact {
  int64_t rows, cols, wrong, wrong_rows;
  double *got, *ref;
  bool *row, *column;
} exact;

static exact open_exact(const mr3d_picture *p) {
  int64_t count = mr3d_tensor_count(p->got), cols = p->got->rank > 0 ? p->got->shape[p->got->rank - 1] : 1;
  exact e = {.rows = cols > 0 ? count / cols : 0, .cols = cols, .got = mr3d_allocate(2 * count, sizeof *e.got)};
  e.ref = e.got + count;
  e.row = mr3d_allocate(e.rows + cols, sizeof *e.row);
  e.column = e.row + e.rows;
  mr3d_tensor_to_double(p->got, e.got);
  mr3d_tensor_to_double(p->expected, e.ref);
  for (int64_t i = 0; i < count; i++)
    if (e.got[i] != e.ref[i]) {
      e.wrong++;
      e.row[i / cols] = e.column[i % cols] = true;
    }
  for (int64_t r = 0; r < e.rows; r++) e.wrong_rows += e.row[r];
  return e;
}

static void close_exact(exact *e) {
  free(e->got);
  free(e->row);
}

/** Whether each element holds what belongs `by` columns before it, or `by` rows; what was shifted in from outside is not looked at. */
static bool is_shifted(const exact *e, bool rows, int64_t by) {
  for (int64_t i = 0; i < e->rows * e->cols; i++) {
    int64_t r = i / e->cols - (rows ? by : 0), c = i % e->cols - (rows ? 0 : by);
    if (r < 0 || r >= e->rows || c < 0 || c >= e->cols) continue;
    if (e->got[i] != e->ref[r * e->cols + c]) return false;
  }
  return true;
}

static bool is_inverted(const exact *e) {
  for (int64_t i = 0; i < e->rows * e->cols; i++)
    if (e->got[i] == e->ref[i]) return false;
  return true;
}

static bool say_exact_pattern(const mr3d_picture *p, const exact *e, mr3d_text *t) {
  bool flags = p->got->dtype == MR3D_BOOL;
  for (int by = 1; by <= 2; by++)
    for (int way = -1; way <= 1; way += 2) {
      const char *where = way < 0 ? "early" : "late", *much = by == 1 ? "one place" : "two places";
      if (e->cols > 2 && is_shifted(e, false, way * by)) return mr3d_say(t, "all of it stands %s too %s along the last axis", much, where), true;
      if (e->rows > 2 && is_shifted(e, true, way * by)) return mr3d_say(t, "all of it stands %s too %s: row i holds what belongs in row i%+d", much, where, -way * by), true;
    }
  if (flags && is_inverted(e)) return mr3d_say(t, "it is inverted: true where false belongs, and the reverse"), true;
  return false;
}

static void say_exact(const mr3d_picture *p, const exact *e, mr3d_text *t) {
  bool flags = p->got->dtype == MR3D_BOOL;
  int64_t more = 0, less = 0, difference = 0;
  bool constant = true;
  for (int64_t i = 0, seen = 0; i < e->rows * e->cols; i++) {
    if (e->got[i] == e->ref[i]) continue;
    *(e->got[i] > e->ref[i] ? &more : &less) += 1;
    if (seen++ == 0) difference = (int64_t)(e->got[i] - e->ref[i]);
    constant = constant && e->got[i] - e->ref[i] == (double)difference;
  }
  if (!say_exact_pattern(p, e, t)) {
    mr3d_say(t, "%lld of %lld elements in %lld of %lld rows are wrong", (long long)e->wrong, (long long)(e->rows * e->cols), (long long)e->wrong_rows, (long long)e->rows);
    if (flags && (more == 0 || less == 0)) mr3d_say(t, "; all of them are %s", more ? "true where false belongs" : "false where true belongs");
    else if (flags) mr3d_say(t, "; %lld are true where false belongs, %lld false where true belongs", (long long)more, (long long)less);
    else if (constant && e->wrong > 1) mr3d_say(t, "; each of them by %+lld", (long long)difference);
    if (e->wrong_rows < e->rows) mr3d_say(t, "; only rows "), say_list(t, e->row, e->rows);
    int64_t columns = 0;
    for (int64_t c = 0; c < e->cols; c++) columns += e->column[c];
    if (columns < e->cols) mr3d_say(t, "; only columns "), say_list(t, e->column, e->cols);
  }
}

/** Another shape: which axis, and whether what both have agrees. */
static void say_shape(const mr3d_picture *p, mr3d_text *t) {
  const mr3d_tensor *got = p->got, *ref = p->expected;
  char shapes[2][96];
  if (got->rank == ref->rank && memcmp(got->shape, ref->shape, (size_t)got->rank * sizeof *got->shape) == 0) {
    mr3d_say(t, "its type is %s instead of %s", mr3d_dtype_name(got->dtype), mr3d_dtype_name(ref->dtype));
    return;
  }
  mr3d_say(t, "its shape is %s instead of %s", mr3d_shape_text(got->rank, got->shape, shapes[0]), mr3d_shape_text(ref->rank, ref->shape, shapes[1]));
  if (got->rank != ref->rank) {
    if (mr3d_tensor_count(got) == mr3d_tensor_count(ref)) mr3d_say(t, ", with as many elements: it was flattened or unfolded");
    return;
  }
  int differ = 0, axis = 0;
  bool permuted = mr3d_tensor_count(got) == mr3d_tensor_count(ref);
  for (int a = 0; a < got->rank; a++)
    if (got->shape[a] != ref->shape[a]) differ++, axis = a;
  if (differ == 2 && permuted) mr3d_say(t, ": two axes are exchanged, or heads were repeated");
  if (differ != 1) return;
  int64_t surplus = got->shape[axis] - ref->shape[axis], outer = 1, inner = 1, common = surplus < 0 ? got->shape[axis] : ref->shape[axis], agree = 0;
  for (int a = 0; a < axis; a++) outer *= got->shape[a];
  for (int a = axis + 1; a < got->rank; a++) inner *= got->shape[a];
  mr3d_say(t, ": %lld too %s along axis %d", (long long)(surplus < 0 ? -surplus : surplus), surplus < 0 ? "few" : "many", axis);
  if (outer != 1 || mr3d_tensor_count(got) == 0) return;
  double *a = mr3d_allocate(mr3d_tensor_count(got) + mr3d_tensor_count(ref), sizeof *a), *b = a + mr3d_tensor_count(got);
  mr3d_tensor_to_double(got, a);
  mr3d_tensor_to_double(ref, b);
  while (agree < common * inner && fabs(a[agree] - b[agree]) <= 1e-3 * fabs(b[agree])) agree++;
  free(a);
  if (agree == common * inner) mr3d_say(t, "; the first %lld agree", (long long)common);
  else mr3d_say(t, "; they part from index %lld on", (long long)(agree / inner));
}

void mr3d_say_facts(const mr3d_scene *s, const char *why, mr3d_result *result) {
  mr3d_text t = {result->diagnosis, sizeof result->diagnosis};
  for (int i = 0; i < s->n_pictures; i++) {
    const mr3d_picture *p = &s->pictures[i];
    if (!p->expected || mr3d_tensor_count(p->expected) == 0) continue;
    census c = {0};
    exact e = {0};
    if (p->comparable && p->floating) c = count_wrong(p);
    else if (p->comparable) e = open_exact(p);
    double rounding = 0;
    const bool narrow = p->comparable && p->floating && c.nans == 0 && is_summed_narrowly(s, p, &rounding);
    if (!p->comparable || c.wrong > 0 || e.wrong > 0 || narrow) {
      if (t.at == result->diagnosis) mr3d_say(&t, "%s; certain is: \"%s\": ", why, p->name);
      else mr3d_say(&t, ". \"%s\": ", p->name);
      if (!p->comparable) say_shape(p, &t);
      else if (!p->floating) say_exact(p, &e, &t);
      else if (c.wrong == 0) say_summed_narrowly(rounding, &t);
      else if (!say_pattern(s, p, &t)) {
        say_where(s, p, &c, &t);
        if (narrow) mr3d_say(&t, "; "), say_summed_narrowly(rounding, &t);
      }
    }
    free_census(&c);
    close_exact(&e);
  }
}

/* ---- refusals and crashes ---- */

/** Whether the text holds the number as a word of its own. */
static bool names(const char *text, int64_t number) {
  char digits[24];
  size_t n = (size_t)snprintf(digits, sizeof digits, "%lld", (long long)number);
  for (const char *at = text; (at = strstr(at, digits)); at += n) {
    bool starts = at == text || !strchr("0123456789.", at[-1]), ends = at[n] == 0 || !strchr("0123456789", at[n]);
    if (starts && ends) return true;
  }
  return false;
}

static int64_t size_of(const mr3d_bundle *request, const char *tensor, int axis) {
  const mr3d_tensor *t = mr3d_bundle_find(request, tensor);
  return t && axis < t->rank ? t->shape[axis] : 0;
}

/** Keys that stand at the last request: past and new tokens of its cache, or of its session. */
static int64_t keys_of(int n_requests, mr3d_bundle *const requests[]) {
  const mr3d_bundle *last = requests[n_requests - 1];
  const char *session = mr3d_bundle_get(last, "session");
  int64_t keys = session ? 0 : size_of(last, "past_key", 2) + size_of(last, "hidden", 1);
  for (int i = 0; session && i < n_requests; i++) {
    const char *name = mr3d_bundle_get(requests[i], "session");
    if (name && strcmp(name, session) == 0) keys += size_of(requests[i], "inputs_embeds", 1) + size_of(requests[i], "input_ids", 1);
  }
  return keys;
}

void mr3d_say_symptom(int n_requests, mr3d_bundle *const requests[], const mr3d_reply *reply, mr3d_result *result) {
  const mr3d_bundle *last = requests[n_requests - 1];
  mr3d_text t = {result->diagnosis, sizeof result->diagnosis};
  mr3d_config config;
  const char *json = mr3d_bundle_get(last, "config");
  bool has_config = json && mr3d_config_parse(json, &config, NULL) == MR3D_OK;
  int64_t columns = size_of(last, mr3d_bundle_find(last, "key_mask") ? "key_mask" : "attention_mask", 1), keys = keys_of(n_requests, requests);
  const char *const texts[] = {reply->message, reply->log ? reply->log : ""};
  for (int i = 0; i < 2 && t.at == result->diagnosis; i++) {
    int64_t H = has_config ? config.num_attention_heads : 0, G = has_config ? config.num_key_value_heads : 0;
    if (columns > 0 && columns < keys && names(texts[i], columns) && names(texts[i], keys))
      mr3d_say(&t, "the message names %lld and %lld: the caller's mask has %lld columns where %lld keys stand (mr3d explain mask-length)", (long long)columns,
               (long long)keys, (long long)columns, (long long)keys);
    else if (H > G && G > 0 && names(texts[i], H) && names(texts[i], G))
      mr3d_say(&t, "the message names %lld and %lld, the numbers of query and of key/value heads (mr3d explain gqa-heads)", (long long)H, (long long)G);
  }
}
