/**
 * Attention block and decoder layer against the formulas of spec.md section 6 written out once more, plainly; and what must not
 * matter: padding, batch neighbours, threads.
 */
#include <math.h>

#include "fixture.h"

enum { Q = 6, PAST = 3, K = PAST + Q };

/* ---- the formulas, one value at a time ---- */

static double dot(const double *a, const double *b, int n) {
  double sum = 0;
  for (int i = 0; i < n; i++) sum += a[i] * b[i];
  return sum;
}

static void norm(const double *x, const double *weight, double *y) {
  double scale = 1 / sqrt(dot(x, x, HIDDEN) / HIDDEN + 1e-6);
  for (int j = 0; j < HIDDEN; j++) y[j] = x[j] * scale * weight[j];
}

/* One head's D values turned by position p: pairs (j, j + D/2), theta 10000. */
static void turn(double *x, int p) {
  for (int j = 0; j < D / 2; j++) {
    double angle = p * pow(10000, -2.0 * j / D), a = x[j], b = x[j + D / 2];
    x[j] = a * cos(angle) - b * sin(angle);
    x[j + D / 2] = b * cos(angle) + a * sin(angle);
  }
}

/* One head's D values as a point at c (grid indices, divided by 79) and position p: D/2 spatial dimensions, then D/2 temporal ones. */
static void turn_point(double *x, int p, const int64_t *c, const double *freqs, const double *weights, int heads, int h) {
  for (int f = 0; f < F; f++) {
    double angle = 0, a = x[2 * f], b = x[2 * f + 1];
    for (int axis = 0; axis < 3; axis++) angle += weights[(h * F + f) * 3 + axis] * freqs[(axis * heads + h) * F + f] * ((double)c[axis] / 79);
    x[2 * f] = a * cos(angle) - b * sin(angle);
    x[2 * f + 1] = a * sin(angle) + b * cos(angle);
  }
  for (int j = 0; j < D / 4; j++) { /* the table of all D dimensions at the places D/2 + j and D/2 + j + D/4 */
    double first = p * pow(10000, -2.0 * j / D), second = p * pow(10000, -2.0 * (j + D / 4) / D), a = x[D / 2 + j], b = x[D / 2 + j + D / 4];
    x[D / 2 + j] = a * cos(first) - b * sin(first);
    x[D / 2 + j + D / 4] = b * cos(second) + a * sin(second);
  }
}

static const double *of(const mr3d_bundle *request, const char *name) { return reals(request, name); }

/* Turns row i's head by what the request says of it; `side` is q or kv. */
static void turn_as_asked(const mr3d_bundle *r, double *x, int i, const char *side, int heads, int h) {
  const mr3d_tensor *positions = mr3d_bundle_find(r, "position_ids"), *marks = mr3d_bundle_find(r, "point_token_mask");
  const int p = positions ? (int)((int64_t *)positions->data)[i] : PAST + i;
  if (!marks || !((bool *)marks->data)[i]) {
    turn(x, p);
    return;
  }
  int row = 0;
  for (int k = 0; k < i; k++) row += ((bool *)marks->data)[k];
  char freqs[40], weights[40];
  snprintf(freqs, sizeof freqs, "self_attn.freqs_3d_%s", side);
  snprintf(weights, sizeof weights, "self_attn.axial_weights_3d_%s", side);
  turn_point(x, p, (int64_t *)mr3d_bundle_find(r, "point_coords")->data + 3 * row, of(r, freqs), of(r, weights), heads, h);
}

