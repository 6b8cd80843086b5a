/**
 * What the mutant files share. One file a pitfall, one entry a mistake: a small alternative operator beside the reference's
 * table, or a changed request. Operators left NULL are the reference's.
 */
#ifndef MR3D_CONFORM_MUTANTS_INTERNAL_H
#define MR3D_CONFORM_MUTANTS_INTERNAL_H

#include "mr3d/model.h"
#include "mutants.h"

typedef struct mr3d_mutant_set {
  const mr3d_mutant *entries;
  int count;
} mr3d_mutant_set;

#define MR3D_MUTANT_SET(entries) {entries, sizeof(entries) / sizeof *(entries)}

#define MR3D_LAYERS "attention_block decoder_layer prefill decode"
#define MR3D_ROTATIONS "mixed_rope " MR3D_LAYERS

/** A sample's coordinate rows. A mistake stands before the reference's checks, so the count may be any number. */
static inline int64_t mr3d_rows_of(const int64_t *counts, int64_t b, int64_t N) {
  int64_t count = counts ? counts[b] : N;
  return count < 0 ? 0 : count < N ? count : N;
}

/** A copy of a request that borrows its tensors, without one of them (NULL: with all): what `decorate` starts from. */
mr3d_bundle *mr3d_request_without(const mr3d_bundle *request, const char *left_out);

/** What the server that now answers keeps from one request to the next: for mistakes that remember what they should forget. */
mr3d_bundle *mr3d_mutant_memory(void);

extern const mr3d_mutant_set mr3d_mutants_mask_length, mr3d_mutants_decode_rope, mr3d_mutants_gqa_heads, mr3d_mutants_coords_count,
    mr3d_mutants_mask_ownership, mr3d_mutants_batch, mr3d_mutants_pairing, mr3d_mutants_temporal_table, mr3d_mutants_broadcast,
    mr3d_mutants_theta_mixup, mr3d_mutants_cache_rotation, mr3d_mutants_splice, mr3d_mutants_qwen2_details, mr3d_mutants_axial_weights,
    mr3d_mutants_layout, mr3d_mutants_drift_norm;

#endif
