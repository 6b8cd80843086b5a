/** Grid pooling: from one stage to the next (encoders.md, "Pooling"). */
#include <math.h>
#include <stdlib.h>

#include "mr3d/model.h"

/**
 * y [n_out,C_out] = GELU(LayerNorm(m)), m[t,c] = max over the children p of t of (Linear(x))[p,c].
 *
 * Every row of y must have a child. Emulation and error: those of mr3d_linear, mr3d_layernorm and mr3d_gelu; a maximum rounds nothing.
 */
void mr3d_grid_pooling(const mr3d_context *context, const mr3d_grid_pooling_in *in, double *y) {
  double *projected = mr3d_allocate(in->n * in->C_out, sizeof *projected), *largest = mr3d_allocate(in->n_out * in->C_out, sizeof *largest);
  context->op->linear(context, &(mr3d_linear_in){in->n, in->C, in->C_out, in->x, in->proj.weight, in->proj.bias}, projected);
  for (int64_t i = 0; i < in->n_out * in->C_out; i++)
    largest[i] = -INFINITY;
  for (int64_t p = 0; p < in->n; p++)
    for (int64_t c = 0; c < in->C_out; c++) {
      double *m = &largest[in->parent[p] * in->C_out + c];
      *m = fmax(*m, projected[p * in->C_out + c]);
    }
  context->op->layernorm(context, &(mr3d_norm_in){.n = in->n_out, .C = in->C_out, .eps = in->eps, .x = largest, .norm = in->norm}, y);
  context->op->gelu(context, in->n_out, in->C_out, y, y);
  free(projected);
  free(largest);
}
