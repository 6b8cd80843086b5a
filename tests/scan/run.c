/** `mr3d run` as a user starts it: what it prints for the canonical scene, and its errors. */
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <unistd.h>

#include "mr3d/random.h"
#include "mr3d/safetensors.h"
#include "../program.h"

static const char *scene(void) {
  static char path[4096];
  snprintf(path, sizeof path, "%s/canonical.ply", getenv("MR3D_SCENE"));
  return path;
}

static void canonical_scene_gives_556_tokens(void **state) {
  (void)state;
  assert_int_equal(mr3d("run --scan '%s'", scene()), 0);
  assert_said("106328 rows, 5161 dropped as non-finite, 101167 kept");
  assert_said("68442 occupied cells of 0.025 m");
  assert_said("556 point tokens of 16^3 cells");
}

static void json_output_holds_the_same_numbers(void **state) {
  (void)state;
  assert_int_equal(mr3d("run --json --scan '%s'", scene()), 0);
  assert_said("\"rows\":\t106328");
  assert_said("\"dropped\":\t5161");
  assert_said("\"point_tokens\":\t556");
}

/** A model small enough to run in a moment, and a prompt of 231 tokens with its markers where the real one has them. */
static void write_model(const char *folder) {
  char path[4096];
  const struct { const char *name; int rank; int64_t shape[2]; } tensors[] = {
      {"model.embed_tokens.weight", 2, {300, 32}}, {"model.norm.weight", 1, {32}},
      {"model.layers.0.input_layernorm.weight", 1, {32}}, {"model.layers.0.post_attention_layernorm.weight", 1, {32}},
      {"model.layers.0.self_attn.q_proj.weight", 2, {64, 32}}, {"model.layers.0.self_attn.q_proj.bias", 1, {64}},
      {"model.layers.0.self_attn.k_proj.weight", 2, {32, 32}}, {"model.layers.0.self_attn.k_proj.bias", 1, {32}},
      {"model.layers.0.self_attn.v_proj.weight", 2, {32, 32}}, {"model.layers.0.self_attn.v_proj.bias", 1, {32}},
      {"model.layers.0.self_attn.o_proj.weight", 2, {32, 64}},
      {"model.layers.0.mlp.gate_proj.weight", 2, {48, 32}}, {"model.layers.0.mlp.up_proj.weight", 2, {48, 32}},
      {"model.layers.0.mlp.down_proj.weight", 2, {32, 48}}};
  mr3d_bundle *weights = mr3d_bundle_new();
  const mr3d_draw draw = {.dist = MR3D_NORMAL, .scale = 0.3};
  for (size_t i = 0; i < sizeof tensors / sizeof *tensors; i++)
    mr3d_random_draw(&draw, mr3d_stream_named(0, tensors[i].name), mr3d_bundle_add(weights, tensors[i].name, MR3D_F32, tensors[i].rank, tensors[i].shape));
  snprintf(path, sizeof path, "%s/model.safetensors", folder);
  mr3d_error error = {0};
  if (mr3d_safetensors_save(path, weights, &error)) fail_msg("%s", error.message);
  mr3d_bundle_free(&weights);

  snprintf(path, sizeof path, "%s/config.json", folder);
  FILE *file = fopen(path, "w");
  assert_non_null(file);
  fputs("{\"hidden_size\": 32, \"intermediate_size\": 48, \"num_hidden_layers\": 1, \"num_attention_heads\": 2, \"num_key_value_heads\": 1, \"head_dim\": 32,"
        "\"vocab_size\": 300, \"rope_theta\": 1000000, \"rms_norm_eps\": 1e-6, \"rope_mixed_3d\": false,"
        "\"point_start_token_id\": 297, \"point_end_token_id\": 298, \"point_token_id\": 299}", file);
  fclose(file);
  snprintf(path, sizeof path, "%s/prompts.json", folder);
  file = fopen(path, "w");
  assert_non_null(file);
  fputs("{\"chat\": [", file);
  for (int i = 0; i < 231; i++) fprintf(file, "%s%d", i ? "," : "", i == 24 ? 297 : i == 25 ? 299 : i == 26 ? 298 : i);
  fputs("], \"bare\": [1, 2, 3]}", file);
  fclose(file);
}

static int make_folder(void **state) {
  static char folder[] = "/tmp/mr3d-run-XXXXXX";
  *state = mkdtemp(folder);
  if (*state) write_model(*state);
  return *state ? 0 : -1;
}

static int remove_folder(void **state) {
  char command[200];
  snprintf(command, sizeof command, "rm -rf '%s'", (char *)*state);
  return system(command);
}

