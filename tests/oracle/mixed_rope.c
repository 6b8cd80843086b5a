/** The reference's own error: mixed_rope, the rotations and the coordinate composed (spec.md section 3.3). */
#include "oracle.h"

/**
 * Text, and temporal dimensions of points: that of rope1d, 1.14. Spatial dimensions: with A = sum of |w f c|, two products a term (2 u A), two additions of at most A (2 u A), the
 * coordinate's own error, which the scale grants as it is, cos and sin below 1 ulp (sqrt(2) u together), the rotation 2 u: 4 u A + 3.42 u where the scale grants 3 u A + 5 u. Fixed
 * frequencies: no product with a weight, but pow below 1 ulp (2 u), and of `axial` its exponent rounded (t u, t = ln 100 at most) and no additions: 7.6 u A at most.
 */
#define LIMIT (4.0 / 3 * (1 + 0x1p-40)) /* second order */
#define LIMIT_FIXED 2.54

#define MOST 128 /* dimensions of a head */

/** Which dimensions of a head are spatial, which temporal, ascending. */
typedef struct dims {
  int Ds, Dt, spatial[MOST], temporal[MOST];
} dims;

static int divisor(int a, int b) { return b == 0 ? a : divisor(b, a % b); }

static dims dims_of(int D, int Ds, bool interleaved) {
  dims d = {0};
  const int g = divisor(Ds, D - Ds), unit = D / g, first = (D - Ds) / g;
  for (int j = 0; j < D; j++) {
    const bool spatial = interleaved ? j % unit >= first : j < Ds;
    if (spatial) d.spatial[d.Ds++] = j;
    else d.temporal[d.Dt++] = j;
  }
  return d;
}

/** The pairs that a token's rotation turns: `low` takes x cos - x' sin, `high` x' cos + x sin, each with an angle of its own. */
typedef struct pairs {
  int n, low[MOST / 2], high[MOST / 2], spatial; /* the first `spatial` of them by coordinates */
} pairs;

static pairs pairs_of(const dims *d, bool point) {
  pairs p = {0};
  const int D = d->Ds + d->Dt;
  for (int j = 0; j < D / 2 && !point; j++) p.low[p.n] = j, p.high[p.n++] = j + D / 2;
  for (int f = 0; f < d->Ds / 2 && point; f++) p.low[p.n] = d->spatial[2 * f], p.high[p.n++] = d->spatial[2 * f + 1];
  p.spatial = p.n * point;
  for (int j = 0; j < d->Dt / 2 && point; j++) p.low[p.n] = d->temporal[j], p.high[p.n++] = d->temporal[j + d->Dt / 2];
  return p;
}

/** base^(-numerator/denominator) */
static void frequency(mpfr_t to, double base, int numerator, int denominator) {
  mpfr_t exponent;
  mpfr_init2(exponent, ORACLE_BITS);
  mpfr_set_si(exponent, -numerator, MPFR_RNDN);
  mpfr_div_si(exponent, exponent, denominator, MPFR_RNDN);
  mpfr_set_d(to, base, MPFR_RNDN);
  mpfr_pow(to, to, exponent, MPFR_RNDN);
  mpfr_clear(exponent);
}

