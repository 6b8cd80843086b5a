/** Sessions: what opens, grows and closes them, which keys a decode step sees, and where its tokens stand (docs/protocol.md, "Sessions"). */
#include <math.h>

#include "fixture.h"
#include "mr3d/watch.h"

enum { Q = 7 };
static char weights_path[64];

/* A prefill of q text tokens for B samples after `past`; all keys present. */
static mr3d_bundle *text_prefill(const char *session, const char *config, int64_t B, int64_t past, int64_t q) {
  mr3d_bundle *r = request("prefill", config);
  mr3d_bundle_set(r, "session", session);
  mr3d_bundle_set(r, "weights", weights_path);
  add_reals_seeded(r, "inputs_embeds", 21, MR3D_F64, 1, SHAPE(B, q, HIDDEN));
  add_filled(r, "attention_mask", 1, SHAPE(B, past + q));
  return r;
}

static mr3d_bundle *decode(const char *session, int64_t B, int64_t q) {
  mr3d_bundle *r = request("decode", "{}");
  mr3d_bundle_set(r, "session", session);
  int64_t *ids = mr3d_bundle_add(r, "input_ids", MR3D_I64, SHAPE(B, q))->data;
  for (int64_t i = 0; i < B * q; i++) ids[i] = (3 + 5 * i) % V;
  return r;
}

static mr3d_bundle *decode_masked(const char *session, int64_t q, int columns, const int64_t *mask) {
  mr3d_bundle *r = decode(session, 1, q);
  add_integers(r, "attention_mask", mask, SHAPE(1, columns));
  return r;
}

static void done(mr3d_bundle *a) { mr3d_bundle_free(&a); }

static void drop(mr3d_server *server, const char *session) {
  mr3d_bundle *r = request("drop_session", "{}");
  mr3d_bundle_set(r, "session", session);
  mr3d_bundle *a = answer(server, r);
  assert_int_equal(mr3d_bundle_count(a), 0);
  done(a);
}

static void assert_differ(const mr3d_bundle *a, const mr3d_bundle *b) {
  assert_int_equal(mr3d_tensor_count(mr3d_bundle_find(a, "logits")), mr3d_tensor_count(mr3d_bundle_find(b, "logits")));
  assert_memory_not_equal(reals(a, "logits"), reals(b, "logits"), (size_t)mr3d_tensor_count(mr3d_bundle_find(a, "logits")) * sizeof(double));
}

static void sessions_do_not_see_each_other(void **state) {
  (void)state;
  mr3d_server *server = new_server(), *alone = new_server();
  done(answer(server, text_prefill("a", CONFIG, 1, 0, Q)));
  done(answer(server, text_prefill("b", CONFIG, 2, 0, 3)));
  done(answer(alone, text_prefill("a", CONFIG, 1, 0, Q)));
  done(answer(server, decode("b", 2, 1)));
  mr3d_bundle *x = answer(server, decode("a", 1, 2)), *y = answer(alone, decode("a", 1, 2));
  assert_same(x, y);
  done(x), done(y);
  mr3d_server_free(&server);
  mr3d_server_free(&alone);
}

static void dropped_session_is_gone_and_its_name_free(void **state) {
  (void)state;
  mr3d_server *server = new_server();
  done(answer(server, text_prefill("a", CONFIG, 1, 0, Q)));
  drop(server, "a");
  REFUSED(server, decode("a", 1, 1), "session a is not open");
  mr3d_bundle *other = text_prefill("a", CONFIG_WITH("\"decode_mask\":\"spliced\""), 2, 0, 3); /* another batch, another configuration */
  done(answer(server, other));
  done(answer(server, decode("a", 2, 1)));
  mr3d_server_free(&server);
}

static void agreeing_configuration_is_accepted(void **state) {
  (void)state;
  static const char *const agreeing[] = {"{}", CONFIG, "{\"num_hidden_layers\":2.0,\"decode_mask\":\"pad_end\"}", "{\"head_dim\":16,\"unrelated\":[1,2]}",
                                         "{\"tie_word_embeddings\":true}", "{\"reduced_grid_size\":80,\"virtual_resolution\":null}"};
  mr3d_server *server = new_server();
  done(answer(server, text_prefill("a", CONFIG, 1, 0, Q)));
  for (size_t i = 0; i < sizeof agreeing / sizeof *agreeing; i++) {
    mr3d_bundle *r = decode("a", 1, 1), *more = text_prefill("a", agreeing[i], 1, Q + 1 + 2 * (int64_t)i, 1);
    mr3d_bundle_set(r, "config", agreeing[i]);
    done(answer(server, r));
    done(answer(server, more));
  }
  mr3d_server_free(&server);
}

