/** The projector (encoders.md, "Projector"). */
#include "mr3d/encoders.h"
#include "ops_test.h"

static void linear_is_one_matrix_and_mlp_two_with_gelu_between(void **state) {
  (void)state;
  const double x[] = {1, 2, /**/ -3, 0.5}, first[] = {1, 0, /**/ 0, 1, /**/ 1, -1}, first_bias[] = {0, 1, 0};
  const double second[] = {1, 2, 3, /**/ -1, 0, 1}, second_bias[] = {10, 0};
  double y[6];
  mr3d_project(&exact, &(mr3d_projector_in){2, 2, 0, 3, x, MR3D_PROJECTOR_LINEAR, {first, first_bias}, {NULL, NULL}}, y);
  const double linear[] = {1, 3, -1, /**/ -3, 1.5, -3.5};
  assert_same_bits(y, linear, 6);
  mr3d_project(&exact, &(mr3d_projector_in){2, 2, 3, 2, x, MR3D_PROJECTOR_MLP, {first, first_bias}, {second, second_bias}}, y);
  for (int t = 0; t < 2; t++) {
    double g[3];
    for (int i = 0; i < 3; i++)
      g[i] = linear[3 * t + i] / 2 * (1 + erf(linear[3 * t + i] / sqrt(2)));
    assert_near_at(2 * t, y[2 * t], g[0] + 2 * g[1] + 3 * g[2] + 10, 1e-14);
    assert_near_at(2 * t + 1, y[2 * t + 1], g[2] - g[0], 1e-14);
  }
}

int main(void) {
  const struct CMUnitTest tests[] = {cmocka_unit_test(linear_is_one_matrix_and_mlp_two_with_gelu_between)};
  return cmocka_run_group_tests(tests, NULL, NULL);
}
