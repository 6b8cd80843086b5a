#include "request.h"

#include <errno.h>
#include <float.h>
#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* A frame holds at most this (docs/protocol.md, "Frames"); no single output may be larger. */
#define OUTPUT_LIMIT ((int64_t)4 << 30)
/* Values from which on a second thread is worth starting. */
#define PARALLEL_FROM 65536

/* ---- memory ---- */

void mr3d_request_own(mr3d_request *r, void *memory) {
  if (r->n_owned == r->owned_room) {
    int room = r->owned_room ? 2 * r->owned_room : 32;
    void **grown = mr3d_allocate(room, sizeof *grown);
    if (r->n_owned) memcpy(grown, r->owned, (size_t)r->n_owned * sizeof *grown);
    free(r->owned);
    r->owned = grown;
    r->owned_room = room;
  }
  r->owned[r->n_owned++] = memory;
}

void *mr3d_request_memory(mr3d_request *r, int64_t count, size_t size) {
  void *memory = mr3d_allocate(count, size);
  mr3d_request_own(r, memory);
  return memory;
}

/* ---- sizes of the configuration ---- */

void mr3d_sizes_bind_config(mr3d_sizes *sizes, const mr3d_config *config) {
  const struct {
    const char *name, *key;
    int64_t value;
  } given[] = {
      {"H", "num_attention_heads", config->num_attention_heads},
      {"G", "num_key_value_heads", config->num_key_value_heads},
      {"D", "head_dim", config->head_dim},
      {"hidden", "hidden_size", config->hidden_size},
      {"I", "intermediate_size", config->intermediate_size},
      {"V", "vocab_size", config->vocab_size},
  };
  for (size_t i = 0; i < sizeof given / sizeof *given; i++)
    if (given[i].value > 0) mr3d_sizes_bind(sizes, given[i].name, given[i].value, "config %s", given[i].key);
}

mr3d_status mr3d_sizes_bind_split(mr3d_sizes *sizes, const mr3d_config *config, mr3d_error *error) {
  mr3d_split split;
  MR3D_TRY(mr3d_split_head(config, mr3d_sizes_get(sizes, "D"), &split, error));
  mr3d_sizes_bind(sizes, "Ds", split.Ds, "spatial part of D");
  mr3d_sizes_bind(sizes, "F", split.Ds / 2, "half of Ds = %lld", (long long)split.Ds);
  mr3d_sizes_bind(sizes, "A", config->learned_per_axis ? 3 : 1, "mixedRoPE_3d_learned_per_axis");
  mr3d_split_free(&split);
  return MR3D_OK;
}

mr3d_status mr3d_request_need(mr3d_request *r, const char *const keys[]) {
  for (; *keys; keys++) MR3D_TRY(mr3d_config_need(&r->config, *keys, r->error));
  return MR3D_OK;
}

int64_t mr3d_request_size(const mr3d_request *r, const char *name) { return mr3d_sizes_get(&r->sizes, name); }

mr3d_status mr3d_request_need_tokens(mr3d_request *r) {
  const long long B = mr3d_request_size(r, "B"), q = mr3d_request_size(r, "q");
  if (B > 0 && q > 0) return MR3D_OK;
  return mr3d_fail(r->error, MR3D_INVALID, "the call has B = %lld samples of q = %lld new tokens; both must be at least 1", B, q);
}

/* ---- types ---- */

static bool type_fits(mr3d_kind kind, mr3d_tier tier, mr3d_dtype dtype) {
  switch (kind) {
    case MR3D_KIND_FLOAT: return dtype == mr3d_tier_storage(tier);
    case MR3D_KIND_WEIGHT: return mr3d_dtype_is_float(dtype) || dtype == MR3D_F8_E4M3 || dtype == MR3D_F8_E5M2;
    case MR3D_KIND_COORDS:
    case MR3D_KIND_POINTS: return dtype == MR3D_I64 || dtype == MR3D_F32 || dtype == MR3D_F64;
    case MR3D_KIND_ANGLE: return dtype == MR3D_F32 || dtype == MR3D_F64;
    case MR3D_KIND_FLAG: return dtype == MR3D_BOOL;
    default: return dtype == MR3D_I64;
  }
}

