/** The kill matrix: what is killed, hidden or equal, which cases prove nothing, and that a hole is seen. */
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <setjmp.h>
#include <cmocka.h>

#include <cjson/cJSON.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "matrix.h"
#include "schema.h"

static mr3d_matrix *matrix_of(mr3d_matrix_options options) {
  mr3d_matrix *x = NULL;
  mr3d_error error = {0};
  options.golden_dir = getenv("MR3D_GOLDEN");
  if (!options.golden_dir) fail_msg("MR3D_GOLDEN must name the folder of the golden set");
  if (options.jobs == 0) options.jobs = 1;
  if (mr3d_matrix_run(&options, NULL, NULL, &x, &error) != MR3D_OK) fail_msg("%s", error.message);
  return x;
}

static int case_of(const mr3d_matrix *x, const char *id) {
  for (int i = 0; i < x->n_cases; i++)
    if (strcmp(x->cases[i]->id, id) == 0) return i;
  fail_msg("%s is not in the matrix", id);
  return -1;
}

static int mutant_of(const mr3d_matrix *x, const char *name) {
  for (int m = 0; m < x->n_mutants; m++)
    if (x->mutants[m] == mr3d_mutant_named(name)) return m;
  fail_msg("%s is not in the matrix", name);
  return -1;
}

static mr3d_cell cell_of(const mr3d_matrix *x, int tier, const char *test, const char *mutant) {
  return mr3d_matrix_cell(x, tier, case_of(x, test), mutant_of(x, mutant));
}

static int of_drift_norm(void) {
  int n = 0;
  for (int m = 0; m < mr3d_mutant_count(); m++) n += strcmp(mr3d_mutant_at(m)->slug, "drift-norm") == 0;
  return n;
}

static void a_mistake_is_killed_where_it_shows_and_equal_where_it_does_not(void **state) {
  (void)state;
  mr3d_matrix *x = matrix_of((mr3d_matrix_options){.selection = {.op = "mask"}, .mutant_pitfall = "mask-length,mask-ownership,drift-norm"});
  assert_int_equal(x->n_tiers, 2); /* fp64 and fp32 */
  for (int t = 0; t < 2; t++) {
    assert_int_equal(cell_of(x, t, "mask/decode-232-of-787", "mask-length/unrepaired").state, MR3D_CELL_KILLED);
    assert_int_equal(cell_of(x, t, "mask/canonical-prefill", "mask-length/unrepaired").state, MR3D_CELL_EQUAL);
    assert_int_equal(cell_of(x, t, "mask/canonical-prefill", "mask-ownership/causal-missing").state, MR3D_CELL_KILLED);
  }
  mr3d_cell silent = cell_of(x, 0, "mask/canonical-prefill", "mask-ownership/never-returns");
  assert_int_equal(silent.state, MR3D_CELL_KILLED);
  assert_true(silent.not_judged);
  mr3d_matrix_row row = mr3d_matrix_row_of(x, 0, mutant_of(x, "mask-length/unrepaired"));
  assert_true(row.mistake && row.killed >= 5);
  assert_int_equal(row.killed + row.hidden + row.equal, row.touched);
  assert_string_equal(x->cases[row.first_killer]->id, "mask/decode-232-of-787");
  assert_true(x->not_asked >= of_drift_norm()); /* no mask case asks them */
  for (int m = 0; m < x->n_mutants; m++) assert_string_not_equal(x->mutants[m]->slug, "drift-norm");
  assert_int_equal(mr3d_matrix_holes(x), 0);
  mr3d_matrix_free(&x);
  assert_null(x);
}

static void a_mistake_that_survives_at_fp32_is_a_hole(void **state) {
  (void)state;
  mr3d_matrix *x = matrix_of((mr3d_matrix_options){.selection = {.case_glob = "mask/canonical-prefill"}, .mutant_glob = "mask-length/unrepaired"});
  assert_true(mr3d_matrix_survives(x, 0, 0) && mr3d_matrix_survives(x, 1, 0));
  assert_int_equal(mr3d_matrix_row_of(x, 0, 0).equal, 1);
  assert_int_equal(mr3d_matrix_holes(x), 2);
  mr3d_matrix_free(&x);
}

