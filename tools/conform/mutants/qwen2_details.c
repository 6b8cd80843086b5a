/** P18: habits of Llama and of others applied to Qwen2. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "mr3d/trace.h"
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

static void tanh_gelu(const mr3d_context *context, const mr3d_swiglu_in *in, double *y) {
  (void)context;
  for (int64_t i = 0; i < in->rows * in->n; i++) {
    double x = in->gate[i];
    y[i] = x / 2 * (1 + tanh(sqrt(2 / acos(-1)) * (x + 0.044715 * x * x * x))) * in->up[i];
  }
}

static void relu(const mr3d_context *context, const mr3d_swiglu_in *in, double *y) {
  (void)context;
  for (int64_t i = 0; i < in->rows * in->n; i++) y[i] = fmax(in->gate[i], 0) * in->up[i];
}

static void sigmoid_only(const mr3d_context *context, const mr3d_swiglu_in *in, double *y) {
  (void)context;
  for (int64_t i = 0; i < in->rows * in->n; i++) y[i] = in->up[i] / (1 + exp(-in->gate[i]));
}

static void eps_1e_6(const mr3d_context *context, const mr3d_rmsnorm_in *in, double *y) {
  mr3d_rmsnorm_in changed = *in;
  changed.eps = 1e-6;
  mr3d_rmsnorm(context, &changed, y);
}

static void mean_subtracted(const mr3d_context *context, const mr3d_rmsnorm_in *in, double *y) {
  double *x = mr3d_allocate(in->rows * in->n, sizeof *x);
  for (int64_t r = 0; r < in->rows; r++) {
    double mean = 0;
    for (int64_t i = 0; i < in->n; i++) mean += in->x[r * in->n + i] / (double)in->n;
    for (int64_t i = 0; i < in->n; i++) x[r * in->n + i] = in->x[r * in->n + i] - mean;
  }
  mr3d_rmsnorm_in changed = *in;
  changed.x = x;
  mr3d_rmsnorm(context, &changed, y);
  free(x);
}

static void eps_outside(const mr3d_context *context, const mr3d_rmsnorm_in *in, double *y) {
  (void)context;
  for (int64_t r = 0; r < in->rows; r++) {
    const double *x = in->x + r * in->n;
    double sum = 0;
    for (int64_t i = 0; i < in->n; i++) sum += x[i] * x[i];
    for (int64_t i = 0; i < in->n; i++) y[r * in->n + i] = x[i] / (sqrt(sum / (double)in->n) + in->eps) * in->weight[i];
  }
}

/** The last norm of a decoder's request lets its rows through; a layer has two before it. */
static void final_norm_missing(const mr3d_context *context, const mr3d_rmsnorm_in *in, double *y) {
  const mr3d_bundle *memory = mr3d_mutant_memory();
  const char *op = memory ? mr3d_bundle_get(memory, "op") : NULL;
  mr3d_config config;
  bool decoder = op && (strcmp(op, "prefill") == 0 || strcmp(op, "decode") == 0) && mr3d_request_config(memory, &config);
  if (decoder && mr3d_mutant_nth("norm") == 2 * config.num_hidden_layers) memcpy(y, in->x, (size_t)(in->rows * in->n) * sizeof *y);
  else mr3d_rmsnorm(context, in, y);
}

static void scaled(double factor, const mr3d_context *context, const mr3d_attention_in *in, double *y) {
  int64_t count = in->B * in->H * in->q * in->D;
  double *query = mr3d_allocate(count, sizeof *query);
  for (int64_t i = 0; i < count; i++) query[i] = in->query[i] * factor;
  mr3d_attention_in changed = *in;
  changed.query = query;
  mr3d_attention(context, &changed, y);
  free(query);
}

#define ATTENTION(name) static void name(const mr3d_context *context, const mr3d_attention_in *in, double *y)
ATTENTION(scaled_by_hidden) { scaled(sqrt(1 / (double)in->H), context, in, y); } /* sqrt(D / hidden) */
ATTENTION(not_scaled) { scaled(sqrt((double)in->D), context, in, y); }
ATTENTION(scaled_by_D) { scaled(1 / sqrt((double)in->D), context, in, y); }

/** Weights of one query head over all queries, each key's summing to 1. */
static void over_queries(const mr3d_attention_in *in, int64_t b, int64_t h, double *weights) {
  const double *query = in->query + (b * in->H + h) * in->q * in->D, *key = in->key + (b * in->G + h / (in->H / in->G)) * in->K * in->D;
  for (int64_t j = 0; j < in->K; j++) {
    double most = -INFINITY, sum = 0;
    for (int64_t i = 0; i < in->q; i++) {
      double score = 0;
      for (int64_t d = 0; d < in->D; d++) score += query[i * in->D + d] * key[j * in->D + d];
      weights[i * in->K + j] = in->visible[(b * in->q + i) * in->K + j] ? score / sqrt((double)in->D) : -INFINITY;
      most = fmax(most, weights[i * in->K + j]);
    }
    for (int64_t i = 0; i < in->q; i++) sum += weights[i * in->K + j] = most > -INFINITY ? exp(weights[i * in->K + j] - most) : 0;
    for (int64_t i = 0; i < in->q && sum > 0; i++) weights[i * in->K + j] /= sum;
  }
}

