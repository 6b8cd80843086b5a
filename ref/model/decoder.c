#include "decoder.h"

#include <stdlib.h>
#include <string.h>

#include "../base/product.h"
#include "mr3d/trace.h"

/* Rows of the head converted at a time: 2048 x 896 doubles stay near a processor's last cache level. */
#define HEAD_ROWS 2048

void mr3d_kv_cache_free(mr3d_kv_cache *cache) {
  for (int n = 0; n < cache->n_layers; n++) {
    free(cache->key[n]);
    free(cache->value[n]);
  }
  free(cache->key);
  free(cache->value);
  *cache = (mr3d_kv_cache){0};
}

mr3d_status mr3d_decoder_embed(const mr3d_decoder *decoder, int64_t count, const int64_t *ids, double *embeds, mr3d_error *error) {
  int64_t hidden = decoder->config->hidden_size;
  double *buffer = mr3d_allocate(hidden, sizeof *buffer);
  mr3d_status status = MR3D_OK;
  for (int64_t i = 0; i < count && status == MR3D_OK; i++) {
    const double *row;
    status = mr3d_weights_rows(decoder->weights, decoder->ends.embed_tokens, ids[i], 1, buffer, &row, error);
    if (status == MR3D_OK) memcpy(embeds + i * hidden, row, (size_t)hidden * sizeof *embeds);
  }
  free(buffer);
  return status;
}

static mr3d_status final_norm(const mr3d_context *context, const mr3d_decoder *decoder, int64_t rows, const double *x, double *y, mr3d_error *error) {
  const int64_t n = decoder->config->hidden_size;
  double *buffer = mr3d_allocate(n, sizeof *buffer);
  const double *weight;
  mr3d_tensor norm = *decoder->ends.norm;
  norm.rank = 2; /* [1,hidden] */
  norm.shape[1] = norm.shape[0];
  norm.shape[0] = 1;
  mr3d_status status = mr3d_weights_rows(decoder->weights, &norm, 0, 1, buffer, &weight, error);
  if (status == MR3D_OK)
    context->op->rmsnorm(context, &(mr3d_rmsnorm_in){.rows = rows, .n = n, .eps = decoder->config->rms_norm_eps, .x = x, .weight = weight}, y);
  free(buffer);
  return status;
}

static mr3d_kv_cache allocate_cache(const mr3d_config *config, const mr3d_block_in *in) {
  const int n_layers = (int)config->num_hidden_layers;
  const int64_t size = in->B * config->num_key_value_heads * (in->L + in->q) * config->head_dim;
  mr3d_kv_cache cache = {.L = in->L + in->q, .n_layers = n_layers};
  cache.key = mr3d_allocate(n_layers, sizeof *cache.key);
  cache.value = mr3d_allocate(n_layers, sizeof *cache.value);
  for (int n = 0; n < n_layers; n++) {
    cache.key[n] = mr3d_allocate(size, sizeof(double));
    cache.value[n] = mr3d_allocate(size, sizeof(double));
  }
  return cache;
}

/* What a watch sees before the first layer. */
static mr3d_call_state state_of(const mr3d_config *config, const mr3d_kv_cache *past, const mr3d_block_in *in, const mr3d_kv_cache *cache, double *x) {
  return (mr3d_call_state){.B = in->B, .q = in->q, .L = in->L, .hidden_size = config->hidden_size, .kv_heads = config->num_key_value_heads,
                           .head_dim = config->head_dim, .layers = cache->n_layers, .hidden = x, .key = cache->key, .value = cache->value,
                           .past_key = in->L ? past->key : NULL, .past_value = in->L ? past->value : NULL};
}

/* What the call was given, beside its rows: masks, positions, points. */
static void trace_call(const mr3d_context *of_model, const mr3d_block_in *in) {
  if (!of_model->tracer) return;
  const mr3d_points *points = &in->points;
  if (in->mask.key_mask) mr3d_trace(of_model, "attention_mask", MR3D_I64, 2, (int64_t[]){in->B, in->mask.M}, in->mask.key_mask);
  if (points->mask) {
    mr3d_trace(of_model, "point_token_mask", MR3D_BOOL, 2, (int64_t[]){in->B, in->q}, points->mask);
    mr3d_trace(of_model, "point_coords", MR3D_F64, 3, (int64_t[]){in->B, points->N, 3}, points->coords);
  }
  if (points->counts) mr3d_trace(of_model, "point_counts", MR3D_I64, 1, (int64_t[]){in->B}, points->counts);
  int64_t *positions = mr3d_allocate(in->q, sizeof *positions);
  for (int64_t i = 0; i < in->q; i++) positions[i] = in->L + i;
  mr3d_trace(of_model, "position_ids", MR3D_I64, 2, (int64_t[]){in->position_rows ? in->position_rows : 1, in->q}, in->position_rows ? in->position_ids : positions);
  free(positions);
}

/* A few rows read all weights and compute little: what is stored narrow is widened within the product then. Other operators, and emulated ones, want binary64. */
static bool may_be_stored(const mr3d_context *context, int64_t rows) {
  return rows <= MR3D_FEW_ROWS && context->op == &mr3d_reference_operators && context->arithmetic == NULL;
}

/**
 * Decoder (spec.md 5, 6): x_0 = embeddings, x_{n+1} = decoder_layer_n(x_n), hidden = rmsnorm(x_last).
 *
 * Each layer has its own rotary parameters and its own cache. Nothing follows from the cache's existence or from q: positions are
 * L .. L+q-1 or the given ones, points are those of this call.
 */
