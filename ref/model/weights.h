/**
 * Weights files: one safetensors file with full Hugging Face names, mapped, read as binary64 tensor by tensor.
 *
 * Tensors of type F64 are used where they lie in the mapping; others are converted, and the conversions kept while they fit the
 * cache (those that came first stay: a decoder walks its layers round and round, and least-recently-used would drop each before its
 * next use; conversions of other files go first). What does not fit is converted anew at each use.
 */
#ifndef MR3D_WEIGHTS_H
#define MR3D_WEIGHTS_H

#include "request.h"

typedef struct mr3d_weights mr3d_weights;

/**
 * Opens a file, or finds it open: the same path with the same identity, size and time of change.
 * Ownership: *weights is counted; each mr3d_weights_release gives one count back (and sets the pointer to NULL).
 */
mr3d_status mr3d_weights_open(mr3d_weights_cache *, const char *path, mr3d_weights **weights, mr3d_error *);
mr3d_weights *mr3d_weights_share(mr3d_weights *);
void mr3d_weights_release(mr3d_weights **);
const char *mr3d_weights_path(const mr3d_weights *);

/** The decoder's tensors outside its layers. */
typedef struct mr3d_decoder_ends {
  const mr3d_tensor *embed_tokens; /**< [V,hidden] */
  const mr3d_tensor *head;         /**< [V,hidden]: lm_head.weight, or the embedding where tied */
  const mr3d_tensor *norm;         /**< [hidden] */
} mr3d_decoder_ends;
/** Finds them and binds V and hidden. Errors: missing, wrong type or shape; names file and tensor. */
mr3d_status mr3d_weights_ends(mr3d_weights *, const mr3d_config *, mr3d_sizes *, mr3d_decoder_ends *, mr3d_error *);

/** One layer's parameters and what of them is not in the cache. Zero-initialise. */
typedef struct mr3d_layer_weights {
  mr3d_layer layer;
  int n_temporary;
  double *temporary[MR3D_N_LAYER_SLOTS];
} mr3d_layer_weights;
/** Layer number `index`. `sizes` holds the configuration's. Ownership: mr3d_layer_weights_free; valid until then. */
mr3d_status mr3d_weights_layer(mr3d_weights *, const mr3d_config *, mr3d_sizes *sizes, int64_t index, bool has_points, mr3d_layer_weights *, mr3d_error *);
void mr3d_layer_weights_free(mr3d_layer_weights *);

/** Rows first .. first+count-1 of a [rows,columns] tensor in binary64: `buffer`, or the mapping itself where it is F64. Not kept. */
mr3d_status mr3d_weights_rows(mr3d_weights *, const mr3d_tensor *, int64_t first, int64_t count, double *buffer, const double **values, mr3d_error *);

/** Conversions that a cache keeps at most, in bytes. */
#define MR3D_WEIGHTS_CACHE_BYTES ((int64_t)1 << 30)
/** Sets that bound (for tests); conversions already there stay until they are in the way. */
void mr3d_weights_cache_limit(mr3d_weights_cache *, int64_t bytes);
/** Conversions made since the cache was new, in elements (for tests). */
int64_t mr3d_weights_cache_converted(const mr3d_weights_cache *);

#endif
