/** P2 decode-rope: a decode step rotates as if it were a point, or at the wrong position (spec.md 3.1, 5). */
#include "../suite.h"

enum { TEXT = 231, POINTS = 556, PAST = TEXT - 1 + POINTS };

/**
 * An attention block over `q` new tokens behind L cached ones, without projections' mixing: its answer's `key` rows from L on are the
 * rotated keys. Marks the first `points` tokens as points.
 */
static mr3d_bundle *block(mr3d_server *server, int64_t L, int64_t q, int64_t points) {
  mr3d_bundle *r = request("attention_block", CONFIG);
  add_reals(r, "hidden", 1, SHAPE(1, q, HIDDEN));
  add_layer(r, "", (layer_options){.dtype = MR3D_F64});
  if (L) {
    add_reals(r, "past_key", 1, SHAPE(1, G, L, D));
    add_reals(r, "past_value", 1, SHAPE(1, G, L, D));
  }
  if (points) add_points(r, 1, q, 0, points, &points);
  return answer(server, r);
}

/** The key of the first new token before rotation: k_proj of hidden. */
static mr3d_bundle *projected_key(mr3d_server *server) {
  mr3d_bundle *r = request("linear", CONFIG), *layer = mr3d_bundle_new();
  add_layer(layer, "", (layer_options){.dtype = MR3D_F64});
  add_reals_seeded(r, "x", name_seed("hidden"), MR3D_F64, 1, SHAPE(1, 1, HIDDEN));
  mr3d_bundle_copy(r, "weight", mr3d_bundle_find(layer, "self_attn.k_proj.weight"));
  mr3d_bundle_copy(r, "bias", mr3d_bundle_find(layer, "self_attn.k_proj.bias"));
  mr3d_bundle_free(&layer);
  return answer(server, r);
}

/** That key, turned by 1D rotation at a position: [G,D]. */
static mr3d_bundle *key_at(mr3d_server *server, int64_t position) {
  mr3d_bundle *projected = projected_key(server), *r = request("rope1d", CONFIG);
  memcpy(mr3d_bundle_add(r, "x", MR3D_F64, SHAPE(1, G, 1, D))->data, reals(projected, "y"), G * D * sizeof(double));
  add_integers(r, "position_ids", &position, SHAPE(1, 1));
  mr3d_bundle_free(&projected);
  return answer(server, r);
}

/** The new token's row of the block's cache, [G,D]. */
static void new_key(const mr3d_bundle *block_answer, int64_t L, int64_t q, double out[G * D]) {
  const double *key = reals(block_answer, "key");
  for (int64_t g = 0; g < G; g++) memcpy(out + g * D, key + (g * (L + q) + L) * D, D * sizeof *out);
}

static double largest_difference(const double *a, const double *b) {
  double largest = 0;
  for (int i = 0; i < G * D; i++) largest = a[i] - b[i] > largest ? a[i] - b[i] : b[i] - a[i] > largest ? b[i] - a[i] : largest;
  return largest;
}

static void decode_step_is_rotated_in_1d_at_position_786(void **state) {
  (void)state;
  mr3d_server *server = new_server();
  mr3d_bundle *step = block(server, PAST, 1, 0), *expected = key_at(server, 786);
  double key[G * D];
  new_key(step, PAST, 1, key);
  assert_close(key, reals(expected, "y"), G * D, 1e-15);
  for (int wrong = 0; wrong < 4; wrong++) { /* from 0, text only, off by one either way: each is something else */
    mr3d_bundle *other = key_at(server, (const int64_t[]){0, 231, 785, 787}[wrong]);
    assert_true(largest_difference(key, reals(other, "y")) > 1e-3);
    mr3d_bundle_free(&other);
  }
  mr3d_bundle_free(&step);
  mr3d_bundle_free(&expected);
  mr3d_server_free(&server);
}

static void same_token_is_rotated_in_3d_where_its_call_marks_it(void **state) {
  (void)state;
  mr3d_server *server = new_server();
  mr3d_bundle *text = block(server, 0, 1, 0), *point = block(server, 0, 1, 1), *late_point = block(server, PAST, 1, 1);
  double as_text[G * D], as_point[G * D], later[G * D];
  new_key(text, 0, 1, as_text);
  new_key(point, 0, 1, as_point);
  new_key(late_point, PAST, 1, later);
  assert_true(largest_difference(as_text, as_point) > 1e-3);
  for (int g = 0; g < G; g++)
    assert_memory_equal(as_point + g * D, later + g * D, D / 2 * sizeof(double)); /* spatial half: no position in it */
  mr3d_bundle_free(&text);
  mr3d_bundle_free(&point);
  mr3d_bundle_free(&late_point);
  mr3d_server_free(&server);
}

static void cached_keys_are_returned_bit_for_bit(void **state) {
  (void)state;
  mr3d_server *server = new_server();
  mr3d_bundle *step = block(server, PAST, 1, 0), *past = mr3d_bundle_new();
  const double *before = add_reals(past, "past_key", 1, SHAPE(1, G, PAST, D))->data, *after = reals(step, "key");
  for (int64_t g = 0; g < G; g++) assert_memory_equal(after + g * (PAST + 1) * D, before + g * PAST * D, PAST * D * sizeof(double));
  mr3d_bundle_free(&step);
  mr3d_bundle_free(&past);
  mr3d_server_free(&server);
}

PITFALL_TEST("decode-rope", cmocka_unit_test(decode_step_is_rotated_in_1d_at_position_786),
             cmocka_unit_test(same_token_is_rotated_in_3d_where_its_call_marks_it), cmocka_unit_test(cached_keys_are_returned_bit_for_bit))
