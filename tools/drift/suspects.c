/**
 * Which known mistake explains a fault: first of the faulty operator alone, on the subject's own inputs, by the diagnosis of `mr3d check`; then, for mistakes in how a layer
 * is put together or in what it keeps from call to call, of the whole layer over all calls so far.
 */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cjson/cJSON.h>

#include "engine_internal.h"
#include "mr3d/trace.h"

#define SAMPLED_ROWS 24          /* of products, norms and attentions: tokens spread evenly, and as many of the worst */
#define TRIAL_SECONDS 40.0       /* of processor time on mistakes of whole layers, of a run */
#define OPERATOR_SECONDS 8.0     /* ... of single operators: those named before are still tried */
#define EXPLAINED_UNITS 4.0      /* root mean square distance from a mistake's values, in units of noise */
#define EXPLAINED_PART 0.05      /* of the squared distance from the reference's that may remain */
#define LAYER_NOISE 4.0          /* times an operator's scale: what a layer's operators before it add */
#define CAP 1000.0
#define WRONG 6.0                /* units of the scale from which on an element is wrong, not noisy */
#define WELL_UNITS 1.0           /* distance up to which a mistake explains a fault well; a right one is 0.2 away, one that is half of it or holds it 1 to 3 */
#define ALIKE_SECONDS 1.0        /* of TRIAL_SECONDS, of one fault, on mistakes of the layer where one of the operator explains it well */
#define ALIKE 1.1                /* times the nearest distance, and a twentieth of a unit */

/* ---- requests for one operator ---- */

typedef struct token_rows {
  int64_t n, *token; /* ascending; tokens b*q+i */
} token_rows;

static int ascending(const void *a, const void *b) { return (*(const int64_t *)a > *(const int64_t *)b) - (*(const int64_t *)a < *(const int64_t *)b); }

/** Tokens of a record on which mistakes are compared, where all are too many. */
static token_rows sample(const mr3d_drift_record *record) {
  const int64_t T = record->tokens;
  token_rows r = {0, mr3d_allocate(2 * SAMPLED_ROWS < T ? 2 * SAMPLED_ROWS : T, sizeof *r.token)};
  bool *taken = mr3d_allocate(T, sizeof *taken);
  for (int64_t k = 0; k < (T <= 2 * SAMPLED_ROWS ? T : SAMPLED_ROWS); k++) {
    const int64_t at = T <= 2 * SAMPLED_ROWS ? k : k * (T - 1) / (SAMPLED_ROWS - 1);
    taken[r.token[r.n++] = at] = true;
  }
  for (int64_t k = 0; k < SAMPLED_ROWS && T > 2 * SAMPLED_ROWS; k++) {
    int64_t worst = -1;
    for (int64_t i = 0; i < T; i++)
      if (!taken[i] && (worst < 0 || (record->local.token && record->local.token[i] > record->local.token[worst]))) worst = i;
    taken[r.token[r.n++] = worst] = true;
  }
  qsort(r.token, (size_t)r.n, sizeof *r.token, ascending);
  free(taken);
  return r;
}

static void add_floats(mr3d_bundle *to, const char *name, mr3d_dtype dtype, int rank, const int64_t *shape, const double *values) {
  mr3d_tensor_from_double(mr3d_bundle_add(to, name, dtype, rank, shape), values);
}

/** Rows of x [tokens,n], or of heads [B,heads,q,n] side by side. */
static void add_rows(mr3d_bundle *to, const char *name, mr3d_dtype dtype, const mr3d_block_in *call, const token_rows *r, int64_t heads, int64_t n, const double *x) {
  double *some = mr3d_allocate(r->n * heads * n, sizeof *some);
  for (int64_t k = 0; k < r->n; k++)
    for (int64_t h = 0; h < heads; h++) {
      const int64_t b = r->token[k] / call->q, i = r->token[k] % call->q;
      memcpy(some + (k * heads + h) * n, x + ((b * heads + h) * call->q + i) * n, (size_t)n * sizeof *some);
    }
  add_floats(to, name, dtype, 2, (int64_t[]){r->n, heads * n}, some);
  free(some);
}

static mr3d_bundle *new_request(const mr3d_drift_evidence *e, const char *op) {
  mr3d_bundle *request = mr3d_bundle_new();
  mr3d_bundle_set(request, "op", op);
  mr3d_bundle_set(request, "tier", mr3d_tier_name(e->drift->options.tier));
  mr3d_bundle_set(request, "config", e->drift->options.config);
  return request;
}

typedef struct asked {
  mr3d_bundle *request, *answer;
} asked;