static void scan_prompt_and_weights_go_on_to_generation(void **state) {
  const char *folder = *state;
  assert_int_equal(mr3d("run --scan '%s' --prompt %s/prompts.json:chat --weights %s/model.safetensors --config %s/config.json --steps 2 --trace %s/trace.safetensors",
                        scene(), folder, folder, folder, folder), 0);
  assert_said("T = 231 text tokens");
  assert_said("S = 786 tokens, 556 of them points");
  assert_said("L = 786: caller's mask of 232 columns, extended by 555 ones to 787 keys");
  assert_said("L = 787: caller's mask of 233 columns, extended by 555 ones to 788 keys");

  char path[4096];
  snprintf(path, sizeof path, "%s/trace.safetensors", folder);
  mr3d_bundle *trace = NULL;
  mr3d_error error = {0};
  if (mr3d_safetensors_open(path, 0, &trace, &error)) fail_msg("%s", error.message);
  const struct { const char *name; int64_t rows; } points[] = {{"0.model.point_coords", 556}, {"0.model.grid", 68442}, {"0.model.input_ids", 1}, {"0.model.inputs_embeds", 1}, {"0.model.hidden", 1}, {"2.model.logits", 1}};
  for (size_t i = 0; i < sizeof points / sizeof *points; i++) {
    const mr3d_tensor *tensor = mr3d_bundle_find(trace, points[i].name);
    if (!tensor) fail_msg("the trace lacks %s", points[i].name);
    assert_int_equal(tensor->shape[0], points[i].rows);
  }
  assert_int_equal(mr3d_bundle_find(trace, "0.model.inputs_embeds")->shape[1], 786);
  const char *config = mr3d_bundle_get(trace, "config"), *weights = mr3d_bundle_get(trace, "weights"), *digests = mr3d_bundle_get(trace, "weights_sha256");
  assert_string_equal(mr3d_bundle_get(trace, "trace"), "1"); /* what the numbers come from */
  assert_string_equal(mr3d_bundle_get(trace, "tier"), "fp64");
  assert_true(config && strstr(config, "\"hidden_size\": 32") && weights && weights[0] == '/' && strstr(weights, "model.safetensors"));
  assert_true(digests && strstr(digests, "\"model.layers.0.mlp.down_proj.weight\":\""));
  mr3d_bundle_free(&trace);
}

static mr3d_bundle *open_trace(const char *folder, const char *name) {
  char path[4096];
  snprintf(path, sizeof path, "%s/%s", folder, name);
  mr3d_bundle *trace = NULL;
  mr3d_error error = {0};
  if (mr3d_safetensors_open(path, 0, &trace, &error)) fail_msg("%s", error.message);
  return trace;
}

/** What mr3d run is asked to do in most tests: the scene, the long prompt, the small model; more options follow. */
#define RUN "run --scan '%s' --prompt %s/prompts.json:chat --weights %s "

/** --points puts exactly what it names into the trace, the decoder's points among them, and the values are those of each step. */
static void points_are_chosen_by_step_layer_and_name(void **state) {
  const char *folder = *state;
  assert_int_equal(mr3d(RUN "--steps 2 --trace %s/points.safetensors --points '0.0.query*,*.model.logits,[12].model.cache_length,0.model.grid,2.model.input_ids'", scene(), folder, folder, folder), 0);
  mr3d_bundle *trace = open_trace(folder, "points.safetensors");
  const struct { const char *name; int64_t rows; } points[] = {{"0.0.query", 786}, {"0.0.query_rotated", 786}, {"0.model.logits", 1}, {"1.model.logits", 1}, {"2.model.logits", 1},
                                                              {"1.model.cache_length", -786}, {"2.model.cache_length", -787}, {"0.model.grid", 0}, {"2.model.input_ids", 1}};
  assert_int_equal(mr3d_bundle_count(trace), sizeof points / sizeof *points);
  for (size_t i = 0; i < sizeof points / sizeof *points; i++) {
    const mr3d_tensor *tensor = mr3d_bundle_find(trace, points[i].name);
    if (!tensor) fail_msg("the trace lacks %s", points[i].name);
    if (points[i].rows > 0) assert_int_equal(tensor->shape[tensor->rank - 2], points[i].rows);
    if (points[i].rows < 0) assert_int_equal(*(int64_t *)tensor->data, -points[i].rows);
  }
  mr3d_bundle_free(&trace);
}

static void points_that_match_nothing_are_refused(void **state) {
  const char *folder = *state;
  const struct { const char *points, *said; } refused[] = {
      {"0.0.qurey", "\"0.0.qurey\" matches nothing; expected globs of STEP.LAYER.POINT"},
      {"0.1.query", "a layer (0 .. 0) has input input_norm query"},
      {"3.0.query", "Steps are 0 .. 2; model has grid"},
      {"0.model.logits,query", "\"query\" matches nothing"},
      {"1.model.grid", "\"1.model.grid\" matches nothing"},
      {"", "--points is empty"}};
  for (size_t i = 0; i < sizeof refused / sizeof *refused; i++) {
    assert_int_equal(mr3d(RUN "--steps 2 --trace %s/no.safetensors --points '%s'", scene(), folder, folder, folder, refused[i].points), 1);
    assert_said(refused[i].said);
  }
  assert_int_equal(mr3d(RUN "--points '*.model.logits'", scene(), folder, folder), 1);
  assert_said("--points goes with --trace FILE");
  assert_int_equal(mr3d("run --scan '%s' --trace %s/scan.safetensors --points 0.model.grid", scene(), folder), 0);
  assert_int_equal(mr3d("run --scan '%s' --trace %s/scan.safetensors --points 0.0.query", scene(), folder), 1);
  assert_int_equal(mr3d(RUN "--steps 200000 --trace %s/no.safetensors --points '*.*.*'", scene(), folder, folder, folder), 1);
  assert_said("GiB, and /tmp");
}

/** The generated tokens that --json gives. */
static void generated(char tokens[400]) {
  const char *list = strstr(output, "\"generated\":");
  if (!list) fail_msg("no tokens: %.2000s", output);
  snprintf(tokens, 400, "%.*s", (int)strcspn(list, "]"), list);
}