static void a_mistake_that_only_a_narrow_tier_hides_is_sized_and_no_hole(void **state) {
  (void)state;
  mr3d_matrix *x = matrix_of((mr3d_matrix_options){
      .selection = {.case_glob = "rmsnorm/canonical", .tiers = 1u << MR3D_FP64 | 1u << MR3D_BF16_TIER}, .mutant_glob = "qwen2-details/eps-1e-5"});
  assert_int_equal(x->n_tiers, 2);
  assert_int_equal(mr3d_matrix_cell(x, 0, 0, 0).state, MR3D_CELL_KILLED);
  assert_true(mr3d_matrix_cell(x, 0, 0, 0).size > 1);
  assert_int_equal(mr3d_matrix_cell(x, 1, 0, 0).state, MR3D_CELL_HIDDEN);
  mr3d_matrix_row row = mr3d_matrix_row_of(x, 1, 0);
  assert_true(row.largest > 0 && row.largest <= 1 && row.largest_case == 0);
  assert_true(mr3d_matrix_survives(x, 1, 0));
  assert_int_equal(mr3d_matrix_holes(x), 0);
  mr3d_matrix_free(&x);
}

static void sessions_requests_and_refusals_are_run_to_their_end(void **state) {
  (void)state;
  mr3d_matrix *x = matrix_of((mr3d_matrix_options){.selection = {.case_glob = "*/*8*", .tiers = 1u << MR3D_FP64}, .mutant_pitfall = "coords-count,decode-rope"});
  assert_int_equal(cell_of(x, 0, "mixed-rope/refuse-106328-for-556", "coords-count/first-rows").state, MR3D_CELL_KILLED);
  assert_true(cell_of(x, 0, "mixed-rope/refuse-106328-for-556", "coords-count/first-rows").not_judged);
  assert_int_equal(cell_of(x, 0, "mixed-rope/refuse-106328-for-556", "coords-count/reversed-rows").state, MR3D_CELL_EQUAL);
  mr3d_matrix_free(&x);
  x = matrix_of((mr3d_matrix_options){.selection = {.level = "L4", .pitfall = "decode-rope", .tiers = 1u << MR3D_FP64, .without_slow = true}, .mutant_glob = "decode-rope/position-*"});
  assert_true(x->n_mutants >= 3);
  for (int m = 0; m < x->n_mutants; m++) assert_true(mr3d_matrix_row_of(x, 0, m).killed > 0);
  mr3d_matrix_free(&x);
}

static void long_layers_are_compared_on_few_tokens_and_kill_all_the_same(void **state) {
  (void)state;
  mr3d_selection prefill = {.case_glob = "attention-block/full-width-probe", .tiers = 1u << MR3D_FP64};
  mr3d_matrix *x = matrix_of((mr3d_matrix_options){.selection = prefill, .mutant_glob = "gqa-heads/k*"});
  static const char *const shown[] = {"gqa-heads/kv-head-modulo", "gqa-heads/kv-head-rounded-up", "gqa-heads/key-frequencies-for-queries", "gqa-heads/key-weights-for-queries"};
  for (int i = 0; i < 4; i++) assert_int_equal(cell_of(x, 0, "attention-block/full-width-probe", shown[i]).state, MR3D_CELL_KILLED);
  mr3d_matrix_free(&x);
  x = matrix_of((mr3d_matrix_options){.selection = prefill, .mutant_glob = "mask-length/unrepaired"});
  assert_int_equal(mr3d_matrix_cell(x, 0, 0, 0).state, MR3D_CELL_EQUAL); /* a prefill repairs no mask */
  mr3d_matrix_free(&x);
}

/** Where the catalogue says that a mistake cannot show, with the proof there: docs/pitfalls.md, "Where a mistake cannot show". */
static void mistakes_are_equal_where_they_cannot_show(void **state) {
  (void)state;
  static const struct { const char *mutant, *hides, *shows; } places[] = {
      {"temporal-table/native-for-gathered", "mixed-rope/option-interleaved", "mixed-rope/canonical"},
      {"temporal-table/table-head", "mixed-rope/canonical", "mixed-rope/option-quarter-interleaved"},
      {"theta-mixup/text-theta-in-3d", "mixed-rope/canonical", "mixed-rope/canonical-fixed"},
      {"mask-length/unrepaired", "mask/decode-full-length", "mask/decode-232-of-787"},
      {"mask-ownership/padding-missing", "mask/decode-232-of-787", "mask/prefill-with-zeros"},
      {"batch/coords-of-sample-0", "mixed-rope/canonical", "mixed-rope/batch-own-positions"},
  };
  for (size_t i = 0; i < sizeof places / sizeof *places; i++) {
    for (int shows = 0; shows < 2; shows++) {
      const char *test = shows ? places[i].shows : places[i].hides;
      mr3d_matrix *x = matrix_of((mr3d_matrix_options){.selection = {.case_glob = test, .tiers = 1u << MR3D_FP64}, .mutant_glob = places[i].mutant});
      if (mr3d_matrix_cell(x, 0, 0, 0).state != (shows ? MR3D_CELL_KILLED : MR3D_CELL_EQUAL)) fail_msg("%s in %s: state %d", places[i].mutant, test, mr3d_matrix_cell(x, 0, 0, 0).state);
      mr3d_matrix_free(&x);
    }
  }
}