mr3d_status mr3d_kind_check_type(mr3d_kind kind, mr3d_tier tier, const char *label, const mr3d_tensor *tensor, mr3d_error *error) {
  if (type_fits(kind, tier, tensor->dtype)) return MR3D_OK;
  char expected[96] = "";
  for (int dtype = 0; dtype < MR3D_N_DTYPES; dtype++)
    if (type_fits(kind, tier, (mr3d_dtype)dtype)) {
      size_t used = strlen(expected);
      snprintf(expected + used, sizeof expected - used, "%s%s", used ? " or " : "", mr3d_dtype_name((mr3d_dtype)dtype));
    }
  if (kind == MR3D_KIND_FLOAT)
    return mr3d_fail(error, MR3D_INVALID, "%s is %s, expected %s: floating inputs have the tier's storage type, and the tier is %s", label,
                     mr3d_dtype_name(tensor->dtype), expected, mr3d_tier_name(tier));
  return mr3d_fail(error, MR3D_INVALID, "%s is %s, expected %s", label, mr3d_dtype_name(tensor->dtype), expected);
}

/* ---- values ---- */

/* "[0,5,2]" for a flat index. */
static const char *index_text(const mr3d_tensor *tensor, int64_t flat, char text[96]) {
  int64_t index[MR3D_MAX_RANK];
  for (int d = tensor->rank - 1; d >= 0; d--) {
    index[d] = flat % tensor->shape[d];
    flat /= tensor->shape[d];
  }
  return tensor->rank ? mr3d_shape_text(tensor->rank, index, text) : strcpy(text, "");
}

/* Whether all are finite: a head's rows are looked at in every decode step, so by all threads and without a jump. */
static bool all_finite(int64_t count, const double *values) {
  int bad = 0;
#pragma omp parallel for simd reduction(| : bad) if (count >= PARALLEL_FROM)
  for (int64_t i = 0; i < count; i++) bad |= !(fabs(values[i]) <= DBL_MAX);
  return !bad;
}

mr3d_status mr3d_check_finite(const char *label, const mr3d_tensor *tensor, const double *values, mr3d_error *error) {
  int64_t count = mr3d_tensor_count(tensor);
  if (all_finite(count, values)) return MR3D_OK;
  for (int64_t i = 0; i < count; i++)
    if (!isfinite(values[i])) {
      char at[96];
      return mr3d_fail(error, MR3D_INVALID, "%s%s is %s, expected a finite number", label, index_text(tensor, i, at),
                       isnan(values[i]) ? "NaN" : values[i] > 0 ? "infinity" : "-infinity");
    }
  return MR3D_OK;
}

static mr3d_status check_integers(const mr3d_request *r, mr3d_kind kind, const mr3d_tensor *tensor) {
  int64_t least = kind == MR3D_KIND_INTEGER ? INT64_MIN : 0, most = kind == MR3D_KIND_MASK ? 1 : INT64_MAX;
  char expected[96] = "0 or 1";
  if (kind != MR3D_KIND_MASK) snprintf(expected, sizeof expected, "0 or more");
  if (kind == MR3D_KIND_TOKEN && mr3d_sizes_has(&r->sizes, "V")) {
    most = mr3d_request_size(r, "V") - 1;
    snprintf(expected, sizeof expected, "a token id in 0 .. %lld (vocab_size %lld)", (long long)most, (long long)most + 1);
  }
  const int64_t *values = tensor->data;
  int64_t count = mr3d_tensor_count(tensor);
  for (int64_t i = 0; i < count; i++)
    if (values[i] < least || values[i] > most) {
      char at[96];
      return mr3d_fail(r->error, MR3D_INVALID, "%s%s is %lld, expected %s", tensor->name, index_text(tensor, i, at), (long long)values[i], expected);
    }
  return MR3D_OK;
}

static mr3d_status check_flags(const mr3d_request *r, const mr3d_tensor *tensor) {
  const unsigned char *bytes = tensor->data; /* as bytes: reading another value than 0 or 1 as bool is undefined */
  int64_t count = mr3d_tensor_count(tensor);
  for (int64_t i = 0; i < count; i++)
    if (bytes[i] > 1) {
      char at[96];
      return mr3d_fail(r->error, MR3D_INVALID, "%s%s is the byte %d, expected 0 or 1", tensor->name, index_text(tensor, i, at), bytes[i]);
    }
  return MR3D_OK;
}

