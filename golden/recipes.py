"""Recipes to tensors, and a step of a case to a request (docs/cases.md).

A tensor is a pair of its safetensors type and a NumPy array in that type's storage (mr3d_random.STORAGE).
"""

import json
import math
import os
import pathlib
import struct
from typing import NamedTuple

import numpy as np

import mr3d_random

HERE = pathlib.Path(__file__).resolve().parent
TIERS = {"fp64": "F64", "fp32": "F32", "tf32": "F32", "bf16": "BF16", "fp16": "F16"}
SOURCES = {
    "dist": {"lo", "hi", "scale", "shift", "outliers", "repeat"},
    "values": set(), "arange": set(), "runs": set(), "prompt": set(), "scene": set(), "embeds": set(), "argmax": set(),
}
MARKERS = {"point_start_token_id": 151652, "point_end_token_id": 151653}


class RecipeError(ValueError):
    """A recipe or case that breaks docs/cases.md, or lacks its data; the message names it."""


class Tensor(NamedTuple):
    dtype: str
    array: np.ndarray


class Suite:
    """The content of cases.json."""

    def __init__(self, content):
        if content["format"] != 1:
            raise RecipeError(f"cases.json has format {content['format']}, this program reads format 1")
        self.weights = content["weights"]
        self.cases = {case["id"]: case for case in content["cases"]}

    @classmethod
    def load(cls, path=HERE / "cases.json"):
        return cls(json.loads(pathlib.Path(path).read_text()))


class Maker:
    """Makes the tensors of one case at one tier and seed. `logits` collects, by step, what `argmax` recipes look at."""

    def __init__(self, suite, case, tier="fp64", seed=0, data=None):
        self.suite, self.case, self.tier, self.seed = suite, case, tier, seed
        self.data = data or os.environ.get("MR3D_DATA")
        self.logits = {}

    def request(self, number):
        """Step `number` as (op, config, meta, tensors); meta lacks `weights`."""
        step = self.case["steps"][number]
        config = step.get("config", self.case["config"])
        tensors = {}
        for name, recipe in step["inputs"].items():
            tensors[name] = self.make(recipe, f"{self.case['id']}/{number}/{name}", number)
        return step["op"], config, dict(step.get("meta", {})), tensors

    def weight_set(self, number):
        """Name of the weight set of step `number`, or None."""
        return self.case["steps"][number].get("weights", self.case.get("weights"))

    def make(self, recipe, stream, number=0):
        recipe = {**recipe, "dtype": TIERS[self.tier] if recipe["dtype"] == "tier" else recipe["dtype"]}
        source = source_of(recipe, stream)
        if source == "dist":
            array = mr3d_random.draw(recipe, self.seed, stream)
        else:
            array = getattr(self, "make_" + source)(recipe, stream, number)
        if list(array.shape) != recipe["shape"] or array.dtype != mr3d_random.STORAGE[recipe["dtype"]]:
            raise RecipeError(f"{stream}: {source} gives {list(array.shape)} {array.dtype}, "
                              f"the recipe says {recipe['shape']} {recipe['dtype']}")
        for index, value in recipe.get("poke", {}).items():
            array.reshape(-1)[int(index)] = mr3d_random.convert(float(value), recipe["dtype"])
        return Tensor(recipe["dtype"], array)

    def make_values(self, recipe, stream, number):
        return reshaped(mr3d_random.convert(recipe["values"], recipe["dtype"]), recipe, stream)

    def make_arange(self, recipe, stream, number):
        start, step = recipe["arange"]
        index = np.arange(math.prod(recipe["shape"]), dtype=np.float64)
        return reshaped(mr3d_random.convert(start + step * index, recipe["dtype"]), recipe, stream)

    def make_runs(self, recipe, stream, number):
        values = [run for row in recipe["runs"] for run in row]
        flat = np.repeat(np.array([value for value, _ in values], dtype=np.float64), [count for _, count in values])
        return reshaped(mr3d_random.convert(flat, recipe["dtype"]), recipe, stream)

    def make_prompt(self, recipe, stream, number):
        if not self.data:
            raise RecipeError(f"{stream}: needs the data folder (prompt_ids.json); give --data or set MR3D_DATA")
        prompts = json.loads((pathlib.Path(self.data) / "prompt_ids.json").read_text())
        return np.array([prompts[recipe["prompt"]]], dtype=np.int64)

    def make_scene(self, recipe, stream, number):
        part = scene()[recipe["scene"]]
        return mr3d_random.convert(part, recipe["dtype"]) if recipe["scene"] == "features" else part.copy()

    def make_argmax(self, recipe, stream, number):
        logits = self.logits[recipe["argmax"][0]]
        return np.argmax(logits[:, -1, :], axis=-1, keepdims=True).astype(np.int64)

    def make_embeds(self, recipe, stream, number):
        """Rows of the embedding table and of `features`, spliced and padded as in spec.md section 2."""
        parts = recipe["embeds"]
        ids = self.make(parts["ids"], stream + ".ids").array
        features = self.make(parts["features"], stream + ".features").array
        counts = parts.get("point_counts", [features.shape[1]] * len(ids))
        name = self.weight_set(number)
        table = self.make(self.suite.weights[name]["model.embed_tokens.weight"],
                          f"{name}/model.embed_tokens.weight").array
        config = self.case["steps"][number].get("config", self.case["config"])
        start_id, end_id = (config.get(key, default) for key, default in MARKERS.items())
        samples = []
        for row, point, count in zip(ids, features, counts):
            if start_id in row:
                start, end = list(row).index(start_id), list(row).index(end_id)
                samples.append(np.concatenate([table[row[:start + 1]], point[:count], table[row[end:]]]))
            else:
                samples.append(table[row])
        longest = max(map(len, samples))
        return np.stack([np.concatenate([s, np.repeat(s[-1:], longest - len(s), axis=0)]) for s in samples])


