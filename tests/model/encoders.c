/** Point encoders, whole (encoders.md, protocol.md `encode_points`): composition, names and shapes, threads, generated weights, refusals. */
#include "fixture.h"

#include <math.h>

#include "../../ref/base/product.h"
#include "../../ref/model/weights.h"
#include "mr3d/random.h"

/* Widths that all differ where they may; Sonata's first stage has more tokens than a patch. */
#define SCENESCRIPT \
  "{\"point_backbone\":\"scenescript\",\"num_bins\":32,\"downsamplings\":2,\"point_config\":{\"input_channels\":6,\"embed_channels\":20,\"conv_layers\":[4,8,16]}}"
#define SONATA \
  "{\"point_backbone\":\"sonata\",\"num_bins\":32,\"downsamplings\":2,\"projector\":\"mlp\",\"point_config\":{\"in_channels\":6,\"enc_depths\":[2,1,3]," \
  "\"enc_channels\":[6,8,12],\"enc_num_head\":[3,2,3],\"enc_patch_size\":[10,7,64],\"mlp_ratio\":2}}"
enum { ENCODER_HIDDEN = 14, INNER = 9 };

static mr3d_config parsed(const char *json) {
  mr3d_config config;
  mr3d_error error = {0};
  if (mr3d_config_parse(json, &config, &error) != MR3D_OK) fail_msg("%s", error.message);
  return config;
}

/* A weights bundle of the list's names and shapes. */
static mr3d_bundle *encoder_weights(const char *json) {
  const mr3d_config config = parsed(json);
  mr3d_bundle *list = mr3d_encoder_tensors(&config, INNER, ENCODER_HIDDEN), *weights = mr3d_bundle_new();
  for (int i = 0; i < mr3d_bundle_count(list); i++) {
    const mr3d_tensor *t = mr3d_bundle_at(list, i);
    const bool norm = t->rank == 1 && strstr(t->name, ".weight");
    add_reals(weights, t->name, norm ? 0 : 0.4, t->rank, t->shape);
  }
  mr3d_bundle_free(&list);
  return weights;
}

/* Half of the cells of a box of 12 x 6 x 5, sorted; the largest x is even or odd as `largest` says. */
static int64_t add_grid(mr3d_bundle *asked, int64_t channels, int64_t largest) {
  int64_t *cells = malloc((size_t)(3 * 13 * 6 * 5) * sizeof *cells), n = 0;
  for (int64_t i = 0; i < (largest + 1) * 30; i++)
    if (drawn(5, (uint64_t)i) > 0 || i == (largest + 1) * 30 - 1) {
      const int64_t cell[3] = {i / 30, i / 5 % 6, i % 5};
      memcpy(cells + 3 * n++, cell, sizeof cell);
    }
  add_integers(asked, "grid", cells, SHAPE(n, 3));
  add_reals(asked, "features", 1, SHAPE(n, channels));
  free(cells);
  return n;
}

static mr3d_bundle *encode_request(const char *config, const char *path) {
  mr3d_bundle *asked = request("encode_points", config);
  mr3d_bundle_set(asked, "weights", path);
  mr3d_bundle_set(asked, "encoder", strstr(config, "\"sonata\"") ? "sonata" : "scenescript");
  return asked;
}

static const char *const both[] = {SCENESCRIPT, SONATA};

/* ---- answers ---- */

static void coords_are_those_of_token_coords_row_for_row(void **state) {
  (void)state;
  mr3d_server *server = new_server();
  for (int k = 0; k < 2; k++)
    for (int64_t largest = 11; largest <= 12; largest++) {
      char path[64];
      save_weights(encoder_weights(both[k]), path);
      mr3d_bundle *asked = encode_request(both[k], path), *halved = request("token_coords", "{}");
      add_grid(asked, 6, largest);
      mr3d_bundle_copy(halved, "grid", mr3d_bundle_find(asked, "grid"));
      mr3d_bundle_set(halved, "stages", "2");
      mr3d_bundle *encoded = answer(server, asked), *tokens = answer(server, halved);
      const mr3d_tensor *coords = mr3d_bundle_find(encoded, "coords"), *expected = mr3d_bundle_find(tokens, "coords");
      assert_int_equal(coords->dtype, MR3D_I64);
      assert_int_equal(coords->shape[0], expected->shape[0]);
      assert_memory_equal(coords->data, expected->data, (size_t)(3 * coords->shape[0]) * sizeof(int64_t));
      assert_shape(encoded, "features", SHAPE(coords->shape[0], ENCODER_HIDDEN));
      mr3d_bundle_free(&encoded);
      mr3d_bundle_free(&tokens);
      unlink(path);
    }
  mr3d_server_free(&server);
}

static void threads_and_instruction_sets_change_no_bit(void **state) {
  (void)state;
  for (int k = 0; k < 2; k++) {
    char path[64];
    save_weights(encoder_weights(both[k]), path);
    mr3d_bundle *first = NULL;
    for (int threads = 1; threads <= 3; threads++)
      for (int bytes = 16; bytes <= 64; bytes *= 2) {
        mr3d_product_widest(bytes);
        mr3d_server *server = mr3d_server_new(&(mr3d_server_options){.threads = threads});
        mr3d_bundle *asked = encode_request(both[k], path);
        add_grid(asked, 6, 12);
        mr3d_bundle *encoded = answer(server, asked);
        if (first) assert_same(first, encoded);
        if (first) mr3d_bundle_free(&encoded);
        else first = encoded;
        mr3d_server_free(&server);
      }
    mr3d_bundle_free(&first);
    unlink(path);
  }
}

