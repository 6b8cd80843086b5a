#include "weights.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "checkpoint.h"
#include "generated_weights.h"

/* Weights that no session uses stay open for the next one, at most this many. */
#define IDLE_WEIGHTS 4
/* Elements of an unaligned tensor that are aligned at a time. */
#define ALIGNED_ELEMENTS 1024

struct mr3d_weights {
  mr3d_weights *next; /* in order of last use, the latest first */
  mr3d_weights_cache *cache;
  char *path, *key;           /* key: the path and, where something is drawn, all that it is drawn by */
  mr3d_checkpoint checkpoint; /* without files: a generated model */
  mr3d_drawn_tensors drawn;
  mr3d_bundle *tensors;       /* the checkpoint's, then the drawn ones */
  int first_drawn;            /* index in `tensors` */
  int uses;
  double **converted; /* by index in `tensors`; NULL: not kept */
  bool *checked;      /* every value is finite */
  int64_t *checked_rows; /* of those from the first on; mr3d_weights_rows */
};

/* Memory for a tensor that is made anew at each use. */
typedef struct spare {
  double *values; /* NULL: none */
  int64_t elements;
} spare;

struct mr3d_weights_cache {
  mr3d_weights *opened;
  int64_t limit, used, converted;
  spare spares[MR3D_N_LAYER_SLOTS]; /* one layer's */
  int next_spare;                   /* the one that is given up where all are taken */
};

mr3d_weights_cache *mr3d_weights_cache_new(void) {
  mr3d_weights_cache *cache = mr3d_allocate(1, sizeof *cache);
  cache->limit = MR3D_WEIGHTS_CACHE_BYTES;
  return cache;
}

void mr3d_weights_cache_limit(mr3d_weights_cache *cache, int64_t bytes) { cache->limit = bytes; }
int64_t mr3d_weights_cache_converted(const mr3d_weights_cache *cache) { return cache->converted; }

int64_t mr3d_weights_cache_spare(const mr3d_weights_cache *cache) {
  int64_t bytes = 0;
  for (int i = 0; i < MR3D_N_LAYER_SLOTS; i++) bytes += cache->spares[i].values ? cache->spares[i].elements * (int64_t)sizeof(double) : 0;
  return bytes;
}

/* Memory for a tensor, whatever it holds: a spare one of that size, or fresh. */
static double *take_spare(mr3d_weights_cache *cache, int64_t elements) {
  for (int i = 0; i < MR3D_N_LAYER_SLOTS; i++)
    if (cache->spares[i].values && cache->spares[i].elements == elements) {
      double *values = cache->spares[i].values;
      cache->spares[i].values = NULL;
      return values;
    }
  return mr3d_allocate(elements, sizeof(double));
}

static void give_spare(mr3d_weights_cache *cache, double *values, int64_t elements) {
  int i = 0;
  while (i < MR3D_N_LAYER_SLOTS && cache->spares[i].values) i++;
  if (i == MR3D_N_LAYER_SLOTS) i = cache->next_spare++ % MR3D_N_LAYER_SLOTS;
  free(cache->spares[i].values);
  cache->spares[i] = (spare){values, elements};
}

const char *mr3d_weights_path(const mr3d_weights *weights) { return weights->path; }
const mr3d_bundle *mr3d_weights_tensors(const mr3d_weights *weights) { return weights->tensors; }
int mr3d_weights_drawn(const mr3d_weights *weights) { return mr3d_bundle_count(weights->tensors) - weights->first_drawn; }

int mr3d_weights_files(const mr3d_weights *weights) {
  int files = 0;
  for (int i = 0; i < weights->checkpoint.n_files; i++) files += weights->checkpoint.files[i].tensors != NULL;
  return files;
}

char *mr3d_weights_identity(const mr3d_weights *weights) {
  const mr3d_checkpoint *checkpoint = &weights->checkpoint;
  if (!checkpoint->n_files) return strdup(weights->key);
  const char *drawn = weights->key + strlen(weights->path); /* what of the key is not the path */
  const size_t size = (size_t)checkpoint->n_files * 80 + strlen(drawn) + 1;
  char *text = mr3d_allocate((long long)size, 1);
  int used = snprintf(text, size, "%s", drawn);
  for (int i = 0; i < checkpoint->n_files; i++) {
    const struct stat *file = &checkpoint->files[i].identity;
    used += snprintf(text + used, size - (size_t)used, " %lld@%lld.%09ld", (long long)file->st_size, (long long)file->st_mtim.tv_sec, file->st_mtim.tv_nsec);
  }
  return text;
}

