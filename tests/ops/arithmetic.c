/** Emulated arithmetic: where and how values are rounded (mr3d/arithmetic.h, docs/tolerance.md "The yardstick"). */
#include <float.h>

#include "../../ref/ops/sparse_conv.h"
#include "cells_test.h"

/** A context that emulates; the counter lives beside it. */
typedef struct run {
  mr3d_arithmetic arithmetic;
  uint64_t calls;
  mr3d_context context;
} run;

static run *start(run *r, mr3d_tier tier, mr3d_rounding rounding, bool shared, uint64_t seed, int threads) {
  *r = (run){.arithmetic = mr3d_arithmetic_of(tier, rounding, shared, seed)};
  r->context = (mr3d_context){&mr3d_reference_operators, &r->arithmetic, threads, &r->calls};
  return r;
}

/** Nearest rounding of one value at a point. */
static double nearest(mr3d_tier tier, mr3d_rounding_point point, double x) {
  run r;
  mr3d_round(&start(&r, tier, MR3D_NEAREST, false, 1, 1)->context, point, 1, 1, 1, 1, &x);
  return x;
}

static double to_digits(double x, int digits) {
  int exponent;
  const double fraction = frexp(x, &exponent);
  return ldexp(nearbyint(ldexp(fraction, digits)), exponent - digits);
}

static void nearest_is_the_conversion_to_the_storage_type_with_its_range(void **state) {
  (void)state;
  const double special[] = {0,     -0.0,    1,        65504,   65519.99, 65520,     -65520,   65536,    0x1p-24,    0x1p-25,   0x1.8p-25, 0x1.000001p-25, 0x1p-14,
                            3e-5,  -3e-5,   INFINITY, -1e300,  0x1p-126, 0x1p-149,  0x1p-150, 0x1.8p-150, 1e-45,     0x1.fffffffp127, FLT_MAX, 0x1.FEp127, 0x1.FFp127,
                            1 + 0x1p-9, 1 + 0x1p-8, 1 + 0x1.8p-8, 1 + 0x1p-12, 1 + 0x1p-11};
  enum { N_SPECIAL = sizeof special / sizeof *special, N_RANDOM = 20000 };
  double *wide = numbers(N_RANDOM, 1, 1), *exponents = numbers(N_RANDOM, 40, 2);
  for (int i = 0; i < N_SPECIAL + N_RANDOM; i++) {
    const double x = i < N_SPECIAL ? special[i] : ldexp(wide[i - N_SPECIAL], (int)exponents[i - N_SPECIAL]);
    const double bf16 = mr3d_bf16_to_double(mr3d_bf16_from_double(x)), f16 = mr3d_f16_to_double(mr3d_f16_from_double(x)), f32 = (double)(float)x;
    const double got[] = {nearest(MR3D_BF16_TIER, MR3D_AT_NORM, x), nearest(MR3D_FP16, MR3D_AT_NORM, x), nearest(MR3D_FP32, MR3D_AT_NORM, x),
                          nearest(MR3D_TF32, MR3D_AT_NORM, x), nearest(MR3D_BF16_TIER, MR3D_AT_ANGLE, x), nearest(MR3D_FP16, MR3D_AT_ANGLE, x)};
    const double expected[] = {bf16, f16, f32, f32, f32, f32};
    assert_same_bits(got, expected, 6);
    if (i >= N_SPECIAL) {
      const double narrow[] = {nearest(MR3D_TF32, MR3D_AT_PRODUCT_INPUT, x), nearest(MR3D_FP64, MR3D_AT_SCORE, x)}, digits[] = {to_digits(x, 11), to_digits(x, 40)};
      assert_same_bits(narrow, digits, 2);
    }
  }
  assert_true(isnan(nearest(MR3D_FP16, MR3D_AT_NORM, NAN)));
  free(wide);
  free(exponents);
}

static void stochastic_takes_one_of_two_neighbours_and_keeps_the_mean(void **state) {
  (void)state;
  enum { N = 40000 };
  const mr3d_tier tiers[] = {MR3D_FP64, MR3D_FP32, MR3D_BF16_TIER, MR3D_FP16};
  const int digits[] = {40, 24, 8, 11};
  const double values[] = {1.2345678901234567, -0.7123456789012345, 300.0 + 1e-3 / 3, -3e-5 / 7 /* subnormal at fp16 */};
  double *y = unwritten(N);
  for (int t = 0; t < 4; t++)
    for (int k = 0; k < 4; k++) {
      const bool subnormal = tiers[t] == MR3D_FP16 && k == 3;
      int exponent;
      frexp(values[k], &exponent);
      const double spacing = subnormal ? 0x1p-24 : ldexp(1, exponent - digits[t]), below = floor(values[k] / spacing) * spacing;
      for (int i = 0; i < N; i++)
        y[i] = values[k];
      run r;
      mr3d_round(&start(&r, tiers[t], MR3D_STOCHASTIC, false, 7, 2)->context, MR3D_AT_SILU, 1, 1, 200, N / 200, y);
      double mean = 0;
      for (int i = 0; i < N; i++) {
        assert_true(y[i] == below || y[i] == below + spacing);
        mean += (y[i] - values[k]) / spacing / N;
      }
      assert_near(mean, 0, 5 * 0.5 / sqrt(N) + 0x1p-12);
    }
  free(y);
}

