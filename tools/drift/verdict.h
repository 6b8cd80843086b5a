/** What the records of a run add up to: rounding, faults, or another input; in words. */
#ifndef MR3D_DRIFT_VERDICT_H
#define MR3D_DRIFT_VERDICT_H

#include "drift.h"

typedef enum mr3d_drift_kind {
  MR3D_DRIFT_NOTHING,     /**< nothing could be judged */
  MR3D_DRIFT_ROUNDING,
  MR3D_DRIFT_FAULT,
  MR3D_DRIFT_INPUTS,      /**< the model was given something else */
  MR3D_DRIFT_UNEXPLAINED, /**< no operator is at fault, yet the total error is far above what rounding makes of it */
} mr3d_drift_kind;
const char *mr3d_drift_kind_name(mr3d_drift_kind); /**< "rounding" */

/** Faults that are one: the same mistake, or the same operator where none is named, in some layers and steps. */
typedef struct mr3d_drift_fault {
  int first;            /**< its first record */
  int n;                /**< records */
  char layers[160];     /**< "3", "0 .. 23", "3, 7, 11" */
  char steps[160];
  char heads[160];      /**< of the first record: "all", or those out of bounds */
  char dims[160];       /**< likewise, of a head's dimensions; "" where there are none */
  char classes[160];    /**< which tokens: "points", "all" */
  const char *confidence; /**< "high", "medium", "low" */
  char why[400];        /**< for the confidence */
  char settle[500];     /**< what would settle it */
} mr3d_drift_fault;

/** Errors over layers or steps: rms = start * factor^n, fitted by least squares to the logarithms; NAN where there are too few. */
typedef struct mr3d_drift_growth {
  int n;
  double start, factor;   /**< the subject's, relative to the truth's size */
  double emulated_start, emulated_factor;
} mr3d_drift_growth;

typedef struct mr3d_drift_verdict {
  mr3d_drift_kind kind;
  char headline[700];
  int n_faults;
  mr3d_drift_fault *faults;
  int n_other_faults;              /**< of two traces: the other one's, of mr3d_drift_other's records */
  mr3d_drift_fault *other_faults;
  int judged, composite, unjudged; /**< points */
  int worst_local;        /**< record with the largest statistic over its limit, of those that passed; -1 */
  int worst_total;        /**< record with the largest total error in units of noise; -1 */
  int first_far;          /**< first record whose total error is beyond rounding; -1 */
  mr3d_drift_growth layers, steps;
  int n_evidence;
  char evidence[8][400];
  bool compared;          /**< two traces: totals are differences from the other one, not from a truth */
  int n_missing;
  char missing[600];      /**< points that the trace does not have, "scores, gate in all layers" */
} mr3d_drift_verdict;

/** `difference`: the headline where an input differs (findings.h; NULL: none does), which comes before all else. Ownership: mr3d_drift_verdict_clear. */
void mr3d_drift_conclude(const mr3d_drift_run *, const char *difference, mr3d_drift_verdict *);
void mr3d_drift_verdict_clear(mr3d_drift_verdict *);

/** "step 0, layer 17, query_rotated", as STEP.LAYER.POINT: "0.17.query_rotated". */
char *mr3d_drift_place(const mr3d_drift_record *, char text[64]);

#endif
