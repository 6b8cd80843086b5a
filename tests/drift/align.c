/** Traces of other names and layouts are seen in the protocol's: by shape, by the trace itself, by values, and what cannot be used is said. */
#include <math.h>

#include "fixture.h"

/* Value of element (b, head, token, dim) of a point with heads. */
static double value_at(int64_t b, int64_t h, int64_t i, int64_t d) { return (double)(1 + b * 10000 + h * 1000 + i * 100 + d); }

/* A point with heads [B,n,q,D], laid out by `order`: "BHqD", "BqHD", "BHDq". */
static mr3d_tensor *add_heads(mr3d_bundle *bundle, const char *name, const char *order, int64_t n, int64_t q, int64_t repeat, int rank, const int64_t *shape) {
  mr3d_tensor *t = mr3d_bundle_add(bundle, name, MR3D_F32, rank, shape);
  int64_t at = 0, size[4], index[4];
  for (int i = 0; i < 4; i++) size[i] = order[i] == 'B' ? 1 : order[i] == 'H' ? n * repeat : order[i] == 'q' ? q : D;
  assert_int_equal(mr3d_tensor_count(t), n * repeat * q * D);
  for (index[0] = 0; index[0] < size[0]; index[0]++)
    for (index[1] = 0; index[1] < size[1]; index[1]++)
      for (index[2] = 0; index[2] < size[2]; index[2]++)
        for (index[3] = 0; index[3] < size[3]; index[3]++) {
          int64_t b = 0, h = 0, token = 0, d = 0;
          for (int i = 0; i < 4; i++) *(order[i] == 'B' ? &b : order[i] == 'H' ? &h : order[i] == 'q' ? &token : &d) = index[i];
          ((float *)t->data)[at++] = (float)value_at(b, h / repeat, token, d);
        }
  return t;
}

static void assert_protocol(mr3d_aligned *a, int64_t step, int64_t layer, const char *point, int64_t n, int64_t q) {
  const mr3d_tensor *t = mr3d_aligned_find(a, step, layer, point);
  if (!t) fail_msg("%s is not there", point);
  assert_int_equal(t->rank, 4);
  assert_int_equal(t->shape[1], n);
  assert_int_equal(t->shape[2], q);
  assert_int_equal(t->shape[3], D);
  for (int64_t h = 0; h < n; h++)
    for (int64_t i = 0; i < q; i++)
      for (int64_t d = 0; d < D; d++) assert_true(((const float *)t->data)[(h * q + i) * D + d] == (float)value_at(0, h, i, d));
}

static mr3d_bundle *new_trace(int64_t q) {
  mr3d_bundle *bundle = mr3d_bundle_new();
  mr3d_bundle_set(bundle, "config", CONFIG_TEXT);
  add_drawn(bundle, "0.model.inputs_embeds", 1, MR3D_F32, SHAPE(1, q, C));
  return bundle;
}

static void every_layout_of_heads_is_told_by_its_shape(void **state) {
  (void)state;
  const struct { const char *order; int rank; int64_t shape[4]; const char *says; } layouts[] = {
      {"BHqD", 4, {1, H, Q, D}, "B,H,q,D"}, {"BqHD", 4, {1, Q, H, D}, "B,q,H,D"}, {"BHDq", 4, {1, H, D, Q}, "B,H,D,q"},   {"BHqD", 3, {H, Q, D}, "B,H,q,D"}, {"BqHD", 3, {Q, H, D}, "B,q,H,D"},
      {"BqHD", 3, {1, Q, H * D}, "B,q,H,D"}, {"BqHD", 2, {Q, H * D}, "B,q,H,D"},   {"BHqD", 3, {1 * H, Q, D}, "B,H,q,D"}};
  for (size_t l = 0; l < sizeof layouts / sizeof *layouts; l++) {
    mr3d_bundle *bundle = new_trace(Q);
    char text[96];
    add_heads(bundle, "0.1.query", layouts[l].order, H, Q, 1, layouts[l].rank, layouts[l].shape);
    mr3d_aligned *a = aligned_with(bundle, NULL);
    assert_protocol(a, 0, 1, "query", H, Q);
    mr3d_aligned_layout(a, 0, 1, "query", text);
    assert_string_equal(text, layouts[l].says);
    assert_int_equal(mr3d_aligned_remarks(a), 0);
    assert_int_equal(mr3d_aligned_layers(a), 2);
    mr3d_align_free(&a);
    mr3d_bundle_free(&bundle);
  }
}

