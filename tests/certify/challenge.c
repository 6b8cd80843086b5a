/** Challenges: what a nonce draws, and samples that stand beside others in a batch. */
#include "../suite.h"
#include "certified.h"

static mr3d_challenge challenge_of(const char *hex) {
  mr3d_challenge challenge;
  mr3d_error error = {0};
  if (mr3d_challenge_parse(hex, &challenge, &error) != MR3D_OK) fail_msg("%s", error.message);
  return challenge;
}

static void nonces_are_hexadecimal_and_long_enough(void **state) {
  (void)state;
  static const char *const wrong[] = {"", "00", "000102030405060708090a0b0c0d0e", "000102030405060708090a0b0c0d0e0", "000102030405060708090a0b0c0d0e0g", "0x0102030405060708090a0b0c0d0e0f", " 00102030405060708090a0b0c0d0e0f"};
  mr3d_challenge challenge = {0};
  mr3d_error error = {0};
  char hex[2 * MR3D_MOST_NONCE + 1], longest[131];
  for (size_t i = 0; i < sizeof wrong / sizeof *wrong; i++) assert_int_equal(mr3d_challenge_parse(wrong[i], &challenge, &error), MR3D_INVALID);
  memset(longest, 'a', 130), longest[130] = 0;
  assert_int_equal(mr3d_challenge_parse(longest, &challenge, &error), MR3D_INVALID);
  longest[128] = 0;
  assert_int_equal(mr3d_challenge_parse(longest, &challenge, &error), MR3D_OK);
  mr3d_challenge_print(&challenge, hex);
  assert_string_equal(hex, longest);
  challenge = challenge_of("000102030405060708090A0B0C0D0E0F");
  mr3d_challenge_print(&challenge, hex);
  assert_string_equal(hex, NONCE);
}

/** Python's hashlib.blake2b gives these (docs/certificate.md, "Challenge"). */
static void seeds_are_those_of_the_documentation(void **state) {
  (void)state;
  const mr3d_challenge challenge = challenge_of(NONCE);
  assert_true(mr3d_challenge_seed(&challenge, "rmsnorm/a", MR3D_PLAIN) == 13188071971509132602u);
  assert_true(mr3d_challenge_seed(&challenge, "rmsnorm/a", MR3D_OTHER_SEED) == 15182947789495925094u);
  assert_true(mr3d_challenge_seed(&challenge, "rmsnorm/a", MR3D_AGAIN) == 13188071971509132602u);
  assert_true(mr3d_challenge_neighbour_seed(&challenge, "rmsnorm/a") == 5538872339822645788u);
  assert_true(mr3d_challenge_order_seed(&challenge) == 11014451652782742325u);
}

/** Seeds of other nonces (of another length, too), cases and variants are others. */
static void all_seeds_differ(void **state) {
  (void)state;
  static const char *const nonces[] = {NONCE, OTHER_NONCE, NONCE "00", "000102030405060708090a0b0c0d0e10"}, *const ids[] = {"rmsnorm/a", "rmsnorm/b", "linear/a", "rmsnorm/a/b"};
  uint64_t seeds[4 * 4 * 4];
  int n = 0;
  for (int c = 0; c < 4; c++)
    for (int i = 0; i < 4; i++) {
      const mr3d_challenge challenge = challenge_of(nonces[c]);
      for (int v = MR3D_PLAIN; v < MR3D_AGAIN; v++) seeds[n++] = mr3d_challenge_seed(&challenge, ids[i], (mr3d_variant)v);
      seeds[n++] = mr3d_challenge_neighbour_seed(&challenge, ids[i]);
    }
  for (int i = 0; i < n; i++)
    for (int k = 0; k < i; k++) assert_true(seeds[i] != seeds[k]);
}

/** About one in eight of each, another choice for another nonce. */
static void a_nonce_picks_one_case_in_eight(void **state) {
  (void)state;
  static const char *const inputs[] = {"x"};
  static mr3d_step step = {.op = "rmsnorm", .n_inputs = 1, .inputs = inputs};
  int picked[MR3D_N_VARIANTS] = {0}, same = 0;
  const mr3d_challenge challenge = challenge_of(NONCE), other = challenge_of(OTHER_NONCE);
  for (int i = 0; i < 4000; i++) {
    char id[32];
    snprintf(id, sizeof id, "rmsnorm/case-%d", i);
    const mr3d_case test = {.id = id, .n_steps = 1, .steps = &step};
    for (int v = MR3D_PLAIN; v < MR3D_N_VARIANTS; v++) picked[v] += mr3d_challenge_asks(&challenge, &test, MR3D_FP32, (mr3d_variant)v);
    same += mr3d_challenge_asks(&challenge, &test, MR3D_FP32, MR3D_AGAIN) && mr3d_challenge_asks(&other, &test, MR3D_FP32, MR3D_AGAIN);
  }
  assert_int_equal(picked[MR3D_PLAIN], 4000);
  for (int v = MR3D_OTHER_SEED; v < MR3D_N_VARIANTS; v++) assert_in_range(picked[v], 400, 600); /* 500, and five times its deviation of 21 */
  assert_in_range(same, 30, 100);
}

