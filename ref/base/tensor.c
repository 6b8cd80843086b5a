/** Element types, tensors and bundles (mr3d/tensor.h). */
#include "mr3d/tensor.h"

#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "bundle.h"
#include "hash.h"
#include "mr3d/format.h"

/* ---- element types ---- */

static const struct {
  const char *name;
  size_t size;
} types[MR3D_N_DTYPES] = {
    [MR3D_BOOL] = {"BOOL", 1}, [MR3D_U8] = {"U8", 1},           [MR3D_I8] = {"I8", 1},           [MR3D_U16] = {"U16", 2},
    [MR3D_I16] = {"I16", 2},   [MR3D_U32] = {"U32", 4},         [MR3D_I32] = {"I32", 4},         [MR3D_U64] = {"U64", 8},
    [MR3D_I64] = {"I64", 8},   [MR3D_F16] = {"F16", 2},         [MR3D_BF16] = {"BF16", 2},       [MR3D_F32] = {"F32", 4},
    [MR3D_F64] = {"F64", 8},   [MR3D_F8_E4M3] = {"F8_E4M3", 1}, [MR3D_F8_E5M2] = {"F8_E5M2", 1},
};

const char *mr3d_dtype_name(mr3d_dtype dtype) { return types[dtype].name; }

mr3d_dtype mr3d_dtype_named(const char *name) {
  int dtype = 0;
  while (dtype < MR3D_N_DTYPES && strcmp(types[dtype].name, name) != 0)
    dtype++;
  return (mr3d_dtype)dtype;
}

size_t mr3d_dtype_size(mr3d_dtype dtype) { return types[dtype].size; }

bool mr3d_dtype_is_float(mr3d_dtype dtype) {
  return dtype == MR3D_F16 || dtype == MR3D_BF16 || dtype == MR3D_F32 || dtype == MR3D_F64;
}

/* ---- tensors ---- */

int64_t mr3d_tensor_count(const mr3d_tensor *tensor) {
  int64_t count = 1;
  for (int axis = 0; axis < tensor->rank; axis++)
    count *= tensor->shape[axis];
  return count;
}

size_t mr3d_tensor_bytes(const mr3d_tensor *tensor) { return (size_t)mr3d_tensor_count(tensor) * mr3d_dtype_size(tensor->dtype); }

char *mr3d_shape_text(int rank, const int64_t shape[], char text[96]) {
  size_t used = (size_t)snprintf(text, 96, "[");
  for (int axis = 0; axis < rank && used < 96; axis++)
    used += (size_t)snprintf(text + used, 96 - used, "%s%lld", axis > 0 ? "," : "", (long long)shape[axis]);
  if (used < 95)
    snprintf(text + used, 96 - used, "]");
  else
    memcpy(text + 91, "...]", 5); /* eight sizes of more than ten digits each */
  return text;
}

/* E4M3 has no infinity, one NaN per sign, and one more octave of finite values in its place. */
static double f8_e4m3_to_double(uint8_t code) {
  int exponent = code >> 3 & 15, fraction = code & 7;
  double value = (code & 127) == 127 ? (double)NAN : exponent == 0 ? ldexp(fraction, -9) : ldexp(8 + fraction, exponent - 10);
  return code & 128 ? -value : value;
}

#define PARALLEL_FROM 65536
#define EACH(type, expression) \
  do { \
    const type *values = tensor->data; \
    _Pragma("omp parallel for if (count >= PARALLEL_FROM)") \
    for (int64_t i = 0; i < count; i++) { \
      const type value = values[i]; \
      out[i] = (expression); \
    } \
  } while (0)

