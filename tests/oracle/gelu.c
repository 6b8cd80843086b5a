/** The reference's own error: GELU (encoders.md). */
#include "encoders.h"

/** No more than the roundings that oracle_gelu counts, one unit each. */
#define LIMIT 1.0

enum { N = 250 };

static void of(const char *inputs, double *x) {
  oracle_maximum m = {"gelu", inputs};
  double *y = unwritten(N);
  mr3d_gelu(&exact, 1, N, x, y);
  oracle_values given = oracle_given(1, N, x), truth = oracle_gelu(&given);
  settle_oracle(&m, &given, &truth, y, LIMIT);
  free(x);
}

static void canonical(void **state) {
  (void)state;
  of("canonical", drawn_normal("gelu/canonical", N, 1));
}
static void left_tail(void **state) {
  (void)state;
  of("left tail", drawn_uniform("gelu/left", N, -37, -3));
}
static void underflowing(void **state) {
  (void)state;
  of("Phi near underflow", drawn_uniform("gelu/underflow", N, -40, -37));
}
static void denormal(void **state) {
  (void)state;
  of("denormal", drawn_denormal("gelu/denormal", N));
}
static void random_values(void **state) {
  (void)state;
  of("random", drawn_heavy("gelu/random", N, 4));
}

int main(void) {
  const struct CMUnitTest tests[] = {cmocka_unit_test(canonical), cmocka_unit_test(left_tail), cmocka_unit_test(underflowing), cmocka_unit_test(denormal),
                                     cmocka_unit_test(random_values)};
  return cmocka_run_group_tests(tests, NULL, NULL);
}
