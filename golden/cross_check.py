"""Random requests to both implementations: the C reference through `mr3d eval`, the PyTorch model through its server.

    python golden/cross_check.py --mr3d build/tools/mr3d [--count 400] [--seed 0] [--keep DIR]

Neither is derived from the other, so where they part one of them is wrong. Every operator and every option is drawn; about
a third of the requests are then spoiled in one place. Both must refuse the same requests, and answers must agree to
1e-12 of the tensor's scale (1e-10 for prefill, decode and encode_points). Exit status 0: they agree, 2: they part, 1: could not run.
"""

import argparse
import json
import math
import random
import subprocess
import sys
import tempfile
from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import save_file

sys.path.insert(0, str(Path(__file__).resolve().parent))
from mixedrope3d import encoders  # noqa: E402
from mixedrope3d.answer import Refused, Server  # noqa: E402


class Draw:
    """One request's dice and the tensors drawn so far."""

    def __init__(self, seed: str):
        self.dice = random.Random(seed)
        self.torch = torch.Generator().manual_seed(self.dice.getrandbits(60))
        self.config: dict = {}
        self.meta: dict[str, str] = {}
        self.tensors: dict[str, torch.Tensor] = {}

    def one(self, *values):
        return self.dice.choice(values)

    def size(self, low, high):
        return self.dice.randint(low, high)

    def chance(self, share):
        return self.dice.random() < share

    def floats(self, *shape, scale=1.0):
        return torch.randn(*shape, generator=self.torch, dtype=torch.float64) * scale

    def integers(self, low, high, *shape):
        return torch.randint(low, high, shape, generator=self.torch)


def draw_options(d: Draw, head_dim: int):
    """Options of spec.md section 8, valid together, each at its default about half the time."""
    config = d.config
    config["head_dim"] = head_dim
    strategy = d.one("half_spatial_half_temp", "half_spatial_half_temp", "full_spatial", "full_temporal", "custom_ratio")
    ratio = {"half_spatial_half_temp": 0.5, "full_spatial": 1.0, "full_temporal": 0.0}.get(strategy)
    if ratio is None:
        ratio = config["spatial_ratio"] = d.one(0.25, 0.5, 0.75)
    if strategy != "half_spatial_half_temp" or d.chance(0.3):
        config["spatial_temporal_separate_strategy"] = strategy
    for key, values in {
        "mixed_rope_layout": ("contiguous", "interleaved"), "temporal_rope": ("gathered", "native"),
        "rope_mixed_3d": (True, True, False), "mixedRoPE_3d_learned_per_axis": (True, True, False),
        "mixedRoPE_3d_learned_axial_mixing_weight": (True, True, False), "rope_3d_kind": ("mixed", "mixed", "axial"),
        "rope_theta_3d": (100, 10000, 2.5), "drift": ("none", "none", "average", "pointwise"),
        "coord_norm": ("grid", "grid", "none", "unit_range", "virtual_resolution"),
    }.items():
        if d.chance(0.6):
            config[key] = d.one(*values)
    if config.get("coord_norm") == "virtual_resolution" or d.chance(0.1):
        config["virtual_resolution"] = d.one(1, 64, 0.5)
    if d.chance(0.2):
        config["num_bins"], config["downsamplings"] = d.one((640, 3), (96, 5), (1280, 0))
    if d.chance(0.1):
        config["reduced_grid_size"] = d.one(2, 17, 80)
    return int(head_dim * ratio)


def draw_rotary(d: Draw, spatial: int, heads: int, kv_heads: int, names: tuple[str, str, str, str], flat=False):
    """Learned 3D parameters where the options give them a meaning."""
    config = d.config
    if not config.get("rope_mixed_3d", True) or config.get("rope_3d_kind") == "axial" or spatial == 0:
        return
    axes = 3 if config.get("mixedRoPE_3d_learned_per_axis", True) else 1
    bins = spatial // 2
    for count, freqs, weights in ((heads, *names[:2]), (kv_heads, *names[2:])):
        shape = (axes, count * bins) if flat and d.chance(0.5) else (axes, count, bins)
        d.tensors[freqs] = d.floats(*shape, scale=0.3) + 0.5
        if config.get("mixedRoPE_3d_learned_axial_mixing_weight", True):
            d.tensors[weights] = d.floats(count, bins, 3, scale=0.2) + 1


