/** Submanifold convolution (encoders.md, `conv` and `subm3`). */
#include <stdlib.h>

#include "mr3d/model.h"
#include "sparse_conv.h"

/**
 * y [n,c_out], output cells = input cells:
 *
 *     y[p,o] = sum over taps t, over channels i, of x[p + d(t),i] * W[t,i,o], + bias[o],   d in {-(k-1)/2 .. (k-1)/2}^3
 *
 * one sum, taps and channels in index order; missing cells are zero. Requires: odd k.
 *
 * Emulated: as a product (mr3d_linear). Error: that of a sum of as many terms as cells are there times c_in.
 */
void mr3d_submanifold_conv(const mr3d_context *context, const mr3d_sparse_conv_in *in, double *y) {
  int64_t *rows = mr3d_allocate(in->k * in->k * in->k * in->n_out, sizeof *rows);
  context->op->neighbours(context, &(mr3d_neighbours_in){in->n, in->n_out, in->cells, in->out_cells, in->k, 1, -(in->k - 1) / 2, in->layout}, rows);
  mr3d_sparse_conv(context, in, rows, y);
  free(rows);
}
