/** mr3d run: the reference on a raw scan and, where given, a prompt and a checkpoint: cells, tokens, splice, prefill, greedy decode. */
#include <inttypes.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include <cjson/cJSON.h>

#include "../../ref/model/weights.h"
#include "case_internal.h"
#include "command.h"
#include "file.h"
#include "json.h"
#include "mr3d/ply.h"
#include "mr3d/random.h"
#include "mr3d/safetensors.h"
#include "mr3d/server.h"

typedef struct run {
  const char *scan, *prompt, *weights, *config_path, *features_path, *data, *trace_path;
  uint64_t seed;
  mr3d_order init_missing;
  int64_t steps;
  bool json;

  mr3d_config config;
  char *config_text;
  mr3d_context context;
  cJSON *said;        /* everything found, for --json */
  mr3d_bundle *trace; /* NULL: no trace */

  mr3d_voxelize_out cells;
  mr3d_token_coords_out tokens;
  int64_t T, *ids;    /* the prompt */
  mr3d_splice_out splice;

  mr3d_weights_cache *cache; /* shared with the server */
  mr3d_weights *model;
  mr3d_decoder_ends ends;
} run;

/* ---- what is said: a line for people, a member for --json ---- */

static void say_number(run *r, const char *key, double value) { cJSON_AddNumberToObject(r->said, key, value); }

#define SAY(r, ...) ((r)->json ? (void)0 : (void)printf(__VA_ARGS__))

static void say_ids(run *r, const char *key, const int64_t *ids, int64_t count) {
  cJSON *list = cJSON_AddArrayToObject(r->said, key);
  for (int64_t i = 0; i < count; i++) cJSON_AddItemToArray(list, cJSON_CreateNumber((double)ids[i]));
}

static void trace_copy(run *r, const char *point, int64_t step, const mr3d_tensor *tensor) {
  if (!r->trace || !tensor) return;
  char name[160];
  snprintf(name, sizeof name, "%" PRId64 ".model.%s", step, point);
  mr3d_bundle_copy(r->trace, name, tensor);
}

/* ---- the stages ---- */

/** The configuration's path: --config, else config.json where --weights is a folder. NULL: there is none. */
static const char *config_path(const run *r, char path[4096]) {
  struct stat about;
  if (r->config_path || !r->weights || stat(r->weights, &about) != 0 || !S_ISDIR(about.st_mode)) return r->config_path;
  snprintf(path, 4096, "%s/config.json", r->weights);
  return path;
}

static mr3d_status read_config(run *r, mr3d_error *error) {
  char in_folder[4096];
  const char *path = config_path(r, in_folder);
  if (!path) r->config_text = strdup("{}");
  else {
    void *bytes;
    size_t size;
    const mr3d_status status = mr3d_map(path, &bytes, &size, error);
    if (status) return r->config_path ? status : mr3d_fail_in(error, "--config is not given, and the folder of --weights holds none");
    r->config_text = mr3d_allocate((long long)size + 1, 1);
    memcpy(r->config_text, bytes, size);
    mr3d_unmap(bytes, size);
  }
  return mr3d_config_parse(r->config_text, &r->config, error) == MR3D_OK ? MR3D_OK : mr3d_fail_in(error, "%s", path ? path : "configuration");
}

