/** Reports of a drift: for a terminal, as JSON (docs/drift.schema.json), as one page of HTML. */
#ifndef MR3D_DRIFT_REPORT_H
#define MR3D_DRIFT_REPORT_H

#include <stdio.h>

#include <cjson/cJSON.h>

#include "findings.h"
#include "verdict.h"

/** What is reported beside the records. Borrowed. */
typedef struct mr3d_drift_subject {
  const char *name;          /**< of the file or the backend */
  const char *producer;      /**< what the trace says that made it, or NULL */
  const char *reference;     /**< "generated:5", "the reference's trace b.safetensors" */
  const char *command;       /**< that repeats it, or NULL */
  int n_remarks;
  const char *const *remarks;
  const mr3d_trace_findings *findings; /**< inputs that differ, symptoms; or NULL */
} mr3d_drift_subject;

void mr3d_drift_report_text(const mr3d_drift_run *, const mr3d_drift_verdict *, const mr3d_drift_subject *, FILE *to, bool color);
/** The object of docs/drift.schema.json; the caller's. */
cJSON *mr3d_drift_report_object(const mr3d_drift_run *, const mr3d_drift_verdict *, const mr3d_drift_subject *);
mr3d_status mr3d_drift_report_json(const mr3d_drift_run *, const mr3d_drift_verdict *, const mr3d_drift_subject *, const char *path, mr3d_error *);
mr3d_status mr3d_drift_report_html(const mr3d_drift_run *, const mr3d_drift_verdict *, const mr3d_drift_subject *, const char *path, mr3d_error *);

/** 0 rounding, 2 a fault, other inputs or unexplained, 1 nothing judged. */
int mr3d_drift_exit_status(const mr3d_drift_verdict *);

#endif
