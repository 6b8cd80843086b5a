/** The runner: what passes, fails, is skipped, or shows that the suite itself is broken. The backend is backends/subject.c, which does what
 * it is told. */
#include <dirent.h>
#include <math.h>

#include "small_suite.h"
#include "in_folder.h"

static const char *subject(void) {
  static char spec[4096];
  assert_non_null(getenv("MR3D_SUBJECT"));
  snprintf(spec, sizeof spec, "exec:'%s'", getenv("MR3D_SUBJECT"));
  return spec;
}

static mr3d_run *run_small(const char *backend, mr3d_selection selection) {
  return run_suite((mr3d_run_options){.backend = backend, .golden_dir = folder, .timeout = 5, .selection = selection}, NULL, NULL);
}

static const mr3d_result *result_of(const mr3d_run *run, const char *id) {
  for (int i = 0; i < run->n_results; i++)
    if (strcmp(run->results[i].test->id, id) == 0) return &run->results[i];
  fail_msg("no result of %s", id);
  return NULL;
}

static void assert_result(const mr3d_run *run, const char *id, mr3d_verdict verdict, const char *reason) {
  const mr3d_result *result = result_of(run, id);
  if (result->verdict != verdict)
    fail_msg("%s: %s (%s), expected %s", id, mr3d_verdict_name(result->verdict), result->reason, mr3d_verdict_name(verdict));
  if (!strstr(result->reason, reason)) fail_msg("%s: the reason\n  %s\nlacks\n  %s", id, result->reason, reason);
}

static void could_not_run(mr3d_run_options options, const char *fragment) {
  mr3d_error error = {0};
  mr3d_run *run = NULL;
  if (!options.golden_dir) options.golden_dir = folder;
  assert_int_not_equal(mr3d_run_suite(&options, NULL, NULL, &run, &error), MR3D_OK);
  assert_null(run);
  if (!strstr(error.message, fragment)) fail_msg("the message\n  %s\nlacks\n  %s", error.message, fragment);
}

static void reference_passes_at_every_tier_and_was_compared_with_the_golden(void **state) {
  (void)state;
  make_set(folder, RMSNORM_CASE("a", "", "") ", " REFUSED_CASE("refused", ""));
  for (uint64_t seed = 0; seed < 2; seed++) {
    mr3d_run *run =
        run_suite((mr3d_run_options){.backend = "builtin:reference", .golden_dir = folder, .seed = seed, .selection = {.tiers = ALL_TIERS}},
                  NULL, NULL);
    assert_int_equal(run->passed, 2 * MR3D_N_TIERS);
    assert_int_equal(run->n_results, run->passed);
    assert_int_equal(run->n_golden_files, 2);
    assert_int_equal(mr3d_run_exit_status(run), 0);
    for (int i = 0; i < run->n_results; i++) {
      assert_false(isnan(run->results[i].golden_worst));
      assert_int_equal(run->results[i].seed, seed);
    }
    mr3d_run_free(&run);
  }
}

#define DO(what) "\"meta\": {\"do\": \"" what "\"}, "

static void each_kind_of_reply_has_its_verdict(void **state) {
  (void)state;
  make_set(folder, RMSNORM_CASE("crash", "", DO("exit")) ", " RMSNORM_CASE("echo", "", "") ", " RMSNORM_CASE("refuses-legal", "", DO("refuse")) ", "
           RMSNORM_CASE("unsupported", "", DO("unsupported")) ", " RMSNORM_CASE("garbage", "", DO("garbage")) ", " REFUSED_CASE("refused", DO("refuse")) ", "
           REFUSED_CASE("answered", "") ", " REFUSED_CASE("evaded", DO("unsupported")) ", "
           "{\"id\": \"swiglu/a\", \"title\": \"t\", \"why\": \"w\", \"level\": \"L0\", \"config\": {}, \"steps\": [{\"op\": \"swiglu\", "
           "\"inputs\": {\"gate\": " X_RECIPE ", \"up\": " X_RECIPE "}}]}");
  mr3d_run *run = run_small(subject(), (mr3d_selection){0});
  assert_result(run, "rmsnorm/crash", MR3D_FAILED, "the backend crashed");
  assert_non_null(strstr(mr3d_result_log(result_of(run, "rmsnorm/crash")), "no such weights")); /* its stderr is kept */
  assert_result(run, "rmsnorm/echo", MR3D_FAILED, "step 0 (rmsnorm): \"");                      /* asked again after the crash */
  assert_result(run, "rmsnorm/refuses-legal", MR3D_FAILED, "refused a request that must be answered: as asked");
  assert_result(run, "rmsnorm/unsupported", MR3D_SKIPPED, "unsupported: as asked");
  assert_result(run, "rmsnorm/garbage", MR3D_FAILED, "malformed");
  assert_result(run, "rmsnorm/refused", MR3D_PASSED, "");
  assert_result(run, "rmsnorm/answered", MR3D_FAILED, "must be refused: ");
  assert_non_null(strstr(result_of(run, "rmsnorm/answered")->reason, "weight")); /* says why: the reference's own message */
  assert_result(run, "rmsnorm/evaded", MR3D_FAILED, "must be refused: ");
  assert_result(run, "swiglu/a", MR3D_SKIPPED, "does not offer swiglu");
  assert_int_equal(run->passed, 1);
  assert_int_equal(run->failed, 6);
  assert_int_equal(run->skipped, 2);
  assert_int_equal(mr3d_run_exit_status(run), 2);
  mr3d_run_free(&run);
}

