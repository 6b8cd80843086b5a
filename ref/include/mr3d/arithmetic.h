/**
 * Emulated arithmetic: the reference run as if a tier's hardware had run it (docs/tolerance.md, "The yardstick").
 *
 * Operators hand their results to mr3d_round at the points where real stacks store a value in the tier's type. Without
 * an arithmetic (NULL) every call returns at once and the operator is exact binary64.
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
  MR3D_AT_PRODUCT,       /**< a product before its bias is added */
  MR3D_AT_BIASED,        /**< and after */
  MR3D_AT_TABLE,         /**< cos and sin */
  MR3D_AT_ROTATION,      /**< both products and the sum of a rotation */
  MR3D_AT_NORM,          /**< x / rms, before the weight, and after */
  MR3D_AT_SCORE, MR3D_AT_PROBABILITY, MR3D_AT_CONTEXT,
  MR3D_AT_SILU, MR3D_AT_GATED,
  MR3D_AT_RESIDUAL,
  MR3D_N_ROUNDING_POINTS
} mr3d_rounding_point;

typedef enum mr3d_rounding { MR3D_NEAREST, MR3D_STOCHASTIC } mr3d_rounding;

/** Immutable once made; the same seed gives the same run, at any thread count. */
typedef struct mr3d_arithmetic {
  mr3d_tier tier;
  mr3d_units units;       /**< fp64 is emulated with units coarser by 2^MR3D_FP64_COARSER (errors are linear in u); the judge scales back */
  mr3d_rounding rounding;
  bool shared;            /**< one rounding threshold for all rows (tokens): equal tokens round equally */
  uint32_t points;        /**< bit per mr3d_rounding_point that rounds; default all */
  uint64_t seed;
} mr3d_arithmetic;

#define MR3D_FP64_COARSER 13

mr3d_arithmetic mr3d_arithmetic_of(mr3d_tier tier, mr3d_rounding rounding, bool shared, uint64_t seed);

#ifdef __cplusplus
}
#endif
#endif