/* hidden [Q,HIDDEN] -> y [Q,HIDDEN], keys and values [G,K,D], past first. */
static void plain_block(const mr3d_bundle *r, const double *hidden, double *y, double *keys, double *values) {
  for (int i = 0; i < Q; i++)
    for (int g = 0; g < G; g++) {
      double *key = keys + (g * K + PAST + i) * D, *value = values + (g * K + PAST + i) * D;
      for (int d = 0; d < D; d++) {
        key[d] = of(r, "self_attn.k_proj.bias")[g * D + d] + dot(of(r, "self_attn.k_proj.weight") + (g * D + d) * HIDDEN, hidden + i * HIDDEN, HIDDEN);
        value[d] = of(r, "self_attn.v_proj.bias")[g * D + d] + dot(of(r, "self_attn.v_proj.weight") + (g * D + d) * HIDDEN, hidden + i * HIDDEN, HIDDEN);
      }
      turn_as_asked(r, key, i, "kv", G, g);
    }
  for (int g = 0; g < G; g++) {
    memcpy(keys + g * K * D, of(r, "past_key") + g * PAST * D, PAST * D * sizeof *keys);
    memcpy(values + g * K * D, of(r, "past_value") + g * PAST * D, PAST * D * sizeof *values);
  }
  for (int i = 0; i < Q; i++) {
    double mixed[H * D];
    for (int h = 0; h < H; h++) {
      const int g = h / (H / G); /* 0 0 1 1 */
      double query[D], weight[K], sum = 0;
      for (int d = 0; d < D; d++)
        query[d] = of(r, "self_attn.q_proj.bias")[h * D + d] + dot(of(r, "self_attn.q_proj.weight") + (h * D + d) * HIDDEN, hidden + i * HIDDEN, HIDDEN);
      turn_as_asked(r, query, i, "q", H, h);
      for (int j = 0; j <= PAST + i; j++) sum += weight[j] = exp(dot(query, keys + (g * K + j) * D, D) / sqrt(D));
      for (int d = 0; d < D; d++) {
        mixed[h * D + d] = 0;
        for (int j = 0; j <= PAST + i; j++) mixed[h * D + d] += weight[j] / sum * values[(g * K + j) * D + d];
      }
    }
    for (int j = 0; j < HIDDEN; j++) y[i * HIDDEN + j] = dot(of(r, "self_attn.o_proj.weight") + j * H * D, mixed, H * D);
  }
}

static mr3d_bundle *layer_request(const char *op) {
  mr3d_bundle *r = request(op, CONFIG);
  add_reals(r, "hidden", 1, SHAPE(1, Q, HIDDEN));
  add_layer(r, "", (layer_options){.dtype = MR3D_F64});
  add_reals(r, "past_key", 1, SHAPE(1, G, PAST, D));
  add_reals(r, "past_value", 1, SHAPE(1, G, PAST, D));
  return r;
}

/* The text of a request with a past, the same with points and with position ids of its own. */
static mr3d_bundle *variant_of(int variant, const char *op) {
  static const int64_t positions[] = {5, 900, 2, 2, 31, 0}, counts[] = {3};
  mr3d_bundle *r = layer_request(op);
  if (variant & 1) add_integers(r, "position_ids", positions, SHAPE(1, Q));
  if (variant & 2) {
    add_points(r, 1, Q, 1, 3, counts);
    bool *marks = mr3d_bundle_find(r, "point_token_mask")->data; /* marked tokens need not be contiguous: 1, 3, 5 */
    for (int i = 0; i < Q; i++) marks[i] = i % 2 == 1;
  }
  return r;
}

static void block_is_its_formula(void **state) {
  (void)state;
  mr3d_server *server = new_server();
  for (int variant = 0; variant < 4; variant++) {
    mr3d_bundle *kept = variant_of(variant, "attention_block"), *a = answer(server, variant_of(variant, "attention_block"));
    double y[Q * HIDDEN], keys[G * K * D], values[G * K * D];
    plain_block(kept, of(kept, "hidden"), y, keys, values);
    assert_shape(a, "hidden", SHAPE(1, Q, HIDDEN));
    assert_shape(a, "key", SHAPE(1, G, K, D));
    assert_shape(a, "value", SHAPE(1, G, K, D));
    assert_close(reals(a, "hidden"), y, Q * HIDDEN, 1e-14);
    assert_close(reals(a, "key"), keys, G * K * D, 1e-14);
    assert_close(reals(a, "value"), values, G * K * D, 1e-14);
    mr3d_bundle_free(&kept);
    mr3d_bundle_free(&a);
  }
  mr3d_server_free(&server);
}

