/** Attention mask: who sees whom (spec.md section 4, pitfalls mask-length and mask-ownership). */
#include "ops_test.h"

static mr3d_status mask(mr3d_mask_in in, bool *visible, mr3d_error *error) { return mr3d_mask(&exact, &in, visible, error); }

static void prefill_is_causal_and_padding_is_hidden(void **state) {
  (void)state;
  const int64_t key_mask[] = {1, 0, 1, 1, /**/ 1, 1, 1, 0};
  bool visible[2 * 4 * 4];
  mr3d_error error = {0};
  assert_int_equal(mask((mr3d_mask_in){.B = 2, .q = 4, .M = 4, .key_mask = key_mask}, visible, &error), MR3D_OK);
  const bool expected[] = {1, 0, 0, 0, 1, 0, 0, 0, 1, 0, 1, 0, 1, 0, 1, 1, /**/ 1, 0, 0, 0, 1, 1, 0, 0, 1, 1, 1, 0, 1, 1, 1, 0};
  assert_memory_equal(visible, expected, sizeof expected);
}

static void decode_mask_of_232_gains_555_ones_at_its_end(void **state) {
  (void)state;
  enum { L = 786, K = 787, M = 232 };
  int64_t key_mask[M];
  for (int64_t j = 0; j < M; j++)
    key_mask[j] = j % 5 != 0;
  bool visible[K];
  mr3d_error error = {0};
  assert_int_equal(mask((mr3d_mask_in){.B = 1, .L = L, .q = 1, .M = M, .key_mask = key_mask}, visible, &error), MR3D_OK);
  int64_t added = 0;
  for (int64_t j = 0; j < K; j++) {
    assert_int_equal(visible[j], j >= M || j % 5 != 0);
    added += j >= M && visible[j];
  }
  assert_int_equal(added, 555);
}

static void chunk_of_several_tokens_sees_the_past_and_its_own_order(void **state) {
  (void)state;
  bool visible[3 * 5];
  mr3d_error error = {0};
  assert_int_equal(mask((mr3d_mask_in){.B = 1, .L = 2, .q = 3}, visible, &error), MR3D_OK);
  const bool expected[] = {1, 1, 1, 0, 0, 1, 1, 1, 1, 0, 1, 1, 1, 1, 1};
  assert_memory_equal(visible, expected, sizeof expected);
}

static void fully_masked_sample_sees_nothing(void **state) {
  (void)state;
  const int64_t key_mask[] = {0, 0};
  bool visible[4] = {true, true, true, true};
  mr3d_error error = {0};
  assert_int_equal(mask((mr3d_mask_in){.B = 1, .q = 2, .M = 2, .key_mask = key_mask}, visible, &error), MR3D_OK);
  for (int i = 0; i < 4; i++)
    assert_false(visible[i]);
}

static void spliced_rule_uses_the_prefill_mask_and_only_checks_the_callers(void **state) {
  (void)state;
  const int64_t prefill[] = {1, 1, 0, /**/ 1, 1, 1}, caller[] = {0, 0, /**/ 0, 0};
  bool visible[2 * 1 * 5];
  mr3d_error error = {0};
  const mr3d_mask_in in = {.B = 2, .L = 4, .q = 1, .M = 2, .key_mask = caller, .L0 = 3, .prefill_mask = prefill, .rule = MR3D_SPLICED};
  assert_int_equal(mask(in, visible, &error), MR3D_OK);
  const bool expected[] = {1, 1, 0, 1, 1, /**/ 1, 1, 1, 1, 1};
  assert_memory_equal(visible, expected, sizeof expected);
  mr3d_mask_in longer = in;
  longer.M = 6;
  assert_refused(mask(longer, visible, &error), &error, "key_mask has 6 columns", "at most 5");
  longer = in;
  longer.L0 = 6;
  assert_refused(mask(longer, visible, &error), &error, "prefill_mask has 6 columns");
}

static void spliced_rule_without_prefill_mask_takes_the_key_mask_for_it(void **state) {
  (void)state;
  const int64_t caller[] = {1, 0};
  bool visible[5];
  mr3d_error error = {0};
  assert_int_equal(mask((mr3d_mask_in){.B = 1, .L = 4, .q = 1, .M = 2, .key_mask = caller, .rule = MR3D_SPLICED}, visible, &error), MR3D_OK);
  const bool expected[] = {1, 0, 1, 1, 1};
  assert_memory_equal(visible, expected, sizeof expected);
}

static void wrong_masks_are_refused_with_the_numbers_and_nothing_is_written(void **state) {
  (void)state;
  const int64_t ones[] = {1, 1, 1, 1}, two[] = {1, 1, 2, 1};
  bool visible[16] = {false}, untouched[16] = {false};
  mr3d_error error = {0};
  assert_refused(mask((mr3d_mask_in){.B = 1, .L = 2, .q = 1, .M = 4, .key_mask = ones}, visible, &error), &error, "key_mask has 4 columns", "at most 3 = past 2 + new 1");
  assert_refused(mask((mr3d_mask_in){.B = 1, .q = 4, .M = 3, .key_mask = ones}, visible, &error), &error, "key_mask has 3 columns for 4 tokens at prefill");
  assert_refused(mask((mr3d_mask_in){.B = 1, .q = 4, .M = 4, .key_mask = two}, visible, &error), &error, "key_mask[0][2] is 2");
  assert_refused(mask((mr3d_mask_in){.B = 2, .L = 1, .q = 1, .M = 2, .key_mask = two}, visible, &error), &error, "key_mask[1][0] is 2");
  assert_refused(mask((mr3d_mask_in){.B = 1, .q = 4, .L0 = 4, .prefill_mask = ones}, visible, &error), &error, "prefill_mask", "spliced");
  assert_refused(mask((mr3d_mask_in){.B = 1, .L = -1, .q = 4}, visible, &error), &error, "past_len is -1");
  assert_memory_equal(visible, untouched, sizeof visible);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(prefill_is_causal_and_padding_is_hidden),
      cmocka_unit_test(decode_mask_of_232_gains_555_ones_at_its_end),
      cmocka_unit_test(chunk_of_several_tokens_sees_the_past_and_its_own_order),
      cmocka_unit_test(fully_masked_sample_sees_nothing),
      cmocka_unit_test(spliced_rule_uses_the_prefill_mask_and_only_checks_the_callers),
      cmocka_unit_test(spliced_rule_without_prefill_mask_takes_the_key_mask_for_it),
      cmocka_unit_test(wrong_masks_are_refused_with_the_numbers_and_nothing_is_written),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
