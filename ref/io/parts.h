/** Safetensors files without a copy: in the pieces they are made of, to be sent, and mapped, to be read tensor by tensor. */
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

/** The header as text: metadata, then the tensors in bundle order; begin[i] is where tensor i goes. NULL: the error says why. Ownership: cJSON_free. */
char *mr3d_safetensors_header(const mr3d_bundle *bundle, const int64_t *begin, mr3d_error *error);
#define MR3D_SAFETENSORS_MAX_HEADER 100000000
#define MR3D_SAFETENSORS_ALIGNMENT 8

/**
 * Opens a file as mr3d_safetensors_open does, but reads its header alone, however large it is: tensors lie in the mapping, aligned for their
 * type or not, and bytes of a BOOL are not looked at. (A `.gz` is inflated, and a tensor without elements has memory of its own.)
 */
mr3d_status mr3d_safetensors_map(const char *path, mr3d_bundle **bundle, mr3d_error *error);

#endif