/** Section 3.2, and `axial` of section 8: the angle of bin f, of one head at one point. */
static void spatial_angle(mpfr_t angle, const mr3d_config *config, const mr3d_rotary_parameters *learned, const dims *d, int64_t heads, int64_t h, int f, const double c[3]) {
  const int F = d->Ds / 2, n = d->Ds / 3 / 2;
  mpfr_t term, coordinate;
  mpfr_inits2(ORACLE_BITS, term, coordinate, (mpfr_ptr)0);
  mpfr_set_zero(angle, 1);
  for (int a = 0; a < 3; a++) {
    const bool axial = config->rope_3d_kind == MR3D_AXIAL;
    if (axial && a != (f < n ? 0 : f < 2 * n ? 1 : 2)) continue;
    if (axial) frequency(term, config->rope_theta_3d, f - a * n, n);
    else if (!learned->freqs) frequency(term, config->rope_theta_3d, 2 * f, d->Ds);
    else mpfr_set_d(term, learned->freqs[((config->learned_per_axis ? a : 0) * heads + h) * F + f], MPFR_RNDN);
    if (learned->axial_weights) mpfr_mul_d(term, term, learned->axial_weights[(h * F + f) * 3 + a], MPFR_RNDN);
    mpfr_set_d(coordinate, c[a], MPFR_RNDN);
    if (config->coord_norm == MR3D_NORM_GRID) mpfr_div_si(coordinate, coordinate, (long)(config->reduced_grid_size - 1), MPFR_RNDN);
    mpfr_mul(term, term, coordinate, MPFR_RNDN);
    mpfr_add(angle, angle, term, MPFR_RNDN);
  }
  mpfr_clears(term, coordinate, (mpfr_ptr)0);
}

/** Section 3.1, for a text token's dimension, or gathered or native for a point's temporal one, the j-th of Dt. */
static void temporal_angle(mpfr_t angle, const mr3d_config *config, const dims *d, bool point, int j, int64_t position) {
  const int D = d->Ds + d->Dt;
  if (point && config->temporal_rope == MR3D_NATIVE) frequency(angle, config->rope_theta, 2 * (j % (d->Dt / 2)), d->Dt);
  else frequency(angle, config->rope_theta, 2 * ((point ? d->temporal[j] : j) % (D / 2)), D);
  mpfr_mul_si(angle, angle, (long)position, MPFR_RNDN);
}

static void measure(oracle_maximum *m, const mr3d_config *config, int Ds, const mr3d_mixed_rope_in *in) {
  const int D = (int)in->D;
  const dims d = dims_of(D, Ds, config->layout == MR3D_INTERLEAVED);
  const mr3d_units fp64 = mr3d_tier_units(MR3D_FP64), fp32 = mr3d_tier_units(MR3D_FP32);
  const int64_t heads[2] = {in->H, in->G}, rows = in->B * in->S;
  double *y[2], *wide[2], *narrow[2];
  for (int s = 0; s < 2; s++) y[s] = unwritten(rows * heads[s] * D), wide[s] = unwritten(rows * heads[s] * D), narrow[s] = unwritten(rows * heads[s] * D);
  mr3d_error error = {0};
  if (mr3d_mixed_rope(&exact, config, in, y[0], y[1], &error) != MR3D_OK || mr3d_mixed_rope_scale(&fp64, config, in, wide[0], wide[1], NULL, NULL, &error) != MR3D_OK ||
      mr3d_mixed_rope_scale(&fp32, config, in, narrow[0], narrow[1], NULL, NULL, &error) != MR3D_OK)
    fail_msg("%s", error.message);
  mpfr_t angle, c, s[2], low, high, other;
  mpfr_inits2(ORACLE_BITS, angle, c, s[0], s[1], low, high, other, (mpfr_ptr)0);
  for (int64_t b = 0; b < in->B; b++)
    for (int64_t t = 0, k = 0; t < in->S; t++) {
      const bool point = in->points.mask[b * in->S + t];
      const pairs p = pairs_of(&d, point);
      for (int side = 0; side < 2; side++)
        for (int64_t h = 0; h < heads[side]; h++) {
          const int64_t row = ((b * heads[side] + h) * in->S + t) * D;
          const double *x = (side == 0 ? in->query : in->key) + row;
          for (int i = 0; i < p.n; i++) {
            for (int half = 0; half < 2; half++) { /* the angle of `low`, then that of `high` */
              const int j = (point ? i - p.spatial : i) + half * (point ? d.Dt : D) / 2;
              if (i < p.spatial) spatial_angle(angle, config, side == 0 ? &in->q : &in->kv, &d, heads[side], h, i, in->points.coords + (b * in->points.N + k) * 3);
              else temporal_angle(angle, config, &d, point, j, in->position_ids[(in->position_rows == 1 ? 0 : b) * in->S + t]);
              mpfr_sin_cos(s[half], c, angle, MPFR_RNDN);
              oracle_turn(half == 0 ? low : other, half == 0 ? other : high, x[p.low[i]], x[p.high[i]], c, s[half]);
            }
            const double r = oracle_norm(x[p.low[i]], x[p.high[i]]);
            oracle_add(m, y[side][row + p.low[i]], low, wide[side][row + p.low[i]], narrow[side][row + p.low[i]], r);
            oracle_add(m, y[side][row + p.high[i]], high, wide[side][row + p.high[i]], narrow[side][row + p.high[i]], r);
          }
        }
      k += point;
    }
  mpfr_clears(angle, c, s[0], s[1], low, high, other, (mpfr_ptr)0);
  for (int k = 0; k < 2; k++) {
    free(y[k]);
    free(wide[k]);
    free(narrow[k]);
  }
}

