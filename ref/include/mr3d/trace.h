/** Traces: the values that pass between operators of the model, each under the name `layer.point` (docs/protocol.md, "Traces"). */
#ifndef MR3D_TRACE_H
#define MR3D_TRACE_H

#include "mr3d/ops.h"
#include "mr3d/tensor.h"

#ifdef __cplusplus
extern "C" {
#endif

#define MR3D_TRACE_FORMAT "1" /**< metadata `trace` of a file of traces */

/** Who listens. A name is "17.query_rotated", or "model.logits" for what belongs to no layer, or "encoder.stage0". */
struct mr3d_tracer {
  void *user;
  bool (*wants)(void *user, const char *name);
  void (*take)(void *user, const mr3d_tensor *); /**< `name` and values are borrowed for the call; what it writes over values of a layer is what the layer goes on from */
};

#define MR3D_TRACE_MODEL (-1) /**< mr3d_context.layer outside the layers */
#define MR3D_TRACE_ENCODER (-2) /**< and in a point encoder */

/** Hands values of a point, of one of the library's types (F64, BOOL, I64), to the context's tracer if it wants them. Costs nothing without one. */
void mr3d_trace(const mr3d_context *, const char *point, mr3d_dtype, int rank, const int64_t *shape, const void *values);
/** Whether anyone would take them, where they have to be computed first. */
bool mr3d_trace_wanted(const mr3d_context *, const char *point);

typedef enum mr3d_trace_place {
  MR3D_TRACE_OF_CALL,  /**< model.POINT: what the call was given, where it was given that */
  MR3D_TRACE_OF_MODEL, /**< model.POINT */
  MR3D_TRACE_OF_LAYER, /**< LAYER.POINT */
  MR3D_TRACE_N_PLACES
} mr3d_trace_place;

/**
 * One point. Sizes of its shape, joined by commas: B samples, q new tokens, L keys before the call, K = L + q, T token ids, M columns of the mask, N rows of coordinates,
 * P = B or 1, k rows of logits, H and G heads, D head_dim, C hidden, I intermediate, V vocabulary, or a number.
 */
typedef struct mr3d_trace_point {
  const char *name;
  const char *shape; /**< "B,H,q,D" */
  mr3d_dtype dtype;  /**< F64: any floating type in traces of others; BOOL or I64 */
} mr3d_trace_point;

/** The sizes of a shape; -1: not known. */
typedef struct mr3d_trace_sizes {
  int64_t B, q, L, T, M, N, P, k, H, G, D, C, I, V;
} mr3d_trace_sizes;
/** A point's rank and shape; -1 for what is not known. */
int mr3d_trace_shape(const mr3d_trace_point *, const mr3d_trace_sizes *, int64_t shape[MR3D_MAX_RANK]);

/** The points of a place in the order in which a call passes them; the last has no name. */
const mr3d_trace_point *mr3d_trace_points(mr3d_trace_place);
/** The point of that name, of a layer or (both other places) of the model; NULL: there is none. */
const mr3d_trace_point *mr3d_trace_point_named(bool of_layer, const char *name);

/** The points of a point encoder, encoder.POINT, in the order in which it passes them, NULL-terminated: all that an encoder of MR3D_MAX_STAGES stages can have. */
const char *const *mr3d_trace_encoder_points(void);

#ifdef __cplusplus
}
#endif
#endif
