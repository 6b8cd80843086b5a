/** What the readers in ref/io need of a bundle beyond its public face. */
#ifndef MR3D_BASE_BUNDLE_H
#define MR3D_BASE_BUNDLE_H

#include "mr3d/tensor.h"

/** Hands `memory` to the bundle, which calls release(memory, size) when it is freed: a malloc'ed block, a mapped file. */
void mr3d_bundle_keep(mr3d_bundle *bundle, void *memory, size_t size, void (*release)(void *memory, size_t size));

/** Bytes of a tensor's data. */
size_t mr3d_tensor_bytes(const mr3d_tensor *tensor);

#endif