void mr3d_tensor_to_double(const mr3d_tensor *tensor, double *out) {
  const int64_t count = mr3d_tensor_count(tensor);
  switch (tensor->dtype) {
  case MR3D_BOOL: EACH(uint8_t, value != 0); break;
  case MR3D_U8: EACH(uint8_t, value); break;
  case MR3D_I8: EACH(int8_t, value); break;
  case MR3D_U16: EACH(uint16_t, value); break;
  case MR3D_I16: EACH(int16_t, value); break;
  case MR3D_U32: EACH(uint32_t, value); break;
  case MR3D_I32: EACH(int32_t, value); break;
  case MR3D_U64: EACH(uint64_t, (double)value); break;
  case MR3D_I64: EACH(int64_t, (double)value); break;
  case MR3D_F16: EACH(uint16_t, mr3d_f16_to_double(value)); break;
  case MR3D_BF16: EACH(uint16_t, mr3d_bf16_to_double(value)); break;
  case MR3D_F32: EACH(float, value); break;
  case MR3D_F64:
    if (count > 0)
      memcpy(out, tensor->data, (size_t)count * sizeof *out);
    break;
  case MR3D_F8_E4M3: EACH(uint8_t, f8_e4m3_to_double(value)); break;
  case MR3D_F8_E5M2: EACH(uint8_t, mr3d_f16_to_double((uint16_t)(value << 8))); break; /* the upper half of an F16 */
  case MR3D_N_DTYPES: break;
  }
}
#undef EACH

/* A misuse of the library, not of a file: say so and stop. */
static _Noreturn void bug(const char *format, ...) {
  va_list arguments;
  va_start(arguments, format);
  fputs("mr3d: ", stderr);
  vfprintf(stderr, format, arguments);
  fputc('\n', stderr);
  va_end(arguments);
  abort();
}

/* `value` as an integer of lowest..limit-1; both bounds are powers of two (or 0) and exact. */
static double whole(const mr3d_tensor *tensor, double value, double lowest, double limit) {
  if (!(value >= lowest && value < limit && value == trunc(value)))
    bug("tensor %s: %.17g is not exact in %s", tensor->name, value, mr3d_dtype_name(tensor->dtype));
  return value;
}

#define EACH(type, expression) \
  do { \
    type *out = tensor->data; \
    _Pragma("omp parallel for if (count >= PARALLEL_FROM)") \
    for (int64_t i = 0; i < count; i++) { \
      const double value = values[i]; \
      out[i] = (type)(expression); \
    } \
  } while (0)

void mr3d_tensor_from_double(mr3d_tensor *tensor, const double *values) {
  const int64_t count = mr3d_tensor_count(tensor);
  switch (tensor->dtype) {
  case MR3D_BOOL: EACH(uint8_t, whole(tensor, value, 0, 2)); break;
  case MR3D_U8: EACH(uint8_t, whole(tensor, value, 0, 0x1p8)); break;
  case MR3D_I8: EACH(int8_t, whole(tensor, value, -0x1p7, 0x1p7)); break;
  case MR3D_U16: EACH(uint16_t, whole(tensor, value, 0, 0x1p16)); break;
  case MR3D_I16: EACH(int16_t, whole(tensor, value, -0x1p15, 0x1p15)); break;
  case MR3D_U32: EACH(uint32_t, whole(tensor, value, 0, 0x1p32)); break;
  case MR3D_I32: EACH(int32_t, whole(tensor, value, -0x1p31, 0x1p31)); break;
  case MR3D_U64: EACH(uint64_t, whole(tensor, value, 0, 0x1p64)); break;
  case MR3D_I64: EACH(int64_t, whole(tensor, value, -0x1p63, 0x1p63)); break;
  case MR3D_F16: EACH(uint16_t, mr3d_f16_from_double(value)); break;
  case MR3D_BF16: EACH(uint16_t, mr3d_bf16_from_double(value)); break;
  case MR3D_F32: EACH(float, value); break;
  case MR3D_F64:
    if (count > 0)
      memcpy(tensor->data, values, (size_t)count * sizeof *values);
    break;
  case MR3D_F8_E4M3:
  case MR3D_F8_E5M2:
  case MR3D_N_DTYPES:
    bug("tensor %s: %s is a storage type, nothing is computed in it", tensor->name, mr3d_dtype_name(tensor->dtype));
  }
}
#undef EACH

/* ---- bundles ---- */

/* Names to indices: open addressing, at most half full, so that a header with a million names is still read at once. */
typedef struct name_table {
  struct slot {
    const char *name; /* NULL: free */
    int index;
  } *slots;
  size_t capacity; /* a power of two, or 0 */
} name_table;

