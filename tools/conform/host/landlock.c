/* Landlock: rights to files that a process gives up, without any privilege. Its constants are written here, since headers are often older than kernels. */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "isolation.h"

/* The same numbers on every architecture. */
enum { CREATE_RULESET = 444, ADD_RULE = 445, RESTRICT_SELF = 446 };
enum { PATH_BENEATH = 1 };

#define WRITE_FILE (1ULL << 1)
#define READ_FILE (1ULL << 2)
#define READ_FOLDER (1ULL << 3)
#define CHANGE_FOLDER (0x1FF0ULL) /* remove and make: bits 4 to 12 */
#define REFER (1ULL << 13)        /* from version 2 */
#define TRUNCATE (1ULL << 14)     /* 3 */
#define DEVICE_IOCTL (1ULL << 15) /* 5 */
#define TCP (3ULL)                /* 4: bind and connect */
#define SCOPES (3ULL)             /* 6: abstract sockets and signals of others */

struct ruleset {
  uint64_t files, network, scopes;
};

struct __attribute__((packed)) beneath {
  uint64_t allowed;
  int32_t folder;
};

/** Allows `rights` on a path and, where it is a folder, on all below. What cannot be opened needs no rule. */
static void allow(int rules, const char *path, uint64_t rights) {
  struct stat status;
  int fd = open(path, O_PATH | O_NOFOLLOW | O_CLOEXEC);
  if (fd < 0) return;
  if (fstat(fd, &status) == 0 && !S_ISLNK(status.st_mode)) {
    struct beneath rule = {S_ISDIR(status.st_mode) ? rights : rights & ~READ_FOLDER, fd};
    syscall(ADD_RULE, rules, PATH_BENEATH, &rule, 0);
  }
  close(fd);
}

/** Reading everywhere but below `hidden`: rules only allow, so all that lies beside the way to it gets one. */
static int allow_beside(int rules, const char *hidden) {
  char way[PATH_MAX], path[PATH_MAX + NAME_MAX + 2];
  if (snprintf(way, sizeof way, "%s", hidden) >= (int)sizeof way || way[0] != '/') return EINVAL;
  for (char *slash = way; slash; ) {
    char *next = strchr(slash + 1, '/'), *name = slash + 1;
    size_t length = next ? (size_t)(next - name) : strlen(name);
    *slash = 0;
    DIR *folder = opendir(*way ? way : "/");
    if (!folder) return errno;
    for (struct dirent *entry; (entry = readdir(folder));) {
      bool on_the_way = strlen(entry->d_name) == length && strncmp(entry->d_name, name, length) == 0;
      if (on_the_way || strcmp(entry->d_name, ".") == 0 || strcmp(entry->d_name, "..") == 0) continue;
      snprintf(path, sizeof path, "%s/%s", way, entry->d_name);
      allow(rules, path, READ_FILE | READ_FOLDER);
    }
    closedir(folder);
    *slash = '/';
    slash = next;
  }
  return 0;
}

int mr3d_landlock(const char *hidden, int *abi) {
  *abi = (int)syscall(CREATE_RULESET, NULL, 0, 1U /* asks for the version */);
  if (*abi < 1) return errno;
  struct ruleset set = {.files = WRITE_FILE | CHANGE_FOLDER | (hidden ? READ_FILE | READ_FOLDER : 0)};
  if (*abi >= 2) set.files |= REFER;
  if (*abi >= 3) set.files |= TRUNCATE;
  if (*abi >= 4) set.network = TCP;
  if (*abi >= 5) set.files |= DEVICE_IOCTL;
  if (*abi >= 6) set.scopes = SCOPES;
  size_t size = *abi >= 6 ? sizeof set : *abi >= 4 ? 2 * sizeof set.files : sizeof set.files;
  int rules = (int)syscall(CREATE_RULESET, &set, size, 0);
  if (rules < 0) return errno;
  int reason = hidden ? allow_beside(rules, hidden) : 0;
  static const char *const harmless[] = {"/dev/null", "/dev/zero", "/dev/full", "/dev/random", "/dev/urandom"};
  for (size_t i = 0; i < sizeof harmless / sizeof *harmless; i++) allow(rules, harmless[i], WRITE_FILE | (hidden ? READ_FILE : 0));
  if (reason == 0 && syscall(RESTRICT_SELF, rules, 0) != 0) reason = errno;
  close(rules);
  return reason;
}
