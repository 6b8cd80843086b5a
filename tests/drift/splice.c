/** Prompts that were spliced wrongly: seen in a trace's embeddings and masks, and named. */
#include "inputs.h"
#include "plant.h"
#include "splice.h"

#include "../../ref/model/weights.h"

enum { T = 12, START = 5, END = 7, N = 9 };
static const model_sizes model = SMALL_MODEL;

typedef struct prompt {
  char text[1200];
  mr3d_config config;
  mr3d_weights_cache *cache;
  mr3d_weights *weights;
  int64_t ids[T], mask[T], count;
} prompt;

static prompt open_prompt(void) {
  prompt p = {.cache = mr3d_weights_cache_new(), .count = N};
  mr3d_error error = {0};
  config_text(p.text, sizeof p.text, &model, "\"point_start_token_id\":57,\"point_end_token_id\":58");
  if (mr3d_config_parse(p.text, &p.config, &error)) fail_msg("%s", error.message);
  if (mr3d_weights_open(p.cache, &(mr3d_weights_source){.path = "generated:5", .config = &p.config, .tier = MR3D_FP32}, &p.weights, &error)) fail_msg("%s", error.message);
  for (int i = 0; i < T; i++) p.ids[i] = i == START ? 57 : i == END ? 58 : (7 * i) % 50, p.mask[i] = i != 3;
  p.ids[10] = p.ids[2]; /* a word that comes twice */
  return p;
}

static void close_prompt(prompt *p) {
  mr3d_weights_release(&p->weights);
  mr3d_weights_cache_free(&p->cache);
}

/** The call that the model is given, by an operator that splices. */
static mr3d_bundle *spliced_by(const prompt *p, const mr3d_operators *op) {
  const mr3d_splice_in in = {.B = 1, .T = T, .input_ids = p->ids, .attention_mask = p->mask, .point_counts = &p->count, .point_start_token_id = 57, .point_end_token_id = 58};
  mr3d_splice_out out = {0};
  mr3d_error error = {0};
  if (op->splice(&(mr3d_context){.op = op, .threads = 1}, &in, &out, &error)) fail_msg("%s", error.message);
  mr3d_bundle *trace = mr3d_bundle_new(), *features = mr3d_bundle_new();
  add_drawn(features, "features", MR3D_FP32, 9, 1, 2, (int64_t[]){N, model.hidden});
  float *embeds = mr3d_bundle_add(trace, "0.model.inputs_embeds", MR3D_F32, 3, (int64_t[]){1, out.S, model.hidden})->data;
  const mr3d_tensor *table = mr3d_bundle_find(mr3d_weights_tensors(p->weights), "model.embed_tokens.weight");
  double *buffer = mr3d_allocate(model.hidden, sizeof *buffer);
  for (int64_t s = 0; s < out.S; s++) {
    const double *row = NULL;
    if (out.source[s] >= 0) mr3d_weights_rows(p->weights, table, p->ids[out.source[s]], 1, buffer, &row, &error);
    for (int i = 0; i < model.hidden; i++) embeds[s * model.hidden + i] = row ? (float)row[i] : ((const float *)mr3d_bundle_find(features, "features")->data)[(-1 - out.source[s]) * model.hidden + i];
  }
  memcpy(mr3d_bundle_add(trace, "0.model.input_ids", MR3D_I64, 2, (int64_t[]){1, T})->data, p->ids, sizeof p->ids);
  memcpy(mr3d_bundle_add(trace, "0.model.attention_mask", MR3D_I64, 2, (int64_t[]){1, out.S})->data, out.attention_mask, (size_t)out.S * sizeof(int64_t));
  memcpy(mr3d_bundle_add(trace, "0.model.point_token_mask", MR3D_BOOL, 2, (int64_t[]){1, out.S})->data, out.point_token_mask, (size_t)out.S);
  mr3d_bundle_add(trace, "0.model.point_coords", MR3D_I64, 2, (int64_t[]){N, 3});
  mr3d_bundle_set(trace, "config", p->text);
  mr3d_splice_free(&out);
  mr3d_bundle_free(&features);
  free(buffer);
  return trace;
}

