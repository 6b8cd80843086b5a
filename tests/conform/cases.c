/** Cases and recipes: every key is checked, every source gives the values docs/cases.md says. */
#include <math.h>

#include "mr3d/random.h"
#include "small_suite.h"

static char folder[256];

static int open_folder(void **state) {
  (void)state;
  make_folder(folder);
  return 0;
}

static int close_folder(void **state) {
  (void)state;
  remove_folder(folder);
  return 0;
}

/** The whole file's text must be refused with a message that holds every fragment. */
static void assert_file_refused(const char *text, const char *const *fragments) {
  mr3d_error error = {0};
  mr3d_suite *suite = NULL;
  write_text(folder, "cases.json", text);
  if (mr3d_suite_open(folder, NULL, &suite, &error) == MR3D_OK)
    fail_msg("read, but it must be refused with \"%s\": %s", fragments[0], text);
  assert_null(suite);
  for (; *fragments; fragments++)
    if (!strstr(error.message, *fragments)) fail_msg("the message\n  %s\nlacks\n  %s", error.message, *fragments);
}
#define FILE_REFUSED(text, ...) assert_file_refused(text, (const char *const[]){"cases.json", __VA_ARGS__, NULL})
#define CASE_REFUSED(text, ...) FILE_REFUSED("{\"format\": 1, \"weights\": {}, \"cases\": [" text "]}", __VA_ARGS__)
/** A recipe for x. */
#define RECIPE_REFUSED(recipe, ...)                                                                   \
  CASE_REFUSED(                                                                                       \
      "{\"id\": \"rmsnorm/a\", \"title\": \"t\", \"why\": \"w\", \"level\": \"L0\", \"config\": {}, " \
      "\"steps\": [{\"op\": \"rmsnorm\", \"inputs\": {\"x\": " recipe "}}]}",                         \
      "case rmsnorm/a, step 0", "\"x\"", __VA_ARGS__)

static void broken_files_are_refused_with_their_place(void **state) {
  (void)state;
  FILE_REFUSED("", "JSON");
  FILE_REFUSED("[]", "object");
  FILE_REFUSED("{\"format\": 1, \"cases\": []} x", "byte");
  FILE_REFUSED("{\"format\": 1, \"cases\": [], \"cases\": []}", "cases"); /* a duplicate */
  FILE_REFUSED("{\"format\": 2, \"cases\": []}", "\"format\" must be 1");
  FILE_REFUSED("{\"format\": 1}", "\"cases\" must be a list");
  FILE_REFUSED("{\"format\": 1, \"cases\": [], \"case\": []}", "unknown key \"case\"", "format, weights, cases");
  FILE_REFUSED("{\"format\": 1, \"cases\": [], \"weights\": {\"w\": {\"t\": {\"shape\": [1]}}}}", "weight set w", "\"t\"", "one of dist");
}

