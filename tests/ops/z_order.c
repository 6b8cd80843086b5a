/** Codes along the z-order curves (encoders.md, "Sonata"). */
#include "cells_test.h"

static uint64_t code_of(mr3d_point_order order, int64_t x, int64_t y, int64_t z) {
  uint64_t code = 77;
  mr3d_z_order(&exact, order, 1, (int64_t[]){x, y, z}, &code);
  return code;
}

static void single_bits_go_where_the_formula_says(void **state) {
  (void)state;
  for (int i = 0; i < MR3D_Z_ORDER_BITS; i++) {
    const int64_t bit = (int64_t)1 << i;
    assert_true(code_of(MR3D_Z, bit, 0, 0) == (uint64_t)1 << (3 * i + 2));
    assert_true(code_of(MR3D_Z, 0, bit, 0) == (uint64_t)1 << (3 * i + 1));
    assert_true(code_of(MR3D_Z, 0, 0, bit) == (uint64_t)1 << (3 * i));
    assert_true(code_of(MR3D_Z_TRANS, 0, bit, 0) == (uint64_t)1 << (3 * i + 2));
    assert_true(code_of(MR3D_Z_TRANS, bit, 0, 0) == (uint64_t)1 << (3 * i + 1));
    assert_true(code_of(MR3D_Z_TRANS, 0, 0, bit) == (uint64_t)1 << (3 * i));
  }
}

static void known_codes_by_hand(void **state) {
  (void)state;
  assert_int_equal(code_of(MR3D_Z, 5, 3, 6), 4 * (1 + 0 + 64) + 2 * (1 + 8) + (8 + 64)); /* bits 0 2 | 0 1 | 1 2, each cubed apart */
  assert_int_equal(code_of(MR3D_Z_TRANS, 3, 5, 6), code_of(MR3D_Z, 5, 3, 6));
  assert_true(code_of(MR3D_Z, 0x1FFFFF, 0x1FFFFF, 0x1FFFFF) == ((uint64_t)1 << 63) - 1);
}

static void codes_of_distinct_cells_are_distinct(void **state) {
  (void)state;
  bool seen[512] = {false};
  for (int64_t i = 0; i < 512; i++) {
    const uint64_t code = code_of(MR3D_Z_TRANS, i / 64, i / 8 % 8, i % 8);
    assert_true(code < 512 && !seen[code]);
    seen[code] = true;
  }
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(single_bits_go_where_the_formula_says),
      cmocka_unit_test(known_codes_by_hand),
      cmocka_unit_test(codes_of_distinct_cells_are_distinct),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
