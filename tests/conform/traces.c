/** The float32 plug-in and the reference give the same points in prefill and decode, asked through the door that every backend has. */
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <setjmp.h>
#include <cmocka.h>

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "backend.h"
#include "mr3d/judge.h"
#include "mr3d/random.h"
#include "mr3d/safetensors.h"
#include "mr3d/trace.h"

enum { H = 4, G = 2, D = 16, C = 48, I = 40, V = 50, LAYERS = 2, Q = 9, N = 4 };
#define CONFIG                                                                                                                                          \
  "{\"hidden_size\":48,\"intermediate_size\":40,\"num_hidden_layers\":2,\"num_attention_heads\":4,\"num_key_value_heads\":2,\"head_dim\":16,\"vocab_size\":50," \
  "\"rope_theta\":10000.0,\"rms_norm_eps\":1e-6}"
#define SHAPE(...) (int)(sizeof((int64_t[]){__VA_ARGS__}) / sizeof(int64_t)), (const int64_t[]){__VA_ARGS__}

static char weights_path[80];

static mr3d_tensor *draw(mr3d_bundle *bundle, const char *name, double scale, double shift, int rank, const int64_t *shape) {
  mr3d_tensor *t = mr3d_bundle_add(bundle, name, MR3D_F32, rank, shape);
  mr3d_random_draw(&(mr3d_draw){.dist = MR3D_NORMAL, .scale = scale, .shift = shift}, mr3d_stream_named(0, name), t);
  return t;
}

static int write_weights(void **state) {
  (void)state;
  static const struct { const char *name; double scale, shift; int rank; int64_t shape[3]; } tensors[] = {
      {"input_layernorm.weight", 0.1, 1, 1, {C}}, {"post_attention_layernorm.weight", 0.1, 1, 1, {C}}, {"self_attn.q_proj.weight", 0.2, 0, 2, {H * D, C}}, {"self_attn.q_proj.bias", 1, 0, 1, {H * D}},
      {"self_attn.k_proj.weight", 0.2, 0, 2, {G * D, C}}, {"self_attn.k_proj.bias", 1, 0, 1, {G * D}}, {"self_attn.v_proj.weight", 0.2, 0, 2, {G * D, C}}, {"self_attn.v_proj.bias", 1, 0, 1, {G * D}},
      {"self_attn.o_proj.weight", 0.1, 0, 2, {C, H * D}}, {"mlp.gate_proj.weight", 0.2, 0, 2, {I, C}}, {"mlp.up_proj.weight", 0.2, 0, 2, {I, C}}, {"mlp.down_proj.weight", 0.2, 0, 2, {C, I}},
      {"self_attn.freqs_3d_q", 0.3, 0.5, 3, {3, H, 4}}, {"self_attn.freqs_3d_kv", 0.3, 0.5, 3, {3, G, 4}}, {"self_attn.axial_weights_3d_q", 0.1, 1, 3, {H, 4, 3}}, {"self_attn.axial_weights_3d_kv", 0.1, 1, 3, {G, 4, 3}}};
  mr3d_bundle *weights = mr3d_bundle_new();
  draw(weights, "model.embed_tokens.weight", 1, 0, SHAPE(V, C));
  draw(weights, "model.norm.weight", 0.1, 1, SHAPE(C));
  for (int layer = 0; layer < LAYERS; layer++)
    for (size_t i = 0; i < sizeof tensors / sizeof *tensors; i++) {
      char name[160];
      snprintf(name, sizeof name, "model.layers.%d.%s", layer, tensors[i].name);
      draw(weights, name, tensors[i].scale, tensors[i].shift, tensors[i].rank, tensors[i].shape);
    }
  snprintf(weights_path, sizeof weights_path, "/tmp/mr3d-traces-%ld.safetensors", (long)getpid());
  mr3d_error error = {0};
  const mr3d_status status = mr3d_safetensors_save(weights_path, weights, &error);
  mr3d_bundle_free(&weights);
  return status;
}

static int remove_weights(void **state) {
  (void)state;
  return unlink(weights_path);
}

static mr3d_bundle *request_of(int step, const char *globs) {
  mr3d_bundle *r = mr3d_bundle_new();
  mr3d_bundle_set(r, "op", step ? "decode" : "prefill");
  mr3d_bundle_set(r, "tier", "fp32");
  mr3d_bundle_set(r, "config", CONFIG);
  mr3d_bundle_set(r, "session", "s");
  if (globs) mr3d_bundle_set(r, "trace", globs);
  int64_t *mask = mr3d_bundle_add(r, "attention_mask", MR3D_I64, SHAPE(1, step ? Q - N + 2 : Q))->data;
  for (int i = 0; i < (step ? Q - N + 2 : Q); i++) mask[i] = 1;
  if (step) {
    *(int64_t *)mr3d_bundle_add(r, "input_ids", MR3D_I64, SHAPE(1, 1))->data = 7;
    return r;
  }
  mr3d_bundle_set(r, "weights", weights_path);
  draw(r, "inputs_embeds", 1, 0, SHAPE(1, Q, C));
  bool *marks = mr3d_bundle_add(r, "point_token_mask", MR3D_BOOL, SHAPE(1, Q))->data;
  int64_t *coords = mr3d_bundle_add(r, "point_coords", MR3D_I64, SHAPE(N, 3))->data;
  for (int i = 0; i < N; i++) marks[2 + i] = true;
  for (int i = 0; i < 3 * N; i++) coords[i] = 7 * i % 80;
  return r;
}