static void broken_cases_are_refused_by_id_and_key(void **state) {
  (void)state;
  CASE_REFUSED("{\"title\": \"t\"}", "\"id\" is missing");
  CASE_REFUSED(RMSNORM_CASE("a", "\"pitfal\": [], ", ""), "case rmsnorm/a", "unknown key \"pitfal\"", "pitfalls");
  CASE_REFUSED(RMSNORM_CASE("a", "", "\"input\": {}, "), "case rmsnorm/a, step 0", "unknown key \"input\"", "inputs");
  CASE_REFUSED(RMSNORM_CASE("a", "", "") ", " RMSNORM_CASE("a", "", ""), "case rmsnorm/a stands twice");
  CASE_REFUSED(RMSNORM_CASE("A", "", ""), "case rmsnorm/A", "[a-z0-9-]+");
  CASE_REFUSED(RMSNORM_CASE("", "", ""), "[a-z0-9-]+");
  CASE_REFUSED(RMSNORM_CASE("a", "\"weights\": \"w\", ", ""), "case rmsnorm/a", "weight set \"w\"");
  CASE_REFUSED(RMSNORM_CASE("a", "\"tiers\": [\"fp8\"], ", ""), "case rmsnorm/a", "fp8", "fp64");
  CASE_REFUSED(RMSNORM_CASE("a", "\"needs\": \"network\", ", ""), "case rmsnorm/a", "network", "data");
  CASE_REFUSED(RMSNORM_CASE("a", "", "\"expect\": \"failure\", "), "case rmsnorm/a, step 0", "failure", "error");
  CASE_REFUSED(RMSNORM_CASE("a", "", "\"message\": [\"x\"], "), "case rmsnorm/a, step 0", "\"message\"");
  CASE_REFUSED(RMSNORM_CASE("a", "", "\"meta\": {\"past_len\": 3}, "), "case rmsnorm/a, step 0", "past_len", "string");
  CASE_REFUSED(
      "{\"id\": \"rmsnorm/a\", \"title\": \"t\", \"why\": \"w\", \"level\": \"L9\", \"config\": {}, \"steps\": [{\"op\": \"rmsnorm\"}]}",
      "case rmsnorm/a", "L9", "L0 .. L5");
  CASE_REFUSED("{\"id\": \"rmsnorm/a\", \"title\": \"t\", \"why\": \"w\", \"level\": \"L0\", \"config\": {}, \"steps\": []}",
               "case rmsnorm/a", "at least one step");
  CASE_REFUSED(
      "{\"id\": \"linear/a\", \"title\": \"t\", \"why\": \"w\", \"level\": \"L0\", \"config\": {}, \"steps\": [{\"op\": \"rmsnorm\"}]}",
      "case linear/a", "id begins with");
}

static void broken_recipes_are_refused_by_tensor_and_key(void **state) {
  (void)state;
  RECIPE_REFUSED("{\"shape\": [2], \"dtype\": \"F32\"}", "one of dist");
  RECIPE_REFUSED("{\"shape\": [2], \"dtype\": \"F32\", \"values\": [1, 2], \"arange\": [0, 1]}", "\"values\" and \"arange\"");
  RECIPE_REFUSED("{\"shape\": [2], \"dtype\": \"F32\", \"values\": [1, 2], \"scale\": 2}", "unknown key \"scale\"");
  RECIPE_REFUSED("{\"dtype\": \"F32\", \"values\": [1, 2]}", "\"shape\"");
  RECIPE_REFUSED("{\"shape\": [-1], \"dtype\": \"F32\", \"values\": []}", "\"shape\"");
  RECIPE_REFUSED("{\"shape\": [1.5], \"dtype\": \"F32\", \"values\": []}", "\"shape\"");
  RECIPE_REFUSED("{\"shape\": [2], \"dtype\": \"F31\", \"values\": [1, 2]}", "\"dtype\"");
  RECIPE_REFUSED("{\"shape\": [2], \"dtype\": \"F32\", \"dist\": \"gauss\"}", "uniform, normal, heavy");
  RECIPE_REFUSED("{\"shape\": [2], \"dtype\": \"F32\", \"dist\": \"uniform\", \"lo\": 0}", "\"hi\"");
  RECIPE_REFUSED("{\"shape\": [2], \"dtype\": \"F32\", \"dist\": \"normal\", \"lo\": 0}", "\"lo\"");
  RECIPE_REFUSED("{\"shape\": [2], \"dtype\": \"F32\", \"dist\": \"uniform\", \"lo\": 2, \"hi\": 1}", "above");
  RECIPE_REFUSED("{\"shape\": [2], \"dtype\": \"I64\", \"dist\": \"int\", \"lo\": 0.5, \"hi\": 1}", "whole");
  RECIPE_REFUSED("{\"shape\": [2], \"dtype\": \"F32\", \"dist\": \"onehot\"}", "two axes");
  RECIPE_REFUSED("{\"shape\": [2], \"dtype\": \"F32\", \"dist\": \"normal\", \"repeat\": true}", "two axes");
  RECIPE_REFUSED("{\"shape\": [2], \"dtype\": \"F32\", \"dist\": \"normal\", \"outliers\": {\"every\": 0, \"by\": 2}}", "\"outliers\"");
  RECIPE_REFUSED("{\"shape\": [2], \"dtype\": \"F32\", \"dist\": \"normal\", \"poke\": {\"a\": 1}}", "\"a\"", "flat index");
  RECIPE_REFUSED("{\"shape\": [2], \"dtype\": \"F32\", \"dist\": \"normal\", \"poke\": {\"0\": \"NaN\"}}", "nan, inf");
  RECIPE_REFUSED("{\"shape\": [2], \"dtype\": \"F32\", \"values\": \"1 2\"}", "list");
  RECIPE_REFUSED("{\"shape\": [1, 2], \"dtype\": \"I64\", \"prompt\": [1]}", "string");
  RECIPE_REFUSED("{\"shape\": [1, 2], \"dtype\": \"I64\", \"embeds\": {\"ids\": {}}}", "ids");
}