/* The tensor's values as its operator wants them: double for floats and coordinates, int64_t, bool. */
static mr3d_status read_values(mr3d_request *r, mr3d_kind kind, const mr3d_tensor *tensor, const void **values) {
  *values = tensor->data;
  if (kind == MR3D_KIND_FLAG) return check_flags(r, tensor);
  if (kind >= MR3D_KIND_INTEGER) return check_integers(r, kind, tensor);
  if (tensor->dtype != MR3D_F64) {
    double *converted = mr3d_allocate_unset(mr3d_tensor_count(tensor), sizeof *converted);
    mr3d_request_own(r, converted);
    mr3d_tensor_to_double(tensor, converted);
    *values = converted;
  }
  return kind == MR3D_KIND_POINTS || r->finite ? MR3D_OK : mr3d_check_finite(tensor->name, tensor, *values, r->error);
}

/* ---- presence ---- */

mr3d_presence mr3d_rotary_presence(const mr3d_config *config, bool has_points, mr3d_when when, const char **why) {
  *why = !config->rope_mixed_3d                    ? "rope_mixed_3d is false, so frequencies are fixed"
         : config->rope_3d_kind == MR3D_AXIAL      ? "rope_3d_kind is axial, so frequencies are fixed"
         : config->strategy == MR3D_FULL_TEMPORAL  ? "the strategy full_temporal leaves no spatial dimensions"
         : config->strategy == MR3D_CUSTOM_RATIO && config->spatial_ratio == 0 ? "spatial_ratio 0 leaves no spatial dimensions"
         : when == MR3D_IF_WEIGHTED && !config->learned_axial_weights
             ? "mixedRoPE_3d_learned_axial_mixing_weight is false, so all weights are 1"
             : NULL;
  if (*why) return MR3D_MUST_NOT;
  *why = "the call has points and the options say that this parameter is learned";
  return has_points && when != MR3D_IF_FREE ? MR3D_MUST : MR3D_MAY;
}

static mr3d_presence presence(const mr3d_request *r, mr3d_when when, const char **why) {
  const mr3d_bundle *bundle = r->bundle;
  *why = NULL;
  switch (when) {
    case MR3D_ALWAYS: return MR3D_MUST;
    case MR3D_OPTIONAL: return MR3D_MAY;
    case MR3D_WITH_COORDS:
    case MR3D_WITH_POINT_MASK:
      *why = "point_token_mask and point_coords come together";
      return mr3d_bundle_find(bundle, when == MR3D_WITH_COORDS ? "point_coords" : "point_token_mask") ? MR3D_MUST : MR3D_MAY;
    case MR3D_IF_POINTS:
      *why = "point_counts needs point_token_mask and point_coords";
      return mr3d_bundle_find(bundle, "point_token_mask") && mr3d_bundle_find(bundle, "point_coords") ? MR3D_MAY : MR3D_MUST_NOT;
    case MR3D_IF_SPLICED:
      *why = "decode_mask is pad_end, and only spliced uses it";
      return r->config.decode_mask == MR3D_SPLICED ? MR3D_MAY : MR3D_MUST_NOT;
    case MR3D_WITH_PAST_KEY:
    case MR3D_WITH_PAST_VALUE:
      *why = "past_key and past_value come together";
      return mr3d_bundle_find(bundle, when == MR3D_WITH_PAST_KEY ? "past_key" : "past_value") ? MR3D_MUST : MR3D_MAY;
    default: return mr3d_rotary_presence(&r->config, r->has_points, when, why);
  }
}

static const char *tensor_list(const mr3d_bundle *bundle, char text[400]) {
  int count = mr3d_bundle_count(bundle);
  strcpy(text, count ? "" : "no tensors");
  for (int i = 0; i < count; i++) {
    size_t used = strlen(text);
    if (used > 330) {
      strcpy(text + used, ", ...");
      break;
    }
    snprintf(text + used, 400 - used, "%s%.60s", i ? ", " : "", mr3d_bundle_at(bundle, i)->name);
  }
  return text;
}

