#include "align.h"

#include <ctype.h>
#include <inttypes.h>
#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include <cjson/cJSON.h>

#include "../../ref/base/bundle.h"
#include "../../ref/io/json.h"
#include "case_internal.h"
#include "../../ref/io/parts.h"

/* How a tensor lies: axis i of the stored tensor, seen with all its axes, is axis order[i] of the point; its heads are each there `repeat` times. */
typedef struct layout {
  const int *order;
  int64_t repeat;
} layout;

/* A tensor of the file that is a point. */
typedef struct entry {
  int64_t step, layer;
  const mr3d_trace_point *point;
  const mr3d_tensor *tensor;
  layout layout;
  bool usable;
} entry;

/* What was converted for those who asked. */
typedef struct pool {
  int64_t step, layer;
  int count, room;
  mr3d_tensor **tensors;
} pool;

struct mr3d_aligned {
  char *label;
  const mr3d_bundle *file;
  mr3d_bundle *owned;
  bool mapped;             /* its tensors lie in the file: not in memory, as those of a `.gz` */
  const mr3d_aligned *reference;
  int64_t steps, layers;
  mr3d_trace_sizes *sizes; /* [steps] */
  int count;
  entry *entries;          /* in the order of step, layer, point */
  int n_places;
  mr3d_trace_place_of *places;
  pool of_model, of_layer;
  int n_remarks;
  char **remarks;
};

/* ---- remarks ---- */

static void remark(mr3d_aligned *a, const char *format, ...) MR3D_PRINTF(2, 3);
static void remark(mr3d_aligned *a, const char *format, ...) {
  mr3d_error text = {0}; /* one line, tidy */
  char line[900];
  va_list arguments;
  va_start(arguments, format);
  vsnprintf(line, sizeof line, format, arguments);
  va_end(arguments);
  mr3d_fail(&text, MR3D_INVALID, "%s", line);
  char **all = mr3d_allocate(a->n_remarks + 1, sizeof *all);
  if (a->n_remarks) memcpy(all, a->remarks, (size_t)a->n_remarks * sizeof *all);
  all[a->n_remarks++] = strdup(text.message);
  free(a->remarks);
  a->remarks = all;
}

/* ---- names ---- */

typedef struct name_map {
  cJSON *file;
  const cJSON *names, *layouts;
  int64_t step;
} name_map;

static mr3d_status read_map(const char *path, name_map *map, mr3d_error *error) {
  if (!path) return MR3D_OK;
  mr3d_status status = mr3d_read_json(path, &map->file, error);
  if (status != MR3D_OK) return status;
  const cJSON *step = NULL, *item;
  cJSON_ArrayForEach(item, map->file) {
    const bool is_names = strcmp(item->string, "names") == 0, is_layouts = strcmp(item->string, "layouts") == 0;
    if ((is_names || is_layouts) && cJSON_IsObject(item)) *(is_names ? &map->names : &map->layouts) = item;
    else if (strcmp(item->string, "step") == 0 && mr3d_json_is_count(item, &map->step)) step = item;
    else return mr3d_fail(error, MR3D_INVALID, "%s: \"%.60s\" is unknown or of the wrong type; expected \"names\": {\"yours\": \"POINT\"}, \"layouts\": {\"POINT\": \"BqHD\"} and \"step\": 0", path, item->string);
  }
  (void)step;
  if (!cJSON_IsObject(map->file) || !map->names) return mr3d_fail(error, MR3D_INVALID, "%s: expected an object with \"names\": {\"h.{layer}.attn.q\": \"query\", ...}", path);
  cJSON_ArrayForEach(item, map->names) if (!cJSON_IsString(item)) return mr3d_fail(error, MR3D_INVALID, "%s: names: \"%.60s\" is mapped to no string", path, item->string);
  cJSON_ArrayForEach(item, map->layouts) if (!cJSON_IsString(item)) return mr3d_fail(error, MR3D_INVALID, "%s: layouts: \"%.60s\" is mapped to no string", path, item->string);
  return MR3D_OK;
}

/* "12" at the beginning of a text; -1 where there is none. */
static int64_t number_at(const char **text) {
  const size_t digits = strspn(*text, "0123456789");
  if (!digits || digits > 9) return -1;
  const int64_t value = strtoll(*text, NULL, 10);
  *text += digits;
  return value;
}

/* Whether a pattern with {step} and {layer} is the name; what they stand for. */
static bool fits_pattern(const char *pattern, const char *name, int64_t *step, int64_t *layer) {
  while (*pattern) {
    int64_t *number = strncmp(pattern, "{step}", 6) == 0 ? step : strncmp(pattern, "{layer}", 7) == 0 ? layer : NULL;
    if (number) {
      if ((*number = number_at(&name)) < 0) return false;
      pattern += number == step ? 6 : 7;
    } else if (*pattern++ != *name++) return false;
  }
  return !*name;
}

/* LAYER.POINT, model.POINT; POINT alone where the layer is known. */
static bool read_point(const char *text, int64_t *layer, const mr3d_trace_point **point) {
  if (strncmp(text, "model.", 6) == 0) {
    *layer = MR3D_TRACE_MODEL;
    text += 6;
  } else if (isdigit((unsigned char)*text)) {
    if ((*layer = number_at(&text)) < 0 || *text++ != '.') return false;
  }
  *point = mr3d_trace_point_named(*layer >= 0, text);
  return *point != NULL;
}

/* Which point a tensor is; false: none. */
static bool place(const name_map *map, const char *name, int64_t *step, int64_t *layer, const mr3d_trace_point **point) {
  const cJSON *item;
  cJSON_ArrayForEach(item, map->names) {
    *step = map->step;
    *layer = MR3D_TRACE_MODEL;
    if (fits_pattern(item->string, name, step, layer)) return read_point(item->valuestring, layer, point);
  }
  const char *at = name;
  *layer = MR3D_TRACE_MODEL;
  return (*step = number_at(&at)) >= 0 && *at++ == '.' && (isdigit((unsigned char)*at) || strncmp(at, "model.", 6) == 0) && read_point(at, layer, point);
}

