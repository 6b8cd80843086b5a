/** Yardstick runs kept on disk: what is found is what was kept, under nothing but the same requests, and it decides as if computed. */
#include "posed.h"
#include "../folder.h"

static char folder[256];

static int make(void **state) {
  (void)state;
  make_folder(folder);
  return 0;
}

static int drop_folder(void **state) {
  (void)state;
  remove_folder(folder);
  return 0;
}

static mr3d_yardstick_cache *opened(void) {
  mr3d_yardstick_cache *cache = NULL;
  mr3d_error error = {0};
  if (mr3d_yardstick_cache_open(folder, &cache, &error) != MR3D_OK) fail_msg("%s", error.message);
  return cache;
}

static mr3d_request_line line_of(const mr3d_yardstick_cache *cache, mr3d_tier tier, const mr3d_bundle *request) {
  mr3d_request_line line = {{0}};
  assert_true(mr3d_request_line_add(&line, cache, tier, request));
  return line;
}

static mr3d_bundle *some_errors(float value) {
  mr3d_bundle *errors = mr3d_bundle_new();
  ((float *)mr3d_bundle_add(errors, "hidden", MR3D_F32, SHAPE(1))->data)[0] = value;
  return errors;
}

/** Whether run 0 of the line is kept, with that value. */
static bool finds(mr3d_yardstick_cache *cache, const mr3d_request_line *line, int run, float value) {
  mr3d_bundle *errors = mr3d_yardstick_cache_find(cache, line, run);
  bool found = errors && ((float *)mr3d_bundle_find(errors, "hidden")->data)[0] == value;
  mr3d_bundle_free(&errors);
  return found;
}

static void a_run_is_found_under_its_own_number_and_requests_alone(void **state) {
  (void)state;
  mr3d_yardstick_cache *cache = opened();
  mr3d_bundle *request = layer_request(MR3D_FP32, 7, 1, 30), *same = layer_request(MR3D_FP32, 7, 1, 30), *errors = some_errors(3);
  const mr3d_request_line line = line_of(cache, MR3D_FP32, request);
  mr3d_yardstick_cache_keep(cache, &line, 2, errors);

  mr3d_request_line again = line_of(cache, MR3D_FP32, same);
  assert_true(finds(cache, &again, 2, 3));
  assert_int_equal(mr3d_yardstick_cache_found(cache), 1);
  assert_false(finds(cache, &again, 1, 3));
  again = line_of(cache, MR3D_BF16_TIER, same);
  assert_false(finds(cache, &again, 2, 3));

  ((uint8_t *)mr3d_bundle_find(same, "hidden")->data)[5] ^= 1; /* one bit of the input */
  again = line_of(cache, MR3D_FP32, same);
  assert_false(finds(cache, &again, 2, 3));
  ((uint8_t *)mr3d_bundle_find(same, "hidden")->data)[5] ^= 1;
  mr3d_bundle_set(same, "tier", "bf16"); /* one word of the metadata */
  again = line_of(cache, MR3D_FP32, same);
  assert_false(finds(cache, &again, 2, 3));
  again = line; /* one more request of the session */
  assert_true(mr3d_request_line_add(&again, cache, MR3D_FP32, request));
  assert_false(finds(cache, &again, 2, 3));
  mr3d_bundle_free(&request);
  mr3d_bundle_free(&same);
  mr3d_bundle_free(&errors);
  mr3d_yardstick_cache_close(&cache);
}

