/**
 * Certificates, reports of failure and partial results as in-toto statements (docs/certificate.md, "The file").
 *
 * A statement consists of claims, which somebody vouches for, and of what follows from them and from the suite: counts, roots, lists of tests, verdict. One function draws
 * all conclusions, for the one who writes and for the one who checks, so a statement is right exactly when its claims make the same bytes again.
 */
#ifndef MR3D_CERTIFY_STATEMENT_H
#define MR3D_CERTIFY_STATEMENT_H

#include <cjson/cJSON.h>

#include "leaves.h"
#include "waivers.h"

#define MR3D_PREDICATE_TYPE "https://in-toto.io/attestation/test-result/v0.1"
#define MR3D_EXTENSION "urn:x-mr3d:certificate:v1" /* the predicate's key for all that test-result has no field for */

typedef struct mr3d_claims {
  char issued[32];
  char commit[96];           /**< of the suite */
  mr3d_scope scope;          /**< `ops` is owned */
  cJSON *files, *backend;    /**< subject.h */
  cJSON *machines;           /**< one for each shard */
  char *leaves;              /**< leaves.h */
  cJSON *reasons;            /**< [{"test", "reason", "mistake"}] of what did not pass */
  cJSON *unsteady;           /**< tests answered otherwise when asked again, within tolerance */
  cJSON *waivers;            /**< an envelope as JSON, or NULL */
  cJSON *parts;              /**< [SHA-256] of the partial results a certificate was merged from, or NULL */
} mr3d_claims;

void mr3d_claims_clear(mr3d_claims *);

typedef enum mr3d_kind { MR3D_CERTIFICATE, MR3D_FAILURE, MR3D_PARTIAL } mr3d_kind;

/** What follows from claims. */
typedef struct mr3d_conclusion {
  mr3d_kind kind;
  int n_tests, passed, failed, skipped, waived, again; /**< `failed` and `skipped` without those waived */
  int fixed;           /**< tests that a stored answer passes, for no nonce changes it (rules.h) */
  int floating, equal; /**< below fp64, passed with floating outputs; of these, one output has no error against the binary64 reference */
  int n_waivers;
  char verdict[1200]; /**< "conforms", "conforms with 1 waiver", "does not conform: ..." */
} mr3d_conclusion;

/**
 * The payload of the statement that follows from claims, one line of JSON without a line break. Errors: tests missing or doubled, numbers that do not allow their verdict, a profile
 * whose list has no version, waivers that cannot be read or have expired on the day of issue.
 * Waivers that are unused or over-broad make a report of failure. Ownership: on success *payload is the caller's.
 */
mr3d_status mr3d_statement_make(const mr3d_suite *, const mr3d_claims *, char **payload, mr3d_conclusion *, mr3d_error *);

/** The claims of a payload, read strictly; `statement` (may be NULL) is all of it. Errors: MR3D_FORMAT. Ownership: mr3d_claims_clear, cJSON_Delete. */
mr3d_status mr3d_statement_read(const char *payload, size_t size, mr3d_claims *, cJSON **statement, mr3d_error *);

/** Reads, draws the conclusions again, and compares all bytes. Errors: the first that differs, and what follows instead. */
mr3d_status mr3d_statement_check(const mr3d_suite *, const char *payload, size_t size, mr3d_claims *, mr3d_conclusion *, mr3d_error *);

/** "certificate", "report of failure", "partial result". */
const char *mr3d_kind_name(mr3d_kind);

/** The commit this program was built from, or "unknown". */
const char *mr3d_suite_commit(void);

/** "core@fp32,bf16, version 1". */
void mr3d_scope_say(const mr3d_scope *, char *to, size_t size);
/** What a pass proves, in words; narrower where the operators are. The caller's: free(). */
char *mr3d_scope_proves(const mr3d_scope *);

#endif
