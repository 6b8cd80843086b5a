/** `mr3d drift` as a user types it: a trace, two traces, a running backend; reports, exit statuses, errors. */
#include <sys/stat.h>
#include <math.h>
#include <unistd.h>

#include "../conform/schema.h"
#include "../program.h"
#include "plant.h"
#include "../conform/in_folder.h"

#define CONFIG_JSON                                                                                                                                        \
  "{\"hidden_size\":56,\"intermediate_size\":72,\"num_hidden_layers\":4,\"num_attention_heads\":14,\"num_key_value_heads\":2,\"head_dim\":16,\"vocab_size\":61," \
  "\"rope_theta\":1000000.0,\"rms_norm_eps\":1e-6,\"tie_word_embeddings\":true}"

static char *read_file(const char *path) {
  FILE *file = fopen(path, "rb");
  assert_non_null(file);
  fseek(file, 0, SEEK_END);
  const long size = ftell(file);
  char *text = mr3d_allocate(size + 1, 1);
  rewind(file);
  assert_int_equal(fread(text, 1, (size_t)size, file), size);
  fclose(file);
  return text;
}

static int make_files(void **state) {
  (void)state;
  make_folder(folder);
  save_trace(MR3D_FP32, "none", in_folder("honest.safetensors"));
  save_trace(MR3D_FP64, "none", in_folder("truth.safetensors"));
  save_trace(MR3D_FP32, "pairing/half-split-in-3d@2", in_folder("wrong.safetensors"));
  FILE *file = fopen(in_folder("config.json"), "w");
  fputs(CONFIG_JSON, file);
  return fclose(file);
}

static int drop_folder(void **state) {
  (void)state;
  remove_folder(folder);
  return 0;
}

static void an_honest_trace_is_rounding(void **state) {
  (void)state;
  assert_int_equal(mr3d("drift %s --runs 2", in_folder("honest.safetensors")), 0);
  assert_said("ROUNDING");
  assert_said("216 points judged");
}

static void a_mistake_in_one_layer_is_placed_and_named(void **state) {
  (void)state;
  assert_int_equal(mr3d("drift %s --runs 0", in_folder("wrong.safetensors")), 2);
  assert_said("FAULT at 0.2.query_rotated: the rotation of the queries");
  assert_said("pairing/half-split-in-3d");
  assert_said("points; all heads; dimensions 0 .. 7");
  assert_said("first token 9, points at");
  assert_said("confidence  high");
}

static void reports_keep_to_their_schema_and_load_nothing(void **state) {
  (void)state;
  assert_int_equal(mr3d("drift %s --runs 1 --json %s --html %s", in_folder("wrong.safetensors"), in_folder("drift.json"), in_folder("drift.html")), 2);
  char *text = read_file(in_folder("drift.json"));
  cJSON *report = cJSON_Parse(text), *schema = read_schema("drift.schema.json");
  assert_non_null(report);
  check_against(report, schema, schema, "drift");
  const cJSON *fault = cJSON_GetObjectItem(report, "faults")->child;
  assert_string_equal(cJSON_GetObjectItem(fault, "mistake")->valuestring, "pairing/half-split-in-3d");
  assert_int_equal(cJSON_GetObjectItem(fault, "first_token")->valueint, 9);
  assert_string_equal(cJSON_GetObjectItem(fault, "place")->valuestring, "0.2.query_rotated");
  cJSON_Delete(report);
  cJSON_Delete(schema);
  free(text);
  text = read_file(in_folder("drift.html"));
  for (const char *at = text; (at = strstr(at, "http")); at++) assert_int_equal(strncmp(at, "http://www.w3.org/2000/svg", 26), 0); /* a name, not an address */
  assert_null(strstr(text, " src="));
  assert_null(strstr(text, "@import"));
  assert_non_null(strstr(text, "id=\"data\""));
  assert_non_null(strstr(text, "aria-label"));
  free(text);
}

static double number_of(const cJSON *object, const char *key) { return cJSON_GetObjectItem(object, key)->valuedouble; }

/** The slope of ln(error) over 0, 1, ..: of three (e2 - e0) / 2, of four (3 (e3 - e0) + e2 - e1) / 10; the mean lies on the line at the middle. */
static void check_growth(const cJSON *report, const char *of, const char *place_of, int due) {
  const cJSON *growth = cJSON_GetObjectItem(cJSON_GetObjectItem(report, "growth"), of), *point;
  double own[4], emulated[4];
  int n = 0;
  cJSON_ArrayForEach(point, cJSON_GetObjectItem(report, "points")) {
    char place[32];
    snprintf(place, sizeof place, place_of, n);
    if (n == due || strcmp(cJSON_GetObjectItem(point, "place")->valuestring, place) != 0) continue;
    own[n] = log(number_of(cJSON_GetObjectItem(point, "total"), "absolute") / number_of(point, "size"));
    emulated[n++] = log(number_of(point, "emulated") / number_of(point, "size"));
  }
  assert_int_equal(n, due);
  assert_int_equal(number_of(growth, "n"), due);
  const double *errors[2] = {own, emulated};
  for (int k = 0; k < 2; k++) {
    const double *e = errors[k];
    const double slope = due == 3 ? (e[2] - e[0]) / 2 : (3 * (e[3] - e[0]) + e[2] - e[1]) / 10;
    const double start = due == 3 ? (e[0] + e[1] + e[2]) / 3 - slope : (e[0] + e[1] + e[2] + e[3]) / 4 - 1.5 * slope;
    assert_true(fabs(log(number_of(growth, k ? "emulated_factor" : "factor")) - slope) < 1e-3);
    assert_true(fabs(log(number_of(growth, k ? "emulated_start" : "start")) - start) < 1e-3);
  }
}

