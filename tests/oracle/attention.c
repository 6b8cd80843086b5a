/** The reference's own error: attention (spec.md sections 4 and 6). */
#include "oracle.h"

/**
 * Limit 2. Scores: D partial sums stray by sigma = sqrt(D)/3 u sum of |q k| where the scale grants sqrt(D) u (docs/tolerance.md, "Scores of one
 * sign"), so 5 sigma are 1.67; root, quotient, difference and exp (2 u) are within u (2 + 2 |s - max| + |s|). The sums over n keys stray by
 * lambda sqrt(n) u / sqrt(3) for weights and values each where sqrt(n)/2 is granted for all, with 2 for lambda = 5 after growth (1/3).
 */
#define LIMIT 2.0

static void measure(oracle_maximum *m, const mr3d_attention_in *in) {
  const int64_t D = in->D, K = in->K, n = in->B * in->H * in->q * D;
  const mr3d_units fp64 = mr3d_tier_units(MR3D_FP64), fp32 = mr3d_tier_units(MR3D_FP32);
  double *y = unwritten(n), *wide = unwritten(n), *narrow = unwritten(n);
  mr3d_attention(&exact, in, y);
  mr3d_attention_scale(&fp64, in, wide);
  mr3d_attention_scale(&fp32, in, narrow);
  mpfr_t *p = malloc((size_t)K * sizeof *p), root, max, sum, t, v;
  mpfr_inits2(ORACLE_BITS, root, max, sum, t, v, (mpfr_ptr)0);
  for (int64_t j = 0; j < K; j++)
    mpfr_init2(p[j], ORACLE_BITS);
  mpfr_sqrt_ui(root, (unsigned long)D, MPFR_RNDN);
  for (int64_t row = 0; row < in->B * in->H * in->q; row++) {
    const int64_t b = row / in->q / in->H, h = row / in->q % in->H, i = row % in->q, g = h / (in->H / in->G);
    const double *query = in->query + row * D, *key = in->key + (b * in->G + g) * K * D, *value = in->value + (b * in->G + g) * K * D;
    const bool *visible = in->visible + (b * in->q + i) * K;
    mpfr_set_inf(max, -1);
    for (int64_t j = 0; j < K; j++) {
      mpfr_set_zero(p[j], 1);
      for (int64_t d = 0; d < D && visible[j]; d++) {
        mpfr_set_d(t, query[d], MPFR_RNDN);
        mpfr_mul_d(t, t, key[j * D + d], MPFR_RNDN);
        mpfr_add(p[j], p[j], t, MPFR_RNDN);
      }
      mpfr_div(p[j], p[j], root, MPFR_RNDN);
      if (visible[j])
        mpfr_max(max, max, p[j], MPFR_RNDN);
    }
    mpfr_set_zero(sum, 1);
    for (int64_t j = 0; j < K; j++)
      if (visible[j]) {
        mpfr_sub(p[j], p[j], max, MPFR_RNDN);
        mpfr_exp(p[j], p[j], MPFR_RNDN);
        mpfr_add(sum, sum, p[j], MPFR_RNDN);
      }
    for (int64_t d = 0; d < D; d++) {
      double size = 0;
      mpfr_set_zero(v, 1);
      for (int64_t j = 0; j < K; j++)
        if (visible[j]) {
          mpfr_div(t, p[j], sum, MPFR_RNDN);
          mpfr_mul_d(t, t, value[j * D + d], MPFR_RNDN);
          size += fabs(mpfr_get_d(t, MPFR_RNDN));
          mpfr_add(v, v, t, MPFR_RNDN);
        }
      oracle_add(m, y[row * D + d], v, wide[row * D + d], narrow[row * D + d], size);
    }
  }
  for (int64_t j = 0; j < K; j++)
    mpfr_clear(p[j]);
  mpfr_clears(root, max, sum, t, v, (mpfr_ptr)0);
  free(p);
  free(y);
  free(wide);
  free(narrow);
}

typedef struct problem {
  double *query, *key, *value;
  bool *visible;
  mr3d_attention_in in;
} problem;