static void keys_repeated_for_the_query_heads_are_folded_and_other_heads_are_wrong(void **state) {
  (void)state;
  mr3d_bundle *bundle = new_trace(Q);
  char text[96];
  add_heads(bundle, "0.0.key_rotated", "BHqD", G, Q, H / G, SHAPE(1, H, Q, D));
  add_heads(bundle, "0.1.key_rotated", "BqHD", G, Q, H / G, SHAPE(1, Q, H, D));
  add_heads(bundle, "0.0.key_cache", "BHqD", H, Q, 1, SHAPE(1, H, Q, D)); /* as many heads, all different */
  mr3d_aligned *a = aligned_with(bundle, NULL);
  assert_protocol(a, 0, 0, "key_rotated", G, Q);
  assert_protocol(a, 0, 1, "key_rotated", G, Q);
  mr3d_aligned_layout(a, 0, 1, "key_rotated", text);
  assert_string_equal(text, "B,q,G,D repeated for 6 heads");
  assert_null(mr3d_aligned_find(a, 0, 0, "key_cache"));
  assert_remark(a, "0.0.key_cache has shape [1,6,5,8], which is no layout of [B,G,K,D] = [1,2,5,8]");
  mr3d_align_free(&a);
  mr3d_bundle_free(&bundle);
}

/* As many tokens as heads: [1,6,6,8] may be either. */
static void what_shapes_leave_open_the_trace_or_a_reference_settles(void **state) {
  (void)state;
  mr3d_bundle *bundle = new_trace(H), *truth = new_trace(H);
  add_heads(bundle, "0.0.query", "BqHD", H, H, 1, SHAPE(1, H, H, D));
  mr3d_aligned *alone = aligned_with(bundle, NULL);
  assert_remark(alone, "0.0.query: shape [1,6,6,8] fits several layouts; it is taken for [B,H,q,D]");
  mr3d_align_free(&alone);

  add_heads(truth, "0.0.query", "BHqD", H, H, 1, SHAPE(1, H, H, D));
  mr3d_aligned *reference = aligned_with(truth, NULL), *a = aligned_with(bundle, &(mr3d_align_options){.reference = reference});
  assert_protocol(a, 0, 0, "query", H, H);
  assert_int_equal(mr3d_aligned_remarks(a), 0);
  mr3d_align_free(&a), mr3d_align_free(&reference);

  add_drawn(bundle, "1.model.inputs_embeds", 1, MR3D_F32, SHAPE(1, 3, C)); /* another step leaves no doubt */
  add_heads(bundle, "1.1.query_rotated", "BqHD", H, 3, 1, SHAPE(1, 3, H, D));
  a = aligned_with(bundle, NULL);
  assert_protocol(a, 0, 0, "query", H, H);
  assert_protocol(a, 1, 1, "query_rotated", H, 3);
  assert_int_equal(mr3d_aligned_remarks(a), 0);
  mr3d_align_free(&a);

  const char *map = written("{\"names\": {}, \"layouts\": {\"query\": \"BqHD\"}}");
  mr3d_bundle *only = new_trace(H);
  add_heads(only, "0.0.query", "BqHD", H, H, 1, SHAPE(1, H, H, D));
  a = aligned_with(only, &(mr3d_align_options){.map = map});
  assert_protocol(a, 0, 0, "query", H, H);
  mr3d_align_free(&a);
  unlink(map);
  mr3d_bundle_free(&bundle), mr3d_bundle_free(&truth), mr3d_bundle_free(&only);
}