def source_of(recipe, stream):
    """The key that says where the values come from, all keys checked."""
    sources = [key for key in SOURCES if key in recipe]
    if len(sources) != 1:
        raise RecipeError(f"{stream}: a recipe has exactly one of {', '.join(SOURCES)}, this one has {sources or 'none'}")
    unknown = set(recipe) - {"shape", "dtype", "poke", sources[0]} - SOURCES[sources[0]]
    if unknown or not {"shape", "dtype"} <= set(recipe):
        raise RecipeError(f"{stream}: a recipe with {sources[0]} needs shape and dtype and has no key {sorted(unknown)}")
    return sources[0]


def reshaped(flat, recipe, stream):
    if flat.size != math.prod(recipe["shape"]):
        raise RecipeError(f"{stream}: {flat.size} values for shape {recipe['shape']}")
    return flat.reshape(recipe["shape"])


# The canonical scene.

def read_ply(path):
    """Rows [N,6] (x, y, z, red, green, blue) in F32 of the scene's own file: little endian, float xyz, uchar colours."""
    blob = pathlib.Path(path).read_bytes()
    header, mark, body = blob.partition(b"end_header\n")
    lines = [line for line in header.decode("ascii").splitlines() if not line.startswith(("comment", "obj_info"))]
    properties = [f"property float {c}" for c in "xyz"] + [f"property uchar {c}" for c in ("red", "green", "blue")]
    element = lines[2].split() if len(lines) > 2 else []
    if (not mark or lines[:2] != ["ply", "format binary_little_endian 1.0"] or element[:2] != ["element", "vertex"]
            or lines[3:] != properties):
        raise RecipeError(f"{path}: not the PLY header of the canonical scene: {lines}")
    vertex = np.dtype([("position", "<f4", 3), ("colour", "u1", 3)])
    count = int(element[2])
    if len(body) != count * vertex.itemsize:
        raise RecipeError(f"{path}: {len(body)} bytes of vertices, {count} vertices need {count * vertex.itemsize}")
    rows = np.frombuffer(body, vertex)
    return np.concatenate([rows["position"], rows["colour"].astype(np.float32)], axis=1)


_scene = {}


def scene():
    """The canonical scene as `points`, `grid`, `features` and `coords`, by spec.md section 7."""
    if not _scene:
        import torch
        from mixedrope3d import operators
        from mixedrope3d.configuration import Options
        points = read_ply(HERE / "scene" / "canonical.ply")
        grid, features = operators.voxelize(torch.from_numpy(points), Options({}))
        coords, _ = operators.token_coords(grid, 4)
        _scene.update(points=points, grid=grid.numpy(), features=features.numpy(), coords=coords.numpy())
    return _scene


# Tensors to torch, and to files.

def to_torch(tensor):
    import torch
    array = torch.from_numpy(tensor.array)
    return array.view(torch.bfloat16) if tensor.dtype == "BF16" else array


def from_torch(value):
    """A torch tensor as a Tensor."""
    import torch
    names = {torch.float64: "F64", torch.float32: "F32", torch.float16: "F16", torch.bfloat16: "BF16",
             torch.int64: "I64", torch.bool: "BOOL"}
    value = value.detach().contiguous()
    stored = value.view(torch.int16).numpy().view(np.uint16) if value.dtype == torch.bfloat16 else value.numpy()
    return Tensor(names[value.dtype], stored)


def safetensors(tensors, metadata):
    """A safetensors file as a list of byte strings, aligned as the library's own writer does (widest type first). That
    writer orders metadata at random; here equal content is equal bytes."""
    header, parts, offset = {"__metadata__": dict(sorted(metadata.items()))}, [], 0
    for name, (dtype, array) in sorted(tensors.items(), key=lambda item: (-item[1].array.itemsize, item[0])):
        parts.append(np.ascontiguousarray(array))  # not its bytes: a model would be in memory twice
        header[name] = {"dtype": dtype, "shape": list(array.shape), "data_offsets": [offset, offset + array.nbytes]}
        offset += array.nbytes
    text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-len(text) % 8)
    return [struct.pack("<Q", len(text)), text, *parts]


def write_weights(suite, name, tier, seed, path):
    """The weight set `name` as one safetensors file at a tier."""
    maker = Maker(suite, {"id": name, "config": {}, "steps": []}, tier, seed)
    tensors = {key: maker.make(recipe, f"{name}/{key}") for key, recipe in suite.weights[name].items()}
    with open(path, "wb") as file:
        file.writelines(safetensors(tensors, {"set": name, "seed": str(seed), "tier": tier}))
