/** The table of cells finds each cell's row and nothing else. */
#include "../../ref/ops/cell_table.h"
#include "cells_test.h"

static void every_cell_is_found_and_every_other_is_missing(void **state) {
  (void)state;
  for (int64_t size = 1; size <= 9; size += 2) {
    int64_t n, *cells = some_cells(size, 7, &n);
    mr3d_cell_table *table = mr3d_cell_table_new(n, cells);
    for (int64_t x = -2; x <= size + 1; x++)
      for (int64_t y = -2; y <= size + 1; y++)
        for (int64_t z = -2; z <= size + 1; z++)
          assert_int_equal(mr3d_cell_table_find(table, (int64_t[]){x, y, z}), row_of(n, cells, x, y, z));
    mr3d_cell_table_free(&table);
    assert_null(table);
    free(cells);
  }
}

static void cells_that_differ_in_one_axis_or_in_high_bits_are_told_apart(void **state) {
  (void)state;
  enum { N = 3 * 40 };
  int64_t cells[3 * N] = {0};
  for (int i = 0; i < N; i++)
    cells[3 * i + i % 3] = (int64_t)1 << (i / 3 + 1); /* far apart, on the axes */
  mr3d_cell_table *table = mr3d_cell_table_new(N, cells);
  for (int i = 0; i < N; i++)
    assert_int_equal(mr3d_cell_table_find(table, cells + 3 * i), i);
  assert_int_equal(mr3d_cell_table_find(table, (int64_t[]){1, 0, 0}), -1);
  mr3d_cell_table_free(&table);
}

static void an_empty_table_finds_nothing(void **state) {
  (void)state;
  mr3d_cell_table *table = mr3d_cell_table_new(0, NULL);
  assert_int_equal(mr3d_cell_table_find(table, (int64_t[]){0, 0, 0}), -1);
  mr3d_cell_table_free(&table);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(every_cell_is_found_and_every_other_is_missing),
      cmocka_unit_test(cells_that_differ_in_one_axis_or_in_high_bits_are_told_apart),
      cmocka_unit_test(an_empty_table_finds_nothing),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
