#include "mr3d/trace.h"

#include <stdio.h>
#include <string.h>

static const mr3d_trace_point of_call[] = {
    {"input_ids", "B,T", MR3D_I64},           {"attention_mask", "B,M", MR3D_I64}, {"point_token_mask", "B,q", MR3D_BOOL},
    {"point_coords", "B,N,3", MR3D_F64},      {"point_counts", "B", MR3D_I64},     {NULL}};

static const mr3d_trace_point of_model[] = {
    {"inputs_embeds", "B,q,C", MR3D_F64}, {"position_ids", "P,q", MR3D_I64}, {"cache_length", "1", MR3D_I64},
    {"final_norm", "B,q,C", MR3D_F64},    {"logits", "B,k,V", MR3D_F64},     {NULL}};

static const mr3d_trace_point of_layer[] = {
    {"input", "B,q,C", MR3D_F64},
    {"input_norm", "B,q,C", MR3D_F64},
    {"query", "B,H,q,D", MR3D_F64},
    {"key", "B,G,q,D", MR3D_F64},
    {"value", "B,G,q,D", MR3D_F64},
    {"position_ids", "P,q", MR3D_I64},
    {"query_rotated", "B,H,q,D", MR3D_F64},
    {"key_rotated", "B,G,q,D", MR3D_F64},
    {"cache_length", "2", MR3D_I64},
    {"key_cache", "B,G,K,D", MR3D_F64},
    {"value_cache", "B,G,K,D", MR3D_F64},
    {"visible", "B,q,K", MR3D_BOOL},
    {"scores_max", "B,H,q", MR3D_F64},
    {"scores_mean", "B,H,q", MR3D_F64},
    {"scores_lse", "B,H,q", MR3D_F64},
    {"context", "B,H,q,D", MR3D_F64},
    {"o_proj", "B,q,C", MR3D_F64},
    {"attention_residual", "B,q,C", MR3D_F64},
    {"post_attention_norm", "B,q,C", MR3D_F64},
    {"gate", "B,q,I", MR3D_F64},
    {"up", "B,q,I", MR3D_F64},
    {"gated", "B,q,I", MR3D_F64},
    {"down", "B,q,C", MR3D_F64},
    {"output", "B,q,C", MR3D_F64},
    {NULL}};

const mr3d_trace_point *mr3d_trace_points(mr3d_trace_place place) {
  return place == MR3D_TRACE_OF_CALL ? of_call : place == MR3D_TRACE_OF_MODEL ? of_model : of_layer;
}

const mr3d_trace_point *mr3d_trace_point_named(bool of_layer_points, const char *name) {
  for (int place = of_layer_points ? MR3D_TRACE_OF_LAYER : MR3D_TRACE_OF_CALL; place <= (of_layer_points ? MR3D_TRACE_OF_LAYER : MR3D_TRACE_OF_MODEL); place++)
    for (const mr3d_trace_point *p = mr3d_trace_points((mr3d_trace_place)place); p->name; p++)
      if (strcmp(p->name, name) == 0) return p;
  return NULL;
}

int mr3d_trace_shape(const mr3d_trace_point *point, const mr3d_trace_sizes *sizes, int64_t shape[MR3D_MAX_RANK]) {
  static const char letters[] = "BqLTMNPkHGDCIV"; /* in the order of the structure */
  const int64_t values[] = {sizes->B, sizes->q, sizes->L, sizes->T, sizes->M, sizes->N, sizes->P, sizes->k, sizes->H, sizes->G, sizes->D, sizes->C, sizes->I, sizes->V};
  int rank = 0;
  for (const char *c = point->shape; *c; c += c[1] == ',' ? 2 : 1) {
    const char *letter = strchr(letters, *c);
    if (*c == 'K') shape[rank++] = sizes->L < 0 || sizes->q < 0 ? -1 : sizes->L + sizes->q;
    else shape[rank++] = letter ? values[letter - letters] : *c - '0';
  }
  return rank;
}

/* Of stages 0 .. MR3D_MAX_STAGES-1 an encoder has as many as its configuration says. */
#define STAGE(n) "stage" #n, "stage" #n "_coords"

const char *const *mr3d_trace_encoder_points(void) {
  static const char *const points[] = {STAGE(0),  STAGE(1),  STAGE(2),  STAGE(3),  STAGE(4),     STAGE(5),  STAGE(6),     STAGE(7),  STAGE(8), STAGE(9), STAGE(10),
                                       STAGE(11), STAGE(12), STAGE(13), STAGE(14), STAGE(15), "bottleneck", "fourier", "input_proj", "projected", NULL};
  return points;
}

static void name_of(const mr3d_context *context, const char *point, char name[96]) {
  if (context->layer == MR3D_TRACE_MODEL) snprintf(name, 96, "model.%s", point);
  else if (context->layer == MR3D_TRACE_ENCODER) snprintf(name, 96, "encoder.%s", point);
  else snprintf(name, 96, "%lld.%s", (long long)context->layer, point);
}

bool mr3d_trace_wanted(const mr3d_context *context, const char *point) {
  char name[96];
  if (!context->tracer) return false;
  name_of(context, point, name);
  return context->tracer->wants(context->tracer->user, name);
}

void mr3d_trace(const mr3d_context *context, const char *point, mr3d_dtype dtype, int rank, const int64_t *shape, const void *values) {
  if (!mr3d_trace_wanted(context, point)) return;
  char name[96];
  name_of(context, point, name);
  mr3d_tensor tensor = {.name = name, .dtype = dtype, .rank = rank, .data = (void *)(uintptr_t)values};
  for (int i = 0; i < rank; i++) tensor.shape[i] = shape[i];
  context->tracer->take(context->tracer->user, &tensor);
}