/* ---- taking ---- */

/** A slot's shape for a reader: "[N,3] (one sample) or [B,N,3]" for "N,3;B=1|B,N,3". */
static const char *slot_shape_text(const char *shape, char text[96]) {
  size_t n = 0;
  for (const char *at = shape; *at && n < 80;) {
    const size_t length = strcspn(at, "|"), sizes = strcspn(at, "|;");
    n += (size_t)snprintf(text + n, 96 - n, "%s[%.*s]%s", n ? " or " : "", (int)sizes, at, sizes < length ? " (one sample)" : "");
    at += length + (at[length] == '|');
  }
  return text;
}

static mr3d_status take_one(mr3d_request *r, const mr3d_slot *slot, const void **values) {
  const char *why;
  mr3d_presence rule = presence(r, slot->when, &why);
  const mr3d_tensor *tensor = mr3d_bundle_find(r->bundle, slot->name);
  *values = NULL;
  if (!tensor) {
    if (rule != MR3D_MUST) return MR3D_OK;
    char list[400], shape[96];
    return mr3d_fail(r->error, MR3D_INVALID, "%s is missing, expected a tensor %s%s%s; the request holds %s", slot->name, slot_shape_text(slot->shape, shape),
                     why ? ": " : "", why ? why : "", tensor_list(r->bundle, list));
  }
  if (rule == MR3D_MUST_NOT) {
    char shape[96];
    return mr3d_fail(r->error, MR3D_INVALID, "%s %s %s is unexpected: %s", slot->name, mr3d_dtype_name(tensor->dtype),
                     mr3d_shape_text(tensor->rank, tensor->shape, shape), why);
  }
  MR3D_TRY(mr3d_kind_check_type(slot->kind, r->tier, slot->name, tensor, r->error));
  MR3D_TRY(mr3d_sizes_match(&r->sizes, slot->name, tensor, slot->shape, r->error));
  MR3D_TRY(read_values(r, slot->kind, tensor, values));
  r->taken[r->n_taken++] = tensor;
  return MR3D_OK;
}

mr3d_status mr3d_request_take(mr3d_request *r, const mr3d_slot *slots, int n_slots, void *in) {
  for (int i = 0; i < n_slots; i++) {
    const void *values;
    MR3D_TRY(take_one(r, &slots[i], &values));
    memcpy((char *)in + slots[i].field, &values, sizeof values);
  }
  return MR3D_OK;
}

mr3d_status mr3d_request_done(mr3d_request *r) {
  for (int i = 0; i < mr3d_bundle_count(r->bundle); i++) {
    const mr3d_tensor *tensor = mr3d_bundle_at(r->bundle, i);
    bool taken = false;
    for (int k = 0; k < r->n_taken; k++) taken |= r->taken[k] == tensor;
    if (!taken) {
      char shape[96];
      return mr3d_fail(r->error, MR3D_INVALID, "%s %s %s is unexpected: %s takes no tensor of that name", tensor->name,
                       mr3d_dtype_name(tensor->dtype), mr3d_shape_text(tensor->rank, tensor->shape, shape), r->op);
    }
  }
  if (mr3d_sizes_has(&r->sizes, "H") && mr3d_sizes_has(&r->sizes, "G")) {
    int64_t H = mr3d_request_size(r, "H"), G = mr3d_request_size(r, "G");
    if (G == 0 || H % G != 0)
      return mr3d_fail(r->error, MR3D_INVALID, "%lld query heads are no multiple of %lld key/value heads", (long long)H, (long long)G);
  }
  return MR3D_OK;
}

mr3d_status mr3d_request_take_points(mr3d_request *r, mr3d_points *points) {
  static const mr3d_slot slots[] = {
      {"point_token_mask", MR3D_KIND_FLAG, "B,q", MR3D_WITH_COORDS, offsetof(mr3d_points, mask)},
      {"point_coords", MR3D_KIND_COORDS, "N,3;B=1|B,N,3", MR3D_WITH_POINT_MASK, offsetof(mr3d_points, coords)},
      {"point_counts", MR3D_KIND_COUNT, "B", MR3D_IF_POINTS, offsetof(mr3d_points, counts)},
  };
  MR3D_TRY(mr3d_request_take(r, MR3D_SLOTS(slots), points));
  if (!points->mask) return MR3D_OK;
  points->N = mr3d_request_size(r, "N");
  int64_t tokens = mr3d_request_size(r, "B") * mr3d_request_size(r, "q");
  for (int64_t i = 0; i < tokens; i++) r->has_points |= points->mask[i];
  return MR3D_OK;
}

