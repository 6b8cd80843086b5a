/** Checkpoints of several files, what is said about broken ones, and what a checkpoint lacks: reported whole, or drawn when that is asked for. */
#include "fixture.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <time.h>

#include "../../ref/model/generated_weights.h"
#include "../../ref/model/weights.h"
#include "../folder.h"

enum { Q = 5, SHARDS = 3 };

static mr3d_bundle *prefill(const char *session, const char *path, const char *config, bool points) {
  mr3d_bundle *r = request("prefill", config);
  mr3d_bundle_set(r, "session", session);
  mr3d_bundle_set(r, "weights", path);
  add_reals(r, "inputs_embeds", 1, SHAPE(1, Q, HIDDEN));
  add_filled(r, "attention_mask", 1, SHAPE(1, Q));
  const int64_t counts[] = {2};
  if (points) add_points(r, 1, Q, 1, 2, counts);
  return r;
}

static mr3d_bundle *decode(const char *session) {
  static const int64_t ids[] = {9};
  mr3d_bundle *r = request("decode", "{}");
  mr3d_bundle_set(r, "session", session);
  add_integers(r, "input_ids", ids, SHAPE(1, 1));
  return r;
}

static void done(mr3d_bundle *a) { mr3d_bundle_free(&a); }

static void write_text(const char *folder, const char *name, const char *text) {
  char path[400];
  snprintf(path, sizeof path, "%s/%s", folder, name);
  FILE *file = fopen(path, "w");
  assert_non_null(file);
  assert_true(fputs(text, file) >= 0);
  assert_int_equal(fclose(file), 0);
}

static void save(const char *folder, const char *name, mr3d_bundle *bundle) {
  char path[400];
  snprintf(path, sizeof path, "%s/%s", folder, name);
  mr3d_error error = {0};
  if (mr3d_safetensors_save(path, bundle, &error) != MR3D_OK) fail_msg("%s", error.message);
  mr3d_bundle_free(&bundle);
}

/* Deals the tensors to three shards, by turns, and writes the index as transformers does. Frees the bundle. */
static void save_sharded(const char *folder, mr3d_bundle *bundle) {
  static char index[16384];
  mr3d_bundle *shards[SHARDS];
  int used = snprintf(index, sizeof index, "{\n  \"metadata\": {\n    \"total_size\": 123456.0\n  },\n  \"weight_map\": {");
  for (int s = 0; s < SHARDS; s++) shards[s] = mr3d_bundle_new();
  for (int i = 0; i < mr3d_bundle_count(bundle); i++) {
    mr3d_bundle_copy(shards[i % SHARDS], NULL, mr3d_bundle_at(bundle, i));
    used += snprintf(index + used, sizeof index - (size_t)used, "%s\n    \"%s\": \"model-0000%d-of-00003.safetensors\"", i ? "," : "", mr3d_bundle_at(bundle, i)->name,
                     i % SHARDS + 1);
  }
  snprintf(index + used, sizeof index - (size_t)used, "\n  }\n}\n");
  write_text(folder, "model.safetensors.index.json", index);
  for (int s = 0; s < SHARDS; s++) {
    char name[64];
    snprintf(name, sizeof name, "model-0000%d-of-00003.safetensors", s + 1);
    save(folder, name, shards[s]);
  }
  mr3d_bundle_free(&bundle);
}

/* A folder, its index, and the folder of a single file answer as the file itself does. */
static void every_form_gives_the_files_bits(void **state) {
  (void)state;
  static const mr3d_dtype types[] = {MR3D_F64, MR3D_F32, MR3D_BF16, MR3D_F16};
  for (int t = 0; t < 4; t++)
    for (int untied = 0; untied < 2; untied++) {
      const layer_options options = {.dtype = types[t], .untied = untied, .flat = t % 2};
      char plain[64], sharded[256], single[256], forms[3][400];
      save_decoder(options, plain);
      make_folder(sharded);
      make_folder(single);
      save_sharded(sharded, decoder_weights(options));
      save(single, "model.safetensors", decoder_weights(options));
      snprintf(forms[0], sizeof forms[0], "%s", sharded);
      snprintf(forms[1], sizeof forms[1], "%s/model.safetensors.index.json", sharded);
      snprintf(forms[2], sizeof forms[2], "%s/", single);
      mr3d_server *server = new_server();
      mr3d_bundle *expected = answer(server, prefill("file", plain, CONFIG, true)), *next = answer(server, decode("file"));
      for (int f = 0; f < 3; f++) {
        mr3d_bundle *a = answer(server, prefill(forms[f], forms[f], CONFIG, true));
        assert_same(a, expected);
        done(a);
        a = answer(server, decode(forms[f]));
        assert_same(a, next);
        done(a);
      }
      done(expected), done(next);
      mr3d_server_free(&server);
      unlink(plain);
      remove_folder(sharded);
      remove_folder(single);
    }
}