/** A product or norm of some tokens: what the subject was given and what it has. */
static asked ask_rows(const mr3d_drift_evidence *e, const mr3d_drift_record *record) {
  const mr3d_config *c = &e->drift->config;
  const mr3d_layer *w = e->replay->weights;
  const mr3d_block_in *call = e->replay->call;
  const mr3d_point_about *about = &mr3d_points_about[record->point];
  const mr3d_dtype type = mr3d_tier_storage(e->drift->options.tier);
  const int64_t H = c->num_attention_heads, G = c->num_key_value_heads, D = c->head_dim;
  token_rows r = sample(record);
  asked a = {new_request(e, about->op), mr3d_bundle_new()};
  const int from = about->inputs[0];
  const int64_t in_heads = from == MR3D_P_CONTEXT ? H : 1;
  const int64_t in = from == MR3D_P_CONTEXT ? D : from == MR3D_P_GATED || from == MR3D_P_GATE ? c->intermediate_size : c->hidden_size;
  int64_t out_heads = 1, out = c->hidden_size;
  const double *weight = NULL, *bias = NULL;
  switch (record->point) {
    case MR3D_P_INPUT_NORM: weight = w->input_layernorm; break;
    case MR3D_P_POST_ATTENTION_NORM: weight = w->post_attention_layernorm; break;
    case MR3D_P_QUERY: weight = w->q_weight, bias = w->q_bias, out_heads = H, out = D; break;
    case MR3D_P_KEY: weight = w->k_weight, bias = w->k_bias, out_heads = G, out = D; break;
    case MR3D_P_VALUE: weight = w->v_weight, bias = w->v_bias, out_heads = G, out = D; break;
    case MR3D_P_O_PROJ: weight = w->o_weight; break;
    case MR3D_P_GATE: weight = w->gate_weight, out = c->intermediate_size; break;
    case MR3D_P_UP: weight = w->up_weight, out = c->intermediate_size; break;
    case MR3D_P_DOWN: weight = w->down_weight; break;
    default: out = c->intermediate_size; /* gated */
  }
  if (record->point == MR3D_P_GATED) {
    add_rows(a.request, "gate", type, call, &r, 1, in, e->replay->value[MR3D_P_GATE]);
    add_rows(a.request, "up", type, call, &r, 1, in, e->replay->value[MR3D_P_UP]);
  } else {
    add_rows(a.request, "x", type, call, &r, in_heads, in, e->replay->value[from]);
    if (strcmp(about->op, "rmsnorm") == 0) add_floats(a.request, "weight", type, 1, &in, weight);
    else add_floats(a.request, "weight", type, 2, (int64_t[]){out_heads * out, in_heads * in}, weight);
    if (bias) add_floats(a.request, "bias", type, 1, (int64_t[]){out_heads * out}, bias);
  }
  add_rows(a.answer, "y", MR3D_F64, call, &r, out_heads, out, e->given[record->point]);
  free(r.token);
  return a;
}

static void add_rotary(const mr3d_drift_evidence *e, mr3d_bundle *to, const char *suffix, int64_t heads, const mr3d_rotary_parameters *p) {
  const mr3d_dtype type = mr3d_tier_storage(e->drift->options.tier);
  const int64_t F = mr3d_sizes_get(&e->drift->sizes, "F"), axes = e->drift->config.learned_per_axis ? 3 : 1;
  char name[40];
  snprintf(name, sizeof name, "freqs_%s", suffix);
  if (p->freqs) add_floats(to, name, type, 3, (int64_t[]){axes, heads, F}, p->freqs);
  snprintf(name, sizeof name, "axial_weights_%s", suffix);
  if (p->axial_weights) add_floats(to, name, type, 3, (int64_t[]){heads, F, 3}, p->axial_weights);
}

static asked ask_rotation(const mr3d_drift_evidence *e) {
  const mr3d_config *c = &e->drift->config;
  const mr3d_block_in *call = e->replay->call;
  const mr3d_dtype type = mr3d_tier_storage(e->drift->options.tier);
  const int64_t H = c->num_attention_heads, G = c->num_key_value_heads, D = c->head_dim, rows_of_ids = call->position_rows ? call->position_rows : 1;
  const int64_t query[4] = {call->B, H, call->q, D}, key[4] = {call->B, G, call->q, D};
  asked a = {new_request(e, "mixed_rope"), mr3d_bundle_new()};
  add_floats(a.request, "query", type, 4, query, e->replay->value[MR3D_P_QUERY]);
  add_floats(a.request, "key", type, 4, key, e->replay->value[MR3D_P_KEY]);
  int64_t *positions = mr3d_bundle_add(a.request, "position_ids", MR3D_I64, 2, (int64_t[]){rows_of_ids, call->q})->data;
  for (int64_t i = 0; i < rows_of_ids * call->q; i++) positions[i] = call->position_rows ? call->position_ids[i] : call->L + i;
  if (call->points.mask) {
    memcpy(mr3d_bundle_add(a.request, "point_token_mask", MR3D_BOOL, 2, (int64_t[]){call->B, call->q})->data, call->points.mask, (size_t)(call->B * call->q));
    add_floats(a.request, "point_coords", MR3D_F64, 3, (int64_t[]){call->B, call->points.N, 3}, call->points.coords);
    if (call->points.counts) memcpy(mr3d_bundle_add(a.request, "point_counts", MR3D_I64, 1, &call->B)->data, call->points.counts, (size_t)call->B * sizeof(int64_t));
    add_rotary(e, a.request, "q", H, &e->replay->weights->rotary_q);
    add_rotary(e, a.request, "kv", G, &e->replay->weights->rotary_kv);
  }
  add_floats(a.answer, "query", MR3D_F64, 4, query, e->given[MR3D_P_QUERY_ROTATED]);
  add_floats(a.answer, "key", MR3D_F64, 4, key, e->given[MR3D_P_KEY_ROTATED]);
  return a;
}

static asked ask_mask(const mr3d_drift_evidence *e) {
  const mr3d_block_in *call = e->replay->call;
  asked a = {new_request(e, "mask"), mr3d_bundle_new()};
  mr3d_bundle_setf(a.request, "past_len", "%lld", (long long)call->L);
  mr3d_bundle_setf(a.request, "q_len", "%lld", (long long)call->q);
  const mr3d_mask_in *mask = &call->mask;
  int64_t B = 1;
  if (mask->key_mask) {
    B = call->B;
    memcpy(mr3d_bundle_add(a.request, "key_mask", MR3D_I64, 2, (int64_t[]){B, mask->M})->data, mask->key_mask, (size_t)(B * mask->M) * sizeof(int64_t));
    if (mask->rule == MR3D_SPLICED && mask->prefill_mask)
      memcpy(mr3d_bundle_add(a.request, "prefill_mask", MR3D_I64, 2, (int64_t[]){B, mask->L0})->data, mask->prefill_mask, (size_t)(B * mask->L0) * sizeof(int64_t));
  }
  memcpy(mr3d_bundle_add(a.answer, "visible", MR3D_BOOL, 3, (int64_t[]){B, call->q, call->L + call->q})->data, e->visible_given, (size_t)(B * call->q * (call->L + call->q)));
  return a;
}

