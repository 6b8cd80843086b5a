/** Promises: who keeps a value in binary32 is judged by that, who only says so fails; and how a backend says it. */
#include "posed.h"

#include "backend.h"
#include "promises.h"

/** Scores up to 60, stored with a spacing of a quarter at bf16. */
static mr3d_bundle *attention_of_large_scores(mr3d_tier tier, uint64_t seed) {
  mr3d_bundle *r = attention_request(tier, seed);
  draw(r, "large", mr3d_tier_storage(tier), times(normal, 3), seed, SHAPE(1, 4, 40, 32));
  mr3d_tensor *query = mr3d_bundle_find(r, "query");
  memcpy(query->data, mr3d_bundle_find(r, "large")->data, (size_t)mr3d_tensor_count(query) * mr3d_dtype_size(query->dtype));
  mr3d_bundle *without = mr3d_bundle_new();
  for (int i = 0; i < mr3d_bundle_meta_count(r); i++) {
    const char *key, *value;
    mr3d_bundle_meta_at(r, i, &key, &value);
    mr3d_bundle_set(without, key, value);
  }
  for (int i = 0; i < mr3d_bundle_count(r); i++)
    if (strcmp(mr3d_bundle_at(r, i)->name, "large") != 0) mr3d_bundle_copy(without, NULL, mr3d_bundle_at(r, i));
  mr3d_bundle_free(&r);
  return without;
}

/** One key has most of the weight and values of either sign cancel: what a stored probability loses shows. */
static mr3d_bundle *attention_of_cancelling_values(mr3d_tier tier, uint64_t seed) {
  mr3d_bundle *r = attention_request(tier, seed);
  mr3d_tensor *value = mr3d_bundle_find(r, "value"), *query = mr3d_bundle_find(r, "query");
  double *wide = mr3d_allocate(mr3d_tensor_count(query), sizeof *wide);
  for (int64_t i = 0; i < mr3d_tensor_count(query); i++) wide[i] = 0x1p-10 * (double)(i % 7); /* nearly equal weights */
  mr3d_tensor_from_double(query, wide);
  for (int64_t i = 0; i < mr3d_tensor_count(value); i++) wide[i] = i / 32 % 2 ? -8 : 8; /* keys in turn */
  mr3d_tensor_from_double(value, wide);
  free(wide);
  return r;
}

/** In the first rows the bias takes nearly all of the product away. */
static mr3d_bundle *linear_of_cancelling_bias(mr3d_tier tier, uint64_t seed) {
  mr3d_bundle *r = linear_request(tier, seed, 64);
  mr3d_tensor *x = mr3d_bundle_find(r, "x"), *bias = mr3d_bundle_find(r, "bias");
  const size_t row = 128 * mr3d_dtype_size(x->dtype);
  for (int i = 1; i < 64; i++) memcpy((char *)x->data + (size_t)i * row, x->data, row);
  memset(bias->data, 0, 64 * mr3d_dtype_size(bias->dtype));
  problem p = pose(r);
  double *product = values_of((mr3d_bundle *)p.answer, "y"), most[64];
  for (int o = 0; o < 64; o++) most[o] = -product[o] * (1 - 0x1p-5);
  mr3d_truth_free(&p.truth);
  mr3d_tensor_from_double(bias, most);
  return r;
}

static const struct {
  const char *name;
  mr3d_bundle *(*request)(mr3d_tier, uint64_t);
} cases[] = {{"scores", attention_of_large_scores}, {"probabilities", attention_of_cancelling_values}, {"products", linear_of_cancelling_bias}};

/** The judge's verdict on nearest-rounding arithmetic without the points in `kept`, under the promises in `promised`. */
static bool passes_with(mr3d_bundle *request, mr3d_tier tier, uint32_t kept, uint32_t promised) {
  problem p = {.request = request, .truth = mr3d_truth_new(tier, NULL, NULL, 1)};
  mr3d_error error = {0};
  mr3d_truth_promise(p.truth, promised);
  assert_int_equal(mr3d_truth_step(p.truth, request, &p.answer, &error), MR3D_OK);
  mr3d_arithmetic arithmetic = mr3d_arithmetic_of(tier, MR3D_NEAREST, false, 0);
  arithmetic.points &= ~kept;
  mr3d_bundle *answer = emulated_answer(request, arithmetic);
  mr3d_judgement judgement;
  mr3d_judge(p.truth, answer, &judgement);
  const bool passed = judgement.passed;
  mr3d_judgement_clear(&judgement);
  mr3d_bundle_free(&answer);
  mr3d_truth_free(&p.truth);
  return passed;
}

static void each_promise_is_judged_by_what_it_says(void **state) {
  (void)state;
  static const mr3d_tier tiers[] = {MR3D_BF16_TIER, MR3D_FP16};
  for (size_t c = 0; c < sizeof cases / sizeof *cases; c++)
    for (int t = 0; t < 2; t++)
      for (uint64_t seed = 1; seed <= 5; seed++) {
        uint32_t kept;
        mr3d_error error = {0};
        assert_int_equal(mr3d_promises_read(cases[c].name, &kept, &error), MR3D_OK);
        mr3d_bundle *request = cases[c].request(tiers[t], seed);
        if (!passes_with(request, tiers[t], 0, 0)) fail_msg("%s stored, nothing promised, %s: false alarm", cases[c].name, mr3d_tier_name(tiers[t]));
        if (!passes_with(request, tiers[t], kept, kept)) fail_msg("%s kept and promised, %s: false alarm", cases[c].name, mr3d_tier_name(tiers[t]));
        if (passes_with(request, tiers[t], 0, kept)) fail_msg("%s promised and stored, %s: missed", cases[c].name, mr3d_tier_name(tiers[t]));
        mr3d_bundle_free(&request);
      }
}