/* A later prefill uses the session's configuration also where its own says nothing. */
/* Each part alone would not fit the defaults: 40 bins and four halvings, a normalisation without its number. */
static void part_of_a_configuration_is_read_as_a_part(void **state) {
  (void)state;
  static const char *const parts[] = {"{\"num_bins\":40}", "{\"coord_norm\":\"virtual_resolution\"}"};
  mr3d_server *server = new_server();
  done(answer(server, text_prefill("a", CONFIG_WITH("\"num_bins\":40,\"downsamplings\":3,\"coord_norm\":\"virtual_resolution\",\"virtual_resolution\":9"), 1, 0, Q)));
  for (size_t i = 0; i < sizeof parts / sizeof *parts; i++) {
    mr3d_bundle *r = decode("a", 1, 1);
    mr3d_bundle_set(r, "config", parts[i]);
    done(answer(server, r));
  }
  mr3d_bundle *r = decode("a", 1, 1);
  mr3d_bundle_set(r, "config", "{\"num_bins\":80}");
  REFUSED(server, r, "num_bins is 80, but the session was opened with 40");
  r = decode("a", 1, 1);
  mr3d_bundle_set(r, "config", "{\"num_bin\":40}");
  REFUSED(server, r, "did you mean \"num_bins\"");
  mr3d_server_free(&server);
}

static void later_prefill_keeps_the_configuration(void **state) {
  (void)state;
  mr3d_bundle *answers[2];
  for (int silent = 0; silent < 2; silent++) {
    const char *config = CONFIG_WITH("\"spatial_temporal_separate_strategy\":\"full_spatial\",\"rope_mixed_3d\":false");
    mr3d_server *server = new_server();
    done(answer(server, text_prefill("a", config, 1, 0, Q)));
    mr3d_bundle *r = text_prefill("a", silent ? "{}" : config, 1, Q, 4);
    const int64_t counts[] = {2};
    add_points(r, 1, 4, 1, 2, counts);
    answers[silent] = answer(server, r);
    mr3d_server_free(&server);
  }
  assert_same(answers[0], answers[1]);
  done(answers[0]), done(answers[1]);
}

/* ---- masks at decode ---- */

static void short_mask_gains_ones_at_its_end(void **state) {
  (void)state;
  static const int64_t text[] = {0, 1, 0, 1}, full[] = {0, 1, 0, 1, 1, 1, 1, 1, 1}, front[] = {1, 1, 1, 1, 1, 0, 1, 0, 1};
  mr3d_bundle *answers[4];
  for (int k = 0; k < 4; k++) {
    mr3d_server *server = new_server();
    done(answer(server, text_prefill("a", CONFIG, 1, 0, Q)));
    answers[k] = answer(server, k == 0 ? decode_masked("a", 2, 4, text) : k == 1 ? decode_masked("a", 2, 9, full) : k == 2 ? decode_masked("a", 2, 9, front) : decode("a", 1, 2));
    mr3d_server_free(&server);
  }
  assert_same(answers[0], answers[1]);
  assert_differ(answers[0], answers[2]);
  assert_differ(answers[0], answers[3]);
  for (int k = 0; k < 4; k++) done(answers[k]);
}

/* The prompt of 231 text tokens became 786; the caller's mask counts 232 where 787 keys stand. */
static void mask_of_232_is_repaired_to_787(void **state) {
  (void)state;
  mr3d_server *server = new_server(), *other = new_server();
  int64_t mask[788];
  for (int j = 0; j < 788; j++) mask[j] = 1;
  for (int j = 10; j < 200; j++) mask[j] = 0; /* so that where the ones go is seen */
  done(answer(server, text_prefill("a", CONFIG, 1, 0, 786)));
  done(answer(other, text_prefill("a", CONFIG, 1, 0, 786)));
  REFUSED(server, decode_masked("a", 1, 788, mask), "attention_mask has 788 columns, at most 787 = past 786 + new 1");
  mr3d_bundle *x = answer(server, decode_masked("a", 1, 232, mask)), *y = answer(other, decode_masked("a", 1, 787, mask));
  assert_same(x, y);
  done(x), done(y);
  mr3d_server_free(&server);
  mr3d_server_free(&other);
}

