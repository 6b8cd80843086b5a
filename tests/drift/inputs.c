/** Different inputs are found and named: which weight, key, token, coordinate or mask, and what the difference looks like. */
#include <math.h>

#include "fixture.h"
#include "findings.h"
#include "mr3d/format.h"

enum { Q_ROWS = H * D, K_ROWS = G * D };
#define Q_PROJ(layer) "model.layers." #layer ".self_attn.q_proj.weight"

/* ---- traces with weights ---- */

static const struct { const char *name; int rank; int64_t shape[2]; } kinds[] = {
    {"model.embed_tokens.weight", 2, {V, C}}, {Q_PROJ(0), 2, {Q_ROWS, C}}, {Q_PROJ(1), 2, {Q_ROWS, C}}, {"model.layers.1.self_attn.k_proj.weight", 2, {K_ROWS, C}},
    {"model.layers.1.self_attn.o_proj.weight", 2, {C, Q_ROWS}}, {"model.layers.1.mlp.up_proj.weight", 2, {C, C}}, {"model.layers.1.self_attn.q_proj.bias", 1, {Q_ROWS}}, {"model.norm.weight", 1, {C}}};
enum { N_KINDS = sizeof kinds / sizeof *kinds };

static mr3d_bundle *draw_weights(void) {
  mr3d_bundle *weights = mr3d_bundle_new();
  for (int i = 0; i < N_KINDS; i++) add_drawn(weights, kinds[i].name, (uint64_t)(100 + i), MR3D_F32, kinds[i].rank, kinds[i].shape);
  return weights;
}

/* A trace of one call with digests of the weights, and the weights themselves where `whole`. */
static mr3d_bundle *trace_of(const mr3d_bundle *weights, bool whole) {
  mr3d_bundle *trace = mr3d_bundle_new();
  char text[4000] = "{", name[160];
  mr3d_bundle_set(trace, "config", CONFIG_TEXT);
  add_drawn(trace, "0.model.inputs_embeds", 1, MR3D_F32, SHAPE(1, Q, C));
  for (int i = 0; i < mr3d_bundle_count(weights); i++) {
    mr3d_digest digest;
    const mr3d_tensor *t = mr3d_bundle_at(weights, i);
    mr3d_digest_tensor(t, digest);
    snprintf(text + strlen(text), sizeof text - strlen(text), "%s\"%s\":\"%s\"", i ? "," : "", t->name, digest);
    snprintf(name, sizeof name, "weights.%s", t->name);
    if (whole) mr3d_bundle_copy(trace, name, t);
  }
  strcat(text, "}");
  mr3d_bundle_set(trace, "weights_sha256", text);
  return trace;
}

static mr3d_input_differences compared(const mr3d_bundle *subject, const mr3d_bundle *reference) {
  mr3d_aligned *a = aligned_with(subject, NULL), *b = aligned_with(reference, NULL);
  mr3d_input_differences d = {0};
  mr3d_inputs_compare(&(mr3d_inputs_side){.trace = a}, &(mr3d_inputs_side){.trace = b}, &d);
  mr3d_align_free(&a), mr3d_align_free(&b);
  return d;
}

static void assert_one(const mr3d_input_differences *d, mr3d_input_kind kind, const char *name, const char *words) {
  if (d->count != 1 || d->list[0].kind != kind || strcmp(d->list[0].name, name) != 0 || !strstr(d->list[0].text, words))
    fail_msg("%d differences, the first %s: \"%s\"; expected %s: \"%s\"", d->count, d->count ? d->list[0].name : "", d->count ? d->list[0].text : "", name, words);
}

/* ---- weights ---- */

typedef void change(double *values, const double *given, int64_t rows, int64_t columns);

