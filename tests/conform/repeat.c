/** Cases asked again (--repeat, --shuffle): what depends on repetition or order is found, and is named P26. */
#include <cjson/cJSON.h>

#include "../program.h"
#include "repeat.h"
#include "small_suite.h"
#include "in_folder.h"

#define DO(what) "\"meta\": {\"from\": \"reference\", \"do\": \"" what "\"}, "

static mr3d_run *run_subject(int repeat, bool shuffle) {
  static char spec[4096];
  snprintf(spec, sizeof spec, "exec:'%s'", getenv("MR3D_SUBJECT"));
  return run_suite((mr3d_run_options){.backend = spec, .golden_dir = folder, .timeout = 5, .repeat = repeat, .shuffle = shuffle}, NULL, NULL);
}

static void a_shuffle_is_a_permutation_of_its_seed_and_repetition(void **state) {
  (void)state;
  int a[97], b[97], c[97], seen[97] = {0};
  mr3d_shuffle(7, 2, 97, a);
  mr3d_shuffle(7, 2, 97, b);
  mr3d_shuffle(7, 3, 97, c);
  assert_memory_equal(a, b, sizeof a);
  assert_memory_not_equal(a, c, sizeof a);
  mr3d_shuffle(8, 2, 97, c);
  assert_memory_not_equal(a, c, sizeof a);
  for (int i = 0; i < 97; i++) seen[a[i]]++;
  for (int i = 0; i < 97; i++) assert_int_equal(seen[i], 1);
}

/** A bundle of one tensor of binary32, its value at [1,2] as given. */
static mr3d_bundle *answer_with(float value) {
  mr3d_bundle *answer = mr3d_bundle_new();
  float *y = mr3d_bundle_add(answer, "y", MR3D_F32, 2, (int64_t[]){2, 3})->data;
  for (int i = 0; i < 6; i++) y[i] = (float)i;
  y[5] = value;
  return answer;
}

static void the_first_differing_element_is_given_with_both_values(void **state) {
  (void)state;
  static mr3d_step step = {.op = "rmsnorm"};
  static const mr3d_case test = {.id = "rmsnorm/a", .n_steps = 1, .steps = &step};
  for (int room = 0; room < 2; room++) {
    mr3d_memory *memory = mr3d_memory_new(1, room ? 1000 : 8);
    mr3d_difference d;
    mr3d_reply first = {.kind = MR3D_REPLY_ANSWER, .answer = answer_with(0.0f)}, other = {.kind = MR3D_REPLY_ANSWER, .answer = answer_with(-0.0f)};
    mr3d_reply refusal = {.kind = MR3D_REPLY_ERROR}, same = {.kind = MR3D_REPLY_ANSWER, .answer = answer_with(0.0f)};
    mr3d_memory_keep(memory, 0, 0, NULL, &first);
    assert_int_equal(first.answer == NULL, room);
    assert_false(mr3d_memory_differs(memory, 0, 0, &same, &d));
    assert_true(mr3d_memory_differs(memory, 0, 0, &other, &d)); /* bit for bit: -0 is not 0 */
    assert_string_equal(d.index, room ? "[1,2]" : "");
    assert_string_equal(d.tensor, room ? "y" : "");
    char says[600];
    d.repetition = 2, d.after = &test;
    mr3d_difference_say(&d, &(mr3d_result){.test = &test}, says, sizeof says);
    assert_non_null(strstr(says, room ? "\"y\" at [1,2] is -0, the first time it was 0 (asked after rmsnorm/a, the first time after nothing)" : "too large to be kept whole"));
    assert_true(mr3d_memory_differs(memory, 0, 0, &refusal, &d));
    mr3d_bundle_free(&first.answer), mr3d_bundle_free(&other.answer), mr3d_bundle_free(&same.answer);
    mr3d_memory_free(&memory);
  }
}

static void a_backend_that_answers_alike_has_no_differences(void **state) {
  (void)state;
  make_set(folder, RMSNORM_CASE("a", "", DO("")) ", " RMSNORM_CASE("b", "", DO("")) ", " REFUSED_CASE("refused", DO("")));
  for (int shuffle = 0; shuffle < 2; shuffle++) {
    mr3d_run *run = run_subject(3, shuffle);
    assert_int_equal(run->passed, 3);
    assert_int_equal(run->asked_again, 6);
    assert_int_equal(mr3d_run_unsteady(run), 0);
    mr3d_run_free(&run);
  }
}

static void a_difference_within_tolerance_is_information(void **state) {
  (void)state;
  make_set(folder, RMSNORM_CASE("a", "", DO("nudge")) ", " RMSNORM_CASE("b", "", DO("")));
  mr3d_run *run = run_subject(2, false);
  const mr3d_difference *d = &run->results[0].difference;
  assert_int_equal(run->passed, 2);
  assert_int_equal(mr3d_run_exit_status(run), 0);
  assert_int_equal(mr3d_run_unsteady(run), 1);
  assert_string_equal(d->tensor, "y");
  assert_string_equal(d->index, "[0,3]");
  assert_true(d->again > d->first && d->again - d->first < 1e-6);
  assert_string_equal(d->after->id, "rmsnorm/b");
  mr3d_run_free(&run);
}