static void an_answer_does_not_depend_on_the_one_before(void **state) {
  (void)state;
  mr3d_server *server = new_server();
  for (int k = 0; k < 2; k++) {
    char path[64];
    save_weights(encoder_weights(both[k]), path);
    mr3d_bundle *answers[3];
    for (int i = 0; i < 3; i++) {
      mr3d_bundle *asked = encode_request(both[k], path);
      add_grid(asked, 6, i == 1 ? 9 : 12);
      answers[i] = answer(server, asked);
    }
    assert_same(answers[0], answers[2]);
    for (int i = 0; i < 3; i++) mr3d_bundle_free(&answers[i]);
    unlink(path);
  }
  mr3d_server_free(&server);
}

static void a_trace_holds_all_points_of_an_encoder_and_no_others(void **state) {
  (void)state;
  static const char *const points[] = {"stage0", "stage0_coords", "stage1", "stage1_coords", "stage2", "stage2_coords", "fourier", "input_proj", "projected", "bottleneck"};
  static const int64_t columns[2][10] = {{4, 3, 8, 3, 16, 3, 63, 20, ENCODER_HIDDEN, 20}, {6, 3, 8, 3, 12, 3, 63, 12, ENCODER_HIDDEN}};
  mr3d_server *server = new_server();
  for (int k = 0; k < 2; k++) {
    char path[64], name[64];
    save_weights(encoder_weights(both[k]), path);
    mr3d_bundle *asked = encode_request(both[k], path);
    const int64_t M = add_grid(asked, 6, 12);
    mr3d_bundle_set(asked, "trace", "encoder.*");
    mr3d_bundle *encoded = answer(server, asked);
    const int64_t N = mr3d_bundle_find(encoded, "coords")->shape[0];
    const int n_points = k ? 9 : 10; /* the bottleneck is SceneScript's */
    assert_int_equal(mr3d_bundle_count(encoded), 2 + n_points);
    for (int i = 0; i < n_points; i++) {
      snprintf(name, sizeof name, "trace.encoder.%s", points[i]);
      const mr3d_tensor *point = mr3d_bundle_find(encoded, name);
      if (!point) fail_msg("%s is missing", name);
      assert_true(point->rank == 2 && point->shape[1] == columns[k][i] && (i == 2 || i == 3 || point->shape[0] == (i < 2 ? M : N)));
    }
    mr3d_bundle_free(&encoded);
    unlink(path);
  }
  mr3d_server_free(&server);
}

static void a_trace_holds_the_stages_and_other_points_are_refused(void **state) {
  (void)state;
  mr3d_server *server = new_server();
  char path[64];
  save_weights(encoder_weights(SONATA), path);
  mr3d_bundle *asked = encode_request(SONATA, path);
  add_grid(asked, 6, 12);
  mr3d_bundle_set(asked, "trace", "encoder.stage[12]*,encoder.projected");
  mr3d_bundle *encoded = answer(server, asked);
  const int64_t N = mr3d_bundle_find(encoded, "coords")->shape[0];
  assert_int_equal(mr3d_bundle_count(encoded), 2 + 5);
  assert_shape(encoded, "trace.encoder.stage2", SHAPE(N, 12));
  assert_memory_equal(mr3d_bundle_find(encoded, "trace.encoder.stage2_coords")->data, mr3d_bundle_find(encoded, "coords")->data, (size_t)(3 * N) * sizeof(int64_t));
  assert_memory_equal(reals(encoded, "trace.encoder.projected"), reals(encoded, "features"), (size_t)(N * ENCODER_HIDDEN) * sizeof(double));
  assert_true(mr3d_bundle_find(encoded, "trace.encoder.stage1")->shape[0] > N);
  mr3d_bundle_free(&encoded);
  static const char *const wrong[] = {"encoder.stag1", "0.query", "model.logits"};
  for (size_t i = 0; i < sizeof wrong / sizeof *wrong; i++) {
    asked = encode_request(SONATA, path);
    add_grid(asked, 6, 12);
    mr3d_bundle_set(asked, "trace", wrong[i]);
    REFUSED(server, asked, "metadata trace", wrong[i], "An encoder has stage0 stage0_coords");
  }
  unlink(path);
  mr3d_server_free(&server);
}

/* ---- composition: which operators are called with what, written down from encoders.md by hand ---- */