static void one_token_lies_alike_in_every_layout(void **state) {
  (void)state;
  mr3d_bundle *bundle = new_trace(1);
  add_heads(bundle, "0.0.query", "BqHD", H, 1, 1, SHAPE(1, 1, H * D));
  add_heads(bundle, "0.1.query", "BHqD", H, 1, 1, SHAPE(1, H, 1, D));
  add_heads(bundle, "0.1.context", "BHqD", H, 1, 1, SHAPE(H * D));
  mr3d_aligned *a = aligned_with(bundle, NULL);
  assert_protocol(a, 0, 0, "query", H, 1);
  assert_protocol(a, 0, 1, "query", H, 1);
  assert_protocol(a, 0, 1, "context", H, 1);
  assert_int_equal(mr3d_aligned_remarks(a), 0);
  mr3d_align_free(&a);
  mr3d_bundle_free(&bundle);
}

static void rows_positions_and_scores_lose_axes_of_one(void **state) {
  (void)state;
  mr3d_bundle *bundle = new_trace(Q);
  add_drawn(bundle, "0.0.output", 3, MR3D_BF16, SHAPE(Q, C));
  add_drawn(bundle, "0.0.scores_lse", 4, MR3D_F32, SHAPE(1, H, Q));
  add_drawn(bundle, "0.1.scores_lse", 4, MR3D_F32, SHAPE(1, H, Q, 1));
  add_whole(bundle, "0.model.position_ids", 0, 1, SHAPE(Q));
  mr3d_bundle_add(bundle, "0.model.point_token_mask", MR3D_I64, SHAPE(1, Q));
  ((int64_t *)mr3d_bundle_find(bundle, "0.model.point_token_mask")->data)[3] = 1;
  add_drawn(bundle, "0.model.logits", 5, MR3D_F32, SHAPE(1, V)); /* of the last token */
  mr3d_aligned *a = aligned_with(bundle, NULL);
  const mr3d_tensor *t = mr3d_aligned_find(a, 0, 0, "output");
  assert_int_equal(t->rank, 3);
  assert_int_equal(t->dtype, MR3D_BF16);
  assert_int_equal(mr3d_aligned_find(a, 0, 1, "scores_lse")->rank, 3);
  t = mr3d_aligned_find(a, 0, MR3D_TRACE_MODEL, "position_ids");
  assert_int_equal(t->rank, 2);
  assert_int_equal(t->shape[0], 1);
  t = mr3d_aligned_find(a, 0, MR3D_TRACE_MODEL, "point_token_mask");
  assert_int_equal(t->dtype, MR3D_BOOL);
  assert_true(((const bool *)t->data)[3] && !((const bool *)t->data)[2]);
  t = mr3d_aligned_find(a, 0, MR3D_TRACE_MODEL, "logits");
  assert_int_equal(t->rank, 3);
  assert_int_equal(t->shape[1], 1);
  assert_int_equal(mr3d_aligned_remarks(a), 0);
  mr3d_align_free(&a);
  mr3d_bundle_free(&bundle);
}

static void masks_are_flags_numbers_or_what_is_added_to_scores(void **state) {
  (void)state;
  const double lowest[] = {-3.4e38, -65504, -1e9, -INFINITY};
  for (int kind = 0; kind < 7; kind++) {
    mr3d_bundle *bundle = new_trace(2);
    const bool heads = kind == 5;
    mr3d_tensor *t = kind < 4    ? mr3d_bundle_add(bundle, "0.0.visible", MR3D_F32, SHAPE(1, 1, 2, 2))
                     : kind == 4 ? mr3d_bundle_add(bundle, "0.0.visible", MR3D_I64, SHAPE(2, 2))
                     : heads     ? mr3d_bundle_add(bundle, "0.0.visible", MR3D_BOOL, SHAPE(1, H, 2, 2))
                                 : mr3d_bundle_add(bundle, "0.0.visible", MR3D_BOOL, SHAPE(1, 2, 2));
    const int64_t count = mr3d_tensor_count(t);
    double *values = mr3d_allocate(count, sizeof *values);
    for (int64_t i = 0; i < count; i++) values[i] = kind < 4 ? (i % 4 == 1 ? lowest[kind] : 0) : i % 4 != 1;
    if (t->dtype == MR3D_BOOL) for (int64_t i = 0; i < count; i++) ((bool *)t->data)[i] = values[i] != 0;
    else mr3d_tensor_from_double(t, values);
    free(values);
    mr3d_aligned *a = aligned_with(bundle, NULL);
    const mr3d_tensor *v = mr3d_aligned_find(a, 0, 0, "visible");
    assert_non_null(v);
    assert_int_equal(v->dtype, MR3D_BOOL);
    assert_int_equal(v->rank, 3);
    const bool *seen = v->data;
    assert_true(seen[0] && !seen[1] && seen[2] && seen[3]);
    mr3d_align_free(&a);
    mr3d_bundle_free(&bundle);
  }
}

