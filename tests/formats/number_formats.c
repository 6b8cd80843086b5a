/** F16, BF16 and the 8-bit floats by bits: every code, every tie, one rounding; exactness of tensor conversions; the tiers' units. */
#include "support.h"

#include <float.h>
#include <math.h>

#include "mr3d/format.h"

/* A 16-bit format, described independently of the code under test. */
typedef struct small_float {
  const char *name;
  int exponent_bits, fraction_bits, bias;
  uint16_t (*encode)(double);
  double (*decode)(uint16_t);
} small_float;

static const small_float formats[] = {
    {"F16", 5, 10, 15, mr3d_f16_from_double, mr3d_f16_to_double},
    {"BF16", 8, 7, 127, mr3d_bf16_from_double, mr3d_bf16_to_double},
};
#define EACH_FORMAT(f) for (const small_float *f = formats; f < formats + 2; f++)

static uint16_t infinity_of(const small_float *f) { return (uint16_t)(((1 << f->exponent_bits) - 1) << f->fraction_bits); }

/* The code's value by definition. */
static double value_of(const small_float *f, uint16_t code) {
  const int exponent = code >> f->fraction_bits & ((1 << f->exponent_bits) - 1), fraction = code & ((1 << f->fraction_bits) - 1);
  const double size = exponent == 0 ? ldexp(fraction, 1 - f->bias - f->fraction_bits)
                                    : ldexp((1 << f->fraction_bits) + fraction, exponent - f->bias - f->fraction_bits);
  return code & 0x8000 ? -size : size;
}

static bool same_bits(double a, double b) { return memcmp(&a, &b, sizeof a) == 0; }

static void every_finite_code_has_its_value_and_comes_back(void **state) {
  (void)state;
  EACH_FORMAT(f)
  for (int c = 0; c < 65536; c++) {
    const uint16_t code = (uint16_t)c;
    if ((code & 0x7FFF) >= infinity_of(f))
      continue;
    if (!same_bits(f->decode(code), value_of(f, code)) || f->encode(f->decode(code)) != code)
      fail_msg("%s code %04x: value %a, expected %a, back as %04x", f->name, code, f->decode(code), value_of(f, code), f->encode(f->decode(code)));
  }
}

static void infinities_come_back_and_nans_stay_quiet_nans(void **state) {
  (void)state;
  EACH_FORMAT(f) {
    const uint16_t infinity = infinity_of(f), quiet = (uint16_t)(1 << (f->fraction_bits - 1));
    assert_true(f->decode(infinity) == INFINITY && f->decode(infinity | 0x8000) == -INFINITY);
    assert_int_equal(f->encode(INFINITY), infinity);
    assert_int_equal(f->encode(-INFINITY), infinity | 0x8000);
    assert_int_equal(f->encode((double)NAN), infinity | quiet);
    for (int c = 0; c < 65536; c++) {
      const uint16_t code = (uint16_t)c;
      if ((code & 0x7FFF) <= infinity)
        continue;
      assert_true(isnan(f->decode(code)));
      assert_int_equal(f->encode(f->decode(code)), code | quiet); /* sign and payload kept, made quiet */
    }
  }
}

/* Between two neighbours lie a tie and its binary64 neighbours; rounding is monotonic, so these decide every value there is. */
static void every_tie_goes_to_the_even_code_and_its_neighbours_to_the_nearer(void **state) {
  (void)state;
  EACH_FORMAT(f)
  for (uint16_t low = 0; low < infinity_of(f); low++) { /* the last pair: largest finite value, infinity */
    const uint16_t high = (uint16_t)(low + 1), even = low & 1 ? high : low;
    const double a = value_of(f, low), b = value_of(f, high), tie = a + (b - a) / 2;
    for (int sign = 0; sign < 2; sign++) {
      const uint16_t s = sign ? 0x8000 : 0;
      const double unit = sign ? -1 : 1;
      const uint16_t at = f->encode(unit * tie), below = f->encode(unit * nextafter(tie, 0)), above = f->encode(unit * nextafter(tie, INFINITY));
      if (at != (s | even) || below != (s | low) || above != (s | high))
        fail_msg("%s between %04x and %04x: tie %04x, below %04x, above %04x", f->name, s | low, s | high, at, below, above);
    }
  }
}

