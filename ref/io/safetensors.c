/** safetensors, strictly (mr3d/safetensors.h). */
#include "mr3d/safetensors.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cjson/cJSON.h>

#include "../base/bundle.h"
#include "file.h"
#include "json.h"
#include "parts.h"

/* ---- reading ---- */

/* A tensor's place in the data section, as its header entry gives it. */
typedef struct entry {
  const char *name;
  mr3d_dtype dtype;
  int rank;
  int64_t shape[MR3D_MAX_RANK];
  int64_t begin, end;
} entry;

static mr3d_status unknown_dtype(const char *name, const char *dtype, mr3d_error *error) {
  char known[160] = "";
  for (int i = 0; i < MR3D_N_DTYPES; i++)
    snprintf(known + strlen(known), sizeof known - strlen(known), "%s%s", i > 0 ? " " : "", mr3d_dtype_name((mr3d_dtype)i));
  return mr3d_fail(error, MR3D_FORMAT, "tensor \"%.200s\": dtype \"%.32s\" is not supported; supported are %s", name, dtype,
                   known);
}

/* Bytes of the tensor. Sizes are bounded even beside a zero one, so that strides can be computed without overflow. */
static bool bytes_of(const entry *e, int64_t *bytes) {
  int64_t product = (int64_t)mr3d_dtype_size(e->dtype);
  bool empty = false;
  for (int axis = 0; axis < e->rank; axis++) {
    empty = empty || e->shape[axis] == 0;
    if (e->shape[axis] != 0 && __builtin_mul_overflow(product, e->shape[axis], &product))
      return false;
  }
  *bytes = empty ? 0 : product;
  return true;
}

static mr3d_status read_entry(const cJSON *member, int64_t data_size, entry *e, mr3d_error *error) {
  const char *const name = member->string;
  if (!cJSON_IsObject(member))
    return mr3d_fail(error, MR3D_FORMAT, "tensor \"%.200s\": expected an object with dtype, shape and data_offsets", name);
  const cJSON *dtype = NULL, *shape = NULL, *offsets = NULL;
  for (const cJSON *field = member->child; field != NULL; field = field->next) {
    if (strcmp(field->string, "dtype") == 0)
      dtype = field;
    else if (strcmp(field->string, "shape") == 0)
      shape = field;
    else if (strcmp(field->string, "data_offsets") == 0)
      offsets = field;
    else
      return mr3d_fail(error, MR3D_FORMAT, "tensor \"%.200s\": unknown field \"%.64s\"; expected dtype, shape and data_offsets",
                       name, field->string);
  }
  if (!cJSON_IsString(dtype))
    return mr3d_fail(error, MR3D_FORMAT, "tensor \"%.200s\": dtype is %s", name, dtype == NULL ? "missing" : "not a string");
  e->name = name;
  e->dtype = mr3d_dtype_named(dtype->valuestring);
  if (e->dtype == MR3D_N_DTYPES)
    return unknown_dtype(name, dtype->valuestring, error);

  if (!cJSON_IsArray(shape))
    return mr3d_fail(error, MR3D_FORMAT, "tensor \"%.200s\": shape is %s", name, shape == NULL ? "missing" : "not an array");
  e->rank = 0;
  for (const cJSON *size = shape->child; size != NULL; size = size->next, e->rank++) {
    if (e->rank == MR3D_MAX_RANK)
      return mr3d_fail(error, MR3D_FORMAT, "tensor \"%.200s\": rank %d; at most %d is possible", name, cJSON_GetArraySize(shape),
                       MR3D_MAX_RANK);
    if (!mr3d_json_is_count(size, &e->shape[e->rank]))
      return mr3d_fail(error, MR3D_FORMAT, "tensor \"%.200s\": size %d of shape is not a whole number of 0 .. 2^53-1", name,
                       e->rank);
  }

  if (!cJSON_IsArray(offsets))
    return mr3d_fail(error, MR3D_FORMAT, "tensor \"%.200s\": data_offsets is %s", name,
                     offsets == NULL ? "missing" : "not an array");
  if (cJSON_GetArraySize(offsets) != 2 || !mr3d_json_is_count(offsets->child, &e->begin) ||
      !mr3d_json_is_count(offsets->child->next, &e->end))
    return mr3d_fail(error, MR3D_FORMAT, "tensor \"%.200s\": data_offsets is not a pair of whole numbers of 0 .. 2^53-1", name);
  if (e->begin > e->end || e->end > data_size)
    return mr3d_fail(error, MR3D_FORMAT,
                     "tensor \"%.200s\": data_offsets [%lld,%lld] do not lie within the data section of %lld bytes", name,
                     (long long)e->begin, (long long)e->end, (long long)data_size);

  int64_t bytes;
  char text[96];
  if (!bytes_of(e, &bytes))
    return mr3d_fail(error, MR3D_FORMAT, "tensor \"%.200s\": shape %s of %s is larger than any file", name,
                     mr3d_shape_text(e->rank, e->shape, text), mr3d_dtype_name(e->dtype));
  if (bytes != e->end - e->begin)
    return mr3d_fail(error, MR3D_FORMAT, "tensor \"%.200s\": shape %s of %s needs %lld bytes, data_offsets [%lld,%lld] hold %lld",
                     name, mr3d_shape_text(e->rank, e->shape, text), mr3d_dtype_name(e->dtype), (long long)bytes,
                     (long long)e->begin, (long long)e->end, (long long)(e->end - e->begin));
  return MR3D_OK;
}