static void other_names_come_by_a_map(void **state) {
  (void)state;
  mr3d_bundle *bundle = mr3d_bundle_new();
  mr3d_bundle_set(bundle, "config", CONFIG_TEXT);
  add_heads(bundle, "h.1.attn.q", "BqHD", H, Q, 1, SHAPE(1, Q, H * D));
  add_drawn(bundle, "emb", 1, MR3D_F32, SHAPE(1, Q, C));
  add_drawn(bundle, "call1/out", 1, MR3D_F32, SHAPE(1, 1, V));
  add_drawn(bundle, "h.1.attn.secret", 1, MR3D_F32, SHAPE(1, Q, C));
  const char *map = written("{\"names\": {\"h.{layer}.attn.q\": \"query\", \"emb\": \"model.inputs_embeds\", \"call{step}/out\": \"model.logits\"}}");
  mr3d_aligned *a = aligned_with(bundle, &(mr3d_align_options){.map = map});
  assert_protocol(a, 0, 1, "query", H, Q);
  assert_non_null(mr3d_aligned_find(a, 0, MR3D_TRACE_MODEL, "inputs_embeds"));
  assert_non_null(mr3d_aligned_find(a, 1, MR3D_TRACE_MODEL, "logits"));
  assert_remark(a, "1 tensor of mine is no point, the first \"h.1.attn.secret\"");
  mr3d_align_free(&a);
  const struct { const char *map, *says; } wrong[] = {
      {"{}", "expected an object with \"names\""},
      {"{\"nams\": {}}", "\"nams\" is unknown or of the wrong type"},
      {"{\"names\": {\"x\": 3}}", "\"x\" is mapped to no string"},
      {"{\"names\": {\"x.{layer}\": \"qwery\"}}", "is mapped to \"qwery\", which is no point of a layer"},
      {"{\"names\": {\"x\": \"query\"}}", "which is no point of the model"},
      {"{\"names\": {}, \"layouts\": {\"query\": \"BqHH\"}}", "\"BqHH\" is no layout of query"},
      {"{\"names\": {}, \"layouts\": {\"nothing\": \"BqHD\"}}", "there is no point \"nothing\""}};
  for (size_t i = 0; i < sizeof wrong / sizeof *wrong; i++) {
    mr3d_error error = {0};
    map = written(wrong[i].map);
    assert_int_not_equal(mr3d_align_bundle(bundle, "mine", &(mr3d_align_options){.map = map}, &a, &error), MR3D_OK);
    if (!strstr(error.message, wrong[i].says)) fail_msg("%s: %s", wrong[i].map, error.message);
  }
  unlink(map);
  mr3d_bundle_free(&bundle);
}