/* The block takes the self_attn tensors alone; the rest of the layer is allowed and changes nothing. */
static void block_needs_only_its_own_tensors(void **state) {
  (void)state;
  mr3d_server *server = new_server();
  mr3d_bundle *all = layer_request("attention_block"), *own = request("attention_block", CONFIG);
  for (int i = 0; i < mr3d_bundle_count(all); i++)
    if (!strstr(mr3d_bundle_at(all, i)->name, "mlp.") && !strstr(mr3d_bundle_at(all, i)->name, "layernorm")) mr3d_bundle_copy(own, NULL, mr3d_bundle_at(all, i));
  assert_int_equal(mr3d_bundle_count(all) - mr3d_bundle_count(own), 5);
  mr3d_bundle *a = answer(server, all), *b = answer(server, own);
  assert_same(a, b);
  mr3d_bundle_free(&a);
  mr3d_bundle_free(&b);
  mr3d_server_free(&server);
}

static void layer_is_its_formula(void **state) {
  (void)state;
  mr3d_server *server = new_server();
  mr3d_bundle *kept = layer_request("decoder_layer"), *a = answer(server, layer_request("decoder_layer"));
  double normed[Q * HIDDEN], y[Q * HIDDEN], keys[G * K * D], values[G * K * D];
  for (int i = 0; i < Q; i++) norm(of(kept, "hidden") + i * HIDDEN, of(kept, "input_layernorm.weight"), normed + i * HIDDEN);
  plain_block(kept, normed, y, keys, values);
  for (int i = 0; i < Q; i++) {
    double *row = y + i * HIDDEN, n[HIDDEN], gated[INTERMEDIATE];
    for (int j = 0; j < HIDDEN; j++) row[j] += of(kept, "hidden")[i * HIDDEN + j];
    norm(row, of(kept, "post_attention_layernorm.weight"), n);
    for (int k = 0; k < INTERMEDIATE; k++) {
      double gate = dot(of(kept, "mlp.gate_proj.weight") + k * HIDDEN, n, HIDDEN);
      gated[k] = gate / (1 + exp(-gate)) * dot(of(kept, "mlp.up_proj.weight") + k * HIDDEN, n, HIDDEN);
    }
    for (int j = 0; j < HIDDEN; j++) row[j] += dot(of(kept, "mlp.down_proj.weight") + j * INTERMEDIATE, gated, INTERMEDIATE);
  }
  assert_close(reals(a, "hidden"), y, Q * HIDDEN, 1e-14);
  assert_close(reals(a, "key"), keys, G * K * D, 1e-14);
  assert_close(reals(a, "value"), values, G * K * D, 1e-14);
  mr3d_bundle_free(&kept);
  mr3d_bundle_free(&a);
  mr3d_server_free(&server);
}

/* Flattened [3,heads*F], head-major, and [3,heads,F] are the same frequencies. */
static void flattened_frequencies_are_the_same(void **state) {
  (void)state;
  mr3d_server *server = new_server();
  mr3d_bundle *answers[2];
  const int64_t counts[] = {3};
  for (int flat = 0; flat < 2; flat++) {
    mr3d_bundle *r = request("decoder_layer", CONFIG);
    add_reals(r, "hidden", 1, SHAPE(1, Q, HIDDEN));
    add_layer(r, "", (layer_options){.dtype = MR3D_F64, .flat = flat});
    assert_int_equal(mr3d_bundle_find(r, "self_attn.freqs_3d_q")->rank, flat ? 2 : 3);
    add_points(r, 1, Q, 1, 3, counts);
    answers[flat] = answer(server, r);
  }
  assert_same(answers[0], answers[1]);
  mr3d_bundle_free(&answers[0]);
  mr3d_bundle_free(&answers[1]);
  mr3d_server_free(&server);
}

/* ---- batches and padding ---- */

