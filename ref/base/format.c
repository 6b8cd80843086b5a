/** Number formats by bits and the tiers' units (mr3d/format.h). */
#include "mr3d/format.h"

#include <string.h>

/**
 * A binary interchange format of 16 bits: sign, `exponent_bits`, `fraction_bits`. Both conversions work on the bits of the
 * binary64 value, so the way to F16 never passes through F32 and rounds once.
 */
#define F16_EXPONENT_BITS 5
#define BF16_EXPONENT_BITS 8

static inline uint16_t encode(double value, const int exponent_bits) {
  const int fraction_bits = 15 - exponent_bits, bias = (1 << (exponent_bits - 1)) - 1;
  const uint16_t infinity = (uint16_t)(((1 << exponent_bits) - 1) << fraction_bits);
  uint64_t bits;
  memcpy(&bits, &value, sizeof bits);
  const uint16_t sign = (uint16_t)(bits >> 48 & 0x8000);
  const uint64_t fraction = bits & ((UINT64_C(1) << 52) - 1);
  const int exponent = (int)(bits >> 52 & 0x7FF) - 1023;

  if (exponent == 1024 && fraction != 0) /* NaN: quiet, with the upper bits of its payload */
    return (uint16_t)(sign | infinity | 1 << (fraction_bits - 1) | (int)(fraction >> (52 - fraction_bits)));
  if (exponent > bias)
    return sign | infinity;

  /* code = (octaves above the smallest normal) << fraction_bits, plus the significand rounded to the target's grid. A carry
     runs into the exponent by itself, and from the largest exponent into infinity. */
  const int above = exponent - (1 - bias);
  const int shift = 52 - fraction_bits - (above < 0 ? above : 0);
  if (shift > 53) /* less than half the smallest subnormal; zero and subnormal binary64 too */
    return sign;
  const uint64_t significand = fraction | UINT64_C(1) << 52;
  const uint64_t floor = significand >> shift, rest = significand & ((UINT64_C(1) << shift) - 1);
  const uint64_t half = UINT64_C(1) << (shift - 1);
  const uint64_t rounded = floor + (rest > half || (rest == half && (floor & 1)));
  return (uint16_t)(sign | (((uint64_t)(above > 0 ? above : 0) << fraction_bits) + rounded));
}

static double decode_f16(uint16_t code) {
  const int exponent_bits = F16_EXPONENT_BITS, fraction_bits = 15 - exponent_bits, bias = (1 << (exponent_bits - 1)) - 1;
  const uint64_t sign = (uint64_t)(code & 0x8000) << 48;
  const uint64_t exponent = code >> fraction_bits & ((1 << exponent_bits) - 1);
  const uint64_t fraction = (uint64_t)code & ((UINT64_C(1) << fraction_bits) - 1);
  uint64_t bits;
  if (exponent == 0) { /* subnormal: fraction · 2^(1 - bias - fraction_bits), exact in binary64 */
    const uint64_t unit_bits = (uint64_t)(1 - bias - fraction_bits + 1023) << 52;
    double unit;
    memcpy(&unit, &unit_bits, sizeof unit);
    const double value = (double)fraction * unit;
    return sign ? -value : value;
  }
  if (exponent == (UINT64_C(1) << exponent_bits) - 1)
    bits = UINT64_C(0x7FF) << 52;
  else
    bits = (exponent - (uint64_t)bias + 1023) << 52;
  bits |= sign | fraction << (52 - fraction_bits);
  double value;
  memcpy(&value, &bits, sizeof value);
  return value;
}

uint16_t mr3d_f16_from_double(double value) { return encode(value, F16_EXPONENT_BITS); }
double mr3d_f16_to_double(uint16_t code) { return decode_f16(code); }
uint16_t mr3d_bf16_from_double(double value) { return encode(value, BF16_EXPONENT_BITS); }

/* fp64's eta, half of 2^-1074, is not a binary64 number: the next one above stands for it. */
static const struct {
  const char *name;
  mr3d_dtype storage;
  mr3d_units units;
} tiers[MR3D_N_TIERS] = {
    [MR3D_FP64] = {"fp64", MR3D_F64, {.u = 0x1p-53, .ua = 0x1p-53, .up = 0, .eta = 0x1p-1074, .eta_term = 0x1p-1074, .narrow = false}},
    [MR3D_FP32] = {"fp32", MR3D_F32, {.u = 0x1p-24, .ua = 0x1p-24, .up = 0, .eta = 0x1p-126, .eta_term = 0x1p-126, .narrow = false}},
    [MR3D_TF32] = {"tf32", MR3D_F32, {.u = 0x1p-24, .ua = 0x1p-24, .up = 0x1p-11, .eta = 0x1p-126, .eta_term = 0x1p-126, .narrow = false}},
    [MR3D_BF16_TIER] = {"bf16", MR3D_BF16, {.u = 0x1p-8, .ua = 0x1p-24, .up = 0, .eta = 0x1p-126, .eta_term = 0x1p-126, .narrow = true}},
    [MR3D_FP16] = {"fp16", MR3D_F16, {.u = 0x1p-11, .ua = 0x1p-24, .up = 0, .eta = 0x1p-25, .eta_term = 0x1p-126, .narrow = true}},
};

const char *mr3d_tier_name(mr3d_tier tier) { return tiers[tier].name; }

mr3d_tier mr3d_tier_named(const char *name) {
  int tier = 0;
  while (tier < MR3D_N_TIERS && strcmp(tiers[tier].name, name) != 0)
    tier++;
  return (mr3d_tier)tier;
}

mr3d_dtype mr3d_tier_storage(mr3d_tier tier) { return tiers[tier].storage; }

mr3d_units mr3d_tier_units(mr3d_tier tier) { return tiers[tier].units; }
