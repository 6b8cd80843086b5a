/** One layer's operators of the reference, each replayed on given inputs: the truth about a single point, and how far rounding may be from it. */
#ifndef MR3D_DRIFT_REPLAY_H
#define MR3D_DRIFT_REPLAY_H

#include "mr3d/model.h"
#include "points.h"

/** A call of one layer. `value[p]` is what operators behind point p read: the subject's, or replayed; NULL: not there yet. */
typedef struct mr3d_replay {
  const mr3d_context *context;
  const mr3d_config *config;            /**< holds all sizes */
  const mr3d_layer *weights;
  const mr3d_block_in *call;            /**< hidden: what the layer before gave; past_key, past_value: this layer's [B,G,L,D] */
  const double *value[MR3D_N_LAYER_POINTS];
  const bool *visible;                  /**< [B,q,K] */
} mr3d_replay;

/** Elements of a point in such a call, and its shape [rank 3 or 4]; returns the rank. */
int mr3d_replay_shape(const mr3d_config *, const mr3d_block_in *, int point, int64_t shape[4]);

/**
 * The operator of a point on the values of its inputs, which must be there. Not the mask. With `units` also its error scale, and for rotations the derivative to the
 * angle (else `turn` is untouched); both may be NULL.
 */
mr3d_status mr3d_replay_point(const mr3d_replay *, int point, const mr3d_units *units, double *y, double *scale, double *turn, mr3d_error *);

/** What storing a value may lose: u|y| + eta. */
void mr3d_stored_scale(const mr3d_units *, int64_t count, const double *y, double *scale);

#endif
