/**
 * Many mutants answer one request: what the answers are not compared in is left out, and what the reference computed before is not computed again.
 *
 * Of a single layer, and of a decoder's last, what follows the attention's keys and values concerns each token alone, so only the tokens that are looked at
 * are computed. Products and attentions of the reference's own operators over inputs that it had, bit for bit, are remembered.
 */
#ifndef MR3D_CONFORM_THINNING_H
#define MR3D_CONFORM_THINNING_H

#include "mutants.h"

typedef struct mr3d_thinning mr3d_thinning;

/**
 * For one request, or for the last of several. `tokens` (ascending, n_tokens of them; copied) are those looked at of `hidden`, and of `logits`; 0: all.
 * `no_further`: tokens behind the last of them are computed in no layer of a decoder, for causal ones do not see them; `logits` and what is decoded later are then
 * of no use, and mr3d_thinning_saw_beyond tells whether the answer is. Nothing is left out of
 * the answer of a mutant that is `only_whole`. Where q is small, or the request has no such tokens, nothing is left out. One thinning answers at a time.
 */
mr3d_thinning *mr3d_thinning_new(const mr3d_bundle *request, int64_t n_tokens, const int64_t tokens[], bool no_further);
void mr3d_thinning_free(mr3d_thinning **);
bool mr3d_thinning_is_thin(const mr3d_thinning *);
/** Whether row `token` of `hidden` is computed; others hold anything finite. */
bool mr3d_thinning_has(const mr3d_thinning *, int64_t token);

/** Whether the latest answer may have read tokens that were not computed, as one without a causal mask does: then it is worth nothing. */
bool mr3d_thinning_saw_beyond(const mr3d_thinning *);

/** The table for the server of a mutant, of two at once, or, with none, of the reference (mr3d_server_options). */
mr3d_operators mr3d_thinning_operators(const mr3d_mutant *, const mr3d_mutant *also);
/** The answer, the caller's, or NULL where it refuses, of a server that was made with that table. What the reference computes is remembered for those asked later. */
mr3d_bundle *mr3d_thinning_answer(mr3d_thinning *, mr3d_mutant_server *, const mr3d_mutant *, const mr3d_mutant *also, const mr3d_bundle *request);

#endif
