/* The decoder's parts: norm, products, attention, block, layer (spec.md 6). */
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "f32.h"

/* ---- norm, linear, SwiGLU ---- */

void rmsnorm(int64_t rows, int64_t n, double eps, const float *x, const float *weight, float *y) {
#pragma omp parallel for if (rows * n > 65536)
  for (int64_t r = 0; r < rows; r++) {
    const float scale = 1.0f / sqrtf(dot(n, x + r * n, x + r * n) / (float)n + (float)eps);
    for (int64_t i = 0; i < n; i++) y[r * n + i] = x[r * n + i] * scale * weight[i];
  }
}

/* gate becomes silu(gate) * up. */
static void swiglu(int64_t count, const float *gate, const float *up, float *y) {
#pragma omp parallel for if (count > 65536)
  for (int64_t i = 0; i < count; i++) y[i] = gate[i] / (1.0f + expf(-gate[i])) * up[i];
}

static int64_t count_of(const array *a) {
  int64_t count = 1;
  for (int d = 0; d < a->rank; d++) count *= a->shape[d];
  return count;
}

/* Rows of a tensor whose last size is n. */
static int64_t rows_of(const array *a) {
  int64_t rows = 1;
  for (int d = 0; d + 1 < a->rank; d++) rows *= a->shape[d];
  return rows;
}

void op_rmsnorm(call *c) {
  const array *x = need(c, "x", FLOAT, ".n"), *weight = need(c, "weight", FLOAT, "n");
  only_these(c);
  need_option(c, "rms_norm_eps", c->o.eps);
  if (c->size['n'] == 0) refuse(c, "x has rows of no element");
  rmsnorm(rows_of(x), c->size['n'], c->o.eps, x->f, weight->f, out_floats(c, "y", x->rank, x->shape));
}

void op_linear(call *c) {
  const array *x = need(c, "x", FLOAT, ".i"), *weight = need(c, "weight", FLOAT, "oi"), *bias = may(c, "bias", FLOAT, "o");
  only_these(c);
  int64_t shape[8];
  memcpy(shape, x->shape, sizeof shape);
  shape[x->rank - 1] = c->size['o'];
  product(rows_of(x), c->size['i'], c->size['o'], x->f, weight->f, bias ? bias->f : NULL, out_floats(c, "y", x->rank, shape));
}

void op_swiglu(call *c) {
  const array *gate = need(c, "gate", FLOAT, "."), *up = need(c, "up", FLOAT, ".");
  only_these(c);
  if (gate->rank != up->rank || memcmp(gate->shape, up->shape, (size_t)gate->rank * sizeof *gate->shape) != 0)
    refuse(c, "gate and up have different shapes");
  swiglu(count_of(gate), gate->f, up->f, out_floats(c, "y", gate->rank, gate->shape));
}

/* ---- attention ---- */

enum { BLOCK = 64 };

/*
 * One query row: softmax in two passes over the visible keys, then the weighted sum, in blocks: one large term early in a long
 * float sum would swallow the many small ones behind it. A row that sees no key gives zeros. `room` holds K + D floats. In `scores` come the visible
 * scores' maximum, mean and log of the sum of exponentials.
 */
static void attend_row(int64_t K, int64_t D, const float *query, const float *key, const float *value, const uint8_t *visible, float *room,
                       float *y, float scores[3]) {
  const float scale = 1.0f / sqrtf((float)D);
  float most = -INFINITY, sum = 0, total = 0, *weights = room, *part = room + K;
  int64_t seen = 0;
  for (int64_t j = 0; j < K; j++) {
    if (!visible[j]) continue;
    weights[j] = dot(D, query, key + j * D) * scale;
    most = fmaxf(most, weights[j]);
    total += weights[j], seen++;
  }
  for (int64_t d = 0; d < D; d++) y[d] = 0;
  for (int64_t first = 0; first < K; first += BLOCK) {
    float part_sum = 0;
    for (int64_t d = 0; d < D; d++) part[d] = 0;
    for (int64_t j = first; j < K && j < first + BLOCK; j++) {
      if (!visible[j]) continue;
      const float p = expf(weights[j] - most);
      part_sum += p;
      for (int64_t d = 0; d < D; d++) part[d] += p * value[j * D + d];
    }
    sum += part_sum;
    for (int64_t d = 0; d < D; d++) y[d] += part[d];
  }
  for (int64_t d = 0; d < D && sum > 0; d++) y[d] /= sum;
  scores[0] = seen ? most : 0, scores[1] = seen ? total / (float)seen : 0, scores[2] = seen ? most + logf(sum) : 0;
}

