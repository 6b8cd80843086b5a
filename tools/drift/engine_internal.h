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
  mr3d_drift_run *other;       /* of two traces: the other one replayed (compare.h) */
};

/** What a subject had in a layer in an earlier call; NULL: not there. */
typedef struct mr3d_drift_past {
  double *value[MR3D_N_LAYER_POINTS];
} mr3d_drift_past;

/** A layer with faults, before its values are forgotten. */
typedef struct mr3d_drift_evidence {
  mr3d_drift_run *drift;
  const mr3d_drift_source *source;
  int64_t step, layer;
  const mr3d_replay *replay;               /* its values: the subject's, or replayed */
  const double *const *given;              /* [MR3D_N_LAYER_POINTS]: the subject's; NULL: not there */
  float *const *row_scale;                 /* [MR3D_N_LAYER_POINTS]: root mean square of the scale of each row; NULL: not judged */
  const bool *visible_given;               /* the subject's mask, or NULL */
  const mr3d_drift_past *past;             /* [step]: read where a diagnosis needs it */
} mr3d_drift_evidence;

/** Which mistakes explain the faults of this layer: fills the diagnoses of records `first` .. */
void mr3d_drift_diagnose(const mr3d_drift_evidence *, int first);

/** A mistake that explains a fault. */
typedef struct mr3d_drift_candidate {
  int mutant;
  double apart;       /* in units of noise */
  uint32_t explained; /* points of its layer that are at fault and that it gives; where the layer has other faults only */
} mr3d_drift_candidate;
/** Names the nearest of those that explain the most, and those as near. Requires: n > 0. */
void mr3d_drift_name_nearest(const mr3d_drift_candidate *, int n, mr3d_drift_record *);
/** The diagnosis of `mr3d check` on one operator's request and the subject's answer; frees both. Gives whether a single mistake explains it. */
bool mr3d_drift_try_operator(mr3d_drift_run *, mr3d_bundle *request, mr3d_bundle *answer, mr3d_drift_record *);

/** What stands behind the last layer of a call with a fault there. */
typedef struct mr3d_drift_end {
  mr3d_drift_run *drift;
  const mr3d_drift_source *source;
  int64_t step;
  bool decode;
  int64_t rows, q;                    /* B*q; the first sample's come first */
  const double *output;               /* [rows,hidden]: of the last layer, the subject's */
  const double *norm_weight;          /* [hidden] */
  const double *normed, *normed_by_reference; /* [rows,hidden]: the subject's, and what its output should give */
  int64_t keep, n_kept;               /* rows of logits, and those of them that are judged */
  const int64_t *kept;                /* [n_kept]: which of the first sample's q rows */
  const double *logits;               /* [n_kept,V] */
} mr3d_drift_end;
/** Which mistake explains the record of final_norm or logits. */
void mr3d_drift_diagnose_end(const mr3d_drift_end *, mr3d_drift_record *);

/** What inputs_embeds [rows,hidden] that are out of bounds look like: a factor, rows of other ids (`ids` [rows], -1: not known; NULL: none is). */
void mr3d_drift_look_at_embeds(mr3d_drift_run *, int64_t rows, const double *got, const double *expected, const int64_t *ids, mr3d_drift_record *);

/** What is measured of a point against. */
typedef struct mr3d_drift_sheet {
  int64_t B, q, heads, cols; /* rows [B,heads,q] of `cols` values; heads 1 where there are none */
  bool has_heads;
  const double *got;
  const double *expected, *scale, *turn, *input; /* local; NULL: none */
  const double *truth;       /* total; NULL: none */
  const float *row_noise;    /* [rows]: mean square error of the emulated runs */
  const bool *skip;          /* [B*q]: padding */
  bool *inherits;            /* [rows] or NULL: NaN and infinity that were there before, of which nothing can be said */
  const bool *point;         /* [B*q] or NULL */
  const unsigned char *token_class;
} mr3d_drift_sheet;

/**
 * Rows whose expected values are not finite, because what they are computed from is not: a fault is told where it begins. `also` (NULL: none): rows that count as such
 * where the subject's are not finite. Gives whether every row is one.
 */
bool mr3d_drift_mark_inherited(mr3d_drift_sheet *, const bool *also);
/** Sums the errors of a point: local from expected and scale, total from truth and row_noise. */
void mr3d_drift_measure(const mr3d_drift_run *, const mr3d_drift_sheet *, mr3d_drift_record *);
/** The rules of single operators, or those of the yardstick over `n_runs` replays' errors. */
void mr3d_drift_judge(const mr3d_drift_run *, const mr3d_drift_sheet *, const char *name, int n_runs, float *const runs[], mr3d_drift_record *);
/** Of BOOL and I64: exact. */
void mr3d_drift_judge_exact(int64_t count, const char *name, const unsigned char *got, const unsigned char *expected, size_t size, mr3d_drift_record *);

mr3d_drift_record *mr3d_drift_add(mr3d_drift_run *, int64_t layer, int point);

#endif
