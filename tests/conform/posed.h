/** Requests posed to the judge by its tests, drawn from a seed, with the truth about them. */
#ifndef MR3D_TEST_POSED_H
#define MR3D_TEST_POSED_H

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#include "judge_internal.h"
#include "mr3d/random.h"

#define SIZES "\"hidden_size\":128,\"intermediate_size\":192,\"num_hidden_layers\":1,\"num_attention_heads\":4,\"num_key_value_heads\":2,"          \
              "\"head_dim\":32,\"vocab_size\":600,\"rope_theta\":1000000,\"rms_norm_eps\":1e-6"
static const char small_config[] = "{" SIZES "}";

typedef struct problem {
  mr3d_bundle *request;
  mr3d_truth *truth;
  const mr3d_bundle *answer;
} problem;

static inline mr3d_bundle *request_of(const char *op, mr3d_tier tier) {
  mr3d_bundle *request = mr3d_bundle_new();
  mr3d_bundle_set(request, "op", op);
  mr3d_bundle_set(request, "tier", mr3d_tier_name(tier));
  mr3d_bundle_set(request, "config", small_config);
  return request;
}

static inline mr3d_tensor *draw(mr3d_bundle *bundle, const char *name, mr3d_dtype dtype, mr3d_draw how, uint64_t seed, int rank, const int64_t *shape) {
  mr3d_tensor *tensor = mr3d_bundle_add(bundle, name, dtype, rank, shape);
  if (how.scale == 0) how.scale = 1;
  mr3d_random_draw(&how, mr3d_stream_named(seed, name), tensor);
  return tensor;
}
#define SHAPE(...) (int)(sizeof((int64_t[]){__VA_ARGS__}) / sizeof(int64_t)), (int64_t[]){__VA_ARGS__}
static const mr3d_draw normal = {.dist = MR3D_NORMAL}, heavy = {.dist = MR3D_HEAVY};

static inline mr3d_draw between(double lo, double hi) { return (mr3d_draw){.dist = MR3D_UNIFORM, .lo = lo, .hi = hi}; }
static inline mr3d_draw times(mr3d_draw how, double scale) { return how.scale = scale, how; }

static inline void count_up(mr3d_bundle *bundle, const char *name, int64_t n, int64_t first, int64_t step) {
  int64_t *values = mr3d_bundle_add(bundle, name, MR3D_I64, SHAPE(1, n))->data;
  for (int64_t i = 0; i < n; i++) values[i] = first + i * step;
}

static inline problem pose(mr3d_bundle *request) {
  problem p = {.request = request};
  mr3d_error error = {0};
  p.truth = mr3d_truth_new(mr3d_tier_named(mr3d_bundle_get(request, "tier")), NULL, NULL, 1);
  if (mr3d_truth_step(p.truth, request, &p.answer, &error) != MR3D_OK) fail_msg("the reference refuses: %s", error.message);
  return p;
}

static inline void drop(problem *p) {
  mr3d_truth_free(&p->truth);
  mr3d_bundle_free(&p->request);
}

/** The truth as a backend would send it: no tensors of the judge's. */
static inline mr3d_bundle *exact_answer(const problem *p) {
  mr3d_bundle *answer = mr3d_bundle_new();
  for (int i = 0; i < mr3d_bundle_count(p->answer); i++)
    if (!strchr(mr3d_bundle_at(p->answer, i)->name, ':')) mr3d_bundle_copy(answer, NULL, mr3d_bundle_at(p->answer, i));
  return answer;
}

/** What a stack would answer that computes so. */
static inline mr3d_bundle *emulated_answer(const mr3d_bundle *request, mr3d_arithmetic arithmetic) {
  mr3d_server_options options = {.threads = 1, .emulate = true, .arithmetic = arithmetic};
  mr3d_server *server = mr3d_server_new(&options);
  mr3d_bundle *answer = NULL;
  mr3d_error error = {0};
  if (mr3d_server_answer(server, request, &answer, &error) != MR3D_OK) fail_msg("emulated: %s", error.message);
  mr3d_server_free(&server);
  return answer;
}

