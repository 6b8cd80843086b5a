/**
 * The judge, as the library libmr3d-judge: one answer against the truth, under the tolerance of docs/tolerance.md. No files, no processes.
 */
#ifndef MR3D_JUDGE_H
#define MR3D_JUDGE_H

#include "mr3d/format.h"
#include "mr3d/server.h"
#include "mr3d/tensor.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef struct mr3d_yardstick_cache mr3d_yardstick_cache; /* yardstick_cache.h of the suite */

#define MR3D_MAX_STATISTICS 12

/** One rule applied to one output: "element", "slice", "tensor", "gain", "angle", "exact", "finite", "kl", "top1" ... */
typedef struct mr3d_statistic {
  const char *rule;
  double value, limit;
  bool tested;       /**< false: too few rows or elements, said in the report */
  bool passed;
} mr3d_statistic;

/** The verdict on one output tensor. */
typedef struct mr3d_tensor_verdict {
  char name[64];
  bool passed;
  char problem[512];      /**< missing, unexpected, wrong type or shape, NaN ..., or the first broken rule in words; "" if passed */
  int n_statistics;
  mr3d_statistic statistics[MR3D_MAX_STATISTICS];
  int64_t elements, wrong; /**< compared; out of bounds */
  /* the worst element: index in the tensor's shape, got, expected, bound (limit * scale) */
  char index[96];
  double got, expected, bound;
  double relative_l2, worst_slice_relative_l2;
  double ulp_p50, ulp_p99, ulp_max;   /**< in ulps of the tier's storage type */
  double top5_overlap;                /**< of logits: which part of the truth's five favourites are among the answer's, mean over rows; else NAN. Reported, not judged */
} mr3d_tensor_verdict;

typedef struct mr3d_judgement {
  bool passed;
  bool in_doubt;                 /**< not passed, but spared runs might have lifted what failed */
  int n_tensors;
  mr3d_tensor_verdict *tensors;  /**< owned; mr3d_judgement_clear */
} mr3d_judgement;

/** The truth about one request: the reference's answer, and on demand how far honest arithmetic may stray. */
typedef struct mr3d_truth mr3d_truth;

/**
 * A line of truth for one case at one tier: the reference server and, started lazily, k = 8 (then 32) emulated servers for its yardstick.
 * `operators` NULL: the reference; a mutant's table to ask "would this answer pass as that mistake?".
 */
mr3d_truth *mr3d_truth_new(mr3d_tier tier, const mr3d_operators *operators, mr3d_weights_cache *weights, int threads);
void mr3d_truth_free(mr3d_truth **);

/** Judges by what a backend promises (promises.h: bits of rounding points) beyond its tier. Before the first step. */
void mr3d_truth_promise(mr3d_truth *, uint32_t kept);

/** Takes emulated runs from the cache, where it has them, and puts there what took long. Before the first step, after mr3d_truth_promise; borrowed. NULL: none. */
void mr3d_truth_keep_runs(mr3d_truth *, mr3d_yardstick_cache *);

/** Never more than eight emulated runs: a failure that is close is then not declared but left in doubt, see mr3d_judgement. */
void mr3d_truth_spare_runs(mr3d_truth *);

/**
 * Runs the next request of the case through the reference. The yardstick servers get it too, later, if a judgement needs them: requests are kept
 * (borrowed: they must outlive the truth). Returns the reference's status; *answer stays the truth's.
 */
mr3d_status mr3d_truth_step(mr3d_truth *, const mr3d_bundle *request, const mr3d_bundle **answer, mr3d_error *);

/**
 * Judges a backend's answer to the latest request stepped. Exactly equal answers pass without a yardstick. Operators of level L0 are judged by their
 * error scale, composed ones by the yardstick.
 */
void mr3d_judge(mr3d_truth *, const mr3d_bundle *got, mr3d_judgement *);
void mr3d_judgement_clear(mr3d_judgement *);

/**
 * All of that for one request that no other goes before: judges `answer` to it at the request's own tier, by the bits of `kept` (promises; 0: none).
 * Returns MR3D_OK with the judgement, the caller's to clear; MR3D_INVALID where the reference refuses the request, with its message.
 */
mr3d_status mr3d_judge_answer(const mr3d_bundle *request, const mr3d_bundle *answer, uint32_t kept, int threads, mr3d_judgement *, mr3d_error *);

/** Significant digits in which a verdict's worst element is printed: 9, or 17 where got and expected would look the same. */
int mr3d_verdict_digits(const mr3d_tensor_verdict *);

#ifdef __cplusplus
}
#endif
#endif
