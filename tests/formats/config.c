/** Configurations: a checkpoint's config.json loads as it is; misspelt keys, wrong types and sizes that do not fit are refused by name. */
#include "support.h"

#include <ctype.h>

#include "mr3d/config.h"

static mr3d_config parsed(const char *json) {
  mr3d_config config;
  mr3d_error error;
  assert_done(mr3d_config_parse(json, &config, &error), error);
  return config;
}

static void refuse(const char *json, const char *words) {
  mr3d_config config, untouched;
  mr3d_error error;
  memset(&config, 0x5A, sizeof config);
  memset(&untouched, 0x5A, sizeof untouched);
  assert_refused(mr3d_config_parse(json, &config, &error), MR3D_INVALID, error, words);
  assert_memory_equal(&config, &untouched, sizeof config);
}

/* Every key of protocol.md and of spec.md section 8, with a value other than its default. Written here anew, not taken from the code. */
static const struct {
  const char *key, *value;
} known[] = {
    {"hidden_size", "896"},
    {"intermediate_size", "4864"},
    {"num_hidden_layers", "24"},
    {"num_attention_heads", "14"},
    {"num_key_value_heads", "2"},
    {"head_dim", "64"},
    {"vocab_size", "151936"},
    {"rope_theta", "1000000.0"},
    {"rms_norm_eps", "1e-06"},
    {"tie_word_embeddings", "true"},
    {"hidden_act", "\"silu\""},
    {"rope_scaling", "null"},
    {"use_sliding_window", "false"},
    {"rope_theta_3d", "10000"},
    {"spatial_temporal_separate_strategy", "\"full_spatial\""},
    {"spatial_ratio", "0.25"},
    {"mixed_rope_layout", "\"interleaved\""},
    {"temporal_rope", "\"native\""},
    {"rope_mixed_3d", "false"},
    {"mixedRoPE_3d_learned_per_axis", "false"},
    {"mixedRoPE_3d_learned_axial_mixing_weight", "false"},
    {"rope_3d_kind", "\"axial\""},
    {"coord_norm", "\"none\""},
    {"drift", "\"average\""},
    {"virtual_resolution", "100"},
    {"num_bins", "640"},
    {"downsamplings", "3"},
    {"cell_size", "0.05"},
    {"reduced_grid_size", "81"},
    {"point_start_token_id", "1"},
    {"point_end_token_id", "2"},
    {"point_token_id", "3"},
    {"decode_mask", "\"spliced\""},
    {"grid_overflow", "\"clip\""},
    {"point_backbone", "\"sonata\""},
    {"point_config", "{\"mlp_ratio\": 3}"},
    {"projector", "\"mlp\""},
    {"sonata_coord_norm", "\"scene\""},
};
enum { N_KNOWN = sizeof known / sizeof *known };

/* ---- checkpoints ---- */

static const char qwen2[] =
    "{\"architectures\": [\"Qwen2ForCausalLM\"], \"attention_dropout\": 0.0, \"bos_token_id\": 151643, \"eos_token_id\": 151645,"
    " \"hidden_act\": \"silu\", \"hidden_size\": 896, \"initializer_range\": 0.02, \"intermediate_size\": 4864,"
    " \"max_position_embeddings\": 32768, \"max_window_layers\": 21, \"model_type\": \"qwen2\", \"num_attention_heads\": 14,"
    " \"num_hidden_layers\": 24, \"num_key_value_heads\": 2, \"rms_norm_eps\": 1e-06, \"rope_scaling\": null, \"rope_theta\": 1000000.0,"
    " \"sliding_window\": 32768, \"tie_word_embeddings\": true, \"torch_dtype\": \"bfloat16\", \"transformers_version\": \"4.43.1\","
    " \"use_cache\": true, \"use_mrope\": false, \"use_sliding_window\": false, \"vocab_size\": 151936}\n";

static void a_qwen2_checkpoint_loads_as_it_is(void **state) {
  (void)state;
  const mr3d_config c = parsed(qwen2);
  assert_int_equal(c.hidden_size, 896);
  assert_int_equal(c.intermediate_size, 4864);
  assert_int_equal(c.num_hidden_layers, 24);
  assert_int_equal(c.num_attention_heads, 14);
  assert_int_equal(c.num_key_value_heads, 2);
  assert_int_equal(c.head_dim, 64); /* derived */
  assert_int_equal(c.vocab_size, 151936);
  assert_true(c.rope_theta == 1e6 && c.rms_norm_eps == 1e-6);
  assert_int_equal(c.tie_word_embeddings, 1);
}

