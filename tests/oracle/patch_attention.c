/** The reference's own error: attention in patches (encoders.md). */
#include "encoders.h"

/** As in attention.c, between two products as in linear.c. */
#define LIMIT 2.0

/**
 * softmax(q k / sqrt D) v of one head of one run, q, k, v columns of qkv [n,3C] at the rows `token` [K]; row `query` of it to y [n,C].
 *
 * A score is off by d_j: its sum of D terms (sqrt D units of sum |q k|), its quotient, and what q's and k's own errors make of it; its weight p_j by d_j, and by the
 * difference to the largest score and exp (2 |s - max| + 3). What errors of the weights make of the mean of v is p_j d_j |v_j - y|.
 */
static void attend(const oracle_values *qkv, int64_t K, const int64_t *token, int64_t query, int64_t heads, int64_t head, oracle_values *y) {
  const int64_t C = qkv->C / 3, D = C / heads, q = token[query] * qkv->C + head * D;
  mpfr_t *p = malloc((size_t)K * sizeof *p), root, max, sum, t;
  double *lost = malloc((size_t)K * sizeof *lost);
  mpfr_inits2(ORACLE_BITS, root, max, sum, t, (mpfr_ptr)0);
  mpfr_sqrt_ui(root, (unsigned long)D, MPFR_RNDN);
  mpfr_set_inf(max, -1);
  for (int64_t j = 0; j < K; j++) {
    const int64_t k = token[j] * qkv->C + C + head * D;
    double size = 0, carried = 0;
    mpfr_init2(p[j], ORACLE_BITS);
    mpfr_set_zero(p[j], 1);
    for (int64_t d = 0; d < D; d++) {
      mpfr_mul(t, qkv->v[q + d], qkv->v[k + d], MPFR_RNDN);
      mpfr_add(p[j], p[j], t, MPFR_RNDN);
      size += fabs(oracle_double(t));
      const double of_q = qkv->bound[q + d] * oracle_double(qkv->v[k + d]), of_k = qkv->bound[k + d] * oracle_double(qkv->v[q + d]);
      carried += of_q * of_q + of_k * of_k;
    }
    mpfr_div(p[j], p[j], root, MPFR_RNDN);
    mpfr_max(max, max, p[j], MPFR_RNDN);
    lost[j] = size + sqrt(carried) / sqrt((double)D) + 2 * fabs(oracle_double(p[j])); /* sqrt D of a sum that is divided by sqrt D */
  }
  mpfr_set_zero(sum, 1);
  for (int64_t j = 0; j < K; j++) {
    mpfr_sub(p[j], p[j], max, MPFR_RNDN);
    lost[j] += 2 * fabs(oracle_double(p[j])) + 3;
    mpfr_exp(p[j], p[j], MPFR_RNDN);
    mpfr_add(sum, sum, p[j], MPFR_RNDN);
  }
  for (int64_t d = 0; d < D; d++) {
    const int64_t to = token[query] * C + head * D + d;
    double carried = 0;
    mpfr_set_zero(y->v[to], 1);
    y->size[to] = 0;
    for (int64_t j = 0; j < K; j++) {
      mpfr_div(t, p[j], sum, MPFR_RNDN);
      mpfr_mul(t, t, qkv->v[token[j] * qkv->C + 2 * C + head * D + d], MPFR_RNDN);
      mpfr_add(y->v[to], y->v[to], t, MPFR_RNDN);
      y->size[to] += fabs(oracle_double(t));
    }
    for (int64_t j = 0; j < K; j++) {
      const int64_t v = token[j] * qkv->C + 2 * C + head * D + d;
      mpfr_div(t, p[j], sum, MPFR_RNDN);
      const double weight = oracle_double(t), of_weight = weight * lost[j] * (oracle_double(qkv->v[v]) - oracle_double(y->v[to])), of_value = weight * qkv->bound[v];
      carried += of_weight * of_weight + of_value * of_value;
    }
    y->bound[to] = sqrt(carried) + (4 + sqrt((double)K)) * y->size[to];
  }
  for (int64_t j = 0; j < K; j++)
    mpfr_clear(p[j]);
  mpfr_clears(root, max, sum, t, (mpfr_ptr)0);
  free(p);
  free(lost);
}

static void judged(const char *inputs, int64_t patch_size, int64_t heads, int64_t C, double *(*draw)(const char *, int64_t, double), double size) {
  oracle_maximum m = {"patch_attention", inputs};
  int64_t n, *cells = some_cells(6, 23, &n);
  const mr3d_point_order order = MR3D_Z_TRANS;
  mr3d_patches_out patches;
  mr3d_patches(&exact, &(mr3d_patches_in){n, cells, 1, &order, 0, 0, patch_size}, &patches);
  double *x = draw("patches/x", n * C, size), *y = unwritten(n * C);
  double *w_qkv = drawn_normal("patches/qkv", 3 * C * C, 1.5 / sqrt((double)C)), *b_qkv = drawn_heavy("patches/qkv bias", 3 * C, 0.3);
  double *w_proj = drawn_normal("patches/proj", C * C, 1 / sqrt((double)C)), *b_proj = drawn_heavy("patches/proj bias", C, 0.3);
  mr3d_patch_attention(&exact, &(mr3d_patch_attention_in){n, C, heads, x, {w_qkv, b_qkv}, {w_proj, b_proj}, &patches}, y);
  oracle_values given = oracle_given(n, C, x), qkv = oracle_linear(&given, 3 * C, (mr3d_affine){w_qkv, b_qkv}), attended = oracle_new(n, C);
  for (int64_t place = 0; place < patches.runs * patches.K; place++)
    for (int64_t head = 0; patches.keep[place] && head < heads; head++)
      attend(&qkv, patches.K, patches.token + place / patches.K * patches.K, place % patches.K, heads, head, &attended);
  oracle_values truth = oracle_linear(&attended, C, (mr3d_affine){w_proj, b_proj});
  oracle_measure(&m, &truth, y);
  assert_oracle(&m, LIMIT);
  oracle_values *all[] = {&given, &qkv, &attended, &truth};
  for (size_t i = 0; i < sizeof all / sizeof *all; i++)
    oracle_free(all[i]);
  mr3d_patches_free(&patches);
  free(cells);
  free(x);
  free(y);
  free(w_qkv);
  free(b_qkv);
  free(w_proj);
  free(b_proj);
}

static void canonical(void **state) {
  (void)state;
  judged("canonical", 48, 3, 48, drawn_normal, 1);
}
static void one_run(void **state) {
  (void)state;
  judged("one run", 1024, 2, 16, drawn_normal, 1);
}
static void sharp_scores(void **state) {
  (void)state;
  judged("scores to 1000", 24, 2, 16, drawn_normal, 16);
}
static void random_values(void **state) {
  (void)state;
  judged("random", 17, 3, 12, drawn_heavy, 3);
}

int main(void) {
  const struct CMUnitTest tests[] = {cmocka_unit_test(canonical), cmocka_unit_test(one_run), cmocka_unit_test(sharp_scores), cmocka_unit_test(random_values)};
  return cmocka_run_group_tests(tests, NULL, NULL);
}
