#include "exchange.h"

#include <fenv.h>
#include <fnmatch.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#ifdef __SSE__
#include <xmmintrin.h>
#endif

#include "../../../ref/io/json.h"
#include "pages.h"

/* A tensor as the plug-in sees it. */
typedef struct lent {
  DLTensor dl;           /* the plug-in's, as are these two: whatever it writes there, only what stands below counts */
  int64_t dl_shape[MR3D_MAX_RANK], dl_strides[MR3D_MAX_RANK];
  const char *name;
  mr3d_dtype dtype;
  DLTensor kept;
  int64_t shape[MR3D_MAX_RANK], strides[MR3D_MAX_RANK];
  mr3d_fence fence; /* outputs only */
  struct lent *next;
} lent;

/* The exchange under way; the host has one at a time. */
static struct {
  const mr3d_bundle *bundle;
  cJSON *config;
  int n_inputs;
  lent *inputs;
  lent *outputs, **last_output;
  const char *globs;   /* of the points that the request asks for, or NULL */
  mr3d_bundle *traced; /* those that came */
  const char *outcome; /* "error", "unsupported", or NULL: an answer */
  char message[1024];
} now;

/* ---- tensors ---- */

static uint8_t dl_code(mr3d_dtype dtype) {
  switch (dtype) {
  case MR3D_F16: case MR3D_F32: case MR3D_F64: return kDLFloat;
  case MR3D_BF16: return kDLBfloat;
  case MR3D_I8: case MR3D_I16: case MR3D_I32: case MR3D_I64: return kDLInt;
  default: return kDLUInt;
  }
}

static void fill(lent *t, const char *name, mr3d_dtype dtype, int rank, const int64_t *shape, void *data) {
  t->name = name, t->dtype = dtype;
  int64_t stride = 1;
  for (int i = rank - 1; i >= 0; i--) {
    t->shape[i] = shape[i];
    t->strides[i] = stride;
    stride *= shape[i] > 0 ? shape[i] : 1;
  }
  memcpy(t->dl_shape, t->shape, sizeof t->shape);
  memcpy(t->dl_strides, t->strides, sizeof t->strides);
  t->dl = t->kept = (DLTensor){.data = data, .device = {kDLCPU, 0}, .ndim = rank, .shape = t->dl_shape, .strides = t->dl_strides,
                               .dtype = {dl_code(dtype), (uint8_t)(8 * mr3d_dtype_size(dtype)), 1}};
}

/* ---- the request's getters ---- */

static const DLTensor *tensor_at(const mr3d_backend_request *request, int32_t i, const char **name) {
  (void)request;
  if (i < 0 || i >= now.n_inputs) return NULL;
  if (name) *name = now.inputs[i].name;
  return &now.inputs[i].dl;
}

static const lent *find(const char *name) {
  for (int i = 0; i < now.n_inputs; i++)
    if (strcmp(now.inputs[i].name, name) == 0) return &now.inputs[i];
  return NULL;
}

static const DLTensor *tensor(const mr3d_backend_request *request, const char *name) {
  (void)request;
  const lent *t = find(name);
  return t ? &t->dl : NULL;
}

static const char *dtype_of(const mr3d_backend_request *request, const char *name) {
  (void)request;
  const lent *t = find(name);
  return t ? mr3d_dtype_name(t->dtype) : NULL;
}

static const char *metadata(const mr3d_backend_request *request, const char *key) {
  (void)request;
  return mr3d_bundle_get(now.bundle, key);
}

static const cJSON *member(const char *key) {
  const cJSON *item = cJSON_GetObjectItemCaseSensitive(now.config, key);
  return cJSON_IsNull(item) ? NULL : item;
}

static int config_number(const mr3d_backend_request *request, const char *key, double *value) {
  (void)request;
  const cJSON *item = member(key);
  if (!item) return MR3D_BACKEND_ABSENT;
  if (!cJSON_IsNumber(item)) return MR3D_BACKEND_OTHER_TYPE;
  *value = item->valuedouble;
  return MR3D_BACKEND_FOUND;
}

static int config_bool(const mr3d_backend_request *request, const char *key, int *value) {
  (void)request;
  const cJSON *item = member(key);
  if (!item) return MR3D_BACKEND_ABSENT;
  if (!cJSON_IsBool(item)) return MR3D_BACKEND_OTHER_TYPE;
  *value = cJSON_IsTrue(item);
  return MR3D_BACKEND_FOUND;
}

