/** The judge: planted errors fail by the rule that is meant for them, honest arithmetic passes, and what can't be tested is not called passed. */
#include "posed.h"

#include "mr3d/safetensors.h"

#define SEEDS 20

static mr3d_tensor_verdict verdict_on(const problem *p, const mr3d_bundle *answer, const char *name, bool *passed) {
  mr3d_judgement judgement;
  mr3d_tensor_verdict verdict = {0};
  mr3d_judge(p->truth, answer, &judgement);
  for (int i = 0; i < judgement.n_tensors; i++)
    if (strcmp(judgement.tensors[i].name, name) == 0) verdict = judgement.tensors[i];
  *passed = judgement.passed;
  mr3d_judgement_clear(&judgement);
  return verdict;
}

static void passes(const problem *p, const mr3d_bundle *answer, const char *what, uint64_t seed) {
  mr3d_judgement judgement;
  mr3d_judge(p->truth, answer, &judgement);
  for (int i = 0; i < judgement.n_tensors; i++)
    if (!judgement.tensors[i].passed)
      fail_msg("%s, seed %llu: false alarm on %s: %s", what, (unsigned long long)seed, judgement.tensors[i].name, judgement.tensors[i].problem);
  assert_true(judgement.passed && judgement.n_tensors > 0);
  mr3d_judgement_clear(&judgement);
}

static const mr3d_statistic *statistic(const mr3d_tensor_verdict *verdict, const char *rule) {
  for (int i = 0; i < verdict->n_statistics; i++)
    if (strcmp(verdict->statistics[i].rule, rule) == 0) return &verdict->statistics[i];
  return NULL;
}

/** The answer fails, and the named rule is one of those that say so. */
static mr3d_tensor_verdict fails_by(const problem *p, mr3d_bundle *answer, const char *name, const char *rule) {
  bool passed;
  mr3d_tensor_verdict verdict = verdict_on(p, answer, name, &passed);
  const mr3d_statistic *broken = statistic(&verdict, rule);
  assert_false(passed);
  assert_false(verdict.passed);
  assert_true(verdict.problem[0] != 0);
  if (!broken) fail_msg("rule %s was not applied: %s", rule, verdict.problem);
  assert_true(broken->tested);
  if (broken->passed) fail_msg("rule %s passed (%g, limit %g); broken is: %s", rule, broken->value, broken->limit, verdict.problem);
  mr3d_bundle_free(&answer);
  return verdict;
}

/* ---- honest arithmetic, written here in float ---- */

typedef enum { CORRECT, FUSED, EAGER, N_STYLES } style; /* rounded once; in float32, stored once; stored after every operation */

static float stored(mr3d_tier tier, double x) {
  if (tier == MR3D_BF16_TIER) return (float)mr3d_bf16_to_double(mr3d_bf16_from_double(x));
  if (tier == MR3D_FP16) return (float)mr3d_f16_to_double(mr3d_f16_from_double(x));
  return (float)x;
}

typedef struct machine {
  mr3d_tier tier;
  style how;
} machine;

static float keep(const machine *m, float x) { return m->how == EAGER ? stored(m->tier, (double)x) : x; }

static float *floats(const mr3d_bundle *bundle, const char *name) {
  const mr3d_tensor *tensor = mr3d_bundle_find(bundle, name);
  int64_t count = mr3d_tensor_count(tensor);
  double *wide = mr3d_allocate(count, sizeof *wide);
  float *narrow = mr3d_allocate(count, sizeof *narrow);
  mr3d_tensor_to_double(tensor, wide);
  for (int64_t i = 0; i < count; i++) narrow[i] = (float)wide[i];
  free(wide);
  return narrow;
}

static void honest_rope1d(const machine *m, const mr3d_bundle *in, double *out[]) {
  float *x = floats(in, "x");
  const mr3d_tensor *shape = mr3d_bundle_find(in, "x");
  const int64_t *position = mr3d_bundle_find(in, "position_ids")->data, q = shape->shape[2], D = shape->shape[3];
  for (int64_t r = 0; r < shape->shape[1] * q; r++)
    for (int64_t j = 0; j < D / 2; j++) {
      float exponent = -2 * (float)j / (float)D, inv_freq = m->how == FUSED ? expf(exponent * logf(1e6f)) : powf(1e6f, exponent);
      float angle = (float)position[r % q] * inv_freq, c = keep(m, cosf(angle)), s = keep(m, sinf(angle));
      float a = x[r * D + j], b = x[r * D + j + D / 2];
      out[0][r * D + j] = keep(m, a * c) - keep(m, b * s);
      out[0][r * D + j + D / 2] = keep(m, b * c) + keep(m, a * s);
    }
  free(x);
}

static void honest_cis3d(const machine *m, const mr3d_bundle *in, double *out[]) {
  (void)m;
  float *f = floats(in, "freqs"), *w = floats(in, "axial_weights"), *c = floats(in, "coords");
  for (int h = 0; h < 4; h++)
    for (int n = 0; n < 60; n++)
      for (int k = 0; k < 8; k++) {
        float angle = 0;
        for (int a = 0; a < 3; a++) angle += w[(h * 8 + k) * 3 + a] * f[(a * 4 + h) * 8 + k] * c[n * 3 + a];
        out[0][(h * 60 + n) * 8 + k] = cosf(angle);
        out[1][(h * 60 + n) * 8 + k] = sinf(angle);
      }
  free(f), free(w), free(c);
}

static void honest_rope3d(const machine *m, const mr3d_bundle *in, double *out[]) {
  float *x = floats(in, "x"), *c = floats(in, "cos"), *s = floats(in, "sin");
  for (int i = 0; i < 4 * 50 * 8; i++) {
    float a = x[2 * i], b = x[2 * i + 1], ci = keep(m, c[i]), si = keep(m, s[i]);
    out[0][2 * i] = keep(m, a * ci) - keep(m, b * si);
    out[0][2 * i + 1] = keep(m, a * si) + keep(m, b * ci);
  }
  free(x), free(c), free(s);
}

static void honest_rmsnorm(const machine *m, const mr3d_bundle *in, double *out[]) {
  float *x = floats(in, "x"), *w = floats(in, "weight");
  int64_t rows = mr3d_bundle_find(in, "x")->shape[1], n = mr3d_bundle_find(in, "weight")->shape[0];
  for (int64_t r = 0; r < rows; r++) {
    float sum = 0;
    for (int64_t i = 0; i < n; i++) sum += x[r * n + i] * x[r * n + i];
    float factor = 1 / sqrtf(sum / (float)n + 1e-6f);
    for (int64_t i = 0; i < n; i++) out[0][r * n + i] = w[i] * keep(m, x[r * n + i] * factor);
  }
  free(x), free(w);
}