static int by_place(const void *left, const void *right) {
  const entry *l = left, *r = right;
  if (l->step != r->step) return l->step < r->step ? -1 : 1;
  if (l->layer != r->layer) return l->layer < r->layer ? -1 : 1;
  return strcmp(l->point->name, r->point->name);
}

static mr3d_status collect(mr3d_aligned *a, const name_map *map, mr3d_error *error) {
  const int tensors = mr3d_bundle_count(a->file);
  int unknown = 0;
  const char *first_unknown = NULL;
  a->entries = mr3d_allocate(tensors, sizeof *a->entries);
  for (int i = 0; i < tensors; i++) {
    const mr3d_tensor *tensor = mr3d_bundle_at(a->file, i);
    entry *e = &a->entries[a->count];
    if (strncmp(tensor->name, "weights.", 8) == 0) continue;
    if (place(map, tensor->name, &e->step, &e->layer, &e->point)) {
      e->tensor = tensor;
      a->count++;
      if (e->step >= a->steps) a->steps = e->step + 1;
      if (e->layer >= a->layers) a->layers = e->layer + 1;
    } else if (strstr(tensor->name, ".model.grid") == NULL && strstr(tensor->name, ".model.hidden") == NULL) { /* what mr3d run writes beside the points */
      if (!unknown++) first_unknown = tensor->name;
    }
  }
  if (!a->count)
    return mr3d_fail(error, MR3D_INVALID, "%s holds no point of a trace%s%.80s%s: expected tensors STEP.LAYER.POINT, such as 0.17.query_rotated, or a map of your names", a->label,
                     first_unknown ? ": its first tensor is \"" : "", first_unknown ? first_unknown : "", first_unknown ? "\"" : "");
  if (a->steps > 1 << 16 || a->layers > 1 << 12) return mr3d_fail(error, MR3D_INVALID, "%s has step %" PRId64 " and layer %" PRId64 ": beyond any trace", a->label, a->steps - 1, a->layers - 1);
  if (unknown) remark(a, "%d tensor%s of %s %s no point, the first \"%.100s\"", unknown, unknown == 1 ? "" : "s", a->label, unknown == 1 ? "is" : "are", first_unknown);
  qsort(a->entries, (size_t)a->count, sizeof *a->entries, by_place);
  a->places = mr3d_allocate(a->count, sizeof *a->places);
  for (int i = 0; i < a->count; i++)
    if (i == 0 || a->entries[i].step != a->entries[i - 1].step || a->entries[i].layer != a->entries[i - 1].layer)
      a->places[a->n_places++] = (mr3d_trace_place_of){a->entries[i].step, a->entries[i].layer};
  for (int i = 1; i < a->count; i++)
    if (by_place(&a->entries[i - 1], &a->entries[i]) == 0)
      return mr3d_fail(error, MR3D_INVALID, "%s: \"%.100s\" and \"%.100s\" are both the same point", a->label, a->entries[i - 1].tensor->name, a->entries[i].tensor->name);
  return MR3D_OK;
}

static const entry *find(const mr3d_aligned *a, int64_t step, int64_t layer, const char *point) {
  int low = 0, high = a->count;
  while (low < high) {
    const int middle = (low + high) / 2;
    const entry *e = &a->entries[middle];
    int order = e->step != step ? (e->step < step ? -1 : 1) : e->layer != layer ? (e->layer < layer ? -1 : 1) : strcmp(e->point->name, point);
    if (order == 0) return e;
    if (order < 0) low = middle + 1;
    else high = middle;
  }
  return NULL;
}

/* The first entry of a place, or of what comes behind it. */
static int first_of(const mr3d_aligned *a, int64_t step, int64_t layer) {
  int low = 0, high = a->count;
  while (low < high) {
    const int middle = (low + high) / 2;
    const entry *e = &a->entries[middle];
    if (e->step < step || (e->step == step && e->layer < layer)) low = middle + 1;
    else high = middle;
  }
  return low;
}

/* ---- sizes ---- */

/* The text of a number in the metadata's configuration; 0 where it is not there. */
static int64_t config_size(const cJSON *config, const char *key) {
  int64_t value;
  return mr3d_json_is_count(cJSON_GetObjectItemCaseSensitive(config, key), &value) ? value : 0;
}

/* Sizes of no model are unknown, so that products of those that are known fit. */
#define MOST_HEADS 65536
#define MOST_WIDTH ((int64_t)1 << 24)
#define MOST_TOKENS ((int64_t)1 << 31)
#define MOST_SAMPLES ((int64_t)1 << 20)
static int64_t within(int64_t size, int64_t most) { return size > 0 && size <= most ? size : -1; }

/* Sizes of the model: from the configuration given, else from the trace's own, which need not be valid for that. */
static mr3d_trace_sizes model_sizes(const mr3d_aligned *a, const mr3d_config *config) {
  mr3d_trace_sizes s = {-1, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1};
  if (config) {
    s.H = within(config->num_attention_heads, MOST_HEADS), s.G = within(config->num_key_value_heads, MOST_HEADS), s.D = within(config->head_dim, MOST_HEADS);
    s.C = within(config->hidden_size, MOST_WIDTH), s.I = within(config->intermediate_size, MOST_WIDTH), s.V = within(config->vocab_size, MOST_WIDTH);
  } else if (a->reference && a->reference->steps) {
    s = a->reference->sizes[0];
  } else {
    const char *text = mr3d_bundle_get(a->file, "config");
    cJSON *own = text ? cJSON_Parse(text) : NULL;
    s.H = within(config_size(own, "num_attention_heads"), MOST_HEADS), s.G = within(config_size(own, "num_key_value_heads"), MOST_HEADS), s.D = within(config_size(own, "head_dim"), MOST_HEADS);
    s.C = within(config_size(own, "hidden_size"), MOST_WIDTH), s.I = within(config_size(own, "intermediate_size"), MOST_WIDTH), s.V = within(config_size(own, "vocab_size"), MOST_WIDTH);
    cJSON_Delete(own);
  }
  if (s.G < 0) s.G = s.H;
  if (s.D < 0 && s.H > 0 && s.C > 0) s.D = s.C / s.H;
  return s;
}

