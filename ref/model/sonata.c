/** The Sonata encoder (encoders.md, "Sonata"): a point transformer that attends in patches along z-order curves. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "encoder.h"
#include "mr3d/trace.h"
#include "request.h"

#define CPE_KERNEL 3

/* y [n,out] = affine(x [n,in]). */
static void linear(const mr3d_encoder *e, int64_t n, int64_t in, int64_t out, const double *x, mr3d_affine affine, double *y) {
  e->context.op->linear(&e->context, &(mr3d_linear_in){n, in, out, x, affine.weight, affine.bias}, y);
}

static void layernorm(const mr3d_encoder *e, int64_t n, int64_t C, const double *x, mr3d_affine norm, double *y) {
  e->context.op->layernorm(&e->context, &(mr3d_norm_in){.n = n, .C = C, .eps = MR3D_ENCODER_EPS, .x = x, .norm = norm}, y);
}

/* GELU(LayerNorm(Linear(features))). */
static mr3d_status embedding(mr3d_encoder *e, mr3d_tokens *tokens) {
  const mr3d_point_config *c = &e->config->point_config;
  const int64_t n = e->in->M, C = c->enc_channels.at[0];
  mr3d_affine proj, norm;
  *tokens = (mr3d_tokens){.n = n, .C = C, .x = mr3d_allocate(n * C, sizeof *tokens->x), .cells = mr3d_allocate(3 * n, sizeof *tokens->cells)};
  memcpy(tokens->cells, e->in->grid, (size_t)(3 * n) * sizeof *tokens->cells);
  MR3D_TRY(mr3d_encoder_affine(e, &proj, "embedding.stem.linear"));
  MR3D_TRY(mr3d_encoder_affine(e, &norm, "embedding.stem.norm"));
  linear(e, n, c->in_channels, C, e->in->features, proj, tokens->x);
  layernorm(e, n, C, tokens->x, norm, tokens->x);
  e->context.op->gelu(&e->context, n, C, tokens->x, tokens->x);
  mr3d_encoder_part_done(e);
  return MR3D_OK;
}

static mr3d_status pooling(mr3d_encoder *e, int64_t stage, mr3d_tokens *tokens) {
  const mr3d_point_config *c = &e->config->point_config;
  mr3d_grid_pooling_in in = {.n = tokens->n, .C = tokens->C, .C_out = c->enc_channels.at[stage], .x = tokens->x, .eps = MR3D_ENCODER_EPS};
  MR3D_TRY(mr3d_encoder_affine(e, &in.proj, "enc.enc%lld.down.proj", (long long)stage));
  MR3D_TRY(mr3d_encoder_affine(e, &in.norm, "enc.enc%lld.down.norm.0", (long long)stage));
  mr3d_coarse_cells_out coarse;
  e->context.op->coarse_cells(&e->context, tokens->n, tokens->cells, c->stride.at[stage - 1], &coarse);
  in.parent = coarse.parent;
  in.n_out = coarse.n;
  mr3d_tokens pooled = {.n = coarse.n, .C = in.C_out, .x = mr3d_allocate(coarse.n * in.C_out, sizeof *pooled.x), .cells = coarse.cells};
  e->context.op->grid_pooling(&e->context, &in, pooled.x);
  coarse.cells = NULL;
  mr3d_coarse_cells_free(&coarse);
  mr3d_tokens_free(tokens);
  *tokens = pooled;
  mr3d_encoder_part_done(e);
  return MR3D_OK;
}

/* ---- a block: three branches, each added to x ---- */

/* y = LayerNorm(Linear(subm3(x))): a conditional position encoding. */
static mr3d_status position_branch(const mr3d_encoder *e, const char *block, const mr3d_tokens *tokens, double *y) {
  const int64_t n = tokens->n, C = tokens->C;
  mr3d_sparse_conv_in conv = {.n = n, .n_out = n, .cells = tokens->cells, .out_cells = tokens->cells, .k = CPE_KERNEL, .c_in = C, .c_out = C, .x = tokens->x,
                              .layout = MR3D_KERNEL_OUT_FIRST};
  mr3d_affine mix, norm;
  MR3D_TRY(mr3d_encoder_affine(e, &conv.kernel, "%s.cpe.0", block));
  MR3D_TRY(mr3d_encoder_affine(e, &mix, "%s.cpe.1", block));
  MR3D_TRY(mr3d_encoder_affine(e, &norm, "%s.cpe.2", block));
  double *convolved = mr3d_allocate(n * C, sizeof *convolved);
  e->context.op->submanifold_conv(&e->context, &conv, convolved);
  linear(e, n, C, C, convolved, mix, y);
  layernorm(e, n, C, y, norm, y);
  free(convolved);
  return MR3D_OK;
}

