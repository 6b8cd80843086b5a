/**
 * Bisecting a running backend (docs/drift.md, "A running backend"): the layers are asked for in ranges, each range in a session of its own that goes through the same calls,
 * so that no more than one range's points of one call are held.
 */
#include <stdlib.h>
#include <string.h>

#include "backend.h"
#include "drift_parts.h"
#include "mr3d/random.h"
#include "mr3d/server.h"
#include "scratch.h"
#include "signals.h"

#define WIDE_POINTS 3 /* gate, up, gated; the others have hidden_size columns or fewer */
#define ROW_POINTS 14

/** One request to the subject, kept so that another session can be brought to the same place. */
typedef struct call {
  mr3d_bundle *request;
  mr3d_drift_call about;
  double *embeds, *coords;
} call;

typedef struct asking {
  const mr3d_drift_ask *ask;
  mr3d_drift_run *drift;
  mr3d_backend *backend;
  mr3d_tier tier;
  const char *config;
  char weights[4096];
  int64_t per_request;      /* layers */
  int n;
  call *calls;
  int64_t *asked;           /* calls that a range's session has answered */
  int64_t step, range;      /* of the answer at hand; -1: none */
  mr3d_reply reply;
  int64_t old_step, old_layer;
  mr3d_reply old;           /* of a call before, asked again */
  int again;                /* sessions opened for that */
  mr3d_error error;         /* the first request that had no answer */
} asking;

static char subject_name[400], reference_name[4200];

/* ---- asking ---- */

/** The row of the table of error signals that a message names by the numbers of these calls: "; that is mask-length: ...". */
static void find_signal(const asking *a, const char *message, char text[480]) {
  const mr3d_config *config = mr3d_drift_config(a->drift);
  const mr3d_drift_call *first = &a->calls[0].about;
  const mr3d_signal_numbers numbers = {.keys = first->q + 1, .mask_columns = a->n > 1 ? a->calls[1].about.mask_columns : 0, .heads = config->num_attention_heads, .kv_heads = config->num_key_value_heads,
                                       .points = first->points.N, .tokens = first->q, .head_dim = config->head_dim};
  const mr3d_signal *row;
  *text = 0;
  if (mr3d_signals_in_text(message, &numbers, 1, &row)) snprintf(text, 480, "; that may be %s: %s. Look at %s", row->pitfalls[0], row->because, row->look);
}

static void fail_reply(asking *a, const mr3d_reply *reply, int64_t step, const char *globs) {
  static const char *const what[] = {"", "refused it", "does not support it", "crashed", "gave no answer in time", "broke the protocol"};
  char signal[480];
  if (a->error.status) return;
  find_signal(a, reply->message, signal);
  mr3d_fail(&a->error, MR3D_INVALID, "%s was asked for a %s with the trace %.60s, and %s: %.400s%s%s", a->ask->backend, step ? "decode" : "prefill", globs, what[reply->kind], reply->message, signal,
            reply->kind == MR3D_REPLY_TIMEOUT ? "; else give more time with --timeout" : "");
}

/** Sends a call to a session, with the globs (NULL: none). False: no answer; the error is kept. */
static bool send_call(asking *a, int64_t step, const char *session, const char *globs, mr3d_reply *reply) {
  mr3d_bundle *request = a->calls[step].request;
  mr3d_bundle *copy = mr3d_bundle_new();
  for (int i = 0; i < mr3d_bundle_meta_count(request); i++) {
    const char *key, *value;
    mr3d_bundle_meta_at(request, i, &key, &value);
    mr3d_bundle_set(copy, key, value);
  }
  for (int i = 0; i < mr3d_bundle_count(request); i++) {
    const mr3d_tensor *t = mr3d_bundle_at(request, i);
    mr3d_bundle_borrow(copy, t->name, t->dtype, t->rank, t->shape, t->data);
  }
  mr3d_bundle_set(copy, "session", session);
  if (globs) mr3d_bundle_set(copy, "trace", globs);
  mr3d_reply_clear(reply);
  mr3d_backend_ask(a->backend, copy, a->ask->timeout, reply);
  mr3d_bundle_free(&copy);
  if (reply->kind != MR3D_REPLY_ANSWER) fail_reply(a, reply, step, globs ? globs : "nothing");
  return reply->kind == MR3D_REPLY_ANSWER;
}

static void drop(asking *a, const char *session) {
  mr3d_bundle *request = mr3d_bundle_new();
  mr3d_reply reply = {0};
  mr3d_bundle_set(request, "op", "drop_session");
  mr3d_bundle_set(request, "tier", mr3d_tier_name(a->tier));
  mr3d_bundle_set(request, "config", a->config);
  mr3d_bundle_set(request, "session", session);
  mr3d_backend_ask(a->backend, request, a->ask->timeout, &reply);
  mr3d_reply_clear(&reply);
  mr3d_bundle_free(&request);
}

