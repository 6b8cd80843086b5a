/** Weights files: which types and names are read, that stored values are used exactly, and what is converted how often. */
#include <dirent.h>
#include <sys/mman.h>
#include <sys/wait.h>

#include "fixture.h"

#include "../../ref/model/weights.h"

enum { Q = 5 };
#define LAYER_ELEMENTS (2 * HIDDEN + H * D * HIDDEN + H * D + 2 * (G * D * HIDDEN + G * D) + HIDDEN * H * D + 3 * INTERMEDIATE * HIDDEN)
#define ROTARY_ELEMENTS (6 * H * F + 6 * G * F)

static mr3d_bundle *prefill(const char *session, const char *path, const char *tier, const char *config, bool points) {
  mr3d_bundle *r = request("prefill", config);
  mr3d_bundle_set(r, "session", session);
  mr3d_bundle_set(r, "weights", path);
  mr3d_bundle_set(r, "tier", tier);
  mr3d_tensor *embeds = add_reals_seeded(r, "inputs_embeds", 21, mr3d_tier_storage(mr3d_tier_named(tier)), 1, SHAPE(1, Q, HIDDEN));
  double rounded[Q * HIDDEN]; /* the same values at every tier: those that F16 and BF16 hold both */
  for (int i = 0; i < Q * HIDDEN; i++) rounded[i] = (double)(int)(drawn(21, (uint64_t)i) * 64) / 64;
  mr3d_tensor_from_double(embeds, rounded);
  add_filled(r, "attention_mask", 1, SHAPE(1, Q));
  const int64_t counts[] = {2};
  if (points) add_points(r, 1, Q, 1, 2, counts);
  return r;
}

static mr3d_bundle *decode(const char *session, const char *tier) {
  static const int64_t ids[] = {9};
  mr3d_bundle *r = request("decode", "{}");
  mr3d_bundle_set(r, "session", session);
  mr3d_bundle_set(r, "tier", tier);
  add_integers(r, "input_ids", ids, SHAPE(1, 1));
  return r;
}

static void done(mr3d_bundle *a) { mr3d_bundle_free(&a); }

/* Every floating type, and F64 that holds the same values, give the same bits, whatever the tier. */
static void stored_values_are_used_exactly(void **state) {
  (void)state;
  static const mr3d_dtype types[] = {MR3D_F32, MR3D_BF16, MR3D_F16};
  static const char *const tiers[] = {"fp32", "bf16", "fp16", "fp64", "tf32"};
  for (int t = 0; t < 3; t++) {
    char stored[64], widened[64];
    mr3d_bundle *narrow = decoder_weights((layer_options){.dtype = types[t]}), *wide = mr3d_bundle_new();
    for (int i = 0; i < mr3d_bundle_count(narrow); i++) {
      const mr3d_tensor *tensor = mr3d_bundle_at(narrow, i);
      mr3d_tensor_to_double(tensor, mr3d_bundle_add(wide, tensor->name, MR3D_F64, tensor->rank, tensor->shape)->data);
    }
    save_weights(narrow, stored);
    save_weights(wide, widened);
    mr3d_server *server = new_server();
    for (int k = 0; k < 5; k++) {
      char a_name[16], b_name[16];
      snprintf(a_name, sizeof a_name, "a%d", k);
      snprintf(b_name, sizeof b_name, "b%d", k);
      mr3d_bundle *a = answer(server, prefill(a_name, stored, tiers[k], CONFIG, true)), *b = answer(server, prefill(b_name, widened, tiers[k], CONFIG, true));
      assert_same(a, b);
      done(a), done(b);
      a = answer(server, decode(a_name, tiers[k])), b = answer(server, decode(b_name, tiers[k]));
      assert_same(a, b);
      done(a), done(b);
    }
    mr3d_server_free(&server);
    unlink(stored);
    unlink(widened);
  }
}

