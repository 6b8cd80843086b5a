/** P14: keys cached before rotation or rotated twice, values rotated, entries of the cache in the wrong place. */
#include <stdlib.h>
#include <string.h>

#include "mr3d/trace.h"
#include "mutants_internal.h"

static mr3d_status rotated_twice(const mr3d_context *context, const mr3d_config *config, const mr3d_layer *layer, const mr3d_block_in *in,
                                 mr3d_block_out *out, mr3d_error *error) {
  if (in->L == 0) return mr3d_attention_block(context, config, layer, in, out, error);
  int64_t G = config->num_key_value_heads, D = config->head_dim;
  int64_t *positions = mr3d_allocate(in->L, sizeof *positions);
  double *key = mr3d_allocate(in->B * G * in->L * D, sizeof *key);
  for (int64_t j = 0; j < in->L; j++) positions[j] = j;
  mr3d_rope1d(context, &(mr3d_rope1d_in){.B = in->B, .heads = G, .q = in->L, .D = D, .rope_theta = config->rope_theta, .x = in->past_key,
                                         .position_rows = 1, .position_ids = positions}, key);
  mr3d_block_in changed = *in;
  changed.past_key = key;
  mr3d_status status = mr3d_attention_block(context, config, layer, &changed, out, error);
  free(positions);
  free(key);
  return status;
}

/** The block with past keys and values put elsewhere. */
static mr3d_status with_past(const double *key, const double *value, const mr3d_context *context, const mr3d_config *config, const mr3d_layer *layer,
                             const mr3d_block_in *in, mr3d_block_out *out, mr3d_error *error) {
  mr3d_block_in changed = *in;
  changed.past_key = key;
  changed.past_value = value;
  return mr3d_attention_block(context, config, layer, &changed, out, error);
}

MR3D_LAYER(keys_for_values) { return with_past(in->past_value, in->past_key, context, config, layer, in, out, error); }

/** Layer 0's cache is what every layer of a decoder reads. */
MR3D_LAYER(cache_of_layer_0) {
  int64_t size = in->B * config->num_key_value_heads * in->L * config->head_dim;
  if (in->L == 0) return mr3d_attention_block(context, config, layer, in, out, error);
  if (mr3d_mutant_nth("layer") == 0) {
    mr3d_mutant_remember("key of layer 0", size, in->past_key);
    mr3d_mutant_remember("value of layer 0", size, in->past_value);
  }
  const double *key = mr3d_mutant_remembered("key of layer 0", size), *value = mr3d_mutant_remembered("value of layer 0", size);
  return with_past(key ? key : in->past_key, value ? value : in->past_value, context, config, layer, in, out, error);
}

/** What an attention block has when it fills its cache: key, rotated, value [B,G,q,D]. */
typedef struct parts {
  const mr3d_context *context;
  const mr3d_config *config;
  const mr3d_block_in *in;
  const mr3d_mixed_rope_in *rope;
  double *key, *rotated, *value;
} parts;

/** Copies q rows of each head to slots `at` .. of cache [B,G,L+q,D]. */
static void put(const parts *p, int64_t rows, const double *from, int64_t at, double *cache) {
  int64_t D = p->config->head_dim, K = p->in->L + p->in->q;
  for (int64_t head = 0; rows > 0 && head < p->in->B * p->config->num_key_value_heads; head++)
    memcpy(cache + (head * K + at) * D, from + head * rows * D, (size_t)(rows * D) * sizeof *cache);
}

/** y [B,heads,q,D]: a projection with its heads apart. */
static double *projected(const mr3d_context *context, const mr3d_config *config, const mr3d_block_in *in, int64_t heads, const double *weight,
                         const double *bias) {
  int64_t D = config->head_dim, rows = in->B * in->q;
  double *flat = mr3d_allocate(rows * heads * D, sizeof *flat), *y = mr3d_allocate(rows * heads * D, sizeof *y);
  context->op->linear(context, &(mr3d_linear_in){.rows = rows, .in = config->hidden_size, .out = heads * D, .x = in->hidden, .weight = weight, .bias = bias}, flat);
  for (int64_t r = 0; r < rows * heads; r++)
    memcpy(y + ((r / heads / in->q * heads + r % heads) * in->q + r / heads % in->q) * D, flat + r * D, (size_t)D * sizeof *y);
  free(flat);
  return y;
}

