/** Cells for the tests of the point encoders' operators: a surface in a small grid, so that cells have some neighbours and lack others. */
#ifndef MR3D_CELLS_TEST_H
#define MR3D_CELLS_TEST_H

#include "mr3d/encoders.h"
#include "ops_test.h"

/** All (x, y, z) of 0 .. size-1 where a fixed pattern says so, about one in three, sorted; *n is how many. Ownership: the caller's. */
static inline int64_t *some_cells(int64_t size, uint64_t seed, int64_t *n) {
  int64_t *cells = malloc((size_t)(3 * size * size * size) * sizeof *cells);
  double *chance = numbers(size * size * size, 1, seed);
  *n = 0;
  for (int64_t i = 0; i < size * size * size; i++)
    if (chance[i] > 0.3) {
      const int64_t cell[3] = {i / size / size, i / size % size, i % size};
      memcpy(cells + 3 * (*n)++, cell, sizeof cell);
    }
  free(chance);
  return cells;
}

/** The row of a cell by looking at all of them, -1 where it is missing. */
static inline int64_t row_of(int64_t n, const int64_t *cells, int64_t x, int64_t y, int64_t z) {
  for (int64_t p = 0; p < n; p++)
    if (cells[3 * p] == x && cells[3 * p + 1] == y && cells[3 * p + 2] == z)
      return p;
  return -1;
}

#endif
