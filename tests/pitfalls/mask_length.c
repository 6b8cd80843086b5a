/** P1 mask-length: during generation the caller's mask counts text tokens, 232 where 787 keys stand (spec.md 4). */
#include "../suite.h"

enum { TEXT = 231, POINTS = 556, PAST = TEXT - 1 + POINTS, KEYS = PAST + 1, COUNTED = TEXT + 1 };

/** A mask request of the first decode step; the caller's mask has `columns` ones, but zeros at 5 and 100 where it reaches them. */
static mr3d_bundle *decode_mask(int64_t columns) {
  mr3d_bundle *r = request("mask", "{}");
  mr3d_bundle_setf(r, "past_len", "%d", PAST);
  mr3d_bundle_set(r, "q_len", "1");
  int64_t *mask = add_filled(r, "key_mask", 1, SHAPE(1, columns))->data;
  if (columns > 100) mask[5] = mask[100] = 0;
  return r;
}

static void mask_of_232_becomes_787_with_555_ones_behind(void **state) {
  (void)state;
  mr3d_server *server = new_server();
  mr3d_bundle *a = answer(server, decode_mask(COUNTED));
  assert_int_equal(PAST, 786);
  assert_int_equal(KEYS - COUNTED, 555);
  assert_shape(a, "visible", SHAPE(1, 1, 787));
  const bool *visible = mr3d_bundle_find(a, "visible")->data;
  int appended = 0;
  for (int j = 0; j < KEYS; j++) {
    assert_int_equal(visible[j], j != 5 && j != 100); /* the caller's entries stay where they are, ones follow */
    if (j >= COUNTED) appended += visible[j];
  }
  assert_int_equal(appended, 555);
  mr3d_bundle_free(&a);
  mr3d_server_free(&server);
}

static void masks_of_232_and_of_787_mean_the_same(void **state) {
  (void)state;
  mr3d_server *server = new_server();
  mr3d_bundle *a = answer(server, decode_mask(COUNTED)), *b = answer(server, decode_mask(KEYS));
  assert_same(a, b);
  mr3d_bundle_free(&a);
  mr3d_bundle_free(&b);
  mr3d_server_free(&server);
}

static void longer_mask_is_refused_with_both_numbers(void **state) {
  (void)state;
  mr3d_server *server = new_server();
  REFUSED(server, decode_mask(KEYS + 1), "788", "787");
  mr3d_server_free(&server);
}

static void short_mask_at_prefill_is_refused_with_both_numbers(void **state) {
  (void)state;
  mr3d_server *server = new_server();
  mr3d_bundle *r = request("mask", "{}");
  mr3d_bundle_set(r, "past_len", "0");
  mr3d_bundle_setf(r, "q_len", "%d", PAST);
  add_filled(r, "key_mask", 1, SHAPE(1, TEXT));
  REFUSED(server, r, "231", "786");
  mr3d_server_free(&server);
}

/** Eight steps of a session: each caller's mask is one longer, each repair appends 555 ones. */
static void every_decode_step_appends_555_ones(void **state) {
  (void)state;
  for (int step = 1; step <= 8; step++) {
    int64_t mask[TEXT + 8], L = PAST + step - 1, M = TEXT + step;
    bool visible[KEYS + 8];
    for (int j = 0; j < M; j++) mask[j] = 0; /* zeros, so that what is seen was appended */
    const mr3d_context context = {.op = &mr3d_reference_operators};
    mr3d_error error = {0};
    assert_int_equal(mr3d_mask(&context, &(mr3d_mask_in){.B = 1, .L = L, .q = 1, .M = M, .key_mask = mask}, visible, &error), MR3D_OK);
    int ones = 0;
    for (int j = 0; j <= L; j++) ones += visible[j];
    assert_int_equal(ones, 555);
  }
}

PITFALL_TEST("mask-length", cmocka_unit_test(mask_of_232_becomes_787_with_555_ones_behind),
             cmocka_unit_test(masks_of_232_and_of_787_mean_the_same), cmocka_unit_test(longer_mask_is_refused_with_both_numbers),
             cmocka_unit_test(short_mask_at_prefill_is_refused_with_both_numbers), cmocka_unit_test(every_decode_step_appends_555_ones))