static void a_spatiallm_checkpoint_loads_as_it_is(void **state) {
  (void)state;
  const mr3d_config c = parsed(
      "{\"_name_or_path\": \"x\", \"architectures\": [\"SpatialLMQwenForCausalLM\"], \"attention_dropout\": 0.0, \"bos_token_id\": 151643,"
      " \"eos_token_id\": 151645, \"hidden_act\": \"silu\", \"hidden_size\": 896, \"initializer_range\": 0.02, \"intermediate_size\": 4864,"
      " \"max_position_embeddings\": 32768, \"max_window_layers\": 24, \"model_type\": \"spatiallm_qwen\", \"num_attention_heads\": 14,"
      " \"num_hidden_layers\": 24, \"num_key_value_heads\": 2, \"point_backbone\": \"sonata\", \"point_config\": {\"conv_layers\": [16, 32,"
      " 64, 128, 256], \"embed_channels\": 512, \"enc_depths\": [3, 3, 3, 12, 3], \"in_channels\": 6, \"input_channels\": 6, \"num_bins\": 1280,"
      " \"numBins\": 3, \"enc_mode\": true, \"order\": [\"z\", \"z-trans\"]}, \"point_end_token_id\": 151653, \"point_start_token_id\": 151652,"
      " \"point_token_id\": 151654, \"projector\": \"mlp\", \"pad_token_id\": null, \"rms_norm_eps\": 1e-06, \"rope_scaling\": null, \"rope_theta\":"
      " 1000000.0, \"sliding_window\": null, \"tie_word_embeddings\": true, \"torch_dtype\": \"float32\", \"transformers_version\": \"4.46.1\","
      " \"use_cache\": true, \"use_sliding_window\": false, \"vocab_size\": 151936, \"rope_mixed_3d\": true, \"rope_theta_3d\": 10000.0,"
      " \"spatial_temporal_separate_strategy\": \"half_spatial_half_temp\", \"mixedRoPE_3d_learned_axial_mixing_weight\": true}");
  assert_int_equal(c.head_dim, 64);
  assert_true(c.rope_theta_3d == 10000);
}

static void other_hugging_face_keys_are_ignored(void **state) {
  (void)state; /* what transformers 4.46 writes for Qwen2 with use_diff=False, and newer names */
  static const char *const keys[] = {
      "return_dict", "output_hidden_states", "output_attentions", "torchscript", "use_bfloat16", "tf_legacy_loss", "pruned_heads",
      "chunk_size_feed_forward", "is_encoder_decoder", "is_decoder", "cross_attention_hidden_size", "add_cross_attention",
      "tie_encoder_decoder", "max_length", "min_length", "do_sample", "early_stopping", "num_beams", "num_beam_groups",
      "diversity_penalty", "temperature", "top_k", "top_p", "typical_p", "repetition_penalty", "length_penalty", "no_repeat_ngram_size",
      "bad_words_ids", "num_return_sequences", "output_scores", "return_dict_in_generate", "forced_bos_token_id", "forced_eos_token_id",
      "remove_invalid_values", "exponential_decay_length_penalty", "suppress_tokens", "begin_suppress_tokens", "finetuning_task",
      "id2label", "label2id", "tokenizer_class", "prefix", "pad_token_id", "sep_token_id", "decoder_start_token_id",
      "task_specific_params", "problem_type", "_attn_implementation", "_attn_implementation_autoset", "dtype", "layer_types",
      "rope_parameters", "attention_bias", "mlp_bias", "quantization_config", "auto_map", "vision_config", "image_token_id"};
  char json[4096] = "{";
  for (size_t i = 0; i < sizeof keys / sizeof *keys; i++)
    sprintf(json + strlen(json), "%s\"%s\": [{}]", i > 0 ? "," : "", keys[i]);
  parsed(strcat(json, "}"));
}

/* ---- defaults and values ---- */

static void an_empty_object_gives_the_defaults(void **state) {
  (void)state;
  const mr3d_config c = parsed(" {} ");
  assert_int_equal(c.hidden_size + c.intermediate_size + c.num_hidden_layers + c.num_attention_heads + c.num_key_value_heads + c.head_dim + c.vocab_size, 0);
  assert_true(c.rope_theta == 0 && c.rms_norm_eps == 0 && c.tie_word_embeddings == -1);
  assert_true(c.rope_theta_3d == 100 && c.strategy == MR3D_HALF_SPATIAL_HALF_TEMP && c.spatial_ratio == -1);
  assert_true(c.layout == MR3D_CONTIGUOUS && c.temporal_rope == MR3D_GATHERED);
  assert_true(c.rope_mixed_3d && c.learned_per_axis && c.learned_axial_weights && c.rope_3d_kind == MR3D_MIXED);
  assert_true(c.coord_norm == MR3D_NORM_GRID && c.drift == MR3D_DRIFT_NONE && c.virtual_resolution == 0);
  assert_true(c.num_bins == 1280 && c.downsamplings == 4 && c.reduced_grid_size == 80 && c.cell_size == 0.025);
  assert_true(c.point_start_token_id == 151652 && c.point_end_token_id == 151653 && c.point_token_id == 151654);
  assert_true(c.decode_mask == MR3D_PAD_END && c.grid_overflow == MR3D_OVERFLOW_ERROR);
  assert_true(c.point_backbone == MR3D_NO_BACKBONE && c.projector == MR3D_PROJECTOR_LINEAR && c.sonata_coord_norm == MR3D_SONATA_NORM_GRID);
}

