/** P21: contiguous and interleaved confused. */
#include "mutants_internal.h"

static mr3d_status with_layout(mr3d_layout layout, const mr3d_context *context, const mr3d_config *config, const mr3d_mixed_rope_in *in, double *query,
                               double *key, mr3d_error *error) {
  mr3d_config changed = *config;
  changed.layout = layout;
  mr3d_split split;
  if (mr3d_split_head(&changed, in->D, &split, NULL) != MR3D_OK) /* an interleaved unit longer than 8: nothing to confuse */
    return mr3d_mixed_rope(context, config, in, query, key, error);
  mr3d_split_free(&split);
  return mr3d_mixed_rope(context, &changed, in, query, key, error);
}

static mr3d_status interleaved(const mr3d_context *context, const mr3d_config *config, const mr3d_mixed_rope_in *in, double *query, double *key,
                               mr3d_error *error) {
  return with_layout(MR3D_INTERLEAVED, context, config, in, query, key, error);
}

static mr3d_status contiguous(const mr3d_context *context, const mr3d_config *config, const mr3d_mixed_rope_in *in, double *query, double *key,
                              mr3d_error *error) {
  return with_layout(MR3D_CONTIGUOUS, context, config, in, query, key, error);
}

static const mr3d_mutant entries[] = {
    {"layout", "interleaved-for-contiguous", "spatial and temporal dimensions are taken as interleaved where they are contiguous", MR3D_ROTATIONS,
     {.mixed_rope = interleaved}},
    {"layout", "contiguous-for-interleaved", "spatial and temporal dimensions are taken as contiguous where they are interleaved", MR3D_ROTATIONS,
     {.mixed_rope = contiguous}},
};
const mr3d_mutant_set mr3d_mutants_layout = MR3D_MUTANT_SET(entries);
