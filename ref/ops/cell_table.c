#include "cell_table.h"

#include <stdlib.h>
#include <string.h>

#include "mr3d/status.h"

/* Open addressing, at most half full; slots hold row + 1, 0 for none. */
struct mr3d_cell_table {
  const int64_t *cells;
  uint64_t mask; /* capacity - 1, the capacity a power of two */
  int64_t *slots;
};

static uint64_t hash(const int64_t cell[3]) {
  uint64_t h = (uint64_t)cell[0] * UINT64_C(0x9E3779B97F4A7C15) ^ (uint64_t)cell[1] * UINT64_C(0xC2B2AE3D27D4EB4F) ^ (uint64_t)cell[2] * UINT64_C(0x165667B19E3779F9);
  h = (h ^ h >> 32) * UINT64_C(0xD6E8FEB86659FD93);
  return h ^ h >> 32;
}

/* The slot of the cell, or the free one where it would go. */
static int64_t *slot_of(const mr3d_cell_table *table, const int64_t cell[3]) {
  uint64_t at = hash(cell) & table->mask;
  while (table->slots[at] != 0 && memcmp(table->cells + 3 * (table->slots[at] - 1), cell, 3 * sizeof *cell) != 0)
    at = (at + 1) & table->mask;
  return &table->slots[at];
}

mr3d_cell_table *mr3d_cell_table_new(int64_t n, const int64_t *cells) {
  mr3d_cell_table *table = mr3d_allocate(1, sizeof *table);
  uint64_t capacity = 16;
  while (capacity < 2 * (uint64_t)n)
    capacity *= 2;
  *table = (mr3d_cell_table){.cells = cells, .mask = capacity - 1, .slots = mr3d_allocate((long long)capacity, sizeof *table->slots)};
  for (int64_t p = 0; p < n; p++)
    *slot_of(table, cells + 3 * p) = p + 1;
  return table;
}

void mr3d_cell_table_free(mr3d_cell_table **table) {
  if (*table != NULL)
    free((*table)->slots);
  free(*table);
  *table = NULL;
}

int64_t mr3d_cell_table_find(const mr3d_cell_table *table, const int64_t cell[3]) { return *slot_of(table, cell) - 1; }
