/** --trace and --points of mr3d run: which points of which steps, and under which names they are written. */
#include "run_parts.h"

#include <fnmatch.h>
#include <stdlib.h>
#include <string.h>
#include <sys/statvfs.h>

#include "../drift/digest.h"
#include "mr3d/trace.h"

/* The steps that have a point: the first, each prefill request, all. */
typedef enum own_when { AT_START, AT_PREFILL, ALWAYS } own_when;

/* Points that mr3d run has beside the decoder's: where there is no --points, these are the trace. */
static const struct {
  const char *name;
  own_when when;
  bool needs_prompt, needs_weights;
} own_points[] = {{"grid", AT_START, false, false},           {"point_coords", AT_PREFILL, false, false},  {"input_ids", ALWAYS, true, false},
                  {"point_token_mask", AT_PREFILL, true, false}, {"attention_mask", ALWAYS, true, false}, {"features", AT_START, true, true},
                  {"inputs_embeds", AT_PREFILL, true, true},
                  {"hidden", AT_PREFILL, true, true},          {"logits", ALWAYS, true, true}};
#define N_OWN_POINTS ((int)(sizeof own_points / sizeof *own_points))

/* STEP.LAYER.POINT, apart. */
typedef struct glob {
  char step[MR3D_TRACE_GLOBS], point[MR3D_TRACE_GLOBS];
} glob;

/* Gives the next glob of a comma-separated list, or false at its end. The list is shorter than MR3D_TRACE_GLOBS; without a dot `point` is "". */
static bool next_glob(const char **list, glob *found) {
  if (!**list) return false;
  const size_t length = strcspn(*list, ","), step = strcspn(*list, ".,");
  const size_t point = step < length ? length - step - 1 : 0;
  memcpy(found->step, *list, step);
  found->step[step] = 0;
  memcpy(found->point, *list + length - point, point);
  found->point[point] = 0;
  *list += length + ((*list)[length] == ',');
  return true;
}

static bool is_step(const glob *g, int64_t step) {
  char number[24];
  snprintf(number, sizeof number, "%" PRId64, step);
  return fnmatch(g->step, number, 0) == 0;
}

/* Whether --points names a point, "17.query_rotated", of a step. */
static bool wants(const mr3d_run *r, int64_t step, const char *name) {
  glob g;
  for (const char *list = r->points; next_glob(&list, &g);)
    if (is_step(&g, step) && fnmatch(g.point, name, 0) == 0) return true;
  return false;
}

static bool matches_name(const glob *g, const char *layer, const char *point) {
  char name[128];
  snprintf(name, sizeof name, "%s.%s", layer, point);
  return fnmatch(g->point, name, 0) == 0;
}

static bool matches_a_point(const glob *g, const char *layer, mr3d_trace_place place) {
  for (const mr3d_trace_point *point = mr3d_trace_points(place); point->name; point++)
    if (matches_name(g, layer, point->name)) return true;
  return false;
}

/* Whether it names a point that the decoder passes in a step; there is none without weights. */
static bool matches_decoder(const mr3d_run *r, const glob *g) {
  if (!r->weights) return false;
  for (int64_t layer = 0; layer < r->config.num_hidden_layers; layer++) {
    char number[24];
    snprintf(number, sizeof number, "%" PRId64, layer);
    if (matches_a_point(g, number, MR3D_TRACE_OF_LAYER)) return true;
  }
  return matches_a_point(g, "model", MR3D_TRACE_OF_MODEL) || matches_a_point(g, "model", MR3D_TRACE_OF_CALL);
}

/* Whether it names a point that the encoder passes: before step 0's request. */
static bool matches_encoder(const mr3d_run *r, const glob *g) {
  for (const char *const *point = mr3d_trace_encoder_points(); mr3d_run_encodes(r) && *point; point++)
    if (matches_name(g, "encoder", *point)) return true;
  return false;
}

static bool is_there(const mr3d_run *r, int i, int64_t step) {
  if ((own_points[i].needs_prompt && !r->prompt) || (own_points[i].needs_weights && !r->weights)) return false;
  return step == 0 || own_points[i].when == ALWAYS || (own_points[i].when == AT_PREFILL && step < mr3d_run_prefills(r));
}

static bool matches_own(const mr3d_run *r, const glob *g, int64_t step) {
  for (int i = 0; i < N_OWN_POINTS; i++) {
    if (is_there(r, i, step) && matches_name(g, "model", own_points[i].name)) return true;
  }
  return false;
}

static void list_place(mr3d_trace_place place, char *text, size_t size) {
  for (const mr3d_trace_point *point = mr3d_trace_points(place); point->name; point++) {
    bool own = false; /* already in the list */
    for (int i = 0; i < N_OWN_POINTS && place != MR3D_TRACE_OF_LAYER; i++) own |= strcmp(point->name, own_points[i].name) == 0;
    if (!own) snprintf(text + strlen(text), size - strlen(text), " %s", point->name);
  }
}

