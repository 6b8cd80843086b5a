/** Each row of the table of error signals that a trace can show by itself is found where it is planted, and none in a sound trace. */
#include <math.h>

#include "fixture.h"
#include "mr3d/server.h"
#include "pitfalls.h"
#include "symptoms.h"

enum { T = 6, N = 4, S = T - 1 + N }; /* text with one token between the markers, points */

/* ---- the table ---- */

static void every_row_has_its_words_and_pitfalls_that_exist(void **state) {
  (void)state;
  assert_int_equal(mr3d_signal_count(), 16);
  for (int i = 0; i < mr3d_signal_count(); i++) {
    const mr3d_signal *s = mr3d_signal_at(i);
    assert_ptr_equal(mr3d_signal_named(s->slug), s);
    assert_true(strlen(s->sight) > 10 && strlen(s->because) > 10 && strlen(s->look) > 10 && *s->numbers);
    assert_non_null(s->pitfalls[0]);
    for (int p = 0; s->pitfalls[p]; p++)
      if (!mr3d_pitfall_named(s->pitfalls[p])) fail_msg("%s names \"%s\", which is no pitfall", s->slug, s->pitfalls[p]);
  }
  assert_null(mr3d_signal_named("nothing"));
}

/* The document has a row for each of the program's, and a line for each pitfall that the second table names. */
static void the_document_and_the_program_have_the_same_rows(void **state) {
  (void)state;
  char path[4096], line[2000];
  snprintf(path, sizeof path, "%s/error-signals.md", getenv("MR3D_DOCS"));
  FILE *file = fopen(path, "r");
  assert_non_null(file);
  int section = 0, rows = 0, reported = 0;
  while (fgets(line, sizeof line, file)) {
    if (strncmp(line, "## ", 3) == 0) section++;
    if (section == 1 && strncmp(line, "| `", 3) == 0) {
      char slug[64];
      assert_int_equal(sscanf(line, "| `%63[^`]`", slug), 1);
      assert_string_equal(mr3d_signal_at(rows++)->slug, slug);
      for (int i = 0; mr3d_signal_named(slug)->pitfalls[i]; i++) assert_non_null(strstr(line, mr3d_signal_named(slug)->pitfalls[i]));
      assert_non_null(strstr(line, mr3d_signal_named(slug)->look));
    }
    if (section == 2 && line[0] == '|' && strncmp(line, "| what", 6) != 0 && line[1] != '-') {
      char *last = strstr(line + 2, " | ");
      assert_non_null(last);
      for (char *code = strchr(last, '`'); code; code = strchr(code, '`')) {
        char slug[64];
        const size_t n = strcspn(code + 1, "`");
        snprintf(slug, sizeof slug, "%.*s", (int)n, code + 1);
        if (!mr3d_pitfall_named(slug)) fail_msg("\"In a report\" names \"%s\", which is no pitfall", slug);
        code += n + 2;
        reported++;
      }
    }
  }
  fclose(file);
  assert_int_equal(rows, mr3d_signal_count());
  assert_true(reported > 15);
}

static void assert_text(const char *message, const mr3d_signal_numbers *numbers, const char *slug) {
  const mr3d_signal *found[8];
  const int n = mr3d_signals_in_text(message, numbers, 8, found);
  if (!slug ? n != 0 : n != 1 || strcmp(found[0]->slug, slug) != 0) fail_msg("\"%s\" gives %d rows, the first %s; expected %s", message, n, n ? found[0]->slug : "", slug ? slug : "none");
}

