/**
 * Strict safetensors reader and writer (docs/protocol.md, "One format everywhere").
 *
 * Rules, each an error with a message of its own: header length at most 100,000,000 and within the file; header is one
 * UTF-8 JSON object; no duplicate keys, at any depth; `__metadata__` maps strings to strings; a tensor has exactly `dtype`, `shape` and
 * `data_offsets`; offsets tile the data section exactly (no hole, overlap or tail); size = product of shape times element
 * size, overflow-checked (zero sizes left out, so strides fit too); zero sizes and scalars are legal; rank at most MR3D_MAX_RANK;
 * numbers are whole, unsigned and below 2^53; bytes of a BOOL are 0 or 1.
 */
#ifndef MR3D_SAFETENSORS_H
#define MR3D_SAFETENSORS_H

#include "mr3d/tensor.h"

#ifdef __cplusplus
extern "C" {
#endif

/** Default cap on the inflated size of a `.gz` file. */
#define MR3D_INFLATE_CAP ((uint64_t)4 << 30)

/**
 * Opens a file: mapped for plain files, inflated (at most `inflate_cap` bytes, 0: MR3D_INFLATE_CAP) when the name ends in
 * `.gz`. Ownership: on success *bundle is the caller's; errors name the path.
 */
mr3d_status mr3d_safetensors_open(const char *path, uint64_t inflate_cap, mr3d_bundle **bundle, mr3d_error *error);

/** Parses bytes that stay the caller's and must outlive the bundle (tensor data is borrowed where aligned, else copied). */
mr3d_status mr3d_safetensors_parse(const void *bytes, size_t size, mr3d_bundle **bundle, mr3d_error *error);

/** Like parse, but takes the malloc'ed bytes over on success (freed with the bundle). */
mr3d_status mr3d_safetensors_adopt(void *bytes, size_t size, mr3d_bundle **bundle, mr3d_error *error);

/** Writes the container into fresh malloc'ed memory, the caller's. The header lists tensors in bundle order and is padded
    with spaces to 8 bytes; data lie largest element size first, so every tensor is aligned. Errors: names or metadata that are not UTF-8. */
mr3d_status mr3d_safetensors_serialize(const mr3d_bundle *bundle, void **bytes, size_t *size, mr3d_error *error);

/** Writes a file: through a temporary name and rename, so a failed write leaves what was there; `.gz` is compressed. */
mr3d_status mr3d_safetensors_save(const char *path, const mr3d_bundle *bundle, mr3d_error *error);

/**
 * A file written tensor by tensor, of which nothing is kept in memory but its header: for traces that are larger than that. The header lies before
 * the data, so room is left for it; where that is too little, the data is moved at the end.
 */
typedef struct mr3d_safetensors_writer mr3d_safetensors_writer;

/** Begins a file beside `path`. Errors: it cannot be created. Ownership: the caller closes it. */
mr3d_status mr3d_safetensors_writer_open(const char *path, mr3d_safetensors_writer **writer, mr3d_error *error);
/** Sets or replaces one metadata string. */
void mr3d_safetensors_writer_set(mr3d_safetensors_writer *, const char *key, const char *value);
/** Whether a tensor of that name was written. */
bool mr3d_safetensors_writer_has(const mr3d_safetensors_writer *, const char *name);
/** Appends a tensor under `name` (NULL: its own). Requires: the name is new. A failure is kept and told by close. */
void mr3d_safetensors_writer_add(mr3d_safetensors_writer *, const char *name, const mr3d_tensor *tensor);
/** Bytes of tensors so far. */
int64_t mr3d_safetensors_writer_bytes(const mr3d_safetensors_writer *);
/** Writes the header, puts the file in its place and frees. `keep` false: the file is thrown away. Errors: anything since open failed; what was at `path` is then still there. */
mr3d_status mr3d_safetensors_writer_close(mr3d_safetensors_writer **writer, bool keep, mr3d_error *error);

#ifdef __cplusplus
}
#endif
#endif
