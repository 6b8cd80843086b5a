/** Weights that no file holds: bit for bit those that the suite writes for a weight set of the same recipe and sizes, and never more in memory than allowed. */
#include <math.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#include "../../ref/model/generated_weights.h"
#include "../../ref/model/weights.h"
#include "../folder.h"
#include "../suite.h"
#include "case.h"

enum { Q = 4 };

static mr3d_suite *open_suite(void) {
  mr3d_suite *suite = NULL;
  mr3d_error error = {0};
  if (mr3d_suite_open(committed_set(), NULL, &suite, &error) != MR3D_OK) fail_msg("%s", error.message);
  return suite;
}

/* The configuration of a case that uses the set. */
static const char *config_text(const mr3d_suite *suite, const char *set) {
  for (int i = 0; i < mr3d_suite_count(suite); i++) {
    const mr3d_case *test = mr3d_suite_at(suite, i);
    if (test->weights && strcmp(test->weights, set) == 0) return test->config;
  }
  fail_msg("no case uses weight set %s", set);
  return NULL;
}

/* The file's configuration says nothing about its head, so the file does. */
static mr3d_config config_of(const mr3d_suite *suite, const char *set, bool untied) {
  mr3d_config config;
  mr3d_error error = {0};
  if (mr3d_config_parse(config_text(suite, set), &config, &error) != MR3D_OK) fail_msg("%s", error.message);
  config.tie_word_embeddings = !untied;
  return config;
}

static mr3d_bundle *written_set(const mr3d_suite *suite, const char *set, mr3d_tier tier, uint64_t seed, const char *folder, char path[4096]) {
  mr3d_bundle *file = NULL;
  mr3d_error error = {0};
  if (mr3d_suite_weights(suite, set, tier, seed, folder, path, &error) != MR3D_OK) fail_msg("%s", error.message);
  if (mr3d_safetensors_open(path, 0, &file, &error) != MR3D_OK) fail_msg("%s", error.message);
  return file;
}

/* Declared tensors and the file's are the same by name, type, shape and every bit. */
static void assert_same_model(const mr3d_drawn_tensors *drawn, const mr3d_bundle *file, const char *set) {
  assert_int_equal(mr3d_bundle_count(drawn->tensors), mr3d_bundle_count(file));
  for (int i = 0; i < mr3d_bundle_count(drawn->tensors); i++) {
    const mr3d_tensor *tensor = mr3d_bundle_at(drawn->tensors, i), *stored = mr3d_bundle_find(file, tensor->name);
    char a[96], b[96];
    if (!stored) fail_msg("%s: the file has no %s", set, tensor->name);
    assert_int_equal(tensor->dtype, stored->dtype);
    assert_string_equal(mr3d_shape_text(tensor->rank, tensor->shape, a), mr3d_shape_text(stored->rank, stored->shape, b));
    const int64_t count = mr3d_tensor_count(tensor);
    double *got = mr3d_allocate(count, sizeof *got), *expected = mr3d_allocate(count, sizeof *expected);
    mr3d_drawing_rows(&drawn->drawings[i], tensor, 0, tensor->shape[0], got);
    mr3d_tensor_to_double(stored, expected);
    if (memcmp(got, expected, (size_t)count * sizeof *got) != 0) fail_msg("%s, %s: other values than the file's", set, tensor->name);
    free(got);
    free(expected);
  }
}

static void generated_models_are_the_suites_weight_sets(void **state) {
  (void)state;
  static const struct {
    const char *set;
    bool untied;
    uint32_t tiers;
    uint64_t seed;
  } sets[] = {{"small", false, ALL_TIERS, 0}, {"small", false, ALL_TIERS, 18446744073709551615u}, {"full", false, 1u << MR3D_FP16, 3}, {"full-untied", true, 1u << MR3D_BF16_TIER, 0}};
  char folder[256], path[4096];
  make_folder(folder);
  mr3d_suite *suite = open_suite();
  int compared = 0;
  for (size_t i = 0; i < sizeof sets / sizeof *sets; i++)
    for (int tier = 0; tier < MR3D_N_TIERS; tier++) {
      if (!(sets[i].tiers >> tier & 1)) continue;
      const mr3d_config config = config_of(suite, sets[i].set, sets[i].untied);
      mr3d_bundle *file = written_set(suite, sets[i].set, (mr3d_tier)tier, sets[i].seed, folder, path);
      mr3d_generated_name name = {.seed = sets[i].seed};
      snprintf(name.set, sizeof name.set, "%s", sets[i].set);
      mr3d_drawn_tensors drawn = {0};
      mr3d_error error = {0};
      if (mr3d_generated_model(&name, &config, (mr3d_tier)tier, &drawn, &error) != MR3D_OK) fail_msg("%s", error.message);
      assert_same_model(&drawn, file, sets[i].set);
      mr3d_drawn_tensors_free(&drawn);
      mr3d_bundle_free(&file);
      unlink(path);
      compared++;
    }
  assert_int_equal(compared, 2 * MR3D_N_TIERS + 2);
  mr3d_suite_close(&suite);
  remove_folder(folder);
}