/* Sample b has lengths[b] tokens of Q and counts[b] points from token 1 on; padded rows hold `garbage` times noise. */
static mr3d_bundle *batch_request(int64_t B, const int64_t *samples, const int64_t *lengths, const int64_t *counts, int64_t q, double garbage) {
  mr3d_bundle *r = request("decoder_layer", CONFIG);
  double *hidden = mr3d_bundle_add(r, "hidden", MR3D_F64, SHAPE(B, q, HIDDEN))->data;
  int64_t *mask = mr3d_bundle_add(r, "key_mask", MR3D_I64, SHAPE(B, q))->data;
  add_layer(r, "", (layer_options){.dtype = MR3D_F64});
  bool *marks = mr3d_bundle_add(r, "point_token_mask", MR3D_BOOL, SHAPE(B, q))->data;
  int64_t most = 0;
  for (int64_t b = 0; b < B; b++) most = counts[b] > most ? counts[b] : most;
  int64_t *coords = mr3d_bundle_add(r, "point_coords", MR3D_I64, SHAPE(B, most, 3))->data;
  add_integers(r, "point_counts", counts, SHAPE(B));
  for (int64_t b = 0; b < B; b++) {
    for (int64_t i = 0; i < q; i++) {
      mask[b * q + i] = i < lengths[b];
      marks[b * q + i] = i >= 1 && i < 1 + counts[b];
      for (int64_t j = 0; j < HIDDEN; j++)
        hidden[(b * q + i) * HIDDEN + j] = drawn((uint64_t)(30 + samples[b]), (uint64_t)(i * HIDDEN + j)) * (i < lengths[b] ? 1 : garbage);
    }
    for (int64_t k = 0; k < most * 3; k++)
      coords[b * most * 3 + k] = k < counts[b] * 3 ? (int64_t)(40 + 39 * drawn((uint64_t)(60 + samples[b]), (uint64_t)k)) : 999;
  }
  return r;
}

static void batch_equals_its_samples(void **state) {
  (void)state;
  mr3d_server *server = new_server();
  static const int64_t samples[] = {0, 1, 2}, lengths[] = {4, Q, 5}, counts[] = {2, 0, 4};
  mr3d_bundle *all = answer(server, batch_request(3, samples, lengths, counts, Q, 3));
  for (int64_t b = 0; b < 3; b++) {
    mr3d_bundle *one = answer(server, batch_request(1, &samples[b], &lengths[b], &counts[b], lengths[b], 0));
    assert_close(reals(all, "hidden") + b * Q * HIDDEN, reals(one, "hidden"), lengths[b] * HIDDEN, 1e-13);
    for (int64_t g = 0; g < G; g++) {
      assert_close(reals(all, "key") + (b * G + g) * Q * D, reals(one, "key") + g * lengths[b] * D, lengths[b] * D, 1e-13);
      assert_close(reals(all, "value") + (b * G + g) * Q * D, reals(one, "value") + g * lengths[b] * D, lengths[b] * D, 1e-13);
    }
    mr3d_bundle_free(&one);
  }
  mr3d_bundle_free(&all);
  mr3d_server_free(&server);
}

/* Rows of padding are finite, also those of a sample that is nothing but padding, and change no other row by a bit. */
static void padding_is_finite_and_changes_nothing(void **state) {
  (void)state;
  mr3d_server *server = new_server();
  static const int64_t samples[] = {0, 1, 2}, lengths[] = {4, Q, 0}, counts[] = {2, 3, 0};
  mr3d_bundle *a = answer(server, batch_request(3, samples, lengths, counts, Q, 1)), *b = answer(server, batch_request(3, samples, lengths, counts, Q, -1e6));
  for (int64_t i = 0; i < 3 * Q * HIDDEN; i++) assert_true(isfinite(reals(a, "hidden")[i]) && isfinite(reals(b, "hidden")[i]));
  assert_memory_equal(reals(a, "hidden"), reals(b, "hidden"), 4 * HIDDEN * sizeof(double));
  assert_memory_equal(reals(a, "hidden") + Q * HIDDEN, reals(b, "hidden") + Q * HIDDEN, Q * HIDDEN * sizeof(double));
  assert_true(reals(a, "hidden")[4 * HIDDEN] != reals(b, "hidden")[4 * HIDDEN]); /* the padding itself did change */
  mr3d_bundle_free(&a);
  mr3d_bundle_free(&b);
  mr3d_server_free(&server);
}

