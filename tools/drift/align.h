/**
 * A trace as its writer named and laid out its points, seen in the protocol's names and layouts (docs/protocol.md, "Traces").
 *
 * Layouts are told apart by their shapes where these leave no doubt, by the same point elsewhere in the trace where they do, and by the values of a
 * reference at last. Nothing is copied but what lies otherwise, and that when it is asked for.
 */
#ifndef MR3D_DRIFT_ALIGN_H
#define MR3D_DRIFT_ALIGN_H

#include "mr3d/config.h"
#include "mr3d/trace.h"

typedef struct mr3d_aligned mr3d_aligned;

typedef struct mr3d_align_options {
  const char *map;               /**< a JSON file of other names (docs/traces.md, "Names and layouts of your own"); NULL: names are the protocol's */
  const mr3d_config *config;     /**< sizes; NULL: those of the trace's own metadata */
  const mr3d_aligned *reference; /**< a trace of the same calls, whose sizes and values settle what shapes leave open; NULL: there is none */
} mr3d_align_options;

/**
 * Opens a trace, mapped. Points of no known name, and tensors whose shape is no layout of their point, are remarks, no errors.
 * Errors: no safetensors file; a map that is none; no point at all. Ownership: the caller's; `reference` must outlive it.
 */
mr3d_status mr3d_align_open(const char *path, const mr3d_align_options *, mr3d_aligned **, mr3d_error *);
/** The same on a bundle, which is borrowed; `label` names it in messages. */
mr3d_status mr3d_align_bundle(const mr3d_bundle *, const char *label, const mr3d_align_options *, mr3d_aligned **, mr3d_error *);
void mr3d_align_free(mr3d_aligned **);

/** The file: its metadata, its tensors as they lie there. */
const mr3d_bundle *mr3d_aligned_file(const mr3d_aligned *);
const char *mr3d_aligned_label(const mr3d_aligned *);

int64_t mr3d_aligned_steps(const mr3d_aligned *);
/** Layers, of which it has points. */
int64_t mr3d_aligned_layers(const mr3d_aligned *);
/** The steps and layers of which it has points, in order; MR3D_TRACE_MODEL comes first in its step. */
typedef struct mr3d_trace_place_of {
  int64_t step, layer;
} mr3d_trace_place_of;
int mr3d_aligned_places(const mr3d_aligned *);
mr3d_trace_place_of mr3d_aligned_place(const mr3d_aligned *, int index);
/** The sizes of a step's points; -1 for what neither trace nor configuration says. */
mr3d_trace_sizes mr3d_aligned_sizes(const mr3d_aligned *, int64_t step);

/**
 * A point in the protocol's layout and shape, of its own type (BOOL and I64 where the protocol has those); layer MR3D_TRACE_MODEL for the model's. NULL: it
 * is not there. Valid until another layer or step is asked for; points of the model, until another step's point of the model is. Takes a void * so that it is an
 * mr3d_drift_source's function.
 */
const mr3d_tensor *mr3d_aligned_find(void *aligned, int64_t step, int64_t layer, const char *point);
/** Whether it is there, and where: the tensor as it lies in the file, NULL where it is not. */
const mr3d_tensor *mr3d_aligned_stored(const mr3d_aligned *, int64_t step, int64_t layer, const char *point);
/** The layout that it lies in: "B,q,H,D", "B,G,q,D repeated for 14 heads"; "" where it is not there. */
void mr3d_aligned_layout(const mr3d_aligned *, int64_t step, int64_t layer, const char *point, char text[96]);

/** Whether step 0 is but the first chunk of a prompt: the next call is given embeddings and no ids. */
bool mr3d_aligned_is_chunked(const mr3d_aligned *);

/** What could not be used, or had to be guessed: a line each. */
int mr3d_aligned_remarks(const mr3d_aligned *);
const char *mr3d_aligned_remark(const mr3d_aligned *, int index);

/** A point that is missing at a number of places, of which the first is said. */
typedef struct mr3d_missing {
  const char *point;
  bool of_layer;
  int64_t step, layer, count;
} mr3d_missing;
/** Points that `other` (NULL: the protocol) has and this one lacks, in the order of a call. Returns how many there are; writes at most `most`. Points of the call are left out where there is no `other`. */
int mr3d_aligned_missing(const mr3d_aligned *, const mr3d_aligned *other, int most, mr3d_missing *);

#endif
