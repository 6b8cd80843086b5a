/** P18: habits of Llama and of others applied to Qwen2. */
#include <math.h>
#include <stdlib.h>

#include "mutants_internal.h"

static void bias_missing(const mr3d_context *context, const mr3d_linear_in *in, double *y) {
  mr3d_linear_in changed = *in;
  changed.bias = NULL;
  mr3d_linear(context, &changed, y);
}

static void weight_plus_one(const mr3d_context *context, const mr3d_rmsnorm_in *in, double *y) {
  double *weight = mr3d_allocate(in->n, sizeof *weight);
  for (int64_t i = 0; i < in->n; i++) weight[i] = in->weight[i] + 1;
  mr3d_rmsnorm_in changed = *in;
  changed.weight = weight;
  mr3d_rmsnorm(context, &changed, y);
  free(weight);
}

static void eps_1e_5(const mr3d_context *context, const mr3d_rmsnorm_in *in, double *y) {
  mr3d_rmsnorm_in changed = *in;
  changed.eps = 1e-5;
  mr3d_rmsnorm(context, &changed, y);
}

static void gelu(const mr3d_context *context, const mr3d_swiglu_in *in, double *y) {
  (void)context;
  for (int64_t i = 0; i < in->rows * in->n; i++) y[i] = in->gate[i] * erfc(-in->gate[i] * sqrt(0.5)) / 2 * in->up[i];
}

static void gate_and_up_swapped(const mr3d_context *context, const mr3d_swiglu_in *in, double *y) {
  mr3d_swiglu(context, &(mr3d_swiglu_in){.rows = in->rows, .n = in->n, .gate = in->up, .up = in->gate}, y);
}

static void scaled_by_hidden(const mr3d_context *context, const mr3d_attention_in *in, double *y) {
  int64_t count = in->B * in->H * in->q * in->D;
  double *query = mr3d_allocate(count, sizeof *query), factor = sqrt(1 / (double)in->H); /* sqrt(D / hidden) */
  for (int64_t i = 0; i < count; i++) query[i] = in->query[i] * factor;
  mr3d_attention_in changed = *in;
  changed.query = query;
  mr3d_attention(context, &changed, y);
  free(query);
}

static const mr3d_mutant entries[] = {
    {"qwen2-details", "bias-missing", "the biases of q_proj, k_proj and v_proj are left out", "linear " MR3D_LAYERS, {.linear = bias_missing}},
    {"qwen2-details", "weight-plus-one", "RMSNorm multiplies by weight + 1 instead of weight", "rmsnorm decoder_layer prefill decode", {.rmsnorm = weight_plus_one}},
    {"qwen2-details", "eps-1e-5", "RMSNorm uses eps 1e-5 instead of rms_norm_eps (1e-6)", "rmsnorm decoder_layer prefill decode", {.rmsnorm = eps_1e_5}},
    {"qwen2-details", "gelu", "the MLP uses GELU instead of SiLU", "swiglu decoder_layer prefill decode", {.swiglu = gelu}},
    {"qwen2-details", "gate-and-up-swapped", "gate and up are exchanged in the MLP", "swiglu decoder_layer prefill decode", {.swiglu = gate_and_up_swapped}},
    {"qwen2-details", "scaled-by-hidden", "scores are divided by sqrt(hidden_size) instead of sqrt(head_dim)", "attention " MR3D_LAYERS,
     {.attention = scaled_by_hidden}},
};
const mr3d_mutant_set mr3d_mutants_qwen2_details = MR3D_MUTANT_SET(entries);