static void representable_values_stay(void **state) {
  (void)state;
  enum { N = 65536 };
  double *y = unwritten(N), *x = unwritten(N);
  for (int t = 0; t < MR3D_N_TIERS; t++) {
    for (int i = 0; i < N; i++) {
      const double code = t == MR3D_FP16 ? mr3d_f16_to_double((uint16_t)i) : mr3d_bf16_to_double((uint16_t)i);
      x[i] = y[i] = isfinite(code) ? code : 1;
      if (t == MR3D_FP64)
        x[i] = y[i] = ldexp((double)((UINT64_C(1) << 40) - 1 - (uint64_t)i), i % 100 - 80);
    }
    run r;
    mr3d_round(&start(&r, (mr3d_tier)t, MR3D_STOCHASTIC, false, 3, 1)->context, MR3D_AT_CONTEXT, 1, 1, 1, N, y);
    assert_same_bits(x, y, N);
  }
  free(x);
  free(y);
}

static void shared_thresholds_depend_on_head_and_column_but_not_on_batch_and_token(void **state) {
  (void)state;
  enum { BATCHES = 2, HEADS = 3, ROWS = 4, COLUMNS = 64, N = BATCHES * HEADS * ROWS * COLUMNS };
  double y[N];
  for (int shared = 0; shared < 2; shared++)
    for (int point = MR3D_AT_ROTATION; point <= MR3D_AT_SCORE; point += MR3D_AT_SCORE - MR3D_AT_ROTATION) {
      for (int i = 0; i < N; i++)
        y[i] = 1.00003;
      run r;
      mr3d_round(&start(&r, MR3D_FP16, MR3D_STOCHASTIC, shared, 9, 1)->context, (mr3d_rounding_point)point, BATCHES, HEADS, ROWS, COLUMNS, y);
      int rows_differ = 0, heads_differ = 0, columns_differ = 0;
      for (int i = 0; i < N; i++) {
        const int column = i % COLUMNS, head = i / COLUMNS / ROWS % HEADS;
        rows_differ += y[i] != y[head * ROWS * COLUMNS + column];
        heads_differ += y[i] != y[i % (ROWS * COLUMNS)];
        columns_differ += y[i] != y[i - column];
      }
      assert_int_equal(rows_differ == 0, shared);
      if (shared && point == MR3D_AT_SCORE) /* keys are tokens too: one threshold a head */
        assert_true(columns_differ == 0);
      else
        assert_true(columns_differ > 0 && heads_differ > 0);
    }
}

static void run_is_a_function_of_its_seed_at_any_thread_count(void **state) {
  (void)state;
  enum { N = 300 * 300 };
  double *x = numbers(N, 1, 4), *one = unwritten(N), *three = unwritten(N), *second = unwritten(N), *other = unwritten(N);
  memcpy(one, x, N * sizeof *x);
  memcpy(three, x, N * sizeof *x);
  memcpy(second, x, N * sizeof *x);
  memcpy(other, x, N * sizeof *x);
  run a, b, c;
  start(&a, MR3D_BF16_TIER, MR3D_STOCHASTIC, false, 5, 1);
  start(&b, MR3D_BF16_TIER, MR3D_STOCHASTIC, false, 5, 3);
  start(&c, MR3D_BF16_TIER, MR3D_STOCHASTIC, false, 6, 1);
  mr3d_round(&a.context, MR3D_AT_NORM, 1, 1, 300, 300, one);
  mr3d_round(&b.context, MR3D_AT_NORM, 1, 1, 300, 300, three);
  mr3d_round(&a.context, MR3D_AT_NORM, 1, 1, 300, 300, second); /* the next call, say the next layer */
  mr3d_round(&c.context, MR3D_AT_NORM, 1, 1, 300, 300, other);
  assert_same_bits(one, three, N);
  assert_int_equal(a.calls, 2);
  int second_differ = 0, seed_differ = 0;
  for (int i = 0; i < N; i++) {
    second_differ += one[i] != second[i];
    seed_differ += one[i] != other[i];
  }
  assert_true(second_differ > N / 5 && seed_differ > N / 5);
  free(x);
  free(one);
  free(three);
  free(second);
  free(other);
}

/** A short row is done one by one and a long one several at a time. */
static void elements_done_side_by_side_are_those_done_one_by_one(void **state) {
  (void)state;
  enum { N = 70 };
  const double special[] = {0, -0.0, 1, 65520, -65520, 0x1p-24, -0x1p-25, 3e-5, INFINITY, -INFINITY, NAN, 1e300, -1e300, 0x1p-149, -0x1p-160, 0x1p-1040, FLT_MAX, 0x1.FFp127};
  double *x = numbers(N, 3, 1), *row = unwritten(N), *part = unwritten(N);
  float squares[N];
  for (int i = 0; i < N; i++) {
    squares[i] = (float)(x[i] * x[i]);
    if (i % 3 == 0) x[i] = special[i / 3 % (int)(sizeof special / sizeof *special)];
  }
  for (int tier = 0; tier < MR3D_N_TIERS; tier++)
    for (int mode = 0; mode < 3; mode++) {
      run r;
      start(&r, (mr3d_tier)tier, mode == 0 ? MR3D_NEAREST : MR3D_STOCHASTIC, mode == 2, 5, 1);
      const mr3d_rounder rounder = mr3d_rounder_at(&r.context, mode == 2 ? MR3D_AT_SCORE : MR3D_AT_NORM), noise = mr3d_rounder_at(&r.context, MR3D_AT_ACCUMULATION);
      for (int what = 0; what < 4; what++) {
        for (int n = N; n > 0; n--) {
          double *y = n == N ? row : part;
          memcpy(y, x, (size_t)n * sizeof *y);
          if (what == 0) mr3d_round_row(&rounder, 1, 2, 3, n, y);
          else if (what == 1) mr3d_noise_row(&noise, 1, 2, 3, n, y);
          else mr3d_noise_add(&noise, 1, 2, 3, n, 64, squares, what == 2 ? NULL : x, y);
          assert_same_bits(y, row, n);
        }
        for (int c = 0; c < N && what == 1; c++)
          assert_true(row[c] == mr3d_noise_at(&noise, 1, 2, 3, c));
      }
    }
  free(x);
  free(row);
  free(part);
}

