/** mr3d run: the reference on a raw scan and, where given, a prompt and a checkpoint: cells, tokens, splice, prefill, greedy decode. */
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "case_internal.h"
#include "file.h"
#include "json.h"
#include "mr3d/ply.h"
#include "mr3d/safetensors.h"
#include "run_parts.h"

/* ---- the stages ---- */

/** The configuration's path: --config, else config.json where --weights is a folder. NULL: there is none. */
static const char *config_path(const mr3d_run *r, char path[4096]) {
  struct stat about;
  if (r->config_path || !r->weights || stat(r->weights, &about) != 0 || !S_ISDIR(about.st_mode)) return r->config_path;
  snprintf(path, 4096, "%s/config.json", r->weights);
  return path;
}

static mr3d_status read_config(mr3d_run *r, mr3d_error *error) {
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
static mr3d_status read_scan(mr3d_run *r, mr3d_error *error) {
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
    MR3D_SAY(r, "scan     %s: %" PRId64 " rows, %" PRId64 " dropped as non-finite, %" PRId64 " kept%s\n", r->scan, rows, r->cells.dropped, kept,
             r->cells.columns == 3 ? ", without colours (red, green, blue)" : "");
    MR3D_SAY(r, "extent   %.3f x %.3f x %.3f m\n", hi[0] - lo[0], hi[1] - lo[1], hi[2] - lo[2]);
    MR3D_SAY(r, "cells    %" PRId64 " occupied cells of %g m; largest index %" PRId64 ", %" PRId64 ", %" PRId64 " of at most %" PRId64 "\n", r->cells.M,
        r->config.cell_size, largest[0], largest[1], largest[2], r->config.num_bins - 1);
    MR3D_SAY(r, "tokens   %" PRId64 " point tokens of %" PRId64 "^3 cells\n", r->tokens.N, edge);
    mr3d_run_say_number(r, "rows", (double)rows);
    mr3d_run_say_number(r, "dropped", (double)r->cells.dropped);
    mr3d_run_say_number(r, "cells", (double)r->cells.M);
    mr3d_run_say_number(r, "point_tokens", (double)r->tokens.N);
    if (!r->weights) mr3d_run_trace(r, "point_coords", 0, &(mr3d_tensor){"", MR3D_I64, 2, {r->tokens.N, 3}, r->tokens.coords});
    mr3d_run_trace(r, "grid", 0, &(mr3d_tensor){"", MR3D_I64, 2, {r->cells.M, 3}, r->cells.grid});
  }
  mr3d_bundle_free(&scan);
  return status;
}

/** FILE.json:NAME, or NAME of prompt_ids.json in the data folder, apart. Errors: the data folder is needed and not given. */
static mr3d_status locate_ids(const mr3d_run *r, const char *option, const char *given, char path[4096], const char **name, mr3d_error *error) {
  const char *colon = strrchr(given, ':');
  *name = colon ? colon + 1 : given;
  if (colon) snprintf(path, 4096, "%.*s", (int)(colon - given), given);
  else if (!r->data)
    return mr3d_fail(error, MR3D_IO, "%s %s needs prompt_ids.json of the data folder: give --data DIR, set MR3D_DATA, or write FILE.json:NAME", option, given);
  else snprintf(path, 4096, "%s/prompt_ids.json", r->data);
  return MR3D_OK;
}

/** The list of token ids under a name in a JSON file {"NAME": [ids], ...}. Ownership: *ids is the caller's, also on failure. */
static mr3d_status read_ids(const mr3d_run *r, const char *option, const char *given, int64_t **ids, int64_t *count, mr3d_error *error) {
  char path[4096];
  const char *name;
  cJSON *file = NULL;
  mr3d_status status = locate_ids(r, option, given, path, &name, error);
  if (!status) status = mr3d_read_json(path, &file, error);
  if (status) return status;
  const cJSON *list = cJSON_GetObjectItemCaseSensitive(file, name), *id;
  if (!cJSON_IsArray(list) || !cJSON_GetArraySize(list)) status = mr3d_fail(error, MR3D_INVALID, "%s holds no prompt \"%s\" (a list of token ids)", path, name);
  else {
    *ids = mr3d_allocate(cJSON_GetArraySize(list), sizeof **ids);
    cJSON_ArrayForEach(id, list) {
      if (!mr3d_json_is_count(id, &(*ids)[*count])) {
        status = mr3d_fail(error, MR3D_INVALID, "%s: prompt \"%s\" holds something that is no token id at index %" PRId64, path, name, *count);
        break;
      }
      ++*count;
    }
  }
  cJSON_Delete(file);
  return status;
}

