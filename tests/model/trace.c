/** Traces: each point is what its name says, since the operators behind it give what the next point holds, bit for bit. */
#include <math.h>

#include "fixture.h"
#include "mr3d/trace.h"

enum { Q = 9, POINTS = 4 };
static char weights_path[64];
static mr3d_bundle *weights;

static mr3d_bundle *prefill_traced(const char *globs) {
  mr3d_bundle *r = request("prefill", CONFIG);
  mr3d_bundle_set(r, "session", "s");
  mr3d_bundle_set(r, "weights", weights_path);
  if (globs) mr3d_bundle_set(r, "trace", globs);
  add_reals_seeded(r, "inputs_embeds", 21, MR3D_F64, 1, SHAPE(1, Q, HIDDEN));
  add_filled(r, "attention_mask", 1, SHAPE(1, Q));
  add_points(r, 1, Q, 2, POINTS, (int64_t[]){POINTS});
  return r;
}

/* ---- replaying an operator on points of layer 1 ---- */

static const mr3d_bundle *traced;

static void give(mr3d_bundle *r, const char *name, const mr3d_tensor *tensor) {
  assert_non_null(tensor);
  mr3d_bundle_copy(r, name, tensor);
}

static const mr3d_tensor *point(const char *name) {
  char full[64];
  snprintf(full, sizeof full, "trace.%s", name);
  const mr3d_tensor *tensor = mr3d_bundle_find(traced, full);
  if (!tensor) fail_msg("the answer has no %s", full);
  return tensor;
}

static const mr3d_tensor *weight(const char *name) {
  char full[128];
  snprintf(full, sizeof full, "model.layers.1.%s", name);
  return mr3d_bundle_find(weights, full);
}

/* heads [1,heads,q,D] as rows [1,q,heads*D] */
static double *merged(const mr3d_tensor *heads) {
  const int64_t n = heads->shape[1], q = heads->shape[2];
  double *rows = mr3d_allocate(n * q * D, sizeof *rows);
  for (int64_t h = 0; h < n; h++)
    for (int64_t i = 0; i < q; i++) memcpy(rows + (i * n + h) * D, (const double *)heads->data + (h * q + i) * D, D * sizeof *rows);
  return rows;
}

/* The point holds what the request's output does; with heads apart where it is [1,heads,q,D]. */
static void holds(const char *name, mr3d_server *server, mr3d_bundle *r, const char *output) {
  const mr3d_tensor *held = point(name);
  mr3d_bundle *a = answer(server, r);
  double *rows = held->rank == 4 && mr3d_bundle_find(a, output)->rank == 3 ? merged(held) : NULL;
  const double *values = rows ? rows : held->data;
  assert_int_equal(mr3d_tensor_count(held), mr3d_tensor_count(mr3d_bundle_find(a, output)));
  if (memcmp(values, reals(a, output), (size_t)mr3d_tensor_count(held) * sizeof *values) != 0) fail_msg("%s is something else", name);
  free(rows);
  mr3d_bundle_free(&a);
}

static mr3d_bundle *norm(const char *x, const mr3d_tensor *w) {
  mr3d_bundle *r = request("rmsnorm", CONFIG);
  give(r, "x", point(x)), give(r, "weight", w);
  return r;
}

static mr3d_bundle *project(const char *x, const char *name, bool biased) {
  char full[64];
  mr3d_bundle *r = request("linear", CONFIG);
  const mr3d_tensor *from = point(x);
  if (from->rank == 4) {
    double *rows = merged(from);
    memcpy(mr3d_bundle_add(r, "x", MR3D_F64, SHAPE(1, Q, H * D))->data, rows, H * D * Q * sizeof *rows);
    free(rows);
  } else give(r, "x", from);
  snprintf(full, sizeof full, "%s.weight", name);
  give(r, "weight", weight(full));
  snprintf(full, sizeof full, "%s.bias", name);
  if (biased) give(r, "bias", weight(full));
  return r;
}

