#include "checkpoint.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "../io/file.h"
#include "../io/json.h"
#include "../io/parts.h"

#define SINGLE "model.safetensors"
#define INDEX "model.safetensors.index.json"
#define PATH_SIZE 4096

/* ---- where the path leads ---- */

static bool exists(const char *folder, const char *name) {
  char path[PATH_SIZE];
  snprintf(path, sizeof path, "%s/%s", folder, name);
  return access(path, F_OK) == 0;
}

/* Why there is nothing to open in a folder; what lies there instead says what to do. */
static mr3d_status nothing_in(const char *folder, mr3d_error *error) {
  const bool pickled = exists(folder, "pytorch_model.bin") || exists(folder, "pytorch_model.bin.index.json");
  return mr3d_fail(error, MR3D_IO, "%s: holds neither %s nor %s, one of which save_pretrained writes%s", folder, SINGLE, INDEX,
                   pickled ? "; pytorch_model.bin is not read: save it anew with save_pretrained(..., safe_serialization=True)"
                           : "; give the folder of a checkpoint, its index, or a safetensors file");
}

/* The file that a path leads to, a folder's being the one in it. */
static mr3d_status resolve(const char *path, char file[PATH_SIZE], mr3d_error *error) {
  struct stat about;
  if (stat(path, &about) != 0) return mr3d_fail(error, MR3D_IO, "%s: %s", path, strerror(errno));
  const char *name = NULL;
  if (S_ISDIR(about.st_mode)) {
    const bool single = exists(path, SINGLE), index = exists(path, INDEX);
    if (single && index)
      return mr3d_fail(error, MR3D_INVALID, "%s: holds both %s and %s, and which is meant cannot be known; name the file, or remove the one that is stale", path,
                       SINGLE, INDEX);
    if (!single && !index) return nothing_in(path, error);
    name = single ? SINGLE : INDEX;
  }
  const int length = name ? snprintf(file, PATH_SIZE, "%s/%s", path, name) : snprintf(file, PATH_SIZE, "%s", path);
  return length < PATH_SIZE ? MR3D_OK : mr3d_fail(error, MR3D_IO, "%s: the path is too long", path);
}

static bool is_index(const char *path) {
  const size_t length = strlen(path);
  return length >= 5 && strcmp(path + length - 5, ".json") == 0;
}

static bool same_identity(const struct stat *a, const struct stat *b) {
  return a->st_dev == b->st_dev && a->st_ino == b->st_ino && a->st_size == b->st_size && a->st_mtim.tv_sec == b->st_mtim.tv_sec &&
         a->st_mtim.tv_nsec == b->st_mtim.tv_nsec && a->st_ctim.tv_sec == b->st_ctim.tv_sec && a->st_ctim.tv_nsec == b->st_ctim.tv_nsec;
}

bool mr3d_checkpoint_is_current(const mr3d_checkpoint *checkpoint, const char *path) {
  char file[PATH_SIZE];
  if (resolve(path, file, NULL) != MR3D_OK) return false; /* gone, or no longer one of two forms */
  for (int i = 0; i < checkpoint->n_files; i++) {
    struct stat now;
    if (stat(checkpoint->files[i].path, &now) != 0 || !same_identity(&now, &checkpoint->files[i].identity)) return false;
  }
  return true;
}

/* ---- opening ---- */

/* Adds a file with its identity, which is taken before it is read. Errors: errno's, without a path. */
static mr3d_checkpoint_file *add_file(mr3d_checkpoint *checkpoint, const char *path, mr3d_error *error) {
  struct stat identity;
  if (stat(path, &identity) != 0) {
    mr3d_fail(error, MR3D_IO, "%s", strerror(errno));
    return NULL;
  }
  mr3d_checkpoint_file *files = mr3d_allocate(checkpoint->n_files + 1, sizeof *files);
  if (checkpoint->n_files) memcpy(files, checkpoint->files, (size_t)checkpoint->n_files * sizeof *files);
  free(checkpoint->files);
  checkpoint->files = files;
  files[checkpoint->n_files] = (mr3d_checkpoint_file){.path = strdup(path), .identity = identity};
  return &files[checkpoint->n_files++];
}

static mr3d_status check_shard_name(const char *tensor, const cJSON *value, mr3d_error *error) {
  if (!cJSON_IsString(value)) return mr3d_fail(error, MR3D_FORMAT, "weight_map: tensor \"%.200s\": expected the name of its file, a string", tensor);
  const char *name = value->valuestring;
  if (*name && !strchr(name, '/') && !strstr(name, "..")) return MR3D_OK;
  return mr3d_fail(error, MR3D_FORMAT, "weight_map: tensor \"%.200s\" is said to be in \"%.200s\"; a shard is a file beside the index, named without / and ..", tensor,
                   name);
}

/* The shard of that name, opened when it is first asked for. */
static mr3d_status find_shard(mr3d_checkpoint *checkpoint, const char *tensor, const char *name, const mr3d_bundle **shard, mr3d_error *error) {
  const char *index = checkpoint->files[0].path, *slash = strrchr(index, '/');
  char path[PATH_SIZE];
  if (snprintf(path, sizeof path, "%.*s%s", slash ? (int)(slash - index + 1) : 0, index, name) >= PATH_SIZE)
    return mr3d_fail(error, MR3D_IO, "weight_map: the path of shard \"%.200s\" is too long", name);
  for (int i = 1; i < checkpoint->n_files; i++)
    if (strcmp(checkpoint->files[i].path, path) == 0) return *shard = checkpoint->files[i].tensors, MR3D_OK;
  mr3d_checkpoint_file *file = add_file(checkpoint, path, error);
  if (!file) return mr3d_fail_in(error, "shard %s, which should hold tensor \"%.200s\"", path, tensor);
  const mr3d_status status = mr3d_safetensors_map(path, &file->tensors, error);
  *shard = file->tensors;
  return status == MR3D_OK ? MR3D_OK : mr3d_fail_in(error, "shard");
}

