/**
 * Number formats by bits: F16 and BF16 to and from wider types, round-to-nearest-even, and the tiers' unit roundoffs.
 */
#ifndef MR3D_FORMAT_H
#define MR3D_FORMAT_H

#include <stdint.h>
#include <string.h>

#include "mr3d/tensor.h"

#ifdef __cplusplus
extern "C" {
#endif

/** IEEE binary16 code of the nearest value (ties to even); overflow gives infinity, NaN stays a quiet NaN. One rounding. */
uint16_t mr3d_f16_from_double(double value);
double mr3d_f16_to_double(uint16_t code);
/** bfloat16, likewise. */
uint16_t mr3d_bf16_from_double(double value);
/** Here, so that a compiler makes vector instructions of a loop over it: a checkpoint has hundreds of millions. */
static inline double mr3d_bf16_to_double(uint16_t code) {
  const uint32_t bits = (uint32_t)code << 16; /* the upper half of a binary32 */
  float value;
  memcpy(&value, &bits, sizeof value);
  return value;
}

/** The arithmetic a backend claims (docs/protocol.md, "Types"). */
typedef enum mr3d_tier { MR3D_FP64, MR3D_FP32, MR3D_TF32, MR3D_BF16_TIER, MR3D_FP16, MR3D_N_TIERS } mr3d_tier;

const char *mr3d_tier_name(mr3d_tier tier);       /**< "fp32" */
mr3d_tier mr3d_tier_named(const char *name);      /**< or MR3D_N_TIERS */
mr3d_dtype mr3d_tier_storage(mr3d_tier tier);     /**< F64, F32, F32, BF16, F16 */

/**
 * What a tier's arithmetic may lose per operation (docs/tolerance.md): u storage and output, ua accumulation, up inputs of
 * products, eta half the smallest subnormal (fp32, tf32, bf16: the smallest normal, for flush to zero), eta_term the same of one term of a sum, in its
 * accumulator. `kept` has a bit for each mr3d_rounding_point whose value is promised to stay in the accumulator's type (0: none).
 */
typedef struct mr3d_units {
  double u, ua, up, eta, eta_term;
  bool narrow; /**< storage narrower than the accumulation (bf16, fp16): outputs are rounded once more */
  uint32_t kept;
} mr3d_units;

mr3d_units mr3d_tier_units(mr3d_tier tier);

#ifdef __cplusplus
}
#endif
#endif