static void every_key_is_read_into_its_field(void **state) {
  (void)state;
  char json[4096] = "{";
  for (int i = 0; i < N_KNOWN; i++)
    sprintf(json + strlen(json), "%s\"%s\": %s", i > 0 ? ", " : "", known[i].key, known[i].value);
  const mr3d_config c = parsed(strcat(json, "}"));
  assert_true(c.hidden_size == 896 && c.intermediate_size == 4864 && c.num_hidden_layers == 24 && c.num_attention_heads == 14);
  assert_true(c.num_key_value_heads == 2 && c.head_dim == 64 && c.vocab_size == 151936 && c.rope_theta == 1e6 && c.rms_norm_eps == 1e-6);
  assert_true(c.tie_word_embeddings == 1 && c.rope_theta_3d == 10000 && c.strategy == MR3D_FULL_SPATIAL && c.spatial_ratio == 0.25);
  assert_true(c.layout == MR3D_INTERLEAVED && c.temporal_rope == MR3D_NATIVE && c.rope_3d_kind == MR3D_AXIAL);
  assert_true(!c.rope_mixed_3d && !c.learned_per_axis && !c.learned_axial_weights);
  assert_true(c.coord_norm == MR3D_NORM_NONE && c.drift == MR3D_DRIFT_AVERAGE && c.virtual_resolution == 100);
  assert_true(c.num_bins == 640 && c.downsamplings == 3 && c.cell_size == 0.05 && c.reduced_grid_size == 81);
  assert_true(c.point_start_token_id == 1 && c.point_end_token_id == 2 && c.point_token_id == 3);
  assert_true(c.decode_mask == MR3D_SPLICED && c.grid_overflow == MR3D_OVERFLOW_CLIP);
  assert_true(c.point_backbone == MR3D_SONATA && c.projector == MR3D_PROJECTOR_MLP && c.sonata_coord_norm == MR3D_SONATA_NORM_SCENE && c.point_config.mlp_ratio == 3);
}

static void every_choice_has_all_its_values(void **state) {
  (void)state;
  static const char *const strategies[] = {"half_spatial_half_temp", "full_spatial", "full_temporal", "custom_ratio"};
  static const char *const norms[] = {"grid", "none", "unit_range", "virtual_resolution"};
  static const char *const drifts[] = {"none", "average", "pointwise"};
  char json[200];
  for (unsigned i = 0; i < 4; i++) {
    sprintf(json, "{\"spatial_temporal_separate_strategy\": \"%s\", \"spatial_ratio\": 0.5}", strategies[i]);
    assert_int_equal(parsed(json).strategy, (mr3d_strategy)i);
    sprintf(json, "{\"coord_norm\": \"%s\", \"virtual_resolution\": 7.5}", norms[i]);
    assert_int_equal(parsed(json).coord_norm, (mr3d_coord_norm)i);
  }
  for (unsigned i = 0; i < 3; i++) {
    sprintf(json, "{\"drift\": \"%s\"}", drifts[i]);
    assert_int_equal(parsed(json).drift, (mr3d_drift)i);
  }
}

static void null_counts_as_absent_where_a_key_has_no_fixed_default(void **state) {
  (void)state;
  const mr3d_config c = parsed("{\"hidden_size\": null, \"intermediate_size\": null, \"num_hidden_layers\": null, \"num_attention_heads\": null,"
                               " \"num_key_value_heads\": null, \"head_dim\": null, \"vocab_size\": null, \"rope_theta\": null,"
                               " \"rms_norm_eps\": null, \"tie_word_embeddings\": null, \"spatial_ratio\": null, \"virtual_resolution\": null,"
                               " \"reduced_grid_size\": null, \"point_backbone\": null, \"point_config\": null}");
  assert_true(c.hidden_size == 0 && c.rope_theta == 0 && c.tie_word_embeddings == -1 && c.spatial_ratio == -1 && c.reduced_grid_size == 80);
  assert_int_equal(parsed("{\"head_dim\": null, \"hidden_size\": 896, \"num_attention_heads\": 14}").head_dim, 64);
}