/* ---- values ---- */

static mr3d_status make(const char *recipe, mr3d_tier tier, uint64_t seed, mr3d_bundle *const truth[], int n_truth, mr3d_bundle **bundle,
                        mr3d_error *error) {
  write_cases(folder, RMSNORM_CASE("a", "", ""));
  mr3d_suite *suite = NULL;
  if (mr3d_suite_open(folder, NULL, &suite, error) != MR3D_OK) fail_msg("%s", error->message);
  cJSON *json = cJSON_Parse(recipe);
  assert_non_null(json);
  mr3d_recipe_context context = {suite, tier, seed, "CASE/0/x", "{}", NULL, n_truth, truth};
  *bundle = mr3d_bundle_new();
  mr3d_status status = mr3d_recipe_make(&context, json, "x", *bundle, error);
  cJSON_Delete(json);
  mr3d_suite_close(&suite);
  return status;
}

static void assert_values(const char *recipe, const double *expected, int count) {
  mr3d_error error = {0};
  mr3d_bundle *bundle;
  if (make(recipe, MR3D_FP32, 0, NULL, 0, &bundle, &error) != MR3D_OK) fail_msg("%s: %s", recipe, error.message);
  const mr3d_tensor *x = mr3d_bundle_find(bundle, "x");
  assert_int_equal(mr3d_tensor_count(x), count);
  double *got = mr3d_allocate(count, sizeof *got);
  mr3d_tensor_to_double(x, got);
  for (int i = 0; i < count; i++)
    if (memcmp(&got[i], &expected[i], sizeof *got) != 0)
      fail_msg("%s: element %d is %.17g, expected %.17g", recipe, i, got[i], expected[i]);
  free(got);
  mr3d_bundle_free(&bundle);
}
#define VALUES(recipe, ...) \
  assert_values(recipe, (const double[]){__VA_ARGS__}, (int)(sizeof((const double[]){__VA_ARGS__}) / sizeof(double)))

static void assert_values_refused(const char *recipe, const char *fragment) {
  mr3d_error error = {0};
  mr3d_bundle *bundle;
  if (make(recipe, MR3D_FP32, 0, NULL, 0, &bundle, &error) == MR3D_OK) fail_msg("made, but must be refused: %s", recipe);
  if (!strstr(error.message, fragment)) fail_msg("the message\n  %s\nlacks\n  %s", error.message, fragment);
  mr3d_bundle_free(&bundle);
}

static void listed_values_come_out_as_written(void **state) {
  (void)state;
  VALUES("{\"shape\": [2, 2], \"dtype\": \"F64\", \"values\": [1, 0.1, -3, 1e300]}", 1, 0.1, -3, 1e300);
  VALUES("{\"shape\": [3], \"dtype\": \"I64\", \"arange\": [5, -2]}", 5, 3, 1);
  VALUES("{\"shape\": [2, 3], \"dtype\": \"BOOL\", \"runs\": [[[1, 2], [0, 1]], [[0, 3]]]}", 1, 1, 0, 0, 0, 0);
  VALUES("{\"shape\": [2], \"dtype\": \"F16\", \"values\": [1.0004882812500002, 65520]}", 1.0009765625,
         INFINITY); /* one rounding, not through F32 */
  VALUES("{\"shape\": [4], \"dtype\": \"F32\", \"dist\": \"const\", \"scale\": 3, \"poke\": {\"1\": \"-0\", \"2\": \"inf\", \"3\": -7.5}}",
         3, -0.0, INFINITY, -7.5);
  VALUES("{\"shape\": [2, 3], \"dtype\": \"F32\", \"dist\": \"onehot\"}", 1, 0, 0, 0, 1, 0);
}