static char calls[8192];
static void note(const char *format, ...) PRINTF(1, 2);
static void note(const char *format, ...) {
  va_list arguments;
  va_start(arguments, format);
  vsnprintf(calls + strlen(calls), sizeof calls - strlen(calls), format, arguments);
  va_end(arguments);
}
#define LL long long
static const mr3d_operators *const reference = &mr3d_reference_operators;
static void noted_submanifold(const mr3d_context *c, const mr3d_sparse_conv_in *in, double *y) {
  note("conv%lld %lld>%lld%s%s\n", (LL)in->k, (LL)in->c_in, (LL)in->c_out, in->layout == MR3D_KERNEL_X_FASTEST ? " xfast" : in->layout == MR3D_KERNEL_OUT_FIRST ? " outfirst" : " zfast",
       in->kernel.bias ? " bias" : "");
  reference->submanifold_conv(c, in, y);
}
static void noted_strided(const mr3d_context *c, const mr3d_sparse_conv_in *in, double *y) {
  note("down%lld %lld>%lld%s%s\n", (LL)in->k, (LL)in->c_in, (LL)in->c_out, in->layout == MR3D_KERNEL_Z_FASTEST ? " zfast" : " other", in->kernel.bias ? " bias" : "");
  reference->strided_conv(c, in, y);
}
static void noted_sparse_norm(const mr3d_context *c, const mr3d_norm_in *in, double *y) {
  note("norm/%lld %lld\n", (LL)in->groups, (LL)in->C);
  assert_true(in->eps == 1e-5);
  reference->group_norm_sparse(c, in, y);
}
static void noted_row_norm(const mr3d_context *c, const mr3d_norm_in *in, double *y) {
  note("rownorm/%lld %lld\n", (LL)in->groups, (LL)in->C);
  assert_true(in->eps == 1e-5);
  reference->group_norm_rows(c, in, y);
}
static void noted_layernorm(const mr3d_context *c, const mr3d_norm_in *in, double *y) {
  note("ln %lld\n", (LL)in->C);
  assert_true(in->eps == 1e-5);
  reference->layernorm(c, in, y);
}
static void noted_gelu(const mr3d_context *c, int64_t n, int64_t C, const double *x, double *y) {
  note("gelu %lld\n", (LL)C);
  reference->gelu(c, n, C, x, y);
}
static void noted_relu(const mr3d_context *c, int64_t n, int64_t C, const double *x, double *y) {
  note("relu %lld\n", (LL)C);
  reference->relu(c, n, C, x, y);
}
static void noted_linear(const mr3d_context *c, const mr3d_linear_in *in, double *y) {
  note("linear %lld>%lld\n", (LL)in->in, (LL)in->out);
  reference->linear(c, in, y);
}
static void noted_fourier(const mr3d_context *c, const mr3d_fourier_in *in, double *y) {
  note("fourier %lld\n", (LL)in->reduced_grid_size);
  reference->fourier_features(c, in, y);
}
static void noted_patches(const mr3d_context *c, const mr3d_patches_in *in, mr3d_patches_out *out) {
  note("patches of %lld, stage %lld block %lld of %lld orders\n", (LL)in->patch_size, (LL)in->stage, (LL)in->block, (LL)in->n_orders);
  assert_true(in->orders[0] == MR3D_Z && in->orders[1] == MR3D_Z_TRANS);
  reference->patches(c, in, out);
}
static void noted_attention(const mr3d_context *c, const mr3d_attention_in *in, double *y) {
  if (!strstr(calls + (strlen(calls) > 20 ? strlen(calls) - 20 : 0), "attention")) note("attention %lldx%lld\n", (LL)in->H, (LL)in->D); /* once, not once a run */
  reference->attention(c, in, y);
}

static void assert_calls(const char *config, const char *expected) {
  mr3d_operators noted = mr3d_reference_operators;
  noted.submanifold_conv = noted_submanifold;
  noted.strided_conv = noted_strided;
  noted.group_norm_sparse = noted_sparse_norm;
  noted.group_norm_rows = noted_row_norm;
  noted.layernorm = noted_layernorm;
  noted.gelu = noted_gelu;
  noted.relu = noted_relu;
  noted.linear = noted_linear;
  noted.fourier_features = noted_fourier;
  noted.patches = noted_patches;
  noted.attention = noted_attention;
  char path[64];
  save_weights(encoder_weights(config), path);
  mr3d_server *server = mr3d_server_new(&(mr3d_server_options){.operators = &noted, .threads = 1});
  mr3d_bundle *asked = encode_request(config, path);
  add_grid(asked, 6, 12);
  calls[0] = 0;
  mr3d_bundle *encoded = answer(server, asked);
  assert_string_equal(calls, expected);
  mr3d_bundle_free(&encoded);
  mr3d_server_free(&server);
  unlink(path);
}

#define CONV3(c, groups) "conv3 " #c ">" #c " xfast\nnorm/" #groups " " #c "\nrelu " #c "\n"
#define RES(c, groups) CONV3(c, groups) CONV3(c, groups)
#define DOWN(a, b) "down2 " #a ">" #b " zfast\nnorm/8 " #b "\nrelu " #b "\n"
static void scenescript_is_composed_as_the_page_says(void **state) {
  (void)state;
  assert_calls(SCENESCRIPT,
               "conv7 6>4 xfast\nnorm/4 4\nrelu 4\n" RES(4, 4) /* stem */
               DOWN(4, 8) RES(8, 8) RES(8, 8) DOWN(8, 16) RES(16, 8) RES(16, 8)
               "linear 16>32\nrownorm/8 32\nrelu 32\nlinear 32>20\n" /* bottleneck */
               "fourier 8\nlinear 83>20\n" "linear 20>14\n");
}