/* ---- opening and closing ---- */

static void drop_conversions(mr3d_weights *weights) {
  for (int i = 0; i < mr3d_bundle_count(weights->tensors); i++)
    if (weights->converted[i]) {
      weights->cache->used -= mr3d_tensor_count(mr3d_bundle_at(weights->tensors, i)) * (int64_t)sizeof(double);
      free(weights->converted[i]);
      weights->converted[i] = NULL;
    }
}

static void close_weights(mr3d_weights **link) {
  mr3d_weights *weights = *link;
  *link = weights->next;
  drop_conversions(weights);
  mr3d_bundle_free(&weights->tensors);
  mr3d_drawn_tensors_free(&weights->drawn);
  mr3d_checkpoint_free(&weights->checkpoint);
  free(weights->converted);
  free(weights->checked);
  free(weights->checked_rows);
  free(weights->path);
  free(weights->key);
  free(weights);
}

void mr3d_weights_cache_free(mr3d_weights_cache **cache) {
  if (!*cache) return;
  while ((*cache)->opened) close_weights(&(*cache)->opened);
  for (int i = 0; i < MR3D_N_LAYER_SLOTS; i++) free((*cache)->spares[i].values);
  free(*cache);
  *cache = NULL;
}

/* The sizes of a generated point encoder. */
static void add_encoder(const mr3d_config *config, char *key, size_t size) {
  const mr3d_point_config *c = &config->point_config;
  const mr3d_stages *const lists[] = {&c->conv_layers, &c->enc_depths, &c->enc_channels};
  size_t used = (size_t)snprintf(key, size, " encoder %d %d %lld %lld %lld %.17g", (int)config->point_backbone, (int)config->projector, (long long)c->input_channels,
                                 (long long)c->embed_channels, (long long)c->in_channels, c->mlp_ratio);
  for (size_t i = 0; i < sizeof lists / sizeof *lists; i++)
    for (int64_t s = 0; s < lists[i]->count; s++) used += (size_t)snprintf(key + used, size - used, "%s%lld", s ? "," : " ", (long long)lists[i]->at[s]);
}

/* What tells two openings of one path apart, beside the files. Ownership: the caller's. */
static char *key_of(const mr3d_weights_source *source) {
  const size_t size = strlen(source->path) + 2048;
  char *key = mr3d_allocate((long long)size, 1);
  const bool generated = mr3d_is_generated(source->path);
  const mr3d_config *c = source->config;
  int used = snprintf(key, size, "%s", source->path);
  if (generated) used += snprintf(key + used, size - (size_t)used, " %d", (int)source->tier);
  else if (source->init_missing) used += snprintf(key + used, size - (size_t)used, " missing %llu", (unsigned long long)*source->init_missing);
  if (generated || source->init_missing)
    snprintf(key + used, size - (size_t)used, " %lld %lld %lld %lld %lld %lld %lld %d %d %.17g %d %d %d %d %.17g", (long long)c->hidden_size,
             (long long)c->intermediate_size, (long long)c->num_hidden_layers, (long long)c->num_attention_heads, (long long)c->num_key_value_heads,
             (long long)c->head_dim, (long long)c->vocab_size, c->tie_word_embeddings, (int)c->strategy, c->spatial_ratio, c->rope_mixed_3d, c->learned_per_axis,
             c->learned_axial_weights, (int)c->rope_3d_kind, c->rope_theta_3d);
  if (generated && source->encoder) add_encoder(c, key + strlen(key), size - strlen(key));
  return key;
}

/* The open weights, put first; NULL where there are none. */
static mr3d_weights *find_open(mr3d_weights_cache *cache, const char *key, const char *path) {
  for (mr3d_weights **link = &cache->opened; *link; link = &(*link)->next) {
    mr3d_weights *weights = *link;
    if (strcmp(weights->key, key) != 0 || (weights->checkpoint.n_files && !mr3d_checkpoint_is_current(&weights->checkpoint, path))) continue;
    *link = weights->next;
    weights->next = cache->opened;
    cache->opened = weights;
    return weights;
  }
  return NULL;
}

