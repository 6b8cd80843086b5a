/** Mixed rotation of text and points (spec.md section 3.3, pitfalls temporal-table, layout, gqa-heads, batch). */
#include "ops_test.h"

#include <stdio.h>

enum { B = 3, H = 4, G = 2, S = 11, N = 5 };

/** A request with everything different: samples, counts, marks apart from each other, positions, parameters of query and key. */
typedef struct request {
  mr3d_mixed_rope_in in;
  bool mask[B * S];
  int64_t counts[B], positions[B * S];
  double *query, *key, *coords, *freqs[2], *weights[2];
} request;

static request *request_of(const mr3d_config *config, int64_t D, int64_t F) {
  request *r = calloc(1, sizeof *r);
  const int marked[B][N] = {{1, 2, 3, 6, 9}, {0, 10, -1, -1, -1}, {-1, -1, -1, -1, -1}};
  for (int b = 0; b < B; b++)
    for (int k = 0; k < N; k++)
      if (marked[b][k] >= 0) {
        r->mask[b * S + marked[b][k]] = true;
        r->counts[b]++;
      }
  for (int i = 0; i < B * S; i++)
    r->positions[i] = i < S ? 786 + i : 3 * i + i / S;
  r->query = numbers(B * H * S * D, 2, 1);
  r->key = numbers(B * G * S * D, 2, 2);
  r->coords = numbers(B * N * 3, 40, 3);
  for (int i = 0; i < B * N * 3; i++)
    r->coords[i] = i / 3 % N < r->counts[i / 3 / N] ? floor(r->coords[i] + 40) : NAN; /* rows beyond the count must not be touched */
  for (int s = 0; s < 2; s++) {
    r->freqs[s] = numbers(3 * (s == 0 ? H : G) * F, 1, 4 + (uint64_t)s);
    r->weights[s] = numbers((s == 0 ? H : G) * F * 3, 2, 6 + (uint64_t)s);
  }
  const bool learned = config->rope_mixed_3d && config->rope_3d_kind == MR3D_MIXED, weighted = learned && config->learned_axial_weights;
  r->in = (mr3d_mixed_rope_in){B, H, G, S, D, r->query, r->key, B, r->positions, {r->mask, N, r->coords, r->counts},
                               {learned ? r->freqs[0] : NULL, weighted ? r->weights[0] : NULL}, {learned ? r->freqs[1] : NULL, weighted ? r->weights[1] : NULL}};
  return r;
}

static void request_free(request *r) {
  free(r->query);
  free(r->key);
  free(r->coords);
  for (int s = 0; s < 2; s++) {
    free(r->freqs[s]);
    free(r->weights[s]);
  }
  free(r);
}

/* ---- spec.md 3 written down once more, token by token, in long double, without the library ---- */

typedef long double real;

static real fixed_frequency(const mr3d_config *config, int64_t F, int64_t f, int axis) {
  if (config->rope_3d_kind == MR3D_MIXED)
    return powl(config->rope_theta_3d, -2.0L * (real)f / (real)(2 * F));
  const int64_t n = 2 * F / 3 / 2, own = f < n ? 0 : f < 2 * n ? 1 : 2;
  return own == axis ? powl(config->rope_theta_3d, -(real)(f - own * n) / (real)n) : 0;
}

static real coordinate(const mr3d_config *config, const request *r, int64_t b, int64_t k, int axis) {
  const double *c = r->coords + b * N * 3;
  real min = 1e30L, max = -1e30L, value = c[k * 3 + axis];
  for (int64_t n = 0; n < r->counts[b]; n++) {
    min = fminl(min, c[n * 3 + axis]);
    max = fmaxl(max, c[n * 3 + axis]);
  }
  if (config->coord_norm == MR3D_NORM_GRID)
    value = value / 79;
  if (config->coord_norm == MR3D_NORM_UNIT_RANGE)
    value = (value - min) / (max - min + 1e-8L);
  return config->drift == MR3D_DRIFT_AVERAGE ? value + (real)r->counts[b] / 2 : config->drift == MR3D_DRIFT_POINTWISE ? value + (real)k : value;
}