static void transposed(double *v, const double *g, int64_t rows, int64_t columns) {
  for (int64_t i = 0; i < rows; i++)
    for (int64_t j = 0; j < columns; j++) v[j * rows + i] = g[i * columns + j];
}
static void to_bf16(double *v, const double *g, int64_t rows, int64_t columns) {
  for (int64_t i = 0; i < rows * columns; i++) v[i] = mr3d_bf16_to_double(mr3d_bf16_from_double(g[i]));
}
static void to_f16(double *v, const double *g, int64_t rows, int64_t columns) {
  for (int64_t i = 0; i < rows * columns; i++) v[i] = mr3d_f16_to_double(mr3d_f16_from_double(g[i]));
}
static void scaled(double *v, const double *g, int64_t rows, int64_t columns) {
  for (int64_t i = 0; i < rows * columns; i++) v[i] = (double)(float)(g[i] / sqrt(D));
}
static void negated(double *v, const double *g, int64_t rows, int64_t columns) {
  for (int64_t i = 0; i < rows * columns; i++) v[i] = -g[i];
}
static void pairs_beside(double *v, const double *g, int64_t rows, int64_t columns) { /* half-split to adjacent pairs, as converters do it */
  for (int64_t j = 0; j < rows; j++) {
    const int64_t d = j % D, from = j - d + (d % 2 ? D / 2 + d / 2 : d / 2);
    memcpy(v + j * columns, g + from * columns, (size_t)columns * sizeof *v);
  }
}
static void two_rows_exchanged(double *v, const double *g, int64_t rows, int64_t columns) {
  memcpy(v, g, (size_t)(rows * columns) * sizeof *v);
  memcpy(v + 3 * columns, g + 9 * columns, (size_t)columns * sizeof *v);
  memcpy(v + 9 * columns, g + 3 * columns, (size_t)columns * sizeof *v);
}
static void columns_reversed(double *v, const double *g, int64_t rows, int64_t columns) {
  for (int64_t i = 0; i < rows; i++)
    for (int64_t j = 0; j < columns; j++) v[i * columns + j] = g[i * columns + columns - 1 - j];
}
static void heads_inside(double *v, const double *g, int64_t rows, int64_t columns) {
  for (int64_t d = 0; d < D; d++)
    for (int64_t h = 0; h < rows / D; h++) memcpy(v + (d * (rows / D) + h) * columns, g + (h * D + d) * columns, (size_t)columns * sizeof *v);
}
static void one_element(double *v, const double *g, int64_t rows, int64_t columns) {
  memcpy(v, g, (size_t)(rows * columns) * sizeof *v);
  v[17] += 0.25;
}
static void with_noise(double *v, const double *g, int64_t rows, int64_t columns) {
  for (int64_t i = 0; i < rows * columns; i++) v[i] = (double)(float)(g[i] + 0.004 * drawn(77, (uint64_t)i));
}
static void all_others(double *v, const double *g, int64_t rows, int64_t columns) {
  (void)g;
  for (int64_t i = 0; i < rows * columns; i++) v[i] = drawn(999, (uint64_t)i);
}
static void nothing(double *v, const double *g, int64_t rows, int64_t columns) {
  (void)g;
  memset(v, 0, (size_t)(rows * columns) * sizeof *v);
}

static const struct { change *how; const char *looks, *from_digest; } changes[] = {
    {transposed, "looks transposed", "looks transposed"},
    {to_bf16, "looks rounded to bf16", "looks rounded to bf16"},
    {to_f16, "looks rounded to fp16", "looks rounded to fp16"},
    {scaled, "looks multiplied by 0.3536", "looks multiplied by 0.3536"},
    {negated, "looks of the opposite sign", "looks of the opposite sign"},
    {pairs_beside, "pairs (j, j + D/2) side by side", "pairs (j, j + D/2) side by side"},
    {heads_inside, "heads inside, dimensions outside", "heads inside, dimensions outside"},
    {two_rows_exchanged, "row 3 is there row 9", "its values are not at hand"},
    {columns_reversed, "column 0 is there column 39", "its values are not at hand"},
    {one_element, "the same but for 1 of 1920 elements, the first at flat index 17", "its values are not at hand"},
    {with_noise, "the same with noise", "its values are not at hand"},
    {all_others, "unrelated (correlation", "its values are not at hand"},
    {nothing, "looks zero", "looks zero"}};