static void values_are_rounded_once_and_never_by_way_of_binary32(void **state) {
  (void)state;
  int traps = 0;
  EACH_FORMAT(f)
  for (uint16_t low = 0; low < infinity_of(f); low++) {
    const double a = value_of(f, low), b = value_of(f, (uint16_t)(low + 1)), tie = a + (b - a) / 2;
    const double trap = low & 1 ? nextafter(tie, 0) : nextafter(tie, INFINITY); /* nearer to the odd code; binary32 cannot tell it from the tie */
    traps += f->encode((double)(float)trap) != f->encode(trap);
  }
  assert_true(traps > 31000 + 32000); /* binary32 is wrong for almost all of them */
  assert_int_equal(mr3d_f16_from_double(1 + 0x1p-11 + 0x1p-40), 0x3C01);
  assert_int_equal(mr3d_bf16_from_double(1 + 0x1p-8 + 0x1p-40), 0x3F81);
  assert_int_equal(mr3d_bf16_from_double(1 + 0x1p-8), 0x3F80);
}

static void overflow_starts_half_a_step_above_the_largest_value(void **state) {
  (void)state;
  assert_int_equal(mr3d_f16_from_double(65504), 0x7BFF);
  assert_int_equal(mr3d_f16_from_double(nextafter(65520, 0)), 0x7BFF);
  assert_int_equal(mr3d_f16_from_double(65520), 0x7C00);
  assert_int_equal(mr3d_f16_from_double(-65536), 0xFC00);
  assert_int_equal(mr3d_f16_from_double(-DBL_MAX), 0xFC00);
  assert_int_equal(mr3d_bf16_from_double(0x1.FEp127), 0x7F7F);
  assert_int_equal(mr3d_bf16_from_double(nextafter(0x1.FFp127, 0)), 0x7F7F);
  assert_int_equal(mr3d_bf16_from_double(0x1.FFp127), 0x7F80);
  assert_int_equal(mr3d_bf16_from_double(DBL_MAX), 0x7F80);
}

static void underflow_keeps_the_sign(void **state) {
  (void)state;
  assert_int_equal(mr3d_f16_from_double(0x1p-24), 1);
  assert_int_equal(mr3d_f16_from_double(0x1p-25), 0); /* a tie with zero */
  assert_int_equal(mr3d_f16_from_double(nextafter(0x1p-25, 1)), 1);
  assert_int_equal(mr3d_f16_from_double(-0x1p-26), 0x8000);
  assert_int_equal(mr3d_bf16_from_double(0x1p-133), 1);
  assert_int_equal(mr3d_bf16_from_double(-0x1p-134), 0x8000);
  EACH_FORMAT(f) {
    assert_int_equal(f->encode(0.0), 0);
    assert_int_equal(f->encode(-0.0), 0x8000);
    assert_int_equal(f->encode(-DBL_TRUE_MIN), 0x8000);
    assert_int_equal(f->encode(DBL_MIN), 0);
    assert_true(signbit(f->decode(0x8000)));
  }
}

static void eight_bit_floats_are_read_exactly(void **state) {
  (void)state;
  uint8_t codes[256];
  double values[256];
  for (int i = 0; i < 256; i++)
    codes[i] = (uint8_t)i;
  mr3d_tensor t = {.name = "t", .dtype = MR3D_F8_E4M3, .rank = 1, .shape = {256}, .data = codes};
  mr3d_tensor_to_double(&t, values);
  assert_true(values[0x00] == 0 && values[0x01] == 0x1p-9 && values[0x07] == 0x7p-9 && values[0x08] == 0x1p-6);
  assert_true(values[0x38] == 1 && values[0x39] == 1.125 && values[0x7E] == 448 && values[0xFE] == -448);
  assert_true(isnan(values[0x7F]) && isnan(values[0xFF]) && signbit(values[0x80]));
  t.dtype = MR3D_F8_E5M2;
  mr3d_tensor_to_double(&t, values);
  assert_true(values[0x01] == 0x1p-16 && values[0x04] == 0x1p-14 && values[0x3C] == 1 && values[0x3D] == 1.25);
  assert_true(values[0x7B] == 57344 && values[0x7C] == INFINITY && values[0xFC] == -INFINITY && isnan(values[0x7D]));
}

