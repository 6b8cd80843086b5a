/** Requests of single operators: names, types and shapes of the answers, and every form in which an input may come. */
#include <math.h>

#include "../../ref/model/request.h"
#include "fixture.h"

enum { Q = 5, N = 3 };

static void done(mr3d_bundle *a) { mr3d_bundle_free(&a); }

/* The answer holds exactly these tensors: "NAME TYPE [SHAPE]" each. */
static void assert_holds(const mr3d_bundle *a, int count, const char *const *lines) {
  assert_int_equal(mr3d_bundle_count(a), count);
  for (int i = 0; i < count; i++) {
    char is[200], shape[96];
    const mr3d_tensor *tensor = mr3d_bundle_at(a, i);
    snprintf(is, sizeof is, "%s %s %s", tensor->name, mr3d_dtype_name(tensor->dtype), mr3d_shape_text(tensor->rank, tensor->shape, shape));
    assert_string_equal(is, lines[i]);
  }
}
#define HOLDS(a, ...) assert_holds(a, sizeof((const char *const[]){__VA_ARGS__}) / sizeof(const char *), (const char *const[]){__VA_ARGS__})

static void assert_integers(const mr3d_bundle *a, const char *name, int count, const int64_t *values) {
  const mr3d_tensor *tensor = mr3d_bundle_find(a, name);
  assert_non_null(tensor);
  assert_int_equal(mr3d_tensor_count(tensor), count);
  for (int i = 0; i < count; i++) assert_int_equal(((int64_t *)tensor->data)[i], values[i]);
}

static void splice_answers_sources_and_labels_when_given(void **state) {
  (void)state;
  static const int64_t ids[] = {7, 40, 42, 41, 8, 7, 40, 41, 9, 9}, counts[] = {1, 3}, labels[] = {0, 1, 2, 3, 4, 5, 6, 7, 8, 9};
  static const int64_t sources[] = {0, 1, -1, 3, 4, 4, 4, 4, 0, 1, -1, -2, -3, 2, 3, 4}, masks[] = {1, 1, 1, 1, 1, 0, 0, 0, 1, 1, 1, 1, 1, 1, 1, 1};
  static const int64_t spliced[] = {0, 1, -100, 3, 4, -100, -100, -100, 5, 6, -100, -100, -100, 7, 8, 9};
  mr3d_server *server = new_server();
  for (int given = 0; given < 2; given++) {
    mr3d_bundle *r = request("splice", "{\"point_start_token_id\":40,\"point_end_token_id\":41}");
    add_integers(r, "input_ids", ids, SHAPE(2, 5));
    add_filled(r, "attention_mask", 1, SHAPE(2, 5));
    add_integers(r, "point_counts", counts, SHAPE(2));
    if (given) add_integers(r, "labels", labels, SHAPE(2, 5));
    mr3d_bundle *a = answer(server, r);
    if (given)
      HOLDS(a, "source I64 [2,8]", "attention_mask I64 [2,8]", "point_token_mask BOOL [2,8]", "labels I64 [2,8]");
    else
      HOLDS(a, "source I64 [2,8]", "attention_mask I64 [2,8]", "point_token_mask BOOL [2,8]");
    assert_integers(a, "source", 16, sources);
    assert_integers(a, "attention_mask", 16, masks);
    if (given) assert_integers(a, "labels", 16, spliced);
    for (int i = 0; i < 16; i++) assert_int_equal(((bool *)mr3d_bundle_find(a, "point_token_mask")->data)[i], sources[i] < 0);
    done(a);
  }
  mr3d_server_free(&server);
}

static void mask_without_masks_is_causal_for_one_sample(void **state) {
  (void)state;
  mr3d_server *server = new_server();
  mr3d_bundle *r = request("mask", "{}");
  mr3d_bundle_set(r, "past_len", "2");
  mr3d_bundle_set(r, "q_len", "3");
  mr3d_bundle *a = answer(server, r);
  HOLDS(a, "visible BOOL [1,3,5]");
  for (int i = 0; i < 3; i++)
    for (int j = 0; j < 5; j++) assert_int_equal(((bool *)mr3d_bundle_find(a, "visible")->data)[i * 5 + j], j <= 2 + i);
  done(a);
  mr3d_server_free(&server);
}