static void a_weight_that_differs_is_named_with_what_it_looks_like(void **state) {
  (void)state;
  for (size_t i = 0; i < sizeof changes / sizeof *changes; i++)
    for (int whole = 0; whole < 2; whole++) {
      mr3d_bundle *weights = draw_weights(), *other = draw_weights();
      mr3d_tensor *t = mr3d_bundle_find(other, Q_PROJ(1));
      double *given = mr3d_allocate(mr3d_tensor_count(t), sizeof *given), *changed = mr3d_allocate(mr3d_tensor_count(t), sizeof *changed);
      mr3d_tensor_to_double(t, given);
      changes[i].how(changed, given, t->shape[0], t->shape[1]);
      mr3d_tensor_from_double(t, changed);
      if (changes[i].how == transposed) t->shape[0] = C, t->shape[1] = Q_ROWS;
      mr3d_bundle *subject = trace_of(other, whole), *reference = trace_of(weights, true);
      mr3d_input_differences d = compared(subject, reference);
      assert_one(&d, MR3D_INPUT_WEIGHTS, Q_PROJ(1), whole ? changes[i].looks : changes[i].from_digest);
      assert_non_null(strstr(d.list[0].text, "layer 1 q_proj.weight differs: SHA-256 "));
      assert_int_equal(d.list[0].layer, 1);
      assert_int_equal(d.list[0].rounding, changes[i].how == to_bf16 || changes[i].how == to_f16);
      assert_int_equal(d.weights_compared, N_KINDS);
      if (whole && changes[i].how == one_element) assert_non_null(strstr(d.list[0].text, "max 0.25"));
      mr3d_input_differences_free(&d);
      mr3d_bundle_free(&weights), mr3d_bundle_free(&other), mr3d_bundle_free(&subject), mr3d_bundle_free(&reference);
      free(given), free(changed);
    }
}

static void equal_weights_are_equal_whatever_they_are_stored_in(void **state) {
  (void)state;
  mr3d_bundle *weights = mr3d_bundle_new(), *wider = mr3d_bundle_new(), *widest = mr3d_bundle_new();
  for (int i = 0; i < N_KINDS; i++) {
    mr3d_tensor *t = add_drawn(weights, kinds[i].name, (uint64_t)(100 + i), MR3D_BF16, kinds[i].rank, kinds[i].shape);
    double *values = mr3d_allocate(mr3d_tensor_count(t), sizeof *values);
    mr3d_tensor_to_double(t, values);
    mr3d_tensor_from_double(mr3d_bundle_add(wider, kinds[i].name, MR3D_F32, kinds[i].rank, kinds[i].shape), values);
    mr3d_tensor_from_double(mr3d_bundle_add(widest, kinds[i].name, MR3D_F64, kinds[i].rank, kinds[i].shape), values);
    free(values);
  }
  mr3d_bundle *a = trace_of(weights, false), *b = trace_of(wider, false), *c = trace_of(widest, false);
  mr3d_input_differences d = compared(a, b);
  assert_int_equal(d.count, 0);
  assert_int_equal(d.weights_compared, N_KINDS);
  assert_int_equal(d.calls_compared, 1);
  assert_true(d.config_compared);
  mr3d_input_differences_free(&d);
  d = compared(c, a);
  assert_int_equal(d.count, 0);
  mr3d_digest digest;
  mr3d_digest_values((const double[]){1, 0.5}, 2, digest); /* as Python gives it: hashlib.sha256(numpy.float32([1, 0.5]).tobytes()) */
  assert_string_equal(digest, "b09540ff36f486fafd91acb451c6d92cc0c31ab1e9f4379a9342bc0cc88df1a6");
  mr3d_bundle_free(&weights), mr3d_bundle_free(&wider), mr3d_bundle_free(&widest), mr3d_bundle_free(&a), mr3d_bundle_free(&b), mr3d_bundle_free(&c);
}

static void a_weight_that_is_another_one_is_told_which(void **state) {
  (void)state;
  mr3d_bundle *weights = draw_weights(), *other = draw_weights();
  const size_t size = Q_ROWS * C * sizeof(float);
  memcpy(mr3d_bundle_find(other, Q_PROJ(1))->data, mr3d_bundle_find(weights, Q_PROJ(0))->data, size);
  mr3d_bundle *subject = trace_of(other, false), *reference = trace_of(weights, false);
  mr3d_input_differences d = compared(subject, reference);
  assert_one(&d, MR3D_INPUT_WEIGHTS, Q_PROJ(1), "looks the reference's layer 0 q_proj.weight");
  mr3d_input_differences_free(&d);
  mr3d_bundle_free(&weights), mr3d_bundle_free(&other), mr3d_bundle_free(&subject), mr3d_bundle_free(&reference);
}