static mr3d_status open_parts(const mr3d_weights_source *source, mr3d_checkpoint *checkpoint, mr3d_drawn_tensors *drawn, mr3d_error *error) {
  if (mr3d_is_generated(source->path)) {
    mr3d_generated_name name;
    mr3d_status status = mr3d_generated_name_parse(source->path, &name, error);
    if (status == MR3D_OK) status = (source->encoder ? mr3d_generated_encoder : mr3d_generated_model)(&name, source->config, source->tier, drawn, error);
    return status == MR3D_OK ? MR3D_OK : mr3d_fail_in(error, "%s", source->path);
  }
  MR3D_TRY(mr3d_checkpoint_open(source->path, checkpoint, error));
  if (!source->init_missing) return MR3D_OK;
  const mr3d_status status = mr3d_initial_rotary(*source->init_missing, source->config, checkpoint->tensors, drawn, error);
  if (status == MR3D_OK) return MR3D_OK;
  mr3d_checkpoint_free(checkpoint);
  return mr3d_fail_in(error, "%s", source->path);
}

static void add_tensors(mr3d_bundle *all, const mr3d_bundle *more) {
  for (int i = 0; more && i < mr3d_bundle_count(more); i++) {
    const mr3d_tensor *tensor = mr3d_bundle_at(more, i);
    mr3d_bundle_borrow(all, tensor->name, tensor->dtype, tensor->rank, tensor->shape, tensor->data);
  }
}

/* Makes room among the weights that no one uses for one more, the same path's going first. */
static void close_idle(mr3d_weights_cache *cache, const char *key) {
  int idle = 0;
  for (mr3d_weights **link = &cache->opened; *link;) {
    idle += (*link)->uses == 0;
    if ((*link)->uses == 0 && (idle >= IDLE_WEIGHTS || strcmp((*link)->key, key) == 0))
      close_weights(link);
    else
      link = &(*link)->next;
  }
}

mr3d_status mr3d_weights_open(mr3d_weights_cache *cache, const mr3d_weights_source *source, mr3d_weights **out, mr3d_error *error) {
  char *key = key_of(source);
  mr3d_weights *weights = find_open(cache, key, source->path);
  if (weights) {
    free(key);
    *out = mr3d_weights_share(weights);
    return MR3D_OK;
  }
  mr3d_checkpoint checkpoint = {0};
  mr3d_drawn_tensors drawn = {0};
  if (open_parts(source, &checkpoint, &drawn, error) != MR3D_OK) {
    free(key);
    return mr3d_fail_in(error, "weights");
  }
  close_idle(cache, key);
  weights = mr3d_allocate(1, sizeof *weights);
  *weights = (mr3d_weights){.next = cache->opened, .cache = cache, .path = strdup(source->path), .key = key, .checkpoint = checkpoint, .drawn = drawn};
  weights->tensors = mr3d_bundle_new();
  add_tensors(weights->tensors, checkpoint.tensors);
  weights->first_drawn = mr3d_bundle_count(weights->tensors);
  add_tensors(weights->tensors, drawn.tensors);
  weights->converted = mr3d_allocate(mr3d_bundle_count(weights->tensors), sizeof *weights->converted);
  weights->checked = mr3d_allocate(mr3d_bundle_count(weights->tensors), sizeof *weights->checked);
  weights->checked_rows = mr3d_allocate(mr3d_bundle_count(weights->tensors), sizeof *weights->checked_rows);
  cache->opened = weights;
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
  while (mr3d_bundle_at(weights->tensors, i) != tensor) i++;
  return i;
}

/* The drawing of a tensor, or NULL where it is stored. */
static const mr3d_drawing *drawing_of(const mr3d_weights *weights, const mr3d_tensor *tensor) {
  const mr3d_tensor *drawn = weights->drawn.tensors && !tensor->data ? mr3d_bundle_find(weights->drawn.tensors, tensor->name) : NULL;
  for (int i = 0; drawn; i++)
    if (mr3d_bundle_at(weights->drawn.tensors, i) == drawn) return &weights->drawn.drawings[i];
  return NULL;
}

static bool is_aligned(const mr3d_tensor *tensor) { return (uintptr_t)tensor->data % mr3d_dtype_size(tensor->dtype) == 0; }
/* Whether the mapping itself holds the tensor's values as they are computed with. */
static bool is_direct(const mr3d_tensor *tensor) { return tensor->data && tensor->dtype == MR3D_F64 && is_aligned(tensor); }