static mr3d_bundle *prefill_of(const char *session, const char *weights, mr3d_tier tier, const char *config, int64_t hidden) {
  mr3d_bundle *r = request("prefill", config);
  mr3d_bundle_set(r, "session", session);
  mr3d_bundle_set(r, "weights", weights);
  mr3d_bundle_set(r, "tier", mr3d_tier_name(tier));
  mr3d_tensor *embeds = mr3d_bundle_add(r, "inputs_embeds", mr3d_tier_storage(tier), SHAPE(1, Q, hidden));
  double *values = mr3d_allocate(Q * hidden, sizeof *values);
  for (int64_t i = 0; i < Q * hidden; i++) values[i] = floor(64 * drawn(21, (uint64_t)i)) / 64; /* the same at every tier */
  mr3d_tensor_from_double(embeds, values);
  free(values);
  add_filled(r, "attention_mask", 1, SHAPE(1, Q));
  add_points(r, 1, Q, 1, 2, (int64_t[]){2});
  return r;
}

static mr3d_bundle *decode_of(const char *session, mr3d_tier tier) {
  mr3d_bundle *r = request("decode", "{}");
  mr3d_bundle_set(r, "session", session);
  mr3d_bundle_set(r, "tier", mr3d_tier_name(tier));
  add_integers(r, "input_ids", (int64_t[]){9}, SHAPE(1, 1));
  return r;
}

/* Through the one door of requests: the answers of the file, with the whole cache and with none. */
static void requests_are_answered_as_by_the_file(void **state) {
  (void)state;
  char folder[256], path[4096];
  make_folder(folder);
  mr3d_suite *suite = open_suite();
  const char *config = config_text(suite, "small");
  static const mr3d_tier tiers[] = {MR3D_FP64, MR3D_BF16_TIER};
  for (int t = 0; t < 2; t++)
    for (int64_t limit = 0; limit < 2; limit++) {
      mr3d_bundle *file = written_set(suite, "small", tiers[t], 5, folder, path);
      const int64_t hidden = mr3d_bundle_find(file, "model.norm.weight")->shape[0];
      mr3d_weights_cache *cache = mr3d_weights_cache_new();
      mr3d_weights_cache_limit(cache, limit << 30);
      mr3d_server *server = mr3d_server_new(&(mr3d_server_options){.weights = cache});
      mr3d_bundle *a = answer(server, prefill_of("a", path, tiers[t], config, hidden)), *b = answer(server, prefill_of("b", "generated:5/small", tiers[t], config, hidden));
      assert_same(a, b);
      mr3d_bundle_free(&a), mr3d_bundle_free(&b);
      a = answer(server, decode_of("a", tiers[t]));
      const int64_t before = mr3d_weights_cache_converted(cache);
      b = answer(server, decode_of("b", tiers[t]));
      assert_same(a, b);
      const int64_t ends = hidden + hidden + mr3d_tensor_count(mr3d_bundle_find(file, "model.embed_tokens.weight"));
      assert_true(limit ? mr3d_weights_cache_converted(cache) - before == ends : mr3d_weights_cache_converted(cache) - before > ends);
      mr3d_bundle_free(&a), mr3d_bundle_free(&b), mr3d_bundle_free(&file);
      mr3d_server_free(&server);
      mr3d_weights_cache_free(&cache);
      unlink(path);
    }
  mr3d_suite_close(&suite);
  remove_folder(folder);
}