static mr3d_bundle *rotation(void) {
  mr3d_bundle *r = request("mixed_rope", CONFIG);
  add_points(r, 1, Q, 2, POINTS, (int64_t[]){POINTS});
  int64_t *positions = mr3d_bundle_add(r, "position_ids", MR3D_I64, SHAPE(1, Q))->data;
  for (int64_t i = 0; i < Q; i++) positions[i] = i;
  give(r, "query", point("1.query")), give(r, "key", point("1.key"));
  give(r, "freqs_q", weight("self_attn.freqs_3d_q")), give(r, "axial_weights_q", weight("self_attn.axial_weights_3d_q"));
  give(r, "freqs_kv", weight("self_attn.freqs_3d_kv")), give(r, "axial_weights_kv", weight("self_attn.axial_weights_3d_kv"));
  return r;
}

static void is_sum(const char *name, const char *a, const char *b) {
  const double *x = point(a)->data, *y = point(b)->data, *sum = point(name)->data;
  for (int64_t i = 0; i < Q * HIDDEN; i++) assert_true(sum[i] == x[i] + y[i]);
}

static void each_point_is_what_the_operator_before_it_gives(void **state) {
  (void)state;
  mr3d_server *server = new_server();
  mr3d_bundle *a = answer(server, prefill_traced("*")), *r;
  traced = a;
  assert_memory_equal(point("1.input")->data, point("0.output")->data, Q * HIDDEN * sizeof(double));
  holds("1.input_norm", server, norm("1.input", weight("input_layernorm.weight")), "y");
  holds("1.query", server, project("1.input_norm", "self_attn.q_proj", true), "y");
  holds("1.key", server, project("1.input_norm", "self_attn.k_proj", true), "y");
  holds("1.value", server, project("1.input_norm", "self_attn.v_proj", true), "y");
  holds("1.query_rotated", server, rotation(), "query");
  holds("1.key_rotated", server, rotation(), "key");
  r = request("attention", CONFIG);
  give(r, "query", point("1.query_rotated")), give(r, "key", point("1.key_rotated")), give(r, "value", point("1.value")), give(r, "visible", point("1.visible"));
  holds("1.context", server, r, "y");
  holds("1.o_proj", server, project("1.context", "self_attn.o_proj", false), "y");
  is_sum("1.attention_residual", "1.input", "1.o_proj");
  holds("1.post_attention_norm", server, norm("1.attention_residual", weight("post_attention_layernorm.weight")), "y");
  holds("1.gate", server, project("1.post_attention_norm", "mlp.gate_proj", false), "y");
  holds("1.up", server, project("1.post_attention_norm", "mlp.up_proj", false), "y");
  r = request("swiglu", CONFIG);
  give(r, "gate", point("1.gate")), give(r, "up", point("1.up"));
  holds("1.gated", server, r, "y");
  holds("1.down", server, project("1.gated", "mlp.down_proj", false), "y");
  is_sum("1.output", "1.attention_residual", "1.down");
  holds("model.final_norm", server, norm("1.output", mr3d_bundle_find(weights, "model.norm.weight")), "y");
  assert_memory_equal(point("model.final_norm")->data, reals(a, "hidden"), Q * HIDDEN * sizeof(double));
  assert_memory_equal(point("model.logits")->data, reals(a, "logits"), Q * V * sizeof(double));
  assert_int_equal(*(const int64_t *)point("model.cache_length")->data, 0);
  mr3d_bundle_free(&a);
  mr3d_server_free(&server);
}

/* A decode step that the caller gives a mask of its text alone, after a prefill of Q tokens. */
static mr3d_bundle *decode_traced(const char *globs) {
  mr3d_bundle *r = request("decode", CONFIG);
  mr3d_bundle_set(r, "session", "s");
  mr3d_bundle_set(r, "trace", globs);
  add_integers(r, "input_ids", (int64_t[]){7}, 2, (int64_t[]){1, 1});
  add_filled(r, "attention_mask", 1, SHAPE(1, Q - POINTS + 1));
  return r;
}