static void a_batch_of_two_holds_both_samples(void **state) {
  (void)state;
  mr3d_bundle *requests[2], *joined = NULL;
  mr3d_error error = {0};
  for (int i = 0; i < 2; i++) {
    requests[i] = mr3d_bundle_new();
    mr3d_bundle_set(requests[i], "op", "mixed_rope");
    double *query = mr3d_bundle_add(requests[i], "query", MR3D_F64, 4, (int64_t[]){1, 1, 2, 2})->data;
    int64_t *coords = mr3d_bundle_add(requests[i], "point_coords", MR3D_I64, 2, (int64_t[]){1, 3})->data;
    double *freqs = mr3d_bundle_add(requests[i], "freqs_q", MR3D_F64, 1, (int64_t[]){1})->data;
    for (int k = 0; k < 4; k++) query[k] = 10 * i + k;
    coords[0] = i, freqs[0] = i;
  }
  assert_int_equal(mr3d_neighbours_join(requests[1], requests[0], requests[0], &joined, &error), MR3D_OK);
  const mr3d_tensor *query = mr3d_bundle_find(joined, "query"), *coords = mr3d_bundle_find(joined, "point_coords"), *freqs = mr3d_bundle_find(joined, "freqs_q");
  assert_int_equal(query->shape[0], 2);
  assert_true(((double *)query->data)[0] == 10 && ((double *)query->data)[4] == 0);
  assert_int_equal(coords->rank, 3);
  assert_int_equal(coords->shape[0], 2);
  assert_int_equal(coords->shape[1], 1);
  assert_true(((int64_t *)coords->data)[0] == 1 && ((int64_t *)coords->data)[3] == 0);
  assert_int_equal(mr3d_tensor_count(freqs), 1); /* shared, as the one named has it */
  assert_true(((double *)freqs->data)[0] == 0);
  mr3d_bundle_free(&joined);
  mr3d_bundle_free(&requests[1]);
  requests[1] = mr3d_bundle_new();
  mr3d_bundle_add(requests[1], "query", MR3D_F64, 4, (int64_t[]){1, 1, 3, 2});
  assert_int_equal(mr3d_neighbours_join(requests[0], requests[1], requests[0], &joined, &error), MR3D_INVALID);
  assert_null(joined);
  mr3d_bundle_free(&requests[0]), mr3d_bundle_free(&requests[1]);
}

/** Every case of the committed set that may stand beside others can: the reference answers the batch, on both sides. Of each operator with an axis of samples there are some. */
static void every_case_that_takes_neighbours_can_have_them(void **state) {
  (void)state;
  static const char *const ops[] = {"splice", "mask", "rope1d", "rope3d", "normalize_coords", "mixed_rope", "rmsnorm", "linear", "swiglu", "attention", "attention_block", "decoder_layer", "prefill", "decode"};
  int counts[sizeof ops / sizeof *ops] = {0};
  mr3d_error error = {0};
  mr3d_suite *suite = NULL;
  mr3d_weights_cache *weights = mr3d_weights_cache_new();
  assert_int_equal(mr3d_suite_open(getenv("MR3D_COMMITTED"), NULL, &suite, &error), MR3D_OK);
  for (int i = 0; i < mr3d_suite_count(suite); i++) {
    const mr3d_case *test = mr3d_suite_at(suite, i);
    if (!mr3d_case_takes_neighbours(test) || test->needs_data || mr3d_case_is_whole(test)) continue;
    for (size_t op = 0; op < sizeof ops / sizeof *ops; op++) counts[op] += strcmp(mr3d_case_op(test), ops[op]) == 0;
    if (strstr(test->id, "canonical") || strstr(test->id, "full-width") || strstr(test->id, "position-300")) continue; /* small twins of those are in */
    for (int first = 0; first < 2; first++) {
      mr3d_posing posed;
      const mr3d_beside beside = {.seed = 7, .first = first};
      mr3d_posing_open(&posed, suite, test, MR3D_FP64, 5, folder, weights, 1);
      posed.beside = &beside;
      for (int step = 0; step < test->n_steps; step++)
        if (mr3d_posing_request(&posed, step, &error) != MR3D_OK || mr3d_posing_answer(&posed, step, NULL, &error) != MR3D_OK) fail_msg("%s: %s", test->id, error.message);
      mr3d_posing_close(&posed);
    }
  }
  for (size_t op = 0; op < sizeof ops / sizeof *ops; op++)
    if (counts[op] < 5) fail_msg("%s: %d cases", ops[op], counts[op]);
  mr3d_weights_cache_free(&weights);
  mr3d_suite_close(&suite);
}