static int by_offset(const void *left, const void *right) {
  const entry *l = *(entry *const *)left, *r = *(entry *const *)right;
  if (l->begin != r->begin)
    return l->begin < r->begin ? -1 : 1;
  return l->end < r->end ? -1 : l->end > r->end;
}

/* Every byte of the data section belongs to exactly one tensor. */
static mr3d_status check_tiling(entry *entries, int count, int64_t data_size, mr3d_error *error) {
  entry **sorted = mr3d_allocate(count, sizeof *sorted);
  for (int i = 0; i < count; i++)
    sorted[i] = &entries[i];
  qsort(sorted, (size_t)count, sizeof *sorted, by_offset);
  mr3d_status status = MR3D_OK;
  int64_t reached = 0;
  for (int i = 0; i < count && status == MR3D_OK; reached = sorted[i++]->end)
    if (sorted[i]->begin != reached)
      status = mr3d_fail(error, MR3D_FORMAT, "tensor \"%.200s\": data begins at %lld, but the data before it ends at %lld: %s",
                         sorted[i]->name, (long long)sorted[i]->begin, (long long)reached,
                         sorted[i]->begin < reached ? "tensors overlap" : "there is a hole");
  if (status == MR3D_OK && reached != data_size)
    status =
        mr3d_fail(error, MR3D_FORMAT, "%lld bytes follow the last tensor: the data section has %lld bytes, tensors fill %lld",
                  (long long)(data_size - reached), (long long)data_size, (long long)reached);
  free(sorted);
  return status;
}

static mr3d_status read_metadata(const cJSON *metadata, mr3d_bundle *bundle, mr3d_error *error) {
  if (!cJSON_IsObject(metadata))
    return mr3d_fail(error, MR3D_FORMAT, "__metadata__ is not an object");
  for (const cJSON *pair = metadata->child; pair != NULL; pair = pair->next) {
    if (!cJSON_IsString(pair))
      return mr3d_fail(error, MR3D_FORMAT, "__metadata__: value of \"%.200s\" is not a string", pair->string);
    mr3d_bundle_set(bundle, pair->string, pair->valuestring);
  }
  return MR3D_OK;
}

/* Adds the tensor to the bundle: borrowed where aligned or, unread, where `in_place` says so, else copied. */
static mr3d_status add_entry(mr3d_bundle *bundle, const entry *e, const unsigned char *data, bool in_place, mr3d_error *error) {
  const unsigned char *bytes = data + e->begin;
  const size_t size = (size_t)(e->end - e->begin);
  if (e->dtype == MR3D_BOOL && !in_place)
    for (size_t i = 0; i < size; i++)
      if (bytes[i] > 1)
        return mr3d_fail(error, MR3D_FORMAT, "tensor \"%.200s\": element %zu of BOOL holds %d; only 0 and 1 are possible",
                         e->name, i, bytes[i]);
  if (size > 0 && (in_place || (uintptr_t)bytes % mr3d_dtype_size(e->dtype) == 0))
    mr3d_bundle_borrow(bundle, e->name, e->dtype, e->rank, e->shape, (void *)bytes);
  else
    memcpy(mr3d_bundle_add(bundle, e->name, e->dtype, e->rank, e->shape)->data, bytes, size);
  return MR3D_OK;
}