static void honest_linear(const machine *m, const mr3d_bundle *in, double *out[]) {
  float *x = floats(in, "x"), *w = floats(in, "weight"), *b = floats(in, "bias");
  int64_t rows = mr3d_bundle_find(in, "x")->shape[1];
  for (int64_t r = 0; r < rows; r++)
    for (int64_t o = 0; o < 64; o++) {
      float sum = m->how == FUSED ? b[o] : 0;
      for (int64_t i = 0; i < 128; i++) sum += x[r * 128 + i] * w[o * 128 + i];
      out[0][r * 64 + o] = m->how == FUSED ? sum : keep(m, sum) + b[o];
    }
  free(x), free(w), free(b);
}

static void honest_swiglu(const machine *m, const mr3d_bundle *in, double *out[]) {
  float *g = floats(in, "gate"), *u = floats(in, "up");
  for (int i = 0; i < 48 * 64; i++) out[0][i] = keep(m, g[i] / (1 + expf(-g[i]))) * u[i];
  free(g), free(u);
}

static void honest_attention(const machine *m, const mr3d_bundle *in, double *out[]) {
  float *query = floats(in, "query"), *key = floats(in, "key"), *value = floats(in, "value"), p[40];
  const uint8_t *visible = mr3d_bundle_find(in, "visible")->data;
  for (int h = 0; h < 4; h++)
    for (int i = 0; i < 40; i++) {
      const float *q = query + (h * 40 + i) * 32, *k = key + h / 2 * 40 * 32, *v = value + h / 2 * 40 * 32;
      float most = -INFINITY, sum = 0;
      for (int j = 0; j < 40; j++) {
        p[j] = -INFINITY;
        if (!visible[i * 40 + j]) continue;
        float dot = 0;
        for (int d = 0; d < 32; d++) dot += q[d] * k[j * 32 + d];
        p[j] = keep(m, keep(m, dot) / sqrtf(32));
        most = fmaxf(most, p[j]);
      }
      for (int j = 0; j < 40; j++) sum += p[j] = visible[i * 40 + j] ? expf(p[j] - most) : 0;
      for (int d = 0; d < 32; d++) {
        float y = 0;
        for (int j = 0; j < 40 && sum > 0; j++) y += keep(m, p[j] / sum) * v[j * 32 + d];
        out[0][(h * 40 + i) * 32 + d] = y;
      }
    }
  free(query), free(key), free(value);
}

static void honest_normalize(const machine *m, const mr3d_bundle *in, double *out[]) {
  (void)m;
  float *c = floats(in, "coords");
  for (int b = 0; b < 2; b++)
    for (int i = 0; i < 40 * 3; i++) out[0][b * 120 + i] = i < (b ? 33 : 40) * 3 ? c[b * 120 + i] / 79.0f : 0;
  free(c);
}

static mr3d_bundle *honest_request(int op, mr3d_tier tier, uint64_t seed) {
  switch (op) {
  case 0: return rope1d_request(tier, seed, 48, seed % 2 ? 1 : 41);
  case 1: return cis3d_request(tier, seed);
  case 2: return rope3d_request(tier, seed);
  case 3: return rmsnorm_request(tier, seed, 40, 256);
  case 4: return linear_request(tier, seed, 48);
  case 5: return swiglu_request(tier, seed);
  case 6: return attention_request(tier, seed);
  default: return normalize_request(tier, seed);
  }
}

static void honest_arithmetic_of_single_operators_passes_20_seeds(void **state) {
  (void)state;
  static void (*const compute[])(const machine *, const mr3d_bundle *, double *[]) = {
      honest_rope1d, honest_cis3d, honest_rope3d, honest_rmsnorm, honest_linear, honest_swiglu, honest_attention, honest_normalize};
  static const mr3d_tier tiers[] = {MR3D_FP32, MR3D_BF16_TIER, MR3D_FP16};
  for (int op = 0; op < (int)(sizeof compute / sizeof *compute); op++)
    for (int t = 0; t < 3; t++)
      for (uint64_t seed = 1; seed <= SEEDS; seed++) {
        problem p = pose(honest_request(op, tiers[t], seed));
        for (int how = CORRECT; how < N_STYLES; how++) {
          mr3d_bundle *answer = exact_answer(&p);
          double *out[2] = {mr3d_bundle_at(answer, 0)->data, mr3d_bundle_at(answer, mr3d_bundle_count(answer) - 1)->data};
          if (how != CORRECT) compute[op](&(machine){tiers[t], (style)how}, p.request, out);
          bool wide = op == 1 || op == 7; /* angles and coordinates stay F32 */
          mr3d_bundle *kept = stored_as(answer, wide ? MR3D_F32 : mr3d_tier_storage(tiers[t]));
          passes(&p, kept, mr3d_bundle_get(p.request, "op"), seed * 10 + (uint64_t)how);
          mr3d_bundle_free(&kept);
          mr3d_bundle_free(&answer);
        }
        drop(&p);
      }
}

/** Many heads at few tokens are few tables, each rounded once for all heads. */
static void heads_that_share_a_rounded_table_at_three_tokens_pass_20_seeds(void **state) {
  (void)state;
  static const mr3d_tier tiers[] = {MR3D_FP32, MR3D_BF16_TIER, MR3D_FP16};
  for (int t = 0; t < 3; t++)
    for (uint64_t seed = 1; seed <= SEEDS; seed++) {
      problem p = pose(rope1d_request_of(tiers[t], seed, 64, 3, (int64_t)seed * 37, 1));
      mr3d_bundle *answer = exact_answer(&p);
      honest_rope1d(&(machine){tiers[t], EAGER}, p.request, (double *[]){mr3d_bundle_at(answer, 0)->data});
      mr3d_bundle *kept = stored_as(answer, mr3d_tier_storage(tiers[t]));
      passes(&p, kept, "64 heads at 3 tokens", seed);
      mr3d_bundle_free(&kept);
      mr3d_bundle_free(&answer);
      drop(&p);
    }
}

/* ---- planted errors, single operators ---- */

/** The exact answer with `size` times the scale added to elements first, first + step ..., with alternating signs. */
static mr3d_bundle *off_by(const problem *p, double size, int64_t first, int64_t count, int64_t step) {
  mr3d_bundle *answer = exact_answer(p);
  const double *scale = mr3d_bundle_find(mr3d_truth_scaled(p->truth), "scale:y")->data;
  double *y = values_of(answer, "y");
  for (int64_t k = 0; k < count; k++) y[first + k * step] += (k % 2 ? -size : size) * scale[first + k * step];
  return answer;
}