/* ---- what is refused ---- */

static void an_index_must_tell_the_truth(void **state) {
  (void)state;
  char folder[256], path[400];
  make_folder(folder);
  snprintf(path, sizeof path, "%s/model.safetensors.index.json", folder);
  mr3d_bundle *one = mr3d_bundle_new(), *two = mr3d_bundle_new(), *both = mr3d_bundle_new();
  add_reals(one, "a", 1, SHAPE(2));
  add_reals(two, "b", 1, SHAPE(2));
  add_reals(both, "a", 1, SHAPE(2));
  add_reals(both, "b", 1, SHAPE(2));
  save(folder, "one.safetensors", one);
  save(folder, "two.safetensors", two);
  save(folder, "both.safetensors", both);
  write_text(folder, "broken.safetensors", "not a checkpoint");
  const struct {
    const char *index, *said[3];
  } broken[] = {
      {"{\"weight_map\":{\"a\":\"one.safetensors\",\"b\":\"none.safetensors\"}}", {"none.safetensors", "\"b\"", "No such file"}},
      {"{\"weight_map\":{\"a\":\"one.safetensors\",\"b\":\"one.safetensors\"}}", {"\"b\" is not in one.safetensors", "weight_map"}},
      {"{\"weight_map\":{\"a\":\"both.safetensors\"}}", {"\"b\" is in", "both.safetensors", "weight_map does not list it"}},
      {"{\"weight_map\":{\"a\":\"one.safetensors\",\"b\":\"both.safetensors\"}}", {"\"a\" is in two files", "both.safetensors", "one.safetensors"}},
      {"{\"weight_map\":{\"a\":\"sub/one.safetensors\"}}", {"\"a\" is said to be in \"sub/one.safetensors\"", "without / and .."}},
      {"{\"weight_map\":{\"a\":\"..\"}}", {"\"a\" is said to be in \"..\"", "without / and .."}},
      {"{\"weight_map\":{\"a\":\"\"}}", {"\"a\" is said to be in \"\""}},
      {"{\"weight_map\":{\"a\":3}}", {"\"a\"", "expected the name of its file"}},
      {"{\"weight_map\":{\"a\":\"one.safetensors\",\"a\":\"both.safetensors\"}}", {"\"a\" appears twice"}},
      {"{\"weight_map\":{\"a\":\"broken.safetensors\"}}", {"broken.safetensors", "shard"}},
      {"{\"weight_map\":{}}", {"\"weight_map\" is empty", "{TENSOR: FILE"}},
      {"{\"weight_map\":[]}", {"\"weight_map\" is not an object"}},
      {"{\"hidden_size\":48}", {"\"weight_map\" is missing", "an index of shards is"}},
      {"[]", {"index.json"}},
  };
  mr3d_server *server = new_server();
  for (size_t i = 0; i < sizeof broken / sizeof *broken; i++) {
    write_text(folder, "model.safetensors.index.json", broken[i].index);
    REFUSED(server, prefill("a", path, CONFIG, true), "weights", path, broken[i].said[0], broken[i].said[1], broken[i].said[2]);
  }
  mr3d_server_free(&server);
  remove_folder(folder);
}

static void a_folder_holds_exactly_one_form(void **state) {
  (void)state;
  char folder[256];
  make_folder(folder);
  mr3d_server *server = new_server();
  REFUSED(server, prefill("a", folder, CONFIG, true), folder, "neither model.safetensors nor model.safetensors.index.json", "safetensors file");
  write_text(folder, "pytorch_model.bin", "pickled");
  REFUSED(server, prefill("a", folder, CONFIG, true), "pytorch_model.bin is not read", "safe_serialization=True");
  save_sharded(folder, decoder_weights((layer_options){.dtype = MR3D_F32}));
  done(answer(server, prefill("a", folder, CONFIG, true)));
  save(folder, "model.safetensors", decoder_weights((layer_options){.dtype = MR3D_F32}));
  REFUSED(server, prefill("b", folder, CONFIG, true), folder, "both model.safetensors and model.safetensors.index.json");
  mr3d_server_free(&server);
  remove_folder(folder);
}