/** Options, and how many spatial dimensions of D they mean: D * part / 4. */
typedef struct option {
  const char *json;
  int part;
} option;

static const option learned[] = {
    {"{}", 2},
    {"{\"mixed_rope_layout\": \"interleaved\"}", 2},
    {"{\"mixed_rope_layout\": \"interleaved\", \"spatial_temporal_separate_strategy\": \"custom_ratio\", \"spatial_ratio\": 0.25}", 1},
    {"{\"spatial_temporal_separate_strategy\": \"custom_ratio\", \"spatial_ratio\": 0.25}", 1},
    {"{\"mixedRoPE_3d_learned_per_axis\": false, \"temporal_rope\": \"native\"}", 2},
    {"{\"mixedRoPE_3d_learned_axial_mixing_weight\": false, \"spatial_temporal_separate_strategy\": \"full_spatial\", \"coord_norm\": \"none\"}", 4}};
static const option fixed[] = {{"{\"rope_mixed_3d\": false}", 2}, {"{\"rope_3d_kind\": \"axial\"}", 2}};

typedef double *source(const char *name, int64_t count);
static double *plain(const char *name, int64_t count) { return drawn_normal(name, count, 1); }
static double *heavy(const char *name, int64_t count) { return drawn_heavy(name, count, 30); }

enum { B = 2, H = 2, G = 1, S = 8, N = 5 };
static const bool marked[B * S] = {0, 1, 1, 1, 1, 1, 0, 0, 0, 0, 0, 1, 1, 0, 0, 0};
static const int64_t counts[B] = {N, 2};

/** Query and key such that the first component of each pair that is turned truly cancels: (sin, cos) of its angle, which is what the reference makes of (0, 1), but for a sign. */
static void cancel(const mr3d_config *config, int Ds, mr3d_mixed_rope_in *in, double *x[2]) {
  const dims d = dims_of((int)in->D, Ds, config->layout == MR3D_INTERLEAVED);
  const int64_t heads[2] = {in->H, in->G};
  double *y[2];
  mr3d_error error = {0};
  for (int pass = 0; pass < 2; pass++) {
    for (int side = 0; side < 2; side++)
      for (int64_t row = 0; row < in->B * heads[side] * in->S; row++) {
        const pairs p = pairs_of(&d, in->points.mask[row / (heads[side] * in->S) * in->S + row % in->S]);
        for (int i = 0; i < p.n; i++) {
          double *low = &x[side][row * in->D + p.low[i]], *high = &x[side][row * in->D + p.high[i]];
          *low = pass == 0 ? 0 : -y[side][row * in->D + p.low[i]];
          *high = pass == 0 ? 1 : y[side][row * in->D + p.high[i]];
        }
      }
    if (pass == 1) break;
    for (int side = 0; side < 2; side++) y[side] = unwritten(in->B * heads[side] * in->S * in->D);
    if (mr3d_mixed_rope(&exact, config, in, y[0], y[1], &error) != MR3D_OK) fail_msg("%s", error.message);
  }
  free(y[0]);
  free(y[1]);
}

