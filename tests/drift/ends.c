/** Mistakes behind the last layer and before the first: in the final norm, in the head, in which rows are kept, in the embeddings. Each is placed, and named where it is known. */
#include "plant.h"
#include "verdict.h"

#define WEIGHTS "generated:5"
static const model_sizes model = SMALL_MODEL;

typedef struct decoder {
  char config[1200];
  generation g;
  mr3d_weights_cache *weights;
} decoder;

static decoder open_decoder(const char *options, const char *keep) {
  decoder d = {.weights = mr3d_weights_cache_new()};
  config_text(d.config, sizeof d.config, &model, options);
  d.g = generate(ONE_SAMPLE, MR3D_FP32, d.config, &model, 9, 24, 3, WEIGHTS);
  if (keep) mr3d_bundle_set(d.g.requests[0], "logits_to_keep", keep);
  return d;
}

static void close_decoder(decoder *d) {
  generation_free(&d->g);
  mr3d_weights_cache_free(&d->weights);
}

static mr3d_drift_run *judged(const decoder *d, mr3d_bundle *trace, bool diagnose) {
  return drift_of(trace, &(mr3d_drift_options){.config = d->config, .weights = WEIGHTS, .tier = MR3D_FP32, .runs = 0, .no_diagnosis = !diagnose});
}

/** Every fault stands at this point of the model, and the first is named; `mistake` "": it need not be. */
static void assert_found(const decoder *d, const char *what, mr3d_bundle *trace, const char *point, const char *mistake) {
  mr3d_drift_run *drift = judged(d, trace, true);
  const mr3d_drift_record *first = first_fault(drift);
  if (!first) fail_msg("%s: nothing found", what);
  for (int i = 0; i < mr3d_drift_records(drift); i++) {
    const mr3d_drift_record *r = mr3d_drift_record_at(drift, i);
    if (!r->verdict.passed && (r->layer != MR3D_DRIFT_MODEL || strcmp(mr3d_points_about[r->point].name, point) != 0))
      fail_msg("%s is found at %lld.%lld.%s, expected model.%s: %s", what, (long long)r->step, (long long)r->layer, mr3d_points_about[r->point].name, point, r->verdict.problem);
  }
  if (!strstr(first->alike, mistake)) fail_msg("%s is taken for \"%s\" (%s)", what, first->alike, first->diagnosis);
  mr3d_drift_free(&drift);
  mr3d_bundle_free(&trace);
}

static void assert_honest(const decoder *d, mr3d_bundle *trace) {
  mr3d_drift_run *drift = judged(d, trace, false);
  const mr3d_drift_record *fault = first_fault(drift);
  if (fault) fail_msg("honest arithmetic is said to be at fault at %s: %s", mr3d_points_about[fault->point].name, fault->verdict.problem);
  mr3d_drift_free(&drift);
  mr3d_bundle_free(&trace);
}

static bool differs(const mr3d_bundle *a, const mr3d_bundle *b, const char *point, int steps) {
  for (int step = 0; step < steps; step++) {
    const mr3d_tensor *x = mr3d_trace_find(a, step, MR3D_DRIFT_MODEL, point), *y = mr3d_trace_find(b, step, MR3D_DRIFT_MODEL, point);
    if (memcmp(x->data, y->data, (size_t)mr3d_tensor_count(x) * sizeof(double)) != 0) return true;
  }
  return false;
}

/** Those of every operator that the model's ends have, where they show above the noise of fp32. */
static void mistakes_of_the_norm_and_of_the_head_are_placed_and_named(void **state) {
  (void)state;
  decoder d = open_decoder("", NULL);
  mr3d_bundle *exact = traced(&d.g, MR3D_FP32, false, 0, NULL, d.weights);
  int planted = 0;
  for (int m = 0; m < mr3d_mutant_count(); m++) {
    const mr3d_mutant_place place = {mr3d_mutant_at(m), MR3D_DRIFT_MODEL};
    char name[160];
    mr3d_bundle *with = mr3d_mutant_is_mistake_at(place.mutant, MR3D_FP32) ? traced(&d.g, MR3D_FP32, false, 1, &place, d.weights) : NULL;
    if (!with) continue;
    const bool norm = differs(exact, with, "final_norm", d.g.n), head = differs(exact, with, "logits", d.g.n);
    mr3d_drift_run *bare = judged(&d, with, false);
    const bool shows = first_fault(bare) != NULL;
    mr3d_drift_free(&bare);
    mr3d_bundle_free(&with);
    if (!shows || !(norm || head)) continue;
    assert_found(&d, name_of(place.mutant, name), traced(&d.g, MR3D_FP32, true, 1, &place, d.weights), norm ? "final_norm" : "logits", name);
    planted++;
  }
  if (planted < 8) fail_msg("only %d mistakes were planted", planted);
  printf("%d mistakes planted\n", planted);
  mr3d_bundle_free(&exact);
  close_decoder(&d);
}

static mr3d_bundle *everywhere(const decoder *d, const char *mutant) {
  return traced(&d->g, MR3D_FP32, true, 1, &(mr3d_mutant_place){mr3d_mutant_named(mutant), MR3D_EVERY_LAYER}, d->weights);
}

static void mistakes_of_a_call_are_placed_and_named(void **state) {
  (void)state;
  decoder d = open_decoder("", NULL);
  assert_found(&d, "no final norm", everywhere(&d, "qwen2-details/final-norm-missing"), "final_norm", "qwen2-details/final-norm-missing");
  close_decoder(&d);
  d = open_decoder("\"tie_word_embeddings\":false", NULL);
  assert_honest(&d, traced(&d.g, MR3D_FP32, true, 0, NULL, d.weights));
  assert_found(&d, "the embeddings for the head", everywhere(&d, "qwen2-details/always-tied"), "logits", "qwen2-details/always-tied");
  close_decoder(&d);
}

