/** Fixed 3D frequencies (spec.md sections 3.2 and 8, pitfall theta-mixup). */
#include "ops_test.h"

static void mixed_frequencies_fall_from_one_to_nearly_one_over_theta_3d_on_all_axes(void **state) {
  (void)state;
  enum { HEADS = 2, F = 16 };
  const mr3d_config config = config_of("{}");
  double freqs[3 * HEADS * F];
  mr3d_error error = {0};
  assert_int_equal(mr3d_base_frequencies(&config, HEADS, F, freqs, &error), MR3D_OK);
  for (int i = 0; i < 3 * HEADS * F; i++)
    assert_near_at(i, freqs[i], (double)expl(-2.0L * (i % F) / 32 * logl(100)), 4e-16);
  assert_true(freqs[0] == 1);
  assert_near(freqs[8], 0.1, 1e-16);
}

static void axial_bins_belong_to_one_axis_each_and_the_rest_to_z(void **state) {
  (void)state;
  enum { F = 16 }; /* Ds = 32: n = (32 // 3) // 2 = 5; x 0..4, y 5..9, z 10..15 */
  const mr3d_config config = config_of("{\"rope_3d_kind\": \"axial\", \"rope_theta_3d\": 10000}");
  double freqs[3 * F];
  mr3d_error error = {0};
  assert_int_equal(mr3d_base_frequencies(&config, 1, F, freqs, &error), MR3D_OK);
  for (int f = 0; f < F; f++) {
    const int axis = f < 5 ? 0 : f < 10 ? 1 : 2;
    for (int a = 0; a < 3; a++)
      assert_near_at(f, freqs[a * F + f], a == axis ? (double)powl(10000, -(f - 5 * axis) / 5.0L) : 0, 2e-16);
  }
  assert_near(freqs[2 * F + 15], 1e-4, 1e-19); /* bin 5 of z: past n, where the exponent reaches -1 */
}

static void axial_needs_six_spatial_dimensions(void **state) {
  (void)state;
  const mr3d_config config = config_of("{\"rope_3d_kind\": \"axial\"}");
  double freqs[9] = {7};
  mr3d_error error = {0};
  assert_refused(mr3d_base_frequencies(&config, 1, 2, freqs, &error), &error, "axial", "4 spatial dimensions");
  assert_true(freqs[0] == 7);
  assert_int_equal(mr3d_base_frequencies(&config, 1, 3, freqs, &error), MR3D_OK);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(mixed_frequencies_fall_from_one_to_nearly_one_over_theta_3d_on_all_axes),
      cmocka_unit_test(axial_bins_belong_to_one_axis_each_and_the_rest_to_z),
      cmocka_unit_test(axial_needs_six_spatial_dimensions),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