/* Under spliced the prefill mask counts; without one the key mask counts as the prefill mask. */
static void spliced_mask_comes_from_either_mask(void **state) {
  (void)state;
  static const int64_t zeros_inside[] = {1, 0, 0};
  mr3d_server *server = new_server();
  mr3d_bundle *answers[3];
  for (int k = 0; k < 3; k++) {
    mr3d_bundle *r = request("mask", "{\"decode_mask\":\"spliced\"}");
    mr3d_bundle_set(r, "past_len", "4");
    mr3d_bundle_set(r, "q_len", "1");
    if (k != 1) add_integers(r, "prefill_mask", zeros_inside, SHAPE(1, 3));
    if (k == 1) add_integers(r, "key_mask", zeros_inside, SHAPE(1, 3));
    if (k == 2) add_filled(r, "key_mask", 0, SHAPE(1, 5));
    answers[k] = answer(server, r);
  }
  static const bool visible[] = {true, false, false, true, true};
  assert_memory_equal(mr3d_bundle_find(answers[0], "visible")->data, visible, sizeof visible);
  assert_same(answers[0], answers[1]);
  assert_same(answers[0], answers[2]);
  for (int k = 0; k < 3; k++) done(answers[k]);
  mr3d_server_free(&server);
}

static void one_row_of_positions_serves_all_samples(void **state) {
  (void)state;
  static const int64_t positions[] = {3, 1, 400, 0, 9, 3, 1, 400, 0, 9};
  mr3d_server *server = new_server();
  mr3d_bundle *answers[2];
  for (int rows = 1; rows <= 2; rows++) {
    mr3d_bundle *r = request("rope1d", "{\"rope_theta\":100.0}");
    add_reals(r, "x", 1, SHAPE(2, 3, Q, D));
    add_integers(r, "position_ids", positions, SHAPE(rows, Q));
    answers[rows - 1] = answer(server, r);
  }
  HOLDS(answers[0], "y F64 [2,3,5,16]");
  assert_same(answers[0], answers[1]);
  done(answers[0]), done(answers[1]);
  mr3d_server_free(&server);
}

static void shared_frequencies_are_three_equal_sets(void **state) {
  (void)state;
  mr3d_server *server = new_server();
  mr3d_bundle *answers[2];
  for (int shared = 0; shared < 2; shared++) {
    mr3d_bundle *r = request("cis3d", "{}"), *one = mr3d_bundle_new();
    double *freqs = add_reals(one, "freqs", 1, SHAPE(1, H, F))->data, *to = mr3d_bundle_add(r, "freqs", MR3D_F64, SHAPE(shared ? 1 : 3, H, F))->data;
    for (int axis = 0; axis < (shared ? 1 : 3); axis++) memcpy(to + axis * H * F, freqs, H * F * sizeof *to);
    add_reals(r, "axial_weights", 0, SHAPE(H, F, 3));
    add_reals(r, "coords", 9, SHAPE(N, 3));
    answers[shared] = answer(server, r);
    done(one);
  }
  HOLDS(answers[0], "cos F64 [4,3,4]", "sin F64 [4,3,4]");
  assert_same(answers[0], answers[1]);
  done(answers[0]), done(answers[1]);
  mr3d_server_free(&server);
}

/* Without freqs, cis3d uses the base frequencies 100^(-2f/Ds), for as many heads as metadata says. */
static void cis3d_without_frequencies_uses_the_base(void **state) {
  (void)state;
  mr3d_server *server = new_server();
  mr3d_bundle *given = request("cis3d", "{}"), *absent = request("cis3d", "{\"head_dim\":16,\"rope_mixed_3d\":false}");
  double *freqs = mr3d_bundle_add(given, "freqs", MR3D_F64, SHAPE(1, 2, F))->data;
  mr3d_config config;
  mr3d_error error = {0};
  assert_int_equal(mr3d_config_parse("{}", &config, &error), MR3D_OK);
  double base[3 * 2 * F];
  assert_int_equal(mr3d_base_frequencies(&config, 2, F, base, &error), MR3D_OK);
  memcpy(freqs, base, 2 * F * sizeof *freqs);
  mr3d_bundle_set(absent, "heads", "2");
  add_filled(given, "coords", 31, SHAPE(N, 3));
  add_filled(absent, "coords", 31, SHAPE(N, 3));
  mr3d_bundle *a = answer(server, given), *b = answer(server, absent);
  HOLDS(b, "cos F64 [2,3,4]", "sin F64 [2,3,4]");
  assert_same(a, b);
  done(a), done(b);
  mr3d_server_free(&server);
}

