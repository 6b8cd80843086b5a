"""The two point encoders, occupied grid cells to point tokens, from encoders.md alone (level L5).

Where encoders.md leaves a choice, this is what is chosen here:

* `point_config`: a key that is absent has the public value (the defaults below; stride 2 and patches of 1024 for each stage
  that enc_depths gives); `shuffle_orders` and `enable_rpe` absent are false. Unknown keys are ignored unless they look
  misspelt or, like `pre_norm` false, ask for another network. `stride` may hold any powers of two: coordinates are
  floor-divided by them. `mlp_ratio` may be any number that makes mlp_ratio·C whole.
  Block i uses `order` number i mod len(order).
* `projector` is `linear` by default, `mlp` is hidden_size wide inside; `point_backbone` and `hidden_size` have no default.
  Metadata `encoder` may stand for `point_backbone`; where both are given they must agree.
* The grid that Fourier features are scaled by is the configuration's `reduced_grid_size`, else num_bins / 2^downsamplings
  (spec.md section 8), whatever the encoder's own depth.
* SceneScript's bottleneck is Linear(c→2c), GroupNorm, ReLU, Linear(2c→embed_channels), c the last of `conv_layers`.
* Channels must divide into a norm's groups and into heads, or the configuration is refused.
* `sonata_coord_norm` `scene` with SceneScript is refused.
"""

import math
from dataclasses import dataclass
from typing import Any, Callable

import torch
from torch import Tensor

from . import sparse
from .configuration import CHECKERS, Options, choice, integer, meant, number, only, shown
from .errors import Refused
from .operators import linear

FREQUENCIES = 10
FOURIER = 3 + 6 * FREQUENCIES  # values a token
GROUPS = 8


# ---------------------------------------------------------------------------------------------------------------------
# Configuration

def list_of(check: Callable, what: str, at_least: int = 1) -> Callable:
    def check_list(value):
        try:
            if not isinstance(value, list) or len(value) < at_least:
                raise ValueError
            return [check(entry) for entry in value]
        except ValueError:
            raise ValueError(f"a list of {what}, {at_least} or more") from None
    return check_list


def mapping(value):
    if not isinstance(value, dict):
        raise ValueError("a JSON object")
    return value


def power_of_two(value):
    value = integer(1)(value)
    if value & value - 1:
        raise ValueError("a power of two")
    return value


SIZES = list_of(integer(1), "integers of at least 1")
BACKBONE, PROJECTOR, NORM = choice("scenescript", "sonata"), choice("linear", "mlp"), choice("grid", "scene")
# The first two have no default here, and null stands for that.
KEYS = {"point_backbone": BACKBONE, "point_config": mapping, "projector": PROJECTOR, "sonata_coord_norm": NORM}

# key -> (public value, checker); None: one public value for each stage, filled in by check_sonata
POINT_CONFIG: dict[str, dict[str, tuple[Any, Callable]]] = {
    "scenescript": {
        "input_channels": (6, integer(1)),
        "embed_channels": (512, integer(1)),
        "conv_layers": ([16, 32, 64, 128, 256], SIZES),
    },
    "sonata": {
        "in_channels": (6, integer(1)),
        "order": (["z", "z-trans"], list_of(choice("z", "z-trans"), 'the orders "z" and "z-trans"')),
        "stride": (None, list_of(power_of_two, "powers of two", at_least=0)),
        "enc_depths": ([3, 3, 3, 12, 3], list_of(integer(0), "integers of at least 0")),
        "enc_channels": ([48, 96, 192, 384, 512], SIZES),
        "enc_num_head": ([3, 6, 12, 24, 32], SIZES),
        "enc_patch_size": (None, SIZES),
        "mlp_ratio": (4, number("a number above 0", lambda v: v > 0)),
        # Keys of the public code, which lead to another network where they differ.
        "qkv_bias": (True, only(True, "true")),
        "qk_scale": (None, only(None, "null")),
        "pre_norm": (True, only(True, "true")),
        "enable_fourier_encode": (True, only(True, "true")),
        "enable_rpe": (False, only(False, "false")),
        "shuffle_orders": (False, only(False, "false: with true the two orders are permuted at random, and so is the result")),
    },
}


