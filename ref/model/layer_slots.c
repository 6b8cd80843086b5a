#include "request.h"

#define FIELD(name) offsetof(mr3d_layer, name)

/* H, G heads of D dimensions, I intermediate, A frequency axes of F bins; frequencies may be flattened, head-major. */
const mr3d_slot mr3d_layer_slots[MR3D_N_LAYER_SLOTS] = {
    {"self_attn.q_proj.weight", MR3D_KIND_FLOAT, "H*D,hidden", MR3D_ALWAYS, FIELD(q_weight)},
    {"self_attn.q_proj.bias", MR3D_KIND_FLOAT, "H*D", MR3D_ALWAYS, FIELD(q_bias)},
    {"self_attn.k_proj.weight", MR3D_KIND_FLOAT, "G*D,hidden", MR3D_ALWAYS, FIELD(k_weight)},
    {"self_attn.k_proj.bias", MR3D_KIND_FLOAT, "G*D", MR3D_ALWAYS, FIELD(k_bias)},
    {"self_attn.v_proj.weight", MR3D_KIND_FLOAT, "G*D,hidden", MR3D_ALWAYS, FIELD(v_weight)},
    {"self_attn.v_proj.bias", MR3D_KIND_FLOAT, "G*D", MR3D_ALWAYS, FIELD(v_bias)},
    {"self_attn.o_proj.weight", MR3D_KIND_FLOAT, "hidden,H*D", MR3D_ALWAYS, FIELD(o_weight)},
    {"self_attn.freqs_3d_q", MR3D_KIND_FLOAT, "A,H,F|A,H*F", MR3D_IF_LEARNED, FIELD(rotary_q.freqs)},
    {"self_attn.axial_weights_3d_q", MR3D_KIND_FLOAT, "H,F,3", MR3D_IF_WEIGHTED, FIELD(rotary_q.axial_weights)},
    {"self_attn.freqs_3d_kv", MR3D_KIND_FLOAT, "A,G,F|A,G*F", MR3D_IF_LEARNED, FIELD(rotary_kv.freqs)},
    {"self_attn.axial_weights_3d_kv", MR3D_KIND_FLOAT, "G,F,3", MR3D_IF_WEIGHTED, FIELD(rotary_kv.axial_weights)},
    {"input_layernorm.weight", MR3D_KIND_FLOAT, "hidden", MR3D_ALWAYS, FIELD(input_layernorm)},
    {"post_attention_layernorm.weight", MR3D_KIND_FLOAT, "hidden", MR3D_ALWAYS, FIELD(post_attention_layernorm)},
    {"mlp.gate_proj.weight", MR3D_KIND_FLOAT, "I,hidden", MR3D_ALWAYS, FIELD(gate_weight)},
    {"mlp.up_proj.weight", MR3D_KIND_FLOAT, "I,hidden", MR3D_ALWAYS, FIELD(up_weight)},
    {"mlp.down_proj.weight", MR3D_KIND_FLOAT, "hidden,I", MR3D_ALWAYS, FIELD(down_weight)},
};