static void without_arithmetic_or_with_its_point_off_nothing_changes(void **state) {
  (void)state;
  double x[3] = {0.1, 1e300, -7.7}, y[3] = {0.1, 1e300, -7.7};
  mr3d_round(&exact, MR3D_AT_NORM, 1, 1, 1, 3, y);
  assert_same_bits(x, y, 3);
  run r;
  start(&r, MR3D_FP16, MR3D_STOCHASTIC, false, 1, 1);
  r.arithmetic.points &= ~(1U << MR3D_AT_NORM);
  mr3d_round(&r.context, MR3D_AT_NORM, 1, 1, 1, 3, y);
  assert_same_bits(x, y, 3);
  mr3d_round(&r.context, MR3D_AT_SILU, 1, 1, 1, 3, y);
  assert_true(y[0] != x[0] && isinf(y[1]));
}

static void accumulation_noise_has_the_variance_of_its_formula(void **state) {
  (void)state;
  enum { N = 40000, K = 896 };
  double *y = calloc(N, sizeof *y), *bias = unwritten(N), mean = 0, square = 0;
  float *squares = calloc(N, sizeof *squares);
  for (int i = 0; i < N; i++) {
    squares[i] = 8;
    bias[i] = 3;
  }
  run r;
  start(&r, MR3D_FP32, MR3D_STOCHASTIC, false, 1, 1);
  const mr3d_rounder noise = mr3d_rounder_at(&r.context, MR3D_AT_ACCUMULATION);
  mr3d_noise_add(&noise, 0, 0, 0, N, K, squares, bias, y);
  const double sigma = 0x1p-24 * sqrt(K / 3.0 * (9 + 0.5 * 8));
  for (int i = 0; i < N; i++) {
    mean += y[i] / sigma / N;
    square += y[i] * y[i] / sigma / sigma / N;
    assert_true(fabs(y[i]) < 3.47 * sigma);
  }
  assert_near(mean, 0, 5 / sqrt(N));
  assert_near(square, 1, 0.05);

  run exact_sums, narrow;
  start(&exact_sums, MR3D_FP32, MR3D_NEAREST, false, 1, 1);
  start(&narrow, MR3D_BF16_TIER, MR3D_STOCHASTIC, false, 1, 1);
  const mr3d_rounder none[] = {mr3d_rounder_at(&exact_sums.context, MR3D_AT_ACCUMULATION), mr3d_rounder_at(&narrow.context, MR3D_AT_ACCUMULATION)};
  for (int k = 0; k < 2; k++) {
    double zero = 0;
    mr3d_noise_add(&none[k], 0, 0, 0, 1, K, squares, bias, &zero);
    assert_true(zero == 0 && mr3d_noise_at(&none[k], 0, 0, 0, 0) == 0);
  }
  free(y);
  free(bias);
  free(squares);
}

/** Root mean square of (y - reference) / unit. */
static double rms(int64_t count, const double *y, const double *reference, double unit) {
  double sum = 0;
  for (int64_t i = 0; i < count; i++)
    sum += (y[i] - reference[i]) * (y[i] - reference[i]);
  return sqrt(sum / (double)count) / unit;
}

static void emulated_float_angles_spread_like_honest_ones_and_are_the_same_in_every_call(void **state) {
  (void)state;
  enum { P = 786, D = 64, N = P * D };
  int64_t positions[P];
  for (int p = 0; p < P; p++)
    positions[p] = 41 * p;
  double *c = unwritten(N), *s = unwritten(N), *reference = unwritten(N), *reference_sin = unwritten(N), *by_pow = unwritten(N), *by_exp = unwritten(N), *again = unwritten(N);
  mr3d_rotary_table(&exact, P, D, 1e6, positions, reference, reference_sin);
  for (int i = 0; i < N; i++) {
    const float exponent = (float)(2 * (i % D % 32)) / D, p = (float)positions[i / D];
    by_pow[i] = (double)cosf(p * (1 / powf(1e6F, exponent)));
    by_exp[i] = (double)cosf(p * expf(-exponent * logf(1e6F)));
  }
  double mean_square = 0;
  for (uint64_t seed = 0; seed < 8; seed++) {
    run r;
    start(&r, MR3D_FP32, MR3D_STOCHASTIC, seed % 2, seed, 2);
    mr3d_rotary_table(&r.context, P, D, 1e6, positions, c, s);
    r.arithmetic.points &= ~(1U << MR3D_AT_TABLE);
    mr3d_rotary_table(&r.context, P, D, 1e6, positions, again, s);
    mean_square += pow(rms(N, c, reference, 0x1p-24), 2) / 8;
    for (int i = 0; i < N; i++) /* the same angle, its cosine stored once and once not */
      assert_near_at(i, c[i], again[i], 0x1p-23);
  }
  const double emulated = sqrt(mean_square), pow_spread = rms(N, by_pow, reference, 0x1p-24), exp_spread = rms(N, by_exp, reference, 0x1p-24);
  print_message("  cosine errors in ua: emulated %.0f, float by pow %.0f, by exp %.0f\n", emulated, pow_spread, exp_spread);
  assert_true(emulated > pow_spread && emulated > 0.3 * exp_spread && emulated < 10 * pow_spread);
  free(c);
  free(s);
  free(reference);
  free(reference_sin);
  free(by_pow);
  free(by_exp);
  free(again);
}

/** Root mean square over N relative errors that should have the given standard deviation. */
static void assert_spread(int64_t count, const double *y, const double *exactly, int64_t stride, double deviation) {
  double square = 0;
  for (int64_t i = 0; i < count; i++)
    square += pow(y[i * stride] / exactly[i * stride] - 1, 2) / (double)count;
  assert_near(sqrt(square) / deviation, 1, 0.06);
}