int64_t mr3d_request_position_rows(const mr3d_request *r) {
  const mr3d_tensor *positions = mr3d_bundle_find(r->bundle, "position_ids");
  return positions ? positions->shape[0] : 0;
}

/* ---- metadata ---- */

mr3d_status mr3d_request_text(mr3d_request *r, const char *key, const char **text) {
  const char *value = mr3d_bundle_get(r->bundle, key);
  if (!value) return mr3d_fail(r->error, MR3D_INVALID, "metadata %s is missing", key);
  *text = value;
  return MR3D_OK;
}

mr3d_status mr3d_request_integer(mr3d_request *r, const char *key, int64_t most, int64_t fallback, int64_t *value) {
  const char *text = mr3d_bundle_get(r->bundle, key);
  if (!text) {
    if (fallback < 0) return mr3d_fail(r->error, MR3D_INVALID, "metadata %s is missing, expected an integer", key);
    *value = fallback;
    return MR3D_OK;
  }
  const char *digits = text + (text[0] == '-');
  bool decimal = digits[0] && !digits[strspn(digits, "0123456789")];
  errno = 0;
  long long number = strtoll(text, NULL, 10);
  if (!decimal || errno == ERANGE) return mr3d_fail(r->error, MR3D_INVALID, "metadata %s is \"%.60s\", expected an integer", key, text);
  if (number < 0 || number > most) {
    if (most == INT64_MAX) return mr3d_fail(r->error, MR3D_INVALID, "metadata %s is %lld, expected 0 or more", key, number);
    return mr3d_fail(r->error, MR3D_INVALID, "metadata %s is %lld, expected 0 .. %lld", key, number, (long long)most);
  }
  *value = number;
  return MR3D_OK;
}

/* ---- answers ---- */

mr3d_status mr3d_request_output(mr3d_request *r, const char *name, mr3d_dtype dtype, int rank, const int64_t shape[], void *values) {
  int64_t bytes = (int64_t)mr3d_dtype_size(dtype);
  bool overflow = false;
  for (int d = 0; d < rank; d++)
    if (shape[d] == 0) bytes = 0;
  for (int d = 0; d < rank; d++) overflow |= __builtin_mul_overflow(bytes, shape[d], &bytes);
  char text[96];
  if (overflow || bytes > OUTPUT_LIMIT)
    return mr3d_fail(r->error, MR3D_INVALID, "the answer's %s %s would be larger than a frame's 4 GiB", name, mr3d_shape_text(rank, shape, text));
  void *data = mr3d_bundle_add(r->answer, name, dtype, rank, shape)->data;
  memcpy(values, &data, sizeof data);
  return MR3D_OK;
}

mr3d_status mr3d_request_extra(mr3d_request *r, const char *prefix, const char *name, double **values) {
  *values = NULL;
  if (!r->with_scale) return MR3D_OK;
  const mr3d_tensor *output = mr3d_bundle_find(r->answer, name);
  char full[96];
  snprintf(full, sizeof full, "%s:%s", prefix, name);
  return mr3d_request_output(r, full, MR3D_F64, output->rank, output->shape, values);
}

mr3d_status mr3d_request_skip(mr3d_request *r, const char *name, int rank, const int64_t shape[], const bool *skip) {
  int64_t count = 1;
  bool any = false, *values;
  for (int d = 0; d < rank; d++) count *= shape[d];
  for (int64_t i = 0; i < count; i++) any |= skip[i];
  if (!any || !r->with_scale) return MR3D_OK;
  char full[96];
  snprintf(full, sizeof full, "skip:%s", name);
  MR3D_TRY(mr3d_request_output(r, full, MR3D_BOOL, rank, shape, &values));
  memcpy(values, skip, (size_t)count);
  return MR3D_OK;
}