static void cases_that_kill_nothing_of_their_pitfall_are_named(void **state) {
  (void)state;
  mr3d_matrix *x = matrix_of((mr3d_matrix_options){.selection = {.op = "mask", .tiers = 1u << MR3D_FP64}, .mutant_glob = "mask-length/unrepaired"});
  int proven = 0;
  for (int i = 0; i < x->n_cases; i++)
    for (int p = 0; p < x->cases[i]->n_pitfalls; p++) {
      const char *slug = mr3d_matrix_unproven(x, i, p);
      if (strcmp(x->cases[i]->pitfalls[p], "mask-length") != 0) assert_null(slug); /* none of its mutants is here */
      else proven += slug == NULL;
    }
  assert_true(proven >= 5);
  int needed = case_of(x, "mask/decode-232-of-787");
  assert_int_equal(mr3d_matrix_kills(x, needed), 1);
  assert_false(mr3d_matrix_is_needed(x, needed)); /* others kill it too */
  mr3d_matrix_free(&x);
  x = matrix_of((mr3d_matrix_options){.selection = {.case_glob = "mask/decode-232-of-787", .tiers = 1u << MR3D_FP64}, .mutant_glob = "mask-length/unrepaired"});
  assert_true(mr3d_matrix_is_needed(x, 0));
  mr3d_matrix_free(&x);
}

static void any_number_of_processes_gives_the_same_matrix(void **state) {
  (void)state;
  mr3d_matrix *one = matrix_of((mr3d_matrix_options){.selection = {.level = "L0", .op = "mask,splice"}, .jobs = 1});
  mr3d_matrix *three = matrix_of((mr3d_matrix_options){.selection = {.level = "L0", .op = "mask,splice"}, .jobs = 3});
  assert_memory_equal(one->cells, three->cells, (size_t)one->n_tiers * (size_t)one->n_cases * (size_t)one->n_mutants * sizeof *one->cells);
  mr3d_matrix_free(&one);
  mr3d_matrix_free(&three);
}

static void an_empty_selection_is_refused(void **state) {
  (void)state;
  mr3d_matrix *x = NULL;
  mr3d_error error = {0};
  mr3d_matrix_options options = {.golden_dir = getenv("MR3D_GOLDEN"), .mutant_glob = "no/such"};
  assert_int_not_equal(mr3d_matrix_run(&options, NULL, NULL, &x, &error), MR3D_OK);
  assert_non_null(strstr(error.message, "selection of mutants is empty"));
  options = (mr3d_matrix_options){.golden_dir = getenv("MR3D_GOLDEN"), .selection = {.case_glob = "no-such"}};
  assert_int_not_equal(mr3d_matrix_run(&options, NULL, NULL, &x, &error), MR3D_OK);
  assert_non_null(strstr(error.message, "empty"));
  options = (mr3d_matrix_options){.golden_dir = getenv("MR3D_GOLDEN"), .selection = {.op = "mask"}, .without = "*"};
  assert_int_not_equal(mr3d_matrix_run(&options, NULL, NULL, &x, &error), MR3D_OK);
  assert_non_null(strstr(error.message, "--without leaves none"));
  options = (mr3d_matrix_options){.golden_dir = getenv("MR3D_GOLDEN"), .selection = {.tag = "data"}};
  assert_int_not_equal(mr3d_matrix_run(&options, NULL, NULL, &x, &error), MR3D_OK);
  assert_non_null(strstr(error.message, "data folder"));
  assert_null(x);
}

