/** The reference's own error: the projector (encoders.md). */
#include "encoders.h"

/** As in linear.c. */
#define LIMIT 2.0

static void judged(const char *inputs, mr3d_projector kind, int64_t C, int64_t inner, int64_t hidden, double *(*draw)(const char *, int64_t, double), double size) {
  enum { N = 6 };
  oracle_maximum m = {kind == MR3D_PROJECTOR_MLP ? "projector, mlp" : "projector, linear", inputs};
  const int64_t first = kind == MR3D_PROJECTOR_MLP ? inner : hidden;
  double *x = draw("projector/x", N * C, size), *y = unwritten(N * hidden);
  double *weight = drawn_normal("projector/weight", first * C, 1 / sqrt((double)C)), *bias = drawn_heavy("projector/bias", first, 0.3);
  double *second = drawn_normal("projector/second", hidden * inner, 1 / sqrt((double)inner)), *second_bias = drawn_heavy("projector/second bias", hidden, 0.3);
  const mr3d_projector_in in = {N, C, inner, hidden, x, kind, {weight, bias}, {second, second_bias}};
  mr3d_project(&exact, &in, y);
  oracle_values given = oracle_given(N, C, x), truth = oracle_linear(&given, first, in.first);
  if (kind == MR3D_PROJECTOR_MLP) {
    oracle_values activated = oracle_gelu(&truth);
    oracle_free(&truth);
    truth = oracle_linear(&activated, hidden, in.second);
    oracle_free(&activated);
  }
  settle_oracle(&m, &given, &truth, y, LIMIT);
  free(x);
  free(weight);
  free(bias);
  free(second);
  free(second_bias);
}

static void canonical(void **state) {
  (void)state;
  judged("canonical", MR3D_PROJECTOR_LINEAR, 512, 1, 64, drawn_normal, 1);
  judged("canonical", MR3D_PROJECTOR_MLP, 512, 64, 64, drawn_normal, 1);
}
static void random_values(void **state) {
  (void)state;
  judged("random", MR3D_PROJECTOR_LINEAR, 77, 1, 50, drawn_heavy, 40);
  judged("random", MR3D_PROJECTOR_MLP, 77, 33, 50, drawn_heavy, 4);
}

int main(void) {
  const struct CMUnitTest tests[] = {cmocka_unit_test(canonical), cmocka_unit_test(random_values)};
  return cmocka_run_group_tests(tests, NULL, NULL);
}
