/**
 * Tensors and bundles: one safetensors file in memory (docs/protocol.md, "Requests").
 *
 * A bundle is an ordered set of named tensors plus string metadata: a request, an answer, a golden, a trace.
 */
#ifndef MR3D_TENSOR_H
#define MR3D_TENSOR_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "mr3d/status.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef enum mr3d_dtype {
  MR3D_BOOL, MR3D_U8, MR3D_I8, MR3D_U16, MR3D_I16, MR3D_U32, MR3D_I32, MR3D_U64, MR3D_I64,
  MR3D_F16, MR3D_BF16, MR3D_F32, MR3D_F64, MR3D_F8_E4M3, MR3D_F8_E5M2,
  MR3D_N_DTYPES
} mr3d_dtype;

/** "F32" for MR3D_F32: the name safetensors uses. */
const char *mr3d_dtype_name(mr3d_dtype dtype);
/** The type of that name, or MR3D_N_DTYPES. */
mr3d_dtype mr3d_dtype_named(const char *name);
/** Bytes of one element. */
size_t mr3d_dtype_size(mr3d_dtype dtype);
/** Whether it is F16, BF16, F32 or F64 (the 8-bit floats are storage only and not computed with). */
bool mr3d_dtype_is_float(mr3d_dtype dtype);

#define MR3D_MAX_RANK 8

/** A dense row-major tensor. `name` and `data` belong to the bundle (or, for mapped files, to the mapping it holds). */
typedef struct mr3d_tensor {
  const char *name;
  mr3d_dtype dtype;
  int rank;
  int64_t shape[MR3D_MAX_RANK];
  void *data; /**< never NULL, also for no elements; read-only where the bundle was opened from a mapped file */
} mr3d_tensor;

/** Product of the sizes; 1 for a scalar. */
int64_t mr3d_tensor_count(const mr3d_tensor *tensor);
/** Writes "[1,14,786,64]" and returns `text`. */
char *mr3d_shape_text(int rank, const int64_t shape[], char text[96]);

/** Elements as binary64 (BOOL and integers too), exactly where the type allows. `out` holds mr3d_tensor_count doubles. */
void mr3d_tensor_to_double(const mr3d_tensor *tensor, double *out);
/** Stores binary64 values, rounded to nearest even in one rounding where the type is a float. Integers must be exact. */
void mr3d_tensor_from_double(mr3d_tensor *tensor, const double *values);

typedef struct mr3d_bundle mr3d_bundle;

mr3d_bundle *mr3d_bundle_new(void);
/** Frees everything the bundle owns and sets the pointer to NULL; NULL is fine. */
void mr3d_bundle_free(mr3d_bundle **bundle);

/** Adds a zeroed tensor that the bundle owns. Requires: the name is new, sizes are >= 0 (else it ends the program: a bug). */
mr3d_tensor *mr3d_bundle_add(mr3d_bundle *bundle, const char *name, mr3d_dtype dtype, int rank, const int64_t shape[]);
/** The same, holding anything: for a tensor that is written whole. */
mr3d_tensor *mr3d_bundle_add_unset(mr3d_bundle *bundle, const char *name, mr3d_dtype dtype, int rank, const int64_t shape[]);
/** Adds a tensor whose data the caller keeps alive and unchanged as long as the bundle. */
mr3d_tensor *mr3d_bundle_borrow(mr3d_bundle *bundle, const char *name, mr3d_dtype dtype, int rank, const int64_t shape[],
                                void *data);
/** Adds a deep copy of a tensor under another name (NULL: its own). */
mr3d_tensor *mr3d_bundle_copy(mr3d_bundle *bundle, const char *name, const mr3d_tensor *tensor);
/** The tensor of that name, or NULL. Pointers stay valid when further tensors are added. */
mr3d_tensor *mr3d_bundle_find(const mr3d_bundle *bundle, const char *name);
int mr3d_bundle_count(const mr3d_bundle *bundle);
mr3d_tensor *mr3d_bundle_at(const mr3d_bundle *bundle, int index);

/** Sets or replaces one metadata string. */
void mr3d_bundle_set(mr3d_bundle *bundle, const char *key, const char *value);
/** Formats and sets. */
void mr3d_bundle_setf(mr3d_bundle *bundle, const char *key, const char *format, ...) MR3D_PRINTF(3, 4);
/** The metadata string, or NULL. */
const char *mr3d_bundle_get(const mr3d_bundle *bundle, const char *key);
int mr3d_bundle_meta_count(const mr3d_bundle *bundle);
void mr3d_bundle_meta_at(const mr3d_bundle *bundle, int index, const char **key, const char **value);

#ifdef __cplusplus
}
#endif
#endif