/** What the last step of a run's trace holds at a point is what another's last step holds, bit for bit. */
static void assert_same_bits(const char *folder, const char *file, const char *name, const char *other_file, const char *other_name) {
  mr3d_bundle *a = open_trace(folder, file), *b = open_trace(folder, other_file);
  const mr3d_tensor *x = mr3d_bundle_find(a, name), *y = mr3d_bundle_find(b, other_name);
  if (!x || !y) fail_msg("%s of %s or %s of %s is missing", name, file, other_name, other_file);
  assert_int_equal(mr3d_tensor_count(x), mr3d_tensor_count(y));
  assert_memory_equal(x->data, y->data, (size_t)mr3d_tensor_count(x) * sizeof(double));
  mr3d_bundle_free(&a);
  mr3d_bundle_free(&b);
}

/** The prompt in pieces, cut among text and points, gives the tokens of the prompt in one, and the same bits. */
static void chunks_change_no_bit(void **state) {
  const char *folder = *state;
  char whole[400], pieces[400];
  assert_int_equal(mr3d(RUN "--json --steps 3 --trace %s/whole.safetensors", scene(), folder, folder, folder), 0);
  generated(whole);
  assert_int_equal(mr3d(RUN "--steps 0 --chunk 100", scene(), folder, folder), 0);
  assert_said("prefill  q = 100, L = 0: attention_mask of 100 columns");
  assert_said("prefill  q = 86, L = 700: attention_mask of 786 columns");
  static const int64_t sizes[] = {1, 100, 785};
  for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++) {
    char last[64], end[64];
    const int64_t n = (785 + sizes[i]) / sizes[i];
    assert_int_equal(mr3d(RUN "--json --steps 3 --chunk %d --trace %s/pieces.safetensors --points '*.model.logits'", scene(), folder, folder, (int)sizes[i], folder), 0);
    generated(pieces);
    assert_string_equal(whole, pieces);
    snprintf(last, sizeof last, "%d.model.logits", (int)n - 1);
    snprintf(end, sizeof end, "%d.model.logits", (int)n + 2);
    assert_same_bits(folder, "whole.safetensors", "0.model.logits", "pieces.safetensors", last);
    assert_same_bits(folder, "whole.safetensors", "3.model.logits", "pieces.safetensors", end);
  }
}

/** Coordinates that depend on each other may not be cut; a cut between text and points is no cut of them. */
static void chunks_do_not_cut_points_that_depend_on_each_other(void **state) {
  const char *folder = *state;
  char command[600];
  snprintf(command, sizeof command, "sed 's/\"rope_mixed_3d\"/\"drift\": \"average\", \"rope_mixed_3d\"/' %s/config.json >%s/drift.json", folder, folder);
  assert_int_equal(run_command(command), 0);
  assert_int_equal(mr3d(RUN "--config %s/drift.json --chunk 100", scene(), folder, folder, folder), 1);
  assert_said("--chunk 100 cuts the 556 points between requests; that needs coord_norm grid or none and drift none");
  assert_int_equal(mr3d(RUN "--config %s/drift.json --chunk 700 --steps 0", scene(), folder, folder, folder), 0);
}

/** Steps are fed with the ids given, and what would have been chosen is reported beside: fed with the greedy ids themselves it is the free run. */
static void teacher_forced_steps_are_fed_with_the_ids_given(void **state) {
  const char *folder = *state;
  char greedy[400], forced[400], ids[400] = "";
  assert_int_equal(mr3d(RUN "--json --steps 3 --trace %s/free.safetensors", scene(), folder, folder, folder), 0);
  generated(greedy);
  for (const char *c = strchr(greedy, '[') + 1; *c && strlen(ids) < sizeof ids - 2; c++)
    if (*c != ' ') strncat(ids, c, 1);
  *strrchr(ids, ',') = 0; /* the last token is fed to no step */
  assert_int_equal(mr3d(RUN "--json --teacher-forced %s --trace %s/forced.safetensors", scene(), folder, folder, ids, folder), 0);
  generated(forced);
  assert_string_equal(greedy, forced);
  assert_same_bits(folder, "free.safetensors", "3.model.logits", "forced.safetensors", "3.model.logits");
  assert_int_equal(mr3d(RUN "--teacher-forced %s/prompts.json:bare", scene(), folder, folder, folder), 0);
  assert_said("to 787 keys; token 1\n");
  assert_said("to 789 keys; token 3\n");
  assert_said("fed      1 2 3\n");
  assert_said("\ngreedy   ");
  assert_int_equal(mr3d(RUN "--steps 4 --teacher-forced 1,2,3", scene(), folder, folder), 1);
  assert_said("--steps 4 needs as many ids, --teacher-forced 1,2,3 gives 3");
  assert_int_equal(mr3d(RUN "--teacher-forced 1,,3", scene(), folder, folder), 1);
  assert_said("expected token ids joined by commas");
  assert_int_equal(mr3d(RUN "--teacher-forced 300", scene(), folder, folder), 1);
  assert_said("expected a token id in 0 .. 299");
  assert_int_equal(mr3d("run --scan '%s' --teacher-forced 1", scene()), 1);
  assert_said("--teacher-forced goes with --weights");
}