/* 8-bit floats are storage too: E4M3's and E5M2's 0x38 and 0x3c are 1, their 0xc0 is -2. */
static void eight_bit_floats_are_read(void **state) {
  (void)state;
  char path[64], narrow_path[64];
  mr3d_bundle *wide = mr3d_bundle_new(), *narrow = mr3d_bundle_new(), *base = decoder_weights((layer_options){.dtype = MR3D_F64});
  for (int i = 0; i < mr3d_bundle_count(base); i++) {
    const mr3d_tensor *tensor = mr3d_bundle_at(base, i);
    const bool e4m3 = strcmp(tensor->name, "model.norm.weight") == 0, e5m2 = strcmp(tensor->name, "model.layers.1.input_layernorm.weight") == 0;
    if (!e4m3 && !e5m2) {
      mr3d_bundle_copy(wide, NULL, tensor);
      mr3d_bundle_copy(narrow, NULL, tensor);
      continue;
    }
    double *values = mr3d_bundle_add(wide, tensor->name, MR3D_F64, SHAPE(HIDDEN))->data;
    unsigned char *codes = mr3d_bundle_add(narrow, tensor->name, e4m3 ? MR3D_F8_E4M3 : MR3D_F8_E5M2, SHAPE(HIDDEN))->data;
    for (int j = 0; j < HIDDEN; j++) {
      values[j] = j % 3 ? 1 : -2;
      codes[j] = j % 3 == 0 ? 0xc0 : e4m3 ? 0x38 : 0x3c;
    }
  }
  save_weights(wide, path);
  save_weights(narrow, narrow_path);
  mr3d_server *server = new_server();
  mr3d_bundle *a = answer(server, prefill("1", path, "fp64", CONFIG, true)), *b = answer(server, prefill("2", narrow_path, "fp64", CONFIG, true));
  assert_same(a, b);
  done(a), done(b), done(base);
  mr3d_server_free(&server);
  unlink(path);
  unlink(narrow_path);
}

/* Untied exactly when tie_word_embeddings is false or, where it is not given, the file holds lm_head.weight. */
static void head_is_tied_as_the_options_say(void **state) {
  (void)state;
  char plain[64], with_head[64];
  save_decoder((layer_options){.dtype = MR3D_F64}, plain);
  save_decoder((layer_options){.dtype = MR3D_F64, .untied = true}, with_head);
  const char *tied_config = CONFIG_WITH("\"tie_word_embeddings\":true"), *untied_config = CONFIG_WITH("\"tie_word_embeddings\":false");
  mr3d_server *server = new_server();
  mr3d_bundle *tied = answer(server, prefill("1", plain, "fp64", CONFIG, true));
  mr3d_bundle *also_tied = answer(server, prefill("2", with_head, "fp64", tied_config, true));
  mr3d_bundle *untied = answer(server, prefill("3", with_head, "fp64", CONFIG, true));
  mr3d_bundle *also_untied = answer(server, prefill("4", with_head, "fp64", untied_config, true));
  assert_same(tied, also_tied);
  assert_same(untied, also_untied);
  assert_memory_equal(reals(tied, "hidden"), reals(untied, "hidden"), Q * HIDDEN * sizeof(double));
  assert_memory_not_equal(reals(tied, "logits"), reals(untied, "logits"), Q * V * sizeof(double));
  REFUSED(server, prefill("5", plain, "fp64", untied_config, true), plain, "lm_head.weight is missing");
  done(tied), done(also_tied), done(untied), done(also_untied);
  mr3d_server_free(&server);
  unlink(plain);
  unlink(with_head);
}