static mr3d_bundle *padded_prefill(const char *config) {
  mr3d_bundle *r = text_prefill("a", config, 2, 0, Q);
  int64_t *mask = mr3d_bundle_find(r, "attention_mask")->data;
  mask[Q + Q - 1] = mask[Q + Q - 2] = 0; /* the second sample ends two tokens earlier */
  return r;
}

static void spliced_keeps_the_prefill_mask(void **state) {
  (void)state;
  mr3d_server *server = new_server(), *ignoring = new_server(), *explicit = new_server();
  const char *spliced = CONFIG_WITH("\"decode_mask\":\"spliced\"");
  done(answer(server, padded_prefill(spliced)));
  done(answer(ignoring, padded_prefill(spliced)));
  done(answer(explicit, padded_prefill(CONFIG)));
  for (int64_t step = 0; step < 2; step++) {
    mr3d_bundle *r = decode("a", 2, 1), *with_zeros = decode("a", 2, 1), *written_out = decode("a", 2, 1);
    add_filled(with_zeros, "attention_mask", 0, SHAPE(2, 3));
    int64_t *mask = add_filled(written_out, "attention_mask", 1, SHAPE(2, Q + 1 + step))->data;
    mask[Q + 1 + step + Q - 1] = mask[Q + 1 + step + Q - 2] = 0;
    mr3d_bundle *x = answer(server, r), *y = answer(ignoring, with_zeros), *z = answer(explicit, written_out);
    assert_same(x, y);
    assert_same(x, z);
    done(x), done(y), done(z);
  }
  mr3d_server_free(&server);
  mr3d_server_free(&ignoring);
  mr3d_server_free(&explicit);
}

/* Under pad_end a padded sample sees its own padding; the judge is told not to look at its rows. */
static void pad_end_shows_padding_and_says_so(void **state) {
  (void)state;
  mr3d_server *server = mr3d_server_new(&(mr3d_server_options){.with_scale = true});
  done(answer(server, padded_prefill(CONFIG)));
  mr3d_bundle *a = answer(server, decode("a", 2, 3));
  assert_shape(a, "skip:logits", SHAPE(2, 3));
  for (int i = 0; i < 6; i++) assert_int_equal(((bool *)mr3d_bundle_find(a, "skip:logits")->data)[i], i >= 3);
  done(a);
  drop(server, "a");

  a = answer(server, padded_prefill(CONFIG_WITH("\"decode_mask\":\"spliced\"")));
  assert_shape(a, "skip:hidden", SHAPE(2, Q));
  assert_shape(a, "skip:logits", SHAPE(2, Q));
  for (int i = 0; i < 2 * Q; i++) assert_int_equal(((bool *)mr3d_bundle_find(a, "skip:logits")->data)[i], i >= 2 * Q - 2);
  done(a);
  a = answer(server, decode("a", 2, 3));
  assert_null(mr3d_bundle_find(a, "skip:logits"));
  done(a);
  drop(server, "a");

  mr3d_bundle *last_rows = padded_prefill(CONFIG); /* of which the last of the second sample are padding */
  mr3d_bundle_set(last_rows, "logits_to_keep", "3");
  a = answer(server, last_rows);
  assert_shape(a, "skip:logits", SHAPE(2, 3));
  for (int i = 0; i < 6; i++) assert_int_equal(((bool *)mr3d_bundle_find(a, "skip:logits")->data)[i], i >= 4);
  done(a);
  drop(server, "a");

  static const int64_t ends_hidden[] = {1, 1, 1, 1, 1, 1, 1, 1, 0, 1}; /* the caller hides the second of three new tokens */
  done(answer(server, text_prefill("a", CONFIG, 1, 0, Q)));
  a = answer(server, decode_masked("a", 3, Q + 3, ends_hidden));
  assert_shape(a, "skip:logits", SHAPE(1, 3));
  for (int i = 0; i < 3; i++) assert_int_equal(((bool *)mr3d_bundle_find(a, "skip:logits")->data)[i], i == 1);
  done(a);
  drop(server, "a");

  /* Left padding is none in that sense: its zeros stand in front, where every caller's mask has them too. */
  mr3d_bundle *left = text_prefill("a", CONFIG, 1, 0, Q);
  *(int64_t *)mr3d_bundle_find(left, "attention_mask")->data = 0;
  done(answer(server, left));
  a = answer(server, decode("a", 1, 1));
  assert_null(mr3d_bundle_find(a, "skip:logits"));
  done(a);
  mr3d_server_free(&server);
}