ATTENTION(softmax_over_queries) {
  double *weights = mr3d_allocate(in->q * in->K, sizeof *weights);
  (void)context;
  for (int64_t head = 0; head < in->B * in->H; head++) {
    const double *value = in->value + (head / in->H * in->G + head % in->H / (in->H / in->G)) * in->K * in->D;
    over_queries(in, head / in->H, head % in->H, weights);
    for (int64_t i = 0; i < in->q; i++) {
      double *row = y + (head * in->q + i) * in->D;
      for (int64_t d = 0; d < in->D; d++) row[d] = 0;
      for (int64_t j = 0; j < in->K; j++)
        for (int64_t d = 0; d < in->D; d++) row[d] += weights[i * in->K + j] * value[j * in->D + d];
    }
  }
  free(weights);
}

static mr3d_status with_biases(bool q, bool k, bool v, const mr3d_context *context, const mr3d_config *config, const mr3d_layer *layer,
                               const mr3d_block_in *in, mr3d_block_out *out, mr3d_error *error) {
  mr3d_layer changed = *layer;
  if (!q) changed.q_bias = NULL;
  if (!k) changed.k_bias = NULL;
  if (!v) changed.v_bias = NULL;
  return mr3d_attention_block(context, config, &changed, in, out, error);
}

MR3D_LAYER(q_bias_missing) { return with_biases(false, true, true, context, config, layer, in, out, error); }
MR3D_LAYER(k_bias_missing) { return with_biases(true, false, true, context, config, layer, in, out, error); }
MR3D_LAYER(v_bias_missing) { return with_biases(true, true, false, context, config, layer, in, out, error); }
MR3D_LAYER(bias_on_q_only) { return with_biases(true, false, false, context, config, layer, in, out, error); }

MR3D_LAYER(bias_on_o) {
  mr3d_status status = mr3d_attention_block(context, config, layer, in, out, error);
  int64_t n = config->hidden_size;
  bool fits = config->num_attention_heads * config->head_dim == n;
  for (int64_t i = 0; status == MR3D_OK && fits && i < in->B * in->q * n; i++) out->hidden[i] += layer->q_bias[i % n];
  return status;
}

/** How a layer is put together; all false: as it should be. */
typedef struct habits {
  bool post_norm, attention_alone, mlp_alone, residual_normed, second_norm_missing;
} habits;

/** y += x (NULL: nothing), rounded as what a stack stores of the residual stream. */
static void add(const mr3d_context *context, const int64_t shape[3], const double *x, double *y) {
  for (int64_t i = 0; x && i < shape[0] * shape[1] * shape[2]; i++) y[i] += x[i];
  mr3d_round(context, MR3D_AT_RESIDUAL, shape[0], 1, shape[1], shape[2], y);
}

static void norm(const mr3d_context *context, const mr3d_config *config, int64_t rows, const double *weight, const double *x, double *y) {
  context->op->rmsnorm(context, &(mr3d_rmsnorm_in){.rows = rows, .n = config->hidden_size, .eps = config->rms_norm_eps, .x = x, .weight = weight}, y);
}

static void mlp(const mr3d_context *context, const mr3d_config *config, const mr3d_layer *layer, const int64_t shape[3], const double *x, double *y) {
  const int64_t hidden = config->hidden_size, I = config->intermediate_size, rows = shape[0] * shape[1], wide[3] = {shape[0], shape[1], I};
  double *gate = mr3d_allocate(3 * rows * I, sizeof *gate), *up = gate + rows * I, *gated = up + rows * I;
  context->op->linear(context, &(mr3d_linear_in){.rows = rows, .in = hidden, .out = I, .x = x, .weight = layer->gate_weight}, gate);
  mr3d_trace(context, "gate", MR3D_F64, 3, wide, gate);
  context->op->linear(context, &(mr3d_linear_in){.rows = rows, .in = hidden, .out = I, .x = x, .weight = layer->up_weight}, up);
  mr3d_trace(context, "up", MR3D_F64, 3, wide, up);
  context->op->swiglu(context, &(mr3d_swiglu_in){.rows = rows, .n = I, .gate = gate, .up = up}, gated);
  mr3d_trace(context, "gated", MR3D_F64, 3, wide, gated);
  context->op->linear(context, &(mr3d_linear_in){.rows = rows, .in = I, .out = hidden, .x = gated, .weight = layer->down_weight}, y);
  mr3d_trace(context, "down", MR3D_F64, 3, shape, y);
  free(gate);
}