/* No shard holds a tensor that the map puts elsewhere or does not list. */
static mr3d_status check_shards(const mr3d_checkpoint *checkpoint, mr3d_error *error) {
  for (int f = 1; f < checkpoint->n_files; f++)
    for (int i = 0; i < mr3d_bundle_count(checkpoint->files[f].tensors); i++) {
      const mr3d_tensor *tensor = mr3d_bundle_at(checkpoint->files[f].tensors, i), *mapped = mr3d_bundle_find(checkpoint->tensors, tensor->name);
      if (!mapped)
        return mr3d_fail(error, MR3D_FORMAT, "tensor \"%.200s\" is in %s, but weight_map does not list it: index and shards are not of one checkpoint", tensor->name,
                         checkpoint->files[f].path);
      if (mapped->data != tensor->data)
        return mr3d_fail(error, MR3D_FORMAT, "tensor \"%.200s\" is in two files, %s and, where weight_map puts it, %s", tensor->name, checkpoint->files[f].path,
                         mr3d_checkpoint_file_of(checkpoint, tensor->name));
    }
  return MR3D_OK;
}

static mr3d_status read_weight_map(mr3d_checkpoint *checkpoint, const cJSON *map, mr3d_error *error) {
  if (!cJSON_IsObject(map) || !map->child)
    return mr3d_fail(error, MR3D_FORMAT, "\"weight_map\" is %s; an index of shards is {\"metadata\": {...}, \"weight_map\": {TENSOR: FILE, ...}}",
                     !map ? "missing" : cJSON_IsObject(map) ? "empty" : "not an object");
  for (const cJSON *entry = map->child; entry; entry = entry->next) {
    const mr3d_bundle *shard = NULL;
    mr3d_status status = check_shard_name(entry->string, entry, error);
    if (status == MR3D_OK) status = find_shard(checkpoint, entry->string, entry->valuestring, &shard, error);
    if (status != MR3D_OK) return status;
    const mr3d_tensor *tensor = mr3d_bundle_find(shard, entry->string);
    if (!tensor) return mr3d_fail(error, MR3D_FORMAT, "tensor \"%.200s\" is not in %.400s, where weight_map puts it", entry->string, entry->valuestring);
    mr3d_bundle_borrow(checkpoint->tensors, tensor->name, tensor->dtype, tensor->rank, tensor->shape, tensor->data);
  }
  return check_shards(checkpoint, error);
}

static mr3d_status open_index(mr3d_checkpoint *checkpoint, const char *path, mr3d_error *error) {
  void *text;
  size_t size;
  cJSON *index = NULL;
  mr3d_status status = mr3d_map(path, &text, &size, error);
  if (status != MR3D_OK) return status;
  checkpoint->tensors = mr3d_bundle_new();
  status = mr3d_json_parse(text, size, MR3D_JSON_ANY_NUMBER, &index, error);
  mr3d_unmap(text, size);
  if (status == MR3D_OK) status = read_weight_map(checkpoint, cJSON_GetObjectItemCaseSensitive(index, "weight_map"), error);
  cJSON_Delete(index);
  return status == MR3D_OK ? MR3D_OK : mr3d_fail_in(error, "%s", path);
}

mr3d_status mr3d_checkpoint_open(const char *path, mr3d_checkpoint *out, mr3d_error *error) {
  mr3d_error unread;
  if (!error) error = &unread;
  char file[PATH_SIZE];
  mr3d_checkpoint opened = {0};
  mr3d_status status = resolve(path, file, error);
  if (status != MR3D_OK) return status;
  if (!add_file(&opened, file, error)) status = mr3d_fail_in(error, "%s", file);
  else if (is_index(file)) status = open_index(&opened, file, error);
  else if ((status = mr3d_safetensors_map(file, &opened.files[0].tensors, error)) == MR3D_OK) opened.tensors = opened.files[0].tensors;
  if (status == MR3D_OK) *out = opened;
  else mr3d_checkpoint_free(&opened);
  return status;
}

void mr3d_checkpoint_free(mr3d_checkpoint *checkpoint) {
  const bool sharded = checkpoint->n_files && !checkpoint->files[0].tensors;
  if (sharded) mr3d_bundle_free(&checkpoint->tensors);
  for (int i = 0; i < checkpoint->n_files; i++) {
    mr3d_bundle_free(&checkpoint->files[i].tensors);
    free(checkpoint->files[i].path);
  }
  free(checkpoint->files);
  *checkpoint = (mr3d_checkpoint){0};
}

const char *mr3d_checkpoint_file_of(const mr3d_checkpoint *checkpoint, const char *tensor) {
  const mr3d_tensor *held = mr3d_bundle_find(checkpoint->tensors, tensor);
  for (int i = 0; i < checkpoint->n_files; i++) {
    const mr3d_tensor *here = checkpoint->files[i].tensors ? mr3d_bundle_find(checkpoint->files[i].tensors, tensor) : NULL;
    if (here && here->data == held->data) return checkpoint->files[i].path;
  }
  return checkpoint->files[0].path;
}
