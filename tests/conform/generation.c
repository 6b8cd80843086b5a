/** Generations: judged teacher-forced, and the tokens of a free run beside the verdict. The backend is builtin:emulated, which errs honestly. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "run.h"

static mr3d_run *run_of(const char *backend, const char *glob, uint32_t tiers, uint64_t seed) {
  mr3d_run *run = NULL;
  mr3d_error error = {0};
  const mr3d_run_options options = {.backend = backend, .selection = {.case_glob = glob, .tiers = tiers}, .seed = seed, .threads = 1, .golden_dir = getenv("MR3D_GOLDEN")};
  if (mr3d_run_suite(&options, NULL, NULL, &run, &error) != MR3D_OK) fail_msg("%s", error.message);
  return run;
}

static void a_single_row_of_logits_has_the_room_of_one_degree_of_freedom(void **state) {
  (void)state;
  static const struct {
    mr3d_tier tier;
    uint64_t seed;
  } once_failed[] = {{MR3D_BF16_TIER, 5}, {MR3D_FP16, 14}}; /* root mean square 1.33 and 1.32 */
  for (int i = 0; i < 2; i++) {
    mr3d_run *run = run_of("builtin:emulated", "decode/greedy-trained-like", 1u << once_failed[i].tier, once_failed[i].seed);
    if (run->passed != 1) fail_msg("false alarm: %s", run->results[0].reason);
    mr3d_run_free(&run);
  }
}

static void tokens_part_where_two_are_nearly_equal_and_go_on_from_the_backends_own(void **state) {
  (void)state;
  mr3d_run *run = run_of("builtin:emulated", "decode/greedy-trained-like", 1u << MR3D_BF16_TIER, 1);
  const mr3d_generation *g = &run->results[0].generation;
  assert_int_equal(run->passed, 1);
  assert_int_equal(g->n, 5);
  const int at = mr3d_generation_parts_at(g);
  assert_true(at > 0 && at < 5); /* the third, of 80 95 117 80 95 and 80 95 70 66 66 */
  assert_int_not_equal(g->own[4], g->truth[4]);
  mr3d_run_free(&run);
}

static void the_reference_gives_its_own_tokens(void **state) {
  (void)state;
  mr3d_run *run = run_of("builtin:reference", "decode/greedy*", 1u << MR3D_FP64, 0);
  assert_int_equal(run->passed, 3);
  for (int i = 0; i < 3; i++) {
    const mr3d_generation *g = &run->results[i].generation;
    assert_int_equal(g->n, 5);
    assert_int_equal(mr3d_generation_parts_at(g), 5);
  }
  mr3d_run_free(&run);
}

static void what_failed_has_no_tokens(void **state) {
  (void)state;
  mr3d_run *run = run_of("mutant:decode-rope/position-restarts", "decode/greedy", 1u << MR3D_FP64, 0);
  assert_int_equal(run->failed, 1);
  assert_int_equal(run->results[0].generation.n, 0);
  mr3d_run_free(&run);
}

static void where_they_part_is_said(void **state) {
  (void)state;
  char says[200];
  mr3d_generation_say(&(mr3d_generation){.n = 3, .truth = {5, 17, 4}, .own = {5, 17, 3}}, says, sizeof says);
  assert_string_equal(says, "5 17 3 (the truth's are 5 17 4: they part at token 3 of 3)");
  mr3d_generation_say(&(mr3d_generation){.n = 2, .truth = {5, 17}, .own = {5, 17}}, says, sizeof says);
  assert_string_equal(says, "5 17");
  mr3d_generation_say(&(mr3d_generation){.n = 3, .truth = {5, 17, 4}, .own = {5, 17, 3}}, says, 12);
  assert_true(strlen(says) < 12);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(a_single_row_of_logits_has_the_room_of_one_degree_of_freedom),
      cmocka_unit_test(tokens_part_where_two_are_nearly_equal_and_go_on_from_the_backends_own),
      cmocka_unit_test(the_reference_gives_its_own_tokens),
      cmocka_unit_test(what_failed_has_no_tokens),
      cmocka_unit_test(where_they_part_is_said),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
