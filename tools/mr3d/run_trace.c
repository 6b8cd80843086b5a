/** --trace and --points of mr3d run: which points of which steps, and under which names they are written. */
#include "run_parts.h"

#include <fnmatch.h>
#include <string.h>

#include "mr3d/trace.h"

/* The steps that have a point: the first, each prefill request, all. */
typedef enum own_when { AT_START, AT_PREFILL, ALWAYS } own_when;

/* Points that mr3d run has beside the decoder's: where there is no --points, these are the trace. */
static const struct {
  const char *name;
  own_when when;
  bool needs_prompt, needs_weights;
} own_points[] = {{"grid", AT_START, false, false},           {"point_coords", AT_START, false, false},  {"input_ids", ALWAYS, true, false},
                  {"point_token_mask", AT_START, true, false}, {"attention_mask", AT_START, true, false}, {"features", AT_START, true, true},
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

static bool matches_a_name(const glob *g, const char *layer, const char *const *points) {
  char name[128];
  for (; *points; points++) {
    snprintf(name, sizeof name, "%s.%s", layer, *points);
    if (fnmatch(g->point, name, 0) == 0) return true;
  }
  return false;
}

/* Whether it names a point that the decoder passes in a step; there is none without weights. */
static bool matches_decoder(const mr3d_run *r, const glob *g) {
  if (!r->weights) return false;
  for (int64_t layer = 0; layer < r->config.num_hidden_layers; layer++) {
    char number[24];
    snprintf(number, sizeof number, "%" PRId64, layer);
    if (matches_a_name(g, number, mr3d_trace_layer_points())) return true;
  }
  return matches_a_name(g, "model", mr3d_trace_model_points());
}

/* Whether it names a point that the encoder passes: before step 0's request. */
static bool matches_encoder(const mr3d_run *r, const glob *g) { return mr3d_run_encodes(r) && matches_a_name(g, "encoder", mr3d_trace_encoder_points()); }

static bool is_there(const mr3d_run *r, int i, int64_t step) {
  if ((own_points[i].needs_prompt && !r->prompt) || (own_points[i].needs_weights && !r->weights)) return false;
  return step == 0 || own_points[i].when == ALWAYS || (own_points[i].when == AT_PREFILL && step < mr3d_run_prefills(r));
}

static bool matches_own(const mr3d_run *r, const glob *g, int64_t step) {
  for (int i = 0; i < N_OWN_POINTS; i++) {
    if (is_there(r, i, step) && matches_a_name(g, "model", (const char *const[]){own_points[i].name, NULL})) return true;
  }
  return false;
}

static void list_points(const mr3d_run *r, char *text, size_t size) {
  snprintf(text, size, "model has");
  for (int i = 0; i < N_OWN_POINTS; i++) snprintf(text + strlen(text), size - strlen(text), " %s", own_points[i].name);
  for (const char *const *point = mr3d_trace_model_points(); r->weights && *point; point++)
    if (strcmp(*point, "inputs_embeds") != 0 && strcmp(*point, "logits") != 0) snprintf(text + strlen(text), size - strlen(text), " %s", *point);
  if (r->weights) snprintf(text + strlen(text), size - strlen(text), "; a layer (0 .. %" PRId64 ") has", r->config.num_hidden_layers - 1);
  for (const char *const *point = mr3d_trace_layer_points(); r->weights && *point; point++) snprintf(text + strlen(text), size - strlen(text), " %s", *point);
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
    char known[900];
    list_points(r, known, sizeof known);
    return mr3d_fail(error, MR3D_INVALID, "--points: \"%.60s%s%.60s\" matches nothing; expected globs of STEP.LAYER.POINT, such as 0.17.query_rotated. Steps are 0 .. %" PRId64 "; %s", g.step,
                     *g.point ? "." : "", g.point, steps - 1, known);
  }
  return any ? MR3D_OK : mr3d_fail(error, MR3D_INVALID, "--points is empty; expected globs of STEP.LAYER.POINT joined by commas, such as 0.17.query*,*.model.logits");
}

/* ---- what a trace takes ---- */

