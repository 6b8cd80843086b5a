/** Matrix product with an optional bias (spec.md section 6). */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "../base/product.h"
#include "linear.h"
#include "mr3d/ops.h"

void mr3d_linear_plain(const mr3d_linear_in *in, double *y) {
  for (int64_t r = 0; r < in->rows; r++)
    for (int64_t o = 0; o < in->out; o++) {
      double sum = 0;
      for (int64_t i = 0; i < in->in; i++)
        sum = sum + in->x[r * in->in + i] * in->weight[o * in->in + i];
      y[r * in->out + o] = in->bias != NULL ? sum + in->bias[o] : sum;
    }
}

static mr3d_product_in product_of(const mr3d_linear_in *in) {
  return (mr3d_product_in){.rows = in->rows, .in = in->in, .out = in->out, .x = in->x, .x_row = in->in, .w = in->weight, .w_out = in->in, .w_in = 1, .y_row = in->out,
                           .stored = in->weight == NULL ? in->stored : NULL};
}

/** Sums of the terms' squares: those that another run has kept, else computed. *own is what the caller is to free, or NULL. */
static const float *squares_of(const mr3d_context *context, const mr3d_product_in *product, uint64_t call, float **own) {
  mr3d_kept_squares *kept = context->squares;
  const float *found = kept != NULL ? mr3d_kept_squares_find(kept, call) : NULL;
  *own = NULL;
  if (found != NULL)
    return found;
  float *squares = mr3d_allocate_unset(product->rows * product->out, sizeof *squares);
  mr3d_product_squares(product, context->threads, squares);
  if (kept != NULL && !mr3d_kept_squares_are_complete(kept))
    mr3d_kept_squares_add(kept, call, squares);
  else
    *own = squares;
  return squares;
}

/**
 * y [rows,out] = sum over i, in index order, of x[r,i] * weight[o,i], then + bias[o]. The same bits as mr3d_linear_plain, which is the
 * definition.
 *
 * Emulated: a fused product of the inputs as the tier's product takes them (stored weights are in the tier's type already, so only tf32 narrows them), the
 * accumulation's noise, the product stored, the biased sum stored. Error: mr3d_linear_scale with u = ua = 2^-53.
 */
void mr3d_linear(const mr3d_context *context, const mr3d_linear_in *in, double *y) {
  mr3d_product_in product = product_of(in);
  if (context->arithmetic == NULL) {
    mr3d_product(&product, context->threads, y);
#pragma omp parallel for num_threads(mr3d_thread_count(context->threads)) if (in->rows * in->out > 16384)
    for (int64_t r = 0; r < (in->bias != NULL ? in->rows : 0); r++)
      for (int64_t o = 0; o < in->out; o++)
        y[r * in->out + o] = y[r * in->out + o] + in->bias[o];
    return;
  }

  double *x = mr3d_allocate_unset(in->rows * in->in, sizeof *x), *weight = NULL;
  memcpy(x, in->x, (size_t)(in->rows * in->in) * sizeof *x);
  mr3d_round(context, MR3D_AT_PRODUCT_INPUT, 1, 1, in->rows, in->in, x);
  product.x = x;
  product.fused = true;
  if (context->arithmetic->units.up > context->arithmetic->units.u) {
    weight = mr3d_allocate_unset(in->out * in->in, sizeof *weight);
    memcpy(weight, in->weight, (size_t)(in->out * in->in) * sizeof *weight);
    /* rows of a weight are outputs, not tokens: never one threshold for all of them */
    mr3d_round(context, MR3D_AT_PRODUCT_INPUT, 1, in->out, 1, in->in, weight);
    product.w = weight;
  }
  mr3d_product(&product, context->threads, y);

  const uint64_t call = *context->calls;
  const mr3d_rounder noise = mr3d_rounder_at(context, MR3D_AT_ACCUMULATION);
  if (noise.on && noise.stochastic) {
    float *own;
    const float *squares = squares_of(context, &product, call, &own);
#pragma omp parallel for num_threads(mr3d_thread_count(context->threads))
    for (int64_t r = 0; r < in->rows; r++)
      mr3d_noise_add(&noise, 0, 0, r, in->out, in->in, squares + r * in->out, in->bias, y + r * in->out);
    free(own);
  }
  if (in->bias != NULL) {
    mr3d_round(context, MR3D_AT_BEFORE_BIAS, 1, 1, in->rows, in->out, y);
    for (int64_t r = 0; r < in->rows; r++)
      for (int64_t o = 0; o < in->out; o++)
        y[r * in->out + o] += in->bias[o];
  }
  mr3d_round(context, MR3D_AT_PRODUCT, 1, 1, in->rows, in->out, y);
  free(x);
  free(weight);
}

static double *sizes_of(int64_t count, const double *x) {
  double *sizes = mr3d_allocate_unset(count, sizeof *sizes);
  for (int64_t i = 0; i < count; i++)
    sizes[i] = fabs(x[i]);
  return sizes;
}

/**
 * scale = u (|y| + |xw| if there is a bias) + ua c (sum |x w| + |bias|) + up (2 |xw| + sqrt(sum (x w)^2)) + eta + K eta_term
 *
 * u: y is stored, with a bias often the product xw before it too (unless promised otherwise, then ua |xw|). c: the accumulation of K terms, a random walk of sqrt K in binary32; below it
 * tensor cores that truncate, K/16. The bias stands in the sum because an accumulator may start from it. up (tf32): inputs rounded to nearest
 * err independently, sqrt(sum (x w)^2); hardware that drops their low bits loses up to 2 up of the whole product, with one sign.
 * eta_term: each product may be flushed.
 */
void mr3d_linear_scale(const mr3d_units *units, const mr3d_linear_in *in, double *scale) {
  const double K = (double)in->in, c = units->narrow ? fmax(sqrt(K), K / 16) : sqrt(K), u = units->narrow ? units->u : 0;
  const double before_bias = units->narrow ? mr3d_stored_unit(units, MR3D_AT_BEFORE_BIAS) : 0;
  const int64_t count = in->rows * in->out;
  double *xw = mr3d_allocate_unset(count, sizeof *xw), *size = mr3d_allocate_unset(count, sizeof *size);
  double *x_size = sizes_of(in->rows * in->in, in->x), *weight_size = sizes_of(in->out * in->in, in->weight);
  float *squares = mr3d_allocate(count, sizeof *squares);
  mr3d_product_in product = product_of(in);
  mr3d_product(&product, 0, xw);
  if (units->up > 0)
    mr3d_product_squares(&product, 0, squares);
  product.x = x_size;
  product.w = weight_size;
  mr3d_product(&product, 0, size);
  for (int64_t i = 0; i < count; i++) {
    const double bias = in->bias != NULL ? in->bias[i % in->out] : 0, stored = in->bias != NULL ? fabs(xw[i]) : 0;
    scale[i] = u * fabs(xw[i] + bias) + before_bias * stored + units->ua * c * (size[i] + fabs(bias)) +
               units->up * (2 * fabs(xw[i]) + sqrt((double)squares[i])) + units->eta + K * units->eta_term;
  }
  free(xw);
  free(size);
  free(x_size);
  free(weight_size);
  free(squares);
}