static void weights_count_by_their_bytes_and_not_by_their_path(void **state) {
  (void)state;
  mr3d_yardstick_cache *cache = opened();
  char paths[3][300];
  for (int i = 0; i < 3; i++) {
    snprintf(paths[i], sizeof paths[i], "%s/weights%d", folder, i);
    FILE *file = fopen(paths[i], "w");
    fputs(i < 2 ? "the same" : "another", file);
    fclose(file);
  }
  mr3d_bundle *request = request_of("prefill", MR3D_FP32), *errors = some_errors(3);
  mr3d_bundle_set(request, "weights", paths[0]);
  mr3d_request_line line = line_of(cache, MR3D_FP32, request);
  mr3d_yardstick_cache_keep(cache, &line, 0, errors);
  mr3d_bundle_set(request, "weights", paths[1]);
  line = line_of(cache, MR3D_FP32, request);
  assert_true(finds(cache, &line, 0, 3));
  mr3d_bundle_set(request, "weights", paths[2]);
  line = line_of(cache, MR3D_FP32, request);
  assert_false(finds(cache, &line, 0, 3));
  mr3d_bundle_set(request, "weights", "/no/such/file");
  assert_false(mr3d_request_line_add(&line, cache, MR3D_FP32, request));
  mr3d_bundle_free(&request);
  mr3d_bundle_free(&errors);
  mr3d_yardstick_cache_close(&cache);
}

static mr3d_judgement judged(mr3d_yardstick_cache *cache, const mr3d_bundle *request, mr3d_bundle *answer) {
  mr3d_judgement judgement;
  mr3d_error error = {0};
  const mr3d_bundle *truth_answer;
  mr3d_truth *truth = mr3d_truth_new(MR3D_BF16_TIER, NULL, NULL, 1);
  mr3d_truth_keep_runs(truth, cache);
  assert_int_equal(mr3d_truth_step(truth, request, &truth_answer, &error), MR3D_OK);
  mr3d_judge(truth, answer, &judgement);
  mr3d_truth_free(&truth);
  return judgement;
}

/** The runs that the truth itself computes, moved to the cache by hand since they are too quick to be kept. */
static void keep_computed(mr3d_yardstick_cache *cache, const problem *p, float times) {
  const mr3d_request_line line = line_of(cache, MR3D_BF16_TIER, p->request);
  mr3d_truth_emulate(p->truth, MR3D_FEW_RUNS);
  for (int r = 0; r < MR3D_FEW_RUNS; r++) {
    mr3d_bundle *errors = p->truth->runs[r].errors;
    for (int i = 0; i < mr3d_bundle_count(errors); i++)
      for (int64_t j = 0; j < mr3d_tensor_count(mr3d_bundle_at(errors, i)); j++) ((float *)mr3d_bundle_at(errors, i)->data)[j] *= times;
    mr3d_yardstick_cache_keep(cache, &line, r, errors);
  }
}

static void kept_runs_give_the_very_statistics_of_computed_ones(void **state) {
  (void)state;
  mr3d_yardstick_cache *cache = opened();
  problem p = pose(layer_request(MR3D_BF16_TIER, 3, 1, 30));
  mr3d_bundle *exact = exact_answer(&p), *answer = stored_as(exact, MR3D_BF16);
  keep_computed(cache, &p, 1);
  mr3d_judgement computed = judged(NULL, p.request, answer), kept = judged(cache, p.request, answer);
  assert_int_equal(mr3d_yardstick_cache_found(cache), MR3D_FEW_RUNS);
  assert_int_equal(computed.n_tensors, kept.n_tensors);
  for (int t = 0; t < kept.n_tensors; t++) {
    assert_int_equal(kept.tensors[t].n_statistics, computed.tensors[t].n_statistics);
    for (int s = 0; s < kept.tensors[t].n_statistics; s++)
      assert_memory_equal(&kept.tensors[t].statistics[s].value, &computed.tensors[t].statistics[s].value, sizeof(double));
  }
  mr3d_judgement_clear(&computed);
  mr3d_judgement_clear(&kept);
  mr3d_bundle_free(&answer);
  mr3d_bundle_free(&exact);
  drop(&p);
  mr3d_yardstick_cache_close(&cache);
}