/* Row i of a request without points attends to rows 0 .. i alone. */
static void later_tokens_change_no_earlier_row(void **state) {
  (void)state;
  mr3d_server *server = new_server();
  mr3d_bundle *changed = layer_request("decoder_layer");
  double *hidden = mr3d_bundle_find(changed, "hidden")->data;
  hidden[(Q - 2) * HIDDEN] += 1;
  mr3d_bundle *a = answer(server, layer_request("decoder_layer")), *b = answer(server, changed);
  assert_memory_equal(reals(a, "hidden"), reals(b, "hidden"), (Q - 2) * HIDDEN * sizeof(double));
  for (int i = Q - 2; i < Q; i++) assert_true(reals(a, "hidden")[i * HIDDEN] != reals(b, "hidden")[i * HIDDEN]);
  mr3d_bundle_free(&a);
  mr3d_bundle_free(&b);
  mr3d_server_free(&server);
}

/* ---- threads, repetition, emulation ---- */

static mr3d_bundle *points_request(void) {
  static const int64_t samples[] = {0, 1, 2}, lengths[] = {4, Q, 5}, counts[] = {2, 0, 4};
  return batch_request(3, samples, lengths, counts, Q, 1);
}

static void threads_change_no_bit(void **state) {
  (void)state;
  for (int emulate = 0; emulate < 2; emulate++) {
    mr3d_bundle *first = NULL;
    for (int threads = 1; threads <= 4; threads++) {
      mr3d_server *server = mr3d_server_new(
          &(mr3d_server_options){.threads = threads, .emulate = emulate, .arithmetic = mr3d_arithmetic_of(MR3D_FP64, MR3D_STOCHASTIC, false, 9)});
      mr3d_bundle *a = answer(server, points_request());
      if (first) {
        assert_same(a, first);
        mr3d_bundle_free(&a);
      } else {
        first = a;
      }
      mr3d_server_free(&server);
    }
    mr3d_bundle_free(&first);
  }
}

static void repetition_changes_no_bit(void **state) {
  (void)state;
  mr3d_server *server = new_server();
  mr3d_bundle *a = answer(server, points_request()), *other = answer(server, layer_request("attention_block")), *b = answer(server, points_request());
  assert_same(a, b);
  mr3d_bundle_free(&a);
  mr3d_bundle_free(&b);
  mr3d_bundle_free(&other);
  mr3d_server_free(&server);
}

/* In emulated bf16 the layer's outputs are bf16 values (the residual sum is stored), close to the exact ones and not equal to them. */
static void emulation_stores_the_residual_stream(void **state) {
  (void)state;
  mr3d_server *exact = new_server();
  mr3d_server *bf16 = mr3d_server_new(&(mr3d_server_options){.emulate = true, .arithmetic = mr3d_arithmetic_of(MR3D_BF16_TIER, MR3D_NEAREST, false, 1)});
  mr3d_bundle *a = answer(exact, layer_request("decoder_layer")), *b = answer(bf16, layer_request("decoder_layer"));
  int64_t different = 0;
  for (int i = 0; i < Q * HIDDEN; i++) {
    double stored = reals(b, "hidden")[i];
    assert_true(mr3d_bf16_to_double(mr3d_bf16_from_double(stored)) == stored);
    different += stored != reals(a, "hidden")[i];
  }
  assert_true(different > Q * HIDDEN * 9 / 10);
  assert_close(reals(b, "hidden"), reals(a, "hidden"), Q * HIDDEN, 0.05);
  mr3d_bundle_free(&a);
  mr3d_bundle_free(&b);
  mr3d_server_free(&exact);
  mr3d_server_free(&bf16);
}

/* ---- the judge's tensors ---- */

