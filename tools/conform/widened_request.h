/** A request as the reference may be asked it again and again: floating inputs in binary64 already. */
#ifndef MR3D_CONFORM_WIDENED_REQUEST_H
#define MR3D_CONFORM_WIDENED_REQUEST_H

#include <stdbool.h>

#include "mr3d/tensor.h"

/**
 * The same request; `widened`: at fp64, since the reference computes in binary64 at every tier and takes F64 as it lies. Other tensors are borrowed. A
 * request that is to be refused stays as it is: one of its types may be the reason.
 */
mr3d_bundle *mr3d_widened_request(const mr3d_bundle *request, bool widened);

#endif