static void runs_that_are_not_kept_are_the_same_beside_kept_ones(void **state) {
  (void)state;
  mr3d_yardstick_cache *cache = opened();
  problem p = pose(layer_request(MR3D_FP32, 3, 1, 30)); /* where runs take the size of their noise from the first */
  const mr3d_request_line line = line_of(cache, MR3D_FP32, p.request);
  mr3d_truth_emulate(p.truth, MR3D_FEW_RUNS);
  for (int r = 0; r < 4; r += 3) mr3d_yardstick_cache_keep(cache, &line, r, p.truth->runs[r].errors);
  mr3d_truth *truth = mr3d_truth_new(MR3D_FP32, NULL, NULL, 2);
  mr3d_truth_keep_runs(truth, cache);
  const mr3d_bundle *answer;
  mr3d_error error = {0};
  assert_int_equal(mr3d_truth_step(truth, p.request, &answer, &error), MR3D_OK);
  mr3d_truth_emulate(truth, MR3D_FEW_RUNS);
  assert_int_equal(mr3d_yardstick_cache_found(cache), 2);
  for (int r = 0; r < MR3D_FEW_RUNS; r++)
    for (int i = 0; i < mr3d_bundle_count(p.truth->runs[r].errors); i++) {
      const mr3d_tensor *expected = mr3d_bundle_at(p.truth->runs[r].errors, i), *got = mr3d_bundle_find(truth->runs[r].errors, expected->name);
      assert_memory_equal(got->data, expected->data, (size_t)mr3d_tensor_count(expected) * sizeof(float));
    }
  mr3d_truth_free(&truth);
  drop(&p);
  mr3d_yardstick_cache_close(&cache);
}

static void kept_runs_decide_and_a_damaged_one_is_computed_again(void **state) {
  (void)state;
  mr3d_yardstick_cache *cache = opened();
  problem p = pose(layer_request(MR3D_BF16_TIER, 3, 1, 30));
  mr3d_bundle *answer = exact_answer(&p);
  double *hidden = values_of(answer, "hidden");
  for (int i = 0; i < 30 * 128; i++) hidden[i] *= i % 2 ? 1.2 : 0.8;
  mr3d_judgement judgement = judged(NULL, p.request, answer);
  assert_false(judgement.passed);
  mr3d_judgement_clear(&judgement);

  keep_computed(cache, &p, 1000);
  judgement = judged(cache, p.request, answer);
  assert_true(judgement.passed); /* so wide a yardstick admits anything: this is why the folder must be one's own */
  mr3d_judgement_clear(&judgement);

  char command[600];
  snprintf(command, sizeof command, "for f in '%s'/*.safetensors; do printf x >\"$f\"; done", folder);
  assert_int_equal(system(command), 0);
  judgement = judged(cache, p.request, answer);
  assert_false(judgement.passed);
  mr3d_judgement_clear(&judgement);
  mr3d_bundle_free(&answer);
  drop(&p);
  mr3d_yardstick_cache_close(&cache);
}

static void a_folder_that_cannot_be_made_is_said(void **state) {
  (void)state;
  mr3d_yardstick_cache *cache = NULL;
  mr3d_error error = {0};
  char path[400];
  snprintf(path, sizeof path, "%s/none/there", folder);
  assert_int_equal(mr3d_yardstick_cache_open(path, &cache, &error), MR3D_IO);
  assert_non_null(strstr(error.message, "can't be made: No such file or directory"));
  snprintf(path, sizeof path, "%s/file", folder);
  fclose(fopen(path, "w"));
  assert_int_equal(mr3d_yardstick_cache_open(path, &cache, &error), MR3D_IO);
  assert_non_null(strstr(error.message, "is no folder"));
  assert_null(cache);
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, make, drop_folder)
int main(void) {
  const struct CMUnitTest tests[] = {
      TEST(a_run_is_found_under_its_own_number_and_requests_alone),
      TEST(weights_count_by_their_bytes_and_not_by_their_path),
      TEST(kept_runs_give_the_very_statistics_of_computed_ones),
      TEST(runs_that_are_not_kept_are_the_same_beside_kept_ones),
      TEST(kept_runs_decide_and_a_damaged_one_is_computed_again),
      TEST(a_folder_that_cannot_be_made_is_said),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
