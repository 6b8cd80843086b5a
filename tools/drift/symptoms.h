/** Rows of the table of error signals (docs/error-signals.md) that a trace shows by itself: lengths, heads, rows, positions, caches, NaN, a call that ends half way. */
#ifndef MR3D_DRIFT_SYMPTOMS_H
#define MR3D_DRIFT_SYMPTOMS_H

#include "align.h"
#include "signals.h"

typedef struct mr3d_symptom {
  const mr3d_signal *signal;
  int64_t step, layer; /**< layer MR3D_TRACE_MODEL: of none */
  char found[300];     /**< "step 1, layer 0: visible has 232 columns, the cache holds 786 keys and 1 more comes: 787" */
} mr3d_symptom;

/** The rows that the trace shows, each at the first place where it does; at most `most` (16 are enough). Reads of the large points only what NaN needs. Returns how many. */
int mr3d_symptoms_of_trace(mr3d_aligned *, int most, mr3d_symptom *found);

/** The numbers that a message about this trace's calls would hold. */
mr3d_signal_numbers mr3d_symptom_numbers(const mr3d_aligned *);

#endif
