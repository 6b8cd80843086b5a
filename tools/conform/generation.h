/**
 * Generation: it is judged teacher-forced, each step fed with the truth's greedy tokens, so that one early choice between near equals does not spoil all that
 * follows. Which tokens a backend gives when it is fed with its own stands beside the verdict.
 */
#ifndef MR3D_CONFORM_GENERATION_H
#define MR3D_CONFORM_GENERATION_H

#include "case.h"

#define MR3D_MOST_TOKENS 32

/** Greedy tokens of the first sample, one a step. */
typedef struct mr3d_generation {
  int n; /**< 0: the case is no generation, or was not answered to its end */
  int64_t truth[MR3D_MOST_TOKENS], own[MR3D_MOST_TOKENS];
} mr3d_generation;

/** Whether each step of a case feeds the greedy token of the one before. */
bool mr3d_case_generates(const mr3d_case *);

/** Notes what both choose after a step, fed alike. */
void mr3d_generation_note(mr3d_generation *, int step, const mr3d_bundle *truth, const mr3d_bundle *answer);

/** The first step at which the tokens part, or n. */
int mr3d_generation_parts_at(const mr3d_generation *);
/** "5 17 3 (the truth's are 5 17 4: they part at token 3 of 3)". */
void mr3d_generation_say(const mr3d_generation *, char *to, size_t size);

#endif
