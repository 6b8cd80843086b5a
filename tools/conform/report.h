/** Reports of a run: for people on a terminal and in a browser, for machines as JSON lines and JUnit. */
#ifndef MR3D_CONFORM_REPORT_H
#define MR3D_CONFORM_REPORT_H

#include <stdio.h>

#include "run.h"

/** Findings, the table per operator and tier, the verdict. `brief`: no table. `colour`: with terminal colours. */
void mr3d_report_text(const mr3d_run *, FILE *to, bool brief, bool colour);

/* Files, written by replacement. Errors: MR3D_IO with the path. */
mr3d_status mr3d_report_json(const mr3d_run *, const char *path, mr3d_error *); /**< JSON lines, docs/report.schema.json */
mr3d_status mr3d_report_junit(const mr3d_run *, const char *path, mr3d_error *);
mr3d_status mr3d_report_html(const mr3d_run *, const char *path, mr3d_error *); /**< one page, nothing loaded from elsewhere */

/** A comparison of files: result i, of one step, is that of the pair paths[2 * i], paths[2 * i + 1]. JSON lines, docs/report.schema.json. */
mr3d_status mr3d_report_pairs_json(const mr3d_run *, char *const paths[], int exit_status, const char *path, mr3d_error *);

/* ---- what the reports share ---- */

const char *mr3d_verdict_name(mr3d_verdict);  /**< "passed", "failed", "skipped", "broken" */
const char *mr3d_reply_name(mr3d_reply_kind); /**< "answer", "error", "unsupported", "crash", "timeout", "malformed" */

/** "COMPLIANT", "NOT COMPLIANT", "COULD NOT JUDGE", and why in one sentence. */
const char *mr3d_run_verdict(const mr3d_run *, char why[512]);

/** "asked 2 times, again in the order of --shuffle 7, by 3 processes", or "" where each case was asked once by one. */
void mr3d_run_order(const mr3d_run *, char order[128]);

/** Results that were answered otherwise when asked again, each within tolerance: information only. */
int mr3d_run_unsteady(const mr3d_run *);
bool mr3d_result_unsteady(const mr3d_result *);

/** How small an error of an operator is seen at a tier, as a part of a sentence: "errors of an operator below 2e-15 of all outputs ..." (docs/tolerance.md, "Sensitivity"). */
const char *mr3d_tier_blind_below(mr3d_tier);

#define MR3D_MAX_LIMITS 8
/**
 * What a run that passed does not exclude, a sentence each: errors below what its tiers show, tiers, operators and pitfalls that were not judged, stored answers.
 * Returns how many.
 */
int mr3d_run_limits(const mr3d_run *, char limits[MR3D_MAX_LIMITS][1024]);

/** The statistic nearest to its limit, and where; `share` is value over limit. */
typedef struct mr3d_worst {
  double share;
  const char *rule, *tensor; /**< NULL: nothing was measured against a limit */
} mr3d_worst;
mr3d_worst mr3d_result_worst(const mr3d_result *);

/** One operator's results (a case counts for the operator it is about), in order of appearance. */
typedef struct mr3d_operator_row {
  const char *op;
  int count[MR3D_N_TIERS][4]; /**< by tier and verdict */
  mr3d_worst worst;
  const mr3d_result *where; /**< of `worst`, or NULL */
} mr3d_operator_row;
/** Ownership: the caller's; free(). */
mr3d_operator_row *mr3d_operator_rows(const mr3d_run *, int *n_rows);

/** Findings (failed or broken results) of one mistake, or, where none is named, of one operator. */
typedef struct mr3d_finding {
  const char *name;
  int n_results;
  const mr3d_result **results;
} mr3d_finding;
mr3d_finding *mr3d_findings(const mr3d_run *, int *n_findings);
void mr3d_findings_free(mr3d_finding **, int n_findings);

/** A tensor verdict that failed first, or NULL. */
const mr3d_tensor_verdict *mr3d_result_failure(const mr3d_result *);

/** What the backend wrote to stderr during the step that decided the result, or "". */
const char *mr3d_result_log(const mr3d_result *);

/** The command that repeats one result, words quoted for a shell. Ownership: the caller's. */
char *mr3d_rerun_command(const mr3d_run *, const mr3d_result *);

/** A copy that is valid UTF-8 without control characters but newline and tab: whatever a backend wrote, it cannot break a report. The
 * caller's. */
char *mr3d_clean_text(const char *text);

/** Writes text with & < > " ' escaped, for XML and HTML; cleaned first. */
void mr3d_write_escaped(FILE *to, const char *text);

/** Ends a memory stream opened by open_memstream and writes what it holds to `path`. */
mr3d_status mr3d_report_save(FILE *stream, char **bytes, size_t *size, const char *path, mr3d_error *);

#endif