static char *content_of(const char *path) {
  FILE *file = fopen(path, "rb");
  assert_non_null(file);
  char *text = calloc(1, 1 << 20);
  assert_true(fread(text, 1, (1 << 20) - 1, file) > 0);
  fclose(file);
  return text;
}

static void json_and_html_say_what_the_matrix_says(void **state) {
  (void)state;
  char json[] = "/tmp/mr3d-matrix-json-XXXXXX", html[] = "/tmp/mr3d-matrix-html-XXXXXX";
  mr3d_error error = {0};
  close(mkstemp(json)), close(mkstemp(html));
  mr3d_matrix *x = matrix_of((mr3d_matrix_options){.selection = {.op = "mask", .tiers = 1u << MR3D_FP64}, .mutant_glob = "mask-length/*"});
  assert_int_equal(mr3d_matrix_json(x, json, &error), MR3D_OK);
  assert_int_equal(mr3d_matrix_html(x, html, &error), MR3D_OK);
  char *text = content_of(json);
  cJSON *root = cJSON_Parse(text);
  assert_non_null(root);
  cJSON *schema = read_schema("matrix.schema.json");
  check_against(root, schema, schema, "matrix");
  cJSON_Delete(schema);
  assert_string_equal(cJSON_GetObjectItemCaseSensitive(root, "selected")->valuestring, "--mutant mask-length/* --op mask");
  assert_int_equal(cJSON_GetArraySize(cJSON_GetObjectItemCaseSensitive(root, "mutants")), x->n_mutants);
  const int killing = x->n_cases - cJSON_GetArraySize(cJSON_GetObjectItemCaseSensitive(root, "cases_that_kill_none"));
  assert_in_range(cJSON_GetArraySize(cJSON_GetObjectItemCaseSensitive(root, "cases_that_others_cover")), 1, killing);
  const cJSON *first = cJSON_GetArrayItem(cJSON_GetObjectItemCaseSensitive(root, "mutants"), 0);
  const cJSON *tier = cJSON_GetArrayItem(cJSON_GetObjectItemCaseSensitive(first, "tiers"), 0);
  mr3d_matrix_row row = mr3d_matrix_row_of(x, 0, 0);
  assert_int_equal(cJSON_GetObjectItemCaseSensitive(tier, "killed")->valueint, row.killed);
  assert_int_equal(cJSON_GetArraySize(cJSON_GetObjectItemCaseSensitive(tier, "killers")), row.killed);
  assert_int_equal(cJSON_GetObjectItemCaseSensitive(root, "holes")->valueint, 0);
  cJSON_Delete(root);
  free(text);
  text = content_of(html);
  assert_non_null(strstr(text, "EVERY SELECTED MISTAKE IS KILLED"));
  assert_non_null(strstr(text, "mask-length/unrepaired"));
  assert_null(strstr(text, "http://"));
  free(text);
  mr3d_matrix_free(&x);
  x = matrix_of((mr3d_matrix_options){.selection = {.case_glob = "mask/canonical-prefill", .tiers = 1u << MR3D_FP64}, .mutant_glob = "mask-length/*"});
  assert_int_equal(mr3d_matrix_html(x, html, &error), MR3D_OK);
  text = content_of(html);
  assert_non_null(strstr(text, "A MISTAKE SURVIVES"));
  free(text);
  assert_int_not_equal(mr3d_matrix_json(x, "/no/such/folder/m.json", &error), MR3D_OK);
  mr3d_matrix_free(&x);
  unlink(json), unlink(html);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(a_mistake_is_killed_where_it_shows_and_equal_where_it_does_not),
      cmocka_unit_test(a_mistake_that_survives_at_fp32_is_a_hole),
      cmocka_unit_test(a_mistake_that_only_a_narrow_tier_hides_is_sized_and_no_hole),
      cmocka_unit_test(sessions_requests_and_refusals_are_run_to_their_end),
      cmocka_unit_test(long_layers_are_compared_on_few_tokens_and_kill_all_the_same),
      cmocka_unit_test(mistakes_are_equal_where_they_cannot_show),
      cmocka_unit_test(cases_that_kill_nothing_of_their_pitfall_are_named),
      cmocka_unit_test(any_number_of_processes_gives_the_same_matrix),
      cmocka_unit_test(an_empty_selection_is_refused),
      cmocka_unit_test(json_and_html_say_what_the_matrix_says),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