static int config_text(const mr3d_backend_request *request, const char *key, const char **value) {
  (void)request;
  const cJSON *item = member(key);
  if (!item) return MR3D_BACKEND_ABSENT;
  if (!cJSON_IsString(item)) return MR3D_BACKEND_OTHER_TYPE;
  *value = item->valuestring;
  return MR3D_BACKEND_FOUND;
}

/* ---- the reply ---- */

static int conclude(const char *outcome, const char *message) {
  now.outcome = outcome;
  snprintf(now.message, sizeof now.message, "%s", message && *message ? message : "(the plug-in gave no reason)");
  return 1;
}

static int refuse(mr3d_backend_reply *reply, const char *message) {
  (void)reply;
  return conclude("error", message);
}

static int unsupported(mr3d_backend_reply *reply, const char *message) {
  (void)reply;
  return conclude("unsupported", message);
}

/* A pattern that no honest result has: a NaN of all ones in floats, neither 0 nor 1 in BOOL, absurd in integers. */
static uint8_t poison_of(mr3d_dtype dtype) { return mr3d_dtype_is_float(dtype) ? 0xFF : 0xA5; }

static DLTensor *mistaken_output(const char *name, const char *what) {
  char message[256];
  snprintf(message, sizeof message, "the plug-in asked for output \"%.100s\" %s", name, what);
  conclude("error", message);
  return NULL;
}

static DLTensor *output(mr3d_backend_reply *reply, const char *name, const char *dtype_name, int32_t rank, const int64_t *shape) {
  (void)reply;
  mr3d_dtype dtype = mr3d_dtype_named(dtype_name);
  if (dtype == MR3D_N_DTYPES) return mistaken_output(name, "with a dtype that is not one of safetensors' names (\"F32\" ...)");
  if (rank < 0 || rank > MR3D_MAX_RANK) return mistaken_output(name, "of a rank outside 0..8");
  for (const lent *t = now.outputs; t; t = t->next)
    if (strcmp(t->name, name) == 0) return mistaken_output(name, "twice");
  size_t size = mr3d_dtype_size(dtype);
  for (int i = 0; i < rank; i++)
    if (shape[i] < 0 || __builtin_mul_overflow(size, (size_t)shape[i], &size)) return mistaken_output(name, "of an impossible shape");
  lent *t = mr3d_allocate(1, sizeof *t);
  if (!mr3d_fence_new(size, poison_of(dtype), &t->fence)) {
    free(t);
    return mistaken_output(name, "for which there is no memory");
  }
  fill(t, strdup(name), dtype, rank, shape, t->fence.data);
  const uint8_t *end = t->fence.map + t->fence.map_size;
  mr3d_faults_explain(t->fence.map, (size_t)(t->fence.data - t->fence.map), "reached before the beginning of its output", t->name);
  mr3d_faults_explain(t->fence.data + size, (size_t)(end - (t->fence.data + size)), "reached past the end of its output", t->name);
  *now.last_output = t, now.last_output = &t->next;
  return &t->dl;
}

/* ---- points of a trace ---- */

static int wants(mr3d_backend_reply *reply, const char *point) {
  (void)reply;
  char glob[256];
  for (const char *list = now.globs; list && *list;) {
    const size_t length = strcspn(list, ",");
    snprintf(glob, sizeof glob, "%.*s", (int)length, list);
    if (fnmatch(glob, point, 0) == 0) return 1;
    list += length + (list[length] == ',');
  }
  return 0;
}

static void trace(mr3d_backend_reply *reply, const char *point, const char *dtype_name, int32_t rank, const int64_t *shape, const void *values) {
  char name[128], message[256];
  const mr3d_dtype dtype = mr3d_dtype_named(dtype_name);
  if (!wants(reply, point)) return;
  bool good = dtype != MR3D_N_DTYPES && rank >= 0 && rank <= MR3D_MAX_RANK && (size_t)snprintf(name, sizeof name, "trace.%s", point) < sizeof name;
  mr3d_tensor tensor = {.name = name, .dtype = dtype, .rank = rank, .data = (void *)(uintptr_t)values};
  size_t size = good ? mr3d_dtype_size(dtype) : 0;
  for (int i = 0; good && i < rank; i++) {
    tensor.shape[i] = shape[i];
    good = shape[i] >= 0 && !__builtin_mul_overflow(size, (size_t)shape[i], &size);
  }
  if (good && !now.traced) now.traced = mr3d_bundle_new();
  if (good && !mr3d_bundle_find(now.traced, name)) {
    mr3d_bundle_copy(now.traced, name, &tensor);
    return;
  }
  snprintf(message, sizeof message, "the plug-in traced \"%.100s\" %s", point, good ? "twice" : "with a dtype that is not one of safetensors' names, or of an impossible shape");
  conclude("error", message);
}

