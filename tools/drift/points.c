#include "points.h"

#include <string.h>

const mr3d_point_about mr3d_points_about[MR3D_N_POINTS] = {
    [MR3D_P_INPUT] = {"input", "wiring", "what the layer is given", MR3D_FORM_ROWS, {-1}},
    [MR3D_P_INPUT_NORM] = {"input_norm", "rmsnorm", "the norm before attention (input_layernorm)", MR3D_FORM_ROWS, {MR3D_P_INPUT, -1}},
    [MR3D_P_QUERY] = {"query", "linear", "the query projection (q_proj)", MR3D_FORM_QUERY_HEADS, {MR3D_P_INPUT_NORM, -1}},
    [MR3D_P_KEY] = {"key", "linear", "the key projection (k_proj)", MR3D_FORM_KEY_HEADS, {MR3D_P_INPUT_NORM, -1}},
    [MR3D_P_VALUE] = {"value", "linear", "the value projection (v_proj)", MR3D_FORM_KEY_HEADS, {MR3D_P_INPUT_NORM, -1}},
    [MR3D_P_QUERY_ROTATED] = {"query_rotated", "mixed_rope", "the rotation of the queries", MR3D_FORM_QUERY_HEADS, {MR3D_P_QUERY, -1}},
    [MR3D_P_KEY_ROTATED] = {"key_rotated", "mixed_rope", "the rotation of the keys", MR3D_FORM_KEY_HEADS, {MR3D_P_KEY, -1}},
    [MR3D_P_VISIBLE] = {"visible", "mask", "the attention mask", MR3D_FORM_VISIBLE, {-1}},
    [MR3D_P_CONTEXT] = {"context", "attention", "attention itself: scores, softmax, weighted sum", MR3D_FORM_QUERY_HEADS,
                        {MR3D_P_QUERY_ROTATED, MR3D_P_KEY_ROTATED, MR3D_P_VALUE, -1}},
    [MR3D_P_O_PROJ] = {"o_proj", "linear", "the output projection (o_proj)", MR3D_FORM_ROWS, {MR3D_P_CONTEXT, -1}},
    [MR3D_P_ATTENTION_RESIDUAL] = {"attention_residual", "residual", "the residual sum behind attention", MR3D_FORM_ROWS, {MR3D_P_INPUT, MR3D_P_O_PROJ, -1}},
    [MR3D_P_POST_ATTENTION_NORM] = {"post_attention_norm", "rmsnorm", "the norm before the MLP (post_attention_layernorm)", MR3D_FORM_ROWS,
                                    {MR3D_P_ATTENTION_RESIDUAL, -1}},
    [MR3D_P_GATE] = {"gate", "linear", "the gate projection (gate_proj)", MR3D_FORM_ROWS, {MR3D_P_POST_ATTENTION_NORM, -1}},
    [MR3D_P_UP] = {"up", "linear", "the up projection (up_proj)", MR3D_FORM_ROWS, {MR3D_P_POST_ATTENTION_NORM, -1}},
    [MR3D_P_GATED] = {"gated", "swiglu", "SiLU of gate times up", MR3D_FORM_ROWS, {MR3D_P_GATE, MR3D_P_UP, -1}},
    [MR3D_P_DOWN] = {"down", "linear", "the down projection (down_proj)", MR3D_FORM_ROWS, {MR3D_P_GATED, -1}},
    [MR3D_P_OUTPUT] = {"output", "residual", "the residual sum behind the MLP", MR3D_FORM_ROWS, {MR3D_P_ATTENTION_RESIDUAL, MR3D_P_DOWN, -1}},
    [MR3D_P_EMBEDS] = {"inputs_embeds", "embedding", "the embeddings, points spliced in", MR3D_FORM_ROWS, {-1}},
    [MR3D_P_CACHE_LENGTH] = {"cache_length", "cache", "the length of the KV cache before the call", MR3D_FORM_LENGTH, {-1}},
    [MR3D_P_FINAL_NORM] = {"final_norm", "rmsnorm", "the norm behind the last layer (model.norm)", MR3D_FORM_ROWS, {MR3D_P_OUTPUT, -1}},
    [MR3D_P_LOGITS] = {"logits", "linear", "the head (lm_head or the tied embedding)", MR3D_FORM_ROWS, {MR3D_P_FINAL_NORM, -1}},
};

int mr3d_point_named(const char *name) {
  for (int p = 0; p < MR3D_N_POINTS; p++)
    if (strcmp(mr3d_points_about[p].name, name) == 0) return p;
  return -1;
}
