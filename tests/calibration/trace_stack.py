"""A trace of a decoder in one of the stacks, for `mr3d drift`: honest arithmetic, in which nothing may be at fault.

    python tests/calibration/trace_stack.py onnx fp32 FOLDER [--layers 24] [--text 12] [--points 12] [--steps 2]
    mr3d drift FOLDER/trace.safetensors

Writes full-width weights (unless the folder has them) and the trace of a prefill and some decode steps. The stacks answer layer by
layer: each layer is one graph, whose points are outputs too, so what lies between two points is still compiled as one. Embeddings,
caches and masks are kept here.
"""

import argparse
import importlib
import json
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import torch
from safetensors.torch import load_file, save_file

from stack import ROOT, Options, check

sys.path.insert(0, str(ROOT / "golden"))
from mr3d_random import elements

STACKS = {"numpy": ("numpy_stack", "NumpyStack"), "jax": ("jax_stack", "JaxStack"), "onnx": ("onnx_stack", "OnnxStack")}
TYPES = {"fp64": torch.float64, "fp32": torch.float32, "tf32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
HIDDEN, INNER, HEADS, KV_HEADS, DIM, VOCABULARY = 896, 4864, 14, 2, 64, 257


def drawn(stream, *shape, scale=1.0):
    recipe = {"dist": "normal", "shape": list(shape)}
    return torch.from_numpy(elements(recipe, 7, stream, 0, int(np.prod(shape)))[:].reshape(shape) * scale)


def draw_weights(layers, dtype):
    bins = DIM // 4
    shapes = {"self_attn.q_proj.weight": (HEADS * DIM, HIDDEN), "self_attn.q_proj.bias": (HEADS * DIM,), "self_attn.k_proj.weight": (KV_HEADS * DIM, HIDDEN),
              "self_attn.k_proj.bias": (KV_HEADS * DIM,), "self_attn.v_proj.weight": (KV_HEADS * DIM, HIDDEN), "self_attn.v_proj.bias": (KV_HEADS * DIM,),
              "self_attn.o_proj.weight": (HIDDEN, HEADS * DIM), "mlp.gate_proj.weight": (INNER, HIDDEN), "mlp.up_proj.weight": (INNER, HIDDEN),
              "mlp.down_proj.weight": (HIDDEN, INNER), "self_attn.freqs_3d_q": (3, HEADS, bins), "self_attn.freqs_3d_kv": (3, KV_HEADS, bins),
              "self_attn.axial_weights_3d_q": (HEADS, bins, 3), "self_attn.axial_weights_3d_kv": (KV_HEADS, bins, 3)}
    weights = {"model.embed_tokens.weight": drawn("embed", VOCABULARY, HIDDEN), "model.norm.weight": 1 + drawn("norm", HIDDEN, scale=0.1)}
    for n in range(layers):
        for name in ("input_layernorm.weight", "post_attention_layernorm.weight"):
            weights[f"model.layers.{n}.{name}"] = 1 + drawn(f"{n}.{name}", HIDDEN, scale=0.1)
        for name, shape in shapes.items():
            scale = shape[-1] ** -0.5 if name.endswith("weight") else 0.5
            weights[f"model.layers.{n}.{name}"] = drawn(f"{n}.{name}", *shape, scale=scale)
    return {name: tensor.to(dtype) for name, tensor in weights.items()}


class Decoder:
    def __init__(self, stack, tier, config, weights):
        self.stack, self.options, self.weights, self.layers = stack, Options(check(config)), weights, config["num_hidden_layers"]
        stack.tier, stack.wide, stack.store = tier, np.dtype("float64" if tier == "fp64" else "float32"), stack.storage(tier)
        self.caches, self.trace, self.step = [(None, None)] * self.layers, {}, 0

    def array(self, name):
        return self.stack.array(self.weights[name])

    def keep(self, name, value):
        value = np.ascontiguousarray(value)
        narrow = value.dtype.kind in "fV" and value.dtype != np.float64
        self.trace[f"{self.step}.{name}"] = torch.from_numpy(value.astype(np.float32) if narrow else value.copy())

    def call(self, embeds, **inputs):
        """One prefill or decode step on embeddings [1,q,hidden] in the tier's type."""
        self.keep("model.inputs_embeds", embeds)
        for name, value in inputs.items():
            self.keep(f"model.{name}", value)
        rows = embeds
        for n in range(self.layers):
            prefix = f"model.layers.{n}."
            tensors = {name[len(prefix):]: self.array(name) for name in self.weights if name.startswith(prefix)}
            tensors |= {name: value for name, value in inputs.items() if name in ("point_token_mask", "point_coords")} | {"key_mask": inputs["attention_mask"], "hidden": rows}
            if self.caches[n][0] is not None:
                tensors |= {"past_key": self.caches[n][0], "past_value": self.caches[n][1]}
            self.stack.seen = {}
            answer = self.stack.run_layer(SimpleNamespace(tensors=tensors, options=self.options), self.stack.layer)
            self.keep(f"{n}.input", rows)
            for name, value in answer.items():
                if name.startswith("trace."):
                    self.keep(f"{n}.{name[6:]}", value)
            rows, self.caches[n] = np.asarray(answer["hidden"]), (np.asarray(answer["key"]), np.asarray(answer["value"]))
        eps = self.options.rms_norm_eps
        normed = np.asarray(self.stack.run(lambda x, w: {"y": self.stack.norm(x, w, eps)}, rows, self.array("model.norm.weight"))["y"])
        logits = np.asarray(self.stack.run(lambda x, w: {"y": self.stack.project(x, w, None)}, normed, self.array("model.embed_tokens.weight"))["y"])
        self.keep("model.final_norm", normed)
        self.keep("model.logits", logits)
        self.step += 1


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("stack", choices=STACKS)
    parser.add_argument("tier", choices=TYPES)
    parser.add_argument("folder", type=Path)
    for name, usual in (("--layers", 24), ("--text", 12), ("--points", 12), ("--steps", 2)):
        parser.add_argument(name, type=int, default=usual)
    arguments = parser.parse_args()
    module, name = STACKS[arguments.stack]
    sys.argv = sys.argv[:1]
    stack = getattr(importlib.import_module(module), name)()
    if arguments.tier not in stack.tiers:
        parser.error(f"{arguments.stack} has no arithmetic of {arguments.tier}; it has {', '.join(stack.tiers)}")
    config = {"hidden_size": HIDDEN, "intermediate_size": INNER, "num_hidden_layers": arguments.layers, "num_attention_heads": HEADS, "num_key_value_heads": KV_HEADS,
              "head_dim": DIM, "vocab_size": VOCABULARY, "rope_theta": 1e6, "rms_norm_eps": 1e-6, "tie_word_embeddings": True}
    arguments.folder.mkdir(parents=True, exist_ok=True)
    file = arguments.folder / f"weights-{arguments.tier}-{arguments.layers}.safetensors"
    if not file.exists():
        save_file(draw_weights(arguments.layers, TYPES[arguments.tier]), file)
    weights = load_file(file)
    decoder = Decoder(stack, arguments.tier, config, weights)
    text, points = arguments.text, arguments.points
    length = text + points
    marks = np.zeros((1, length), bool)
    marks[:, text * 2 // 3:text * 2 // 3 + points] = True
    coords = (np.floor(drawn("coords", points, 3).abs().numpy() * 30) % 80).astype(np.int64)
    embeds = drawn("prompt", 1, length, HIDDEN).to(TYPES[arguments.tier])
    decoder.call(stack.array(embeds), attention_mask=np.ones((1, length), np.int64), point_token_mask=marks, point_coords=coords)
    for step in range(arguments.steps):
        ids = np.array([[17 + 31 * step]])
        row = weights["model.embed_tokens.weight"][ids[0]][None]
        decoder.call(stack.array(row), attention_mask=np.ones((1, text + step + 1), np.int64), input_ids=ids)
    meta = {"trace": "1", "producer": f"{stack.name} {stack.version}", "tier": arguments.tier, "config": json.dumps(config), "weights": str(file.resolve())}
    save_file(decoder.trace, arguments.folder / "trace.safetensors", meta)


if __name__ == "__main__":
    main()