static void operators_add_the_noise_of_their_formulas(void **state) {
  (void)state;
  enum { ROWS = 3000, WIDTH = 6, HALF = 16 };
  const double x[WIDTH] = {3, -1, 0.5, 7, -2, 4}, gates[WIDTH] = {9, -3, 0.5, 20, -8, 1}, ua = 0x1p-24;
  double *rows = unwritten(ROWS * WIDTH), *gate = unwritten(ROWS * WIDTH), *ones = unwritten(ROWS * WIDTH), *y = unwritten(ROWS * WIDTH), *exactly = unwritten(ROWS * WIDTH);
  for (int i = 0; i < ROWS * WIDTH; i++) {
    rows[i] = x[i % WIDTH];
    gate[i] = gates[i % WIDTH];
    ones[i] = 1;
  }
  run r;
  start(&r, MR3D_FP32, MR3D_STOCHASTIC, false, 3, 1);
  r.arithmetic.points = 1U << MR3D_AT_ACCUMULATION;
  const mr3d_rmsnorm_in norm = {ROWS, WIDTH, 0, rows, ones};
  double squares = 0, fourths = 0;
  for (int i = 0; i < WIDTH; i++) {
    squares += x[i] * x[i];
    fourths += pow(x[i], 4);
  }
  mr3d_rmsnorm(&exact, &norm, exactly);
  mr3d_rmsnorm(&r.context, &norm, y);
  assert_spread(ROWS, y, exactly, WIDTH, ua * sqrt(WIDTH / 6.0 * fourths) / squares / 2); /* a root halves */

  const mr3d_swiglu_in swiglu = {ROWS, WIDTH, gate, ones};
  mr3d_swiglu(&exact, &swiglu, exactly);
  mr3d_swiglu(&r.context, &swiglu, y);
  for (int i = 0; i < WIDTH; i++)
    assert_spread(ROWS, y + i, exactly + i, WIDTH, ua * (1 + fabs(gates[i]) / 4));

  /* angles: one error a run, and the rounding of inv_freq, 1/6 of a squared spacing */
  const int64_t one[1] = {1};
  double cosine[2 * HALF], sine[2 * HALF], *seen = unwritten(ROWS), *inv_freq = unwritten(ROWS);
  for (int j = 0; j < HALF; j += 5) {
    for (int k = 0; k < ROWS; k++) {
      start(&r, MR3D_FP32, MR3D_STOCHASTIC, false, (uint64_t)k, 1);
      r.arithmetic.points = 1U << MR3D_AT_ANGLE;
      mr3d_rotary_table(&r.context, 1, 2 * HALF, 1e6, one, cosine, sine);
      seen[k] = atan2(sine[j], cosine[j]);
      inv_freq[k] = pow(1e6, -(double)j / HALF);
    }
    int exponent;
    const double t = -log(inv_freq[0]), spacing = (frexp(inv_freq[0], &exponent), ldexp(1, exponent - 24)) / inv_freq[0];
    if (j == 0)
      for (int k = 0; k < ROWS; k++)
        assert_near(seen[k], 1, 0x1p-50);
    else /* theta = inv_freq here, which rounding leaves alone the second time */
      assert_spread(ROWS, seen, inv_freq, 1, sqrt(pow(ua * (1 + t) / 2, 2) + spacing * spacing / 6));
  }
  free(rows);
  free(gate);
  free(ones);
  free(y);
  free(exactly);
  free(seen);
  free(inv_freq);
}

/** As above, of absolute errors at one column of equal rows. */
static void assert_deviation(int64_t rows, int64_t columns, int64_t column, const double *y, const double *exactly, double deviation) {
  double square = 0;
  for (int64_t r = 0; r < rows; r++)
    square += pow(y[r * columns + column] - exactly[r * columns + column], 2) / (double)rows;
  assert_near(sqrt(square) / deviation, 1, 0.06);
}

