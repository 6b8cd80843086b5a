#include "calls.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

int64_t mr3d_trace_steps(const mr3d_bundle *trace) {
  int64_t steps = 0;
  for (int i = 0; i < mr3d_bundle_count(trace); i++) {
    char *end;
    const long long step = strtoll(mr3d_bundle_at(trace, i)->name, &end, 10);
    if (*end == '.' && end != mr3d_bundle_at(trace, i)->name && step >= steps) steps = step + 1;
  }
  return steps;
}

const mr3d_tensor *mr3d_trace_find(const mr3d_bundle *trace, int64_t step, int64_t layer, const char *point) {
  char name[160];
  if (layer < 0) snprintf(name, sizeof name, "%lld.model.%s", (long long)step, point);
  else snprintf(name, sizeof name, "%lld.%lld.%s", (long long)step, (long long)layer, point);
  return mr3d_bundle_find(trace, name);
}

static const mr3d_tensor *find_in_bundle(void *user, int64_t step, int64_t layer, const char *point) { return mr3d_trace_find(user, step, layer, point); }

mr3d_drift_source mr3d_trace_source(mr3d_bundle *trace) { return (mr3d_drift_source){trace, find_in_bundle}; }

static const mr3d_tensor *of_model(const mr3d_drift_source *trace, int64_t step, const char *point) { return trace->find(trace->user, step, MR3D_DRIFT_MODEL, point); }

static mr3d_status misfit(const mr3d_tensor *found, const char *must, mr3d_error *error) {
  char shape[96];
  return mr3d_fail(error, MR3D_INVALID, "%s is %s %s; expected %s", found->name, mr3d_dtype_name(found->dtype), mr3d_shape_text(found->rank, found->shape, shape), must);
}

/** ids [B,q]: as they are, or the prompt's [1,T] before the splice, spread over the tokens that are no points (what stood between the markers is dropped). */
static void spread_ids(mr3d_drift_run *drift, const mr3d_tensor *found, mr3d_traced_call *c) {
  const mr3d_config *config = mr3d_drift_config(drift);
  const int64_t B = c->call.B, q = c->call.q, *ids = found->data;
  if (found->rank != 2 || found->dtype != MR3D_I64) return;
  c->ids = mr3d_allocate(B * q, sizeof *c->ids);
  c->call.ids = c->ids;
  if (found->shape[0] == B && found->shape[1] == q) {
    memcpy(c->ids, ids, (size_t)(B * q) * sizeof *ids);
    return;
  }
  int64_t at = 0;
  bool between = false, fits = found->shape[0] == 1 && B == 1;
  for (int64_t i = 0; i < q; i++) {
    c->ids[i] = -1;
    if (c->call.points.mask && c->call.points.mask[i]) continue;
    for (; fits && between && at < found->shape[1] && ids[at] != config->point_end_token_id; at++) continue;
    fits = fits && at < found->shape[1];
    if (!fits) break;
    between = ids[at] == config->point_start_token_id;
    c->ids[i] = ids[at++];
  }
  if (fits && at == found->shape[1]) return;
  free(c->ids);
  c->ids = NULL;
  c->call.ids = NULL;
}

static mr3d_status read_points(const mr3d_drift_source *trace, int64_t step, mr3d_traced_call *c, mr3d_error *error) {
  const mr3d_tensor *mask = of_model(trace, step, "point_token_mask"), *coords = of_model(trace, step, "point_coords"), *counts = of_model(trace, step, "point_counts");
  const int64_t B = c->call.B, q = c->call.q;
  if (!mask) return MR3D_OK;
  if (mask->dtype != MR3D_BOOL || mask->rank != 2 || mask->shape[0] != B || mask->shape[1] != q) return misfit(mask, "BOOL [B,q] of this call", error);
  bool any = false;
  for (int64_t i = 0; i < B * q; i++) any |= ((const bool *)mask->data)[i];
  if (!any) return MR3D_OK;
  if (!coords) return mr3d_fail(error, MR3D_INVALID, "%s marks points, but the trace has no %lld.model.point_coords", mask->name, (long long)step);
  const int64_t N = coords->rank >= 2 ? coords->shape[coords->rank - 2] : 0;
  const bool shaped = (coords->rank == 2 && B == 1) || (coords->rank == 3 && coords->shape[0] == B);
  if (!shaped || coords->shape[coords->rank - 1] != 3) return misfit(coords, "[N,3] or [B,N,3]", error);
  if (counts && (counts->dtype != MR3D_I64 || mr3d_tensor_count(counts) != B)) return misfit(counts, "I64 [B]", error);
  c->coords = mr3d_allocate(B * N * 3, sizeof *c->coords);
  mr3d_tensor_to_double(coords, c->coords);
  c->call.points = (mr3d_points){.mask = mask->data, .N = N, .coords = c->coords, .counts = counts ? counts->data : NULL};
  mr3d_error found = {0};
  if (mr3d_points_check(&c->call.points, B, q, &found) != MR3D_OK) return mr3d_fail(error, MR3D_INVALID, "step %lld: %s", (long long)step, found.message);
  return MR3D_OK;
}