static void limits_of_single_operators_are_4_for_an_element_2_for_a_row_1_for_the_tensor(void **state) {
  (void)state;
  const struct { const char *rule; double limit; int64_t first, count, step; } rules[] = {
      {"element", 4, 100, 1, 1}, {"slice", 2, 5 * 64, 64, 1}, {"tensor", 1, 0, 40 * 64, 1}};
  problem p = pose(linear_request(MR3D_FP32, 2, 40));
  for (int k = 0; k < 3; k++) {
    mr3d_bundle *answer = off_by(&p, 0.97 * rules[k].limit, rules[k].first, rules[k].count, rules[k].step);
    passes(&p, answer, rules[k].rule, 2);
    mr3d_bundle_free(&answer);
    mr3d_tensor_verdict verdict = fails_by(&p, off_by(&p, 1.03 * rules[k].limit, rules[k].first, rules[k].count, rules[k].step), "y", rules[k].rule);
    assert_true(fabs(statistic(&verdict, rules[k].rule)->value - 1.03 * rules[k].limit) < 1e-3);
    for (int other = 0; other < 3; other++) /* and no other rule sees it */
      assert_true(other == k || statistic(&verdict, rules[other].rule)->passed);
  }
  drop(&p);
}

static void outputs_scaled_by_1_003_at_bf16_fail_by_gain_alone(void **state) {
  (void)state;
  problem p = pose(linear_request(MR3D_BF16_TIER, 1, 96));
  mr3d_bundle *answer = exact_answer(&p);
  double *y = values_of(answer, "y");
  for (int i = 0; i < 96 * 64; i++) y[i] *= 1.003;
  mr3d_bundle *kept = stored_as(answer, MR3D_BF16);
  bool passed;
  mr3d_tensor_verdict verdict = verdict_on(&p, kept, "y", &passed);
  assert_true(statistic(&verdict, "element")->passed && statistic(&verdict, "slice")->passed && statistic(&verdict, "tensor")->passed);
  fails_by(&p, kept, "y", "gain");
  mr3d_bundle_free(&answer);
  drop(&p);
}

static void one_head_scaled_by_1_01_at_fp32_fails(void **state) {
  (void)state;
  problem p = pose(attention_request(MR3D_FP32, 1));
  mr3d_bundle *answer = exact_answer(&p);
  double *y = values_of(answer, "y");
  for (int i = 2 * 40 * 32; i < 3 * 40 * 32; i++) y[i] *= 1.01;
  mr3d_tensor_verdict verdict = fails_by(&p, answer, "y", "element");
  assert_int_equal(verdict.index[3], '2'); /* the worst element lies in head 2 */
  drop(&p);
}

static void one_wrong_token_of_4096_fails(void **state) {
  (void)state;
  for (int t = 0; t < 2; t++) {
    problem p = pose(rmsnorm_request(t ? MR3D_BF16_TIER : MR3D_FP32, 1, 4096, 64));
    mr3d_bundle *answer = exact_answer(&p);
    double *y = values_of(answer, "y");
    memcpy(y + 1234 * 64, y + 1233 * 64, 64 * sizeof *y);
    mr3d_tensor_verdict verdict = fails_by(&p, answer, "y", "slice");
    assert_true(strncmp(verdict.index, "[0,1234,", 8) == 0);
    drop(&p);
  }
}

static void one_nan_and_one_infinity_fail_by_finite(void **state) {
  (void)state;
  const double bad[] = {NAN, INFINITY, -INFINITY};
  for (int k = 0; k < 3; k++) {
    problem p = pose(linear_request(MR3D_FP32, 1, 40));
    mr3d_bundle *answer = exact_answer(&p);
    values_of(answer, "y")[77] = bad[k];
    mr3d_tensor_verdict verdict = fails_by(&p, answer, "y", "finite");
    assert_string_equal(verdict.index, "[0,1,13]");
    assert_int_equal(verdict.wrong, 1);
    drop(&p);
  }
}

static void an_infinity_is_right_where_the_truth_overflows_the_tier(void **state) {
  (void)state;
  mr3d_bundle *r = request_of("swiglu", MR3D_FP16);
  mr3d_tensor *gate = mr3d_bundle_add(r, "gate", MR3D_F16, SHAPE(1, 1, 2)), *up = mr3d_bundle_add(r, "up", MR3D_F16, SHAPE(1, 1, 2));
  mr3d_tensor_from_double(gate, (double[]){1000, 1});
  mr3d_tensor_from_double(up, (double[]){100, 1});
  problem p = pose(r);
  mr3d_bundle *answer = exact_answer(&p);
  values_of(answer, "y")[0] = INFINITY;
  passes(&p, answer, "100000 at fp16", 0);
  values_of(answer, "y")[0] = -INFINITY;
  fails_by(&p, answer, "y", "finite");
  drop(&p);
}

static void where_exactness_is_due_the_sign_of_zero_counts(void **state) {
  (void)state;
  problem p = pose(normalize_request(MR3D_FP32, 1));
  mr3d_bundle *answer = exact_answer(&p);
  values_of(answer, "coords")[120 + 35 * 3] = -0.0; /* a row beyond the count */
  fails_by(&p, answer, "coords", "element");
  drop(&p);

  p = pose(attention_request(MR3D_FP32, 1)); /* zeros of a row that sees nothing may have either sign */
  answer = exact_answer(&p);
  values_of(answer, "y")[0] = -0.0;
  passes(&p, answer, "-0 of a hidden row", 0);
  values_of(answer, "y")[0] = 1e-30;
  fails_by(&p, answer, "y", "element");
  drop(&p);
}

static void a_bin_turned_0_01_rad_too_far_at_bf16_fails_by_angle(void **state) {
  (void)state;
  problem p = pose(rope1d_request(MR3D_BF16_TIER, 1, 96, 1));
  mr3d_bundle *answer = exact_answer(&p);
  double *y = values_of(answer, "y"), c = cos(0.01), s = sin(0.01);
  for (int r = 0; r < 4 * 96; r++) {
    double a = y[r * 32 + 5], b = y[r * 32 + 21];
    y[r * 32 + 5] = a * c - b * s;
    y[r * 32 + 21] = b * c + a * s;
  }
  mr3d_bundle *kept = stored_as(answer, MR3D_BF16);
  mr3d_tensor_verdict verdict = fails_by(&p, kept, "y", "angle");
  assert_true(statistic(&verdict, "element")->passed); /* seen by nothing else */
  mr3d_bundle_free(&answer);
  drop(&p);
}

static void an_inverse_frequency_off_by_its_rounding_is_honest(void **state) {
  (void)state;
  problem p = pose(rope1d_request(MR3D_FP32, 4, 400, 41));
  mr3d_bundle *answer = exact_answer(&p);
  double *y = values_of(answer, "y");
  for (int r = 0; r < 4 * 400; r++)
    for (int j = 0; j < 16; j++) { /* one sign at all positions: 0.7 of what building it in binary32 may lose */
      double t = 2.0 * j / 32 * log(1e6), theta = (r % 400) * 41 * exp(-t), turn = 0.7 * 0x1p-24 * (4 + 2 * t) * theta;
      double a = y[r * 32 + j], b = y[r * 32 + j + 16];
      y[r * 32 + j] = a * cos(turn) - b * sin(turn);
      y[r * 32 + j + 16] = b * cos(turn) + a * sin(turn);
    }
  passes(&p, answer, "inv_freq", 4);
  mr3d_bundle_free(&answer);
  drop(&p);
}

