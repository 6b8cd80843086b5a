/** What a trace shows before any number of it is compared: other inputs than the reference's, and rows of the table of error signals. */
#ifndef MR3D_DRIFT_FINDINGS_H
#define MR3D_DRIFT_FINDINGS_H

#include <cjson/cJSON.h>

#include "inputs.h"
#include "symptoms.h"

/** Zero-initialise. Ownership: mr3d_findings_clear. */
typedef struct mr3d_trace_findings {
  mr3d_input_differences inputs;
  int n_symptoms;
  mr3d_symptom symptoms[16];
  int n_lines;
  char **lines;        /**< all of it for people, a finding a line; differences that layers share are one */
  bool other_inputs;   /**< there is a difference */
  char headline[700];  /**< the first that is more than a coarser number format: "different inputs: layer 3 q_proj.weight differs: ..."; else how many are; "" */
} mr3d_trace_findings;

/** Compares what `subject` was computed from with `reference`, and looks for symptoms in the subject's trace. */
void mr3d_findings_gather(mr3d_trace_findings *, const mr3d_inputs_side *subject, const mr3d_inputs_side *reference);
void mr3d_findings_clear(mr3d_trace_findings *);

/** Adds members "inputs" (an object) and "signals" (an array) to a report (docs/traces.md, "In a report"). */
void mr3d_findings_add(const mr3d_trace_findings *, cJSON *report);

#endif
