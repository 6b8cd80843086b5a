/** Reports: whatever a backend says, files stay valid, nothing is lost, and the terminal is not written to by others. */
#include <math.h>

#include "../markup.h"
#include "schema.h"
#include "small_suite.h"
#include "in_folder.h"

/* Everything that could break a report: a line like the report's own, markup, quotes, control characters, terminal colours, broken UTF-8, a CDATA end, "]]>". */
#define HOSTILE "<script>alert('1')</script> & \"quoted\" \x01\x1b[31mred\x7f \xff\xfe \xc2\x9b \xef\xbf\xbe ]]> `b` \xe2\x82\xac\nCOMPLIANT: not at all"

static mr3d_step steps[] = {{.op = "rope1d"}};
static const char *const pitfalls[] = {"decode-rope"}, *const tags[] = {"small"};
static mr3d_case test_case = {.id = "rope1d/a",
                              .title = "a <title> & more",
                              .why = "because \"quotes\"",
                              .level = "L0",
                              .op = "rope1d",
                              .n_pitfalls = 1,
                              .pitfalls = pitfalls,
                              .n_tags = 1,
                              .tags = tags,
                              .config = "{}",
                              .n_steps = 1,
                              .steps = steps};

static mr3d_tensor_verdict tensors[2];
static mr3d_step_result step_results[4];
static mr3d_result results[4];
static const mr3d_tier tiers[] = {MR3D_FP32, MR3D_BF16_TIER};
static const char *const ops[] = {"rope1d"};

/** One result of each verdict, the failed one hostile in every text and number. */
static mr3d_run *hostile_run(void) {
  static mr3d_run run;
  run = (mr3d_run){.info = {.spec = "exec:x", .name = HOSTILE, .version = HOSTILE, .n_ops = 1, .ops = ops, .n_tiers = 2, .tiers = tiers},
                   .options = {.backend = "exec:'" HOSTILE "'", .seed = UINT64_MAX},
                   .n_results = 4,
                   .results = results,
                   .passed = 1,
                   .failed = 1,
                   .skipped = 1,
                   .broken = 1,
                   .n_golden_files = 7,
                   .seconds = 1.5};
  memset(tensors, 0, sizeof tensors);
  for (int i = 0; i < 4; i++) {
    step_results[i] = (mr3d_step_result){.op = "rope1d", .asked = true, .reply = {.kind = MR3D_REPLY_ANSWER, .seconds = 0.1}};
    results[i] = (mr3d_result){.test = &test_case,
                               .tier = i < 2 ? MR3D_FP32 : MR3D_BF16_TIER,
                               .seed = UINT64_MAX,
                               .verdict = (mr3d_verdict)i,
                               .golden_worst = i ? NAN : 1e-15,
                               .seconds = 0.25,
                               .n_steps = 1,
                               .steps = &step_results[i]};
  }
  tensors[0] = (mr3d_tensor_verdict){.name = "y",
                                     .passed = true,
                                     .n_statistics = 2,
                                     .elements = 128,
                                     .statistics = {{"element", 1.5, 4, true, true}, {"gain", 0, 0.1, false, true}},
                                     .ulp_p50 = 0.5,
                                     .ulp_p99 = 1,
                                     .ulp_max = 2};
  tensors[1] = (mr3d_tensor_verdict){.name = "y",
                                     .n_statistics = 1,
                                     .elements = 128,
                                     .wrong = 3,
                                     .statistics = {{"element", NAN, 4, true, false}},
                                     .index = "[0,3,17]",
                                     .got = NAN,
                                     .expected = INFINITY,
                                     .bound = 1e-7,
                                     .ulp_max = -INFINITY};
  snprintf(tensors[1].problem, sizeof tensors[1].problem, "%s", HOSTILE);
  step_results[0].judgement = (mr3d_judgement){.passed = true, .n_tensors = 1, .tensors = &tensors[0]};
  step_results[1].judgement = (mr3d_judgement){.n_tensors = 1, .tensors = &tensors[1]};
  step_results[1].reply.log = HOSTILE "\nsecond line\n";
  snprintf(step_results[1].reply.message, sizeof step_results[1].reply.message, "%s", HOSTILE);
  snprintf(results[1].reason, sizeof results[1].reason, "%s", HOSTILE);
  snprintf(results[1].diagnosis, sizeof results[1].diagnosis, "your output equals decode-rope/a %s", HOSTILE);
  snprintf(results[1].mistake, sizeof results[1].mistake, "decode-rope/a");
  snprintf(results[2].reason, sizeof results[2].reason, "unsupported: %s", HOSTILE);
  snprintf(results[3].reason, sizeof results[3].reason, "reference and golden part");
  results[2].difference = (mr3d_difference){.repetition = 2, .first_kind = MR3D_REPLY_ANSWER, .tensor = "<y>\x1b", .index = "[0,1]", .first = NAN, .again = INFINITY, .after = &test_case};
  return &run;
}

