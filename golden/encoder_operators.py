"""The point encoders' operators one by one: inputs and what the PyTorch model makes of them in float64 (docs/cases.md).

    python golden/encoder_operators.py            write golden/encoder_operators.safetensors.gz
    python golden/encoder_operators.py --check    compare the PyTorch model with the committed file

Exit status: 0 good, 2 something differs, 1 could not run.
"""

import argparse
import gzip
import math
import pathlib
import sys

import torch

import cases
import generate
import mr3d_random
import recipes
from mixedrope3d import encoders, sparse

PATH = pathlib.Path(__file__).resolve().parent / "encoder_operators.safetensors.gz"
F64 = torch.float64
ROOM, DUST = cases.occupied(9, 110), cases.occupied(30, 2000)[::13]  # cells that touch, cells that hardly do
LAST = (1 << sparse.AXIS_BITS) - 1


class Case:
    """One call of one operator, OPERATOR/NAME: the tensors it is given and those it gives, as OPERATOR/NAME.TENSOR."""

    def __init__(self, tensors, operator, name):
        self.tensors, self.name = tensors, f"{operator}/{name}"

    def put(self, name, value):
        self.tensors[f"{self.name}.{name}"] = value
        return value

    def reals(self, name, *shape, dist="heavy", **keys):
        """Drawn; parameters with the digits of binary32, so that a file of them is short, and x with all, so that its products are rounded."""
        recipe = {"shape": list(shape), "dtype": "F64" if name == "x" else "F32", "dist": dist, **keys}
        if name == "x":
            recipe["scale"] = keys.get("scale", 1) * math.pi
        return self.put(name, torch.from_numpy(mr3d_random.draw(recipe, 0, f"encoder-operators/{self.name}.{name}")).to(F64))

    def affine(self, name, *shape):
        """NAME.weight of that shape, so that sums stay near 1, and NAME.bias."""
        terms = torch.Size(shape[1:]).numel()
        return {f"{name}.weight": self.reals(f"{name}.weight", *shape, scale=cases.rounded(terms ** -0.5 / 2)),
                f"{name}.bias": self.reals(f"{name}.bias", shape[0], scale=0.3)}

    def norm(self, channels, prefix=""):
        return self.reals(f"{prefix}weight", channels, dist="uniform", lo=0.2, hi=2), self.reals(f"{prefix}bias", channels, scale=0.3)

    def cells(self, cells, name="cells"):
        return self.put(name, torch.tensor(sorted(set(cells))))

    def numbers(self, **values):
        for name, value in values.items():
            self.put(name, torch.tensor([value]))


def z_order(case):
    ends = [(x, y, z) for x in (0, 1, LAST) for y in (0, 2, LAST) for z in (0, 4, LAST - 1)]
    for name, order in (("z", "z"), ("z-trans", "z-trans")):
        one = case("z_order", name)
        cells = one.cells(ROOM + ends)
        one.numbers(trans=int(order == "z-trans"))
        one.put("codes", sparse.z_order_codes(cells, order))


def coarse_cells(case):
    for name, cells, stride in (("halved", ROOM, 2), ("quartered", DUST, 4), ("even-largest", [(8, 8, 8), (3, 8, 0), (8, 1, 5)], 2), ("not-at-all", ROOM, 1)):
        one = case("coarse_cells", name)
        one.numbers(stride=stride)
        coarse, parent = sparse.coarsen(one.cells(cells), stride)
        one.put("coarse", coarse)
        one.put("parent", parent)


def submanifold_conv(case):
    for name, cells, k, c_in, c_out in (("k3", ROOM, 3, 5, 4), ("k3-wide", ROOM, 3, 24, 16), ("k7", ROOM, 7, 3, 4), ("k7-dust", DUST, 7, 3, 4)):
        one = case("submanifold_conv", name)
        cells = one.cells(cells)
        x, kernel = one.reals("x", len(cells), c_in), one.reals("kernel", k**3, c_in, c_out, scale=0.2)
        one.put("y", sparse.convolve(x, sparse.neighbours(cells, k, "x"), kernel))
    one = case("submanifold_conv", "sonata")
    cells = one.cells(ROOM)
    x, weights = one.reals("x", len(cells), 6), one.affine("conv", 5, 3, 3, 3, 6)
    one.put("y", encoders.subm3(x, sparse.neighbours(cells, 3, "z"), encoders.Weights(weights, F64, "conv.")))


def strided_conv(case):
    for name, cells in (("room", ROOM), ("dust", DUST), ("even-largest", [(8, 8, 8), (3, 8, 0), (8, 1, 5), (7, 8, 8)])):
        one = case("strided_conv", name)
        cells = one.cells(cells)
        coarse = one.put("coarse", sparse.coarsen(cells, 2)[0])
        x, kernel = one.reals("x", len(cells), 7), one.reals("kernel", 8, 7, 5, scale=0.2)
        one.put("y", sparse.convolve(x, sparse.children(cells, coarse), kernel))


def group_norm(case):
    """Values whose mean is far from 0, and small ones, of which eps is a large part, beside plain ones."""
    for operator, per_row in (("group_norm_sparse", False), ("group_norm_rows", True)):
        for name, channels, groups, keys in (("plain", 24, 8, {}), ("channel-a-group", 8, 8, {}), ("one-group", 4, 1, {}), ("far-from-0", 16, 8, {"shift": 20}), ("tiny", 16, 8, {"scale": 1e-3})):
            if per_row and groups == channels:
                continue  # each value is its own mean
            one = case(operator, name)
            one.numbers(groups=groups)
            x, (weight, bias) = one.reals("x", 60, channels, **keys), one.norm(channels)
            one.put("y", sparse.group_norm(x, groups, weight, bias, F64, per_row))


