/** A mutant tried on the requests of a failing case, as cheaply as its answer to the last one can be had. */
#ifndef MR3D_CONFORM_TRIAL_H
#define MR3D_CONFORM_TRIAL_H

#include "mutants.h"

typedef struct mr3d_trial mr3d_trial;

/**
 * Prepares trials on these requests, which must outlive them: floating inputs are widened once for all mutants. Of a single layer over many tokens only
 * `tokens` (ascending, n_tokens of them) are computed, as thinning.h says; of other operators everything. Where the last request is one to be refused
 * nothing is widened: a type may be the reason. `refused` says which of the requests before the last one the backend refused.
 */
mr3d_trial *mr3d_trial_new(int n_requests, mr3d_bundle *const requests[], const bool refused[], bool refusal_due, int64_t n_tokens, const int64_t tokens[],
                           mr3d_weights_cache *, int threads);
void mr3d_trial_free(mr3d_trial **);

/**
 * The answer to the last request of a mutant, or of two mistakes at once (`also` may be NULL; they combine), the caller's; NULL when it refuses, or
 * when it answers an earlier request that the backend refused, or the reverse: then it is not what the backend is.
 * Thinned away rows of `hidden` hold anything finite.
 */
mr3d_bundle *mr3d_trial_answer(mr3d_trial *, const mr3d_mutant *, const mr3d_mutant *also);
/** Whether row `token` of `hidden` is computed. */
bool mr3d_trial_has(const mr3d_trial *, int64_t token);

#endif