/* What is wrong in a shard is said with the shard's name. */
static void a_bad_tensor_is_said_with_its_shard(void **state) {
  (void)state;
  char folder[256];
  make_folder(folder);
  mr3d_bundle *weights = decoder_weights((layer_options){.dtype = MR3D_F32});
  int index = 0;
  while (strcmp(mr3d_bundle_at(weights, index)->name, "model.layers.1.mlp.up_proj.weight") != 0) index++;
  ((float *)mr3d_bundle_at(weights, index)->data)[7] = 1.0f / 0.0f;
  save_sharded(folder, weights);
  char shard[64];
  snprintf(shard, sizeof shard, "model-0000%d-of-00003.safetensors", index % SHARDS + 1);
  mr3d_server *server = new_server();
  REFUSED(server, prefill("a", folder, CONFIG, true), shard, "model.layers.1.mlp.up_proj.weight");
  mr3d_server_free(&server);
  remove_folder(folder);
}

/* ---- identity ---- */

/* Any file that changes makes the checkpoint another one for new sessions. */
static void replaced_shard_is_read_anew(void **state) {
  (void)state;
  char folder[256], command[600], other[256];
  make_folder(folder);
  make_folder(other);
  save_sharded(folder, decoder_weights((layer_options){.dtype = MR3D_F32}));
  mr3d_bundle *changed = decoder_weights((layer_options){.dtype = MR3D_F32});
  for (int i = 1; i < mr3d_bundle_count(changed); i += SHARDS) ((float *)mr3d_bundle_at(changed, i)->data)[0] += 1;
  save_sharded(other, changed);
  mr3d_weights_cache *cache = mr3d_weights_cache_new();
  mr3d_server *server = mr3d_server_new(&(mr3d_server_options){.weights = cache}), *fresh = new_server();
  mr3d_bundle *old = answer(server, prefill("old", folder, CONFIG, true));
  int64_t before = mr3d_weights_cache_converted(cache);
  done(answer(server, prefill("again", folder, CONFIG, true)));
  assert_int_equal(mr3d_weights_cache_converted(cache) - before, HIDDEN + V * HIDDEN); /* found open: only the ends are converted anew */
  mr3d_bundle *expected = answer(fresh, prefill("other", other, CONFIG, true));
  snprintf(command, sizeof command, "mv %s/model-00002-of-00003.safetensors %s/", other, folder);
  assert_int_equal(system(command), 0);
  mr3d_bundle *new = answer(server, prefill("new", folder, CONFIG, true));
  assert_same(new, expected);
  assert_memory_not_equal(reals(new, "hidden"), reals(old, "hidden"), Q * HIDDEN * sizeof(double));
  mr3d_server_free(&server);
  mr3d_server_free(&fresh);
  mr3d_weights_cache_free(&cache);
  done(old), done(new), done(expected);
  remove_folder(folder);
  remove_folder(other);
}

/* A folder that once held shards and now holds one file is read by what it holds now. */
static void a_folder_may_change_its_form(void **state) {
  (void)state;
  char folder[256], path[400];
  make_folder(folder);
  save_sharded(folder, decoder_weights((layer_options){.dtype = MR3D_F32}));
  mr3d_server *server = new_server();
  mr3d_bundle *old = answer(server, prefill("old", folder, CONFIG, true));
  mr3d_bundle *changed = decoder_weights((layer_options){.dtype = MR3D_F32});
  ((float *)mr3d_bundle_find(changed, "model.norm.weight")->data)[0] += 1;
  save(folder, "model.safetensors", changed);
  snprintf(path, sizeof path, "%s/model.safetensors.index.json", folder);
  assert_int_equal(unlink(path), 0);
  mr3d_bundle *new = answer(server, prefill("new", folder, CONFIG, true));
  assert_memory_not_equal(reals(new, "hidden"), reals(old, "hidden"), Q * HIDDEN * sizeof(double));
  mr3d_server_free(&server);
  done(old), done(new);
  remove_folder(folder);
}

/* ---- nothing is read or copied before it is used ---- */

