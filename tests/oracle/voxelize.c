/** The reference's own error: voxelize (spec.md section 7): features against exact ones, cells against the same steps in MPFR at 53 bits. */
#include "oracle.h"

/** A coordinate is one difference (u |y|, all that is granted); a colour a quotient (u |y + 1|) and a difference (u |y|) where 2 |y + 1| + |y| is granted. */
#define LIMIT (1 + 0x1p-40) /* second order */

/** floor((x - min) / cell), each step rounded to binary64. */
static int64_t index_of(double x, double min, double cell) {
  mpfr_t v;
  mpfr_init2(v, 53);
  mpfr_set_d(v, x, MPFR_RNDN);
  mpfr_sub_d(v, v, min, MPFR_RNDN);
  mpfr_div_d(v, v, cell, MPFR_RNDN);
  mpfr_floor(v, v);
  const int64_t index = mpfr_get_si(v, MPFR_RNDN);
  mpfr_clear(v);
  return index;
}

/** Cells first: each raw row lies in one that kept a row no later than it, and none is without a row. Then the features of the rows kept. */
static void measure(oracle_maximum *m, int64_t N, const double *points) {
  const mr3d_config config = config_of("{}");
  const mr3d_units fp64 = mr3d_tier_units(MR3D_FP64), fp32 = mr3d_tier_units(MR3D_FP32);
  mr3d_voxelize_out out;
  mr3d_error error = {0};
  if (mr3d_voxelize(&exact, &config, N, 6, points, &out, &error) != MR3D_OK) fail_msg("%s", error.message);
  double *wide = unwritten(out.M * 6), *narrow = unwritten(out.M * 6), min[3] = {points[0], points[1], points[2]};
  mr3d_voxelize_scale(&fp64, &out, wide, NULL);
  mr3d_voxelize_scale(&fp32, &out, narrow, NULL);
  for (int64_t i = 0; i < 3 * N; i++) min[i % 3] = fmin(min[i % 3], points[i / 3 * 6 + i % 3]);
  int64_t found = 0;
  for (int64_t r = 0; r < N; r++) {
    int64_t cell[3], k = 0;
    for (int a = 0; a < 3; a++) cell[a] = index_of(points[r * 6 + a], min[a], 0.025);
    while (k < out.M && memcmp(out.grid + 3 * k, cell, sizeof cell) != 0) k++;
    if (k == out.M || out.row[k] > r) fail_msg("row %lld, cell %lld %lld %lld", (long long)r, (long long)cell[0], (long long)cell[1], (long long)cell[2]);
    found += out.row[k] == r;
  }
  assert_int_equal(found, out.M);
  mpfr_t y;
  mpfr_init2(y, ORACLE_BITS);
  for (int64_t i = 0; i < out.M * 6; i++) {
    const int a = (int)(i % 6);
    mpfr_set_d(y, points[out.row[i / 6] * 6 + a], MPFR_RNDN);
    if (a < 3) mpfr_sub_d(y, y, min[a], MPFR_RNDN);
    else mpfr_div_d(y, y, 127.5, MPFR_RNDN), mpfr_sub_si(y, y, 1, MPFR_RNDN);
    const double value = mpfr_get_d(y, MPFR_RNDN);
    oracle_add(m, out.features[i], y, wide[i], narrow[i], fabs(value) + (a < 3 ? 0 : 1));
  }
  mpfr_clear(y);
  free(wide);
  free(narrow);
  mr3d_voxelize_free(&out);
}

enum { N = 600 };

/** Coordinates base + `extent` of a draw, colours 0 .. 255 of which 127 and 128 nearly cancel. */
static void cloud(const char *inputs, double base, double extent, bool single) {
  oracle_maximum m = {"voxelize", inputs};
  double *x = drawn_uniform("voxelize/x", N * 3, 0, extent), *points = unwritten(N * 6);
  int64_t *colours = drawn_whole("voxelize/colours", N * 3, 0, 255);
  for (int64_t i = 0; i < N * 3; i++) {
    points[i / 3 * 6 + i % 3] = single ? (double)(float)(base + x[i]) : base + x[i];
    points[i / 3 * 6 + 3 + i % 3] = (double)(i % 9 == 0 ? 127 + i % 2 : colours[i]);
  }
  measure(&m, N, points);
  assert_oracle(&m, LIMIT);
  free(x);
  free(points);
  free(colours);
}

static void canonical(void **state) {
  (void)state;
  cloud("canonical", -3, 8, true);
}

static void large_coordinates(void **state) {
  (void)state;
  cloud("large", 1e6, 31, false);
}

static void denormal(void **state) {
  (void)state;
  oracle_maximum m = {"voxelize", "denormal"};
  double *x = drawn_denormal("voxelize/denormal", N * 6);
  for (int64_t i = 0; i < N * 6; i++)
    if (i % 6 > 2) x[i] = fabs(x[i]);
  measure(&m, N, x);
  assert_oracle(&m, LIMIT);
  free(x);
}

/** Exact multiples of the cell, whose quotient may fall below the whole number that it is. */
static void multiples(void **state) {
  (void)state;
  oracle_maximum m = {"voxelize", "multiples"};
  double *points = unwritten(1278 * 6);
  for (int64_t i = 0; i < 1278 * 6; i++) points[i] = i % 6 == 0 ? (double)(i / 6) * 0.025 : i % 6 < 3 ? 0 : (double)(i % 256);
  measure(&m, 1278, points);
  assert_oracle(&m, LIMIT);
  free(points);
}

/** Far from the origin, and close together: what is left of a coordinate is a few of its last bits. */
static void cancelling(void **state) {
  (void)state;
  cloud("cancelling", 1e6, 1e-8, false);
}

static void random_extents(void **state) {
  (void)state;
  const double extents[] = {0.01, 1, 5.5, 31.9};
  for (int k = 0; k < 4; k++) cloud("random", -extents[k] / 3, extents[k], false);
}

int main(void) {
  const struct CMUnitTest tests[] = {cmocka_unit_test(canonical), cmocka_unit_test(large_coordinates), cmocka_unit_test(denormal), cmocka_unit_test(multiples),
                                     cmocka_unit_test(cancelling), cmocka_unit_test(random_extents)};
  return cmocka_run_group_tests(tests, NULL, NULL);
}
