"""What the stacks of the calibration share: reading requests, and the model's formulas in an array library of their choice.

A stack is a backend that is known to be right, in an arithmetic of its own. The judge must pass it with any seed; how near it
comes to a limit says how tight the limit is. Formulas are written from the specification; each stack says how *it* sums, which
library functions it takes, in which type it stores what, and whether a compiler sees one operator or a whole layer.

Requests are read, and refused, by the reader of the PyTorch model (golden/mixedrope3d): no number comes from there.
"""

import math
import sys
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT / "golden"), str(ROOT / "tools" / "backends")]

import numpy as np
import torch
from mixedrope3d import answer, operators
from mixedrope3d.configuration import Options, axial_bins, check, head_split
from mr3d_backend import Backend, Refused, Request, serve
from torch_backend import TIERS, TorchBackend

__all__ = ["Stack", "serve"]


# ---------------------------------------------------------------------------------------------------------------------
# Reading

class Accepted(Exception):
    """The reader has nothing against the request."""


class Gate:
    """Stands for the PyTorch operators where the reader calls them: what it checks with them stays, what it would compute
    ends the reading."""

    def __getattr__(self, name):
        return getattr(operators, name) if name in ("mask", "normalize_coords", "voxelize") else self.accept

    @staticmethod
    def accept(*_, **__):
        raise Accepted


class Reader(answer.Server):
    def _config(self, options, **resolved):  # the first thing a layer does with a request that was read
        raise Accepted

    def read(self, request: Request):
        try:
            self.answer(request.op, request.config, request.meta, request.tensors)
        except Accepted:
            pass
        except answer.Refused as reason:
            raise Refused(str(reason)) from reason


answer.operators = Gate()


@dataclass
class Rotation:
    """By what one call's tokens turn."""

    options: Options
    split: object  # which dimensions of a head are spatial, which temporal
    positions: object  # [B or 1,q]
    points: object = None  # [B,q]: which tokens are points; None where none is
    coords: object = None  # [B,q,3], normalised; anything at text tokens


# ---------------------------------------------------------------------------------------------------------------------
# The model