/** "3.*,4.*,model.*" */
static void globs_of(const asking *a, int64_t range, char globs[400]) {
  const int64_t layers = mr3d_drift_config(a->drift)->num_hidden_layers;
  size_t used = 0;
  for (int64_t n = range * a->per_request; n < (range + 1) * a->per_request && n < layers; n++) used += (size_t)snprintf(globs + used, 400 - used, "%lld.*,", (long long)n);
  snprintf(globs + used, 400 - used, "model.*");
}

/** Brings the range's session to the step and keeps the last answer. */
static bool ask_range(asking *a, int64_t step, int64_t range) {
  if (a->step == step && a->range == range) return true;
  char session[40], globs[400];
  if (a->error.status) return false;
  snprintf(session, sizeof session, "drift-%lld", (long long)range);
  globs_of(a, range, globs);
  a->step = a->range = -1;
  while (a->asked[range] <= step) {
    const int64_t next = a->asked[range];
    if (!send_call(a, next, session, next == step ? globs : NULL, &a->reply)) return false;
    a->asked[range]++;
  }
  a->step = step;
  a->range = range;
  return true;
}

/** A point of a call that is over: a session of its own is brought there. */
static const mr3d_tensor *find_again(asking *a, int64_t step, int64_t layer, const char *name) {
  if (a->old_step != step || a->old_layer != layer) {
    char session[40], globs[400];
    snprintf(session, sizeof session, "drift-again-%d", a->again++);
    snprintf(globs, sizeof globs, "%lld.*", (long long)layer);
    a->old_step = a->old_layer = -1;
    for (int64_t s = 0; s <= step; s++)
      if (!send_call(a, s, session, s == step ? globs : NULL, &a->old)) return NULL;
    drop(a, session);
    a->old_step = step;
    a->old_layer = layer;
  }
  return mr3d_bundle_find(a->old.answer, name);
}

static const mr3d_tensor *find(void *user, int64_t step, int64_t layer, const char *point) {
  asking *a = user;
  char name[160];
  if (layer < 0) snprintf(name, sizeof name, "trace.model.%s", point);
  else snprintf(name, sizeof name, "trace.%lld.%s", (long long)layer, point);
  if (a->step >= 0 && step < a->step && layer >= 0) return find_again(a, step, layer, name);
  /* the model's points stand in any range's answer: in the one at hand, or in the first */
  const int64_t range = layer >= 0 ? layer / a->per_request : a->step == step ? a->range : 0;
  if (!ask_range(a, step, range)) return NULL;
  const mr3d_tensor *found = mr3d_bundle_find(a->reply.answer, name);
  if (!found && layer < 0 && strcmp(point, "final_norm") == 0) found = mr3d_bundle_find(a->reply.answer, "hidden");
  if (!found && layer < 0 && strcmp(point, "logits") == 0) found = mr3d_bundle_find(a->reply.answer, "logits");
  return found;
}

/* ---- the calls ---- */

static call *add_call(asking *a, const char *op) {
  call *c = &a->calls[a->n++];
  c->request = mr3d_bundle_new();
  mr3d_bundle_set(c->request, "op", op);
  mr3d_bundle_set(c->request, "tier", mr3d_tier_name(a->tier));
  mr3d_bundle_set(c->request, "config", a->config);
  return c;
}

/** Text and points without a scan: coordinates and ids drawn by the seed, a third of the text behind the points. */
static void draw_inputs(const mr3d_drift_ask *ask, const mr3d_config *config) {
  mr3d_run *r = ask->run;
  r->config.point_backbone = MR3D_NO_BACKBONE; /* there is no scan to encode */
  const int64_t N = ask->points, S = ask->text + N, first = ask->text - ask->text / 3;
  const int64_t grid = config->num_bins >> config->downsamplings;
  r->T = ask->text;
  r->tokens.N = N;
  r->tokens.coords = mr3d_allocate(3 * N, sizeof *r->tokens.coords);
  r->splice = (mr3d_splice_out){.S = S, .source = mr3d_allocate(S, sizeof *r->splice.source), .attention_mask = mr3d_allocate(S, sizeof *r->splice.attention_mask),
                                .point_token_mask = mr3d_allocate(S, sizeof *r->splice.point_token_mask)};
  r->ids = mr3d_allocate(r->T, sizeof *r->ids);
  const mr3d_stream coords = mr3d_stream_named(r->seed, "drift/coords"), ids = mr3d_stream_named(r->seed, "drift/ids");
  for (int64_t k = 0; k < 3 * N; k++) r->tokens.coords[k] = (int64_t)(mr3d_random_raw(coords, (uint64_t)k) % (uint64_t)grid);
  for (int64_t i = 0; i < r->T; i++) r->ids[i] = (int64_t)(mr3d_random_raw(ids, (uint64_t)i) % (uint64_t)config->vocab_size);
  for (int64_t s = 0; s < S; s++) {
    const bool point = s >= first && s < first + N;
    r->splice.point_token_mask[s] = point;
    r->splice.attention_mask[s] = 1;
    r->splice.source[s] = point ? -1 - (s - first) : s < first ? s : s - N;
  }
}