#define BLOCK(c, inner, heads, d, size, s, b) \
  "conv3 " #c ">" #c " outfirst bias\nlinear " #c ">" #c "\nln " #c "\n" \
  "patches of " #size ", stage " #s " block " #b " of 2 orders\nln " #c "\nlinear " #c ">3C\nattention " #heads "x" #d "\nlinear " #c ">" #c "\n" \
  "ln " #c "\nlinear " #c ">" #inner "\ngelu " #inner "\nlinear " #inner ">" #c "\n"
#define POOL(a, b) "linear " #a ">" #b "\nln " #b "\ngelu " #b "\n"

/* 3C in the macro's text, as a number. */
static const char *with_qkv(const char *text, char *out) {
  char *to = out;
  for (const char *at = text; *at;) {
    int C, length = 0;
    if (sscanf(at, "linear %d>3C%n", &C, &length) == 1 && length > 0) {
      to += sprintf(to, "linear %d>%d", C, 3 * C);
      at += length;
    } else *to++ = *at++;
  }
  *to = 0;
  return out;
}

static void sonata_is_composed_as_the_page_says(void **state) {
  (void)state;
  static char expected[8192];
  assert_calls(SONATA, with_qkv("linear 6>6\nln 6\ngelu 6\n" BLOCK(6, 12, 3, 2, 10, 0, 0) BLOCK(6, 12, 3, 2, 10, 0, 1)
                                POOL(6, 8) BLOCK(8, 16, 2, 4, 7, 1, 0)
                                POOL(8, 12) BLOCK(12, 24, 3, 4, 64, 2, 0) BLOCK(12, 24, 3, 4, 64, 2, 1) BLOCK(12, 24, 3, 4, 64, 2, 2)
                                "fourier 8\nlinear 75>12\n" "linear 12>9\ngelu 9\nlinear 9>14\n", expected));
}

/* ---- values: networks small enough to be followed by hand ---- */

static void set_all(mr3d_bundle *weights, const char *part, double value) {
  bool found = false;
  for (int i = 0; i < mr3d_bundle_count(weights); i++) {
    mr3d_tensor *t = mr3d_bundle_at(weights, i);
    if (!strstr(t->name, part)) continue;
    found = true;
    for (int64_t k = 0; k < mr3d_tensor_count(t); k++) ((double *)t->data)[k] = value;
  }
  assert_true(found);
}

static void set_eye(mr3d_bundle *weights, const char *name) {
  mr3d_tensor *t = mr3d_bundle_find(weights, name);
  assert_non_null(t);
  for (int64_t r = 0; r < t->shape[0]; r++)
    for (int64_t c = 0; c < t->shape[1]; c++) ((double *)t->data)[r * t->shape[1] + c] = r == c;
}

static mr3d_bundle *encoded(const char *config, mr3d_bundle *weights, int64_t n, const int64_t *cells, const double *features) {
  char path[64];
  save_weights(weights, path);
  mr3d_server *server = new_server();
  mr3d_bundle *asked = encode_request(config, path);
  add_integers(asked, "grid", cells, SHAPE(n, 3));
  memcpy(mr3d_bundle_add(asked, "features", MR3D_F64, SHAPE(n, 6))->data, features, (size_t)(6 * n) * sizeof *features);
  mr3d_bundle *out = answer(server, asked);
  mr3d_server_free(&server);
  unlink(path);
  return out;
}