/* Rows are drawn without what is before them. */
static void rows_are_those_of_the_whole(void **state) {
  (void)state;
  const mr3d_config config = {.hidden_size = 48, .intermediate_size = 40, .num_hidden_layers = 1, .num_attention_heads = 4, .num_key_value_heads = 2, .head_dim = 16,
                              .vocab_size = 500, .rope_mixed_3d = true, .learned_per_axis = true, .learned_axial_weights = true, .tie_word_embeddings = -1};
  for (int tier = 0; tier < MR3D_N_TIERS; tier++) {
    mr3d_drawn_tensors drawn = {0};
    mr3d_error error = {0};
    if (mr3d_generated_model(&(mr3d_generated_name){.seed = 1, .set = "s"}, &config, (mr3d_tier)tier, &drawn, &error) != MR3D_OK) fail_msg("%s", error.message);
    assert_null(mr3d_bundle_find(drawn.tensors, "lm_head.weight"));
    const mr3d_tensor *tensor = mr3d_bundle_at(drawn.tensors, 0);
    assert_string_equal(tensor->name, "model.embed_tokens.weight");
    double *whole = mr3d_allocate(500 * 48, sizeof *whole), *part = mr3d_allocate(33 * 48, sizeof *part);
    mr3d_drawing_rows(&drawn.drawings[0], tensor, 0, 500, whole);
    mr3d_drawing_rows(&drawn.drawings[0], tensor, 467, 33, part);
    assert_memory_equal(part, whole + 467 * 48, 33 * 48 * sizeof *part);
    free(whole);
    free(part);
    mr3d_drawn_tensors_free(&drawn);
  }
}

/* Two models of one name that differ in size or tier are two: each is found by what it was drawn by. */
static void sizes_and_tier_tell_models_apart(void **state) {
  (void)state;
  mr3d_server *server = new_server();
  mr3d_bundle *a = answer(server, prefill_of("a", "generated:1", MR3D_FP64, CONFIG, HIDDEN)), *b = answer(server, prefill_of("b", "generated:1", MR3D_FP16, CONFIG, HIDDEN));
  assert_memory_not_equal(reals(a, "hidden"), reals(b, "hidden"), Q * HIDDEN * sizeof(double));
  mr3d_bundle *c = answer(server, prefill_of("c", "generated:1", MR3D_FP64, CONFIG_WITH("\"tie_word_embeddings\":false"), HIDDEN));
  assert_memory_equal(reals(a, "hidden"), reals(c, "hidden"), Q * HIDDEN * sizeof(double));
  assert_memory_not_equal(reals(a, "logits"), reals(c, "logits"), Q * V * sizeof(double));
  mr3d_bundle *d = answer(server, prefill_of("d", "generated:1/generated", MR3D_FP64, CONFIG, HIDDEN));
  assert_same(a, d);
  mr3d_bundle_free(&a), mr3d_bundle_free(&b), mr3d_bundle_free(&c), mr3d_bundle_free(&d);
  mr3d_server_free(&server);
}

static void impossible_models_are_refused(void **state) {
  (void)state;
  static const char *const names[] = {"generated:", "generated:x", "generated:-1", "generated:1x", "generated:18446744073709551616", "generated:1/", "generated:1/a/b", "generated:1/a b"};
  mr3d_server *server = new_server();
  for (size_t i = 0; i < sizeof names / sizeof *names; i++) REFUSED(server, prefill_of("a", names[i], MR3D_FP64, CONFIG, HIDDEN), names[i], "expected generated:SEED");
  REFUSED(server, prefill_of("a", "generated:1", MR3D_FP64, "{\"hidden_size\":48,\"num_hidden_layers\":2,\"num_attention_heads\":4,\"num_key_value_heads\":2,\"rope_theta\":1e4,\"rms_norm_eps\":1e-6}", HIDDEN),
          "generated:1", "intermediate_size is needed");
#define LARGE(layers, vocab, wide)                                                                                                                      \
  "{\"hidden_size\":48,\"intermediate_size\":" wide ",\"num_hidden_layers\":" layers ",\"num_attention_heads\":4,\"num_key_value_heads\":2,\"head_dim\":16," \
  "\"vocab_size\":" vocab ",\"rope_theta\":1e4,\"rms_norm_eps\":1e-6}"
  REFUSED(server, prefill_of("a", "generated:1", MR3D_FP64, LARGE("1000000000000", "50", "40"), HIDDEN), "num_hidden_layers is 1000000000000", "at most 1024");
  REFUSED(server, prefill_of("a", "generated:1", MR3D_FP64, LARGE("2", "1000000000", "40"), HIDDEN), "model.embed_tokens.weight would be [1000000000,48]", "2^31");
  REFUSED(server, prefill_of("a", "generated:1", MR3D_FP64, LARGE("2", "50", "1000000000000000"), HIDDEN), "mlp.gate_proj.weight would be", "2^31");
  mr3d_server_free(&server);
}

