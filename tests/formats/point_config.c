/** `point_config`: the public encoders' sizes are the defaults, every size is free, and what cannot be is refused with the numbers (encoders.md). */
#include "support.h"

#include "mr3d/config.h"

static mr3d_config parsed(const char *backbone, const char *point_config) {
  char json[1000];
  mr3d_config config;
  mr3d_error error;
  snprintf(json, sizeof json, "{\"point_backbone\": \"%s\", \"point_config\": {%s}}", backbone, point_config);
  assert_done(mr3d_config_parse(json, &config, &error), error);
  return config;
}

static void refuse(const char *backbone, const char *point_config, const char *words) {
  char json[1000];
  mr3d_config config;
  mr3d_error error;
  snprintf(json, sizeof json, "{\"point_backbone\": \"%s\", \"point_config\": {%s}}", backbone, point_config);
  assert_refused(mr3d_config_parse(json, &config, &error), MR3D_INVALID, error, words);
}

static void assert_stages(mr3d_stages stages, const char *expected) {
  char text[200] = "";
  for (int64_t s = 0; s < stages.count; s++) snprintf(text + strlen(text), sizeof text - strlen(text), "%s%lld", s ? "," : "", (long long)stages.at[s]);
  assert_string_equal(text, expected);
}

static void without_it_the_sizes_are_the_public_encoders(void **state) {
  (void)state;
  const mr3d_point_config c = parsed("sonata", "").point_config;
  assert_true(c.input_channels == 6 && c.embed_channels == 512 && c.in_channels == 6 && c.mlp_ratio == 4);
  assert_stages(c.conv_layers, "16,32,64,128,256");
  assert_stages(c.order, "0,1");
  assert_stages(c.stride, "2,2,2,2");
  assert_stages(c.enc_depths, "3,3,3,12,3");
  assert_stages(c.enc_channels, "48,96,192,384,512");
  assert_stages(c.enc_num_head, "3,6,12,24,32");
  assert_stages(c.enc_patch_size, "1024,1024,1024,1024,1024");
  parsed("scenescript", "");
}

static void every_size_is_read_and_the_rest_follows_the_number_of_stages(void **state) {
  (void)state;
  const mr3d_point_config s = parsed("scenescript", "\"input_channels\": 3, \"embed_channels\": 7, \"conv_layers\": [4, 24]").point_config;
  assert_true(s.input_channels == 3 && s.embed_channels == 7);
  assert_stages(s.conv_layers, "4,24");
  const mr3d_point_config c = parsed("sonata", "\"in_channels\": 9, \"order\": [\"z-trans\"], \"enc_depths\": [0, 2], \"enc_channels\": [6, 10], \"enc_num_head\": [3, 5],"
                                               " \"mlp_ratio\": 1.5").point_config;
  assert_true(c.in_channels == 9 && c.mlp_ratio == 1.5);
  assert_stages(c.order, "1");
  assert_stages(c.stride, "2");
  assert_stages(c.enc_patch_size, "1024,1024");
  const mr3d_point_config d = parsed("sonata", "\"enc_depths\": [1, 1, 1], \"enc_channels\": [6, 6, 6], \"enc_num_head\": [1, 1, 1], \"stride\": [1, 4], \"enc_patch_size\": [5, 6, 7]")
                                  .point_config;
  assert_stages(d.stride, "1,4");
  assert_stages(d.enc_patch_size, "5,6,7");
  assert_stages(parsed("sonata", "\"enc_depths\": [1], \"enc_channels\": [6], \"enc_num_head\": [1], \"stride\": []").point_config.stride, "");
}

static void what_is_not_computed_is_refused_not_ignored(void **state) {
  (void)state;
  refuse("sonata", "\"shuffle_orders\": true", "point_config shuffle_orders is true; the only valid value is false: a random permutation");
  refuse("sonata", "\"enable_rpe\": true", "enable_rpe is true");
  refuse("sonata", "\"pre_norm\": false", "pre_norm is false; the only valid value is true");
  refuse("sonata", "\"qkv_bias\": false", "qkv_bias is false");
  refuse("sonata", "\"enable_fourier_encode\": false", "enable_fourier_encode is false");
  refuse("sonata", "\"qk_scale\": 0.5", "qk_scale is 0.5; the only valid value is null");
  refuse("sonata", "\"shuffle_orders\": 0", "the only valid value is false");
  refuse("sonata", "\"order\": [\"z\", \"hilbert-trans\"]", "order is [\"z\",\"hilbert-trans\"]; expected a list of 1 .. 16 \"z\" and \"z-trans\"");
  parsed("sonata", "\"shuffle_orders\": false, \"enable_rpe\": false, \"pre_norm\": true, \"qkv_bias\": true, \"qk_scale\": null, \"enable_fourier_encode\": true");
}