/* With all branches of the blocks silent, Sonata is embedding, pooling and tail: followed here in long double. */
static void a_sonata_without_blocks_is_embedding_pooling_and_tail(void **state) {
  (void)state;
  static const char config[] =
      "{\"point_backbone\":\"sonata\",\"num_bins\":16,\"downsamplings\":1,\"point_config\":{\"enc_depths\":[1,0],\"enc_channels\":[2,3],\"enc_num_head\":[1,1]}}";
  const int64_t cells[] = {0, 0, 0, /**/ 0, 1, 1, /**/ 6, 3, 2, /**/ 7, 2, 3};
  const double features[24] = {1, 2, 0, 0, 0, 0, /**/ 3, -1, 0, 0, 0, 0, /**/ 0.5, 0.25, 0, 0, 0, 0, /**/ -2, 1, 0, 0, 0, 0};
  mr3d_config parsed_config = parsed(config);
  mr3d_bundle *list = mr3d_encoder_tensors(&parsed_config, 0, 66), *weights = mr3d_bundle_new();
  for (int i = 0; i < mr3d_bundle_count(list); i++) {
    const mr3d_tensor *t = mr3d_bundle_at(list, i);
    add_reals(weights, t->name, 0.7, t->rank, t->shape);
  }
  mr3d_bundle_free(&list);
  set_all(weights, "cpe.2", 0);
  set_all(weights, "attn.proj", 0);
  set_all(weights, "fc2", 0);
  /* the tail hands everything through: 3 channels and 63 Fourier features */
  mr3d_bundle *wide = mr3d_bundle_new();
  for (int i = 0; i < mr3d_bundle_count(weights); i++) {
    const mr3d_tensor *t = mr3d_bundle_at(weights, i);
    if (!strstr(t->name, "point_proj")) mr3d_bundle_copy(wide, NULL, t);
  }
  add_reals(wide, "point_proj.weight", 0.5, SHAPE(66, 3));
  add_reals(wide, "point_proj.bias", 0.5, SHAPE(66));
  const double *lw = values_of(wide, "point_backbone.embedding.stem.linear.weight"), *lb = values_of(wide, "point_backbone.embedding.stem.linear.bias");
  const double *nw = values_of(wide, "point_backbone.embedding.stem.norm.weight"), *nb = values_of(wide, "point_backbone.embedding.stem.norm.bias");
  const double *pw = values_of(wide, "point_backbone.enc.enc1.down.proj.weight"), *pb = values_of(wide, "point_backbone.enc.enc1.down.proj.bias");
  const double *qw = values_of(wide, "point_backbone.enc.enc1.down.norm.0.weight"), *qb = values_of(wide, "point_backbone.enc.enc1.down.norm.0.bias");
  const double *iw = values_of(wide, "point_backbone.input_proj.weight"), *ib = values_of(wide, "point_backbone.input_proj.bias");
  const double *ow = values_of(wide, "point_proj.weight"), *ob = values_of(wide, "point_proj.bias");
  mr3d_bundle *out = encoded(config, wide, 4, cells, features);
  const int64_t coords[] = {0, 0, 0, /**/ 3, 1, 1};
  assert_memory_equal(mr3d_bundle_find(out, "coords")->data, coords, sizeof coords);
  for (int t = 0; t < 2; t++) {
    long double pooled[3] = {-1e9L, -1e9L, -1e9L}, row[66];
    for (int child = 2 * t; child < 2 * t + 2; child++) {
      long double e[2];
      for (int c = 0; c < 2; c++) {
        e[c] = (long double)lb[c];
        for (int i = 0; i < 6; i++) e[c] += (long double)features[6 * child + i] * (long double)lw[6 * c + i];
      }
      const long double mean = (e[0] + e[1]) / 2, spread = sqrtl((e[0] - mean) * (e[0] - mean) + 1e-5L); /* of two values: variance = deviation^2 */
      for (int c = 0; c < 2; c++) {
        e[c] = (e[c] - mean) / spread * (long double)nw[c] + (long double)nb[c];
        e[c] = e[c] / 2 * (1 + erfl(e[c] / sqrtl(2)));
      }
      for (int c = 0; c < 3; c++) pooled[c] = fmaxl(pooled[c], e[0] * (long double)pw[2 * c] + e[1] * (long double)pw[2 * c + 1] + (long double)pb[c]);
    }
    const long double mean = (pooled[0] + pooled[1] + pooled[2]) / 3;
    const long double variance = (powl(pooled[0] - mean, 2) + powl(pooled[1] - mean, 2) + powl(pooled[2] - mean, 2)) / 3;
    for (int c = 0; c < 3; c++) {
      row[c] = (pooled[c] - mean) / sqrtl(variance + 1e-5L) * (long double)qw[c] + (long double)qb[c];
      row[c] = row[c] / 2 * (1 + erfl(row[c] / sqrtl(2)));
    }
    for (int axis = 0; axis < 3; axis++) {
      const long double v = (long double)coords[3 * t + axis] / 7; /* 16 / 2 - 1 */
      row[3 + axis] = v;
      for (int b = 0; b < 10; b++) {
        row[6 + 6 * b + axis] = sinl(3.14159265358979323846264L * (1 + 29.0L * b / 9) * v);
        row[9 + 6 * b + axis] = cosl(3.14159265358979323846264L * (1 + 29.0L * b / 9) * v);
      }
    }
    for (int o = 0; o < 66; o++) {
      long double y = (long double)ob[o];
      for (int c = 0; c < 3; c++) {
        long double inner = (long double)ib[c];
        for (int i = 0; i < 66; i++) inner += row[i] * (long double)iw[66 * c + i];
        y += inner * (long double)ow[3 * o + c];
      }
      const double got = reals(out, "features")[66 * t + o];
      if (!(fabsl((long double)got - y) <= 1e-13L)) fail_msg("token %d, feature %d: %.17g, expected %.17Lg", t, o, got, y);
    }
  }
  mr3d_bundle_free(&out);
  mr3d_bundle_free(&weights);
  const double *const copies[] = {lw, lb, nw, nb, pw, pb, qw, qb, iw, ib, ow, ob};
  for (size_t i = 0; i < sizeof copies / sizeof *copies; i++) free((double *)(uintptr_t)copies[i]);
}

/* SceneScript whose norms give constants, so that only the bottleneck's bias, `input_proj` and the extra embedding are left. */
static void scenescript_adds_the_extra_embedding_behind_input_proj(void **state) {
  (void)state;
  const int64_t cells[] = {0, 0, 0, /**/ 9, 5, 4};
  const double features[12] = {1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12};
  mr3d_bundle *weights = encoder_weights(SCENESCRIPT);
  set_all(weights, "sparse_resnet", 0); /* all norms: weight 0, bias 0 */
  set_all(weights, "input_proj.weight", 0);
  set_all(weights, "extra_embedding", 3);
  set_all(weights, "input_proj.bias", 4);
  set_all(weights, "point_proj.bias", 0);
  set_eye(weights, "point_proj.weight");
  mr3d_bundle *out = encoded(SCENESCRIPT, weights, 2, cells, features);
  for (int i = 0; i < 2 * ENCODER_HIDDEN; i++) assert_true(reals(out, "features")[i] == 7);
  mr3d_bundle_free(&out);
}