def layernorm(case):
    for name, channels, keys in (("c48", 48, {}), ("c512", 512, {}), ("far-from-0", 96, {"shift": 20}), ("tiny", 48, {"scale": 1e-3}), ("one-outlier", 96, {"outliers": {"every": 96, "by": 1000}})):
        one = case("layernorm", name)
        x, (weight, bias) = one.reals("x", 10, channels, **keys), one.norm(channels)
        one.put("y", sparse.layer_norm(x, weight, bias, F64))


def gelu(case):
    """Not the far left tail alone: 1 + erf, which is what torch computes, keeps few digits there."""
    for name, keys in (("near-0", {"scale": 1e-3}), ("usual", {"scale": 1}), ("tails", {"dist": "uniform", "lo": -12, "hi": 3}), ("below-0", {"dist": "uniform", "lo": -1, "hi": -0.3})):
        one = case("gelu", name)
        one.put("y", sparse.gelu(one.reals("x", 50, 20, **keys)))


def fourier_features(case):
    flat = [(x, y, 7) for x, y, _ in ROOM]
    for name, cells, coord_norm, size in (("grid-80", [(79, 0, 20), (5, 61, 33), (0, 0, 0), (79, 79, 79)], "grid", 80), ("grid-40", ROOM, "grid", 40), ("scene", DUST, "scene", 80), ("scene-flat", flat, "scene", 80)):
        one = case("fourier_features", name)
        one.numbers(scene=int(coord_norm == "scene"), reduced_grid_size=size)
        config = encoders.EncoderConfig("sonata", {}, "linear", 1, 1280, size, coord_norm)
        one.put("y", encoders.fourier_features(encoders.positions(one.cells(cells), config, F64)))


def patch_attention(case):
    for name, cells, order, patch, heads, channels in (("one-run", ROOM, "z", 1024, 3, 12), ("fillers", ROOM, "z-trans", 24, 2, 8), ("one-filler", ROOM[:47], "z", 24, 4, 16),
                                                       ("even-runs", ROOM[:96], "z-trans", 32, 1, 6), ("alone", ROOM, "z", 1, 2, 4), ("sharp", ROOM, "z", 40, 2, 8)):
        one = case("patch_attention", name)
        cells = one.cells(cells)
        one.numbers(trans=int(order == "z-trans"), patch=patch, heads=heads)
        x = one.reals("x", len(cells), channels, scale=4 if name == "sharp" else 1)
        weights = one.affine("qkv", 3 * channels, channels) | one.affine("proj", channels, channels)
        sequence = sparse.z_order_codes(cells, order).argsort()
        one.put("y", encoders.patch_attention(x, sequence, encoders.Weights(weights, F64), heads, patch, "eager"))


def grid_pooling(case):
    for name, cells, stride in (("halved", ROOM, 2), ("quartered", ROOM, 4), ("hardly", DUST, 2)):
        one = case("grid_pooling", name)
        cells = one.cells(cells)
        one.numbers(stride=stride)
        x, weights = one.reals("x", len(cells), 6), one.affine("proj", 10, 6)
        weight, bias = one.norm(10, "norm.0.")
        weights |= {"norm.0.weight": weight, "norm.0.bias": bias}
        one.put("y", encoders.pooling(x, cells, stride, encoders.Weights(weights, F64))[0])


def projector(case):
    for kind, names in (("linear", ("point_proj",)), ("mlp", ("point_proj.0", "point_proj.2"))):
        one = case("projector", kind)
        x, width, weights = one.reals("x", 25, 20), 20, {}
        for name in names:
            weights |= one.affine(name, 32, width)
            width = 32
        one.put("y", encoders.project(x, encoders.Weights(weights, F64), kind))


def fresh():
    """(tensors, metadata) of the file."""
    tensors = {}
    for operator in (z_order, coarse_cells, submanifold_conv, strided_conv, group_norm, layernorm, gelu, fourier_features, patch_attention, grid_pooling, projector):
        operator(lambda operator, name: Case(tensors, operator, name))
    return {name: recipes.from_torch(value) for name, value in tensors.items()}, {"seed": "0", "generator": generate.GENERATOR, **generate.LIBRARIES}


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--check", action="store_true", help="write nothing, compare with the committed file")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    made = fresh()
    if not arguments.check:
        PATH.write_bytes(gzip.compress(b"".join(recipes.safetensors(*made)), 9, mtime=0))
        print(f"{PATH.name}: {len(made[0])} tensors, {PATH.stat().st_size / 1e3:.0f} kB; list it anew with golden/generate.py")
        return 0
    if not PATH.exists():
        print(f"{PATH}: no such file; restore it from version control", file=sys.stderr)
        return 1
    apart = generate.difference(generate.load(PATH), made)
    if isinstance(apart, str) or not apart <= 1:
        print(f"{PATH.name}: {apart if isinstance(apart, str) else f'{apart:.3g} of the limit'}", file=sys.stderr)
        return 2
    print(f"{PATH.name}: {len(made[0])} tensors, {apart:.3g} of the limit of another machine")
    return 0


if __name__ == "__main__":
    sys.exit(main())