void attend(call *c, int64_t B, int64_t H, int64_t G, int64_t q, int64_t K, int64_t D, const float *query, const float *key,
            const float *value, const visibility *v, float *y) {
  float *room = scratch(c, B * H * (K + D), sizeof *room), *scores = scratch(c, 3 * B * H * q, sizeof *scores);
#pragma omp parallel for schedule(dynamic) if (B * H * q * K * D > 100000)
  for (int64_t bh = 0; bh < B * H; bh++) {
    const int64_t b = bh / H, kv = b * G + bh % H / (H / G);
    for (int64_t i = 0; i < q; i++)
      attend_row(K, D, query + (bh * q + i) * D, key + kv * K * D, value + kv * K * D, v->at + ((v->batch == 1 ? 0 : b) * q + i) * K,
                 room + bh * (K + D), y + (bh * q + i) * D, scores + 3 * (bh * q + i));
  }
  static const char *const points[3] = {"scores_max", "scores_mean", "scores_lse"};
  float *one = scratch(c, B * H * q, sizeof *one);
  for (int p = 0; p < 3; p++) {
    if (!wants_point(c, points[p])) continue;
    for (int64_t i = 0; i < B * H * q; i++) one[i] = scores[3 * i + p];
    trace_floats(c, points[p], SHAPE(B, H, q), one);
  }
}

void op_attention(call *c) {
  const array *query = need(c, "query", FLOAT, "BHqD"), *key = need(c, "key", FLOAT, "BGKD"), *value = need(c, "value", FLOAT, "BGKD");
  const array *visible = need(c, "visible", TRUTH, "BqK");
  only_these(c);
  const int64_t H = c->size['H'], G = c->size['G'];
  check_heads(c, H, G, c->size['D']);
  if (G == 0 || H % G != 0) refuse(c, "%lld query heads are no multiple of %lld key heads", (long long)H, (long long)G);
  const visibility v = {c->size['B'], visible->b};
  attend(c, c->size['B'], H, G, c->size['q'], c->size['K'], c->size['D'], query->f, key->f, value->f, &v,
         out_floats(c, "y", query->rank, query->shape));
}

/* ---- block and layer ---- */

/* [B,q,heads,D] to [B,heads,q,D], or back. */
static void exchange(int64_t B, int64_t q, int64_t heads, int64_t D, const float *from, float *to, bool back) {
  for (int64_t b = 0; b < B; b++)
    for (int64_t i = 0; i < q; i++)
      for (int64_t h = 0; h < heads; h++) {
        const int64_t token_first = ((b * q + i) * heads + h) * D, head_first = ((b * heads + h) * q + i) * D;
        memcpy(to + (back ? token_first : head_first), from + (back ? head_first : token_first), (size_t)D * sizeof *to);
      }
}

/* The cache [B,G,L+q,D]: the past [B,G,L,D], then the new [B,G,q,D]. */
static void append(int64_t heads, int64_t L, int64_t q, int64_t D, const float *past, const float *new, float *cache) {
  for (int64_t h = 0; h < heads; h++) {
    if (L > 0) memcpy(cache + h * (L + q) * D, past + h * L * D, (size_t)(L * D) * sizeof *cache);
    memcpy(cache + (h * (L + q) + L) * D, new + h * q * D, (size_t)(q * D) * sizeof *cache);
  }
}