/** What is said of the embeddings of a trace; "" where nothing is. */
static void looks_of(const prompt *p, const mr3d_bundle *trace, char looks[200], char text[700]) {
  mr3d_aligned *a = NULL;
  mr3d_error error = {0};
  mr3d_input_differences found = {0};
  *looks = *text = 0;
  if (mr3d_align_bundle(trace, "mine", NULL, &a, &error)) fail_msg("%s", error.message);
  mr3d_inputs_compare(&(mr3d_inputs_side){.trace = a}, &(mr3d_inputs_side){.config = p->text, .weights = p->weights}, &found);
  for (int i = 0; i < found.count; i++)
    if (found.list[i].kind == MR3D_INPUT_EMBEDS) memcpy(looks, found.list[i].looks, 200), memcpy(text, found.list[i].text, 700);
  mr3d_input_differences_free(&found);
  mr3d_align_free(&a);
}

static void a_right_splice_says_nothing(void **state) {
  (void)state;
  prompt p = open_prompt();
  char looks[200], text[700];
  mr3d_bundle *trace = spliced_by(&p, &mr3d_reference_operators);
  looks_of(&p, trace, looks, text);
  assert_string_equal(text, "");
  mr3d_bundle_free(&trace);
  close_prompt(&p);
}

/** Labels are not in a trace, features have no order that could be seen, and text that was masked out may be the caller's padding. */
static bool is_hidden(const char *name) { return strncmp(name, "labels", 6) == 0 || strcmp(name, "points-reversed") == 0 || strcmp(name, "mask-extended-at-end") == 0; }

static void every_mistake_that_shows_is_named(void **state) {
  (void)state;
  prompt p = open_prompt();
  int named = 0;
  for (int m = 0; m < mr3d_mutant_count(); m++) {
    const mr3d_mutant *mutant = mr3d_mutant_at(m);
    char looks[200], text[700], name[160];
    if (!mr3d_mutant_touches(mutant, "splice") || mutant->operators.splice == mr3d_reference_operators.splice || is_hidden(mutant->name)) continue;
    mr3d_bundle *right = spliced_by(&p, &mr3d_reference_operators), *wrong = spliced_by(&p, &mutant->operators);
    bool differs = false;
    for (int i = 0; i < mr3d_bundle_count(right); i++) {
      const mr3d_tensor *a = mr3d_bundle_at(right, i), *b = mr3d_bundle_at(wrong, i);
      differs |= mr3d_tensor_count(a) != mr3d_tensor_count(b) || memcmp(a->data, b->data, (size_t)mr3d_tensor_count(a) * mr3d_dtype_size(a->dtype)) != 0;
    }
    if (differs) {
      looks_of(&p, wrong, looks, text);
      if (!strstr(looks, name_of(mutant, name))) fail_msg("%s is taken for \"%s\": %s", name, looks, text);
      named++;
    }
    mr3d_bundle_free(&right);
    mr3d_bundle_free(&wrong);
  }
  if (named < 9) fail_msg("only %d mistakes show", named);
  close_prompt(&p);
}

static void a_mistake_of_no_catalogue_is_placed(void **state) {
  (void)state;
  prompt p = open_prompt();
  char looks[200], text[700];
  mr3d_bundle *trace = spliced_by(&p, &mr3d_reference_operators);
  float *rows = mr3d_bundle_find(trace, "0.model.inputs_embeds")->data;
  for (int i = 0; i < model.hidden; i++) rows[(N + 8) * model.hidden + i] = rows[i]; /* the token behind the end marker is the prompt's first */
  looks_of(&p, trace, looks, text);
  assert_non_null(strstr(text, "token 17 is text token 0, the reference's text token 9"));
  assert_non_null(strstr(text, "it is no known mistake"));
  mr3d_bundle_free(&trace);
  close_prompt(&p);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(a_right_splice_says_nothing),
      cmocka_unit_test(every_mistake_that_shows_is_named),
      cmocka_unit_test(a_mistake_of_no_catalogue_is_placed),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
