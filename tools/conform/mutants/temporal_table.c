/** P8: which part of the cos/sin table turns the temporal dimensions. */
#include "mutants_internal.h"

static mr3d_status with_temporal(mr3d_temporal rule, const mr3d_context *context, const mr3d_config *config, const mr3d_mixed_rope_in *in,
                                 double *query, double *key, mr3d_error *error) {
  mr3d_config changed = *config;
  changed.temporal_rope = rule;
  return mr3d_mixed_rope(context, &changed, in, query, key, error);
}

static mr3d_status native(const mr3d_context *context, const mr3d_config *config, const mr3d_mixed_rope_in *in, double *query, double *key,
                          mr3d_error *error) {
  return with_temporal(MR3D_NATIVE, context, config, in, query, key, error);
}

static mr3d_status gathered(const mr3d_context *context, const mr3d_config *config, const mr3d_mixed_rope_in *in, double *query, double *key,
                            mr3d_error *error) {
  return with_temporal(MR3D_GATHERED, context, config, in, query, key, error);
}

static const mr3d_mutant entries[] = {
    {"temporal-table", "native-for-gathered", "the temporal dimensions of points turn by frequencies of their own (`native`) instead of those gathered from the full table",
     MR3D_ROTATIONS, {.mixed_rope = native}},
    {"temporal-table", "gathered-for-native", "the temporal dimensions of points turn by frequencies gathered from the full table instead of their own (`native`)",
     MR3D_ROTATIONS, {.mixed_rope = gathered}},
};
const mr3d_mutant_set mr3d_mutants_temporal_table = MR3D_MUTANT_SET(entries);
