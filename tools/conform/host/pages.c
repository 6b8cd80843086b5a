#include "pages.h"

#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "../../../ref/base/large_pages.h"
#include "../frames.h"

enum { ALIGNMENT = 64, CANARY = 0xC7 };
#define GUARD ((size_t)1 << 20) /* on each side of an output: a row too far, not just an element, is to end there; it takes addresses, no memory */

static size_t page(void) { return (size_t)sysconf(_SC_PAGESIZE); }
static size_t whole_pages(size_t size) { return (size + page() - 1) / page() * page(); }

/* ---- pages that are used again ---- */

/*
 * Large ranges that were given back. The system clears each fresh page, which takes longer than all else that a large tensor meets on its way; so they
 * are kept, shut, and moved to where they are needed next.
 */
static struct spare {
  void *pages;
  size_t size;
} spares[2];

#define SMALLEST_SPARE (2 * MR3D_LARGE_PAGE)
#define LARGEST_SPARE ((size_t)1 << 30)

/* An unused range of addresses whose byte `offset` lies at the beginning of a large page where that pays. */
static uint8_t *reserve(size_t size, size_t offset) {
  const size_t slack = size < SMALLEST_SPARE ? 0 : MR3D_LARGE_PAGE;
  uint8_t *range = mmap(NULL, size + slack, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (range == MAP_FAILED) return NULL;
  const size_t skip = slack ? -((uintptr_t)range + offset) % MR3D_LARGE_PAGE : 0;
  if (skip > 0) munmap(range, skip);
  if (skip < slack) munmap(range + skip + size, slack - skip);
  return range + skip;
}

/* Puts pages that can be written to at a place in a reserved range; what they hold is left to chance. */
static bool put_pages(void *place, size_t size) {
  for (int i = 0; i < 2 && size >= SMALLEST_SPARE; i++) {
    struct spare *s = &spares[i];
    if (!s->pages || mremap(s->pages, s->size, size, MREMAP_MAYMOVE | MREMAP_FIXED, place) == MAP_FAILED) continue;
    s->pages = NULL;
    return mprotect(place, size, PROT_READ | PROT_WRITE) == 0;
  }
  mr3d_large_pages(place, size);
  return mprotect(place, size, PROT_READ | PROT_WRITE) == 0;
}

static void give_back(void *pages, size_t size) {
  for (int i = 0; i < 2 && size >= SMALLEST_SPARE && size <= LARGEST_SPARE; i++)
    if (!spares[i].pages && mprotect(pages, size, PROT_NONE) == 0) {
      spares[i] = (struct spare){pages, size};
      return;
    }
  munmap(pages, size);
}

static uint8_t *pages_of(void *frame) { return (uint8_t *)frame - MR3D_FRAME_OFFSET; }

void *mr3d_pages_new(size_t size) {
  const size_t whole = whole_pages(size + MR3D_FRAME_OFFSET);
  uint8_t *pages = size < SIZE_MAX / 2 ? reserve(whole, 0) : NULL;
  if (!pages) return NULL;
  if (!put_pages(pages, whole)) {
    munmap(pages, whole);
    return NULL;
  }
  memset(pages + MR3D_FRAME_OFFSET + size, 0, whole - MR3D_FRAME_OFFSET - size);
  return pages + MR3D_FRAME_OFFSET;
}

void mr3d_pages_read_only(void *frame, size_t size) { mprotect(pages_of(frame), whole_pages(size + MR3D_FRAME_OFFSET), PROT_READ); }
void mr3d_pages_free(void *frame, size_t size) { give_back(pages_of(frame), whole_pages(size + MR3D_FRAME_OFFSET)); }

bool mr3d_fence_new(size_t size, uint8_t poison, mr3d_fence *fence) {
  if (size > SIZE_MAX / 2) return false;
  size_t inside = whole_pages((size + ALIGNMENT - 1) / ALIGNMENT * ALIGNMENT);
  fence->map_size = inside + 2 * GUARD;
  fence->map = reserve(fence->map_size, GUARD);
  if (!fence->map) return false;
  uint8_t *begin = fence->map + GUARD, *end = begin + inside;
  if (inside > 0 && !put_pages(begin, inside)) {
    munmap(fence->map, fence->map_size);
    return false;
  }
  fence->size = size;
  fence->data = end - (size + ALIGNMENT - 1) / ALIGNMENT * ALIGNMENT;
  memset(begin, CANARY, (size_t)(fence->data - begin));
  memset(fence->data, poison, size);
  memset(fence->data + size, CANARY, (size_t)(end - fence->data) - size);
  return true;
}

static bool intact(const uint8_t *begin, const uint8_t *end) {
  for (; begin < end; begin++)
    if (*begin != CANARY) return false;
  return true;
}

bool mr3d_fence_crossed(const mr3d_fence *fence, bool *before) {
  *before = !intact(fence->map + GUARD, fence->data);
  return *before || !intact(fence->data + fence->size, fence->map + fence->map_size - GUARD);
}

void mr3d_fence_free(mr3d_fence *fence) {
  const size_t inside = fence->map_size - 2 * GUARD;
  if (inside > 0) give_back(fence->map + GUARD, inside);
  munmap(fence->map, GUARD);
  munmap(fence->map + GUARD + inside, GUARD);
  memset(fence, 0, sizeof *fence);
}

/* ---- faults ---- */

typedef struct region {
  const uint8_t *begin, *end;
  const char *what, *name;
} region;

static region *regions;
static size_t n_regions, room;

void mr3d_faults_explain(const void *begin, size_t size, const char *what, const char *name) {
  if (n_regions == room) {
    room = room ? 2 * room : 64;
    regions = realloc(regions, room * sizeof *regions);
    if (!regions) abort();
  }
  regions[n_regions++] = (region){begin, (const uint8_t *)begin + size, what, name};
}

void mr3d_faults_forget(void) { n_regions = 0; }

static void say(const char *text) {
  ssize_t ignored = write(2, text, strlen(text));
  (void)ignored;
}

/* Only calls that are safe in a signal handler. Returning repeats the fault, which then ends the process (SA_RESETHAND). */
static void explain(int signal_number, siginfo_t *info, void *context) {
  (void)signal_number, (void)context;
  const uint8_t *at = info->si_addr;
  for (size_t i = 0; i < n_regions; i++)
    if (at >= regions[i].begin && at < regions[i].end) {
      say("mr3d-host: the plug-in "), say(regions[i].what), say(" \""), say(regions[i].name), say("\"\n");
      return;
    }
}

void mr3d_faults_install(void) {
  static uint8_t stack[65536];
  sigaltstack(&(stack_t){.ss_sp = stack, .ss_size = sizeof stack}, NULL);
  struct sigaction action = {.sa_sigaction = explain, .sa_flags = (int)(SA_SIGINFO | SA_ONSTACK | SA_RESETHAND)};
  sigaction(SIGSEGV, &action, NULL);
  sigaction(SIGBUS, &action, NULL);
}