static void encoder_operators_add_the_noise_of_their_formulas(void **state) {
  (void)state;
  enum { ROWS = 3000, WIDTH = 6, OUT = 2 };
  const double large[WIDTH] = {3, -1, 0.5, 7, -2, 4}, weight[WIDTH] = {1, 2, -1, 0.5, 3, 1}, bias[WIDTH] = {0}, ua = 0x1p-24;
  double *rows = unwritten(ROWS * WIDTH), *y = unwritten(ROWS * WIDTH), *exactly = unwritten(ROWS * WIDTH);
  int64_t *cells = malloc(3 * ROWS * sizeof *cells);
  run r;
  start(&r, MR3D_FP32, MR3D_STOCHASTIC, false, 3, 1);
  r.arithmetic.points = 1U << MR3D_AT_ACCUMULATION;

  /* a sum of n in order: its partial sums grow evenly to it and stray, ua^2/3 n (sum^2 / 3 + sum of squares / 2); one of a mean and one of a variance, each row's own */
  for (double size = 1e-3; size <= 1; size *= 1e3) {
    const double eps = 0.5 * size * size;
    double sum = 0, squares = 0, deviations = 0, fourths = 0;
    for (int i = 0; i < ROWS * WIDTH; i++)
      rows[i] = size * large[i % WIDTH];
    for (int i = 0; i < WIDTH; i++) {
      sum += rows[i];
      squares += rows[i] * rows[i];
    }
    for (int i = 0; i < WIDTH; i++) {
      deviations += pow(rows[i] - sum / WIDTH, 2);
      fourths += pow(rows[i] - sum / WIDTH, 4);
    }
    const double of_mean = ua * sqrt(WIDTH / 3.0 * (sum * sum / 3 + squares / 2)) / WIDTH, of_variance = ua * sqrt(WIDTH / 3.0 * (deviations * deviations / 3 + fourths / 2)) / WIDTH;
    const double variance = deviations / WIDTH + eps;
    const mr3d_norm_in norm = {.n = ROWS, .C = WIDTH, .groups = 1, .eps = eps, .x = rows, .norm = {weight, bias}};
    for (int per_group = 0; per_group < 2; per_group++) {
      (per_group ? mr3d_group_norm_rows : mr3d_layernorm)(&exact, &norm, exactly);
      (per_group ? mr3d_group_norm_rows : mr3d_layernorm)(&r.context, &norm, y);
      for (int c = 0; c < WIDTH; c++)
        assert_deviation(ROWS, WIDTH, c, y, exactly, hypot(weight[c] / sqrt(variance) * of_mean, exactly[c] * of_variance / variance / 2));
    }
  }

  mr3d_gelu(&exact, ROWS, WIDTH, rows, exactly);
  mr3d_gelu(&r.context, ROWS, WIDTH, rows, y);
  for (int c = 0; c < WIDTH; c++)
    assert_deviation(ROWS, WIDTH, c, y, exactly, ua * fabs(exactly[c]) * (large[c] < 0 ? 1 + large[c] * large[c] : 1));

  /* pairs of cells: 12 terms in each output, though the taps are 27 */
  double *kernel = numbers(27 * WIDTH * OUT, 2, 5), start_at[OUT] = {20, -3}, both[OUT] = {0};
  for (int64_t p = 0; p < ROWS; p++)
    memcpy(cells + 3 * p, (int64_t[]){3 * (p / 2), 0, p % 2}, 3 * sizeof *cells);
  mr3d_sparse_conv_in conv = {ROWS, ROWS, cells, cells, 3, WIDTH, OUT, rows, MR3D_KERNEL_Z_FASTEST, {kernel, start_at}};
  mr3d_submanifold_conv(&exact, &conv, exactly);
  mr3d_submanifold_conv(&r.context, &conv, y);
  for (int o = 0; o < OUT; o++) {
    for (int i = 0; i < 2 * WIDTH; i++)
      both[o] += pow(large[i % WIDTH] * kernel[((13 + i / WIDTH) * WIDTH + i % WIDTH) * OUT + o], 2);
    double square = 0;
    for (int64_t p = 0; p < ROWS; p += 2)
      square += pow(y[p * OUT + o] - exactly[p * OUT + o], 2) / (ROWS / 2);
    assert_near(sqrt(square) / (ua * sqrt(2 * WIDTH / 3.0 * (start_at[o] * start_at[o] + both[o] / 2))), 1, 0.08);
  }
  free(rows);
  free(y);
  free(exactly);
  free(cells);
  free(kernel);
}

static double bf16(double x) { return mr3d_bf16_to_double(mr3d_bf16_from_double(x)); }

static void nearest_linear_is_float_accumulation_stored_in_bf16(void **state) {
  (void)state;
  enum { ROWS = 40, K = 200, OUT = 100, N = ROWS * OUT };
  double *x = numbers(ROWS * K, 2, 1), *w = numbers(OUT * K, 0.1, 2), *bias = numbers(OUT, 20, 3), *y = unwritten(N);
  for (int i = 0; i < ROWS * K; i++)
    x[i] = bf16(x[i]);
  for (int i = 0; i < OUT * K; i++)
    w[i] = bf16(w[i]);
  for (int i = 0; i < OUT; i++)
    bias[i] = bf16(bias[i]);
  run r;
  start(&r, MR3D_BF16_TIER, MR3D_NEAREST, false, 1, 2);
  mr3d_linear(&r.context, &(mr3d_linear_in){ROWS, K, OUT, x, w, bias}, y);
  int float_differs = 0;
  for (int i = 0; i < N; i++) {
    double sum = 0;
    float sum_float = 0;
    for (int j = 0; j < K; j++) {
      sum = sum + x[i / OUT * K + j] * w[i % OUT * K + j];
      sum_float += (float)x[i / OUT * K + j] * (float)w[i % OUT * K + j];
    }
    assert_true(y[i] == bf16(bf16(sum) + bias[i % OUT]));
    float_differs += y[i] != bf16(bf16((double)sum_float) + bias[i % OUT]);
  }
  assert_true(float_differs < N / 200); /* only where the sum lies beside a tie */
  free(x);
  free(w);
  free(bias);
  free(y);
}

static void nearest_rope1d_is_bf16_eager_code_bit_by_bit(void **state) {
  (void)state;
  enum { Q = 100, D = 64 };
  int64_t positions[Q];
  for (int t = 0; t < Q; t++)
    positions[t] = 7 * t;
  double *x = numbers(Q * D, 2, 1), *y = unwritten(Q * D);
  for (int i = 0; i < Q * D; i++)
    x[i] = bf16(x[i]);
  run r;
  start(&r, MR3D_BF16_TIER, MR3D_NEAREST, false, 1, 1);
  mr3d_rope1d(&r.context, &(mr3d_rope1d_in){1, 1, Q, D, 1e6, x, 1, positions}, y);
  for (int i = 0; i < Q * D; i++) {
    const int j = i % D;
    const float inv_freq = (float)pow(1e6, -2.0 * (j % 32) / D), angle = (float)positions[i / D] * inv_freq;
    const double c = bf16(cos((double)angle)), s = bf16(sin((double)angle)), other = j < 32 ? -x[i + 32] : x[i - 32];
    assert_true(y[i] == bf16(bf16(x[i] * c) + bf16(other * s)));
  }
  free(x);
  free(y);
}

