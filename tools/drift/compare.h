/** Two traces of the same calls: where one parts from the other (docs/drift.md, "Two traces"). */
#ifndef MR3D_DRIFT_COMPARE_H
#define MR3D_DRIFT_COMPARE_H

#include "drift.h"

/**
 * Adds steps and records to a run that has taken nothing: of each point that both have, the difference as its total error, in units of what rounding makes of it (`size` is
 * that of `other`). Tensors are read where they lie, row by row. Points of different shapes are recorded as out of bounds.
 */
void mr3d_drift_compare(mr3d_drift_run *, const mr3d_drift_source *subject, const mr3d_drift_source *other, int64_t steps);

/** Layers in which the difference first exceeds rounding, or leaps, ascending; returns how many, at most `most`. MR3D_DRIFT_MODEL stands for the model's own points. */
int mr3d_drift_suspicious_layers(const mr3d_drift_run *, int64_t layers[], int most);

/** Copies the local errors, verdicts and diagnoses of `local` to the records of the same places. */
void mr3d_drift_adopt(mr3d_drift_run *, mr3d_drift_run *local);

/** Keeps what became of the other trace's operators, replayed on its own inputs, beside the comparison; takes ownership. */
void mr3d_drift_keep_other(mr3d_drift_run *, mr3d_drift_run **replayed);
/** NULL: the other trace was not replayed. */
const mr3d_drift_run *mr3d_drift_other(const mr3d_drift_run *);

#endif