/** A checkpoint's folder brings its configuration along, and gives what the file gives. */
static void a_folder_is_enough(void **state) {
  const char *folder = *state;
  char by_file[400], by_folder[400];
  assert_int_equal(mr3d("run --json --steps 3 --scan '%s' --prompt %s/prompts.json:chat --weights %s/model.safetensors --config %s/config.json", scene(), folder, folder, folder), 0);
  generated(by_file);
  assert_int_equal(mr3d("run --json --steps 3 --scan '%s' --prompt %s/prompts.json:chat --weights %s", scene(), folder, folder), 0);
  generated(by_folder);
  assert_string_equal(by_file, by_folder);
  assert_int_equal(mr3d("run --steps 0 --scan '%s' --prompt %s/prompts.json:chat --weights %s", scene(), folder, folder), 0);
  assert_said("14 tensors in 1 file\n");
  assert_int_equal(mr3d("run --scan '%s' --prompt %s/prompts.json:chat --weights '%s'", scene(), folder, getenv("MR3D_SCENE")), 1);
  assert_said("--config is not given, and the folder of --weights holds none");
}

/** A copy of the folder's configuration with learned frequencies, which the file does not hold. */
static void write_learned_config(const char *folder) {
  char command[600];
  snprintf(command, sizeof command, "sed 's/\"rope_mixed_3d\": false/\"rope_mixed_3d\": true/' %s/config.json >%s/learned.json", folder, folder);
  assert_int_equal(run_command(command), 0);
}

static void missing_rotary_parameters_are_reported_or_drawn(void **state) {
  const char *folder = *state;
  char first[400], again[400], other[400];
  write_learned_config(folder);
  assert_int_equal(mr3d("run --scan '%s' --prompt %s/prompts.json:chat --weights %s --config %s/learned.json", scene(), folder, folder, folder), 1);
  assert_said("4 tensors are missing: model.layers.0.self_attn.freqs_3d_q [3,2,8] (in 1 of 1 layers)");
  assert_said("model.layers.0.self_attn.axial_weights_3d_kv [1,8,3] (in 1 of 1 layers)");
  assert_said("--init-missing SEED");
  assert_int_equal(mr3d("run --steps 0 --scan '%s' --prompt %s/prompts.json:chat --weights %s --config %s/learned.json --init-missing 7 --trace %s/seven.safetensors", scene(), folder,
                        folder, folder, folder), 0);
  assert_said("4 missing rotary parameters drawn by --init-missing 7");
  assert_said("model.layers.0.self_attn.freqs_3d_q .. model.layers.0.self_attn.axial_weights_3d_kv");
  assert_int_equal(mr3d("run --json --scan '%s' --prompt %s/prompts.json:chat --weights %s --config %s/learned.json --init-missing 7", scene(), folder, folder, folder), 0);
  assert_said("\"initialised\":\t[\"model.layers.0.self_attn.freqs_3d_q\", \"model.layers.0.self_attn.axial_weights_3d_q\", "
              "\"model.layers.0.self_attn.freqs_3d_kv\", \"model.layers.0.self_attn.axial_weights_3d_kv\"]");
  generated(first);
  assert_int_equal(mr3d("run --json --scan '%s' --prompt %s/prompts.json:chat --weights %s --config %s/learned.json --init-missing=7", scene(), folder, folder, folder), 0);
  generated(again);
  assert_string_equal(first, again);
  assert_int_equal(mr3d("run --steps 0 --scan '%s' --prompt %s/prompts.json:chat --weights %s --config %s/learned.json --init-missing 8 --trace %s/eight.safetensors", scene(), folder,
                        folder, folder, folder), 0);
  snprintf(other, sizeof other, "cmp -s %s/seven.safetensors %s/eight.safetensors", folder, folder);
  assert_int_equal(run_command(other), 1);
  assert_int_equal(mr3d("run --scan '%s' --prompt %s/prompts.json:chat --weights %s --init-missing 7", scene(), folder, folder), 0);
  assert_said("nothing was missing");
  assert_int_equal(mr3d("run --scan '%s' --init-missing 7", scene()), 1);
  assert_said("--init-missing goes with --weights");
  assert_int_equal(mr3d("run --scan '%s' --init-missing seven", scene()), 1);
  assert_said("expected a whole number");
}

static void generated_weights_need_no_file(void **state) {
  const char *folder = *state;
  char first[400], again[400];
  write_learned_config(folder);
  assert_int_equal(mr3d("run --scan '%s' --prompt %s/prompts.json:chat --weights generated:7 --config %s/learned.json --steps 1", scene(), folder, folder), 0);
  assert_said("generated:7: 18 tensors drawn by the generator, no file");
  assert_int_equal(mr3d("run --json --scan '%s' --prompt %s/prompts.json:chat --weights generated:7 --config %s/learned.json", scene(), folder, folder), 0);
  generated(first);
  assert_int_equal(mr3d("run --json --scan '%s' --prompt %s/prompts.json:chat --weights generated:8 --config %s/learned.json", scene(), folder, folder), 0);
  generated(again);
  assert_string_not_equal(first, again);
  assert_int_equal(mr3d("run --scan '%s' --prompt %s/prompts.json:chat --weights generated:7", scene(), folder), 1);
  assert_said("--weights also needs --prompt and --config");
  assert_int_equal(mr3d("run --scan '%s' --prompt %s/prompts.json:chat --weights generated:x --config %s/learned.json", scene(), folder, folder), 1);
  assert_said("weights: generated:x: expected generated:SEED");
}