static void nearest_cis3d_and_normalize_coords_keep_float_angles_whatever_the_tier_stores(void **state) {
  (void)state;
  enum { HEADS = 3, F = 5, POINTS = 7, N = HEADS * POINTS * F, B = 2 };
  double *freqs = numbers(3 * HEADS * F, 1, 1), *w = numbers(HEADS * F * 3, 2, 2), *coords = numbers(B * POINTS * 3, 50, 3), *out = unwritten(B * POINTS * 3);
  for (int tier = 0; tier < 2; tier++) {
    double c[N], s[N];
    run r;
    start(&r, tier == 0 ? MR3D_FP32 : MR3D_BF16_TIER, MR3D_NEAREST, false, 1, 1);
    mr3d_cis3d(&r.context, &(mr3d_cis3d_in){HEADS, F, POINTS, 3, freqs, w, coords}, c, s);
    for (int i = 0; i < N; i++) {
      const int f = i % F, n = i / F % POINTS, h = i / F / POINTS;
      float angle = 0;
      for (int a = 0; a < 3; a++)
        angle = (float)((double)angle + (double)(float)((double)(float)(w[(h * F + f) * 3 + a] * freqs[(a * HEADS + h) * F + f]) * coords[n * 3 + a]));
      const double cosine = cos((double)angle), sine = sin((double)angle);
      assert_true(c[i] == (tier == 0 ? (double)(float)cosine : bf16(cosine)));
      assert_true(s[i] == (tier == 0 ? (double)(float)sine : bf16(sine)));
    }
    mr3d_config config = {.coord_norm = MR3D_NORM_VIRTUAL_RESOLUTION, .virtual_resolution = 77, .drift = MR3D_DRIFT_POINTWISE};
    mr3d_error error = {0};
    assert_int_equal(mr3d_normalize_coords(&r.context, &config, &(mr3d_normalize_coords_in){B, POINTS, coords, NULL}, out, &error), MR3D_OK);
    for (int i = 0; i < B * POINTS * 3; i++) {
      const int b = i / 3 / POINTS, n = i / 3 % POINTS, a = i % 3;
      double min = INFINITY, max = -INFINITY;
      for (int k = 0; k < POINTS; k++) {
        min = fmin(min, coords[(b * POINTS + k) * 3 + a]);
        max = fmax(max, coords[(b * POINTS + k) * 3 + a]);
      }
      assert_true(out[i] == (double)(float)((double)(float)((coords[i] - min) / ((max - min) + 1e-8) * 77) + n));
    }
  }
  free(freqs);
  free(w);
  free(coords);
  free(out);
}

static void nearest_rmsnorm_and_swiglu_are_fp16_eager_code_bit_by_bit(void **state) {
  (void)state;
  enum { WIDTH = 100 };
  double *x = numbers(WIDTH, 4, 1), *w = numbers(WIDTH, 3, 2), y[WIDTH], sum = 0;
#define F16(v) mr3d_f16_to_double(mr3d_f16_from_double(v))
  for (int i = 0; i < WIDTH; i++) {
    x[i] = F16(x[i]);
    w[i] = F16(w[i]);
    sum = sum + x[i] * x[i];
  }
  run r;
  start(&r, MR3D_FP16, MR3D_NEAREST, false, 1, 1);
  mr3d_rmsnorm(&r.context, &(mr3d_rmsnorm_in){1, WIDTH, 1e-6, x, w}, y);
  for (int i = 0; i < WIDTH; i++)
    assert_true(y[i] == F16(F16(x[i] / sqrt(sum / WIDTH + 1e-6)) * w[i]));
  mr3d_swiglu(&r.context, &(mr3d_swiglu_in){1, WIDTH, x, w}, y);
  for (int i = 0; i < WIDTH; i++)
    assert_true(y[i] == F16(F16(x[i] < 0 ? x[i] * exp(x[i]) / (1 + exp(x[i])) : x[i] / (1 + exp(-x[i]))) * w[i]));
  free(x);
  free(w);
}

