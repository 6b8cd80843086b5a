/* Sessions: prefill and decode over a KV cache (spec.md 5, protocol.md "Sessions"). */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "weights.h"

typedef struct session {
  char *name, *tier, *path;
  options o; /* with tie decided */
  weights *weights;
  int64_t B, L;
  float **key, **value; /* [layers], each [B,G,L,D] */
  int64_t L0;           /* of the last prefill's attention_mask */
  int64_t *prefill_mask;
  struct session *next;
} session;

struct state {
  session *sessions;
  weights *files;
};

static void free_session(state *s, session *one) {
  for (int64_t n = 0; one->key && n < one->o.layers; n++) release(one->key[n]), release(one->value[n]);
  release(one->key), release(one->value), release(one->prefill_mask);
  close_weights(&s->files, one->weights);
  free(one->name), free(one->tier), free(one->path);
  free(one);
}

state *new_state(void) { return calloc(1, sizeof(state)); }

void free_state(state *s) {
  for (session *one = s->sessions, *next; one; one = next) next = one->next, free_session(s, one);
  free(s);
}

/* After a refusal: a weights file that was opened for a session that did not come to be. */
void abandon(call *c) { close_weights(&c->state->files, c->opened); }

weights *call_weights(call *c, const char *path) { return c->opened = open_weights(c, &c->state->files, path); }

void close_call_weights(call *c) {
  close_weights(&c->state->files, c->opened);
  c->opened = NULL;
}

static session **find(call *c, const char *name) {
  session **at = &c->state->sessions;
  while (*at && strcmp((*at)->name, name) != 0) at = &(*at)->next;
  return at;
}

/* What a later call must have in common with the first; from here on the session's configuration counts. */
static void join(call *c, const session *one) {
  const char *differs = differing_option(c, &one->o), *path = c->request->metadata(c->request, "weights");
  if (strcmp(one->tier, c->request->tier) != 0)
    refuse(c, "session \"%.100s\" has tier %s, the request %s", one->name, one->tier, c->request->tier);
  if (path && strcmp(one->path, path) != 0)
    refuse(c, "session \"%.100s\" has weights %.200s, the request %.200s", one->name, one->path, path);
  if (differs) refuse(c, "%s differs from that of session \"%.100s\"", differs, one->name);
  c->o = one->o;
  c->size['B'] = one->B, c->said_by['B'] = "the session";
}

bool joins_session(call *c) {
  const mr3d_backend_request *r = c->request;
  return r->session && (strcmp(r->op, "prefill") == 0 || strcmp(r->op, "decode") == 0 || strcmp(r->op, "drop_session") == 0) &&
         *find(c, r->session);
}

void op_drop_session(call *c) {
  const char *name = word(c, "session");
  only_these(c);
  session **at = find(c, name), *one = *at;
  if (!one) refuse(c, "there is no session \"%.200s\"", name);
  if (strcmp(one->tier, c->request->tier) != 0)
    refuse(c, "session \"%.100s\" has tier %s, the request %s", one->name, one->tier, c->request->tier);
  *at = one->next;
  free_session(c->state, one);
}

/* ---- the decoder ---- */

static layer layer_weights(call *c, weights *w, int64_t n, bool any_points) {
  char name[128];
  const split s = split_head(c, c->o.D);
  c->size['F'] = s.Ds / 2, c->size['a'] = c->o.per_axis ? 3 : 1;
#define GET(rest, shape) (snprintf(name, sizeof name, "model.layers.%lld.%s", (long long)n, rest), weight(c, w, name, shape))
  layer l = {
    .input_norm = GET("input_layernorm.weight", "E"), .post_norm = GET("post_attention_layernorm.weight", "E"),
    .q = GET("self_attn.q_proj.weight", "QE"), .q_bias = GET("self_attn.q_proj.bias", "Q"),
    .k = GET("self_attn.k_proj.weight", "VE"), .k_bias = GET("self_attn.k_proj.bias", "V"),
    .v = GET("self_attn.v_proj.weight", "VE"), .v_bias = GET("self_attn.v_proj.bias", "V"),
    .o = GET("self_attn.o_proj.weight", "EQ"),
    .gate = GET("mlp.gate_proj.weight", "IE"), .up = GET("mlp.up_proj.weight", "IE"), .down = GET("mlp.down_proj.weight", "EI"),
  };
  const struct {
    const char *freqs, *weights;
    int64_t heads;
    learned *to;
  } sides[2] = {{"self_attn.freqs_3d_q", "self_attn.axial_weights_3d_q", c->o.H, &l.for_query},
                {"self_attn.freqs_3d_kv", "self_attn.axial_weights_3d_kv", c->o.G, &l.for_key}};
  for (int i = 0; i < 2 && any_points; i++) {
    c->size['h'] = sides[i].heads, c->size['l'] = sides[i].heads * s.Ds / 2;
    if (wants_freqs(&c->o, s.Ds)) sides[i].to->freqs = GET(sides[i].freqs, weight_rank(w, name) == 2 ? "al" : "ahF");
    if (wants_weights(&c->o, s.Ds)) sides[i].to->weights = GET(sides[i].weights, "hF3");
  }
#undef GET
  return l;
}