/* A stored tensor in binary64, wherever its data lie. */
static void convert(const mr3d_tensor *tensor, double *values) {
  if (is_aligned(tensor)) {
    mr3d_tensor_to_double(tensor, values);
    return;
  }
  double buffer[ALIGNED_ELEMENTS];
  const size_t size = mr3d_dtype_size(tensor->dtype);
  for (int64_t i = 0, count = mr3d_tensor_count(tensor); i < count; i += ALIGNED_ELEMENTS) {
    const int64_t part = count - i < ALIGNED_ELEMENTS ? count - i : ALIGNED_ELEMENTS;
    memcpy(buffer, (const char *)tensor->data + (size_t)i * size, (size_t)part * size);
    mr3d_tensor_to_double(&(mr3d_tensor){.name = tensor->name, .dtype = tensor->dtype, .rank = 1, .shape = {part}, .data = buffer}, values + i);
  }
}

/* Rows along the first axis, converted or drawn. */
static void make_rows(mr3d_weights *weights, const mr3d_tensor *tensor, int64_t first, int64_t count, double *values) {
  const mr3d_drawing *drawing = drawing_of(weights, tensor);
  mr3d_tensor rows = *tensor;
  rows.shape[0] = count;
  const int64_t elements = mr3d_tensor_count(&rows);
  if (drawing) mr3d_drawing_rows(drawing, tensor, first, count, values);
  else {
    rows.data = (char *)tensor->data + (size_t)(count ? first * (elements / count) : 0) * mr3d_dtype_size(tensor->dtype);
    convert(&rows, values);
  }
  weights->cache->converted += elements;
}

/* Whether `bytes` more fit; what was made of weights used longer ago is given up for it. */
static bool make_room(mr3d_weights_cache *cache, const mr3d_weights *user, int64_t bytes) {
  if (bytes > cache->limit) return false;
  while (cache->used + bytes > cache->limit) {
    mr3d_weights *oldest = NULL;
    for (mr3d_weights *other = cache->opened; other; other = other->next)
      for (int i = 0; other != user && i < mr3d_bundle_count(other->tensors); i++)
        if (other->converted[i]) oldest = other;
    if (!oldest) return false;
    drop_conversions(oldest);
  }
  return true;
}

/* What is wrong with a tensor is said with the file that it lies in. */
static mr3d_status in_file(const mr3d_weights *weights, const char *tensor, mr3d_status status, mr3d_error *error) {
  if (status == MR3D_OK) return MR3D_OK;
  return mr3d_fail_in(error, "weights %s", weights->checkpoint.n_files ? mr3d_checkpoint_file_of(&weights->checkpoint, tensor) : weights->path);
}

mr3d_status mr3d_weights_values(mr3d_weights *weights, const mr3d_tensor *tensor, mr3d_held_tensors *held, const double **values, mr3d_error *error) {
  int i = index_of(weights, tensor);
  int64_t count = mr3d_tensor_count(tensor), bytes = count * (int64_t)sizeof(double);
  const double *found = is_direct(tensor) ? tensor->data : weights->converted[i];
  double *fresh = NULL;
  if (!found) {
    found = fresh = take_spare(weights->cache, count);
    make_rows(weights, tensor, 0, tensor->rank ? tensor->shape[0] : 1, fresh);
  }
  if (!weights->checked[i]) {
    mr3d_status status = mr3d_check_finite(tensor->name, tensor, found, error);
    if (status != MR3D_OK) {
      if (fresh) give_spare(weights->cache, fresh, count);
      return in_file(weights, tensor->name, status, error);
    }
    weights->checked[i] = true;
  }
  if (fresh && make_room(weights->cache, weights, bytes)) {
    weights->cache->used += bytes;
    weights->converted[i] = fresh;
    fresh = NULL;
  }
  if (fresh) {
    held->cache = weights->cache;
    held->values[held->count] = fresh;
    held->elements[held->count++] = count;
  }
  *values = found;
  return MR3D_OK;
}

void mr3d_held_tensors_release(mr3d_held_tensors *held) {
  for (int i = 0; i < held->count; i++) give_spare(held->cache, held->values[i], held->elements[i]);
  held->count = 0;
}