static struct slot *find_slot(const name_table *table, const char *name) {
  size_t i = mr3d_fnv1a(name) & (table->capacity - 1);
  while (table->slots[i].name != NULL && strcmp(table->slots[i].name, name) != 0)
    i = (i + 1) & (table->capacity - 1);
  return &table->slots[i];
}

/* Index of the name, or -1. */
static int lookup(const name_table *table, const char *name) {
  if (table->capacity == 0)
    return -1;
  const struct slot *slot = find_slot(table, name);
  return slot->name != NULL ? slot->index : -1;
}

/* Requires: a new name that outlives the table; index counts up from 0. */
static void enter(name_table *table, const char *name, int index) {
  if (2 * ((size_t)index + 1) > table->capacity) {
    name_table larger = {NULL, table->capacity > 0 ? 2 * table->capacity : 16};
    larger.slots = mr3d_allocate((long long)larger.capacity, sizeof *larger.slots);
    for (size_t i = 0; i < table->capacity; i++)
      if (table->slots[i].name != NULL)
        *find_slot(&larger, table->slots[i].name) = table->slots[i];
    free(table->slots);
    *table = larger;
  }
  *find_slot(table, name) = (struct slot){name, index};
}

struct mr3d_bundle {
  mr3d_tensor **tensors; /* each allocated alone, so pointers survive further additions */
  int n_tensors;
  name_table tensor_names;
  struct meta {
    char *key, *value;
  } *meta;
  int n_meta;
  name_table meta_names;
  struct kept {
    void *memory;
    size_t size;
    void (*release)(void *, size_t);
  } *kept;
  int n_kept;
};

/* Room for one more element behind `count`: arrays double at powers of two. */
static void *grown(void *array, int count, size_t size) {
  if (count > 0 && (count & (count - 1)) != 0)
    return array;
  void *larger = mr3d_allocate(count > 0 ? 2LL * count : 1, size);
  if (count > 0)
    memcpy(larger, array, (size_t)count * size);
  free(array);
  return larger;
}

static char *copy_text(const char *text) {
  size_t bytes = strlen(text) + 1;
  return memcpy(mr3d_allocate((long long)bytes, 1), text, bytes);
}

mr3d_bundle *mr3d_bundle_new(void) { return mr3d_allocate(1, sizeof(mr3d_bundle)); }

void mr3d_bundle_free(mr3d_bundle **bundle) {
  mr3d_bundle *b = *bundle;
  if (b == NULL)
    return;
  for (int i = 0; i < b->n_tensors; i++) {
    free((char *)b->tensors[i]->name);
    free(b->tensors[i]);
  }
  for (int i = 0; i < b->n_meta; i++) {
    free(b->meta[i].key);
    free(b->meta[i].value);
  }
  for (int i = 0; i < b->n_kept; i++)
    b->kept[i].release(b->kept[i].memory, b->kept[i].size);
  free(b->tensors);
  free(b->tensor_names.slots);
  free(b->meta);
  free(b->meta_names.slots);
  free(b->kept);
  free(b);
  *bundle = NULL;
}

void mr3d_bundle_keep(mr3d_bundle *b, void *memory, size_t size, void (*release)(void *, size_t)) {
  b->kept = grown(b->kept, b->n_kept, sizeof *b->kept);
  b->kept[b->n_kept++] = (struct kept){memory, size, release};
}

static void release_block(void *memory, size_t size) {
  (void)size;
  free(memory);
}