static void nearest_encoder_operators_are_eager_code_bit_by_bit(void **state) {
  (void)state;
  enum { C = 8, OUT = 3, GROUPS = 2 };
  int64_t n, *cells = some_cells(4, 3, &n);
  double *x = numbers(n * C, 4, 1), *w = numbers(27 * C * OUT, 1, 2), *b = numbers(C, 3, 3), *scale = numbers(C, 2, 4), *y = unwritten(n * 63), *sums = unwritten(n * OUT), *rounded = unwritten(n * C);
  int64_t *rows = malloc((size_t)(27 * n) * sizeof *rows);
  for (int64_t i = 0; i < n * C; i++)
    rounded[i] = bf16(x[i]);
  run r;
  start(&r, MR3D_BF16_TIER, MR3D_NEAREST, false, 1, 1);

  /* x as the tier's product takes it, one sum, stored, the bias added, stored */
  mr3d_sparse_conv_in conv = {n, n, cells, cells, 3, C, OUT, x, MR3D_KERNEL_OUT_FIRST, {w, b}}, plain = conv;
  mr3d_submanifold_conv(&r.context, &conv, y);
  mr3d_neighbours(&exact, &(mr3d_neighbours_in){n, n, cells, cells, 3, 1, -1, MR3D_KERNEL_OUT_FIRST}, rows);
  plain.x = rounded;
  plain.kernel.bias = NULL;
  mr3d_sparse_conv_plain(&plain, rows, sums);
  for (int64_t i = 0; i < n * OUT; i++)
    assert_true(y[i] == bf16(bf16(sums[i]) + b[i % OUT]));

  /* what is normed, weighted, shifted is stored each time */
  for (int kind = 0; kind < 3; kind++) {
    const int64_t groups = kind == 2 ? 1 : GROUPS, width = C / groups;
    const mr3d_norm_in norm = {.n = n, .C = C, .groups = groups, .eps = 1e-5, .x = x, .norm = {scale, b}};
    (kind == 0 ? mr3d_group_norm_sparse : kind == 1 ? mr3d_group_norm_rows : mr3d_layernorm)(&r.context, &norm, y);
    for (int64_t p = 0; p < n; p++)
      for (int64_t c = 0; c < C; c++) {
        const int64_t first = kind == 0 ? 0 : p, last = kind == 0 ? n - 1 : p, from = c / width * width;
        double sum = 0, squares = 0;
        for (int64_t i = first; i <= last; i++)
          for (int64_t k = from; k < from + width; k++)
            sum = sum + x[i * C + k];
        const double count = (double)((last - first + 1) * width), mean = sum / count;
        for (int64_t i = first; i <= last; i++)
          for (int64_t k = from; k < from + width; k++)
            squares = squares + (x[i * C + k] - mean) * (x[i * C + k] - mean);
        assert_true(y[p * C + c] == bf16(bf16(bf16((x[p * C + c] - mean) / sqrt(squares / count + 1e-5)) * scale[c]) + b[c]));
      }
  }

  mr3d_gelu(&r.context, n, C, x, y);
  for (int64_t i = 0; i < n * C; i++)
    assert_true(y[i] == bf16(0.5 * x[i] * erfc(-x[i] * 0x1.6a09e667f3bcdp-1)));

  /* coordinates and angles are held in binary32, sines and cosines stored; at fp32 one sees what the angle is held in */
  for (int narrow = 0; narrow < 2; narrow++) {
    start(&r, narrow ? MR3D_BF16_TIER : MR3D_FP32, MR3D_NEAREST, false, 1, 1);
    mr3d_fourier_features(&r.context, &(mr3d_fourier_in){n, cells, MR3D_SONATA_NORM_GRID, 80}, y);
    for (int64_t t = 0; t < n; t++)
      for (int axis = 0; axis < 3; axis++) {
        const double v = (double)(float)((double)cells[3 * t + axis] / 79);
        assert_true(y[t * 63 + axis] == (narrow ? bf16(v) : v));
        for (int band = 0; band < 10; band++) {
          const double angle = (double)(float)(0x1.921fb54442d18p+1 * (1 + band * (29.0 / 9)) * v), *at = &y[t * 63 + 3 + 6 * band + axis];
          assert_true(at[0] == (narrow ? bf16(sin(angle)) : (double)(float)sin(angle)) && at[3] == (narrow ? bf16(cos(angle)) : (double)(float)cos(angle)));
        }
      }
  }
  free(cells);
  free(x);
  free(w);
  free(b);
  free(scale);
  free(y);
  free(sums);
  free(rounded);
  free(rows);
}

static void nearest_attention_stores_scores_and_probabilities_in_bf16(void **state) {
  (void)state;
  enum { K = 30, D = 16 };
  double *q = numbers(D, 3, 1), *k = numbers(K * D, 3, 2), *v = numbers(K * D, 1, 3), y[D], p[K], max = -1e9, sum = 0;
  bool visible[K];
  for (int i = 0; i < K * D; i++) {
    q[i % D] = bf16(q[i % D]);
    k[i] = bf16(k[i]);
    v[i] = bf16(v[i]);
    visible[i % K] = i % K != 4;
  }
  run r;
  start(&r, MR3D_BF16_TIER, MR3D_NEAREST, false, 1, 1);
  mr3d_attention(&r.context, &(mr3d_attention_in){1, 1, 1, 1, K, D, q, k, v, visible}, y);
  for (int j = 0; j < K; j++) {
    double dot = 0;
    for (int d = 0; d < D; d++)
      dot = dot + q[d] * k[j * D + d];
    p[j] = bf16(dot / 4);
    max = visible[j] ? fmax(max, p[j]) : max;
  }
  for (int j = 0; j < K; j++)
    sum = sum + (p[j] = visible[j] ? exp(p[j] - max) : 0);
  for (int d = 0; d < D; d++) {
    double mixed = 0;
    for (int j = 0; j < K; j++)
      mixed = mixed + bf16(p[j] / sum) * v[j * D + d];
    assert_true(y[d] == bf16(mixed));
  }
  free(q);
  free(k);
  free(v);
}

static void stochastic_noise_is_root_two_of_nearest(void **state) {
  (void)state;
  enum { ROWS = 100, K = 300, OUT = 100, N = ROWS * OUT };
  double *x = numbers(ROWS * K, 2, 1), *w = numbers(OUT * K, 0.1, 2), *y = unwritten(N), *reference = unwritten(N);
  for (int i = 0; i < ROWS * K; i++)
    x[i] = bf16(x[i]);
  const mr3d_linear_in in = {ROWS, K, OUT, x, w, NULL};
  double spread[2];
  mr3d_linear(&exact, &in, reference);
  for (int k = 0; k < 2; k++) {
    run r;
    mr3d_linear(&start(&r, MR3D_BF16_TIER, k == 0 ? MR3D_NEAREST : MR3D_STOCHASTIC, false, 1, 2)->context, &in, y);
    spread[k] = rms(N, y, reference, 1);
  }
  assert_near(spread[1] / spread[0], sqrt(2), 0.05);
  free(x);
  free(w);
  free(y);
  free(reference);
}

enum { TOKENS = 20, WIDTH = 64 };

/** Rows of y [groups,TOKENS,WIDTH] that differ from the first of their group. */
static int differing_rows(int groups, const double *y) {
  int differ = 0;
  for (int r = 0; r < groups * TOKENS; r++)
    differ += memcmp(y + r * WIDTH, y + r / TOKENS * TOKENS * WIDTH, WIDTH * sizeof *y) != 0;
  return differ;
}

