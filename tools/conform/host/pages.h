/** Memory that a plug-in is lent: what it may read it can't write, and what it may write is fenced and poisoned. */
#ifndef MR3D_HOST_PAGES_H
#define MR3D_HOST_PAGES_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/** Pages for a frame of `size` bytes, which hold anything, and 0 behind them; NULL where there is no memory. */
void *mr3d_pages_new(size_t size);
void mr3d_pages_read_only(void *frame, size_t size);
void mr3d_pages_free(void *frame, size_t size);

/** Memory between two ranges that no one can touch, its slack filled with a canary. */
typedef struct mr3d_fence {
  uint8_t *map, *data;
  size_t map_size, size;
} mr3d_fence;

/** `size` bytes aligned to 64, as close below the upper of them as that allows, each byte `poison`. false: no memory. */
bool mr3d_fence_new(size_t size, uint8_t poison, mr3d_fence *fence);
/** Whether the slack before (*before) or behind the data was written to. */
bool mr3d_fence_crossed(const mr3d_fence *fence, bool *before);
void mr3d_fence_free(mr3d_fence *fence);

/**
 * Lets a fault inside [begin, begin + size) be explained on stderr before it ends the process: "mr3d-host: the plug-in " and `what`, then
 * `name`. Both are borrowed until mr3d_faults_forget.
 */
void mr3d_faults_explain(const void *begin, size_t size, const char *what, const char *name);
void mr3d_faults_forget(void);
void mr3d_faults_install(void);

#endif