static void null_is_refused_where_a_key_has_a_default(void **state) {
  (void)state;
  refuse("{\"coord_norm\": null}", "coord_norm is null; valid values are \"grid\"");
  refuse("{\"rope_mixed_3d\": null}", "rope_mixed_3d is null; valid values are true, false");
  refuse("{\"num_bins\": null}", "num_bins is null; expected a whole number");
  refuse("{\"rope_theta_3d\": null}", "rope_theta_3d is null");
}

static void a_whole_number_may_be_written_as_4_0(void **state) {
  (void)state;
  assert_int_equal(parsed("{\"downsamplings\": 4.0, \"num_bins\": 1.28e3}").reduced_grid_size, 80);
  refuse("{\"downsamplings\": 4.5}", "downsamplings is 4.5; expected a whole number");
}

static void a_boolean_in_quotes_is_refused_and_the_valid_values_listed(void **state) {
  (void)state;
  refuse("{\"rope_mixed_3d\": \"Flase\"}", "rope_mixed_3d is \"Flase\"; valid values are true, false");
  refuse("{\"rope_mixed_3d\": \"false\"}", "valid values are true, false");
  refuse("{\"rope_mixed_3d\": 0}", "rope_mixed_3d is 0; valid values are true, false");
  refuse("{\"mixedRoPE_3d_learned_per_axis\": \"true\"}", "valid values are true, false");
  refuse("{\"tie_word_embeddings\": 1}", "valid values are true, false");
}

static void a_value_outside_its_list_is_refused_and_the_list_shown(void **state) {
  (void)state;
  refuse("{\"coord_norm\": \"gird\"}", "coord_norm is \"gird\"; valid values are \"grid\", \"none\", \"unit_range\", \"virtual_resolution\"");
  refuse("{\"coord_norm\": \"Grid\"}", "valid values are");
  refuse("{\"coord_norm\": 1}", "coord_norm is 1; valid values are");
  refuse("{\"drift\": false}", "valid values are \"none\", \"average\", \"pointwise\"");
  refuse("{\"mixed_rope_layout\": [\"contiguous\"]}", "valid values are \"contiguous\", \"interleaved\"");
  refuse("{\"temporal_rope\": \"\"}", "valid values are \"gathered\", \"native\"");
  refuse("{\"decode_mask\": \"padend\"}", "valid values are \"pad_end\", \"spliced\"");
  refuse("{\"grid_overflow\": \"wrap\"}", "valid values are \"error\", \"clip\"");
  refuse("{\"point_backbone\": \"ptv3\"}", "point_backbone is \"ptv3\"; valid values are \"scenescript\", \"sonata\"");
  refuse("{\"projector\": \"qformer\"}", "valid values are \"linear\", \"mlp\"");
  refuse("{\"sonata_coord_norm\": \"unit\"}", "valid values are \"grid\", \"scene\"");
  refuse("{\"rope_3d_kind\": \"Mixed\"}", "valid values are \"mixed\", \"axial\"");
  refuse("{\"spatial_temporal_separate_strategy\": \"half\"}", "valid values are \"half_spatial_half_temp\", \"full_spatial\", \"full_temporal\", \"custom_ratio\"");
}

static void numbers_out_of_range_or_of_another_type_are_refused(void **state) {
  (void)state;
  refuse("{\"hidden_size\": 0}", "hidden_size is 0; expected a whole number of 1");
  refuse("{\"hidden_size\": -896}", "expected a whole number");
  refuse("{\"hidden_size\": \"896\"}", "expected a whole number");
  refuse("{\"hidden_size\": true}", "expected a whole number");
  refuse("{\"hidden_size\": 9007199254740992}", "expected a whole number");
  refuse("{\"hidden_size\": 1e30}", "expected a whole number");
  refuse("{\"point_token_id\": -1}", "expected a whole number of 0");
  refuse("{\"downsamplings\": -1}", "expected a whole number of 0");
  refuse("{\"rope_theta\": 0}", "expected a finite number above 0");
  refuse("{\"rope_theta\": 1e999}", "expected a finite number above 0");
  refuse("{\"rope_theta\": [1e6]}", "expected a finite number above 0");
  refuse("{\"rms_norm_eps\": -1e-6}", "expected a finite number above 0");
  refuse("{\"rope_theta_3d\": 1}", "rope_theta_3d is 1; expected a finite number above 1");
  refuse("{\"spatial_ratio\": 1.01}", "expected a number of 0 .. 1");
  refuse("{\"spatial_ratio\": -0.25}", "expected a number of 0 .. 1");
  refuse("{\"virtual_resolution\": 0}", "expected a finite number above 0");
  refuse("{\"cell_size\": 0}", "expected a finite number above 0");
  refuse("{\"reduced_grid_size\": 0}", "expected a whole number of 1");
}

