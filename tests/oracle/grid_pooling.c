/** The reference's own error: grid pooling (encoders.md, "Pooling"). */
#include "encoders.h"

/** As in group_norm.c, behind a sum as in linear.c, each of which strays by no more than twice what the bound grants. */
#define LIMIT 2.0

/** Maximum of each channel over the rows with one parent. An error of any child may move it, and no further than the largest of them. */
static oracle_values largest(const oracle_values *x, const int64_t *parent, int64_t n_out) {
  oracle_values y = oracle_new(n_out, x->C);
  for (int64_t i = 0; i < n_out * x->C; i++)
    mpfr_set_inf(y.v[i], -1);
  for (int64_t i = 0; i < x->n * x->C; i++) {
    const int64_t to = parent[i / x->C] * x->C + i % x->C;
    mpfr_max(y.v[to], y.v[to], x->v[i], MPFR_RNDN);
    y.bound[to] = fmax(y.bound[to], x->bound[i]);
  }
  return y;
}

static void judged(const char *inputs, int64_t C, int64_t C_out, int64_t stride, double *(*draw)(const char *, int64_t, double), double size) {
  oracle_maximum m = {"grid_pooling", inputs};
  int64_t n, *cells = some_cells(6, 17, &n);
  mr3d_coarse_cells_out coarse;
  mr3d_coarse_cells(&exact, n, cells, stride, &coarse);
  double *x = draw("pooling/x", n * C, size), *weight = drawn_normal("pooling/weight", C * C_out, 1 / sqrt((double)C)), *bias = drawn_heavy("pooling/bias", C_out, 0.3);
  double *scale = drawn_uniform("pooling/scale", C_out, 0.2, 2), *shift = drawn_heavy("pooling/shift", C_out, 0.3), *y = unwritten(coarse.n * C_out);
  mr3d_grid_pooling(&exact, &(mr3d_grid_pooling_in){n, C, C_out, x, coarse.parent, coarse.n, 1e-5, {weight, bias}, {scale, shift}}, y);
  oracle_values given = oracle_given(n, C, x), projected = oracle_linear(&given, C_out, (mr3d_affine){weight, bias}), pooled = largest(&projected, coarse.parent, coarse.n);
  oracle_values normed = oracle_group_norm(&pooled, 1, true, (mr3d_affine){scale, shift}), truth = oracle_gelu(&normed);
  oracle_measure(&m, &truth, y);
  assert_oracle(&m, LIMIT);
  oracle_values *all[] = {&given, &projected, &pooled, &normed, &truth};
  for (size_t i = 0; i < sizeof all / sizeof *all; i++)
    oracle_free(all[i]);
  mr3d_coarse_cells_free(&coarse);
  free(cells);
  free(x);
  free(weight);
  free(bias);
  free(scale);
  free(shift);
  free(y);
}

static void canonical(void **state) {
  (void)state;
  judged("canonical", 48, 96, 2, drawn_normal, 1);
}
static void many_into_one(void **state) {
  (void)state;
  judged("all into one", 48, 96, 8, drawn_normal, 1);
}
static void random_values(void **state) {
  (void)state;
  judged("random", 13, 30, 2, drawn_heavy, 40);
}

int main(void) {
  const struct CMUnitTest tests[] = {cmocka_unit_test(canonical), cmocka_unit_test(many_into_one), cmocka_unit_test(random_values)};
  return cmocka_run_group_tests(tests, NULL, NULL);
}
