/** What the files of `mr3d drift` share: drift.c reads options and traces, drift_ask.c asks a running backend. */
#ifndef MR3D_DRIFT_PARTS_H
#define MR3D_DRIFT_PARTS_H

#include "drift_report.h"
#include "run_parts.h"

/** A backend asked for its own trace, some layers at a time. */
typedef struct mr3d_drift_ask {
  const char *backend;     /**< spec */
  int64_t text, points;    /**< tokens, where there is no scan and no prompt */
  int64_t memory;          /**< MiB of points that one request may ask for */
  double timeout;          /**< seconds a request; 0: none */
  mr3d_run *run;           /**< scan, prompt, features, weights, configuration, steps */
} mr3d_drift_ask;

/** Asks and takes call after call, until all are taken or a fault is found. Errors: could not ask. `subject` says who answered; its strings are valid until mr3d_drift_ask_end. */
mr3d_status mr3d_drift_ask_all(const mr3d_drift_ask *, const mr3d_drift_options *, mr3d_drift_run **, mr3d_drift_subject *subject, mr3d_error *);
void mr3d_drift_ask_end(void);

#endif