/** The block with a cache of its own making: `seen` fills what this call's attention reads, `kept` what it hands on (NULL: the same). */
static mr3d_status with_cache(mr3d_status (*seen)(const parts *, mr3d_block_out *, mr3d_error *), void (*kept)(const parts *, mr3d_block_out *),
                              const mr3d_context *context, const mr3d_config *config, const mr3d_layer *layer, const mr3d_block_in *in, mr3d_block_out *out,
                              mr3d_error *error) {
  int64_t H = config->num_attention_heads, G = config->num_key_value_heads, D = config->head_dim, K = in->L + in->q;
  mr3d_context silent = *context;
  silent.tracer = NULL;
  mr3d_status status = mr3d_attention_block(&silent, config, layer, in, out, error); /* what is refused stays refused */
  if (status != MR3D_OK) return status;
  double *query = projected(context, config, in, H, layer->q_weight, layer->q_bias), *key = projected(context, config, in, G, layer->k_weight, layer->k_bias);
  double *value = projected(context, config, in, G, layer->v_weight, layer->v_bias), *mixed = mr3d_allocate(in->B * H * in->q * D, sizeof *mixed);
  double *turned = mr3d_allocate(in->B * H * in->q * D, sizeof *turned), *rotated = mr3d_allocate(in->B * G * in->q * D, sizeof *rotated);
  int64_t *positions = mr3d_allocate(in->q, sizeof *positions);
  bool *visible = mr3d_allocate(in->B * in->q * K, sizeof *visible);
  for (int64_t i = 0; i < in->q; i++) positions[i] = in->L + i;
  mr3d_mixed_rope_in rope = {.B = in->B, .H = H, .G = G, .S = in->q, .D = D, .query = query, .key = key, .points = in->points, .q = layer->rotary_q,
                             .kv = layer->rotary_kv, .position_rows = in->position_rows ? in->position_rows : 1,
                             .position_ids = in->position_rows ? in->position_ids : positions};
  const int64_t of_query[4] = {in->B, H, in->q, D}, of_key[4] = {in->B, G, in->q, D};
  mr3d_trace(context, "query", MR3D_F64, 4, of_query, query);
  mr3d_trace(context, "key", MR3D_F64, 4, of_key, key);
  mr3d_trace(context, "value", MR3D_F64, 4, of_key, value);
  status = context->op->mixed_rope(context, config, &rope, turned, rotated, error);
  mr3d_trace(context, "query_rotated", MR3D_F64, 4, of_query, turned);
  mr3d_trace(context, "key_rotated", MR3D_F64, 4, of_key, rotated);
  if (status == MR3D_OK) status = context->op->mask(context, &in->mask, visible, error);
  parts p = {context, config, in, &rope, key, rotated, value};
  if (status == MR3D_OK) status = seen(&p, out, error);
  if (status == MR3D_OK) {
    mr3d_trace(context, "visible", MR3D_BOOL, 3, (int64_t[]){in->B, in->q, K}, visible);
    context->op->attention(context, &(mr3d_attention_in){.B = in->B, .H = H, .G = G, .q = in->q, .K = K, .D = D, .query = turned, .key = out->key,
                                                         .value = out->value, .visible = visible}, mixed);
    mr3d_trace(context, "context", MR3D_F64, 4, of_query, mixed);
    for (int64_t r = 0; r < in->B * H * in->q; r++) /* [B,H,q,D] to [B,q,H,D] */
      memcpy(turned + ((r / in->q / H * in->q + r % in->q) * H + r / in->q % H) * D, mixed + r * D, (size_t)D * sizeof *turned);
    context->op->linear(context, &(mr3d_linear_in){.rows = in->B * in->q, .in = H * D, .out = config->hidden_size, .x = turned, .weight = layer->o_weight}, out->hidden);
    mr3d_trace(context, "o_proj", MR3D_F64, 3, (int64_t[]){in->B, in->q, config->hidden_size}, out->hidden);
    if (kept) kept(&p, out);
  }
  free(query);
  free(key);
  free(value);
  free(mixed);
  free(turned);
  free(rotated);
  free(positions);
  free(visible);
  return status;
}

static mr3d_status as_it_is(const parts *p, mr3d_block_out *out, mr3d_error *error) { return (void)p, (void)out, (void)error, MR3D_OK; }
static void unrotated(const parts *p, mr3d_block_out *out) { put(p, p->in->q, p->key, p->in->L, out->key); }

static mr3d_status values_turned(const parts *p, mr3d_block_out *out, mr3d_error *error) {
  mr3d_mixed_rope_in rope = *p->rope;
  rope.key = p->value;
  int64_t rows = p->in->B * p->in->q, D = p->config->head_dim;
  double *query = mr3d_allocate(rows * rope.H * D, sizeof *query), *value = mr3d_allocate(rows * rope.G * D, sizeof *value);
  mr3d_status status = p->context->op->mixed_rope(p->context, p->config, &rope, query, value, error);
  if (status == MR3D_OK) put(p, p->in->q, value, p->in->L, out->value);
  free(query);
  free(value);
  return status;
}

