/** Decoders with several faults: each is listed and named, and nothing else is. */
#include "plant.h"
#include "verdict.h"

#define WEIGHTS "generated:5"

typedef struct decoder {
  char config[1200];
  generation g;
  mr3d_weights_cache *weights;
} decoder;

static decoder open_decoder(void) {
  const model_sizes model = SMALL_MODEL;
  decoder d = {.weights = mr3d_weights_cache_new()};
  config_text(d.config, sizeof d.config, &model, "");
  d.g = generate(ONE_SAMPLE, MR3D_FP32, d.config, &model, 9, 24, 3, WEIGHTS);
  return d;
}

static void close_decoder(decoder *d) {
  generation_free(&d->g);
  mr3d_weights_cache_free(&d->weights);
}

static mr3d_bundle *with_faults(const decoder *d, const char *faults) {
  mr3d_mutant_place places[MR3D_MOST_PLACES];
  const int n = read_places(faults, places);
  mr3d_bundle *trace = traced(&d->g, MR3D_FP32, true, n, places, d->weights);
  if (!trace) fail_msg("no decoder has %s", faults);
  return trace;
}

/** A fault as a report tells it: "0.2.gated qwen2-details/gelu layer 2". */
static void assert_faults(const char *what, mr3d_drift_run *drift, int n, const char *const *expected) {
  mr3d_drift_verdict verdict;
  mr3d_drift_conclude(drift, NULL, &verdict);
  for (int i = 0; i < verdict.n_faults || i < n; i++) {
    char place[64], told[500] = "nothing";
    const mr3d_drift_record *r = i < verdict.n_faults ? mr3d_drift_record_at(drift, verdict.faults[i].first) : NULL;
    if (r) snprintf(told, sizeof told, "%s %s layer %s", mr3d_drift_place(r, place), r->mistake, verdict.faults[i].layers);
    if (i >= n || strcmp(told, expected[i]) != 0) fail_msg("%s: fault %d is \"%s\", expected \"%s\"", what, i + 1, told, i < n ? expected[i] : "none");
  }
  mr3d_drift_verdict_clear(&verdict);
}

static void assert_told(const decoder *d, const char *faults, bool diagnose, int n, const char *const *expected) {
  mr3d_bundle *trace = with_faults(d, faults);
  mr3d_drift_run *drift = drift_of(trace, &(mr3d_drift_options){.config = d->config, .weights = WEIGHTS, .tier = MR3D_FP32, .runs = 0, .no_diagnosis = !diagnose});
  assert_faults(faults, drift, n, expected);
  mr3d_drift_free(&drift);
  mr3d_bundle_free(&trace);
}

#define ASSERT_TOLD(d, faults, ...) assert_told(d, faults, true, (int)(sizeof((const char *[]){__VA_ARGS__}) / sizeof(char *)), (const char *[]){__VA_ARGS__})

static void faults_of_different_layers_are_each_named(void **state) {
  (void)state;
  decoder d = open_decoder();
  ASSERT_TOLD(&d, "qwen2-details/gelu@1+pairing/half-split-in-3d@2", "0.1.gated qwen2-details/gelu layer 1", "0.2.query_rotated pairing/half-split-in-3d layer 2");
  ASSERT_TOLD(&d, "qwen2-details/attention-alone@0+qwen2-details/eps-1e-5@3", "0.0.attention_residual qwen2-details/attention-alone layer 0", "0.3.input_norm qwen2-details/eps-1e-5 layer 3");
  ASSERT_TOLD(&d, "qwen2-details/gelu@0+qwen2-details/gelu@2+qwen2-details/weight-plus-one@model", "0.0.gated qwen2-details/gelu layer 0, 2",
              "0.model.final_norm qwen2-details/weight-plus-one layer ");
  close_decoder(&d);
}

