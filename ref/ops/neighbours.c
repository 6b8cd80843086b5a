/** Which cells a convolution's taps see (encoders.md, `conv` and `down`). */
#include "../base/product.h"
#include "cell_table.h"
#include "mr3d/encoders.h"

/** The place 0 .. k-1 on each axis of tap number `tap`. */
static void place_of(mr3d_kernel_layout layout, int64_t k, int64_t tap, int64_t place[3]) {
  const int fastest = layout == MR3D_KERNEL_X_FASTEST ? 0 : 2, slowest = 2 - fastest;
  place[fastest] = tap % k;
  place[1] = tap / k % k;
  place[slowest] = tap / k / k;
}

/** rows [k^3,n_out]: the row of the cell at stride * output + place + first, -1 where it is missing. Exact. */
void mr3d_neighbours(const mr3d_context *context, const mr3d_neighbours_in *in, int64_t *rows) {
  mr3d_cell_table *table = mr3d_cell_table_new(in->n, in->cells);
#pragma omp parallel for num_threads(mr3d_thread_count(context->threads))
  for (int64_t tap = 0; tap < in->k * in->k * in->k; tap++) {
    int64_t place[3];
    place_of(in->layout, in->k, tap, place);
    for (int64_t p = 0; p < in->n_out; p++) {
      int64_t cell[3];
      for (int axis = 0; axis < 3; axis++)
        cell[axis] = in->stride * in->out_cells[3 * p + axis] + place[axis] + in->first;
      rows[tap * in->n_out + p] = mr3d_cell_table_find(table, cell);
    }
  }
  mr3d_cell_table_free(&table);
}