static void what_a_backend_promises_reaches_its_run(void **state) {
  (void)state;
  make_set(folder, RMSNORM_CASE("a", "", ""));
  char spec[4200];
  snprintf(spec, sizeof spec, "exec:'%s' scores fp32", getenv("MR3D_SUBJECT"));
  mr3d_run *run = run_suite((mr3d_run_options){.backend = spec, .golden_dir = folder}, NULL, NULL);
  assert_true(run->info.kept != 0);
  mr3d_run_free(&run);
}

static void an_end_that_is_not_what_it_should_be_is_remarked_upon(void **state) {
  (void)state;
  make_set(folder, REFUSED_CASE("refused", DO("refuse")));
  for (int badly = 0; badly < 2; badly++) {
    char spec[4200];
    snprintf(spec, sizeof spec, "exec:'%s' %s", getenv("MR3D_SUBJECT"), badly ? "ends-badly" : "");
    mr3d_run *run = run_suite((mr3d_run_options){.backend = spec, .golden_dir = folder}, NULL, NULL);
    assert_int_equal(mr3d_run_exit_status(run), 0);
    if (badly) assert_string_equal(run->remarks, "after bye the backend's process exited with status 3; expected is an end with exit status 0");
    else assert_null(run->remarks);
    mr3d_run_free(&run);
  }
}

static void session_ends_at_its_first_failure(void **state) {
  (void)state;
  const char *step = "{\"op\": \"rmsnorm\", \"inputs\": {\"x\": " X_RECIPE ", \"weight\": " W_RECIPE "}}";
  char text[4000];
  snprintf(text, sizeof text,
           "{\"id\": \"rmsnorm/two\", \"title\": \"t\", \"why\": \"w\", \"level\": \"L0\", \"config\": " RMSNORM_CONFIG
           ", \"steps\": [%s, %s]}",
           step, step);
  make_set(folder, text);
  mr3d_run *run = run_small(subject(), (mr3d_selection){0});
  assert_int_equal(run->results[0].verdict, MR3D_FAILED);
  assert_int_equal(run->results[0].n_steps, 1);
  mr3d_run_free(&run);
  run = run_small("builtin:reference", (mr3d_selection){.tiers = 1u << MR3D_BF16_TIER});
  assert_int_equal(run->results[0].verdict, MR3D_PASSED);
  assert_int_equal(run->results[0].n_steps, 2);
  mr3d_run_free(&run);
}

static void silent_operator_is_asked_twice_and_then_failed_unasked(void **state) {
  (void)state;
  make_set(folder, RMSNORM_CASE("a", "", DO("hang")) ", " RMSNORM_CASE("b", "", DO("hang")) ", " RMSNORM_CASE(
                       "c", "", "") ", " RMSNORM_CASE("d", "", ""));
  mr3d_run *run = run_suite((mr3d_run_options){.backend = subject(), .golden_dir = folder, .timeout = 0.2}, NULL, NULL);
  assert_result(run, "rmsnorm/a", MR3D_FAILED, "no reply within 0.2 s (--timeout)");
  assert_result(run, "rmsnorm/b", MR3D_FAILED, "no reply within 0.2 s (--timeout)");
  assert_result(run, "rmsnorm/c", MR3D_FAILED, "not asked");
  assert_result(run, "rmsnorm/d", MR3D_FAILED, "not asked");
  assert_int_equal(result_of(run, "rmsnorm/b")->steps[0].reply.kind, MR3D_REPLY_TIMEOUT);
  assert_false(result_of(run, "rmsnorm/c")->steps[0].asked);
  mr3d_run_free(&run);
}