static void judge_is_told_the_padding(void **state) {
  (void)state;
  mr3d_server *server = mr3d_server_new(&(mr3d_server_options){.with_scale = true});
  static const int64_t samples[] = {0, 1}, lengths[] = {4, Q}, counts[] = {2, 3};
  mr3d_bundle *a = answer(server, batch_request(2, samples, lengths, counts, Q, 1));
  assert_int_equal(mr3d_bundle_count(a), 6);
  assert_shape(a, "skip:hidden", SHAPE(2, Q));
  assert_shape(a, "skip:key", SHAPE(2, 1, Q));
  assert_shape(a, "skip:value", SHAPE(2, 1, Q));
  for (int i = 0; i < 2 * Q; i++)
    for (int t = 0; t < 3; t++)
      assert_int_equal(((bool *)mr3d_bundle_find(a, (const char *[]){"skip:hidden", "skip:key", "skip:value"}[t])->data)[i], i >= 4 && i < Q);
  mr3d_bundle_free(&a);
  a = answer(server, layer_request("decoder_layer")); /* nothing is padding: no such tensor */
  assert_int_equal(mr3d_bundle_count(a), 3);
  mr3d_bundle_free(&a);
  mr3d_server_free(&server);
}

static void judge_is_given_the_operators_scale(void **state) {
  (void)state;
  mr3d_server *server = mr3d_server_new(&(mr3d_server_options){.with_scale = true}), *plain = new_server();
  for (int tier = 0; tier < 2; tier++) {
    mr3d_bundle *r = request("rope1d", CONFIG), *same = request("rope1d", CONFIG);
    for (int k = 0; k < 2; k++) {
      mr3d_bundle *to = k ? same : r;
      mr3d_bundle_set(to, "tier", tier ? "bf16" : "fp64");
      add_reals_seeded(to, "x", 5, tier ? MR3D_BF16 : MR3D_F64, 1, SHAPE(1, 2, 3, D));
      add_filled(to, "position_ids", 400, SHAPE(1, 3));
    }
    mr3d_bundle *a = answer(server, r), *without = answer(plain, same);
    assert_int_equal(mr3d_bundle_count(without), 1);
    assert_int_equal(mr3d_bundle_count(a), 3);
    double *x = mr3d_allocate(6 * D, sizeof *x), scale[6 * D], turned[6 * D];
    mr3d_bundle *inputs = mr3d_bundle_new();
    mr3d_tensor_to_double(add_reals_seeded(inputs, "x", 5, tier ? MR3D_BF16 : MR3D_F64, 1, SHAPE(1, 2, 3, D)), x);
    const int64_t positions[] = {400, 400, 400};
    const mr3d_units units = mr3d_tier_units(tier ? MR3D_BF16_TIER : MR3D_FP64);
    mr3d_rope1d_scale(&units, &(mr3d_rope1d_in){.B = 1, .heads = 2, .q = 3, .D = D, .rope_theta = 10000, .x = x, .position_rows = 1, .position_ids = positions},
                      scale, turned);
    assert_memory_equal(reals(a, "scale:y"), scale, sizeof scale);
    assert_memory_equal(reals(a, "turn:y"), turned, sizeof turned);
    assert_memory_equal(reals(a, "y"), reals(without, "y"), sizeof scale);
    free(x);
    mr3d_bundle_free(&inputs);
    mr3d_bundle_free(&a);
    mr3d_bundle_free(&without);
  }
  mr3d_server_free(&server);
  mr3d_server_free(&plain);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(block_is_its_formula),
      cmocka_unit_test(block_needs_only_its_own_tensors),
      cmocka_unit_test(layer_is_its_formula),
      cmocka_unit_test(flattened_frequencies_are_the_same),
      cmocka_unit_test(batch_equals_its_samples),
      cmocka_unit_test(padding_is_finite_and_changes_nothing),
      cmocka_unit_test(later_tokens_change_no_earlier_row),
      cmocka_unit_test(threads_change_no_bit),
      cmocka_unit_test(repetition_changes_no_bit),
      cmocka_unit_test(emulation_stores_the_residual_stream),
      cmocka_unit_test(judge_is_told_the_padding),
      cmocka_unit_test(judge_is_given_the_operators_scale),
  };
  return cmocka_run_group_tests_name("attention block and decoder layer", tests, NULL, NULL);
}
