/** The SceneScript encoder (encoders.md, "SceneScript"): a sparse residual network. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "encoder.h"
#include "mr3d/trace.h"
#include "request.h"

#define STEM_KERNEL 7
#define RES_KERNEL 3
#define DOWN_KERNEL 2

static int64_t groups_of(int64_t C) { return C < MR3D_NORM_GROUPS ? C : MR3D_NORM_GROUPS; }

/* ReLU(GroupNorm(convolution)) to `out`, whose cells and C are given and whose x is set; `in` stays. Odd kernels number their taps x fastest, even ones z. */
static mr3d_status convolve(const mr3d_encoder *e, const char *name, int64_t k, const mr3d_tokens *in, mr3d_tokens *out) {
  const mr3d_operators *op = e->context.op;
  mr3d_sparse_conv_in conv = {.n = in->n, .n_out = out->n, .cells = in->cells, .out_cells = out->cells, .k = k, .c_in = in->C, .c_out = out->C, .x = in->x,
                              .layout = k % 2 ? MR3D_KERNEL_X_FASTEST : MR3D_KERNEL_Z_FASTEST};
  mr3d_norm_in norm = {.n = out->n, .C = out->C, .groups = groups_of(out->C), .eps = MR3D_ENCODER_EPS};
  MR3D_TRY(mr3d_encoder_values(e, &conv.kernel.weight, "sparse_resnet.%s.0.kernel", name));
  MR3D_TRY(mr3d_encoder_affine(e, &norm.norm, "sparse_resnet.%s.1", name));
  out->x = mr3d_allocate(out->n * out->C, sizeof *out->x);
  (k == DOWN_KERNEL ? op->strided_conv : op->submanifold_conv)(&e->context, &conv, out->x);
  norm.x = out->x;
  op->group_norm_sparse(&e->context, &norm, out->x);
  op->relu(&e->context, out->n, out->C, out->x, out->x);
  return MR3D_OK;
}

/* x + conv3(conv3(x)) in place of x. */
static mr3d_status residual(mr3d_encoder *e, const char *name, mr3d_tokens *tokens) {
  char block[64];
  mr3d_tokens first = *tokens, second = *tokens;
  first.x = second.x = NULL;
  snprintf(block, sizeof block, "%s.block0", name);
  mr3d_status status = convolve(e, block, RES_KERNEL, tokens, &first);
  snprintf(block, sizeof block, "%s.block1", name);
  if (status == MR3D_OK) status = convolve(e, block, RES_KERNEL, &first, &second);
  free(first.x);
  if (status != MR3D_OK) return status;
  mr3d_encoder_residual(e, tokens->n, tokens->C, tokens->x, second.x);
  free(tokens->x);
  tokens->x = second.x;
  mr3d_encoder_part_done(e);
  return MR3D_OK;
}

/* The grid's features to conv_layers[0] channels, then a residual block. */
static mr3d_status stem(mr3d_encoder *e, mr3d_tokens *tokens) {
  const mr3d_point_config *c = &e->config->point_config;
  const mr3d_tokens grid = {.n = e->in->M, .C = c->input_channels, .x = (double *)(uintptr_t)e->in->features, .cells = (int64_t *)(uintptr_t)e->in->grid};
  *tokens = (mr3d_tokens){.n = grid.n, .C = c->conv_layers.at[0], .cells = mr3d_allocate(3 * grid.n, sizeof *tokens->cells)};
  memcpy(tokens->cells, grid.cells, (size_t)(3 * grid.n) * sizeof *tokens->cells);
  MR3D_TRY(convolve(e, "stem.0", STEM_KERNEL, &grid, tokens));
  mr3d_encoder_part_done(e);
  MR3D_TRY(residual(e, "stem.1", tokens));
  mr3d_encoder_trace_stage(e, 0, tokens);
  return MR3D_OK;
}

/* Half as many cells on each axis, the next width, two residual blocks. */
static mr3d_status next_level(mr3d_encoder *e, int64_t level, mr3d_tokens *tokens) {
  char name[40];
  mr3d_coarse_cells_out coarse;
  e->context.op->coarse_cells(&e->context, tokens->n, tokens->cells, DOWN_KERNEL, &coarse);
  mr3d_tokens down = {.n = coarse.n, .C = e->config->point_config.conv_layers.at[level], .cells = coarse.cells};
  coarse.cells = NULL;
  mr3d_coarse_cells_free(&coarse);
  snprintf(name, sizeof name, "blocks.%lld.0", (long long)level - 1);
  const mr3d_status status = convolve(e, name, DOWN_KERNEL, tokens, &down);
  mr3d_tokens_free(tokens);
  *tokens = down;
  MR3D_TRY(status);
  mr3d_encoder_part_done(e);
  for (int block = 1; block <= 2; block++) {
    snprintf(name, sizeof name, "blocks.%lld.%d", (long long)level - 1, block);
    MR3D_TRY(residual(e, name, tokens));
  }
  mr3d_encoder_trace_stage(e, level, tokens);
  return MR3D_OK;
}

