"""Configuration: every option of specification section 8, checked by name, type and value.

A wrong configuration never turns into a wrong number: a misspelt key, a value of another type and a value outside its
list are all refused with the valid ones named ("Flase" once switched a feature on).
"""

import math
from dataclasses import dataclass
from typing import Any, Callable

from transformers import Qwen2Config

from .errors import Refused


# ---------------------------------------------------------------------------------------------------------------------
# Kinds of values. Each checker returns the value it accepts or raises ValueError with what it expected.

def integer(at_least: int) -> Callable:
    def check(value):
        if isinstance(value, float) and value.is_integer():
            value = int(value)  # JSON writers may print 4 as 4.0
        if isinstance(value, bool) or not isinstance(value, int) or not at_least <= value < 2**31:
            raise ValueError(f"an integer of at least {at_least}")
        return value
    return check


def number(text: str, accept: Callable[[float], bool]) -> Callable:
    def check(value):
        if isinstance(value, bool) or not isinstance(value, (int, float)):
            raise ValueError(text)
        try:
            value = float(value)
        except OverflowError:
            value = math.inf
        if not (math.isfinite(value) and accept(value)):
            raise ValueError(text)
        return value
    return check


def boolean(value):
    if not isinstance(value, bool):
        raise ValueError("true or false")
    return value


def choice(*names: str) -> Callable:
    def check(value):
        if not isinstance(value, str) or value not in names:
            raise ValueError("one of " + ", ".join(f'"{name}"' for name in names))
        return value
    check.default = names[0]
    return check


positive = number("a number above 0", lambda v: v > 0)

STRATEGY = choice("half_spatial_half_temp", "full_spatial", "full_temporal", "custom_ratio")
LAYOUT = choice("contiguous", "interleaved")
TEMPORAL = choice("gathered", "native")
KIND = choice("mixed", "axial")
NORM = choice("grid", "none", "unit_range", "virtual_resolution")
DRIFT = choice("none", "average", "pointwise")
DECODE_MASK = choice("pad_end", "spliced")
OVERFLOW = choice("error", "clip")

# key -> (default, checker). A default of None means that the option has none, and JSON's null stands for that.
OPTIONS: dict[str, tuple[Any, Callable]] = {
    "rope_theta_3d": (100.0, number("a number above 1", lambda v: v > 1)),
    "spatial_temporal_separate_strategy": (STRATEGY.default, STRATEGY),
    "spatial_ratio": (None, number("a number from 0 to 1", lambda v: 0 <= v <= 1)),
    "mixed_rope_layout": (LAYOUT.default, LAYOUT),
    "temporal_rope": (TEMPORAL.default, TEMPORAL),
    "rope_mixed_3d": (True, boolean),
    "mixedRoPE_3d_learned_per_axis": (True, boolean),
    "mixedRoPE_3d_learned_axial_mixing_weight": (True, boolean),
    "rope_3d_kind": (KIND.default, KIND),
    "coord_norm": (NORM.default, NORM),
    "drift": (DRIFT.default, DRIFT),
    "virtual_resolution": (None, positive),
    "num_bins": (1280, integer(1)),
    "downsamplings": (4, integer(0)),
    "cell_size": (0.025, positive),
    "reduced_grid_size": (None, integer(1)),  # resolved to num_bins / 2^downsamplings
    "point_start_token_id": (151652, integer(0)),
    "point_end_token_id": (151653, integer(0)),
    "point_token_id": (151654, integer(0)),
    "decode_mask": (DECODE_MASK.default, DECODE_MASK),
    "grid_overflow": (OVERFLOW.default, OVERFLOW),
}

# Hugging Face's decoder keys. None of them has a default here.
SIZES: dict[str, Callable] = {
    "hidden_size": integer(1),
    "intermediate_size": integer(1),
    "num_hidden_layers": integer(1),
    "num_attention_heads": integer(1),
    "num_key_value_heads": integer(1),
    "head_dim": integer(1),
    "vocab_size": integer(1),
    "rope_theta": positive,
    "rms_norm_eps": positive,
}
# Where null is no value of another type: no default, or one that follows from other keys or the weights.
NULL_ALLOWED = {"spatial_ratio", "virtual_resolution", "reduced_grid_size", "tie_word_embeddings", *SIZES}


def only(expected, text: str) -> Callable:
    def check(value):
        if type(value) is not type(expected) or value != expected:
            raise ValueError(f"{text}, the only one implemented")
        return value
    return check


FIXED: dict[str, Callable] = {
    "tie_word_embeddings": boolean,
    "hidden_act": only("silu", '"silu"'),
    "rope_scaling": only(None, "null"),
    "use_sliding_window": only(False, "false"),
}

