/** P5 mask-ownership: the mask is left to a parent class or library; a step is missing, or the call never returns (spec.md 4). */
#include "../suite.h"

enum { PAST = 786, NEW = 3, KEYS = PAST + NEW };

/** The five steps at once: past length, repair, causal part, padding part, combination. */
static void key_is_visible_exactly_when_causal_and_present(void **state) {
  (void)state;
  int64_t mask[KEYS];
  static bool visible[NEW * KEYS];
  for (int j = 0; j < KEYS; j++) mask[j] = j % 7 != 3;
  const mr3d_context context = {.op = &mr3d_reference_operators};
  mr3d_error error = {0};
  for (int repaired = 0; repaired < 2; repaired++) { /* a full mask, then one that counts 234 text tokens */
    const int64_t M = repaired ? 234 : KEYS;
    assert_int_equal(mr3d_mask(&context, &(mr3d_mask_in){.B = 1, .L = PAST, .q = NEW, .M = M, .key_mask = mask}, visible, &error), MR3D_OK);
    for (int i = 0; i < NEW; i++)
      for (int j = 0; j < KEYS; j++) assert_int_equal(visible[i * KEYS + j], j <= PAST + i && (j >= M || mask[j]));
  }
}

static void prefill_of_786_is_causal_and_points_see_no_later_point(void **state) {
  (void)state;
  bool *visible = mr3d_allocate((int64_t)PAST * PAST, sizeof *visible);
  const mr3d_context context = {.op = &mr3d_reference_operators};
  mr3d_error error = {0};
  assert_int_equal(mr3d_mask(&context, &(mr3d_mask_in){.B = 1, .q = PAST}, visible, &error), MR3D_OK);
  int64_t seen = 0;
  for (int i = 0; i < PAST; i++)
    for (int j = 0; j < PAST; j++) {
      assert_int_equal(visible[i * PAST + j], j <= i);
      seen += visible[i * PAST + j];
    }
  assert_int_equal(seen, 786 * 787 / 2);
  free(visible);
}

static void hidden_key_weighs_exactly_nothing(void **state) {
  (void)state;
  mr3d_server *server = new_server();
  mr3d_bundle *r = request("attention", "{}");
  add_reals(r, "query", 1, SHAPE(1, 1, 2, 4));
  double *key = add_reals(r, "key", 1, SHAPE(1, 1, 3, 4))->data, *value = add_reals(r, "value", 1, SHAPE(1, 1, 3, 4))->data;
  bool *visible = mr3d_bundle_add(r, "visible", MR3D_BOOL, SHAPE(1, 2, 3))->data;
  memcpy(visible, (const bool[]){true, true, false, false, false, false}, 6);
  for (int d = 0; d < 4; d++) key[8 + d] = 1e6, value[8 + d] = 1e300; /* the hidden key would drown everything */
  mr3d_bundle *a = answer(server, r);
  for (int d = 0; d < 4; d++) {
    assert_true(reals(a, "y")[d] > -1 && reals(a, "y")[d] < 1);
    assert_true(reals(a, "y")[4 + d] == 0); /* a row that sees nothing is zero, not NaN */
  }
  mr3d_bundle_free(&a);
  mr3d_server_free(&server);
}

static void subject_that_never_returns_times_out_and_is_named(void **state) {
  (void)state;
  mr3d_run *run = run_suite((mr3d_run_options){.backend = "mutant:mask-ownership/never-returns",
                                               .timeout = 0.3,
                                               .selection = {.op = "mask", .tiers = 1u << MR3D_FP64, .pitfall = "mask-ownership"}},
                            NULL, NULL);
  assert_int_equal(mr3d_run_exit_status(run), 2);
  assert_int_equal(run->passed, 0);
  int asked = 0;
  for (int i = 0; i < run->n_results; i++) {
    const mr3d_result *result = &run->results[i];
    assert_int_equal(result->verdict, MR3D_FAILED);
    assert_string_equal(result->mistake, "mask-ownership/never-returns");
    if (!result->steps[0].asked) continue;
    asked++;
    assert_int_equal(result->steps[0].reply.kind, MR3D_REPLY_TIMEOUT);
    assert_true(result->steps[0].reply.seconds < 5);
  }
  assert_int_equal(asked, 2); /* after two silences an operator is not asked again: the run ends */
  mr3d_run_free(&run);
}

PITFALL_TEST("mask-ownership", cmocka_unit_test(key_is_visible_exactly_when_causal_and_present),
             cmocka_unit_test(prefill_of_786_is_causal_and_points_see_no_later_point), cmocka_unit_test(hidden_key_weighs_exactly_nothing),
             cmocka_unit_test(subject_that_never_returns_times_out_and_is_named))
