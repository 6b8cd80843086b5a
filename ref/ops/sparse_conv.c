#include "sparse_conv.h"

#include <stdlib.h>
#include <string.h>

#include "../base/product.h"

/* Distances between the weights of neighbouring taps, input channels and output channels. */
typedef struct steps {
  int64_t tap, in, out;
} steps;

static steps steps_of(const mr3d_sparse_conv_in *in) {
  const int64_t taps = in->k * in->k * in->k;
  if (in->layout == MR3D_KERNEL_OUT_FIRST)
    return (steps){.tap = in->c_in, .in = 1, .out = taps * in->c_in};
  return (steps){.tap = in->c_in * in->c_out, .in = in->c_out, .out = 1};
}

void mr3d_sparse_conv_plain(const mr3d_sparse_conv_in *in, const int64_t *rows, double *y) {
  const steps step = steps_of(in);
  for (int64_t p = 0; p < in->n_out; p++)
    for (int64_t o = 0; o < in->c_out; o++) {
      double sum = 0;
      for (int64_t t = 0; t < in->k * in->k * in->k; t++) {
        const int64_t row = rows[t * in->n_out + p];
        for (int64_t i = 0; row >= 0 && i < in->c_in; i++)
          sum = sum + in->x[row * in->c_in + i] * in->kernel.weight[t * step.tap + i * step.in + o * step.out];
      }
      y[p * in->c_out + o] = in->kernel.bias != NULL ? sum + in->kernel.bias[o] : sum;
    }
}

/* ---- the same through the packed product ---- */

/** Outputs that are worked on together, so that there are pieces for all threads and each packs its weights seldom: every number gives the same bits. */
enum { LEAST_OUTPUTS = 64, MOST_OUTPUTS = 4096, PIECES = 16 };

static int64_t piece_of(int64_t n_out) {
  const int64_t even = (n_out + PIECES - 1) / PIECES;
  return even < LEAST_OUTPUTS ? LEAST_OUTPUTS : even < MOST_OUTPUTS ? even : MOST_OUTPUTS;
}

/** The outputs first .. first+count-1 of one tap that see a cell: their numbers, their rows of x, the sums so far. */
typedef struct gathered {
  int64_t count, *output;
  double *x, *y;
  float *squares;
} gathered;

static void gather(const mr3d_sparse_conv_in *in, const int64_t *rows, int64_t first, int64_t count, const double *y, gathered *g) {
  g->count = 0;
  for (int64_t p = first; p < first + count; p++) {
    if (rows[p] < 0)
      continue;
    memcpy(g->x + g->count * in->c_in, in->x + rows[p] * in->c_in, (size_t)in->c_in * sizeof *g->x);
    memcpy(g->y + g->count * in->c_out, y + p * in->c_out, (size_t)in->c_out * sizeof *g->y);
    g->output[g->count++] = p;
  }
}

/**
 * The sums of outputs first .. first+count-1: tap by tap, the outputs that see a cell are gathered and their sums go on where they were, so that each is
 * one sum in the definition's order. `squares` [n_out,c_out] (NULL: none) gets the sums of the terms' squares, `terms` [n_out] their numbers.
 */
static void sum_outputs(const mr3d_sparse_conv_in *in, const int64_t *rows, int64_t first, int64_t count, double *y, float *squares, int64_t *terms) {
  const steps step = steps_of(in);
  gathered g = {.output = mr3d_allocate(count, sizeof *g.output), .x = mr3d_allocate(count * in->c_in, sizeof *g.x), .y = mr3d_allocate(count * in->c_out, sizeof *g.y),
                .squares = squares != NULL ? mr3d_allocate(count * in->c_out, sizeof *g.squares) : NULL};
  for (int64_t t = 0; t < in->k * in->k * in->k; t++) {
    gather(in, rows + t * in->n_out, first, count, y, &g);
    if (g.count == 0)
      continue;
    const mr3d_product_in product = {.rows = g.count, .in = in->c_in, .out = in->c_out, .x = g.x, .x_row = in->c_in, .w = in->kernel.weight + t * step.tap,
                                     .w_out = step.out, .w_in = step.in, .y_row = in->c_out, .onto = true};
    mr3d_product(&product, 1, g.y);
    if (squares != NULL) {
      memset(g.squares, 0, (size_t)(g.count * in->c_out) * sizeof *g.squares);
      mr3d_product_squares(&product, 1, g.squares);
    }
    for (int64_t r = 0; r < g.count; r++) {
      const int64_t p = g.output[r];
      memcpy(y + p * in->c_out, g.y + r * in->c_out, (size_t)in->c_out * sizeof *y);
      for (int64_t o = 0; squares != NULL && o < in->c_out; o++)
        squares[p * in->c_out + o] += g.squares[r * in->c_out + o];
      terms[p] += in->c_in;
    }
  }
  free(g.output);
  free(g.x);
  free(g.y);
  free(g.squares);
}

