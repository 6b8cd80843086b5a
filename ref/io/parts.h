/** A safetensors file in the pieces it is made of, to be sent without a copy. */
#ifndef MR3D_IO_PARTS_H
#define MR3D_IO_PARTS_H

#include <sys/uio.h>

#include "mr3d/tensor.h"

/**
 * The file that mr3d_safetensors_serialize would make: part 0 is the header with its length, the others are the tensors' data, in order.
 * Ownership: the data is the bundle's, the rest the caller's (mr3d_safetensors_parts_free). Errors: as mr3d_safetensors_serialize.
 */
mr3d_status mr3d_safetensors_parts(const mr3d_bundle *bundle, struct iovec **parts, int *count, size_t *size, mr3d_error *error);
void mr3d_safetensors_parts_free(struct iovec **parts);

#endif