static void take_size(int64_t *size, int64_t found, int64_t most) {
  if (*size < 0 && found >= 0 && found <= most) *size = found;
}

/* B and q of a step: from tensors that leave no doubt, in the order of trust. */
static void step_sizes(const mr3d_aligned *a, int64_t step, mr3d_trace_sizes *s) {
  static const struct { const char *name; bool of_layer; int rank; } rows[] = {
      {"point_token_mask", false, 2}, {"inputs_embeds", false, 3}, {"input", true, 3},  {"final_norm", false, 3}, {"input_norm", true, 3}, {"output", true, 3},
      {"o_proj", true, 3},            {"gate", true, 3},           {"down", true, 3},   {"gated", true, 3},       {"up", true, 3},         {"position_ids", false, 2}};
  const entry *e;
  if (a->reference && step < a->reference->steps) {
    take_size(&s->B, a->reference->sizes[step].B, MOST_SAMPLES);
    take_size(&s->q, a->reference->sizes[step].q, MOST_TOKENS);
    take_size(&s->L, a->reference->sizes[step].L, MOST_TOKENS);
  }
  const int begin = first_of(a, step, MR3D_TRACE_MODEL);
  for (size_t i = 0; i < sizeof rows / sizeof *rows; i++)
    for (int k = begin; (s->B < 0 || s->q < 0) && k < a->count && a->entries[k].step == step; k++)
      if (e = &a->entries[k], (e->layer >= 0) == rows[i].of_layer && strcmp(e->point->name, rows[i].name) == 0 && e->tensor->rank == rows[i].rank) {
        if (strcmp(rows[i].name, "position_ids") != 0) take_size(&s->B, e->tensor->shape[0], MOST_SAMPLES);
        take_size(&s->q, e->tensor->shape[1], MOST_TOKENS);
      }
  if (step > 0 && (e = find(a, step, MR3D_TRACE_MODEL, "input_ids")) != NULL && e->tensor->rank == 2) take_size(&s->B, e->tensor->shape[0], MOST_SAMPLES), take_size(&s->q, e->tensor->shape[1], MOST_TOKENS);
  take_size(&s->B, 1, 1);
  for (int k = begin; k < a->count && a->entries[k].step == step && s->q < 0 && s->C > 0 && s->B > 0; k++) { /* flattened: rows of a known width */
    e = &a->entries[k];
    const int64_t elements = mr3d_tensor_count(e->tensor);
    if (strcmp(e->point->shape, "B,q,C") == 0 && elements % (s->B * s->C) == 0) s->q = elements / (s->B * s->C);
    else if (strcmp(e->point->shape, "B,H,q,D") == 0 && s->H > 0 && s->D > 0 && elements % (s->B * s->H * s->D) == 0) s->q = elements / (s->B * s->H * s->D);
  }
  if ((e = find(a, step, MR3D_TRACE_MODEL, "cache_length")) != NULL && e->tensor->dtype == MR3D_I64 && mr3d_tensor_count(e->tensor) == 1) take_size(&s->L, *(const int64_t *)e->tensor->data, MOST_TOKENS);
  if (step > 0 && s[-1].L >= 0 && s[-1].q >= 0) take_size(&s->L, s[-1].L + s[-1].q, MOST_TOKENS);
  if (step == 0) take_size(&s->L, 0, 0);
}

/* ---- layouts ---- */

static const int protocol_order[MR3D_MAX_RANK] = {0, 1, 2, 3, 4, 5, 6, 7};
static const int tokens_first[4] = {0, 2, 1, 3}; /* [B,q,H,D] of [B,H,q,D]; [B,q,H] of [B,H,q] */
static const int transposed[4] = {0, 1, 3, 2};   /* [B,H,D,q] */
static const int batch_second[3] = {1, 0, 2};    /* [q,B,C] of [B,q,C] */

/* Whether a stored shape is the axes `sizes` in their order, some of size 1 left out and those joined that may be; -1 fits anything. */
static bool joins(const mr3d_tensor *t, int at, int rank, const int64_t *sizes, const bool *may_join, int axis) {
  while (at < t->rank && t->shape[at] == 1 && !(axis < rank && sizes[axis] == 1)) at++;
  if (axis == rank) return at == t->rank;
  if ((sizes[axis] == 1 || sizes[axis] < 0) && joins(t, at, rank, sizes, may_join, axis + 1)) return true;
  int64_t product = 1;
  for (int last = axis; last < rank && at < t->rank; last++) {
    if (sizes[last] < 0) return last == axis && joins(t, at + 1, rank, sizes, may_join, axis + 1);
    if (__builtin_mul_overflow(product, sizes[last], &product)) break;
    if (product == t->shape[at] && joins(t, at + 1, rank, sizes, may_join, last + 1)) return true;
    if (!may_join[last]) break;
  }
  return false;
}

static bool is_flat(const mr3d_tensor *t) {
  int wide = 0;
  for (int i = 0; i < t->rank; i++) wide += t->shape[i] != 1;
  return wide <= 1;
}

/* Two orders put elements into the same places: they differ only in axes of size 1. */
static bool same_places(int rank, const int64_t *shape, const int *x, const int *y) {
  int i = 0, j = 0;
  for (;;) {
    while (i < rank && shape[x[i]] == 1) i++;
    while (j < rank && shape[y[j]] == 1) j++;
    if (i == rank || j == rank) return i == rank && j == rank;
    if (x[i++] != y[j++]) return false;
  }
}

