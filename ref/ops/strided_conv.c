/** Strided convolution (encoders.md, `down`). */
#include <stdlib.h>

#include "mr3d/model.h"
#include "sparse_conv.h"

/**
 * y [n_out,c_out], kernel k, stride k:
 *
 *     y[p,o] = sum over taps t, over channels i, of x[k p + d(t),i] * W[t,i,o], + bias[o],   d in {0 .. k-1}^3
 *
 * one sum, taps and channels in index order; missing cells are zero. Output cells are those of mr3d_coarse_cells.
 *
 * Emulated: as a product (mr3d_linear). Error: that of a sum of as many terms as cells are there times c_in.
 */
void mr3d_strided_conv(const mr3d_context *context, const mr3d_sparse_conv_in *in, double *y) {
  int64_t *rows = mr3d_allocate(in->k * in->k * in->k * in->n_out, sizeof *rows);
  context->op->neighbours(context, &(mr3d_neighbours_in){in->n, in->n_out, in->cells, in->out_cells, in->k, in->k, 0, in->layout}, rows);
  mr3d_sparse_conv(context, in, rows, y);
  free(rows);
}