static void tensors_that_the_subject_lacks_are_counted(void **state) {
  (void)state;
  mr3d_bundle *weights = draw_weights(), *fewer = mr3d_bundle_new();
  for (int i = 0; i < N_KINDS; i++)
    if (!strstr(kinds[i].name, "layers.1.mlp") && !strstr(kinds[i].name, "bias")) mr3d_bundle_copy(fewer, NULL, mr3d_bundle_find(weights, kinds[i].name));
  mr3d_bundle *subject = trace_of(fewer, false), *reference = trace_of(weights, false);
  mr3d_input_differences d = compared(subject, reference);
  assert_one(&d, MR3D_INPUT_WEIGHTS, "model.layers.1.mlp.up_proj.weight", "2 tensors of the reference's weights are not among the subject's, the first model.layers.1.mlp.up_proj.weight");
  mr3d_input_differences_free(&d);
  mr3d_bundle_free(&weights), mr3d_bundle_free(&fewer), mr3d_bundle_free(&subject), mr3d_bundle_free(&reference);
}

/* A subject's weights against those that the reference opened, as mr3d drift has them. */
static void weights_that_were_opened_are_compared_with_the_subjects_digests(void **state) {
  (void)state;
  char path[64];
  snprintf(path, sizeof path, "/tmp/mr3d-drift-%ld.safetensors", (long)getpid());
  mr3d_bundle *weights = draw_weights(), *other = draw_weights();
  mr3d_error error = {0};
  if (mr3d_safetensors_save(path, weights, &error)) fail_msg("%s", error.message);
  mr3d_config config;
  assert_int_equal(mr3d_config_parse(CONFIG_TEXT, &config, &error), MR3D_OK);
  mr3d_weights_cache *cache = mr3d_weights_cache_new();
  mr3d_weights *opened = NULL;
  const mr3d_weights_source source = {.path = path, .config = &config, .tier = MR3D_FP32};
  if (mr3d_weights_open(cache, &source, &opened, &error)) fail_msg("%s", error.message);
  char *digests = mr3d_digest_weights(opened, &error);
  ((float *)mr3d_bundle_find(other, "model.norm.weight")->data)[5] *= 2;
  for (int changed = 0; changed < 2; changed++) {
    mr3d_bundle *subject = trace_of(changed ? other : weights, false);
    assert_true(changed || strcmp(digests, mr3d_bundle_get(subject, "weights_sha256")) == 0);
    mr3d_aligned *a = aligned_with(subject, NULL);
    mr3d_input_differences d = {0};
    mr3d_inputs_compare(&(mr3d_inputs_side){.trace = a}, &(mr3d_inputs_side){.config = CONFIG_TEXT, .weights = opened}, &d);
    if (changed) assert_one(&d, MR3D_INPUT_WEIGHTS, "model.norm.weight", "model.norm.weight differs");
    else assert_int_equal(d.count, 0);
    assert_int_equal(d.weights_compared, N_KINDS);
    mr3d_input_differences_free(&d);
    mr3d_align_free(&a);
    mr3d_bundle_free(&subject);
  }
  free(digests);
  mr3d_weights_release(&opened);
  mr3d_weights_cache_free(&cache);
  unlink(path);
  mr3d_bundle_free(&weights), mr3d_bundle_free(&other);
}

/* ---- configuration ---- */

