#include "replay.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

int mr3d_replay_shape(const mr3d_config *config, const mr3d_block_in *call, int point, int64_t shape[4]) {
  const mr3d_point_form form = mr3d_points_about[point].form;
  const bool wide = point == MR3D_P_GATE || point == MR3D_P_UP || point == MR3D_P_GATED;
  shape[0] = call->B;
  if (form == MR3D_FORM_QUERY_HEADS || form == MR3D_FORM_KEY_HEADS) {
    shape[1] = form == MR3D_FORM_QUERY_HEADS ? config->num_attention_heads : config->num_key_value_heads;
    shape[2] = call->q;
    shape[3] = config->head_dim;
    return 4;
  }
  shape[1] = call->q;
  shape[2] = form == MR3D_FORM_VISIBLE ? call->L + call->q : wide ? config->intermediate_size : config->hidden_size;
  return 3;
}

static int64_t count_of(const mr3d_replay *r, int point) {
  int64_t shape[4], count = 1;
  const int rank = mr3d_replay_shape(r->config, r->call, point, shape);
  for (int i = 0; i < rank; i++) count *= shape[i];
  return count;
}

/* heads [B,heads,q,D] from rows [B,q,heads*D], or back. */
static void exchange(const mr3d_replay *r, int64_t heads, bool to_heads, const double *from, double *to) {
  const int64_t q = r->call->q, D = r->config->head_dim;
  for (int64_t b = 0; b < r->call->B; b++)
    for (int64_t h = 0; h < heads; h++)
      for (int64_t i = 0; i < q; i++) {
        const int64_t apart = ((b * heads + h) * q + i) * D, flat = ((b * q + i) * heads + h) * D;
        memcpy(to + (to_heads ? apart : flat), from + (to_heads ? flat : apart), (size_t)D * sizeof *to);
      }
}

void mr3d_stored_scale(const mr3d_units *units, int64_t count, const double *y, double *scale) {
  for (int64_t i = 0; i < count; i++) scale[i] = units->u * fabs(y[i]) + units->eta;
}

static void norm(const mr3d_replay *r, const double *x, const double *weight, const mr3d_units *units, double *y, double *scale) {
  const mr3d_rmsnorm_in in = {.rows = r->call->B * r->call->q, .n = r->config->hidden_size, .eps = r->config->rms_norm_eps, .x = x, .weight = weight};
  mr3d_rmsnorm(r->context, &in, y);
  if (scale) mr3d_rmsnorm_scale(units, &in, scale);
}

static void product(const mr3d_replay *r, const double *x, int64_t n_in, int64_t n_out, const double *weight, const double *bias, const mr3d_units *units, double *y,
                    double *scale) {
  const mr3d_linear_in in = {.rows = r->call->B * r->call->q, .in = n_in, .out = n_out, .x = x, .weight = weight, .bias = bias};
  mr3d_linear(r->context, &in, y);
  if (scale) mr3d_linear_scale(units, &in, scale);
}

/** A projection to heads that stand apart. */
static void project(const mr3d_replay *r, int64_t heads, const double *weight, const double *bias, const mr3d_units *units, double *y, double *scale) {
  const int64_t n = heads * r->config->head_dim, count = r->call->B * r->call->q * n;
  double *flat = mr3d_allocate(2 * count, sizeof *flat);
  product(r, r->value[MR3D_P_INPUT_NORM], r->config->hidden_size, n, weight, bias, units, flat, scale ? flat + count : NULL);
  exchange(r, heads, true, flat, y);
  if (scale) exchange(r, heads, true, flat + count, scale);
  free(flat);
}

static void sum(const mr3d_replay *r, const double *a, const double *b, const mr3d_units *units, double *y, double *scale) {
  const int64_t count = r->call->B * r->call->q * r->config->hidden_size;
  for (int64_t i = 0; i < count; i++) y[i] = a[i] + b[i];
  mr3d_round(r->context, MR3D_AT_RESIDUAL, r->call->B, 1, r->call->q, r->config->hidden_size, y);
  if (scale) mr3d_stored_scale(units, count, y, scale);
}

/** Queries and keys are rotated in one operator; the half that is not asked for is thrown away. */
static mr3d_status rotate(const mr3d_replay *r, int point, const mr3d_units *units, double *y, double *scale, double *turn, mr3d_error *error) {
  const mr3d_block_in *call = r->call;
  const bool of_query = point == MR3D_P_QUERY_ROTATED;
  const int64_t n_query = count_of(r, MR3D_P_QUERY), n_key = count_of(r, MR3D_P_KEY), n_other = of_query ? n_key : n_query;
  int64_t *positions = mr3d_allocate(call->q, sizeof *positions);
  double *blank = mr3d_allocate(n_other, sizeof *blank), *other = mr3d_allocate(2 * n_other, sizeof *other);
  for (int64_t i = 0; i < call->q; i++) positions[i] = call->L + i;
  const mr3d_mixed_rope_in in = {.B = call->B, .H = r->config->num_attention_heads, .G = r->config->num_key_value_heads, .S = call->q, .D = r->config->head_dim,
                                 .query = of_query ? r->value[MR3D_P_QUERY] : blank, .key = of_query ? blank : r->value[MR3D_P_KEY],
                                 .position_rows = call->position_rows ? call->position_rows : 1, .position_ids = call->position_rows ? call->position_ids : positions,
                                 .points = call->points, .q = r->weights->rotary_q, .kv = r->weights->rotary_kv};
  mr3d_status status = mr3d_mixed_rope(r->context, r->config, &in, of_query ? y : other, of_query ? other : y, error);
  if (status == MR3D_OK && scale)
    status = mr3d_mixed_rope_scale(units, r->config, &in, of_query ? scale : other, of_query ? other : scale, of_query ? turn : other + n_other, of_query ? other + n_other : turn, error);
  free(positions);
  free(blank);
  free(other);
  return status;
}