/* ---- after the plug-in's function ---- */

static void check_fence(const lent *t) {
  bool before;
  if (!mr3d_fence_crossed(&t->fence, &before)) return;
  fprintf(stderr, "mr3d-host: the plug-in wrote %s of its output \"%s\"\n", before ? "before the beginning" : "past the end", t->name);
  exit(MR3D_HOST_BROKE_RULES);
}

static bool same_description(const lent *t) {
  const DLTensor *a = &t->dl, *b = &t->kept;
  return a->data == b->data && a->ndim == b->ndim && a->shape == b->shape && a->strides == b->strides && a->byte_offset == b->byte_offset &&
         a->device.device_type == b->device.device_type && a->device.device_id == b->device.device_id && a->dtype.code == b->dtype.code &&
         a->dtype.bits == b->dtype.bits && a->dtype.lanes == b->dtype.lanes && memcmp(t->dl_shape, t->shape, sizeof t->shape) == 0 &&
         memcmp(t->dl_strides, t->strides, sizeof t->strides) == 0;
}

/* A result is dense and row-major, where the host put it: strides are told, not chosen. */
static void check_description(const lent *t, const char *what) {
  if (same_description(t)) return;
  fprintf(stderr, "mr3d-host: the plug-in changed the description of its %s \"%s\" (data, shape, strides ...), which is the host's\n", what, t->name);
  exit(MR3D_HOST_BROKE_RULES);
}

/* How this thread computes: rounding, and whether subnormal numbers count as zero. A function leaves it as it found it, by every machine's rules. */
typedef struct arithmetic {
  int rounding;
  unsigned flags;
} arithmetic;

static arithmetic arithmetic_now(void) {
  arithmetic a = {fegetround(), 0};
#ifdef __SSE__
  a.flags = _mm_getcsr() & 0x8040U; /* flush to zero, denormals are zero */
#endif
  return a;
}

static void check_arithmetic(arithmetic before) {
  arithmetic after = arithmetic_now();
  if (after.rounding == before.rounding && after.flags == before.flags) return;
  fprintf(stderr, "mr3d-host: the plug-in left %s: later requests would be computed otherwise\n",
          after.rounding != before.rounding ? "another rounding mode" : "another mode for subnormal numbers (flush to zero)");
  exit(MR3D_HOST_BROKE_RULES);
}

/* How many elements hold the poison, and which is the first. In blocks of a fixed size, which compilers turn into vector instructions. */
#define COUNT_POISON(type)                                                                         \
  do {                                                                                             \
    enum { BLOCK = 128 };                                                                          \
    const type *values = (const void *)t->fence.data;                                              \
    type poison;                                                                                   \
    size_t i = 0;                                                                                  \
    memset(&poison, poison_of(t->dtype), sizeof poison);                                           \
    for (; i + BLOCK <= count; i += BLOCK) {                                                       \
      type found = 0;                                                                              \
      for (size_t k = 0; k < BLOCK; k++) found = (type)(found + (values[i + k] == poison));        \
      unwritten += found;                                                                          \
    }                                                                                              \
    for (; i < count; i++) unwritten += values[i] == poison;                                       \
    while (unwritten && values[first] != poison) first++;                                          \
  } while (0)

/* Elements that still hold the poison. They are sent as they are: NaN, or an integer that no one expects. */
static void tell_unwritten(const lent *t) {
  const size_t width = mr3d_dtype_size(t->dtype), count = t->fence.size / width;
  size_t unwritten = 0, first = 0;
  switch (width) {
  case 1: COUNT_POISON(uint8_t); break;
  case 2: COUNT_POISON(uint16_t); break;
  case 4: COUNT_POISON(uint32_t); break;
  default: COUNT_POISON(uint64_t); break;
  }
  if (unwritten)
    fprintf(stderr, "mr3d-host: %zu of the %zu elements of output \"%s\" were never written, the first at flat index %zu\n", unwritten,
            count, t->name, first);
}