mr3d_tensor *mr3d_bundle_borrow(mr3d_bundle *b, const char *name, mr3d_dtype dtype, int rank, const int64_t shape[], void *data) {
  if (lookup(&b->tensor_names, name) >= 0)
    bug("a bundle holds tensor %s already", name);
  if (rank < 0 || rank > MR3D_MAX_RANK)
    bug("tensor %s has rank %d; at most %d is possible", name, rank, MR3D_MAX_RANK);
  mr3d_tensor *tensor = mr3d_allocate(1, sizeof *tensor);
  tensor->name = copy_text(name);
  tensor->dtype = dtype;
  tensor->rank = rank;
  int64_t bytes = (int64_t)mr3d_dtype_size(dtype);
  for (int axis = 0; axis < rank; axis++) {
    tensor->shape[axis] = shape[axis];
    if (shape[axis] < 0 || __builtin_mul_overflow(bytes, shape[axis], &bytes)) {
      char text[96];
      bug("tensor %s has impossible shape %s", name, mr3d_shape_text(rank, shape, text));
    }
  }
  tensor->data = data;
  b->tensors = grown(b->tensors, b->n_tensors, sizeof(mr3d_tensor *));
  b->tensors[b->n_tensors] = tensor;
  enter(&b->tensor_names, tensor->name, b->n_tensors++);
  return tensor;
}

static mr3d_tensor *add_owned(mr3d_bundle *b, const char *name, mr3d_dtype dtype, int rank, const int64_t shape[], void *allocate(long long, unsigned long)) {
  mr3d_tensor *tensor = mr3d_bundle_borrow(b, name, dtype, rank, shape, NULL);
  tensor->data = allocate(mr3d_tensor_count(tensor), mr3d_dtype_size(dtype));
  mr3d_bundle_keep(b, tensor->data, mr3d_tensor_bytes(tensor), release_block);
  return tensor;
}

mr3d_tensor *mr3d_bundle_add(mr3d_bundle *b, const char *name, mr3d_dtype dtype, int rank, const int64_t shape[]) {
  return add_owned(b, name, dtype, rank, shape, mr3d_allocate);
}

mr3d_tensor *mr3d_bundle_add_unset(mr3d_bundle *b, const char *name, mr3d_dtype dtype, int rank, const int64_t shape[]) {
  return add_owned(b, name, dtype, rank, shape, mr3d_allocate_unset);
}

mr3d_tensor *mr3d_bundle_copy(mr3d_bundle *b, const char *name, const mr3d_tensor *source) {
  mr3d_tensor *tensor = mr3d_bundle_add_unset(b, name != NULL ? name : source->name, source->dtype, source->rank, source->shape);
  memcpy(tensor->data, source->data, mr3d_tensor_bytes(source));
  return tensor;
}

mr3d_tensor *mr3d_bundle_find(const mr3d_bundle *b, const char *name) {
  int index = lookup(&b->tensor_names, name);
  return index >= 0 ? b->tensors[index] : NULL;
}

int mr3d_bundle_count(const mr3d_bundle *b) { return b->n_tensors; }

mr3d_tensor *mr3d_bundle_at(const mr3d_bundle *b, int index) { return b->tensors[index]; }

void mr3d_bundle_set(mr3d_bundle *b, const char *key, const char *value) {
  char *copy = copy_text(value); /* first: `value` may be the one being replaced */
  int index = lookup(&b->meta_names, key);
  if (index < 0) {
    b->meta = grown(b->meta, b->n_meta, sizeof *b->meta);
    index = b->n_meta++;
    b->meta[index].key = copy_text(key);
    enter(&b->meta_names, b->meta[index].key, index);
  }
  free(b->meta[index].value);
  b->meta[index].value = copy;
}

void mr3d_bundle_setf(mr3d_bundle *b, const char *key, const char *format, ...) {
  va_list arguments, again;
  va_start(arguments, format);
  va_copy(again, arguments);
  size_t bytes = (size_t)vsnprintf(NULL, 0, format, arguments) + 1;
  va_end(arguments);
  char *text = mr3d_allocate((long long)bytes, 1);
  vsnprintf(text, bytes, format, again);
  va_end(again);
  mr3d_bundle_set(b, key, text);
  free(text);
}

const char *mr3d_bundle_get(const mr3d_bundle *b, const char *key) {
  int index = lookup(&b->meta_names, key);
  return index >= 0 ? b->meta[index].value : NULL;
}

int mr3d_bundle_meta_count(const mr3d_bundle *b) { return b->n_meta; }

void mr3d_bundle_meta_at(const mr3d_bundle *b, int index, const char **key, const char **value) {
  *key = b->meta[index].key;
  *value = b->meta[index].value;
}