/* Extra tensors are ignored, rotary parameters among them that the options give no meaning; text needs none at all. */
static void extra_tensors_are_ignored_and_text_needs_no_rotary_parameters(void **state) {
  (void)state;
  char plain[64], bare[64], more[64];
  save_decoder((layer_options){.dtype = MR3D_F64}, plain);
  save_decoder((layer_options){.dtype = MR3D_F64, .no_rotary = true}, bare);
  mr3d_bundle *extended = decoder_weights((layer_options){.dtype = MR3D_F64, .no_rotary = true});
  mr3d_bundle_add(extended, "model.layers.7.mlp.up_proj.weight", MR3D_F64, SHAPE(2, 2));
  mr3d_bundle_add(extended, "point_proj.weight", MR3D_I8, SHAPE(3));
  mr3d_bundle_add(extended, "model.layers.0.self_attn.freqs_3d_q", MR3D_I64, SHAPE(1));
  save_weights(extended, more);
  mr3d_server *server = new_server();
  mr3d_bundle *a = answer(server, prefill("1", plain, "fp64", CONFIG, false)), *b = answer(server, prefill("2", bare, "fp64", CONFIG, false));
  assert_same(a, b);
  done(a), done(b);
  const char *fixed = CONFIG_WITH("\"rope_mixed_3d\":false");
  a = answer(server, prefill("3", plain, "fp64", fixed, true)), b = answer(server, prefill("4", more, "fp64", fixed, true));
  assert_same(a, b);
  done(a), done(b);
  REFUSED(server, prefill("5", bare, "fp64", CONFIG, true), bare, "8 tensors are missing: model.layers.0.self_attn.freqs_3d_q [3,4,4] (in 2 of 2 layers)",
          "model.layers.0.self_attn.axial_weights_3d_q [4,4,3] (in 2", "model.layers.0.self_attn.freqs_3d_kv [3,2,4] (in 2",
          "model.layers.0.self_attn.axial_weights_3d_kv [2,4,3] (in 2", "rope_mixed_3d to false", "--init-missing SEED");
  REFUSED(server, prefill("6", more, "fp64", CONFIG, true), more, "model.layers.0.self_attn.freqs_3d_q is I64");
  mr3d_server_free(&server);
  unlink(plain);
  unlink(bare);
  unlink(more);
}

/* Flattened frequencies of a checkpoint are the same frequencies. */
static void checkpoint_may_flatten_frequencies(void **state) {
  (void)state;
  char plain[64], flat[64];
  save_decoder((layer_options){.dtype = MR3D_F64}, plain);
  save_decoder((layer_options){.dtype = MR3D_F64, .flat = true}, flat);
  mr3d_server *server = new_server();
  mr3d_bundle *a = answer(server, prefill("1", plain, "fp64", CONFIG, true)), *b = answer(server, prefill("2", flat, "fp64", CONFIG, true));
  assert_same(a, b);
  done(a), done(b);
  mr3d_server_free(&server);
  unlink(plain);
  unlink(flat);
}

/* A head of many rows is read block by block: 5000 rows are two whole blocks and a part. */
enum { LARGE = 5000 };
#define LARGE_CONFIG "{\"num_hidden_layers\":2,\"num_attention_heads\":4,\"num_key_value_heads\":2,\"head_dim\":16,\"rope_theta\":1e4,\"rms_norm_eps\":1e-6}"

/* A decoder with a vocabulary of several blocks; gives the embedding. */
static double *save_large(mr3d_dtype dtype, char path[64]) {
  mr3d_bundle *weights = mr3d_bundle_new(), *small = decoder_weights((layer_options){.dtype = MR3D_F64});
  for (int i = 0; i < mr3d_bundle_count(small); i++)
    if (strcmp(mr3d_bundle_at(small, i)->name, "model.embed_tokens.weight") != 0) mr3d_bundle_copy(weights, NULL, mr3d_bundle_at(small, i));
  double *table = mr3d_allocate(LARGE * HIDDEN, sizeof *table);
  mr3d_tensor_to_double(add_reals_seeded(weights, "model.embed_tokens.weight", 31, dtype, 1, SHAPE(LARGE, HIDDEN)), table);
  save_weights(weights, path);
  done(small);
  return table;
}