/** Causal; with `holes` one key in seven is hidden, and so are all of the first row of each sample. */
static problem problem_of(int64_t B, int64_t H, int64_t G, int64_t q, int64_t K, int64_t D, double size, bool holes) {
  problem p = {drawn_normal("attention/query", B * H * q * D, size), drawn_normal("attention/key", B * G * K * D, size),
               drawn_normal("attention/value", B * G * K * D, 2), malloc((size_t)(B * q * K) * sizeof(bool)), {0}};
  int64_t *hole = drawn_whole("attention/holes", B * q * K, 0, 6);
  for (int64_t i = 0; i < B * q * K; i++)
    p.visible[i] = i % K <= K - q + i / K % q && !(holes && (hole[i] == 0 || i / K % q == 0));
  free(hole);
  p.in = (mr3d_attention_in){B, H, G, q, K, D, p.query, p.key, p.value, p.visible};
  return p;
}

static void judged(const char *inputs, problem p, double limit) {
  oracle_maximum m = {"attention", inputs};
  measure(&m, &p.in);
  assert_oracle(&m, limit);
  free(p.query);
  free(p.key);
  free(p.value);
  free(p.visible);
}

static void canonical(void **state) {
  (void)state;
  judged("canonical", problem_of(1, 14, 2, 2, 200, 64, 1, false), LIMIT);
}

static void large_scores(void **state) {
  (void)state;
  judged("scores to 1000", problem_of(1, 4, 2, 4, 60, 64, 16, false), LIMIT);
}

static void denormal(void **state) {
  (void)state;
  problem p = problem_of(1, 2, 1, 4, 60, 64, 1, false);
  free(p.value);
  p.in.value = p.value = drawn_denormal("attention/denormal", 60 * 64);
  judged("denormal values", p, LIMIT); /* each of 60 products may lose 2^-1075, half of the eta_term granted for it */
  p = problem_of(1, 2, 1, 4, 60, 64, 1, false);
  free(p.query);
  p.in.query = p.query = drawn_denormal("attention/denormal", 2 * 4 * 64);
  judged("denormal queries", p, LIMIT);
}

/** Scores whose second half takes the first back, and values that cancel in pairs of equal keys. */
static void cancelling(void **state) {
  (void)state;
  problem p = problem_of(1, 2, 1, 1, 60, 64, 8, false);
  for (int i = 0; i < 2 * 64; i++)
    if (i % 64 >= 32)
      p.query[i] = -p.query[i - 32] * (1 + 0x1p-20);
  for (int i = 0; i < 60 * 64; i++) {
    if (i % 64 >= 32)
      p.key[i] = p.key[i - 32];
    if (i / 64 % 2 == 1) {
      p.key[i] = p.key[i - 64];
      p.value[i] = -p.value[i - 64] * (1 + 0x1p-40);
    }
  }
  judged("cancelling", p, LIMIT);
}

/** The first key has nearly all weight: the others stand one by one below what the sum can hold. */
static void massive(void **state) {
  (void)state;
  problem p = problem_of(1, 2, 1, 2, 300, 64, 1, false);
  for (int r = 0; r < 4; r++)
    p.query[r * 64] = 8;
  for (int j = 0; j < 300; j++)
    p.key[j * 64] = j == 0 ? 40 : 3;
  judged("massive first key", p, LIMIT);
}

static void random_sizes(void **state) {
  (void)state;
  judged("random, keys hidden", problem_of(2, 6, 3, 5, 23, 32, 2, true), LIMIT);
  judged("random, D = 10", problem_of(2, 4, 1, 3, 40, 10, 3, true), LIMIT);
}

int main(void) {
  const struct CMUnitTest tests[] = {cmocka_unit_test(canonical),  cmocka_unit_test(large_scores), cmocka_unit_test(denormal),
                                     cmocka_unit_test(cancelling), cmocka_unit_test(massive),      cmocka_unit_test(random_sizes)};
  return cmocka_run_group_tests(tests, NULL, NULL);
}