static void what_this_model_does_not_compute_is_refused(void **state) {
  (void)state;
  refuse("{\"hidden_act\": \"gelu\"}", "hidden_act is \"gelu\"; the only valid value is \"silu\"");
  refuse("{\"hidden_act\": \"SiLU\"}", "the only valid value is \"silu\"");
  refuse("{\"rope_scaling\": {\"type\": \"yarn\", \"factor\": 4.0}}", "rope_scaling is {\"type\":\"yarn\"");
  refuse("{\"rope_scaling\": false}", "the only valid value is null");
  refuse("{\"use_sliding_window\": true}", "the only valid value is false");
  refuse("{\"use_sliding_window\": 0}", "the only valid value is false");
}

static void text_that_is_no_strict_json_object_is_refused(void **state) {
  (void)state;
  refuse("", "expected an object");
  refuse("null", "expected an object");
  refuse("[]", "expected an object");
  refuse("{\"drift\": \"none\"", "expected ',' or '}'");
  refuse("{\"drift\": \"none\"} x", "something follows");
  refuse("{\"drift\": \"none\", \"drift\": \"none\"}", "\"drift\" appears twice");
  refuse("{\"x\": {\"y\": 1, \"y\": 1}}", "\"y\" appears twice");
  refuse("{\"rope_theta\": 01}", "a number does not begin with 0");
  refuse("{\"rope_theta\": +1}", "expected a value");
  refuse("{\"rope_theta\": 1.}", "malformed number");
  refuse("{\"rope_theta\": .5}", "expected a value");
  refuse("{\"rope_theta\": 1e}", "malformed number");
  refuse("{\"rope_theta\": NaN}", "expected a value");
}

/* ---- misspelt keys ---- */

/* The key, changed, is refused and the right one named - unless the change made another known key of it. */
static void assert_misspelt(const char *changed, const char *meant) {
  char json[128], words[128];
  for (int i = 0; i < N_KNOWN; i++)
    if (strcmp(changed, known[i].key) == 0)
      return;
  snprintf(json, sizeof json, "{\"%s\": null}", changed);
  snprintf(words, sizeof words, "unknown key \"%s\"; did you mean \"%s\"?", changed, meant);
  refuse(json, words);
}

static void keys_with_the_same_letters_are_refused_naming_the_key_meant(void **state) {
  (void)state;
  for (int k = 0; k < N_KNOWN; k++) {
    const char *const key = known[k].key;
    char upper[64] = "", dashed[64] = "", joined[64] = "", spread[128] = "_";
    for (size_t i = 0, j = 0; key[i] != '\0'; i++) {
      upper[i] = (char)toupper((unsigned char)key[i]);
      dashed[i] = key[i] == '_' ? '-' : key[i];
      if (key[i] != '_')
        joined[j++] = key[i];
      sprintf(spread + strlen(spread), "%c%s", key[i], i % 4 == 3 ? "__" : "");
    }
    assert_misspelt(upper, key);
    assert_misspelt(dashed, key);
    assert_misspelt(joined, key);
    assert_misspelt(spread, key);
  }
  assert_misspelt("ropeTheta3D", "rope_theta_3d");
  assert_misspelt("MixedRope-3D-LearnedPerAxis", "mixedRoPE_3d_learned_per_axis");
}

static void keys_one_or_two_edits_away_are_refused_naming_the_key_meant(void **state) {
  (void)state;
  for (int k = 0; k < N_KNOWN; k++) {
    const char *const key = known[k].key;
    const size_t length = strlen(key);
    for (size_t i = 0; i < length; i++) {
      char changed[64];
      sprintf(changed, "%.*s%s", (int)i, key, key + i + 1); /* one letter missing */
      assert_misspelt(changed, key);
      sprintf(changed, "%.*sqz%s", (int)i, key, key + i); /* two more */
      assert_misspelt(changed, key);
      sprintf(changed, "%.*sq%s", (int)i, key, key + i + 1); /* one wrong */
      assert_misspelt(changed, key);
      if (i + 1 < length && key[i] != key[i + 1]) { /* neighbours exchanged */
        sprintf(changed, "%.*s%c%c%s", (int)i, key, key[i + 1], key[i], key + i + 2);
        assert_misspelt(changed, key);
      }
    }
  }
}