/* Writes the bundle with its data behind a header of odd length: no tensor of more than one byte is aligned. */
static void save_unaligned(mr3d_bundle *bundle, const char *path) {
  void *bytes;
  size_t size;
  mr3d_error error = {0};
  assert_int_equal(mr3d_safetensors_serialize(bundle, &bytes, &size, &error), MR3D_OK);
  mr3d_bundle_free(&bundle);
  unsigned char *start = bytes;
  const size_t header = start[0] | (size_t)start[1] << 8 | (size_t)start[2] << 16;
  const size_t longer = header + 1;
  unsigned char length[8] = {(unsigned char)longer, (unsigned char)(longer >> 8), (unsigned char)(longer >> 16)};
  FILE *file = fopen(path, "w");
  assert_non_null(file);
  assert_int_equal(fwrite(length, 1, 8, file), 8);
  assert_int_equal(fwrite(start + 8, 1, header, file), header);
  assert_int_equal(fputc(' ', file), ' ');
  assert_int_equal(fwrite(start + 8 + header, 1, size - 8 - header, file), size - 8 - header);
  assert_int_equal(fclose(file), 0);
  free(bytes);
}

static void unaligned_tensors_are_the_same_tensors(void **state) {
  (void)state;
  static const mr3d_dtype types[] = {MR3D_F64, MR3D_F32, MR3D_BF16, MR3D_F16};
  for (int t = 0; t < 4; t++) {
    char aligned[64], unaligned[80];
    save_decoder((layer_options){.dtype = types[t]}, aligned);
    snprintf(unaligned, sizeof unaligned, "odd-%s", aligned);
    save_unaligned(decoder_weights((layer_options){.dtype = types[t]}), unaligned);
    mr3d_server *server = new_server();
    mr3d_bundle *a = answer(server, prefill("a", aligned, CONFIG, true)), *b = answer(server, prefill("b", unaligned, CONFIG, true));
    assert_same(a, b);
    done(a), done(b);
    a = answer(server, decode("a")), b = answer(server, decode("b"));
    assert_same(a, b);
    done(a), done(b);
    mr3d_server_free(&server);
    unlink(aligned);
    unlink(unaligned);
  }
}

static double processor_seconds(void) {
  struct timespec now;
  assert_int_equal(clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &now), 0);
  return (double)now.tv_sec + 1e-9 * (double)now.tv_nsec;
}

static int64_t resident_bytes(void) {
  long long pages, resident;
  FILE *file = fopen("/proc/self/statm", "r");
  assert_non_null(file);
  assert_int_equal(fscanf(file, "%lld %lld", &pages, &resident), 2);
  fclose(file);
  return resident * sysconf(_SC_PAGESIZE);
}

/* 2 GiB of holes, as BF16 or as flags, aligned or not: opening takes neither time nor memory for them. */
static void two_gibibytes_are_opened_at_once(void **state) {
  (void)state;
  const int64_t data = (int64_t)1 << 31;
  static const char *const headers[] = {"{\"w\":{\"dtype\":\"BF16\",\"shape\":[1048576,1024],\"data_offsets\":[0,2147483648]}}",
                                        "{\"w\":{\"dtype\":\"BOOL\",\"shape\":[2097152,1024],\"data_offsets\":[0,2147483648]}}"};
  for (int k = 0; k < 4; k++) {
    char folder[256], path[400];
    make_folder(folder);
    snprintf(path, sizeof path, "%s/model.safetensors", folder);
    const size_t length = strlen(headers[k / 2]) + (size_t)k % 2;
    unsigned char start[8] = {(unsigned char)length};
    const int file = open(path, O_CREAT | O_WRONLY, 0600);
    assert_true(file >= 0);
    assert_int_equal(write(file, start, 8), 8);
    assert_int_equal(write(file, headers[k / 2], strlen(headers[k / 2])), strlen(headers[k / 2]));
    assert_int_equal(write(file, " ", (size_t)k % 2), k % 2);
    assert_int_equal(ftruncate(file, 8 + (int64_t)length + data), 0);
    close(file);

    mr3d_weights_cache *cache = mr3d_weights_cache_new();
    mr3d_weights *weights = NULL;
    mr3d_error error = {0};
    const int64_t before = resident_bytes();
    const double start_at = processor_seconds();
    if (mr3d_weights_open(cache, &(mr3d_weights_source){.path = folder}, &weights, &error) != MR3D_OK) fail_msg("%s", error.message);
    const double seconds = processor_seconds() - start_at;
    const int64_t grown = resident_bytes() - before;
    if (!(seconds < 0.1)) fail_msg("opening took %.3f s of processor time", seconds);
    if (grown > (int64_t)16 << 20) fail_msg("opening took %lld bytes of memory", (long long)grown);
    assert_int_equal(mr3d_tensor_count(mr3d_bundle_find(mr3d_weights_tensors(weights), "w")), k < 2 ? data / 2 : data);
    mr3d_weights_release(&weights);
    mr3d_weights_cache_free(&cache);
    remove_folder(folder);
  }
}