/* Layouts that the shape allows, at most 6; those that put elements into the same places count once. */
static int candidates(const mr3d_trace_point *point, const mr3d_trace_sizes *sizes, const mr3d_tensor *t, layout found[6]) {
  int64_t shape[MR3D_MAX_RANK];
  const int rank = mr3d_trace_shape(point, sizes, shape);
  const bool heads = rank == 4, scores = strcmp(point->shape, "B,H,q") == 0, rows = rank == 3 && strncmp(point->shape, "B,q,", 4) == 0;
  const int *orders[3] = {protocol_order, heads || scores ? tokens_first : rows ? batch_second : NULL, heads ? transposed : NULL};
  const bool key_side = heads && point->shape[2] == 'G';
  const int64_t repeats[2] = {1, key_side && sizes->H > 0 && sizes->G > 0 ? sizes->H / sizes->G : 1};
  int n = 0;
  for (int r = 0; r < 2 && (r == 0 || repeats[1] > 1); r++)
    for (int o = 0; o < 3 && orders[o]; o++) {
      int64_t stored[MR3D_MAX_RANK];
      bool may_join[MR3D_MAX_RANK] = {false};
      const int *order = orders[o];
      for (int i = 0; i < rank; i++) stored[i] = shape[order[i]] < 0 ? -1 : shape[order[i]] * (heads && order[i] == 1 ? repeats[r] : 1);
      for (int i = 0; i + 1 < rank; i++) /* (B,H) and (B,q) in front, (H,D) behind */
        may_join[i] = i == 0 || (order == tokens_first && heads && i == 2) || (is_flat(t) && order != transposed);
      if (!joins(t, 0, rank, stored, may_join, 0)) continue;
      bool new = true;
      for (int k = 0; k < n; k++) new &= !(found[k].repeat == repeats[r] && same_places(rank, shape, found[k].order, order));
      if (new) found[n++] = (layout){order, repeats[r]};
    }
  return n;
}

static char letter_order(const char *shape, int axis) { return shape[2 * axis]; }

static void layout_text(const entry *e, const mr3d_trace_sizes *sizes, char text[96]) {
  int64_t shape[MR3D_MAX_RANK];
  const int rank = mr3d_trace_shape(e->point, sizes, shape);
  int n = 0;
  for (int i = 0; i < rank; i++) n += snprintf(text + n, 96 - (size_t)n, "%s%c", i ? "," : "", letter_order(e->point->shape, e->layout.order ? e->layout.order[i] : i));
  if (e->layout.repeat > 1) snprintf(text + n, 96 - (size_t)n, " repeated for %" PRId64 " heads", shape[1] * e->layout.repeat);
}

/* ---- copies in the protocol's layout ---- */

/* Copies the elements of `from`, whose axis i is axis order[i] of `to`. */
static void permute(const mr3d_tensor *from, const int order[], mr3d_tensor *to) {
  const size_t size = mr3d_dtype_size(from->dtype);
  int64_t stride[MR3D_MAX_RANK], index[MR3D_MAX_RANK] = {0}, step = 1;
  for (int i = from->rank - 1; i >= 0; i--) { /* of the axes of `to`, in `from` */
    stride[order[i]] = step;
    step *= from->shape[i];
  }
  const int rank = to->rank;
  const int64_t count = mr3d_tensor_count(to);
  int64_t row = 1; /* elements that follow each other in both */
  int tail = rank;
  while (tail > 0 && stride[tail - 1] == row) row *= to->shape[--tail];
  int64_t at = 0;
  for (int64_t done = 0; done < count; done += row) {
    memcpy((char *)to->data + (size_t)done * size, (const char *)from->data + (size_t)at * size, (size_t)row * size);
    for (int i = tail - 1; i >= 0; i--) {
      at += stride[i];
      if (++index[i] < to->shape[i]) break;
      at -= stride[i] * to->shape[i];
      index[i] = 0;
    }
  }
}

/* Shape of the point where it is that of the tensor: what is not known is taken from the stored shape. False: it does not work out. */
static bool whole_shape(const entry *e, const mr3d_trace_sizes *sizes, int *rank, int64_t shape[MR3D_MAX_RANK]) {
  const int64_t repeat = e->layout.repeat, elements = mr3d_tensor_count(e->tensor) / repeat;
  *rank = mr3d_trace_shape(e->point, sizes, shape);
  int unknown = 0, last = 0;
  int64_t known = 1, all = repeat;
  for (int i = 0; i < *rank; i++) {
    if (shape[i] < 0) unknown++, last = i;
    else if (__builtin_mul_overflow(known, shape[i], &known)) return false;
  }
  if (unknown == 1 && known > 0) shape[last] = elements / known;
  else if (unknown > 0 && e->tensor->rank == *rank) /* the shape as it lies says them */
    for (int k = 0; k < *rank; k++) shape[e->layout.order[k]] = e->tensor->shape[k] / (*rank == 4 && e->layout.order[k] == 1 ? repeat : 1);
  else if (unknown > 0) return false;
  for (int i = 0; i < *rank; i++)
    if (__builtin_mul_overflow(all, shape[i], &all)) return false;
  return all == mr3d_tensor_count(e->tensor);
}

static mr3d_tensor *new_tensor(const char *name, mr3d_dtype dtype, int rank, const int64_t *shape) {
  mr3d_tensor *t = mr3d_allocate(1, sizeof *t);
  *t = (mr3d_tensor){.name = name, .dtype = dtype, .rank = rank};
  memcpy(t->shape, shape, (size_t)rank * sizeof *shape);
  t->data = mr3d_allocate(mr3d_tensor_count(t), mr3d_dtype_size(dtype));
  return t;
}

