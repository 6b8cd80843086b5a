/** ReLU (encoders.md, "SceneScript"). */
#include "mr3d/encoders.h"
#include "ops_test.h"

static void negative_values_become_zero_and_others_stay(void **state) {
  (void)state;
  const double x[] = {-1, 0, 2.5, -0.0, 1e-300, -1e300};
  double y[6];
  mr3d_relu(&exact, 2, 3, x, y);
  assert_true(y[0] == 0 && y[1] == 0 && y[2] == 2.5 && y[3] == 0 && y[4] == 1e-300 && y[5] == 0);
}

int main(void) {
  const struct CMUnitTest tests[] = {cmocka_unit_test(negative_values_become_zero_and_others_stay)};
  return cmocka_run_group_tests(tests, NULL, NULL);
}