static void tier_decides_the_storage_type(void **state) {
  (void)state;
  const mr3d_dtype types[MR3D_N_TIERS] = {MR3D_F64, MR3D_F32, MR3D_F32, MR3D_BF16, MR3D_F16};
  for (int tier = 0; tier < MR3D_N_TIERS; tier++) {
    mr3d_error error = {0};
    mr3d_bundle *bundle;
    assert_int_equal(make("{\"shape\": [5], \"dtype\": \"tier\", \"dist\": \"normal\"}", (mr3d_tier)tier, 0, NULL, 0, &bundle, &error),
                     MR3D_OK);
    assert_int_equal(mr3d_bundle_find(bundle, "x")->dtype, types[tier]);
    mr3d_bundle_free(&bundle);
  }
}

static void drawn_values_are_the_generators_of_that_stream_and_seed(void **state) {
  (void)state;
  const char *recipe =
      "{\"shape\": [40], \"dtype\": \"F64\", \"dist\": \"heavy\", \"scale\": 30, \"shift\": 1, \"outliers\": {\"every\": 7, \"by\": 4}}";
  mr3d_error error = {0};
  mr3d_bundle *a, *b, *expected = mr3d_bundle_new();
  assert_int_equal(make(recipe, MR3D_FP64, 3, NULL, 0, &a, &error), MR3D_OK);
  assert_int_equal(make(recipe, MR3D_FP64, 4, NULL, 0, &b, &error), MR3D_OK);
  mr3d_tensor *tensor = mr3d_bundle_add(expected, "x", MR3D_F64, SHAPE(40));
  mr3d_random_draw(&(mr3d_draw){.dist = MR3D_HEAVY, .scale = 30, .shift = 1, .outlier_every = 7, .outlier_by = 4},
                   mr3d_stream_named(3, "CASE/0/x"), tensor);
  assert_same(a, expected);
  assert_memory_not_equal(mr3d_bundle_find(b, "x")->data, tensor->data, 40 * sizeof(double));
  mr3d_bundle_free(&a);
  mr3d_bundle_free(&b);
  mr3d_bundle_free(&expected);
}

static void values_that_do_not_fit_are_refused(void **state) {
  (void)state;
  assert_values_refused("{\"shape\": [2], \"dtype\": \"F32\", \"values\": [1, 2, 3]}", "3 values, shape [2] holds 2");
  assert_values_refused("{\"shape\": [2], \"dtype\": \"F32\", \"values\": [1, \"2\"]}", "numbers");
  assert_values_refused("{\"shape\": [2], \"dtype\": \"I64\", \"values\": [1, 2.5]}", "2.5 at flat index 1 does not fit type I64");
  assert_values_refused("{\"shape\": [2], \"dtype\": \"BOOL\", \"values\": [0, 2]}", "does not fit type BOOL");
  assert_values_refused("{\"shape\": [2], \"dtype\": \"U8\", \"arange\": [255, 1]}", "256 at flat index 1 does not fit type U8");
  assert_values_refused("{\"shape\": [2], \"dtype\": \"I64\", \"dist\": \"normal\"}", "does not fit type I64");
  assert_values_refused("{\"shape\": [2], \"dtype\": \"F32\", \"arange\": [1]}", "[start, step]");
  assert_values_refused("{\"shape\": [2], \"dtype\": \"F32\", \"runs\": [[[1, 1.5]]]}", "[value, count]");
  assert_values_refused("{\"shape\": [2], \"dtype\": \"F32\", \"dist\": \"normal\", \"poke\": {\"2\": 1}}", "there are 2 elements");
  assert_values_refused("{\"shape\": [2], \"dtype\": \"I64\", \"values\": [1, 2], \"poke\": {\"0\": \"nan\"}}", "does not fit type I64");
  assert_values_refused("{\"shape\": [2, 3], \"dtype\": \"I64\", \"scene\": \"floor\"}", "");
  assert_values_refused("{\"shape\": [1, 1], \"dtype\": \"I64\", \"argmax\": [0]}", "an earlier step");
  assert_values_refused(
      "{\"shape\": [1, 2, 3], \"dtype\": \"tier\", \"embeds\": {\"ids\": {\"shape\": [1, 2], \"dtype\": \"I64\", \"values\": [1, 2]}, "
      "\"features\": {\"shape\": [1, 0, 3], \"dtype\": \"tier\", \"dist\": \"normal\"}}}",
      "weight set");
}