/** Every floating output of `answer` rounded to nearest in another type. */
static inline mr3d_bundle *stored_as(const mr3d_bundle *answer, mr3d_dtype dtype) {
  mr3d_bundle *stored = mr3d_bundle_new();
  for (int i = 0; i < mr3d_bundle_count(answer); i++) {
    const mr3d_tensor *tensor = mr3d_bundle_at(answer, i);
    if (mr3d_dtype_is_float(tensor->dtype))
      mr3d_tensor_from_double(mr3d_bundle_add(stored, tensor->name, dtype, tensor->rank, tensor->shape), tensor->data);
    else mr3d_bundle_copy(stored, NULL, tensor);
  }
  return stored;
}

static inline double *values_of(mr3d_bundle *answer, const char *name) { return mr3d_bundle_find(answer, name)->data; }

/* ---- the operators' requests ---- */

static inline mr3d_bundle *rope1d_request_of(mr3d_tier tier, uint64_t seed, int64_t heads, int64_t q, int64_t first, int64_t step) {
  mr3d_bundle *r = request_of("rope1d", tier);
  draw(r, "x", mr3d_tier_storage(tier), normal, seed, SHAPE(1, heads, q, 32));
  count_up(r, "position_ids", q, first, step);
  return r;
}

static inline mr3d_bundle *rope1d_request(mr3d_tier tier, uint64_t seed, int64_t q, int64_t step) {
  return rope1d_request_of(tier, seed, 4, q, 0, step);
}

static inline mr3d_bundle *cis3d_request(mr3d_tier tier, uint64_t seed) {
  mr3d_bundle *r = request_of("cis3d", tier);
  draw(r, "freqs", mr3d_tier_storage(tier), between(0.01, 1), seed, SHAPE(3, 4, 8));
  draw(r, "axial_weights", mr3d_tier_storage(tier), between(0.5, 1.5), seed, SHAPE(4, 8, 3));
  draw(r, "coords", MR3D_F32, (mr3d_draw){.dist = MR3D_INT, .lo = 0, .hi = 79}, seed, SHAPE(60, 3));
  return r;
}

static inline mr3d_bundle *rope3d_request(mr3d_tier tier, uint64_t seed) {
  mr3d_bundle *r = request_of("rope3d", tier);
  draw(r, "x", mr3d_tier_storage(tier), normal, seed, SHAPE(1, 4, 50, 16));
  float *c = mr3d_bundle_add(r, "cos", MR3D_F32, SHAPE(4, 50, 8))->data, *s = mr3d_bundle_add(r, "sin", MR3D_F32, SHAPE(4, 50, 8))->data;
  for (int i = 0; i < 4 * 50 * 8; i++) {
    c[i] = cosf(0.37f * (float)i);
    s[i] = sinf(0.37f * (float)i);
  }
  return r;
}

static inline mr3d_bundle *rmsnorm_request(mr3d_tier tier, uint64_t seed, int64_t rows, int64_t n) {
  mr3d_bundle *r = request_of("rmsnorm", tier);
  draw(r, "x", mr3d_tier_storage(tier), (mr3d_draw){.dist = MR3D_NORMAL, .outlier_every = 97, .outlier_by = 40}, seed, SHAPE(1, rows, n));
  draw(r, "weight", mr3d_tier_storage(tier), between(0.2, 4), seed, SHAPE(n));
  return r;
}

static inline mr3d_bundle *linear_request(mr3d_tier tier, uint64_t seed, int64_t rows) {
  mr3d_bundle *r = request_of("linear", tier);
  draw(r, "x", mr3d_tier_storage(tier), normal, seed, SHAPE(1, rows, 128));
  draw(r, "weight", mr3d_tier_storage(tier), times(heavy, 0.05), seed, SHAPE(64, 128));
  draw(r, "bias", mr3d_tier_storage(tier), times(heavy, 30), seed, SHAPE(64));
  return r;
}

static inline mr3d_bundle *swiglu_request(mr3d_tier tier, uint64_t seed) {
  mr3d_bundle *r = request_of("swiglu", tier);
  draw(r, "gate", mr3d_tier_storage(tier), times(normal, 3), seed, SHAPE(1, 48, 64));
  draw(r, "up", mr3d_tier_storage(tier), normal, seed, SHAPE(1, 48, 64));
  return r;
}