/** Attention of some tokens over all keys; of several samples all tokens, so that one that takes another's keys shows. */
static asked ask_attention(const mr3d_drift_evidence *e, const mr3d_drift_record *record) {
  const mr3d_config *c = &e->drift->config;
  const mr3d_block_in *call = e->replay->call;
  const mr3d_dtype type = mr3d_tier_storage(e->drift->options.tier);
  const int64_t B = call->B, H = c->num_attention_heads, G = c->num_key_value_heads, D = c->head_dim, K = call->L + call->q, q = call->q;
  token_rows r = sample(record);
  asked a = {new_request(e, "attention"), mr3d_bundle_new()};
  const int64_t n = B > 1 ? q : r.n;
  double *query = mr3d_allocate(B * H * n * D, sizeof *query), *context = mr3d_allocate(B * H * n * D, sizeof *context), *all = mr3d_allocate(B * G * K * D, sizeof *all);
  for (int64_t h = 0; h < B * H; h++)
    for (int64_t k = 0; k < n; k++) {
      const int64_t from = (h * q + (B > 1 ? k : r.token[k])) * D, to = (h * n + k) * D;
      memcpy(query + to, e->replay->value[MR3D_P_QUERY_ROTATED] + from, (size_t)D * sizeof *query);
      memcpy(context + to, e->given[MR3D_P_CONTEXT] + from, (size_t)D * sizeof *query);
    }
  add_floats(a.request, "query", type, 4, (int64_t[]){B, H, n, D}, query);
  for (int which = 0; which < 2; which++) {
    const double *past = which ? call->past_value : call->past_key, *fresh = e->replay->value[which ? MR3D_P_VALUE : MR3D_P_KEY_ROTATED];
    for (int64_t h = 0; h < B * G; h++) {
      if (call->L) memcpy(all + h * K * D, past + h * call->L * D, (size_t)(call->L * D) * sizeof *all);
      memcpy(all + (h * K + call->L) * D, fresh + h * q * D, (size_t)(q * D) * sizeof *all);
    }
    add_floats(a.request, which ? "value" : "key", type, 4, (int64_t[]){B, G, K, D}, all);
  }
  bool *visible = mr3d_bundle_add(a.request, "visible", MR3D_BOOL, 3, (int64_t[]){B, n, K})->data;
  for (int64_t k = 0; k < B * n; k++) memcpy(visible + k * K, e->replay->visible + (B > 1 ? k : r.token[k]) * K, (size_t)K);
  add_floats(a.answer, "y", MR3D_F64, 4, (int64_t[]){B, H, n, D}, context);
  free(query), free(context), free(all), free(r.token);
  return a;
}

/** Whether the operator can be asked about by itself. */
static bool ask_operator(const mr3d_drift_evidence *e, const mr3d_drift_record *record, asked *a) {
  if (record->composite) return false;
  switch (mr3d_points_about[record->point].op[0]) {
    case 'r': /* rmsnorm, residual */
      if (strcmp(mr3d_points_about[record->point].op, "rmsnorm") != 0) return false;
      *a = ask_rows(e, record);
      return true;
    case 'l':
    case 's': *a = ask_rows(e, record); return true;
    case 'm':
      if (record->point == MR3D_P_VISIBLE) {
        if (!e->visible_given) return false;
        *a = ask_mask(e);
        return true;
      }
      if (!e->given[MR3D_P_QUERY_ROTATED] || !e->given[MR3D_P_KEY_ROTATED] || !e->given[MR3D_P_QUERY] || !e->given[MR3D_P_KEY]) return false;
      *a = ask_rotation(e);
      return true;
    case 'a': *a = ask_attention(e, record); return true;
    default: return false;
  }
}

static void list_alike(const mr3d_result *result, mr3d_drift_record *record) {
  record->n_alike = result->n_suspects;
  for (int i = 0; i < result->n_suspects; i++) {
    const mr3d_suspect s = result->suspects[i];
    const size_t used = strlen(record->alike);
    snprintf(record->alike + used, sizeof record->alike - used, "%s%s/%s", used ? " " : "", mr3d_mutant_at(s.first)->slug, mr3d_mutant_at(s.first)->name);
    if (s.second < 0) continue;
    const size_t more = strlen(record->alike);
    snprintf(record->alike + more, sizeof record->alike - more, "+%s/%s", mr3d_mutant_at(s.second)->slug, mr3d_mutant_at(s.second)->name);
  }
}

