#include "weights.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "mr3d/safetensors.h"

/* Files that no session uses stay open for the next one, at most this many. */
#define IDLE_FILES 4

struct mr3d_weights {
  mr3d_weights *next; /* in order of last use, the latest first */
  mr3d_weights_cache *cache;
  char *path;
  struct stat identity;
  mr3d_bundle *bundle;
  int uses;
  double **converted; /* by index in the bundle; NULL: not kept */
  bool *checked;      /* every value is finite */
};

struct mr3d_weights_cache {
  mr3d_weights *files;
  int64_t limit, used, converted;
};

mr3d_weights_cache *mr3d_weights_cache_new(void) {
  mr3d_weights_cache *cache = mr3d_allocate(1, sizeof *cache);
  cache->limit = MR3D_WEIGHTS_CACHE_BYTES;
  return cache;
}

void mr3d_weights_cache_limit(mr3d_weights_cache *cache, int64_t bytes) { cache->limit = bytes; }
int64_t mr3d_weights_cache_converted(const mr3d_weights_cache *cache) { return cache->converted; }
const char *mr3d_weights_path(const mr3d_weights *weights) { return weights->path; }

/* ---- files ---- */

static void drop_conversions(mr3d_weights *weights) {
  for (int i = 0; i < mr3d_bundle_count(weights->bundle); i++)
    if (weights->converted[i]) {
      weights->cache->used -= mr3d_tensor_count(mr3d_bundle_at(weights->bundle, i)) * (int64_t)sizeof(double);
      free(weights->converted[i]);
      weights->converted[i] = NULL;
    }
}

static void close_file(mr3d_weights **link) {
  mr3d_weights *weights = *link;
  *link = weights->next;
  drop_conversions(weights);
  mr3d_bundle_free(&weights->bundle);
  free(weights->converted);
  free(weights->checked);
  free(weights->path);
  free(weights);
}

void mr3d_weights_cache_free(mr3d_weights_cache **cache) {
  if (!*cache) return;
  while ((*cache)->files) close_file(&(*cache)->files);
  free(*cache);
  *cache = NULL;
}

static bool same_file(const struct stat *a, const struct stat *b) {
  return a->st_dev == b->st_dev && a->st_ino == b->st_ino && a->st_size == b->st_size && a->st_mtim.tv_sec == b->st_mtim.tv_sec &&
         a->st_mtim.tv_nsec == b->st_mtim.tv_nsec && a->st_ctim.tv_sec == b->st_ctim.tv_sec && a->st_ctim.tv_nsec == b->st_ctim.tv_nsec;
}

mr3d_status mr3d_weights_open(mr3d_weights_cache *cache, const char *path, mr3d_weights **out, mr3d_error *error) {
  struct stat identity;
  if (stat(path, &identity) != 0) return mr3d_fail(error, MR3D_INVALID, "weights %s: %s", path, strerror(errno));
  for (mr3d_weights **link = &cache->files; *link; link = &(*link)->next) {
    mr3d_weights *weights = *link;
    if (strcmp(weights->path, path) != 0 || !same_file(&weights->identity, &identity)) continue;
    *link = weights->next;
    weights->next = cache->files;
    cache->files = weights;
    *out = mr3d_weights_share(weights);
    return MR3D_OK;
  }
  mr3d_bundle *bundle;
  if (mr3d_safetensors_open(path, 0, &bundle, error) != MR3D_OK) return mr3d_fail_in(error, "weights");

  int idle = 0; /* this one's coming makes room among those that no one uses */
  for (mr3d_weights **link = &cache->files; *link;) {
    idle += (*link)->uses == 0;
    if ((*link)->uses == 0 && (idle >= IDLE_FILES || strcmp((*link)->path, path) == 0))
      close_file(link);
    else
      link = &(*link)->next;
  }
  mr3d_weights *weights = mr3d_allocate(1, sizeof *weights);
  *weights = (mr3d_weights){.next = cache->files, .cache = cache, .path = strdup(path), .identity = identity, .bundle = bundle};
  weights->converted = mr3d_allocate(mr3d_bundle_count(bundle), sizeof *weights->converted);
  weights->checked = mr3d_allocate(mr3d_bundle_count(bundle), sizeof *weights->checked);
  cache->files = weights;
  *out = mr3d_weights_share(weights);
  return MR3D_OK;
}

mr3d_weights *mr3d_weights_share(mr3d_weights *weights) {
  weights->uses++;
  return weights;
}

void mr3d_weights_release(mr3d_weights **weights) {
  if (*weights) (*weights)->uses--;
  *weights = NULL;
}

/* ---- tensors ---- */

static int index_of(const mr3d_weights *weights, const mr3d_tensor *tensor) {
  int i = 0;
  while (mr3d_bundle_at(weights->bundle, i) != tensor) i++;
  return i;
}

/* Whether `bytes` more fit; conversions of files used longer ago are given up for it. */
static bool make_room(mr3d_weights_cache *cache, const mr3d_weights *user, int64_t bytes) {
  if (bytes > cache->limit) return false;
  while (cache->used + bytes > cache->limit) {
    mr3d_weights *oldest = NULL;
    for (mr3d_weights *file = cache->files; file; file = file->next)
      for (int i = 0; file != user && i < mr3d_bundle_count(file->bundle); i++)
        if (file->converted[i]) oldest = file;
    if (!oldest) return false;
    drop_conversions(oldest);
  }
  return true;
}

static mr3d_status in_file(const mr3d_weights *weights, mr3d_status status, mr3d_error *error) {
  return status == MR3D_OK ? MR3D_OK : mr3d_fail_in(error, "weights %s", weights->path);
}

