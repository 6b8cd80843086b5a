/**
 * Different inputs: weights, configuration, token ids, masks, positions, coordinates, embeddings that a subject's trace was computed from and the reference was
 * not. Most drift is one of these, so they are looked for first, and said by name: "layer 3 q_proj.weight differs: ..., looks transposed".
 */
#ifndef MR3D_DRIFT_INPUTS_H
#define MR3D_DRIFT_INPUTS_H

#include "align.h"
#include "digest.h"

/** Who computed: any part may be missing, and nothing is then said about it. */
typedef struct mr3d_inputs_side {
  const mr3d_aligned *trace; /**< the calls' inputs, and the metadata where what follows is NULL */
  const char *config;        /**< JSON; NULL: the trace's metadata */
  mr3d_weights *weights;     /**< opened; NULL: tensors `weights.NAME` of the trace, and the digests of its metadata */
} mr3d_inputs_side;

typedef enum mr3d_input_kind {
  MR3D_INPUT_CONFIG, MR3D_INPUT_WEIGHTS, MR3D_INPUT_TOKENS, MR3D_INPUT_MASK, MR3D_INPUT_POSITIONS, MR3D_INPUT_POINTS, MR3D_INPUT_EMBEDS, MR3D_INPUT_CALLS,
  MR3D_N_INPUT_KINDS
} mr3d_input_kind;
const char *mr3d_input_kind_name(mr3d_input_kind); /**< "weights" */

/** One difference. */
typedef struct mr3d_input_difference {
  mr3d_input_kind kind;
  bool rounding;    /**< no more than a coarser number format: it may be what the subject's tier is about */
  int64_t step;     /**< of a call's input; -1 */
  int64_t layer;    /**< of a layer's weight; -1 */
  char name[160];   /**< tensor or key: "model.layers.3.self_attn.q_proj.weight", "rope_theta", "point_coords" */
  double max;       /**< the largest difference; NAN where values are not known */
  char looks[200];  /**< what it looks like: "transposed", "rounded to bf16", "multiplied by 0.125"; "" */
  char text[700];   /**< the whole, for people */
} mr3d_input_difference;

typedef struct mr3d_input_differences {
  int count, room;
  mr3d_input_difference *list;
  int weights_compared;    /**< tensors */
  bool config_compared;
  int calls_compared;
} mr3d_input_differences;
void mr3d_input_differences_free(mr3d_input_differences *);

/** Compares what both sides tell, and adds the differences. Those that all layers share come one by one; the caller may count by `looks`. */
void mr3d_inputs_compare(const mr3d_inputs_side *subject, const mr3d_inputs_side *reference, mr3d_input_differences *);

/** A tensor as stored: values in binary64. */
typedef struct mr3d_values {
  int rank;
  int64_t shape[MR3D_MAX_RANK], count;
  const double *at;
} mr3d_values;
/**
 * What `subject` looks like, seen from `reference`: transposed, rows or columns in another order, rounded, multiplied by a factor, zero, unrelated. max: the
 * largest difference, NAN where shapes do not fit.
 */
void mr3d_weight_looks(const mr3d_values *subject, const mr3d_values *reference, int64_t head_dim, double *max, bool *rounding, char looks[200]);
/** The same from the subject's digest alone: which transformation of the reference's values has that digest. "" where none is found. */
void mr3d_digest_looks(const char *digest, const mr3d_values *reference, int64_t head_dim, bool *rounding, char looks[200]);

#endif
