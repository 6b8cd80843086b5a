/**
 * Digests of weights: what a trace says of the numbers it was computed with (docs/protocol.md, "Traces"), so that other weights are found without having them.
 *
 * The digest of a tensor is the SHA-256 of its values in row-major order, as little-endian F32 where each is one exactly, else as F64: a tensor stored in
 * bfloat16 and the same one widened to float32 or float64 have the same digest. The shape does not count.
 */
#ifndef MR3D_DRIFT_DIGEST_H
#define MR3D_DRIFT_DIGEST_H

#include "../../ref/model/weights.h"

/** 64 digits and the end. */
typedef char mr3d_digest[65];

/** The digest of `count` values. */
void mr3d_digest_values(const double *values, int64_t count, mr3d_digest digest);
void mr3d_digest_tensor(const mr3d_tensor *, mr3d_digest);
/** The digest that the tensor has when its values are rounded to F32, F16 or BF16. */
void mr3d_digest_rounded(const mr3d_tensor *, mr3d_dtype, mr3d_digest);

/** {"model.norm.weight":"..."}: all tensors of weights that lie in files, or were drawn beside them. NULL for a generated model, whose path says all. Ownership: the caller frees. */
char *mr3d_digest_weights(mr3d_weights *, mr3d_error *);

#endif