/* all [B,G,L+q,D] = past [B,G,L,D] followed by fresh [B,G,q,D] in every head. */
static double *appended(const mr3d_replay *r, const double *past, const double *fresh) {
  const int64_t L = r->call->L, q = r->call->q, D = r->config->head_dim, heads = r->call->B * r->config->num_key_value_heads;
  double *all = mr3d_allocate(heads * (L + q) * D, sizeof *all);
  for (int64_t h = 0; h < heads; h++) {
    if (L) memcpy(all + h * (L + q) * D, past + h * L * D, (size_t)(L * D) * sizeof *all);
    memcpy(all + (h * (L + q) + L) * D, fresh + h * q * D, (size_t)(q * D) * sizeof *all);
  }
  return all;
}

static void attend(const mr3d_replay *r, const mr3d_units *units, double *y, double *scale) {
  double *key = appended(r, r->call->past_key, r->value[MR3D_P_KEY_ROTATED]), *value = appended(r, r->call->past_value, r->value[MR3D_P_VALUE]);
  const mr3d_attention_in in = {.B = r->call->B, .H = r->config->num_attention_heads, .G = r->config->num_key_value_heads, .q = r->call->q, .K = r->call->L + r->call->q,
                                .D = r->config->head_dim, .query = r->value[MR3D_P_QUERY_ROTATED], .key = key, .value = value, .visible = r->visible};
  mr3d_attention(r->context, &in, y);
  if (scale) mr3d_attention_scale(units, &in, scale);
  free(key);
  free(value);
}

mr3d_status mr3d_replay_point(const mr3d_replay *r, int point, const mr3d_units *units, double *y, double *scale, double *turn, mr3d_error *error) {
  const mr3d_config *c = r->config;
  const mr3d_layer *w = r->weights;
  const double *const *v = r->value;
  const int64_t H = c->num_attention_heads, G = c->num_key_value_heads, rows = r->call->B * r->call->q;
  switch (point) {
    case MR3D_P_INPUT:
      memcpy(y, r->call->hidden, (size_t)(rows * c->hidden_size) * sizeof *y);
      if (scale) mr3d_stored_scale(units, rows * c->hidden_size, y, scale);
      break;
    case MR3D_P_INPUT_NORM: norm(r, v[MR3D_P_INPUT], w->input_layernorm, units, y, scale); break;
    case MR3D_P_QUERY: project(r, H, w->q_weight, w->q_bias, units, y, scale); break;
    case MR3D_P_KEY: project(r, G, w->k_weight, w->k_bias, units, y, scale); break;
    case MR3D_P_VALUE: project(r, G, w->v_weight, w->v_bias, units, y, scale); break;
    case MR3D_P_QUERY_ROTATED:
    case MR3D_P_KEY_ROTATED: return rotate(r, point, units, y, scale, turn, error);
    case MR3D_P_CONTEXT: attend(r, units, y, scale); break;
    case MR3D_P_O_PROJ: {
      double *flat = mr3d_allocate(rows * H * c->head_dim, sizeof *flat);
      exchange(r, H, false, v[MR3D_P_CONTEXT], flat);
      product(r, flat, H * c->head_dim, c->hidden_size, w->o_weight, NULL, units, y, scale);
      free(flat);
      break;
    }
    case MR3D_P_ATTENTION_RESIDUAL: sum(r, v[MR3D_P_INPUT], v[MR3D_P_O_PROJ], units, y, scale); break;
    case MR3D_P_POST_ATTENTION_NORM: norm(r, v[MR3D_P_ATTENTION_RESIDUAL], w->post_attention_layernorm, units, y, scale); break;
    case MR3D_P_GATE: product(r, v[MR3D_P_POST_ATTENTION_NORM], c->hidden_size, c->intermediate_size, w->gate_weight, NULL, units, y, scale); break;
    case MR3D_P_UP: product(r, v[MR3D_P_POST_ATTENTION_NORM], c->hidden_size, c->intermediate_size, w->up_weight, NULL, units, y, scale); break;
    case MR3D_P_GATED: {
      const mr3d_swiglu_in in = {.rows = rows, .n = c->intermediate_size, .gate = v[MR3D_P_GATE], .up = v[MR3D_P_UP]};
      mr3d_swiglu(r->context, &in, y);
      if (scale) mr3d_swiglu_scale(units, &in, scale);
      break;
    }
    case MR3D_P_DOWN: product(r, v[MR3D_P_GATED], c->intermediate_size, c->hidden_size, w->down_weight, NULL, units, y, scale); break;
    case MR3D_P_OUTPUT: sum(r, v[MR3D_P_ATTENTION_RESIDUAL], v[MR3D_P_DOWN], units, y, scale); break;
    default: return mr3d_fail(error, MR3D_INVALID, "%s is not a floating point of a layer", mr3d_points_about[point].name);
  }
  return MR3D_OK;
}