static void an_answer_that_depends_on_threads_is_found(void **state) {
  (void)state;
  make_set(folder, RMSNORM_CASE("a", "", DO("threads")));
  for (int door = 0; door < 2; door++) {
    char spec[4200];
    snprintf(spec, sizeof spec, door ? "exec:'%s'" : "lib:%s", getenv(door ? "MR3D_SUBJECT" : "MR3D_PLUGIN_THREADS"));
    mr3d_run *run = run_suite((mr3d_run_options){.backend = spec, .golden_dir = folder, .threads = 2, .shuffle = true}, NULL, NULL);
    const mr3d_difference *d = &run->results[0].difference;
    assert_int_equal(run->passed, 1);
    assert_string_equal(d->index, door ? "[0,3]" : "[0,2]");
    assert_int_equal(d->threads, 1);
    char says[600];
    mr3d_difference_say(d, &run->results[0], says, sizeof says);
    assert_non_null(strstr(says, "it was given 1 thread this time"));
    mr3d_run_free(&run);
  }
}

static void order_is_named_in_every_report_with_what_repeats_it(void **state) {
  (void)state;
  make_set(folder, RMSNORM_CASE("a", "", DO("nudge")) ", " RMSNORM_CASE("b", "", DO("nudge")));
  assert_int_equal(mr3d("check --backend exec:\"'%s'\" --golden %s --shuffle 5 --json %s/r.json --html %s/r.html", getenv("MR3D_SUBJECT"), folder, folder, folder), 0);
  assert_said("asked 2 times, again in the order of --shuffle 5");
  assert_said("answered otherwise when asked again, within tolerance");
  assert_said("\"y\" at [0,3] is ");
  char command[600];
  const char *const found[] = {"grep -q '\"shuffle\":\"5\"' %s/r.json", "grep -q '\"tensor\":\"y\",\"index\":\"\\[0,3\\]\"' %s/r.json", "grep -q 'the order of --shuffle 5' %s/r.html",
                               "grep -q 'Order-sensitive</a></strong>, within tolerance: ' %s/r.html"};
  for (int i = 0; i < 4; i++) {
    snprintf(command, sizeof command, found[i], folder);
    if (run_command(command) != 0) fail_msg("%s", command);
  }
}

/** A run on the committed set that fails, and the name of a finding. */
static void assert_named(const char *words, const char *name) {
  assert_int_equal(mr3d("check --golden '%s' --tier fp32 %s --quiet", committed_set(), words), 2);
  char line[200];
  snprintf(line, sizeof line, ". %s: ", name);
  assert_said(line);
  assert_said("the answer depends on repetition or on what was asked before (P26)");
}

static void a_failure_that_comes_with_repetition_or_order_is_named_order_sensitivity(void **state) {
  (void)state;
  assert_named("--backend mutant:order-sensitivity/workspace-not-cleared --op rmsnorm --repeat 2 --shuffle", "order-sensitivity");
  assert_named("--backend mutant:order-sensitivity/workspace-not-cleared --op rmsnorm --repeat 2", "order-sensitivity");
  assert_said("passed the first time");
  assert_said("--op rmsnorm --repeat 2 --tier fp32");
  /* What sticks from the first call on answers alike for ever: only another order, begun anew, shows it. */
  assert_int_equal(mr3d("check --golden '%s' --tier fp32 --op mask --backend mutant:order-sensitivity/mask-by-shape --repeat 2 --quiet", committed_set()), 2);
  assert_null(strstr(output, ". order-sensitivity: "));
  assert_int_equal(mr3d("check --golden '%s' --tier fp32 --op mask --backend mutant:order-sensitivity/mask-by-shape --repeat 2 --shuffle --quiet", committed_set()), 2);
  assert_said(". order-sensitivity: ");
}

static void several_processes_find_differences_too(void **state) {
  (void)state;
  assert_named("--backend mutant:order-sensitivity/workspace-not-cleared --op rmsnorm --repeat 2 --shuffle 3 --jobs 2", "order-sensitivity");
  assert_said("by 2 processes");
}

#define FACT(name) cmocka_unit_test_setup_teardown(name, make, drop)
int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(a_shuffle_is_a_permutation_of_its_seed_and_repetition),
      cmocka_unit_test(the_first_differing_element_is_given_with_both_values),
      FACT(a_backend_that_answers_alike_has_no_differences),
      FACT(a_difference_within_tolerance_is_information),
      FACT(an_answer_that_depends_on_threads_is_found),
      FACT(order_is_named_in_every_report_with_what_repeats_it),
      FACT(a_failure_that_comes_with_repetition_or_order_is_named_order_sensitivity),
      FACT(several_processes_find_differences_too),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
