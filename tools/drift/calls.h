/** What a trace says of the calls that it is of: inputs, masks, positions, points (docs/protocol.md, "Traces"). */
#ifndef MR3D_DRIFT_CALLS_H
#define MR3D_DRIFT_CALLS_H

#include "drift.h"

/** The number of steps: one more than the largest that a tensor's name begins with. */
int64_t mr3d_trace_steps(const mr3d_bundle *trace);

/** STEP.LAYER.POINT or STEP.model.POINT, or NULL. */
const mr3d_tensor *mr3d_trace_find(const mr3d_bundle *trace, int64_t step, int64_t layer, const char *point);

/** A trace in the protocol's names and layouts, as a source. Borrowed. */
mr3d_drift_source mr3d_trace_source(mr3d_bundle *trace);

/** A call with the memory it needs. Zero-initialise. */
typedef struct mr3d_traced_call {
  mr3d_drift_call call;
  double *embeds, *coords;
  int64_t *ids;
} mr3d_traced_call;

/**
 * The call of a step: embeddings from its `inputs_embeds`, else from its `input_ids` by the weights; masks, positions and points as they stand there.
 * Errors: neither is there, or a tensor does not fit. Ownership: the trace's tensors are borrowed; mr3d_traced_call_clear.
 */
mr3d_status mr3d_traced_call_read(mr3d_drift_run *, const mr3d_drift_source *, int64_t step, mr3d_traced_call *, mr3d_error *);
void mr3d_traced_call_clear(mr3d_traced_call *);

#endif