/* ---- missing rotary parameters ---- */

static mr3d_server *initialising_server(uint64_t seed) { return mr3d_server_new(&(mr3d_server_options){.threads = 1, .init_missing = true, .init_seed = seed}); }

/* The weights as a user would complete them by docs/generator.md: frequencies base + 0.01 n, weights 1 + 0.01 n, n normal by the tensor's full name. */
static mr3d_bundle *completed(uint64_t seed, layer_options options, const char *kept) {
  mr3d_bundle *wide = decoder_weights(options), *whole = mr3d_bundle_new();
  for (int i = 0; i < mr3d_bundle_count(wide); i++) {
    const mr3d_tensor *tensor = mr3d_bundle_at(wide, i);
    const bool freqs = strstr(tensor->name, "freqs_3d"), rotary = strstr(tensor->name, "_3d_");
    if (!rotary || (kept && strcmp(tensor->name, kept) == 0)) {
      mr3d_bundle_copy(whole, NULL, tensor);
      continue;
    }
    mr3d_tensor *fresh = mr3d_bundle_add(whole, tensor->name, MR3D_F64, tensor->rank, tensor->shape);
    mr3d_random_draw(&(mr3d_draw){.dist = MR3D_NORMAL, .scale = 0.01, .shift = freqs ? 0 : 1}, mr3d_stream_named(seed, tensor->name), fresh);
    static const double base[F] = {1, 0.31622776601683794, 0.1, 0.031622776601683791}; /* 100^(-2f/8) */
    for (int64_t j = 0; freqs && j < mr3d_tensor_count(fresh); j++) ((double *)fresh->data)[j] += base[j % F];
  }
  mr3d_bundle_free(&wide);
  return whole;
}

static void missing_parameters_are_drawn_only_when_asked(void **state) {
  (void)state;
  char bare[64], whole[64], other[64];
  save_decoder((layer_options){.dtype = MR3D_BF16, .no_rotary = true}, bare);
  save_weights(completed(7, (layer_options){.dtype = MR3D_BF16}, NULL), whole);
  save_weights(completed(8, (layer_options){.dtype = MR3D_BF16}, NULL), other);
  mr3d_server *server = new_server(), *drawing = initialising_server(7);
  REFUSED(server, prefill("a", bare, CONFIG, true), bare, "8 tensors are missing", "--init-missing SEED");
  mr3d_bundle *a = answer(drawing, prefill("a", bare, CONFIG, true)), *b = answer(server, prefill("b", whole, CONFIG, true)),
              *c = answer(server, prefill("c", other, CONFIG, true));
  assert_close(reals(a, "hidden"), reals(b, "hidden"), Q * HIDDEN, 1e-14); /* pow is libm's */
  assert_memory_not_equal(reals(b, "hidden"), reals(c, "hidden"), Q * HIDDEN * sizeof(double));
  done(a), done(b), done(c);
  /* what is stored is used; with all of it stored nothing is drawn */
  a = answer(drawing, prefill("d", other, CONFIG, true)), b = answer(server, prefill("d", other, CONFIG, true));
  assert_same(a, b);
  done(a), done(b);
  mr3d_server_free(&server);
  mr3d_server_free(&drawing);
  unlink(bare);
  unlink(whole);
  unlink(other);
}

/* Servers that share a cache share no drawings that differ: by seed, by base, and by whether any were asked for. */
static void drawings_are_told_apart_in_a_shared_cache(void **state) {
  (void)state;
  static const char other_base[] = CONFIG_WITH("\"rope_theta_3d\":10000");
  char bare[64];
  save_decoder((layer_options){.dtype = MR3D_BF16, .no_rotary = true}, bare);
  mr3d_weights_cache *cache = mr3d_weights_cache_new();
  mr3d_server *seven = mr3d_server_new(&(mr3d_server_options){.weights = cache, .init_missing = true, .init_seed = 7}),
              *eight = mr3d_server_new(&(mr3d_server_options){.weights = cache, .init_missing = true, .init_seed = 8}),
              *none = mr3d_server_new(&(mr3d_server_options){.weights = cache});
  mr3d_bundle *a = answer(seven, prefill("a", bare, CONFIG, true)), *b = answer(eight, prefill("b", bare, CONFIG, true)),
              *c = answer(seven, prefill("c", bare, other_base, true)), *again = answer(seven, prefill("d", bare, CONFIG, true));
  assert_same(a, again);
  assert_memory_not_equal(reals(a, "hidden"), reals(b, "hidden"), Q * HIDDEN * sizeof(double));
  assert_memory_not_equal(reals(a, "hidden"), reals(c, "hidden"), Q * HIDDEN * sizeof(double));
  REFUSED(none, prefill("e", bare, CONFIG, true), "8 tensors are missing");
  done(a), done(b), done(c), done(again);
  mr3d_server_free(&seven);
  mr3d_server_free(&eight);
  mr3d_server_free(&none);
  mr3d_weights_cache_free(&cache);
  unlink(bare);
}

