/** Where a cell is: a hash table from grid indices to rows (private header). */
#ifndef MR3D_CELL_TABLE_H
#define MR3D_CELL_TABLE_H

#include <stdint.h>

typedef struct mr3d_cell_table mr3d_cell_table;

/** The table of cells [n,3], which must be distinct and stay where they are. Ownership: mr3d_cell_table_free. */
mr3d_cell_table *mr3d_cell_table_new(int64_t n, const int64_t *cells);
/** Sets the pointer to NULL. */
void mr3d_cell_table_free(mr3d_cell_table **);
/** The row of the cell (x, y, z), -1 where there is none. Indices may be negative. Several threads may ask at once. */
int64_t mr3d_cell_table_find(const mr3d_cell_table *, const int64_t cell[3]);

#endif
