/** Cells floor-divided by a stride (encoders.md, `down` and "Pooling"). */
#include <stdlib.h>
#include <string.h>

#include "mr3d/encoders.h"

typedef struct child {
  int64_t cell[3], row;
} child;

static int by_cell_then_row(const void *left, const void *right) {
  const child *a = left, *b = right;
  for (int axis = 0; axis < 3; axis++)
    if (a->cell[axis] != b->cell[axis])
      return a->cell[axis] < b->cell[axis] ? -1 : 1;
  return a->row < b->row ? -1 : a->row > b->row;
}

/**
 * cells [n',3]: floor(cell / stride) of every cell, each once, in lexicographic order; parent [n]: the row there that each cell went to. Every coarse
 * cell that has a child is there, those at the grid's end too (pitfall dirty-scan: a public library loses the last slab).
 */
void mr3d_coarse_cells(const mr3d_context *context, int64_t n, const int64_t *cells, int64_t stride, mr3d_coarse_cells_out *out) {
  (void)context;
  child *children = mr3d_allocate(n, sizeof *children);
  for (int64_t p = 0; p < n; p++) {
    children[p].row = p;
    for (int axis = 0; axis < 3; axis++)
      children[p].cell[axis] = cells[3 * p + axis] / stride; /* floor: indices are 0 or more */
  }
  qsort(children, (size_t)n, sizeof *children, by_cell_then_row);

  *out = (mr3d_coarse_cells_out){.cells = mr3d_allocate(3 * n, sizeof(int64_t)), .parent = mr3d_allocate(n, sizeof(int64_t))};
  for (int64_t p = 0; p < n; p++) {
    if (p == 0 || memcmp(children[p].cell, children[p - 1].cell, sizeof children->cell) != 0)
      memcpy(out->cells + 3 * out->n++, children[p].cell, sizeof children->cell);
    out->parent[children[p].row] = out->n - 1;
  }
  free(children);
}

void mr3d_coarse_cells_free(mr3d_coarse_cells_out *out) {
  free(out->cells);
  free(out->parent);
  *out = (mr3d_coarse_cells_out){0};
}
