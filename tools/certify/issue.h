/** From runs and parts to claims. */
#ifndef MR3D_CERTIFY_ISSUE_H
#define MR3D_CERTIFY_ISSUE_H

#include "statement.h"

/** What a run may be asked for a scope: the tests of `scope`, and no others. Fits mr3d_run_options.wanted; `user` is an mr3d_wanted_tests. */
typedef struct mr3d_wanted_tests {
  int n;
  const mr3d_test *tests;
} mr3d_wanted_tests;
bool mr3d_is_wanted(void *user, const mr3d_case *, mr3d_tier, mr3d_variant);

/**
 * The claims of a run that asked the tests of a scope: takes over `files` (mr3d_subject_files, with `more_files`) and `machine`. `ops` of the scope is copied. `waivers` is an envelope or NULL.
 */
void mr3d_claims_of_run(const mr3d_run *, const mr3d_scope *, int n_tests, const mr3d_test tests[], cJSON *files, const char *more_files, cJSON *machine,
                        const mr3d_envelope *waivers, mr3d_claims *);

/**
 * Claims of parts as those of one run. `names` are the files', for messages. Errors: a part is missing, there twice, of another division, nonce, scope, suite or backend.
 * The parts' waivers must be NULL.
 */
mr3d_status mr3d_claims_merge(const mr3d_suite *, int n, const mr3d_claims parts[], char *const names[], const char digests[][65], mr3d_claims *, mr3d_error *);

#endif