/* The point as the protocol lays it out, of the stored type. */
static mr3d_tensor *permuted(const entry *e, int rank, const int64_t *shape) {
  mr3d_tensor *to = new_tensor(e->tensor->name, e->tensor->dtype, rank, shape);
  mr3d_tensor seen = *e->tensor; /* with all its axes */
  seen.rank = rank;
  for (int i = 0; i < rank; i++) seen.shape[i] = shape[e->layout.order[i]] * (rank == 4 && e->layout.order[i] == 1 ? e->layout.repeat : 1);
  if (e->layout.repeat == 1) {
    permute(&seen, e->layout.order, to);
    return to;
  }
  int64_t all_shape[MR3D_MAX_RANK]; /* heads repeated: the first of each group */
  memcpy(all_shape, shape, sizeof all_shape);
  all_shape[1] *= e->layout.repeat;
  mr3d_tensor *all = new_tensor(e->tensor->name, e->tensor->dtype, rank, all_shape);
  permute(&seen, e->layout.order, all);
  const size_t head = (size_t)(shape[2] * shape[3]) * mr3d_dtype_size(to->dtype);
  for (int64_t h = 0; h < shape[0] * shape[1]; h++) memcpy((char *)to->data + (size_t)h * head, (const char *)all->data + (size_t)(h * e->layout.repeat) * head, head);
  free(all->data), free(all);
  return to;
}

/* Whether the heads of a group hold the same values, as heads that were repeated do. */
static bool is_repetition(const entry *e, const mr3d_trace_sizes *sizes) {
  int rank;
  int64_t shape[MR3D_MAX_RANK];
  if (!whole_shape(e, sizes, &rank, shape)) return false;
  const int64_t groups = shape[1], repeat = e->layout.repeat;
  entry all = *e;
  all.layout.repeat = 1;
  shape[1] *= repeat;
  mr3d_tensor *t = permuted(&all, rank, shape);
  const size_t head = (size_t)(shape[2] * shape[3]) * mr3d_dtype_size(t->dtype);
  bool same = true;
  for (int64_t b = 0; b < shape[0]; b++)
    for (int64_t h = 0; h < groups * repeat && same; h++) {
      const char *data = (const char *)t->data + (size_t)(b * groups * repeat) * head;
      same = memcmp(data + (size_t)h * head, data + (size_t)(h / repeat * repeat) * head, head) == 0;
    }
  free(t->data), free(t);
  return same;
}

/* ---- which keys are visible ---- */

/* [B,q,K], or with an axis of one or all heads behind B, or without B: any such. */
static bool visible_fits(const entry *e, const mr3d_trace_sizes *sizes, int64_t shape[MR3D_MAX_RANK]) {
  const mr3d_tensor *t = e->tensor;
  mr3d_trace_shape(e->point, sizes, shape);
  if (t->rank < 2 || shape[1] < 0) return false;
  const int64_t keys = t->shape[t->rank - 1], queries = t->shape[t->rank - 2];
  if (queries != shape[1] || (shape[2] >= 0 && keys != shape[2])) return false;
  shape[2] = keys;
  int64_t batch = t->rank >= 3 ? t->shape[0] : 1, heads = t->rank == 4 ? t->shape[1] : 1;
  if (t->rank == 3 && batch == sizes->H && batch != sizes->B) batch = 1, heads = sizes->H;
  return t->rank <= 4 && (batch == 1 || batch == shape[0]) && (heads == 1 || heads == sizes->H || heads == sizes->G);
}

/* Masks are flags, 0 and 1, or what is added to scores: 0 where a key is seen, a large negative number where not. */
static mr3d_tensor *visible_flags(const entry *e, const mr3d_trace_sizes *sizes) {
  int64_t shape[MR3D_MAX_RANK];
  if (!visible_fits(e, sizes, shape)) return NULL;
  const mr3d_tensor *t = e->tensor;
  const int64_t pairs = shape[1] * shape[2], count = mr3d_tensor_count(t), stored = count / (pairs ? pairs : 1);
  double *values = mr3d_allocate(count, sizeof *values);
  mr3d_tensor_to_double(t, values);
  bool added = false;
  for (int64_t i = 0; i < count; i++) added |= values[i] < 0;
  if (!added && mr3d_dtype_is_float(t->dtype)) {
    added = true; /* zeros alone: nothing is hidden */
    for (int64_t i = 0; i < count; i++) added &= values[i] == 0;
  }
  mr3d_tensor *to = new_tensor(t->name, MR3D_BOOL, 3, shape);
  for (int64_t b = 0; b < shape[0]; b++)
    for (int64_t i = 0; i < pairs; i++) {
      const int64_t from = stored % shape[0] == 0 && stored >= shape[0] ? b * (stored / shape[0]) : 0; /* heads agree, or the first is taken */
      const double value = values[from * pairs + i];
      ((bool *)to->data)[b * pairs + i] = added ? value > -1e4 : value != 0;
    }
  free(values);
  return to;
}

static bool is_visible(const entry *e) { return strcmp(e->point->name, "visible") == 0; }

/* ---- settling ---- */

/* How far a layout's values are from the reference's: the mean absolute difference. */
static double distance(const mr3d_aligned *a, const entry *e, layout l) {
  entry with = *e;
  int rank;
  int64_t shape[MR3D_MAX_RANK];
  with.layout = l;
  const mr3d_tensor *truth = mr3d_aligned_find((void *)(uintptr_t)a->reference, e->step, e->layer, e->point->name);
  if (!truth || !whole_shape(&with, &a->sizes[e->step], &rank, shape)) return INFINITY;
  mr3d_tensor *got = permuted(&with, rank, shape);
  const int64_t count = mr3d_tensor_count(got);
  double sum = INFINITY;
  if (count == mr3d_tensor_count(truth)) {
    double *x = mr3d_allocate(count, sizeof *x), *y = mr3d_allocate(count, sizeof *y);
    mr3d_tensor_to_double(got, x);
    mr3d_tensor_to_double(truth, y);
    sum = 0;
    for (int64_t i = 0; i < count; i++) sum += fabs(x[i] - y[i]);
    free(x), free(y);
  }
  free(got->data), free(got);
  return sum;
}