static void argmax_takes_the_last_row_of_the_truths_logits(void **state) {
  (void)state;
  mr3d_bundle *truth[2] = {NULL, mr3d_bundle_new()}, *bundle;
  mr3d_error error = {0};
  const double logits[] = {9, 0, 0, /* row 0 */ 1, 5, 5, /* sample 1: */ 0, 0, 9, 2, 1, 0};
  memcpy(mr3d_bundle_add(truth[1], "logits", MR3D_F64, SHAPE(2, 2, 3))->data, logits, sizeof logits);
  assert_int_equal(make("{\"shape\": [2, 1], \"dtype\": \"I64\", \"argmax\": [1]}", MR3D_FP32, 0, truth, 2, &bundle, &error), MR3D_OK);
  const int64_t *ids = mr3d_bundle_find(bundle, "x")->data;
  assert_int_equal(ids[0], 1); /* the lowest of equals */
  assert_int_equal(ids[1], 0);
  mr3d_bundle_free(&bundle);
  mr3d_bundle_free(&truth[1]);
}

static void prompt_without_data_is_unsupported_and_with_it_the_ids(void **state) {
  (void)state;
  write_cases(folder,
              "{\"id\": \"splice/p\", \"title\": \"t\", \"why\": \"w\", \"level\": \"L0\", \"needs\": \"data\", \"config\": {}, \"steps\": "
              "[{\"op\": \"splice\", "
              "\"inputs\": {\"input_ids\": {\"shape\": [1, 3], \"dtype\": \"I64\", \"prompt\": \"short/one\"}}}]}");
  for (int step = 0; step < 4; step++) { /* no folder; a folder without the file; without the prompt; with it */
    mr3d_error error = {0};
    mr3d_suite *suite = NULL;
    mr3d_bundle *request = NULL;
    if (step == 2) write_text(folder, "prompt_ids.json", "{\"long/one\": [1]}");
    if (step == 3) write_text(folder, "prompt_ids.json", "{\"short/one\": [5, 151652, 7]}");
    assert_int_equal(mr3d_suite_open(folder, step ? folder : NULL, &suite, &error), MR3D_OK);
    mr3d_status status = mr3d_case_request(suite, mr3d_suite_at(suite, 0), 0, MR3D_FP32, 0, NULL, NULL, &request, &error);
    assert_int_equal(status, step == 3 ? MR3D_OK : MR3D_UNSUPPORTED);
    if (step < 3) assert_non_null(strstr(error.message, "prompt"));
    else assert_memory_equal(mr3d_bundle_find(request, "input_ids")->data, ((const int64_t[]){5, 151652, 7}), 24);
    mr3d_bundle_free(&request);
    mr3d_suite_close(&suite);
  }
}

