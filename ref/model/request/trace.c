/** Metadata `trace` of a request: globs, joined by commas; the points they match go into the answer as trace.LAYER.POINT. */
#include <fnmatch.h>
#include <stdio.h>
#include <string.h>

#include "../session.h"

/* Gives the next glob of a comma-separated list, or false at its end. The list is shorter than MR3D_TRACE_GLOBS. */
static bool next_glob(const char **list, char glob[MR3D_TRACE_GLOBS]) {
  if (!**list) return false;
  const size_t length = strcspn(*list, ",");
  memcpy(glob, *list, length);
  glob[length] = 0;
  *list += length + ((*list)[length] == ',');
  return true;
}

static bool wants(void *user, const char *name) {
  char glob[MR3D_TRACE_GLOBS];
  for (const char *list = ((const mr3d_request *)user)->trace_globs; next_glob(&list, glob);)
    if (fnmatch(glob, name, 0) == 0) return true;
  return false;
}

static void take(void *user, const mr3d_tensor *point) {
  char name[128];
  snprintf(name, sizeof name, "trace.%s", point->name);
  mr3d_bundle_copy(((const mr3d_request *)user)->answer, name, point);
}

static bool matches_one_of(const char *glob, const char *layer, mr3d_trace_place place) {
  char name[128];
  for (const mr3d_trace_point *point = mr3d_trace_points(place); point->name; point++) {
    snprintf(name, sizeof name, "%s.%s", layer, point->name);
    if (fnmatch(glob, name, 0) == 0) return true;
  }
  return false;
}

static void list_points(mr3d_trace_place place, char *text, size_t size) {
  for (const mr3d_trace_point *point = mr3d_trace_points(place); point->name; point++) snprintf(text + strlen(text), size - strlen(text), " %s", point->name);
}

static mr3d_status check_encoder_glob(const char *glob, mr3d_error *error) {
  char name[128], known[700] = "";
  for (const char *const *point = mr3d_trace_encoder_points(); *point; point++) {
    snprintf(name, sizeof name, "encoder.%s", *point);
    if (fnmatch(glob, name, 0) == 0) return MR3D_OK;
    snprintf(known + strlen(known), sizeof known - strlen(known), " %s", *point);
  }
  return mr3d_fail(error, MR3D_INVALID, "metadata trace: \"%.60s\" matches no point; expected globs of encoder.POINT, such as encoder.stage0. An encoder has%s", glob, known);
}

/* Whether it could match: a misspelt point must not be an empty trace. A layer given as a number is taken to be there. */
static mr3d_status check_glob(const char *glob, mr3d_error *error) {
  const size_t digits = strspn(glob, "0123456789");
  char layer[24], known[700] = "";
  snprintf(layer, sizeof layer, "%.*s", glob[digits] == '.' && digits < 10 ? (int)digits : 0, glob);
  if (matches_one_of(glob, *layer ? layer : "0", MR3D_TRACE_OF_LAYER) || matches_one_of(glob, "model", MR3D_TRACE_OF_MODEL) || matches_one_of(glob, "model", MR3D_TRACE_OF_CALL))
    return MR3D_OK;
  list_points(MR3D_TRACE_OF_LAYER, known, sizeof known);
  strcat(known, "; model.POINT has");
  list_points(MR3D_TRACE_OF_MODEL, known, sizeof known);
  list_points(MR3D_TRACE_OF_CALL, known, sizeof known);
  return mr3d_fail(error, MR3D_INVALID, "metadata trace: \"%.60s\" matches no point; expected globs of LAYER.POINT, such as 17.query_rotated. A layer has%s", glob, known);
}

mr3d_status mr3d_request_trace(mr3d_request *r) {
  const char *list = mr3d_bundle_get(r->bundle, "trace");
  const char *op = mr3d_bundle_get(r->bundle, "op");
  const bool encoder = op && strcmp(op, "encode_points") == 0;
  char glob[MR3D_TRACE_GLOBS];
  r->context.tracer = r->server->tracer;
  if (!list) return MR3D_OK;
  if (strlen(list) >= MR3D_TRACE_GLOBS)
    return mr3d_fail(r->error, MR3D_INVALID, "metadata trace has %zu bytes, at most %d are possible", strlen(list), MR3D_TRACE_GLOBS - 1);
  if (!*list) return mr3d_fail(r->error, MR3D_INVALID, "metadata trace is empty; expected globs of LAYER.POINT joined by commas, such as *.query_rotated,model.logits");
  snprintf(r->trace_globs, sizeof r->trace_globs, "%s", list);
  while (next_glob(&list, glob)) MR3D_TRY((encoder ? check_encoder_glob : check_glob)(glob, r->error));
  r->tracer = (mr3d_tracer){r, wants, take};
  r->context.tracer = &r->tracer;
  return MR3D_OK;
}
