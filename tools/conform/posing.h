/** A case posed at one tier: its requests, made one after the other, and the truth about them. */
#ifndef MR3D_CONFORM_POSING_H
#define MR3D_CONFORM_POSING_H

#include "case.h"
#include "mr3d/judge.h"

/** Samples of the same case in one batch with those of another seed (challenge.h). */
typedef struct mr3d_beside {
  uint64_t seed; /**< the others' */
  bool first;    /**< they come before the case's own */
} mr3d_beside;

typedef struct mr3d_posing {
  const mr3d_suite *suite;
  const mr3d_case *test;
  mr3d_tier tier;
  uint64_t seed;
  const struct mr3d_beside *beside; /**< samples that stand in the same batch, or NULL */
  const char *scratch;              /**< folder for weights files */
  mr3d_truth *truth;
  mr3d_bundle **requests, **answers; /**< [n_steps]; answers are the truth's, not to be changed, NULL: refused */
} mr3d_posing;

/** Ownership: the caller's; mr3d_posing_close. `suite`, `test`, `scratch` and `weights` are borrowed. */
void mr3d_posing_open(mr3d_posing *, const mr3d_suite *, const mr3d_case *test, mr3d_tier, uint64_t seed, const char *scratch, mr3d_weights_cache *weights, int threads);
void mr3d_posing_close(mr3d_posing *);

/** Makes the request of a step, and its weights file. Requires: the steps before it are answered. */
mr3d_status mr3d_posing_request(mr3d_posing *, int step, mr3d_error *);
/**
 * Runs the request through the reference, which must do as the case expects: answer, or refuse with a message that holds what the case says; `refusal` (may be
 * NULL) is that message. Errors: it does otherwise.
 */
mr3d_status mr3d_posing_answer(mr3d_posing *, int step, mr3d_error *refusal, mr3d_error *);

#endif