/** --teacher-forced 17,4,99. */
static mr3d_status parse_ids(const char *text, int64_t **ids, int64_t *count, mr3d_error *error) {
  *ids = mr3d_allocate((long long)strlen(text), sizeof **ids);
  for (const char *at = text;; at++) {
    const size_t digits = strspn(at, "0123456789");
    if (!digits || digits > 15 || (at[digits] && at[digits] != ','))
      return mr3d_fail(error, MR3D_INVALID, "--teacher-forced %.60s: expected token ids joined by commas, or FILE.json:NAME; \"%.20s\" is neither", text, at);
    (*ids)[(*count)++] = strtoll(at, NULL, 10);
    at += digits;
    if (!*at) return MR3D_OK;
  }
}

/** The ids that decode steps are fed with, and the number of steps: as many as there are ids, unless --steps asks for fewer. */
static mr3d_status read_forced(mr3d_run *r, mr3d_error *error) {
  const bool is_list = strspn(r->forced_by, "0123456789,") == strlen(r->forced_by) && *r->forced_by;
  if (is_list) MR3D_TRY(parse_ids(r->forced_by, &r->forced, &r->n_forced, error));
  else MR3D_TRY(read_ids(r, "--teacher-forced", r->forced_by, &r->forced, &r->n_forced, error));
  if (r->steps > r->n_forced)
    return mr3d_fail(error, MR3D_INVALID, "--steps %" PRId64 " needs as many ids, --teacher-forced %.80s gives %" PRId64, r->steps, r->forced_by, r->n_forced);
  if (r->steps < 0) r->steps = r->n_forced;
  return MR3D_OK;
}

/** Point tokens put between the prompt's markers (spec.md section 2). */
static mr3d_status splice_prompt(mr3d_run *r, mr3d_error *error) {
  int64_t *ones = mr3d_allocate(r->T, sizeof *ones);
  for (int64_t i = 0; i < r->T; i++) ones[i] = 1;
  const mr3d_splice_in in = {.B = 1, .T = r->T, .input_ids = r->ids, .attention_mask = ones, .point_counts = &r->tokens.N,
                             .point_start_token_id = r->config.point_start_token_id, .point_end_token_id = r->config.point_end_token_id};
  const mr3d_status status = mr3d_splice(&r->context, &in, &r->splice, error);
  free(ones);
  if (status) return mr3d_fail_in(error, "prompt %s", r->prompt);
  MR3D_SAY(r, "prompt   %s: T = %" PRId64 " text tokens\n", r->prompt, r->T);
  MR3D_SAY(r, "splice   S = %" PRId64 " tokens, %" PRId64 " of them points\n", r->splice.S, r->tokens.N);
  mr3d_run_say_number(r, "text_tokens", (double)r->T);
  mr3d_run_say_number(r, "spliced_tokens", (double)r->splice.S);
  mr3d_run_trace(r, "input_ids", 0, &(mr3d_tensor){"", MR3D_I64, 2, {1, r->T}, r->ids});
  if (r->weights) return MR3D_OK; /* each request has its own */
  mr3d_run_trace(r, "point_token_mask", 0, &(mr3d_tensor){"", MR3D_BOOL, 2, {1, r->splice.S}, r->splice.point_token_mask});
  mr3d_run_trace(r, "attention_mask", 0, &(mr3d_tensor){"", MR3D_I64, 2, {1, r->splice.S}, r->splice.attention_mask});
  return MR3D_OK;
}

mr3d_status mr3d_run_read_inputs(mr3d_run *r, mr3d_error *error) {
  mr3d_status status = read_config(r, error);
  if (!status) status = read_scan(r, error);
  if (!status && r->prompt) status = read_ids(r, "--prompt", r->prompt, &r->ids, &r->T, error);
  if (!status && r->forced_by) status = read_forced(r, error);
  if (r->steps < 0) r->steps = 8;
  return !status && r->prompt ? splice_prompt(r, error) : status;
}

void mr3d_run_clear(mr3d_run *r) {
  mr3d_voxelize_free(&r->cells);
  mr3d_token_coords_free(&r->tokens);
  mr3d_splice_free(&r->splice);
  mr3d_weights_release(&r->model);
  mr3d_weights_cache_free(&r->cache);
  cJSON_Delete(r->said);
  free(r->ids);
  free(r->forced);
  free(r->config_text);
}

static mr3d_status run_stages(mr3d_run *r, mr3d_error *error) {
  mr3d_status status = r->trace_path ? mr3d_safetensors_writer_open(r->trace_path, &r->trace, error) : MR3D_OK;
  if (!status) status = mr3d_run_read_inputs(r, error);
  if (!status) status = mr3d_run_trace_check(r, error);
  if (!status && !r->weights) status = mr3d_run_trace_inputs(r, error);
  if (!status && r->weights) status = mr3d_run_generate(r, error);
  const mr3d_status written = mr3d_safetensors_writer_close(&r->trace, !status, error);
  return status ? status : written;
}

