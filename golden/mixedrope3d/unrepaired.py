"""What the library itself says where nothing is repaired: the true error texts of `generate()`.

    python -m mixedrope3d.unrepaired        prints them as JSON

Two mistakes on the shapes of the design document (231 text tokens, 556 points, 14 query and 2 key/value heads):

* `mask`: the points are spliced in at prefill and everything else is left to the library, so a decode step's mask
  counts 232 text tokens while 787 keys stand.
* `heads`: one set of 3D frequencies, made for the 14 query heads, turns the 2 key heads as well.
"""

import json

import numpy
import torch
import transformers
from transformers import Qwen2Config, Qwen2ForCausalLM

from . import operators
from .configuration import MixedRope3DConfig
from .modeling import MixedRope3DForCausalLM

TEXT, POINTS = 231, 556
START, END, PAD = 252, 253, 254
START_AT = 24
SIZES = dict(hidden_size=896, intermediate_size=64, num_hidden_layers=2, num_attention_heads=14, num_key_value_heads=2,
             vocab_size=256, rope_theta=1e6, tie_word_embeddings=True)


class SplicedQwen2(Qwen2ForCausalLM):
    """The library's causal LM, its mask and positions included; only the points are put between the markers."""

    def forward(self, input_ids=None, attention_mask=None, position_ids=None, past_key_values=None, inputs_embeds=None,
                point_features=None, cache_position=None, **kwargs):
        if past_key_values is None or past_key_values.get_seq_length() == 0:
            spliced = operators.splice(input_ids, attention_mask, [len(point_features)], START, END)
            inputs_embeds = operators.splice_rows(spliced, self.model.embed_tokens(input_ids), [point_features])
            input_ids, attention_mask = None, spliced.attention_mask
            position_ids = cache_position = None
        return super().forward(input_ids=input_ids, attention_mask=attention_mask, position_ids=position_ids,
                               past_key_values=past_key_values, inputs_embeds=inputs_embeds,
                               cache_position=cache_position, **kwargs)


def prompt(first_mask_entry: int = 1) -> dict:
    ids = torch.arange(TEXT)[None] % START
    ids[0, START_AT:START_AT + 3] = torch.tensor([START, PAD, END])
    attention_mask = torch.ones_like(ids)
    attention_mask[0, 0] = first_mask_entry
    return {"input_ids": ids, "attention_mask": attention_mask, "point_features": torch.zeros(POINTS, 896)}


def raised(function) -> dict:
    """Type and text of what `function` raises, exactly; null where it raises nothing."""
    try:
        function()
    except Exception as error:  # whatever the library raises is the evidence
        return {"type": type(error).__name__, "message": str(error)}
    return {"type": None, "message": None}


def without_mask_repair(attn_implementation: str, first_mask_entry: int = 1) -> dict:
    torch.manual_seed(0)
    model = SplicedQwen2(Qwen2Config(**SIZES, attn_implementation=attn_implementation)).eval()
    positions = []
    model.model.rotary_emb.register_forward_pre_hook(lambda _, arguments: positions.append(int(arguments[1][0, -1])))
    error = raised(lambda: model.generate(**prompt(first_mask_entry), do_sample=False, max_new_tokens=4))
    return {**error, "positions_of_last_tokens": positions}


def without_key_value_parameters() -> dict:
    torch.manual_seed(0)
    model = MixedRope3DForCausalLM(MixedRope3DConfig(**SIZES, point_start_token_id=START, point_end_token_id=END)).eval()
    for layer in model.model.layers:  # the design document's single set, made for the query heads
        layer.self_attn.freqs_3d_kv = layer.self_attn.freqs_3d_q
        layer.self_attn.axial_weights_3d_kv = layer.self_attn.axial_weights_3d_q
    coords = torch.arange(POINTS * 3).view(POINTS, 3) % 80
    return raised(lambda: model.generate(**prompt(), point_coords=coords, do_sample=False, max_new_tokens=1))


def collect() -> dict:
    """Every experiment with the library's own words and the versions they come from."""
    return {
        "libraries": {"torch": torch.__version__, "transformers": transformers.__version__, "numpy": numpy.__version__},
        "experiments": [
            {"pitfall": "mask-length", "attention": "eager", "numbers": [787, 232],
             "what": "generate() with the caller's text-only mask, mask and positions left to the library",
             **without_mask_repair("eager")},
            {"pitfall": "mask-length", "attention": "sdpa", "numbers": [787, 232],
             "what": "the same with scaled_dot_product_attention and one text token masked",
             **without_mask_repair("sdpa", first_mask_entry=0)},
            {"pitfall": "decode-rope", "attention": "sdpa", "numbers": [786, 231],
             "what": "the same without a masked token: the library drops a mask of ones when q is 1, so nothing is "
                     "raised and new tokens are turned at positions that count text only",
             **without_mask_repair("sdpa")},
            {"pitfall": "gqa-heads", "attention": "eager", "numbers": [14, 2],
             "what": "generate() with the 3D parameters of the 14 query heads used for the 2 key heads",
             **without_key_value_parameters()},
        ],
    }


if __name__ == "__main__":
    print(json.dumps(collect(), indent=1))
