/** What the tests of ref/model share: small requests, a small weights file, answers that must come and refusals that must. */
#ifndef MR3D_TEST_MODEL_FIXTURE_H
#define MR3D_TEST_MODEL_FIXTURE_H

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#include "mr3d/safetensors.h"
#include "mr3d/server.h"

/* A decoder whose sizes all differ, so that no two can be exchanged unseen; 2 query heads a KV head. */
enum { HIDDEN = 48, INTERMEDIATE = 40, LAYERS = 2, H = 4, G = 2, D = 16, F = 4, V = 50 };
#define SIZES                                                                                                                  \
  "\"hidden_size\":48,\"intermediate_size\":40,\"num_hidden_layers\":2,\"num_attention_heads\":4,\"num_key_value_heads\":2,"      \
  "\"head_dim\":16,\"vocab_size\":50,\"rope_theta\":10000.0,\"rms_norm_eps\":1e-6"
#define CONFIG "{" SIZES "}"
#define CONFIG_WITH(options) "{" SIZES "," options "}"

#define SHAPE(...) (int)(sizeof((int64_t[]){__VA_ARGS__}) / sizeof(int64_t)), (const int64_t[]){__VA_ARGS__}
#define PRINTF(format_index, first) __attribute__((format(printf, format_index, first), unused))

/* A value in -1 .. 1 that depends on the seed and the index alone. */
static inline double drawn(uint64_t seed, uint64_t index) {
  uint64_t z = seed * 0x9E3779B97F4A7C15u + index * 0xD1B54A32D192ED03u + 0x2545F4914F6CDD1Du;
  z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9u;
  z = (z ^ (z >> 27)) * 0x94D049BB133111EBu;
  z ^= z >> 31;
  return (double)(int64_t)(z >> 11) * 0x1p-52 - 1;
}

static inline uint64_t name_seed(const char *name) {
  uint64_t seed = 1469598103934665603u;
  for (; *name; name++) seed = (seed ^ (unsigned char)*name) * 1099511628211u;
  return seed;
}

/* Random values, the same for the same name; `scale` 0 makes them norm weights in 0.5 .. 1.5. */
static inline mr3d_tensor *add_reals_seeded(mr3d_bundle *bundle, const char *name, uint64_t seed, mr3d_dtype dtype, double scale, int rank, const int64_t *shape) {
  mr3d_tensor *tensor = mr3d_bundle_add(bundle, name, dtype, rank, shape);
  int64_t count = mr3d_tensor_count(tensor);
  double *values = mr3d_allocate(count, sizeof *values);
  for (int64_t i = 0; i < count; i++) values[i] = scale == 0 ? 1 + 0.5 * drawn(seed, (uint64_t)i) : scale * drawn(seed, (uint64_t)i);
  mr3d_tensor_from_double(tensor, values);
  free(values);
  return tensor;
}
static inline mr3d_tensor *add_reals(mr3d_bundle *bundle, const char *name, double scale, int rank, const int64_t *shape) {
  return add_reals_seeded(bundle, name, name_seed(name), MR3D_F64, scale, rank, shape);
}

static inline mr3d_tensor *add_integers(mr3d_bundle *bundle, const char *name, const int64_t *values, int rank, const int64_t *shape) {
  mr3d_tensor *tensor = mr3d_bundle_add(bundle, name, MR3D_I64, rank, shape);
  memcpy(tensor->data, values, (size_t)mr3d_tensor_count(tensor) * sizeof *values);
  return tensor;
}

static inline mr3d_tensor *add_filled(mr3d_bundle *bundle, const char *name, int64_t value, int rank, const int64_t *shape) {
  mr3d_tensor *tensor = mr3d_bundle_add(bundle, name, MR3D_I64, rank, shape);
  for (int64_t i = 0; i < mr3d_tensor_count(tensor); i++) ((int64_t *)tensor->data)[i] = value;
  return tensor;
}

static inline mr3d_bundle *request(const char *op, const char *config) {
  mr3d_bundle *bundle = mr3d_bundle_new();
  mr3d_bundle_set(bundle, "op", op);
  mr3d_bundle_set(bundle, "tier", "fp64");
  mr3d_bundle_set(bundle, "config", config);
  return bundle;
}

/* ---- answers ---- */

static inline mr3d_server *server_with(const mr3d_server_options *options) { return mr3d_server_new(options); }
static inline mr3d_server *new_server(void) { return mr3d_server_new(&(mr3d_server_options){.threads = 1}); }