mr3d_status mr3d_decoder_forward(const mr3d_context *context, const mr3d_decoder *decoder, const mr3d_kv_cache *past, const mr3d_block_in *in, double *hidden,
                                 mr3d_kv_cache *grown, mr3d_error *error) {
  const mr3d_config *config = decoder->config;
  const int n_layers = (int)config->num_hidden_layers;
  const int64_t rows = in->B * in->q;

  double *x = mr3d_allocate(rows * config->hidden_size, sizeof *x), *y = mr3d_allocate(rows * config->hidden_size, sizeof *y);
  memcpy(x, in->hidden, (size_t)(rows * config->hidden_size) * sizeof *x);
  mr3d_kv_cache cache = allocate_cache(config, in);
  const mr3d_watch *watch = decoder->watch;
  mr3d_call_state state = state_of(config, past, in, &cache, x);

  mr3d_status status = MR3D_OK;
  mr3d_context of_layer = *context, of_model = *context;
  of_model.layer = MR3D_TRACE_MODEL;
  trace_call(&of_model, in);
  mr3d_trace(&of_model, "inputs_embeds", MR3D_F64, 3, (int64_t[]){in->B, in->q, config->hidden_size}, x);
  mr3d_trace(&of_model, "cache_length", MR3D_I64, 1, (int64_t[]){1}, &in->L);
  if (watch && watch->start) state.done = watch->start(watch->user, &state);
  for (int n = (int)state.done; n < n_layers && status == MR3D_OK; n++) {
    of_layer.layer = n;
    mr3d_layer_weights layer = {0};
    status = mr3d_weights_layer(decoder->weights, config, decoder->sizes, n, decoder->has_points, may_be_stored(context, rows), &layer, error);
    if (status != MR3D_OK) break;
    mr3d_block_in layer_in = *in;
    layer_in.hidden = x;
    layer_in.past_key = in->L ? past->key[n] : NULL;
    layer_in.past_value = in->L ? past->value[n] : NULL;
    mr3d_block_out layer_out = {.hidden = y, .key = cache.key[n], .value = cache.value[n]};
    /* Sizes that only the weights know (intermediate) come from this layer. */
    mr3d_config layer_config = *config;
    layer_config.intermediate_size = mr3d_sizes_get(decoder->sizes, "I");
    status = context->op->decoder_layer(&of_layer, &layer_config, &layer.layer, &layer_in, &layer_out, error);
    mr3d_layer_weights_free(&layer);
    double *swap = x;
    x = y;
    y = swap;
    state.hidden = x;
    state.done = n + 1;
    if (watch && watch->layer_done && status == MR3D_OK) watch->layer_done(watch->user, &state);
  }
  if (status == MR3D_OK) status = final_norm(context, decoder, rows, x, hidden, error);
  if (status == MR3D_OK) mr3d_trace(&of_model, "final_norm", MR3D_F64, 3, (int64_t[]){in->B, in->q, config->hidden_size}, hidden);
  if (status == MR3D_OK)
    *grown = cache;
  else
    mr3d_kv_cache_free(&cache);
  free(x);
  free(y);
  return status;
}

/**
 * Logits (spec.md 6): logits[b,i,t] = sum_j hidden[b, q - keep + i, j] head[t,j], the head being the embedding where tied.
 * The head is read in blocks of rows, so that a vocabulary of 151936 x 896 needs no copy in binary64; a few rows use it as it is stored. Left as they are where no one reads them.
 */
mr3d_status mr3d_decoder_logits(const mr3d_context *context, const mr3d_decoder *decoder, int64_t B, int64_t q, int64_t keep, const double *hidden,
                                double *logits, mr3d_error *error) {
  const int64_t V = decoder->ends.head->shape[0], n = decoder->config->hidden_size, rows = B * keep;
  if (decoder->watch && decoder->watch->wants_logits && !decoder->watch->wants_logits(decoder->watch->user)) return MR3D_OK;
  double *kept = mr3d_allocate(rows * n, sizeof *kept), *buffer = mr3d_allocate(HEAD_ROWS * n, sizeof *buffer);
  double *block = mr3d_allocate(rows * HEAD_ROWS, sizeof *block);
  for (int64_t b = 0; b < B && keep > 0; b++)
    memcpy(kept + b * keep * n, hidden + (b * q + q - keep) * n, (size_t)(keep * n) * sizeof *kept);

  mr3d_status status = MR3D_OK;
  const bool as_stored = may_be_stored(context, rows) && mr3d_weights_usable_as_stored(decoder->weights, decoder->ends.head);
  if (as_stored) context->op->linear(context, &(mr3d_linear_in){.rows = rows, .in = n, .out = V, .x = kept, .stored = decoder->ends.head}, logits);
  for (int64_t first = 0; !as_stored && first < V && rows > 0 && status == MR3D_OK; first += HEAD_ROWS) {
    const int64_t count = V - first < HEAD_ROWS ? V - first : HEAD_ROWS;
    const double *head;
    status = mr3d_weights_rows(decoder->weights, decoder->ends.head, first, count, buffer, &head, error);
    if (status != MR3D_OK) break;
    context->op->linear(context, &(mr3d_linear_in){.rows = rows, .in = n, .out = count, .x = kept, .weight = head}, block);
    for (int64_t i = 0; i < rows; i++) memcpy(logits + i * V + first, block + i * count, (size_t)count * sizeof *logits);
  }
  mr3d_context of_model = *context;
  of_model.layer = MR3D_TRACE_MODEL;
  if (status == MR3D_OK) mr3d_trace(&of_model, "logits", MR3D_F64, 3, (int64_t[]){B, keep, V}, logits);
  free(kept);
  free(buffer);
  free(block);
  return status;
}