/** Raw rows to occupied cells to tokens (spec.md section 7, steps 1 to 4). */
static mr3d_status read_scan(run *r, mr3d_error *error) {
  mr3d_bundle *scan = NULL;
  mr3d_status status = mr3d_ply_open(r->scan, &scan, error);
  if (status) return status;
  const mr3d_tensor *points = mr3d_bundle_find(scan, "points");
  const int64_t rows = points->shape[0], columns = points->shape[1];
  const double *values = points->data;
  status = mr3d_voxelize(&r->context, &r->config, rows, columns, values, &r->cells, error);
  if (!status) status = mr3d_token_coords(&r->context, r->cells.M, r->cells.grid, r->config.downsamplings, &r->tokens, error);
  if (status) mr3d_fail_in(error, "%s", r->scan);
  else {
    double lo[3] = {INFINITY, INFINITY, INFINITY}, hi[3] = {-INFINITY, -INFINITY, -INFINITY};
    for (int64_t i = 0; i < rows; i++) {
      bool finite = true;
      for (int64_t c = 0; c < columns; c++) finite &= isfinite(values[i * columns + c]) != 0;
      for (int a = 0; finite && a < 3; a++) {
        lo[a] = fmin(lo[a], values[i * columns + a]);
        hi[a] = fmax(hi[a], values[i * columns + a]);
      }
    }
    int64_t largest[3] = {0, 0, 0};
    for (int64_t m = 0; m < r->cells.M; m++)
      for (int a = 0; a < 3; a++)
        if (r->cells.grid[3 * m + a] > largest[a]) largest[a] = r->cells.grid[3 * m + a];
    const int64_t kept = rows - r->cells.dropped, edge = (int64_t)1 << r->config.downsamplings;
    SAY(r, "scan     %s: %" PRId64 " rows, %" PRId64 " dropped as non-finite, %" PRId64 " kept\n", r->scan, rows, r->cells.dropped, kept);
    SAY(r, "extent   %.3f x %.3f x %.3f m\n", hi[0] - lo[0], hi[1] - lo[1], hi[2] - lo[2]);
    SAY(r, "cells    %" PRId64 " occupied cells of %g m; largest index %" PRId64 ", %" PRId64 ", %" PRId64 " of at most %" PRId64 "\n", r->cells.M,
        r->config.cell_size, largest[0], largest[1], largest[2], r->config.num_bins - 1);
    SAY(r, "tokens   %" PRId64 " point tokens of %" PRId64 "^3 cells\n", r->tokens.N, edge);
    say_number(r, "rows", (double)rows);
    say_number(r, "dropped", (double)r->cells.dropped);
    say_number(r, "cells", (double)r->cells.M);
    say_number(r, "point_tokens", (double)r->tokens.N);
    trace_copy(r, "point_coords", 0, &(mr3d_tensor){"", MR3D_I64, 2, {r->tokens.N, 3}, r->tokens.coords});
    trace_copy(r, "grid", 0, &(mr3d_tensor){"", MR3D_I64, 2, {r->cells.M, 3}, r->cells.grid});
  }
  mr3d_bundle_free(&scan);
  return status;
}

/** --prompt: a JSON file {"NAME": [ids], ...} as FILE:NAME, or NAME of prompt_ids.json in the data folder. */
static mr3d_status read_prompt(run *r, mr3d_error *error) {
  char path[4096];
  const char *name = strrchr(r->prompt, ':');
  if (name) snprintf(path, sizeof path, "%.*s", (int)(name++ - r->prompt), r->prompt);
  else {
    name = r->prompt;
    if (!r->data) return mr3d_fail(error, MR3D_IO, "--prompt %s needs prompt_ids.json of the data folder: give --data DIR, set MR3D_DATA, or write FILE.json:NAME", name);
    snprintf(path, sizeof path, "%s/prompt_ids.json", r->data);
  }
  cJSON *file = NULL;
  mr3d_status status = mr3d_read_json(path, &file, error);
  if (status) return status;
  const cJSON *list = cJSON_GetObjectItemCaseSensitive(file, name), *id;
  if (!cJSON_IsArray(list) || !cJSON_GetArraySize(list)) status = mr3d_fail(error, MR3D_INVALID, "%s holds no prompt \"%s\" (a list of token ids)", path, name);
  else {
    r->ids = mr3d_allocate(cJSON_GetArraySize(list), sizeof *r->ids);
    cJSON_ArrayForEach(id, list) {
      if (!mr3d_json_is_count(id, &r->ids[r->T])) {
        status = mr3d_fail(error, MR3D_INVALID, "%s: prompt \"%s\" holds something that is no token id at index %" PRId64, path, name, r->T);
        break;
      }
      r->T++;
    }
  }
  cJSON_Delete(file);
  return status;
}

/** Point tokens put between the prompt's markers (spec.md section 2). */
static mr3d_status splice_prompt(run *r, mr3d_error *error) {
  int64_t *ones = mr3d_allocate(r->T, sizeof *ones);
  for (int64_t i = 0; i < r->T; i++) ones[i] = 1;
  const mr3d_splice_in in = {.B = 1, .T = r->T, .input_ids = r->ids, .attention_mask = ones, .point_counts = &r->tokens.N,
                             .point_start_token_id = r->config.point_start_token_id, .point_end_token_id = r->config.point_end_token_id};
  const mr3d_status status = mr3d_splice(&r->context, &in, &r->splice, error);
  free(ones);
  if (status) return mr3d_fail_in(error, "prompt %s", r->prompt);
  SAY(r, "prompt   %s: T = %" PRId64 " text tokens\n", r->prompt, r->T);
  SAY(r, "splice   S = %" PRId64 " tokens, %" PRId64 " of them points\n", r->splice.S, r->tokens.N);
  say_number(r, "text_tokens", (double)r->T);
  say_number(r, "spliced_tokens", (double)r->splice.S);
  trace_copy(r, "input_ids", 0, &(mr3d_tensor){"", MR3D_I64, 2, {1, r->T}, r->ids});
  trace_copy(r, "point_token_mask", 0, &(mr3d_tensor){"", MR3D_BOOL, 2, {1, r->splice.S}, r->splice.point_token_mask});
  trace_copy(r, "attention_mask", 0, &(mr3d_tensor){"", MR3D_I64, 2, {1, r->splice.S}, r->splice.attention_mask});
  return MR3D_OK;
}