def checked(given: dict, checkers: dict[str, Callable], misspelt: int, prefix: str = "") -> dict:
    """The keys of `given` that `checkers` knows, each value checked. Raises Refused, also for a key that looks misspelt:
    up to `misspelt` letters away."""
    values = {}
    for key, value in given.items():
        if key in checkers:
            try:
                values[key] = checkers[key](value)
            except ValueError as expected:
                raise Refused(f"config key {prefix}{key} is {shown(value)}, expected {expected}") from None
        elif known := meant(key, checkers, misspelt):
            raise Refused(f'config key "{prefix}{key}" is unknown; it looks like "{prefix}{known}": correct or remove it')
    return values


@dataclass(frozen=True)
class EncoderConfig:
    """Everything that shapes an encoder, checked."""

    backbone: str
    point: dict  # point_config, complete
    projector: str
    hidden: int
    num_bins: int
    reduced_grid_size: int
    coord_norm: str

    @property
    def in_channels(self) -> int:
        return self.point["input_channels" if self.backbone == "scenescript" else "in_channels"]

    @property
    def channels(self) -> int:
        """Channels of a token before the projector."""
        return self.point["embed_channels"] if self.backbone == "scenescript" else self.point["enc_channels"][-1]


def encoder_config(config: dict, encoder: str | None) -> EncoderConfig:
    """The configuration of an `encode_points` request, whose keys of spec.md are checked; `encoder` is its metadata of that
    name. Raises Refused."""
    absent = {key for key in ("point_backbone", "point_config") if config.get(key, ...) is None}
    given = checked({key: value for key, value in config.items() if key not in CHECKERS.keys() | absent}, KEYS, 2)
    backbone = named_backbone(given.get("point_backbone"), encoder)
    table = POINT_CONFIG[backbone]
    point = {key: default for key, (default, _) in table.items()}
    # One letter, because public configurations hold keys of a decoder, too, and dec_depths is two from enc_depths.
    point |= checked(given.get("point_config", {}), {key: check for key, (_, check) in table.items()}, 1, "point_config.")
    (check_scenescript if backbone == "scenescript" else check_sonata)(point)

    options = Options(config)
    coord_norm = given.get("sonata_coord_norm", "grid")
    if coord_norm == "scene" and backbone != "sonata":
        raise Refused(f'sonata_coord_norm "scene" has no meaning for point_backbone "{backbone}"; remove it')
    if coord_norm == "grid" and options.reduced_grid_size == 1:
        raise Refused("reduced_grid_size is 1: Fourier features divide by reduced_grid_size - 1 = 0")
    return EncoderConfig(backbone, point, given.get("projector", PROJECTOR.default), options.need("hidden_size", "encode_points"),
                         options.num_bins, options.reduced_grid_size, coord_norm)


def named_backbone(configured: str | None, encoder: str | None) -> str:
    if encoder is not None:
        try:
            BACKBONE(encoder)
        except ValueError as expected:
            raise Refused(f'metadata "encoder" is {shown(encoder)}, expected {expected}') from None
        if configured not in (None, encoder):
            raise Refused(f'metadata "encoder" is "{encoder}", but config key point_backbone is "{configured}"')
    elif configured is None:
        raise Refused('config lacks point_backbone: encode_points needs it ("scenescript" or "sonata") and it has no default')
    return configured or encoder


def check_scenescript(point: dict):
    """Raises Refused where sizes do not fit together."""
    for channels in point["conv_layers"]:
        check_divides(channels, min(GROUPS, channels), "config key point_config.conv_layers", "a norm's groups")
    check_divides(2 * point["conv_layers"][-1], GROUPS, "twice the last of config key point_config.conv_layers",
                  "the bottleneck's groups")


def check_sonata(point: dict):
    """Fills in what follows from enc_depths. Raises Refused where sizes do not fit together."""
    stages = len(point["enc_depths"])
    for key, public in (("stride", [2] * (stages - 1)), ("enc_patch_size", [1024] * stages)):
        if point[key] is None:
            point[key] = public
    for key in ("enc_channels", "enc_num_head", "enc_patch_size", "stride"):
        expected = stages - (key == "stride")
        if len(point[key]) != expected:
            raise Refused(f"config key point_config.{key} has {len(point[key])} entries, expected {expected}: "
                          f"point_config.enc_depths has {stages} stages")
    for channels, heads in zip(point["enc_channels"], point["enc_num_head"]):
        check_divides(channels, heads, "config key point_config.enc_channels", "heads of enc_num_head")
        wide = channels * point["mlp_ratio"]
        if wide != int(wide) or wide < 1:
            raise Refused(f"config key point_config.mlp_ratio is {point['mlp_ratio']:g}; it makes {wide:g} of {channels} "
                          "channels, expected a whole number")


