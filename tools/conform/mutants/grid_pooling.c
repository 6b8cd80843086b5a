/** P32: tokens pooled by another rule, or in another order. */
#include <math.h>
#include <stdlib.h>

#include "mutants_internal.h"

#define POOL(name) static void name(const mr3d_context *context, const mr3d_grid_pooling_in *in, double *y)

static void project(const mr3d_context *context, const mr3d_grid_pooling_in *in, double *y) {
  context->op->linear(context, &(mr3d_linear_in){in->n, in->C, in->C_out, in->x, in->proj.weight, in->proj.bias}, y);
}

/** In place: LayerNorm, then GELU. */
static void finish(const mr3d_context *context, const mr3d_grid_pooling_in *in, int64_t n, double *y) {
  context->op->layernorm(context, &(mr3d_norm_in){.n = n, .C = in->C_out, .eps = in->eps, .x = y, .norm = in->norm}, y);
  context->op->gelu(context, n, in->C_out, y, y);
}

static void largest(const mr3d_grid_pooling_in *in, int64_t C, const double *x, double *y) {
  for (int64_t i = 0; i < in->n_out * C; i++) y[i] = -INFINITY;
  for (int64_t i = 0; i < in->n * C; i++) y[in->parent[i / C] * C + i % C] = fmax(y[in->parent[i / C] * C + i % C], x[i]);
}

static void summed(const mr3d_grid_pooling_in *in, bool mean, const double *x, double *y) {
  double *children = mr3d_allocate(in->n_out, sizeof *children);
  for (int64_t i = 0; i < in->n_out * in->C_out; i++) y[i] = 0;
  for (int64_t p = 0; p < in->n; p++) {
    children[in->parent[p]]++;
    for (int64_t c = 0; c < in->C_out; c++) y[in->parent[p] * in->C_out + c] += x[p * in->C_out + c];
  }
  for (int64_t i = 0; mean && i < in->n_out * in->C_out; i++) y[i] /= children[i / in->C_out];
  free(children);
}

static void by_sum(bool mean, const mr3d_context *context, const mr3d_grid_pooling_in *in, double *y) {
  double *projected = mr3d_allocate(in->n * in->C_out, sizeof *projected);
  project(context, in, projected);
  summed(in, mean, projected, y);
  finish(context, in, in->n_out, y);
  free(projected);
}
POOL(by_mean) { by_sum(true, context, in, y); }
POOL(by_total) { by_sum(false, context, in, y); }

POOL(norm_before_pooling) {
  double *projected = mr3d_allocate(in->n * in->C_out, sizeof *projected);
  project(context, in, projected);
  finish(context, in, in->n, projected);
  largest(in, in->C_out, projected, y);
  free(projected);
}

POOL(pooling_before_linear) {
  double *pooled = mr3d_allocate(in->n_out * in->C, sizeof *pooled);
  largest(in, in->C, in->x, pooled);
  mr3d_grid_pooling_in changed = *in;
  changed.x = pooled;
  changed.n = in->n_out;
  project(context, &changed, y);
  finish(context, in, in->n_out, y);
  free(pooled);
}

static const mr3d_mutant entries[] = {
    {"grid-pooling", "mean", "tokens that meet are averaged instead of taking the largest value of each channel", "encode_points", {.grid_pooling = by_mean}},
    {"grid-pooling", "sum", "tokens that meet are added instead of taking the largest value of each channel", "encode_points", {.grid_pooling = by_total}},
    {"grid-pooling", "norm-before-pooling", "LayerNorm and GELU stand before the maximum", "encode_points", {.grid_pooling = norm_before_pooling}},
    {"grid-pooling", "pooling-before-linear", "the maximum stands before the Linear", "encode_points", {.grid_pooling = pooling_before_linear}},
};
const mr3d_mutant_set mr3d_mutants_grid_pooling = MR3D_MUTANT_SET(entries);
