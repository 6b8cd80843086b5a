/** Traces: the values that pass between operators of the model, each under the name `layer.point` (docs/protocol.md, "Traces"). */
#ifndef MR3D_TRACE_H
#define MR3D_TRACE_H

#include "mr3d/ops.h"
#include "mr3d/tensor.h"

#ifdef __cplusplus
extern "C" {
#endif

/** Who listens. A name is "17.query_rotated", or "model.logits" for what belongs to no layer, or "encoder.stage0". */
struct mr3d_tracer {
  void *user;
  bool (*wants)(void *user, const char *name);
  void (*take)(void *user, const mr3d_tensor *); /**< `name` and values are borrowed for the call */
};

#define MR3D_TRACE_MODEL (-1) /**< mr3d_context.layer outside the layers */
#define MR3D_TRACE_ENCODER (-2) /**< and in a point encoder */

/** Hands values of a point, of one of the library's types (F64, BOOL, I64), to the context's tracer if it wants them. Costs nothing without one. */
void mr3d_trace(const mr3d_context *, const char *point, mr3d_dtype, int rank, const int64_t *shape, const void *values);

/** The points in the order in which a call passes them, NULL-terminated: those of a layer, of the model, of a point encoder. */
const char *const *mr3d_trace_layer_points(void);
const char *const *mr3d_trace_model_points(void);
const char *const *mr3d_trace_encoder_points(void);

#ifdef __cplusplus
}
#endif
#endif