void run_block(call *c, const layer *w, int64_t B, int64_t q, int64_t L, float *x, const float *past_key, const float *past_value,
               const positions *p, const visibility *v, const point_set *points, float *key, float *value) {
  const int64_t H = c->o.H, G = c->o.G, D = c->o.D, hidden = c->o.hidden, rows = B * q;
  float *flat = scratch(c, rows * H * D, sizeof *flat), *query = scratch(c, rows * H * D, sizeof *query),
        *new = scratch(c, rows * G * D, sizeof *new);
  float *new_key = scratch(c, rows * G * D, sizeof *new_key);
  product(rows, hidden, H * D, x, w->q, w->q_bias, flat);
  exchange(B, q, H, D, flat, query, false);
  product(rows, hidden, G * D, x, w->k, w->k_bias, flat);
  exchange(B, q, G, D, flat, new_key, false);
  trace_floats(c, "query", SHAPE(B, H, q, D), query);
  trace_floats(c, "key", SHAPE(B, G, q, D), new_key);
  trace_wholes(c, "position_ids", SHAPE(p->rows, q), p->at);
  rotate(c, B, q, D, H, query, G, new_key, p, points, &w->for_query, &w->for_key);
  trace_floats(c, "query_rotated", SHAPE(B, H, q, D), query);
  trace_floats(c, "key_rotated", SHAPE(B, G, q, D), new_key);
  append(B * G, L, q, D, past_key, new_key, key);
  product(rows, hidden, G * D, x, w->v, w->v_bias, flat);
  exchange(B, q, G, D, flat, new, false);
  trace_floats(c, "value", SHAPE(B, G, q, D), new);
  append(B * G, L, q, D, past_value, new, value);
  trace_wholes(c, "cache_length", SHAPE(2), (int64_t[]){L, L + q});
  trace_floats(c, "key_cache", SHAPE(B, G, L + q, D), key);
  trace_floats(c, "value_cache", SHAPE(B, G, L + q, D), value);
  trace_truths(c, "visible", SHAPE(v->batch, q, L + q), v->at);
  float *context = scratch(c, rows * H * D, sizeof *context);
  attend(c, B, H, G, q, L + q, D, query, key, value, v, context);
  trace_floats(c, "context", SHAPE(B, H, q, D), context);
  exchange(B, q, H, D, context, flat, true);
  product(rows, H * D, hidden, flat, w->o, NULL, x);
  trace_floats(c, "o_proj", SHAPE(B, q, hidden), x);
}

void run_layer(call *c, const layer *w, int64_t B, int64_t q, int64_t L, float *x, const float *past_key, const float *past_value,
               const positions *p, const visibility *v, const point_set *points, float *key, float *value) {
  const int64_t hidden = c->o.hidden, I = c->o.intermediate, rows = B * q;
  float *part = scratch(c, rows * hidden, sizeof *part), *gate = scratch(c, rows * I, sizeof *gate), *up = scratch(c, rows * I, sizeof *up);
  trace_floats(c, "input", SHAPE(B, q, hidden), x);
  rmsnorm(rows, hidden, c->o.eps, x, w->input_norm, part);
  trace_floats(c, "input_norm", SHAPE(B, q, hidden), part);
  run_block(c, w, B, q, L, part, past_key, past_value, p, v, points, key, value);
  for (int64_t i = 0; i < rows * hidden; i++) x[i] += part[i];
  trace_floats(c, "attention_residual", SHAPE(B, q, hidden), x);
  rmsnorm(rows, hidden, c->o.eps, x, w->post_norm, part);
  trace_floats(c, "post_attention_norm", SHAPE(B, q, hidden), part);
  product(rows, hidden, I, part, w->gate, NULL, gate);
  product(rows, hidden, I, part, w->up, NULL, up);
  trace_floats(c, "gate", SHAPE(B, q, I), gate);
  trace_floats(c, "up", SHAPE(B, q, I), up);
  swiglu(rows * I, gate, up, gate);
  trace_floats(c, "gated", SHAPE(B, q, I), gate);
  product(rows, I, hidden, gate, w->down, NULL, part);
  trace_floats(c, "down", SHAPE(B, q, hidden), part);
  for (int64_t i = 0; i < rows * hidden; i++) x[i] += part[i];
  trace_floats(c, "output", SHAPE(B, q, hidden), x);
}

void need_decoder_options(call *c, bool whole_layer) {
  need_option(c, "num_attention_heads", (double)c->o.H);
  need_option(c, "num_key_value_heads", (double)c->o.G);
  need_option(c, "head_dim", (double)c->o.D);
  need_option(c, "rope_theta", c->o.rope_theta);
  if (c->o.D % 2 != 0) refuse(c, "head_dim %lld is odd", (long long)c->o.D);
  if (!whole_layer) return;
  need_option(c, "rms_norm_eps", c->o.eps);
}

