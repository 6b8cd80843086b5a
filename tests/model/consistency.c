/**
 * The consistency law of spec.md section 5, without any golden data: prefill of S+k tokens equals prefill of S and k decode
 * steps, and equals any chunking of either, up to rounding (here 1e-12 of the largest value).
 */
#include "fixture.h"

enum { S = 11, STEPS = 4, T = S + STEPS };

/* B sequences of T tokens; the last STEPS are token ids, the others embeddings with points among them. */
typedef struct sequence {
  const char *config;
  int64_t B;
  double *embeds;         /* [B,T,HIDDEN] */
  int64_t *mask;          /* [B,T] */
  bool *marks;            /* [B,T] */
  int64_t coords[2][S][3];
  int64_t ids[2][STEPS];
  char weights[64];
} sequence;

static sequence make_sequence(int64_t B, const char *config, layer_options options) {
  sequence s = {.config = config, .B = B};
  s.embeds = mr3d_allocate(B * T * HIDDEN, sizeof *s.embeds);
  s.mask = mr3d_allocate(B * T, sizeof *s.mask);
  s.marks = mr3d_allocate(B * T, sizeof *s.marks);
  mr3d_bundle *weights = decoder_weights(options);
  double *table = values_of(weights, "model.embed_tokens.weight");
  for (int64_t b = 0; b < B; b++) {
    const int64_t padding = b == 1 ? 3 : 0; /* the second sample is shorter and right-padded */
    for (int64_t t = 0; t < T; t++) {
      const int64_t id = (7 * t + 13 * b + 5) % V;
      if (t >= S) s.ids[b][t - S] = id;
      s.mask[b * T + t] = t < S - padding || t >= S;
      s.marks[b * T + t] = t >= 2 && t < 7 - 2 * b; /* 5 points, 3 points */
      for (int64_t j = 0; j < HIDDEN; j++)
        s.embeds[(b * T + t) * HIDDEN + j] = t >= S ? table[id * HIDDEN + j] : drawn((uint64_t)(100 + b), (uint64_t)(t * HIDDEN + j));
    }
    for (int64_t k = 0; k < S * 3; k++) s.coords[b][k / 3][k % 3] = (int64_t)(40 + 39 * drawn((uint64_t)(200 + b), (uint64_t)k));
  }
  free(table);
  save_weights(weights, s.weights);
  return s;
}

static void free_sequence(sequence *s) {
  unlink(s->weights);
  free(s->embeds);
  free(s->mask);
  free(s->marks);
}

/* Tokens from .. to-1 as a prefill chunk, with the points among them; logits and hidden rows go into [B,T,..] arrays. */
static void prefill(mr3d_server *server, const sequence *s, const char *session, int64_t from, int64_t to, double *logits, double *hidden) {
  const int64_t q = to - from;
  mr3d_bundle *r = request("prefill", s->config);
  mr3d_bundle_set(r, "session", session);
  mr3d_bundle_set(r, "weights", s->weights);
  double *embeds = mr3d_bundle_add(r, "inputs_embeds", MR3D_F64, SHAPE(s->B, q, HIDDEN))->data;
  int64_t *mask = mr3d_bundle_add(r, "attention_mask", MR3D_I64, SHAPE(s->B, to))->data;
  int64_t counts[2] = {0}, before[2] = {0}, most = 0;
  for (int64_t b = 0; b < s->B; b++) {
    memcpy(embeds + b * q * HIDDEN, s->embeds + (b * T + from) * HIDDEN, (size_t)(q * HIDDEN) * sizeof *embeds);
    memcpy(mask + b * to, s->mask + b * T, (size_t)to * sizeof *mask);
    for (int64_t t = 0; t < to; t++) *(t < from ? &before[b] : &counts[b]) += s->marks[b * T + t];
    most = counts[b] > most ? counts[b] : most;
  }
  if (most) {
    bool *marks = mr3d_bundle_add(r, "point_token_mask", MR3D_BOOL, SHAPE(s->B, q))->data;
    int64_t *coords = mr3d_bundle_add(r, "point_coords", MR3D_I64, SHAPE(s->B, most, 3))->data;
    add_integers(r, "point_counts", counts, SHAPE(s->B));
    for (int64_t b = 0; b < s->B; b++) {
      memcpy(marks + b * q, s->marks + b * T + from, (size_t)q);
      memcpy(coords + b * most * 3, s->coords[b][before[b]], (size_t)(counts[b] * 3) * sizeof *coords);
    }
  }
  mr3d_bundle *a = answer(server, r);
  assert_shape(a, "logits", SHAPE(s->B, q, V));
  assert_shape(a, "hidden", SHAPE(s->B, q, HIDDEN));
  for (int64_t b = 0; b < s->B; b++) {
    memcpy(logits + (b * T + from) * V, reals(a, "logits") + b * q * V, (size_t)(q * V) * sizeof *logits);
    memcpy(hidden + (b * T + from) * HIDDEN, reals(a, "hidden") + b * q * HIDDEN, (size_t)(q * HIDDEN) * sizeof *hidden);
  }
  mr3d_bundle_free(&a);
}

