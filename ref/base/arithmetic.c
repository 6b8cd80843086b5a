/** Emulated arithmetic (mr3d/arithmetic.h). */
#include "mr3d/arithmetic.h"

#include <float.h>
#include <math.h>
#include <string.h>

#include "mr3d/ops.h"
#include "product.h"
#include "side_by_side.h"

mr3d_arithmetic mr3d_arithmetic_of(mr3d_tier tier, mr3d_rounding rounding, bool shared, uint64_t seed) {
  mr3d_arithmetic arithmetic = {.tier = tier, .units = mr3d_tier_units(tier), .rounding = rounding, .shared = shared, .points = ~0u, .seed = seed};
  if (tier == MR3D_FP64) {
    /* binary64 cannot show its own roundings: emulate coarser ones and let the judge scale back */
    arithmetic.units.u = ldexp(arithmetic.units.u, MR3D_FP64_COARSER);
    arithmetic.units.ua = ldexp(arithmetic.units.ua, MR3D_FP64_COARSER);
  }
  return arithmetic;
}

double mr3d_stored_unit(const mr3d_units *units, mr3d_rounding_point point) { return units->kept >> point & 1 ? units->ua : units->u; }

/** SplitMix64's output function (Steele, Lea, Flood 2014): bijective, every input bit reaches every output bit. */
static inline uint64_t mix(uint64_t z) {
  z = (z ^ z >> 30) * UINT64_C(0xBF58476D1CE4E5B9);
  z = (z ^ z >> 27) * UINT64_C(0x94D049BB133111EB);
  return z ^ z >> 31;
}
static const uint64_t golden_gamma = UINT64_C(0x9E3779B97F4A7C15);

/** The random word of a column is mix(row key + column * gamma): a SplitMix64 sequence per row. */
static uint64_t row_key(const mr3d_rounder *rounder, int64_t batch, int64_t group, int64_t row) {
  uint64_t key = mix(rounder->key + (uint64_t)group * golden_gamma);
  if (!rounder->shared) {
    key = mix(key + (uint64_t)batch * golden_gamma + 1);
    key = mix(key + (uint64_t)row * golden_gamma);
  }
  return key;
}
static inline uint64_t word(uint64_t key, uint64_t column) { return mix(key + column * golden_gamma); }

/** What a value can be at a rounding point: the tier's storage, narrowed for product inputs, never below the accumulator for angles. */
static mr3d_rounder rounder_of(const mr3d_arithmetic *arithmetic, mr3d_rounding_point point, uint64_t number) {
  const mr3d_units *units = &arithmetic->units;
  const bool angle = point == MR3D_AT_ANGLE, half = arithmetic->tier == MR3D_FP16 && !angle, wide = arithmetic->tier == MR3D_FP64;
  const double unit = angle                                                  ? units->ua
                      : point == MR3D_AT_PRODUCT_INPUT && units->up > units->u ? units->up
                                                                              : units->u;
  const int digits = -ilogb(unit);
  return (mr3d_rounder){
      /* where storage is narrower, an accumulator's noise is below a hundredth of the storage's rounding: left out, it costs a product */
      .on = (arithmetic->points >> point & 1) && !(point == MR3D_AT_ACCUMULATION && units->narrow),
      .stochastic = arithmetic->rounding == MR3D_STOCHASTIC,
      .shared = arithmetic->shared,
      .equal_columns = point == MR3D_AT_SCORE || point == MR3D_AT_PROBABILITY,
      .digits = digits,
      .min_exponent = half ? -14 : wide ? -1022 + digits : -126, /* the spacing itself stays normal in binary64 */
      .max = half                                                ? 65504
             : wide                                              ? DBL_MAX
             : arithmetic->tier == MR3D_BF16_TIER && !angle ? 0x1.FEp127
                                                            : FLT_MAX,
      .ua = units->ua,
      .key = mix(mix(arithmetic->seed + golden_gamma) + number),
  };
}

mr3d_rounder mr3d_rounder_at(const mr3d_context *context, mr3d_rounding_point point) {
  if (context->arithmetic == NULL)
    return (mr3d_rounder){.on = false};
  return rounder_of(context->arithmetic, point, 2 * (*context->calls)++);
}

mr3d_rounder mr3d_rounder_fixed(const mr3d_context *context, mr3d_rounding_point point, uint64_t tag) {
  if (context->arithmetic == NULL)
    return (mr3d_rounder){.on = false};
  return rounder_of(context->arithmetic, point, 2 * tag + 1);
}

/**
 * One value to a multiple of its spacing 2^(max(exponent, min_exponent) - digits + 1): nearest even for threshold 0, else down or up with
 * the probabilities that leave the mean unchanged, threshold uniform in (-1/2, 1/2). The magic constant rounds to an integer; thresholds
 * have 13 bits, so that value/spacing + threshold is exact for up to 40 digits and a representable value always stays.
 */