/** Whether head dimension j is temporal. */
static bool is_temporal(const mr3d_config *config, int64_t Ds, int64_t Dt, int64_t j) {
  if (config->layout == MR3D_CONTIGUOUS)
    return j >= Ds;
  int64_t g = 1;
  for (int64_t k = 1; k <= Ds + Dt; k++)
    if (Ds % k == 0 && Dt % k == 0)
      g = k;
  return j % ((Ds + Dt) / g) < Dt / g;
}

static void direct(const mr3d_config *config, const request *r, int side, int64_t Ds, double *y) {
  const int64_t heads = side == 0 ? H : G, D = r->in.D, Dt = D - Ds, F = Ds / 2;
  int64_t spatial[128], temporal[128], n_spatial = 0, n_temporal = 0;
  for (int64_t j = 0; j < D; j++)
    if (Ds == 0 || (Dt > 0 && is_temporal(config, Ds, Dt, j)))
      temporal[n_temporal++] = j;
    else
      spatial[n_spatial++] = j;
  for (int64_t b = 0; b < B; b++)
    for (int64_t h = 0; h < heads; h++) {
      int64_t k = 0;
      for (int64_t i = 0; i < S; i++) {
        const double *x = (side == 0 ? r->query : r->key) + ((b * heads + h) * S + i) * D;
        double *out = y + ((b * heads + h) * S + i) * D;
        const real p = (real)r->positions[b * S + i], theta = config->rope_theta;
        const bool point = r->mask[b * S + i] && Ds > 0;
        for (int64_t j = 0; j < D / 2 && !point; j++) {
          const real a = p * powl(theta, -2.0L * (real)j / (real)D);
          out[j] = (double)(x[j] * cosl(a) - x[j + D / 2] * sinl(a));
          out[j + D / 2] = (double)(x[j + D / 2] * cosl(a) + x[j] * sinl(a));
        }
        for (int64_t f = 0; f < F && point; f++) {
          real a = 0;
          for (int axis = 0; axis < 3; axis++) {
            const bool learned = config->rope_mixed_3d && config->rope_3d_kind == MR3D_MIXED;
            const real w = learned && config->learned_axial_weights ? r->weights[side][(h * F + f) * 3 + axis] : 1;
            const real frequency = learned ? r->freqs[side][((config->learned_per_axis ? axis : 0) * heads + h) * F + f] : fixed_frequency(config, F, f, axis);
            a += w * frequency * coordinate(config, r, b, k, axis);
          }
          const int64_t re = spatial[2 * f], im = spatial[2 * f + 1];
          out[re] = (double)(x[re] * cosl(a) - x[im] * sinl(a));
          out[im] = (double)(x[im] * cosl(a) + x[re] * sinl(a));
        }
        for (int64_t j = 0; j < Dt / 2 && point; j++) {
          const int64_t one = temporal[j], two = temporal[j + Dt / 2];
          const bool native = config->temporal_rope == MR3D_NATIVE;
          const real a = p * (native ? powl(theta, -2.0L * (real)j / (real)Dt) : powl(theta, -2.0L * (real)(one % (D / 2)) / (real)D));
          const real c = p * (native ? powl(theta, -2.0L * (real)j / (real)Dt) : powl(theta, -2.0L * (real)(two % (D / 2)) / (real)D));
          out[one] = (double)(x[one] * cosl(a) - x[two] * sinl(a));
          out[two] = (double)(x[two] * cosl(c) + x[one] * sinl(c));
        }
        k += r->mask[b * S + i];
      }
    }
}