/* The answer, which must come; frees the request. */
static inline mr3d_bundle *answer(mr3d_server *server, mr3d_bundle *asked) {
  mr3d_error error = {0};
  mr3d_bundle *bundle = NULL;
  if (mr3d_server_answer(server, asked, &bundle, &error) != MR3D_OK) fail_msg("refused: %s", error.message);
  mr3d_bundle_free(&asked);
  return bundle;
}

/* The request must be refused with a message that holds every fragment (NULL-terminated); frees the request. */
static inline void refused(mr3d_server *server, mr3d_bundle *asked, const char *const *fragments) {
  mr3d_error error = {0};
  mr3d_bundle *untouched = (mr3d_bundle *)&error, *bundle = untouched;
  mr3d_status status = mr3d_server_answer(server, asked, &bundle, &error);
  if (status == MR3D_OK) fail_msg("answered, but it must be refused with \"%s\"", fragments[0]);
  assert_int_equal(status, MR3D_INVALID);
  assert_int_equal(error.status, MR3D_INVALID);
  assert_ptr_equal(bundle, untouched);
  assert_non_null(fragments[0]);
  for (; *fragments; fragments++)
    if (!strstr(error.message, *fragments)) fail_msg("the message\n  %s\nlacks\n  %s", error.message, *fragments);
  mr3d_bundle_free(&asked);
}
#define REFUSED(server, asked, ...) refused(server, asked, (const char *const[]){__VA_ARGS__, NULL})

static inline const double *reals(const mr3d_bundle *bundle, const char *name) {
  const mr3d_tensor *tensor = mr3d_bundle_find(bundle, name);
  if (!tensor) fail_msg("the answer has no %s", name);
  assert_int_equal(tensor->dtype, MR3D_F64);
  return tensor->data;
}

static inline void assert_shape(const mr3d_bundle *bundle, const char *name, int rank, const int64_t *shape) {
  const mr3d_tensor *tensor = mr3d_bundle_find(bundle, name);
  if (!tensor) fail_msg("the answer has no %s", name);
  char is[96], must[96];
  assert_string_equal(mr3d_shape_text(tensor->rank, tensor->shape, is), mr3d_shape_text(rank, shape, must));
}

/* Every element within `relative` of the largest one; NaN fails. */
static inline void assert_close(const double *a, const double *b, int64_t count, double relative) {
  double largest = 0;
  for (int64_t i = 0; i < count; i++) largest = b[i] > largest ? b[i] : -b[i] > largest ? -b[i] : largest;
  assert_true(count > 0 && largest > 0);
  for (int64_t i = 0; i < count; i++) {
    double error = a[i] - b[i];
    if (!(error <= relative * largest && -error <= relative * largest))
      fail_msg("element %lld: %.17g, expected %.17g (largest %.3g)", (long long)i, a[i], b[i], largest);
  }
}

/* Bit for bit. */
static inline void assert_same(const mr3d_bundle *a, const mr3d_bundle *b) {
  assert_true(mr3d_bundle_count(a) > 0);
  assert_int_equal(mr3d_bundle_count(a), mr3d_bundle_count(b));
  for (int i = 0; i < mr3d_bundle_count(a); i++) {
    const mr3d_tensor *x = mr3d_bundle_at(a, i), *y = mr3d_bundle_find(b, x->name);
    assert_non_null(y);
    assert_int_equal(mr3d_tensor_count(x), mr3d_tensor_count(y));
    assert_memory_equal(x->data, y->data, (size_t)mr3d_tensor_count(x) * mr3d_dtype_size(x->dtype));
  }
}

/* ---- layers and weights ---- */

typedef struct layer_options {
  mr3d_dtype dtype;
  bool no_rotary, flat, untied, tied_file_with_head;
} layer_options;