static void a_turn_below_half_a_spacing_is_lost_honestly(void **state) {
  (void)state;
  mr3d_bundle *request = request_of("rope1d", MR3D_BF16_TIER);
  draw(request, "x", MR3D_BF16, between(1, 2), 1, SHAPE(1, 4, 96, 32));
  count_up(request, "position_ids", 96, 800, 1); /* the slowest bin turns by 0.0019 to 0.0021, a spacing is 0.0078 */
  problem p = pose(request);
  mr3d_bundle *exact = exact_answer(&p), *answer = stored_as(exact, MR3D_BF16);
  passes(&p, answer, "rounded once", 1);
  mr3d_bundle_free(&answer);
  mr3d_bundle_free(&exact);
  drop(&p);
}

static void arithmetic_coarser_than_its_tier_fails(void **state) {
  (void)state;
  problem p = pose(linear_request(MR3D_FP32, 1, 40));
  mr3d_bundle *exact = exact_answer(&p), *coarse = stored_as(exact, MR3D_BF16), *wide = mr3d_bundle_new();
  const mr3d_tensor *y = mr3d_bundle_find(coarse, "y");
  mr3d_tensor *copy = mr3d_bundle_add(wide, "y", MR3D_F64, y->rank, y->shape);
  mr3d_tensor_to_double(y, copy->data);
  fails_by(&p, wide, "y", "element");
  mr3d_bundle_free(&exact);
  mr3d_bundle_free(&coarse);
  drop(&p);
}

static void missing_unexpected_misshapen_and_mistyped_tensors_fail_in_words(void **state) {
  (void)state;
  problem p = pose(cis3d_request(MR3D_BF16_TIER, 1));
  bool passed;
  mr3d_bundle *exact = exact_answer(&p), *answer = mr3d_bundle_new();
  mr3d_bundle_copy(answer, NULL, mr3d_bundle_find(exact, "cos"));
  assert_non_null(strstr(verdict_on(&p, answer, "sin", &passed).problem, "missing; expected F32 or F64 [4,60,8]"));
  assert_false(passed);
  mr3d_bundle_free(&answer);

  answer = exact_answer(&p);
  mr3d_bundle_add(answer, "angle", MR3D_F32, SHAPE(4, 60, 8));
  assert_non_null(strstr(verdict_on(&p, answer, "angle", &passed).problem, "unexpected: F32 [4,60,8] is no output of cis3d"));
  assert_false(passed);
  mr3d_bundle_free(&answer);

  answer = mr3d_bundle_new();
  mr3d_bundle_copy(answer, NULL, mr3d_bundle_find(exact, "sin"));
  mr3d_bundle_add(answer, "cos", MR3D_F32, SHAPE(60, 4, 8));
  assert_non_null(strstr(verdict_on(&p, answer, "cos", &passed).problem, "shape [60,4,8], expected [4,60,8]"));
  assert_false(passed);
  mr3d_bundle_free(&answer);

  answer = stored_as(exact, MR3D_BF16); /* tables are never narrower than F32 */
  assert_non_null(strstr(verdict_on(&p, answer, "cos", &passed).problem, "type BF16, expected F32 or F64"));
  assert_false(passed);
  mr3d_bundle_free(&answer);
  mr3d_bundle_free(&exact);
  drop(&p);
}

static void integers_and_booleans_are_exact(void **state) {
  (void)state;
  mr3d_bundle *r = request_of("mask", MR3D_FP32);
  mr3d_bundle_set(r, "past_len", "3");
  mr3d_bundle_set(r, "q_len", "2");
  problem p = pose(r);
  mr3d_bundle *answer = exact_answer(&p);
  passes(&p, answer, "mask", 0);
  ((uint8_t *)mr3d_bundle_find(answer, "visible")->data)[4] ^= 1;
  mr3d_tensor_verdict verdict = fails_by(&p, answer, "visible", "exact");
  assert_string_equal(verdict.index, "[0,0,4]");
  assert_int_equal(verdict.wrong, 1);
  drop(&p);
}

static void rules_without_enough_rows_are_not_tested(void **state) {
  (void)state;
  problem p = pose(linear_request(MR3D_BF16_TIER, 1, 31));
  mr3d_bundle *exact = exact_answer(&p), *answer = stored_as(exact, MR3D_BF16);
  bool passed;
  mr3d_tensor_verdict verdict = verdict_on(&p, answer, "y", &passed);
  assert_true(passed);
  assert_false(statistic(&verdict, "gain")->tested);
  mr3d_bundle_free(&exact);
  mr3d_bundle_free(&answer);
  drop(&p);

  p = pose(linear_request(MR3D_BF16_TIER, 1, 32));
  mr3d_tensor *x = mr3d_bundle_find(p.request, "x"); /* 32 rows of which two are equal are 31 */
  memcpy((char *)x->data + 128 * 2, x->data, 128 * 2);
  problem again = pose(p.request);
  exact = exact_answer(&again);
  answer = stored_as(exact, MR3D_BF16);
  verdict = verdict_on(&again, answer, "y", &passed);
  assert_true(passed);
  assert_false(statistic(&verdict, "gain")->tested);
  mr3d_bundle_free(&exact);
  mr3d_bundle_free(&answer);
  mr3d_truth_free(&p.truth);
  drop(&again);
}

/* ---- composed operators ---- */

static void nearest_and_stochastic_arithmetic_of_a_layer_pass(void **state) {
  (void)state;
  static const mr3d_tier tiers[] = {MR3D_FP32, MR3D_TF32, MR3D_BF16_TIER, MR3D_FP16};
  for (int t = 0; t < 4; t++)
    for (uint64_t seed = 1; seed <= 5; seed++) {
      problem p = pose(layer_request(tiers[t], seed, 1, 48));
      for (int rounding = 0; rounding < 2; rounding++) {
        mr3d_bundle *answer = emulated_answer(p.request, mr3d_arithmetic_of(tiers[t], rounding ? MR3D_STOCHASTIC : MR3D_NEAREST, false, 1000 + seed));
        passes(&p, answer, rounding ? "stochastic layer" : "nearest layer", seed);
        mr3d_bundle_free(&answer);
      }
      drop(&p);
    }
}

static void an_exact_answer_needs_no_yardstick(void **state) {
  (void)state;
  problem p = pose(layer_request(MR3D_FP32, 1, 1, 40));
  mr3d_bundle *answer = exact_answer(&p);
  passes(&p, answer, "exact", 0);
  assert_null(p.truth->runs[0].server);
  values_of(answer, "hidden")[5] += 1e-9; /* and one that isn't starts eight runs, not more, when it passes */
  passes(&p, answer, "nearly exact", 0);
  assert_non_null(p.truth->runs[MR3D_FEW_RUNS - 1].server);
  assert_null(p.truth->runs[MR3D_FEW_RUNS].server);
  mr3d_bundle_free(&answer);
  drop(&p);
}

