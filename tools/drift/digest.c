#include "digest.h"

#include <stdlib.h>
#include <string.h>

#include <cjson/cJSON.h>
#include <sodium.h>

#include "mr3d/format.h"

enum { BLOCK = 1 << 14 };

static bool all_singles(const double *values, int64_t count) {
  for (int64_t i = 0; i < count; i++)
    if ((double)(float)values[i] != values[i] && values[i] == values[i]) return false;
  return true;
}

static void add(crypto_hash_sha256_state *state, const double *values, int64_t count, bool single) {
  float singles[BLOCK];
  if (!single) crypto_hash_sha256_update(state, (const unsigned char *)values, (size_t)count * sizeof *values);
  else {
    for (int64_t i = 0; i < count; i++) singles[i] = (float)values[i];
    crypto_hash_sha256_update(state, (const unsigned char *)singles, (size_t)count * sizeof *singles);
  }
}

static void finish(crypto_hash_sha256_state *state, mr3d_digest digest) {
  unsigned char bytes[crypto_hash_sha256_BYTES];
  crypto_hash_sha256_final(state, bytes);
  sodium_bin2hex(digest, sizeof(mr3d_digest), bytes, sizeof bytes);
}

void mr3d_digest_values(const double *values, int64_t count, mr3d_digest digest) {
  const bool single = all_singles(values, count);
  crypto_hash_sha256_state state;
  crypto_hash_sha256_init(&state);
  for (int64_t at = 0; at < count; at += BLOCK) add(&state, values + at, count - at < BLOCK ? count - at : BLOCK, single);
  finish(&state, digest);
}

/* Elements first .. first+count-1 as binary64. */
static void take(const mr3d_tensor *tensor, int64_t first, int64_t count, double *values) {
  const mr3d_tensor part = {"", tensor->dtype, 1, {count}, (char *)tensor->data + (size_t)first * mr3d_dtype_size(tensor->dtype)};
  mr3d_tensor_to_double(&part, values);
}

void mr3d_digest_tensor(const mr3d_tensor *tensor, mr3d_digest digest) {
  const int64_t count = mr3d_tensor_count(tensor);
  double *values = mr3d_allocate(BLOCK, sizeof *values);
  bool single = true;
  for (int64_t at = 0; at < count && single && tensor->dtype == MR3D_F64; at += BLOCK) {
    const int64_t n = count - at < BLOCK ? count - at : BLOCK;
    take(tensor, at, n, values);
    single = all_singles(values, n);
  }
  crypto_hash_sha256_state state;
  crypto_hash_sha256_init(&state);
  for (int64_t at = 0; at < count; at += BLOCK) {
    const int64_t n = count - at < BLOCK ? count - at : BLOCK;
    take(tensor, at, n, values);
    add(&state, values, n, single);
  }
  finish(&state, digest);
  free(values);
}

void mr3d_digest_rounded(const mr3d_tensor *tensor, mr3d_dtype dtype, mr3d_digest digest) {
  const int64_t count = mr3d_tensor_count(tensor);
  double *values = mr3d_allocate(BLOCK, sizeof *values);
  crypto_hash_sha256_state state;
  crypto_hash_sha256_init(&state);
  for (int64_t at = 0; at < count; at += BLOCK) {
    const int64_t n = count - at < BLOCK ? count - at : BLOCK;
    take(tensor, at, n, values);
    for (int64_t i = 0; i < n && dtype != MR3D_F32; i++)
      values[i] = dtype == MR3D_BF16 ? mr3d_bf16_to_double(mr3d_bf16_from_double(values[i])) : mr3d_f16_to_double(mr3d_f16_from_double(values[i]));
    add(&state, values, n, true); /* each of them is an F32 exactly, or becomes one */
  }
  finish(&state, digest);
  free(values);
}

/* A drawn tensor has no data until it is read. */
static mr3d_status digest_drawn(mr3d_weights *weights, const mr3d_tensor *tensor, mr3d_digest digest, mr3d_error *error) {
  const int64_t rows = tensor->rank ? tensor->shape[0] : 1, count = mr3d_tensor_count(tensor);
  double *buffer = mr3d_allocate(count, sizeof *buffer);
  const double *values;
  const mr3d_status status = mr3d_weights_rows(weights, tensor, 0, rows, buffer, &values, error);
  if (status == MR3D_OK) mr3d_digest_values(values, count, digest);
  free(buffer);
  return status;
}

char *mr3d_digest_weights(mr3d_weights *weights, mr3d_error *error) {
  const mr3d_bundle *tensors = mr3d_weights_tensors(weights);
  const int count = mr3d_bundle_count(tensors), in_files = count - mr3d_weights_drawn(weights);
  if (mr3d_weights_files(weights) == 0) return NULL;
  mr3d_digest *digests = mr3d_allocate(count, sizeof *digests);
  mr3d_status status = MR3D_OK;
#pragma omp parallel for schedule(dynamic)
  for (int i = 0; i < in_files; i++)
    if (mr3d_bundle_at(tensors, i)->dtype != MR3D_BOOL) mr3d_digest_tensor(mr3d_bundle_at(tensors, i), digests[i]);
  for (int i = in_files; i < count && status == MR3D_OK; i++) status = digest_drawn(weights, mr3d_bundle_at(tensors, i), digests[i], error);
  cJSON *list = cJSON_CreateObject();
  for (int i = 0; i < count; i++)
    if (*digests[i]) cJSON_AddStringToObject(list, mr3d_bundle_at(tensors, i)->name, digests[i]);
  char *text = status == MR3D_OK ? cJSON_PrintUnformatted(list) : NULL;
  cJSON_Delete(list);
  free(digests);
  return text;
}