def check_divides(channels: int, parts: int, what: str, into: str):
    if channels % parts:
        raise Refused(f"{what} is {channels}, which does not divide into {parts}, {into}")


# ---------------------------------------------------------------------------------------------------------------------
# Tensors: every name with its shape

def tensor_shapes(config: EncoderConfig) -> dict[str, list[int]]:
    shapes = {"point_backbone." + name: shape for name, shape in
              (scenescript_shapes if config.backbone == "scenescript" else sonata_shapes)(config).items()}
    if config.projector == "linear":
        return shapes | linear_shapes("point_proj", config.channels, config.hidden)
    return (shapes | linear_shapes("point_proj.0", config.channels, config.hidden)
            | linear_shapes("point_proj.2", config.hidden, config.hidden))


def linear_shapes(name: str, c_in: int, c_out: int) -> dict[str, list[int]]:
    return {f"{name}.weight": [c_out, c_in], f"{name}.bias": [c_out]}


def norm_shapes(name: str, channels: int) -> dict[str, list[int]]:
    return {f"{name}.weight": [channels], f"{name}.bias": [channels]}


def scenescript_shapes(config: EncoderConfig) -> dict[str, list[int]]:
    widths, embed = config.point["conv_layers"], config.point["embed_channels"]
    shapes = {}

    def conv(name: str, k: int, c_in: int, c_out: int):
        shapes[f"{name}.0.kernel"] = [k**3, c_in, c_out]
        shapes.update(norm_shapes(f"{name}.1", c_out))

    def res(name: str, channels: int):
        conv(f"{name}.block0", 3, channels, channels)
        conv(f"{name}.block1", 3, channels, channels)

    conv("sparse_resnet.stem.0", 7, config.in_channels, widths[0])
    res("sparse_resnet.stem.1", widths[0])
    for i, (c_in, c_out) in enumerate(zip(widths, widths[1:])):
        conv(f"sparse_resnet.blocks.{i}.0", 2, c_in, c_out)
        res(f"sparse_resnet.blocks.{i}.1", c_out)
        res(f"sparse_resnet.blocks.{i}.2", c_out)
    middle = 2 * widths[-1]
    return (shapes | linear_shapes("sparse_resnet.bottleneck.0", widths[-1], middle)
            | norm_shapes("sparse_resnet.bottleneck.1", middle) | linear_shapes("sparse_resnet.bottleneck.3", middle, embed)
            | linear_shapes("input_proj", embed + FOURIER, embed) | {"extra_embedding": [embed]})


def sonata_shapes(config: EncoderConfig) -> dict[str, list[int]]:
    widths, ratio = config.point["enc_channels"], config.point["mlp_ratio"]
    shapes = linear_shapes("embedding.stem.linear", config.in_channels, widths[0])
    shapes |= norm_shapes("embedding.stem.norm", widths[0])
    for stage, (c, depth) in enumerate(zip(widths, config.point["enc_depths"])):
        if stage:
            shapes |= linear_shapes(f"enc.enc{stage}.down.proj", widths[stage - 1], c)
            shapes |= norm_shapes(f"enc.enc{stage}.down.norm.0", c)
        for i in range(depth):
            block, wide = f"enc.enc{stage}.block{i}.", int(ratio * c)
            shapes |= {block + "cpe.0.weight": [c, 3, 3, 3, c], block + "cpe.0.bias": [c]}
            shapes |= linear_shapes(block + "cpe.1", c, c) | norm_shapes(block + "cpe.2", c)
            shapes |= norm_shapes(block + "norm1.0", c)
            shapes |= linear_shapes(block + "attn.qkv", c, 3 * c) | linear_shapes(block + "attn.proj", c, c)
            shapes |= norm_shapes(block + "norm2.0", c)
            shapes |= linear_shapes(block + "mlp.0.fc1", c, wide) | linear_shapes(block + "mlp.0.fc2", wide, c)
    return shapes | linear_shapes("input_proj", widths[-1] + FOURIER, widths[-1])


