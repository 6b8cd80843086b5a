/** What the files of the engine share. */
#ifndef MR3D_DRIFT_ENGINE_INTERNAL_H
#define MR3D_DRIFT_ENGINE_INTERNAL_H

#include "../../ref/model/decoder.h"
#include "drift.h"
#include "judge_internal.h"
#include "mutants.h"
#include "replay.h"
#include "run.h"

#define MR3D_DRIFT_MOST_RUNS 8

/** Keys and values of a layer, [B,G,L,D]. */
typedef struct mr3d_drift_cache {
  int64_t L;
  double *key, *value;
} mr3d_drift_cache;

/** A run of the model from its embeddings: the reference's, or an emulated one. */
typedef struct mr3d_drift_lane {
  mr3d_arithmetic arithmetic;
  mr3d_context context;
  uint64_t calls;
  double *hidden;           /* [B,q,hidden] of the call so far */
  mr3d_drift_cache *caches; /* of each layer */
} mr3d_drift_lane;

/** A call kept for later: what a layer was given in it is the source's. */
typedef struct mr3d_drift_kept_call {
  int64_t B, q, L;
  bool decode;
  mr3d_mask_in mask;
  int64_t position_rows;
  int64_t *key_mask, *prefill_mask, *position_ids, *counts;
  bool *point_mask;
  double *coords;
  int64_t N;
} mr3d_drift_kept_call;

struct mr3d_drift_run {
  mr3d_drift_options options;
  mr3d_config config;
  mr3d_units units;
  mr3d_sizes sizes;
  mr3d_weights_cache *cache;
  mr3d_weights *weights;
  mr3d_decoder_ends ends;
  mr3d_drift_lane truth, runs[MR3D_DRIFT_MOST_RUNS];   /* total errors */
  mr3d_drift_lane chain, chains[MR3D_FEW_RUNS];        /* the subject's own values, replayed where they are missing: exact, and emulated for composites */
  int64_t L;                                           /* tokens so far */
  bool points_seen;
  int64_t *prefill_mask, prefill_columns;              /* of the last call that was no decode */
  int n_records, room;
  mr3d_drift_record *records;
  int n_steps;
  mr3d_drift_step *steps;
  mr3d_drift_kept_call *calls; /* [n_steps] */
  mr3d_lessons lessons;
  double trial_seconds;        /* of processor time, for mistakes tried on whole layers */
};

/** A layer with faults, before its values are forgotten. */
typedef struct mr3d_drift_evidence {
  mr3d_drift_run *drift;
  const mr3d_drift_source *source;
  int64_t step, layer;
  const mr3d_replay *replay;               /* its values: the subject's, or replayed */
  const double *const *given;              /* [MR3D_N_LAYER_POINTS]: the subject's; NULL: not there */
  float *const *row_scale;                 /* [MR3D_N_LAYER_POINTS]: root mean square of the scale of each row; NULL: not judged */
  const bool *visible_given;               /* the subject's mask, or NULL */
} mr3d_drift_evidence;

/** Which mistakes explain the faults of this layer: fills the diagnoses of records `first` .. */
void mr3d_drift_diagnose(const mr3d_drift_evidence *, int first);

/** What is measured of a point against. */
typedef struct mr3d_drift_sheet {
  int64_t B, q, heads, cols; /* rows [B,heads,q] of `cols` values; heads 1 where there are none */
  bool has_heads;
  const double *got;
  const double *expected, *scale, *turn, *input; /* local; NULL: none */
  const double *truth;       /* total; NULL: none */
  const float *row_noise;    /* [rows]: mean square error of the emulated runs */
  const bool *skip;          /* [B*q]: padding */
  const bool *point;         /* [B*q] or NULL */
  const unsigned char *token_class;
} mr3d_drift_sheet;

/** Sums the errors of a point: local from expected and scale, total from truth and row_noise. */
void mr3d_drift_measure(const mr3d_drift_run *, const mr3d_drift_sheet *, mr3d_drift_record *);
/** The rules of single operators, or those of the yardstick over `n_runs` replays' errors. */
void mr3d_drift_judge(const mr3d_drift_run *, const mr3d_drift_sheet *, const char *name, int n_runs, float *const runs[], mr3d_drift_record *);
/** Of BOOL and I64: exact. */
void mr3d_drift_judge_exact(int64_t count, const char *name, const unsigned char *got, const unsigned char *expected, size_t size, mr3d_drift_record *);

mr3d_drift_record *mr3d_drift_add(mr3d_drift_run *, int64_t layer, int point);

#endif
