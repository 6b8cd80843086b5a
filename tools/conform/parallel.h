/** Independent pieces of work done by processes, which write what they find into shared memory. */
#ifndef MR3D_CONFORM_PARALLEL_H
#define MR3D_CONFORM_PARALLEL_H

#include <stddef.h>

#include "mr3d/server.h"

/** What a process has of its own. */
typedef struct mr3d_worker {
  mr3d_weights_cache *weights;
  const char *scratch; /**< folder for weights files */
} mr3d_worker;

typedef struct mr3d_work {
  int total;
  mr3d_status (*one)(void *user, mr3d_worker *, int index, mr3d_error *); /**< an error ends all */
  const char *(*name)(void *user, int index);                             /**< for messages */
  void *user;
  void (*progress)(void *user, int done, int total); /**< or NULL; called now and then */
  void *progress_user;
} mr3d_work;

/** Errors: the first of `one`, after its piece's name; a process that died, with the signal. `jobs` 0: one process a processor. */
mr3d_status mr3d_parallel(const mr3d_work *, int jobs, mr3d_error *);
int mr3d_parallel_jobs(int jobs);

/** Zeroed memory that processes started afterwards write for the caller, or NULL. Ownership: mr3d_shared_free with the same size. */
void *mr3d_shared_memory(size_t size);
void mr3d_shared_free(void *memory, size_t size);

#endif