/* Values of a narrower type are used exactly, whether they are kept converted or made anew at each use. */
static void stored_types_and_the_cache_change_no_bit(void **state) {
  (void)state;
  for (int k = 0; k < 2; k++) {
    mr3d_bundle *weights = encoder_weights(both[k]), *narrow = mr3d_bundle_new(), *wide = mr3d_bundle_new(), *answers[3];
    char paths[2][64];
    for (int i = 0; i < mr3d_bundle_count(weights); i++) {
      const mr3d_tensor *t = mr3d_bundle_at(weights, i);
      mr3d_tensor *stored = mr3d_bundle_add(narrow, t->name, MR3D_BF16, t->rank, t->shape);
      mr3d_tensor_from_double(stored, t->data);
      mr3d_tensor_to_double(stored, mr3d_bundle_add(wide, t->name, MR3D_F64, t->rank, t->shape)->data);
    }
    mr3d_bundle_free(&weights);
    save_weights(wide, paths[0]);
    save_weights(narrow, paths[1]);
    for (int i = 0; i < 3; i++) {
      mr3d_weights_cache *cache = mr3d_weights_cache_new();
      if (i == 2) mr3d_weights_cache_limit(cache, 0);
      mr3d_server *server = mr3d_server_new(&(mr3d_server_options){.threads = 1, .weights = cache});
      mr3d_bundle *asked = encode_request(both[k], paths[i > 0]);
      add_grid(asked, 6, 12);
      answers[i] = answer(server, asked);
      mr3d_server_free(&server);
      mr3d_weights_cache_free(&cache);
    }
    assert_same(answers[0], answers[1]);
    assert_same(answers[0], answers[2]);
    for (int i = 0; i < 3; i++) mr3d_bundle_free(&answers[i]);
    unlink(paths[0]);
    unlink(paths[1]);
  }
}

/* A tensor that is read under another's name, or not at all, would be one that may change unseen. */
static void every_tensor_of_the_file_matters(void **state) {
  (void)state;
  for (int k = 0; k < 2; k++) {
    mr3d_server *server = new_server();
    mr3d_bundle *weights = encoder_weights(both[k]), *first = NULL;
    for (int changed = -1; changed < mr3d_bundle_count(weights); changed++) {
      char path[64];
      mr3d_bundle *copy = mr3d_bundle_new();
      for (int i = 0; i < mr3d_bundle_count(weights); i++) {
        mr3d_tensor *t = mr3d_bundle_copy(copy, NULL, mr3d_bundle_at(weights, i));
        for (int64_t e = 0; i == changed && e < mr3d_tensor_count(t); e++) ((double *)t->data)[e] += drawn(99, (uint64_t)e);
      }
      save_weights(copy, path);
      mr3d_bundle *asked = encode_request(both[k], path);
      add_grid(asked, 6, 12);
      mr3d_bundle *encoded = answer(server, asked);
      if (first && memcmp(reals(first, "features"), reals(encoded, "features"), sizeof(double) * ENCODER_HIDDEN) == 0)
        fail_msg("%s changes nothing", mr3d_bundle_at(weights, changed)->name);
      if (first) mr3d_bundle_free(&encoded);
      else first = encoded;
      unlink(path);
    }
    mr3d_bundle_free(&first);
    mr3d_bundle_free(&weights);
    mr3d_server_free(&server);
  }
}

/* ---- generated weights ---- */

static double three_digits(double x) {
  char text[32];
  snprintf(text, sizeof text, "%.3g", x);
  return strtod(text, NULL);
}

/* The recipe of docs/generator.md, written down anew. */
static void draw_documented(const mr3d_tensor *like, uint64_t seed, const char *set, mr3d_bundle *weights) {
  const char *name = like->name;
  const int64_t *s = like->shape;
  mr3d_draw draw = {.dist = MR3D_HEAVY, .scale = 0.1};
  double rms = 1, inputs = 0;
  if (strstr(name, "kernel")) inputs = s[0] == 343 ? 49 * (double)s[1] : s[0] == 27 ? 9 * (double)s[1] : 4 * (double)s[1];
  else if (like->rank == 5) inputs = 9 * (double)s[4];
  else if (like->rank == 2) inputs = (double)s[1];
  if (strstr(name, "qkv")) rms = 1.5;
  if (strcmp(name, "point_proj.weight") == 0 || strcmp(name, "point_proj.2.weight") == 0) rms = 0.1;
  if (like->rank > 1) draw.scale = three_digits(rms / (2.27 * sqrt(inputs)));
  else if (strstr(name, ".weight")) draw = (mr3d_draw){.dist = MR3D_UNIFORM, .lo = 0.2, .hi = 2, .scale = 1};
  char stream[200];
  snprintf(stream, sizeof stream, "%s/%s", set, name);
  mr3d_random_draw(&draw, mr3d_stream_named(seed, stream), mr3d_bundle_add(weights, name, MR3D_F64, like->rank, like->shape));
}

