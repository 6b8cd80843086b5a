/**
 * Weights that no file holds: drawn by the counter-based generator, each tensor when it is read (docs/generator.md, "Weights").
 *
 * The trained-like recipe of a whole model stands here and, for the goldens, in golden/cases.py; a test holds one against the other.
 */
#ifndef MR3D_GENERATED_WEIGHTS_H
#define MR3D_GENERATED_WEIGHTS_H

#include "mr3d/random.h"
#include "request.h"

/** How a tensor's values are drawn. */
typedef struct mr3d_drawing {
  mr3d_draw draw;
  mr3d_stream stream;
  double *base; /**< [n_base], added along the last axis in binary64; NULL: nothing */
  int64_t n_base;
} mr3d_drawing;

/** Tensors by name, type and shape without data, and how each is drawn. Zero-initialise. */
typedef struct mr3d_drawn_tensors {
  mr3d_bundle *tensors;
  mr3d_drawing *drawings; /**< by index in `tensors` */
} mr3d_drawn_tensors;
void mr3d_drawn_tensors_free(mr3d_drawn_tensors *);

/** What a path "generated:SEED" or "generated:SEED/SET" says. */
typedef struct mr3d_generated_name {
  uint64_t seed;
  char set[128]; /**< first part of each stream's name; "generated" where none is given */
} mr3d_generated_name;
bool mr3d_is_generated(const char *path);
/** Requires: mr3d_is_generated. Errors: no seed, a set of other letters than [A-Za-z0-9._-]. */
mr3d_status mr3d_generated_name_parse(const char *path, mr3d_generated_name *, mr3d_error *);

/**
 * Declares a whole model of the configuration's sizes, trained-like, stored in the tier's type: streams SET/TENSOR of the seed. It has an lm_head
 * exactly when tie_word_embeddings is false. Nothing is drawn.
 * Errors: a size is missing, or too large for what no file bounds.
 */
mr3d_status mr3d_generated_model(const mr3d_generated_name *, const mr3d_config *, mr3d_tier, mr3d_drawn_tensors *, mr3d_error *);

/**
 * Declares the configuration's point encoder and its projector in the same way (docs/generator.md, "Weights"); an mlp's inner width is hidden_size.
 * Errors: hidden_size is missing; no point_backbone; sizes as above.
 */
mr3d_status mr3d_generated_encoder(const mr3d_generated_name *, const mr3d_config *, mr3d_tier, mr3d_drawn_tensors *, mr3d_error *);

/**
 * Declares the learned rotary parameters that `held` lacks, as a fresh model has them (spec.md 3.2): base + 0.01 N(0,1) and 1 + 0.01 N(0,1) in
 * binary64, each from the stream of the tensor's full name. None where the options fix all frequencies.
 * Errors: a size is missing; more layers than `held` has tensors.
 */
mr3d_status mr3d_initial_rotary(uint64_t seed, const mr3d_config *, const mr3d_bundle *held, mr3d_drawn_tensors *, mr3d_error *);

/** Rows first .. first+count-1 along the first axis, rounded to the tensor's type and widened. `values` holds them. */
void mr3d_drawing_rows(const mr3d_drawing *, const mr3d_tensor *, int64_t first, int64_t count, double *values);

#endif
