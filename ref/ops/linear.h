/** The matrix product as it is defined (private header): what mr3d_linear is compared with. */
#ifndef MR3D_LINEAR_H
#define MR3D_LINEAR_H

#include "mr3d/ops.h"

/** y[r,o] = (sum over i, in index order, of x[r,i] * weight[o,i]) + bias[o], in exact binary64 arithmetic. */
void mr3d_linear_plain(const mr3d_linear_in *in, double *y);

#endif