static mr3d_status in_front(const parts *p, mr3d_block_out *out, mr3d_error *error) {
  (void)error;
  put(p, p->in->q, p->rotated, 0, out->key);
  put(p, p->in->q, p->value, 0, out->value);
  put(p, p->in->L, p->in->past_key, p->in->q, out->key);
  put(p, p->in->L, p->in->past_value, p->in->q, out->value);
  return MR3D_OK;
}

static mr3d_status one_slot_early(const parts *p, mr3d_block_out *out, mr3d_error *error) {
  (void)error;
  if (p->in->L == 0) return MR3D_OK;
  int64_t D = p->config->head_dim, K = p->in->L + p->in->q;
  put(p, p->in->q, p->rotated, p->in->L - 1, out->key);
  put(p, p->in->q, p->value, p->in->L - 1, out->value);
  for (int64_t head = 0; head < p->in->B * p->config->num_key_value_heads; head++) {
    memset(out->key + (head * K + K - 1) * D, 0, (size_t)D * sizeof(double));
    memset(out->value + (head * K + K - 1) * D, 0, (size_t)D * sizeof(double));
  }
  return MR3D_OK;
}

MR3D_LAYER(cached_before_rotation) { return with_cache(as_it_is, unrotated, context, config, layer, in, out, error); }
MR3D_LAYER(values_rotated) { return with_cache(values_turned, NULL, context, config, layer, in, out, error); }
MR3D_LAYER(new_in_front) { return with_cache(in_front, NULL, context, config, layer, in, out, error); }
MR3D_LAYER(one_slot_too_early) { return with_cache(one_slot_early, NULL, context, config, layer, in, out, error); }

MR3D_MIXED_ROPE(keys_never_rotated) {
  mr3d_status status = mr3d_mixed_rope(context, config, in, query, key, error);
  if (status == MR3D_OK) memcpy(key, in->key, (size_t)(in->B * in->G * in->S * in->D) * sizeof *key);
  return status;
}

MR3D_MIXED_ROPE(new_keys_rotated_twice) {
  mr3d_status status = mr3d_mixed_rope(context, config, in, query, key, error);
  if (status != MR3D_OK) return status;
  int64_t count = in->B * in->G * in->S * in->D;
  double *once = mr3d_allocate(count, sizeof *once);
  memcpy(once, key, (size_t)count * sizeof *once);
  mr3d_mixed_rope_in again = *in;
  again.key = once;
  status = mr3d_mixed_rope(context, config, &again, query, key, error);
  free(once);
  return status;
}

static const mr3d_mutant entries[] = {
    {"cache-rotation", "rotated-twice", "cached keys, rotated when they were cached, are rotated again at every later call", MR3D_LAYERS,
     {.attention_block = rotated_twice}},
    {"cache-rotation", "cached-before-rotation", "keys go into the cache before they are rotated, and later calls read them unrotated", MR3D_LAYERS,
     {.attention_block = cached_before_rotation}},
    {"cache-rotation", "keys-never-rotated", "keys are not rotated at all, queries are", MR3D_ROTATIONS, {.mixed_rope = keys_never_rotated}},
    {"cache-rotation", "new-keys-rotated-twice", "new keys are rotated twice before they are cached", MR3D_ROTATIONS, {.mixed_rope = new_keys_rotated_twice}},
    {"cache-rotation", "values-rotated", "values are rotated as keys are", MR3D_LAYERS, {.attention_block = values_rotated}, .only_whole = true},
    {"cache-rotation", "new-in-front", "new keys and values are put in front of the cached ones instead of behind them", MR3D_LAYERS,
     {.attention_block = new_in_front}, .only_whole = true},
    {"cache-rotation", "one-slot-too-early", "new keys and values are written one slot too early: over the last cached ones, and the last slot stays zero", MR3D_LAYERS,
     {.attention_block = one_slot_too_early}, .only_whole = true},
    {"cache-rotation", "keys-for-values", "cached keys are read as values and cached values as keys", MR3D_LAYERS, {.attention_block = keys_for_values}},
    {"cache-rotation", "cache-of-layer-0", "every layer reads the cached keys and values of layer 0", "prefill decode", {.attention_block = cache_of_layer_0}},
};
const mr3d_mutant_set mr3d_mutants_cache_rotation = MR3D_MUTANT_SET(entries);