static void tier_that_is_not_announced_is_skipped_and_alone_judges_nothing(void **state) {
  (void)state;
  make_set(folder, REFUSED_CASE("refused", DO("refuse")));
  mr3d_run *run = run_small(subject(), (mr3d_selection){.tiers = 1u << MR3D_FP32 | 1u << MR3D_FP64});
  assert_int_equal(run->passed, 1);
  assert_int_equal(run->skipped, 1);
  assert_int_equal(mr3d_run_exit_status(run), 0);
  mr3d_run_free(&run);
  run = run_small(subject(), (mr3d_selection){.tiers = 1u << MR3D_FP64});
  assert_int_equal(run->skipped, 1);
  assert_int_equal(mr3d_run_exit_status(run), 1); /* nothing was compared */
  char why[512];
  assert_string_equal(mr3d_run_verdict(run, why), "COULD NOT JUDGE");
  assert_non_null(strstr(why, "nothing was compared"));
  assert_non_null(strstr(why, "does not offer tier fp64"));
  mr3d_run_free(&run);
}

static void wrong_golden_breaks_the_suite_not_the_backend(void **state) {
  (void)state;
  make_set(folder, RMSNORM_CASE("a", "", "") ", " RMSNORM_CASE("b", "", ""));
  char path[600];
  mr3d_error error = {0};
  mr3d_bundle *file = NULL, *changed = mr3d_bundle_new();
  snprintf(path, sizeof path, "%s/set/rmsnorm_a.safetensors.gz", folder);
  assert_int_equal(mr3d_safetensors_open(path, 0, &file, &error), MR3D_OK);
  mr3d_bundle_set(changed, "case", "rmsnorm/a");
  ((double *)mr3d_bundle_copy(changed, "0.y", mr3d_bundle_find(file, "0.y"))->data)[3] += 1e-9;
  mr3d_bundle_free(&file);
  assert_int_equal(mr3d_safetensors_save(path, changed, &error), MR3D_OK);
  mr3d_bundle_free(&changed);
  write_manifest(folder);
  const uint64_t seeds[] = {0, 9};
  for (int i = 0; i < 2; i++) { /* with the golden's own inputs, and with others */
    mr3d_run *run = run_suite((mr3d_run_options){.backend = "builtin:reference",
                                                 .golden_dir = folder,
                                                 .seed = seeds[i],
                                                 .selection = {.tiers = 1u << MR3D_FP64 | 1u << MR3D_FP16}},
                              NULL, NULL);
    assert_result(run, "rmsnorm/a", MR3D_BROKEN, "reference and golden part");
    assert_int_equal(run->broken, 2);
    assert_int_equal(run->passed, 2);
    assert_int_equal(mr3d_run_exit_status(run), 1);
    mr3d_run_free(&run);
  }
}

static void case_that_contradicts_the_reference_is_broken(void **state) {
  (void)state;
  make_set(folder, RMSNORM_CASE("must-not-be-refused", "", "\"expect\": \"error\", ") ", " REFUSED_CASE("refused", ""));
  mr3d_run *run = run_small("builtin:reference", (mr3d_selection){.tiers = 1u << MR3D_FP64});
  assert_result(run, "rmsnorm/must-not-be-refused", MR3D_BROKEN, "which must be refused");
  mr3d_run_free(&run);
  make_set(folder, "{\"id\": \"rmsnorm/message\", \"title\": \"t\", \"why\": \"w\", \"level\": \"L0\", \"config\": " RMSNORM_CONFIG
                   ", \"steps\": [{\"op\": \"rmsnorm\", \"expect\": \"error\", "
                   "\"message\": [\"106328\"], \"inputs\": {\"x\": " X_RECIPE "}}]}");
  char path[600];
  snprintf(path, sizeof path, "%s/set/rmsnorm_must-not-be-refused.safetensors.gz", folder);
  unlink(path);
  snprintf(path, sizeof path, "%s/set/rmsnorm_refused.safetensors.gz", folder);
  unlink(path);
  run = run_small("builtin:reference", (mr3d_selection){.tiers = 1u << MR3D_FP64});
  assert_result(run, "rmsnorm/message", MR3D_BROKEN, "lacks \"106328\"");
  mr3d_run_free(&run);
}

static void selection_of_nothing_is_an_error_that_says_what_was_meant(void **state) {
  (void)state;
  make_set(folder, RMSNORM_CASE("a", "", ""));
  could_not_run((mr3d_run_options){.backend = "builtin:reference", .selection = {.op = "rmsnrom"}}, "did you mean \"rmsnorm\"?");
  could_not_run((mr3d_run_options){.backend = "builtin:reference", .selection = {.op = "rmsnorm,swiglu"}}, "\"swiglu\": no case has that");
  could_not_run((mr3d_run_options){.backend = "builtin:reference", .selection = {.level = "L1"}}, "--level \"L1\"");
  could_not_run((mr3d_run_options){.backend = "builtin:reference", .selection = {.pitfall = "mask-lenght"}},
                "did you mean \"mask-length\"?");
  could_not_run((mr3d_run_options){.backend = "builtin:reference", .selection = {.tag = "smal"}}, "did you mean \"small\"?");
  could_not_run((mr3d_run_options){.backend = "builtin:reference", .selection = {.case_glob = "rmsnorm/b*"}},
                "the selection is empty: none of the 1 cases matches --case rmsnorm/b*");
  could_not_run((mr3d_run_options){.backend = "builtin:reference", .selection = {.pitfall = "gqa-heads"}}, "the selection is empty");
  could_not_run((mr3d_run_options){.backend = "builtin:referenz"}, "reference");
  could_not_run((mr3d_run_options){.backend = "exec:/no/such/program"}, "/no/such/program");
}

