/** P3 gqa-heads: 14 query heads against 2 key/value heads (spec.md 3.2, 6). */
#include "../suite.h"

#define CANONICAL "{\"num_attention_heads\":14,\"num_key_value_heads\":2,\"head_dim\":64,\"rope_theta\":1e6}"

enum { QUERY_HEADS = 14, KV_HEADS = 2, HEAD_DIM = 64, BINS = 16, N = 3 };

static mr3d_bundle *mixed_rope(int64_t kv_frequency_heads) {
  mr3d_bundle *r = request("mixed_rope", CANONICAL);
  const int64_t count = N;
  add_reals(r, "query", 1, SHAPE(1, QUERY_HEADS, N, HEAD_DIM));
  add_reals(r, "key", 1, SHAPE(1, KV_HEADS, N, HEAD_DIM));
  add_points(r, 1, N, 0, N, &count);
  add_reals(r, "freqs_q", 1, SHAPE(3, QUERY_HEADS, BINS));
  add_reals(r, "axial_weights_q", 1, SHAPE(QUERY_HEADS, BINS, 3));
  add_reals(r, "freqs_kv", 1, SHAPE(3, kv_frequency_heads, BINS));
  add_reals(r, "axial_weights_kv", 1, SHAPE(kv_frequency_heads, BINS, 3));
  return r;
}

static void query_and_key_have_parameters_of_14_and_of_2_heads(void **state) {
  (void)state;
  mr3d_server *server = new_server();
  mr3d_bundle *a = answer(server, mixed_rope(KV_HEADS));
  assert_shape(a, "query", SHAPE(1, 14, N, 64));
  assert_shape(a, "key", SHAPE(1, 2, N, 64));
  mr3d_bundle_free(&a);
  mr3d_server_free(&server);
}

static void parameters_of_14_heads_for_2_key_heads_are_refused_with_both_numbers(void **state) {
  (void)state;
  mr3d_server *server = new_server();
  REFUSED(server, mixed_rope(QUERY_HEADS), "freqs_kv", "14", "= 2");
  mr3d_server_free(&server);
}

/** cis3d of one side's parameters at the points' normalised coordinates, applied to the first pair of a head. */
static void key_is_turned_by_its_own_frequencies_not_the_querys(void **state) {
  (void)state;
  mr3d_server *server = new_server();
  mr3d_bundle *r = mixed_rope(KV_HEADS), *coords = request("normalize_coords", "{}");
  double before[KV_HEADS * N * HEAD_DIM];
  memcpy(before, mr3d_bundle_find(r, "key")->data, sizeof before);
  mr3d_bundle_copy(coords, "coords", mr3d_bundle_find(r, "point_coords"));
  coords = answer(server, coords);
  for (int side = 0; side < 2; side++) { /* the key's parameters, then the first two query heads' */
    mr3d_bundle *cis = request("cis3d", "{}");
    const char *freqs = side ? "freqs_q" : "freqs_kv", *weights = side ? "axial_weights_q" : "axial_weights_kv";
    const int64_t heads = side ? QUERY_HEADS : KV_HEADS;
    mr3d_bundle_copy(cis, "freqs", mr3d_bundle_find(r, freqs));
    mr3d_bundle_copy(cis, "axial_weights", mr3d_bundle_find(r, weights));
    memcpy(mr3d_bundle_add(cis, "coords", MR3D_F64, SHAPE(N, 3))->data, reals(coords, "coords"), N * 3 * sizeof(double));
    cis = answer(server, cis);
    assert_shape(cis, "cos", SHAPE(heads, N, BINS));
    mr3d_bundle *turned = answer(server, mixed_rope(KV_HEADS));
    const double *key = reals(turned, "key"), *c = reals(cis, "cos"), *s = reals(cis, "sin");
    double worst = 0;
    for (int h = 0; h < KV_HEADS; h++)
      for (int n = 0; n < N; n++)
        for (int f = 0; f < BINS; f++) {
          const double *x = before + (h * N + n) * HEAD_DIM + 2 * f;
          const int at = (h * N + n) * BINS + f;
          const double error = key[(h * N + n) * HEAD_DIM + 2 * f] - (x[0] * c[at] - x[1] * s[at]);
          worst = error > worst ? error : -error > worst ? -error : worst;
        }
    if (side) assert_true(worst > 1e-2);
    else assert_true(worst < 1e-15);
    mr3d_bundle_free(&turned);
    mr3d_bundle_free(&cis);
  }
  mr3d_bundle_free(&coords);
  mr3d_bundle_free(&r);
  mr3d_server_free(&server);
}

static void query_heads_0_to_6_read_kv_head_0_and_7_to_13_kv_head_1(void **state) {
  (void)state;
  mr3d_server *server = new_server();
  mr3d_bundle *r = request("attention", CANONICAL);
  add_reals(r, "query", 1, SHAPE(1, QUERY_HEADS, 1, HEAD_DIM));
  add_reals(r, "key", 1, SHAPE(1, KV_HEADS, N, HEAD_DIM));
  double *value = mr3d_bundle_add(r, "value", MR3D_F64, SHAPE(1, KV_HEADS, N, HEAD_DIM))->data;
  for (int i = 0; i < KV_HEADS * N * HEAD_DIM; i++) value[i] = i < N * HEAD_DIM ? 1 : 2; /* every key of a head says which head it is */
  memset(mr3d_bundle_add(r, "visible", MR3D_BOOL, SHAPE(1, 1, N))->data, 1, N);
  mr3d_bundle *a = answer(server, r);
  for (int h = 0; h < QUERY_HEADS; h++) {
    const double expected = h < 7 ? 1 : 2, got = reals(a, "y")[h * HEAD_DIM];
    assert_true(got - expected < 1e-15 && expected - got < 1e-15);
  }
  mr3d_bundle_free(&a);
  mr3d_server_free(&server);
}

PITFALL_TEST("gqa-heads", cmocka_unit_test(query_and_key_have_parameters_of_14_and_of_2_heads),
             cmocka_unit_test(parameters_of_14_heads_for_2_key_heads_are_refused_with_both_numbers),
             cmocka_unit_test(key_is_turned_by_its_own_frequencies_not_the_querys),
             cmocka_unit_test(query_heads_0_to_6_read_kv_head_0_and_7_to_13_kv_head_1))
