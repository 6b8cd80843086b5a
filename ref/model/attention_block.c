#include <stdlib.h>
#include <string.h>

#include "../base/product.h"
#include "mr3d/model.h"
#include "mr3d/trace.h"

/* y [B,heads,q,D] = x [B,q,hidden] weight^T + bias, heads apart. */
static void project(const mr3d_context *context, const mr3d_block_in *in, int64_t hidden, int64_t heads, int64_t D, const double *weight,
                    const mr3d_tensor *stored, const double *bias, double *y) {
  double *flat = mr3d_allocate_unset(in->B * in->q * heads * D, sizeof *flat);
  context->op->linear(context, &(mr3d_linear_in){.rows = in->B * in->q, .in = hidden, .out = heads * D, .x = in->hidden, .weight = weight, .bias = bias,
                                                   .stored = stored},
                      flat);
#pragma omp parallel for collapse(2) num_threads(mr3d_thread_count(context->threads)) if (in->B * in->q * heads * D > 16384)
  for (int64_t b = 0; b < in->B; b++)
    for (int64_t i = 0; i < in->q; i++)
      for (int64_t h = 0; h < heads; h++)
        memcpy(y + ((b * heads + h) * in->q + i) * D, flat + ((b * in->q + i) * heads + h) * D, (size_t)D * sizeof *y);
  free(flat);
}

/* all [B,G,L+q,D] = past [B,G,L,D] followed by fresh [B,G,q,D] in every head. */
static void append(const mr3d_block_in *in, int64_t G, int64_t D, const double *past, const double *fresh, double *all) {
  size_t old = (size_t)(in->L * D), new = (size_t)(in->q * D);
  for (int64_t head = 0; head < in->B * G; head++) {
    double *to = all + head * (in->L + in->q) * D;
    if (old) memcpy(to, past + (size_t)head * old, old * sizeof *to);
    if (new) memcpy(to + old, fresh + (size_t)head * new, new * sizeof *to);
  }
}

/* flat [B,q,H*D] = context [B,H,q,D]. */
static void merge_heads(int threads, const mr3d_block_in *in, int64_t H, int64_t D, const double *context, double *flat) {
#pragma omp parallel for collapse(2) num_threads(mr3d_thread_count(threads)) if (in->B * in->q * H * D > 16384)
  for (int64_t b = 0; b < in->B; b++)
    for (int64_t i = 0; i < in->q; i++)
      for (int64_t h = 0; h < H; h++)
        memcpy(flat + ((b * in->q + i) * H + h) * D, context + ((b * H + h) * in->q + i) * D, (size_t)D * sizeof *flat);
}

/**
 * Attention block (spec.md 4 to 6): projections, rotation, cache append, attention, output projection; no norm, no residual.
 *
 *     q, k, v = hidden W^T + bias                  [B,H,q,D], [B,G,q,D], [B,G,q,D]
 *     q, k    = mixed_rope(q, k)                   points by 3D, text by position; values are never rotated
 *     K, V    = past ++ k, past ++ v               keys are cached after rotation and never rotated again
 *     hidden  = attention(q, K, V, visible) o^T    query head h reads KV head h / (H/G)
 *
 * Positions are the given ones, else L .. L+q-1. Requires: the configuration holds all its sizes. Errors: of mask and mixed_rope; more
 * pairs of query and key than a frame has bytes.
 */