/** Reference and direct evaluation agree within the scale of binary64. */
static void compare(const char *json, int64_t D, int64_t Ds) {
  const mr3d_config config = config_of(json);
  request *r = request_of(&config, D, Ds / 2);
  const mr3d_units fp64 = mr3d_tier_units(MR3D_FP64);
  double *y[2], *expected[2], *scale[2], *turn[2];
  mr3d_error error = {0};
  for (int s = 0; s < 2; s++) {
    const int64_t count = B * (s == 0 ? H : G) * S * D;
    y[s] = unwritten(count);
    expected[s] = unwritten(count);
    scale[s] = unwritten(count);
    turn[s] = unwritten(count);
    direct(&config, r, s, Ds, expected[s]);
  }
  if (mr3d_mixed_rope(&exact, &config, &r->in, y[0], y[1], &error) != MR3D_OK ||
      mr3d_mixed_rope_scale(&fp64, &config, &r->in, scale[0], scale[1], turn[0], turn[1], &error) != MR3D_OK)
    fail_msg("%s: %s", json, error.message);
  for (int s = 0; s < 2; s++) {
    const int64_t count = B * (s == 0 ? H : G) * S * D;
    if (!(worst_error(count, y[s], expected[s], scale[s]) <= 1))
      fail_msg("%s: %s off by %g of its scale", json, s == 0 ? "query" : "key", worst_error(count, y[s], expected[s], scale[s]));
    for (int64_t i = 0; i < count; i++)
      assert_true(scale[s][i] > 0 && scale[s][i] < 1e-9 && fabs(turn[s][i]) < 4);
    free(y[s]);
    free(expected[s]);
    free(scale[s]);
    free(turn[s]);
  }
  request_free(r);
}

static void every_option_agrees_with_the_specification_written_once_more(void **state) {
  (void)state;
  const char *const layouts[] = {"contiguous", "interleaved"}, *const temporal[] = {"gathered", "native"};
  const struct {
    const char *json;
    int64_t D, Ds;
  } splits[] = {{"", 64, 32},
                {"\"spatial_temporal_separate_strategy\": \"custom_ratio\", \"spatial_ratio\": 0.25,", 64, 16},
                {"\"spatial_temporal_separate_strategy\": \"custom_ratio\", \"spatial_ratio\": 0.75,", 64, 48},
                {"\"spatial_temporal_separate_strategy\": \"full_spatial\",", 64, 64},
                {"\"spatial_temporal_separate_strategy\": \"full_temporal\",", 64, 0},
                {"", 128, 64},
                {"", 32, 16}};
  const char *const parameters[] = {"", "\"mixedRoPE_3d_learned_per_axis\": false,", "\"mixedRoPE_3d_learned_axial_mixing_weight\": false,",
                                    "\"rope_mixed_3d\": false,", "\"rope_3d_kind\": \"axial\",", "\"coord_norm\": \"none\", \"drift\": \"pointwise\",",
                                    "\"coord_norm\": \"unit_range\", \"drift\": \"average\","};
  for (int layout = 0; layout < 2; layout++)
    for (int t = 0; t < 2; t++)
      for (size_t split = 0; split < sizeof splits / sizeof *splits; split++)
        for (size_t k = 0; k < sizeof parameters / sizeof *parameters; k++) {
          if (splits[split].Ds == 0 && k == 4)
            continue;
          char json[512];
          snprintf(json, sizeof json, "{%s %s \"mixed_rope_layout\": \"%s\", \"temporal_rope\": \"%s\", \"rope_theta\": 1000000}", splits[split].json,
                   parameters[k], layouts[layout], temporal[t]);
          compare(json, splits[split].D, splits[split].Ds);
        }
}

static void call_without_points_is_plain_rope1d(void **state) {
  (void)state;
  const mr3d_config config = config_of("{\"rope_theta\": 1000000}");
  request *r = request_of(&config, 64, 16);
  double *y = unwritten(B * H * S * 64), *key = unwritten(B * G * S * 64), *expected = unwritten(B * H * S * 64);
  mr3d_error error = {0};
  r->in.points = (mr3d_points){0};
  r->in.q = r->in.kv = (mr3d_rotary_parameters){0};
  assert_int_equal(mr3d_mixed_rope(&exact, &config, &r->in, y, key, &error), MR3D_OK);
  mr3d_rope1d(&exact, &(mr3d_rope1d_in){B, H, S, 64, 1e6, r->query, B, r->positions}, expected);
  assert_same_bits(y, expected, B * H * S * 64);
  free(y);
  free(key);
  free(expected);
  request_free(r);
}