bool mr3d_drift_try_operator(mr3d_drift_run *d, mr3d_bundle *request, mr3d_bundle *answer, mr3d_drift_record *record) {
  mr3d_error error = {0};
  const mr3d_bundle *expected;
  mr3d_truth *truth = mr3d_truth_new(d->options.tier, NULL, NULL, d->options.threads);
  mr3d_truth_promise(truth, d->options.kept);
  mr3d_weights_cache *weights = mr3d_weights_cache_new();
  mr3d_result *result = mr3d_allocate(1, sizeof *result);
  mr3d_reply reply = {.kind = MR3D_REPLY_ANSWER, .answer = answer};
  result->tier = d->options.tier;
  if (d->lessons.seconds < OPERATOR_SECONDS) d->lessons.seconds = 0; /* the runner's cap is for many small cases */
  const double before = mr3d_processor_seconds();
  if (mr3d_truth_step(truth, request, &expected, &error) == MR3D_OK) mr3d_diagnose(&d->lessons, result, truth, 1, &request, &reply, weights, d->options.threads);
  d->trial_seconds += mr3d_processor_seconds() - before;
  snprintf(record->diagnosis, sizeof record->diagnosis, "%s", result->diagnosis);
  snprintf(record->mistake, sizeof record->mistake, "%s", result->mistake);
  record->exact_mistake = result->is_exact;
  list_alike(result, record);
  const bool single = result->n_suspects > 0 && result->suspects[0].second < 0;
  free(result);
  mr3d_truth_free(&truth);
  mr3d_weights_cache_free(&weights);
  mr3d_bundle_free(&request);
  mr3d_bundle_free(&answer);
  return single;
}

/** Whether a single mistake explains the operator by itself. */
static bool try_operator(const mr3d_drift_evidence *e, mr3d_drift_record *record) {
  asked a;
  return ask_operator(e, record, &a) && mr3d_drift_try_operator(e->drift, a.request, a.answer, record);
}

/** The largest tested statistic over its limit, of all outputs. */
static double ratio_of(const mr3d_judgement *judgement) {
  double most = 0;
  for (int t = 0; t < judgement->n_tensors; t++)
    for (int i = 0; i < judgement->tensors[t].n_statistics; i++) {
      const mr3d_statistic *s = &judgement->tensors[t].statistics[i];
      if (s->tested && s->limit > 0) most = fmax(most, s->value / s->limit);
    }
  return most;
}

/**
 * A bias below one rounding leaves no element that could be compared: there the question is whether the subject's answer would pass if a mistake were the truth. The one as
 * which it passes best is named.
 */
static void try_as_truth(const mr3d_drift_evidence *e, mr3d_drift_record *record) {
  mr3d_drift_run *d = e->drift;
  asked a;
  if (record->local.worst > WRONG || d->trial_seconds > TRIAL_SECONDS || !ask_operator(e, record, &a)) return;
  const double start = mr3d_processor_seconds();
  double best = INFINITY;
  for (int m = 0; m < mr3d_mutant_count() && d->trial_seconds + mr3d_processor_seconds() - start < TRIAL_SECONDS; m++) {
    const mr3d_mutant *mutant = mr3d_mutant_at(m);
    const mr3d_bundle *expected;
    mr3d_judgement judgement;
    mr3d_error error = {0};
    if (mutant->hangs || mutant->decorate || mutant->distort || !mr3d_mutant_is_mistake_at(mutant, d->options.tier) || !mr3d_mutant_touches(mutant, mr3d_points_about[record->point].op)) continue;
    mr3d_truth *truth = mr3d_truth_new(d->options.tier, &mutant->operators, NULL, 1);
    mr3d_truth_promise(truth, d->options.kept);
    if (mr3d_truth_step(truth, a.request, &expected, &error) == MR3D_OK) {
      mr3d_judge(truth, a.answer, &judgement);
      if (judgement.passed) {
        const size_t used = strlen(record->alike);
        const double ratio = ratio_of(&judgement);
        record->n_alike++;
        snprintf(record->alike + used, sizeof record->alike - used, "%s%s/%s", used ? " " : "", mutant->slug, mutant->name);
        if (ratio < best) {
          best = ratio;
          snprintf(record->mistake, sizeof record->mistake, "%s/%s", mutant->slug, mutant->name);
          snprintf(record->diagnosis, sizeof record->diagnosis, "the bias is below one rounding; it would pass as %s: %s", record->mistake, mutant->says);
        }
      }
      mr3d_judgement_clear(&judgement);
    }
    mr3d_truth_free(&truth);
  }
  mr3d_bundle_free(&a.request);
  mr3d_bundle_free(&a.answer);
  d->trial_seconds += mr3d_processor_seconds() - start;
}

/* ---- a whole layer, over all calls so far ---- */

/**
 * What a play of a layer gives at each point. It goes on from the subject's own values at each point before the fault, and keeps the subject's keys and values of earlier
 * calls: what rounding made of them is none of the mistake's. `beside` others it also stands in for the layer's other faults: where the subject is at fault and the play
 * does not give what it has, the play goes on from the subject's value. So one mistake is seen alone although the layer has others.
 */
typedef struct listener {
  double *value[MR3D_N_LAYER_POINTS];
  bool *visible;
  const mr3d_drift_evidence *e;
  int first;                        /* point of the fault: those before it are the subject's */
  bool beside;
  const struct listener *reference; /* of `beside`: the play without a mistake, NULL in that play itself */
  int64_t step;
  uint32_t explained;               /* bit per point that is at fault and that the play gives */
  bool misfit;                      /* a point has another size than the subject's: a mistake in the configuration that is none of this subject's */
} listener;

typedef struct distance {
  double squares;
  int64_t n;
} distance;

/** Elements that a point of this layer has in a call. */
static int64_t count_at(const mr3d_drift_evidence *e, int64_t step, int p) {
  const mr3d_drift_kept_call *call = &e->drift->calls[step];
  const mr3d_block_in in = {.B = call->B, .q = call->q, .L = call->L};
  int64_t shape[4], count = 1;
  const int rank = mr3d_replay_shape(&e->drift->config, &in, p, shape);
  for (int i = 0; i < rank; i++) count *= shape[i];
  return count;
}