static mr3d_status layer_with(habits has, const mr3d_context *context, const mr3d_config *config, const mr3d_layer *layer, const mr3d_block_in *in,
                              mr3d_block_out *out, mr3d_error *error) {
  int64_t rows = in->B * in->q, count = rows * config->hidden_size;
  double *normed = mr3d_allocate(3 * count, sizeof *normed), *h = normed + count, *second = h + count;
  const int64_t shape[3] = {in->B, in->q, config->hidden_size};
  mr3d_trace(context, "input", MR3D_F64, 3, shape, in->hidden);
  norm(context, config, rows, layer->input_layernorm, in->hidden, normed);
  mr3d_block_in block_in = *in;
  if (!has.post_norm) block_in.hidden = normed;
  mr3d_trace(context, "input_norm", MR3D_F64, 3, shape, block_in.hidden);
  mr3d_block_out block_out = {.hidden = has.post_norm ? second : h, .key = out->key, .value = out->value};
  mr3d_status status = context->op->attention_block(context, config, layer, &block_in, &block_out, error);
  if (status == MR3D_OK) {
    add(context, shape, has.attention_alone ? NULL : has.residual_normed ? normed : in->hidden, block_out.hidden);
    mr3d_trace(context, "attention_residual", MR3D_F64, 3, shape, block_out.hidden);
    if (has.post_norm) norm(context, config, rows, layer->input_layernorm, second, h);
    if (!has.post_norm && !has.second_norm_missing) norm(context, config, rows, layer->post_attention_layernorm, h, second);
    const double *x = has.post_norm || has.second_norm_missing ? h : second;
    mr3d_trace(context, "post_attention_norm", MR3D_F64, 3, shape, x);
    mlp(context, config, layer, shape, x, out->hidden);
    add(context, shape, has.mlp_alone ? NULL : has.residual_normed ? second : h, out->hidden);
    if (has.post_norm) {
      for (int64_t i = 0; i < count; i++) second[i] = out->hidden[i];
      norm(context, config, rows, layer->post_attention_layernorm, second, out->hidden);
    }
    mr3d_trace(context, "output", MR3D_F64, 3, shape, out->hidden);
  }
  free(normed);
  return status;
}

MR3D_LAYER(post_norm) { return layer_with((habits){.post_norm = true}, context, config, layer, in, out, error); }
MR3D_LAYER(attention_alone) { return layer_with((habits){.attention_alone = true}, context, config, layer, in, out, error); }
MR3D_LAYER(mlp_alone) { return layer_with((habits){.mlp_alone = true}, context, config, layer, in, out, error); }
MR3D_LAYER(residual_normed) { return layer_with((habits){.residual_normed = true}, context, config, layer, in, out, error); }
MR3D_LAYER(second_norm_missing) { return layer_with((habits){.second_norm_missing = true}, context, config, layer, in, out, error); }

MR3D_LAYER(norms_exchanged) {
  mr3d_layer changed = *layer;
  changed.input_layernorm = layer->post_attention_layernorm;
  changed.post_attention_layernorm = layer->input_layernorm;
  return mr3d_decoder_layer(context, config, &changed, in, out, error);
}

static mr3d_bundle *with_tie(const mr3d_bundle *request, const char *json) {
  const char *op = mr3d_bundle_get(request, "op");
  bool session = op && (strcmp(op, "prefill") == 0 || strcmp(op, "decode") == 0);
  return session ? mr3d_request_configured(request, "tie_word_embeddings", json) : NULL;
}

static mr3d_bundle *always_tied(const mr3d_bundle *request) { return with_tie(request, "true"); }
/** null leaves it to the weights: their own head, where they have one. */
static mr3d_bundle *head_of_weights(const mr3d_bundle *request) { return with_tie(request, "null"); }