class Weights:
    """Tensors by name below a prefix, and the layers that are made of them."""

    def __init__(self, tensors: dict[str, Tensor], wide: torch.dtype, prefix: str = ""):
        self.tensors, self.wide, self.prefix = tensors, wide, prefix

    def __getitem__(self, name: str) -> Tensor:
        return self.tensors[self.prefix + name]

    def below(self, prefix: str) -> "Weights":
        return Weights(self.tensors, self.wide, self.prefix + prefix + ".")

    def linear(self, name: str, x: Tensor) -> Tensor:
        return linear(x, self[f"{name}.weight"], self[f"{name}.bias"])

    def layer_norm(self, name: str, x: Tensor) -> Tensor:
        return sparse.layer_norm(x, self[f"{name}.weight"], self[f"{name}.bias"], self.wide)

    def group_norm(self, name: str, x: Tensor, per_row: bool = False) -> Tensor:
        groups = GROUPS if per_row else min(GROUPS, x.shape[1])
        return sparse.group_norm(x, groups, self[f"{name}.weight"], self[f"{name}.bias"], self.wide, per_row)


# ---------------------------------------------------------------------------------------------------------------------
# SceneScript

def scenescript(x: Tensor, cells: Tensor, weights: Weights, widths: list[int]) -> tuple[Tensor, Tensor]:
    """x [M,C_in] on cells [M,3] -> one row a coarsest cell, [N,embed_channels], and those cells [N,3]."""
    net = weights.below("sparse_resnet")
    x = conv_block(x, sparse.neighbours(cells, 7, "x"), net.below("stem.0"))
    x = res_block(x, sparse.neighbours(cells, 3, "x"), net.below("stem.1"))
    for i in range(len(widths) - 1):
        parents, _ = sparse.coarsen(cells, 2)
        x, cells = conv_block(x, sparse.children(cells, parents), net.below(f"blocks.{i}.0")), parents
        around = sparse.neighbours(cells, 3, "x")
        for j in (1, 2):
            x = res_block(x, around, net.below(f"blocks.{i}.{j}"))
    x = net.group_norm("bottleneck.1", net.linear("bottleneck.0", x), per_row=True).relu()
    return net.linear("bottleneck.3", x), cells


def conv_block(x: Tensor, rows: Tensor, weights: Weights) -> Tensor:
    """Convolution, GroupNorm over the sample, ReLU."""
    return weights.group_norm("1", sparse.convolve(x, rows, weights["0.kernel"])).relu()


def res_block(x: Tensor, around: Tensor, weights: Weights) -> Tensor:
    y = conv_block(x, around, weights.below("block0"))
    return x + conv_block(y, around, weights.below("block1"))


# ---------------------------------------------------------------------------------------------------------------------
# Sonata

def sonata(x: Tensor, cells: Tensor, weights: Weights, point: dict, kind: str) -> tuple[Tensor, Tensor]:
    """x [M,C_in] on cells [M,3] -> one row a coarsest cell, [N,C_last], and those cells [N,3]."""
    x = sparse.gelu(weights.layer_norm("embedding.stem.norm", weights.linear("embedding.stem.linear", x)))
    for stage, depth in enumerate(point["enc_depths"]):
        if stage:
            x, cells = pooling(x, cells, point["stride"][stage - 1], weights.below(f"enc.enc{stage}.down"))
        around = sparse.neighbours(cells, 3, "z")  # the weight's axes are x, y, z, and the last varies fastest
        sequences = [sparse.z_order_codes(cells, order).argsort() for order in point["order"]]
        for i in range(depth):
            x = block(x, around, sequences[i % len(sequences)], weights.below(f"enc.enc{stage}.block{i}"),
                      point["enc_num_head"][stage], point["enc_patch_size"][stage], kind)
    return x, cells


def pooling(x: Tensor, cells: Tensor, stride: int, weights: Weights) -> tuple[Tensor, Tensor]:
    parents, row = sparse.coarsen(cells, stride)
    x = sparse.pool_max(weights.linear("proj", x), row, len(parents))
    return sparse.gelu(weights.layer_norm("norm.0", x)), parents


