/** What a convolution over occupied cells is, once it is known which cells its taps see (private header). */
#ifndef MR3D_SPARSE_CONV_H
#define MR3D_SPARSE_CONV_H

#include "mr3d/encoders.h"

/**
 * y[p,o] = (sum over taps t in order, over channels i in order, of x[rows[t,p],i] * W[t,i,o]; missing cells add nothing) + bias[o], in exact binary64
 * arithmetic: the definition.
 */
void mr3d_sparse_conv_plain(const mr3d_sparse_conv_in *, const int64_t *rows, double *y);

/** The same bits, through the packed product; with a context's arithmetic emulated. */
void mr3d_sparse_conv(const mr3d_context *, const mr3d_sparse_conv_in *, const int64_t *rows, double *y);

#endif