/* ---- positions and points ---- */

/* Whatever position ids prefill had, decode stands at the cache slots L .. L+q-1. */
static void decode_stands_at_the_cache_slots(void **state) {
  (void)state;
  mr3d_server *steps = new_server(), *whole = new_server();
  static const int64_t ids[] = {3, 8};
  int64_t positions[Q + 2];
  for (int i = 0; i < Q + 2; i++) positions[i] = i < Q ? 100 + 3 * i : i;
  mr3d_bundle *r = text_prefill("a", CONFIG, 1, 0, Q);
  add_integers(r, "position_ids", positions, SHAPE(1, Q));
  mr3d_bundle *first = answer(steps, r), *next = answer(steps, decode("a", 1, 2));

  mr3d_bundle *weights = decoder_weights((layer_options){.dtype = MR3D_F64});
  r = text_prefill("a", CONFIG, 1, 0, Q + 2);
  add_integers(r, "position_ids", positions, SHAPE(1, Q + 2));
  double *embeds = mr3d_bundle_find(r, "inputs_embeds")->data;
  for (int i = 0; i < 2; i++) memcpy(embeds + (Q + i) * HIDDEN, reals(weights, "model.embed_tokens.weight") + ids[i] * HIDDEN, HIDDEN * sizeof *embeds);
  mr3d_bundle *all = answer(whole, r);
  assert_close(reals(first, "logits"), reals(all, "logits"), Q * V, 1e-12);
  assert_close(reals(next, "logits"), reals(all, "logits") + Q * V, 2 * V, 1e-12);
  done(first), done(next), done(all), done(weights);
  mr3d_server_free(&steps);
  mr3d_server_free(&whole);
}

static void text_only_is_the_same_said_either_way(void **state) {
  (void)state;
  mr3d_server *server = new_server();
  mr3d_bundle *x = answer(server, text_prefill("a", CONFIG, 1, 0, Q)), *r = text_prefill("b", CONFIG, 1, 0, Q);
  const int64_t none[] = {0};
  add_points(r, 1, Q, 0, 0, none);
  mr3d_bundle *y = answer(server, r);
  assert_same(x, y);
  done(x), done(y);
  mr3d_server_free(&server);
}

/* Neither q = 1 nor a non-empty cache makes a call a decode step: a prefill's marked token turns as a point. */
static void one_token_prefill_with_a_past_turns_its_point(void **state) {
  (void)state;
  const int64_t counts[] = {1};
  for (int64_t past = 0; past <= Q; past += Q) {
    mr3d_bundle *answers[2];
    for (int point = 0; point < 2; point++) {
      mr3d_server *server = new_server();
      if (past) done(answer(server, text_prefill("a", CONFIG, 1, 0, past)));
      mr3d_bundle *r = text_prefill("a", CONFIG, 1, past, 1);
      if (point) add_points(r, 1, 1, 0, 1, counts);
      done(answer(server, r));
      answers[point] = answer(server, decode("a", 1, 1)); /* the next token sees how its key was turned */
      mr3d_server_free(&server);
    }
    assert_differ(answers[0], answers[1]);
    done(answers[0]), done(answers[1]);
  }
}

/* ---- logits_to_keep ---- */

static void logits_to_keep_counts_from_the_end(void **state) {
  (void)state;
  static const struct {
    const char *keep;
    int64_t rows;
  } kept[] = {{"0", Q}, {"1", 1}, {"3", 3}, {"7", 7}, {"8", 7}, {"9000000000000000000", 7}};
  mr3d_server *server = new_server();
  mr3d_bundle *all = answer(server, text_prefill("all", CONFIG, 2, 0, Q));
  for (size_t i = 0; i < sizeof kept / sizeof *kept; i++) {
    mr3d_bundle *r = text_prefill(kept[i].keep, CONFIG, 2, 0, Q);
    mr3d_bundle_set(r, "logits_to_keep", kept[i].keep);
    mr3d_bundle *a = answer(server, r);
    const int64_t k = kept[i].rows;
    assert_shape(a, "logits", SHAPE(2, k, V));
    assert_shape(a, "hidden", SHAPE(2, Q, HIDDEN));
    for (int64_t b = 0; b < 2; b++)
      assert_memory_equal(reals(a, "logits") + b * k * V, reals(all, "logits") + (b * Q + Q - k) * V, (size_t)(k * V) * sizeof(double));
    done(a);
  }
  done(all);
  mr3d_server_free(&server);
}