static void identical_tokens_stay_identical_exactly_in_shared_runs(void **state) {
  (void)state;
  double *token = numbers(4 * WIDTH, 2, 1), *w = numbers(WIDTH * WIDTH, 0.3, 2), *bias = numbers(WIDTH, 30, 3), *norm = numbers(WIDTH, 2, 4);
  double *x = unwritten(2 * TOKENS * WIDTH), *y = unwritten(2 * TOKENS * WIDTH), *freqs = numbers(3 * 2 * WIDTH, 1, 5);
  double coords[TOKENS * 3], *c = unwritten(2 * TOKENS * WIDTH), *s = unwritten(2 * TOKENS * WIDTH);
  bool visible[TOKENS * TOKENS];
  for (int i = 0; i < 2 * TOKENS * WIDTH; i++)
    x[i] = token[i / TOKENS / WIDTH * WIDTH + i % WIDTH];
  for (int i = 0; i < TOKENS * TOKENS; i++)
    visible[i] = true;
  for (int i = 0; i < TOKENS * 3; i++)
    coords[i] = 3 + i % 3;
  for (int tier = 0; tier < MR3D_N_TIERS; tier++)
    for (int shared = 0; shared < 2; shared++) {
      run r;
      const mr3d_context *context = &start(&r, (mr3d_tier)tier, MR3D_STOCHASTIC, shared, 11, 2)->context;
      mr3d_rmsnorm(context, &(mr3d_rmsnorm_in){TOKENS, WIDTH, 1e-6, x, norm}, y);
      assert_int_equal(differing_rows(1, y) == 0, shared);
      mr3d_linear(context, &(mr3d_linear_in){TOKENS, WIDTH, WIDTH, x, w, bias}, y);
      assert_int_equal(differing_rows(1, y) == 0, shared);
      mr3d_swiglu(context, &(mr3d_swiglu_in){TOKENS, WIDTH, x, x}, y);
      assert_int_equal(differing_rows(1, y) == 0, shared);
      mr3d_attention(context, &(mr3d_attention_in){1, 2, 1, TOKENS, TOKENS, WIDTH, x, x, x, visible}, y);
      assert_int_equal(differing_rows(2, y) == 0, shared);
      mr3d_cis3d(context, &(mr3d_cis3d_in){2, WIDTH, TOKENS, 3, freqs, NULL, coords}, c, s);
      assert_int_equal(differing_rows(2, c) == 0 && differing_rows(2, s) == 0, shared);
    }
  free(token);
  free(w);
  free(bias);
  free(norm);
  free(x);
  free(y);
  free(freqs);
  free(c);
  free(s);
}

static void identical_keys_get_the_same_weight_in_shared_runs(void **state) {
  (void)state;
  /* one-hot values show the weights; scores near 1000 make a score's noise a thousand times that of the context */
  double query[WIDTH], key[WIDTH * WIDTH], value[WIDTH * WIDTH] = {0}, *token = numbers(WIDTH, 1, 6), y[WIDTH];
  bool visible[WIDTH];
  for (int i = 0; i < WIDTH * WIDTH; i++)
    key[i] = token[i % WIDTH] * 400;
  for (int i = 0; i < WIDTH; i++) {
    query[i] = (double)(float)token[i];
    value[i * WIDTH + i] = 1;
    visible[i] = true;
  }
  for (int shared = 0; shared < 2; shared++) {
    run r;
    mr3d_attention(&start(&r, MR3D_FP32, MR3D_STOCHASTIC, shared, 2, 1)->context, &(mr3d_attention_in){1, 1, 1, 1, WIDTH, WIDTH, query, key, value, visible}, y);
    double least = 1, most = 0;
    for (int d = 0; d < WIDTH; d++) {
      least = fmin(least, y[d]);
      most = fmax(most, y[d]);
    }
    const double spread = (most - least) * WIDTH / 0x1p-24;
    assert_true(shared ? spread < 60 : spread > 1000);
  }
  free(token);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(nearest_is_the_conversion_to_the_storage_type_with_its_range),
      cmocka_unit_test(stochastic_takes_one_of_two_neighbours_and_keeps_the_mean),
      cmocka_unit_test(representable_values_stay),
      cmocka_unit_test(shared_thresholds_depend_on_head_and_column_but_not_on_batch_and_token),
      cmocka_unit_test(run_is_a_function_of_its_seed_at_any_thread_count),
      cmocka_unit_test(elements_done_side_by_side_are_those_done_one_by_one),
      cmocka_unit_test(without_arithmetic_or_with_its_point_off_nothing_changes),
      cmocka_unit_test(accumulation_noise_has_the_variance_of_its_formula),
      cmocka_unit_test(emulated_float_angles_spread_like_honest_ones_and_are_the_same_in_every_call),
      cmocka_unit_test(operators_add_the_noise_of_their_formulas),
      cmocka_unit_test(encoder_operators_add_the_noise_of_their_formulas),
      cmocka_unit_test(nearest_linear_is_float_accumulation_stored_in_bf16),
      cmocka_unit_test(nearest_rope1d_is_bf16_eager_code_bit_by_bit),
      cmocka_unit_test(nearest_cis3d_and_normalize_coords_keep_float_angles_whatever_the_tier_stores),
      cmocka_unit_test(nearest_rmsnorm_and_swiglu_are_fp16_eager_code_bit_by_bit),
      cmocka_unit_test(nearest_encoder_operators_are_eager_code_bit_by_bit),
      cmocka_unit_test(nearest_attention_stores_scores_and_probabilities_in_bf16),
      cmocka_unit_test(stochastic_noise_is_root_two_of_nearest),
      cmocka_unit_test(identical_tokens_stay_identical_exactly_in_shared_runs),
      cmocka_unit_test(identical_keys_get_the_same_weight_in_shared_runs),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