static mr3d_status make_prefill(asking *a, mr3d_error *error) {
  mr3d_run *r = a->ask->run;
  const int64_t S = r->splice.S, N = r->tokens.N, hidden = mr3d_drift_config(a->drift)->hidden_size;
  call *c = add_call(a, "prefill");
  c->embeds = mr3d_allocate(S * hidden, sizeof *c->embeds);
  c->coords = mr3d_allocate(3 * N, sizeof *c->coords);
  double *features = mr3d_allocate(N * hidden, sizeof *features);
  mr3d_run_progress progress = {.run = r};
  mr3d_server *server = mr3d_server_new(&(mr3d_server_options){.weights = r->cache}); /* runs the encoder, where there is one */
  mr3d_status status = mr3d_run_features(r, server, &progress, hidden, features, error);
  mr3d_server_free(&server);
  if (!status) status = mr3d_run_embed(r, features, c->embeds, error);
  free(features);
  if (status) return status;
  mr3d_bundle_set(c->request, "weights", a->weights);
  mr3d_bundle_set(c->request, "logits_to_keep", "1");
  mr3d_tensor *embeds = mr3d_bundle_add(c->request, "inputs_embeds", mr3d_tier_storage(a->tier), 3, (int64_t[]){1, S, hidden});
  mr3d_tensor_from_double(embeds, c->embeds);
  mr3d_tensor_to_double(embeds, c->embeds); /* what the subject is given is the truth's input */
  mr3d_bundle_borrow(c->request, "attention_mask", MR3D_I64, 2, (int64_t[]){1, S}, r->splice.attention_mask);
  c->about = (mr3d_drift_call){.B = 1, .q = S, .embeds = c->embeds, .mask_columns = S, .attention_mask = r->splice.attention_mask};
  int64_t *ids = mr3d_allocate(S, sizeof *ids);
  for (int64_t s = 0; s < S; s++) ids[s] = r->splice.source[s] >= 0 ? r->ids[r->splice.source[s]] : -1;
  c->about.ids = ids;
  if (N) {
    mr3d_bundle_borrow(c->request, "point_token_mask", MR3D_BOOL, 2, (int64_t[]){1, S}, r->splice.point_token_mask);
    mr3d_bundle_borrow(c->request, "point_coords", MR3D_I64, 2, (int64_t[]){N, 3}, r->tokens.coords);
    for (int64_t i = 0; i < 3 * N; i++) c->coords[i] = (double)r->tokens.coords[i];
    c->about.points = (mr3d_points){.mask = r->splice.point_token_mask, .N = N, .coords = c->coords};
  }
  return MR3D_OK;
}

static mr3d_status make_decode(asking *a, int64_t step, int64_t id, mr3d_error *error) {
  const int64_t columns = a->ask->run->T + step, hidden = mr3d_drift_config(a->drift)->hidden_size;
  call *c = add_call(a, "decode");
  int64_t *ids = mr3d_bundle_add(c->request, "input_ids", MR3D_I64, 2, (int64_t[]){1, 1})->data;
  int64_t *mask = mr3d_bundle_add(c->request, "attention_mask", MR3D_I64, 2, (int64_t[]){1, columns})->data;
  *ids = id;
  for (int64_t i = 0; i < columns; i++) mask[i] = 1;
  c->embeds = mr3d_allocate(hidden, sizeof *c->embeds);
  c->about = (mr3d_drift_call){.decode = true, .B = 1, .q = 1, .embeds = c->embeds, .mask_columns = columns, .attention_mask = mask, .ids = ids};
  return mr3d_drift_embed(a->drift, 1, ids, c->embeds, error);
}

/* ---- all of it ---- */

static mr3d_status open_backend(asking *a, mr3d_error *error) {
  mr3d_status status = mr3d_backend_open(a->ask->backend, &(mr3d_backend_options){0}, &a->backend, error);
  if (status) return status;
  const mr3d_backend_info *info = mr3d_backend_info_of(a->backend);
  bool tier = false, prefill = false;
  for (int i = 0; i < info->n_tiers; i++) tier |= info->tiers[i] == a->tier;
  for (int i = 0; i < info->n_ops; i++) prefill |= strcmp(info->ops[i], "prefill") == 0;
  if (!prefill) return mr3d_fail(error, MR3D_UNSUPPORTED, "%s does not offer prefill, which its trace would be of", info->name);
  if (!tier) return mr3d_fail(error, MR3D_UNSUPPORTED, "%s does not offer the tier %s", info->name, mr3d_tier_name(a->tier));
  snprintf(subject_name, sizeof subject_name, "%.200s (%.80s %.60s)", a->ask->backend, info->name, info->version);
  return MR3D_OK;
}