static mr3d_reply ask(mr3d_backend *backend, int step, const char *globs) {
  mr3d_bundle *request = request_of(step, globs);
  mr3d_reply reply;
  mr3d_backend_ask(backend, request, 60, &reply);
  mr3d_bundle_free(&request);
  return reply;
}

static mr3d_backend *open_backend(const char *spec) {
  mr3d_backend *backend = NULL;
  mr3d_error error = {0};
  if (mr3d_backend_open(spec, &(mr3d_backend_options){.threads = 1}, &backend, &error)) fail_msg("%s", error.message);
  assert_true(mr3d_backend_info_of(backend)->traces);
  return backend;
}

/* A point of both, near each other; exactly where it is no floating one. */
static void assert_near(const mr3d_bundle *got, const mr3d_bundle *truth, const char *layer, const mr3d_trace_point *point) {
  char name[80];
  snprintf(name, sizeof name, "trace.%s.%s", layer, point->name);
  const mr3d_tensor *x = mr3d_bundle_find(got, name), *y = mr3d_bundle_find(truth, name);
  if (!x || !y) fail_msg("%s is missing on one side", name);
  const int64_t count = mr3d_tensor_count(y);
  assert_int_equal(x->rank, y->rank);
  for (int i = 0; i < x->rank; i++) assert_int_equal(x->shape[i], y->shape[i]);
  double *a = mr3d_allocate(count, sizeof *a), *b = mr3d_allocate(count, sizeof *b), size = 0;
  mr3d_tensor_to_double(x, a);
  mr3d_tensor_to_double(y, b);
  for (int64_t i = 0; i < count; i++) size = fmax(size, fabs(b[i]));
  for (int64_t i = 0; i < count; i++)
    if (!(fabs(a[i] - b[i]) <= (point->dtype == MR3D_F64 ? 1e-5 * size : 0))) fail_msg("%s: %g at %d, expected %g", name, a[i], (int)i, b[i]);
  free(a), free(b);
}

static void both_give_every_point(void **state) {
  (void)state;
  char spec[4096];
  snprintf(spec, sizeof spec, "lib:%s", getenv("MR3D_F32"));
  mr3d_backend *reference = open_backend("builtin:reference"), *f32 = open_backend(spec);
  for (int step = 0; step < 2; step++) {
    mr3d_reply truth = ask(reference, step, "*"), got = ask(f32, step, "*");
    if (truth.kind != MR3D_REPLY_ANSWER || got.kind != MR3D_REPLY_ANSWER) fail_msg("%s %s", truth.message, got.message);
    for (int layer = 0; layer < LAYERS; layer++)
      for (const mr3d_trace_point *p = mr3d_trace_points(MR3D_TRACE_OF_LAYER); p->name; p++) assert_near(got.answer, truth.answer, layer ? "1" : "0", p);
    for (const mr3d_trace_point *p = mr3d_trace_points(MR3D_TRACE_OF_MODEL); p->name; p++) assert_near(got.answer, truth.answer, "model", p);
    mr3d_reply_clear(&truth), mr3d_reply_clear(&got);
  }
  mr3d_reply some = ask(f32, 1, "1.q*");
  assert_int_equal(mr3d_bundle_count(some.answer), 1 + 2);
  mr3d_reply_clear(&some);
  some = ask(f32, 1, NULL);
  assert_int_equal(mr3d_bundle_count(some.answer), 1);
  mr3d_reply_clear(&some);
  mr3d_backend_close(&reference), mr3d_backend_close(&f32);
}

/* Points that a request asks for are no outputs: neither judged, nor too many; unasked, they are. */
static void the_judge_looks_at_outputs_alone(void **state) {
  (void)state;
  char spec[4096];
  snprintf(spec, sizeof spec, "lib:%s", getenv("MR3D_F32"));
  mr3d_backend *f32 = open_backend(spec);
  for (int unasked = 0; unasked < 2; unasked++) {
    mr3d_bundle *request = request_of(0, unasked ? NULL : "0.q*,1.down,model.attention_mask");
    mr3d_reply got = ask(f32, 0, "0.q*,1.down");
    mr3d_judgement judgement = {0};
    mr3d_error error = {0};
    assert_int_equal(got.kind, MR3D_REPLY_ANSWER);
    ((float *)mr3d_bundle_find(got.answer, "trace.1.down")->data)[0] += 1e6F;
    assert_int_equal(mr3d_judge_answer(request, got.answer, 0, 1, &judgement, &error), MR3D_OK);
    assert_int_equal(judgement.passed, !unasked);
    assert_int_equal(judgement.n_tensors, unasked ? 2 + 3 : 2);
    mr3d_judgement_clear(&judgement);
    mr3d_reply_clear(&got);
    mr3d_bundle_free(&request);
    mr3d_backend_rest(f32, 1); /* a session is one test's */
  }
  mr3d_backend_close(&f32);
}

int main(void) {
  const struct CMUnitTest tests[] = {cmocka_unit_test(both_give_every_point), cmocka_unit_test(the_judge_looks_at_outputs_alone)};
  return cmocka_run_group_tests(tests, write_weights, remove_weights);
}
