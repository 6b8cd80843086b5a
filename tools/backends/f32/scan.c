/* From a raw scan to cells, from cells to tokens (spec.md 7); everything here is exact or binary64. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "f32.h"

typedef struct cell {
  int64_t at[3], row;
} cell;

/* By place, then by row number. */
static int compare(const void *left, const void *right) {
  const cell *a = left, *b = right;
  for (int k = 0; k < 3; k++)
    if (a->at[k] != b->at[k]) return a->at[k] < b->at[k] ? -1 : 1;
  return a->row < b->row ? -1 : a->row > b->row;
}

/* Keeps the first of each place, in order; count[i], where wanted, says how many there were. Returns how many places. */
static int64_t sort_and_merge(cell *cells, int64_t n, int64_t *count) {
  qsort(cells, (size_t)n, sizeof *cells, compare);
  int64_t places = 0;
  for (int64_t i = 0; i < n; i++) {
    if (places == 0 || memcmp(cells[places - 1].at, cells[i].at, sizeof cells[i].at) != 0) cells[places++] = cells[i];
    if (count) count[places - 1]++;
  }
  return places;
}

void op_voxelize(call *c) {
  const array *points = need(c, "points", COORDS, "NC");
  only_these(c);
  const int64_t N = c->size['N'], C = c->size['C'], last = c->o.bins - 1;
  if (C != 3 && C != 6) refuse(c, "points has %lld columns, expected 3 or 6", (long long)C);
  int64_t *rows = scratch(c, N, sizeof *rows), n = 0;
  double low[3] = {INFINITY, INFINITY, INFINITY};
  for (int64_t r = 0; r < N; r++) {
    const double *p = points->d + r * C;
    bool finite = true;
    for (int64_t k = 0; k < C; k++) finite = finite && isfinite(p[k]);
    if (!finite) continue;
    rows[n++] = r;
    for (int64_t k = 3; k < C; k++)
      if (p[k] < 0 || p[k] > 255) refuse(c, "points holds the colour %g in row %lld, expected 0 to 255", p[k], (long long)r);
    for (int k = 0; k < 3; k++) low[k] = fmin(low[k], p[k]);
  }
  if (n == 0) refuse(c, "none of the %lld points is finite: the cloud is empty", (long long)N);

  cell *cells = scratch(c, n, sizeof *cells);
  for (int64_t i = 0; i < n; i++) {
    cells[i].row = rows[i];
    for (int k = 0; k < 3; k++) {
      const double index = floor((points->d[rows[i] * C + k] - low[k]) / c->o.cell);
      if (index > (double)last && c->o.overflow == OVERFLOW_ERROR)
        refuse(c, "point %lld lies in cell %.0f of axis %d, the last is %lld", (long long)rows[i], index, k, (long long)last);
      cells[i].at[k] = index > (double)last ? last : (int64_t)index;
    }
  }
  const int64_t M = sort_and_merge(cells, n, NULL);
  int64_t *grid = out_wholes(c, "grid", SHAPE(M, 3));
  float *features = out_floats(c, "features", SHAPE(M, C));
  for (int64_t m = 0; m < M; m++) {
    const double *p = points->d + cells[m].row * C;
    memcpy(grid + 3 * m, cells[m].at, sizeof cells[m].at);
    for (int k = 0; k < 3; k++) features[m * C + k] = (float)(p[k] - low[k]);
    for (int64_t k = 3; k < C; k++) features[m * C + k] = (float)(p[k] / 127.5 - 1);
  }
}

void op_token_coords(call *c) {
  const array *grid = need(c, "grid", WHOLE, "M3");
  only_these(c);
  const int64_t stages = whole(c, "stages", 0, -1);
  int64_t M = c->size['M'];
  cell *cells = scratch(c, M, sizeof *cells);
  for (int64_t m = 0; m < M; m++)
    for (int k = 0; k < 3; k++) {
      cells[m].at[k] = grid->i[3 * m + k];
      if (cells[m].at[k] < 0) refuse(c, "grid holds %lld in row %lld; indices start at 0", (long long)cells[m].at[k], (long long)m);
    }
  M = sort_and_merge(cells, M, NULL); /* a cell given twice counts once */
  for (int64_t m = 0; m < M; m++)
    for (int k = 0; k < 3; k++) cells[m].at[k] = stages > 62 ? 0 : cells[m].at[k] >> stages;
  int64_t *count = scratch(c, M, sizeof *count);
  const int64_t N = sort_and_merge(cells, M, count);
  int64_t *coords = out_wholes(c, "coords", SHAPE(N, 3)), *counts = out_wholes(c, "count", SHAPE(N));
  for (int64_t i = 0; i < N; i++) memcpy(coords + 3 * i, cells[i].at, sizeof cells[i].at);
  if (N > 0) memcpy(counts, count, (size_t)N * sizeof *counts);
}
