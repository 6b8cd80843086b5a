/** What a weight that differs looks like. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "inputs.h"
#include "mr3d/format.h"

static double rounded(double value, mr3d_dtype dtype) {
  return dtype == MR3D_BF16 ? mr3d_bf16_to_double(mr3d_bf16_from_double(value)) : dtype == MR3D_F16 ? mr3d_f16_to_double(mr3d_f16_from_double(value)) : (double)(float)value;
}

static const struct { mr3d_dtype dtype; const char *name; } formats[] = {{MR3D_F32, "fp32"}, {MR3D_F16, "fp16"}, {MR3D_BF16, "bf16"}};
enum { N_FORMATS = sizeof formats / sizeof *formats };

/* ---- orders of rows ---- */

/* Row j of the transformed matrix is row from(j) of the other. */
typedef int64_t row_order(int64_t j, int64_t rows, int64_t D);
/* Pairs (j, j + D/2) put side by side, head by head, and the reverse: the other pairing of a rotation, moved into the weights. */
static int64_t interleaved(int64_t j, int64_t rows, int64_t D) {
  const int64_t d = j % D;
  return (void)rows, j - d + (d % 2 ? D / 2 + d / 2 : d / 2);
}
static int64_t half_split(int64_t j, int64_t rows, int64_t D) {
  const int64_t d = j % D;
  return (void)rows, j - d + (d < D / 2 ? 2 * d : 2 * (d - D / 2) + 1);
}
static int64_t halves_exchanged(int64_t j, int64_t rows, int64_t D) { return (void)rows, j - j % D + (j % D + D / 2) % D; }
static int64_t heads_reversed(int64_t j, int64_t rows, int64_t D) { return rows - D - (j - j % D) + j % D; }
static int64_t heads_inside(int64_t j, int64_t rows, int64_t D) { return j % (rows / D) * D + j / (rows / D); } /* [D,heads] for [heads,D] */
static int64_t rows_reversed(int64_t j, int64_t rows, int64_t D) { return (void)D, rows - 1 - j; }

static const struct { row_order *from; const char *name; } orders[] = {
    {interleaved, "its rows in another order within each head: pairs (j, j + D/2) side by side"},
    {half_split, "its rows in another order within each head: pairs (2j, 2j + 1) taken apart into halves"},
    {halves_exchanged, "the halves of each head exchanged"},
    {heads_inside, "its rows in another order: heads inside, dimensions outside"},
    {heads_reversed, "its heads in reverse order"},
    {rows_reversed, "its rows in reverse order"}};
enum { N_ORDERS = sizeof orders / sizeof *orders };

static bool order_applies(int order, int64_t rows, int64_t D) { return orders[order].from == rows_reversed || (D > 1 && D % 2 == 0 && rows % D == 0 && rows > 0); }

static void take_rows(const mr3d_values *v, int order, int64_t D, double *out) {
  const int64_t rows = v->shape[0], columns = rows ? v->count / rows : 0;
  for (int64_t j = 0; j < rows; j++) memcpy(out + j * columns, v->at + orders[order].from(j, rows, D) * columns, (size_t)columns * sizeof *out);
}

static void transpose(const mr3d_values *v, double *out) {
  const int64_t rows = v->shape[0], columns = v->shape[1];
  for (int64_t i = 0; i < rows; i++)
    for (int64_t j = 0; j < columns; j++) out[j * rows + i] = v->at[i * columns + j];
}

/* ---- with both values ---- */

/* The coarsest tolerance under which two numbers count as the same weight: bfloat16's. */
static bool near(double a, double b, double size) { return fabs(a - b) <= 0x1p-8 * fabs(b) + 0x1p-30 * size; }

static bool all_near(int64_t count, const double *a, const double *b, double size) {
  for (int64_t i = 0; i < count; i++)
    if (!near(a[i], b[i], size)) return false;
  return true;
}

/* The narrowest format that one is the other's rounding to. */
static const char *rounding_of(int64_t count, const double *a, const double *b) {
  for (int f = 0; f < N_FORMATS; f++) {
    bool same = true;
    for (int64_t i = 0; i < count && same; i++) same = a[i] == rounded(b[i], formats[f].dtype);
    if (same) return formats[f].name;
  }
  return NULL;
}

/* A row's mark: equal rows have equal ones, also after rounding, all but never others. */
typedef struct mark {
  double sum, weighted;
  int64_t row;
} mark;