static mr3d_status read_header(const cJSON *header, const unsigned char *data, int64_t data_size, bool in_place, mr3d_bundle *bundle,
                               mr3d_error *error) {
  int count = 0;
  mr3d_status status = MR3D_OK;
  entry *entries = mr3d_allocate(cJSON_GetArraySize(header), sizeof *entries);
  for (const cJSON *member = header->child; member != NULL && status == MR3D_OK; member = member->next)
    if (strcmp(member->string, "__metadata__") == 0)
      status = read_metadata(member, bundle, error);
    else
      status = read_entry(member, data_size, &entries[count++], error);
  if (status == MR3D_OK)
    status = check_tiling(entries, count, data_size, error);
  for (int i = 0; i < count && status == MR3D_OK; i++)
    status = add_entry(bundle, &entries[i], data, in_place, error);
  free(entries);
  return status;
}

static mr3d_status parse(const void *bytes, size_t size, bool in_place, mr3d_bundle **bundle, mr3d_error *error) {
  const unsigned char *const file = bytes;
  if (size < 8)
    return mr3d_fail(error, MR3D_FORMAT, "%zu bytes; a safetensors file starts with the header's length in 8 bytes", size);
  uint64_t header_size = 0;
  for (int i = 7; i >= 0; i--)
    header_size = header_size << 8 | file[i];
  if (header_size > MR3D_SAFETENSORS_MAX_HEADER)
    return mr3d_fail(error, MR3D_FORMAT, "header length %llu is above the limit of %d; is this a safetensors file?",
                     (unsigned long long)header_size, MR3D_SAFETENSORS_MAX_HEADER);
  if (header_size > size - 8)
    return mr3d_fail(error, MR3D_FORMAT, "header length is %llu, but only %zu bytes follow: the file is cut short",
                     (unsigned long long)header_size, size - 8);
  if (header_size == 0 || file[8] != '{')
    return mr3d_fail(error, MR3D_FORMAT, "the header does not start with '{'");

  cJSON *header = NULL;
  mr3d_status status = mr3d_json_parse((const char *)file + 8, (size_t)header_size, MR3D_JSON_COUNTS_ONLY, &header, error);
  if (status != MR3D_OK)
    return mr3d_fail_in(error, "header");
  mr3d_bundle *read = mr3d_bundle_new();
  status = read_header(header, file + 8 + header_size, (int64_t)(size - 8 - header_size), in_place, read, error);
  cJSON_Delete(header);
  if (status == MR3D_OK)
    *bundle = read;
  else
    mr3d_bundle_free(&read);
  return status;
}

mr3d_status mr3d_safetensors_parse(const void *bytes, size_t size, mr3d_bundle **bundle, mr3d_error *error) {
  return parse(bytes, size, false, bundle, error);
}

static void release_block(void *memory, size_t size) {
  (void)size;
  free(memory);
}

mr3d_status mr3d_safetensors_adopt(void *bytes, size_t size, mr3d_bundle **bundle, mr3d_error *error) {
  const mr3d_status status = mr3d_safetensors_parse(bytes, size, bundle, error);
  if (status == MR3D_OK)
    mr3d_bundle_keep(*bundle, bytes, size, release_block);
  return status;
}

static bool is_gzip_name(const char *path) {
  const size_t length = strlen(path);
  return length >= 3 && strcmp(path + length - 3, ".gz") == 0;
}