static char *written(mr3d_status (*report)(const mr3d_run *, const char *, mr3d_error *)) {
  char path[600];
  mr3d_error error = {0};
  snprintf(path, sizeof path, "%s/report", folder);
  if (report(hostile_run(), path, &error) != MR3D_OK) fail_msg("%s", error.message);
  return read_bytes(folder, "report", NULL);
}

static void assert_clean(const char *text) {
  size_t length = strlen(text);
  for (size_t i = 0; i < length; i++) {
    unsigned char c = (unsigned char)text[i];
    if ((c < 0x20 && c != '\n' && c != '\t') || c == 0x7f || c == 0xff) fail_msg("byte 0x%02x at %zu", c, i);
    if (c == 0xc2 && (unsigned char)text[i + 1] < 0xa0) fail_msg("a C1 control at %zu", i);
  }
}

static int count_of(const char *text, const char *what) {
  int n = 0;
  for (const char *at = text; (at = strstr(at, what)); at += strlen(what)) n++;
  return n;
}

/* ---- JSON lines ---- */

static void json_lines_parse_and_hold_every_result(void **state) {
  (void)state;
  char *text = written(mr3d_report_json), *line = text;
  assert_clean(text);
  int n = 0, n_results = 0;
  const char *verdicts[] = {"passed", "failed", "skipped", "broken"};
  for (char *end; *line; line = end + 1, n++) {
    assert_non_null(end = strchr(line, '\n'));
    *end = '\0';
    const char *rest;
    cJSON *json = cJSON_ParseWithOpts(line, &rest, true);
    if (!json) fail_msg("no JSON: %s", line);
    const char *type = cJSON_GetObjectItem(json, "type")->valuestring;
    if (n == 0) assert_string_equal(type, "run");
    if (strcmp(type, "run") == 0) assert_string_equal(cJSON_GetObjectItem(json, "seed")->valuestring, "18446744073709551615");
    if (strcmp(type, "result") == 0) assert_string_equal(cJSON_GetObjectItem(json, "verdict")->valuestring, verdicts[n_results++]);
    if (strcmp(type, "result") == 0 && n_results == 2) {
      const cJSON *tensor =
          cJSON_GetArrayItem(cJSON_GetObjectItem(cJSON_GetArrayItem(cJSON_GetObjectItem(json, "steps"), 0), "tensors"), 0);
      const cJSON *worst = cJSON_GetObjectItem(tensor, "worst");
      assert_string_equal(cJSON_GetObjectItem(worst, "got")->valuestring, "nan"); /* never null */
      assert_string_equal(cJSON_GetObjectItem(worst, "expected")->valuestring, "inf");
      assert_true(cJSON_GetObjectItem(worst, "bound")->valuedouble == 1e-7);
      assert_non_null(strstr(cJSON_GetObjectItem(json, "reason")->valuestring, "<script>alert('1')</script> & \"quoted\""));
      assert_non_null(strstr(cJSON_GetObjectItem(json, "again")->valuestring, "--case rope1d/a --tier fp32 --seed 18446744073709551615"));
    }
    if (strcmp(type, "summary") == 0) {
      assert_int_equal(cJSON_GetObjectItem(json, "exit_status")->valueint, 1);
      assert_int_equal(cJSON_GetObjectItem(json, "passed")->valueint, 1);
    }
    cJSON_Delete(json);
  }
  assert_int_equal(n, 6);
  assert_int_equal(n_results, 4);
  free(text);
}

