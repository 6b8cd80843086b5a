/**
 * Where a model's numbers part from the reference's, and whether a point is itself at fault or only inherits (docs/drift.md).
 *
 * A subject's trace is taken call by call, layer by layer. Each point is measured twice. Its **local** error: the reference's operator on the subject's own inputs of that
 * point, against what the subject has there, in units of the operator's error scale and under the rules of single operators. Its **total** error: against a run of the
 * reference from the same embeddings, in units of what emulated runs stray.
 */
#ifndef MR3D_DRIFT_H
#define MR3D_DRIFT_H

#include "mr3d/judge.h"
#include "mr3d/model.h"
#include "points.h"

/** One call of the model: what it was asked. Borrowed while it is taken. */
typedef struct mr3d_drift_call {
  bool decode;
  int64_t B, q;
  const double *embeds;          /**< [B,q,hidden] */
  int64_t mask_columns;          /**< 0: no mask */
  const int64_t *attention_mask; /**< [B,mask_columns] */
  int64_t position_rows;
  const int64_t *position_ids;   /**< [position_rows,q]; NULL: L .. L+q-1 */
  mr3d_points points;
  const int64_t *ids;            /**< [B,q] token ids, -1 for points; NULL: not known */
} mr3d_drift_call;

/** Where a subject's values come from. `find` gives a point in the protocol's layout, valid until another layer is asked for; NULL: it is not there. */
typedef struct mr3d_drift_source {
  void *user;
  const mr3d_tensor *(*find)(void *user, int64_t step, int64_t layer, const char *point);
} mr3d_drift_source;

#define MR3D_DRIFT_MODEL (-1) /**< layer of what belongs to none */

typedef enum mr3d_token_class { MR3D_TEXT_BEFORE, MR3D_POINT_TOKEN, MR3D_TEXT_AFTER, MR3D_GENERATED, MR3D_N_CLASSES } mr3d_token_class;
const char *mr3d_token_class_name(mr3d_token_class);

#define MR3D_DRIFT_HISTOGRAM 65 /* |error| in eighths of an octave would be too fine: 65 classes of 0.25 units around 0, -8 .. 8; the outermost hold the rest */

/** Errors of one kind at a point: root mean squares in units of noise. NULL arrays: not measured. */
typedef struct mr3d_drift_errors {
  bool measured;
  double rms, worst;               /**< worst: |error| of one element */
  double absolute;                 /**< root mean square of the plain error */
  float *token, *token_worst;      /**< [B*q] */
  float *head_dim;                 /**< [heads*D], for points with heads */
  double of_class[MR3D_N_CLASSES]; /**< NAN where there is no such token */
  int64_t histogram[MR3D_DRIFT_HISTOGRAM];
} mr3d_drift_errors;

/** One point of one layer of one step. */
typedef struct mr3d_drift_record {
  int64_t step, layer;
  int point;                     /**< mr3d_point_number */
  int64_t tokens, heads, dims;   /**< B*q; heads and D of points with heads, else 0 */
  bool composite;                /**< an input of its operator is not in the trace: judged over several operators, by the yardstick */
  int from;                      /**< of a composite: the first point that was replayed without being there; else the point itself */
  bool rounded_inputs;           /**< within bounds only where its inputs are taken as rounded once more than what the subject went on from */
  bool judged;                   /**< locally; false: what went before is not known, or it is a repetition */
  mr3d_tensor_verdict verdict;   /**< local */
  double local_ratio;            /**< the largest tested statistic over its limit */
  mr3d_drift_errors local, total;
  double size;                   /**< root mean square of the truth, of the replay where there is no total */
  double emulated;               /**< root mean square of an emulated run's plain error; NAN without total */
  int64_t first_token;           /**< first token out of bounds locally, of the call; -1 */
  char diagnosis[1024];          /**< of a fault: the mistake it looks like, or what is certain instead */
  char mistake[256];             /**< slug/name, or "" */
  int n_alike;                   /**< mistakes that explain it alike, `mistake` among them */
  char alike[512];               /**< their names, joined by blanks */
  bool whole_layer;              /**< the mistake also explains all that the layer does behind this point */
  uint32_t gives;                /**< else, bit per point: what it explains in this layer once the layer's other faults are put right; 0: this operator alone */
  bool exact_mistake;            /**< the mistake gives these very values */
} mr3d_drift_record;

