/** P14: keys rotated twice. */
#include <stdlib.h>

#include "mutants_internal.h"

static mr3d_status rotated_twice(const mr3d_context *context, const mr3d_config *config, const mr3d_layer *layer, const mr3d_block_in *in,
                                 mr3d_block_out *out, mr3d_error *error) {
  if (in->L == 0) return mr3d_attention_block(context, config, layer, in, out, error);
  int64_t G = config->num_key_value_heads, D = config->head_dim;
  int64_t *positions = mr3d_allocate(in->L, sizeof *positions);
  double *key = mr3d_allocate(in->B * G * in->L * D, sizeof *key);
  for (int64_t j = 0; j < in->L; j++) positions[j] = j;
  mr3d_rope1d(context, &(mr3d_rope1d_in){.B = in->B, .heads = G, .q = in->L, .D = D, .rope_theta = config->rope_theta, .x = in->past_key,
                                         .position_rows = 1, .position_ids = positions}, key);
  mr3d_block_in changed = *in;
  changed.past_key = key;
  mr3d_status status = mr3d_attention_block(context, config, layer, &changed, out, error);
  free(positions);
  free(key);
  return status;
}

static const mr3d_mutant entries[] = {
    {"cache-rotation", "rotated-twice", "cached keys, rotated when they were cached, are rotated again at every later call", MR3D_LAYERS,
     {.attention_block = rotated_twice}},
};
const mr3d_mutant_set mr3d_mutants_cache_rotation = MR3D_MUTANT_SET(entries);
