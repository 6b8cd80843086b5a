#include "scratch.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

static char folder[4096];

static const int signals[] = {SIGINT, SIGTERM, SIGHUP};
enum { n_signals = sizeof signals / sizeof *signals };
static struct sigaction before[n_signals];

/** What getdents64 fills in (man 2 getdents); readdir allocates, which a signal handler must not. */
struct entry {
  uint64_t inode;
  int64_t offset;
  unsigned short length;
  unsigned char type;
  char name[];
};

/** Files, and at the `top` folders of files: those of other processes. Only calls that are safe in a signal handler. */
static void remove_in(int fd, const char *prefix, bool top) {
  size_t prefix_length = strlen(prefix);
  if (fd < 0) return;
  _Alignas(struct entry) char buffer[4096];
  for (long size; (size = syscall(SYS_getdents64, fd, buffer, sizeof buffer)) > 0;)
    for (long at = 0; at < size;) {
      const struct entry *entry = (const struct entry *)(buffer + at);
      const bool dots = entry->name[0] == '.' && (entry->name[1] == 0 || (entry->name[1] == '.' && entry->name[2] == 0));
      if (!dots && strncmp(entry->name, prefix, prefix_length) == 0 && unlinkat(fd, entry->name, 0) != 0 && top && entry->type == DT_DIR) {
        remove_in(openat(fd, entry->name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC), "", false);
        unlinkat(fd, entry->name, AT_REMOVEDIR);
      }
      at += entry->length;
    }
  close(fd);
}

static void remove_files(const char *prefix) { remove_in(open(folder, O_RDONLY | O_DIRECTORY | O_CLOEXEC), prefix, true); }

static void on_signal(int signal_number) {
  remove_files("");
  rmdir(folder);
  struct sigaction standard = {.sa_handler = SIG_DFL};
  sigaction(signal_number, &standard, NULL);
  raise(signal_number); /* the exit status tells the caller which signal it was */
}

mr3d_status mr3d_scratch_open(const char **path, mr3d_error *error) {
  char outer[sizeof folder];
  const char *base = folder[0] ? strcpy(outer, folder) : getenv("TMPDIR");
  if (!base || !*base) base = "/tmp";
  if (snprintf(folder, sizeof folder, "%s/mr3d-XXXXXX", base) >= (int)sizeof folder)
    return mr3d_fail(error, MR3D_IO, "TMPDIR is too long a path");
  if (!mkdtemp(folder)) {
    mr3d_status status = mr3d_fail(
        error, MR3D_IO, "cannot make a temporary folder below %s: %s; set TMPDIR to a folder that can be written", base, strerror(errno));
    folder[0] = '\0';
    return status;
  }
  struct sigaction handler = {.sa_handler = on_signal};
  for (int i = 0; i < n_signals; i++) {
    sigaction(signals[i], NULL, &before[i]);
    if (before[i].sa_handler == SIG_DFL) sigaction(signals[i], &handler, NULL);
  }
  *path = folder;
  return MR3D_OK;
}

void mr3d_scratch_clear(const char *prefix) {
  if (folder[0]) remove_files(prefix);
}

void mr3d_scratch_close(void) {
  if (!folder[0]) return;
  remove_files("");
  rmdir(folder);
  for (int i = 0; i < n_signals; i++) sigaction(signals[i], &before[i], NULL);
  folder[0] = '\0';
}