/* ---- the point encoder ---- */

/** A small Sonata beside the small decoder, five stages as the scene's 16^3 cells need. */
#define ENCODER "\"point_backbone\": \"sonata\", \"point_config\": {\"enc_depths\": [0, 1, 0, 0, 1], \"enc_channels\": [4, 6, 6, 8, 10], \"enc_num_head\": [1, 2, 1, 1, 2], \"enc_patch_size\": [64, 64, 64, 64, 64]}"
#define SCENESCRIPT_ENCODER "\"point_backbone\": \"scenescript\", \"projector\": \"linear\", \"point_config\": {\"embed_channels\": 10, \"conv_layers\": [2, 2, 4, 4, 4]}"
#define ENCODED "run --scan '%s' --prompt %s/prompts.json:chat --weights generated:7 --config %s/encoder.json --steps 2 "

static void write_encoder_config(const char *folder, const char *encoder, const char *name) {
  char path[400], text[2000] = {0};
  snprintf(path, sizeof path, "%s/config.json", folder);
  FILE *file = fopen(path, "r");
  assert_non_null(file);
  assert_true(fread(text, 1, sizeof text - 1, file) > 0);
  fclose(file);
  snprintf(path, sizeof path, "%s/%s", folder, name);
  file = fopen(path, "w");
  assert_non_null(file);
  fprintf(file, "{%s, %s", encoder, strchr(text, '{') + 1);
  fclose(file);
}

/** From 106,328 rows to 556 features with their coordinates: those that the encoder gives are those that enter the decoder, row for row. */
static void the_encoders_features_and_coordinates_enter_the_decoder_row_for_row(void **state) {
  const char *folder = *state;
  write_encoder_config(folder, ENCODER, "encoder.json");
  assert_int_equal(mr3d(ENCODED "--trace %s/encoded.safetensors", scene(), folder, folder, folder), 0);
  assert_said("106328 rows");
  assert_said("encoder  sonata: 68442 cells to 556 tokens of 32 features");
  assert_said("S = 786 tokens, 556 of them points");
  mr3d_bundle *trace = open_trace(folder, "encoded.safetensors");
  const struct { const char *name; int64_t rows, columns; } stages[] = {{"0.encoder.stage0", 68442, 4}, {"0.encoder.stage0_coords", 68442, 3}, {"0.encoder.stage4", 556, 10},
                                                                       {"0.encoder.stage4_coords", 556, 3}, {"0.encoder.fourier", 556, 63}, {"0.encoder.input_proj", 556, 10},
                                                                       {"0.encoder.projected", 556, 32}, {"0.model.features", 556, 32}};
  for (size_t i = 0; i < sizeof stages / sizeof *stages; i++) {
    const mr3d_tensor *t = mr3d_bundle_find(trace, stages[i].name);
    if (!t) fail_msg("the trace lacks %s", stages[i].name);
    assert_true(t->rank == 2 && t->shape[0] == stages[i].rows && t->shape[1] == stages[i].columns);
  }
  const double *features = mr3d_bundle_find(trace, "0.encoder.projected")->data, *embeds = mr3d_bundle_find(trace, "0.model.inputs_embeds")->data;
  const int64_t *coords = mr3d_bundle_find(trace, "0.model.point_coords")->data;
  assert_memory_equal(mr3d_bundle_find(trace, "0.encoder.stage4_coords")->data, coords, 556 * 3 * sizeof *coords);
  assert_memory_equal(embeds + 25 * 32, features, 556 * 32 * sizeof *features); /* behind the start marker, which is token 24 */
  mr3d_bundle_free(&trace);
}

/** What a trace will take is said before anything is computed, and is what its points take. */
static void the_size_of_a_trace_is_said_beforehand(void **state) {
  const char *folder = *state, *const encoders[] = {ENCODER, SCENESCRIPT_ENCODER};
  for (int k = 0; k < 2; k++) {
    char said[64];
    int64_t bytes = 0;
    write_encoder_config(folder, encoders[k], "encoder.json");
    assert_int_equal(mr3d(ENCODED "--json --trace %s/sized.safetensors --points '0.encoder.*,*.0.query'", scene(), folder, folder, folder), 0);
    mr3d_bundle *trace = open_trace(folder, "sized.safetensors");
    assert_non_null(mr3d_bundle_find(trace, k ? "0.encoder.bottleneck" : "0.encoder.stage4"));
    for (int i = 0; i < mr3d_bundle_count(trace); i++) bytes += 8 * mr3d_tensor_count(mr3d_bundle_at(trace, i));
    snprintf(said, sizeof said, "\"trace_bytes\":\t%lld", (long long)bytes);
    assert_said(said);
    mr3d_bundle_free(&trace);
  }
}

