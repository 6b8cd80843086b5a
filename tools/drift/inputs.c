#include "inputs.h"

#include <inttypes.h>
#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cjson/cJSON.h>

#include "mr3d/format.h"
#include "splice.h"

const char *mr3d_input_kind_name(mr3d_input_kind kind) {
  static const char *const names[] = {"configuration", "weights", "token ids", "mask", "positions", "coordinates", "embeddings", "calls"};
  return names[kind];
}

void mr3d_input_differences_free(mr3d_input_differences *d) {
  free(d->list);
  *d = (mr3d_input_differences){0};
}

static mr3d_input_difference *add(mr3d_input_differences *d, mr3d_input_kind kind, const char *name) {
  if (d->count == d->room) {
    const int room = d->room ? 2 * d->room : 16;
    mr3d_input_difference *list = mr3d_allocate(room, sizeof *list);
    if (d->count) memcpy(list, d->list, (size_t)d->count * sizeof *list);
    free(d->list);
    d->list = list;
    d->room = room;
  }
  mr3d_input_difference *one = &d->list[d->count++];
  *one = (mr3d_input_difference){.kind = kind, .step = -1, .layer = -1, .max = NAN};
  snprintf(one->name, sizeof one->name, "%s", name);
  return one;
}

static void say(mr3d_input_difference *d, const char *format, ...) MR3D_PRINTF(2, 3);
static void say(mr3d_input_difference *d, const char *format, ...) {
  va_list arguments;
  va_start(arguments, format);
  vsnprintf(d->text, sizeof d->text, format, arguments);
  va_end(arguments);
}

static const char *metadata(const mr3d_inputs_side *side, const char *key) { return side->trace ? mr3d_bundle_get(mr3d_aligned_file(side->trace), key) : NULL; }
static const char *config_of(const mr3d_inputs_side *side) { return side->config ? side->config : metadata(side, "config"); }

/* ---- configuration ---- */

/* Keys without a default: a side that lacks one says nothing of it. */
static bool has_no_default(const char *key) {
  static const char *const keys[] = {"hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads", "num_key_value_heads", "head_dim", "vocab_size", "rope_theta", "rms_norm_eps",
                                     "tie_word_embeddings", "virtual_resolution", "spatial_ratio"};
  for (size_t i = 0; i < sizeof keys / sizeof *keys; i++)
    if (strcmp(keys[i], key) == 0) return true;
  return false;
}

static void shown_value(const cJSON *item, char text[80]) {
  char *printed = item ? cJSON_PrintUnformatted(item) : NULL;
  snprintf(text, 80, "%s", printed ? printed : "not given (its default)");
  cJSON_free(printed);
}

static void compare_key(const cJSON *key, const cJSON *subject, const cJSON *reference, const char *other_text, mr3d_input_differences *d) {
  const cJSON *mine = cJSON_GetObjectItemCaseSensitive(subject, key->string), *truth = cJSON_GetObjectItemCaseSensitive(reference, key->string);
  if ((!mine || !truth || cJSON_IsNull(mine) || cJSON_IsNull(truth)) && has_no_default(key->string)) return;
  cJSON *alone = cJSON_CreateObject();
  cJSON_AddItemToObject(alone, key->string, cJSON_Duplicate(key, true));
  char *text = cJSON_PrintUnformatted(alone), subject_value[80], reference_value[80];
  if (mr3d_config_agrees(text, other_text, NULL) != MR3D_OK) {
    mr3d_input_difference *one = add(d, MR3D_INPUT_CONFIG, key->string);
    shown_value(mine, subject_value);
    shown_value(truth, reference_value);
    say(one, "configuration: %s is %s, the reference's is %s", key->string, subject_value, reference_value);
  }
  cJSON_free(text);
  cJSON_Delete(alone);
}