static void a_layer_is_held_to_its_scores_too(void **state) {
  (void)state;
  uint32_t kept;
  mr3d_error error = {0};
  assert_int_equal(mr3d_promises_read("scores", &kept, &error), MR3D_OK);
  for (uint64_t seed = 1; seed <= 3; seed++) {
    mr3d_bundle *request = layer_request(MR3D_BF16_TIER, seed, 1, 48);
    double *bias = mr3d_allocate(128, sizeof *bias);
    for (int i = 0; i < 128; i++) bias[i] = i % 32 < 16 ? 0 : 20; /* of 1D pairs: scores in the thousands */
    mr3d_tensor_from_double(mr3d_bundle_find(request, "self_attn.q_proj.bias"), bias);
    mr3d_tensor_from_double(mr3d_bundle_find(request, "self_attn.k_proj.bias"), bias);
    free(bias);
    assert_true(passes_with(request, MR3D_BF16_TIER, 0, 0));
    assert_true(passes_with(request, MR3D_BF16_TIER, kept, kept));
    assert_false(passes_with(request, MR3D_BF16_TIER, 0, kept));
    mr3d_bundle_free(&request);
  }
}

static void at_wide_tiers_a_promise_changes_nothing(void **state) {
  (void)state;
  static const mr3d_tier tiers[] = {MR3D_FP32, MR3D_TF32};
  for (int t = 0; t < 2; t++) {
    mr3d_bundle *request = attention_of_large_scores(tiers[t], 1);
    assert_true(passes_with(request, tiers[t], 0, ~0u));
    mr3d_bundle_free(&request);
  }
}

static void an_unknown_promise_lists_those_that_there_are(void **state) {
  (void)state;
  uint32_t kept;
  char text[96];
  mr3d_error error = {0};
  assert_int_equal(mr3d_promises_read("products, scores", &kept, &error), MR3D_OK);
  assert_string_equal(mr3d_promises_text(kept, text), "scores, products");
  assert_int_equal(mr3d_promises_read("", &kept, &error), MR3D_OK);
  assert_int_equal(kept, 0);
  assert_int_equal(mr3d_promises_read("scores angles", &kept, &error), MR3D_INVALID);
  assert_string_equal(error.message, "\"angles\" is nothing that can be kept; expected some of scores, probabilities, products");
}

static void a_backend_promises_in_its_hello(void **state) {
  (void)state;
  char spec[4200], text[96];
  mr3d_backend *backend = NULL;
  mr3d_error error = {0};
  snprintf(spec, sizeof spec, "exec:%s scores fp32", getenv("MR3D_SUBJECT"));
  if (mr3d_backend_open(spec, NULL, &backend, &error) != MR3D_OK) fail_msg("%s", error.message);
  assert_string_equal(mr3d_promises_text(mr3d_backend_info_of(backend)->kept, text), "scores");
  mr3d_backend_close(&backend);
  snprintf(spec, sizeof spec, "exec:%s scores fp8", getenv("MR3D_SUBJECT"));
  assert_int_not_equal(mr3d_backend_open(spec, NULL, &backend, &error), MR3D_OK);
  assert_non_null(strstr(error.message, "its hello's \"scores\" is \"fp8\"; expected \"fp32\" (a promise) or \"tier\" (none)"));
}

static void a_plug_in_promises_in_its_table(void **state) {
  (void)state;
  char spec[4200], text[96];
  mr3d_backend *backend = NULL;
  mr3d_error error = {0};
  snprintf(spec, sizeof spec, "lib:%s", getenv("MR3D_PLUGIN"));
  if (mr3d_backend_open(spec, NULL, &backend, &error) != MR3D_OK) fail_msg("%s", error.message);
  assert_string_equal(mr3d_promises_text(mr3d_backend_info_of(backend)->kept, text), "probabilities");
  mr3d_backend_close(&backend);
  snprintf(spec, sizeof spec, "lib:%s", getenv("MR3D_PLUGIN_OLD")); /* its table ends before `keeps` */
  if (mr3d_backend_open(spec, NULL, &backend, &error) != MR3D_OK) fail_msg("%s", error.message);
  assert_int_equal(mr3d_backend_info_of(backend)->kept, 0);
  mr3d_backend_close(&backend);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(each_promise_is_judged_by_what_it_says), cmocka_unit_test(a_layer_is_held_to_its_scores_too),
      cmocka_unit_test(at_wide_tiers_a_promise_changes_nothing), cmocka_unit_test(an_unknown_promise_lists_those_that_there_are),
      cmocka_unit_test(a_backend_promises_in_its_hello),        cmocka_unit_test(a_plug_in_promises_in_its_table),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