/* What a child returns: threads stay, so each count needs a process that had none. */
static int in_a_child(int (*work)(char *path, int threads), char *path, int threads) {
  const pid_t child = fork();
  assert_true(child >= 0);
  if (child == 0) {
    alarm(100);
    _exit(work(path, threads));
  }
  int how = 0;
  assert_int_equal(waitpid(child, &how, 0), child);
  assert_true(WIFEXITED(how));
  return WEXITSTATUS(how);
}

static int save_large_bf16(char *path, int threads) {
  (void)threads;
  free(save_large(MR3D_BF16, path));
  return 0;
}

static int threads_after_a_prefill(char *path, int threads) {
  mr3d_server *server = mr3d_server_new(&(mr3d_server_options){.threads = threads});
  done(answer(server, prefill("a", path, "fp64", LARGE_CONFIG, true)));
  int count = 0;
  DIR *tasks = opendir("/proc/self/task");
  for (struct dirent *task; tasks && (task = readdir(tasks));) count += task->d_name[0] != '.';
  return count;
}

/* Weights are converted and looked through by as many threads as the server has. */
static void a_server_of_one_thread_has_no_other(void **state) {
  (void)state;
  char *path = mmap(NULL, 64, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
  assert_ptr_not_equal(path, MAP_FAILED);
  assert_int_equal(in_a_child(save_large_bf16, path, 0), 0);
  assert_int_equal(in_a_child(threads_after_a_prefill, path, 1), 1);
  assert_int_equal(in_a_child(threads_after_a_prefill, path, 3), 3);
  unlink(path);
  munmap(path, 64);
}

static void large_vocabulary_is_read_in_blocks(void **state) {
  (void)state;
  for (int f64 = 0; f64 < 2; f64++) {
    char path[64];
    double *table = save_large(f64 ? MR3D_F64 : MR3D_BF16, path);
    mr3d_server *server = new_server();
    mr3d_bundle *r = prefill("a", path, "fp64", LARGE_CONFIG, true);
    mr3d_bundle_set(r, "logits_to_keep", "2");
    mr3d_bundle *a = answer(server, r);
    assert_shape(a, "logits", SHAPE(1, 2, LARGE));
    double *logits = mr3d_allocate(2 * LARGE, sizeof *logits);
    for (int i = 0; i < 2; i++)
      for (int t = 0; t < LARGE; t++)
        for (int j = 0; j < HIDDEN; j++) logits[i * LARGE + t] += reals(a, "hidden")[(Q - 2 + i) * HIDDEN + j] * table[t * HIDDEN + j];
    assert_memory_equal(reals(a, "logits"), logits, 2 * LARGE * sizeof *logits);
    free(logits);
    free(table);
    done(a);
    mr3d_server_free(&server);
    unlink(path);
  }
}

/* ---- what is converted ---- */

enum {
  ENDS = HIDDEN + V * HIDDEN,             /* final norm and head, at each call of more than a few rows */
  STEP = HIDDEN + HIDDEN,                 /* a decode step's row of the embedding, and the final norm: matrices are used as they are stored */
  VECTORS = (H + 2 * G) * D + 2 * HIDDEN, /* of a layer: biases and norms */
};

static void decode_steps_convert_no_layer_again(void **state) {
  (void)state;
  char path[64], other_path[64];
  save_decoder((layer_options){.dtype = MR3D_BF16}, path);
  save_decoder((layer_options){.dtype = MR3D_F32}, other_path);
  mr3d_weights_cache *cache = mr3d_weights_cache_new();
  mr3d_server *server = mr3d_server_new(&(mr3d_server_options){.weights = cache}), *second = mr3d_server_new(&(mr3d_server_options){.weights = cache});
  int64_t before = mr3d_weights_cache_converted(cache);
  assert_int_equal(before, 0);
#define CONVERTED(call, elements)                                                 \
  do {                                                                            \
    before = mr3d_weights_cache_converted(cache);                                 \
    done(answer call);                                                            \
    assert_int_equal(mr3d_weights_cache_converted(cache) - before, (elements));   \
  } while (0)
  CONVERTED((server, prefill("a", path, "fp64", CONFIG, false)), LAYERS * LAYER_ELEMENTS + ENDS);
  CONVERTED((server, decode("a", "fp64")), STEP);
  CONVERTED((server, decode("a", "fp64")), STEP);
  CONVERTED((server, prefill("b", path, "fp64", CONFIG, true)), LAYERS * ROTARY_ELEMENTS + ENDS);
  CONVERTED((second, prefill("a", path, "fp64", CONFIG, true)), ENDS); /* servers share the cache */
  /* Room for exactly one file's layers: those of the file that is used stay. */
  mr3d_weights_cache_limit(cache, LAYERS * LAYER_ELEMENTS * (int64_t)sizeof(double));
  CONVERTED((server, prefill("c", other_path, "fp64", CONFIG, false)), LAYERS * LAYER_ELEMENTS + ENDS);
  CONVERTED((server, decode("c", "fp64")), STEP);
  CONVERTED((server, decode("a", "fp64")), LAYERS * VECTORS + STEP);
  CONVERTED((server, decode("a", "fp64")), STEP);
#undef CONVERTED
  mr3d_server_free(&server);
  mr3d_server_free(&second);
  mr3d_weights_cache_free(&cache);
  unlink(path);
  unlink(other_path);
}

/* Of the files that no session uses the four used last stay open; one in use stays anyhow and does not count. */
static void four_idle_files_stay_converted(void **state) {
  (void)state;
  enum { FILES = 5 };
  char held[64], paths[FILES][64];
  save_decoder((layer_options){.dtype = MR3D_BF16}, held);
  mr3d_weights_cache *cache = mr3d_weights_cache_new();
  mr3d_server *server = mr3d_server_new(&(mr3d_server_options){.weights = cache});
  done(answer(server, prefill("held", held, "fp64", CONFIG, false)));
  /* opened in turn, then from the second on again, then the first, which the fifth had closed */
  for (int k = 0; k < 2 * FILES; k++) {
    const int f = k < FILES ? k : (k + 1) % FILES;
    if (k < FILES) save_decoder((layer_options){.dtype = MR3D_BF16}, paths[f]);
    const int64_t before = mr3d_weights_cache_converted(cache);
    done(answer(server, prefill("a", paths[f], "fp64", CONFIG, false)));
    const int64_t layers = k < FILES || f == 0 ? LAYERS * LAYER_ELEMENTS : 0;
    assert_int_equal(mr3d_weights_cache_converted(cache) - before, layers + ENDS);
    mr3d_bundle *drop = request("drop_session", "{}");
    mr3d_bundle_set(drop, "session", "a");
    done(answer(server, drop));
  }
  const int64_t before = mr3d_weights_cache_converted(cache);
  done(answer(server, decode("held", "fp64")));
  assert_int_equal(mr3d_weights_cache_converted(cache) - before, STEP);
  mr3d_server_free(&server);
  mr3d_weights_cache_free(&cache);
  unlink(held);
  for (int f = 0; f < FILES; f++) unlink(paths[f]);
}

static void cache_without_room_changes_no_bit(void **state) {
  (void)state;
  char path[64];
  save_decoder((layer_options){.dtype = MR3D_BF16}, path);
  mr3d_bundle *answers[3];
  static const int64_t limits[] = {0, LAYER_ELEMENTS * (int64_t)sizeof(double), INT64_MAX};
  for (int k = 0; k < 3; k++) {
    mr3d_weights_cache *cache = mr3d_weights_cache_new();
    mr3d_weights_cache_limit(cache, limits[k]);
    mr3d_server *server = mr3d_server_new(&(mr3d_server_options){.weights = cache});
    done(answer(server, prefill("a", path, "fp64", CONFIG, true)));
    int64_t before = mr3d_weights_cache_converted(cache);
    answers[k] = answer(server, decode("a", "fp64"));
    int64_t again = mr3d_weights_cache_converted(cache) - before - STEP;
    const int64_t spare = mr3d_weights_cache_spare(cache), layer = (LAYER_ELEMENTS + ROTARY_ELEMENTS) * (int64_t)sizeof(double);
    assert_true(k == 2 ? spare == 0 : spare > 0 && spare <= layer); /* memory of one layer serves them all */
    assert_true(k == 0 ? again == LAYERS * VECTORS : k == 1 ? again > 0 && again < LAYERS * VECTORS : again == 0);
    mr3d_server_free(&server);
    mr3d_weights_cache_free(&cache);
  }
  assert_same(answers[0], answers[1]);
  assert_same(answers[0], answers[2]);
  for (int k = 0; k < 3; k++) done(answers[k]);
  unlink(path);
}

static void binary64_files_are_not_converted(void **state) {
  (void)state;
  char path[64];
  save_decoder((layer_options){.dtype = MR3D_F64}, path);
  mr3d_weights_cache *cache = mr3d_weights_cache_new();
  mr3d_server *server = mr3d_server_new(&(mr3d_server_options){.weights = cache});
  done(answer(server, prefill("a", path, "fp64", CONFIG, true)));
  done(answer(server, decode("a", "fp64")));
  assert_int_equal(mr3d_weights_cache_converted(cache), 0);
  mr3d_server_free(&server);
  mr3d_weights_cache_free(&cache);
  unlink(path);
}

/* Another file under the same path is another file: new sessions read it, open ones keep what they were opened with. */
static void replaced_file_is_read_anew(void **state) {
  (void)state;
  char path[64], other[64];
  save_decoder((layer_options){.dtype = MR3D_F32}, path);
  mr3d_bundle *changed = decoder_weights((layer_options){.dtype = MR3D_F32});
  ((float *)mr3d_bundle_find(changed, "model.layers.0.mlp.up_proj.weight")->data)[0] += 1;
  save_weights(changed, other);
  mr3d_server *server = new_server(), *fresh = new_server();
  mr3d_bundle *old = answer(server, prefill("old", path, "fp64", CONFIG, true)), *old_next = answer(fresh, prefill("old", path, "fp64", CONFIG, true));
  done(old_next);
  old_next = answer(fresh, decode("old", "fp64"));
  assert_int_equal(rename(other, path), 0);
  mr3d_bundle *new = answer(server, prefill("new", path, "fp64", CONFIG, true)), *expected = answer(fresh, prefill("new", path, "fp64", CONFIG, true));
  assert_same(new, expected);
  assert_memory_not_equal(reals(new, "hidden"), reals(old, "hidden"), Q * HIDDEN * sizeof(double));
  mr3d_bundle *next = answer(server, decode("old", "fp64"));
  assert_same(next, old_next);
  done(old), done(old_next), done(new), done(expected), done(next);
  mr3d_server_free(&server);
  mr3d_server_free(&fresh);
  unlink(path);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(a_server_of_one_thread_has_no_other), /* first, while this process has no other threads that a child would miss */
      cmocka_unit_test(stored_values_are_used_exactly),
      cmocka_unit_test(eight_bit_floats_are_read),
      cmocka_unit_test(head_is_tied_as_the_options_say),
      cmocka_unit_test(extra_tensors_are_ignored_and_text_needs_no_rotary_parameters),
      cmocka_unit_test(checkpoint_may_flatten_frequencies),
      cmocka_unit_test(large_vocabulary_is_read_in_blocks),
      cmocka_unit_test(decode_steps_convert_no_layer_again),
      cmocka_unit_test(four_idle_files_stay_converted),
      cmocka_unit_test(cache_without_room_changes_no_bit),
      cmocka_unit_test(binary64_files_are_not_converted),
      cmocka_unit_test(replaced_file_is_read_anew),
  };
  return cmocka_run_group_tests_name("weights files", tests, NULL, NULL);
}