def draw_coords(d: Draw, *shape):
    coords = d.integers(0, 80, *shape, 3)
    return coords if d.chance(0.5) else coords.to(torch.float64) + d.one(0.0, 0.25)


def draw_points(d: Draw, batch: int, length: int):
    """Point tensors of one call: a mask, coordinates, perhaps counts. Returns whether any token is a point."""
    if d.chance(0.15):
        return False
    counts = [d.size(0, min(length, 14)) for _ in range(batch)]
    rows = max(counts) + (d.size(0, 2) if d.chance(0.3) else 0)
    mask = torch.zeros(batch, length, dtype=torch.bool)
    for sample, count in enumerate(counts):
        start = d.size(0, length - count)
        places = range(start, start + count) if d.chance(0.7) else sorted(d.dice.sample(range(length), count))
        mask[sample, list(places)] = True
    equal = all(count == rows for count in counts)
    d.tensors["point_token_mask"] = mask
    d.tensors["point_coords"] = draw_coords(d, rows) if batch == 1 and d.chance(0.5) else draw_coords(d, batch, rows)
    if not equal or d.chance(0.3):
        d.tensors["point_counts"] = torch.tensor(counts)
    return any(counts)


def head_counts(d: Draw):
    kv_heads = d.one(1, 2, 2, 3)
    return kv_heads * d.one(1, 2, 7), kv_heads


def splice(d: Draw):
    batch, length = d.size(1, 3), d.size(1, 20)
    ids = d.integers(0, 1000, batch, length)
    counts = [d.one(0, 1, 2, 13, d.size(0, 30)) for _ in range(batch)]
    for sample in range(batch):
        if counts[sample] == 0 and d.chance(0.5) or length < 2:
            counts[sample] = 0
            continue
        start, end = sorted(d.dice.sample(range(length), 2))
        ids[sample, start], ids[sample, end] = 151652, 151653
    if d.chance(0.3):
        d.config.update(point_start_token_id=7000, point_end_token_id=7001)
        ids[ids == 151652], ids[ids == 151653] = 7000, 7001
    d.tensors.update(input_ids=ids, attention_mask=d.integers(0, 2, batch, length), point_counts=torch.tensor(counts))
    if d.chance(0.4):
        d.tensors["labels"] = d.integers(-100, 1000, batch, length)


def mask(d: Draw):
    past, new, batch = d.one(0, 0, 1, 12), d.size(1, 6), d.size(1, 3)
    d.meta.update(past_len=str(past), q_len=str(new))
    width = past + new
    if d.chance(0.3):
        d.config["decode_mask"] = d.one("pad_end", "spliced")
    spliced = d.config.get("decode_mask") == "spliced"
    if d.chance(0.8):
        columns = d.size(1, width) if past else width
        d.tensors["key_mask"] = (torch.rand(batch, columns, generator=d.torch) < 0.7).long()
    if spliced and past and d.chance(0.6):
        d.tensors["prefill_mask"] = d.integers(0, 2, batch, d.size(1, past))


def rope1d(d: Draw):
    batch, heads, new, dim = d.size(1, 3), d.size(1, 4), d.size(1, 9), d.one(2, 6, 32, 64, 80, 128)
    d.config["rope_theta"] = d.one(1e6, 10000.0, 500)
    d.tensors["x"] = d.floats(batch, heads, new, dim)
    d.tensors["position_ids"] = d.integers(0, d.one(10, 800, 32768), d.one(1, batch), new)


