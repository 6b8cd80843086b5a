/** P13: rope_theta and rope_theta_3d exchanged. */
#include "mutants_internal.h"

static void table_of_100(const mr3d_context *context, int64_t P, int64_t D, double rope_theta, const int64_t *positions, double *cos_table,
                         double *sin_table) {
  (void)rope_theta;
  mr3d_rotary_table(context, P, D, 100, positions, cos_table, sin_table);
}

static void table_of_10000(const mr3d_context *context, int64_t P, int64_t D, double rope_theta, const int64_t *positions, double *cos_table,
                           double *sin_table) {
  (void)rope_theta;
  mr3d_rotary_table(context, P, D, 10000, positions, cos_table, sin_table);
}

static mr3d_status text_theta_in_3d(const mr3d_context *context, const mr3d_config *config, const mr3d_mixed_rope_in *in, double *query, double *key,
                                    mr3d_error *error) {
  mr3d_config changed = *config;
  changed.rope_theta_3d = config->rope_theta;
  return mr3d_mixed_rope(context, &changed, in, query, key, error);
}

static const mr3d_mutant entries[] = {
    {"theta-mixup", "text-theta-in-3d", "3D base frequencies are made from rope_theta (1e6) instead of rope_theta_3d (100)", MR3D_ROTATIONS,
     {.mixed_rope = text_theta_in_3d}},
    {"theta-mixup", "3d-theta-in-text", "1D frequencies are made from rope_theta_3d (100) instead of rope_theta (1e6)", "rope1d " MR3D_ROTATIONS,
     {.rotary_table = table_of_100}},
    {"theta-mixup", "base-10000", "1D frequencies are made from 10000, the customary base, instead of rope_theta (1e6)", "rope1d " MR3D_ROTATIONS,
     {.rotary_table = table_of_10000}},
};
const mr3d_mutant_set mr3d_mutants_theta_mixup = MR3D_MUTANT_SET(entries);