/* How many rows from the first on are known to be finite; NULL: the tensor is a view of another. */
static int64_t *checked_rows_of(const mr3d_weights *weights, const mr3d_tensor *tensor) {
  return mr3d_bundle_find(weights->tensors, tensor->name) == tensor ? &weights->checked_rows[index_of(weights, tensor)] : NULL;
}

mr3d_status mr3d_weights_rows(mr3d_weights *weights, const mr3d_tensor *tensor, int64_t first, int64_t count, double *buffer, const double **values,
                              mr3d_error *error) {
  const int64_t columns = tensor->shape[1];
  mr3d_tensor rows = {.name = tensor->name, .dtype = tensor->dtype, .rank = 2, .shape = {count, columns}};
  *values = is_direct(tensor) ? (const double *)tensor->data + first * columns : buffer;
  if (!is_direct(tensor)) make_rows(weights, tensor, first, count, buffer);
  int64_t *checked = checked_rows_of(weights, tensor);
  if (checked && first + count <= *checked) return MR3D_OK;
  char label[160];
  snprintf(label, sizeof label, "rows %lld .. of %.100s, ", (long long)first, tensor->name);
  MR3D_TRY(in_file(weights, tensor->name, mr3d_check_finite(label, &rows, *values, error), error));
  if (checked && first <= *checked) *checked = first + count;
  return MR3D_OK;
}

bool mr3d_weights_usable_as_stored(const mr3d_weights *weights, const mr3d_tensor *tensor) {
  const int64_t *checked = checked_rows_of(weights, tensor);
  const bool finite = checked && (weights->checked[index_of(weights, tensor)] || (tensor->rank == 2 && *checked == tensor->shape[0]));
  return finite && tensor->data && is_aligned(tensor) && !is_direct(tensor);
}

static mr3d_status find_tensor(mr3d_weights *weights, const char *name, const char *shape, mr3d_sizes *sizes, const mr3d_tensor **found, mr3d_error *error) {
  const mr3d_tensor *tensor = mr3d_bundle_find(weights->tensors, name);
  if (!tensor) return mr3d_fail(error, MR3D_INVALID, "weights %s: %s is missing, expected a tensor [%s]", weights->path, name, shape);
  MR3D_TRY(in_file(weights, name, mr3d_kind_check_type(MR3D_KIND_WEIGHT, MR3D_FP64, name, tensor, error), error));
  MR3D_TRY(in_file(weights, name, mr3d_sizes_match(sizes, name, tensor, shape, error), error));
  *found = tensor;
  return MR3D_OK;
}

mr3d_status mr3d_weights_ends(mr3d_weights *weights, const mr3d_config *config, mr3d_sizes *sizes, mr3d_decoder_ends *ends, mr3d_error *error) {
  const bool tied = config->tie_word_embeddings >= 0 ? config->tie_word_embeddings : !mr3d_bundle_find(weights->tensors, "lm_head.weight");
  mr3d_decoder_ends found;
  if (config->num_hidden_layers > mr3d_bundle_count(weights->tensors)) /* the number alone must not claim memory */
    return mr3d_fail(error, MR3D_INVALID, "weights %s: num_hidden_layers is %lld, but there are only %d tensors", weights->path,
                     (long long)config->num_hidden_layers, mr3d_bundle_count(weights->tensors));
  MR3D_TRY(find_tensor(weights, "model.embed_tokens.weight", "V,hidden", sizes, &found.embed_tokens, error));
  MR3D_TRY(find_tensor(weights, "model.norm.weight", "hidden", sizes, &found.norm, error));
  found.head = found.embed_tokens;
  if (!tied) MR3D_TRY(find_tensor(weights, "lm_head.weight", "V,hidden", sizes, &found.head, error));
  *ends = found;
  return MR3D_OK;
}

/* ---- layers ---- */

/* Whether a call needs the slot's tensor: what it does not turn by is ignored, as all extra tensors are. */
static bool is_needed(const mr3d_slot *slot, const mr3d_config *config, bool has_points) {
  const char *why;
  return slot->when == MR3D_ALWAYS || mr3d_rotary_presence(config, has_points, slot->when, &why) == MR3D_MUST;
}

/* In how many layers a slot's tensor is missing, and the first of them. */
typedef struct gap {
  int64_t layers, first;
} gap;