/** features [N,hidden]: from --features, or drawn by --seed. */
static mr3d_status find_features(run *r, int64_t hidden, double *features, mr3d_error *error) {
  const int64_t N = r->tokens.N;
  if (!r->features_path) {
    mr3d_tensor drawn = {"features", MR3D_F64, 2, {N, hidden}, features};
    mr3d_random_draw(&(mr3d_draw){.dist = MR3D_NORMAL, .scale = 0.02}, mr3d_stream_named(r->seed, "run/features"), &drawn);
    SAY(r, "features drawn by seed %" PRIu64 ": not an encoder's; give --features FILE for real ones\n", r->seed);
    return MR3D_OK;
  }
  mr3d_bundle *file = NULL;
  mr3d_status status = mr3d_safetensors_open(r->features_path, 0, &file, error);
  if (status) return status;
  const mr3d_tensor *given = mr3d_bundle_find(file, "features");
  char shape[96];
  if (!given || given->rank != 2 || given->shape[0] != N || given->shape[1] != hidden || !mr3d_dtype_is_float(given->dtype))
    status = mr3d_fail(error, MR3D_INVALID, "%s: expected a floating tensor features [%" PRId64 ",%" PRId64 "] (tokens of the scan, hidden size of the weights), found %s", r->features_path,
                       N, hidden, given ? mr3d_shape_text(given->rank, given->shape, shape) : "none of that name");
  else mr3d_tensor_to_double(given, features);
  mr3d_bundle_free(&file);
  return status;
}

/** The names of the drawn tensors behind those of a checkpoint: on the terminal the first and the last, in JSON all. */
static void say_initialised(run *r) {
  const mr3d_bundle *tensors = mr3d_weights_tensors(r->model);
  const int count = mr3d_bundle_count(tensors), drawn = mr3d_weights_drawn(r->model);
  cJSON *list = cJSON_AddArrayToObject(r->said, "initialised");
  for (int i = count - drawn; i < count; i++) cJSON_AddItemToArray(list, cJSON_CreateString(mr3d_bundle_at(tensors, i)->name));
  if (!drawn) SAY(r, "         --init-missing %" PRIu64 ": nothing was missing, so nothing was drawn\n", r->init_missing.seed);
  else
    SAY(r, "         %d missing rotary parameters drawn by --init-missing %" PRIu64 ", as in a fresh model: %s .. %s\n", drawn, r->init_missing.seed,
        mr3d_bundle_at(tensors, count - drawn)->name, mr3d_bundle_at(tensors, count - 1)->name);
}

/** Opens --weights as the server will, and finds the embedding. */
static mr3d_status open_weights(run *r, mr3d_error *error) {
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
  if (files) SAY(r, "weights  %s: %d tensors in %d file%s\n", r->weights, count - mr3d_weights_drawn(r->model), files, files == 1 ? "" : "s");
  else SAY(r, "weights  %s: %d tensors drawn by the generator, no file\n", r->weights, count);
  say_number(r, "weight_files", files);
  say_number(r, "weight_tensors", count);
  if (r->init_missing.given) say_initialised(r);
  return MR3D_OK;
}

/** inputs_embeds [1,S,hidden]: rows of model.embed_tokens.weight for text, features for points. */
static mr3d_status embed(run *r, mr3d_bundle *request, mr3d_error *error) {
  const mr3d_tensor *table = r->ends.embed_tokens;
  const int64_t V = table->shape[0], hidden = table->shape[1], S = r->splice.S;
  double *features = mr3d_allocate(r->tokens.N * hidden, sizeof *features);
  mr3d_status status = find_features(r, hidden, features, error);
  double *rows = mr3d_bundle_add(request, "inputs_embeds", MR3D_F64, 3, (int64_t[]){1, S, hidden})->data;
  for (int64_t s = 0; s < S && !status; s++) {
    const int64_t from = r->splice.source[s];
    const double *row = from < 0 ? features + (-1 - from) * hidden : NULL;
    if (from >= 0 && r->ids[from] >= V)
      status = mr3d_fail(error, MR3D_INVALID, "token id %" PRId64 " is outside the vocabulary of %" PRId64 " rows in %s", r->ids[from], V, r->weights);
    else if (from >= 0) status = mr3d_weights_rows(r->model, table, r->ids[from], 1, rows + s * hidden, &row, error);
    if (!status && row != rows + s * hidden) memcpy(rows + s * hidden, row, (size_t)hidden * sizeof *rows);
  }
  free(features);
  return status;
}