static void keys_three_edits_away_are_ignored(void **state) {
  (void)state;
  for (int k = 0; k < N_KNOWN; k++) {
    char json[128];
    snprintf(json, sizeof json, "{\"%sqqq\": 1, \"qqq%s\": 1}", known[k].key, known[k].key);
    parsed(json);
  }
  parsed("{\"\": 1, \"_\": 2, \"x\": 3}");
}

/* ---- what belongs together ---- */

static void heads_that_do_not_divide_are_refused_with_the_numbers(void **state) {
  (void)state;
  refuse("{\"num_attention_heads\": 14, \"num_key_value_heads\": 4}", "num_attention_heads 14 is not a multiple of num_key_value_heads 4");
  refuse("{\"num_attention_heads\": 2, \"num_key_value_heads\": 14}", "num_attention_heads 2 is not a multiple of num_key_value_heads 14");
}

static void bins_that_do_not_divide_are_refused_with_the_numbers(void **state) {
  (void)state;
  refuse("{\"num_bins\": 1000}", "num_bins 1000 does not divide by 2^downsamplings = 2^4");
  refuse("{\"downsamplings\": 9}", "num_bins 1280 does not divide by 2^downsamplings = 2^9");
  refuse("{\"downsamplings\": 9007199254740991}", "num_bins 1280 does not divide");
  assert_int_equal(parsed("{\"num_bins\": 640, \"downsamplings\": 7}").reduced_grid_size, 5);
  assert_int_equal(parsed("{\"num_bins\": 7, \"downsamplings\": 0}").reduced_grid_size, 7);
}

static void options_without_their_number_are_refused(void **state) {
  (void)state;
  refuse("{\"spatial_temporal_separate_strategy\": \"custom_ratio\"}", "needs spatial_ratio");
  refuse("{\"spatial_temporal_separate_strategy\": \"custom_ratio\", \"spatial_ratio\": null}", "needs spatial_ratio");
  refuse("{\"coord_norm\": \"virtual_resolution\"}", "needs the number virtual_resolution");
}

static void a_needed_key_that_is_missing_is_named(void **state) {
  (void)state;
  mr3d_error error;
  const mr3d_config none = parsed("{}"), full = parsed(qwen2);
  static const char *const needed[] = {"hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads", "num_key_value_heads",
                                       "head_dim", "vocab_size", "rope_theta", "rms_norm_eps"};
  for (size_t i = 0; i < sizeof needed / sizeof *needed; i++) {
    assert_refused(mr3d_config_need(&none, needed[i], &error), MR3D_INVALID, error, needed[i]);
    assert_done(mr3d_config_need(&full, needed[i], &error), error);
  }
  assert_refused(mr3d_config_need(&none, "spatial_ratio", &error), MR3D_INVALID, error, "spatial_ratio is needed");
  assert_done(mr3d_config_need(&none, "drift", &error), error);
  const mr3d_config odd = parsed("{\"hidden_size\": 896, \"num_attention_heads\": 13}");
  assert_refused(mr3d_config_need(&odd, "head_dim", &error), MR3D_INVALID, error, "hidden_size 896 is not a multiple of num_attention_heads 13");
}

static void a_given_head_dim_is_not_derived(void **state) {
  (void)state;
  assert_int_equal(parsed("{\"hidden_size\": 896, \"num_attention_heads\": 14, \"head_dim\": 128}").head_dim, 128);
  assert_int_equal(parsed("{\"hidden_size\": 896, \"num_attention_heads\": 13, \"head_dim\": 32}").head_dim, 32);
}

/* ---- sessions ---- */

static void a_session_agrees_with_what_it_was_opened_with(void **state) {
  (void)state;
  mr3d_error error;
  const char *const session = "{\"rope_theta\": 1e6, \"hidden_size\": 896, \"num_attention_heads\": 14, \"num_bins\": 640}";
  assert_done(mr3d_config_agrees("{}", session, &error), error);
  assert_done(mr3d_config_agrees(session, session, &error), error);
  assert_done(mr3d_config_agrees("{\"rope_theta\": 1000000.0}", session, &error), error);
  assert_done(mr3d_config_agrees("{\"drift\": \"none\", \"rope_theta_3d\": 100}", session, &error), error); /* the session's default */
  assert_done(mr3d_config_agrees("{\"head_dim\": 64, \"reduced_grid_size\": 40}", session, &error), error);   /* derived there */
  assert_done(mr3d_config_agrees("{\"head_dim\": null, \"model_type\": 1}", session, &error), error);
  assert_done(mr3d_config_agrees("{\"point_config\": null, \"point_backbone\": null}", session, &error), error);
  assert_done(mr3d_config_agrees("{\"point_config\": {\"mlp_ratio\": 4.0}}", session, &error), error);
}