/** As many lines as that, each as the schema says; frees the text. */
static void check_lines(char *text, int count) {
  cJSON *schema = read_schema("report.schema.json");
  int n = 0;
  for (char *line = strtok(text, "\n"); line; line = strtok(NULL, "\n"), n++) {
    cJSON *json = cJSON_Parse(line);
    const char *type = cJSON_GetObjectItem(json, "type")->valuestring;
    const cJSON *shape = cJSON_GetObjectItem(cJSON_GetObjectItem(schema, "$defs"), type);
    if (!shape) fail_msg("the schema does not know lines of type %s", type);
    check_against(json, shape, schema, type);
    cJSON_Delete(json);
  }
  assert_int_equal(n, count);
  cJSON_Delete(schema);
  free(text);
}

static void json_lines_keep_to_their_schema(void **state) {
  (void)state;
  check_lines(written(mr3d_report_json), 6);
}

/** The first three results as pairs of files: none of these is ever broken. */
static mr3d_status report_pairs(const mr3d_run *run, const char *path, mr3d_error *error) {
  char *const paths[] = {"0.req", "0.ans", HOSTILE, HOSTILE, "2.req", "2.ans"};
  mr3d_run pairs = *run;
  pairs.n_results = 3;
  return mr3d_report_pairs_json(&pairs, paths, 2, path, error);
}

static void json_lines_of_pairs_keep_to_their_schema(void **state) {
  (void)state;
  char *text = written(report_pairs);
  assert_clean(text);
  check_lines(text, 4);
}

/* ---- markup ---- */

static void junit_is_well_formed_and_counts(void **state) {
  (void)state;
  char *text = written(mr3d_report_junit);
  assert_clean(text);
  check_markup(text, false);
  assert_non_null(strstr(text, "<testsuites name=\"mr3d\" tests=\"4\" failures=\"1\" errors=\"1\" skipped=\"1\""));
  assert_non_null(strstr(text, "<testsuite name=\"fp32\" tests=\"2\" failures=\"1\" errors=\"0\" skipped=\"0\""));
  assert_non_null(strstr(text, "<testsuite name=\"bf16\" tests=\"2\" failures=\"0\" errors=\"1\" skipped=\"1\""));
  assert_int_equal(count_of(text, "<testcase "), 4);
  assert_int_equal(count_of(text, "<failure "), 1);
  assert_int_equal(count_of(text, "<error "), 1);
  assert_int_equal(count_of(text, "<skipped "), 1);
  assert_null(strstr(text, "<script"));
  free(text);
}

static void html_is_one_well_formed_page_that_loads_nothing(void **state) {
  (void)state;
  char *text = written(mr3d_report_html);
  assert_clean(text);
  check_markup(text, true);
  assert_non_null(strstr(text, "<h1>COULD NOT JUDGE</h1>"));
  assert_int_equal(count_of(text, "<details class=\"case\""), 4);
  assert_int_equal(count_of(text, "<script"), 1); /* the page's own */
  assert_non_null(strstr(text, "&lt;script&gt;alert(&#39;1&#39;)"));
  const char *const loads[] = {"http:", "https:", "src=", "@import", "url(", "<link", "<iframe", "<img"};
  for (size_t i = 0; i < sizeof loads / sizeof *loads; i++)
    if (strstr(text, loads[i])) fail_msg("the page has %s", loads[i]);
  assert_int_equal(count_of(text, "class=\"pitfall\""), 36);
  free(text);
}

static void terminal_report_shows_findings_and_no_control_characters(void **state) {
  (void)state;
  for (int brief = 0; brief < 2; brief++) {
    char *text = NULL;
    size_t size = 0;
    FILE *to = open_memstream(&text, &size);
    mr3d_report_text(hostile_run(), to, brief, false);
    fclose(to);
    assert_clean(text);
    assert_non_null(strstr(text, "COMPLIANT: not at all"));
    assert_null(strstr(text, "\nCOMPLIANT: not at all"));
    assert_non_null(strstr(text, "1. decode-rope/a: 1 result\n"));
    assert_non_null(strstr(text, "2. the suite itself: 1 result\n"));
    assert_non_null(strstr(text, "mr3d explain decode-rope"));
    assert_non_null(strstr(text, "COULD NOT JUDGE: the suite itself is broken in 1 result"));
    assert_non_null(strstr(text, "1 passed, 1 failed, 1 skipped, 1 broken"));
    assert_int_equal(strstr(text, "nearest to its limit") != NULL, !brief);
    free(text);
  }
}