static int by_sum(const void *left, const void *right) {
  const mark *l = left, *r = right;
  return l->sum < r->sum ? -1 : l->sum > r->sum ? 1 : 0;
}

static mark *marks_of(const double *values, int64_t rows, int64_t columns) {
  mark *marks = mr3d_allocate(rows, sizeof *marks);
  for (int64_t i = 0; i < rows; i++) {
    marks[i].row = i;
    for (int64_t j = 0; j < columns; j++) {
      marks[i].sum += fabs(values[i * columns + j]);
      marks[i].weighted += values[i * columns + j] * (double)(1 + j % 17);
    }
  }
  qsort(marks, (size_t)rows, sizeof *marks, by_sum);
  return marks;
}

/* Whether the rows of one are those of the other in another order, exactly; the first that is elsewhere. */
static bool is_permutation(const double *a, const double *b, int64_t rows, int64_t columns, int64_t *moved, int64_t *from) {
  mark *x = marks_of(a, rows, columns), *y = marks_of(b, rows, columns);
  bool same = true;
  *moved = rows;
  for (int64_t i = 0; i < rows && same; i++) same = x[i].sum == y[i].sum;
  for (int64_t i = 0; i < rows && same; i++) {
    same = memcmp(a + x[i].row * columns, b + y[i].row * columns, (size_t)columns * sizeof *a) == 0 || (i > 0 && x[i].sum == x[i - 1].sum) || (i + 1 < rows && x[i].sum == x[i + 1].sum);
    if (x[i].row != y[i].row && x[i].row < *moved) *moved = x[i].row, *from = y[i].row;
  }
  free(x), free(y);
  return same && *moved < rows;
}

/* a = factor * b, all of it; 0: no such factor. */
static double factor_of(int64_t count, const double *a, const double *b) {
  double dot = 0, square = 0, rest = 0, size = 0;
  for (int64_t i = 0; i < count; i++) dot += a[i] * b[i], square += b[i] * b[i];
  if (square == 0) return 0;
  const double factor = dot / square;
  for (int64_t i = 0; i < count; i++) rest += (a[i] - factor * b[i]) * (a[i] - factor * b[i]), size += a[i] * a[i];
  return size > 0 && sqrt(rest / size) < 5e-3 ? factor : 0;
}

static double correlation(int64_t count, const double *a, const double *b) {
  double dot = 0, x = 0, y = 0;
  for (int64_t i = 0; i < count; i++) dot += a[i] * b[i], x += a[i] * a[i], y += b[i] * b[i];
  return x > 0 && y > 0 ? dot / sqrt(x * y) : 0;
}

static bool is_matrix(const mr3d_values *v) { return v->rank == 2 && v->shape[0] > 1 && v->shape[1] > 1; }