static void messages_give_their_row_by_pairs_of_numbers(void **state) {
  (void)state;
  assert_text("The size of tensor a (787) must match the size of tensor b (232) at non-singleton dimension 3", NULL, "mask-columns");
  assert_text("The size of tensor a (14) must match the size of tensor b (2) at non-singleton dimension 1", NULL, "heads");
  assert_text("tensor a (556) tensor b (14)", NULL, "points-heads");
  assert_text("coords: 106,328 rows for 556 tokens", NULL, "raw-rows");
  assert_text("AssertionError: 785 != 786", NULL, "splice-length");
  assert_text("expected last dimension 64, got 32", NULL, "head-dim");
  assert_text("no answer within 20 s; it had sent 0 bytes of its answer", NULL, "never-returns");
  assert_text("tensor a (7870) tensor b (2321)", NULL, NULL);
  assert_text("tensor a (1050) tensor b (222)", &(mr3d_signal_numbers){.keys = 1050, .mask_columns = 222}, "mask-columns");
  assert_text("all is well", NULL, NULL);
}

/* ---- traces ---- */

/* A trace of the reference on a small model with points, prefill and two decode steps, all points. */
static mr3d_bundle *sound(void) {
  static const struct { const char *name; int rank; int64_t shape[3]; } tensors[] = {
      {"input_layernorm.weight", 1, {C}}, {"post_attention_layernorm.weight", 1, {C}}, {"self_attn.q_proj.weight", 2, {H * D, C}}, {"self_attn.q_proj.bias", 1, {H * D}},
      {"self_attn.k_proj.weight", 2, {G * D, C}}, {"self_attn.k_proj.bias", 1, {G * D}}, {"self_attn.v_proj.weight", 2, {G * D, C}}, {"self_attn.v_proj.bias", 1, {G * D}},
      {"self_attn.o_proj.weight", 2, {C, H * D}}, {"mlp.gate_proj.weight", 2, {I, C}}, {"mlp.up_proj.weight", 2, {I, C}}, {"mlp.down_proj.weight", 2, {C, I}},
      {"self_attn.freqs_3d_q", 3, {3, H, D / 4}}, {"self_attn.freqs_3d_kv", 3, {3, G, D / 4}}, {"self_attn.axial_weights_3d_q", 3, {H, D / 4, 3}},
      {"self_attn.axial_weights_3d_kv", 3, {G, D / 4, 3}}};
  static mr3d_bundle *kept;
  if (!kept) {
    char path[64], name[160], weights_name[200];
    snprintf(path, sizeof path, "/tmp/mr3d-symptoms-%ld.safetensors", (long)getpid());
    mr3d_bundle *weights = mr3d_bundle_new();
    mr3d_error error = {0};
    kept = mr3d_bundle_new();
    add_drawn(weights, "model.embed_tokens.weight", 7, MR3D_F32, SHAPE(V, C));
    add_drawn(weights, "model.norm.weight", 8, MR3D_F32, SHAPE(C));
    for (int layer = 0; layer < LAYERS; layer++)
      for (size_t i = 0; i < sizeof tensors / sizeof *tensors; i++) {
        snprintf(name, sizeof name, "model.layers.%d.%s", layer, tensors[i].name);
        snprintf(weights_name, sizeof weights_name, "weights.%s", name);
        mr3d_bundle_copy(kept, weights_name, add_drawn(weights, name, 100 * (uint64_t)layer + i, MR3D_F32, tensors[i].rank, tensors[i].shape));
      }
    if (mr3d_safetensors_save(path, weights, &error)) fail_msg("%s", error.message);
    mr3d_server *server = mr3d_server_new(&(mr3d_server_options){0});
    mr3d_bundle_set(kept, "config", CONFIG_TEXT);
    for (int step = 0; step < 3; step++) {
      mr3d_bundle *request = mr3d_bundle_new(), *answer = NULL;
      mr3d_bundle_set(request, "op", step ? "decode" : "prefill");
      mr3d_bundle_set(request, "tier", "fp32");
      mr3d_bundle_set(request, "config", CONFIG_TEXT);
      mr3d_bundle_set(request, "session", "s");
      mr3d_bundle_set(request, "weights", path);
      mr3d_bundle_set(request, "trace", "*");
      if (step == 0) {
        add_drawn(request, "inputs_embeds", 9, MR3D_F32, SHAPE(1, S, C));
        bool *marks = mr3d_bundle_add(request, "point_token_mask", MR3D_BOOL, SHAPE(1, S))->data;
        for (int i = 0; i < N; i++) marks[2 + i] = true;
        add_whole(request, "point_coords", 3, 5, SHAPE(N, 3));
      } else add_whole(request, "input_ids", 17 + step, 0, SHAPE(1, 1));
      add_whole(request, "attention_mask", 1, 0, SHAPE(1, step ? T + step : S));
      if (mr3d_server_answer(server, request, &answer, &error)) fail_msg("%s", error.message);
      for (int i = 0; i < mr3d_bundle_count(answer); i++) {
        const mr3d_tensor *t = mr3d_bundle_at(answer, i);
        snprintf(name, sizeof name, "%d.%s", step, t->name + 6);
        if (strncmp(t->name, "trace.", 6) == 0) mr3d_bundle_copy(kept, name, t);
      }
      mr3d_bundle_free(&request), mr3d_bundle_free(&answer);
    }
    mr3d_server_free(&server);
    mr3d_bundle_free(&weights);
    unlink(path);
  }
  mr3d_bundle *copy = mr3d_bundle_new();
  mr3d_bundle_set(copy, "config", CONFIG_TEXT);
  for (int i = 0; i < mr3d_bundle_count(kept); i++) mr3d_bundle_copy(copy, NULL, mr3d_bundle_at(kept, i));
  return copy;
}