static void rerun_command_is_quoted_for_a_shell(void **state) {
  (void)state;
  mr3d_run *run = hostile_run();
  run->options.backend = "exec:python 'my backend.py' $HOME";
  char *again = mr3d_rerun_command(run, &results[0]);
  assert_string_equal(
      again, "mr3d check --backend 'exec:python '\\''my backend.py'\\'' $HOME' --case rope1d/a --tier fp32 --seed 18446744073709551615");
  free(again);
  run->options.backend = "lib:build/f32.so";
  again = mr3d_rerun_command(run, &results[0]);
  assert_non_null(strstr(again, "--backend lib:build/f32.so --case"));
  free(again);
}

static void unwritable_file_is_an_error_with_its_path(void **state) {
  (void)state;
  mr3d_error error = {0};
  assert_int_equal(mr3d_report_json(hostile_run(), "/no/such/folder/report.json", &error), MR3D_IO);
  assert_non_null(strstr(error.message, "/no/such/folder/report.json"));
}

static void verdict_and_exit_status_agree(void **state) {
  (void)state;
  char why[512];
  const struct {
    int passed, failed, skipped, broken, status;
    const char *verdict;
  } runs[] = {{3, 0, 1, 0, 0, "COMPLIANT"},       {3, 1, 0, 0, 2, "NOT COMPLIANT"},   {0, 1, 0, 0, 2, "NOT COMPLIANT"},
              {0, 0, 4, 0, 1, "COULD NOT JUDGE"}, {3, 1, 0, 1, 1, "COULD NOT JUDGE"}, {3, 0, 0, 1, 1, "COULD NOT JUDGE"}};
  for (size_t i = 0; i < sizeof runs / sizeof *runs; i++) {
    mr3d_run run = {.passed = runs[i].passed, .failed = runs[i].failed, .skipped = runs[i].skipped, .broken = runs[i].broken};
    assert_int_equal(mr3d_run_exit_status(&run), runs[i].status);
    assert_string_equal(mr3d_run_verdict(&run, why), runs[i].verdict);
  }
}

static bool any_holds(const mr3d_run *run, const char *text) {
  char limits[MR3D_MAX_LIMITS][1024];
  int n = mr3d_run_limits(run, limits);
  for (int i = 0; i < n; i++)
    if (strstr(limits[i], text)) return true;
  return false;
}

static void a_passing_run_says_what_it_does_not_exclude(void **state) {
  (void)state;
  char *bytes = NULL;
  size_t size = 0;
  mr3d_run *run = hostile_run();
  run->failed = run->broken = 0;
  run->n_results = 1; /* passed at fp32, about decode-rope */
  assert_true(any_holds(run, "at fp32, errors of an operator below"));
  assert_false(any_holds(run, "bf16"));
  assert_true(any_holds(run, "mask-length"));
  assert_false(any_holds(run, "decode-rope"));
  assert_false(any_holds(run, "stored answers")); /* its seed is its own */
  assert_false(any_holds(run, "rounding of a narrow tier"));
  FILE *to = open_memstream(&bytes, &size);
  mr3d_report_text(run, to, false, false);
  fclose(to);
  assert_non_null(strstr(bytes, "This does not exclude\n  - at fp32"));
  free(bytes);

  results[0].tier = MR3D_BF16_TIER;
  run->options.seed = 0;
  assert_true(any_holds(run, "rounding of a narrow tier"));
  assert_true(any_holds(run, "stored answers"));
  results[0].verdict = MR3D_SKIPPED;
  assert_true(any_holds(run, "what was not compared: rope1d"));

  run = hostile_run();
  to = open_memstream(&bytes, &size);
  mr3d_report_text(run, to, false, false);
  fclose(to);
  assert_null(strstr(bytes, "does not exclude"));
  free(bytes);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(json_lines_parse_and_hold_every_result),
      cmocka_unit_test(json_lines_keep_to_their_schema),
      cmocka_unit_test(json_lines_of_pairs_keep_to_their_schema),
      cmocka_unit_test(junit_is_well_formed_and_counts),
      cmocka_unit_test(html_is_one_well_formed_page_that_loads_nothing),
      cmocka_unit_test(terminal_report_shows_findings_and_no_control_characters),
      cmocka_unit_test(rerun_command_is_quoted_for_a_shell),
      cmocka_unit_test(unwritable_file_is_an_error_with_its_path),
      cmocka_unit_test(a_passing_run_says_what_it_does_not_exclude),
      cmocka_unit_test(verdict_and_exit_status_agree),
  };
  return cmocka_run_group_tests(tests, make, drop);
}
