#include <stdlib.h>

#include "../base/product.h"
#include "mr3d/model.h"
#include "mr3d/trace.h"

/* y [B,q,hidden] += x, rounded where a stack stores the residual stream. */
static void add_residual(const mr3d_context *context, const mr3d_block_in *in, int64_t hidden, const double *x, double *y) {
  const int64_t count = in->B * in->q * hidden;
#pragma omp parallel for num_threads(mr3d_thread_count(context->threads)) if (count > 16384)
  for (int64_t i = 0; i < count; i++) y[i] = x[i] + y[i];
  mr3d_round(context, MR3D_AT_RESIDUAL, in->B, 1, in->q, hidden, y);
}

/**
 * Decoder layer (spec.md 6), shapes [B,q,hidden]:
 *
 *     h = x + attention_block(rmsnorm(x) input_layernorm)
 *     n = rmsnorm(h) post_attention_layernorm
 *     y = h + down(silu(gate(n)) up(n))            gate, up [.., intermediate]
 *
 * Requires: the configuration holds all its sizes. Errors: of attention_block.
 */
mr3d_status mr3d_decoder_layer(const mr3d_context *context, const mr3d_config *config, const mr3d_layer *layer, const mr3d_block_in *in,
                               mr3d_block_out *out, mr3d_error *error) {
  const mr3d_operators *op = context->op;
  const int64_t rows = in->B * in->q, hidden = config->hidden_size, intermediate = config->intermediate_size;
  double *normed = mr3d_allocate_unset(rows * hidden, sizeof *normed), *attended = mr3d_allocate_unset(rows * hidden, sizeof *attended);

  const int64_t shape[3] = {in->B, in->q, hidden}, wide[3] = {in->B, in->q, intermediate};
  mr3d_trace(context, "input", MR3D_F64, 3, shape, in->hidden);
  op->rmsnorm(context, &(mr3d_rmsnorm_in){.rows = rows, .n = hidden, .eps = config->rms_norm_eps, .x = in->hidden, .weight = layer->input_layernorm}, normed);
  mr3d_trace(context, "input_norm", MR3D_F64, 3, shape, normed);
  mr3d_block_in block_in = *in;
  block_in.hidden = normed;
  mr3d_block_out block_out = {.hidden = attended, .key = out->key, .value = out->value};
  mr3d_status status = op->attention_block(context, config, layer, &block_in, &block_out, error);
  if (status == MR3D_OK) {
    add_residual(context, in, hidden, in->hidden, attended);
    mr3d_trace(context, "attention_residual", MR3D_F64, 3, shape, attended);
    double *gate = mr3d_allocate_unset(rows * intermediate, sizeof *gate), *up = mr3d_allocate_unset(rows * intermediate, sizeof *up);
    double *gated = mr3d_allocate_unset(rows * intermediate, sizeof *gated);
    op->rmsnorm(context, &(mr3d_rmsnorm_in){.rows = rows, .n = hidden, .eps = config->rms_norm_eps, .x = attended, .weight = layer->post_attention_layernorm},
                normed);
    mr3d_trace(context, "post_attention_norm", MR3D_F64, 3, shape, normed);
    op->linear(context, &(mr3d_linear_in){.rows = rows, .in = hidden, .out = intermediate, .x = normed, .weight = layer->gate_weight, .stored = layer->gate_stored}, gate);
    mr3d_trace(context, "gate", MR3D_F64, 3, wide, gate);
    op->linear(context, &(mr3d_linear_in){.rows = rows, .in = hidden, .out = intermediate, .x = normed, .weight = layer->up_weight, .stored = layer->up_stored}, up);
    mr3d_trace(context, "up", MR3D_F64, 3, wide, up);
    op->swiglu(context, &(mr3d_swiglu_in){.rows = rows, .n = intermediate, .gate = gate, .up = up}, gated);
    mr3d_trace(context, "gated", MR3D_F64, 3, wide, gated);
    op->linear(context, &(mr3d_linear_in){.rows = rows, .in = intermediate, .out = hidden, .x = gated, .weight = layer->down_weight, .stored = layer->down_stored}, out->hidden);
    mr3d_trace(context, "down", MR3D_F64, 3, shape, out->hidden);
    add_residual(context, in, hidden, attended, out->hidden);
    mr3d_trace(context, "output", MR3D_F64, 3, shape, out->hidden);
    free(gate);
    free(up);
    free(gated);
  }
  free(normed);
  free(attended);
  return status;
}