static inline mr3d_bundle *attention_request(mr3d_tier tier, uint64_t seed) {
  mr3d_bundle *r = request_of("attention", tier);
  draw(r, "query", mr3d_tier_storage(tier), normal, seed, SHAPE(1, 4, 40, 32));
  draw(r, "key", mr3d_tier_storage(tier), normal, seed, SHAPE(1, 2, 40, 32));
  draw(r, "value", mr3d_tier_storage(tier), normal, seed, SHAPE(1, 2, 40, 32));
  uint8_t *visible = mr3d_bundle_add(r, "visible", MR3D_BOOL, SHAPE(1, 40, 40))->data;
  for (int i = 1; i < 40; i++) /* row 0 sees nothing */
    for (int j = 0; j <= i; j++) visible[i * 40 + j] = 1;
  return r;
}

static inline mr3d_bundle *normalize_request(mr3d_tier tier, uint64_t seed) {
  mr3d_bundle *r = request_of("normalize_coords", tier);
  draw(r, "coords", MR3D_I64, (mr3d_draw){.dist = MR3D_INT, .lo = 0, .hi = 79}, seed, SHAPE(2, 40, 3));
  int64_t *counts = mr3d_bundle_add(r, "point_counts", MR3D_I64, SHAPE(2))->data;
  counts[0] = 40;
  counts[1] = 33;
  return r;
}

static inline void add_layer(mr3d_bundle *r, mr3d_dtype dtype, const char *prefix, uint64_t seed) {
  static const struct { const char *name; int rank; int64_t shape[3]; double scale; } tensors[] = {
      {"self_attn.q_proj.weight", 2, {128, 128}, 0.05}, {"self_attn.k_proj.weight", 2, {64, 128}, 0.05}, {"self_attn.v_proj.weight", 2, {64, 128}, 0.05},
      {"self_attn.o_proj.weight", 2, {128, 128}, 0.05}, {"self_attn.q_proj.bias", 1, {128}, 1},          {"self_attn.k_proj.bias", 1, {64}, 3},
      {"self_attn.v_proj.bias", 1, {64}, 0.5},          {"mlp.gate_proj.weight", 2, {192, 128}, 0.05},   {"mlp.up_proj.weight", 2, {192, 128}, 0.05},
      {"mlp.down_proj.weight", 2, {128, 192}, 0.05}};
  char name[128];
  for (size_t i = 0; i < sizeof tensors / sizeof *tensors; i++) {
    snprintf(name, sizeof name, "%s%s", prefix, tensors[i].name);
    draw(r, name, dtype, times(heavy, tensors[i].scale), seed, tensors[i].rank, tensors[i].shape);
  }
  const char *const norms[] = {"input_layernorm.weight", "post_attention_layernorm.weight"};
  for (int i = 0; i < 2; i++) {
    snprintf(name, sizeof name, "%s%s", prefix, norms[i]);
    draw(r, name, dtype, between(0.2, 4), seed, SHAPE(128));
  }
  const struct { const char *side; int64_t heads; } sides[] = {{"q", 4}, {"kv", 2}};
  for (int i = 0; i < 2; i++) {
    snprintf(name, sizeof name, "%sself_attn.freqs_3d_%s", prefix, sides[i].side);
    draw(r, name, dtype, between(0.1, 1), seed, SHAPE(3, sides[i].heads, 8));
    snprintf(name, sizeof name, "%sself_attn.axial_weights_3d_%s", prefix, sides[i].side);
    draw(r, name, dtype, between(0.5, 1.5), seed, SHAPE(sides[i].heads, 8, 3));
  }
}

/** B samples of S tokens of which 2 .. 21 are points. */
static inline mr3d_bundle *layer_request(mr3d_tier tier, uint64_t seed, int64_t B, int64_t S) {
  mr3d_bundle *r = request_of("decoder_layer", tier);
  draw(r, "hidden", mr3d_tier_storage(tier), (mr3d_draw){.dist = MR3D_NORMAL, .outlier_every = 97, .outlier_by = 20}, seed, SHAPE(B, S, 128));
  add_layer(r, mr3d_tier_storage(tier), "", seed);
  uint8_t *mask = mr3d_bundle_add(r, "point_token_mask", MR3D_BOOL, SHAPE(B, S))->data;
  for (int64_t i = 0; i < B * S; i++) mask[i] = i % S >= 2 && i % S < 22;
  draw(r, "point_coords", MR3D_I64, (mr3d_draw){.dist = MR3D_INT, .lo = 0, .hi = 79}, seed, SHAPE(B, 20, 3));
  return r;
}

#endif