/* Learned frequencies may be missing where there is nothing to turn: no points, or no spatial dimensions. */
static void cis3d_without_points_or_bins_needs_no_frequencies(void **state) {
  (void)state;
  mr3d_server *server = new_server();
  mr3d_bundle *pointless = request("cis3d", "{\"head_dim\":16}");
  mr3d_bundle *binless = request("cis3d", "{\"head_dim\":16,\"spatial_temporal_separate_strategy\":\"full_temporal\"}");
  mr3d_bundle_set(pointless, "heads", "2");
  mr3d_bundle_set(binless, "heads", "2");
  add_filled(pointless, "coords", 0, SHAPE(0, 3));
  add_filled(binless, "coords", 1, SHAPE(N, 3));
  mr3d_bundle *a = answer(server, pointless), *b = answer(server, binless);
  HOLDS(a, "cos F64 [2,0,4]", "sin F64 [2,0,4]");
  HOLDS(b, "cos F64 [2,3,0]", "sin F64 [2,3,0]");
  done(a), done(b);
  mr3d_server_free(&server);
}

/* Coordinates come as I64, F32 or F64, cos and sin as F32 or F64, at every tier. */
static void coordinates_and_angles_come_in_their_own_types(void **state) {
  (void)state;
  static const mr3d_dtype types[] = {MR3D_I64, MR3D_F32, MR3D_F64};
  mr3d_server *server = new_server();
  mr3d_bundle *first = NULL;
  for (int t = 0; t < 3; t++) {
    mr3d_bundle *r = request("normalize_coords", "{\"coord_norm\":\"unit_range\"}");
    mr3d_bundle_set(r, "tier", "bf16");
    double values[N * 3];
    for (int i = 0; i < N * 3; i++) values[i] = 7 * i * i % 80;
    mr3d_tensor_from_double(mr3d_bundle_add(r, "coords", types[t], SHAPE(N, 3)), values);
    mr3d_bundle *a = answer(server, r);
    HOLDS(a, "coords F64 [3,3]");
    if (first) {
      assert_same(a, first);
      done(a);
    } else {
      first = a;
    }
  }
  done(first);
  mr3d_bundle *answers[2];
  for (int wide = 0; wide < 2; wide++) {
    mr3d_bundle *r = request("rope3d", "{}");
    mr3d_bundle_set(r, "tier", "fp16");
    add_reals_seeded(r, "x", 3, MR3D_F16, 1, SHAPE(2, 2, N, 8));
    double table[2 * N * 4];
    for (int i = 0; i < 2 * N * 4; i++) table[i] = (double)(float)drawn(8, (uint64_t)i);
    mr3d_tensor_from_double(mr3d_bundle_add(r, "cos", wide ? MR3D_F64 : MR3D_F32, SHAPE(2, N, 4)), table);
    mr3d_tensor_from_double(mr3d_bundle_add(r, "sin", wide ? MR3D_F64 : MR3D_F32, SHAPE(2, N, 4)), table);
    answers[wide] = answer(server, r);
  }
  HOLDS(answers[0], "y F64 [2,2,3,8]");
  assert_same(answers[0], answers[1]);
  done(answers[0]), done(answers[1]);
  mr3d_server_free(&server);
}

static void rows_beyond_a_count_are_zero(void **state) {
  (void)state;
  static const int64_t counts[] = {1, 3};
  mr3d_server *server = new_server();
  mr3d_bundle *r = request("normalize_coords", "{\"coord_norm\":\"none\",\"drift\":\"average\"}");
  add_filled(r, "coords", 10, SHAPE(2, N, 3));
  add_integers(r, "point_counts", counts, SHAPE(2));
  mr3d_bundle *a = answer(server, r);
  HOLDS(a, "coords F64 [2,3,3]");
  for (int i = 0; i < 2 * N * 3; i++) assert_true(reals(a, "coords")[i] == (i < 3 ? 10.5 : i < 9 ? 0 : 11.5));
  done(a);
  mr3d_server_free(&server);
}