enum { ROWS = 200, COLS = 16 };

/** Error of element i in a run: uniform, all elements made of `free` values (0: of as many as there are elements). */
static float drawn_error(uint64_t run, uint64_t i, int64_t free_values) {
  const uint64_t source = free_values ? i % (uint64_t)free_values : i;
  return 1e-4F * ((float)(mr3d_random_raw((mr3d_stream){{run, 1}}, source) >> 40) * 0x1p-23F - 1);
}

/** Judges 200 rows by `n` runs with such errors; `first` is the truth of column 0, where no run errs, 1 that of all others. The answer errs by error(i). */
static mr3d_tensor_verdict judged_by_drawn_runs(int n, int64_t free_values, mr3d_tier tier, double first, double error(uint64_t i, int64_t free_values)) {
  double ref[ROWS * COLS], got[ROWS * COLS];
  float errors[MR3D_MANY_RUNS][ROWS * COLS];
  const float *runs[MR3D_MANY_RUNS];
  for (uint64_t i = 0; i < ROWS * COLS; i++) {
    const bool massive = first != 1 && i % COLS == 0;
    ref[i] = massive ? first : 1, got[i] = ref[i] + error(i, free_values);
    for (int r = 0; r < n; r++) runs[r] = errors[r], errors[r][i] = massive ? 0 : drawn_error((uint64_t)r, i, free_values);
  }
  const mr3d_tensor expected = {.name = "hidden", .dtype = MR3D_F64, .rank = 2, .shape = {ROWS, COLS}, .data = ref};
  const mr3d_output output = {.expected = &expected, .units = mr3d_tier_units(tier), .tier = tier, .threads = 1, .rows = ROWS, .cols = COLS, .heads = 1, .per_head = ROWS, .ref = ref, .got = got};
  mr3d_tensor_verdict verdict = {.passed = true};
  mr3d_judge_by_yardstick(&output, "hidden", n, runs, &verdict);
  return verdict;
}

static mr3d_statistic tensor_rule(int n, int64_t free_values, mr3d_tier tier, double error(uint64_t i, int64_t free_values)) {
  const mr3d_tensor_verdict verdict = judged_by_drawn_runs(n, free_values, tier, 1, error);
  assert_true(statistic(&verdict, "tensor")->tested && statistic(&verdict, "tensor")->passed);
  return *statistic(&verdict, "tensor");
}

static double as_a_run(uint64_t i, int64_t free_values) { return (double)drawn_error(MR3D_MANY_RUNS, i, free_values); }
static double next_to_none(uint64_t i, int64_t free_values) { return (void)i, (void)free_values, 1e-6; }
static double one_rounding(uint64_t i, int64_t free_values) { return (void)free_values, i % COLS != 0 ? 1e-6 : i / COLS % 2 ? 0x1p-24 * 1e5 : -0x1p-24 * 1e5; }

static double tensor_limit_of(int64_t free_values, mr3d_tier tier) { return tensor_rule(MR3D_MANY_RUNS, free_values, tier, next_to_none).limit; }

/** Each run against the others: were it among those that it is measured by, it would seem smaller, and an equal the larger for it: 1.05 of four, the fewest that decide; 200 rows know it to 0.008. */
static void one_run_more_scores_one(void **state) {
  (void)state;
  const double score = tensor_rule(4, 0, MR3D_FP32, as_a_run).value;
  if (!(fabs(score - 1) < 0.03)) fail_msg("a run's equal scores %g", score);
}

/** Where all runs store a massive value right and the backend one rounding off; its row's other errors are a hundredth of that. */
static void a_stored_value_may_be_off_by_its_rounding_where_no_run_errs(void **state) {
  (void)state;
  const mr3d_tensor_verdict verdict = judged_by_drawn_runs(MR3D_FEW_RUNS, 0, MR3D_FP32, 1e5, one_rounding);
  if (!verdict.passed) fail_msg("%s", verdict.problem);
}

/** 4 sigma of n values (docs/tolerance.md, "Rows that err together"): 2.0 for nine, and 0.7 of that where storage decides. */
static void rows_that_err_together_are_as_few_as_what_they_share(void **state) {
  (void)state;
  assert_true(tensor_limit_of(0, MR3D_FP32) == 1.25 && tensor_limit_of(0, MR3D_BF16_TIER) == 1.25);
  const double nine = tensor_limit_of(9, MR3D_FP32), three = tensor_limit_of(3, MR3D_FP32);
  if (!(fabs(nine - 2.0) < 0.15 && fabs(three - 2.86) < 0.3)) fail_msg("the limits are %g for nine values and %g for three", nine, three);
  assert_true(fabs(tensor_limit_of(9, MR3D_BF16_TIER) - 2.0 * sqrt(0.5)) < 0.15);
}

static double mean_square(const problem *p, const mr3d_tensor *expected, int runs, int64_t element) {
  double sum = 0;
  for (int r = 0; r < runs; r++) sum += pow(mr3d_emulated_errors(&p->truth->runs[r], expected)[element], 2);
  return sum / runs;
}

/** The statistic of `element` over its limit, by so many runs. */
static double over_element_limit(const problem *p, const mr3d_tensor *expected, const mr3d_bundle *answer, int runs) {
  const float *errors[MR3D_MANY_RUNS];
  for (int r = 0; r < runs; r++) errors[r] = mr3d_emulated_errors(&p->truth->runs[r], expected);
  mr3d_output output;
  mr3d_output_open(p->truth, expected, mr3d_bundle_find(answer, expected->name), &output);
  mr3d_output_widen(&output);
  mr3d_tensor_verdict verdict = {.passed = true};
  mr3d_judge_by_yardstick(&output, expected->name, runs, errors, &verdict);
  mr3d_output_close(&output);
  return statistic(&verdict, "element")->value / statistic(&verdict, "element")->limit;
}