static void compare_config(const char *subject_text, const char *reference_text, mr3d_input_differences *d) {
  mr3d_config config;
  mr3d_error error = {0};
  if (!subject_text || !reference_text) return;
  d->config_compared = true;
  if (mr3d_config_parse(subject_text, &config, &error) != MR3D_OK) {
    say(add(d, MR3D_INPUT_CONFIG, "config"), "configuration: the reference refuses the subject's: %.500s", error.message);
    return;
  }
  cJSON *subject = cJSON_Parse(subject_text), *reference = cJSON_Parse(reference_text), *key;
  if (subject && reference && mr3d_config_parse(reference_text, &config, &error) == MR3D_OK) {
    cJSON_ArrayForEach(key, reference) if (!cJSON_IsNull(key)) compare_key(key, subject, reference, subject_text, d);
    cJSON_ArrayForEach(key, subject) if (!cJSON_GetObjectItemCaseSensitive(reference, key->string) && !cJSON_IsNull(key)) compare_key(key, subject, reference, reference_text, d);
  }
  cJSON_Delete(subject);
  cJSON_Delete(reference);
}

/* ---- weights ---- */

/* A side's weights: digests by name, and values where they can be had. */
typedef struct weights_of {
  const mr3d_inputs_side *side;
  cJSON *digests;             /* of the metadata; NULL: none */
  mr3d_weights *weights;      /* the side's, or those at the path of the metadata, once they are needed */
  mr3d_weights_cache *cache;
  mr3d_config config;
  bool tried;
} weights_of;

/* "layers.3.mlp.up_proj.weight" of any full name, so that a wrapper's prefix does not count. */
static const char *short_name(const char *name) {
  static const char *const begins[] = {"layers.", "embed_tokens.", "lm_head."};
  for (size_t i = 0; i < sizeof begins / sizeof *begins; i++) {
    const char *at = strstr(name, begins[i]);
    if (at) return at;
  }
  const char *norm = strstr(name, "norm.weight");
  return norm && (norm == name || norm[-1] == '.') ? norm : name;
}

static const cJSON *digest_named(const cJSON *digests, const char *name) {
  const cJSON *exact = digests ? cJSON_GetObjectItemCaseSensitive(digests, name) : NULL, *item;
  if (exact || !digests) return exact;
  cJSON_ArrayForEach(item, digests) if (strcmp(short_name(item->string), short_name(name)) == 0) return item;
  return NULL;
}

static const mr3d_tensor *tensor_named(const mr3d_bundle *tensors, const char *name) {
  const mr3d_tensor *exact = mr3d_bundle_find(tensors, name);
  for (int i = 0; !exact && i < mr3d_bundle_count(tensors); i++)
    if (strcmp(short_name(mr3d_bundle_at(tensors, i)->name), short_name(name)) == 0) exact = mr3d_bundle_at(tensors, i);
  return exact;
}

static void open_weights(weights_of *w) {
  const char *path = metadata(w->side, "weights"), *config = config_of(w->side);
  mr3d_error ignored = {0};
  if (w->tried) return;
  w->tried = true;
  if (!path || !config || mr3d_config_parse(config, &w->config, &ignored) != MR3D_OK) return;
  const mr3d_tier tier = metadata(w->side, "tier") ? mr3d_tier_named(metadata(w->side, "tier")) : MR3D_FP32;
  const mr3d_weights_source source = {.path = path, .config = &w->config, .tier = tier == MR3D_N_TIERS ? MR3D_FP32 : tier};
  w->cache = mr3d_weights_cache_new();
  if (mr3d_weights_open(w->cache, &source, &w->weights, &ignored) != MR3D_OK) w->weights = NULL;
}

