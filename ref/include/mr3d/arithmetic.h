/**
 * Emulated arithmetic: the reference run as if a tier's hardware had run it (docs/tolerance.md, "The yardstick").
 *
 * Operators hand their results to mr3d_round at the points where real stacks store a value in the tier's type, and to
 * mr3d_noise_add where real stacks accumulate in the tier's accumulator. Without an arithmetic in the context (NULL) each call
 * returns at once and the operator is exact binary64.
 *
 * Every threshold and every noise value is a function of (seed, number of the call, batch, group, row, column) alone, so one seed
 * gives one run, at any thread count and in any order of the elements.
 */
#ifndef MR3D_ARITHMETIC_H
#define MR3D_ARITHMETIC_H

#include <stdbool.h>
#include <stdint.h>

#include "mr3d/format.h"

#ifdef __cplusplus
extern "C" {
#endif

/** Where real stacks round: the widest honest profile. */
typedef enum mr3d_rounding_point {
  MR3D_AT_PRODUCT_INPUT, /**< inputs of matrix products */
  MR3D_AT_BEFORE_BIAS,   /**< a product to which a bias is added: stored before it is */
  MR3D_AT_PRODUCT,       /**< a product as it leaves, with its bias if it has one */
  MR3D_AT_ANGLE,         /**< inverse frequencies, w f c and their sum, normalised coordinates: never narrower than the accumulator */
  MR3D_AT_TABLE,         /**< cos and sin of the 1D rotation */
  MR3D_AT_TABLE_3D,      /**< and of the 3D one, which PyTorch keeps wide */
  MR3D_AT_TURNED,        /**< both products of a 1D rotation, before they are added */
  MR3D_AT_TURNED_3D,     /**< and of a 3D one, which PyTorch multiplies as complex numbers of binary32 */
  MR3D_AT_ROTATION,      /**< their sum */
  MR3D_AT_NORM,          /**< x / rms, before the weight, and after */
  MR3D_AT_SCORE, MR3D_AT_PROBABILITY, MR3D_AT_CONTEXT,
  MR3D_AT_SILU, MR3D_AT_GATED,
  MR3D_AT_RESIDUAL,
  MR3D_AT_ACCUMULATION,  /**< not a rounding but the noise of a sum, see mr3d_noise_add */
  MR3D_N_ROUNDING_POINTS
} mr3d_rounding_point;

/** Unit roundoff of what is stored at a point: u, or ua where the value is promised to be kept. */
double mr3d_stored_unit(const mr3d_units *, mr3d_rounding_point);

/** Nearest also leaves out all noise: every sum is exact and every value rounded to nearest even, nothing is random. */
typedef enum mr3d_rounding { MR3D_NEAREST, MR3D_STOCHASTIC } mr3d_rounding;

/** Immutable once made; the same seed gives the same run, at any thread count. */
typedef struct mr3d_arithmetic {
  mr3d_tier tier;
  mr3d_units units;       /**< fp64 is emulated with units coarser by 2^MR3D_FP64_COARSER (errors are linear in u); the judge scales back */
  mr3d_rounding rounding;
  bool shared;            /**< one rounding threshold for all rows (tokens): equal tokens round equally */
  uint32_t points;        /**< bit per mr3d_rounding_point that is active; default all */
  uint64_t seed;
} mr3d_arithmetic;

#define MR3D_FP64_COARSER 13

mr3d_arithmetic mr3d_arithmetic_of(mr3d_tier tier, mr3d_rounding rounding, bool shared, uint64_t seed);

typedef struct mr3d_context mr3d_context; /* mr3d/ops.h */

/** The rounding, or the noise, of one tensor: format, mode and the key of its thresholds. */
typedef struct mr3d_rounder {
  bool on, stochastic;
  bool shared;        /**< thresholds do not depend on batch and row */
  bool equal_columns; /**< and, where shared, not on the column either: columns are tokens too (scores, probabilities) */
  int digits;         /**< significant binary digits */
  int min_exponent;   /**< of the smallest normal number; below it the spacing stays */
  double max;         /**< largest finite value; beyond it lies infinity */
  double ua;          /**< unit of the accumulator */
  uint64_t key;
} mr3d_rounder;

/** Takes the next call number from the context. Requires: not called from two threads of one context at once. */
mr3d_rounder mr3d_rounder_at(const mr3d_context *, mr3d_rounding_point);
/** The same thresholds on every call with this tag (> 0): for values that a stack computes once, such as inv_freq. Takes no number. */
mr3d_rounder mr3d_rounder_fixed(const mr3d_context *, mr3d_rounding_point, uint64_t tag);

/** Rounds columns 0 .. columns-1 of one row of a tensor [batches,groups,rows,columns]. Rows are tokens, groups are heads. */
void mr3d_round_row(const mr3d_rounder *, int64_t batch, int64_t group, int64_t row, int64_t columns, double *y);
/** Rounds a whole tensor [batches,groups,rows,columns] at a point; nothing without an arithmetic. */
void mr3d_round(const mr3d_context *, mr3d_rounding_point, int64_t batches, int64_t groups, int64_t rows, int64_t columns, double *y);

/**
 * Adds to sums of K terms what their accumulation loses: normal, sigma^2 = (ua^2 / 3) K (start^2 + sum of squares of the terms / 2).
 * `squares` holds the sums of squares of one row, `start` what each sum started from (a bias) or NULL. (Each of the K partial sums is
 * rounded, with variance ua^2/3 of its square at most; they grow from start^2 to start^2 + squares, in the mean by half.) Nothing at bf16
 * and fp16, where storing the result costs a hundred times as much.
 */
void mr3d_noise_add(const mr3d_rounder *, int64_t batch, int64_t group, int64_t row, int64_t columns, int64_t K, const float *squares,
                    const double *start, double *y);
/**
 * Sums of squared terms of a request's products (product.h), by number of the call. Runs of one request differ in them by their roundings alone, which
 * no one sees in the size of a noise: the first run keeps them, and the others, once they are complete, find them.
 */
typedef struct mr3d_kept_squares mr3d_kept_squares;
mr3d_kept_squares *mr3d_kept_squares_new(void);
void mr3d_kept_squares_free(mr3d_kept_squares **);
/** No run keeps anything more: from now on several may look at once. */
void mr3d_kept_squares_complete(mr3d_kept_squares *);
bool mr3d_kept_squares_are_complete(const mr3d_kept_squares *);
/** Those of a call, NULL where there are none. */
const float *mr3d_kept_squares_find(const mr3d_kept_squares *, uint64_t call);
/** Takes malloc'ed memory over. */
void mr3d_kept_squares_add(mr3d_kept_squares *, uint64_t call, float *squares);

/** Standard normal values, at most 3.46, one a column; zeros where the rounder is off or nearest. */
void mr3d_noise_row(const mr3d_rounder *, int64_t batch, int64_t group, int64_t row, int64_t columns, double *noise);
/** A standard normal value of that place, at most 3.46; 0 where the rounder is off or nearest. */
double mr3d_noise_at(const mr3d_rounder *, int64_t batch, int64_t group, int64_t row, int64_t column);

#ifdef __cplusplus
}
#endif
#endif