CHECKERS: dict[str, Callable] = {**{key: check for key, (_, check) in OPTIONS.items()}, **SIZES, **FIXED}


# ---------------------------------------------------------------------------------------------------------------------
# Names

def plain(key: str) -> str:
    """The letters of a key, apart from case, `_` and `-`."""
    return key.lower().replace("_", "").replace("-", "")


def edit_distance(a: str, b: str) -> int:
    """Levenshtein distance: insertions, deletions and substitutions of one character."""
    row = list(range(len(b) + 1))
    for i, x in enumerate(a, 1):
        previous, row[0] = row[0], i
        for j, y in enumerate(b, 1):
            previous, row[j] = row[j], min(row[j] + 1, row[j - 1] + 1, previous + (x != y))
    return row[-1]


def meant(key: str, checkers: dict = CHECKERS, distance: int = 2) -> str | None:
    """The key of `checkers` that an unknown one looks like, else None."""
    for known in checkers:
        near = abs(len(key) - len(known)) <= distance and edit_distance(key, known) <= distance
        if plain(key) == plain(known) or near:
            return known
    return None


def check(config: dict) -> dict:
    """The keys of `config` that mean something here, each value checked; other keys are ignored unless they look misspelt.

    null stays null where it is allowed. Raises Refused.
    """
    if not isinstance(config, dict):
        raise Refused(f"config is a JSON {type(config).__name__}, expected an object")
    values = {}
    for key, value in config.items():
        if key not in CHECKERS:
            known = meant(key)
            if known:
                raise Refused(f'config key "{key}" is unknown; it looks like "{known}": correct or remove it')
        elif value is None and key in NULL_ALLOWED:
            values[key] = None
        else:
            try:
                values[key] = CHECKERS[key](value)
            except ValueError as expected:
                raise Refused(f"config key {key} is {shown(value)}, expected {expected}") from None
    return values


def shown(value) -> str:
    text = repr(value) if not isinstance(value, str) else f'"{value}"'
    text = {"None": "null", "True": "true", "False": "false"}.get(text, text)
    return text if len(text) <= 80 else text[:77] + "..."


# ---------------------------------------------------------------------------------------------------------------------
# A whole configuration

class Options:
    """A checked configuration with its defaults filled in: `options.drift`, `options.need("rope_theta", "rope1d")`.

    Sizes that are not given are None. Rules that join several keys are checked here, with the numbers in the message.
    """

    def __init__(self, config: dict):
        self.given = check(config)
        for key, (default, _) in OPTIONS.items():
            setattr(self, key, self.given.get(key, default))
        for key in (*SIZES, "tie_word_embeddings"):
            setattr(self, key, self.given.get(key))
        self._check_grid()
        self._check_heads()
        self.head_dim = self._head_dim()
        if self.spatial_temporal_separate_strategy == "custom_ratio" and self.spatial_ratio is None:
            raise Refused('spatial_temporal_separate_strategy "custom_ratio" needs spatial_ratio, which has no default')
        if self.coord_norm == "virtual_resolution" and self.virtual_resolution is None:
            raise Refused('coord_norm "virtual_resolution" needs virtual_resolution, which has no default')
        if self.head_dim is not None:
            head_split(self, self.head_dim)

    def _check_grid(self):
        if self.num_bins % 2**self.downsamplings:
            raise Refused(f"num_bins {self.num_bins} does not divide by 2^downsamplings = 2^{self.downsamplings}")
        if self.reduced_grid_size is None:
            self.reduced_grid_size = self.num_bins // 2**self.downsamplings

    def _check_heads(self):
        heads, kv_heads = self.num_attention_heads, self.num_key_value_heads
        if heads is not None and kv_heads is not None and heads % kv_heads:
            raise Refused(f"num_attention_heads {heads} is no multiple of num_key_value_heads {kv_heads}")

    def _head_dim(self) -> int | None:
        if self.head_dim is not None or self.hidden_size is None or self.num_attention_heads is None:
            return self.head_dim
        if self.hidden_size % self.num_attention_heads:
            raise Refused(f"head_dim is not given and hidden_size {self.hidden_size} is no multiple of "
                          f"num_attention_heads {self.num_attention_heads}")
        return self.hidden_size // self.num_attention_heads

    def need(self, key: str, user: str):
        """The value of a size, which `user` cannot do without. Raises Refused naming it."""
        value = getattr(self, key)
        if value is None:
            extra = ", or hidden_size and num_attention_heads" if key == "head_dim" else ""
            raise Refused(f"config lacks {key}{extra}: {user} needs it and it has no default")
        return value

    def check_normalization(self):
        """Raises Refused where coordinates could not be normalised whatever they are."""
        if self.coord_norm == "grid" and self.reduced_grid_size == 1:
            raise Refused('reduced_grid_size is 1: coord_norm "grid" divides by reduced_grid_size - 1 = 0')

    @property
    def learned(self) -> bool:
        """Whether the 3D frequencies are parameters."""
        return self.rope_mixed_3d and self.rope_3d_kind == "mixed"

    @property
    def frequency_axes(self) -> int:
        return 3 if self.mixedRoPE_3d_learned_per_axis else 1


