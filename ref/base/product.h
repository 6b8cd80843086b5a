/**
 * The matrix product all of the reference goes through: the one place written for speed (private header).
 *
 * Each output is one sum in index order, each term rounded, each addition rounded, no fused multiply-add: the bits are those of
 *
 *     sum = 0 (onto: y[r][o]);  for i = 0 .. in-1:  sum = sum + x[r][i] * w[o][i];  y[r][o] = sum
 *
 * on every processor and at every thread count, because the loop is vectorised across outputs and never along a sum. A `fused` product is what
 * emulated runs take, in which much more than a rounding of binary64 is astray: each term joins its sum in one rounding,
 *
 *     sum = fma(x[r][i], w[o][i], sum)
 *
 * with the same bits everywhere, too, in two thirds of the instructions.
 */
#ifndef MR3D_PRODUCT_H
#define MR3D_PRODUCT_H

#include <stdbool.h>
#include <stdint.h>

#include "mr3d/tensor.h"

#define MR3D_FEW_ROWS 4 /* up to so many the weights are read where they lie; packing them costs as much as some eight rows */

/** x[r][i] lies at x[r * x_row + i], w[o][i] at w[o * w_out + i * w_in], y[r][o] at y[r * y_row + o]. */
typedef struct mr3d_product_in {
  int64_t rows, in, out;
  const double *x;
  int64_t x_row;
  const double *w;
  int64_t w_out, w_in;
  int64_t y_row;
  bool onto; /* y holds what each sum starts from: a sum in pieces has the bits of the whole one */
  bool fused;
  const mr3d_tensor *stored; /* in place of w: [out,in] in a narrower type, aligned; each element is widened, which is exact. Neither fused nor for mr3d_product_squares */
} mr3d_product_in;

void mr3d_product(const mr3d_product_in *, int threads, double *y);

/**
 * squares[r][o] = sum_i (x[r][i] * w[o][i])^2 in binary32, fused: what an emulated accumulation's noise is made of. Each factor is squared and rounded
 * before the product; terms whose square is below
 * binary32's range count as 0.
 */
void mr3d_product_squares(const mr3d_product_in *, int threads, float *squares);

/** x[i] = x[i] / by, i = 0 .. count-1: several quotients at a time, each the one of a plain loop. */
void mr3d_divide(int64_t count, double by, double *x);

/** Uses vectors of at most that many bytes (16, 32 or 64), so that tests can compare instruction sets; returns what is used on this processor. */
int mr3d_product_widest(int bytes);

/** Threads for a context's count: 0 means all processors. */
int mr3d_thread_count(int threads);

#endif
