/** The model's part of mr3d run: weights, embeddings, prefill, decode. */
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "case_internal.h"
#include "mr3d/safetensors.h"
#include "mr3d/server.h"
#include "run_parts.h"

/** The names of the drawn tensors behind those of a checkpoint: on the terminal the first and the last, in JSON all. */
static void say_initialised(mr3d_run *r) {
  const mr3d_bundle *tensors = mr3d_weights_tensors(r->model);
  const int count = mr3d_bundle_count(tensors), drawn = mr3d_weights_drawn(r->model);
  cJSON *list = cJSON_AddArrayToObject(r->said, "initialised");
  for (int i = count - drawn; i < count; i++) cJSON_AddItemToArray(list, cJSON_CreateString(mr3d_bundle_at(tensors, i)->name));
  if (!drawn) MR3D_SAY(r, "         --init-missing %" PRIu64 ": nothing was missing, so nothing was drawn\n", r->init_missing.seed);
  else
    MR3D_SAY(r, "         %d missing rotary parameters drawn by --init-missing %" PRIu64 ", as in a fresh model: %s .. %s\n", drawn, r->init_missing.seed,
        mr3d_bundle_at(tensors, count - drawn)->name, mr3d_bundle_at(tensors, count - 1)->name);
}

/** Opens --weights as the server will, and finds the embedding. */
mr3d_status mr3d_run_open_weights(mr3d_run *r, mr3d_error *error) {
  const mr3d_weights_source source = {
      .path = r->weights, .config = &r->config, .tier = MR3D_FP64, .init_missing = r->init_missing.given ? &r->init_missing.seed : NULL};
  r->cache = mr3d_weights_cache_new();
  mr3d_status status = mr3d_weights_open(r->cache, &source, &r->model, error);
  if (status) return status;
  mr3d_sizes sizes = {0};
  mr3d_sizes_bind_config(&sizes, &r->config);
  status = mr3d_weights_ends(r->model, &r->config, &sizes, &r->ends, error);
  if (status) return status;
  const int files = mr3d_weights_files(r->model), count = mr3d_bundle_count(mr3d_weights_tensors(r->model));
  if (files) MR3D_SAY(r, "weights  %s: %d tensors in %d file%s\n", r->weights, count - mr3d_weights_drawn(r->model), files, files == 1 ? "" : "s");
  else MR3D_SAY(r, "weights  %s: %d tensors drawn by the generator, no file\n", r->weights, count);
  mr3d_run_say_number(r, "weight_files", files);
  mr3d_run_say_number(r, "weight_tensors", count);
  if (r->init_missing.given) say_initialised(r);
  return MR3D_OK;
}

/** embeds [S,hidden]: rows of model.embed_tokens.weight for text, features [N,hidden] for points. */
mr3d_status mr3d_run_embed(mr3d_run *r, const double *features, double *rows, mr3d_error *error) {
  const mr3d_tensor *table = r->ends.embed_tokens;
  const int64_t V = table->shape[0], hidden = table->shape[1], S = r->splice.S;
  mr3d_status status = MR3D_OK;
  for (int64_t s = 0; s < S && !status; s++) {
    const int64_t from = r->splice.source[s];
    const double *row = from < 0 ? features + (-1 - from) * hidden : NULL;
    if (from >= 0 && r->ids[from] >= V)
      status = mr3d_fail(error, MR3D_INVALID, "token id %" PRId64 " is outside the vocabulary of %" PRId64 " rows in %s", r->ids[from], V, r->weights);
    else if (from >= 0) status = mr3d_weights_rows(r->model, table, r->ids[from], 1, rows + s * hidden, &row, error);
    if (!status && row != rows + s * hidden) memcpy(rows + s * hidden, row, (size_t)hidden * sizeof *rows);
  }
  return status;
}

/* ---- requests ---- */

int64_t mr3d_run_prefills(const mr3d_run *r) { return r->chunk && r->chunk < r->splice.S ? (r->splice.S + r->chunk - 1) / r->chunk : 1; }
int64_t mr3d_run_requests(const mr3d_run *r) { return mr3d_run_prefills(r) + r->steps; }