/* The session as it will be after the call; the old one stays until commit. */
typedef struct step {
  session *old; /* NULL: the call opens it */
  weights *weights;
  int64_t B, q, L;
  float **key, **value;
  float *x; /* [B,q,hidden]: embeddings, then the rows of the final norm */
} step;

static void size_letters(call *c) {
  const options *o = &c->o;
  c->size['E'] = o->hidden, c->size['I'] = o->intermediate, c->size['Q'] = o->H * o->D, c->size['V'] = o->G * o->D, c->size['W'] = o->vocab;
}

static void run_decoder(call *c, step *s, const positions *p, const visibility *v, const point_set *points) {
  const options *o = &c->o;
  s->key = scratch(c, o->layers, sizeof *s->key), s->value = scratch(c, o->layers, sizeof *s->value);
  c->layer = -1;
  trace_floats(c, "inputs_embeds", SHAPE(s->B, s->q, o->hidden), s->x);
  trace_wholes(c, "position_ids", SHAPE(p->rows, s->q), p->at);
  trace_wholes(c, "cache_length", SHAPE(1), &s->L);
  for (int64_t n = 0; n < o->layers; n++) {
    c->layer = n;
    const layer w = layer_weights(c, s->weights, n, points->any);
    const int64_t size = s->B * o->G * (s->L + s->q) * o->D;
    s->key[n] = scratch(c, size, sizeof(float)), s->value[n] = scratch(c, size, sizeof(float));
    run_layer(c, &w, s->B, s->q, s->L, s->x, s->old ? s->old->key[n] : NULL, s->old ? s->old->value[n] : NULL, p, v, points, s->key[n],
              s->value[n]);
  }
  rmsnorm(s->B * s->q, o->hidden, o->eps, s->x, weight(c, s->weights, "model.norm.weight", "E"), s->x);
  c->layer = -1;
  trace_floats(c, "final_norm", SHAPE(s->B, s->q, o->hidden), s->x);
}

/* Logits of each sample's last `count` rows. */
static void put_logits(call *c, const step *s, int64_t count) {
  const int64_t E = c->o.hidden, V = c->o.vocab;
  const float *head = weight(c, s->weights, c->o.tie ? "model.embed_tokens.weight" : "lm_head.weight", "WE");
  float *rows = scratch(c, s->B * count * E, sizeof *rows);
  for (int64_t b = 0; b < s->B && count > 0; b++)
    memcpy(rows + b * count * E, s->x + ((b + 1) * s->q - count) * E, (size_t)(count * E) * sizeof *rows);
  float *logits = out_floats(c, "logits", SHAPE(s->B, count, V));
  product(s->B * count, E, V, rows, head, NULL, logits);
  trace_floats(c, "logits", SHAPE(s->B, count, V), logits);
}

/* Nothing can be refused any more: the cache becomes the session's. */
static void commit(call *c, session *one, step *s) {
  for (int64_t n = 0; one->key && n < one->o.layers; n++) release(one->key[n]), release(one->value[n]);
  release(one->key), release(one->value);
  one->key = keep(c, s->key), one->value = keep(c, s->value);
  for (int64_t n = 0; n < one->o.layers; n++) keep(c, one->key[n]), keep(c, one->value[n]);
  one->L = s->L + s->q;
}