int mr3d_command_run(int argc, char **argv) {
  mr3d_run r = {.steps = -1, .checkpoint_every = 5, .context = {.op = &mr3d_reference_operators}};
  const mr3d_option options[] = {
      {"--scan", "FILE.ply", MR3D_OPTION_TEXT, &r.scan, "the raw scan: vertices with x, y, z and perhaps red, green, blue"},
      {"--config", "FILE.json", MR3D_OPTION_TEXT, &r.config_path, "configuration, as a checkpoint's config.json"},
      {"--prompt", "NAME", MR3D_OPTION_TEXT, &r.prompt, "prompt of the data folder's prompt_ids.json, or FILE.json:NAME; go on to the splice"},
      {"--data", "DIR", MR3D_OPTION_TEXT, &r.data, "the data folder (default: $MR3D_DATA)"},
      {"--weights", "PATH", MR3D_OPTION_TEXT, &r.weights, "a checkpoint's folder, its index, a safetensors file, or generated:SEED; go on to prefill and greedy decode"},
      {"--init-missing", "SEED", MR3D_OPTION_GIVEN_SEED, &r.init_missing, "draw the learned rotary parameters that the checkpoint lacks, as in a fresh model"},
      {"--features", "FILE", MR3D_OPTION_TEXT, &r.features_path, "safetensors holding `features` [tokens,hidden], in place of the point encoder's"},
      {"--seed", "N", MR3D_OPTION_SEED, &r.seed, "for features that are drawn, where the configuration names no point_backbone (default 0)"},
      {"--steps", "N", MR3D_OPTION_COUNT, &r.steps, "decode steps (default 8, or as many as --teacher-forced has ids)"},
      {"--teacher-forced", "IDS", MR3D_OPTION_TEXT, &r.forced_by, "feed decode steps with these ids instead of the greedy ones: 17,4,99 or FILE.json:NAME"},
      {"--chunk", "N", MR3D_OPTION_COUNT, &r.chunk, "send the prompt in prefill requests of at most N tokens each (default: in one)"},
      {"--checkpoint", "FILE", MR3D_OPTION_TEXT, &r.checkpoint, "keep in FILE what is computed; a run that was stopped goes on from there, and removes it at its end"},
      {"--checkpoint-every", "SECONDS", MR3D_OPTION_SECONDS, &r.checkpoint_every, "write it after a layer, but not more often than that (default 5)"},
      {"--trace", "FILE", MR3D_OPTION_TEXT, &r.trace_path, "write every stage's tensors as a trace, STEP.model.POINT"},
      {"--points", "GLOBS", MR3D_OPTION_TEXT, &r.points, "what --trace writes instead: globs of STEP.LAYER.POINT, joined by commas"},
      {"--json", NULL, MR3D_OPTION_FLAG, &r.json, "print one JSON object instead of lines"},
      {NULL}};
  const mr3d_usage usage = {
      .line = "mr3d run --scan FILE.ply [--prompt NAME [--weights PATH --config FILE]] [OPTION ...]",
      .text = "Runs the binary64 reference as far as it is given something to run on: the scan to occupied cells and point tokens; with a\n"
              "prompt, the splice; with weights, the point encoder, prefill and greedy decoding with the caller's text-only mask. A checkpoint's\n"
              "folder brings its own config.json; with generated:SEED the weights are drawn as they are needed, and nothing is on disk.\n"};
  int n = 0;
  const int parsed = mr3d_options_parse(&usage, options, argc, argv, &n);
  if (parsed >= 0) return parsed;
  if (!r.scan) return mr3d_complain("--scan is missing\nUsage: %s", usage.line);
  char path[4096];
  if (r.weights && (!r.prompt || !config_path(&r, path))) return mr3d_complain("--weights also needs --prompt and --config: what should the model read, and what are its sizes?");
  if (r.init_missing.given && !r.weights) return mr3d_complain("--init-missing goes with --weights: it draws what a checkpoint lacks");
  if ((r.forced_by || r.chunk) && !r.weights) return mr3d_complain("%s goes with --weights: it says how the model is asked", r.forced_by ? "--teacher-forced" : "--chunk");
  if (r.checkpoint && !r.weights) return mr3d_complain("--checkpoint goes with --weights: without a model there is nothing to keep");
  if (r.points && !r.trace_path) return mr3d_complain("--points goes with --trace FILE: where should the tensors go?");
  r.data = mr3d_find_data(r.data);
  r.said = cJSON_CreateObject();

  mr3d_error error = {0};
  const mr3d_status status = run_stages(&r, &error);
  if (status) mr3d_complain("%s", error.message);
  else if (r.json) {
    char *text = cJSON_Print(r.said);
    puts(text);
    cJSON_free(text);
  }
  mr3d_run_clear(&r);
  return status ? 1 : 0;
}
