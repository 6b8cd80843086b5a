"""Random data of the suite: Philox4x64-10 streams, distributions, conversions (docs/generator.md).

A value depends on seed, stream name and element index alone, and on nothing but integer and correctly rounded
arithmetic, so C (ref/base/random.c) draws the same bits.

    python golden/mr3d_random.py --digests > golden/random_digests.json
"""

import argparse
import hashlib
import json
import math
import sys

import numpy as np

# How a tensor of each safetensors type is held: BF16 as its 16-bit codes, all others as NumPy's own type.
STORAGE = {
    "F64": np.float64, "F32": np.float32, "F16": np.float16, "BF16": np.uint16,
    "I64": np.int64, "I32": np.int32, "U8": np.uint8, "BOOL": np.bool_,
}
CHUNK = 1 << 20  # elements drawn at a time, a multiple of Philox's 4 words


def fnv1a64(text):
    """FNV-1a, 64 bits, of a text in UTF-8."""
    value = 0xcbf29ce484222325
    for byte in text.encode():
        value = (value ^ byte) * 0x100000001b3 & (1 << 64) - 1
    return value


def raw(seed, stream, start, count):
    """Words start .. start+count-1 of a stream, uint64. NumPy steps the counter before each block of four."""
    engine = np.random.Philox(counter=start // 4, key=np.array([seed, fnv1a64(stream)], dtype=np.uint64))
    skip = start % 4
    return engine.random_raw(skip + count)[skip:]


# One function a distribution: words (uint64) and the recipe to binary64 values, before scale and shift.

def uniform(word, recipe):
    lo, hi = float(recipe["lo"]), float(recipe["hi"])
    return lo + (hi - lo) * ((word >> np.uint64(11)).astype(np.float64) * 2.0 ** -53)


def fields(word):
    """The four 16-bit fields, lowest first."""
    return [(word >> np.uint64(16 * k) & np.uint64(0xFFFF)).astype(np.float64) for k in range(4)]


def normal(word, recipe):
    w0, w1, w2, w3 = fields(word)
    return (w0 + w1 + w2 + w3 - 131070.0) * float.fromhex("0x1.bb67ae86627e8p-16")


def heavy(word, recipe):
    w0, w1, w2, w3 = fields(word)
    tail = np.minimum(1.0 / np.sqrt((w3 + 0.5) / 65536.0), 8.0)
    return ((w0 + w1 + w2 - 98302.5) * float.fromhex("0x1.0000000080000p-15")) * tail


def integer(word, recipe):
    lo, hi = recipe["lo"], recipe["hi"]
    return ((word >> np.uint64(11)) % np.uint64(hi - lo + 1)).astype(np.float64) + lo


DISTRIBUTIONS = {"uniform": uniform, "normal": normal, "heavy": heavy, "int": integer}


def elements(recipe, seed, stream, start, count):
    """Elements start .. start+count-1 (row-major) of a `dist` recipe in binary64, without repeat and poke."""
    shape, dist = recipe["shape"], recipe["dist"]
    index = np.arange(start, start + count, dtype=np.int64)
    if dist == "const":
        value = np.ones(count)
    elif dist == "onehot":
        value = (index % shape[-1] == index // shape[-1] % shape[-2] % shape[-1]).astype(np.float64)
    else:
        value = DISTRIBUTIONS[dist](raw(seed, stream, start, count), recipe)
    value = value * float(recipe.get("scale", 1))
    value = value + float(recipe.get("shift", 0))
    if "outliers" in recipe:
        every = recipe["outliers"]["every"]
        channel = index % shape[-1]
        value = np.where(channel % every == every - 1, value * float(recipe["outliers"]["by"]), value)
    return value


def draw(recipe, seed, stream):
    """The tensor of a `dist` recipe (poke excepted), in the storage of its dtype."""
    shape, dtype = recipe["shape"], recipe["dtype"]
    if (recipe.get("repeat") or recipe["dist"] == "onehot") and len(shape) < 2:
        raise ValueError(f"{stream}: repeat and onehot need two axes at least, shape is {shape}")
    total = math.prod(shape)
    out = np.empty(total, STORAGE[dtype])
    if recipe.get("repeat"):
        block = shape[-2] * shape[-1]
        for start in range(0, total, block) if total else []:
            row = convert(elements(recipe, seed, stream, start, shape[-1]), dtype)
            out[start:start + block] = np.tile(row, shape[-2])
    else:
        for start in range(0, total, CHUNK):
            count = min(CHUNK, total - start)
            out[start:start + count] = convert(elements(recipe, seed, stream, start, count), dtype)
    return out.reshape(shape)


def convert(value, dtype):
    """binary64 values to the storage of a type, one rounding to nearest even."""
    value = np.asarray(value, dtype=np.float64)
    with np.errstate(over="ignore"):
        if dtype == "BF16":
            return bf16_codes(value)
        if dtype in ("F64", "F32", "F16"):
            return np.where(np.isnan(value), np.nan, value).astype(STORAGE[dtype])
    whole = value.astype(np.int64)
    stored = whole.astype(STORAGE[dtype])
    if not (np.all(whole == value) and np.all(stored == whole)):
        raise ValueError(f"values do not fit type {dtype}")
    return stored


def bf16_codes(value):
    """binary64 to BF16 codes. Rounded to 8 significant bits (fewer when subnormal) by scaling with powers of two, which
    is exact; the result is a binary32 number whose upper half is the code."""
    _, exponent = np.frexp(value)  # |value| in [2^(exponent-1), 2^exponent)
    step = np.maximum(exponent - 1, -126) - 7
    with np.errstate(over="ignore", invalid="ignore"):
        rounded = np.ldexp(np.rint(np.ldexp(value, -step)), step)
        rounded = np.where(np.isfinite(value), rounded, value).astype(np.float32)
    codes = (rounded.view(np.uint32) >> np.uint32(16)).astype(np.uint16)
    return np.where(np.isnan(value), np.uint16(0x7FC0), codes)


def widen(stored, dtype):
    """The stored values in binary64, exactly."""
    if dtype == "BF16":
        stored = (stored.astype(np.uint32) << np.uint32(16)).view(np.float32)
    with np.errstate(invalid="ignore"):  # signalling NaNs
        return stored.astype(np.float64)


# Streams whose digests both implementations must give.

DIGEST_RAW = [(0, "raw", 4), (0, "raw", 1001), (1, "rope1d/canonical/0/x", 1000), (2 ** 64 - 1, "raw/ü", 1000)]
DIGEST_RECIPES = [
    {"dist": "uniform", "lo": -1, "hi": 1},
    {"dist": "uniform", "lo": 0.2, "hi": 4},
    {"dist": "normal"},
    {"dist": "normal", "scale": 0.3, "shift": -0.7},
    {"dist": "normal", "scale": 1e-6},
    {"dist": "heavy", "scale": 30},
    {"dist": "heavy", "scale": 0.02, "outliers": {"every": 97, "by": 40}},
    {"dist": "heavy", "scale": -0.1, "shift": 0.05, "outliers": {"every": 3, "by": -7.3}, "repeat": True},
    {"dist": "const", "scale": 1e-41},
    {"dist": "onehot", "scale": -2},
]
DIGEST_INTEGERS = [
    ({"dist": "int", "lo": 0, "hi": 79}, ["I64", "I32", "U8", "F32"]),
    ({"dist": "int", "lo": 0, "hi": 1}, ["I64", "BOOL"]),
    ({"dist": "int", "lo": -1000, "hi": 150000, "scale": 0.125}, ["F64", "F32"]),
]


def digests():
    """The content of golden/random_digests.json."""
    raws = [{"seed": str(seed), "stream": stream, "count": count,
             "sha256": sha256(raw(seed, stream, 0, count).astype("<u8"))} for seed, stream, count in DIGEST_RAW]
    tensors = []
    wanted = [(recipe, [3, 37, 193], ["F64", "F32", "F16", "BF16"]) for recipe in DIGEST_RECIPES]
    wanted += [(recipe, [5, 401], dtypes) for recipe, dtypes in DIGEST_INTEGERS]
    for number, (recipe, shape, dtypes) in enumerate(wanted):
        for dtype in dtypes:
            full = {"shape": shape, "dtype": dtype, **recipe}
            stream = f"digest/{number}/{dtype}"
            tensors.append({"seed": str(number), "stream": stream, "recipe": full,
                            "sha256": sha256(draw(full, number, stream))})
    return {"format": 1, "raw": raws, "tensors": tensors}


def sha256(array):
    return hashlib.sha256(np.ascontiguousarray(array).tobytes()).hexdigest()


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--digests", action="store_true", help="print the digests that golden/random_digests.json holds")
    if not parser.parse_args().digests:
        parser.error("nothing to do; say --digests")
    content = digests()
    lines = ['{"format": 1,', ' "raw": [']
    lines.append(",\n".join("  " + json.dumps(entry, ensure_ascii=False) for entry in content["raw"]) + "],")
    lines.append(' "tensors": [')
    lines.append(",\n".join("  " + json.dumps(entry) for entry in content["tensors"]) + "]}")
    print("\n".join(lines))
    return 0


if __name__ == "__main__":
    sys.exit(main())
