/** What a backend answered the first time, to be compared with what it answers when it is asked again: pitfall P26. */
#ifndef MR3D_CONFORM_REPEAT_H
#define MR3D_CONFORM_REPEAT_H

#include "run.h"

typedef struct mr3d_memory mr3d_memory;

/** For so many results; answers are held up to `room` bytes in all, of those beyond only a digest. */
mr3d_memory *mr3d_memory_new(int n_results, uint64_t room);
void mr3d_memory_free(mr3d_memory **);

/** Keeps the first reply to a step; its answer may be taken over, and is NULL then. `after` is what was asked right before the case. */
void mr3d_memory_keep(mr3d_memory *, int result, int step, const mr3d_case *after, mr3d_reply *);

/**
 * Whether a reply is another than the first, answers bit for bit: fills all of the difference but repetition, after and failed. Refusals are alike
 * whatever they say.
 */
bool mr3d_memory_differs(const mr3d_memory *, int result, int step, const mr3d_reply *, mr3d_difference *);

/** A permutation of 0 .. n-1, drawn for that repetition. */
void mr3d_shuffle(uint64_t seed, int repetition, int n, int order[]);

/** The difference in one line. */
void mr3d_difference_say(const mr3d_difference *, const mr3d_result *, char *to, size_t size);

#endif