static int64_t peak_bytes(void) {
  struct rusage usage;
  assert_int_equal(getrusage(RUSAGE_SELF, &usage), 0);
  return (int64_t)usage.ru_maxrss * 1024;
}

/* 24 layers of 25 MB each in binary64 with room for one: the peak grows by a few layers (and the 256 MiB that AddressSanitizer holds back), not by 600 MB. */
static void a_layer_is_in_memory_at_a_time(void **state) {
  (void)state;
  static const char config[] = "{\"hidden_size\":512,\"intermediate_size\":1536,\"num_hidden_layers\":24,\"num_attention_heads\":8,\"num_key_value_heads\":2,\"head_dim\":64,"
                               "\"vocab_size\":64,\"rope_theta\":1e4,\"rms_norm_eps\":1e-6}";
  mr3d_weights_cache *cache = mr3d_weights_cache_new();
  mr3d_weights_cache_limit(cache, (int64_t)25 << 20);
  mr3d_server *server = mr3d_server_new(&(mr3d_server_options){.weights = cache});
  const int64_t before = peak_bytes();
  mr3d_bundle *a = answer(server, prefill_of("a", "generated:1", MR3D_FP64, config, 512));
  const int64_t grown = peak_bytes() - before;
  if (grown > (int64_t)400 << 20) fail_msg("memory grew by %lld bytes", (long long)grown);
  mr3d_bundle_free(&a);
  mr3d_server_free(&server);
  mr3d_weights_cache_free(&cache);
}

/** The file that a process ends up with is still the one there when all have finished. */
static void processes_that_need_a_set_at_once_write_it_once(void **state) {
  (void)state;
  enum { PROCESSES = 4 };
  char folder[256], path[4096];
  struct stat is;
  ino_t took[PROCESSES];
  int start[2], told[2];
  make_folder(folder);
  mr3d_suite *suite = open_suite();
  assert_int_equal(pipe(start) | pipe(told), 0);
  for (int i = 0; i < PROCESSES; i++) {
    const pid_t child = fork();
    assert_true(child >= 0);
    if (child) continue;
    mr3d_error error = {0};
    close(start[1]);
    const bool fine = read(start[0], &(char){0}, 1) == 0 && mr3d_suite_weights(suite, "full-probe", MR3D_FP32, 0, folder, path, &error) == MR3D_OK && stat(path, &is) == 0;
    _exit(!fine || write(told[1], &is.st_ino, sizeof is.st_ino) != sizeof is.st_ino);
  }
  close(start[0]);
  close(start[1]); /* now */
  for (int i = 0, status; i < PROCESSES; i++) {
    assert_true(wait(&status) > 0 && status == 0);
    assert_int_equal(read(told[0], &took[i], sizeof took[i]), sizeof took[i]);
  }
  assert_int_equal(mr3d_suite_weights(suite, "full-probe", MR3D_FP32, 0, folder, path, &(mr3d_error){0}), MR3D_OK);
  assert_int_equal(stat(path, &is), 0);
  for (int i = 0; i < PROCESSES; i++) assert_int_equal(took[i], is.st_ino);
  assert_int_equal(unlink(path), 0);
  assert_int_equal(rmdir(folder), 0); /* nothing else was left */
  close(told[0]);
  close(told[1]);
  mr3d_suite_close(&suite);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(processes_that_need_a_set_at_once_write_it_once), /* before an OpenMP region has run here */
      cmocka_unit_test(a_layer_is_in_memory_at_a_time), /* first, while the peak is low */
      cmocka_unit_test(generated_models_are_the_suites_weight_sets),
      cmocka_unit_test(requests_are_answered_as_by_the_file),
      cmocka_unit_test(rows_are_those_of_the_whole),
      cmocka_unit_test(sizes_and_tier_tell_models_apart),
      cmocka_unit_test(impossible_models_are_refused),
  };
  return cmocka_run_group_tests_name("generated weights", tests, NULL, NULL);
}