/** Adds how far the subject is from a play at one point; rows that neither touches do not count. */
static void add_distance(const mr3d_drift_evidence *e, int p, const listener *play, const listener *reference, distance *d) {
  int64_t shape[4];
  const int rank = mr3d_replay_shape(&e->drift->config, e->replay->call, p, shape);
  const int64_t cols = shape[rank - 1], count = count_at(e, e->step, p);
  if (p == MR3D_P_VISIBLE) {
    for (int64_t i = 0; i < count && e->visible_given && play->visible && reference->visible; i++) {
      if (e->visible_given[i] == play->visible[i] && play->visible[i] == reference->visible[i]) continue;
      d->squares += e->visible_given[i] != play->visible[i] ? CAP * CAP : 0;
      d->n++;
    }
    return;
  }
  if (!e->given[p] || !play->value[p] || !reference->value[p]) return;
  for (int64_t r = 0; r < count / cols; r++) {
    double size = 0, squares = 0;
    bool touched = false;
    for (int64_t i = r * cols; i < (r + 1) * cols; i++) size += reference->value[p][i] * reference->value[p][i];
    const double noise = fmax(LAYER_NOISE * (e->row_scale[p] ? e->row_scale[p][r] : 0), LAYER_NOISE * e->drift->units.u * sqrt(size / (double)cols)) + 1e-300;
    for (int64_t i = r * cols; i < (r + 1) * cols; i++) {
      const double off = fabs(e->given[p][i] - play->value[p][i]) / noise, plain = fabs(e->given[p][i] - reference->value[p][i]) / noise, own = fabs(play->value[p][i] - reference->value[p][i]) / noise;
      squares += off <= CAP ? off * off : CAP * CAP;
      touched = touched || !(plain <= 2) || !(own <= 2);
    }
    if (!touched) continue;
    d->squares += squares;
    d->n += cols;
  }
}

/** Over all points of the layer but those that were put right: also before the fault, where a mistake that would show has no part in it. */
static distance distance_to(const mr3d_drift_evidence *e, uint32_t corrected, const listener *play, const listener *reference) {
  distance d = {0};
  for (int p = 0; p < MR3D_N_LAYER_POINTS; p++)
    if (!(corrected >> p & 1)) add_distance(e, p, play, reference, &d);
  return d;
}

/** In units of noise, root mean square; infinity where a play leaves too much of what the subject has beside the reference. */
static double apart_by(distance off, distance own) {
  const double apart = off.n ? sqrt(off.squares / (double)off.n) : INFINITY;
  return apart <= EXPLAINED_UNITS && off.squares <= EXPLAINED_PART * own.squares ? apart : INFINITY;
}

static bool explains_point(const mr3d_drift_evidence *e, int p, const listener *play, const listener *reference) {
  distance off = {0}, own = {0};
  add_distance(e, p, play, reference, &off);
  add_distance(e, p, reference, play, &own);
  return isfinite(apart_by(off, own));
}

static int point_of(const char *name) {
  const char *dot = strchr(name, '.');
  return dot ? mr3d_point_named(dot + 1) : -1;
}

static bool wants(void *user, const char *name) {
  (void)user;
  const int p = point_of(name);
  return p >= 0 && p < MR3D_N_LAYER_POINTS;
}

static void keep(listener *l, int p, const mr3d_tensor *point) {
  const int64_t count = mr3d_tensor_count(point);
  if (p == MR3D_P_VISIBLE) {
    free(l->visible);
    l->visible = mr3d_allocate(count, 1);
    memcpy(l->visible, point->data, (size_t)count);
    return;
  }
  free(l->value[p]); /* what is computed last is what is used */
  l->value[p] = mr3d_allocate(count, sizeof(double));
  memcpy(l->value[p], point->data, (size_t)count * sizeof(double));
}

/** Points of this layer that are out of bounds in a call, a bit each. */
static uint32_t faults_of(const mr3d_drift_evidence *e, int64_t step) {
  uint32_t faults = 0;
  for (int i = 0; i < e->drift->n_records; i++) {
    const mr3d_drift_record *r = &e->drift->records[i];
    if (r->step == step && r->layer == e->layer && r->point < MR3D_N_LAYER_POINTS && !r->verdict.passed) faults |= 1u << r->point;
  }
  return faults;
}

/** Puts the subject's value where the play goes on from. */
static void follow(const listener *l, int p, const mr3d_tensor *point) {
  const mr3d_drift_evidence *e = l->e;
  const size_t count = (size_t)mr3d_tensor_count(point);
  if (l->step != e->step) {
    const double *had = e->past[l->step].value[p];
    if (had) memcpy(point->data, had, count * sizeof *had);
  } else if (p == MR3D_P_VISIBLE) {
    if (e->visible_given) memcpy(point->data, e->visible_given, count);
  } else if (e->given[p]) memcpy(point->data, e->given[p], count * sizeof(double));
}

static void take(void *user, const mr3d_tensor *point) {
  listener *l = user;
  const int p = point_of(point->name);
  const bool on = l->step == l->e->step;
  l->misfit |= mr3d_tensor_count(point) != count_at(l->e, l->step, p) && p != MR3D_P_VISIBLE; /* a mask without samples has one for all */
  if (mr3d_tensor_count(point) != count_at(l->e, l->step, p)) return;
  if (on) keep(l, p, point);
  if (!on || (p < l->first && p != MR3D_P_INPUT)) follow(l, p, point);
  else if (l->beside && faults_of(l->e, l->step) >> p & 1) {
    if (l->reference && explains_point(l->e, p, l, l->reference)) l->explained |= 1u << p;
    else follow(l, p, point);
  }
}