static void list_points(const mr3d_run *r, char *text, size_t size) {
  snprintf(text, size, "model has");
  for (int i = 0; i < N_OWN_POINTS; i++) snprintf(text + strlen(text), size - strlen(text), " %s", own_points[i].name);
  if (!r->weights) return;
  list_place(MR3D_TRACE_OF_CALL, text, size);
  list_place(MR3D_TRACE_OF_MODEL, text, size);
  snprintf(text + strlen(text), size - strlen(text), "; a layer (0 .. %" PRId64 ") has", r->config.num_hidden_layers - 1);
  list_place(MR3D_TRACE_OF_LAYER, text, size);
  if (mr3d_run_encodes(r)) snprintf(text + strlen(text), size - strlen(text), "; encoder has");
  for (const char *const *point = mr3d_trace_encoder_points(); mr3d_run_encodes(r) && *point; point++) snprintf(text + strlen(text), size - strlen(text), " %s", *point);
}

mr3d_status mr3d_run_trace_check(const mr3d_run *r, mr3d_error *error) {
  if (!r->points) return MR3D_OK;
  if (strlen(r->points) >= MR3D_TRACE_GLOBS) return mr3d_fail(error, MR3D_INVALID, "--points has %zu bytes, at most %d are possible", strlen(r->points), MR3D_TRACE_GLOBS - 1);
  const int64_t steps = r->weights ? mr3d_run_requests(r) : 1;
  glob g;
  bool any = false;
  for (const char *list = r->points; next_glob(&list, &g); any = true) {
    bool found = false;
    for (int64_t step = 0; step < steps && !found; step++) found = is_step(&g, step) && (matches_own(r, &g, step) || matches_decoder(r, &g) || (step == 0 && matches_encoder(r, &g)));
    if (found) continue;
    char known[1000];
    list_points(r, known, sizeof known);
    return mr3d_fail(error, MR3D_INVALID, "--points: \"%.60s%s%.60s\" matches nothing; expected globs of STEP.LAYER.POINT, such as 0.17.query_rotated. Steps are 0 .. %" PRId64 "; %s", g.step,
                     *g.point ? "." : "", g.point, steps - 1, known);
  }
  return any ? MR3D_OK : mr3d_fail(error, MR3D_INVALID, "--points is empty; expected globs of STEP.LAYER.POINT joined by commas, such as 0.17.query*,*.model.logits");
}

/* ---- what a trace takes ---- */

/* Bytes of what --points asks of a call at one layer, or of the model, of one place. */
static int64_t wanted_bytes(const mr3d_run *r, int64_t step, const mr3d_trace_sizes *call, const char *layer, mr3d_trace_place place) {
  int64_t bytes = 0, shape[MR3D_MAX_RANK];
  char name[128];
  for (const mr3d_trace_point *point = mr3d_trace_points(place); point->name; point++) {
    snprintf(name, sizeof name, "%s.%s", layer, point->name);
    if (!wants(r, step, name)) continue;
    int64_t count = (int64_t)mr3d_dtype_size(point->dtype);
    const int rank = mr3d_trace_shape(point, call, shape);
    for (int i = 0; i < rank; i++) count *= shape[i];
    bytes += count;
  }
  return bytes;
}

static int64_t wanted_of_encoder(const mr3d_run *r, const char *point, int64_t rows, int64_t columns) {
  char name[64];
  snprintf(name, sizeof name, "encoder.%s", point);
  return mr3d_run_trace_wants(r, 0, name) ? rows * columns * 8 : 0; /* F64 and I64 */
}

/* Bytes of the encoder's points: cells are halved from stage to stage, as the encoder will do. */
static int64_t encoder_bytes(const mr3d_run *r) {
  const mr3d_point_config *c = &r->config.point_config;
  const bool scenescript = r->config.point_backbone == MR3D_SCENESCRIPT;
  const mr3d_stages *widths = scenescript ? &c->conv_layers : &c->enc_channels;
  const int64_t width = scenescript ? c->embed_channels : widths->at[widths->count - 1];
  mr3d_coarse_cells_out cells;
  int64_t bytes = 0;
  mr3d_coarse_cells(&r->context, r->cells.M, r->cells.grid, 1, &cells);
  for (int64_t stage = 0; stage < widths->count; stage++) {
    char point[40];
    if (stage > 0) {
      mr3d_coarse_cells_out finer = cells;
      mr3d_coarse_cells(&r->context, finer.n, finer.cells, scenescript ? 2 : c->stride.at[stage - 1], &cells);
      mr3d_coarse_cells_free(&finer);
    }
    snprintf(point, sizeof point, "stage%" PRId64, stage);
    bytes += wanted_of_encoder(r, point, cells.n, widths->at[stage]);
    strcat(point, "_coords");
    bytes += wanted_of_encoder(r, point, cells.n, 3);
  }
  if (scenescript) bytes += wanted_of_encoder(r, "bottleneck", cells.n, width);
  bytes += wanted_of_encoder(r, "fourier", cells.n, MR3D_FOURIER_FEATURES) + wanted_of_encoder(r, "input_proj", cells.n, width);
  bytes += wanted_of_encoder(r, "projected", cells.n, r->ends.embed_tokens->shape[1]);
  mr3d_coarse_cells_free(&cells);
  return bytes;
}