/** The features of a file in another order are other features: logits show which row has which coordinates. */
static void features_in_another_order_give_other_logits(void **state) {
  const char *folder = *state;
  char path[400];
  write_encoder_config(folder, ENCODER, "encoder.json");
  assert_int_equal(mr3d(ENCODED "--trace %s/encoded.safetensors", scene(), folder, folder, folder), 0);
  mr3d_bundle *trace = open_trace(folder, "encoded.safetensors");
  for (int exchanged = 0; exchanged < 2; exchanged++) {
    mr3d_bundle *file = mr3d_bundle_new();
    double *rows = mr3d_bundle_copy(file, "features", mr3d_bundle_find(trace, "0.encoder.projected"))->data, kept[32];
    if (exchanged) { /* tokens 100 and 400 */
      memcpy(kept, rows + 100 * 32, sizeof kept);
      memcpy(rows + 100 * 32, rows + 400 * 32, sizeof kept);
      memcpy(rows + 400 * 32, kept, sizeof kept);
    }
    mr3d_error error = {0};
    snprintf(path, sizeof path, "%s/features.safetensors", folder);
    if (mr3d_safetensors_save(path, file, &error)) fail_msg("%s", error.message);
    mr3d_bundle_free(&file);
    assert_int_equal(mr3d(ENCODED "--features %s --trace %s/again.safetensors", scene(), folder, folder, path, folder), 0);
    mr3d_bundle *again = open_trace(folder, "again.safetensors");
    const mr3d_tensor *a = mr3d_bundle_find(trace, "0.model.logits"), *b = mr3d_bundle_find(again, "0.model.logits");
    const bool same = memcmp(a->data, b->data, (size_t)mr3d_tensor_count(a) * sizeof(double)) == 0;
    assert_true(same == !exchanged);
    assert_null(mr3d_bundle_find(again, "0.encoder.stage0"));
    mr3d_bundle_free(&again);
  }
  mr3d_bundle_free(&trace);
}

static void points_of_the_encoder_are_chosen_like_others(void **state) {
  const char *folder = *state;
  write_encoder_config(folder, ENCODER, "encoder.json");
  assert_int_equal(mr3d(ENCODED "--trace %s/some.safetensors --points '0.encoder.stage[24],0.model.features,*.model.logits'", scene(), folder, folder, folder), 0);
  mr3d_bundle *trace = open_trace(folder, "some.safetensors");
  assert_int_equal(mr3d_bundle_count(trace), 6);
  assert_non_null(mr3d_bundle_find(trace, "0.encoder.stage2"));
  mr3d_bundle_free(&trace);
  assert_int_equal(mr3d(ENCODED "--trace %s/no.safetensors --points '0.encoder.stag0'", scene(), folder, folder, folder), 1);
  assert_said("\"0.encoder.stag0\" matches nothing");
  assert_said("; encoder has stage0 stage0_coords");
  assert_int_equal(mr3d(ENCODED "--trace %s/no.safetensors --points '1.encoder.stage0'", scene(), folder, folder, folder), 1);
  assert_int_equal(mr3d(RUN "--trace %s/no.safetensors --points '0.encoder.stage0'", scene(), folder, folder, folder), 1);
}

static void an_encoder_that_cannot_run_says_why(void **state) {
  const char *folder = *state;
  write_encoder_config(folder, ENCODER, "encoder.json");
  assert_int_equal(mr3d(RUN "--config %s/encoder.json", scene(), folder, folder, folder), 1); /* a decoder's checkpoint */
  assert_said("tensors of the point encoder are missing: point_backbone.embedding.stem.linear.weight [4,6]");
  assert_said("--features FILE");
  write_encoder_config(folder, "\"downsamplings\": 3, " ENCODER, "shallow.json");
  assert_int_equal(mr3d("run --scan '%s' --prompt %s/prompts.json:chat --weights generated:7 --config %s/shallow.json", scene(), folder, folder), 1);
  assert_said("the point encoder gives 556 tokens, and 3 halvings of the grid (downsamplings) leave");
  char path[400];
  snprintf(path, sizeof path, "%s/grey.ply", folder);
  FILE *file = fopen(path, "w");
  assert_non_null(file);
  fputs("ply\nformat ascii 1.0\nelement vertex 2\nproperty float x\nproperty float y\nproperty float z\nend_header\n0 0 0\n1 1 1\n", file);
  fclose(file);
  assert_int_equal(mr3d(ENCODED, path, folder, folder), 1);
  assert_said("kept, without colours (red, green, blue)");
  assert_said("grey.ply has no colours, and the encoder takes 6 features a cell");
}

/** What mr3d run writes to stderr where that is a terminal: `terminal` keeps it, stdout goes to a file. */
static void run_on_a_terminal(const char *arguments, char *terminal, size_t size) {
  const int master = posix_openpt(O_RDWR | O_NOCTTY);
  assert_true(master >= 0 && grantpt(master) == 0 && unlockpt(master) == 0);
  char command[9500];
  snprintf(command, sizeof command, "'%s' %s >/dev/null 2>%s", getenv("MR3D"), arguments, ptsname(master));
  const int slave = open(ptsname(master), O_RDWR | O_NOCTTY); /* what was written stays readable while one is open */
  assert_int_equal(system(command), 0);
  size_t kept = 0; /* it comes through in pieces, some of them late */
  for (ssize_t got; kept < size - 1 && poll(&(struct pollfd){.fd = master, .events = POLLIN}, 1, 300) > 0 && (got = read(master, terminal + kept, size - 1 - kept)) > 0;) kept += (size_t)got;
  terminal[kept] = 0;
  close(slave);
  close(master);
}

