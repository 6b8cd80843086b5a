/** The projector: from an encoder's width to the decoder's (encoders.md, "Projector"). */
#include <stdlib.h>

#include "mr3d/model.h"

/** y [n,hidden]: first(x), or second(GELU(first(x))) for an mlp. Emulation and error: those of mr3d_linear and mr3d_gelu. */
void mr3d_project(const mr3d_context *context, const mr3d_projector_in *in, double *y) {
  if (in->kind == MR3D_PROJECTOR_LINEAR) {
    context->op->linear(context, &(mr3d_linear_in){in->n, in->C, in->hidden, in->x, in->first.weight, in->first.bias}, y);
    return;
  }
  double *inner = mr3d_allocate(in->n * in->inner, sizeof *inner);
  context->op->linear(context, &(mr3d_linear_in){in->n, in->C, in->inner, in->x, in->first.weight, in->first.bias}, inner);
  context->op->gelu(context, in->n, in->inner, inner, inner);
  context->op->linear(context, &(mr3d_linear_in){in->n, in->inner, in->hidden, inner, in->second.weight, in->second.bias}, y);
  free(inner);
}