static void missing_points_are_told_and_no_failure(void **state) {
  (void)state;
  mr3d_bundle *bundle = new_trace(Q), *fuller = new_trace(Q);
  add_heads(bundle, "0.0.query", "BHqD", H, Q, 1, SHAPE(1, H, Q, D));
  for (int layer = 0; layer < LAYERS; layer++) {
    char name[40];
    snprintf(name, sizeof name, "0.%d.query", layer);
    add_heads(fuller, name, "BHqD", H, Q, 1, SHAPE(1, H, Q, D));
    snprintf(name, sizeof name, "0.%d.down", layer);
    add_drawn(fuller, name, 2, MR3D_F32, SHAPE(1, Q, C));
  }
  mr3d_aligned *a = aligned_with(bundle, NULL), *b = aligned_with(fuller, NULL);
  mr3d_missing missing[64];
  assert_int_equal(mr3d_aligned_missing(a, b, 64, missing), 2);
  assert_string_equal(missing[0].point, "query");
  assert_int_equal(missing[0].count, 1);
  assert_int_equal(missing[0].layer, 1);
  assert_string_equal(missing[1].point, "down");
  assert_int_equal(missing[1].count, 2);
  assert_int_equal(mr3d_aligned_missing(b, a, 64, missing), 0);
  assert_true(mr3d_aligned_missing(a, NULL, 64, missing) > 20);
  assert_int_equal(mr3d_aligned_missing(a, NULL, 0, missing), mr3d_aligned_missing(a, NULL, 64, missing));
  assert_null(mr3d_aligned_find(a, 0, 1, "query"));
  assert_null(mr3d_aligned_find(a, 7, 1, "query"));
  mr3d_align_free(&a), mr3d_align_free(&b);
  mr3d_bundle_free(&bundle), mr3d_bundle_free(&fuller);
}

static void what_is_no_trace_is_refused(void **state) {
  (void)state;
  mr3d_bundle *bundle = mr3d_bundle_new();
  mr3d_aligned *a = NULL;
  mr3d_error error = {0};
  assert_int_equal(mr3d_align_bundle(bundle, "mine", NULL, &a, &error), MR3D_INVALID);
  add_drawn(bundle, "y", 1, MR3D_F32, SHAPE(3));
  assert_int_equal(mr3d_align_bundle(bundle, "mine", NULL, &a, &error), MR3D_INVALID);
  assert_non_null(strstr(error.message, "mine holds no point of a trace: its first tensor is \"y\""));
  add_drawn(bundle, "0.0.query", 1, MR3D_F32, SHAPE(3));
  add_drawn(bundle, "00.0.query", 1, MR3D_F32, SHAPE(3));
  assert_int_equal(mr3d_align_bundle(bundle, "mine", NULL, &a, &error), MR3D_INVALID);
  assert_non_null(strstr(error.message, "both the same point"));
  assert_int_equal(mr3d_align_open("/nowhere/t.safetensors", NULL, &a, &error), MR3D_IO);
  assert_null(a);
  mr3d_bundle_free(&bundle);
}

/* Steps know how many tokens they have and how many came before. */
static void sizes_of_steps_follow_from_the_points(void **state) {
  (void)state;
  mr3d_bundle *bundle = new_trace(Q);
  add_heads(bundle, "1.0.query", "BqHD", H, 1, 1, SHAPE(1, 1, H * D));
  add_heads(bundle, "1.0.key_cache", "BHqD", G, Q + 1, 1, SHAPE(1, G, Q + 1, D));
  add_drawn(bundle, "2.0.output", 1, MR3D_F32, SHAPE(1, 3, C));
  mr3d_aligned *a = aligned_with(bundle, NULL);
  assert_int_equal(mr3d_aligned_steps(a), 3);
  mr3d_trace_sizes s = mr3d_aligned_sizes(a, 1);
  assert_true(s.B == 1 && s.q == 1 && s.L == Q && s.H == H && s.G == G && s.D == D && s.C == C && s.V == V);
  s = mr3d_aligned_sizes(a, 2);
  assert_true(s.q == 3 && s.L == Q + 1);
  assert_protocol(a, 1, 0, "key_cache", G, Q + 1);
  mr3d_align_free(&a);
  mr3d_bundle_free(&bundle);
}

/* "B,q,C" of "[B,q,hidden]". */
static void pattern_of(const char *shape, char pattern[40]) {
  int n = 0;
  for (const char *at = shape + 1; *at && *at != ']';) {
    if (strncmp(at, "hidden", 6) == 0) pattern[n++] = 'C', at += 6;
    else if (strncmp(at, "B or 1", 6) == 0) pattern[n++] = 'P', at += 6;
    else pattern[n++] = *at++;
  }
  pattern[n] = 0;
}