static void selections_narrow_each_other(void **state) {
  (void)state;
  make_set(folder, RMSNORM_CASE("a", "", "") ", " RMSNORM_CASE("b", "\"tiers\": [\"bf16\"], ", "") ", " REFUSED_CASE("refused", ""));
  const struct {
    mr3d_selection selection;
    int results;
  } choices[] = {{{.tag = "small", .tiers = ALL_TIERS}, 6},
                 {{.tag = "small,error", .tiers = ALL_TIERS}, 11},
                 {{.case_glob = "rmsnorm/?", .tiers = ALL_TIERS}, 6},
                 {{.case_glob = "rmsnorm/?", .tiers = 1u << MR3D_BF16_TIER}, 2},
                 {{.case_glob = "*", .tiers = 1u << MR3D_FP32}, 2},
                 {{.pitfall = "qwen2-details", .tiers = ALL_TIERS}, 6},
                 {{.tag = "small"}, 1}, /* the reference's default tier is fp64, and b is not for it */
                 {{.op = "rmsnorm", .level = "L0", .tag = "error", .tiers = ALL_TIERS}, 5}};
  for (size_t i = 0; i < sizeof choices / sizeof *choices; i++) {
    mr3d_run *run = run_small("builtin:reference", choices[i].selection);
    if (run->n_results != choices[i].results) fail_msg("choice %zu: %d results, expected %d", i, run->n_results, choices[i].results);
    mr3d_run_free(&run);
  }
}

static bool one_only(void *user, const mr3d_run *run, int total) {
  *(int *)user = total;
  return run->n_results < 1;
}

static void progress_ends_a_run(void **state) {
  (void)state;
  int total = 0;
  make_set(folder, RMSNORM_CASE("a", "", "") ", " RMSNORM_CASE("b", "", ""));
  mr3d_run *run = run_suite((mr3d_run_options){.backend = subject(), .golden_dir = folder}, one_only, &total);
  assert_int_equal(total, 2);
  assert_int_equal(run->n_results, 1);
  mr3d_run_free(&run);
}

static int count_entries(const char *path) {
  int n = 0;
  DIR *dir = opendir(path);
  for (struct dirent *entry; dir && (entry = readdir(dir));) n += entry->d_name[0] != '.';
  if (dir) closedir(dir);
  return n;
}

static bool sees_weights(void *user, const mr3d_run *run, int total) {
  (void)run, (void)total;
  *(int *)user += count_entries(folder); /* the run's own folder */
  return true;
}

static void weights_files_are_gone_after_the_run(void **state) {
  (void)state;
  int seen = 0;
  char *before = getenv("TMPDIR") ? strdup(getenv("TMPDIR")) : NULL;
  setenv("TMPDIR", folder, 1);
  mr3d_run *run = run_suite(
      (mr3d_run_options){.backend = "builtin:reference", .selection = {.case_glob = "prefill/option-*", .tiers = 1u << MR3D_FP32}},
      sees_weights, &seen);
  before ? setenv("TMPDIR", before, 1) : unsetenv("TMPDIR");
  free(before);
  assert_int_equal(mr3d_run_exit_status(run), 0);
  assert_true(run->passed > 0 && seen > 0);
  assert_int_equal(count_entries(folder), 0);
  mr3d_run_free(&run);
}

#define FACT(name) cmocka_unit_test_setup_teardown(name, make, drop)
int main(void) {
  const struct CMUnitTest tests[] = {
      FACT(reference_passes_at_every_tier_and_was_compared_with_the_golden),
      FACT(each_kind_of_reply_has_its_verdict),
      FACT(what_a_backend_promises_reaches_its_run),
      FACT(an_end_that_is_not_what_it_should_be_is_remarked_upon),
      FACT(session_ends_at_its_first_failure),
      FACT(silent_operator_is_asked_twice_and_then_failed_unasked),
      FACT(tier_that_is_not_announced_is_skipped_and_alone_judges_nothing),
      FACT(wrong_golden_breaks_the_suite_not_the_backend),
      FACT(case_that_contradicts_the_reference_is_broken),
      FACT(selection_of_nothing_is_an_error_that_says_what_was_meant),
      FACT(selections_narrow_each_other),
      FACT(progress_ends_a_run),
      FACT(weights_files_are_gone_after_the_run),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