static void forget(listener *l) {
  for (int p = 0; p < MR3D_N_LAYER_POINTS; p++) free(l->value[p]);
  free(l->visible);
  *l = (listener){.e = l->e};
}

/** What a mistake in the request makes of a call: another configuration, no position ids. */
static void decorate(const mr3d_drift_evidence *e, const mr3d_mutant *mutant, const mr3d_drift_kept_call *call, mr3d_config *config, mr3d_block_in *in) {
  mr3d_bundle *request = new_request(e, call->L ? "decode" : "prefill");
  mr3d_bundle_set(request, "session", "drift");
  if (call->position_rows) memcpy(mr3d_bundle_add(request, "position_ids", MR3D_I64, 2, (int64_t[]){call->position_rows, call->q})->data, call->position_ids, (size_t)(call->position_rows * call->q) * sizeof(int64_t));
  mr3d_bundle *changed = mutant->decorate(request);
  mr3d_config other;
  if (changed && mr3d_config_parse(mr3d_bundle_get(changed, "config"), &other, NULL) == MR3D_OK) {
    other.hidden_size = config->hidden_size, other.intermediate_size = config->intermediate_size, other.vocab_size = config->vocab_size;
    if (other.head_dim == 0) other.head_dim = config->head_dim;
    *config = other;
    in->mask.rule = other.decode_mask;
    if (!mr3d_bundle_find(changed, "position_ids")) in->position_rows = 0;
  }
  mr3d_bundle_free(&changed);
  mr3d_bundle_free(&request);
}

/** One call of the layer with a mistake (NULL: none) after those before it; the cache grows. False: it refuses, or what the layer was given is not in the trace. */
static bool play_call(const mr3d_drift_evidence *e, const mr3d_mutant *mutant, mr3d_mutant_server *server, int64_t step, mr3d_drift_cache *cache, listener *l) {
  const mr3d_drift_kept_call *kept = &e->drift->calls[step];
  mr3d_config config = e->drift->config;
  const int64_t G = config.num_key_value_heads, D = config.head_dim, rows = kept->B * kept->q, K = kept->L + kept->q;
  const double *input = step == e->step ? e->replay->value[MR3D_P_INPUT] : e->past[step].value[MR3D_P_INPUT];
  if (!input) return false;
  double *x = mr3d_allocate(rows * config.hidden_size, sizeof *x), *y = mr3d_allocate(rows * config.hidden_size, sizeof *y);
  memcpy(x, input, (size_t)(rows * config.hidden_size) * sizeof *x);
  mr3d_drift_cache grown = {K, mr3d_allocate(kept->B * G * K * D, sizeof(double)), mr3d_allocate(kept->B * G * K * D, sizeof(double))};
  mr3d_block_in in = {.B = kept->B, .q = kept->q, .L = kept->L, .hidden = x, .past_key = cache->key, .past_value = cache->value, .mask = kept->mask, .position_rows = kept->position_rows,
                      .position_ids = kept->position_ids, .points = {.mask = kept->point_mask, .N = kept->N, .coords = kept->coords, .counts = kept->counts}};
  mr3d_block_out out = {.hidden = y, .key = grown.key, .value = grown.value};
  uint64_t calls = (uint64_t)step << 32;
  const mr3d_tracer tracer = {l, wants, take};
  l->step = step;
  if (mutant && mutant->decorate) decorate(e, mutant, kept, &config, &in);
  const mr3d_operators table = mutant ? mutant->operators : mr3d_reference_operators;
  const mr3d_context context = {.op = &table, .threads = e->drift->options.threads, .calls = &calls, .layer = e->layer, .tracer = &tracer};
  mr3d_error error = {0};
  if (server) mr3d_mutant_server_lend_memory(server, kept->L ? "decode" : "prefill", e->drift->options.config);
  const mr3d_status status = table.decoder_layer(&context, &config, e->replay->weights, &in, &out, &error);
  if (server) mr3d_mutant_server_lend_memory(NULL, NULL, NULL);
  if (status == MR3D_OK && step == e->step && !l->value[MR3D_P_OUTPUT]) keep(l, MR3D_P_OUTPUT, &(mr3d_tensor){.name = "0.output", .dtype = MR3D_F64, .rank = 1, .shape = {rows * config.hidden_size}, .data = y});
  free(cache->key);
  free(cache->value);
  *cache = grown;
  free(x);
  free(y);
  return status == MR3D_OK;
}

static bool play(const mr3d_drift_evidence *e, const mr3d_mutant *mutant, listener *l) {
  const mr3d_server_options options = {.threads = 1};
  mr3d_mutant_server *server = mutant ? mr3d_mutant_server_new(mutant, NULL, &options) : NULL;
  mr3d_drift_cache cache = {0};
  bool good = true;
  /* without memory, a call's past is only its own: start where the cache is empty */
  for (int64_t step = 0; step <= e->step && good; step++) good = play_call(e, mutant, server, step, &cache, l);
  free(cache.key);
  free(cache.value);
  mr3d_mutant_server_free(&server);
  return good && !l->misfit;
}

/** Mistakes that no single operator's request shows: in how a layer is put together, in what it keeps, in what a request says. */
static bool is_of_a_layer(const mr3d_mutant *m) {
  const mr3d_operators *r = &mr3d_reference_operators;
  const bool session = mr3d_mutant_touches(m, "decoder_layer") || mr3d_mutant_touches(m, "decode") || mr3d_mutant_touches(m, "prefill");
  const bool remembers = strcmp(m->slug, "order-sensitivity") == 0 || strcmp(m->slug, "stale-cis") == 0;
  return session && !m->hangs && !m->distort && (m->decorate || remembers || m->operators.attention_block != r->attention_block || m->operators.decoder_layer != r->decoder_layer);
}