/** |rotated query|^2 / |query|^2 of the one point at a position, and its score with a point `apart` positions before it at the same place. */
static void one_point(const char *json, int64_t position, int64_t apart, double *norm_ratio, double *score) {
  const mr3d_config config = config_of(json);
  double *q = numbers(64, 1, 21), *k = numbers(64, 1, 22), *freqs = numbers(48, 1, 23), y[2 * 64], z[2 * 64], norm = 0, rotated = 0;
  const bool mask[1] = {true};
  const double coords[3] = {3, 5, 7};
  mr3d_error error = {0};
  for (int which = 0; which < 2; which++) {
    const int64_t p[1] = {which == 0 ? position : position - apart};
    const mr3d_mixed_rope_in in = {1, 1, 1, 1, 64, which == 0 ? q : k, k, 1, p, {mask, 1, coords, NULL}, {freqs, NULL}, {freqs, NULL}};
    assert_int_equal(mr3d_mixed_rope(&exact, &config, &in, y + 64 * which, z, &error), MR3D_OK);
  }
  *score = 0;
  for (int j = 0; j < 64; j++) {
    norm += q[j] * q[j];
    rotated += y[j] * y[j];
    *score += y[j] * y[64 + j];
  }
  *norm_ratio = rotated / norm;
  free(q);
  free(k);
  free(freqs);
}
#define COMMON "\"rope_theta\": 1000000, \"mixedRoPE_3d_learned_axial_mixing_weight\": false"

static void gathered_contiguous_is_no_rotation_and_all_others_are(void **state) {
  (void)state;
  const char *const rotations[] = {"{" COMMON ", \"mixed_rope_layout\": \"interleaved\"}",
                                   "{" COMMON ", \"temporal_rope\": \"native\"}",
                                   "{" COMMON ", \"mixed_rope_layout\": \"interleaved\", \"temporal_rope\": \"native\"}"};
  double ratio, score, moved_ratio, moved_score;
  for (int k = 0; k < 3; k++) {
    one_point(rotations[k], 400, 30, &ratio, &score);
    one_point(rotations[k], 700, 30, &moved_ratio, &moved_score);
    assert_near(ratio, 1, 1e-14);
    assert_near(moved_score, score, 1e-11);
  }
  one_point("{" COMMON "}", 400, 30, &ratio, &score);
  one_point("{" COMMON "}", 700, 30, &moved_ratio, &moved_score);
  assert_true(fabs(ratio - 1) > 0.01); /* the norm changes */
  assert_true(fabs(moved_ratio - ratio) > 0.01);
  assert_true(fabs(moved_score - score) > 0.01); /* and the score of two points 30 apart depends on where they stand */
}

static void gathered_and_native_agree_exactly_where_a_unit_has_one_temporal_dimension(void **state) {
  (void)state;
  double a, b, score_a, score_b;
  one_point("{" COMMON ", \"mixed_rope_layout\": \"interleaved\"}", 700, 30, &a, &score_a);
  one_point("{" COMMON ", \"mixed_rope_layout\": \"interleaved\", \"temporal_rope\": \"native\"}", 700, 30, &b, &score_b);
  assert_near(score_a, score_b, 1e-12);
  one_point("{" COMMON "}", 700, 30, &a, &score_a);
  one_point("{" COMMON ", \"temporal_rope\": \"native\"}", 700, 30, &b, &score_b);
  assert_true(fabs(score_a - score_b) > 0.01);
}