static void integers_and_floats_pass_through_tensors_exactly(void **state) {
  (void)state;
  static const struct {
    mr3d_dtype dtype;
    double lowest, highest;
  } types[] = {{MR3D_BOOL, 0, 1},           {MR3D_U8, 0, 255},         {MR3D_I8, -128, 127},      {MR3D_U16, 0, 65535},
               {MR3D_I16, -32768, 32767},   {MR3D_U32, 0, 0x1p32 - 1}, {MR3D_I32, -0x1p31, 0x1p31 - 1}, {MR3D_U64, 0, 0x1p64 - 0x1p11},
               {MR3D_I64, -0x1p63, 0x1p53}, {MR3D_F32, -FLT_MAX, 0x1p-149}, {MR3D_F64, -DBL_MAX, DBL_TRUE_MIN}};
  for (size_t i = 0; i < sizeof types / sizeof *types; i++) {
    mr3d_bundle *bundle = mr3d_bundle_new();
    mr3d_tensor *t = mr3d_bundle_add(bundle, "t", types[i].dtype, 1, (int64_t[]){2});
    const double in[2] = {types[i].lowest, types[i].highest};
    double out[2];
    mr3d_tensor_from_double(t, in);
    mr3d_tensor_to_double(t, out);
    assert_memory_equal(in, out, sizeof in);
    mr3d_bundle_free(&bundle);
  }
}

static void long_tensors_convert_like_short_ones(void **state) {
  (void)state;
  enum { N = 200003 }; /* beyond the size from which threads share the work */
  mr3d_bundle *bundle = mr3d_bundle_new();
  double *in = mr3d_allocate(N, sizeof *in), *out = mr3d_allocate(N, sizeof *out);
  for (int i = 0; i < N; i++)
    in[i] = ldexp((i % 2 ? -1 : 1) * (1.0 + i * 0x1.23456789p-20), i % 40 - 20);
  mr3d_tensor *t = mr3d_bundle_add(bundle, "t", MR3D_F16, 1, (int64_t[]){N});
  mr3d_tensor_from_double(t, in);
  mr3d_tensor_to_double(t, out);
  for (int i = 0; i < N; i++)
    assert_true(same_bits(out[i], mr3d_f16_to_double(mr3d_f16_from_double(in[i]))));
  free(in);
  free(out);
  mr3d_bundle_free(&bundle);
}

static void tiers_have_the_units_of_the_tolerance_page(void **state) {
  (void)state;
  static const struct {
    const char *name;
    mr3d_dtype storage;
    double u, ua, up, eta;
    bool narrow;
  } expected[MR3D_N_TIERS] = {
      {"fp64", MR3D_F64, 0x1p-53, 0x1p-53, 0, 0x1p-1074, false},     {"fp32", MR3D_F32, 0x1p-24, 0x1p-24, 0, 0x1p-126, false},
      {"tf32", MR3D_F32, 0x1p-24, 0x1p-24, 0x1p-11, 0x1p-126, false}, {"bf16", MR3D_BF16, 0x1p-8, 0x1p-24, 0, 0x1p-126, true},
      {"fp16", MR3D_F16, 0x1p-11, 0x1p-24, 0, 0x1p-25, true},
  };
  for (int i = 0; i < MR3D_N_TIERS; i++) {
    const mr3d_tier tier = mr3d_tier_named(expected[i].name);
    const mr3d_units units = mr3d_tier_units(tier);
    assert_string_equal(mr3d_tier_name(tier), expected[i].name);
    assert_int_equal(mr3d_tier_storage(tier), expected[i].storage);
    assert_true(units.u == expected[i].u && units.ua == expected[i].ua && units.up == expected[i].up && units.eta == expected[i].eta &&
                units.narrow == expected[i].narrow);
  }
  assert_int_equal(mr3d_tier_named("fp8"), MR3D_N_TIERS);
  assert_int_equal(mr3d_tier_named("FP32"), MR3D_N_TIERS);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(every_finite_code_has_its_value_and_comes_back),
      cmocka_unit_test(infinities_come_back_and_nans_stay_quiet_nans),
      cmocka_unit_test(every_tie_goes_to_the_even_code_and_its_neighbours_to_the_nearer),
      cmocka_unit_test(values_are_rounded_once_and_never_by_way_of_binary32),
      cmocka_unit_test(overflow_starts_half_a_step_above_the_largest_value),
      cmocka_unit_test(underflow_keeps_the_sign),
      cmocka_unit_test(eight_bit_floats_are_read_exactly),
      cmocka_unit_test(integers_and_floats_pass_through_tensors_exactly),
      cmocka_unit_test(long_tensors_convert_like_short_ones),
      cmocka_unit_test(tiers_have_the_units_of_the_tolerance_page),
  };
  return cmocka_run_group_tests_name("number formats", tests, NULL, NULL);
}
