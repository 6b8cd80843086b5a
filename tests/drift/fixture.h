/** What the tests of traces share: small traces made in memory, values that a seed gives. */
#ifndef MR3D_TESTS_DRIFT_FIXTURE_H
#define MR3D_TESTS_DRIFT_FIXTURE_H

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#include "align.h"
#include "mr3d/safetensors.h"

/* A decoder whose sizes all differ. */
enum { H = 6, G = 2, D = 8, C = 40, I = 24, V = 50, LAYERS = 2, Q = 5 };
#define CONFIG_TEXT                                                                                                                                   \
  "{\"hidden_size\":40,\"intermediate_size\":24,\"num_hidden_layers\":2,\"num_attention_heads\":6,\"num_key_value_heads\":2,\"head_dim\":8,\"vocab_size\":50," \
  "\"rope_theta\":10000.0,\"rms_norm_eps\":1e-6}"

#define SHAPE(...) (int)(sizeof((int64_t[]){__VA_ARGS__}) / sizeof(int64_t)), (const int64_t[]){__VA_ARGS__}

static inline double drawn(uint64_t seed, uint64_t index) {
  uint64_t z = seed * 0x9E3779B97F4A7C15u + index * 0xD1B54A32D192ED03u + 0x2545F4914F6CDD1Du;
  z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9u;
  z = (z ^ (z >> 27)) * 0x94D049BB133111EBu;
  z ^= z >> 31;
  return (double)(float)((double)(int64_t)(z >> 11) * 0x1p-52 - 1);
}

static inline mr3d_tensor *add_drawn(mr3d_bundle *bundle, const char *name, uint64_t seed, mr3d_dtype dtype, int rank, const int64_t *shape) {
  mr3d_tensor *t = mr3d_bundle_add(bundle, name, dtype, rank, shape);
  const int64_t count = mr3d_tensor_count(t);
  double *values = mr3d_allocate(count, sizeof *values);
  for (int64_t i = 0; i < count; i++) values[i] = drawn(seed, (uint64_t)i);
  mr3d_tensor_from_double(t, values);
  free(values);
  return t;
}

static inline mr3d_tensor *add_whole(mr3d_bundle *bundle, const char *name, int64_t first, int64_t step, int rank, const int64_t *shape) {
  mr3d_tensor *t = mr3d_bundle_add(bundle, name, MR3D_I64, rank, shape);
  for (int64_t i = 0; i < mr3d_tensor_count(t); i++) ((int64_t *)t->data)[i] = first + step * i;
  return t;
}

/* An aligned trace of a bundle, or the test fails. */
static inline mr3d_aligned *aligned_with(const mr3d_bundle *bundle, const mr3d_align_options *options) {
  mr3d_aligned *a = NULL;
  mr3d_error error = {0};
  if (mr3d_align_bundle(bundle, "mine", options, &a, &error) != MR3D_OK) fail_msg("%s", error.message);
  return a;
}

static inline void assert_remark(const mr3d_aligned *a, const char *words) {
  for (int i = 0; i < mr3d_aligned_remarks(a); i++)
    if (strstr(mr3d_aligned_remark(a, i), words)) return;
  fail_msg("no remark says \"%s\"; the first of %d: %s", words, mr3d_aligned_remarks(a), mr3d_aligned_remarks(a) ? mr3d_aligned_remark(a, 0) : "");
}

static inline const char *written(const char *text) {
  static char path[64];
  snprintf(path, sizeof path, "/tmp/mr3d-drift-%ld.json", (long)getpid());
  FILE *file = fopen(path, "w");
  assert_non_null(file);
  fputs(text, file);
  fclose(file);
  return path;
}

#endif