def block(x: Tensor, around: Tensor, sequence: Tensor, weights: Weights, heads: int, patch: int, kind: str) -> Tensor:
    y = subm3(x, around, weights.below("cpe.0"))
    x = x + weights.layer_norm("cpe.2", weights.linear("cpe.1", y))
    x = x + patch_attention(weights.layer_norm("norm1.0", x), sequence, weights.below("attn"), heads, patch, kind)
    y = sparse.gelu(weights.linear("mlp.0.fc1", weights.layer_norm("norm2.0", x)))
    return x + weights.linear("mlp.0.fc2", y)


def subm3(x: Tensor, around: Tensor, weights: Weights) -> Tensor:
    kernel = weights["weight"].flatten(1, 3).permute(1, 2, 0)  # [C_out,3,3,3,C_in] -> [27,C_in,C_out]
    return sparse.convolve(x, around, kernel) + weights["bias"]


def patch_attention(x: Tensor, sequence: Tensor, weights: Weights, heads: int, patch: int, kind: str) -> Tensor:
    return weights.linear("proj", sparse.patch_attention(weights.linear("qkv", x), sequence, patch, heads, weights.wide, kind))


# ---------------------------------------------------------------------------------------------------------------------
# What both end with

def fourier_features(v: Tensor) -> Tensor:
    """v [N,3] -> [N,63]: v, then for each of ten frequencies s, spaced evenly from 1 to 30, sin(π s v) and cos(π s v)."""
    parts = [v]
    for b in range(FREQUENCIES):
        angle = math.pi * (1 + 29 * b / (FREQUENCIES - 1)) * v
        parts += [angle.sin(), angle.cos()]
    return torch.cat(parts, dim=1)


def positions(cells: Tensor, config: EncoderConfig, wide: torch.dtype) -> Tensor:
    """Token cells [N,3] as Fourier features see them."""
    c = cells.to(wide)
    if config.coord_norm == "grid":
        return c / (config.reduced_grid_size - 1)
    low, high = c.amin(0), c.amax(0)
    return (c - low) / (high - low).clamp(min=1)


def project(x: Tensor, weights: Weights, projector: str) -> Tensor:
    if projector == "linear":
        return weights.linear("point_proj", x)
    return weights.linear("point_proj.2", sparse.gelu(weights.linear("point_proj.0", x)))


def encode_points(grid: Tensor, features: Tensor, tensors: dict[str, Tensor], config: EncoderConfig, wide: torch.dtype,
                  kind: str = "eager") -> tuple[Tensor, Tensor]:
    """grid [M,3], features [M,C_in] -> tokens [N,hidden] after the projector and their coordinates [N,3].

    Computed in the type of `tensors`; `kind` is that of `operators.attention`.
    """
    weights = Weights(tensors, wide)
    backbone = weights.below("point_backbone")
    if config.backbone == "scenescript":
        x, cells = scenescript(features, grid, backbone, config.point["conv_layers"])
    else:
        x, cells = sonata(features, grid, backbone, config.point, kind)
    where = fourier_features(positions(cells, config, wide)).to(x.dtype)
    x = backbone.linear("input_proj", torch.cat([x, where], dim=1))
    if config.backbone == "scenescript":
        x = x + backbone["extra_embedding"]
    return project(x, weights, config.projector), cells


# ---------------------------------------------------------------------------------------------------------------------
# Requests

def check_cells(grid: Tensor, num_bins: int):
    """Raises Refused unless grid [M,3] is what voxelize gives: in 0 .. num_bins-1, each cell once, in order."""
    if not len(grid):
        raise Refused("grid has no rows; encode_points needs at least one occupied cell")
    last, reason = min((num_bins - 1, "num_bins - 1"), ((1 << sparse.AXIS_BITS) - 1, "codes have 63 bits"))
    outside = (grid < 0) | (grid > last)
    if outside.any():
        row, axis = outside.nonzero()[0].tolist()
        raise Refused(f"grid[{row}, {axis}] is {grid[row, axis].item()}, expected 0 to {last} ({reason})")
    key = sparse.keys(grid)
    wrong = (key[1:] <= key[:-1]).nonzero().flatten()
    if len(wrong):
        row = int(wrong[0])
        this, following = grid[row].tolist(), grid[row + 1].tolist()
        problem = f"repeats row {row}" if this == following else f"comes after {this}, row {row}"
        raise Refused(f"grid row {row + 1} is {following} and {problem}; expected each cell once, in the order of x, then y, "
                      "then z")