static void sum_all(const mr3d_context *context, const mr3d_sparse_conv_in *in, const int64_t *rows, double *y, float *squares, int64_t *terms) {
  const int64_t piece = piece_of(in->n_out), pieces = (in->n_out + piece - 1) / piece;
  memset(y, 0, (size_t)(in->n_out * in->c_out) * sizeof *y);
#pragma omp parallel for num_threads(mr3d_thread_count(context->threads)) schedule(dynamic)
  for (int64_t number = 0; number < pieces; number++) {
    const int64_t first = number * piece, left = in->n_out - first;
    sum_outputs(in, rows, first, left < piece ? left : piece, y, squares, terms);
  }
}

static void add_bias(const mr3d_sparse_conv_in *in, double *y) {
  for (int64_t p = 0; p < in->n_out && in->kernel.bias != NULL; p++)
    for (int64_t o = 0; o < in->c_out; o++)
      y[p * in->c_out + o] = y[p * in->c_out + o] + in->kernel.bias[o];
}

static double *rounded_copy(const mr3d_context *context, int64_t groups, int64_t rows, int64_t columns, const double *x) {
  double *copy = mr3d_allocate(groups * rows * columns, sizeof *copy);
  memcpy(copy, x, (size_t)(groups * rows * columns) * sizeof *copy);
  mr3d_round(context, MR3D_AT_PRODUCT_INPUT, 1, groups, rows, columns, copy);
  return copy;
}

void mr3d_sparse_conv(const mr3d_context *context, const mr3d_sparse_conv_in *in, const int64_t *rows, double *y) {
  int64_t *terms = mr3d_allocate(in->n_out, sizeof *terms);
  if (context->arithmetic == NULL) {
    sum_all(context, in, rows, y, NULL, terms);
    add_bias(in, y);
    free(terms);
    return;
  }

  mr3d_sparse_conv_in rounded = *in;
  double *x = rounded_copy(context, 1, in->n, in->c_in, in->x), *weight = NULL;
  rounded.x = x;
  if (context->arithmetic->units.up > context->arithmetic->units.u)
    rounded.kernel.weight = weight = rounded_copy(context, in->k * in->k * in->k * in->c_in, 1, in->c_out, in->kernel.weight);
  const mr3d_rounder noise = mr3d_rounder_at(context, MR3D_AT_ACCUMULATION);
  float *squares = noise.on && noise.stochastic ? mr3d_allocate(in->n_out * in->c_out, sizeof *squares) : NULL;
  sum_all(context, &rounded, rows, y, squares, terms);
  for (int64_t p = 0; p < in->n_out && squares != NULL; p++)
    mr3d_noise_add(&noise, 0, 0, p, in->c_out, terms[p], squares + p * in->c_out, in->kernel.bias, y + p * in->c_out);
  if (in->kernel.bias != NULL)
    mr3d_round(context, MR3D_AT_BEFORE_BIAS, 1, 1, in->n_out, in->c_out, y);
  add_bias(in, y);
  mr3d_round(context, MR3D_AT_PRODUCT, 1, 1, in->n_out, in->c_out, y);
  free(x);
  free(weight);
  free(squares);
  free(terms);
}
