/** The reference's own error: Fourier features (encoders.md). */
#include "encoders.h"

/** No more than the roundings that `features_of` counts. */
#define LIMIT 1.0

/**
 * v is one quotient (differences of whole numbers are exact). The angle (pi s) v has six roundings: of pi, of 29/9, of b 29/9, of 1 + it, of both products, and v's: seven
 * units of its size in all. sin and cos of a good library are right to one unit of 1 more.
 */
static oracle_values features_of(const mr3d_fourier_in *in) {
  oracle_values y = oracle_new(in->n, 63);
  mpfr_t v, angle, pi;
  mpfr_inits2(ORACLE_BITS, v, angle, pi, (mpfr_ptr)0);
  mpfr_const_pi(pi, MPFR_RNDN);
  for (int64_t t = 0; t < in->n; t++)
    for (int axis = 0; axis < 3; axis++) {
      int64_t low = in->coords[axis], high = in->coords[axis];
      for (int64_t i = 0; i < in->n; i++) {
        low = in->coords[3 * i + axis] < low ? in->coords[3 * i + axis] : low;
        high = in->coords[3 * i + axis] > high ? in->coords[3 * i + axis] : high;
      }
      const bool scene = in->norm == MR3D_SONATA_NORM_SCENE;
      const int64_t size = !scene ? in->reduced_grid_size - 1 : high - low > 1 ? high - low : 1;
      mpfr_set_si(v, (long)(in->coords[3 * t + axis] - (scene ? low : 0)), MPFR_RNDN);
      mpfr_div_si(v, v, (long)size, MPFR_RNDN);
      const int64_t at = t * 63 + axis;
      mpfr_set(y.v[at], v, MPFR_RNDN);
      y.size[at] = y.bound[at] = oracle_double(v);
      for (int b = 0; b < 10; b++) {
        mpfr_mul_si(angle, v, 9 + 29 * b, MPFR_RNDN);
        mpfr_div_si(angle, angle, 9, MPFR_RNDN);
        mpfr_mul(angle, angle, pi, MPFR_RNDN);
        mpfr_sin(y.v[at + 3 + 6 * b], angle, MPFR_RNDN);
        mpfr_cos(y.v[at + 6 + 6 * b], angle, MPFR_RNDN);
        for (int half = 3; half <= 6; half += 3) {
          y.size[at + half + 6 * b] = 1;
          y.bound[at + half + 6 * b] = 7 * oracle_double(angle) + 2;
        }
      }
    }
  mpfr_clears(v, angle, pi, (mpfr_ptr)0);
  return y;
}

static void judged(const char *inputs, int64_t n, int64_t last, mr3d_sonata_coord_norm norm, int64_t reduced_grid_size) {
  oracle_maximum m = {"fourier_features", inputs};
  int64_t *coords = drawn_whole("fourier/coords", 3 * n, 0, last);
  const mr3d_fourier_in in = {n, coords, norm, reduced_grid_size};
  double *y = unwritten(n * 63);
  mr3d_fourier_features(&exact, &in, y);
  oracle_values truth = features_of(&in);
  oracle_measure(&m, &truth, y);
  assert_oracle(&m, LIMIT);
  oracle_free(&truth);
  free(coords);
  free(y);
}

static void canonical(void **state) {
  (void)state;
  judged("canonical", 200, 79, MR3D_SONATA_NORM_GRID, 80);
}
static void of_the_scene(void **state) {
  (void)state;
  judged("scene", 200, 61, MR3D_SONATA_NORM_SCENE, 0);
}
static void large_angles(void **state) {
  (void)state;
  judged("angles to 10^6", 200, 1 << 20, MR3D_SONATA_NORM_GRID, 80);
}
static void random_sizes(void **state) {
  (void)state;
  for (int64_t size = 2; size < 3000; size = size * 3 + 1)
    judged("random", 40, size - 1, MR3D_SONATA_NORM_GRID, size);
}

int main(void) {
  const struct CMUnitTest tests[] = {cmocka_unit_test(canonical), cmocka_unit_test(of_the_scene), cmocka_unit_test(large_angles), cmocka_unit_test(random_sizes)};
  return cmocka_run_group_tests(tests, NULL, NULL);
}