static void generated_weights_are_those_of_the_documented_recipe(void **state) {
  (void)state;
  mr3d_server *server = new_server();
  for (int k = 0; k < 2; k++) {
    char config_text[600], path[64];
    snprintf(config_text, sizeof config_text, "{\"hidden_size\":%d,%s", ENCODER_HIDDEN, both[k] + 1);
    const mr3d_config config = parsed(config_text);
    mr3d_bundle *list = mr3d_encoder_tensors(&config, ENCODER_HIDDEN, ENCODER_HIDDEN), *weights = mr3d_bundle_new();
    for (int i = 0; i < mr3d_bundle_count(list); i++) draw_documented(mr3d_bundle_at(list, i), 5, "tiny", weights);
    mr3d_bundle_free(&list);
    save_weights(weights, path);
    mr3d_bundle *answers[2];
    for (int i = 0; i < 2; i++) {
      mr3d_bundle *asked = encode_request(config_text, i ? "generated:5/tiny" : path);
      add_grid(asked, 6, 12);
      answers[i] = answer(server, asked);
    }
    assert_same(answers[0], answers[1]);
    mr3d_bundle *other = encode_request(config_text, "generated:6/tiny");
    add_grid(other, 6, 12);
    mr3d_bundle *different = answer(server, other);
    assert_true(reals(different, "features")[0] != reals(answers[0], "features")[0]);
    mr3d_bundle_free(&different);
    for (int i = 0; i < 2; i++) mr3d_bundle_free(&answers[i]);
    unlink(path);
  }
  mr3d_bundle *asked = encode_request(SONATA, "generated:5");
  add_grid(asked, 6, 12);
  REFUSED(server, asked, "generated:5", "hidden_size is needed");
  mr3d_server_free(&server);
}

/* ---- refusals ---- */

static void refuse_grid(mr3d_server *server, const char *path, const char *config, int64_t n, const int64_t *cells, const char *a, const char *b) {
  mr3d_bundle *asked = encode_request(config, path);
  add_integers(asked, "grid", cells, SHAPE(n, 3));
  add_reals(asked, "features", 1, SHAPE(n, 6));
  REFUSED(server, asked, "encode_points", a, b);
}

static void grids_that_are_none_are_refused(void **state) {
  (void)state;
  mr3d_server *server = new_server();
  for (int k = 0; k < 2; k++) {
    char path[64];
    save_weights(encoder_weights(both[k]), path);
    refuse_grid(server, path, both[k], 0, (int64_t[]){0}, "grid has 0 rows", "at least one");
    refuse_grid(server, path, both[k], 2, (int64_t[]){1, 2, 3, 1, 2, 2}, "grid[1] is (1, 2, 2), after (1, 2, 3)", "sorted by x, then y, then z");
    refuse_grid(server, path, both[k], 2, (int64_t[]){1, 2, 3, 0, 5, 5}, "grid[1] is (0, 5, 5)", "sorted");
    refuse_grid(server, path, both[k], 3, (int64_t[]){0, 0, 0, 1, 2, 3, 1, 2, 3}, "grid[1] and grid[2] are both (1, 2, 3)", "distinct");
    refuse_grid(server, path, both[k], 2, (int64_t[]){0, -1, 0, 1, 2, 3}, "grid[0] is (0, -1, 0)", "0 or more");
    refuse_grid(server, path, both[k], 2, (int64_t[]){1, 2, 3, 1, 2, 32}, "grid[1] is (1, 2, 32)", "num_bins is 32, so the last index is 31");
    unlink(path);
  }
  mr3d_server_free(&server);
}

static void weights_that_lack_or_misshape_tensors_are_refused_by_name(void **state) {
  (void)state;
  mr3d_server *server = new_server();
  const struct {
    const char *config, *tensor, *words;
  } cases[] = {
      {SCENESCRIPT, "point_backbone.sparse_resnet.blocks.1.2.block1.0.kernel", "[27,16,16]"},
      {SCENESCRIPT, "point_backbone.extra_embedding", "[20]"},
      {SCENESCRIPT, "point_proj.weight", "[14,20]"},
      {SONATA, "point_backbone.enc.enc2.block1.cpe.0.weight", "[12,3,3,3,12]"},
      {SONATA, "point_backbone.enc.enc1.down.norm.0.bias", "[8]"},
      {SONATA, "point_proj.2.bias", "[14]"},
  };
  for (size_t k = 0; k < sizeof cases / sizeof *cases; k++)
    for (int misshaped = 0; misshaped < 2; misshaped++) {
      char path[64];
      mr3d_bundle *all = encoder_weights(cases[k].config), *some = mr3d_bundle_new();
      char config[600];
      snprintf(config, sizeof config, "{\"hidden_size\":%d,%s", ENCODER_HIDDEN, cases[k].config + 1);
      for (int i = 0; i < mr3d_bundle_count(all); i++) {
        const mr3d_tensor *t = mr3d_bundle_at(all, i);
        if (strcmp(t->name, cases[k].tensor) != 0) mr3d_bundle_copy(some, NULL, t);
        else if (misshaped) add_reals(some, t->name, 1, SHAPE(2, 3, 4, 5));
      }
      mr3d_bundle_free(&all);
      save_weights(some, path);
      mr3d_bundle *asked = encode_request(config, path);
      add_grid(asked, 6, 12);
      if (misshaped) REFUSED(server, asked, path, cases[k].tensor, "has shape [2,3,4,5]", cases[k].words);
      else REFUSED(server, asked, path, "1 of", "missing", cases[k].tensor, cases[k].words);
      unlink(path);
    }
  char path[64];
  save_weights(encoder_weights(SCENESCRIPT), path);
  mr3d_bundle *asked = encode_request(SONATA, path);
  add_grid(asked, 6, 12);
  REFUSED(server, asked, "124 of 126 tensors of the point encoder are missing", "point_backbone.embedding.stem.linear.weight [6,6]", "and 119 more");
  unlink(path);
  mr3d_server_free(&server);
}