static mr3d_status open_file(const char *path, uint64_t inflate_cap, bool in_place, mr3d_bundle **bundle, mr3d_error *error) {
  void *file, *inflated;
  size_t size, inflated_size;
  mr3d_status status = mr3d_map(path, &file, &size, error);
  if (status != MR3D_OK)
    return status;
  if (!is_gzip_name(path)) {
    status = parse(file, size, in_place, bundle, error);
    if (status == MR3D_OK)
      mr3d_bundle_keep(*bundle, file, size, mr3d_unmap);
    else
      mr3d_unmap(file, size);
  } else {
    status = mr3d_gunzip(file, size, inflate_cap > 0 ? inflate_cap : MR3D_INFLATE_CAP, &inflated, &inflated_size, error);
    mr3d_unmap(file, size);
    if (status == MR3D_OK && (status = mr3d_safetensors_adopt(inflated, inflated_size, bundle, error)) != MR3D_OK)
      free(inflated);
  }
  return status == MR3D_OK ? status : mr3d_fail_in(error, "%s", path);
}

mr3d_status mr3d_safetensors_open(const char *path, uint64_t inflate_cap, mr3d_bundle **bundle, mr3d_error *error) {
  return open_file(path, inflate_cap, false, bundle, error);
}

mr3d_status mr3d_safetensors_map(const char *path, mr3d_bundle **bundle, mr3d_error *error) {
  return open_file(path, 0, true, bundle, error);
}

/* ---- writing ---- */

static bool add_text(cJSON *object, const char *key, const char *value, mr3d_error *error) {
  size_t at;
  if (!mr3d_utf8_valid(key, strlen(key), &at) || !mr3d_utf8_valid(value, strlen(value), &at)) {
    mr3d_fail(error, MR3D_INVALID, "cannot write metadata \"%.200s\": it is not UTF-8 at byte %zu of its name or value", key, at);
    return false;
  }
  return cJSON_AddStringToObject(object, key, value) != NULL;
}

static bool add_numbers(cJSON *object, const char *key, const int64_t *numbers, int count) {
  cJSON *array = cJSON_AddArrayToObject(object, key);
  for (int i = 0; array != NULL && i < count; i++)
    if (!cJSON_AddItemToArray(array, cJSON_CreateNumber((double)numbers[i])))
      return false;
  return array != NULL;
}

char *mr3d_safetensors_header(const mr3d_bundle *bundle, const int64_t *begin, mr3d_error *error) {
  mr3d_fail(error, MR3D_IO, "out of memory for the header"); /* what is wrong unless something else is */
  cJSON *header = cJSON_CreateObject();
  bool good = header != NULL;
  cJSON *metadata = good && mr3d_bundle_meta_count(bundle) > 0 ? cJSON_AddObjectToObject(header, "__metadata__") : NULL;
  for (int i = 0; good && i < mr3d_bundle_meta_count(bundle); i++) {
    const char *key, *value;
    mr3d_bundle_meta_at(bundle, i, &key, &value);
    good = add_text(metadata, key, value, error);
  }
  for (int i = 0; good && i < mr3d_bundle_count(bundle); i++) {
    const mr3d_tensor *tensor = mr3d_bundle_at(bundle, i);
    const int64_t offsets[2] = {begin[i], begin[i] + (int64_t)mr3d_tensor_bytes(tensor)};
    size_t at;
    if (strcmp(tensor->name, "__metadata__") == 0 || !mr3d_utf8_valid(tensor->name, strlen(tensor->name), &at)) {
      mr3d_fail(error, MR3D_INVALID, "\"%.200s\" cannot be a tensor's name: it is reserved or not UTF-8", tensor->name);
      good = false;
      break;
    }
    cJSON *member = cJSON_AddObjectToObject(header, tensor->name);
    good = member != NULL && add_text(member, "dtype", mr3d_dtype_name(tensor->dtype), error) &&
           add_numbers(member, "shape", tensor->shape, tensor->rank) && add_numbers(member, "data_offsets", offsets, 2);
  }
  char *text = good ? cJSON_PrintUnformatted(header) : NULL;
  cJSON_Delete(header);
  return text;
}