/* Values of a tensor: from the trace, else from the weights. NULL: they cannot be had. Ownership: the caller frees. */
static double *values_of(weights_of *w, const char *name, bool may_open, mr3d_values *v) {
  char in_trace[240];
  snprintf(in_trace, sizeof in_trace, "weights.%.200s", name);
  const mr3d_tensor *tensor = w->side->trace ? mr3d_bundle_find(mr3d_aligned_file(w->side->trace), in_trace) : NULL;
  mr3d_error ignored = {0};
  double *buffer = NULL;
  if (tensor) {
    buffer = mr3d_allocate(mr3d_tensor_count(tensor), sizeof *buffer);
    mr3d_tensor_to_double(tensor, buffer);
  } else {
    if (!w->side->weights && may_open) open_weights(w);
    mr3d_weights *weights = w->side->weights ? w->side->weights : w->weights;
    tensor = weights ? tensor_named(mr3d_weights_tensors(weights), name) : NULL;
    if (!tensor) return NULL;
    const double *values;
    buffer = mr3d_allocate(mr3d_tensor_count(tensor), sizeof *buffer);
    if (mr3d_weights_rows(weights, tensor, 0, tensor->rank ? tensor->shape[0] : 1, buffer, &values, &ignored) != MR3D_OK) {
      free(buffer);
      return NULL;
    }
    if (values != buffer) memcpy(buffer, values, (size_t)mr3d_tensor_count(tensor) * sizeof *buffer);
  }
  *v = (mr3d_values){.rank = tensor->rank, .count = mr3d_tensor_count(tensor), .at = buffer};
  memcpy(v->shape, tensor->shape, sizeof v->shape);
  return buffer;
}

/* The digest of a tensor of a side; false: it is not there. */
static bool digest_of(weights_of *w, const char *name, mr3d_digest digest) {
  const cJSON *said = digest_named(w->digests, name);
  if (cJSON_IsString(said) && strlen(said->valuestring) == 64) {
    snprintf(digest, sizeof(mr3d_digest), "%s", said->valuestring);
    return true;
  }
  mr3d_values v;
  if (w->digests && !w->side->weights) return false; /* a list that lacks it */
  double *values = values_of(w, name, false, &v);
  if (!values) return false;
  mr3d_digest_values(v.at, v.count, digest);
  free(values);
  return true;
}

static const char *name_with_digest(const cJSON *digests, const char *digest) {
  const cJSON *item;
  cJSON_ArrayForEach(item, digests) if (cJSON_IsString(item) && strcmp(item->valuestring, digest) == 0) return item->string;
  return NULL;
}

/* "layer 3 q_proj.weight" of a full name. */
static void people_name(const char *name, char text[160], int64_t *layer) {
  const char *at = strstr(name, "layers.");
  *layer = -1;
  if (!at) {
    snprintf(text, 160, "%s", name);
    return;
  }
  char *end;
  *layer = strtoll(at + 7, &end, 10);
  const char *rest = *end == '.' ? end + 1 : end;
  if (strncmp(rest, "self_attn.", 10) == 0) rest += 10;
  else if (strncmp(rest, "mlp.", 4) == 0) rest += 4;
  snprintf(text, 160, "layer %" PRId64 " %.140s", *layer, rest);
}

enum { MOST_OPENED = 12 };              /* tensors whose values are looked at; of more, only what digests say */
#define MOST_ELEMENTS ((int64_t)1 << 24) /* of such a tensor: more take too much memory in binary64 */

/* The stored tensor of a side, of which no copy is made; NULL: there is none, or it is drawn. */
static const mr3d_tensor *stored_of(const weights_of *w, const char *name) {
  char in_trace[240];
  snprintf(in_trace, sizeof in_trace, "weights.%.200s", name);
  const mr3d_tensor *tensor = w->side->trace ? mr3d_bundle_find(mr3d_aligned_file(w->side->trace), in_trace) : NULL;
  mr3d_weights *weights = w->side->weights ? w->side->weights : w->weights;
  if (tensor || !weights) return tensor;
  const mr3d_bundle *all = mr3d_weights_tensors(weights);
  tensor = tensor_named(all, name);
  for (int i = mr3d_bundle_count(all) - mr3d_weights_drawn(weights); i < mr3d_bundle_count(all); i++)
    if (mr3d_bundle_at(all, i) == tensor) return NULL;
  return tensor;
}