/* A copy without the tensors whose names begin so; `name` NULL: all stay. */
static mr3d_bundle *without(mr3d_bundle *from, const char *name) {
  mr3d_bundle *to = mr3d_bundle_new();
  mr3d_bundle_set(to, "config", mr3d_bundle_get(from, "config"));
  for (int i = 0; i < mr3d_bundle_count(from); i++)
    if (!name || strncmp(mr3d_bundle_at(from, i)->name, name, strlen(name)) != 0) mr3d_bundle_copy(to, NULL, mr3d_bundle_at(from, i));
  mr3d_bundle_free(&from);
  return to;
}

/* The trace shows this row and, because of it, at most some others; `slug` NULL: nothing. */
static void assert_shows(mr3d_bundle *trace, const char *slug, const char *words) {
  mr3d_symptom found[16];
  mr3d_aligned *a = aligned_with(trace, NULL);
  const int n = mr3d_symptoms_of_trace(a, 16, found);
  if (!slug && n) fail_msg("a sound trace shows %s: %s", found[0].signal->slug, found[0].found);
  int at = 0;
  while (at < n && slug && strcmp(found[at].signal->slug, slug) != 0) at++;
  if (slug && (at == n || !strstr(found[at].found, words))) fail_msg("%s: %d rows; %s", slug, n, at < n ? found[at].found : n ? found[0].found : "none");
  if (slug && n != 1) fail_msg("%s: %d rows, also %s: %s", slug, n, found[at ? 0 : 1].signal->slug, found[at ? 0 : 1].found);
  mr3d_align_free(&a);
  mr3d_bundle_free(&trace);
}

static void a_sound_trace_shows_nothing(void **state) {
  (void)state;
  assert_shows(sound(), NULL, NULL);
  assert_shows(without(sound(), "1."), NULL, NULL);
}

static void a_mask_that_was_not_repaired_or_wrongly_shows(void **state) {
  (void)state;
  mr3d_bundle *t = without(without(sound(), "1.0.visible"), "1.1.visible");
  for (int layer = 0; layer < LAYERS; layer++) {
    char name[32];
    snprintf(name, sizeof name, "1.%d.visible", layer);
    bool *v = mr3d_bundle_add(t, name, MR3D_BOOL, SHAPE(1, 1, T + 1))->data;
    for (int i = 0; i < T + 1; i++) v[i] = true;
  }
  assert_shows(t, "mask-columns", "step 1, layer 0: visible has 7 columns (the caller's mask has 7), the cache holds 9 keys and 1 more comes: 10");
  t = sound();
  for (int64_t j = T + 1; j < S + 1; j++) ((bool *)mr3d_bundle_find(t, "1.1.visible")->data)[j] = false;
  assert_shows(t, "mask-columns", "step 1, layer 1: new token 0 does not see 3 of 10 keys, although the caller hides none (the caller's mask has 7)");
}