def cis3d(d: Draw):
    heads, points = d.one(1, 2, 14), d.one(0, 1, 2, 13, 14)
    spatial = draw_options(d, d.one(32, 64, 128))
    bins = max(spatial // 2, 1)
    fixed = not d.config.get("rope_mixed_3d", True) or d.config.get("rope_3d_kind") == "axial" or spatial == 0
    if fixed or d.chance(0.1):  # must be refused where they are learned and there are points
        d.meta["heads"] = str(heads)
    else:
        axes = 3 if d.config.get("mixedRoPE_3d_learned_per_axis", True) else 1
        d.tensors["freqs"] = d.floats(axes, heads, bins)
        if d.chance(0.6):
            d.tensors["axial_weights"] = d.floats(heads, bins, 3)
    d.tensors["coords"] = draw_coords(d, points)


def rope3d(d: Draw):
    batch, heads, points, spatial = d.size(1, 3), d.one(1, 2, 14), d.one(0, 1, 2, 14), d.one(2, 16, 32)
    angle = d.floats(heads, points, spatial // 2, scale=3)
    d.tensors.update(x=d.floats(batch, heads, points, spatial), cos=angle.cos(), sin=angle.sin())


def normalize_coords(d: Draw):
    draw_options(d, 64)
    points, batch = d.one(0, 1, 5, 14), d.size(1, 3)
    d.tensors["coords"] = draw_coords(d, points) if batch == 1 and d.chance(0.5) else draw_coords(d, batch, points)
    if d.chance(0.4):
        d.tensors["point_counts"] = d.integers(0, points + 1, batch)


def mixed_rope(d: Draw):
    heads, kv_heads = head_counts(d)
    batch, length, dim = d.size(1, 3), d.size(1, 24), d.one(32, 64, 128)
    spatial = draw_options(d, dim)
    d.config["rope_theta"] = d.one(1e6, 10000.0)
    d.tensors.update(query=d.floats(batch, heads, length, dim), key=d.floats(batch, kv_heads, length, dim))
    if d.chance(0.4):
        d.tensors["position_ids"] = d.integers(0, 5000, d.one(1, batch), length)
    if draw_points(d, batch, length) or d.chance(0.5):
        draw_rotary(d, spatial, heads, kv_heads, ("freqs_q", "axial_weights_q", "freqs_kv", "axial_weights_kv"))


def rmsnorm(d: Draw):
    d.config["rms_norm_eps"] = d.one(1e-6, 1e-5, 0.5)
    width = d.size(1, 70)
    d.tensors.update(x=d.floats(*[d.size(1, 3) for _ in range(d.size(0, 3))], width, scale=d.one(1e-3, 1, 50)), weight=d.floats(width))


def linear(d: Draw):
    width, out = d.size(1, 70), d.size(1, 40)
    d.tensors.update(x=d.floats(*[d.size(0, 3) for _ in range(d.size(0, 3))], width), weight=d.floats(out, width))
    if d.chance(0.5):
        d.tensors["bias"] = d.floats(out, scale=30)


def swiglu(d: Draw):
    shape = [d.size(1, 5) for _ in range(d.size(1, 3))]
    d.tensors.update(gate=d.floats(*shape, scale=d.one(1, 20)), up=d.floats(*shape))


def attention(d: Draw):
    heads, kv_heads = head_counts(d)
    batch, new, past, dim = d.size(1, 3), d.size(1, 6), d.one(0, 3, 9), d.one(8, 64)
    d.tensors.update(query=d.floats(batch, heads, new, dim, scale=d.one(1, 8)), key=d.floats(batch, kv_heads, past + new, dim),
                     value=d.floats(batch, kv_heads, past + new, dim),
                     visible=torch.rand(batch, new, past + new, generator=d.torch) < d.one(0.1, 0.7, 1.1))


def draw_layer(d: Draw, whole: bool, prefix="", learned=True, intermediate=None):
    """Layer tensors for the configuration; returns hidden size, KV heads and head_dim."""
    heads, kv_heads = head_counts(d)
    dim = d.one(32, 64)
    spatial = draw_options(d, dim)
    hidden = heads * dim if d.chance(0.5) else d.one(24, 48)
    d.config.update(hidden_size=hidden, num_attention_heads=heads, num_key_value_heads=kv_heads, rope_theta=d.one(1e6, 10000.0))
    if whole:
        d.config.update(intermediate_size=d.size(5, 60), rms_norm_eps=1e-6)
    return draw_layer_tensors(d, whole, spatial, prefix)


def draw_layer_tensors(d: Draw, whole: bool, spatial: int, prefix=""):
    c = d.config
    hidden, heads, kv_heads, dim = c["hidden_size"], c["num_attention_heads"], c["num_key_value_heads"], c["head_dim"]
    for name, count in (("q", heads), ("k", kv_heads), ("v", kv_heads)):
        d.tensors[f"{prefix}self_attn.{name}_proj.weight"] = d.floats(count * dim, hidden, scale=hidden**-0.5)
        d.tensors[f"{prefix}self_attn.{name}_proj.bias"] = d.floats(count * dim, scale=2 if name == "k" else 0.5)
    d.tensors[f"{prefix}self_attn.o_proj.weight"] = d.floats(hidden, heads * dim, scale=hidden**-0.5)
    names = tuple(f"{prefix}self_attn.{n}" for n in ("freqs_3d_q", "axial_weights_3d_q", "freqs_3d_kv", "axial_weights_3d_kv"))
    draw_rotary(d, spatial, heads, kv_heads, names, flat=True)
    if whole:
        for norm in ("input_layernorm", "post_attention_layernorm"):
            d.tensors[f"{prefix}{norm}.weight"] = d.floats(hidden, scale=0.3) + 1
        width = c["intermediate_size"]
        for name, shape in (("gate", (width, hidden)), ("up", (width, hidden)), ("down", (hidden, width))):
            d.tensors[f"{prefix}mlp.{name}_proj.weight"] = d.floats(*shape, scale=hidden**-0.5)
    return hidden, kv_heads, dim


def layer(d: Draw, whole: bool):
    hidden, kv_heads, dim = draw_layer(d, whole)
    batch, new, past = d.size(1, 3), d.size(1, 20), d.one(0, 0, 1, 7)
    d.tensors["hidden"] = d.floats(batch, new, hidden)
    if past or d.chance(0.2):
        d.tensors.update(past_key=d.floats(batch, kv_heads, past, dim), past_value=d.floats(batch, kv_heads, past, dim))
    if d.chance(0.6):
        width = d.size(1, past + new) if past else new
        d.tensors["key_mask"] = (torch.rand(batch, width, generator=d.torch) < 0.8).long()
    if d.chance(0.3):
        d.config["decode_mask"] = d.one("pad_end", "spliced")
        if d.config["decode_mask"] == "spliced" and past and d.chance(0.5):
            d.tensors["prefill_mask"] = d.integers(0, 2, batch, d.size(1, past))
    if d.chance(0.3):
        d.tensors["position_ids"] = d.integers(0, 900, d.one(1, batch), new)
    draw_points(d, batch, new)


def attention_block(d: Draw):
    layer(d, False)


def decoder_layer(d: Draw):
    layer(d, True)


SINGLE = (splice, mask, rope1d, cis3d, rope3d, normalize_coords, mixed_rope, rmsnorm, linear, swiglu, attention, attention_block,
          decoder_layer)


def voxelize(d: Draw):
    rows, columns = d.size(1, 200), d.one(3, 6)
    points = d.floats(rows, columns).float().double() * d.one(0.1, 2.0)
    if columns == 6:
        points[:, 3:] = d.integers(0, 256, rows, 3).double()
    for _ in range(d.size(0, 3)):
        points[d.size(0, rows - 1), d.size(0, columns - 1)] = d.one(float("nan"), float("inf"), float("-inf"))
    if d.chance(0.3):
        points[0, 0] = 40.0
        d.config["grid_overflow"] = d.one("clip", "error")
    d.tensors["points"] = points.float() if d.chance(0.5) else points


def token_coords(d: Draw):
    d.meta["stages"] = str(d.one(0, 1, 4))
    d.tensors["grid"] = torch.unique(d.integers(0, d.one(4, 200), d.size(1, 200), 3), dim=0)


def encode_points(d: Draw, folder: Path, number: int) -> list[tuple[str, "Draw"]]:
    """One request, with the encoder's weights in a file."""
    stages = d.size(1, 4)
    bins = 2 ** (stages - 1) * d.size(2, 9)
    d.config.update(point_backbone=d.one("scenescript", "sonata"), projector=d.one("linear", "mlp"), hidden_size=d.size(1, 20), num_bins=bins)
    if d.config["point_backbone"] == "scenescript":
        widths = [d.one(1, 3, 4, 8, 16, 24) for _ in range(stages - 1)] + [d.one(4, 8, 12)]
        if widths[-1] == 12 and d.chance(0.9):  # a norm of 12 channels is refused
            widths[-1] = 16
        point = {"input_channels": d.one(1, 6, 6), "embed_channels": d.size(1, 30), "conv_layers": widths}
    else:
        heads = [d.size(1, 3) for _ in range(stages)]
        point = {"in_channels": d.one(1, 6, 6), "stride": [2] * (stages - 1), "enc_depths": [d.size(1, 3) for _ in range(stages)],
                 "enc_channels": [h * d.size(1, 5) for h in heads], "enc_num_head": heads,
                 "enc_patch_size": [d.one(1, 5, 16, 1024) for _ in range(stages)], "mlp_ratio": d.size(1, 4),
                 "order": d.one(["z"], ["z-trans"], ["z", "z-trans"], ["z-trans", "z"])}
        if d.chance(0.3):
            d.config["sonata_coord_norm"] = d.one("grid", "scene")
        if d.chance(0.3):
            point |= {"enable_rpe": False, "shuffle_orders": d.one(False, False, True)}
    d.config["point_config"] = point
    d.config["downsamplings"] = stages - 1
    if d.chance(0.3):
        d.config["reduced_grid_size"] = d.one(1, 2, 17, 80)
    try:
        shapes = encoders.tensor_shapes(encoders.encoder_config(d.config, None))
    except Refused:
        shapes = {"nothing": [1]}  # the request is refused before they are read
    weights = {name: d.floats(*shape, scale=1 if len(shape) == 1 else math.prod(shape[1:]) ** -0.5) for name, shape in shapes.items()}
    if d.chance(0.1):
        del weights[d.one(*weights)]
    path = folder / f"encoder-{number}.safetensors"
    save_file(weights, path)
    d.meta["weights"] = str(path)
    if d.chance(0.2):
        d.meta["encoder"] = d.one("scenescript", "sonata")
    size = d.one(2, min(8, bins), bins)
    grid = torch.unique(d.integers(0, size, d.one(1, 7, 60, 300), 3), dim=0)
    d.tensors.update(grid=grid, features=d.floats(len(grid), point.get("in_channels", point.get("input_channels"))))
    return [("encode_points", d)]


def session(d: Draw, folder: Path, number: int) -> list["Draw"]:
    """prefill (perhaps in chunks), decode steps, drop_session: a list of requests that share a configuration."""
    hidden, _, _ = draw_layer(d, True)
    spatial = spatial_dims(d.config)
    layers, vocabulary = d.size(1, 3), d.size(5, 60)
    d.config.update(num_hidden_layers=layers, vocab_size=vocabulary)
    if d.chance(0.5):
        d.config["decode_mask"] = d.one("pad_end", "spliced")
    d.tensors = {}
    for index in range(layers):
        draw_layer_tensors(d, True, spatial, f"model.layers.{index}.")
    d.tensors["model.embed_tokens.weight"] = d.floats(vocabulary, hidden)
    d.tensors["model.norm.weight"] = d.floats(hidden, scale=0.3) + 1
    if d.chance(0.4):
        d.tensors["lm_head.weight"] = d.floats(vocabulary, hidden)
        if d.chance(0.3):
            d.config["tie_word_embeddings"] = d.one(True, False)
    path = folder / f"weights-{number}.safetensors"
    save_file({name: tensor.contiguous() for name, tensor in d.tensors.items()}, path)

    batch, steps, past = d.size(1, 2), [], 0
    # points are cut between calls only where normalisation does not look at other rows
    chunks = d.one(1, 1, 2)
    padded = batch > 1 and d.config.get("decode_mask") == "spliced" and chunks == 1 and d.chance(0.5)
    whole_mask = torch.zeros(batch, 0, dtype=torch.long)
    for chunk in range(chunks):
        step = Draw(f"{d.dice.random()}")
        step.config, step.meta = d.config, {"session": f"s{number}", "weights": str(path)}
        new = step.size(3, 14)
        step.tensors["inputs_embeds"] = step.floats(batch, new, hidden)
        columns = torch.ones(batch, new, dtype=torch.long)
        if padded:
            columns[-1, -step.size(1, 2):] = 0
        whole_mask = torch.cat([whole_mask, columns], 1)
        step.tensors["attention_mask"] = whole_mask
        if chunk == 0:
            draw_points(step, batch, new)
        if step.chance(0.3):
            step.meta["logits_to_keep"] = str(step.one(0, 1, 2, 99))
        steps.append(("prefill", step))
        past += new
    for _ in range(d.size(1, 3)):
        step = Draw(f"{d.dice.random()}")
        step.meta, new = {"session": f"s{number}"}, step.one(1, 1, 3)
        step.config = d.config if step.chance(0.5) else {}
        step.tensors["input_ids"] = step.integers(0, vocabulary, batch, new)
        if step.chance(0.6):
            step.tensors["attention_mask"] = torch.ones(batch, step.size(1, past + new), dtype=torch.long)
        steps.append(("decode", step))
        past += new
    drop = Draw("drop")
    drop.meta = {"session": f"s{number}"}
    return [*steps, ("drop_session", drop)]


def spatial_dims(config: dict) -> int:
    ratio = {"full_spatial": 1.0, "full_temporal": 0.0, "custom_ratio": config.get("spatial_ratio", 0.5)}
    return int(config["head_dim"] * ratio.get(config.get("spatial_temporal_separate_strategy"), 0.5))


def spoil(d: Draw) -> str:
    """Changes one thing, most often into something that must be refused; both sides must judge it alike."""
    names = sorted(d.tensors)
    name = d.one(*names) if names else None
    tensor = d.tensors.get(name)
    kind = d.one("drop", "extra", "type", "grow", "shrink", "nan", "negative", "two", "key", "value", "meta", "huge")
    if "point_config" in d.config and d.chance(0.4):
        return spoil_point_config(d)
    if kind == "extra":
        d.tensors["surprise"] = torch.zeros(2)
    elif kind == "key":
        d.config = {**d.config, d.one("rope_theta3d", "Mixed_rope_layout", "coordnorm", "temporal-rope", "drfit", "numbins", "architectures"): d.one(1, "none")}
    elif kind == "value":
        d.config = {**d.config, d.one("mixed_rope_layout", "rope_mixed_3d", "drift", "num_bins", "rope_theta_3d", "head_dim", "hidden_act", "rope_scaling",
                                      "num_attention_heads", "reduced_grid_size", "spatial_ratio"): d.one("Flase", -1, 3, None, 2.5, True)}
    elif kind == "meta" and d.meta:
        key = d.one(*sorted(d.meta))
        d.meta = {**d.meta, key: d.one("-1", "two", "", "4.5")}
    elif tensor is None:
        return "nothing"
    elif kind == "drop":
        del d.tensors[name]
    elif kind == "type":
        d.tensors[name] = tensor.to(d.one(torch.float32, torch.int64, torch.int32, torch.bool, torch.float16))
    elif kind == "grow" and tensor.dim():
        axis = d.size(0, tensor.dim() - 1)
        d.tensors[name] = torch.cat([tensor, tensor.narrow(axis, 0, min(1, tensor.shape[axis]))], axis)
    elif kind == "shrink" and tensor.dim():
        axis = d.size(0, tensor.dim() - 1)
        d.tensors[name] = tensor.narrow(axis, 0, max(tensor.shape[axis] - 1, 0))
    elif tensor.numel() and tensor.dtype != torch.bool:
        d.tensors[name] = tensor.clone()
        place = d.size(0, tensor.numel() - 1)
        poison = {"nan": float("nan"), "negative": -1, "two": 2, "huge": 10**6}.get(kind, -1)
        if not (kind == "nan" and not tensor.is_floating_point()):
            d.tensors[name].view(-1)[place] = poison
    return f"{kind} {name}"


def spoil_point_config(d: Draw) -> str:
    point, backbone = dict(d.config["point_config"]), d.config["point_backbone"]
    key = d.one("order", "stride", "enc_depths", "enc_channels", "enc_num_head", "enc_patch_size", "mlp_ratio", "enable_rpe",
                "shuffle_orders") if backbone == "sonata" else d.one("conv_layers", "embed_channels", "input_channels")
    value = d.one(..., -1, 0, 2.0, 1.5, True, "z", None, [], [2], [0, 0, 0], ["z", 2], point.get(key))
    point.pop(key, None)
    d.config = {**d.config, "point_config": point if value is ... else {**point, key: value}}
    return f"point_config {key} {'gone' if value is ... else value}"


def requests(seed: int, count: int, spoiled: float, folder: Path):
    for number in range(count):
        d = Draw(f"{seed}/{number}")
        maker = d.one(*SINGLE, voxelize, token_coords, encode_points, session)
        if maker in (encode_points, session):
            steps = maker(d, folder, number)
            broken = d.size(0, len(steps) - 1) if d.chance(spoiled) else -1
            for index, (op, step) in enumerate(steps):
                yield f"{number:05d}-{index:02d}", op, step, spoil(step) if index == broken else ""
        else:
            maker(d)
            yield f"{number:05d}-00", maker.__name__, d, spoil(d) if d.chance(spoiled) else ""


def worst(expected: torch.Tensor, got: torch.Tensor) -> float:
    """Largest difference over the tensor's scale; infinity where types, shapes or finiteness part."""
    if expected.shape != got.shape or expected.is_floating_point() != got.is_floating_point():
        return float("inf")
    if expected.numel() == 0:
        return 0.0
    if not expected.is_floating_point():
        return 0.0 if torch.equal(expected.long(), got.long()) else float("inf")
    expected, got = expected.double(), got.double()
    scale = expected.abs().max().item()
    difference = (expected - got).abs().max().item()
    return difference / scale if scale else (0.0 if difference == 0 else float("inf"))


def ignored_rows(op: str, d: Draw) -> torch.Tensor | None:
    """[B,q] of rows that belong to padding, which nobody compares."""
    key_mask = d.tensors.get("attention_mask" if op == "prefill" else "key_mask")
    if op not in ("attention_block", "decoder_layer", "prefill") or key_mask is None:
        return None
    new = d.tensors["inputs_embeds" if op == "prefill" else "hidden"].shape[1]
    past = key_mask.shape[1] - new if op == "prefill" else (d.tensors["past_key"].shape[2] if "past_key" in d.tensors else 0)
    whole = torch.ones(key_mask.shape[0], past + new, dtype=torch.long)
    whole[:, :key_mask.shape[1]] = key_mask
    return whole[:, past:] == 0 if op == "prefill" or past == 0 else None


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--mr3d", default="build/tools/mr3d")
    parser.add_argument("--count", type=int, default=400)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--spoiled", type=float, default=0.35)
    parser.add_argument("--keep", type=Path, help="leave the request and answer files here")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        folder = args.keep or Path(temporary)
        (folder / "answers").mkdir(parents=True, exist_ok=True)
        drawn = list(requests(args.seed, args.count, args.spoiled, folder))
        paths = []
        for name, op, d, _ in drawn:
            path = folder / f"{name}.req.safetensors"
            metadata = {"protocol": "1", "type": "request", "id": name, "op": op, "tier": "fp64", "config": json.dumps(d.config), **d.meta}
            save_file({key: tensor.contiguous() for key, tensor in d.tensors.items()}, path, metadata)
            paths.append(str(path))
        done = subprocess.run([args.mr3d, "eval", *paths, "-o", str(folder / "answers")], capture_output=True, text=True)
        if done.returncode not in (0, 1):
            sys.exit(f"{args.mr3d} eval ended with status {done.returncode}: {done.stderr[-2000:]}")

        server, parted, compared, refused, largest = Server(torch.float64, True), 0, 0, 0, {}
        for name, op, d, spoiled in drawn:
            path = folder / "answers" / f"{name}.ans.safetensors"
            if not path.exists():
                sys.exit(f"{name} ({op}) was not answered: {done.stderr[-2000:]}")
            with safe_open(path, "pt") as answer:
                kind = answer.metadata()["type"]
                message = answer.metadata().get("message", "")
                got = {key: answer.get_tensor(key) for key in answer.keys()}
            try:
                expected, reason = server.answer(op, d.config, {"op": op, "tier": "fp64", **d.meta}, dict(d.tensors)), None
            except Refused as refusal:
                expected, reason = None, str(refusal)
            problem = None
            if expected is None or kind != "answer":
                if (expected is None) != (kind == "error"):
                    problem = f"PyTorch {'refuses: ' + reason if reason else 'answers'}; C says {kind} {message}"
                refused += problem is None
            elif set(expected) != set(got):
                problem = f"outputs differ: PyTorch {sorted(expected)}, C {sorted(got)}"
            else:
                compared += 1
                skip = ignored_rows(op, d)
                for key, tensor in expected.items():
                    other = got[key]
                    if skip is not None and key in ("hidden", "logits") and tensor.shape[:2] == skip.shape:
                        tensor, other = tensor[~skip], other[~skip]
                    error = worst(tensor, other)
                    largest[op] = max(largest.get(op, 0.0), error)
                    if not error <= (1e-10 if op in ("prefill", "decode", "encode_points") else 1e-12):
                        problem = f"{key} {list(tensor.shape)} differs by {error:.3g} of its scale"
            if problem:
                parted += 1
                print(f"{name} {op}{' (spoiled: ' + spoiled + ')' if spoiled else ''}: {problem}\n    config {json.dumps(d.config)} meta {d.meta}")
        for op in sorted(largest):
            print(f"{op:18} {largest[op]:.2e}")
        print(f"{compared} answers compared, {refused} refusals agreed, {parted} parted (seed {args.seed})")
        if compared == 0:
            sys.exit(1)
        sys.exit(2 if parted else 0)


if __name__ == "__main__":
    main()
