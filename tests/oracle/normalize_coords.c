/** The reference's own error: normalize_coords, its floating part (spec.md section 3.4). */
#include "oracle.h"

/**
 * Limits, roundings over what k grants: `none` is exact; `grid` one quotient of k = 2; `unit_range` two differences, the sum with 1e-8, the
 * quotient and 1e-8 itself (no binary64 number), 5 of 5; `virtual_resolution` one product more, 6 of 7. A drift adds one rounding of the
 * output, and |y| is granted for it: at most 1.
 */
#define LIMIT_GRID 0.5
#define LIMIT (1 + 0x1p-40) /* second order */

/** `eta`: whether the tier's eta is added to the scale, which has none of its own. */
static void measure(oracle_maximum *m, const char *json, int64_t N, const double *coords, bool eta) {
  const mr3d_config config = config_of(json);
  const mr3d_normalize_coords_in in = {1, N, coords, NULL};
  const mr3d_units fp64 = mr3d_tier_units(MR3D_FP64), fp32 = mr3d_tier_units(MR3D_FP32);
  double *y = unwritten(3 * N), *wide = unwritten(3 * N), *narrow = unwritten(3 * N);
  mr3d_error error = {0};
  if (mr3d_normalize_coords(&exact, &config, &in, y, &error) != MR3D_OK)
    fail_msg("%s", error.message);
  mr3d_normalize_coords_scale(&fp64, &config, &in, wide, NULL);
  mr3d_normalize_coords_scale(&fp32, &config, &in, narrow, NULL);
  mpfr_t v, range;
  mpfr_inits2(2 * ORACLE_BITS, v, range, (mpfr_ptr)0);
  for (int64_t a = 0; a < 3; a++) {
    double min = coords[a], max = coords[a];
    for (int64_t i = 0; i < N; i++) {
      min = fmin(min, coords[i * 3 + a]);
      max = fmax(max, coords[i * 3 + a]);
    }
    for (int64_t i = 0; i < N; i++) {
      const int64_t e = i * 3 + a;
      mpfr_set_d(v, coords[e], MPFR_RNDN);
      if (config.coord_norm == MR3D_NORM_GRID)
        mpfr_div_si(v, v, (long)(config.reduced_grid_size - 1), MPFR_RNDN);
      else if (config.coord_norm != MR3D_NORM_NONE) {
        mpfr_set_str(range, "1e-8", 10, MPFR_RNDN);
        mpfr_add_d(range, range, max, MPFR_RNDN);
        mpfr_sub_d(range, range, min, MPFR_RNDN);
        mpfr_sub_d(v, v, min, MPFR_RNDN);
        mpfr_div(v, v, range, MPFR_RNDN);
        if (config.coord_norm == MR3D_NORM_VIRTUAL_RESOLUTION)
          mpfr_mul_d(v, v, config.virtual_resolution, MPFR_RNDN);
      }
      const double size = fabs(mpfr_get_d(v, MPFR_RNDN));
      if (config.drift == MR3D_DRIFT_AVERAGE)
        mpfr_add_d(v, v, (double)N / 2, MPFR_RNDN);
      else if (config.drift == MR3D_DRIFT_POINTWISE)
        mpfr_add_si(v, v, (long)i, MPFR_RNDN);
      oracle_add(m, y[e], v, wide[e] + (eta ? fp64.eta : 0), narrow[e] + (eta ? fp32.eta : 0), fmax(size, fabs(mpfr_get_d(v, MPFR_RNDN))));
    }
  }
  mpfr_clears(v, range, (mpfr_ptr)0);
  free(y);
  free(wide);
  free(narrow);
}

static const char *const options[] = {"{\"coord_norm\": \"unit_range\"}",
                                      "{\"coord_norm\": \"virtual_resolution\", \"virtual_resolution\": 100.3}",
                                      "{\"drift\": \"average\"}",
                                      "{\"drift\": \"pointwise\"}",
                                      "{\"coord_norm\": \"unit_range\", \"drift\": \"average\"}",
                                      "{\"coord_norm\": \"none\", \"drift\": \"pointwise\"}"};

static void canonical(void **state) {
  (void)state;
  oracle_maximum m = {"normalize_coords", "canonical"}, none = {"normalize_coords", "canonical, none"};
  double c[556 * 3];
  int64_t *grid = drawn_whole("normalize_coords/canonical", 556 * 3, 0, 79);
  for (int i = 0; i < 556 * 3; i++)
    c[i] = (double)grid[i];
  measure(&m, "{}", 556, c, false);
  measure(&none, "{\"coord_norm\": \"none\"}", 556, c, false);
  assert_oracle(&m, LIMIT_GRID);
  assert_oracle(&none, 0);
  free(grid);
}

static void options_with(const char *inputs, const double *c, int64_t N, bool eta) {
  oracle_maximum m = {"normalize_coords", inputs};
  for (int k = 0; k < 6; k++)
    measure(&m, options[k], N, c, eta);
  measure(&m, "{\"num_bins\": 1264}", N, c, eta);
  assert_oracle(&m, LIMIT);
}

static void large_coordinates(void **state) {
  (void)state;
  double *c = drawn_uniform("normalize_coords/large", 200 * 3, -1e6, 1e6);
  options_with("large", c, 200, false);
  free(c);
}

/** The scale has no eta: a quotient below 2^-1022 may lose more than it says, so eta is added here. Grid indices are never so small. */
static void denormal(void **state) {
  (void)state;
  double *c = drawn_denormal("normalize_coords/denormal", 200 * 3);
  options_with("denormal", c, 200, true);
  free(c);
}

/** Coordinates that agree in 30 bits: the range is of the size of 1e-8. */
static void cancelling(void **state) {
  (void)state;
  double *c = drawn_uniform("normalize_coords/cancelling", 200 * 3, 50, 50 + 5e-8);
  options_with("cancelling", c, 200, false);
  free(c);
}

static void random_coordinates(void **state) {
  (void)state;
  double *c = drawn_heavy("normalize_coords/random", 300 * 3, 40);
  options_with("random", c, 300, false);
  free(c);
}

int main(void) {
  const struct CMUnitTest tests[] = {cmocka_unit_test(canonical), cmocka_unit_test(large_coordinates), cmocka_unit_test(denormal),
                                     cmocka_unit_test(cancelling), cmocka_unit_test(random_coordinates)};
  return cmocka_run_group_tests(tests, NULL, NULL);
}