static void heads_of_the_other_side_show(void **state) {
  (void)state;
  mr3d_bundle *t = without(sound(), "0.1.key_rotated");
  add_drawn(t, "0.1.key_rotated", 3, MR3D_F32, SHAPE(1, H, S, D));
  assert_shows(t, "heads", "step 0, layer 1: key_rotated has 6 heads ([1,6,9,8]), expected 2");
  t = without(sound(), "weights.model.layers.1.self_attn.freqs_3d_kv");
  add_drawn(t, "weights.model.layers.1.self_attn.freqs_3d_kv", 3, MR3D_F32, SHAPE(3, H, D / 4));
  assert_shows(t, "heads", "weights.model.layers.1.self_attn.freqs_3d_kv is for 6 heads, expected 2");
}

static void another_head_dim_shows(void **state) {
  (void)state;
  mr3d_bundle *t = without(sound(), "0.0.query_rotated");
  add_drawn(t, "0.0.query_rotated", 3, MR3D_F32, SHAPE(1, H, S, D / 2));
  assert_shows(t, "head-dim", "query_rotated has 4 dimensions a head ([1,6,9,4]), head_dim is 8");
}

static void rows_of_the_raw_scan_show(void **state) {
  (void)state;
  mr3d_bundle *t = without(sound(), "0.model.point_coords");
  add_whole(t, "0.model.point_coords", 0, 1, SHAPE(106, 3));
  assert_shows(t, "raw-rows", "step 0: point_coords has 106 rows, point_token_mask marks 4 tokens");
}

static void a_splice_of_another_length_shows(void **state) {
  (void)state;
  for (int kept_pad = 0; kept_pad < 2; kept_pad++) {
    mr3d_bundle *t = sound();
    mr3d_bundle_set(t, "config", "{\"hidden_size\":40,\"intermediate_size\":24,\"num_hidden_layers\":2,\"num_attention_heads\":6,\"num_key_value_heads\":2,\"head_dim\":8,\"vocab_size\":50,"
                                 "\"rope_theta\":10000.0,\"rms_norm_eps\":1e-6,\"point_start_token_id\":47,\"point_end_token_id\":48,\"point_token_id\":49}");
    int64_t *ids = add_whole(t, "0.model.input_ids", 1, 1, SHAPE(1, kept_pad ? T - 1 : T))->data;
    ids[1] = 47, ids[kept_pad ? 2 : 3] = 48; /* nothing between the markers: one token too many came */
    if (kept_pad) assert_shows(t, NULL, NULL); /* T - 1 tokens of text and no pad are as long */
    else {
      ids[4] = 48, ids[3] = 4; /* two tokens between them, of which one stayed */
      assert_shows(t, "splice-length", "the spliced prompt has 9 tokens, expected 8 = 6 of text - 2 between the markers + 4 points");
    }
  }
}

/* The first chunk of a prompt has fewer tokens than its ids say. */
static void a_prompt_in_chunks_shows_no_splice(void **state) {
  (void)state;
  for (int chunks = 0; chunks < 2; chunks++) {
    mr3d_bundle *t = chunks ? without(sound(), "1.model.input_ids") : sound();
    mr3d_bundle_set(t, "config", "{\"hidden_size\":40,\"intermediate_size\":24,\"num_hidden_layers\":2,\"num_attention_heads\":6,\"num_key_value_heads\":2,\"head_dim\":8,\"vocab_size\":50,"
                                 "\"rope_theta\":10000.0,\"rms_norm_eps\":1e-6,\"point_start_token_id\":47,\"point_end_token_id\":48,\"point_token_id\":49}");
    int64_t *ids = add_whole(t, "0.model.input_ids", 1, 1, SHAPE(1, 2 * T))->data;
    ids[1] = 47, ids[3] = 48;
    assert_shows(t, chunks ? NULL : "splice-length", "the spliced prompt has 9 tokens");
  }
}