/* A layout that the map demands: letters of the shape in another order. */
static const int *demanded_order(const name_map *map, const mr3d_trace_point *point) {
  const cJSON *wanted = map->layouts ? cJSON_GetObjectItemCaseSensitive(map->layouts, point->name) : NULL;
  const int *orders[4] = {protocol_order, tokens_first, transposed, batch_second};
  if (!wanted) return NULL;
  const size_t rank = (strlen(point->shape) + 1) / 2;
  for (int o = 0; o < 4; o++) {
    bool same = strlen(wanted->valuestring) == rank && (o == 0 || rank == 4 || (o != 2 && rank == 3));
    for (size_t i = 0; i < rank && same; i++) same = wanted->valuestring[i] == letter_order(point->shape, orders[o][i]);
    if (same) return orders[o];
  }
  return NULL;
}

static mr3d_status check_map_layouts(const name_map *map, const char *path, mr3d_error *error) {
  const cJSON *item;
  cJSON_ArrayForEach(item, map->layouts) {
    const mr3d_trace_point *point = mr3d_trace_point_named(true, item->string);
    if (!point) point = mr3d_trace_point_named(false, item->string);
    if (!point) return mr3d_fail(error, MR3D_INVALID, "%s: layouts: there is no point \"%.60s\"", path, item->string);
    if (!demanded_order(map, point))
      return mr3d_fail(error, MR3D_INVALID, "%s: layouts: \"%.60s\" is no layout of %s [%s]; expected its letters in another order, such as BqHD", path, item->valuestring, point->name, point->shape);
  }
  cJSON_ArrayForEach(item, map->names) {
    int64_t layer = strstr(item->string, "{layer}") ? 0 : MR3D_TRACE_MODEL;
    const mr3d_trace_point *point;
    if (!read_point(item->valuestring, &layer, &point))
      return mr3d_fail(error, MR3D_INVALID, "%s: names: \"%.80s\" is mapped to \"%.60s\", which is no point %s; see docs/protocol.md, \"Traces\"", path, item->string, item->valuestring,
                       layer >= 0 ? "of a layer" : "of the model (a name with {layer} is of a layer, as is 3.query)");
  }
  return MR3D_OK;
}

enum { MOST_REMARKS = 20 };

/* Votes of the entries that leave no doubt: [point kind of layout]. Points of one kind (queries, keys, rows, scores) share their layouts. */
static int kind_of(const mr3d_trace_point *point) {
  const bool four = strlen(point->shape) == 7;
  if (strcmp(point->shape, "B,H,q") == 0) return 3;
  return four && point->shape[2] == 'H' ? 0 : four && point->shape[2] == 'G' ? 1 : 2;
}

static void settle(mr3d_aligned *a, const name_map *map) {
  int votes[4][3] = {{0}}, unfit = 0, guessed = 0;
  const int *orders[3] = {protocol_order, tokens_first, transposed};
  for (int pass = 0; pass < 2; pass++)
    for (int i = 0; i < a->count; i++) {
      entry *e = &a->entries[i];
      layout found[6];
      const mr3d_trace_sizes *sizes = &a->sizes[e->step];
      int64_t shape[MR3D_MAX_RANK];
      char is[96], expected[96];
      if (e->usable) continue;
      if (is_visible(e)) {
        e->usable = visible_fits(e, sizes, shape);
        e->layout = (layout){protocol_order, 1};
        if (e->usable || !pass) continue;
      }
      int n = is_visible(e) ? 0 : candidates(e->point, sizes, e->tensor, found);
      const int *demanded = demanded_order(map, e->point);
      for (int k = 0; k < n && demanded; k++)
        if (found[k].order == demanded) found[0] = found[k], n = 1;
      if (n > 0 && found[n - 1].repeat > 1) { /* heads that are no repetition are wrong heads */
        entry as = *e;
        as.layout = found[n - 1];
        if (!is_repetition(&as, sizes)) n--;
      }
      const int kind = kind_of(e->point);
      if (n == 1) {
        e->layout = found[0];
        e->usable = true;
        int64_t whole[MR3D_MAX_RANK];
        const int rank = mr3d_trace_shape(e->point, sizes, whole);
        for (int o = 0; o < 3 && rank >= 3; o++) votes[kind][o] += found[0].order == orders[o] && !(rank >= 3 && (whole[1] == 1 || whole[2] == 1));
      } else if (n > 1 && pass) {
        int best = -1;
        for (int k = 0; k < n; k++)
          for (int o = 0; o < 3; o++)
            if (found[k].order == orders[o] && votes[kind][o] && (best < 0 || votes[kind][o] > votes[kind][best])) best = o;
        int chosen = -1;
        for (int k = 0; k < n && best >= 0; k++)
          if (found[k].order == orders[best] && chosen < 0) chosen = k;
        double least = INFINITY;
        for (int k = 0; k < n && chosen < 0 && a->reference; k++) {
          const double d = distance(a, e, found[k]);
          if (d < least) least = d, best = k;
        }
        if (chosen < 0 && least < INFINITY) chosen = best;
        e->layout = found[chosen < 0 ? 0 : chosen];
        e->usable = true;
        if (chosen < 0 && guessed++ < MOST_REMARKS) {
          layout_text(e, sizes, expected);
          remark(a, "%s: shape %s fits several layouts; it is taken for [%s] (a map's \"layouts\" can say otherwise)", e->tensor->name, mr3d_shape_text(e->tensor->rank, e->tensor->shape, is), expected);
        }
      } else if (!n && pass && unfit++ < MOST_REMARKS) {
        int64_t whole[MR3D_MAX_RANK];
        const int rank = mr3d_trace_shape(e->point, sizes, whole);
        remark(a, "%s has shape %s, which is no layout of [%s] = %s: it is left out", e->tensor->name, mr3d_shape_text(e->tensor->rank, e->tensor->shape, is), e->point->shape,
               mr3d_shape_text(rank, whole, expected));
      }
    }
  if (unfit > MOST_REMARKS) remark(a, "%d further tensors of %s have shapes that fit no layout of their point", unfit - MOST_REMARKS, a->label);
  if (guessed > MOST_REMARKS) remark(a, "%d further shapes of %s fit several layouts", guessed - MOST_REMARKS, a->label);
}