static mr3d_bundle *mixed(const char *config, bool point_tensors, bool rotary, bool batched) {
  mr3d_bundle *r = request("mixed_rope", config);
  const int64_t counts[] = {N};
  add_reals(r, "query", 1, SHAPE(1, H, Q, D));
  add_reals(r, "key", 1, SHAPE(1, G, Q, D));
  if (point_tensors) {
    add_points(r, 1, Q, 1, N, counts);
    mr3d_tensor *coords = mr3d_bundle_find(r, "point_coords");
    if (!batched) { /* [N,3] */
      coords->rank = 2;
      coords->shape[0] = N, coords->shape[1] = 3;
    }
  }
  if (rotary) {
    add_reals(r, "freqs_q", 1, SHAPE(3, H, F));
    add_reals(r, "axial_weights_q", 0, SHAPE(H, F, 3));
    add_reals(r, "freqs_kv", 1, SHAPE(3, G, F));
    add_reals(r, "axial_weights_kv", 0, SHAPE(G, F, 3));
  }
  return r;
}

static void mixed_rope_takes_both_shapes_of_coordinates(void **state) {
  (void)state;
  mr3d_server *server = new_server();
  mr3d_bundle *a = answer(server, mixed(CONFIG, true, true, true)), *b = answer(server, mixed(CONFIG, true, true, false));
  HOLDS(a, "query F64 [1,4,5,16]", "key F64 [1,2,5,16]");
  assert_same(a, b);
  done(a), done(b);
  mr3d_server_free(&server);
}

/* Positions are 0 .. S-1 where none are given; sizes come from the tensors where the configuration is silent. */
static void mixed_rope_has_defaults(void **state) {
  (void)state;
  static const int64_t positions[] = {0, 1, 2, 3, 4};
  mr3d_server *server = new_server();
  mr3d_bundle *r = mixed("{\"rope_theta\":10000}", true, true, true);
  add_integers(r, "position_ids", positions, SHAPE(1, Q));
  mr3d_bundle *a = answer(server, r), *b = answer(server, mixed(CONFIG, true, true, true));
  assert_same(a, b);
  done(a), done(b);
  mr3d_server_free(&server);
}

/* Without points rotary parameters may be absent or there, and text turns the same. */
static void text_needs_no_rotary_parameters(void **state) {
  (void)state;
  mr3d_server *server = new_server();
  mr3d_bundle *a = answer(server, mixed(CONFIG, false, true, true)), *b = answer(server, mixed(CONFIG, false, false, true));
  assert_same(a, b);
  done(a), done(b);
  const char *const fixed[] = {"\"rope_mixed_3d\":false", "\"rope_3d_kind\":\"axial\"", "\"spatial_temporal_separate_strategy\":\"full_temporal\""};
  for (int i = 0; i < 3; i++) { /* nor do points where the options fix the frequencies */
    char config[400];
    snprintf(config, sizeof config, "{\"rope_theta\":10000,%s}", fixed[i]);
    a = answer(server, mixed(config, true, false, true));
    done(a);
  }
  mr3d_server_free(&server);
}

static void norms_products_and_gates_keep_leading_sizes(void **state) {
  (void)state;
  mr3d_server *server = new_server();
  for (int rank = 0; rank < 4; rank++) {
    static const int64_t lead[] = {2, 3, 1};
    int64_t x_shape[4], gate_shape[4];
    for (int d = 0; d < rank; d++) x_shape[d] = gate_shape[d] = lead[d];
    x_shape[rank] = 7;
    char lines[3][64], x_text[96];
    mr3d_shape_text(rank + 1, x_shape, x_text);
    snprintf(lines[0], sizeof lines[0], "y F64 %.40s", x_text);
    x_shape[rank] = 4;
    mr3d_shape_text(rank + 1, x_shape, x_text);
    snprintf(lines[1], sizeof lines[1], "y F64 %.40s", x_text);
    mr3d_shape_text(rank, gate_shape, x_text);
    snprintf(lines[2], sizeof lines[2], "y F64 %.40s", x_text);
    x_shape[rank] = 7;

    mr3d_bundle *norm = request("rmsnorm", "{\"rms_norm_eps\":1e-6}"), *linear = request("linear", "{}"), *gate = request("swiglu", "{}");
    add_reals(norm, "x", 1, rank + 1, x_shape);
    add_reals(norm, "weight", 0, SHAPE(7));
    add_reals(linear, "x", 1, rank + 1, x_shape);
    add_reals(linear, "weight", 1, SHAPE(4, 7));
    add_reals(gate, "gate", 1, rank, gate_shape);
    add_reals(gate, "up", 1, rank, gate_shape);
    mr3d_bundle *asked[] = {norm, linear, gate};
    for (int k = 0; k < 3; k++) {
      mr3d_bundle *a = answer(server, asked[k]);
      HOLDS(a, lines[k]);
      done(a);
    }
  }
  mr3d_server_free(&server);
}