/* One tensor of eight is there: it is used, the seven others are reported or drawn. */
static void a_part_may_be_missing(void **state) {
  (void)state;
  static const char kept[] = "model.layers.1.self_attn.freqs_3d_kv";
  char part[64], whole[64];
  mr3d_bundle *held = decoder_weights((layer_options){.dtype = MR3D_F32, .no_rotary = true}), *all = decoder_weights((layer_options){.dtype = MR3D_F32});
  mr3d_bundle_copy(held, NULL, mr3d_bundle_find(all, kept));
  mr3d_bundle_free(&all);
  save_weights(held, part);
  save_weights(completed(7, (layer_options){.dtype = MR3D_F32}, kept), whole);
  mr3d_server *server = new_server(), *drawing = initialising_server(7);
  REFUSED(server, prefill("a", part, CONFIG, true), "7 tensors are missing", "model.layers.0.self_attn.freqs_3d_kv [3,2,4] (in 1 of 2 layers)",
          "model.layers.0.self_attn.freqs_3d_q [3,4,4] (in 2 of 2 layers)");
  mr3d_bundle *a = answer(drawing, prefill("a", part, CONFIG, true)), *b = answer(server, prefill("b", whole, CONFIG, true));
  assert_close(reals(a, "hidden"), reals(b, "hidden"), Q * HIDDEN, 1e-14);
  done(a), done(b);
  /* options that fix the frequencies need none; one set for all axes and no axial weights need two tensors a layer */
  done(answer(server, prefill("c", part, CONFIG_WITH("\"rope_mixed_3d\":false"), true)));
  REFUSED(server, prefill("d", part, CONFIG_WITH("\"mixedRoPE_3d_learned_axial_mixing_weight\":false"), true), "3 tensors are missing");
  mr3d_server_free(&server);
  mr3d_server_free(&drawing);
  unlink(part);
  unlink(whole);
}

/* Only rotary parameters are ever drawn. */
static void nothing_else_is_drawn(void **state) {
  (void)state;
  char path[64];
  mr3d_bundle *all = decoder_weights((layer_options){.dtype = MR3D_F32, .no_rotary = true}), *held = mr3d_bundle_new();
  for (int i = 0; i < mr3d_bundle_count(all); i++)
    if (!strstr(mr3d_bundle_at(all, i)->name, "v_proj.bias")) mr3d_bundle_copy(held, NULL, mr3d_bundle_at(all, i));
  mr3d_bundle_free(&all);
  save_weights(held, path);
  mr3d_server *drawing = initialising_server(7);
  REFUSED(drawing, prefill("a", path, CONFIG, true), "2 tensors are missing: model.layers.0.self_attn.v_proj.bias [32] (in 2 of 2 layers)");
  REFUSED(drawing, prefill("a", path, CONFIG_WITH("\"num_hidden_layers\":1000000000000"), true), "num_hidden_layers");
  mr3d_server_free(&drawing);
  unlink(path);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(every_form_gives_the_files_bits),
      cmocka_unit_test(an_index_must_tell_the_truth),
      cmocka_unit_test(a_folder_holds_exactly_one_form),
      cmocka_unit_test(a_bad_tensor_is_said_with_its_shard),
      cmocka_unit_test(replaced_shard_is_read_anew),
      cmocka_unit_test(a_folder_may_change_its_form),
      cmocka_unit_test(unaligned_tensors_are_the_same_tensors),
      cmocka_unit_test(two_gibibytes_are_opened_at_once),
      cmocka_unit_test(missing_parameters_are_drawn_only_when_asked),
      cmocka_unit_test(drawings_are_told_apart_in_a_shared_cache),
      cmocka_unit_test(a_part_may_be_missing),
      cmocka_unit_test(nothing_else_is_drawn),
  };
  return cmocka_run_group_tests_name("checkpoints", tests, NULL, NULL);
}