/* "model.layers.0.self_attn.q_proj.bias [896] (in 2 of 24 layers)", with the pattern where a size is not known. */
static const char *gap_text(const mr3d_slot *slot, gap missing, int64_t of, const mr3d_sizes *sizes, char text[256]) {
  int64_t shape[MR3D_MAX_RANK];
  char numbers[96];
  const int rank = mr3d_sizes_shape(sizes, slot->shape, shape);
  if (rank >= 0) mr3d_shape_text(rank, shape, numbers);
  else snprintf(numbers, sizeof numbers, "[%s]", slot->shape);
  snprintf(text, 256, "model.layers.%lld.%s %s (in %lld of %lld layers)", (long long)missing.first, slot->name, numbers, (long long)missing.layers, (long long)of);
  return text;
}

/* Every kind of tensor that is missing, in one message, and what to do. */
static mr3d_status report_missing(const mr3d_weights *weights, int64_t of, const mr3d_sizes *sizes, const gap missing[MR3D_N_LAYER_SLOTS], mr3d_error *error) {
  char list[600] = "", text[256];
  int64_t total = 0;
  int kinds = 0;
  bool rotary_only = true;
  for (int i = 0; i < MR3D_N_LAYER_SLOTS; i++) {
    if (!missing[i].layers) continue;
    const size_t used = strlen(list);
    total += missing[i].layers;
    rotary_only &= mr3d_layer_slots[i].when != MR3D_ALWAYS;
    if (++kinds <= 5) snprintf(list + used, sizeof list - used, "%s%s", used ? ", " : "", gap_text(&mr3d_layer_slots[i], missing[i], of, sizes, text));
  }
  if (kinds > 5) snprintf(list + strlen(list), sizeof list - strlen(list), " and %d more kinds", kinds - 5);
  return mr3d_fail(error, MR3D_INVALID, "weights %s: %lld tensors are missing: %s%s", weights->path, (long long)total, list,
                   rotary_only ? ". They are learned: give a checkpoint trained with them, set rope_mixed_3d to false for fixed frequencies, or let mr3d run "
                                 "--init-missing SEED draw fresh ones"
                               : "; does num_hidden_layers fit this checkpoint?");
}

mr3d_status mr3d_weights_check(mr3d_weights *weights, const mr3d_config *config, mr3d_sizes *sizes, bool has_points, mr3d_error *error) {
  gap missing[MR3D_N_LAYER_SLOTS] = {0};
  bool complete = true;
  for (int64_t layer = 0; layer < config->num_hidden_layers; layer++)
    for (int i = 0; i < MR3D_N_LAYER_SLOTS; i++) {
      const mr3d_slot *slot = &mr3d_layer_slots[i];
      const mr3d_tensor *tensor;
      char name[128];
      if (!is_needed(slot, config, has_points)) continue;
      snprintf(name, sizeof name, "model.layers.%lld.%s", (long long)layer, slot->name);
      complete &= mr3d_bundle_find(weights->tensors, name) != NULL;
      if (mr3d_bundle_find(weights->tensors, name)) MR3D_TRY(find_tensor(weights, name, slot->shape, sizes, &tensor, error));
      else if (missing[i].layers++ == 0) missing[i].first = layer;
    }
  return complete ? MR3D_OK : report_missing(weights, config->num_hidden_layers, sizes, missing, error);
}

void mr3d_layer_weights_free(mr3d_layer_weights *layer) { mr3d_held_tensors_release(&layer->held); }

/* Where a slot's tensor goes in a layer as it is stored; 0: nowhere, it is no matrix. */
static size_t stored_field(size_t field) {
#define PAIR(name) {offsetof(mr3d_layer, name##_weight), offsetof(mr3d_layer, name##_stored)}
  static const size_t fields[][2] = {PAIR(q), PAIR(k), PAIR(v), PAIR(o), PAIR(gate), PAIR(up), PAIR(down)};
#undef PAIR
  for (size_t i = 0; i < sizeof fields / sizeof *fields; i++)
    if (fields[i][0] == field) return fields[i][1];
  return 0;
}