static void faults_of_one_layer_are_each_named(void **state) {
  (void)state;
  decoder d = open_decoder();
  ASSERT_TOLD(&d, "pairing/half-split-in-3d@2+qwen2-details/gelu@2", "0.2.query_rotated pairing/half-split-in-3d layer 2", "0.2.gated qwen2-details/gelu layer 2");
  /* mistakes in how a layer is put together, which no operator's own inputs show */
  ASSERT_TOLD(&d, "pairing/half-split-in-3d@2+qwen2-details/attention-alone@2", "0.2.query_rotated pairing/half-split-in-3d layer 2", "0.2.attention_residual qwen2-details/attention-alone layer 2");
  ASSERT_TOLD(&d, "qwen2-details/bias-missing@1+qwen2-details/mlp-alone@1", "0.1.query qwen2-details/bias-missing layer 1", "0.1.output qwen2-details/mlp-alone layer 1");
  /* one in every call, one in the cache alone */
  ASSERT_TOLD(&d, "cache-rotation/cached-before-rotation@1+qwen2-details/gelu@1", "0.1.gated qwen2-details/gelu layer 1", "1.1.context cache-rotation/cached-before-rotation layer 1");
  close_decoder(&d);
}

static void faults_without_a_name_are_told_apart_by_their_place(void **state) {
  (void)state;
  decoder d = open_decoder();
  assert_told(&d, "qwen2-details/q-bias-missing@1+qwen2-details/v-bias-missing@2", false, 2, (const char *[]){"0.1.query  layer 1", "0.2.value  layer 2"});
  close_decoder(&d);
}

/** Rows of some tokens of a point become NaN, in all heads. */
static void spoil(mr3d_bundle *trace, int step, int layer, const char *point, int64_t first, int64_t last) {
  mr3d_tensor *t = (mr3d_tensor *)(uintptr_t)mr3d_trace_find(trace, step, layer, point);
  if (!t) return;
  const int64_t q = t->shape[t->rank - 2], cols = t->shape[t->rank - 1];
  for (int64_t row = 0; row < mr3d_tensor_count(t) / cols; row++)
    for (int64_t c = 0; c < cols && row % q >= first && row % q <= last; c++) ((double *)t->data)[row * cols + c] = NAN;
}

static void nan_is_told_where_it_begins(void **state) {
  (void)state;
  static const char *const behind[] = {"o_proj", "attention_residual", "post_attention_norm", "gate", "up", "gated", "down", "output"};
  static const char *const before[] = {"input", "input_norm", "query", "key", "value", "query_rotated", "key_rotated"};
  decoder d = open_decoder();
  for (int masked = 0; masked < 2; masked++) { /* whether hidden keys' NaN reaches earlier tokens, as a weight of 0 times NaN does */
    mr3d_bundle *trace = with_faults(&d, "none");
    const int64_t token = 20, all = 35, from = masked ? 0 : token;
    spoil(trace, 0, 1, "context", token, token);
    for (size_t p = 0; p < 8; p++) spoil(trace, 0, 1, behind[p], token, token);
    for (int layer = 2; layer < 4; layer++) {
      for (size_t p = 0; p < 7; p++) spoil(trace, 0, layer, before[p], layer == 2 ? token : from, layer == 2 ? token : all);
      spoil(trace, 0, layer, "context", from, all);
      for (size_t p = 0; p < 8; p++) spoil(trace, 0, layer, behind[p], from, all);
    }
    spoil(trace, 0, -1, "final_norm", from, all);
    spoil(trace, 0, -1, "logits", from, all);
    for (int step = 1; step < 3; step++) {
      for (int layer = 2; layer < 4; layer++) {
        for (size_t p = 0; p < 7 && layer == 3; p++) spoil(trace, step, layer, before[p], 0, 0);
        spoil(trace, step, layer, "context", 0, 0);
        for (size_t p = 0; p < 8; p++) spoil(trace, step, layer, behind[p], 0, 0);
      }
      spoil(trace, step, -1, "final_norm", 0, 0);
      spoil(trace, step, -1, "logits", 0, 0);
    }
    mr3d_drift_run *drift = drift_of(trace, &(mr3d_drift_options){.config = d.config, .weights = WEIGHTS, .tier = MR3D_FP32, .runs = 0, .no_diagnosis = true});
    assert_faults("NaN", drift, 1, (const char *[]){"0.1.context  layer 1"});
    mr3d_drift_free(&drift);
    mr3d_bundle_free(&trace);
  }
  close_decoder(&d);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(faults_of_different_layers_are_each_named),
      cmocka_unit_test(faults_of_one_layer_are_each_named),
      cmocka_unit_test(faults_without_a_name_are_told_apart_by_their_place),
      cmocka_unit_test(nan_is_told_where_it_begins),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