/** While the model answers. */
typedef struct generation {
  mr3d_run *run;
  mr3d_server *server;
  mr3d_run_progress progress;
  mr3d_run_resume resume;
  double *embeds;  /* [S,hidden] */
  int64_t *tokens; /* [steps + 1]: the greedy ones */
  int64_t traced;  /* the step that points are of; -1: nothing is traced, a checkpoint knows what it holds */
} generation;

static mr3d_bundle *new_request(const mr3d_run *r, const char *op) {
  mr3d_bundle *request = mr3d_bundle_new();
  mr3d_bundle_set(request, "op", op);
  mr3d_bundle_set(request, "tier", "fp64");
  mr3d_bundle_set(request, "config", r->config_text);
  mr3d_bundle_set(request, "session", "run");
  return request;
}

static int64_t start(void *user, const mr3d_call_state *call) { return mr3d_run_resume_start(&((generation *)user)->resume, call); }

static bool wants_logits(void *user) {
  const generation *g = user;
  return !mr3d_run_resume_knows(&g->resume, g->resume.step);
}

static void layer_done(void *user, const mr3d_call_state *call) {
  generation *g = user;
  mr3d_run_progress_layer(&g->progress, call);
  mr3d_run_resume_layer_done(&g->resume, call);
}

static void part_done(void *user, int64_t done, int64_t parts) { mr3d_run_progress_part(&((generation *)user)->progress, done, parts); }

static bool wants_point(void *user, const char *name) {
  const generation *g = user;
  return g->traced >= 0 && mr3d_run_trace_wants(g->run, g->traced, name);
}

static void take_point(void *user, const mr3d_tensor *point) { mr3d_run_trace_take(((generation *)user)->run, ((generation *)user)->traced, point); }

/** Asks the reference, keeps what the trace wants, gives the greedy token of the last row; of what a checkpoint knows only the session's growth is wanted. */
static mr3d_status ask(generation *g, mr3d_bundle *request, int64_t step, int64_t *token, mr3d_error *error) {
  mr3d_bundle *answer = NULL;
  const bool known = mr3d_run_resume_knows(&g->resume, step);
  g->traced = known ? -1 : step;
  g->resume.step = step;
  const mr3d_status status = mr3d_server_answer(g->server, request, &answer, error);
  mr3d_run_progress_end(&g->progress);
  if (status) return status;
  if (!known) {
    mr3d_run_trace(g->run, "hidden", step, mr3d_bundle_find(answer, "hidden"));
    mr3d_run_trace(g->run, "logits", step, mr3d_bundle_find(answer, "logits"));
    double greedy;
    mr3d_greedy_tokens(mr3d_bundle_find(answer, "logits"), &greedy);
    *token = (int64_t)greedy;
  }
  mr3d_bundle_free(&answer);
  return MR3D_OK;
}

/** Tokens first .. first+q-1 of the spliced sequence. */
typedef struct piece {
  int64_t first, q;
  int64_t first_point, n_points; /* rows of the coordinates */
} piece;

static piece piece_of(const mr3d_run *r, int64_t index) {
  const int64_t S = r->splice.S, size = mr3d_run_prefills(r) > 1 ? r->chunk : S;
  piece p = {.first = index * size};
  p.q = S - p.first < size ? S - p.first : size;
  for (int64_t s = 0; s < p.first + p.q; s++) *(s < p.first ? &p.first_point : &p.n_points) += r->splice.point_token_mask[s];
  return p;
}

mr3d_run_sizes mr3d_run_request_sizes(const mr3d_run *r, int64_t index) {
  const int64_t prefills = mr3d_run_prefills(r);
  if (index >= prefills) return (mr3d_run_sizes){1, r->splice.S + index - prefills + 1};
  const piece p = piece_of(r, index);
  return (mr3d_run_sizes){p.q, p.first + p.q};
}

