/*
 * The matrix product, y = x w^T + bias: everything else is small beside it.
 *
 * Many rows: panels of 16 outputs are transposed, 256 terms at a time, into a buffer that fits the first cache, and
 * 6 rows times 16 outputs are accumulated in registers. Partial sums of 256 terms also keep the rounding error low. Few rows: one dot
 * product an output, since reading the weights is all the work. Compilers turn the fixed inner loops into vectors.
 */
#include <stdlib.h>
#include <string.h>

#include "f32.h"

#if defined(__x86_64__) && defined(__GNUC__) && __GNUC__ >= 12 && !defined(__clang__) && !defined(__SANITIZE_ADDRESS__)
#define CLONES __attribute__((target_clones("arch=x86-64-v3", "default")))
#else
#define CLONES
#endif

#ifdef __x86_64__
enum { LANES = 8 };
#else
enum { LANES = 4 };
#endif
enum { PANEL = 16, TERMS = 256, ROWS = 6, PARTS = PANEL / LANES };

/* One register: of a vector that no register holds compilers keep the sums in memory, ten times slower. */
typedef float lanes __attribute__((vector_size(LANES * sizeof(float)), aligned(4), may_alias));

CLONES float dot(int64_t n, const float *a, const float *b) {
  lanes sum[2 * PARTS] = {{0}};
  int64_t i = 0;
  for (; i + 2 * PANEL <= n; i += 2 * PANEL)
    for (int p = 0; p < 2 * PARTS; p++) sum[p] += *(const lanes *)(a + i + p * LANES) * *(const lanes *)(b + i + p * LANES);
  float total[PANEL];
  for (int p = 0; p < PARTS; p++) *(lanes *)(total + p * LANES) = sum[p] + sum[PARTS + p];
  for (int half = PANEL / 2; half > 0; half /= 2)
    for (int l = 0; l < half; l++) total[l] += total[l + half];
  float rest = 0;
  for (; i < n; i++) rest += a[i] * b[i];
  return total[0] + rest;
}

/* y[ROWS][PANEL] += x[ROWS][terms] panel[terms][PANEL]; rows lie x_step and y_step apart. */
CLONES static void tile(int64_t terms, const float *x, int64_t x_step, const float *panel, float *y, int64_t y_step) {
  lanes sum[ROWS][PARTS] = {{{0}}};
  for (int64_t k = 0; k < terms; k++)
    for (int r = 0; r < ROWS; r++)
      for (int p = 0; p < PARTS; p++) sum[r][p] += x[r * x_step + k] * *(const lanes *)(panel + k * PANEL + p * LANES);
  for (int r = 0; r < ROWS; r++)
    for (int p = 0; p < PARTS; p++) *(lanes *)(y + r * y_step + p * LANES) += sum[r][p];
}

/* One panel of outputs, from `first` on, for all rows; `width` of it exist. */
static void panel_product(int64_t rows, int64_t in, int64_t out, const float *x, const float *w, const float *bias, float *y, int64_t first,
                          int width) {
  float panel[TERMS * PANEL], sums[ROWS * PANEL];
  for (int64_t r = 0; r < rows; r++)
    for (int o = 0; o < width; o++) y[r * out + first + o] = bias ? bias[first + o] : 0;
  for (int64_t k0 = 0; k0 < in; k0 += TERMS) {
    const int64_t terms = in - k0 < TERMS ? in - k0 : TERMS;
    for (int o = 0; o < PANEL; o++)
      for (int64_t k = 0; k < terms; k++) panel[k * PANEL + o] = o < width ? w[(first + o) * in + k0 + k] : 0;
    for (int64_t r = 0; r < rows; r += ROWS) {
      if (width == PANEL && r + ROWS <= rows) {
        tile(terms, x + r * in + k0, in, panel, y + r * out + first, out);
        continue;
      }
      /* At the edges the tile goes through buffers, rows beyond the last repeating it. */
      const int64_t left = rows - r < ROWS ? rows - r : ROWS;
      float edge[ROWS * TERMS];
      for (int i = 0; i < ROWS; i++) memcpy(edge + i * terms, x + (r + (i < left ? i : left - 1)) * in + k0, (size_t)terms * sizeof *edge);
      memset(sums, 0, sizeof sums);
      tile(terms, edge, terms, panel, sums, PANEL);
      for (int64_t i = 0; i < left; i++)
        for (int o = 0; o < width; o++) y[(r + i) * out + first + o] += sums[i * PANEL + o];
    }
  }
}

void product(int64_t rows, int64_t in, int64_t out, const float *x, const float *w, const float *bias, float *y) {
  const bool small = rows * in * out < 100000; /* threads would cost more than they bring */
  (void)small;
  if (rows < ROWS) {
#pragma omp parallel for if (!small)
    for (int64_t o = 0; o < out; o++)
      for (int64_t r = 0; r < rows; r++) y[r * out + o] = dot(in, x + r * in, w + o * in) + (bias ? bias[o] : 0);
    return;
  }
#pragma omp parallel for schedule(dynamic) if (!small)
  for (int64_t first = 0; first < out; first += PANEL)
    panel_product(rows, in, out, x, w, bias, y, first, out - first < PANEL ? (int)(out - first) : PANEL);
}