mr3d_status mr3d_safetensors_parts(const mr3d_bundle *bundle, struct iovec **parts, int *n_parts, size_t *size, mr3d_error *error) {
  const int count = mr3d_bundle_count(bundle);
  int64_t *begin = mr3d_allocate(count, sizeof *begin), data_size = 0;
  struct iovec *made = mr3d_allocate(count + 1, sizeof *made);
  int n = 1;
  for (size_t element = MR3D_SAFETENSORS_ALIGNMENT; element > 0; element /= 2)
    for (int i = 0; i < count; i++) {
      const mr3d_tensor *tensor = mr3d_bundle_at(bundle, i);
      if (mr3d_dtype_size(tensor->dtype) != element)
        continue;
      begin[i] = data_size;
      made[n].iov_base = tensor->data;
      made[n].iov_len = mr3d_tensor_bytes(tensor);
      data_size += (int64_t)made[n].iov_len;
      n++;
    }

  mr3d_status status = MR3D_OK;
  mr3d_error problem = {0};
  char *text = mr3d_safetensors_header(bundle, begin, &problem);
  const size_t length = text != NULL ? strlen(text) : 0, header_size = (length + MR3D_SAFETENSORS_ALIGNMENT - 1) / MR3D_SAFETENSORS_ALIGNMENT * MR3D_SAFETENSORS_ALIGNMENT;
  if (text == NULL)
    status = mr3d_fail(error, problem.status, "%s", problem.message);
  else if (header_size > MR3D_SAFETENSORS_MAX_HEADER)
    status = mr3d_fail(error, MR3D_INVALID, "header of %zu bytes is above the format's limit of %d", header_size, MR3D_SAFETENSORS_MAX_HEADER);
  else {
    unsigned char *start = mr3d_allocate((long long)(8 + header_size), 1);
    for (int i = 0; i < 8; i++)
      start[i] = (unsigned char)(header_size >> 8 * i);
    memcpy(start + 8, text, length);
    memset(start + 8 + length, ' ', header_size - length);
    made[0] = (struct iovec){start, 8 + header_size};
    *parts = made;
    *n_parts = n;
    *size = 8 + header_size + (size_t)data_size;
  }
  if (status != MR3D_OK)
    free(made);
  free(begin);
  cJSON_free(text);
  return status;
}

void mr3d_safetensors_parts_free(struct iovec **parts) {
  free((*parts)[0].iov_base);
  free(*parts);
  *parts = NULL;
}

mr3d_status mr3d_safetensors_serialize(const mr3d_bundle *bundle, void **bytes, size_t *size, mr3d_error *error) {
  struct iovec *parts;
  int count;
  size_t total, done = 0;
  const mr3d_status status = mr3d_safetensors_parts(bundle, &parts, &count, &total, error);
  if (status != MR3D_OK)
    return status;
  unsigned char *out = mr3d_allocate((long long)total, 1);
  for (int i = 0; i < count; done += parts[i++].iov_len)
    memcpy(out + done, parts[i].iov_base, parts[i].iov_len);
  mr3d_safetensors_parts_free(&parts);
  *bytes = out;
  *size = total;
  return MR3D_OK;
}

mr3d_status mr3d_safetensors_save(const char *path, const mr3d_bundle *bundle, mr3d_error *error) {
  if (!is_gzip_name(path)) { /* from where the tensors lie: a model would be in memory twice */
    struct iovec *parts;
    int n_parts;
    size_t total;
    if (mr3d_safetensors_parts(bundle, &parts, &n_parts, &total, error) != MR3D_OK)
      return mr3d_fail_in(error, "%s", path);
    const mr3d_status status = mr3d_write_parts(path, parts, n_parts, error);
    mr3d_safetensors_parts_free(&parts);
    return status;
  }
  void *bytes, *packed;
  size_t size, packed_size;
  mr3d_status status = mr3d_safetensors_serialize(bundle, &bytes, &size, error);
  if (status != MR3D_OK)
    return mr3d_fail_in(error, "%s", path);
  status = mr3d_gzip(bytes, size, &packed, &packed_size, error);
  free(bytes);
  if (status != MR3D_OK)
    return mr3d_fail_in(error, "%s", path);
  status = mr3d_write_file(path, packed, packed_size, error);
  free(packed);
  return status;
}