/** Points may lie in two requests only where their coordinates do not depend on each other (protocol.md, "Point tensors"). */
static mr3d_status check_pieces(const mr3d_run *r, mr3d_error *error) {
  const bool alone = (r->config.coord_norm == MR3D_NORM_GRID || r->config.coord_norm == MR3D_NORM_NONE) && r->config.drift == MR3D_DRIFT_NONE;
  for (int64_t i = 0; i < mr3d_run_prefills(r) && !alone; i++) {
    const piece p = piece_of(r, i);
    if (p.n_points && p.n_points < r->tokens.N)
      return mr3d_fail(error, MR3D_INVALID, "--chunk %" PRId64 " cuts the %" PRId64 " points between requests; that needs coord_norm grid or none and drift none: another one is computed from the "
                       "rows of one request", r->chunk, r->tokens.N);
  }
  return MR3D_OK;
}

/** One piece of the spliced sequence; the last row of the last one gives the first generated token. */
static mr3d_status prefill(generation *g, int64_t index, mr3d_error *error) {
  mr3d_run *r = g->run;
  const piece p = piece_of(r, index);
  const int64_t hidden = r->ends.embed_tokens->shape[1], columns = p.first + p.q;
  mr3d_bundle *request = new_request(r, "prefill");
  mr3d_bundle_set(request, "weights", r->weights);
  mr3d_bundle_set(request, "logits_to_keep", "1");
  mr3d_bundle_borrow(request, "inputs_embeds", MR3D_F64, 3, (int64_t[]){1, p.q, hidden}, g->embeds + p.first * hidden);
  mr3d_bundle_borrow(request, "attention_mask", MR3D_I64, 2, (int64_t[]){1, columns}, r->splice.attention_mask);
  if (p.n_points) {
    mr3d_bundle_borrow(request, "point_token_mask", MR3D_BOOL, 2, (int64_t[]){1, p.q}, r->splice.point_token_mask + p.first);
    mr3d_bundle_borrow(request, "point_coords", MR3D_I64, 2, (int64_t[]){p.n_points, 3}, r->tokens.coords + 3 * p.first_point);
  }
  for (int i = 0; i < mr3d_bundle_count(request); i++) mr3d_run_trace(r, mr3d_bundle_at(request, i)->name, index, mr3d_bundle_at(request, i));
  MR3D_SAY(r, "prefill  q = %" PRId64 ", L = %" PRId64 ": attention_mask of %" PRId64 " columns\n", p.q, p.first, columns);
  mr3d_run_progress_begin(&g->progress, "prefill", r->splice.S - p.first);
  const mr3d_status status = ask(g, request, index, &g->tokens[0], error);
  mr3d_bundle_free(&request);
  return status;
}

/** Step 1, 2, ... on one token, with the caller's mask, which counts text tokens only. */
static mr3d_status decode(generation *g, int64_t step, mr3d_error *error) {
  mr3d_run *r = g->run;
  const int64_t L = r->splice.S + step - 1, columns = r->T + step, fed = r->forced ? r->forced[step - 1] : g->tokens[step - 1];
  const int64_t index = mr3d_run_prefills(r) - 1 + step;
  mr3d_bundle *request = new_request(r, "decode");
  *(int64_t *)mr3d_bundle_add(request, "input_ids", MR3D_I64, 2, (int64_t[]){1, 1})->data = fed;
  int64_t *mask = mr3d_bundle_add(request, "attention_mask", MR3D_I64, 2, (int64_t[]){1, columns})->data;
  for (int64_t i = 0; i < columns; i++) mask[i] = 1;
  for (int i = 0; i < mr3d_bundle_count(request); i++) mr3d_run_trace(r, mr3d_bundle_at(request, i)->name, index, mr3d_bundle_at(request, i));
  MR3D_SAY(r, "decode   q = 1, L = %" PRId64 ": caller's mask of %" PRId64 " columns, extended by %" PRId64 " ones to %" PRId64 " keys; token %" PRId64 "\n", L, columns,
           L + 1 - columns, L + 1, fed);
  char label[48];
  snprintf(label, sizeof label, "decode %" PRId64 " of %" PRId64, step, r->steps);
  mr3d_run_progress_begin(&g->progress, label, r->steps - step + 1);
  const mr3d_status status = ask(g, request, index, &g->tokens[step], error);
  mr3d_bundle_free(&request);
  return status;
}

