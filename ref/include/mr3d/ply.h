/** A small strict PLY reader: ascii, binary_little_endian, binary_big_endian, every property type of the format. */
#ifndef MR3D_PLY_H
#define MR3D_PLY_H

#include "mr3d/tensor.h"

#ifdef __cplusplus
extern "C" {
#endif

/**
 * Reads the `vertex` element as a `points` tensor: [N,3] F64 (x, y, z) or, when red, green and blue are there, [N,6] F64.
 * Non-finite coordinates are data (voxelize drops them); a malformed header, a missing property, a short or an over-long
 * body are errors that name the path, the line or byte, and what was expected.
 * Ownership: on success *bundle, holding `points`, is the caller's.
 */
mr3d_status mr3d_ply_open(const char *path, mr3d_bundle **bundle, mr3d_error *error);

/** Writes x, y, z as float and colours as uchar, binary_little_endian. Requires: values that those types hold exactly. */
mr3d_status mr3d_ply_save(const char *path, const mr3d_tensor *points, const char *comment, mr3d_error *error);

#ifdef __cplusplus
}
#endif
#endif