/* All points of a layer and of the model, with the shapes that the table promises; of the call's inputs those in the list. */
static void has_all_points(const mr3d_trace_sizes *sizes, const char *inputs) {
  for (int place = 0; place < MR3D_TRACE_N_PLACES; place++)
    for (const mr3d_trace_point *p = mr3d_trace_points((mr3d_trace_place)place); p->name; p++) {
      char name[64], full[80];
      int64_t shape[MR3D_MAX_RANK];
      snprintf(name, sizeof name, "%s.%s", place == MR3D_TRACE_OF_LAYER ? "1" : "model", p->name);
      snprintf(full, sizeof full, "trace.%s", name);
      if (place == MR3D_TRACE_OF_CALL && !strstr(inputs, p->name)) {
        assert_null(mr3d_bundle_find(traced, full));
        continue;
      }
      const mr3d_tensor *t = point(name);
      assert_int_equal(t->dtype, p->dtype);
      assert_int_equal(t->rank, mr3d_trace_shape(p, sizes, shape));
      for (int i = 0; i < t->rank; i++)
        if (t->shape[i] != shape[i]) fail_msg("%s has size %d of %d, expected %d", name, (int)t->shape[i], i, (int)shape[i]);
      assert_ptr_equal(mr3d_trace_point_named(place == MR3D_TRACE_OF_LAYER, p->name), p);
    }
}

static void prefill_and_decode_have_every_point_in_its_shape(void **state) {
  (void)state;
  mr3d_server *server = new_server();
  mr3d_bundle *first = answer(server, prefill_traced("*"));
  mr3d_trace_sizes sizes = {.B = 1, .q = Q, .L = 0, .T = Q, .M = Q, .N = POINTS, .P = 1, .k = Q, .H = H, .G = G, .D = D, .C = HIDDEN, .I = INTERMEDIATE, .V = V};
  traced = first;
  has_all_points(&sizes, "attention_mask point_token_mask point_coords");
  assert_memory_equal(point("1.key_cache")->data, point("1.key_rotated")->data, G * Q * D * sizeof(double));
  mr3d_bundle *second = answer(server, decode_traced("*"));
  sizes.q = sizes.k = sizes.T = 1, sizes.L = Q, sizes.M = Q - POINTS + 1;
  traced = second;
  has_all_points(&sizes, "attention_mask input_ids");
  assert_int_equal(*(const int64_t *)point("model.position_ids")->data, Q);
  assert_int_equal(*(const int64_t *)point("1.position_ids")->data, Q);
  assert_int_equal(((const int64_t *)point("1.cache_length")->data)[0], Q);
  assert_int_equal(((const int64_t *)point("1.cache_length")->data)[1], Q + 1);
  for (int64_t g = 0; g < G; g++) { /* the cache is what the prefill had, and the new token behind it */
    const double *cache = (const double *)point("1.key_cache")->data + g * (Q + 1) * D, *value = (const double *)point("1.value_cache")->data + g * (Q + 1) * D;
    assert_memory_equal(cache + Q * D, (const double *)point("1.key_rotated")->data + g * D, D * sizeof *cache);
    assert_memory_equal(value + Q * D, (const double *)point("1.value")->data + g * D, D * sizeof *cache);
    assert_memory_equal(cache, (const double *)mr3d_bundle_find(first, "trace.1.key_rotated")->data + g * Q * D, Q * D * sizeof *cache);
    assert_memory_equal(value, (const double *)mr3d_bundle_find(first, "trace.1.value")->data + g * Q * D, Q * D * sizeof *cache);
  }
  mr3d_bundle_free(&first), mr3d_bundle_free(&second);
  mr3d_server_free(&server);
}

static void scores_are_those_of_visible_keys(void **state) {
  (void)state;
  mr3d_server *server = new_server();
  mr3d_bundle *a = answer(server, prefill_traced("1.*"));
  traced = a;
  const double *query = point("1.query_rotated")->data, *key = point("1.key_cache")->data;
  const bool *visible = point("1.visible")->data;
  for (int64_t h = 0; h < H; h++)
    for (int64_t i = 0; i < Q; i++) {
      double max = -INFINITY, sum = 0, total = 0;
      int n = 0;
      for (int64_t j = 0; j < Q; j++) {
        double score = 0;
        for (int64_t d = 0; d < D; d++) score += query[(h * Q + i) * D + d] * key[(h / (H / G) * Q + j) * D + d];
        score /= 4; /* the root of D */
        if (!visible[i * Q + j]) continue;
        max = fmax(max, score), total += score, sum += exp(score), n++;
      }
      assert_int_equal(n, i + 1);
      assert_true(fabs(((const double *)point("1.scores_max")->data)[h * Q + i] - max) < 1e-13);
      assert_true(fabs(((const double *)point("1.scores_mean")->data)[h * Q + i] - total / n) < 1e-13);
      assert_true(fabs(((const double *)point("1.scores_lse")->data)[h * Q + i] - log(sum)) < 1e-13);
    }
  mr3d_bundle_free(&a);
  mr3d_server_free(&server);
}