static void keys_of_the_configuration_that_differ_are_named_with_both_values(void **state) {
  (void)state;
  const struct { const char *subject, *name, *says; } cases[] = {
      {"{\"hidden_size\":40,\"num_attention_heads\":6,\"num_key_value_heads\":2,\"head_dim\":8,\"rope_theta\":1000000.0,\"rms_norm_eps\":1e-6}", "rope_theta", "rope_theta is 1000000, the reference's is 10000"},
      {"{\"hidden_size\":40,\"num_attention_heads\":6,\"num_key_value_heads\":2,\"head_dim\":8,\"rms_norm_eps\":1e-5}", "rms_norm_eps", "rms_norm_eps is 1e-05, the reference's is 1e-06"},
      {"{\"mixed_rope_layout\":\"interleaved\",\"head_dim\":8}", "mixed_rope_layout", "mixed_rope_layout is \"interleaved\", the reference's is not given (its default)"},
      {"{\"rope_theta_3d\":10000}", "rope_theta_3d", "rope_theta_3d is 10000"},
      {"{\"rope_theta\":\"many\"}", "config", "the reference refuses the subject's: "}};
  mr3d_bundle *reference = mr3d_bundle_new();
  mr3d_bundle_set(reference, "config", CONFIG_TEXT);
  add_drawn(reference, "0.model.inputs_embeds", 1, MR3D_F32, SHAPE(1, Q, C));
  for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
    mr3d_bundle *subject = mr3d_bundle_new();
    mr3d_bundle_set(subject, "config", cases[i].subject);
    add_drawn(subject, "0.model.inputs_embeds", 1, MR3D_F32, SHAPE(1, Q, C));
    mr3d_input_differences d = compared(subject, reference);
    assert_one(&d, MR3D_INPUT_CONFIG, cases[i].name, cases[i].says);
    mr3d_input_differences_free(&d);
    mr3d_bundle_free(&subject);
  }
  mr3d_bundle_free(&reference);
}

/* ---- calls ---- */

static void change_coords(mr3d_bundle *b, int how) {
  double *c = mr3d_bundle_find(b, "0.model.point_coords")->data;
  double old[9];
  memcpy(old, c, sizeof old);
  for (int i = 0; i < 9; i++) c[i] = how == 0 ? old[i / 3 * 3 + 2 - i % 3] : how == 1 ? old[(i / 3 + 1) % 3 * 3 + i % 3] : how == 2 ? old[i] / 79 : i == 4 ? old[i] + 1 : old[i];
}

static mr3d_bundle *call_trace(void) {
  mr3d_bundle *b = mr3d_bundle_new();
  mr3d_bundle_set(b, "config", CONFIG_TEXT);
  add_drawn(b, "0.model.inputs_embeds", 1, MR3D_F32, SHAPE(1, Q, C));
  bool *marks = mr3d_bundle_add(b, "0.model.point_token_mask", MR3D_BOOL, SHAPE(1, Q))->data;
  marks[1] = marks[2] = marks[3] = true;
  double *coords = mr3d_bundle_add(b, "0.model.point_coords", MR3D_F64, SHAPE(1, 3, 3))->data;
  for (int i = 0; i < 9; i++) coords[i] = 3 * i % 7 + (double)i;
  add_whole(b, "0.model.attention_mask", 1, 0, SHAPE(1, Q));
  add_whole(b, "0.model.position_ids", 0, 1, SHAPE(1, Q));
  add_whole(b, "1.model.input_ids", 17, 0, SHAPE(1, 1));
  add_whole(b, "1.model.position_ids", Q, 0, SHAPE(1, 1));
  add_whole(b, "2.model.input_ids", 3, 0, SHAPE(1, 1));
  return b;
}