/* Bytes of a point of a layer, or of the model. */
static int64_t point_bytes(const mr3d_run *r, mr3d_run_sizes call, const char *point) {
  static const char *const of_query[] = {"query", "query_rotated", "context"}, *const of_key[] = {"key", "key_rotated", "value"}, *const wide[] = {"gate", "up", "gated"};
  const mr3d_tensor *gate = mr3d_bundle_find(mr3d_weights_tensors(r->model), "model.layers.0.mlp.gate_proj.weight");
  const int64_t word = sizeof(double), D = r->config.head_dim;
  for (int i = 0; i < 3; i++) {
    if (strcmp(point, of_query[i]) == 0) return word * call.q * r->config.num_attention_heads * D;
    if (strcmp(point, of_key[i]) == 0) return word * call.q * r->config.num_key_value_heads * D;
    if (strcmp(point, wide[i]) == 0) return word * call.q * (gate ? gate->shape[0] : 0);
  }
  if (strcmp(point, "visible") == 0) return call.q * call.K;
  if (strcmp(point, "cache_length") == 0) return word;
  return word * (strcmp(point, "logits") == 0 ? r->ends.head->shape[0] : call.q * r->ends.embed_tokens->shape[1]);
}

static int64_t wanted_bytes(const mr3d_run *r, int64_t step, mr3d_run_sizes call, const char *layer, const char *const *points) {
  int64_t bytes = 0;
  char name[128];
  for (; *points; points++) {
    snprintf(name, sizeof name, "%s.%s", layer, *points);
    if (wants(r, step, name)) bytes += point_bytes(r, call, *points);
  }
  return bytes;
}

mr3d_status mr3d_run_trace_fits(const mr3d_run *r, mr3d_error *error) {
  int64_t bytes = 0;
  for (int64_t step = 0; r->points && step < mr3d_run_requests(r); step++) {
    char number[24];
    const mr3d_run_sizes call = mr3d_run_request_sizes(r, step);
    for (int64_t layer = 0; layer < r->config.num_hidden_layers; layer++) {
      snprintf(number, sizeof number, "%" PRId64, layer);
      bytes += wanted_bytes(r, step, call, number, mr3d_trace_layer_points());
    }
    bytes += wanted_bytes(r, step, call, "model", mr3d_trace_model_points());
  }
  if (bytes <= MR3D_RUN_TRACE_BYTES) return MR3D_OK;
  return mr3d_fail(error, MR3D_INVALID, "--points %.80s asks for a trace of %.1f GiB, gathered in memory; at most %.0f GiB are possible: choose fewer steps, layers or points", r->points,
                   (double)bytes / 0x1p30, (double)MR3D_RUN_TRACE_BYTES / 0x1p30);
}

/* ---- taking ---- */

static void keep(mr3d_run *r, int64_t step, const char *point, const mr3d_tensor *tensor) {
  char name[160];
  snprintf(name, sizeof name, "%" PRId64 ".%s", step, point);
  if (!mr3d_bundle_find(r->trace, name)) mr3d_bundle_copy(r->trace, name, tensor);
}

void mr3d_run_trace(mr3d_run *r, const char *point, int64_t step, const mr3d_tensor *tensor) {
  char name[128];
  snprintf(name, sizeof name, "model.%s", point);
  if (r->trace && tensor && (!r->points || wants(r, step, name))) keep(r, step, name, tensor);
}

void mr3d_run_trace_answer(mr3d_run *r, int64_t step, const mr3d_bundle *answer) {
  for (int i = 0; r->trace && i < mr3d_bundle_count(answer); i++) {
    const mr3d_tensor *tensor = mr3d_bundle_at(answer, i);
    if (strncmp(tensor->name, "trace.", 6) == 0) keep(r, step, tensor->name + 6, tensor);
  }
}

void mr3d_run_trace_encoder(const mr3d_run *r, mr3d_bundle *request) {
  char globs[MR3D_TRACE_GLOBS] = "";
  glob g;
  for (const char *list = r->points ? r->points : ""; next_glob(&list, &g);)
    if (is_step(&g, 0) && matches_encoder(r, &g)) strcat(strcat(globs, *globs ? "," : ""), g.point);
  if (r->trace && !r->points) strcpy(globs, "encoder.*");
  if (*globs) mr3d_bundle_set(request, "trace", globs);
}

void mr3d_run_trace_request(const mr3d_run *r, int64_t step, mr3d_bundle *request) {
  char globs[MR3D_TRACE_GLOBS] = "";
  glob g;
  for (const char *list = r->points ? r->points : ""; next_glob(&list, &g);)
    if (is_step(&g, step) && matches_decoder(r, &g)) strcat(strcat(globs, *globs ? "," : ""), g.point); /* shorter than --points, which fits */
  if (*globs) mr3d_bundle_set(request, "trace", globs);
}