/* ---- opening ---- */

static mr3d_status align(mr3d_aligned *a, const mr3d_align_options *options, mr3d_error *error) {
  name_map map = {0};
  mr3d_status status = read_map(options->map, &map, error);
  if (status == MR3D_OK) status = check_map_layouts(&map, options->map, error);
  if (status == MR3D_OK) status = collect(a, &map, error);
  if (status == MR3D_OK) {
    const mr3d_trace_sizes model = model_sizes(a, options->config);
    a->sizes = mr3d_allocate(a->steps, sizeof *a->sizes);
    for (int64_t step = 0; step < a->steps; step++) {
      mr3d_trace_sizes *s = &a->sizes[step];
      *s = model;
      s->B = s->q = s->L = s->T = s->M = s->N = s->P = s->k = -1;
      step_sizes(a, step, s);
    }
    settle(a, &map);
  }
  cJSON_Delete(map.file);
  return status;
}

mr3d_status mr3d_align_bundle(const mr3d_bundle *bundle, const char *label, const mr3d_align_options *options, mr3d_aligned **aligned, mr3d_error *error) {
  static const mr3d_align_options none = {0};
  mr3d_aligned *a = mr3d_allocate(1, sizeof *a);
  a->label = strdup(label);
  a->file = bundle;
  a->reference = options ? options->reference : NULL;
  a->of_model.step = a->of_layer.step = -1;
  const mr3d_status status = align(a, options ? options : &none, error);
  if (status == MR3D_OK) *aligned = a;
  else mr3d_align_free(&a);
  return status;
}

mr3d_status mr3d_align_open(const char *path, const mr3d_align_options *options, mr3d_aligned **aligned, mr3d_error *error) {
  mr3d_bundle *file = NULL;
  mr3d_status status = mr3d_safetensors_map(path, &file, error);
  if (status != MR3D_OK) return status;
  status = mr3d_align_bundle(file, path, options, aligned, error);
  if (status == MR3D_OK) {
    const size_t length = strlen(path);
    (*aligned)->owned = file;
    (*aligned)->mapped = length < 3 || strcmp(path + length - 3, ".gz") != 0;
  } else mr3d_bundle_free(&file);
  return status;
}

static void empty(pool *p) {
  for (int i = 0; i < p->count; i++) free(p->tensors[i]->data), free(p->tensors[i]);
  p->count = 0;
}

void mr3d_align_free(mr3d_aligned **aligned) {
  mr3d_aligned *a = *aligned;
  if (!a) return;
  empty(&a->of_model), empty(&a->of_layer);
  free(a->of_model.tensors), free(a->of_layer.tensors);
  for (int i = 0; i < a->n_remarks; i++) free(a->remarks[i]);
  free(a->remarks), free(a->entries), free(a->places), free(a->sizes), free(a->label);
  mr3d_bundle_free(&a->owned);
  free(a);
  *aligned = NULL;
}

const mr3d_bundle *mr3d_aligned_file(const mr3d_aligned *a) { return a->file; }
const char *mr3d_aligned_label(const mr3d_aligned *a) { return a->label; }
int64_t mr3d_aligned_steps(const mr3d_aligned *a) { return a->steps; }
int64_t mr3d_aligned_layers(const mr3d_aligned *a) { return a->layers; }
int mr3d_aligned_places(const mr3d_aligned *a) { return a->n_places; }
mr3d_trace_place_of mr3d_aligned_place(const mr3d_aligned *a, int index) { return a->places[index]; }
int mr3d_aligned_remarks(const mr3d_aligned *a) { return a->n_remarks; }
const char *mr3d_aligned_remark(const mr3d_aligned *a, int index) { return a->remarks[index]; }

mr3d_trace_sizes mr3d_aligned_sizes(const mr3d_aligned *a, int64_t step) {
  if (step >= 0 && step < a->steps) return a->sizes[step];
  return (mr3d_trace_sizes){-1, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1};
}

const mr3d_tensor *mr3d_aligned_stored(const mr3d_aligned *a, int64_t step, int64_t layer, const char *point) {
  const entry *e = find(a, step, layer, point);
  return e ? e->tensor : NULL;
}

bool mr3d_aligned_is_chunked(const mr3d_aligned *a) {
  return mr3d_aligned_stored(a, 1, MR3D_TRACE_MODEL, "inputs_embeds") && !mr3d_aligned_stored(a, 1, MR3D_TRACE_MODEL, "input_ids");
}

void mr3d_aligned_layout(const mr3d_aligned *a, int64_t step, int64_t layer, const char *point, char text[96]) {
  const entry *e = find(a, step, layer, point);
  *text = 0;
  if (e && e->usable) layout_text(e, &a->sizes[e->step], text);
}

/* ---- asking ---- */

static const mr3d_tensor *keep(pool *p, mr3d_tensor *t) {
  if (p->count == p->room) {
    p->room = p->room ? 2 * p->room : 16;
    mr3d_tensor **all = mr3d_allocate(p->room, sizeof *all);
    if (p->count) memcpy(all, p->tensors, (size_t)p->count * sizeof *all);
    free(p->tensors);
    p->tensors = all;
  }
  p->tensors[p->count++] = t;
  return t;
}