static mr3d_bundle *new_request(const run *r, const char *op) {
  mr3d_bundle *request = mr3d_bundle_new();
  mr3d_bundle_set(request, "op", op);
  mr3d_bundle_set(request, "tier", "fp64");
  mr3d_bundle_set(request, "config", r->config_text);
  mr3d_bundle_set(request, "session", "run");
  return request;
}

/** Asks the reference, keeps hidden and logits in the trace, gives the greedy token of the last row. */
static mr3d_status ask(run *r, mr3d_server *server, const mr3d_bundle *request, int64_t step, int64_t *token, mr3d_error *error) {
  mr3d_bundle *answer = NULL;
  const mr3d_status status = mr3d_server_answer(server, request, &answer, error);
  if (status) return status;
  trace_copy(r, "hidden", step, mr3d_bundle_find(answer, "hidden"));
  trace_copy(r, "logits", step, mr3d_bundle_find(answer, "logits"));
  double greedy;
  mr3d_greedy_tokens(mr3d_bundle_find(answer, "logits"), &greedy);
  *token = (int64_t)greedy;
  mr3d_bundle_free(&answer);
  return MR3D_OK;
}

/** Prefill over the spliced sequence, then greedy steps with the caller's mask, which counts text tokens only (spec.md sections 4, 5). */
static mr3d_status generate(run *r, mr3d_error *error) {
  mr3d_status status = open_weights(r, error);
  if (status) return status;
  mr3d_server *server = mr3d_server_new(
      &(mr3d_server_options){.threads = 0, .weights = r->cache, .init_missing = r->init_missing.given, .init_seed = r->init_missing.seed});
  mr3d_bundle *request = new_request(r, "prefill");
  mr3d_bundle_set(request, "weights", r->weights);
  mr3d_bundle_set(request, "logits_to_keep", "1");
  const int64_t S = r->splice.S;
  int64_t *tokens = mr3d_allocate(r->steps + 1, sizeof *tokens);
  status = embed(r, request, error);
  if (!status) {
    mr3d_bundle_borrow(request, "attention_mask", MR3D_I64, 2, (int64_t[]){1, S}, r->splice.attention_mask);
    if (r->tokens.N) {
      mr3d_bundle_borrow(request, "point_token_mask", MR3D_BOOL, 2, (int64_t[]){1, S}, r->splice.point_token_mask);
      mr3d_bundle_borrow(request, "point_coords", MR3D_I64, 2, (int64_t[]){r->tokens.N, 3}, r->tokens.coords);
    }
    trace_copy(r, "inputs_embeds", 0, mr3d_bundle_find(request, "inputs_embeds"));
    SAY(r, "prefill  q = %" PRId64 ", L = 0: attention_mask of %" PRId64 " columns\n", S, S);
    status = ask(r, server, request, 0, &tokens[0], error);
  }
  mr3d_bundle_free(&request);
  for (int64_t step = 1; step <= r->steps && !status; step++) {
    const int64_t L = S + step - 1, columns = r->T + step;
    request = new_request(r, "decode");
    *(int64_t *)mr3d_bundle_add(request, "input_ids", MR3D_I64, 2, (int64_t[]){1, 1})->data = tokens[step - 1];
    int64_t *mask = mr3d_bundle_add(request, "attention_mask", MR3D_I64, 2, (int64_t[]){1, columns})->data;
    for (int64_t i = 0; i < columns; i++) mask[i] = 1;
    trace_copy(r, "input_ids", step, mr3d_bundle_find(request, "input_ids"));
    SAY(r, "decode   q = 1, L = %" PRId64 ": caller's mask of %" PRId64 " columns, extended by %" PRId64 " ones to %" PRId64 " keys; token %" PRId64 "\n", L, columns,
        L + 1 - columns, L + 1, tokens[step - 1]);
    status = ask(r, server, request, step, &tokens[step], error);
    mr3d_bundle_free(&request);
  }
  if (!status) {
    SAY(r, "tokens  ");
    for (int64_t i = 0; i <= r->steps; i++) SAY(r, " %" PRId64, tokens[i]);
    SAY(r, "\n");
    say_ids(r, "generated", tokens, r->steps + 1);
  }
  free(tokens);
  mr3d_server_free(&server);
  return status;
}