static void what_does_not_fit_is_refused_and_nothing_is_written(void **state) {
  (void)state;
  const mr3d_config config = config_of("{\"rope_theta\": 1000000}");
  mr3d_error error = {0};
  double *query = calloc(B * H * S * 64, sizeof *query), *key = calloc(B * G * S * 64, sizeof *key);
  request *r = request_of(&config, 64, 16);
  r->counts[0] = 4;
  assert_refused(mr3d_mixed_rope(&exact, &config, &r->in, query, key, &error), &error, "4 rows, point_token_mask marks 5", "sample 0");
  r->counts[0] = 5;
  r->in.kv.freqs = NULL;
  assert_refused(mr3d_mixed_rope(&exact, &config, &r->in, query, key, &error), &error, "frequencies of the key are missing");
  r->in.kv.freqs = r->freqs[1];
  r->in.q.axial_weights = NULL;
  assert_refused(mr3d_mixed_rope(&exact, &config, &r->in, query, key, &error), &error, "axial weights of the query are missing");
  r->in.q.axial_weights = r->weights[0];
  const mr3d_config odd = config_of("{\"rope_theta\": 1000000, \"spatial_temporal_separate_strategy\": \"custom_ratio\", \"spatial_ratio\": 0.3}");
  assert_int_equal(mr3d_mixed_rope(&exact, &odd, &r->in, query, key, &error), MR3D_INVALID);
  for (int i = 0; i < B * H * S * 64; i++)
    assert_true(query[i] == 0 && (i >= B * G * S * 64 || key[i] == 0));
  free(query);
  free(key);
  request_free(r);
}

static void narrow_scale_admits_its_own_emulation_and_not_the_other_layout(void **state) {
  (void)state;
  const mr3d_config config = config_of("{\"rope_theta\": 1000000}"), other = config_of("{\"rope_theta\": 1000000, \"mixed_rope_layout\": \"interleaved\"}");
  request *r = request_of(&config, 64, 16);
  enum { COUNT = B * H * S * 64, KEYS = B * G * S * 64 };
  double *reference = unwritten(COUNT), *key = unwritten(KEYS), *scale = unwritten(COUNT), *key_scale = unwritten(KEYS), *y = unwritten(COUNT);
  mr3d_error error = {0};
  for (int tier = MR3D_FP32; tier < MR3D_N_TIERS; tier++) {
    const mr3d_units units = mr3d_tier_units((mr3d_tier)tier);
    const mr3d_arithmetic nearest = mr3d_arithmetic_of((mr3d_tier)tier, MR3D_NEAREST, false, 1);
    uint64_t calls = 0;
    const mr3d_context emulated = {&mr3d_reference_operators, &nearest, 2, &calls};
    assert_int_equal(mr3d_mixed_rope(&exact, &config, &r->in, reference, key, &error), MR3D_OK);
    assert_int_equal(mr3d_mixed_rope_scale(&units, &config, &r->in, scale, key_scale, NULL, NULL, &error), MR3D_OK);
    assert_int_equal(mr3d_mixed_rope(&emulated, &config, &r->in, y, key, &error), MR3D_OK);
    const double e = worst_error(COUNT, y, reference, scale);
    assert_honest(mr3d_tier_name((mr3d_tier)tier), e, 0.05);
    assert_int_equal(mr3d_mixed_rope(&exact, &other, &r->in, y, key, &error), MR3D_OK);
    assert_true(worst_error(COUNT, y, reference, scale) > 100);
  }
  free(reference);
  free(key);
  free(scale);
  free(key_scale);
  free(y);
  request_free(r);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(every_option_agrees_with_the_specification_written_once_more),
      cmocka_unit_test(call_without_points_is_plain_rope1d),
      cmocka_unit_test(gathered_contiguous_is_no_rotation_and_all_others_are),
      cmocka_unit_test(gathered_and_native_agree_exactly_where_a_unit_has_one_temporal_dimension),
      cmocka_unit_test(what_does_not_fit_is_refused_and_nothing_is_written),
      cmocka_unit_test(narrow_scale_admits_its_own_emulation_and_not_the_other_layout),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