static void tokens_masks_positions_and_coordinates_that_differ_are_named(void **state) {
  (void)state;
  const struct { const char *tensor; int how; mr3d_input_kind kind; const char *says; } cases[] = {
      {"0.model.point_coords", 0, MR3D_INPUT_POINTS, "looks with axes exchanged: x y z are the reference's z y x"},
      {"0.model.point_coords", 1, MR3D_INPUT_POINTS, "looks the same rows in another order"},
      {"0.model.point_coords", 2, MR3D_INPUT_POINTS, "looks normalised already: divided by 79"},
      {"0.model.point_coords", 3, MR3D_INPUT_POINTS, "point_coords differs at 1 of 9 elements, the first at flat index 4"},
      {"0.model.attention_mask", -1, MR3D_INPUT_MASK, "step 0: attention_mask differs at 1 of 5 elements, the first at flat index 0"},
      {"1.model.position_ids", -2, MR3D_INPUT_POSITIONS, "step 1: position_ids differs at 1 of 1 elements, the first at flat index 0: 2, the reference's 5; looks shifted: each is 3 less"},
      {"1.model.input_ids", -3, MR3D_INPUT_TOKENS, "step 1: input_ids differs at 1 of 1 elements, the first at flat index 0: 20, the reference's 17"},
      {"0.model.inputs_embeds", -4, MR3D_INPUT_EMBEDS, "inputs_embeds differs in 1 of 5 rows (2 .. 2), all of them points: the point features are others"},
      {"0.model.inputs_embeds", -5, MR3D_INPUT_EMBEDS, "inputs_embeds differs in 1 of 5 rows (4 .. 4), none of them points: the token ids"}};
  mr3d_bundle *reference = call_trace();
  for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
    mr3d_bundle *subject = call_trace();
    mr3d_tensor *t = mr3d_bundle_find(subject, cases[i].tensor);
    if (cases[i].how >= 0) change_coords(subject, cases[i].how);
    else if (cases[i].how == -1) *(int64_t *)t->data = 0;
    else if (cases[i].how == -2) *(int64_t *)t->data -= 3;
    else if (cases[i].how == -3) *(int64_t *)t->data += 3;
    else ((float *)t->data)[(cases[i].how == -4 ? 2 : 4) * C + 7] += 1e-3F;
    mr3d_input_differences d = compared(subject, reference);
    assert_one(&d, cases[i].kind, strrchr(cases[i].tensor, '.') + 1, cases[i].says);
    assert_int_equal(d.list[0].step, cases[i].tensor[0] - '0');
    mr3d_input_differences_free(&d);
    mr3d_bundle_free(&subject);
  }
  mr3d_bundle_free(&reference);
}

static void embeddings_may_be_rounded_to_the_subjects_type(void **state) {
  (void)state;
  mr3d_bundle *reference = call_trace(), *subject = mr3d_bundle_new();
  mr3d_bundle_set(subject, "config", CONFIG_TEXT);
  add_drawn(subject, "0.model.inputs_embeds", 1, MR3D_BF16, SHAPE(1, Q, C));
  mr3d_input_differences d = compared(subject, reference);
  assert_int_equal(d.count, 0);
  mr3d_input_differences_free(&d);
  mr3d_bundle_free(&subject), mr3d_bundle_free(&reference);
}

/* A model in bfloat16 against its float32 checkpoint: every tensor is found to be a rounding, however many there are. */
static void a_whole_model_in_another_format_is_no_heap_of_other_weights(void **state) {
  (void)state;
  mr3d_bundle *weights = mr3d_bundle_new(), *narrow = mr3d_bundle_new();
  for (int i = 0; i < 40; i++) {
    char name[80];
    snprintf(name, sizeof name, "model.layers.%d.mlp.up_proj.weight", i);
    mr3d_tensor *t = add_drawn(weights, name, 500 + (uint64_t)i, MR3D_F32, SHAPE(6, 7));
    double values[42];
    mr3d_tensor_to_double(t, values);
    mr3d_tensor_from_double(mr3d_bundle_add(narrow, name, MR3D_BF16, SHAPE(6, 7)), values);
  }
  mr3d_bundle *subject = mr3d_bundle_new(), *reference = mr3d_bundle_new();
  mr3d_bundle *of[2] = {subject, reference}, *from[2] = {narrow, weights};
  for (int side = 0; side < 2; side++) {
    char text[8000] = "{", name[120];
    add_drawn(of[side], "0.model.inputs_embeds", 1, MR3D_F32, SHAPE(1, Q, C));
    for (int i = 0; i < 40; i++) {
      mr3d_digest digest;
      const mr3d_tensor *t = mr3d_bundle_at(from[side], i);
      mr3d_digest_tensor(t, digest);
      snprintf(text + strlen(text), sizeof text - strlen(text), "%s\"%s\":\"%s\"", i ? "," : "", t->name, digest);
      snprintf(name, sizeof name, "weights.%s", t->name);
      if (side) mr3d_bundle_copy(of[side], name, t); /* the subject has digests alone */
    }
    strcat(text, "}");
    mr3d_bundle_set(of[side], "weights_sha256", text);
  }
  mr3d_input_differences d = compared(subject, reference);
  assert_int_equal(d.count, 40);
  for (int i = 0; i < d.count; i++)
    if (!d.list[i].rounding || strcmp(d.list[i].looks, "rounded to bf16") != 0) fail_msg("%s", d.list[i].text);
  mr3d_input_differences_free(&d);
  mr3d_bundle_free(&weights), mr3d_bundle_free(&narrow), mr3d_bundle_free(&subject), mr3d_bundle_free(&reference);
}

