/**
 * Yardstick runs kept in a folder, so that the next backend, or the next run of the same one, need not compute them again.
 *
 * A kept run is found by what it depends on: the bytes of the program and of the libraries, reference and judge, that made it, tier, number of the run, and every request of the case
 * so far, weights included. Nothing else names it, so a stale one is never found and the folder may be shared and deleted at any time.
 * Who can write to the folder can widen the yardstick: it is for one's own runs, and reports say how many runs came from it.
 */
#ifndef MR3D_CONFORM_YARDSTICK_CACHE_H
#define MR3D_CONFORM_YARDSTICK_CACHE_H

#include "mr3d/format.h"
#include "mr3d/tensor.h"

typedef struct mr3d_yardstick_cache mr3d_yardstick_cache;

/** Names a line of requests: starts with what the judged backend promises, changes with each request. */
typedef struct mr3d_request_line {
  unsigned char digest[32];
} mr3d_request_line;

/** Makes the folder where it is missing. Errors: MR3D_IO with path and reason. Ownership: the caller's; mr3d_yardstick_cache_close. */
mr3d_status mr3d_yardstick_cache_open(const char *folder, mr3d_yardstick_cache **, mr3d_error *);
void mr3d_yardstick_cache_close(mr3d_yardstick_cache **);

/** The line with one more request. False where its weights file can't be read: such a line has no name and is not kept. */
bool mr3d_request_line_add(mr3d_request_line *, const mr3d_yardstick_cache *, mr3d_tier, const mr3d_bundle *request);

/**
 * The errors of run `run` at the line's latest request, one F32 tensor for each floating output; NULL where none is kept or what is there is damaged.
 * Ownership: the caller's.
 */
mr3d_bundle *mr3d_yardstick_cache_find(mr3d_yardstick_cache *, const mr3d_request_line *, int run);
/** Keeps a run's errors. What can't be written is not kept: the next run computes it again. */
void mr3d_yardstick_cache_keep(const mr3d_yardstick_cache *, const mr3d_request_line *, int run, const mr3d_bundle *errors);

/** How many runs were found, each at one request. */
int mr3d_yardstick_cache_found(const mr3d_yardstick_cache *);

#endif