/* Sizes of 0 are legal: no columns, or no rows, give nothing, and a product over nothing its bias. */
static void sizes_of_0_are_answered(void **state) {
  (void)state;
  mr3d_server *server = new_server();
  for (int k = 0; k < 2; k++) {
    const int64_t rows = k == 0 ? 2 : 0, n = k == 0 ? 0 : 7;
    mr3d_bundle *norm = request("rmsnorm", "{\"rms_norm_eps\":1e-6}"), *linear = request("linear", "{}"), *gate = request("swiglu", "{}");
    add_reals(norm, "x", 1, SHAPE(rows, n));
    add_reals(norm, "weight", 0, SHAPE(n));
    add_reals(linear, "x", 1, SHAPE(rows, n));
    add_reals(linear, "weight", 1, SHAPE(4, n));
    const double *bias = add_reals(linear, "bias", 1, SHAPE(4))->data;
    const double kept[4] = {bias[0], bias[1], bias[2], bias[3]};
    add_reals(gate, "gate", 1, SHAPE(rows, n));
    add_reals(gate, "up", 1, SHAPE(rows, n));
    mr3d_bundle *a = answer(server, norm), *b = answer(server, linear), *c = answer(server, gate);
    assert_shape(a, "y", SHAPE(rows, n));
    assert_shape(b, "y", SHAPE(rows, 4));
    assert_shape(c, "y", SHAPE(rows, n));
    for (int64_t i = 0; i < rows * 4; i++) assert_true(reals(b, "y")[i] == kept[i % 4]);
    done(a), done(b), done(c);
  }
  mr3d_server_free(&server);
}

/* A request may own more pieces of memory than any operator takes today. */
static void request_owns_as_many_pieces_as_it_takes(void **state) {
  (void)state;
  enum { PIECES = 100 };
  mr3d_request r = {0};
  void *pieces[PIECES];
  for (int i = 0; i < PIECES; i++) pieces[i] = mr3d_request_memory(&r, 1, 8);
  assert_int_equal(r.n_owned, PIECES);
  assert_true(r.owned_room >= PIECES);
  for (int i = 0; i < PIECES; i++) {
    assert_ptr_equal(r.owned[i], pieces[i]);
    free(r.owned[i]);
  }
  free(r.owned);
}

static void linear_adds_its_bias(void **state) {
  (void)state;
  mr3d_server *server = new_server();
  for (int biased = 0; biased < 2; biased++) {
    mr3d_bundle *r = request("linear", "{}");
    *(double *)mr3d_bundle_add(r, "x", MR3D_F64, SHAPE(1, 1))->data = 3;
    *(double *)mr3d_bundle_add(r, "weight", MR3D_F64, SHAPE(1, 1))->data = 5;
    if (biased) *(double *)mr3d_bundle_add(r, "bias", MR3D_F64, SHAPE(1))->data = 0.25;
    mr3d_bundle *a = answer(server, r);
    assert_true(reals(a, "y")[0] == (biased ? 15.25 : 15));
    done(a);
  }
  mr3d_server_free(&server);
}

/* One visible key: each query head answers that key's value of its KV head, h / (H/G) = 0 0 1 1. */
static void attention_repeats_each_kv_head_for_neighbouring_query_heads(void **state) {
  (void)state;
  mr3d_server *server = new_server();
  mr3d_bundle *r = request("attention", "{}");
  add_reals(r, "query", 1, SHAPE(1, H, 1, D));
  add_reals(r, "key", 1, SHAPE(1, G, 3, D));
  double *value = mr3d_bundle_add(r, "value", MR3D_F64, SHAPE(1, G, 3, D))->data;
  for (int i = 0; i < G * 3 * D; i++) value[i] = i;
  ((bool *)mr3d_bundle_add(r, "visible", MR3D_BOOL, SHAPE(1, 1, 3))->data)[1] = true;
  mr3d_bundle *a = answer(server, r);
  HOLDS(a, "y F64 [1,4,1,16]");
  for (int h = 0; h < H; h++)
    for (int d = 0; d < D; d++) assert_true(reals(a, "y")[h * D + d] == ((h / 2) * 3 + 1) * D + d);
  done(a);
  mr3d_server_free(&server);
}