static void growth_is_the_line_through_the_errors_of_layers_and_of_steps(void **state) {
  (void)state;
  assert_int_equal(mr3d("drift %s --runs 2 --json %s", in_folder("honest.safetensors"), in_folder("drift.json")), 0);
  char *text = read_file(in_folder("drift.json"));
  cJSON *report = cJSON_Parse(text);
  check_growth(report, "layers", "0.%d.output", 4);
  check_growth(report, "steps", "%d.model.final_norm", 3);
  cJSON_Delete(report);
  free(text);
}

static void two_traces_part_where_one_is_wrong(void **state) {
  (void)state;
  assert_int_equal(mr3d("drift %s %s", in_folder("honest.safetensors"), in_folder("truth.safetensors")), 0);
  assert_said("nowhere do the two traces lie further apart than fp32 arithmetic");
  assert_int_equal(mr3d("drift %s %s", in_folder("wrong.safetensors"), in_folder("truth.safetensors")), 2);
  assert_said("FAULT at 0.2.query_rotated");
  assert_said("pairing/half-split-in-3d");
  assert_said("the other trace, replayed on");
  assert_int_equal(mr3d("drift %s %s --json %s", in_folder("honest.safetensors"), in_folder("wrong.safetensors"), in_folder("two.json")), 2);
  assert_said("a local fault of the other trace at 0.2.query_rotated");
  assert_said("the subject, replayed on its own inputs, is right");
  assert_said("FAULT of the other trace at 0.2.query_rotated");
  assert_said("pairing/half-split-in-3d");
  char *text = read_file(in_folder("two.json"));
  cJSON *report = cJSON_Parse(text), *schema = read_schema("drift.schema.json");
  check_against(report, schema, schema, "drift");
  assert_int_equal(cJSON_GetArraySize(cJSON_GetObjectItem(report, "faults")), 0);
  assert_int_equal(cJSON_GetArraySize(cJSON_GetObjectItem(report, "other_faults")), 1);
  cJSON_Delete(report);
  cJSON_Delete(schema);
  free(text);
  save_trace(MR3D_FP32, "qwen2-details/gelu@1", in_folder("gelu.safetensors"));
  assert_int_equal(mr3d("drift %s %s", in_folder("wrong.safetensors"), in_folder("gelu.safetensors")), 2);
  assert_said("FAULT of the other trace at 0.1.gated");
}

/** Each has a fault of its own: the difference is both's. */
static void two_traces_may_both_be_wrong(void **state) {
  (void)state;
  save_trace(MR3D_FP32, "qwen2-details/gelu@2", in_folder("gelu.safetensors"));
  assert_int_equal(mr3d("drift %s %s", in_folder("wrong.safetensors"), in_folder("gelu.safetensors")), 2);
  assert_said("FAULT at 0.2.query_rotated");
  assert_said("FAULT of the other trace at 0.2.gated");
  assert_said("has faults, too");
}

/** A copy of a trace without some points; its metadata with `key` set, or left out where `value` is "". */
static void save_part(const char *from, const char *to, const char *const *left_out, const char *key, const char *value) {
  mr3d_bundle *whole = NULL, *part = mr3d_bundle_new();
  mr3d_error error = {0};
  assert_int_equal(mr3d_safetensors_open(from, 0, &whole, &error), MR3D_OK);
  for (int i = 0; i < mr3d_bundle_count(whole); i++) {
    const mr3d_tensor *t = mr3d_bundle_at(whole, i);
    bool keep = true;
    for (const char *const *point = left_out; *point; point++) keep &= strcmp(strrchr(t->name, '.') + 1, *point) != 0;
    if (keep) mr3d_bundle_copy(part, t->name, t);
  }
  for (int i = 0; i < mr3d_bundle_meta_count(whole); i++) {
    const char *k, *v;
    mr3d_bundle_meta_at(whole, i, &k, &v);
    if (!key || strcmp(k, key) != 0) mr3d_bundle_set(part, k, v);
    else if (*value) mr3d_bundle_set(part, k, value);
  }
  assert_int_equal(mr3d_safetensors_save(to, part, &error), MR3D_OK);
  mr3d_bundle_free(&whole);
  mr3d_bundle_free(&part);
}