/* A whole tensor in binary64. *temporary: the caller's to free, or NULL. */
static mr3d_status tensor_values(mr3d_weights *weights, const mr3d_tensor *tensor, const double **values, double **temporary, mr3d_error *error) {
  int i = index_of(weights, tensor);
  int64_t count = mr3d_tensor_count(tensor), bytes = count * (int64_t)sizeof(double);
  const double *found = tensor->dtype == MR3D_F64 ? tensor->data : weights->converted[i];
  double *fresh = NULL;
  if (!found) {
    found = fresh = mr3d_allocate(count, sizeof *fresh);
    mr3d_tensor_to_double(tensor, fresh);
    weights->cache->converted += count;
  }
  if (!weights->checked[i]) {
    mr3d_status status = mr3d_check_finite(tensor->name, tensor, found, error);
    if (status != MR3D_OK) {
      free(fresh);
      return in_file(weights, status, error);
    }
    weights->checked[i] = true;
  }
  if (fresh && make_room(weights->cache, weights, bytes)) {
    weights->cache->used += bytes;
    weights->converted[i] = fresh;
    fresh = NULL;
  }
  *values = found;
  *temporary = fresh;
  return MR3D_OK;
}

mr3d_status mr3d_weights_rows(mr3d_weights *weights, const mr3d_tensor *tensor, int64_t first, int64_t count, double *buffer, const double **values,
                              mr3d_error *error) {
  int64_t columns = tensor->shape[1];
  char *data = (char *)tensor->data + (size_t)(first * columns) * mr3d_dtype_size(tensor->dtype);
  mr3d_tensor rows = {.name = tensor->name, .dtype = tensor->dtype, .rank = 2, .shape = {count, columns}, .data = data};
  *values = tensor->dtype == MR3D_F64 ? (const double *)(void *)data : buffer;
  if (tensor->dtype != MR3D_F64) {
    mr3d_tensor_to_double(&rows, buffer);
    weights->cache->converted += count * columns;
  }
  char label[160];
  snprintf(label, sizeof label, "rows %lld .. of %.100s, ", (long long)first, tensor->name);
  return in_file(weights, mr3d_check_finite(label, &rows, *values, error), error);
}

static mr3d_status find_tensor(mr3d_weights *weights, const char *name, const char *shape, mr3d_sizes *sizes, const mr3d_tensor **found, mr3d_error *error) {
  const mr3d_tensor *tensor = mr3d_bundle_find(weights->bundle, name);
  if (!tensor) return mr3d_fail(error, MR3D_INVALID, "weights %s: %s is missing, expected a tensor [%s]", weights->path, name, shape);
  MR3D_TRY(in_file(weights, mr3d_kind_check_type(MR3D_KIND_WEIGHT, MR3D_FP64, name, tensor, error), error));
  MR3D_TRY(in_file(weights, mr3d_sizes_match(sizes, name, tensor, shape, error), error));
  *found = tensor;
  return MR3D_OK;
}

mr3d_status mr3d_weights_ends(mr3d_weights *weights, const mr3d_config *config, mr3d_sizes *sizes, mr3d_decoder_ends *ends, mr3d_error *error) {
  const bool tied = config->tie_word_embeddings >= 0 ? config->tie_word_embeddings : !mr3d_bundle_find(weights->bundle, "lm_head.weight");
  mr3d_decoder_ends found;
  if (config->num_hidden_layers > mr3d_bundle_count(weights->bundle)) /* the number alone must not claim memory */
    return mr3d_fail(error, MR3D_INVALID, "weights %s: num_hidden_layers is %lld, but the file holds only %d tensors", weights->path,
                     (long long)config->num_hidden_layers, mr3d_bundle_count(weights->bundle));
  MR3D_TRY(find_tensor(weights, "model.embed_tokens.weight", "V,hidden", sizes, &found.embed_tokens, error));
  MR3D_TRY(find_tensor(weights, "model.norm.weight", "hidden", sizes, &found.norm, error));
  found.head = found.embed_tokens;
  if (!tied) MR3D_TRY(find_tensor(weights, "lm_head.weight", "V,hidden", sizes, &found.head, error));
  *ends = found;
  return MR3D_OK;
}

/* ---- layers ---- */

void mr3d_layer_weights_free(mr3d_layer_weights *layer) {
  for (int i = 0; i < layer->n_temporary; i++) free(layer->temporary[i]);
  layer->n_temporary = 0;
}

mr3d_status mr3d_weights_layer(mr3d_weights *weights, const mr3d_config *config, mr3d_sizes *sizes, int64_t index, bool has_points, mr3d_layer_weights *out,
                               mr3d_error *error) {
  mr3d_layer_weights loaded = {0};
  for (int i = 0; i < MR3D_N_LAYER_SLOTS; i++) {
    const mr3d_slot *slot = &mr3d_layer_slots[i];
    char name[128];
    snprintf(name, sizeof name, "model.layers.%lld.%s", (long long)index, slot->name);
    if (slot->when != MR3D_ALWAYS) { /* what the call does not turn by is ignored, as all extra tensors are */
      const char *why;
      if (mr3d_rotary_presence(config, has_points, slot->when, &why) != MR3D_MUST) continue;
    }
    const mr3d_tensor *tensor;
    const double *values = NULL;
    double *temporary = NULL;
    mr3d_status status = find_tensor(weights, name, slot->shape, sizes, &tensor, error);
    if (status == MR3D_OK) status = tensor_values(weights, tensor, &values, &temporary, error);
    if (status != MR3D_OK) {
      mr3d_layer_weights_free(&loaded);
      return status;
    }
    if (temporary) loaded.temporary[loaded.n_temporary++] = temporary;
    memcpy((char *)&loaded.layer + slot->field, &values, sizeof values);
  }
  *out = loaded;
  return MR3D_OK;
}