/** Two samples with 1 and 2 points, on a table whose row r holds r, r + 0.5. */
static void embeds_are_spliced_rows_of_table_and_features(void **state) {
  (void)state;
  write_text(folder, "cases.json",
             "{\"format\": 1, \"weights\": {\"w\": {\"model.embed_tokens.weight\": {\"shape\": [20, 2], \"dtype\": \"tier\", \"arange\": "
             "[0, 0.5]}}}, \"cases\": ["
             "{\"id\": \"prefill/a\", \"title\": \"t\", \"why\": \"w\", \"level\": \"L3\", \"weights\": \"w\", \"config\": "
             "{\"point_start_token_id\": 17, \"point_end_token_id\": 18}, "
             "\"steps\": [{\"op\": \"prefill\", \"meta\": {\"session\": \"s\"}, \"inputs\": {\"inputs_embeds\": {\"shape\": [2, 7, 2], "
             "\"dtype\": \"tier\", \"embeds\": "
             "{\"ids\": {\"shape\": [2, 5], \"dtype\": \"I64\", \"values\": [3, 17, 9, 18, 4, 1, 17, 18, 2, 5]}, "
             "\"features\": {\"shape\": [2, 2, 2], \"dtype\": \"tier\", \"arange\": [100, 1]}, \"point_counts\": [1, 2]}}}}]}]}");
  mr3d_error error = {0};
  mr3d_suite *suite = NULL;
  mr3d_bundle *request = NULL;
  char path[4096];
  assert_int_equal(mr3d_suite_open(folder, NULL, &suite, &error), MR3D_OK);
  const mr3d_case *test = mr3d_suite_at(suite, 0);
  assert_string_equal(test->steps[0].weights, "w");
  assert_int_equal(mr3d_case_weights(suite, test, MR3D_BF16_TIER, 0, folder, path, &error), MR3D_OK);
  if (mr3d_case_request(suite, test, 0, MR3D_BF16_TIER, 0, path, NULL, &request, &error) != MR3D_OK) fail_msg("%s", error.message);
  const double expected[] = {
      3, 3.5, 17, 17.5, 100, 101, 18,  18.5, 4,  4.5,  4, 4.5, 4, 4.5,  /* start, a point, end; the pad 9 goes; padded with the last row */
      1, 1.5, 17, 17.5, 104, 105, 106, 107,  18, 18.5, 2, 2.5, 5, 5.5}; /* its own features */
  double got[28];
  mr3d_tensor_to_double(mr3d_bundle_find(request, "inputs_embeds"), got);
  assert_memory_equal(got, expected, sizeof expected);
  assert_string_equal(mr3d_bundle_get(request, "weights"), path);
  assert_string_equal(mr3d_bundle_get(request, "session"), "s/prefill/a/bf16"); /* its own in a process that lives through many cases */
  assert_string_equal(mr3d_bundle_get(request, "tier"), "bf16");
  mr3d_bundle_free(&request);
  mr3d_suite_close(&suite);
}

static void canonical_scene_has_106328_points_and_556_coords(void **state) {
  (void)state;
  const char *const parts[] = {"{\"shape\": [106328, 6], \"dtype\": \"F32\", \"scene\": \"points\"}",
                               "{\"shape\": [556, 3], \"dtype\": \"I64\", \"scene\": \"coords\"}"};
  mr3d_error error = {0};
  mr3d_suite *suite = NULL;
  assert_int_equal(mr3d_suite_open(committed_set(), NULL, &suite, &error), MR3D_OK);
  mr3d_bundle *bundle = mr3d_bundle_new();
  for (int i = 0; i < 2; i++) {
    cJSON *json = cJSON_Parse(parts[i]);
    mr3d_recipe_context context = {suite, MR3D_FP32, 0, "CASE/0/x", "{}", NULL, 0, NULL};
    if (mr3d_recipe_make(&context, json, i ? "coords" : "points", bundle, &error) != MR3D_OK) fail_msg("%s", error.message);
    cJSON_Delete(json);
  }
  const int64_t *coords = mr3d_bundle_find(bundle, "coords")->data;
  for (int n = 1; n < 556; n++) { /* sorted, distinct */
    int order = 0;
    for (int a = 0; a < 3 && !order; a++)
      order = coords[3 * n + a] > coords[3 * n - 3 + a] ? 1 : coords[3 * n + a] < coords[3 * n - 3 + a] ? -1 : 0;
    assert_int_equal(order, 1);
  }
  mr3d_bundle_free(&bundle);
  mr3d_suite_close(&suite);
}

