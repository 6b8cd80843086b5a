/** Whole files: mapped, and written by replacement. */
#include "file.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

static mr3d_status refused(mr3d_error *error, const char *path, const char *what) {
  return mr3d_fail(error, MR3D_IO, "%s: cannot %s: %s", path, what, strerror(errno));
}

static char nothing[1];

mr3d_status mr3d_map(const char *path, void **bytes, size_t *size, mr3d_error *error) {
  int file = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK); /* a named pipe is refused below instead of waited for */
  if (file < 0)
    return refused(error, path, "open it");
  struct stat about;
  mr3d_status status = MR3D_OK;
  if (fstat(file, &about) != 0)
    status = refused(error, path, "examine it");
  else if (!S_ISREG(about.st_mode))
    status =
        mr3d_fail(error, MR3D_IO, "%s: %s, not a regular file", path, S_ISDIR(about.st_mode) ? "a folder" : "a device or pipe");
  else if (about.st_size == 0) {
    *bytes = nothing;
    *size = 0;
  } else {
    void *mapping = mmap(NULL, (size_t)about.st_size, PROT_READ, MAP_PRIVATE, file, 0);
    if (mapping == MAP_FAILED)
      status = refused(error, path, "map it");
    else {
      *bytes = mapping;
      *size = (size_t)about.st_size;
    }
  }
  close(file);
  return status;
}

void mr3d_unmap(void *bytes, size_t size) {
  if (size > 0)
    munmap(bytes, size);
}

static int write_all(int file, const struct iovec *part) {
  const char *bytes = part->iov_base;
  for (size_t size = part->iov_len; size > 0;) {
    ssize_t written = write(file, bytes, size);
    if (written < 0 && errno == EINTR)
      continue;
    if (written < 0)
      return -1;
    bytes += written;
    size -= (size_t)written;
  }
  return 0;
}

mr3d_status mr3d_write_parts(const char *path, const struct iovec *parts, int n_parts, mr3d_error *error) {
  struct stat about;
  const int direct = stat(path, &about) == 0 && !S_ISREG(about.st_mode);
  const size_t room = strlen(path) + 32;
  char *target = mr3d_allocate((long long)room, 1);
  if (direct)
    snprintf(target, room, "%s", path);
  else
    snprintf(target, room, "%s.tmp.%ld", path, (long)getpid());

  mr3d_status status = MR3D_OK;
  int file = open(target, O_WRONLY | O_CLOEXEC | (direct ? 0 : O_CREAT | O_TRUNC), 0666);
  if (file < 0)
    status = refused(error, path, "create it");
  else {
    for (int i = 0; i < n_parts && status == MR3D_OK; i++)
      if (write_all(file, &parts[i]) != 0)
        status = refused(error, path, "write it");
    if (close(file) != 0 && status == MR3D_OK)
      status = refused(error, path, "write it");
    if (!direct && status == MR3D_OK && rename(target, path) != 0)
      status = refused(error, path, "put it in place");
    if (!direct && status != MR3D_OK)
      unlink(target);
  }
  free(target);
  return status;
}

mr3d_status mr3d_write_file(const char *path, const void *bytes, size_t size, mr3d_error *error) {
  return mr3d_write_parts(path, &(struct iovec){(void *)bytes, size}, 1, error);
}