@dataclass(frozen=True)
class HeadSplit:
    """Which dimensions of a head are spatial and which temporal, both ascending (section 3.3)."""

    spatial: tuple[int, ...]
    temporal: tuple[int, ...]

    @property
    def bins(self) -> int:
        return len(self.spatial) // 2


def head_split(options: Options, head_dim: int) -> HeadSplit:
    """Section 3.3 and the first rows of section 8. Raises Refused where head_dim cannot be split as asked."""
    if head_dim % 2 or head_dim < 2:
        raise Refused(f"head_dim is {head_dim}; rotations need pairs, so an even number of at least 2")
    strategy = options.spatial_temporal_separate_strategy
    ratio = {"half_spatial_half_temp": 0.5, "full_spatial": 1.0, "full_temporal": 0.0}.get(strategy, options.spatial_ratio)
    spatial = head_dim * ratio
    if abs(spatial - round(spatial)) <= 1e-9 * head_dim:  # 0.58 * 100 is 57.99999999999999 in binary64
        spatial = round(spatial)
    if spatial % 2:
        asked = f"spatial_ratio {ratio}" if strategy == "custom_ratio" else strategy
        raise Refused(f"{asked} gives {spatial:g} spatial dimensions of head_dim {head_dim}; expected an even integer")
    n_spatial, n_temporal = int(spatial), head_dim - int(spatial)
    if options.rope_3d_kind == "axial" and axial_bins(n_spatial) == 0:
        raise Refused(f'rope_3d_kind "axial" gives 0 bins for each axis with {n_spatial} spatial dimensions; it needs 6')
    if options.mixed_rope_layout == "contiguous":
        dims = range(head_dim)
        return HeadSplit(tuple(dims[:n_spatial]), tuple(dims[n_spatial:]))
    g = math.gcd(n_spatial, n_temporal)
    unit, temporal_in_unit = head_dim // g, n_temporal // g
    if unit > 8:
        raise Refused(f"mixed_rope_layout \"interleaved\" with {n_spatial} spatial and {n_temporal} temporal dimensions "
                      f"has units of {unit} dimensions; at most 8 are allowed")
    return HeadSplit(tuple(d for d in range(head_dim) if d % unit >= temporal_in_unit),
                     tuple(d for d in range(head_dim) if d % unit < temporal_in_unit))


def axial_bins(n_spatial: int) -> int:
    """Frequency bins of each axis when `rope_3d_kind` is `axial`."""
    return n_spatial // 3 // 2


# ---------------------------------------------------------------------------------------------------------------------
# The library's configuration class

class MixedRope3DConfig(Qwen2Config):
    """Qwen2's configuration with the options of MixedRoPE3D, checked as above.

    Two further arguments choose the arithmetic, not the model: `true_precision` computes RMSNorm, rotary tables and
    softmax in the model's own type where the library casts them down to float32; `inner_attention` is `eager` (the
    library's order of operations), `sdpa`, or `eager_prescaled` (queries scaled before the product, so that float16
    scores do not overflow).
    """

    model_type = "mixedrope3d"

    def __init__(self, true_precision: bool = False, inner_attention: str = "eager", **kwargs):
        self.true_precision = boolean(true_precision)
        self.inner_attention = choice("eager", "sdpa", "eager_prescaled")(inner_attention)
        sizes = Qwen2Config().to_dict()
        given = {key: value for key, value in kwargs.items() if value is not None or key not in SIZES}
        derived_head = {"head_dim": None} if "head_dim" not in given else {}
        options = Options({**{key: sizes[key] for key in SIZES if key in sizes}, **derived_head, **given})
        for key in OPTIONS:
            setattr(self, key, getattr(options, key))
        kwargs.update(head_dim=options.head_dim, num_key_value_heads=options.num_key_value_heads)
        super().__init__(**{key: value for key, value in kwargs.items() if key not in OPTIONS})

    def options(self) -> Options:
        return Options({key: getattr(self, key) for key in CHECKERS})