static mr3d_status run_stages(run *r, mr3d_error *error) {
  mr3d_status status = read_config(r, error);
  if (!status) status = read_scan(r, error);
  if (!status && r->prompt) status = read_prompt(r, error);
  if (!status && r->prompt) status = splice_prompt(r, error);
  if (!status && r->weights) status = generate(r, error);
  if (!status && r->trace) status = mr3d_safetensors_save(r->trace_path, r->trace, error);
  return status;
}

int mr3d_command_run(int argc, char **argv) {
  run r = {.steps = 8, .context = {.op = &mr3d_reference_operators}};
  const mr3d_option options[] = {
      {"--scan", "FILE.ply", MR3D_OPTION_TEXT, &r.scan, "the raw scan: vertices with x, y, z and perhaps red, green, blue"},
      {"--config", "FILE.json", MR3D_OPTION_TEXT, &r.config_path, "configuration, as a checkpoint's config.json"},
      {"--prompt", "NAME", MR3D_OPTION_TEXT, &r.prompt, "prompt of the data folder's prompt_ids.json, or FILE.json:NAME; go on to the splice"},
      {"--data", "DIR", MR3D_OPTION_TEXT, &r.data, "the data folder (default: $MR3D_DATA)"},
      {"--weights", "PATH", MR3D_OPTION_TEXT, &r.weights, "a checkpoint's folder, its index, a safetensors file, or generated:SEED; go on to prefill and greedy decode"},
      {"--init-missing", "SEED", MR3D_OPTION_GIVEN_SEED, &r.init_missing, "draw the learned rotary parameters that the checkpoint lacks, as in a fresh model"},
      {"--features", "FILE", MR3D_OPTION_TEXT, &r.features_path, "safetensors holding `features` [tokens,hidden]; without it they are drawn by --seed"},
      {"--seed", "N", MR3D_OPTION_SEED, &r.seed, "for drawn features (default 0)"},
      {"--steps", "N", MR3D_OPTION_COUNT, &r.steps, "decode steps (default 8)"},
      {"--trace", "FILE", MR3D_OPTION_TEXT, &r.trace_path, "write every stage's tensors as a trace, STEP.model.POINT"},
      {"--json", NULL, MR3D_OPTION_FLAG, &r.json, "print one JSON object instead of lines"},
      {NULL}};
  const mr3d_usage usage = {
      .line = "mr3d run --scan FILE.ply [--prompt NAME [--weights PATH --config FILE]] [OPTION ...]",
      .text = "Runs the binary64 reference as far as it is given something to run on: the scan to occupied cells and point tokens; with a\n"
              "prompt, the splice; with weights, prefill and greedy decoding with the caller's text-only mask. A checkpoint's folder brings its\n"
              "own config.json; with generated:SEED the weights are drawn as they are needed, and nothing is on disk.\n"};
  int n = 0;
  const int parsed = mr3d_options_parse(&usage, options, argc, argv, &n);
  if (parsed >= 0) return parsed;
  if (!r.scan) return mr3d_complain("--scan is missing\nUsage: %s", usage.line);
  char path[4096];
  if (r.weights && (!r.prompt || !config_path(&r, path))) return mr3d_complain("--weights also needs --prompt and --config: what should the model read, and what are its sizes?");
  if (r.init_missing.given && !r.weights) return mr3d_complain("--init-missing goes with --weights: it draws what a checkpoint lacks");
  r.data = mr3d_find_data(r.data);
  r.said = cJSON_CreateObject();
  if (r.trace_path) r.trace = mr3d_bundle_new();

  mr3d_error error = {0};
  const mr3d_status status = run_stages(&r, &error);
  if (status) mr3d_complain("%s", error.message);
  else if (r.json) {
    char *text = cJSON_Print(r.said);
    puts(text);
    cJSON_free(text);
  }
  mr3d_voxelize_free(&r.cells);
  mr3d_token_coords_free(&r.tokens);
  mr3d_splice_free(&r.splice);
  mr3d_bundle_free(&r.trace);
  mr3d_weights_release(&r.model);
  mr3d_weights_cache_free(&r.cache);
  cJSON_Delete(r.said);
  free(r.ids);
  free(r.config_text);
  return status ? 1 : 0;
}