static const mr3d_mutant entries[] = {
    {"qwen2-details", "bias-missing", "the biases of q_proj, k_proj and v_proj are left out", MR3D_PRODUCTS, {.linear = bias_missing}},
    {"qwen2-details", "weight-plus-one", "RMSNorm multiplies by weight + 1 instead of weight", "rmsnorm decoder_layer prefill decode", {.rmsnorm = weight_plus_one}},
    {"qwen2-details", "eps-1e-5", "RMSNorm uses eps 1e-5 instead of rms_norm_eps (1e-6)", "rmsnorm decoder_layer prefill decode", {.rmsnorm = eps_1e_5}},
    {"qwen2-details", "gelu", "the MLP uses GELU instead of SiLU", "swiglu decoder_layer prefill decode", {.swiglu = gelu}},
    {"qwen2-details", "gate-and-up-swapped", "gate and up are exchanged in the MLP", "swiglu decoder_layer prefill decode", {.swiglu = gate_and_up_swapped}},
    {"qwen2-details", "scaled-by-hidden", "scores are divided by sqrt(hidden_size) instead of sqrt(head_dim)", MR3D_ATTENDING,
     {.attention = scaled_by_hidden}},
    {"qwen2-details", "q-bias-missing", "the bias of q_proj is left out", MR3D_LAYERS,
     {.attention_block = q_bias_missing}},
    {"qwen2-details", "k-bias-missing", "the bias of k_proj is left out", MR3D_LAYERS,
     {.attention_block = k_bias_missing}},
    {"qwen2-details", "v-bias-missing", "the bias of v_proj is left out", MR3D_LAYERS,
     {.attention_block = v_bias_missing}},
    {"qwen2-details", "bias-on-q-only", "the biases of k_proj and v_proj are left out, that of q_proj is added", MR3D_LAYERS,
     {.attention_block = bias_on_q_only}},
    {"qwen2-details", "bias-on-o", "o_proj adds the bias of q_proj, which it has none of", MR3D_LAYERS,
     {.attention_block = bias_on_o}},
    {"qwen2-details", "eps-1e-6", "RMSNorm uses eps 1e-6 whatever rms_norm_eps says", "rmsnorm decoder_layer prefill decode",
     {.rmsnorm = eps_1e_6}},
    {"qwen2-details", "eps-outside", "RMSNorm divides by sqrt(mean(x^2)) + eps instead of sqrt(mean(x^2) + eps)", "rmsnorm decoder_layer prefill decode",
     {.rmsnorm = eps_outside}},
    {"qwen2-details", "mean-subtracted", "RMSNorm subtracts the mean first, as LayerNorm does", "rmsnorm decoder_layer prefill decode",
     {.rmsnorm = mean_subtracted}},
    {"qwen2-details", "final-norm-missing", "the norm behind the last layer is left out", "prefill decode",
     {.rmsnorm = final_norm_missing}},
    {"qwen2-details", "tanh-gelu", "the MLP uses GELU in its tanh form instead of SiLU", "swiglu decoder_layer prefill decode",
     {.swiglu = tanh_gelu}},
    {"qwen2-details", "relu", "the MLP uses ReLU instead of SiLU", "swiglu decoder_layer prefill decode",
     {.swiglu = relu}},
    {"qwen2-details", "sigmoid-only", "the MLP multiplies by sigmoid(gate) instead of silu(gate) = gate sigmoid(gate)", "swiglu decoder_layer prefill decode",
     {.swiglu = sigmoid_only}},
    {"qwen2-details", "not-scaled", "scores are not divided by sqrt(head_dim)", MR3D_ATTENDING,
     {.attention = not_scaled}},
    {"qwen2-details", "scaled-by-head-dim", "scores are divided by head_dim instead of its root", MR3D_ATTENDING,
     {.attention = scaled_by_D}},
    {"qwen2-details", "softmax-over-queries", "softmax goes over the queries of each key instead of the keys of each query", MR3D_ATTENDING,
     {.attention = softmax_over_queries}, .only_whole = true},
    {"qwen2-details", "post-norm", "a layer norms each sum after its residual instead of each part before it", "decoder_layer prefill decode",
     {.decoder_layer = post_norm}},
    {"qwen2-details", "attention-alone", "the residual around attention is left out", "decoder_layer prefill decode",
     {.decoder_layer = attention_alone}},
    {"qwen2-details", "mlp-alone", "the residual around the MLP is left out", "decoder_layer prefill decode",
     {.decoder_layer = mlp_alone}},
    {"qwen2-details", "residual-normed", "residuals add what went into attention and MLP, the normed rows, instead of the rows before the norm", "decoder_layer prefill decode",
     {.decoder_layer = residual_normed}},
    {"qwen2-details", "second-norm-missing", "the norm between attention and MLP is left out", "decoder_layer prefill decode",
     {.decoder_layer = second_norm_missing}},
    {"qwen2-details", "norms-exchanged", "input_layernorm and post_attention_layernorm are exchanged", "decoder_layer prefill decode",
     {.decoder_layer = norms_exchanged}},
    {"qwen2-details", "always-tied", "logits are made with the embeddings although tie_word_embeddings is false or the weights hold a head", "prefill decode",
     {NULL}, always_tied},
    {"qwen2-details", "head-of-weights", "logits are made with lm_head.weight although tie_word_embeddings is true", "prefill decode",
     {NULL}, head_of_weights},
};
const mr3d_mutant_set mr3d_mutants_qwen2_details = MR3D_MUTANT_SET(entries);