/** The weights as a backend can read them: a generated model is written to a file first. */
static mr3d_status find_weights(asking *a, const char *given, mr3d_error *error) {
  const char *folder;
  snprintf(reference_name, sizeof reference_name, "%s", given);
  snprintf(a->weights, sizeof a->weights, "%s", given);
  if (strncmp(given, "generated:", 10) != 0 || strncmp(a->ask->backend, "builtin:", 8) == 0 || strncmp(a->ask->backend, "mutant:", 7) == 0) return MR3D_OK;
  const mr3d_status status = mr3d_scratch_open(&folder, error);
  if (status) return status;
  snprintf(a->weights, sizeof a->weights, "%s/weights.safetensors", folder);
  return mr3d_drift_write_weights(a->drift, a->weights, error);
}

/** As many layers as --memory has room for, one at least. */
static int64_t layers_at_once(const asking *a) {
  const mr3d_config *config = mr3d_drift_config(a->drift);
  const int64_t S = a->ask->run->splice.S, word = a->tier == MR3D_FP64 ? 8 : 4;
  const int64_t layer = S * word * (ROW_POINTS * config->hidden_size + WIDE_POINTS * config->intermediate_size) + S * S;
  int64_t n = a->ask->memory * (1 << 20) / (layer ? layer : 1);
  if (n > 24) n = 24; /* of their globs a request takes 511 bytes */
  return n < 1 ? 1 : n > config->num_hidden_layers ? config->num_hidden_layers : n;
}

static mr3d_status take_all(asking *a, mr3d_error *error) {
  const mr3d_drift_source source = {a, find};
  bool stopped = false;
  mr3d_status status = make_prefill(a, error);
  for (int64_t step = 0; !status && !stopped && step <= a->ask->run->steps; step++) {
    if (step) {
      const mr3d_drift_step *last = mr3d_drift_step_at(a->drift, (int)step - 1);
      const int64_t id = a->ask->run->forced ? a->ask->run->forced[step - 1] : last->truth_greedy >= 0 ? last->truth_greedy : last->greedy >= 0 ? last->greedy : 0;
      status = make_decode(a, step, id, error);
      if (status) break;
    }
    status = mr3d_drift_take(a->drift, &a->calls[step].about, &source, &stopped, error);
    if (!status && a->error.status) status = mr3d_fail(error, a->error.status, "%s", a->error.message);
    bool traced = false;
    for (int i = 0; i < mr3d_drift_records(a->drift); i++) traced |= mr3d_drift_record_at(a->drift, i)->layer >= 0;
    if (!status && !traced)
      return mr3d_fail(error, MR3D_UNSUPPORTED, "%s answers, but without any tensor trace.LAYER.POINT: it does not know the metadata `trace` (docs/protocol.md, \"Traces\")", subject_name);
  }
  return status;
}

mr3d_status mr3d_drift_ask_all(const mr3d_drift_ask *ask, const mr3d_drift_options *options, mr3d_drift_run **drift, mr3d_drift_subject *subject, mr3d_error *error) {
  asking a = {.ask = ask, .tier = options->tier, .config = options->config, .step = -1, .range = -1, .old_step = -1, .old_layer = -1};
  mr3d_status status = mr3d_drift_new(options, &a.drift, error);
  if (!status) status = open_backend(&a, error);
  if (!status) status = find_weights(&a, options->weights, error);
  if (!status && !ask->run->scan) draw_inputs(ask, mr3d_drift_config(a.drift));
  if (!status) status = mr3d_run_open_weights(ask->run, error);
  if (!status) {
    a.per_request = layers_at_once(&a);
    a.calls = mr3d_allocate(ask->run->steps + 1, sizeof *a.calls);
    a.asked = mr3d_allocate(mr3d_drift_config(a.drift)->num_hidden_layers, sizeof *a.asked);
    status = take_all(&a, error);
  }
  mr3d_backend_close(&a.backend);
  mr3d_reply_clear(&a.reply);
  mr3d_reply_clear(&a.old);
  for (int i = 0; i < a.n; i++) {
    mr3d_bundle_free(&a.calls[i].request);
    free(a.calls[i].embeds);
    free(a.calls[i].coords);
    if (!a.calls[i].about.decode) free((void *)(uintptr_t)a.calls[i].about.ids);
  }
  free(a.calls);
  free(a.asked);
  if (status) mr3d_drift_free(&a.drift);
  *drift = a.drift;
  *subject = (mr3d_drift_subject){.name = subject_name, .reference = reference_name};
  return status;
}

void mr3d_drift_ask_end(void) { mr3d_scratch_close(); }
