/** The reference's own error: GroupNorm over a sample and over rows, LayerNorm (encoders.md). */
#include "encoders.h"

/**
 * Limit 2: a sum of n terms strays by lambda sqrt(n) units of which the bound grants one (Higham and Mary, docs/tolerance.md), so lambda = 2 for the mean and 4 for the
 * variance, which the root halves; both are shared by a whole group, so few sums decide, and those of one sign stray by a third (linear.c).
 */
#define LIMIT 2.0

typedef enum kind { SPARSE, ROWS, LAYER } kind;
static const char *const names[] = {"group_norm_sparse", "group_norm_rows", "layernorm"};

static void judged(kind k, const char *inputs, int64_t n, int64_t C, int64_t groups, double *x) {
  oracle_maximum m = {names[k], inputs};
  double *weight = drawn_uniform("norm/weight", C, 0.2, 2), *bias = drawn_heavy("norm/bias", C, 0.3), *y = unwritten(n * C);
  const mr3d_affine w = {weight, bias};
  const mr3d_norm_in in = {.n = n, .C = C, .groups = groups, .eps = 1e-5, .x = x, .norm = w};
  (k == SPARSE ? mr3d_group_norm_sparse : k == ROWS ? mr3d_group_norm_rows : mr3d_layernorm)(&exact, &in, y);
  oracle_values given = oracle_given(n, C, x), truth = oracle_group_norm(&given, k == LAYER ? 1 : groups, k != SPARSE, w);
  settle_oracle(&m, &given, &truth, y, LIMIT);
  free(x);
  free(weight);
  free(bias);
}

/** Rows, channels and groups as the encoders have them; a sample's cells are as many as the test's time allows. */
static const struct {
  int64_t n, C, groups;
} sizes[] = {[SPARSE] = {4000, 16, 8}, [ROWS] = {40, 512, 8}, [LAYER] = {40, 512, 1}};

static void each(const char *inputs, double *(*draw)(int64_t count)) {
  for (int k = SPARSE; k <= LAYER; k++)
    judged((kind)k, inputs, sizes[k].n, sizes[k].C, sizes[k].groups, draw(sizes[k].n * sizes[k].C));
}

static double *normal_values(int64_t count) { return drawn_normal("norm/canonical", count, 1); }
static void canonical(void **state) {
  (void)state;
  each("canonical", normal_values);
}

static double *positive_values(int64_t count) { return drawn_uniform("norm/positive", count, 0, 1); }
static void one_sign(void **state) {
  (void)state;
  each("one sign", positive_values);
}

/** All of x but the last bits is the mean. */
static double *far_values(int64_t count) {
  double *x = drawn_normal("norm/far", count, 1);
  for (int64_t i = 0; i < count; i++)
    x[i] += 1e6;
  return x;
}
static void cancelling(void **state) {
  (void)state;
  each("cancelling", far_values);
}

static double *small_values(int64_t count) { return drawn_normal("norm/small", count, 1e-4); }
static void below_eps(void **state) {
  (void)state;
  each("variance below eps", small_values);
}

static double *denormal_values(int64_t count) { return drawn_denormal("norm/denormal", count); }
static void denormal(void **state) {
  (void)state;
  each("denormal", denormal_values);
}

/** One early term of each group dwarfs the others, which still have more digits than the sum keeps. */
static void massive(void **state) {
  (void)state;
  for (int k = SPARSE; k <= LAYER; k++) {
    const int64_t n = sizes[k].n, C = sizes[k].C;
    double *x = drawn_uniform("norm/massive", n * C, 0, 1);
    for (int64_t p = 0; p < (k == SPARSE ? 1 : n); p++)
      for (int64_t c = 0; c < C; c += C / sizes[k].groups)
        x[p * C + c] = ldexp(1, 10 + (int)(c % 16));
    judged((kind)k, "massive term", n, C, sizes[k].groups, x);
  }
}

static void random_sizes(void **state) {
  (void)state;
  static const int64_t channels[] = {1, 2, 7, 24, 96};
  for (size_t i = 0; i < sizeof channels / sizeof *channels; i++)
    for (int k = SPARSE; k <= LAYER; k++)
      judged((kind)k, "random", 60, 8 * channels[i], 8, drawn_heavy("norm/random", 60 * 8 * channels[i], 20));
}

int main(void) {
  const struct CMUnitTest tests[] = {cmocka_unit_test(canonical), cmocka_unit_test(one_sign), cmocka_unit_test(cancelling), cmocka_unit_test(below_eps),
                                     cmocka_unit_test(denormal),  cmocka_unit_test(massive),  cmocka_unit_test(random_sizes)};
  return cmocka_run_group_tests(tests, NULL, NULL);
}