static void scan_becomes_cells_and_cells_tokens(void **state) {
  (void)state;
  mr3d_server *server = new_server();
  mr3d_bundle *r = request("voxelize", "{}");
  mr3d_tensor *points = mr3d_bundle_add(r, "points", MR3D_F64, SHAPE(4, 6));
  static const double rows[4][6] = {{1, 1, 1, 0, 127.5, 255}, {3, 1, 1, 0, 0, 0}, {1.01, 1, 1, 9, 9, 9}, {0, 0, 0, 0, 0, 0}};
  memcpy(points->data, rows, sizeof rows);
  ((double *)points->data)[3 * 6 + 4] = atof("nan"); /* dropped, so that the smallest is 1, 1, 1 */
  mr3d_bundle *a = answer(server, r);
  HOLDS(a, "grid I64 [2,3]", "features F64 [2,6]");
  static const int64_t cells[] = {0, 0, 0, 80, 0, 0}, tokens[] = {0, 0, 0, 5, 0, 0}, counts[] = {1, 1};
  assert_integers(a, "grid", 6, cells);
  assert_true(reals(a, "features")[3] == -1 && reals(a, "features")[4] == 0 && reals(a, "features")[5] == 1 && reals(a, "features")[6] == 2);
  for (int stages = 0; stages <= 4; stages += 4) {
    mr3d_bundle *cell_request = request("token_coords", "{}");
    mr3d_bundle_setf(cell_request, "stages", "%d", stages);
    mr3d_bundle_copy(cell_request, NULL, mr3d_bundle_find(a, "grid"));
    mr3d_bundle *b = answer(server, cell_request);
    HOLDS(b, "coords I64 [2,3]", "count I64 [2]");
    assert_integers(b, "coords", 6, stages ? tokens : cells);
    assert_integers(b, "count", 2, counts);
    done(b);
  }
  done(a);
  mr3d_server_free(&server);
}

/* For the judge each floating output has its scale, above 0 where the value is not exact, and each rotation its turn. */
static void scales_and_turns_stand_beside_their_outputs(void **state) {
  (void)state;
  mr3d_server *server = mr3d_server_new(&(mr3d_server_options){.with_scale = true});
  mr3d_bundle *cis = request("cis3d", "{}"), *rope = request("rope3d", "{}"), *coords = request("normalize_coords", "{}"), *norm = request("rmsnorm", CONFIG);
  mr3d_bundle *linear = request("linear", "{}"), *gate = request("swiglu", "{}"), *attention = request("attention", "{}"), *scan = request("voxelize", "{}");
  add_reals(cis, "freqs", 1, SHAPE(3, 2, 4)), add_filled(cis, "coords", 5, SHAPE(N, 3));
  add_reals(rope, "x", 1, SHAPE(1, 2, N, 8)), add_reals(rope, "cos", 1, SHAPE(2, N, 4)), add_reals(rope, "sin", 1, SHAPE(2, N, 4));
  add_filled(coords, "coords", 5, SHAPE(N, 3));
  add_reals(norm, "x", 1, SHAPE(2, 7)), add_reals(norm, "weight", 0, SHAPE(7));
  add_reals(linear, "x", 1, SHAPE(2, 7)), add_reals(linear, "weight", 0, SHAPE(4, 7));
  add_reals(gate, "gate", 1, SHAPE(2, 7)), add_reals(gate, "up", 1, SHAPE(2, 7));
  add_reals(attention, "query", 1, SHAPE(1, 2, 1, 8)), add_reals(attention, "key", 1, SHAPE(1, 1, 2, 8)), add_reals(attention, "value", 1, SHAPE(1, 1, 2, 8));
  memset(mr3d_bundle_add(attention, "visible", MR3D_BOOL, SHAPE(1, 1, 2))->data, 1, 2);
  add_reals(scan, "points", 5, SHAPE(4, 3));
  const struct {
    mr3d_bundle *request;
    int count;
    const char *lines[6];
  } rows[] = {
      {cis, 4, {"cos F64 [2,3,4]", "sin F64 [2,3,4]", "scale:cos F64 [2,3,4]", "scale:sin F64 [2,3,4]"}},
      {rope, 3, {"y F64 [1,2,3,8]", "scale:y F64 [1,2,3,8]", "turn:y F64 [1,2,3,8]"}},
      {coords, 3, {"coords F64 [3,3]", "scale:coords F64 [3,3]", "shared:coords F64 [3,3]"}},
      {norm, 2, {"y F64 [2,7]", "scale:y F64 [2,7]"}},
      {linear, 2, {"y F64 [2,4]", "scale:y F64 [2,4]"}},
      {gate, 2, {"y F64 [2,7]", "scale:y F64 [2,7]"}},
      {attention, 2, {"y F64 [1,2,1,8]", "scale:y F64 [1,2,1,8]"}},
      {scan, 4, {"grid I64 [4,3]", "features F64 [4,3]", "scale:features F64 [4,3]", "shared:features F64 [4,3]"}},
      {mixed(CONFIG, true, true, true), 6,
       {"query F64 [1,4,5,16]", "key F64 [1,2,5,16]", "scale:query F64 [1,4,5,16]", "scale:key F64 [1,2,5,16]", "turn:query F64 [1,4,5,16]", "turn:key F64 [1,2,5,16]"}},
  };
  for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
    mr3d_bundle *a = answer(server, rows[i].request);
    assert_holds(a, rows[i].count, rows[i].lines);
    for (int t = 0; t < mr3d_bundle_count(a); t++) {
      const mr3d_tensor *tensor = mr3d_bundle_at(a, t);
      int64_t above = 0, count = mr3d_tensor_count(tensor);
      for (int64_t k = 0; k < count && strchr(tensor->name, ':'); k++) above += ((double *)tensor->data)[k] != 0;
      if (strchr(tensor->name, ':') && strcmp(tensor->name, "shared:features") != 0) assert_true(above > count / 2); /* positions share nothing */
    }
    done(a);
  }
  mr3d_server_free(&server);
}