/* attention_block and decoder_layer: the same request, but that the block leaves the layer's other tensors alone. */
static void whole_call(call *c, bool whole_layer) {
  need_decoder_options(c, whole_layer);
  options *o = &c->o;
  c->size['E'] = o->hidden ? o->hidden : -1, c->size['I'] = o->intermediate ? o->intermediate : -1, c->size['G'] = o->G,
  c->size['D'] = o->D;
  c->size['Q'] = o->H * o->D, c->size['V'] = o->G * o->D;
  for (const char *letter = "EIGDQV"; *letter; letter++) c->said_by[(int)*letter] = "the configuration";

  const array *x = need(c, "hidden", FLOAT, "BqE");
  const int64_t B = c->size['B'], q = c->size['q'];
  o->hidden = c->size['E'];
  const array *past_key = may(c, "past_key", FLOAT, "BGLD"), *past_value = may(c, "past_value", FLOAT, "BGLD");
  if (!past_key != !past_value)
    refuse(c, "%s is given without %s", past_key ? "past_key" : "past_value", past_key ? "past_value" : "past_key");
  const int64_t L = past_key ? c->size['L'] : 0;
  const array *key_mask = may(c, "key_mask", ZERO_ONE, "BM"), *prefill_mask = may(c, "prefill_mask", ZERO_ONE, "BP");
  const positions p = take_positions(c, B, q, L);
  const point_set points = take_points(c, B, q);

  layer w = {0};
#define TAKE(field, name, shape) w.field = need(c, name, FLOAT, shape)->f
  TAKE(q, "self_attn.q_proj.weight", "QE"), TAKE(q_bias, "self_attn.q_proj.bias", "Q");
  TAKE(k, "self_attn.k_proj.weight", "VE"), TAKE(k_bias, "self_attn.k_proj.bias", "V");
  TAKE(v, "self_attn.v_proj.weight", "VE"), TAKE(v_bias, "self_attn.v_proj.bias", "V");
  TAKE(o, "self_attn.o_proj.weight", "EQ");
  if (whole_layer) {
    TAKE(input_norm, "input_layernorm.weight", "E"), TAKE(post_norm, "post_attention_layernorm.weight", "E");
    TAKE(gate, "mlp.gate_proj.weight", "IE"), TAKE(up, "mlp.up_proj.weight", "IE"), TAKE(down, "mlp.down_proj.weight", "EI");
    o->intermediate = c->size['I'];
  } else {
    static const char *const unused[] = {"input_layernorm.weight", "post_attention_layernorm.weight", "mlp.gate_proj.weight",
                                         "mlp.up_proj.weight", "mlp.down_proj.weight"};
    for (int i = 0; i < 5; i++) ignore(c, unused[i]);
  }
#undef TAKE
  w.for_query = take_learned(c, "self_attn.freqs_3d_q", "self_attn.axial_weights_3d_q", o->H, o->D, points.any);
  w.for_key = take_learned(c, "self_attn.freqs_3d_kv", "self_attn.axial_weights_3d_kv", o->G, o->D, points.any);
  only_these(c);
  const masks m = {B, c->size['M'], c->size['P'], key_mask ? key_mask->i : NULL, prefill_mask ? prefill_mask->i : NULL};
  const visibility v = visible_keys(c, &m, L, q);

  float *y = scratch(c, B * q * o->hidden, sizeof *y);
  if (B * q > 0) memcpy(y, x->f, (size_t)(B * q * o->hidden) * sizeof *y);
  float *key = out_floats(c, "key", SHAPE(B, o->G, L + q, o->D)), *value = out_floats(c, "value", SHAPE(B, o->G, L + q, o->D));
  (whole_layer ? run_layer : run_block)(c, &w, B, q, L, y, past_key ? past_key->f : NULL, past_value ? past_value->f : NULL, &p, &v,
                                        &points, key, value);
  float *out = out_floats(c, "hidden", x->rank, x->shape);
  if (B * q > 0) memcpy(out, y, (size_t)(B * q * o->hidden) * sizeof *y);
}

void op_attention_block(call *c) { whole_call(c, false); }
void op_decoder_layer(call *c) { whole_call(c, true); }