/* The stored values as the type that the protocol has for flags and whole numbers. */
static mr3d_tensor *typed(const entry *e, mr3d_tensor *t) {
  if (t->dtype == e->point->dtype || (e->point->dtype == MR3D_F64 && mr3d_dtype_is_float(t->dtype))) return t;
  const int64_t count = mr3d_tensor_count(t);
  mr3d_tensor *to = new_tensor(t->name, e->point->dtype, t->rank, t->shape);
  double *values = mr3d_allocate(count, sizeof *values);
  mr3d_tensor_to_double(t, values);
  for (int64_t i = 0; i < count; i++) {
    if (to->dtype == MR3D_F64) ((double *)to->data)[i] = values[i];
    else if (to->dtype == MR3D_BOOL) ((bool *)to->data)[i] = values[i] != 0;
    else ((int64_t *)to->data)[i] = fabs(values[i]) < 0x1p62 ? (int64_t)values[i] : INT64_MIN;
  }
  free(values);
  free(t->data), free(t);
  return to;
}

/* The pages of a layer that is done with go back to the system: a trace is larger than the memory that comparing it may take. */
static void leave(const mr3d_aligned *a, int64_t step, int64_t layer) {
  const uintptr_t page = (uintptr_t)sysconf(_SC_PAGESIZE);
  if (!a->mapped || layer < 0) return;
  for (int i = first_of(a, step, layer); i < a->count && a->entries[i].step == step && a->entries[i].layer == layer; i++) {
    const mr3d_tensor *t = a->entries[i].tensor;
    const uintptr_t begin = ((uintptr_t)t->data + page - 1) / page * page, end = ((uintptr_t)t->data + mr3d_tensor_bytes(t)) / page * page;
    if (end > begin) madvise((void *)begin, end - begin, MADV_DONTNEED); /* read only, so the file has all of it */
  }
}

const mr3d_tensor *mr3d_aligned_find(void *aligned, int64_t step, int64_t layer, const char *point) {
  mr3d_aligned *a = aligned;
  const entry *e = find(a, step, layer, point);
  if (!e || !e->usable) return NULL;
  pool *p = layer >= 0 ? &a->of_layer : &a->of_model;
  if (p->step != step || p->layer != layer) {
    empty(p);
    leave(a, p->step, p->layer);
  }
  p->step = step, p->layer = layer;
  for (int i = 0; i < p->count; i++)
    if (p->tensors[i]->name == e->tensor->name) return p->tensors[i];
  const mr3d_trace_sizes *sizes = &a->sizes[step];
  if (is_visible(e)) {
    int64_t shape[MR3D_MAX_RANK];
    const bool as_it_is = e->tensor->dtype == MR3D_BOOL && e->tensor->rank == 3 && visible_fits(e, sizes, shape) && e->tensor->shape[0] == shape[0];
    return as_it_is ? e->tensor : keep(p, visible_flags(e, sizes));
  }
  int rank;
  int64_t shape[MR3D_MAX_RANK];
  if (!whole_shape(e, sizes, &rank, shape)) return NULL;
  const bool same_type = e->tensor->dtype == e->point->dtype || (e->point->dtype == MR3D_F64 && mr3d_dtype_is_float(e->tensor->dtype));
  const bool aligned_data = (uintptr_t)e->tensor->data % mr3d_dtype_size(e->tensor->dtype) == 0;
  if (e->layout.repeat == 1 && same_places(rank, shape, e->layout.order, protocol_order) && same_type && aligned_data) {
    if (e->tensor->rank == rank && memcmp(e->tensor->shape, shape, (size_t)rank * sizeof *shape) == 0) return e->tensor;
    mr3d_tensor *view = mr3d_allocate(1, sizeof *view); /* another shape of the same values */
    *view = *e->tensor;
    view->rank = rank;
    memcpy(view->shape, shape, (size_t)rank * sizeof *shape);
    const size_t bytes = mr3d_tensor_bytes(view);
    view->data = mr3d_allocate((long long)bytes, 1);
    memcpy(view->data, e->tensor->data, bytes);
    return keep(p, view);
  }
  return keep(p, typed(e, permuted(e, rank, shape)));
}

/* ---- what is missing ---- */

static void count_missing(const mr3d_aligned *a, const mr3d_aligned *other, mr3d_trace_place where, const mr3d_trace_point *point, mr3d_missing *m) {
  const bool of_layer = where == MR3D_TRACE_OF_LAYER;
  *m = (mr3d_missing){.point = point->name, .of_layer = of_layer};
  const mr3d_aligned *all = other ? other : a; /* where the other has points; where it has some of its own */
  for (int i = 0; i < all->n_places; i++) {
    const int64_t step = all->places[i].step, layer = all->places[i].layer;
    if ((layer >= 0) != of_layer) continue;
    const entry *mine = find(a, step, layer, point->name);
    if ((mine && mine->usable) || (other && !find(other, step, layer, point->name))) continue;
    if (!m->count++) m->step = step, m->layer = layer;
  }
}

int mr3d_aligned_missing(const mr3d_aligned *a, const mr3d_aligned *other, int most, mr3d_missing *missing) {
  int n = 0;
  for (int where = 0; where < MR3D_TRACE_N_PLACES; where++) {
    if (where == MR3D_TRACE_OF_CALL && !other) continue;
    for (const mr3d_trace_point *point = mr3d_trace_points((mr3d_trace_place)where); point->name; point++) {
      mr3d_missing m;
      count_missing(a, other, (mr3d_trace_place)where, point, &m);
      if (!m.count) continue;
      if (n < most) missing[n] = m;
      n++;
    }
  }
  return n;
}