void op_prefill(call *c) {
  const char *name = word(c, "session"), *path = word(c, "weights");
  session *old = *find(c, name);
  if (old) join(c, old);
  need_decoder_options(c, true);
  need_option(c, "num_hidden_layers", (double)c->o.layers);
  size_letters(c);
  c->said_by['E'] = "hidden_size";
  if (!c->o.hidden) c->size['E'] = -1;
  const array *x = need(c, "inputs_embeds", FLOAT, "BqE");
  c->o.hidden = c->size['E'];
  const int64_t B = c->size['B'], q = c->size['q'], L = old ? old->L : 0;
  c->size['K'] = L + q, c->said_by['K'] = "past and new tokens";
  const array *mask = need(c, "attention_mask", ZERO_ONE, "BK");
  const positions p = take_positions(c, B, q, L);
  const point_set points = take_points(c, B, q);
  only_these(c);
  int64_t count = whole(c, "logits_to_keep", 0, 0);
  if (count == 0 || count > q) count = q;
  const masks m = {.B = B, .M = L + q, .key = mask->i};
  const visibility v = visible_keys(c, &m, L, q);

  step s = {.old = old, .B = B, .q = q, .L = L, .x = scratch(c, B * q * c->o.hidden, sizeof(float))};
  if (B * q > 0) memcpy(s.x, x->f, (size_t)(B * q * c->o.hidden) * sizeof(float));
  int64_t *prefill_mask = scratch(c, B * (L + q), sizeof *prefill_mask);
  if (B * (L + q) > 0) memcpy(prefill_mask, mask->i, (size_t)(B * (L + q)) * sizeof *prefill_mask);
  s.weights = old ? old->weights : (c->opened = open_weights(c, &c->state->files, path));
  if (c->o.tie < 0) c->o.tie = !has_weight(s.weights, "lm_head.weight");
  /* Sizes that the configuration leaves out can be seen. */
  if (!c->o.vocab) c->o.vocab = c->size['W'] = weight_rows(s.weights, "model.embed_tokens.weight");
  if (!c->o.intermediate) c->o.intermediate = c->size['I'] = weight_rows(s.weights, "model.layers.0.mlp.gate_proj.weight");
  run_decoder(c, &s, &p, &v, &points);
  put_logits(c, &s, count);
  memcpy(out_floats(c, "hidden", SHAPE(B, q, c->o.hidden)), s.x, (size_t)(B * q * c->o.hidden) * sizeof(float));

  session *one = old;
  if (!one) {
    one = calloc(1, sizeof *one);
    *one = (session){.name = strdup(name),
                     .tier = strdup(c->request->tier),
                     .path = strdup(path),
                     .o = c->o,
                     .weights = s.weights,
                     .B = B,
                     .next = c->state->sessions};
    c->state->sessions = one;
    c->opened = NULL;
  }
  commit(c, one, &s);
  release(one->prefill_mask);
  one->prefill_mask = keep(c, prefill_mask);
  one->L0 = L + q;
}

void op_decode(call *c) {
  const char *name = word(c, "session");
  session *one = *find(c, name);
  if (!one) refuse(c, "there is no session \"%.200s\"; its first request is a prefill", name);
  join(c, one);
  size_letters(c);
  const array *ids = need(c, "input_ids", WHOLE, "Bq");
  const int64_t B = c->size['B'], q = c->size['q'], L = one->L;
  const array *mask = may(c, "attention_mask", ZERO_ONE, "BM");
  only_these(c);
  for (int64_t i = 0; i < B * q; i++)
    if (ids->i[i] < 0 || ids->i[i] >= c->o.vocab)
      refuse(c, "input_ids holds %lld at flat index %lld, the vocabulary has %lld", (long long)ids->i[i], (long long)i,
             (long long)c->o.vocab);
  const masks m = {.B = B, .M = mask ? c->size['M'] : 0, .key = mask ? mask->i : NULL, .L0 = one->L0,
                   .prefill = c->o.decode_mask == SPLICED ? one->prefill_mask : NULL};
  const visibility v = visible_keys(c, &m, L, q);
  int64_t *at = scratch(c, q, sizeof *at);
  for (int64_t i = 0; i < q; i++) at[i] = L + i;

  step s = {.old = one, .weights = one->weights, .B = B, .q = q, .L = L, .x = scratch(c, B * q * c->o.hidden, sizeof(float))};
  const float *embeddings = weight(c, s.weights, "model.embed_tokens.weight", "WE");
  for (int64_t i = 0; i < B * q; i++)
    memcpy(s.x + i * c->o.hidden, embeddings + ids->i[i] * c->o.hidden, (size_t)c->o.hidden * sizeof(float));
  run_decoder(c, &s, &(positions){1, at}, &v, &(point_set){0});
  put_logits(c, &s, q);
  commit(c, one, &s);
}