static inline void add_layer(mr3d_bundle *bundle, const char *prefix, layer_options options) {
  const struct {
    const char *name;
    double scale;
    int rank;
    int64_t shape[3];
  } tensors[] = {
      {"input_layernorm.weight", 0, 1, {HIDDEN}},
      {"self_attn.q_proj.weight", 0.4, 2, {H * D, HIDDEN}},
      {"self_attn.q_proj.bias", 1, 1, {H * D}},
      {"self_attn.k_proj.weight", 0.4, 2, {G * D, HIDDEN}},
      {"self_attn.k_proj.bias", 1, 1, {G * D}},
      {"self_attn.v_proj.weight", 0.4, 2, {G * D, HIDDEN}},
      {"self_attn.v_proj.bias", 0.5, 1, {G * D}},
      {"self_attn.o_proj.weight", 0.3, 2, {HIDDEN, H * D}},
      {"post_attention_layernorm.weight", 0, 1, {HIDDEN}},
      {"mlp.gate_proj.weight", 0.5, 2, {INTERMEDIATE, HIDDEN}},
      {"mlp.up_proj.weight", 0.5, 2, {INTERMEDIATE, HIDDEN}},
      {"mlp.down_proj.weight", 0.5, 2, {HIDDEN, INTERMEDIATE}},
      {"self_attn.freqs_3d_q", 2, 3, {3, H, F}},
      {"self_attn.axial_weights_3d_q", 0, 3, {H, F, 3}},
      {"self_attn.freqs_3d_kv", 2, 3, {3, G, F}},
      {"self_attn.axial_weights_3d_kv", 0, 3, {G, F, 3}},
  };
  for (size_t i = 0; i < sizeof tensors / sizeof *tensors; i++) {
    bool rotary = strstr(tensors[i].name, "_3d_") != NULL, flat = options.flat && strstr(tensors[i].name, "freqs");
    if (rotary && options.no_rotary) continue;
    char name[128];
    snprintf(name, sizeof name, "%s%s", prefix, tensors[i].name);
    add_reals_seeded(bundle, name, name_seed(name), options.dtype, tensors[i].scale, flat ? 2 : tensors[i].rank,
                     flat ? (int64_t[]){3, tensors[i].shape[1] * F} : tensors[i].shape);
  }
}

static inline mr3d_bundle *decoder_weights(layer_options options) {
  mr3d_bundle *bundle = mr3d_bundle_new();
  add_reals_seeded(bundle, "model.embed_tokens.weight", 11, options.dtype, 1, SHAPE(V, HIDDEN));
  add_reals_seeded(bundle, "model.norm.weight", 12, options.dtype, 0, SHAPE(HIDDEN));
  if (options.untied || options.tied_file_with_head) add_reals_seeded(bundle, "lm_head.weight", 13, options.dtype, 1, SHAPE(V, HIDDEN));
  for (int n = 0; n < LAYERS; n++) {
    char prefix[32];
    snprintf(prefix, sizeof prefix, "model.layers.%d.", n);
    add_layer(bundle, prefix, options);
  }
  return bundle;
}

/* Saves the bundle under a fresh name in the working directory, writes that name to `path`, frees the bundle. */
static inline void save_weights(mr3d_bundle *bundle, char path[64]) {
  static int number;
  snprintf(path, 64, "test-model-%ld-%d.safetensors", (long)getpid(), number++);
  mr3d_error error = {0};
  if (mr3d_safetensors_save(path, bundle, &error) != MR3D_OK) fail_msg("%s", error.message);
  mr3d_bundle_free(&bundle);
}
static inline void save_decoder(layer_options options, char path[64]) { save_weights(decoder_weights(options), path); }

/* The values of a float tensor of a weights bundle, freshly allocated. */
static inline double *values_of(const mr3d_bundle *bundle, const char *name) {
  const mr3d_tensor *tensor = mr3d_bundle_find(bundle, name);
  assert_non_null(tensor);
  double *values = mr3d_allocate(mr3d_tensor_count(tensor), sizeof *values);
  mr3d_tensor_to_double(tensor, values);
  return values;
}

/* ---- points ---- */

/* Point tensors for B samples of q tokens: sample b marks counts[b] tokens from `first` on; N rows a sample. */
static inline void add_points(mr3d_bundle *bundle, int64_t B, int64_t q, int64_t first, int64_t N, const int64_t *counts) {
  mr3d_tensor *mask = mr3d_bundle_add(bundle, "point_token_mask", MR3D_BOOL, SHAPE(B, q));
  mr3d_tensor *coords = mr3d_bundle_add(bundle, "point_coords", MR3D_I64, SHAPE(B, N, 3));
  for (int64_t b = 0; b < B; b++) {
    for (int64_t k = 0; k < counts[b]; k++) ((bool *)mask->data)[b * q + first + k] = true;
    for (int64_t k = 0; k < N * 3; k++) ((int64_t *)coords->data)[b * N * 3 + k] = (int64_t)(40 + 39 * drawn(77, (uint64_t)(b * 1000 + k)));
  }
  if (B > 1) add_integers(bundle, "point_counts", counts, SHAPE(B));
}

#endif