/** The layer as it should be, from a record's fault on: by itself, and beside others. */
typedef struct plays {
  listener whole, beside;
} plays;

/** How far the subject is from the layer with a mistake; infinity where that does not explain it. */
static double apart_from(const mr3d_drift_evidence *e, int first, const mr3d_mutant *mutant, const listener *reference) {
  listener l = {.e = e, .first = first};
  double apart = INFINITY;
  if (play(e, mutant, &l)) apart = apart_by(distance_to(e, 0, &l, reference), distance_to(e, 0, reference, &l));
  forget(&l);
  return apart;
}

/** The same where the layer has other faults, too: those that the mistake does not give are put right. Infinity also where the record's own is one of them. */
static double apart_beside_others(const mr3d_drift_evidence *e, const mr3d_drift_record *record, const mr3d_mutant *mutant, const listener *reference, uint32_t *explained) {
  listener l = {.e = e, .first = record->from, .beside = true, .reference = reference};
  double apart = INFINITY;
  if (play(e, mutant, &l) && l.explained >> record->point & 1) {
    const uint32_t corrected = faults_of(e, e->step) & ~l.explained;
    apart = apart_by(distance_to(e, corrected, &l, reference), distance_to(e, corrected, reference, &l));
    *explained = l.explained;
  }
  forget(&l);
  return apart;
}

/** Mistakes that explain a record, gathered. */
typedef struct findings_of {
  mr3d_drift_candidate list[MR3D_MAX_SUSPECTS];
  int n;
} findings_of;

static bool is_found(const findings_of *found, int m) {
  for (int i = 0; i < found->n; i++)
    if (found->list[i].mutant == m) return true;
  return false;
}

/** Tries a mistake and adds it where it explains the record; `beside`: where the layer may have other faults. */
static void try_mutant(const mr3d_drift_evidence *e, const mr3d_drift_record *record, int m, const plays *reference, bool beside, findings_of *found) {
  mr3d_drift_candidate c = {.mutant = m};
  if (found->n == MR3D_MAX_SUSPECTS) return;
  c.apart = beside ? apart_beside_others(e, record, mr3d_mutant_at(m), &reference->beside, &c.explained) : apart_from(e, record->from, mr3d_mutant_at(m), &reference->whole);
  if (isfinite(c.apart)) found->list[found->n++] = c;
}

static int bits(uint32_t set) {
  int n = 0;
  for (; set; set &= set - 1) n++;
  return n;
}

void mr3d_drift_name_nearest(const mr3d_drift_candidate *found, int n, mr3d_drift_record *record) {
  double nearest = INFINITY;
  int best = -1, most = 0;
  for (int i = 0; i < n; i++) most = bits(found[i].explained) > most ? bits(found[i].explained) : most;
  for (int i = 0; i < n; i++)
    if (bits(found[i].explained) == most) nearest = fmin(nearest, found[i].apart);
  record->alike[0] = 0;
  record->n_alike = 0;
  for (int i = 0; i < n; i++) {
    if (bits(found[i].explained) < most || found[i].apart > ALIKE * nearest + 0.05) continue;
    if (best < 0) best = i;
    const size_t used = strlen(record->alike);
    snprintf(record->alike + used, sizeof record->alike - used, "%s%s/%s", used ? " " : "", mr3d_mutant_at(found[i].mutant)->slug, mr3d_mutant_at(found[i].mutant)->name);
    record->n_alike++;
  }
  if (best < 0) return;
  const mr3d_mutant *m = mr3d_mutant_at(found[best].mutant);
  record->exact_mistake = nearest == 0;
  record->gives = found[best].explained;
  snprintf(record->mistake, sizeof record->mistake, "%s/%s", m->slug, m->name);
  int used = snprintf(record->diagnosis, sizeof record->diagnosis, "%s %s: %s", nearest == 0 ? "it equals" : "it is, within rounding,", record->mistake, m->says);
  if (record->n_alike > 1 && used < (int)sizeof record->diagnosis)
    snprintf(record->diagnosis + used, sizeof record->diagnosis - (size_t)used, "; in these calls the same as %s", record->alike + strlen(record->mistake) + 1);
}

/** Of the mistakes that explain the operator, those that explain what the rest of the layer does, too. */
static void try_named(const mr3d_drift_evidence *e, const mr3d_drift_record *record, const plays *reference, bool beside, findings_of *found) {
  char name[256];
  for (const char *at = record->alike; *at;) {
    const size_t length = strcspn(at, " ");
    snprintf(name, sizeof name, "%.*s", (int)length, at);
    at += length + (at[length] == ' ');
    for (int m = 0; m < mr3d_mutant_count(); m++)
      if (mr3d_mutant_at(m) == mr3d_mutant_named(name)) try_mutant(e, record, m, reference, beside, found);
  }
}

/** Mistakes of a layer, tried on all of it; where several operators are judged at once, any. */
static void try_layer(const mr3d_drift_evidence *e, const mr3d_drift_record *record, const plays *reference, bool beside, double seconds, findings_of *found) {
  const double start = mr3d_processor_seconds();
  for (int m = 0; m < mr3d_mutant_count(); m++) {
    const double spent = mr3d_processor_seconds() - start;
    if (spent > seconds || e->drift->trial_seconds + spent > TRIAL_SECONDS) break;
    const bool any = record->composite && mr3d_mutant_touches(mr3d_mutant_at(m), "decoder_layer") && !mr3d_mutant_at(m)->hangs && !mr3d_mutant_at(m)->distort;
    const bool right = mr3d_mutant_is_mistake_at(mr3d_mutant_at(m), e->drift->options.tier) && (any || is_of_a_layer(mr3d_mutant_at(m)));
    if (right && !is_found(found, m)) try_mutant(e, record, m, reference, beside, found);
  }
  e->drift->trial_seconds += mr3d_processor_seconds() - start;
}