class Stack(Backend):
    """Arrays are those of `xp`; `store` is the tier's type in it, `wide` the type of norms, angles and softmax.

    The operators of the protocol come first; below stand the formulas, which a stack overrides to its taste.
    """

    xp = np
    eager = np  # of coordinates, which are normalised before anything is compiled

    seen = None  # points of a layer as they are computed, where a trace wants them

    def __init__(self):
        self.readers = {tier: Reader(TIERS.get(tier, torch.float32), tier == "fp64") for tier in self.tiers}

    def answer(self, request: Request) -> dict:
        self.readers[request.tier].read(request)
        self.tier = request.tier
        self.wide = np.dtype("float64" if request.tier == "fp64" else "float32")
        self.store = self.storage(request.tier)
        request.tensors = {name: self.array(tensor) for name, tensor in request.tensors.items()}
        request.options = Options(check(request.config))
        return super().answer(request)

    read_tensor = TorchBackend.read_tensor

    def write_tensor(self, tensor):
        array = np.asarray(tensor)
        return super().write_tensor(array if array.dtype.kind != "V" else array.astype(np.float32))  # bfloat16

    def storage(self, tier: str) -> np.dtype:
        if tier == "bf16":
            import ml_dtypes
            return np.dtype(ml_dtypes.bfloat16)
        return np.dtype({"fp64": "float64", "fp32": "float32", "tf32": "float32", "fp16": "float16"}[tier])

    def array(self, tensor: torch.Tensor) -> np.ndarray:
        if tensor.dtype == torch.bfloat16:
            return tensor.contiguous().view(torch.uint16).numpy().view(self.store)
        return tensor.numpy()

    # -- operators ----------------------------------------------------------------------------------------------------

    def rope1d(self, request):
        x, positions = request.tensors["x"], request.tensors["position_ids"]
        return self.run(lambda x, positions: {"y": self.turn_text(x, positions, request.options.rope_theta)}, x, positions)

    def cis3d(self, request):
        t, options = request.tensors, request.options
        freqs = t.get("freqs")
        if freqs is None:
            split = head_split(options, options.head_dim)
            freqs = np.repeat(self.base_frequencies(options, len(split.spatial)), int(request.meta["heads"]), axis=1)

        def compute(freqs, weights, coords):
            cos, sin = self.cis(freqs, weights, coords[None])
            return {"cos": cos[0], "sin": sin[0]}
        return self.run(compute, freqs, t.get("axial_weights"), t["coords"])

    def rope3d(self, request):
        t = request.tensors
        return self.run(lambda x, cos, sin: {"y": self.turn_pairs(x, cos, sin)}, t["x"], t["cos"], t["sin"])

    def normalize_coords(self, request):
        coords, counts = request.tensors["coords"], request.tensors.get("point_counts")
        samples = coords if coords.ndim == 3 else coords[None]
        normalized = np.zeros(samples.shape, self.wide)
        for b, sample in enumerate(samples):
            count = len(sample) if counts is None else counts[b]
            normalized[b, :count] = self.normalize(sample[:count], request.options)
        return {"coords": normalized.reshape(coords.shape)}

    def voxelize(self, request):
        points, options = request.tensors["points"].astype(np.float64), request.options
        points = points[np.isfinite(points).all(1)]
        shifted = points[:, :3] - points[:, :3].min(0)
        cells = np.minimum(np.floor(shifted / options.cell_size), options.num_bins - 1).astype(np.int64)
        grid, first = np.unique(cells, axis=0, return_index=True)
        colours = self.eager.asarray(points[first, 3:].astype(self.wide)) / self.wide.type(127.5) - 1
        return {"grid": grid, "features": np.concatenate([shifted[first].astype(self.wide), np.asarray(colours)], axis=1)}

    def mixed_rope(self, request):
        t, options = request.tensors, request.options
        rotation = self.rotation(request, t["query"].shape[2], t["query"].shape[3], 0)
        parameters = [self.parameters(rotation, t.get(f"freqs_{s}"), t.get(f"axial_weights_{s}")) for s in ("q", "kv")]

        def compute(query, key, positions, points, coords, parameters):
            r = Rotation(options, rotation.split, positions, points, coords)
            return {"query": self.turn(query, r, *parameters[0]), "key": self.turn(key, r, *parameters[1])}
        return self.run(compute, t["query"], t["key"], rotation.positions, rotation.points, rotation.coords, parameters)

    def rmsnorm(self, request):
        eps = request.options.rms_norm_eps
        return self.run(lambda x, w: {"y": self.norm(x, w, eps)}, request.tensors["x"], request.tensors["weight"])

    def linear(self, request):
        t = request.tensors
        return self.run(lambda x, w, b: {"y": self.project(x, w, b)}, t["x"], t["weight"], t.get("bias"))

    def swiglu(self, request):
        return self.run(lambda g, u: {"y": self.gated(g, u)}, request.tensors["gate"], request.tensors["up"])

    def attention(self, request):
        t = request.tensors
        return self.run(lambda q, k, v, s: {"y": self.attend(q, k, v, s)}, t["query"], t["key"], t["value"], t["visible"])

    def attention_block(self, request):
        return self.run_layer(request, self.block)

    def decoder_layer(self, request):
        return self.run_layer(request, self.layer)

    def point(self, name, value):
        if self.seen is not None:
            self.seen[name] = value
        return value

    def run(self, compute, *arguments):
        """`compute` on the arguments, which are arrays, None, or lists of such. A compiling stack overrides this."""
        return compute(*arguments)

    def run_layer(self, request, module):
        t, options = dict(request.tensors), request.options
        hidden, past_key, past_value = t.pop("hidden"), t.pop("past_key", None), t.pop("past_value", None)
        past = 0 if past_key is None else past_key.shape[2]
        rotation = self.rotation(request, hidden.shape[1], options.head_dim, past)
        visible = self.visible(request, len(hidden), hidden.shape[1], past)
        weights = {name: tensor for name, tensor in t.items() if name.endswith((".weight", ".bias"))}
        parameters = [self.parameters(rotation, t.get(f"self_attn.freqs_3d_{s}"), t.get(f"self_attn.axial_weights_3d_{s}"), heads)
                      for s, heads in (("q", options.num_attention_heads), ("kv", options.num_key_value_heads))]

        def compute(hidden, tensors, names, positions, points, coords, past_key, past_value, visible, parameters):
            r = Rotation(options, rotation.split, positions, points, coords)
            outputs = module(hidden, dict(zip(names, tensors)), r, past_key, past_value, visible, parameters)
            points = {f"trace.{name}": value for name, value in (self.seen or {}).items()}
            return dict(zip(("hidden", "key", "value"), outputs)) | points
        names = tuple(weights)
        return self.run(lambda h, w, *rest: compute(h, w, names, *rest), hidden, list(weights.values()), rotation.positions,
                        rotation.points, rotation.coords, past_key, past_value, visible, parameters)

    # -- layers -------------------------------------------------------------------------------------------------------

    def block(self, hidden, w, rotation, past_key, past_value, visible, parameters):
        batch, q_len, _ = hidden.shape
        dim = rotation.options.head_dim

        def heads(name, n):
            y = self.project(hidden, w[f"self_attn.{name}_proj.weight"], w[f"self_attn.{name}_proj.bias"])
            return y.reshape(batch, q_len, n, dim).swapaxes(1, 2)

        n_heads, n_kv = rotation.options.num_attention_heads, rotation.options.num_key_value_heads
        query, key, value = (self.point(name, heads(name[0], n)) for name, n in (("query", n_heads), ("key", n_kv), ("value", n_kv)))
        query = self.point("query_rotated", self.turn(query, rotation, *parameters[0]))
        key = self.point("key_rotated", self.turn(key, rotation, *parameters[1]))
        if past_key is not None:
            key = self.xp.concatenate([past_key, key], axis=2)
            value = self.xp.concatenate([past_value, value], axis=2)
        context = self.point("context", self.attend(query, key, value, visible))
        context = context.swapaxes(1, 2).reshape(batch, q_len, n_heads * dim)
        return self.point("o_proj", self.project(context, w["self_attn.o_proj.weight"], None)), key, value

    def layer(self, hidden, w, rotation, past_key, past_value, visible, parameters):
        eps = rotation.options.rms_norm_eps
        normed = self.point("input_norm", self.norm(hidden, w["input_layernorm.weight"], eps))
        attended, key, value = self.block(normed, w, rotation, past_key, past_value, visible, parameters)
        hidden = self.point("attention_residual", hidden + attended)
        normed = self.point("post_attention_norm", self.norm(hidden, w["post_attention_layernorm.weight"], eps))
        gate, up = (self.point(name, self.project(normed, w[f"mlp.{name}_proj.weight"], None)) for name in ("gate", "up"))
        down = self.point("down", self.project(self.point("gated", self.gated(gate, up)), w["mlp.down_proj.weight"], None))
        return self.point("output", hidden + down), key, value

    # -- what surrounds the arithmetic: integers, and coordinates ------------------------------------------------------

    def rotation(self, request, q_len, head_dim, past) -> Rotation:
        t, options = request.tensors, request.options
        positions = t.get("position_ids")
        if positions is None:
            positions = past + np.arange(q_len)[None]
        rotation = Rotation(options, head_split(options, head_dim), positions)
        points = t.get("point_token_mask")
        if points is not None and points.any() and rotation.split.spatial:
            given = t["point_coords"] if t["point_coords"].ndim == 3 else t["point_coords"][None]
            rotation.points, rotation.coords = points, np.zeros((*points.shape, 3), self.wide)
            for row, marked, coords in zip(rotation.coords, points, given):
                row[marked] = self.normalize(coords[:marked.sum()], options)
        return rotation

    def parameters(self, rotation, freqs, weights, heads=None):
        """(frequencies [3 or 1,heads or 1,F], axial weights [heads,F,3] or None) of one side."""
        if rotation.points is None:
            return None, None
        if freqs is None:
            return self.base_frequencies(rotation.options, len(rotation.split.spatial)), None
        if heads is not None:  # a layer's may be flattened
            freqs = freqs.reshape(len(freqs), heads, -1)
            weights = None if weights is None else weights.reshape(heads, -1, 3)
        return freqs, weights

    def visible(self, request, batch, q_len, past):
        t, total = request.tensors, past + q_len
        kept = t.get("prefill_mask") if request.options.decode_mask == "spliced" else None
        kept = t.get("key_mask") if kept is None else kept
        keys = np.ones((batch, total), bool)
        if kept is not None:
            keys[:, :kept.shape[1]] = kept == 1
        return keys[:, None, :] & (np.arange(total) <= past + np.arange(q_len)[:, None])

    def normalize(self, coords, options):
        """One sample's coordinates [N,3] after coord_norm and drift."""
        c, wide = self.eager.asarray(coords).astype(self.wide), self.wide.type
        if options.coord_norm == "grid":
            c = c / wide(options.reduced_grid_size - 1)
        elif options.coord_norm != "none" and len(c):
            low, high = c.min(0), c.max(0)
            c = (c - low) / (high - low + wide(1e-8))
            if options.coord_norm == "virtual_resolution":
                c = c * wide(options.virtual_resolution)
        if options.drift == "average":
            c = c + wide(len(c) / 2)
        elif options.drift == "pointwise":
            c = c + np.arange(len(c), dtype=self.wide)[:, None]
        return c

    def powers(self, theta, exponents):
        """theta^exponent, in the arithmetic of the angles."""
        return self.wide.type(theta) ** np.asarray(exponents, self.wide)

    def base_frequencies(self, options, n_spatial):
        """Fixed frequencies [3,1,F]."""
        bins, n = n_spatial // 2, axial_bins(n_spatial)
        if options.rope_3d_kind == "mixed":
            return np.broadcast_to(self.powers(options.rope_theta_3d, [-2 * f / n_spatial for f in range(bins)]), (3, 1, bins))
        axis = np.minimum(np.arange(bins) // n, 2)
        freqs = np.zeros((3, 1, bins), self.wide)
        freqs[axis, 0, np.arange(bins)] = self.powers(options.rope_theta_3d, -(np.arange(bins) - axis * n) / n)
        return freqs

    # -- formulas -----------------------------------------------------------------------------------------------------

    def widen(self, x):
        return x.astype(self.wide)

    def narrow(self, x):
        return x.astype(self.store)

    def tables(self, positions, theta, dim):
        """cos and sin [..,q,dim/2] of θ = p·theta^(−2j/dim)."""
        angles = self.widen(positions)[..., None] * self.powers(theta, [-2 * j / dim for j in range(dim // 2)])
        return self.xp.cos(angles), self.xp.sin(angles)

    def turn_halves(self, x, cos, sin):
        """Dimension j with j + D/2; cos and sin [..,D], so that each half has entries of its own."""
        half = x.shape[-1] // 2
        a, b = self.widen(x[..., :half]), self.widen(x[..., half:])
        return self.narrow(self.xp.concatenate([a * cos[..., :half] - b * sin[..., :half],
                                                b * cos[..., half:] + a * sin[..., half:]], axis=-1))

    def turn_text(self, x, positions, theta):
        cos, sin = (self.xp.concatenate([t, t], axis=-1)[:, None] for t in self.tables(positions, theta, x.shape[-1]))
        return self.turn_halves(x, cos, sin)

    def cis(self, freqs, weights, coords):
        """cos and sin [B,heads,N,F] of Σ_a w·freqs·c: freqs [3 or 1,heads,F], weights [heads,F,3], coords [B,N,3]."""
        freqs, coords = self.widen(freqs), self.widen(coords)
        angle = None
        for a in range(3):
            rate = freqs[min(a, freqs.shape[0] - 1)]
            if weights is not None:
                rate = self.widen(weights[:, :, a]) * rate
            term = rate[None, :, None, :] * coords[:, :, a][:, None, :, None]
            angle = term if angle is None else angle + term
        return self.xp.cos(angle), self.xp.sin(angle)

    def turn_pairs(self, x, cos, sin):
        """Dimensions 2f and 2f+1 as one complex number."""
        cos, sin = self.widen(cos), self.widen(sin)
        re, im = self.widen(x[..., 0::2]), self.widen(x[..., 1::2])
        pairs = self.xp.stack([re * cos - im * sin, re * sin + im * cos], axis=-1)
        return self.narrow(pairs.reshape(*x.shape))

    def turn(self, x, r, freqs, weights):
        """x [B,heads,q,D]: the mixed rotation."""
        dim, theta = x.shape[-1], r.options.rope_theta
        text = self.turn_text(x, r.positions, theta)
        if r.points is None:
            return text
        spatial, temporal = np.array(r.split.spatial), np.array(r.split.temporal, int)
        parts = [self.turn_pairs(x[..., spatial], *self.cis(freqs, weights, r.coords))]
        if len(temporal):
            native = r.options.temporal_rope == "native"
            cos, sin = (self.xp.concatenate([t, t], axis=-1)[:, None]
                        for t in self.tables(r.positions, theta, len(temporal) if native else dim))
            if not native:
                cos, sin = cos[..., temporal], sin[..., temporal]
            parts.append(self.turn_halves(x[..., temporal], cos, sin))
        point = self.xp.concatenate(parts, axis=-1)[..., np.argsort(np.concatenate([spatial, temporal]))]
        return self.xp.where(r.points[:, None, :, None], point, text)

    def norm(self, x, weight, eps):
        h = self.widen(x)
        mean = self.total(h * h) / self.wide.type(x.shape[-1])
        return self.narrow(h / self.xp.sqrt(mean + self.wide.type(eps)) * self.widen(weight))

    def project(self, x, weight, bias):
        y = self.product(x.reshape(-1, x.shape[-1]), weight.swapaxes(0, 1))
        if bias is not None:
            y = y + self.widen(bias)
        return self.narrow(y).reshape(*x.shape[:-1], weight.shape[0])

    def gated(self, gate, up):
        g = self.widen(gate)
        return self.narrow(g / (1 + self.xp.exp(-g)) * self.widen(up))

    def attend(self, query, key, value, visible):
        times = query.shape[1] // key.shape[1]
        key, value = (self.xp.repeat(t, times, axis=1) for t in (key, value))
        scores = self.product(query, key.swapaxes(2, 3)) / self.wide.type(math.sqrt(query.shape[-1]))
        scores = self.xp.where(visible[:, None], scores, -np.inf)
        top = scores.max(-1, keepdims=True)
        weights = self.xp.exp(scores - self.xp.where(top > -np.inf, top, 0))
        total = self.total(weights)
        weights = self.narrow(weights / self.xp.where(total > 0, total, 1))
        return self.narrow(self.product(weights, value))

    def product(self, a, b):
        """a·b over the last and the last but one axis, summed in `wide`."""
        return self.widen(a) @ self.widen(b)

    def total(self, x):
        """The sum over the last axis, which stays with size 1."""
        return x.sum(-1, keepdims=True)
