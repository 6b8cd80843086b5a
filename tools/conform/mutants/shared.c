/** What several mutants need: a memory, requests with another configuration, points rotated by other rules. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cjson/cJSON.h>

#include "mutants_internal.h"

/* ---- memory: one tensor for each name and size; metadata say which size is the latest ---- */

void mr3d_mutant_remember(const char *name, int64_t count, const double *values) {
  mr3d_bundle *memory = mr3d_mutant_memory();
  char sized[96];
  if (!memory) return;
  snprintf(sized, sizeof sized, "%s %lld", name, (long long)count);
  mr3d_tensor *kept = mr3d_bundle_find(memory, sized);
  if (!kept) kept = mr3d_bundle_add(memory, sized, MR3D_F64, 1, &count);
  memcpy(kept->data, values, (size_t)count * sizeof *values);
  mr3d_bundle_set(memory, name, sized);
}

const double *mr3d_mutant_remembered(const char *name, int64_t count) {
  const mr3d_bundle *memory = mr3d_mutant_memory();
  const char *sized = memory ? mr3d_bundle_get(memory, name) : NULL;
  const mr3d_tensor *kept = sized ? mr3d_bundle_find(memory, sized) : NULL;
  return kept && kept->shape[0] == count ? kept->data : NULL;
}

int64_t mr3d_mutant_nth(const char *what) {
  mr3d_bundle *memory = mr3d_mutant_memory();
  if (!memory) return 0;
  const double *last = mr3d_mutant_remembered(what, 2), request = atof(mr3d_bundle_get(memory, "request"));
  const double now[2] = {request, last && last[0] == request ? last[1] + 1 : 0};
  mr3d_mutant_remember(what, 2, now);
  return (int64_t)now[1];
}

/* ---- requests ---- */

bool mr3d_request_config(const mr3d_bundle *request, mr3d_config *config) {
  const char *json = mr3d_bundle_get(request, "config");
  return json && mr3d_config_parse_part(json, config, NULL) == MR3D_OK;
}

mr3d_bundle *mr3d_request_configured(const mr3d_bundle *request, const char *key, const char *json) {
  mr3d_config legal;
  if (!mr3d_request_config(request, &legal)) return NULL;
  cJSON *config = cJSON_Parse(mr3d_bundle_get(request, "config"));
  cJSON_DeleteItemFromObjectCaseSensitive(config, key);
  cJSON_AddRawToObject(config, key, json);
  char *text = cJSON_PrintUnformatted(config);
  mr3d_bundle *changed = mr3d_request_without(request, NULL);
  mr3d_bundle_set(changed, "config", text);
  cJSON_free(text);
  cJSON_Delete(config);
  return changed;
}

/* ---- points ---- */

double mr3d_point_angle(const mr3d_point *point, int64_t position, int64_t j) {
  bool native = point->config->temporal_rope == MR3D_NATIVE;
  int64_t n = native ? point->split->Dt : point->split->D, at = native ? j : point->split->temporal[j];
  return (double)position * pow(point->config->rope_theta, -2.0 * (double)(at % (n / 2)) / (double)n);
}

static double usual_angle(const mr3d_point *point, int64_t j) { return mr3d_point_angle(point, point->position, j); }

void mr3d_turn_halves(const mr3d_point *point, double (*angle)(const mr3d_point *, int64_t j), const double *x, double *y) {
  int64_t half = point->split->Dt / 2;
  for (int64_t j = 0; j < 2 * half; j++) {
    double other = j < half ? -x[j + half] : x[j - half], theta = angle(point, j);
    y[j] = x[j] * cos(theta) + other * sin(theta);
  }
}

static void usual_turn(const mr3d_point *point, const double *x, double *y) { mr3d_turn_halves(point, usual_angle, x, y); }