/** An element whose runs happen to agree among the first eight: what fails by these passes by thirty-two, and twice as much fails by both. */
static void a_failure_is_declared_only_after_thirty_two_runs(void **state) {
  (void)state;
  problem p = pose(layer_request(MR3D_FP32, 3, 1, 48));
  const mr3d_tensor *expected = mr3d_bundle_find(p.answer, "hidden");
  mr3d_truth_emulate(p.truth, MR3D_MANY_RUNS);
  int64_t best = 0;
  double most = 0;
  for (int64_t i = 0; i < mr3d_tensor_count(expected); i++) {
    const double ratio = mean_square(&p, expected, MR3D_MANY_RUNS, i) / mean_square(&p, expected, MR3D_FEW_RUNS, i);
    if (ratio > most) most = ratio, best = i;
  }
  mr3d_bundle *answer = exact_answer(&p);
  double *hidden = values_of(answer, "hidden"), error = 10 * sqrt(mean_square(&p, expected, MR3D_MANY_RUNS, best));
  const double truth = hidden[best];
  hidden[best] = truth + error;
  error *= 0.98 / over_element_limit(&p, expected, answer, MR3D_MANY_RUNS); /* the statistic is linear in it */
  hidden[best] = truth + error;
  assert_true(over_element_limit(&p, expected, answer, MR3D_FEW_RUNS) > 1.02);
  passes(&p, answer, "thirty-two runs", 3);
  hidden[best] = truth + 2 * error;
  fails_by(&p, answer, "hidden", "element");
  drop(&p);
}

/** Errors of run r in one truth against another's, both with the same names. */
static void assert_same_errors(const mr3d_bundle *got, const mr3d_bundle *expected, const char *tier, int run, int threads) {
  assert_int_equal(mr3d_bundle_count(got), mr3d_bundle_count(expected));
  for (int i = 0; i < mr3d_bundle_count(expected); i++) {
    const mr3d_tensor *a = mr3d_bundle_at(got, i), *b = mr3d_bundle_at(expected, i);
    assert_string_equal(a->name, b->name);
    if (memcmp(a->data, b->data, (size_t)mr3d_tensor_count(b) * sizeof(float)) != 0) fail_msg("%s, run %d, %d threads: other errors of %s", tier, run, threads, b->name);
  }
}

static void runs_made_side_by_side_are_those_made_one_after_another(void **state) {
  (void)state;
  for (int tier = 0; tier < MR3D_N_TIERS; tier++) {
    problem p = pose(layer_request((mr3d_tier)tier, 3, 1, 48));
    mr3d_truth_emulate(p.truth, MR3D_FEW_RUNS);
    const int threads[] = {2, 3, 5, 12};
    for (int t = 0; t < 4; t++) {
      const mr3d_bundle *answer;
      mr3d_error error = {0};
      mr3d_truth *truth = mr3d_truth_new((mr3d_tier)tier, NULL, NULL, threads[t]);
      assert_int_equal(mr3d_truth_step(truth, p.request, &answer, &error), MR3D_OK);
      if (t % 2) mr3d_truth_emulate(truth, 4);
      mr3d_truth_emulate(truth, MR3D_FEW_RUNS);
      for (int r = 0; r < MR3D_FEW_RUNS; r++) assert_same_errors(truth->runs[r].errors, p.truth->runs[r].errors, mr3d_tier_name((mr3d_tier)tier), r, threads[t]);
      mr3d_truth_free(&truth);
    }
    drop(&p);
  }
}

static mr3d_bundle *generated_request(mr3d_tier tier) {
  mr3d_bundle *r = request_of("prefill", tier);
  mr3d_bundle_set(r, "session", "s");
  mr3d_bundle_set(r, "weights", "generated:3"); /* drawn by the tier */
  draw(r, "inputs_embeds", mr3d_tier_storage(tier), normal, 3, SHAPE(1, 6, 128));
  int64_t *mask = mr3d_bundle_add(r, "attention_mask", MR3D_I64, SHAPE(1, 6))->data;
  for (int i = 0; i < 6; i++) mask[i] = 1;
  return r;
}

/** The first run's errors are those of a server of its own, the others' to within what no one sees: they take the size of their noise from the first. */
static void runs_err_as_servers_of_their_own_would(void **state) {
  (void)state;
  for (int i = 0; i < 2 * MR3D_N_TIERS; i++) {
    const int tier = i / 2;
    problem p = pose(i % 2 ? generated_request((mr3d_tier)tier) : layer_request((mr3d_tier)tier, 3, 1, 48));
    mr3d_truth_emulate(p.truth, MR3D_FEW_RUNS);
    for (int r = 0; r < MR3D_FEW_RUNS; r++) {
      mr3d_bundle *answer = emulated_answer(p.request, mr3d_arithmetic_of((mr3d_tier)tier, MR3D_STOCHASTIC, r % 2, (uint64_t)r + 1));
      for (int t = 0; t < mr3d_bundle_count(answer); t++) {
        const mr3d_tensor *own = mr3d_bundle_at(answer, t), *expected = mr3d_bundle_find(p.answer, own->name);
        const float *errors = mr3d_emulated_errors(&p.truth->runs[r], expected);
        double apart = 0, size = 0;
        for (int64_t j = 0; j < mr3d_tensor_count(own); j++) {
          const double error = ((double *)own->data)[j] - ((double *)expected->data)[j];
          apart += pow((double)errors[j] - error, 2);
          size += error * error;
        }
        const double most = i % 2 || r == 0 ? 1e-7 /* of binary32 */ : 1e-3;
        if (!(size > 0 && sqrt(apart / size) < most)) fail_msg("%s, run %d: errors of %s are %g of their size apart", mr3d_tier_name((mr3d_tier)tier), r, own->name, sqrt(apart / size));
      }
      mr3d_bundle_free(&answer);
    }
    drop(&p);
  }
}

static void a_layer_with_one_wrong_token_fails_at_every_tier(void **state) {
  (void)state;
  for (int tier = 0; tier < MR3D_N_TIERS; tier++) {
    problem p = pose(layer_request((mr3d_tier)tier, 3, 1, 48));
    mr3d_bundle *answer = exact_answer(&p);
    double *hidden = values_of(answer, "hidden");
    memcpy(hidden + 30 * 128, hidden + 29 * 128, 128 * sizeof *hidden);
    mr3d_tensor_verdict verdict = fails_by(&p, answer, "hidden", "slice");
    assert_true(strncmp(verdict.index, "[0,30,", 6) == 0);
    assert_true(verdict.wrong > 20);
    drop(&p);
  }
}

static void binary64_is_judged_by_its_own_errors(void **state) {
  (void)state;
  problem p = pose(layer_request(MR3D_FP64, 9, 1, 48));
  for (int exponent = -52; exponent <= -44; exponent += 8) { /* the runs are emulated with units of 2^-40 */
    mr3d_bundle *answer = exact_answer(&p);
    double *hidden = values_of(answer, "hidden");
    for (int i = 0; i < 48 * 128; i++) hidden[i] *= 1 + (i % 3 - 1) * ldexp(1, exponent);
    if (exponent == -52) passes(&p, answer, "2^-52", 9);
    else fails_by(&p, answer, "hidden", "tensor");
    if (exponent == -52) mr3d_bundle_free(&answer);
  }
  drop(&p);
}