static void values_that_were_looked_at_before_are_not_again(void **state) {
  (void)state;
  for (int finite = 0; finite < 2; finite++) {
    mr3d_server *server = mr3d_server_new(&(mr3d_server_options){.threads = 1, .finite = finite});
    mr3d_bundle *r = request("swiglu", CONFIG), *a = NULL;
    add_reals(r, "gate", 1, SHAPE(1, 2, 4));
    add_reals(r, "up", 1, SHAPE(1, 2, 4));
    ((double *)mr3d_bundle_find(r, "up")->data)[5] = atof("nan");
    mr3d_error error = {0};
    assert_int_equal(mr3d_server_answer(server, r, &a, &error), finite ? MR3D_OK : MR3D_INVALID);
    for (int i = 0; i < 8 && finite; i++) assert_true(isnan(((double *)mr3d_bundle_find(a, "y")->data)[i]) == (i == 5));
    if (!finite) assert_non_null(strstr(error.message, "up[0,1,1] is NaN"));
    mr3d_bundle_free(&a);
    mr3d_bundle_free(&r);
    mr3d_server_free(&server);
  }
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(splice_answers_sources_and_labels_when_given),
      cmocka_unit_test(mask_without_masks_is_causal_for_one_sample),
      cmocka_unit_test(spliced_mask_comes_from_either_mask),
      cmocka_unit_test(one_row_of_positions_serves_all_samples),
      cmocka_unit_test(shared_frequencies_are_three_equal_sets),
      cmocka_unit_test(cis3d_without_frequencies_uses_the_base),
      cmocka_unit_test(cis3d_without_points_or_bins_needs_no_frequencies),
      cmocka_unit_test(coordinates_and_angles_come_in_their_own_types),
      cmocka_unit_test(rows_beyond_a_count_are_zero),
      cmocka_unit_test(mixed_rope_takes_both_shapes_of_coordinates),
      cmocka_unit_test(mixed_rope_has_defaults),
      cmocka_unit_test(text_needs_no_rotary_parameters),
      cmocka_unit_test(norms_products_and_gates_keep_leading_sizes),
      cmocka_unit_test(sizes_of_0_are_answered),
      cmocka_unit_test(request_owns_as_many_pieces_as_it_takes),
      cmocka_unit_test(linear_adds_its_bias),
      cmocka_unit_test(attention_repeats_each_kv_head_for_neighbouring_query_heads),
      cmocka_unit_test(scan_becomes_cells_and_cells_tokens),
      cmocka_unit_test(values_that_were_looked_at_before_are_not_again),
      cmocka_unit_test(scales_and_turns_stand_beside_their_outputs),
  };
  return cmocka_run_group_tests_name("answers of single operators", tests, NULL, NULL);
}
