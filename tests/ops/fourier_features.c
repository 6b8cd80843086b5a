/** Fourier features (encoders.md). */
#include "mr3d/encoders.h"
#include "ops_test.h"

static void the_order_of_the_63_values_and_their_frequencies(void **state) {
  (void)state;
  const int64_t coords[] = {79, 0, 20, /**/ 5, 61, 33};
  double y[2 * 63];
  mr3d_fourier_features(&exact, &(mr3d_fourier_in){2, coords, MR3D_SONATA_NORM_GRID, 80}, y);
  for (int t = 0; t < 2; t++)
    for (int axis = 0; axis < 3; axis++) {
      const long double v = (long double)coords[3 * t + axis] / 79;
      assert_near_at(t * 63 + axis, y[t * 63 + axis], (double)v, 2e-16);
      for (int b = 0; b < 10; b++) {
        const long double angle = 3.14159265358979323846264L * (1 + 29.0L * b / 9) * v;
        assert_near_at(t * 63 + 3 + 6 * b + axis, y[t * 63 + 3 + 6 * b + axis], (double)sinl(angle), 5e-14);
        assert_near_at(t * 63 + 6 + 6 * b + axis, y[t * 63 + 6 + 6 * b + axis], (double)cosl(angle), 5e-14);
      }
    }
  assert_true(y[0] == 1 && y[1] == 0);
  assert_true(y[4] == 0 && y[7] == 1);    /* y = 0: sin 0, cos 0 */
  assert_near(y[6], -1, 1e-15);           /* x = 1, the first band: cos pi */
  assert_near(y[3 + 54 + 3], 1, 1e-13);   /* and the last: cos 30 pi */
}

static void scene_takes_the_samples_own_range_axis_by_axis(void **state) {
  (void)state;
  const int64_t coords[] = {10, 7, 3, /**/ 30, 7, 4, /**/ 15, 7, 3};
  double y[3 * 63];
  mr3d_fourier_features(&exact, &(mr3d_fourier_in){3, coords, MR3D_SONATA_NORM_SCENE, 0}, y);
  assert_true(y[0] == 0 && y[63] == 1 && y[126] == 0.25);
  assert_true(y[1] == 0 && y[64] == 0 && y[127] == 0); /* no extent: divided by 1 */
  assert_true(y[2] == 0 && y[65] == 1 && y[128] == 0);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(the_order_of_the_63_values_and_their_frequencies),
      cmocka_unit_test(scene_takes_the_samples_own_range_axis_by_axis),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