static void positions_that_count_text_only_show(void **state) {
  (void)state;
  mr3d_bundle *t = sound();
  *(int64_t *)mr3d_bundle_find(t, "1.1.position_ids")->data = T;
  assert_shows(t, "second-token", "step 1, layer 1: position_ids is 6 where 9 tokens came before: expected 9");
  t = sound();
  *(int64_t *)mr3d_bundle_find(t, "2.model.position_ids")->data = T + 1;
  assert_shows(t, "second-token", "step 2: position_ids is 7 where 10 tokens came before");
}

static void a_cache_whose_past_changes_shows(void **state) {
  (void)state;
  mr3d_bundle *t = sound();
  ((double *)mr3d_bundle_find(t, "1.1.key_cache")->data)[(S + 1) * D + 3 * D] += 1e-9; /* head 1, row 3 */
  ((double *)mr3d_bundle_find(t, "2.1.key_cache")->data)[(S + 2) * D + 3 * D] += 1e-9;
  assert_shows(t, "cache", "step 1, layer 1: row 3 of key_cache is not what step 0 left there");
  t = sound();
  ((int64_t *)mr3d_bundle_find(t, "1.0.cache_length")->data)[0] = 0;
  assert_shows(t, "cache", "the cache holds 0 keys before and 10 behind the call, expected 9 and 10");
}

static void a_call_that_ends_half_way_shows(void **state) {
  (void)state;
  mr3d_bundle *t = without(without(without(sound(), "2.1."), "2.model.logits"), "2.model.final_norm");
  assert_shows(t, "never-returns", "step 2, layer 0: output is the last point that came; 2.input of layer 1 should have followed, and no logits are there");
  t = sound();
  const char *const rest[] = {"1.0.visible", "1.0.scores", "1.0.context", "1.0.o_proj", "1.0.attention_residual", "1.0.post", "1.0.gate", "1.0.up", "1.0.down", "1.0.output", "1.1.", "1.model.logits", "1.model.final", "2."};
  for (size_t i = 0; i < sizeof rest / sizeof *rest; i++) t = without(t, rest[i]);
  assert_shows(t, "never-returns", "step 1, layer 0: value_cache is the last point that came; 1.visible of layer 0 should have followed");
}

static void nan_shows_where_it_begins(void **state) {
  (void)state;
  mr3d_bundle *t = sound();
  ((double *)mr3d_bundle_find(t, "0.1.context")->data)[5] = NAN;
  ((double *)mr3d_bundle_find(t, "0.1.output")->data)[5] = NAN;
  assert_shows(t, "nan-half", "step 0, layer 1: context is the first point with NaN or infinity");
  t = sound();
  ((int64_t *)mr3d_bundle_find(t, "0.model.attention_mask")->data)[S - 1] = 0;
  ((double *)mr3d_bundle_find(t, "0.0.scores_max")->data)[5] = INFINITY;
  ((double *)mr3d_bundle_find(t, "0.0.output")->data)[5] = NAN;
  assert_shows(t, "nan-padding", "scores_max is the first point with NaN or infinity, and the mask hides keys");
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(every_row_has_its_words_and_pitfalls_that_exist),
      cmocka_unit_test(the_document_and_the_program_have_the_same_rows),
      cmocka_unit_test(messages_give_their_row_by_pairs_of_numbers),
      cmocka_unit_test(a_sound_trace_shows_nothing),
      cmocka_unit_test(a_mask_that_was_not_repaired_or_wrongly_shows),
      cmocka_unit_test(heads_of_the_other_side_show),
      cmocka_unit_test(another_head_dim_shows),
      cmocka_unit_test(rows_of_the_raw_scan_show),
      cmocka_unit_test(a_splice_of_another_length_shows),
      cmocka_unit_test(a_prompt_in_chunks_shows_no_splice),
      cmocka_unit_test(positions_that_count_text_only_show),
      cmocka_unit_test(a_cache_whose_past_changes_shows),
      cmocka_unit_test(a_call_that_ends_half_way_shows),
      cmocka_unit_test(nan_shows_where_it_begins),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