/* ---- all together ---- */

/* What all layers share is one line; the first difference beyond rounding is the headline; JSON has each. */
static void findings_say_once_what_layers_share(void **state) {
  (void)state;
  mr3d_bundle *weights = draw_weights(), *other = draw_weights();
  for (int layer = 0; layer < 2; layer++) {
    mr3d_tensor *t = mr3d_bundle_find(other, layer ? Q_PROJ(1) : Q_PROJ(0));
    double *given = mr3d_allocate(mr3d_tensor_count(t), sizeof *given), *changed = mr3d_allocate(mr3d_tensor_count(t), sizeof *changed);
    mr3d_tensor_to_double(t, given);
    to_bf16(changed, given, t->shape[0], t->shape[1]);
    mr3d_tensor_from_double(t, changed);
    free(given), free(changed);
  }
  for (int more = 0; more < 2; more++) {
    mr3d_trace_findings f = {0};
    if (more) ((float *)mr3d_bundle_find(other, "model.norm.weight")->data)[3] += 1;
    mr3d_bundle *subject = trace_of(other, true), *reference = trace_of(weights, true);
    add_whole(subject, "0.model.cache_length", 0, 0, SHAPE(1));
    add_whole(subject, "1.model.position_ids", 3, 0, SHAPE(1, 1)); /* where 5 came before */
    add_drawn(subject, "1.model.inputs_embeds", 1, MR3D_F32, SHAPE(1, 1, C));
    mr3d_aligned *a = aligned_with(subject, NULL), *b = aligned_with(reference, NULL);
    mr3d_findings_gather(&f, &(mr3d_inputs_side){.trace = a}, &(mr3d_inputs_side){.trace = b});
    assert_int_equal(f.n_lines, 2 + more);
    assert_non_null(strstr(f.lines[0], "layer 0 q_proj.weight differs"));
    assert_non_null(strstr(f.lines[0], "looks rounded to bf16; likewise in 1 more layer"));
    assert_non_null(strstr(f.lines[1 + more], "step 1: position_ids is 3 where 5 tokens came before: expected 5. That is decode-rope, mask-length: positions or mask"));
    assert_true(f.other_inputs);
    assert_non_null(strstr(f.headline, more ? "different inputs: model.norm.weight differs" : "2 of 8 weights differ from the reference's by a number format alone (model.layers.0.self_attn.q_proj.weight rounded to bf16)"));
    cJSON *report = cJSON_CreateObject();
    mr3d_findings_add(&f, report);
    const cJSON *inputs = cJSON_GetObjectItem(report, "inputs"), *list = cJSON_GetObjectItem(inputs, "differences"), *signals = cJSON_GetObjectItem(report, "signals");
    assert_int_equal(cJSON_GetArraySize(list), 2 + more);
    assert_string_equal(cJSON_GetObjectItem(list->child, "looks")->valuestring, "rounded to bf16");
    assert_string_equal(cJSON_GetObjectItem(signals->child, "signal")->valuestring, "second-token");
    cJSON_Delete(report);
    mr3d_findings_clear(&f);
    mr3d_align_free(&a), mr3d_align_free(&b);
    mr3d_bundle_free(&subject), mr3d_bundle_free(&reference);
  }
  mr3d_bundle_free(&weights), mr3d_bundle_free(&other);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(a_weight_that_differs_is_named_with_what_it_looks_like),
      cmocka_unit_test(equal_weights_are_equal_whatever_they_are_stored_in),
      cmocka_unit_test(a_weight_that_is_another_one_is_told_which),
      cmocka_unit_test(tensors_that_the_subject_lacks_are_counted),
      cmocka_unit_test(weights_that_were_opened_are_compared_with_the_subjects_digests),
      cmocka_unit_test(keys_of_the_configuration_that_differ_are_named_with_both_values),
      cmocka_unit_test(tokens_masks_positions_and_coordinates_that_differ_are_named),
      cmocka_unit_test(embeddings_may_be_rounded_to_the_subjects_type),
      cmocka_unit_test(a_whole_model_in_another_format_is_no_heap_of_other_weights),
      cmocka_unit_test(findings_say_once_what_layers_share),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