static void a_terminal_is_told_how_far_it_is(void **state) {
  const char *folder = *state;
  char arguments[9000], terminal[4096];
  snprintf(arguments, sizeof arguments, RUN "--json --steps 2", scene(), folder, folder);
  run_on_a_terminal(arguments, terminal, sizeof terminal);
  for (const char *const *said = (const char *const[]){"\rprefill: layer 1 of 1, ", " GFLOP/s, 0 s left\033[K", "\r\033[K", "\rdecode 1 of 2: layer 1 of 1, ", " tokens/s, ", NULL}; *said; said++)
    if (!strstr(terminal, *said)) fail_msg("the terminal was not told \"%s\", but: %s", *said, terminal);
  assert_string_equal(terminal + strlen(terminal) - 4, "\r\033[K");
  assert_int_equal(mr3d(RUN "--json --steps 2", scene(), folder, folder), 0);
  assert_null(strstr(output, "layer 1 of 1"));
  write_encoder_config(folder, ENCODER, "encoder.json");
  snprintf(arguments, sizeof arguments, ENCODED "--json", scene(), folder, folder);
  run_on_a_terminal(arguments, terminal, sizeof terminal);
  if (!strstr(terminal, "\rencoder: part 1 of 8, 0 s so far\033[K")) fail_msg("the terminal was not told of the encoder, but: %s", terminal);
}

/* Where a checkpoint is: request * 1000 + layers done, or -1: there is none. */
static int64_t place_of(const char *path) {
  mr3d_bundle *file = NULL;
  mr3d_error error = {0};
  if (access(path, F_OK) != 0) return -1;
  if (mr3d_safetensors_open(path, 0, &file, &error)) fail_msg("a reader found half a checkpoint: %s", error.message);
  const int64_t place = 1000 * atoll(mr3d_bundle_get(file, "step")) + atoll(mr3d_bundle_get(file, "layer"));
  mr3d_bundle_free(&file);
  return place;
}

/* Layers of the model that is stopped. */
#define DEEP_LAYERS 10

/**
 * Starts a run and kills it as soon as its checkpoint has reached a place, in the middle of a request; gives the place. The file of that moment
 * is kept by a second name, so that what the run still writes until it is dead does not matter.
 */
static int64_t kill_run_at(const char *arguments, const char *checkpoint, int64_t place) {
  char command[9500], kept[400];
  snprintf(command, sizeof command, "exec '%s' %s >/dev/null 2>&1", getenv("MR3D"), arguments);
  snprintf(kept, sizeof kept, "%s.kept", checkpoint);
  const pid_t child = fork();
  if (child == 0) {
    execl("/bin/sh", "sh", "-c", command, (char *)NULL);
    _exit(127);
  }
  int64_t reached = -1;
  while (reached < place || reached % 1000 == 0 || reached % 1000 == DEEP_LAYERS) {
    if (waitpid(child, NULL, WNOHANG) != 0) fail_msg("the run ended before it reached %d", (int)place);
    unlink(kept);
    reached = link(checkpoint, kept) == 0 ? place_of(kept) : -1;
  }
  kill(child, SIGKILL);
  waitpid(child, NULL, 0);
  assert_int_equal(rename(kept, checkpoint), 0);
  return reached;
}

static void write_deep_config(const char *folder) {
  char command[600];
  snprintf(command, sizeof command, "sed 's/\"num_hidden_layers\": 1/\"num_hidden_layers\": 10/; s/\"hidden_size\": 32, \"intermediate_size\": 48/\"hidden_size\": 64, \"intermediate_size\": 256/; s/\"num_key_value_heads\": 1/\"num_key_value_heads\": 2/' "
           "%s/config.json >%s/deep.json", folder, folder);
  assert_int_equal(run_command(command), 0);
}

#define DEEP "run --scan '%s' --prompt %s/prompts.json:chat --weights generated:7 --config %s/deep.json --steps 6 "

/** A run that is killed in the middle of a prefill, then of a later chunk, then of a decode step, gives the tokens and bits of one that was not. */
static void a_stopped_run_goes_on_with_the_same_bits(void **state) {
  const char *folder = *state;
  char arguments[9000], checkpoint[300], whole[400], resumed[400];
  write_deep_config(folder);
  snprintf(checkpoint, sizeof checkpoint, "%s/stopped.safetensors", folder);
  const struct { const char *chunk; int64_t last, place[3]; } runs[] = {{"", 6, {3, 6, 3004}}, {"--chunk 300", 8, {1003, 2002, 6005}}};
  for (size_t i = 0; i < sizeof runs / sizeof *runs; i++) {
    char logits[40];
    snprintf(logits, sizeof logits, "%d.model.logits", (int)runs[i].last);
    assert_int_equal(mr3d(DEEP "%s --json --trace %s/unstopped.safetensors --points '%s'", scene(), folder, folder, runs[i].chunk, folder, logits), 0);
    generated(whole);
    snprintf(arguments, sizeof arguments, DEEP "%s --checkpoint %s --checkpoint-every 1e-9", scene(), folder, folder, runs[i].chunk, checkpoint);
    int64_t stopped = 0;
    for (int k = 0; k < 3; k++) stopped = kill_run_at(arguments, checkpoint, runs[i].place[k]);
    assert_int_equal(mr3d(DEEP "%s --json --checkpoint %s --trace %s/resumed.safetensors --points '%s'", scene(), folder, folder, runs[i].chunk, checkpoint, folder, logits), 0);
    generated(resumed);
    char said[60];
    snprintf(said, sizeof said, "\"resumed_step\":\t%d", (int)(stopped / 1000));
    assert_said(said);
    assert_string_equal(whole, resumed);
    assert_same_bits(folder, "unstopped.safetensors", logits, "resumed.safetensors", logits);
    assert_int_equal(access(checkpoint, F_OK), -1);
  }
}

