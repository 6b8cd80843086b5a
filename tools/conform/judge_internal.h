/** What the files of the judge share: one output tensor under judgement, its verdict, the yardstick's runs. */
#ifndef MR3D_CONFORM_JUDGE_INTERNAL_H
#define MR3D_CONFORM_JUDGE_INTERNAL_H

#include "mr3d/judge.h"
#include "yardstick_cache.h"

#define MR3D_FEW_RUNS 8   /* emulated runs of a first judgement */
#define MR3D_MANY_RUNS 32 /* and before a failure is declared */

/** One emulated server: its errors against the reference at the latest step. */
typedef struct mr3d_emulated {
  mr3d_server *server;
  int done;            /* requests answered */
  double seconds;      /* of processor time that took */
  mr3d_bundle *errors; /* F32, by the names of the floating outputs; for the latest step only */
} mr3d_emulated;

struct mr3d_truth {
  mr3d_tier tier;
  const mr3d_operators *operators;
  mr3d_weights_cache *weights;
  int threads;
  uint32_t kept;               /* what the judged backend promises */
  bool spare_runs, in_doubt;   /* the latter of the judgement under way */
  mr3d_server *plain;          /* single operators, without their scales */
  mr3d_server *server;         /* composed operators and, when a judgement asks for it, scales */
  int n_steps;                 /* accepted requests */
  const mr3d_bundle **requests;
  mr3d_bundle **answers;
  mr3d_bundle **widened;       /* the requests as runs are asked them; NULL until one is */
  double seconds;              /* of processor time that the answers took */
  mr3d_bundle *scaled;         /* the latest answer again with scale: and turn:, or NULL */
  mr3d_emulated runs[MR3D_MANY_RUNS];
  mr3d_kept_squares *squares;  /* of the only step, that all runs share; NULL: each has its own */
  mr3d_yardstick_cache *cache; /* or NULL */
  mr3d_request_line line;      /* names the requests so far in it */
  bool has_line;
};

/** Of this process, all threads together. */
double mr3d_processor_seconds(void);

/** One output's errors in a run at the latest step; NULL where the run gave none. */
const float *mr3d_emulated_errors(const mr3d_emulated *, const mr3d_tensor *expected);

/** The latest answer with its `scale:` and `turn:` tensors. */
const mr3d_bundle *mr3d_truth_scaled(mr3d_truth *);
/** Metadata `op` of the latest request. */
const char *mr3d_truth_op(const mr3d_truth *);
/** Brings the first `n_runs` emulated servers to the latest step. */
void mr3d_truth_emulate(mr3d_truth *, int n_runs);

/** An output tensor seen as rows (last axis) of heads; arrays hold rows * cols values. */
typedef struct mr3d_output {
  const mr3d_tensor *expected;
  mr3d_units units;
  mr3d_tier tier;
  int threads;
  int64_t rows, cols;
  int64_t heads, per_head; /* row r belongs to head (r / per_head) % heads */
  bool has_heads;
  bool columns_share;      /* errors are shared along columns too: cis3d, where one frequency serves all rows */
  bool any_zero;           /* a zero of either sign is exact: attention rows without a visible key */
  const mr3d_tensor *answer; /* the backend's */
  double *got;             /* the same in binary64, owned; NULL until mr3d_output_widen */
  const double *ref, *scale, *turn;
  const double *shared;    /* part of the scale that may have one sign in all rows, or NULL */
  double *input;           /* of a rotation: what is rotated, owned; else NULL */
  bool *skip;              /* [rows] or NULL, owned: padding, only checked for being finite */
  bool *point;             /* [rows] or NULL, owned: rows rotated in 3D */
} mr3d_output;

/** A mean of e over rows that differ: as it is (an offset), and signed by the truth (a factor). */
typedef struct mr3d_bias {
  double sum, signed_sum, squares, allowance;
  double shared; /* standard deviation of the mean that comes from errors that rows share */
  int64_t n, rows;
} mr3d_bias;

/** What one pass over an output finds (tally.c); e = (got - ref) / scale where the output has a scale. */
typedef struct mr3d_tally {
  int64_t bad, first_bad;  /* NaN, or infinite where the truth is not */
  int64_t elements;        /* the rest is of these, rows that are not skipped */
  double error2, ref2, relative_l2, worst_slice_relative_l2, ulp_p50, ulp_p99, ulp_max;
  int64_t wrong;           /* beyond MR3D_ELEMENT_LIMIT */
  double worst_e, worst_got, worst_slice, squares;
  int64_t worst_element, worst_element_row, worst_row;
  mr3d_bias whole, *heads; /* [heads] */
} mr3d_tally;

#define MR3D_ELEMENT_LIMIT 4.0 /* of a single operator's |e| */

void mr3d_tally_open(const mr3d_output *, mr3d_tally *);
void mr3d_tally_close(mr3d_tally *);
/** One row of the answer in binary64, with the truth in place of what is not finite. */
void mr3d_output_row(const mr3d_output *, int64_t row, double *got);
/** e of element i, for which `got` was answered. Requires: a scale. */
double mr3d_error_of(const mr3d_output *, int64_t i, double got);

/** The output as the latest step's truth has it, beside the backend's. Requires: both floating and of one shape. */
void mr3d_output_open(mr3d_truth *, const mr3d_tensor *expected, const mr3d_tensor *got, mr3d_output *);
void mr3d_output_widen(mr3d_output *);
void mr3d_output_close(mr3d_output *);

/** Adds one rule's outcome; when it fails first, the printf text becomes the verdict's problem. */
void mr3d_verdict_add(mr3d_tensor_verdict *, const char *rule, double value, double limit, bool tested, const char *format, ...)
    MR3D_PRINTF(6, 7);
/** Writes "[0,3,17,5]" of a flat element index, or of a row when `row` ("[0,3,17,:]"). */
char *mr3d_index_text(const mr3d_tensor *tensor, int64_t index, bool row, char text[96]);

/** The rules of single operators: error in units of the operator's scale (docs/tolerance.md, "Single operators"). */
void mr3d_judge_by_scale(const mr3d_output *, const mr3d_tally *, mr3d_tensor_verdict *);
/** The rules of composed operators: error in units of what honest arithmetic strays (docs/tolerance.md, "The yardstick"). */
void mr3d_judge_by_yardstick(const mr3d_output *, const char *name, int n_runs, const float *const runs[], mr3d_tensor_verdict *);

/** The spacing of the tier's storage type at a value. */
double mr3d_ulp(mr3d_tier, double value);
/** The k-th smallest of n values, which are reordered. */
double mr3d_select(double *values, int64_t n, int64_t k);

#endif