typedef struct listener {
  int taken;
  char last[64];
} listener;

static bool wants_norms(void *user, const char *name) {
  (void)user;
  return strstr(name, "norm") != NULL;
}

static void count_taken(void *user, const mr3d_tensor *point_taken) {
  listener *l = user;
  l->taken++;
  snprintf(l->last, sizeof l->last, "%s", point_taken->name);
}

/* What a server is given to hear points with takes them as they come; a request that asks for its own gets those. */
static void a_servers_tracer_takes_points_that_no_answer_holds(void **state) {
  (void)state;
  listener heard = {0};
  const mr3d_tracer tracer = {&heard, wants_norms, count_taken};
  mr3d_server *server = mr3d_server_new(&(mr3d_server_options){.tracer = &tracer});
  mr3d_bundle *a = answer(server, prefill_traced(NULL));
  assert_int_equal(heard.taken, 2 * LAYERS + 1);
  assert_string_equal(heard.last, "model.final_norm");
  assert_int_equal(mr3d_bundle_count(a), 2);
  mr3d_bundle_free(&a);
  a = answer(server, decode_traced("0.query"));
  assert_int_equal(heard.taken, 2 * LAYERS + 1);
  assert_non_null(mr3d_bundle_find(a, "trace.0.query"));
  mr3d_bundle_free(&a);
  mr3d_server_free(&server);
}

static void only_what_was_asked_for_comes_and_nothing_else_changes(void **state) {
  (void)state;
  mr3d_server *plain_server = new_server(), *server = new_server();
  mr3d_bundle *plain = answer(plain_server, prefill_traced(NULL)), *some = answer(server, prefill_traced("1.query_rotated,model.c*"));
  assert_int_equal(mr3d_bundle_count(some), mr3d_bundle_count(plain) + 2);
  assert_shape(some, "trace.1.query_rotated", SHAPE(1, H, Q, D));
  assert_non_null(mr3d_bundle_find(some, "trace.model.cache_length"));
  for (int i = 0; i < mr3d_bundle_count(plain); i++) {
    const mr3d_tensor *t = mr3d_bundle_at(plain, i);
    assert_memory_equal(t->data, mr3d_bundle_find(some, t->name)->data, (size_t)mr3d_tensor_count(t) * mr3d_dtype_size(t->dtype));
  }
  mr3d_bundle_free(&plain), mr3d_bundle_free(&some);
  mr3d_server_free(&plain_server), mr3d_server_free(&server);
}

static void a_point_that_does_not_exist_is_refused_with_those_that_do(void **state) {
  (void)state;
  mr3d_server *server = new_server();
  REFUSED(server, prefill_traced("*.query_rotate"), "\"*.query_rotate\" matches no point", "query_rotated", "model.POINT has inputs_embeds");
  REFUSED(server, prefill_traced("model.logits,query"), "\"query\" matches no point", "LAYER.POINT");
  REFUSED(server, prefill_traced(""), "metadata trace is empty");
  mr3d_server_free(&server);
}

static int save(void **state) {
  (void)state;
  weights = decoder_weights((layer_options){.dtype = MR3D_F64});
  save_decoder((layer_options){.dtype = MR3D_F64}, weights_path);
  return 0;
}

static int clean(void **state) {
  (void)state;
  mr3d_bundle_free(&weights);
  return unlink(weights_path);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(each_point_is_what_the_operator_before_it_gives),
      cmocka_unit_test(prefill_and_decode_have_every_point_in_its_shape),
      cmocka_unit_test(scores_are_those_of_visible_keys),
      cmocka_unit_test(a_servers_tracer_takes_points_that_no_answer_holds),
      cmocka_unit_test(only_what_was_asked_for_comes_and_nothing_else_changes),
      cmocka_unit_test(a_point_that_does_not_exist_is_refused_with_those_that_do),
  };
  return cmocka_run_group_tests(tests, save, clean);
}