mr3d_status mr3d_weights_layer(mr3d_weights *weights, const mr3d_config *config, mr3d_sizes *sizes, int64_t index, bool has_points, bool may_be_stored,
                               mr3d_layer_weights *out, mr3d_error *error) {
  mr3d_layer_weights loaded = {0};
  for (int i = 0; i < MR3D_N_LAYER_SLOTS; i++) {
    const mr3d_slot *slot = &mr3d_layer_slots[i];
    char name[128];
    snprintf(name, sizeof name, "model.layers.%lld.%s", (long long)index, slot->name);
    if (!is_needed(slot, config, has_points)) continue;
    const mr3d_tensor *tensor;
    const double *values = NULL;
    mr3d_status status = find_tensor(weights, name, slot->shape, sizes, &tensor, error);
    if (status == MR3D_OK && may_be_stored && stored_field(slot->field) && !weights->converted[index_of(weights, tensor)] && mr3d_weights_usable_as_stored(weights, tensor)) {
      memcpy((char *)&loaded.layer + stored_field(slot->field), &tensor, sizeof tensor);
      continue;
    }
    if (status == MR3D_OK) status = mr3d_weights_values(weights, tensor, &loaded.held, &values, error);
    if (status != MR3D_OK) {
      mr3d_layer_weights_free(&loaded);
      return status;
    }
    memcpy((char *)&loaded.layer + slot->field, &values, sizeof values);
  }
  *out = loaded;
  return MR3D_OK;
}

/* ---- the point encoder ---- */

/* The size of an axis of a tensor of two, or 0. */
static int64_t shown(const mr3d_weights *weights, const char *name, int axis) {
  const mr3d_tensor *tensor = mr3d_bundle_find(weights->tensors, name);
  return tensor && tensor->rank == 2 ? tensor->shape[axis] : 0;
}

/* "point_backbone.input_proj.bias [512], ... and 7 more": what is missing of the list. */
static int list_missing(const mr3d_weights *weights, const mr3d_bundle *expected, char text[600]) {
  int missing = 0;
  size_t used = 0;
  for (int i = 0; i < mr3d_bundle_count(expected); i++) {
    const mr3d_tensor *tensor = mr3d_bundle_at(expected, i);
    char shape[96];
    if (mr3d_bundle_find(weights->tensors, tensor->name)) continue;
    if (++missing > 5) continue;
    mr3d_shape_text(tensor->rank, tensor->shape, shape);
    used += (size_t)snprintf(text + used, 600 - used, "%s%s %s", used ? ", " : "", tensor->name, shape);
  }
  if (missing > 5) snprintf(text + used, 600 - used, " and %d more", missing - 5);
  return missing;
}

static mr3d_status check_tensor(const mr3d_weights *weights, const mr3d_tensor *expected, mr3d_error *error) {
  const mr3d_tensor *tensor = mr3d_bundle_find(weights->tensors, expected->name);
  char is[96], must[96];
  mr3d_status status = mr3d_kind_check_type(MR3D_KIND_WEIGHT, MR3D_FP64, expected->name, tensor, error);
  if (status == MR3D_OK && strcmp(mr3d_shape_text(tensor->rank, tensor->shape, is), mr3d_shape_text(expected->rank, expected->shape, must)) != 0)
    status = mr3d_fail(error, MR3D_INVALID, "%s has shape %s, expected %s: what point_config, projector and hidden_size say", expected->name, is, must);
  return in_file(weights, expected->name, status, error);
}

mr3d_status mr3d_weights_check_encoder(mr3d_weights *weights, const mr3d_config *config, mr3d_projector_widths *widths, mr3d_error *error) {
  const bool mlp = config->projector == MR3D_PROJECTOR_MLP;
  const int64_t hidden = config->hidden_size > 0 ? config->hidden_size : shown(weights, mlp ? "point_proj.2.weight" : "point_proj.weight", 0);
  const int64_t inner = mlp ? shown(weights, "point_proj.0.weight", 0) : hidden;
  char list[600];
  *widths = (mr3d_projector_widths){inner ? inner : hidden, hidden};
  mr3d_bundle *expected = mr3d_encoder_tensors(config, widths->inner, hidden);
  const int missing = list_missing(weights, expected, list);
  mr3d_status status = MR3D_OK;
  if (missing)
    status = mr3d_fail(error, MR3D_INVALID, "weights %s: %d of %d tensors of the point encoder are missing: %s", weights->path, missing, mr3d_bundle_count(expected), list);
  for (int i = 0; i < mr3d_bundle_count(expected) && status == MR3D_OK; i++) status = check_tensor(weights, mr3d_bundle_at(expected, i), error);
  mr3d_bundle_free(&expected);
  return status;
}