static void keys_and_values_of_a_layer_are_judged_too(void **state) {
  (void)state;
  for (int k = 0; k < 2; k++) {
    problem p = pose(layer_request(MR3D_FP32, 4, 1, 48));
    mr3d_bundle *answer = exact_answer(&p);
    const char *name = k ? "value" : "key";
    values_of(answer, name)[48 * 32 + 7] *= 1.001;
    fails_by(&p, answer, name, "element");
    drop(&p);
  }
}

static void a_common_factor_of_1_003_in_the_keys_at_bf16_fails_by_gain(void **state) {
  (void)state;
  problem p = pose(layer_request(MR3D_BF16_TIER, 5, 1, 96));
  mr3d_bundle *answer = exact_answer(&p);
  double *key = values_of(answer, "key");
  for (int i = 0; i < 2 * 96 * 32; i++) key[i] *= 1.003;
  fails_by(&p, answer, "key", "gain");
  drop(&p);
}

static void padding_rows_must_be_finite_and_are_not_compared(void **state) {
  (void)state;
  mr3d_bundle *r = layer_request(MR3D_FP32, 6, 2, 40);
  int64_t *mask = mr3d_bundle_add(r, "key_mask", MR3D_I64, SHAPE(2, 40))->data;
  for (int i = 0; i < 80; i++) mask[i] = i < 75; /* the last five tokens of sample 1 are padding */
  problem p = pose(r);
  mr3d_bundle *answer = exact_answer(&p);
  double *hidden = values_of(answer, "hidden");
  hidden[78 * 128] = 1234;
  passes(&p, answer, "another value in padding", 0);
  hidden[74 * 128] += 1234; /* the last row that is none */
  fails_by(&p, answer, "hidden", "element");

  answer = exact_answer(&p);
  values_of(answer, "hidden")[78 * 128] = NAN;
  fails_by(&p, answer, "hidden", "finite");
  drop(&p);
}

/** A one-layer decoder on a weights file of its own; removed by the caller. */
static mr3d_bundle *prefill_request(mr3d_tier tier, uint64_t seed, int64_t S, char path[64]) {
  mr3d_dtype dtype = mr3d_tier_storage(tier);
  mr3d_error error = {0};
  mr3d_bundle *weights = mr3d_bundle_new();
  snprintf(path, 64, "judge-XXXXXX.safetensors");
  close(mkstemps(path, 12));
  draw(weights, "model.embed_tokens.weight", dtype, times(heavy, 0.2), seed, SHAPE(600, 128));
  draw(weights, "model.norm.weight", dtype, between(0.2, 4), seed, SHAPE(128));
  add_layer(weights, dtype, "model.layers.0.", seed);
  if (mr3d_safetensors_save(path, weights, &error) != MR3D_OK) fail_msg("%s", error.message);
  mr3d_bundle_free(&weights);
  mr3d_bundle *r = request_of("prefill", tier);
  mr3d_bundle_set(r, "session", "s");
  mr3d_bundle_set(r, "weights", path);
  draw(r, "inputs_embeds", dtype, normal, seed, SHAPE(1, S, 128));
  int64_t *mask = mr3d_bundle_add(r, "attention_mask", MR3D_I64, SHAPE(1, S))->data;
  for (int64_t i = 0; i < S; i++) mask[i] = 1;
  return r;
}

static void logits_fail_when_a_clear_favourite_changes(void **state) {
  (void)state;
  char path[64];
  problem p = pose(prefill_request(MR3D_FP32, 7, 12, path));
  mr3d_bundle *answer = emulated_answer(p.request, mr3d_arithmetic_of(MR3D_FP32, MR3D_NEAREST, false, 99));
  passes(&p, answer, "nearest decoder", 7);
  double *row = values_of(answer, "logits") + 5 * 600;
  int top = 0, second = -1;
  for (int v = 1; v < 600; v++)
    if (row[v] > row[top]) top = v;
  for (int v = 0; v < 600; v++)
    if (v != top && (second < 0 || row[v] > row[second])) second = v;
  double swap = row[top];
  row[top] = row[second];
  row[second] = swap;
  bool passed;
  mr3d_tensor_verdict verdict = verdict_on(&p, answer, "logits", &passed);
  assert_false(passed);
  assert_false(statistic(&verdict, "top1")->passed);
  assert_true(verdict.top5_overlap == 1); /* the same five */
  row[second] = -1000;
  verdict = verdict_on(&p, answer, "logits", &passed);
  assert_true(fabs(verdict.top5_overlap - (1 - 1.0 / 5 / 12)) < 1e-12); /* one of five lost in one row of twelve */
  fails_by(&p, answer, "logits", "kl");
  drop(&p);
  unlink(path);
}

static void a_session_is_judged_at_its_later_steps_and_catches_the_yardstick_up(void **state) {
  (void)state;
  char path[64];
  problem p = pose(prefill_request(MR3D_BF16_TIER, 8, 12, path));
  mr3d_server_options options = {.threads = 1, .emulate = true, .arithmetic = mr3d_arithmetic_of(MR3D_BF16_TIER, MR3D_NEAREST, false, 5)};
  mr3d_server *server = mr3d_server_new(&options);
  mr3d_bundle *answer = NULL, *decode = request_of("decode", MR3D_BF16_TIER);
  mr3d_error error = {0};
  assert_int_equal(mr3d_server_answer(server, p.request, &answer, &error), MR3D_OK);
  mr3d_bundle_free(&answer); /* not judged: the yardstick has not started yet */
  mr3d_bundle_set(decode, "session", "s");
  ((int64_t *)mr3d_bundle_add(decode, "input_ids", MR3D_I64, SHAPE(1, 1))->data)[0] = 17;
  assert_int_equal(mr3d_truth_step(p.truth, decode, &p.answer, &error), MR3D_OK);
  assert_int_equal(mr3d_server_answer(server, decode, &answer, &error), MR3D_OK);
  passes(&p, answer, "decode", 8);
  values_of(answer, "logits")[3] += 3;
  fails_by(&p, answer, "logits", "element");
  mr3d_server_free(&server);
  mr3d_truth_free(&p.truth);
  mr3d_bundle_free(&decode);
  mr3d_bundle_free(&p.request);
  unlink(path);
}

static void the_k_th_smallest_is_found_among_equal_and_sorted_values(void **state) {
  (void)state;
  double values[257];
  for (int pattern = 0; pattern < 4; pattern++)
    for (int64_t n = 1; n <= 257; n += 16)
      for (int64_t k = 0; k < n; k += 1 + n / 7) {
        for (int64_t i = 0; i < n; i++) values[i] = pattern == 0 ? (double)i : pattern == 1 ? (double)(n - i) : pattern == 2 ? 1 : (double)(i * 7919 % n / 2);
        double found = mr3d_select(values, n, k);
        int64_t below = 0, equal = 0;
        for (int64_t i = 0; i < n; i++) {
          below += values[i] < found;
          equal += values[i] == found;
        }
        assert_true(below <= k && k < below + equal);
      }
}