mr3d_status mr3d_attention_block(const mr3d_context *context, const mr3d_config *config, const mr3d_layer *layer, const mr3d_block_in *in,
                                 mr3d_block_out *out, mr3d_error *error) {
  const int64_t B = in->B, q = in->q, K = in->L + in->q;
  const int64_t H = config->num_attention_heads, G = config->num_key_value_heads, D = config->head_dim;
  const int64_t hidden = config->hidden_size;
  int64_t pairs;
  if (__builtin_mul_overflow(q, K, &pairs) || __builtin_mul_overflow(pairs, B, &pairs) || pairs > (int64_t)4 << 30)
    return mr3d_fail(error, MR3D_INVALID, "%lld samples of %lld new tokens and %lld keys are too many: send the tokens in chunks", (long long)B, (long long)q,
                     (long long)K);

  bool *visible = mr3d_allocate_unset(pairs, sizeof *visible);
  int64_t *positions = mr3d_allocate_unset(q, sizeof *positions);
  double *query = mr3d_allocate_unset(B * H * q * D, sizeof *query), *rotated_query = mr3d_allocate_unset(B * H * q * D, sizeof *rotated_query);
  double *key = mr3d_allocate_unset(B * G * q * D, sizeof *key), *rotated_key = mr3d_allocate_unset(B * G * q * D, sizeof *rotated_key);
  double *value = mr3d_allocate_unset(B * G * q * D, sizeof *value);

  mr3d_status status = context->op->mask(context, &in->mask, visible, error);
  if (status == MR3D_OK) {
    for (int64_t i = 0; i < q; i++) positions[i] = in->L + i;
    project(context, in, hidden, H, D, layer->q_weight, layer->q_stored, layer->q_bias, query);
    project(context, in, hidden, G, D, layer->k_weight, layer->k_stored, layer->k_bias, key);
    project(context, in, hidden, G, D, layer->v_weight, layer->v_stored, layer->v_bias, value);
    mr3d_mixed_rope_in rope = {.B = B, .H = H, .G = G, .S = q, .D = D, .query = query, .key = key, .position_rows = 1, .position_ids = positions,
                               .points = in->points, .q = layer->rotary_q, .kv = layer->rotary_kv};
    if (in->position_rows) {
      rope.position_rows = in->position_rows;
      rope.position_ids = in->position_ids;
    }
    mr3d_trace(context, "query", MR3D_F64, 4, (int64_t[]){B, H, q, D}, query);
    mr3d_trace(context, "key", MR3D_F64, 4, (int64_t[]){B, G, q, D}, key);
    mr3d_trace(context, "value", MR3D_F64, 4, (int64_t[]){B, G, q, D}, value);
    mr3d_trace(context, "position_ids", MR3D_I64, 2, (int64_t[]){rope.position_rows, q}, rope.position_ids);
    status = context->op->mixed_rope(context, config, &rope, rotated_query, rotated_key, error);
  }
  if (status == MR3D_OK) {
    mr3d_trace(context, "query_rotated", MR3D_F64, 4, (int64_t[]){B, H, q, D}, rotated_query);
    mr3d_trace(context, "key_rotated", MR3D_F64, 4, (int64_t[]){B, G, q, D}, rotated_key);
    append(in, G, D, in->past_key, rotated_key, out->key);
    append(in, G, D, in->past_value, value, out->value);
    mr3d_trace(context, "cache_length", MR3D_I64, 1, (int64_t[]){2}, (int64_t[]){in->L, K});
    mr3d_trace(context, "key_cache", MR3D_F64, 4, (int64_t[]){B, G, K, D}, out->key);
    mr3d_trace(context, "value_cache", MR3D_F64, 4, (int64_t[]){B, G, K, D}, out->value);
    mr3d_trace(context, "visible", MR3D_BOOL, 3, (int64_t[]){B, q, K}, visible);
    double *mixed = query, *flat = rotated_query; /* both are done with */
    context->op->attention(context, &(mr3d_attention_in){.B = B, .H = H, .G = G, .q = q, .K = K, .D = D, .query = rotated_query, .key = out->key,
                                                         .value = out->value, .visible = visible}, mixed);
    mr3d_trace(context, "context", MR3D_F64, 4, (int64_t[]){B, H, q, D}, mixed);
    merge_heads(context->threads, in, H, D, mixed, flat);
    context->op->linear(context, &(mr3d_linear_in){.rows = B * q, .in = H * D, .out = hidden, .x = flat, .weight = layer->o_weight, .stored = layer->o_stored}, out->hidden);
    mr3d_trace(context, "o_proj", MR3D_F64, 3, (int64_t[]){B, q, hidden}, out->hidden);
  }
  free(visible);
  free(positions);
  free(query);
  free(rotated_query);
  free(key);
  free(rotated_key);
  free(value);
  return status;
}