static void what_the_encoder_is_must_be_said_and_agree(void **state) {
  (void)state;
  mr3d_server *server = new_server();
  char path[64];
  save_weights(encoder_weights(SONATA), path);
  mr3d_bundle *asked = encode_request(SONATA, path);
  add_grid(asked, 6, 12);
  mr3d_bundle_set(asked, "encoder", "scenescript");
  REFUSED(server, asked, "metadata encoder is \"scenescript\"", "point_backbone \"sonata\"");
  asked = encode_request(SONATA, path);
  add_grid(asked, 6, 12);
  mr3d_bundle_set(asked, "encoder", "ptv3");
  REFUSED(server, asked, "metadata encoder is \"ptv3\"", "\"scenescript\" or \"sonata\"");
  asked = request("encode_points", "{}");
  mr3d_bundle_set(asked, "weights", path);
  add_grid(asked, 6, 12);
  REFUSED(server, asked, "metadata encoder is missing");
  asked = request("encode_points", SONATA);
  add_grid(asked, 6, 12);
  REFUSED(server, asked, "metadata weights is missing");
  asked = encode_request(SONATA, path);
  add_grid(asked, 5, 12);
  REFUSED(server, asked, "features has shape", "C = 6 (point_config in_channels)");
  /* either alone is enough */
  asked = request("encode_points", SONATA);
  mr3d_bundle_set(asked, "weights", path);
  add_grid(asked, 6, 12);
  mr3d_bundle *configured = answer(server, asked);
  char config[600];
  snprintf(config, sizeof config, "{%s", strchr(SONATA, ',') + 1);
  asked = encode_request(SONATA, path);
  mr3d_bundle_set(asked, "config", config);
  add_grid(asked, 6, 12);
  mr3d_bundle *named = answer(server, asked);
  assert_same(configured, named);
  mr3d_bundle_free(&configured);
  mr3d_bundle_free(&named);
  unlink(path);
  mr3d_server_free(&server);
}

static void values_that_are_not_finite_are_refused_by_name(void **state) {
  (void)state;
  mr3d_server *server = new_server();
  char path[64];
  mr3d_bundle *weights = encoder_weights(SONATA);
  ((double *)mr3d_bundle_find(weights, "point_backbone.enc.enc2.block2.mlp.0.fc2.bias")->data)[5] = NAN;
  save_weights(weights, path);
  mr3d_bundle *asked = encode_request(SONATA, path);
  add_grid(asked, 6, 12);
  REFUSED(server, asked, path, "point_backbone.enc.enc2.block2.mlp.0.fc2.bias[5] is NaN");
  asked = encode_request(SONATA, path);
  const int64_t n = add_grid(asked, 6, 12);
  ((double *)mr3d_bundle_find(asked, "features")->data)[6 * n - 1] = INFINITY;
  REFUSED(server, asked, "features[", "is infinity");
  unlink(path);
  mr3d_server_free(&server);
}

static void a_grid_of_one_reduced_cell_is_refused(void **state) {
  (void)state;
  mr3d_server *server = new_server();
  char path[64], config[600];
  save_weights(encoder_weights(SCENESCRIPT), path);
  snprintf(config, sizeof config, "{\"reduced_grid_size\":1,%s", both[0] + 1);
  mr3d_bundle *asked = encode_request(config, path);
  add_grid(asked, 6, 12);
  REFUSED(server, asked, "reduced_grid_size is 1", "at least 2");
  unlink(path);
  mr3d_server_free(&server);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(coords_are_those_of_token_coords_row_for_row),
      cmocka_unit_test(threads_and_instruction_sets_change_no_bit),
      cmocka_unit_test(an_answer_does_not_depend_on_the_one_before),
      cmocka_unit_test(a_trace_holds_all_points_of_an_encoder_and_no_others),
      cmocka_unit_test(a_trace_holds_the_stages_and_other_points_are_refused),
      cmocka_unit_test(scenescript_is_composed_as_the_page_says),
      cmocka_unit_test(sonata_is_composed_as_the_page_says),
      cmocka_unit_test(a_sonata_without_blocks_is_embedding_pooling_and_tail),
      cmocka_unit_test(scenescript_adds_the_extra_embedding_behind_input_proj),
      cmocka_unit_test(stored_types_and_the_cache_change_no_bit),
      cmocka_unit_test(every_tensor_of_the_file_matters),
      cmocka_unit_test(generated_weights_are_those_of_the_documented_recipe),
      cmocka_unit_test(grids_that_are_none_are_refused),
      cmocka_unit_test(weights_that_lack_or_misshape_tensors_are_refused_by_name),
      cmocka_unit_test(what_the_encoder_is_must_be_said_and_agree),
      cmocka_unit_test(values_that_are_not_finite_are_refused_by_name),
      cmocka_unit_test(a_grid_of_one_reduced_cell_is_refused),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