/* Whether a tensor is the reference's rounded to a format, as its digest tells; the format that the tensors before had is tried first, and alone where many differ. */
static const char *rounded_to(weights_of *reference, const char *name, const char *digest, bool all, int *format) {
  static const struct { mr3d_dtype dtype; const char *name; } formats[] = {{MR3D_BF16, "bf16"}, {MR3D_F16, "fp16"}, {MR3D_F32, "fp32"}};
  if (!reference->side->weights) open_weights(reference);
  const mr3d_tensor *tensor = stored_of(reference, name);
  mr3d_digest own;
  for (int i = -1; tensor && i < 3; i++) {
    const int f = i < 0 ? *format : i;
    if (f < 0 || (i >= 0 && (f == *format || (!all && *format >= 0)))) continue;
    mr3d_digest_rounded(tensor, formats[f].dtype, own);
    if (strcmp(own, digest) != 0) continue;
    *format = f;
    return formats[f].name;
  }
  return NULL;
}

static void describe_weight(weights_of *subject, weights_of *reference, const char *name, const char *mine, const char *truth, int64_t head_dim, int nth, int *format, mr3d_input_differences *d) {
  mr3d_input_difference *one = add(d, MR3D_INPUT_WEIGHTS, name);
  char people[160], other_people[160] = "";
  int64_t layer, other_layer;
  people_name(name, people, &layer);
  one->layer = layer;
  const char *same_as = name_with_digest(reference->digests, mine), *format_name = NULL;
  mr3d_values a = {0}, b = {0};
  if (!reference->side->weights) open_weights(reference);
  const mr3d_tensor *lies = stored_of(reference, name);
  const bool open = nth < MOST_OPENED && !(lies && mr3d_tensor_count(lies) > MOST_ELEMENTS);
  double *x = open ? values_of(subject, name, true, &a) : NULL, *y = open ? values_of(reference, name, true, &b) : NULL;
  if (x) { /* a file that has changed since the trace was written says nothing of it */
    mr3d_digest now;
    mr3d_digest_values(a.at, a.count, now);
    if (strcmp(now, mine) != 0) free(x), x = NULL;
  }
  if (same_as && strcmp(short_name(same_as), short_name(name)) != 0) {
    people_name(same_as, other_people, &other_layer);
    snprintf(one->looks, sizeof one->looks, "the reference's %s", other_people);
  } else if (!(x && y) && (format_name = rounded_to(reference, name, mine, open, format)) != NULL) {
    snprintf(one->looks, sizeof one->looks, "rounded to %s", format_name);
    one->rounding = true;
  } else if (x && y) mr3d_weight_looks(&a, &b, head_dim, &one->max, &one->rounding, one->looks);
  else if (y) mr3d_digest_looks(mine, &b, head_dim, &one->rounding, one->looks);
  char max[48] = "";
  for (int f = 0; one->rounding && f < 3; f++) /* the format to try first with the next */
    if (strstr(one->looks, (const char *const[]){"bf16", "fp16", "fp32"}[f])) *format = f;
  if (isfinite(one->max)) snprintf(max, sizeof max, ", max %.2g", one->max);
  say(one, "%s differs: SHA-256 %.12s..., the reference's %.12s...%s%s%s", people, mine, truth, max, *one->looks ? ", looks " : "", one->looks);
  if (!x && y && !*one->looks) say(one, "%s differs: SHA-256 %.12s..., the reference's %.12s...; its values are not at hand (trace_torch's weights=\"all\" keeps them)", people, mine, truth);
  free(x), free(y);
}

/* Digests of weights that were opened; of drawn ones too, which takes as long as drawing them. */
static cJSON *digests_of(const mr3d_inputs_side *side) {
  char *text = mr3d_digest_weights(side->weights, NULL);
  cJSON *digests = text ? cJSON_Parse(text) : NULL;
  free(text);
  if (digests) return digests;
  const mr3d_bundle *tensors = mr3d_weights_tensors(side->weights);
  digests = cJSON_CreateObject();
  for (int i = 0; i < mr3d_bundle_count(tensors); i++) {
    mr3d_digest digest;
    weights_of plain = {.side = side};
    if (digest_of(&plain, mr3d_bundle_at(tensors, i)->name, digest)) cJSON_AddStringToObject(digests, mr3d_bundle_at(tensors, i)->name, digest);
  }
  return digests;
}