static void decode(mr3d_server *server, const sequence *s, const char *session, int64_t from, int64_t to, double *logits) {
  const int64_t q = to - from;
  mr3d_bundle *r = request("decode", s->config);
  mr3d_bundle_set(r, "session", session);
  int64_t *ids = mr3d_bundle_add(r, "input_ids", MR3D_I64, SHAPE(s->B, q))->data;
  for (int64_t b = 0; b < s->B; b++)
    for (int64_t i = 0; i < q; i++) ids[b * q + i] = s->ids[b][from - S + i];
  mr3d_bundle *a = answer(server, r);
  assert_int_equal(mr3d_bundle_count(a), 1);
  assert_shape(a, "logits", SHAPE(s->B, q, V));
  for (int64_t b = 0; b < s->B; b++) memcpy(logits + (b * T + from) * V, reals(a, "logits") + b * q * V, (size_t)(q * V) * sizeof *logits);
  mr3d_bundle_free(&a);
}

/* Rows that are no padding, of [B,T,n]. */
static void assert_rows_close(const sequence *s, const double *a, const double *b, int64_t n) {
  int64_t compared = 0;
  for (int64_t i = 0; i < s->B * T; i++)
    if (s->mask[i]) {
      assert_close(a + i * n, b + i * n, n, 1e-12);
      compared++;
    }
  assert_true(compared >= T);
}

static void check_law(int64_t B, const char *config, layer_options options) {
  sequence s = make_sequence(B, config, options);
  mr3d_server *server = new_server();
  double *whole = mr3d_allocate(B * T * V, sizeof *whole), *parts = mr3d_allocate(B * T * V, sizeof *parts);
  double *whole_hidden = mr3d_allocate(B * T * HIDDEN, sizeof *whole), *parts_hidden = mr3d_allocate(B * T * HIDDEN, sizeof *parts);
  prefill(server, &s, "whole", 0, T, whole, whole_hidden);

  prefill(server, &s, "steps", 0, S, parts, parts_hidden);
  for (int64_t t = S; t < T; t++) decode(server, &s, "steps", t, t + 1, parts);
  assert_rows_close(&s, parts, whole, V);

  prefill(server, &s, "several tokens a step", 0, S, parts, parts_hidden);
  decode(server, &s, "several tokens a step", S, S + 3, parts);
  decode(server, &s, "several tokens a step", S + 3, T, parts);
  assert_rows_close(&s, parts, whole, V);

  static const int64_t cuts[][5] = {{1, 5, 6, S, T}, {4, T, T, T, T}, {2, 3, 9, 14, T}}; /* among them cuts through the points */
  for (size_t c = 0; c < sizeof cuts / sizeof *cuts; c++) {
    char session[32];
    snprintf(session, sizeof session, "chunks %d", (int)c);
    for (int64_t i = 0, from = 0; i < 5 && from < T; from = cuts[c][i++]) prefill(server, &s, session, from, cuts[c][i], parts, parts_hidden);
    assert_rows_close(&s, parts, whole, V);
    assert_rows_close(&s, parts_hidden, whole_hidden, HIDDEN);
  }
  mr3d_server_free(&server);
  free(whole);
  free(parts);
  free(whole_hidden);
  free(parts_hidden);
  free_sequence(&s);
}

#define LAW(name, B, options, ...)                                        \
  static void name(void **state) {                                        \
    (void)state;                                                          \
    check_law(B, CONFIG_WITH(options), (layer_options){.dtype = MR3D_F64, __VA_ARGS__}); \
  }
LAW(one_sample_with_points, 1, "\"decode_mask\":\"pad_end\"", .flat = false)
LAW(two_samples_of_different_length_and_points, 2, "\"decode_mask\":\"spliced\"", .flat = true)
LAW(interleaved_native_with_an_untied_head, 1, "\"mixed_rope_layout\":\"interleaved\",\"temporal_rope\":\"native\"", .untied = true)
LAW(raw_coordinates_and_axial_frequencies, 1, "\"coord_norm\":\"none\",\"rope_3d_kind\":\"axial\"", .no_rotary = true)
LAW(two_samples_full_temporal, 2, "\"decode_mask\":\"spliced\",\"spatial_temporal_separate_strategy\":\"full_temporal\"", .no_rotary = true)

/* The law would hold too if points were never rotated as points: they are, and by the layer's own parameters. */
static void points_differ_from_text(void **state) {
  (void)state;
  sequence s = make_sequence(1, CONFIG, (layer_options){.dtype = MR3D_F64});
  mr3d_server *server = new_server();
  double *points = mr3d_allocate(T * V, sizeof *points), *text = mr3d_allocate(T * V, sizeof *text), *hidden = mr3d_allocate(T * HIDDEN, sizeof *hidden);
  prefill(server, &s, "points", 0, T, points, hidden);
  memset(s.marks, 0, T);
  prefill(server, &s, "text", 0, T, text, hidden);
  double most = 0;
  for (int64_t i = 0; i < T * V; i++) most = points[i] - text[i] > most ? points[i] - text[i] : most;
  assert_true(most > 0.01);
  assert_memory_equal(points, text, 2 * V * sizeof *points); /* the two rows before the first point see none */
  mr3d_server_free(&server);
  free(points);
  free(text);
  free(hidden);
  free_sequence(&s);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(one_sample_with_points),
      cmocka_unit_test(two_samples_of_different_length_and_points),
      cmocka_unit_test(interleaved_native_with_an_untied_head),
      cmocka_unit_test(raw_coordinates_and_axial_frequencies),
      cmocka_unit_test(two_samples_full_temporal),
      cmocka_unit_test(points_differ_from_text),
  };
  return cmocka_run_group_tests_name("prefill of S+k equals prefill of S and k decode steps, and any chunking", tests, NULL, NULL);
}
