#include "pages.h"

#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

enum { ALIGNMENT = 64, CANARY = 0xC7 };

static size_t page(void) { return (size_t)sysconf(_SC_PAGESIZE); }
static size_t whole_pages(size_t size) { return (size + page() - 1) / page() * page(); }

static void *map(size_t size, int protection) {
  void *pages = mmap(NULL, size, protection, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  return pages == MAP_FAILED ? NULL : pages;
}

void *mr3d_pages_new(size_t size) { return map(whole_pages(size), PROT_READ | PROT_WRITE); }
void mr3d_pages_read_only(void *pages, size_t size) { mprotect(pages, whole_pages(size), PROT_READ); }
void mr3d_pages_free(void *pages, size_t size) { munmap(pages, whole_pages(size)); }

bool mr3d_fence_new(size_t size, uint8_t poison, mr3d_fence *fence) {
  if (size > SIZE_MAX / 2) return false;
  size_t inside = whole_pages((size + ALIGNMENT - 1) / ALIGNMENT * ALIGNMENT);
  fence->map_size = inside + 2 * page();
  fence->map = map(fence->map_size, PROT_NONE);
  if (!fence->map) return false;
  uint8_t *begin = fence->map + page(), *end = begin + inside;
  if (inside > 0 && mprotect(begin, inside, PROT_READ | PROT_WRITE) != 0) {
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
  *before = !intact(fence->map + page(), fence->data);
  return *before || !intact(fence->data + fence->size, fence->map + fence->map_size - page());
}

void mr3d_fence_free(mr3d_fence *fence) {
  munmap(fence->map, fence->map_size);
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