/** A session goes on beside another sample: prefill and its decode steps hold two, and the half of each answer is that of the sample alone. */
static void sessions_stand_beside_others(void **state) {
  (void)state;
  static const char *const ids[] = {"decode/text-only", "decode/spliced-no-mask", "prefill/keep-1"};
  mr3d_error error = {0};
  mr3d_suite *suite = NULL;
  mr3d_weights_cache *weights = mr3d_weights_cache_new();
  assert_int_equal(mr3d_suite_open(getenv("MR3D_COMMITTED"), NULL, &suite, &error), MR3D_OK);
  for (size_t i = 0; i < sizeof ids / sizeof *ids; i++)
    for (int first = 0; first < 2; first++) {
      const mr3d_case *test = mr3d_suite_find(suite, ids[i]);
      const mr3d_beside beside = {.seed = 7, .first = first};
      mr3d_posing alone, batch;
      assert_non_null(test);
      assert_true(mr3d_case_takes_neighbours(test));
      mr3d_posing_open(&alone, suite, test, MR3D_FP64, 5, folder, weights, 1);
      mr3d_posing_open(&batch, suite, test, MR3D_FP64, 5, folder, weights, 1);
      batch.beside = &beside;
      for (int step = 0; step < test->n_steps; step++) {
        if (mr3d_posing_request(&alone, step, &error) != MR3D_OK || mr3d_posing_answer(&alone, step, NULL, &error) != MR3D_OK) fail_msg("%s: %s", test->id, error.message);
        if (mr3d_posing_request(&batch, step, &error) != MR3D_OK || mr3d_posing_answer(&batch, step, NULL, &error) != MR3D_OK) fail_msg("%s: %s", test->id, error.message);
        const mr3d_tensor *one = mr3d_bundle_find(alone.answers[step], "logits"), *two = mr3d_bundle_find(batch.answers[step], "logits");
        const size_t bytes = (size_t)mr3d_tensor_count(one) * sizeof(double);
        assert_int_equal(two->shape[0], 2 * one->shape[0]);
        assert_memory_equal((char *)two->data + (first ? bytes : 0), one->data, bytes);
      }
      mr3d_posing_close(&alone), mr3d_posing_close(&batch);
    }
  mr3d_weights_cache_free(&weights);
  mr3d_suite_close(&suite);
}

/** check --nonce asks what certify asks, and its report says how to ask it again. */
static void a_challenge_can_be_rehearsed(void **state) {
  (void)state;
  assert_int_equal(mr3d("check --backend builtin:emulated --tier fp32 --nonce " NONCE), 0);
  assert_said("nonce " NONCE ", one case in 8 asked in other ways too");
  assert_null(strstr(output, "stored answers"));
  assert_int_equal(mr3d("check --backend mutant:qwen2-details/weight-plus-one --tier fp32 --nonce " NONCE " --case rmsnorm/a"), 2);
  assert_said("--case rmsnorm/a --tier fp32 --nonce " NONCE);
  assert_int_equal(mr3d("check --backend builtin:emulated --nonce " NONCE " --seed 3"), 1);
  assert_said("leave out --seed");
  assert_int_equal(mr3d("check --backend dir:%s --nonce " NONCE, folder), 1);
  assert_said("files of answers cannot");
  assert_int_equal(mr3d("check --backend builtin:emulated --nonce 12"), 1);
  assert_said("is no nonce");
}

int main(void) {
  const struct CMUnitTest tests[] = {cmocka_unit_test(nonces_are_hexadecimal_and_long_enough), cmocka_unit_test(seeds_are_those_of_the_documentation), cmocka_unit_test(all_seeds_differ),
                                     cmocka_unit_test(a_nonce_picks_one_case_in_eight), cmocka_unit_test(a_batch_of_two_holds_both_samples),
                                     cmocka_unit_test(every_case_that_takes_neighbours_can_have_them), cmocka_unit_test(sessions_stand_beside_others), cmocka_unit_test(a_challenge_can_be_rehearsed)};
  return cmocka_run_group_tests(tests, make_certified, drop);
}