static void a_session_refuses_another_value_naming_both(void **state) {
  (void)state;
  mr3d_error error;
  const char *const session = "{\"rope_theta\": 1e6, \"drift\": \"average\", \"tie_word_embeddings\": false}";
  assert_refused(mr3d_config_agrees("{\"rope_theta\": 10000}", session, &error), MR3D_INVALID, error, "rope_theta is 10000, but the session was opened with 1000000");
  assert_refused(mr3d_config_agrees("{\"drift\": \"none\"}", session, &error), MR3D_INVALID, error, "drift is none, but the session was opened with average");
  assert_refused(mr3d_config_agrees("{\"tie_word_embeddings\": true}", session, &error), MR3D_INVALID, error, "true, but the session was opened with false");
  assert_refused(mr3d_config_agrees("{\"hidden_size\": 8}", session, &error), MR3D_INVALID, error, "opened with not given");
  assert_refused(mr3d_config_agrees("{\"point_backbone\": \"sonata\"}", session, &error), MR3D_INVALID, error, "point_backbone is sonata, but the session was opened with not given");
  assert_refused(mr3d_config_agrees("{\"point_config\": {\"enc_depths\": [1]}}", session, &error), MR3D_INVALID, error, "point_config is not the one");
  assert_refused(mr3d_config_agrees("{\"rope_thet\": 1e6}", session, &error), MR3D_INVALID, error, "did you mean \"rope_theta\"");
  assert_refused(mr3d_config_agrees("{\"rope_theta\": \"1e6\"}", session, &error), MR3D_INVALID, error, "expected a finite number");
  assert_refused(mr3d_config_agrees("x", session, &error), MR3D_INVALID, error, "expected an object");
}

/* ---- the head's split ---- */

static void assert_split(const char *json, int64_t D, const char *places) {
  mr3d_error error;
  mr3d_split split;
  const mr3d_config config = parsed(json);
  assert_done(mr3d_split_head(&config, D, &split, &error), error);
  char got[200] = "";
  int64_t s = 0, t = 0;
  for (int64_t d = 0; d < D; d++) { /* every dimension in exactly one list, ascending */
    const bool spatial = s < split.Ds && split.spatial[s] == d;
    assert_true(spatial != (t < split.Dt && split.temporal[t] == d));
    got[d] = spatial ? 's' : 't';
    if (spatial)
      s++;
    else
      t++;
  }
  assert_int_equal(s, split.Ds);
  assert_int_equal(t, split.Dt);
  assert_int_equal(split.D, D);
  assert_string_equal(got, places);
  mr3d_split_free(&split);
  assert_true(split.spatial == NULL && split.temporal == NULL);
}

#define CUSTOM(ratio) "\"spatial_temporal_separate_strategy\": \"custom_ratio\", \"spatial_ratio\": " ratio

static void each_strategy_and_layout_puts_dimensions_where_the_spec_says(void **state) {
  (void)state;
  assert_split("{}", 8, "sssstttt");
  assert_split("{\"mixed_rope_layout\": \"interleaved\"}", 8, "tstststs");
  assert_split("{\"spatial_temporal_separate_strategy\": \"full_spatial\"}", 4, "ssss");
  assert_split("{\"spatial_temporal_separate_strategy\": \"full_temporal\", \"mixed_rope_layout\": \"interleaved\"}", 4, "tttt");
  assert_split("{" CUSTOM("0.25") "}", 8, "sstttttt");
  assert_split("{" CUSTOM("0.25") ", \"mixed_rope_layout\": \"interleaved\"}", 8, "tttsttts");
  assert_split("{" CUSTOM("0.75") ", \"mixed_rope_layout\": \"interleaved\"}", 8, "tssstsss");
  assert_split("{" CUSTOM("0") "}", 2, "tt");
  assert_split("{" CUSTOM("1.0") "}", 2, "ss");
  assert_split("{" CUSTOM("0.58") "}", 100, "ssssssssssssssssssssssssssssssssssssssssssssssssssssssssss"
                                            "tttttttttttttttttttttttttttttttttttttttttt"); /* 0.58 * 100 < 58 in binary64 */
}

static void a_head_dim_that_cannot_be_split_is_refused_when_parsed(void **state) {
  (void)state;
  refuse("{\"head_dim\": 34}", "head_dim 34 splits into 17 spatial");
  refuse("{\"hidden_size\": 66, \"num_attention_heads\": 2}", "head_dim 33 times 0.5 = 16.5, is not a whole number; that share is spatial_temporal_separate_strategy");
  refuse("{\"head_dim\": 64, " CUSTOM("0.3") "}", "is not a whole number");
  refuse("{\"head_dim\": 8, \"rope_3d_kind\": \"axial\"}", "at least 6 are needed");
  parsed("{\"head_dim\": 12, \"rope_3d_kind\": \"axial\"}");
}