/* Linear(c -> 2c), GroupNorm of each row, ReLU, Linear(2c -> embed_channels). */
static mr3d_status bottleneck(mr3d_encoder *e, mr3d_tokens *tokens) {
  const mr3d_operators *op = e->context.op;
  const int64_t n = tokens->n, wide = 2 * tokens->C, out = e->config->point_config.embed_channels;
  mr3d_affine widen, norm, narrow;
  MR3D_TRY(mr3d_encoder_affine(e, &widen, "sparse_resnet.bottleneck.0"));
  MR3D_TRY(mr3d_encoder_affine(e, &norm, "sparse_resnet.bottleneck.1"));
  MR3D_TRY(mr3d_encoder_affine(e, &narrow, "sparse_resnet.bottleneck.3"));
  double *x = mr3d_allocate(n * wide, sizeof *x), *y = mr3d_allocate(n * out, sizeof *y);
  op->linear(&e->context, &(mr3d_linear_in){n, tokens->C, wide, tokens->x, widen.weight, widen.bias}, x);
  op->group_norm_rows(&e->context, &(mr3d_norm_in){n, wide, MR3D_NORM_GROUPS, MR3D_ENCODER_EPS, x, norm}, x);
  op->relu(&e->context, n, wide, x, x);
  op->linear(&e->context, &(mr3d_linear_in){n, wide, out, x, narrow.weight, narrow.bias}, y);
  free(x);
  free(tokens->x);
  tokens->x = y;
  tokens->C = out;
  mr3d_trace(&e->context, "bottleneck", MR3D_F64, 2, (int64_t[]){n, out}, y);
  mr3d_encoder_part_done(e);
  return MR3D_OK;
}

/**
 * SceneScript: stem conv(7) and res, per further width down, res, res, then the bottleneck; concatenated with the Fourier features, `input_proj`, plus
 * the vector `extra_embedding`.
 */
mr3d_status mr3d_scenescript(mr3d_encoder *e, mr3d_tokens *tokens) {
  const mr3d_point_config *c = &e->config->point_config;
  const double *extra;
  MR3D_TRY(stem(e, tokens));
  for (int64_t level = 1; level < c->conv_layers.count; level++) MR3D_TRY(next_level(e, level, tokens));
  MR3D_TRY(bottleneck(e, tokens));
  MR3D_TRY(mr3d_encoder_input_proj(e, MR3D_SONATA_NORM_GRID, c->embed_channels, tokens));
  MR3D_TRY(mr3d_encoder_values(e, &extra, "extra_embedding"));
  for (int64_t i = 0; i < tokens->n * tokens->C; i++) tokens->x[i] = tokens->x[i] + extra[i % tokens->C];
  mr3d_round(&e->context, MR3D_AT_RESIDUAL, 1, 1, tokens->n, tokens->C, tokens->x);
  return MR3D_OK;
}

int64_t mr3d_scenescript_parts(const mr3d_point_config *c) { return 2 + 3 * (c->conv_layers.count - 1) + 2; }

/* ---- tensors ---- */

static void declare_convolution(mr3d_bundle *list, const char *name, int64_t k, int64_t c_in, int64_t c_out) {
  mr3d_encoder_declare(list, (int64_t[MR3D_MAX_RANK]){k * k * k, c_in, c_out}, "sparse_resnet.%s.0.kernel", name);
  mr3d_encoder_declare_affine(list, c_out, 0, "sparse_resnet.%s.1", name);
}

static void declare_residual(mr3d_bundle *list, const char *name, int64_t C) {
  char block[64];
  for (int i = 0; i < 2; i++) {
    snprintf(block, sizeof block, "%s.block%d", name, i);
    declare_convolution(list, block, RES_KERNEL, C, C);
  }
}

void mr3d_scenescript_tensors(const mr3d_point_config *c, mr3d_bundle *list) {
  char name[40];
  const int64_t levels = c->conv_layers.count, last = c->conv_layers.at[levels - 1];
  declare_convolution(list, "stem.0", STEM_KERNEL, c->input_channels, c->conv_layers.at[0]);
  declare_residual(list, "stem.1", c->conv_layers.at[0]);
  for (int64_t level = 1; level < levels; level++)
    for (int part = 0; part < 3; part++) {
      snprintf(name, sizeof name, "blocks.%lld.%d", (long long)level - 1, part);
      if (part == 0) declare_convolution(list, name, DOWN_KERNEL, c->conv_layers.at[level - 1], c->conv_layers.at[level]);
      else declare_residual(list, name, c->conv_layers.at[level]);
    }
  mr3d_encoder_declare_affine(list, 2 * last, last, "sparse_resnet.bottleneck.0");
  mr3d_encoder_declare_affine(list, 2 * last, 0, "sparse_resnet.bottleneck.1");
  mr3d_encoder_declare_affine(list, c->embed_channels, 2 * last, "sparse_resnet.bottleneck.3");
  mr3d_encoder_declare_affine(list, c->embed_channels, c->embed_channels + MR3D_FOURIER_FEATURES, "input_proj");
  mr3d_encoder_declare(list, (int64_t[MR3D_MAX_RANK]){c->embed_channels}, "extra_embedding");
}