static void compare_weights(const mr3d_inputs_side *subject, const mr3d_inputs_side *reference, int64_t head_dim, mr3d_input_differences *d) {
  weights_of s = {.side = subject}, r = {.side = reference};
  const char *mine_text = metadata(subject, "weights_sha256"), *truth_text = reference->weights ? NULL : metadata(reference, "weights_sha256");
  s.digests = mine_text ? cJSON_Parse(mine_text) : NULL;
  r.digests = truth_text ? cJSON_Parse(truth_text) : NULL;
  const cJSON *item;
  int missing = 0, different = 0, format = -1;
  char first_missing[160] = "";
  if (!r.digests && reference->weights && s.digests) r.digests = digests_of(reference);
  cJSON_ArrayForEach(item, r.digests) {
    mr3d_digest mine, truth;
    if (!s.digests || !cJSON_IsString(item)) break;
    if (!digest_of(&s, item->string, mine)) {
      if (strcmp(short_name(item->string), "lm_head.weight") == 0 || strstr(item->string, "inv_freq")) continue; /* tied; a buffer */
      if (!missing++) snprintf(first_missing, sizeof first_missing, "%s", item->string);
      continue;
    }
    snprintf(truth, sizeof truth, "%s", item->valuestring);
    d->weights_compared++;
    if (strcmp(mine, truth) != 0) describe_weight(&s, &r, item->string, mine, truth, head_dim, different++, &format, d);
  }
  if (missing)
    say(add(d, MR3D_INPUT_WEIGHTS, first_missing), "%d tensor%s of the reference's weights %s not among the subject's, the first %s", missing, missing == 1 ? "" : "s", missing == 1 ? "is" : "are", first_missing);
  const char *path = metadata(subject, "weights"), *other_path = reference->weights ? mr3d_weights_path(reference->weights) : metadata(reference, "weights");
  if (!d->weights_compared && path && other_path && strncmp(path, "generated:", 10) == 0 && strncmp(other_path, "generated:", 10) == 0 && strcmp(path, other_path) != 0)
    say(add(d, MR3D_INPUT_WEIGHTS, "weights"), "the weights are %s, the reference's %s", path, other_path);
  cJSON_Delete(s.digests);
  cJSON_Delete(r.digests);
  mr3d_weights_release(&s.weights);
  mr3d_weights_release(&r.weights);
  mr3d_weights_cache_free(&s.cache);
  mr3d_weights_cache_free(&r.cache);
}

/* ---- what the calls were given ---- */

static bool same_shape(const mr3d_tensor *a, const mr3d_tensor *b) {
  bool same = a->rank == b->rank;
  for (int i = 0; same && i < a->rank; i++) same = a->shape[i] == b->shape[i];
  return same;
}

static int compare_rows_3(const void *left, const void *right) { return memcmp(left, right, 3 * sizeof(double)); }

/* Coordinates [.., 3] that are the others with axes exchanged, rows in another order, or scaled. */
static void coords_look(int64_t count, const double *a, const double *b, char looks[200]) {
  static const int axes[5][3] = {{0, 2, 1}, {1, 0, 2}, {1, 2, 0}, {2, 0, 1}, {2, 1, 0}};
  const int64_t rows = count / 3;
  for (int p = 0; p < 5; p++) {
    bool same = true;
    for (int64_t i = 0; i < count && same; i++) same = a[i] == b[i / 3 * 3 + axes[p][i % 3]];
    if (same) {
      snprintf(looks, 200, "with axes exchanged: x y z are the reference's %c %c %c", "xyz"[axes[p][0]], "xyz"[axes[p][1]], "xyz"[axes[p][2]]);
      return;
    }
  }
  double *x = mr3d_allocate(count, sizeof *x), *y = mr3d_allocate(count, sizeof *y), factor = 0;
  memcpy(x, a, (size_t)count * sizeof *x), memcpy(y, b, (size_t)count * sizeof *y);
  qsort(x, (size_t)rows, 3 * sizeof *x, compare_rows_3), qsort(y, (size_t)rows, 3 * sizeof *y, compare_rows_3);
  if (memcmp(x, y, (size_t)(3 * rows) * sizeof *x) == 0) snprintf(looks, 200, "the same rows in another order");
  free(x), free(y);
  for (int64_t i = 0; i < count && factor == 0 && !*looks; i++) factor = b[i] != 0 ? a[i] / b[i] : 0;
  bool scaled = factor != 0 && !*looks;
  for (int64_t i = 0; i < count && scaled; i++) scaled = fabs(a[i] - factor * b[i]) <= 1e-6 * fabs(factor * b[i]);
  if (scaled) snprintf(looks, 200, fabs(1 / factor - 79) < 1e-3 ? "normalised already: divided by %.0f" : "divided by %.6g", 1 / factor);
}