static void splits_that_do_not_fit_are_refused_with_the_numbers(void **state) {
  (void)state;
  mr3d_error error;
  mr3d_split split;
  mr3d_config config = parsed("{}");
  assert_refused(mr3d_split_head(&config, 33, &split, &error), MR3D_INVALID, error, "head_dim 33 times 0.5 = 16.5, is not a whole number");
  assert_refused(mr3d_split_head(&config, 34, &split, &error), MR3D_INVALID, error, "head_dim 34 splits into 17 spatial and 17 temporal");
  assert_refused(mr3d_split_head(&config, 0, &split, &error), MR3D_INVALID, error, "head_dim is 0");
  assert_refused(mr3d_split_head(&config, INT64_C(1) << 40, &split, &error), MR3D_INVALID, error, "head_dim is 1099511627776");
  config = parsed("{" CUSTOM("0.3") "}");
  assert_refused(mr3d_split_head(&config, 64, &split, &error), MR3D_INVALID, error, "is not a whole number");
  config = parsed("{" CUSTOM("0.53125") "}");
  assert_done(mr3d_split_head(&config, 64, &split, &error), error); /* 34 and 30, contiguous */
  mr3d_split_free(&split);
  config = parsed("{" CUSTOM("0.53125") ", \"mixed_rope_layout\": \"interleaved\"}");
  assert_refused(mr3d_split_head(&config, 64, &split, &error), MR3D_INVALID, error, "34 spatial and 30 temporal dimensions make interleaved units of 32; at most 8");
  config = parsed("{" CUSTOM("0.125") ", \"mixed_rope_layout\": \"interleaved\"}");
  assert_done(mr3d_split_head(&config, 64, &split, &error), error); /* a unit of exactly 8 */
  mr3d_split_free(&split);
  config = parsed("{\"spatial_temporal_separate_strategy\": \"full_spatial\"}");
  assert_refused(mr3d_split_head(&config, 33, &split, &error), MR3D_INVALID, error, "33 spatial and 0 temporal");
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(a_qwen2_checkpoint_loads_as_it_is),
      cmocka_unit_test(a_spatiallm_checkpoint_loads_as_it_is),
      cmocka_unit_test(other_hugging_face_keys_are_ignored),
      cmocka_unit_test(an_empty_object_gives_the_defaults),
      cmocka_unit_test(every_key_is_read_into_its_field),
      cmocka_unit_test(every_choice_has_all_its_values),
      cmocka_unit_test(null_counts_as_absent_where_a_key_has_no_fixed_default),
      cmocka_unit_test(null_is_refused_where_a_key_has_a_default),
      cmocka_unit_test(a_whole_number_may_be_written_as_4_0),
      cmocka_unit_test(a_boolean_in_quotes_is_refused_and_the_valid_values_listed),
      cmocka_unit_test(a_value_outside_its_list_is_refused_and_the_list_shown),
      cmocka_unit_test(numbers_out_of_range_or_of_another_type_are_refused),
      cmocka_unit_test(what_this_model_does_not_compute_is_refused),
      cmocka_unit_test(text_that_is_no_strict_json_object_is_refused),
      cmocka_unit_test(keys_with_the_same_letters_are_refused_naming_the_key_meant),
      cmocka_unit_test(keys_one_or_two_edits_away_are_refused_naming_the_key_meant),
      cmocka_unit_test(keys_three_edits_away_are_ignored),
      cmocka_unit_test(heads_that_do_not_divide_are_refused_with_the_numbers),
      cmocka_unit_test(bins_that_do_not_divide_are_refused_with_the_numbers),
      cmocka_unit_test(options_without_their_number_are_refused),
      cmocka_unit_test(a_needed_key_that_is_missing_is_named),
      cmocka_unit_test(a_given_head_dim_is_not_derived),
      cmocka_unit_test(a_session_agrees_with_what_it_was_opened_with),
      cmocka_unit_test(a_session_refuses_another_value_naming_both),
      cmocka_unit_test(each_strategy_and_layout_puts_dimensions_where_the_spec_says),
      cmocka_unit_test(a_head_dim_that_cannot_be_split_is_refused_when_parsed),
      cmocka_unit_test(splits_that_do_not_fit_are_refused_with_the_numbers),
  };
  return cmocka_run_group_tests_name("configuration", tests, NULL, NULL);
}