static void committed_cases_can_be_read_and_cover_every_operator(void **state) {
  (void)state;
  mr3d_error error = {0};
  mr3d_suite *suite = NULL;
  if (mr3d_suite_open(committed_set(), NULL, &suite, &error) != MR3D_OK) fail_msg("%s", error.message);
  for (const char *const *op = mr3d_server_ops(); *op; op++) {
    int n = 0;
    for (int i = 0; i < mr3d_suite_count(suite); i++) n += strcmp(mr3d_case_op(mr3d_suite_at(suite, i)), *op) == 0;
    if (n == 0) fail_msg("no case is about %s", *op);
  }
  mr3d_suite_close(&suite);
}

static int selected(const mr3d_suite *suite, mr3d_selection selection) {
  int n = 0;
  for (int i = 0; i < mr3d_suite_count(suite); i++) {
    const mr3d_case *test = mr3d_suite_at(suite, i);
    for (int t = 0; t < test->n_tags; t++) n += strcmp(test->tags[t], "whole") == 0 && mr3d_case_selected(test, &selection);
  }
  return n;
}

/* Its cases take minutes each. */
static void the_whole_model_is_asked_only_by_name(void **state) {
  (void)state;
  mr3d_error error = {0};
  mr3d_suite *suite = NULL;
  if (mr3d_suite_open(committed_set(), NULL, &suite, &error) != MR3D_OK) fail_msg("%s", error.message);
  const int all = selected(suite, (mr3d_selection){.with_whole = true});
  assert_true(all >= 4);
  assert_int_equal(selected(suite, (mr3d_selection){0}), 0);
  assert_int_equal(selected(suite, (mr3d_selection){.tag = "greedy,slow"}), 0);
  assert_int_equal(selected(suite, (mr3d_selection){.case_glob = "*"}), 0);
  assert_int_equal(selected(suite, (mr3d_selection){.level = "L3,L4", .pitfall = "decode-rope"}), 0);
  assert_int_equal(selected(suite, (mr3d_selection){.tag = "canonical,whole"}), all);
  assert_int_equal(selected(suite, (mr3d_selection){.tag = "whole", .level = "L4"}), all - 1);
  assert_int_equal(selected(suite, (mr3d_selection){.case_glob = "decode/whole-30"}), 1);
  assert_int_equal(mr3d_selection_check(suite, &(mr3d_selection){.case_glob = "decode/whole-*"}, &error), MR3D_INVALID);
  if (!strstr(error.message, "add --tag whole")) fail_msg("%s", error.message);
  assert_int_equal(mr3d_selection_check(suite, &(mr3d_selection){.case_glob = "decode/whole-*", .tag = "whole"}, &error), MR3D_OK);
  mr3d_suite_close(&suite);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(broken_files_are_refused_with_their_place),
      cmocka_unit_test(broken_cases_are_refused_by_id_and_key),
      cmocka_unit_test(broken_recipes_are_refused_by_tensor_and_key),
      cmocka_unit_test(listed_values_come_out_as_written),
      cmocka_unit_test(tier_decides_the_storage_type),
      cmocka_unit_test(drawn_values_are_the_generators_of_that_stream_and_seed),
      cmocka_unit_test(values_that_do_not_fit_are_refused),
      cmocka_unit_test(argmax_takes_the_last_row_of_the_truths_logits),
      cmocka_unit_test(prompt_without_data_is_unsupported_and_with_it_the_ids),
      cmocka_unit_test(embeds_are_spliced_rows_of_table_and_features),
      cmocka_unit_test(canonical_scene_has_106328_points_and_556_coords),
      cmocka_unit_test(committed_cases_can_be_read_and_cover_every_operator),
      cmocka_unit_test(the_whole_model_is_asked_only_by_name),
  };
  return cmocka_run_group_tests(tests, open_folder, close_folder);
}
