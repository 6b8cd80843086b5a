/** safetensors tensor by tensor (mr3d/safetensors.h). */
#include "mr3d/safetensors.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cjson/cJSON.h>

#include "../base/bundle.h"
#include "parts.h"

/* Some 9,000 tensors: all points of 24 layers in 15 steps. */
#define HEADER_ROOM ((int64_t)1 << 20)
#define COPY_BLOCK ((int64_t)1 << 20)

/*
 * Data of the file itself is aligned for every type as long as each tensor in it has a multiple of 8 bytes. The others wait in a second file, which
 * follows in the end, widest elements first as in any file of the suite; a file may have no gaps that would align them earlier.
 */
struct mr3d_safetensors_writer {
  char *path, *name, *waiting_name;
  int file, waiting;
  int64_t size, waiting_size; /* of their tensors */
  mr3d_bundle *header;        /* metadata, and tensors without their data */
  int64_t *begin, room;       /* of each tensor in its file */
  bool *waits;
  mr3d_error failed;          /* the first failure */
};

static void fail(mr3d_safetensors_writer *w, const char *what) {
  if (w->failed.status == MR3D_OK) mr3d_fail(&w->failed, MR3D_IO, "%s: cannot %s: %s", w->path, what, strerror(errno));
}

static char *beside(const char *path, const char *what) {
  const size_t room = strlen(path) + 40;
  char *name = mr3d_allocate((long long)room, 1);
  snprintf(name, room, "%s.%s.%ld", path, what, (long)getpid());
  return name;
}

static void release(mr3d_safetensors_writer **writer) {
  mr3d_safetensors_writer *w = *writer;
  if (w->file >= 0) close(w->file), unlink(w->name);
  if (w->waiting >= 0) close(w->waiting);
  mr3d_bundle_free(&w->header);
  free(w->path), free(w->name), free(w->waiting_name), free(w->begin), free(w->waits), free(w);
  *writer = NULL;
}