static void a_checkpoint_of_another_run_is_refused(void **state) {
  const char *folder = *state;
  char arguments[9000], checkpoint[300];
  write_deep_config(folder);
  snprintf(checkpoint, sizeof checkpoint, "%s/other.safetensors", folder);
  snprintf(arguments, sizeof arguments, DEEP "--checkpoint %s --checkpoint-every 1e-9", scene(), folder, folder, checkpoint);
  const int64_t place = kill_run_at(arguments, checkpoint, 2002);
  assert_true(place >= 2002);
  assert_int_equal(mr3d(DEEP "--seed 1 --checkpoint %s", scene(), folder, folder, checkpoint), 1);
  assert_said("is of another run, which differs in: embeddings. Repeat that run as it was, or remove the file");
  assert_int_equal(mr3d(DEEP "--chunk 300 --checkpoint %s", scene(), folder, folder, checkpoint), 1);
  assert_said("differs in: requests.");
  assert_int_equal(mr3d("run --scan '%s' --prompt %s/prompts.json:chat --weights generated:8 --config %s/deep.json --checkpoint %s", scene(), folder, folder, checkpoint), 1);
  assert_said("differs in: weights, embeddings.");
  assert_int_equal(mr3d("run --scan '%s' --prompt %s/prompts.json:chat --weights generated:7 --config %s/deep.json --steps 1 --checkpoint %s", scene(), folder, folder, checkpoint), 1);
  assert_said("were --steps more before?");
  assert_int_equal(place_of(checkpoint), place);
  assert_int_equal(mr3d(DEEP "--checkpoint %s/model.safetensors", scene(), folder, folder, folder), 1);
  assert_said("is no checkpoint of mr3d run: metadata suite is missing");
  assert_int_equal(mr3d(DEEP "--checkpoint %s/config.json", scene(), folder, folder, folder), 1);
  assert_int_equal(mr3d(DEEP "--checkpoint %s/no/such/folder", scene(), folder, folder, folder), 1);
  assert_said("could not write it: No such file or directory");
  assert_int_equal(mr3d("run --scan '%s' --checkpoint x", scene()), 1);
  assert_said("--checkpoint goes with --weights");
}

static void errors_say_what_to_do(void **state) {
  const char *folder = *state;
  assert_int_equal(mr3d("run"), 1);
  assert_said("--scan is missing");
  assert_int_equal(mr3d("run --scan %s/none.ply", folder), 1);
  assert_said("none.ply");
  assert_int_equal(mr3d("run --scan %s/config.json", folder), 1);
  assert_said("config.json");
  assert_int_equal(mr3d("run --scan '%s' --prompt %s/prompts.json:nobody", scene(), folder), 1);
  assert_said("holds no prompt \"nobody\"");
  assert_int_equal(mr3d("run --scan '%s' --prompt %s/prompts.json:bare --config %s/config.json", scene(), folder, folder), 1);
  assert_said("prompt");
  assert_int_equal(mr3d("run --scan '%s' --weights %s/model.safetensors", scene(), folder), 1);
  assert_said("--weights also needs --prompt and --config");
  assert_int_equal(mr3d("run --scan '%s' --prompt %s/prompts.json:chat --weights %s/model.safetensors --config %s/config.json --features %s/model.safetensors", scene(),
                        folder, folder, folder, folder), 1);
  assert_said("expected a floating tensor features [556,32]");
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(canonical_scene_gives_556_tokens),
      cmocka_unit_test(json_output_holds_the_same_numbers),
      cmocka_unit_test(scan_prompt_and_weights_go_on_to_generation),
      cmocka_unit_test(points_are_chosen_by_step_layer_and_name),
      cmocka_unit_test(points_that_match_nothing_are_refused),
      cmocka_unit_test(chunks_change_no_bit),
      cmocka_unit_test(chunks_do_not_cut_points_that_depend_on_each_other),
      cmocka_unit_test(teacher_forced_steps_are_fed_with_the_ids_given),
      cmocka_unit_test(a_folder_is_enough),
      cmocka_unit_test(missing_rotary_parameters_are_reported_or_drawn),
      cmocka_unit_test(generated_weights_need_no_file),
      cmocka_unit_test(the_encoders_features_and_coordinates_enter_the_decoder_row_for_row),
      cmocka_unit_test(the_size_of_a_trace_is_said_beforehand),
      cmocka_unit_test(features_in_another_order_give_other_logits),
      cmocka_unit_test(points_of_the_encoder_are_chosen_like_others),
      cmocka_unit_test(an_encoder_that_cannot_run_says_why),
      cmocka_unit_test(a_terminal_is_told_how_far_it_is),
      cmocka_unit_test(a_stopped_run_goes_on_with_the_same_bits),
      cmocka_unit_test(a_checkpoint_of_another_run_is_refused),
      cmocka_unit_test(errors_say_what_to_do),
  };
  return cmocka_run_group_tests(tests, make_folder, remove_folder);
}