/** The first rows instead of the last, as logits_to_keep is easily got wrong. */
static void rows_kept_from_the_front_are_named(void **state) {
  (void)state;
  decoder d = open_decoder("", NULL);
  mr3d_bundle *trace = traced(&d.g, MR3D_FP32, true, 0, NULL, d.weights), *front = without(trace, (const char *const[]){"logits", NULL});
  for (int step = 0; step < d.g.n; step++) {
    const mr3d_tensor *all = mr3d_trace_find(trace, step, MR3D_DRIFT_MODEL, "logits");
    char name[32];
    snprintf(name, sizeof name, "%d.model.logits", step);
    mr3d_tensor *few = mr3d_bundle_add(front, name, MR3D_F64, 3, (int64_t[]){1, step ? 1 : 5, model.vocab});
    memcpy(few->data, all->data, (size_t)mr3d_tensor_count(few) * sizeof(double));
  }
  assert_found(&d, "the first rows", front, "logits", "keep-all-logits/from-front");
  mr3d_bundle_free(&trace);
  close_decoder(&d);
  d = open_decoder("", "5");
  assert_honest(&d, traced(&d.g, MR3D_FP32, true, 0, NULL, d.weights));
  close_decoder(&d);
}

/** What stands before a point that is not in the trace is judged with it. */
static void faults_behind_the_last_layer_are_found_without_all_points(void **state) {
  (void)state;
  static const char *const no_norm[] = {"final_norm", NULL}, *const no_output[] = {"output", NULL}, *const neither[] = {"final_norm", "output", NULL};
  decoder d = open_decoder("", NULL);
  mr3d_bundle *honest = traced(&d.g, MR3D_FP32, true, 0, NULL, d.weights);
  assert_honest(&d, without(honest, no_norm));
  assert_honest(&d, without(honest, no_output));
  assert_honest(&d, without(honest, neither));
  mr3d_bundle_free(&honest);
  mr3d_bundle *trace = traced(&d.g, MR3D_FP32, true, 1, &(mr3d_mutant_place){mr3d_mutant_named("qwen2-details/weight-plus-one"), MR3D_DRIFT_MODEL}, d.weights);
  assert_found(&d, "a norm that is not traced", without(trace, no_norm), "logits", "");
  assert_found(&d, "a norm behind an output that is not traced", without(trace, no_output), "final_norm", "");
  assert_found(&d, "both", without(trace, neither), "logits", "");
  mr3d_bundle_free(&trace);
  close_decoder(&d);
}

static void embeddings_of_other_ids_are_told_with_what_they_look_like(void **state) {
  (void)state;
  decoder d = open_decoder("", NULL);
  mr3d_bundle *trace = traced(&d.g, MR3D_FP32, true, 0, NULL, d.weights);
  const mr3d_tensor *ids = mr3d_trace_find(trace, 1, MR3D_DRIFT_MODEL, "input_ids");
  double *row = mr3d_trace_find(trace, 1, MR3D_DRIFT_MODEL, "inputs_embeds")->data, *kept = mr3d_allocate(3 * model.hidden, sizeof *kept);
  mr3d_drift_run *drift = NULL;
  mr3d_error error = {0};
  const int64_t id = *(const int64_t *)ids->data, other = (id + 1) % model.vocab;
  if (mr3d_drift_new(&(mr3d_drift_options){.config = d.config, .weights = WEIGHTS, .tier = MR3D_FP32}, &drift, &error)) fail_msg("%s", error.message);
  mr3d_drift_embed(drift, 1, &id, kept, &error);
  mr3d_drift_embed(drift, 1, &other, kept + model.hidden, &error);
  mr3d_drift_free(&drift);
  char words[160];
  for (int wrong = 0; wrong < 4; wrong++) {
    for (int i = 0; i < model.hidden; i++) row[i] = wrong == 0 ? sqrt(model.hidden) * kept[i] : wrong == 1 ? 0 : wrong == 2 ? kept[model.hidden + i] : kept[i] + kept[model.hidden + i];
    if (wrong == 0) snprintf(words, sizeof words, "1 row is the embedding's times 7.48331, the square root of hidden_size");
    else if (wrong == 1) snprintf(words, sizeof words, "1 row is zero");
    else if (wrong == 2) snprintf(words, sizeof words, "token 0 has the row of id %lld instead of its own, %lld", (long long)other, (long long)id);
    else snprintf(words, sizeof words, "1 row is not in the embedding, the first that of token 0");
    drift = judged(&d, trace, false);
    const mr3d_drift_record *first = first_fault(drift);
    assert_non_null(first);
    assert_int_equal(first->point, MR3D_P_EMBEDS);
    assert_int_equal(first->step, 1);
    if (!strstr(first->diagnosis, words)) fail_msg("\"%s\", expected \"%s\"", first->diagnosis, words);
    mr3d_drift_free(&drift);
  }
  free(kept);
  mr3d_bundle_free(&trace);
  close_decoder(&d);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(mistakes_of_the_norm_and_of_the_head_are_placed_and_named),
      cmocka_unit_test(mistakes_of_a_call_are_placed_and_named),
      cmocka_unit_test(rows_kept_from_the_front_are_named),
      cmocka_unit_test(faults_behind_the_last_layer_are_found_without_all_points),
      cmocka_unit_test(embeddings_of_other_ids_are_told_with_what_they_look_like),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