static inline double to_spacing(double value, int digits, int min_exponent, double max, double threshold) {
  uint64_t bits;
  memcpy(&bits, &value, sizeof bits);
  const int64_t biased = (int64_t)(bits >> 52 & 0x7FF), least = min_exponent + 1023;
  const int64_t spacing_exponent = (biased > least ? biased : least) - (digits - 1);
  const uint64_t spacing_bits = (uint64_t)spacing_exponent << 52, inverse_bits = (uint64_t)(2046 - spacing_exponent) << 52;
  double spacing, inverse;
  memcpy(&spacing, &spacing_bits, sizeof spacing);
  memcpy(&inverse, &inverse_bits, sizeof inverse);
  const double magic = 0x1.8p52;
  const double rounded = fabs((value * inverse + threshold + magic - magic) * spacing), infinite = rounded * INFINITY;
  return copysign(rounded <= max ? rounded : infinite, value); /* NaN stays NaN */
}

MR3D_SIDE_BY_SIDE static void round_to_nearest(const mr3d_rounder *rounder, int64_t columns, double *y) {
  const int digits = rounder->digits, least = rounder->min_exponent;
  const double max = rounder->max;
#pragma omp simd
  for (int64_t c = 0; c < columns; c++)
    y[c] = to_spacing(y[c], digits, least, max, 0);
}

MR3D_SIDE_BY_SIDE static void round_by_thresholds(const mr3d_rounder *rounder, uint64_t key, uint64_t step, int64_t columns, double *y) {
  const int digits = rounder->digits, least = rounder->min_exponent;
  const double max = rounder->max;
#pragma omp simd
  for (int64_t c = 0; c < columns; c++)
    y[c] = to_spacing(y[c], digits, least, max, (mr3d_double_of(word(key, (uint64_t)c * step) >> 52) + 0.5) * 0x1p-12 - 0.5);
}

/** Whether all columns of a row have the threshold, or the noise, of the first. */
static uint64_t column_step(const mr3d_rounder *rounder) { return rounder->shared && rounder->equal_columns ? 0 : 1; }

void mr3d_round_row(const mr3d_rounder *rounder, int64_t batch, int64_t group, int64_t row, int64_t columns, double *y) {
  if (!rounder->on)
    return;
  if (rounder->stochastic)
    round_by_thresholds(rounder, row_key(rounder, batch, group, row), column_step(rounder), columns, y);
  else
    round_to_nearest(rounder, columns, y);
}

void mr3d_round(const mr3d_context *context, mr3d_rounding_point point, int64_t batches, int64_t groups, int64_t rows, int64_t columns, double *y) {
  if (context->arithmetic == NULL)
    return;
  const mr3d_rounder rounder = mr3d_rounder_at(context, point);
  const int64_t count = batches * groups * rows;
#pragma omp parallel for num_threads(mr3d_thread_count(context->threads)) schedule(static) if (count * columns > 16384)
  for (int64_t r = 0; r < count; r++)
    mr3d_round_row(&rounder, r / rows / groups, r / rows % groups, r % rows, columns, y + r * columns);
}

/** The `normal` of docs/generator.md: four 16-bit fields, centred, unit variance. */
static inline double normal(uint64_t w) {
  const uint64_t sum = (w & 0xFFFF) + (w >> 16 & 0xFFFF) + (w >> 32 & 0xFFFF) + (w >> 48);
  return (mr3d_double_of(sum) - 131070) * 0x1.bb67ae86627e8p-16;
}

MR3D_SIDE_BY_SIDE static void normals(uint64_t key, uint64_t step, int64_t columns, double *noise) {
#pragma omp simd
  for (int64_t c = 0; c < columns; c++)
    noise[c] = normal(word(key, (uint64_t)c * step));
}

void mr3d_noise_row(const mr3d_rounder *rounder, int64_t batch, int64_t group, int64_t row, int64_t columns, double *noise) {
  if (rounder->on && rounder->stochastic)
    normals(row_key(rounder, batch, group, row), column_step(rounder), columns, noise);
  else
    for (int64_t c = 0; c < columns; c++)
      noise[c] = 0;
}

double mr3d_noise_at(const mr3d_rounder *rounder, int64_t batch, int64_t group, int64_t row, int64_t column) {
  if (!rounder->on || !rounder->stochastic)
    return 0;
  return normal(word(row_key(rounder, batch, group, row), (uint64_t)column));
}

MR3D_SIDE_BY_SIDE static void add_noise(uint64_t key, uint64_t step, double factor, int64_t columns, const float *squares, const double *start, double *y) {
  if (start == NULL)
#pragma omp simd
    for (int64_t c = 0; c < columns; c++)
      y[c] += sqrt(factor * (0.5 * (double)squares[c])) * normal(word(key, (uint64_t)c * step));
  else
#pragma omp simd
    for (int64_t c = 0; c < columns; c++)
      y[c] += sqrt(factor * (start[c] * start[c] + 0.5 * (double)squares[c])) * normal(word(key, (uint64_t)c * step));
}

void mr3d_noise_add(const mr3d_rounder *rounder, int64_t batch, int64_t group, int64_t row, int64_t columns, int64_t K, const float *squares,
                    const double *start, double *y) {
  if (rounder->on && rounder->stochastic)
    add_noise(row_key(rounder, batch, group, row), column_step(rounder), rounder->ua * rounder->ua / 3 * (double)K, columns, squares, start, y);
}