static void where_points_are_missing_the_fault_lies_between_others(void **state) {
  (void)state;
  static const char *const sparse[] = {"input_norm", "query", "key", "query_rotated", "key_rotated", "o_proj", "gate", "up", "gated", "down", "post_attention_norm", NULL};
  save_part(in_folder("wrong.safetensors"), in_folder("sparse.safetensors"), sparse, NULL, NULL);
  assert_int_equal(mr3d("drift %s --runs 0 --first-fault --threads 1", in_folder("sparse.safetensors")), 2);
  assert_said("between input_norm and context of layer 2");
  assert_said("pairing/half-split-in-3d");
  assert_said("not traced");
  save_part(in_folder("honest.safetensors"), in_folder("sparse.safetensors"), sparse, NULL, NULL);
  assert_int_equal(mr3d("drift %s --runs 0", in_folder("sparse.safetensors")), 0);
  static const char *const ends[] = {"input_norm", "query", "key", "value", "query_rotated", "key_rotated", "context", "o_proj", "attention_residual", "gate", "up", "gated", "down", "post_attention_norm", "input", NULL};
  save_part(in_folder("honest.safetensors"), in_folder("sparse.safetensors"), ends, NULL, NULL);
  assert_int_equal(mr3d("drift %s --runs 0", in_folder("sparse.safetensors")), 0);
}

static void other_weights_are_named_before_any_number(void **state) {
  (void)state;
  assert_int_equal(mr3d("drift %s --runs 0 --first-fault --no-diagnosis --weights generated:6", in_folder("honest.safetensors")), 2);
  assert_said("DIFFERENT INPUTS");
}

static void a_running_backend_is_asked_until_its_fault(void **state) {
  (void)state;
#define ASK "drift --weights generated:5 --config %s --text 12 --point-tokens 9 --runs 1 --steps 1 --backend "
  assert_int_equal(mr3d(ASK "builtin:emulated --tier bf16 --memory 0", in_folder("config.json")), 0);
  assert_said("ROUNDING");
  assert_int_equal(mr3d(ASK "mutant:cache-rotation/cached-before-rotation@1 --tier fp32 --memory 0", in_folder("config.json")), 2);
  assert_said("FAULT at 1.1.context"); /* shows in the decode step alone */
  assert_said("cache-rotation/cached-before-rotation");
  assert_int_equal(mr3d(ASK "mutant:qwen2-details/gelu@2 --tier fp32", in_folder("config.json")), 2);
  assert_said("FAULT at 0.2.gated");
  assert_true(!strstr(output, "layer 3")); /* nothing was asked behind it */
  assert_int_equal(mr3d(ASK "mutant:qwen2-details/weight-plus-one@model --tier fp32", in_folder("config.json")), 2);
  assert_said("FAULT at 0.model.final_norm: the norm behind the last layer (model.norm)");
  assert_said("qwen2-details/weight-plus-one");
  assert_int_equal(mr3d(ASK "mutant:qwen2-details/gelu@x --tier fp32", in_folder("config.json")), 1);
  assert_said("expected @ and the number of a layer");
  assert_int_equal(mr3d(ASK "mutant:splice/end-dropped@1 --tier fp32", in_folder("config.json")), 1);
}

static void what_cannot_be_judged_is_said(void **state) {
  (void)state;
  static const char *const none[] = {NULL};
  assert_int_equal(mr3d("drift"), 1);
  assert_said("a trace is needed");
  assert_int_equal(mr3d("drift %s", in_folder("config.json")), 1);
  assert_int_equal(mr3d("drift %s", in_folder("nothing.safetensors")), 1);
  save_part(in_folder("honest.safetensors"), in_folder("part.safetensors"), none, "tier", "");
  assert_int_equal(mr3d("drift %s", in_folder("part.safetensors")), 1);
  assert_said("give --tier");
  save_part(in_folder("honest.safetensors"), in_folder("part.safetensors"), none, "weights", "");
  assert_int_equal(mr3d("drift %s", in_folder("part.safetensors")), 1);
  assert_said("give --weights");
  save_part(in_folder("honest.safetensors"), in_folder("part.safetensors"), none, "config", "");
  assert_int_equal(mr3d("drift %s", in_folder("part.safetensors")), 1);
  assert_said("give --config");
  assert_int_equal(mr3d("drift %s --backend builtin:reference", in_folder("honest.safetensors")), 1);
  assert_said("either a trace or --backend");
  assert_int_equal(mr3d("drift --backend builtin:reference --tier fp64"), 1);
  assert_said("--backend needs --weights");
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(an_honest_trace_is_rounding),
      cmocka_unit_test(a_mistake_in_one_layer_is_placed_and_named),
      cmocka_unit_test(reports_keep_to_their_schema_and_load_nothing),
      cmocka_unit_test(growth_is_the_line_through_the_errors_of_layers_and_of_steps),
      cmocka_unit_test(two_traces_part_where_one_is_wrong),
      cmocka_unit_test(two_traces_may_both_be_wrong),
      cmocka_unit_test(where_points_are_missing_the_fault_lies_between_others),
      cmocka_unit_test(other_weights_are_named_before_any_number),
      cmocka_unit_test(a_running_backend_is_asked_until_its_fault),
      cmocka_unit_test(what_cannot_be_judged_is_said),
  };
  return cmocka_run_group_tests(tests, make_files, drop_folder);
}