/** Honest for a compiler: a division by a constant becomes a product with its rounded reciprocal, and all rows get that rounding. */
static void a_rounding_that_all_rows_share_is_no_bias(void **state) {
  (void)state;
  mr3d_bundle *r = request_of("normalize_coords", MR3D_FP32);
  mr3d_bundle_set(r, "config", "{\"coord_norm\":\"grid\",\"reduced_grid_size\":80}");
  draw(r, "coords", MR3D_I64, (mr3d_draw){.dist = MR3D_INT, .lo = 0, .hi = 79}, 5, SHAPE(700, 3));
  problem p = pose(r);
  mr3d_bundle *answer = exact_answer(&p);
  double *y = values_of(answer, "coords");
  const int64_t *c = mr3d_bundle_find(r, "coords")->data;
  for (int i = 0; i < 2100; i++) y[i] = (float)c[i] * (1.0f / 79.0f);
  passes(&p, answer, "a product with 1/79", 5);
  for (int i = 0; i < 2100; i++) y[i] = (double)c[i] / 79 * (1 + 1.9 * 0x1p-24); /* half as much again as two roundings with one sign */
  mr3d_tensor_verdict verdict = fails_by(&p, answer, "coords", "gain");
  assert_true(verdict.elements == 2100);
  drop(&p);

  r = request_of("voxelize", MR3D_FP32);
  double *points = mr3d_bundle_add(r, "points", MR3D_F64, SHAPE(600, 6))->data;
  for (int i = 0; i < 600; i++)
    for (int k = 0; k < 6; k++) points[6 * i + k] = k < 3 ? 0.025 * ((i * (k + 3)) % 97) + 0.01 : (i * 7 + k) % 256;
  p = pose(r);
  answer = exact_answer(&p), y = values_of(answer, "features");
  int64_t M = mr3d_bundle_find(answer, "features")->shape[0];
  for (int64_t i = 0; i < 6 * M; i++)
    if (i % 6 >= 3) y[i] = (float)rint((y[i] + 1) * 127.5) * (1.0f / 127.5f) - 1.0f;
    else y[i] = (float)y[i];
  passes(&p, answer, "a product with 1/127.5", 0);
  mr3d_bundle_free(&answer);
  drop(&p);
}

/** What XLA does on CPUs: each of five steps is stored. */
static void a_gate_stored_after_each_of_five_steps_passes(void **state) {
  (void)state;
  for (int tier = MR3D_BF16_TIER; tier <= MR3D_FP16; tier++)
    for (uint64_t seed = 1; seed <= SEEDS; seed++) {
      mr3d_bundle *r = request_of("swiglu", (mr3d_tier)tier);
      draw(r, "gate", mr3d_tier_storage((mr3d_tier)tier), seed % 2 ? between(-6.5, -5.5) : between(-2, 1), seed, SHAPE(1, 13, 32));
      draw(r, "up", mr3d_tier_storage((mr3d_tier)tier), normal, seed, SHAPE(1, 13, 32));
      problem p = pose(r);
      mr3d_bundle *answer = exact_answer(&p);
      double gate[13 * 32], up[13 * 32], *y = values_of(answer, "y");
      mr3d_tensor_to_double(mr3d_bundle_find(r, "gate"), gate);
      mr3d_tensor_to_double(mr3d_bundle_find(r, "up"), up);
      for (int i = 0; i < 13 * 32; i++) {
        float e = stored((mr3d_tier)tier, exp(-gate[i])), sum = stored((mr3d_tier)tier, 1 + e), sigma = stored((mr3d_tier)tier, 1 / sum);
        y[i] = stored((mr3d_tier)tier, stored((mr3d_tier)tier, gate[i] * sigma) * up[i]);
      }
      passes(&p, answer, "five steps", seed);
      mr3d_bundle_free(&answer);
      drop(&p);
    }
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(honest_arithmetic_of_single_operators_passes_20_seeds),
      cmocka_unit_test(heads_that_share_a_rounded_table_at_three_tokens_pass_20_seeds),
      cmocka_unit_test(limits_of_single_operators_are_4_for_an_element_2_for_a_row_1_for_the_tensor),
      cmocka_unit_test(outputs_scaled_by_1_003_at_bf16_fail_by_gain_alone),
      cmocka_unit_test(one_head_scaled_by_1_01_at_fp32_fails),
      cmocka_unit_test(one_wrong_token_of_4096_fails),
      cmocka_unit_test(one_nan_and_one_infinity_fail_by_finite),
      cmocka_unit_test(an_infinity_is_right_where_the_truth_overflows_the_tier),
      cmocka_unit_test(where_exactness_is_due_the_sign_of_zero_counts),
      cmocka_unit_test(a_bin_turned_0_01_rad_too_far_at_bf16_fails_by_angle),
      cmocka_unit_test(an_inverse_frequency_off_by_its_rounding_is_honest),
      cmocka_unit_test(a_turn_below_half_a_spacing_is_lost_honestly),
      cmocka_unit_test(arithmetic_coarser_than_its_tier_fails),
      cmocka_unit_test(missing_unexpected_misshapen_and_mistyped_tensors_fail_in_words),
      cmocka_unit_test(integers_and_booleans_are_exact),
      cmocka_unit_test(rules_without_enough_rows_are_not_tested),
      cmocka_unit_test(nearest_and_stochastic_arithmetic_of_a_layer_pass),
      cmocka_unit_test(an_exact_answer_needs_no_yardstick),
      cmocka_unit_test(one_run_more_scores_one),
      cmocka_unit_test(a_stored_value_may_be_off_by_its_rounding_where_no_run_errs),
      cmocka_unit_test(rows_that_err_together_are_as_few_as_what_they_share),
      cmocka_unit_test(a_failure_is_declared_only_after_thirty_two_runs),
      cmocka_unit_test(runs_made_side_by_side_are_those_made_one_after_another),
      cmocka_unit_test(runs_err_as_servers_of_their_own_would),
      cmocka_unit_test(a_layer_with_one_wrong_token_fails_at_every_tier),
      cmocka_unit_test(binary64_is_judged_by_its_own_errors),
      cmocka_unit_test(keys_and_values_of_a_layer_are_judged_too),
      cmocka_unit_test(a_common_factor_of_1_003_in_the_keys_at_bf16_fails_by_gain),
      cmocka_unit_test(padding_rows_must_be_finite_and_are_not_compared),
      cmocka_unit_test(logits_fail_when_a_clear_favourite_changes),
      cmocka_unit_test(a_session_is_judged_at_its_later_steps_and_catches_the_yardstick_up),
      cmocka_unit_test(a_rounding_that_all_rows_share_is_no_bias),
      cmocka_unit_test(a_gate_stored_after_each_of_five_steps_passes),
      cmocka_unit_test(the_k_th_smallest_is_found_among_equal_and_sorted_values),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