static void describe_exact(mr3d_input_differences *d, mr3d_input_kind kind, int64_t step, const mr3d_tensor *a, const mr3d_tensor *b, const char *point) {
  char shape[96], other[96];
  if (!same_shape(a, b)) {
    mr3d_input_difference *one = add(d, kind, point);
    one->step = step;
    say(one, "step %" PRId64 ": %s has shape %s, the reference's %s", step, point, mr3d_shape_text(a->rank, a->shape, shape), mr3d_shape_text(b->rank, b->shape, other));
    return;
  }
  const int64_t count = mr3d_tensor_count(a);
  double *x = mr3d_allocate(count, sizeof *x), *y = mr3d_allocate(count, sizeof *y), offset = 0, max = 0;
  mr3d_tensor_to_double(a, x);
  mr3d_tensor_to_double(b, y);
  int64_t different = 0, first = -1;
  bool shifted = true;
  for (int64_t i = 0; i < count; i++) {
    if (x[i] == y[i]) {
      shifted = false;
      continue;
    }
    if (!different++) first = i, offset = x[i] - y[i];
    shifted &= x[i] - y[i] == offset;
    max = fmax(max, fabs(x[i] - y[i]));
  }
  if (different) {
    mr3d_input_difference *one = add(d, kind, point);
    one->step = step;
    one->max = max;
    if (kind == MR3D_INPUT_POINTS && strcmp(point, "point_coords") == 0) coords_look(count, x, y, one->looks);
    else if (shifted && a->dtype != MR3D_BOOL && kind == MR3D_INPUT_POSITIONS) snprintf(one->looks, sizeof one->looks, "shifted: each is %.0f %s", fabs(offset), offset < 0 ? "less" : "more");
    say(one, "step %" PRId64 ": %s differs at %" PRId64 " of %" PRId64 " elements, the first at flat index %" PRId64 ": %.10g, the reference's %.10g%s%s", step, point, different, count, first, x[first],
        y[first], *one->looks ? "; looks " : "", one->looks);
  }
  free(x), free(y);
}

static double unit_of(mr3d_dtype dtype) { return dtype == MR3D_BF16 ? 0x1p-8 : dtype == MR3D_F16 ? 0x1p-10 : dtype == MR3D_F32 ? 0x1p-23 : 0; }

/* Embeddings, up to the rounding of the coarser format. */
static void compare_embeds(mr3d_input_differences *d, int64_t step, const mr3d_tensor *a, const mr3d_tensor *b, const mr3d_tensor *marks) {
  if (!same_shape(a, b)) {
    describe_exact(d, MR3D_INPUT_EMBEDS, step, a, b, "inputs_embeds");
    return;
  }
  const int64_t count = mr3d_tensor_count(a), width = a->rank ? a->shape[a->rank - 1] : 1, rows = width ? count / width : 0;
  const double unit = fmax(unit_of(a->dtype), unit_of(b->dtype)), floor = a->dtype == MR3D_F16 || b->dtype == MR3D_F16 ? 0x1p-24 : 0x1p-120;
  double *x = mr3d_allocate(count, sizeof *x), *y = mr3d_allocate(count, sizeof *y), max = 0;
  mr3d_tensor_to_double(a, x);
  mr3d_tensor_to_double(b, y);
  int64_t different = 0, points = 0, first = -1, last = -1;
  for (int64_t r = 0; r < rows; r++) {
    bool same = true;
    for (int64_t i = r * width; i < (r + 1) * width; i++) {
      same &= fabs(x[i] - y[i]) <= unit * fabs(y[i]) + floor;
      max = fmax(max, fabs(x[i] - y[i]));
    }
    if (same) continue;
    if (!different++) first = r;
    last = r;
    if (marks && marks->dtype == MR3D_BOOL && mr3d_tensor_count(marks) == rows) points += ((const bool *)marks->data)[r];
  }
  if (different) {
    mr3d_input_difference *one = add(d, MR3D_INPUT_EMBEDS, "inputs_embeds");
    one->step = step;
    one->max = max;
    const char *which = !marks ? "" : points == different ? ", all of them points: the point features are others" : points == 0 ? ", none of them points: the token ids or the embedding are others" : ", text and points";
    say(one, "step %" PRId64 ": inputs_embeds differs in %" PRId64 " of %" PRId64 " rows (%" PRId64 " .. %" PRId64 ")%s; max %.2g", step, different, rows, first, last, which, max);
  }
  free(x), free(y);
}

