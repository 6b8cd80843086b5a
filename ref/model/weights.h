/**
 * Weights: a checkpoint's tensors by their full Hugging Face names, mapped, or the generator's, drawn; read as binary64 tensor by tensor.
 *
 * Tensors of type F64 are used where they lie in the mapping; others are converted or drawn, and the results kept while they fit the
 * cache (those that came first stay: a decoder walks its layers round and round, and least-recently-used would drop each before its
 * next use; those of other weights go first). What does not fit is made anew at each use, in memory that is kept for the next layer: fresh
 * memory would have to be cleared by the system first. Opening reads no value.
 */
#ifndef MR3D_WEIGHTS_H
#define MR3D_WEIGHTS_H

#include "request.h"

typedef struct mr3d_weights mr3d_weights;

/** What is asked for: all that `weights` in a request, or --weights on the command line, may name, and what it needs beside. */
typedef struct mr3d_weights_source {
  const char *path;            /**< a safetensors file, an index of shards, a checkpoint's folder, "generated:SEED" or "generated:SEED/SET" */
  const mr3d_config *config;   /**< sizes of what is drawn; not kept */
  mr3d_tier tier;              /**< whose storage type a generated model is rounded to */
  bool encoder;                /**< of a generated model the point encoder and its projector, else the decoder */
  const uint64_t *init_missing; /**< seed of learned rotary parameters that a checkpoint lacks; NULL: never made up */
} mr3d_weights_source;

/**
 * Opens weights, or finds them open: the same path, leading to the same files, each with the same identity, size and time of change; for what
 * is drawn the same sizes and type.
 * Errors: those of mr3d_checkpoint_open, mr3d_generated_model and mr3d_initial_rotary, after "weights".
 * Ownership: *weights is counted; each mr3d_weights_release gives one count back (and sets the pointer to NULL).
 */
mr3d_status mr3d_weights_open(mr3d_weights_cache *, const mr3d_weights_source *, mr3d_weights **weights, mr3d_error *);
mr3d_weights *mr3d_weights_share(mr3d_weights *);
void mr3d_weights_release(mr3d_weights **);
const char *mr3d_weights_path(const mr3d_weights *);
/** Files that the weights lie in, an index not counted: 0 for a generated model. */
int mr3d_weights_files(const mr3d_weights *);
/** Sizes and times of all files, or what a generated model is drawn by: other weights have another one. Ownership: malloc'ed, the caller's. */
char *mr3d_weights_identity(const mr3d_weights *);
/** All tensors, the drawn ones (which have no data) last. */
const mr3d_bundle *mr3d_weights_tensors(const mr3d_weights *);
/** How many of them are drawn. */
int mr3d_weights_drawn(const mr3d_weights *);

/** The decoder's tensors outside its layers. */
typedef struct mr3d_decoder_ends {
  const mr3d_tensor *embed_tokens; /**< [V,hidden] */
  const mr3d_tensor *head;         /**< [V,hidden]: lm_head.weight, or the embedding where tied */
  const mr3d_tensor *norm;         /**< [hidden] */
} mr3d_decoder_ends;
/** Finds them and binds V and hidden. Errors: missing, wrong type or shape; names file and tensor. */
mr3d_status mr3d_weights_ends(mr3d_weights *, const mr3d_config *, mr3d_sizes *, mr3d_decoder_ends *, mr3d_error *);

/**
 * Whether all layers are there for a call, with the right types and shapes, before any is read. Errors: lists every kind of tensor that is missing,
 * with its shape, in how many layers, and what to do where it is the rotary parameters that are.
 */
mr3d_status mr3d_weights_check(mr3d_weights *, const mr3d_config *, mr3d_sizes *, bool has_points, mr3d_error *);

/** Tensors in use, as far as they are not in the cache, which takes them back. Zero-initialise. */
#define MR3D_HELD_TENSORS 32
typedef struct mr3d_held_tensors {
  mr3d_weights_cache *cache;
  int count;
  double *values[MR3D_HELD_TENSORS];
  int64_t elements[MR3D_HELD_TENSORS];
} mr3d_held_tensors;
/** A whole tensor of the weights in binary64, valid until it is released. Requires: fewer than MR3D_HELD_TENSORS are held. Errors: a value is not finite. */
mr3d_status mr3d_weights_values(mr3d_weights *, const mr3d_tensor *, mr3d_held_tensors *, const double **values, mr3d_error *);
void mr3d_held_tensors_release(mr3d_held_tensors *);

/** One layer's parameters. Zero-initialise. */
typedef struct mr3d_layer_weights {
  mr3d_layer layer;
  mr3d_held_tensors held;
} mr3d_layer_weights;
/**
 * Layer number `index`. `sizes` holds the configuration's. `may_be_stored`: matrices that are not in the cache may come as they are stored (mr3d_layer.q_stored ..).
 * Ownership: mr3d_layer_weights_free; valid until then.
 */
mr3d_status mr3d_weights_layer(mr3d_weights *, const mr3d_config *, mr3d_sizes *sizes, int64_t index, bool has_points, bool may_be_stored, mr3d_layer_weights *, mr3d_error *);
void mr3d_layer_weights_free(mr3d_layer_weights *);

/** Widths of the projector's matrices (mr3d_encoder_tensors): hidden_size, else what the weights show; inner is hidden where there is none. */
typedef struct mr3d_projector_widths {
  int64_t inner, hidden;
} mr3d_projector_widths;
/**
 * Whether the weights hold every tensor of the configuration's point encoder, with the right types and shapes, before any is read. Errors: lists those
 * that are missing, with their shapes; a shape that does not fit, with both.
 */
mr3d_status mr3d_weights_check_encoder(mr3d_weights *, const mr3d_config *, mr3d_projector_widths *, mr3d_error *);

/** Rows first .. first+count-1 of a [rows,columns] tensor in binary64: `buffer`, or the mapping itself where it is F64 and aligned. Not kept. */
mr3d_status mr3d_weights_rows(mr3d_weights *, const mr3d_tensor *, int64_t first, int64_t count, double *buffer, const double **values, mr3d_error *);
/** Whether a tensor can be used as it is stored, in a type narrower than F64: it lies aligned in a file, and every value was found finite. */
bool mr3d_weights_usable_as_stored(const mr3d_weights *, const mr3d_tensor *);

/** Converted and drawn tensors that a cache keeps at most, in bytes: with a layer in spare memory and the rows of a prefill of 786 tokens below 1 GB beside the mapping. */
#define MR3D_WEIGHTS_CACHE_BYTES ((int64_t)640 << 20)
/** Sets that bound (for tests); conversions already there stay until they are in the way. */
void mr3d_weights_cache_limit(mr3d_weights_cache *, int64_t bytes);
/** Memory that the cache keeps between layers for what does not fit, in bytes (for tests). */
int64_t mr3d_weights_cache_spare(const mr3d_weights_cache *);
/** Conversions and drawings made since the cache was new, in elements (for tests). */
int64_t mr3d_weights_cache_converted(const mr3d_weights_cache *);

#endif