mr3d_bundle *mr3d_exchange_say(const char *type, const char *format, ...) {
  char message[1024];
  va_list arguments;
  va_start(arguments, format);
  vsnprintf(message, sizeof message, format, arguments);
  va_end(arguments);
  size_t at, n = strlen(message);
  if (!mr3d_utf8_valid(message, n, &at)) /* a cut or foreign text still has to fit into JSON */
    for (char *c = message; *c; c++)
      if ((unsigned char)*c > 126) *c = '?';
  mr3d_bundle *frame = mr3d_bundle_new();
  mr3d_bundle_set(frame, "type", type);
  mr3d_bundle_set(frame, "message", message);
  return frame;
}

static mr3d_bundle *answer(void) {
  mr3d_bundle *frame = mr3d_bundle_new();
  mr3d_bundle_set(frame, "type", "answer");
  for (const lent *t = now.outputs; t; t = t->next) {
    tell_unwritten(t);
    mr3d_bundle_borrow(frame, t->name, t->dtype, t->kept.ndim, t->shape, t->fence.data);
  }
  for (int i = 0; now.traced && i < mr3d_bundle_count(now.traced); i++) {
    const mr3d_tensor *t = mr3d_bundle_at(now.traced, i);
    mr3d_bundle_borrow(frame, t->name, t->dtype, t->rank, t->shape, t->data);
  }
  return frame;
}

mr3d_bundle *mr3d_exchange_run(const mr3d_bundle *bundle, mr3d_backend_op function, void *state) {
  const char *op = mr3d_bundle_get(bundle, "op"), *config = mr3d_bundle_get(bundle, "config");
  if (!config) config = "{}";
  memset(&now, 0, sizeof now);
  now.bundle = bundle, now.last_output = &now.outputs, now.globs = mr3d_bundle_get(bundle, "trace");
  mr3d_error error = {0};
  if (mr3d_json_parse(config, strlen(config), MR3D_JSON_ANY_NUMBER, &now.config, &error) != MR3D_OK)
    return mr3d_exchange_say("error", "config: %s", error.message);

  now.n_inputs = mr3d_bundle_count(bundle);
  now.inputs = mr3d_allocate(now.n_inputs, sizeof *now.inputs);
  for (int i = 0; i < now.n_inputs; i++) {
    const mr3d_tensor *t = mr3d_bundle_at(bundle, i);
    fill(&now.inputs[i], t->name, t->dtype, t->rank, t->shape, t->data);
    mr3d_faults_explain(t->data, (size_t)mr3d_tensor_count(t) * mr3d_dtype_size(t->dtype),
                        "wrote to its input, which is only lent for reading:", t->name);
  }
  mr3d_backend_request request = {
    .struct_size = sizeof request, .n_tensors = now.n_inputs, .op = op, .tier = mr3d_bundle_get(bundle, "tier"), .config = config,
    .session = mr3d_bundle_get(bundle, "session"), .tensor_at = tensor_at, .tensor = tensor, .dtype = dtype_of, .metadata = metadata,
    .config_number = config_number, .config_bool = config_bool, .config_text = config_text};
  mr3d_backend_reply reply = {.struct_size = sizeof reply, .output = output, .refuse = refuse, .unsupported = unsupported, .wants = wants, .trace = trace};

  const arithmetic before = arithmetic_now();
  int returned = function(state, &request, &reply);
  fflush(stdout); /* the plug-in's prints belong to this request's log */
  check_arithmetic(before);
  for (int i = 0; i < now.n_inputs; i++) check_description(&now.inputs[i], "input");
  for (const lent *t = now.outputs; t; t = t->next) {
    check_description(t, "output");
    check_fence(t);
  }
  if (!now.outcome && returned != 0)
    return mr3d_exchange_say("error", "the plug-in's %s returned %d and gave no reason", op, returned);
  return now.outcome ? mr3d_exchange_say(now.outcome, "%s", now.message) : answer();
}

void mr3d_exchange_done(void) {
  mr3d_faults_forget();
  for (lent *t = now.outputs, *next; t; t = next) {
    next = t->next;
    mr3d_fence_free(&t->fence);
    free((char *)t->name);
    free(t);
  }
  mr3d_bundle_free(&now.traced);
  free(now.inputs);
  cJSON_Delete(now.config);
  memset(&now, 0, sizeof now);
}