/** y [B,heads,S,D]: the temporal part of points, turned. */
static void turn_points(mr3d_turn *turn, const mr3d_config *config, const mr3d_split *split, const mr3d_mixed_rope_in *in, int64_t heads, const double *x,
                        double *y) {
  double *part = mr3d_allocate(2 * split->Dt, sizeof *part), *turned = part + split->Dt;
  for (int64_t row = 0; row < in->B * heads; row++) {
    int64_t b = row / heads;
    mr3d_point point = {.config = config, .split = split, .first = -1};
    for (int64_t s = 0; s < in->S; s++) {
      if (!in->points.mask[b * in->S + s]) continue;
      point.position = in->position_ids[(in->position_rows == 1 ? 0 : b) * in->S + s];
      if (point.first < 0) point.first = point.position;
      point.head = x + (row * in->S + s) * in->D;
      for (int64_t j = 0; j < split->Dt; j++) part[j] = point.head[split->temporal[j]];
      turn(&point, part, turned);
      for (int64_t j = 0; j < split->Dt; j++) y[(row * in->S + s) * in->D + split->temporal[j]] = turned[j];
      point.index++;
    }
  }
  free(part);
}

mr3d_status mr3d_mixed_rope_turned(mr3d_turn *turn, const mr3d_context *context, const mr3d_config *config, const mr3d_mixed_rope_in *in, double *query,
                                   double *key, mr3d_error *error) {
  mr3d_status status = mr3d_mixed_rope(context, config, in, query, key, error);
  mr3d_split split;
  if (status != MR3D_OK || !in->points.mask || mr3d_split_head(config, in->D, &split, NULL) != MR3D_OK) return status;
  if (split.Ds > 0) { /* else points are text */
    turn_points(turn, config, &split, in, in->H, in->query, query);
    turn_points(turn, config, &split, in, in->G, in->key, key);
  }
  mr3d_split_free(&split);
  return MR3D_OK;
}

/** to [rows,D] = from with dimension order[j] in place j, or back. */
static double *reordered(const mr3d_split *split, int64_t rows, const double *from, bool back) {
  double *to = mr3d_allocate(rows * split->D, sizeof *to);
  for (int64_t i = 0; i < rows * split->D; i++) {
    int64_t j = i % split->D, own = i - j + (j < split->Ds ? split->spatial[j] : split->temporal[j - split->Ds]);
    to[back ? own : i] = from[back ? i : own];
  }
  return to;
}

mr3d_status mr3d_mixed_rope_split(const mr3d_split *split, const mr3d_context *context, const mr3d_config *config, const mr3d_mixed_rope_in *in, double *query,
                                  double *key, mr3d_error *error) {
  mr3d_status status = mr3d_mixed_rope(context, config, in, query, key, error);
  if (status != MR3D_OK || !in->points.mask || split->Ds == 0 || split->Dt == 0) return status;
  int64_t rows[2] = {in->B * in->H * in->S, in->B * in->G * in->S};
  double *x[2] = {reordered(split, rows[0], in->query, false), reordered(split, rows[1], in->key, false)};
  double *y[2] = {mr3d_allocate(rows[0] * in->D, sizeof(double)), mr3d_allocate(rows[1] * in->D, sizeof(double))}, *out[2] = {query, key};
  mr3d_config contiguous = *config;
  contiguous.layout = MR3D_CONTIGUOUS;
  mr3d_mixed_rope_in changed = *in;
  changed.query = x[0];
  changed.key = x[1];
  status = mr3d_mixed_rope(context, &contiguous, &changed, y[0], y[1], error);
  for (int side = 0; side < 2; side++) {
    int64_t heads = side ? in->G : in->H;
    double *own = reordered(split, rows[side], y[side], true);
    for (int64_t r = 0; status == MR3D_OK && r < rows[side]; r++)
      if (in->points.mask[r / (heads * in->S) * in->S + r % in->S]) memcpy(out[side] + r * in->D, own + r * in->D, (size_t)in->D * sizeof *own);
    if (status == MR3D_OK) turn_points(usual_turn, config, split, in, heads, side ? in->key : in->query, out[side]);
    free(own);
    free(x[side]);
    free(y[side]);
  }
  return status;
}

mr3d_status mr3d_mixed_rope_keys_by(const mr3d_operators *operators, const mr3d_context *context, const mr3d_config *config, const mr3d_mixed_rope_in *in,
                                    double *query, double *key, mr3d_error *error) {
  mr3d_context other = *context;
  other.op = operators;
  mr3d_status status = mr3d_mixed_rope(&other, config, in, query, key, error);
  double *unused = mr3d_allocate(in->B * in->G * in->S * in->D, sizeof *unused);
  if (status == MR3D_OK) status = mr3d_mixed_rope(context, config, in, query, unused, error);
  free(unused);
  return status;
}