static bool is_rotation(const mr3d_drift_record *record) { return strcmp(mr3d_points_about[record->point].op, "mixed_rope") == 0; }

static void copy_diagnosis(const mr3d_drift_record *from, mr3d_drift_record *to) {
  memcpy(to->diagnosis, from->diagnosis, sizeof to->diagnosis);
  memcpy(to->mistake, from->mistake, sizeof to->mistake);
  memcpy(to->alike, from->alike, sizeof to->alike);
  to->n_alike = from->n_alike;
  to->exact_mistake = from->exact_mistake;
  to->whole_layer = from->whole_layer;
  to->gives = from->gives;
}

/** Whether this layer is at fault elsewhere, in this call or before it. */
static bool has_others(const mr3d_drift_evidence *e, const mr3d_drift_record *record) {
  for (int i = 0; i < e->drift->n_records; i++) {
    const mr3d_drift_record *r = &e->drift->records[i];
    if (r != record && r->layer == e->layer && r->point < MR3D_N_LAYER_POINTS && !r->verdict.passed) return true;
  }
  return false;
}

/** The operator's mistakes, confirmed by the layer, with mistakes of the layer that do the same, as far as that takes little; else other mistakes of the layer. */
static bool explain(const mr3d_drift_evidence *e, mr3d_drift_record *record, bool of_operator, const plays *reference, bool beside) {
  findings_of found = {.n = 0};
  if (of_operator) try_named(e, record, reference, beside, &found);
  double nearest = INFINITY;
  for (int i = 0; i < found.n; i++) nearest = fmin(nearest, found.list[i].apart);
  try_layer(e, record, reference, beside, nearest > WELL_UNITS ? TRIAL_SECONDS : e->drift->trial_seconds < TRIAL_SECONDS / 2 ? ALIKE_SECONDS : 0, &found);
  if (found.n == 0) return false;
  mr3d_drift_name_nearest(found.list, found.n, record);
  return true;
}

/**
 * One mistake that explains all that the layer does from here on; where none does and the layer has other faults, one that explains it beside them; else what explains the
 * operator stands for this operator alone.
 */
static void diagnose_record(const mr3d_drift_evidence *e, mr3d_drift_record *record) {
  const bool single = try_operator(e, record);
  plays reference = {.whole = {.e = e, .first = record->from}, .beside = {.e = e, .first = record->from, .beside = true}};
  if (play(e, NULL, &reference.whole)) {
    record->whole_layer = explain(e, record, single, &reference, false);
    if (!record->whole_layer && has_others(e, record) && play(e, NULL, &reference.beside)) explain(e, record, single, &reference, true);
    if (!record->mistake[0]) try_as_truth(e, record);
  }
  forget(&reference.whole);
  forget(&reference.beside);
}

/** What the subject had at points of this layer in earlier calls that later ones depend on. */
static mr3d_drift_past *read_past(const mr3d_drift_evidence *e) {
  static const int points[] = {MR3D_P_INPUT, MR3D_P_KEY, MR3D_P_VALUE, MR3D_P_KEY_ROTATED};
  mr3d_drift_past *past = mr3d_allocate(e->step, sizeof *past);
  for (int64_t step = 0; step < e->step; step++)
    for (size_t i = 0; i < sizeof points / sizeof *points; i++) {
      const int64_t count = count_at(e, step, points[i]);
      const mr3d_tensor *had = e->source->find(e->source->user, step, e->layer, mr3d_points_about[points[i]].name);
      if (!had || !mr3d_dtype_is_float(had->dtype) || mr3d_tensor_count(had) != count) continue;
      past[step].value[points[i]] = mr3d_allocate(count, sizeof(double));
      mr3d_tensor_to_double(had, past[step].value[points[i]]);
    }
  return past;
}

static void free_past(mr3d_drift_past *past, int64_t steps) {
  for (int64_t step = 0; step < steps; step++)
    for (int p = 0; p < MR3D_N_LAYER_POINTS; p++) free(past[step].value[p]);
  free(past);
}

/** Faults of one layer in one call, from the first on. What a mistake that was named gives behind its place is that mistake, too. */
void mr3d_drift_diagnose(const mr3d_drift_evidence *evidence, int first) {
  mr3d_drift_past *past = read_past(evidence);
  mr3d_drift_evidence with_past = *evidence;
  const mr3d_drift_evidence *e = &with_past;
  with_past.past = past;
  for (int i = first; i < e->drift->n_records; i++) {
    mr3d_drift_record *record = &e->drift->records[i];
    if (record->verdict.passed || record->layer != e->layer || record->point >= MR3D_N_LAYER_POINTS) continue;
    const mr3d_drift_record *known = NULL;
    for (int k = first; k < i && !known; k++) {
      const mr3d_drift_record *r = &e->drift->records[k];
      const bool named = !r->verdict.passed && r->layer == e->layer && r->mistake[0];
      if (named && (r->whole_layer || r->gives >> record->point & 1 || (is_rotation(r) && is_rotation(record)))) known = r;
    }
    if (known) copy_diagnosis(known, record);
    else diagnose_record(e, record);
  }
  free_past(past, e->step);
}