/* y = proj(attention(LayerNorm(x))). */
static mr3d_status attention_branch(const mr3d_encoder *e, const char *block, int64_t stage, int64_t number, const mr3d_tokens *tokens, double *y) {
  const mr3d_point_config *c = &e->config->point_config;
  const int64_t n = tokens->n, C = tokens->C;
  mr3d_affine norm;
  mr3d_patch_attention_in in = {.n = n, .C = C, .heads = c->enc_num_head.at[stage]};
  MR3D_TRY(mr3d_encoder_affine(e, &norm, "%s.norm1.0", block));
  MR3D_TRY(mr3d_encoder_affine(e, &in.qkv, "%s.attn.qkv", block));
  MR3D_TRY(mr3d_encoder_affine(e, &in.proj, "%s.attn.proj", block));
  mr3d_point_order orders[MR3D_MAX_STAGES];
  for (int64_t i = 0; i < c->order.count; i++) orders[i] = (mr3d_point_order)c->order.at[i];
  mr3d_patches_out patches;
  e->context.op->patches(&e->context, &(mr3d_patches_in){n, tokens->cells, c->order.count, orders, stage, number, c->enc_patch_size.at[stage]}, &patches);
  in.patches = &patches;
  double *normed = mr3d_allocate(n * C, sizeof *normed);
  layernorm(e, n, C, tokens->x, norm, normed);
  in.x = normed;
  e->context.op->patch_attention(&e->context, &in, y);
  free(normed);
  mr3d_patches_free(&patches);
  return MR3D_OK;
}

/* y = fc2(GELU(fc1(LayerNorm(x)))). */
static mr3d_status mlp_branch(const mr3d_encoder *e, const char *block, const mr3d_tokens *tokens, double *y) {
  const int64_t n = tokens->n, C = tokens->C, wide = (int64_t)(e->config->point_config.mlp_ratio * (double)C);
  mr3d_affine norm, fc1, fc2;
  MR3D_TRY(mr3d_encoder_affine(e, &norm, "%s.norm2.0", block));
  MR3D_TRY(mr3d_encoder_affine(e, &fc1, "%s.mlp.0.fc1", block));
  MR3D_TRY(mr3d_encoder_affine(e, &fc2, "%s.mlp.0.fc2", block));
  double *normed = mr3d_allocate(n * C, sizeof *normed), *inner = mr3d_allocate(n * wide, sizeof *inner);
  layernorm(e, n, C, tokens->x, norm, normed);
  linear(e, n, C, wide, normed, fc1, inner);
  e->context.op->gelu(&e->context, n, wide, inner, inner);
  linear(e, n, wide, C, inner, fc2, y);
  free(normed);
  free(inner);
  return MR3D_OK;
}

/* y, with what a branch gave, becomes the new x. */
static void add_branch(const mr3d_encoder *e, mr3d_tokens *tokens, double **y) {
  mr3d_encoder_residual(e, tokens->n, tokens->C, tokens->x, *y);
  double *old = tokens->x;
  tokens->x = *y;
  *y = old;
}

/**
 * Block `number` of a stage:
 *
 *     x = x + LayerNorm(Linear(subm3(x)))
 *     x = x + proj(attention(LayerNorm(x)))     along order number i mod n_orders, in patches
 *     x = x + fc2(GELU(fc1(LayerNorm(x))))
 */