void mr3d_weight_looks(const mr3d_values *subject, const mr3d_values *reference, int64_t D, double *max, bool *rounding, char looks[200]) {
  const int64_t count = reference->count;
  *max = NAN;
  *rounding = false;
  *looks = 0;
  double size = 0, largest = 0;
  for (int64_t i = 0; i < count; i++) size = fmax(size, fabs(reference->at[i]));
  if (subject->count != count) {
    snprintf(looks, 200, "of another size");
    return;
  }
  int64_t different = 0, first = -1;
  bool finite = true, zero = true;
  for (int64_t i = 0; i < count; i++) {
    finite &= isfinite(subject->at[i]) != 0;
    zero &= subject->at[i] == 0;
    if (subject->at[i] == reference->at[i]) continue;
    if (!different++) first = i;
    largest = fmax(largest, fabs(subject->at[i] - reference->at[i]));
  }
  bool same_shape = subject->rank == reference->rank;
  for (int i = 0; same_shape && i < reference->rank; i++) same_shape = subject->shape[i] == reference->shape[i];
  if (same_shape || !is_matrix(reference)) *max = largest;
  if (!finite) {
    snprintf(looks, 200, "not finite");
    return;
  }
  const char *format = rounding_of(count, subject->at, reference->at), *other = rounding_of(count, reference->at, subject->at);
  *rounding = different && (format || other);
  if (!different) {
    *looks = 0;
    return;
  }
  if (zero) snprintf(looks, 200, "zero");
  else if (format) snprintf(looks, 200, "rounded to %s", format);
  else if (other) snprintf(looks, 200, "what the reference's is the rounding of to %s", other);
  if (*looks) return;

  double *work = mr3d_allocate(count, sizeof *work);
  int64_t moved, from;
  if (is_matrix(reference)) {
    transpose(reference, work);
    if (all_near(count, subject->at, work, size)) snprintf(looks, 200, "transposed");
  }
  for (int o = 0; o < N_ORDERS && !*looks && reference->rank >= 1; o++)
    if (order_applies(o, reference->shape[0], D)) {
      take_rows(reference, o, D, work);
      if (all_near(count, subject->at, work, size)) snprintf(looks, 200, "like the reference's with %s", orders[o].name);
    }
  const double factor = *looks ? 0 : factor_of(count, subject->at, reference->at);
  if (*looks) {
  } else if (factor != 0 && fabs(factor - 1) > 1e-3) snprintf(looks, 200, factor == -1 ? "of the opposite sign" : "multiplied by %.4g", factor);
  else if (same_shape && reference->rank >= 1 && reference->shape[0] > 1 && is_permutation(subject->at, reference->at, reference->shape[0], count / reference->shape[0], &moved, &from))
    snprintf(looks, 200, "like the reference's with its rows in another order: row %lld is there row %lld", (long long)moved, (long long)from);
  else if (same_shape && is_matrix(reference)) {
    mr3d_values t = {2, {reference->shape[1], reference->shape[0]}, count, work};
    double *columns = mr3d_allocate(count, sizeof *columns);
    transpose(reference, work);
    transpose(subject, columns);
    if (is_permutation(columns, work, t.shape[0], t.shape[1], &moved, &from))
      snprintf(looks, 200, "like the reference's with its columns in another order: column %lld is there column %lld", (long long)moved, (long long)from);
    free(columns);
  }
  if (!*looks) {
    const double c = correlation(count, subject->at, reference->at);
    if (different * 100 <= count) snprintf(looks, 200, "the same but for %lld of %lld elements, the first at flat index %lld", (long long)different, (long long)count, (long long)first);
    else if (c > 0.999) snprintf(looks, 200, "the same with noise of %.1e of its size (trained further, or quantised)", sqrt(fmax(0, 2 * (1 - c))));
    else if (c > 0.3) snprintf(looks, 200, "related (correlation %.2f), perhaps of another checkpoint of the same run", c);
    else snprintf(looks, 200, "unrelated (correlation %.2f)", c);
  }
  free(work);
}

/* ---- from a digest alone ---- */

static bool has_digest(const double *values, int64_t count, const char *digest) {
  mr3d_digest own;
  mr3d_digest_values(values, count, own);
  return strcmp(own, digest) == 0;
}

void mr3d_digest_looks(const char *digest, const mr3d_values *reference, int64_t D, bool *rounding, char looks[200]) {
  const int64_t count = reference->count;
  const double factors[] = {-1, 2, 0.5, sqrt((double)(D > 0 ? D : 1)), 1 / sqrt((double)(D > 0 ? D : 1)), 0};
  double *work = mr3d_allocate(count, sizeof *work);
  *looks = 0;
  *rounding = false;
  for (int f = 0; f < N_FORMATS && !*looks; f++) {
    for (int64_t i = 0; i < count; i++) work[i] = rounded(reference->at[i], formats[f].dtype);
    if (has_digest(work, count, digest)) snprintf(looks, 200, "rounded to %s", formats[f].name), *rounding = true;
  }
  if (is_matrix(reference) && !*looks) {
    transpose(reference, work);
    if (has_digest(work, count, digest)) snprintf(looks, 200, "transposed");
  }
  for (int o = 0; o < N_ORDERS && !*looks && reference->rank >= 1; o++)
    if (order_applies(o, reference->shape[0], D)) {
      take_rows(reference, o, D, work);
      if (has_digest(work, count, digest)) snprintf(looks, 200, "like the reference's with %s", orders[o].name);
    }
  for (size_t f = 0; f < sizeof factors / sizeof *factors && !*looks; f++) {
    for (int64_t i = 0; i < count; i++) work[i] = factors[f] == 0 ? 0 : (double)(float)(reference->at[i] * factors[f]);
    if (has_digest(work, count, digest)) snprintf(looks, 200, factors[f] == 0 ? "zero" : factors[f] == -1 ? "of the opposite sign" : "multiplied by %.4g", factors[f]);
  }
  free(work);
}
