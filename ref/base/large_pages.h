/** Large pages: a fresh gigabyte in pages of 4 KiB is a quarter of a million page faults, which take longer than filling it does. */
#ifndef MR3D_BASE_LARGE_PAGES_H
#define MR3D_BASE_LARGE_PAGES_H

#include <stddef.h>
#include <stdint.h>
#include <sys/mman.h>
#include <unistd.h>

#define MR3D_LARGE_PAGE ((size_t)2 << 20)

/** Asks for large pages where memory that is about to be filled has room for some. A hint: without it only the time differs. */
static inline void mr3d_large_pages(void *memory, size_t size) {
#ifdef MADV_HUGEPAGE
  if (size < 2 * MR3D_LARGE_PAGE)
    return;
  const uintptr_t page = (uintptr_t)sysconf(_SC_PAGESIZE), at = (uintptr_t)memory, first = (at + page - 1) / page * page;
  madvise((void *)first, (at + size - first) / page * page, MADV_HUGEPAGE);
#else
  (void)memory, (void)size;
#endif
}

#endif
