"""What the tests share: paths, small configurations, random tensors, weights files."""

import math
import os
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "golden"))

import torch
from mixedrope3d import encoders
from mixedrope3d.answer import Server
from mixedrope3d.configuration import Options, head_split
from safetensors.torch import save_file

torch.set_num_threads(1)  # small tensors; more threads only wait for each other
START, END, PAD = 90, 91, 92

SMALL = {
    "hidden_size": 48, "intermediate_size": 80, "num_hidden_layers": 2, "num_attention_heads": 6,
    "num_key_value_heads": 2, "head_dim": 16, "vocab_size": 96, "rope_theta": 1e6, "rms_norm_eps": 1e-6,
    "point_start_token_id": START, "point_end_token_id": END, "point_token_id": PAD,
}


def config(**changes) -> dict:
    merged = {**SMALL, **changes}
    return {key: value for key, value in merged.items() if value is not ...}  # ... removes a key


class Random:
    """Normal tensors of one type, from one seed."""

    def __init__(self, seed: int = 0, dtype: torch.dtype = torch.float64):
        self.generator, self.dtype = torch.Generator().manual_seed(seed), dtype

    def __call__(self, *shape: int, scale: float = 1.0, shift: float = 0.0) -> torch.Tensor:
        values = torch.randn(*shape, generator=self.generator, dtype=torch.float64) * scale + shift
        return values.to(self.dtype)

    def integers(self, below: int, *shape: int) -> torch.Tensor:
        return torch.randint(0, below, shape, generator=self.generator)


def rotary(random: Random, options: Options, q: str, kv: str) -> dict[str, torch.Tensor]:
    """Rotary parameters by the two templates' names, e.g. `freqs_q` from "{}_q"; none where the options have none."""
    bins = head_split(options, options.head_dim).bins
    tensors = {}
    for template, heads in ((q, options.num_attention_heads), (kv, options.num_key_value_heads)):
        if options.learned and bins:
            tensors[template.format("freqs")] = random(options.frequency_axes, heads, bins, scale=0.3, shift=0.5)
            if options.mixedRoPE_3d_learned_axial_mixing_weight:
                tensors[template.format("axial_weights")] = random(heads, bins, 3, scale=0.3, shift=1.0)
    return tensors


def layer_tensors(random: Random, given: dict) -> dict[str, torch.Tensor]:
    o = Options(given)
    hidden, inner, d = o.hidden_size, o.intermediate_size, o.head_dim
    q, kv = o.num_attention_heads * d, o.num_key_value_heads * d
    tensors = {
        "input_layernorm.weight": random(hidden, scale=0.3, shift=1), "post_attention_layernorm.weight": random(hidden),
        "mlp.gate_proj.weight": random(inner, hidden, scale=0.2), "mlp.up_proj.weight": random(inner, hidden, scale=0.2),
        "mlp.down_proj.weight": random(hidden, inner, scale=0.2), "self_attn.o_proj.weight": random(hidden, q, scale=0.2),
    }
    for name, size in (("q", q), ("k", kv), ("v", kv)):
        tensors[f"self_attn.{name}_proj.weight"] = random(size, hidden, scale=0.2)
        tensors[f"self_attn.{name}_proj.bias"] = random(size, scale=0.1 if name == "v" else 1)  # tokens keep a say
    return tensors | rotary(random, o, "self_attn.{}_3d_q", "self_attn.{}_3d_kv")


def model_tensors(random: Random, given: dict, tied: bool = True) -> dict[str, torch.Tensor]:
    vocab, hidden = given["vocab_size"], given["hidden_size"]
    tensors = {"model.embed_tokens.weight": random(vocab, hidden), "model.norm.weight": random(hidden, scale=0.3, shift=1)}
    if not tied:
        tensors["lm_head.weight"] = random(vocab, hidden)
    for n in range(given["num_hidden_layers"]):
        tensors |= {f"model.layers.{n}.{name}": t for name, t in layer_tensors(random, given).items()}
    return tensors


SCENESCRIPT = {"point_backbone": "scenescript", "projector": "linear", "hidden_size": 20, "num_bins": 40,
               "downsamplings": 2, "point_config": {"input_channels": 6, "embed_channels": 24, "conv_layers": [4, 8, 16]}}
SONATA = {"point_backbone": "sonata", "projector": "mlp", "hidden_size": 20, "num_bins": 40, "downsamplings": 2,
          "point_config": {"in_channels": 6, "order": ["z", "z-trans"], "stride": [2, 2], "enc_depths": [2, 3, 1],
                           "enc_channels": [8, 12, 16], "enc_num_head": [2, 3, 4], "enc_patch_size": [16, 8, 8],
                           "mlp_ratio": 2, "enable_rpe": False, "shuffle_orders": False}}


def cells(random: Random, count: int, size: int = 20) -> torch.Tensor:
    """About `count` distinct cells of a grid of `size` per axis, in order."""
    return torch.unique(random.integers(size, count, 3), dim=0)


def encoder_tensors(random: Random, given: dict) -> dict[str, torch.Tensor]:
    """Weights of an encoder: norms around 1, everything else as large as keeps activations near 1."""
    def draw(shape: list[int]) -> torch.Tensor:
        if len(shape) == 1:
            return random(*shape, scale=0.3)
        return random(*shape, scale=math.prod(shape[1:] if len(shape) == 2 else shape[1:-1]) ** -0.5)

    tensors = {}
    for name, shape in encoders.tensor_shapes(encoders.encoder_config(given, None)).items():
        norm = name.endswith(".weight") and len(shape) == 1
        tensors[name] = draw(shape) + (1 if norm else 0)
    return tensors


class Folder(tempfile.TemporaryDirectory):
    def save(self, tensors: dict[str, torch.Tensor], name: str = "weights") -> str:
        path = os.path.join(self.name, name + ".safetensors")
        save_file({key: tensor.contiguous() for key, tensor in tensors.items()}, path)
        return path


def truth() -> Server:
    return Server(torch.float64, True)


def assert_close(case, got: torch.Tensor, expected: torch.Tensor, relative: float = 1e-13, note: str = ""):
    """Every element within `relative` of the tensor's largest; NaN fails."""
    case.assertEqual(tuple(got.shape), tuple(expected.shape), note)
    got, expected = got.double(), expected.double()
    case.assertTrue(bool(got.isfinite().all()), f"{note} holds non-finite values")
    scale = expected.abs().max().item() if expected.numel() else 0.0
    error = (got - expected).abs().max().item() if expected.numel() else 0.0
    case.assertTrue(error <= relative * scale, f"{note} differs by {error:.3g}, scale {scale:.3g}")
