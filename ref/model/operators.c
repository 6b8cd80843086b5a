#include "mr3d/model.h"

const mr3d_operators mr3d_reference_operators = {
    .splice = mr3d_splice,
    .mask = mr3d_mask,
    .rotary_table = mr3d_rotary_table,
    .rope1d = mr3d_rope1d,
    .cis3d = mr3d_cis3d,
    .rope3d = mr3d_rope3d,
    .normalize_coords = mr3d_normalize_coords,
    .points_check = mr3d_points_check,
    .mixed_rope = mr3d_mixed_rope,
    .rmsnorm = mr3d_rmsnorm,
    .linear = mr3d_linear,
    .swiglu = mr3d_swiglu,
    .attention = mr3d_attention,
    .attention_block = mr3d_attention_block,
    .decoder_layer = mr3d_decoder_layer,
    .voxelize = mr3d_voxelize,
    .token_coords = mr3d_token_coords,
};