/** Whether positions are L, L + 1, ..., which is what they are without any. */
static bool is_usual(const mr3d_drift_run *drift, const mr3d_tensor *positions) {
  const int64_t L = mr3d_drift_cached(drift), q = positions->shape[1], *at = positions->data;
  for (int64_t i = 0; i < positions->shape[0] * q; i++)
    if (at[i] != L + i % q) return false;
  return true;
}

static mr3d_status read_call(mr3d_drift_run *drift, const mr3d_drift_source *trace, int64_t step, mr3d_traced_call *c, mr3d_error *error) {
  const mr3d_config *config = mr3d_drift_config(drift);
  const mr3d_tensor *embeds = of_model(trace, step, "inputs_embeds"), *ids = of_model(trace, step, "input_ids"), *mask = of_model(trace, step, "attention_mask"),
                    *positions = of_model(trace, step, "position_ids");
  if (!embeds && !ids) embeds = trace->find(trace->user, step, 0, "input");
  const mr3d_tensor *sized = embeds ? embeds : ids;
  if (!sized)
    return mr3d_fail(error, MR3D_INVALID, "the trace has neither %lld.model.inputs_embeds nor %lld.model.input_ids, so what the model was given in that step is not known", (long long)step,
                     (long long)step);
  if (sized->rank < 2 || sized->shape[0] < 1 || sized->shape[1] < 1) return misfit(sized, embeds ? "[B,q,hidden]" : "[B,q]", error);
  c->call.B = sized->shape[0];
  c->call.q = sized->shape[1];
  /* A decode step is given ids, and never points; chunks of a prompt are given embeddings. */
  c->call.decode = step > 0 && !of_model(trace, step, "point_token_mask") && (c->call.q == 1 || (ids && ids->rank == 2 && ids->shape[0] == c->call.B && ids->shape[1] == c->call.q));
  if (mask) {
    if (mask->dtype != MR3D_I64 || mask->rank != 2 || mask->shape[0] != c->call.B) return misfit(mask, "I64 [B,columns]", error);
    c->call.attention_mask = mask->data;
    c->call.mask_columns = mask->shape[1];
  }
  if (positions) {
    const bool fits = positions->dtype == MR3D_I64 && positions->rank == 2 && positions->shape[1] == c->call.q && (positions->shape[0] == 1 || positions->shape[0] == c->call.B);
    if (!fits) return misfit(positions, "I64 [B,q] or [1,q]", error);
    /* A decode's tokens stand in the cache's slots whatever its prefill was given; what a subject takes for its position there shows in the rotation. */
    if (!c->call.decode && !is_usual(drift, positions)) c->call.position_ids = positions->data, c->call.position_rows = positions->shape[0];
  }
  const mr3d_status status = read_points(trace, step, c, error);
  if (status) return status;
  if (ids) spread_ids(drift, ids, c);
  c->embeds = mr3d_allocate(c->call.B * c->call.q * config->hidden_size, sizeof *c->embeds);
  c->call.embeds = c->embeds;
  if (!embeds) {
    if (c->call.points.mask) return mr3d_fail(error, MR3D_INVALID, "step %lld has points, so input_ids alone do not say what the model was given: trace %lld.model.inputs_embeds", (long long)step, (long long)step);
    return mr3d_drift_embed(drift, c->call.B * c->call.q, ids->data, c->embeds, error);
  }
  if (!mr3d_dtype_is_float(embeds->dtype) || embeds->rank != 3 || embeds->shape[2] != config->hidden_size) {
    char must[64];
    snprintf(must, sizeof must, "[B,q,%lld] of a floating type", (long long)config->hidden_size);
    return misfit(embeds, must, error);
  }
  mr3d_tensor_to_double(embeds, c->embeds);
  /* What the model should have been given: the rows of the embedding, where the ids are known. */
  for (int64_t i = 0; i < c->call.B * c->call.q && c->ids; i++)
    if (c->ids[i] >= 0 && c->ids[i] < config->vocab_size && mr3d_drift_embed(drift, 1, &c->ids[i], c->embeds + i * config->hidden_size, error) != MR3D_OK) return error->status;
  return MR3D_OK;
}

mr3d_status mr3d_traced_call_read(mr3d_drift_run *drift, const mr3d_drift_source *trace, int64_t step, mr3d_traced_call *c, mr3d_error *error) {
  *c = (mr3d_traced_call){0};
  const mr3d_status status = read_call(drift, trace, step, c, error);
  if (status) mr3d_traced_call_clear(c);
  return status;
}

void mr3d_traced_call_clear(mr3d_traced_call *c) {
  free(c->embeds);
  free(c->coords);
  free(c->ids);
  *c = (mr3d_traced_call){0};
}