/* Every row of the tables "Traces" of docs/protocol.md is a point of the program, in its order and of its shape, and the reverse. */
static void the_document_has_each_point_with_its_shape(void **state) {
  (void)state;
  char path[4096], line[2000], name[40], shape[80], pattern[40];
  snprintf(path, sizeof path, "%s/protocol.md", getenv("MR3D_DOCS"));
  FILE *file = fopen(path, "r");
  assert_non_null(file);
  bool within = false;
  int table = -1, rows[2] = {0, 0};
  const mr3d_trace_point *next = NULL;
  while (fgets(line, sizeof line, file)) {
    if (strncmp(line, "## ", 3) == 0) within = strncmp(line, "## Traces", 9) == 0;
    if (!within) continue;
    if (strncmp(line, "| `LAYER.`", 10) == 0) table = 0, next = mr3d_trace_points(MR3D_TRACE_OF_LAYER);
    else if (strncmp(line, "| `model.`", 10) == 0) table = 1, next = mr3d_trace_points(MR3D_TRACE_OF_CALL);
    else if (line[0] != '|') table = -1;
    else if (table >= 0 && sscanf(line, "| `%39[^`]` | %79[^|]", name, shape) == 2) {
      if (!next->name && table == 1) next = mr3d_trace_points(MR3D_TRACE_OF_MODEL);
      if (!next->name || strcmp(next->name, name) != 0) fail_msg("the document has %s where the program has %s", name, next->name ? next->name : "no further point");
      pattern_of(shape, pattern);
      if (strcmp(pattern, next->shape) != 0) fail_msg("%s: the document has %s, the program %s", name, shape, next->shape);
      next++;
      rows[table]++;
    }
  }
  fclose(file);
  assert_int_equal(rows[0], 24);
  assert_int_equal(rows[1], 10);
}

/* Pages of layers that are done with are given back; asked for again, they hold what they held, in a file and in an inflated one. */
static void a_file_may_be_walked_again_and_again(void **state) {
  (void)state;
  mr3d_bundle *bundle = new_trace(64);
  for (int layer = 0; layer < LAYERS; layer++) {
    char name[40];
    snprintf(name, sizeof name, "0.%d.query", layer);
    add_heads(bundle, name, "BHqD", H, 64, 1, SHAPE(1, H, 64, D)); /* three pages */
  }
  for (int zipped = 0; zipped < 2; zipped++) {
    char path[80];
    mr3d_error error = {0};
    mr3d_aligned *a = NULL;
    snprintf(path, sizeof path, "/tmp/mr3d-align-%ld.safetensors%s", (long)getpid(), zipped ? ".gz" : "");
    if (mr3d_safetensors_save(path, bundle, &error) || mr3d_align_open(path, NULL, &a, &error)) fail_msg("%s", error.message);
    for (int i = 0; i < 6; i++) assert_protocol(a, 0, i % LAYERS, "query", H, 64);
    mr3d_align_free(&a);
    unlink(path);
  }
  mr3d_bundle_free(&bundle);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(every_layout_of_heads_is_told_by_its_shape),
      cmocka_unit_test(keys_repeated_for_the_query_heads_are_folded_and_other_heads_are_wrong),
      cmocka_unit_test(what_shapes_leave_open_the_trace_or_a_reference_settles),
      cmocka_unit_test(one_token_lies_alike_in_every_layout),
      cmocka_unit_test(rows_positions_and_scores_lose_axes_of_one),
      cmocka_unit_test(masks_are_flags_numbers_or_what_is_added_to_scores),
      cmocka_unit_test(other_names_come_by_a_map),
      cmocka_unit_test(missing_points_are_told_and_no_failure),
      cmocka_unit_test(what_is_no_trace_is_refused),
      cmocka_unit_test(sizes_of_steps_follow_from_the_points),
      cmocka_unit_test(the_document_has_each_point_with_its_shape),
      cmocka_unit_test(a_file_may_be_walked_again_and_again),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