static const mr3d_tensor *of_model(const mr3d_aligned *a, int64_t step, const char *point) { return mr3d_aligned_find((void *)(uintptr_t)a, step, MR3D_TRACE_MODEL, point); }

static void compare_calls(const mr3d_aligned *subject, const mr3d_aligned *reference, mr3d_input_differences *d) {
  static const struct { const char *name; mr3d_input_kind kind; } exact[] = {
      {"cache_length", MR3D_INPUT_CALLS}, {"input_ids", MR3D_INPUT_TOKENS},         {"point_token_mask", MR3D_INPUT_POINTS}, {"point_counts", MR3D_INPUT_POINTS},
      {"point_coords", MR3D_INPUT_POINTS}, {"attention_mask", MR3D_INPUT_MASK}, {"position_ids", MR3D_INPUT_POSITIONS}};
  const int64_t n = mr3d_aligned_steps(subject) < mr3d_aligned_steps(reference) ? mr3d_aligned_steps(subject) : mr3d_aligned_steps(reference);
  for (int64_t step = 0; step < n; step++) {
    const int before = d->count;
    for (size_t i = 0; i < sizeof exact / sizeof *exact; i++) {
      const mr3d_tensor *a = of_model(subject, step, exact[i].name), *b = of_model(reference, step, exact[i].name);
      if (a && b) describe_exact(d, exact[i].kind, step, a, b, exact[i].name);
    }
    const mr3d_tensor *a = of_model(subject, step, "inputs_embeds"), *b = of_model(reference, step, "inputs_embeds");
    if (a && b) compare_embeds(d, step, a, b, of_model(reference, step, "point_token_mask"));
    d->calls_compared++;
    bool tokens = false;
    for (int i = before; i < d->count; i++) tokens |= d->list[i].kind == MR3D_INPUT_TOKENS;
    if (tokens && step > 0) break; /* from another token on, everything is another */
  }
}

void mr3d_inputs_compare(const mr3d_inputs_side *subject, const mr3d_inputs_side *reference, mr3d_input_differences *d) {
  const char *mine = config_of(subject), *truth = config_of(reference);
  compare_config(mine, truth, d);
  mr3d_config config;
  int64_t head_dim = 0;
  if (truth && mr3d_config_parse(truth, &config, NULL) == MR3D_OK)
    head_dim = config.head_dim ? config.head_dim : config.num_attention_heads ? config.hidden_size / config.num_attention_heads : 0;
  compare_weights(subject, reference, head_dim, d);
  if (subject->trace && reference->trace) compare_calls(subject->trace, reference->trace, d);
  char looks[200], text[700];
  if (!subject->trace || !truth || mr3d_config_parse(truth, &config, NULL) != MR3D_OK || !mr3d_splice_differs(subject->trace, &config, reference->weights, looks, text)) return;
  mr3d_input_difference *one = add(d, MR3D_INPUT_EMBEDS, "inputs_embeds");
  one->step = 0;
  snprintf(one->looks, sizeof one->looks, "%s", looks);
  say(one, "%s", text);
}