/* Bytes of the decoder's points that --points asks for. */
static int64_t decoder_bytes(const mr3d_run *r) {
  int64_t bytes = 0;
  const mr3d_tensor *gate = mr3d_bundle_find(mr3d_weights_tensors(r->model), "model.layers.0.mlp.gate_proj.weight");
  mr3d_trace_sizes call = {.B = 1, .P = 1, .k = 1, .H = r->config.num_attention_heads, .G = r->config.num_key_value_heads, .D = r->config.head_dim,
                           .C = r->ends.embed_tokens->shape[1], .I = gate ? gate->shape[0] : 0, .V = r->ends.head->shape[0]};
  for (int64_t step = 0; r->points && step < mr3d_run_requests(r); step++) {
    char number[24];
    const mr3d_run_sizes sizes = mr3d_run_request_sizes(r, step);
    call.q = sizes.q;
    call.L = sizes.K - sizes.q;
    call.M = sizes.K;
    call.N = r->tokens.N;
    for (int64_t layer = 0; layer < r->config.num_hidden_layers; layer++) {
      snprintf(number, sizeof number, "%" PRId64, layer);
      bytes += wanted_bytes(r, step, &call, number, MR3D_TRACE_OF_LAYER);
    }
    bytes += wanted_bytes(r, step, &call, "model", MR3D_TRACE_OF_MODEL);
  }
  return bytes;
}

mr3d_status mr3d_run_trace_fits(mr3d_run *r, mr3d_error *error) {
  if (!r->trace) return MR3D_OK;
  const int64_t bytes = decoder_bytes(r) + (mr3d_run_encodes(r) ? encoder_bytes(r) : 0);
  mr3d_run_say_number(r, "trace_bytes", (double)bytes);
  MR3D_SAY(r, "trace    %s will hold %.1f MB of the encoder's and the decoder's points\n", r->trace_path, (double)bytes * 1e-6);
  struct statvfs disk;
  char folder[4096];
  snprintf(folder, sizeof folder, "%s", r->trace_path);
  char *slash = strrchr(folder, '/');
  if (slash) slash[slash == folder] = 0;
  else strcpy(folder, ".");
  if (statvfs(folder, &disk) != 0) return MR3D_OK;
  const double free_bytes = (double)disk.f_bavail * (double)disk.f_frsize;
  if ((double)bytes <= free_bytes) return MR3D_OK;
  return mr3d_fail(error, MR3D_INVALID, "%s%.80s asks for a trace of %.1f GiB, and %.200s has room for %.1f GiB: choose %s by --points", r->points ? "--points " : "--trace", r->points ? r->points : "",
                   (double)bytes / 0x1p30, folder, free_bytes / 0x1p30, r->points ? "fewer steps, layers or points" : "some points");
}

/* ---- taking ---- */

static void keep(mr3d_run *r, int64_t step, const char *point, const mr3d_tensor *tensor) {
  char name[160];
  snprintf(name, sizeof name, "%" PRId64 ".%s", step, point);
  if (!mr3d_safetensors_writer_has(r->trace, name)) mr3d_safetensors_writer_add(r->trace, name, tensor);
}

void mr3d_run_trace(mr3d_run *r, const char *point, int64_t step, const mr3d_tensor *tensor) {
  char name[128];
  snprintf(name, sizeof name, "model.%s", point);
  if (r->trace && tensor && (!r->points || wants(r, step, name))) keep(r, step, name, tensor);
}

bool mr3d_run_trace_wants(const mr3d_run *r, int64_t step, const char *name) {
  return r->trace && (r->points ? wants(r, step, name) : strncmp(name, "encoder.", 8) == 0);
}

void mr3d_run_trace_take(mr3d_run *r, int64_t step, const mr3d_tensor *tensor) { keep(r, step, tensor->name, tensor); }

/* ---- where the values come from ---- */

static char *whole_path(const char *path) {
  char *resolved = realpath(path, NULL);
  return resolved ? resolved : strdup(path);
}

mr3d_status mr3d_run_trace_inputs(mr3d_run *r, mr3d_error *error) {
  if (!r->trace) return MR3D_OK;
  mr3d_safetensors_writer_set(r->trace, "trace", MR3D_TRACE_FORMAT);
  mr3d_safetensors_writer_set(r->trace, "producer", "mr3d run " MR3D_VERSION);
  mr3d_safetensors_writer_set(r->trace, "tier", "fp64");
  mr3d_safetensors_writer_set(r->trace, "config", r->config_text);
  if (r->prompt) mr3d_safetensors_writer_set(r->trace, "prompt", r->prompt);
  if (!r->weights) return MR3D_OK;
  char *path = mr3d_weights_files(r->model) ? whole_path(r->weights) : strdup(r->weights);
  mr3d_safetensors_writer_set(r->trace, "weights", path);
  free(path);
  mr3d_error failed = {0};
  char *digests = mr3d_digest_weights(r->model, &failed);
  if (digests) mr3d_safetensors_writer_set(r->trace, "weights_sha256", digests);
  free(digests);
  return failed.status ? mr3d_fail(error, failed.status, "%s", failed.message) : MR3D_OK;
}