mr3d_status mr3d_safetensors_writer_open(const char *path, mr3d_safetensors_writer **writer, mr3d_error *error) {
  struct stat about;
  const size_t length = strlen(path);
  if (stat(path, &about) == 0 && !S_ISREG(about.st_mode))
    return mr3d_fail(error, MR3D_IO, "%s: %s, not a regular file: its header is written last, before the data", path, S_ISDIR(about.st_mode) ? "a folder" : "a device or pipe");
  if (length >= 3 && strcmp(path + length - 3, ".gz") == 0)
    return mr3d_fail(error, MR3D_INVALID, "%s: what is written tensor by tensor is not compressed; give a name without .gz", path);
  mr3d_safetensors_writer *w = mr3d_allocate(1, sizeof *w);
  *w = (mr3d_safetensors_writer){.path = strdup(path), .name = beside(path, "tmp"), .waiting_name = beside(path, "rest"), .header = mr3d_bundle_new()};
  w->file = open(w->name, O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC, 0666);
  w->waiting = w->file < 0 ? -1 : open(w->waiting_name, O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
  if (w->waiting >= 0) unlink(w->waiting_name);
  if (w->file < 0 || w->waiting < 0) {
    mr3d_fail(error, MR3D_IO, "%s: cannot create it: %s", path, strerror(errno));
    release(&w);
    return MR3D_IO;
  }
  *writer = w;
  return MR3D_OK;
}

void mr3d_safetensors_writer_set(mr3d_safetensors_writer *w, const char *key, const char *value) { mr3d_bundle_set(w->header, key, value); }

bool mr3d_safetensors_writer_has(const mr3d_safetensors_writer *w, const char *name) { return mr3d_bundle_find(w->header, name) != NULL; }

int64_t mr3d_safetensors_writer_bytes(const mr3d_safetensors_writer *w) { return w->size + w->waiting_size; }

static bool write_at(int file, const char *bytes, int64_t size, int64_t at) {
  while (size > 0) {
    const ssize_t written = pwrite(file, bytes, (size_t)size, at);
    if (written < 0 && errno == EINTR) continue;
    if (written <= 0) return false;
    bytes += written, at += written, size -= written;
  }
  return true;
}

static bool read_at(int file, char *bytes, int64_t size, int64_t at) {
  while (size > 0) {
    const ssize_t got = pread(file, bytes, (size_t)size, at);
    if (got < 0 && errno == EINTR) continue;
    if (got <= 0) return false;
    bytes += got, at += got, size -= got;
  }
  return true;
}

static void *grown(void *old, int64_t count, int64_t room, size_t size) {
  void *memory = mr3d_allocate(room, size);
  if (count) memcpy(memory, old, (size_t)count * size);
  free(old);
  return memory;
}

void mr3d_safetensors_writer_add(mr3d_safetensors_writer *w, const char *name, const mr3d_tensor *tensor) {
  const int i = mr3d_bundle_count(w->header);
  const int64_t bytes = (int64_t)mr3d_tensor_bytes(tensor);
  static char nothing[1];
  if (i == w->room) {
    w->room = w->room ? 2 * w->room : 256;
    w->begin = grown(w->begin, i, w->room, sizeof *w->begin);
    w->waits = grown(w->waits, i, w->room, sizeof *w->waits);
  }
  mr3d_bundle_borrow(w->header, name ? name : tensor->name, tensor->dtype, tensor->rank, tensor->shape, nothing);
  w->waits[i] = bytes % MR3D_SAFETENSORS_ALIGNMENT != 0;
  w->begin[i] = w->waits[i] ? w->waiting_size : w->size;
  if (w->failed.status == MR3D_OK && !write_at(w->waits[i] ? w->waiting : w->file, tensor->data, bytes, w->waits[i] ? w->begin[i] : 8 + HEADER_ROOM + w->begin[i]))
    fail(w, "write it");
  *(w->waits[i] ? &w->waiting_size : &w->size) += bytes;
}

/* Moves `size` bytes within or between files; blocks go from the end, so that data can be moved to a later place of its own file. */
static bool move(int from, int64_t at, int to, int64_t target, int64_t size) {
  char *block = mr3d_allocate(COPY_BLOCK, 1);
  bool good = true;
  while (size > 0 && good) {
    const int64_t n = size < COPY_BLOCK ? size : COPY_BLOCK;
    size -= n;
    good = read_at(from, block, n, at + size) && write_at(to, block, n, target + size);
  }
  free(block);
  return good;
}

/* What waited goes behind the rest, widest elements first. `begin` becomes the place in the data section; `from` keeps where it lay. */
static void place_waiting(mr3d_safetensors_writer *w, int64_t *from) {
  int64_t at = w->size;
  for (int64_t element = MR3D_SAFETENSORS_ALIGNMENT; element > 0; element /= 2)
    for (int i = 0; i < mr3d_bundle_count(w->header); i++) {
      const mr3d_tensor *tensor = mr3d_bundle_at(w->header, i);
      if (!w->waits[i] || (int64_t)mr3d_dtype_size(tensor->dtype) != element) continue;
      from[i] = w->begin[i];
      w->begin[i] = at;
      at += (int64_t)mr3d_tensor_bytes(tensor);
    }
}

static void finish(mr3d_safetensors_writer *w) {
  const int count = mr3d_bundle_count(w->header);
  int64_t *from = mr3d_allocate(count, sizeof *from);
  place_waiting(w, from);
  char *text = mr3d_safetensors_header(w->header, w->begin, &w->failed);
  if (text) {
    w->failed.status = MR3D_OK; /* the header is made with a failure at hand */
    const int64_t length = (int64_t)strlen(text), needed = (length + MR3D_SAFETENSORS_ALIGNMENT - 1) / MR3D_SAFETENSORS_ALIGNMENT * MR3D_SAFETENSORS_ALIGNMENT;
    const int64_t header = needed > HEADER_ROOM ? needed : HEADER_ROOM;
    char *start = mr3d_allocate(8 + header, 1);
    memset(start, ' ', (size_t)(8 + header));
    for (int i = 0; i < 8; i++) start[i] = (char)(header >> 8 * i & 0xFF);
    memcpy(start + 8, text, (size_t)length);
    if (header > MR3D_SAFETENSORS_MAX_HEADER) mr3d_fail(&w->failed, MR3D_INVALID, "%s: header of %lld bytes is above the format's limit", w->path, (long long)header);
    else if (header > HEADER_ROOM && !move(w->file, 8 + HEADER_ROOM, w->file, 8 + header, w->size)) fail(w, "write it");
    else if (!write_at(w->file, start, 8 + header, 0)) fail(w, "write it");
    for (int i = 0; i < count && w->failed.status == MR3D_OK; i++)
      if (w->waits[i] && !move(w->waiting, from[i], w->file, 8 + header + w->begin[i], (int64_t)mr3d_tensor_bytes(mr3d_bundle_at(w->header, i)))) fail(w, "write it");
    free(start);
    cJSON_free(text);
  }
  free(from);
}

mr3d_status mr3d_safetensors_writer_close(mr3d_safetensors_writer **writer, bool keep, mr3d_error *error) {
  mr3d_safetensors_writer *w = *writer;
  if (!w) return MR3D_OK;
  if (keep && w->failed.status == MR3D_OK) finish(w);
  if (keep && w->failed.status == MR3D_OK) {
    const int file = w->file;
    w->file = -1; /* what follows removes or keeps the name */
    if (close(file) != 0) fail(w, "write it");
    else if (rename(w->name, w->path) != 0) fail(w, "put it in place");
    if (w->failed.status != MR3D_OK) unlink(w->name);
  }
  const mr3d_status status = keep ? w->failed.status : MR3D_OK;
  if (status != MR3D_OK && error) *error = w->failed;
  release(writer);
  return status;
}