typedef struct mr3d_drift_step {
  int64_t B, q, L;
  bool decode;
  unsigned char *token_class; /**< [B*q] */
  int64_t *ids;               /**< [B*q], -1: a point or not known */
  double *coords;             /**< [B*q*3] of points, NAN elsewhere; NULL: none */
  int64_t greedy, truth_greedy; /**< of the last row of sample 0's logits; -1 */
} mr3d_drift_step;

typedef struct mr3d_drift_options {
  const char *config;      /**< JSON */
  const char *weights;     /**< as mr3d run --weights; NULL: nothing can be replayed, only compared (compare.h) */
  mr3d_tier tier;          /**< that the subject claims */
  uint32_t kept;           /**< promises */
  int runs;                /**< emulated runs behind the total error; 0: local errors only */
  int threads;
  bool only_layers;        /**< take first_layer .. last_layer alone, each on what the subject has; without total errors */
  int64_t first_layer, last_layer; /**< MR3D_DRIFT_MODEL as the last: the model's own points, and layers up to -1 */
  bool stop_at_fault;      /**< take no layer behind the first fault's */
  bool no_diagnosis;       /**< leave the mutants out */
  const uint64_t *init_missing;
  struct mr3d_weights_cache *open; /**< of weights that other runs share; NULL: the run's own */
} mr3d_drift_options;

typedef struct mr3d_drift_run mr3d_drift_run;

/** Opens weights and configuration. Errors: of both. */
mr3d_status mr3d_drift_new(const mr3d_drift_options *, mr3d_drift_run **, mr3d_error *);
void mr3d_drift_free(mr3d_drift_run **);

/** With sizes that only the weights know. */
/** The weights, opened; NULL where there are none. */
typedef struct mr3d_weights mr3d_weights;
mr3d_weights *mr3d_drift_weights(const mr3d_drift_run *);
/** Whether total errors are differences from another trace (compare.h). */
bool mr3d_drift_is_comparison(const mr3d_drift_run *);
const mr3d_config *mr3d_drift_config(const mr3d_drift_run *);
mr3d_tier mr3d_drift_tier(const mr3d_drift_run *);
/** Tokens of the calls taken so far: L of the next one. */
int64_t mr3d_drift_cached(const mr3d_drift_run *);

/** Rows of the embedding in binary64. Errors: an id outside the vocabulary. */
mr3d_status mr3d_drift_embed(mr3d_drift_run *, int64_t count, const int64_t *ids, double *embeds, mr3d_error *);

/** Writes all weights into one safetensors file, in the types they are stored or drawn in: for a backend that knows no generator. */
mr3d_status mr3d_drift_write_weights(mr3d_drift_run *, const char *path, mr3d_error *);

/** Takes the next call. Errors: of the reference, or a point of another shape than the call's. *stopped: a fault was found and stop_at_fault is set. */
mr3d_status mr3d_drift_take(mr3d_drift_run *, const mr3d_drift_call *, const mr3d_drift_source *, bool *stopped, mr3d_error *);

int mr3d_drift_records(const mr3d_drift_run *);
const mr3d_drift_record *mr3d_drift_record_at(const mr3d_drift_run *, int index);
int mr3d_drift_steps(const mr3d_drift_run *);
const mr3d_drift_step *mr3d_drift_step_at(const mr3d_drift_run *, int index);
const mr3d_drift_record *mr3d_drift_find(const mr3d_drift_run *, int64_t step, int64_t layer, int point);

#endif