static mr3d_status run_block(mr3d_encoder *e, int64_t stage, int64_t number, mr3d_tokens *tokens) {
  char block[64];
  snprintf(block, sizeof block, "enc.enc%lld.block%lld", (long long)stage, (long long)number);
  double *y = mr3d_allocate(tokens->n * tokens->C, sizeof *y);
  mr3d_status status = position_branch(e, block, tokens, y);
  if (status == MR3D_OK) add_branch(e, tokens, &y);
  if (status == MR3D_OK) status = attention_branch(e, block, stage, number, tokens, y);
  if (status == MR3D_OK) add_branch(e, tokens, &y);
  if (status == MR3D_OK) status = mlp_branch(e, block, tokens, y);
  if (status == MR3D_OK) add_branch(e, tokens, &y);
  free(y);
  if (status == MR3D_OK) mr3d_encoder_part_done(e);
  return status;
}

/** Sonata: embedding, then per stage pooling (but for the first) and blocks; concatenated with the Fourier features, `input_proj`. */
mr3d_status mr3d_sonata(mr3d_encoder *e, mr3d_tokens *tokens) {
  const mr3d_point_config *c = &e->config->point_config;
  MR3D_TRY(embedding(e, tokens));
  for (int64_t stage = 0; stage < c->enc_depths.count; stage++) {
    if (stage > 0) MR3D_TRY(pooling(e, stage, tokens));
    for (int64_t number = 0; number < c->enc_depths.at[stage]; number++) MR3D_TRY(run_block(e, stage, number, tokens));
    mr3d_encoder_trace_stage(e, stage, tokens);
  }
  return mr3d_encoder_input_proj(e, e->config->sonata_coord_norm, tokens->C, tokens);
}

int64_t mr3d_sonata_parts(const mr3d_point_config *c) {
  int64_t parts = c->enc_depths.count + 1; /* embedding, poolings, tail */
  for (int64_t stage = 0; stage < c->enc_depths.count; stage++) parts += c->enc_depths.at[stage];
  return parts;
}

/* ---- tensors ---- */

static void declare_block(mr3d_bundle *list, const char *block, int64_t C, int64_t wide) {
  mr3d_encoder_declare(list, (int64_t[MR3D_MAX_RANK]){C, CPE_KERNEL, CPE_KERNEL, CPE_KERNEL, C}, "%s.cpe.0.weight", block);
  mr3d_encoder_declare(list, (int64_t[MR3D_MAX_RANK]){C}, "%s.cpe.0.bias", block);
  mr3d_encoder_declare_affine(list, C, C, "%s.cpe.1", block);
  mr3d_encoder_declare_affine(list, C, 0, "%s.cpe.2", block);
  mr3d_encoder_declare_affine(list, C, 0, "%s.norm1.0", block);
  mr3d_encoder_declare_affine(list, 3 * C, C, "%s.attn.qkv", block);
  mr3d_encoder_declare_affine(list, C, C, "%s.attn.proj", block);
  mr3d_encoder_declare_affine(list, C, 0, "%s.norm2.0", block);
  mr3d_encoder_declare_affine(list, wide, C, "%s.mlp.0.fc1", block);
  mr3d_encoder_declare_affine(list, C, wide, "%s.mlp.0.fc2", block);
}

void mr3d_sonata_tensors(const mr3d_point_config *c, mr3d_bundle *list) {
  const int64_t stages = c->enc_depths.count, last = c->enc_channels.at[stages - 1];
  char block[64];
  mr3d_encoder_declare_affine(list, c->enc_channels.at[0], c->in_channels, "embedding.stem.linear");
  mr3d_encoder_declare_affine(list, c->enc_channels.at[0], 0, "embedding.stem.norm");
  for (int64_t stage = 0; stage < stages; stage++) {
    const int64_t C = c->enc_channels.at[stage];
    if (stage > 0) {
      mr3d_encoder_declare_affine(list, C, c->enc_channels.at[stage - 1], "enc.enc%lld.down.proj", (long long)stage);
      mr3d_encoder_declare_affine(list, C, 0, "enc.enc%lld.down.norm.0", (long long)stage);
    }
    for (int64_t number = 0; number < c->enc_depths.at[stage]; number++) {
      snprintf(block, sizeof block, "enc.enc%lld.block%lld", (long long)stage, (long long)number);
      declare_block(list, block, C, (int64_t)(c->mlp_ratio * (double)C));
    }
  }
  mr3d_encoder_declare_affine(list, last, last + MR3D_FOURIER_FEATURES, "input_proj");
}