static void say_ids(mr3d_run *r, const char *label, const char *key, const int64_t *ids, int64_t count) {
  cJSON *list = cJSON_AddArrayToObject(r->said, key);
  MR3D_SAY(r, "%-8s", label);
  for (int64_t i = 0; i < count; i++) {
    MR3D_SAY(r, " %" PRId64, ids[i]);
    cJSON_AddItemToArray(list, cJSON_CreateNumber((double)ids[i]));
  }
  MR3D_SAY(r, "\n");
}

static void say_resumed(mr3d_run *r, const mr3d_run_resume *resume) {
  MR3D_SAY(r, "resumed  %s: request %" PRId64 " of %" PRId64 ", after layer %" PRId64 " of %" PRId64 "\n", resume->path, resume->found_step + 1, mr3d_run_requests(r), resume->found_layer,
           r->config.num_hidden_layers);
  mr3d_run_say_number(r, "resumed_step", (double)resume->found_step);
  mr3d_run_say_number(r, "resumed_layer", (double)resume->found_layer);
  char where[64];
  snprintf(where, sizeof where, "step %" PRId64 ", layer %" PRId64, resume->found_step, resume->found_layer);
  if (r->trace) mr3d_safetensors_writer_set(r->trace, "resumed", where);
}

/** Prefill over the spliced sequence, then decode steps (spec.md sections 4, 5). */
mr3d_status mr3d_run_generate(mr3d_run *r, mr3d_error *error) {
  mr3d_status status = mr3d_run_open_weights(r, error);
  if (!status) status = check_pieces(r, error);
  if (!status) status = mr3d_run_trace_fits(r, error);
  if (!status) status = mr3d_run_trace_inputs(r, error);
  if (status) return status;
  generation g = {.run = r,
                  .progress = {.on = isatty(STDERR_FILENO), .run = r},
                  .embeds = mr3d_allocate(r->splice.S * r->ends.embed_tokens->shape[1], sizeof *g.embeds),
                  .tokens = mr3d_allocate(r->steps + 1, sizeof *g.tokens)};
  const mr3d_watch watch = {.user = &g, .start = start, .layer_done = layer_done, .wants_logits = wants_logits, .part_done = part_done};
  const mr3d_tracer tracer = {.user = &g, .wants = wants_point, .take = take_point};
  g.server = mr3d_server_new(&(mr3d_server_options){
      .threads = 0, .weights = r->cache, .init_missing = r->init_missing.given, .init_seed = r->init_missing.seed, .watch = &watch, .tracer = r->trace ? &tracer : NULL});
  const int64_t hidden = r->ends.embed_tokens->shape[1];
  double *features = mr3d_allocate(r->tokens.N * hidden, sizeof *features);
  status = mr3d_run_features(r, g.server, &g.progress, hidden, features, error);
  mr3d_run_progress_end(&g.progress);
  if (!status) status = mr3d_run_embed(r, features, g.embeds, error);
  free(features);
  if (!status) status = mr3d_run_resume_open(&g.resume, r, g.embeds, g.tokens, error);
  if (!status && g.resume.found) say_resumed(r, &g.resume);
  for (int64_t i = 0; i < mr3d_run_prefills(r) && !status; i++) status = prefill(&g, i, error);
  for (int64_t step = 1; step <= r->steps && !status; step++) status = decode(&g, step, error);
  if (!status && r->forced) say_ids(r, "fed", "fed", r->forced, r->steps);
  if (!status) say_ids(r, r->forced ? "greedy" : "tokens", "generated", g.tokens, r->steps + 1);
  mr3d_run_resume_close(&g.resume, !status);
  free(g.embeds);
  free(g.tokens);
  mr3d_server_free(&g.server);
  return status;
}