/** Frequencies as a learned model starts, or of any size; coordinates 0 .. `coords`, positions 0 .. `positions`. `from` NULL: pairs that cancel. */
static void turned(oracle_maximum *m, const option *o, int64_t D, source *from, double coords, int64_t positions) {
  mr3d_config config = config_of(o->json);
  config.rope_theta = 1e6;
  const int Ds = (int)D * o->part / 4, F = Ds / 2;
  double *x[2] = {from ? from("mixed_rope/query", B * H * S * D) : unwritten(B * H * S * D), from ? from("mixed_rope/key", B * G * S * D) : unwritten(B * G * S * D)};
  double *freqs = drawn_normal("mixed_rope/freqs", 3 * (H + G) * F, 0.01), *weights = drawn_normal("mixed_rope/weights", (H + G) * F * 3, 0.01), c[B * N * 3];
  int64_t *grid = drawn_whole("mixed_rope/grid", B * N * 3, 0, (int64_t)coords), *p = drawn_whole("mixed_rope/positions", B * S, 0, positions);
  for (int64_t i = 0; i < 3 * (H + G) * F; i++) freqs[i] += pow(100, -(double)(i % F) / F), weights[i] += 1;
  for (int i = 0; i < B * N * 3; i++) c[i] = (double)grid[i];
  const bool learns = config.rope_mixed_3d && config.rope_3d_kind == MR3D_MIXED;
  const double *f = learns ? freqs : NULL, *w = learns && config.learned_axial_weights ? weights : NULL;
  mr3d_mixed_rope_in in = {B, H, G, S, D, x[0], x[1], B, p, {marked, N, c, counts}, {f, w}, {f ? f + 3 * H * F : NULL, w ? w + H * F * 3 : NULL}};
  if (!from) cancel(&config, Ds, &in, x);
  measure(m, &config, Ds, &in);
  free(x[0]);
  free(x[1]);
  free(freqs);
  free(weights);
  free(grid);
  free(p);
}

static void all(const char *inputs, source *from, double coords, int64_t positions) {
  oracle_maximum m = {"mixed_rope", inputs}, of_fixed = {"mixed_rope, fixed frequencies", inputs};
  for (size_t k = 0; k < sizeof learned / sizeof *learned; k++) turned(&m, &learned[k], 64, from, coords, positions);
  for (size_t k = 0; k < sizeof fixed / sizeof *fixed; k++) turned(&of_fixed, &fixed[k], 64, from, coords, positions);
  assert_oracle(&m, LIMIT);
  assert_oracle(&of_fixed, LIMIT_FIXED);
}

static void canonical(void **state) {
  (void)state;
  all("canonical", plain, 79, 786);
}

static void large_angle(void **state) {
  (void)state;
  all("large-angle", plain, 1000000, 1000000);
}

static void denormal(void **state) {
  (void)state;
  all("denormal", drawn_denormal, 79, 786);
}

static void cancelling(void **state) {
  (void)state;
  all("cancelling", NULL, 79, 786);
}

static void random_sizes(void **state) {
  (void)state;
  oracle_maximum m = {"mixed_rope", "random"};
  const int64_t sizes[] = {16, 32, 128};
  for (int k = 0; k < 3; k++)
    for (size_t o = 0; o < sizeof learned / sizeof *learned; o++) turned(&m, &learned[o], sizes[k], heavy, 500, 131072);
  assert_oracle(&m, LIMIT);
}

int main(void) {
  const struct CMUnitTest tests[] = {cmocka_unit_test(canonical), cmocka_unit_test(large_angle), cmocka_unit_test(denormal), cmocka_unit_test(cancelling),
                                     cmocka_unit_test(random_sizes)};
  return cmocka_run_group_tests(tests, NULL, NULL);
}