static void misspelt_keys_are_refused_and_others_ignored(void **state) {
  (void)state;
  refuse("sonata", "\"enc_depth\": [1]", "unknown key \"enc_depth\" in point_config; did you mean \"enc_depths\"?");
  refuse("sonata", "\"shuffleOrders\": false", "did you mean \"shuffle_orders\"?");
  refuse("scenescript", "\"conv_layer\": [1]", "did you mean \"conv_layers\"?");
  parsed("sonata", "\"dec_depths\": [2, 2], \"dec_channels\": [1], \"dec_num_head\": [1], \"dec_patch_size\": [1], \"mask_token\": true, \"enc_mode\": true,"
                   " \"num_bins\": 1280, \"drop_path\": 0.3, \"enable_flash\": true");
}

static void values_of_another_type_or_range_are_refused(void **state) {
  (void)state;
  refuse("sonata", "\"enc_depths\": 3", "enc_depths is 3; expected a list of 1 .. 16 whole numbers of 0 .. 1024");
  refuse("sonata", "\"enc_depths\": []", "expected a list of 1 .. 16");
  refuse("sonata", "\"enc_depths\": [1025]", "whole numbers of 0 .. 1024");
  refuse("sonata", "\"enc_channels\": [0]", "whole numbers of 1 .. 2^20");
  refuse("sonata", "\"enc_channels\": [1048577]", "whole numbers of 1 .. 2^20");
  refuse("sonata", "\"enc_channels\": [1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1]", "1 .. 16");
  refuse("sonata", "\"stride\": [2, 2, 3, 2]", "expected a list of 0 .. 16 powers of two");
  refuse("sonata", "\"in_channels\": 0", "in_channels is 0; expected a whole number of 1");
  refuse("sonata", "\"mlp_ratio\": 0", "mlp_ratio is 0; expected a number above 0");
  refuse("sonata", "\"mlp_ratio\": \"4\"", "expected a number above 0");
  mr3d_config config;
  mr3d_error error;
  assert_refused(mr3d_config_parse("{\"point_config\": [1]}", &config, &error), MR3D_INVALID, error, "point_config is no object");
}

static void sizes_that_do_not_fit_each_other_are_refused_with_the_numbers(void **state) {
  (void)state;
  refuse("sonata", "\"enc_depths\": [1, 1]", "enc_channels has 5 entries, expected 2: enc_depths has 2 stages");
  refuse("sonata", "\"enc_num_head\": [1]", "enc_num_head has 1 entries, expected 5");
  refuse("sonata", "\"enc_patch_size\": [9, 9]", "enc_patch_size has 2 entries, expected 5");
  refuse("sonata", "\"stride\": [2, 2, 2, 2, 2]", "stride has 5 entries, expected 4");
  refuse("sonata", "\"enc_num_head\": [3, 6, 12, 24, 33]", "enc_channels[4] is 512, no multiple of enc_num_head[4] = 33");
  refuse("sonata", "\"mlp_ratio\": 0.3", "mlp_ratio 0.3 times enc_channels[0] = 48 is 14.4, not a whole number");
  refuse("scenescript", "\"conv_layers\": [16, 12]", "conv_layers[1] is 12, which does not divide into 8 groups");
  refuse("scenescript", "\"conv_layers\": [6]", "2 x 6 channels do not divide into 8 groups");
  parsed("scenescript", "\"conv_layers\": [3, 4], \"enc_depths\": [1, 1]"); /* the other encoder's sizes are not looked at */
  parsed("sonata", "\"conv_layers\": [12]");
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(without_it_the_sizes_are_the_public_encoders),
      cmocka_unit_test(every_size_is_read_and_the_rest_follows_the_number_of_stages),
      cmocka_unit_test(what_is_not_computed_is_refused_not_ignored),
      cmocka_unit_test(misspelt_keys_are_refused_and_others_ignored),
      cmocka_unit_test(values_of_another_type_or_range_are_refused),
      cmocka_unit_test(sizes_that_do_not_fit_each_other_are_refused_with_the_numbers),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
