/* A weights file: safetensors, mapped; float32 tensors are used where they lie, others are converted once. */
#include <cjson/cJSON.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "weights.h"

struct weights {
  char *path;
  struct stat identity; /* another file may take the path while sessions still use this one */
  int users;
  uint8_t *bytes;
  size_t size;
  cJSON *header;
  const uint8_t *data;
  size_t data_size;
  struct converted {
    const char *name;
    float *values;
    struct converted *next;
  } *converted;
  weights *next;
};

static void close_file(weights *w) {
  for (struct converted *v = w->converted, *next; v; v = next) next = v->next, free(v->values), free(v);
  cJSON_Delete(w->header);
  if (w->bytes) munmap(w->bytes, w->size);
  free(w->path);
  free(w);
}

/* Says what is wrong, or NULL. */
static const char *map_file(weights *w, const char *path) {
  const int fd = open(path, O_RDONLY | O_CLOEXEC);
  struct stat *s = &w->identity;
  if (fd < 0) return strerror(errno);
  if (fstat(fd, s) == 0 && S_ISREG(s->st_mode) && s->st_size >= 8) {
    void *bytes = mmap(NULL, (size_t)s->st_size, PROT_READ, MAP_PRIVATE, fd, 0);
    if (bytes != MAP_FAILED) w->bytes = bytes, w->size = (size_t)s->st_size;
  }
  close(fd);
  if (!w->bytes) return "it is no file of 8 bytes or more";
  uint64_t length = 0;
  for (int i = 7; i >= 0; i--) length = length << 8 | w->bytes[i];
  if (length > w->size - 8) return "its header is longer than the file";
  w->header = cJSON_ParseWithLength((const char *)w->bytes + 8, (size_t)length);
  if (!cJSON_IsObject(w->header)) return "its header is no JSON object";
  w->data = w->bytes + 8 + length;
  w->data_size = w->size - 8 - (size_t)length;
  return NULL;
}

weights *open_weights(call *c, weights **all, const char *path) {
  struct stat s = {0};
  stat(path, &s);
  for (weights *w = *all; w; w = w->next)
    if (strcmp(w->path, path) == 0 && w->identity.st_ino == s.st_ino && w->identity.st_size == s.st_size &&
        w->identity.st_mtim.tv_sec == s.st_mtim.tv_sec && w->identity.st_mtim.tv_nsec == s.st_mtim.tv_nsec) {
      w->users++;
      return w;
    }
  weights *w = calloc(1, sizeof *w);
  w->path = strdup(path);
  w->users = 1;
  const char *problem = map_file(w, path);
  if (problem) {
    close_file(w);
    refuse(c, "weights %s: %s", path, problem);
  }
  w->next = *all;
  *all = w;
  return w;
}

void close_weights(weights **all, weights *w) {
  if (!w || --w->users > 0) return;
  while (*all != w) all = &(*all)->next;
  *all = w->next;
  close_file(w);
}

bool has_weight(const weights *w, const char *name) { return cJSON_GetObjectItemCaseSensitive(w->header, name) != NULL; }

int weight_rank(const weights *w, const char *name) {
  const cJSON *entry = cJSON_GetObjectItemCaseSensitive(w->header, name);
  return entry ? cJSON_GetArraySize(cJSON_GetObjectItemCaseSensitive(entry, "shape")) : -1;
}

int64_t weight_rows(const weights *w, const char *name) {
  const cJSON *shape = cJSON_GetObjectItemCaseSensitive(cJSON_GetObjectItemCaseSensitive(w->header, name), "shape");
  return cJSON_IsArray(shape) && shape->child ? (int64_t)shape->child->valuedouble : 0;
}

const float *weight(call *c, weights *w, const char *name, const char *shape) {
  const cJSON *entry = cJSON_GetObjectItemCaseSensitive(w->header, name);
  const cJSON *stored = cJSON_GetObjectItemCaseSensitive(entry, "dtype"), *sizes = cJSON_GetObjectItemCaseSensitive(entry, "shape");
  const cJSON *offsets = cJSON_GetObjectItemCaseSensitive(entry, "data_offsets");
  if (!entry) refuse(c, "weights %s hold no tensor %s", w->path, name);
  if (!cJSON_IsString(stored) || !cJSON_IsArray(sizes) || cJSON_GetArraySize(offsets) != 2)
    refuse(c, "weights %s: the header's entry %s is malformed", w->path, name);
  const char *type = stored->valuestring;
  const size_t width = strcmp(type, "F64") == 0                                ? 8
                       : strcmp(type, "F32") == 0                              ? 4
                       : strcmp(type, "F16") == 0 || strcmp(type, "BF16") == 0 ? 2
                                                                               : 0;
  if (width == 0) refuse(c, "weights %s: %s has type %s, expected a floating type", w->path, name, type);

  bool fits = cJSON_GetArraySize(sizes) == (int)strlen(shape);
  int64_t count = 1;
  char found[200] = "", expected[200] = "";
  const cJSON *size;
  cJSON_ArrayForEach(size, sizes)
      snprintf(found + strlen(found), sizeof found - strlen(found), "%s%.0f", *found ? "," : "", size->valuedouble);
  for (int d = 0; shape[d]; d++) {
    const int64_t wanted = shape[d] == '3' ? 3 : c->size[(unsigned char)shape[d]];
    snprintf(expected + strlen(expected), sizeof expected - strlen(expected), "%s%lld", d ? "," : "", (long long)wanted);
    fits = fits && cJSON_GetArrayItem(sizes, d)->valuedouble == (double)wanted;
    count *= wanted;
  }
  if (!fits) refuse(c, "weights %s: %s has shape [%s], expected [%s]", w->path, name, found, expected);
  const double begin = offsets->child->valuedouble, end = offsets->child->next->valuedouble;
  if (!(begin >= 0 && end <= (double)w->data_size && end - begin == (double)count * (double)width))
    refuse(c, "weights %s: the data of %s lies at [%.0f,%.0f] of %zu bytes", w->path, name, begin, end, w->data_size);

  const uint8_t *at = w->data + (size_t)begin;
  if (width == 4 && (uintptr_t)at % 4 == 0) return (const float *)(const void *)at;
  for (struct converted *v = w->converted; v; v = v->next)
    if (strcmp(v->name, name) == 0) return v->values;
  struct converted *v = calloc(1, sizeof *v);
  void *aligned = malloc((size_t)count * width + 1);
  v->values = malloc((size_t)count * sizeof(float) + 1);
  memcpy(aligned, at, (size_t)count * width);
  to_floats(type, aligned, count, v->values);
  free(aligned);
  v->name = entry->string;
  v->next = w->converted;
  w->converted = v;
  return v->values;
}
