/** Whole files: mapped, inflated, written by replacement. */
#ifndef MR3D_IO_FILE_H
#define MR3D_IO_FILE_H

#include <stddef.h>
#include <stdint.h>
#include <sys/uio.h>

#include "mr3d/status.h"

/** Maps a regular file read-only. Ownership: on success the caller unmaps with mr3d_unmap; *bytes is not NULL, also for an empty file. */
mr3d_status mr3d_map(const char *path, void **bytes, size_t *size, mr3d_error *error);
void mr3d_unmap(void *bytes, size_t size);

/** Writes beside `path` and renames over it, so a failed write leaves what was there. What is no regular file (a pipe) is written directly. */
mr3d_status mr3d_write_file(const char *path, const void *bytes, size_t size, mr3d_error *error);
/** The same for bytes that lie in several places, one behind the other. */
mr3d_status mr3d_write_parts(const char *path, const struct iovec *parts, int n_parts, mr3d_error *error);

/**
 * Inflates gzip members into fresh memory, the caller's. More than `cap` bytes, a cut member, a wrong check sum and bytes behind
 * the last member are errors.
 */
mr3d_status mr3d_gunzip(const void *bytes, size_t size, uint64_t cap, void **inflated, size_t *inflated_size, mr3d_error *error);

/** Compresses into one gzip member without a time stamp (equal bytes in, equal bytes out), in fresh memory, the caller's. */
mr3d_status mr3d_gzip(const void *bytes, size_t size, void **compressed, size_t *compressed_size, mr3d_error *error);

#endif
