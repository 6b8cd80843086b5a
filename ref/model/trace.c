#include "mr3d/trace.h"

#include <stdio.h>

const char *const *mr3d_trace_layer_points(void) {
  static const char *const points[] = {"input",     "input_norm", "query",   "key",    "value",          "query_rotated",      "key_rotated",
                                       "visible",   "context",    "o_proj",  "attention_residual", "post_attention_norm", "gate", "up",
                                       "gated",     "down",       "output",  NULL};
  return points;
}

const char *const *mr3d_trace_model_points(void) {
  static const char *const points[] = {"inputs_embeds", "cache_length", "final_norm", "logits", NULL};
  return points;
}

/* Stages 0 .. MR3D_MAX_STAGES-1, of which an encoder has as many as its configuration says. */
#define STAGE(n) "stage" #n, "stage" #n "_coords"

const char *const *mr3d_trace_encoder_points(void) {
  static const char *const points[] = {STAGE(0),  STAGE(1),  STAGE(2),  STAGE(3),  STAGE(4),     STAGE(5),  STAGE(6),     STAGE(7),  STAGE(8), STAGE(9), STAGE(10),
                                       STAGE(11), STAGE(12), STAGE(13), STAGE(14), STAGE(15), "bottleneck", "fourier", "input_proj", "projected", NULL};
  return points;
}

void mr3d_trace(const mr3d_context *context, const char *point, mr3d_dtype dtype, int rank, const int64_t *shape, const void *values) {
  if (!context->tracer) return;
  char name[96];
  if (context->layer == MR3D_TRACE_MODEL) snprintf(name, sizeof name, "model.%s", point);
  else if (context->layer == MR3D_TRACE_ENCODER) snprintf(name, sizeof name, "encoder.%s", point);
  else snprintf(name, sizeof name, "%lld.%s", (long long)context->layer, point);
  if (!context->tracer->wants(context->tracer->user, name)) return;
  mr3d_tensor tensor = {.name = name, .dtype = dtype, .rank = rank, .data = (void *)(uintptr_t)values};
  for (int i = 0; i < rank; i++) tensor.shape[i] = shape[i];
  context->tracer->take(context->tracer->user, &tensor);
}