/* `hidden` is what the logits are made from: logits = hidden times the embedding. */
static void logits_are_the_hidden_rows_times_the_embedding(void **state) {
  (void)state;
  mr3d_server *server = new_server();
  mr3d_bundle *a = answer(server, text_prefill("a", CONFIG, 1, 0, Q)), *weights = decoder_weights((layer_options){.dtype = MR3D_F64});
  double logits[Q * V] = {0};
  for (int i = 0; i < Q; i++)
    for (int t = 0; t < V; t++)
      for (int j = 0; j < HIDDEN; j++) logits[i * V + t] += reals(a, "hidden")[i * HIDDEN + j] * reals(weights, "model.embed_tokens.weight")[t * HIDDEN + j];
  assert_memory_equal(reals(a, "logits"), logits, sizeof logits);
  done(a), done(weights);
  mr3d_server_free(&server);
}

static bool has_logits_wanted(void *user) { return *(bool *)user; }

/* What a run knows already from a file of its own grows the session, and no more is computed than that. */
static void logits_that_no_one_reads_are_zeros_and_the_rest_is_as_ever(void **state) {
  (void)state;
  bool wanted = false;
  const mr3d_watch watch = {.user = &wanted, .wants_logits = has_logits_wanted};
  mr3d_server *plain = new_server(), *watched = mr3d_server_new(&(mr3d_server_options){.watch = &watch});
  mr3d_bundle *a = answer(plain, text_prefill("a", CONFIG, 1, 0, Q)), *b = answer(watched, text_prefill("a", CONFIG, 1, 0, Q));
  for (int i = 0; i < Q * V; i++) assert_true(reals(b, "logits")[i] == 0);
  assert_memory_equal(reals(a, "hidden"), reals(b, "hidden"), Q * HIDDEN * sizeof(double));
  done(a), done(b);
  a = answer(plain, decode("a", 1, 2)), b = answer(watched, decode("a", 1, 2));
  for (int i = 0; i < 2 * V; i++) assert_true(reals(b, "logits")[i] == 0);
  done(a), done(b);
  wanted = true;
  a = answer(plain, decode("a", 1, 1)), b = answer(watched, decode("a", 1, 1));
  assert_memory_equal(reals(a, "logits"), reals(b, "logits"), V * sizeof(double));
  done(a), done(b);
  mr3d_server_free(&plain), mr3d_server_free(&watched);
}

static int make_weights(void **state) {
  (void)state;
  save_decoder((layer_options){.dtype = MR3D_F64}, weights_path);
  return 0;
}
static int remove_weights(void **state) {
  (void)state;
  return unlink(weights_path);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(sessions_do_not_see_each_other),
      cmocka_unit_test(dropped_session_is_gone_and_its_name_free),
      cmocka_unit_test(agreeing_configuration_is_accepted),
      cmocka_unit_test(part_of_a_configuration_is_read_as_a_part),
      cmocka_unit_test(later_prefill_keeps_the_configuration),
      cmocka_unit_test(short_mask_gains_ones_at_its_end),
      cmocka_unit_test(mask_of_232_is_repaired_to_787),
      cmocka_unit_test(spliced_keeps_the_prefill_mask),
      cmocka_unit_test(pad_end_shows_padding_and_says_so),
      cmocka_unit_test(decode_stands_at_the_cache_slots),
      cmocka_unit_test(text_only_is_the_same_said_either_way),
      cmocka_unit_test(one_token_prefill_with_a_past_turns_its_point),
      cmocka_unit_test(logits_to_keep_counts_from_the_end),
      cmocka_unit_test(logits_are_the_hidden_rows_times_the_embedding),
      cmocka_unit_test(logits_that_no_one_reads_are_zeros_and_the_rest_is_as_ever),
  };
  return cmocka_run_group_tests_name("sessions", tests, make_weights, remove_weights);
}
