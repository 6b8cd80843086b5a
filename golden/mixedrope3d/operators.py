"""The operators of the protocol, from the specification alone, in plain PyTorch.

Every function computes in the type of its arguments. What the library casts to float32 whatever the model's type
(rotary tables, the norm's mean, softmax) is computed in the type `wide` instead: float64 for truth, float32 as shipped.
Arguments are trusted here; `answer.py` checks requests. Rules that only an operator can check raise Refused.

Sizes: B batch, T text tokens, N point tokens, S spliced tokens, L cached tokens, q new tokens, H query heads,
G key/value heads, D head_dim, F = Ds/2 bins of the spatial part.
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from .configuration import HeadSplit, Options, axial_bins
from .errors import Refused

IGNORED_LABEL = -100


# ---------------------------------------------------------------------------------------------------------------------
# Section 2: splice

@dataclass
class Spliced:
    source: Tensor  # [B,S]: an index into the text, or -1-k for point row k
    attention_mask: Tensor  # [B,S]
    point_token_mask: Tensor  # [B,S] bool
    labels: Tensor | None  # [B,S]


def splice(input_ids: Tensor, attention_mask: Tensor, point_counts: list[int], start_id: int, end_id: int,
           labels: Tensor | None = None) -> Spliced:
    """out = ids[.. start] ++ N point rows ++ ids[end ..], right-padded to the longest sample of the batch."""
    rows = []
    for b, (ids, count) in enumerate(zip(input_ids, point_counts)):
        start, end = find_markers(ids, count, start_id, end_id, f"sample {b}")
        text = torch.arange(len(ids))
        points = -1 - torch.arange(count)
        rows.append(torch.cat([text[:start + 1], points, text[end:]]))
    length = max(len(row) for row in rows)
    source = torch.stack([F.pad(row, (0, length - len(row)), value=int(row[-1]) if len(row) else 0) for row in rows])
    real = torch.stack([torch.arange(length) < len(row) for row in rows])
    is_point = (source < 0) & real
    text_index = source.clamp(min=0)

    def take(text: Tensor, at_points: int, at_padding: int) -> Tensor:
        taken = text.gather(1, text_index).masked_fill(is_point, at_points)
        return taken.masked_fill(~real, at_padding)

    return Spliced(source, take(attention_mask, 1, 0), is_point,
                   None if labels is None else take(labels, IGNORED_LABEL, IGNORED_LABEL))


def find_markers(ids: Tensor, count: int, start_id: int, end_id: int, who: str) -> tuple[int, int]:
    """(start, end) of one sample's markers; (-1, 0) where it has none and needs none."""
    starts = (ids == start_id).nonzero().flatten().tolist()
    ends = (ids == end_id).nonzero().flatten().tolist()
    if not starts and not ends and count == 0:
        return -1, 0
    if len(starts) != 1 or len(ends) != 1:
        raise Refused(f"{who} has {len(starts)} start markers ({start_id}) and {len(ends)} end markers ({end_id}) for "
                      f"{count} points; expected one of each" + (", or neither" if count == 0 else ""))
    if start_id == end_id:
        raise Refused(f"point_start_token_id and point_end_token_id are both {start_id}; the start must come before the end")
    if starts[0] > ends[0]:
        raise Refused(f"{who} has its start marker at {starts[0]}, behind its end marker at {ends[0]}")
    return starts[0], ends[0]


def splice_rows(spliced: Spliced, text: Tensor, points: list[Tensor]) -> Tensor:
    """The spliced embeddings [B,S,hidden] of text rows [B,T,hidden] and each sample's point rows [N_b,hidden]."""
    samples = []
    for source, sample_text, sample_points in zip(spliced.source, text, points):
        # Index -1-k counts from the end of the concatenation, so the points stand there in reverse.
        samples.append(torch.cat([sample_text, sample_points.flip(0).to(sample_text.dtype)])[source])
    return torch.stack(samples)


# ---------------------------------------------------------------------------------------------------------------------
# Section 4: mask

def mask(key_mask: Tensor | None, prefill_mask: Tensor | None, past_len: int, q_len: int, decode_mask: str,
         batch: int = 1) -> Tensor:
    """visible [B,q,L+q]: key j is visible to new query i exactly when j <= L + i and the key's mask holds 1."""
    total = past_len + q_len
    for name, given in (("key_mask", key_mask), ("prefill_mask", prefill_mask)):
        if given is not None:
            check_mask_length(name, given.shape[1], past_len, q_len)
    kept = prefill_mask if decode_mask == "spliced" and prefill_mask is not None else key_mask
    if kept is None:
        kept = torch.ones(batch, 0, dtype=torch.int64)
    kept = F.pad(kept, (0, total - kept.shape[1]), value=1)
    causal = torch.arange(total) <= past_len + torch.arange(q_len)[:, None]
    return causal & (kept == 1)[:, None, :]


def check_mask_length(name: str, length: int, past_len: int, q_len: int):
    """At prefill a mask has one entry for each key; at decode it may be shorter and is repaired, never longer."""
    total = past_len + q_len
    keys = f"{past_len} cached + {q_len} new = {total} keys"
    if length > total:
        raise Refused(f"{name} has {length} entries, {length - total} more than the {keys}; a mask may not be longer")
    if past_len == 0 and length < total:
        raise Refused(f"{name} has {length} entries for {keys}; at prefill (nothing cached) every key needs one")


# ---------------------------------------------------------------------------------------------------------------------
# Section 3.1: one-dimensional rotation

def inverse_frequencies(theta: float, dim: int, wide: torch.dtype) -> Tensor:
    """theta^(-2j/dim), j = 0 .. dim/2-1. In float32 the library's own expression, in float64 libm's pow."""
    if wide == torch.float32:
        return 1.0 / (theta ** (torch.arange(0, dim, 2, dtype=torch.int64).float() / dim))
    return torch.tensor([theta ** (-2 * j / dim) for j in range(dim // 2)], dtype=wide)


def rope_tables(position_ids: Tensor, theta: float, dim: int, wide: torch.dtype) -> tuple[Tensor, Tensor]:
    """cos and sin of θ[p,j] = p·inv_freq[j mod dim/2]: [..,q] -> two of [..,q,dim], the table repeated."""
    angles = position_ids[..., None].to(wide) * inverse_frequencies(theta, dim, wide)
    angles = torch.cat([angles, angles], dim=-1)
    return angles.cos(), angles.sin()


def rotate_half_split(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Dimension j is paired with j + D/2; each half has its own table entries (section 3.1 and 3.3)."""
    first, second = x.chunk(2, dim=-1)
    return x * cos + torch.cat([-second, first], dim=-1) * sin


def rope1d(x: Tensor, position_ids: Tensor, theta: float, wide: torch.dtype) -> Tensor:
    """x [B,heads,q,D], position_ids [B or 1,q]: section 3.1 on all of D."""
    cos, sin = rope_tables(position_ids, theta, x.shape[-1], wide)
    return rotate_half_split(x, cos[:, None].to(x.dtype), sin[:, None].to(x.dtype))


# ---------------------------------------------------------------------------------------------------------------------
# Section 3.2: three-dimensional rotation

def base_frequencies(options: Options, n_spatial: int, wide: torch.dtype) -> Tensor:
    """Fixed frequencies [3,1,F], the same for all heads: base, or one axis a bin where the kind is axial (section 8)."""
    theta, bins = options.rope_theta_3d, n_spatial // 2
    if options.rope_3d_kind == "mixed":
        return torch.tensor([theta ** (-2 * f / n_spatial) for f in range(bins)], dtype=wide).expand(3, 1, bins)
    n = axial_bins(n_spatial)
    freqs = torch.zeros(3, 1, bins, dtype=wide)
    for f in range(bins):
        axis = min(f // n, 2)
        freqs[axis, 0, f] = theta ** (-(f - axis * n) / n)
    return freqs


def cis3d(freqs: Tensor, axial_weights: Tensor | None, coords: Tensor, wide: torch.dtype) -> tuple[Tensor, Tensor]:
    """cos and sin [heads,N,F] of angle[h,n,f] = Σ_a w[h,f,a]·freqs[a,h,f]·c[n,a], a over x, y, z.

    freqs [3 or 1, heads or 1, F], axial_weights [heads,F,3], coords [N,3].
    """
    freqs, coords = freqs.to(wide), coords.to(wide)
    angle = 0
    for a in range(3):
        rate = freqs[a if len(freqs) == 3 else 0]  # [heads,F]
        if axial_weights is not None:
            rate = axial_weights[:, :, a].to(wide) * rate
        angle = angle + rate[:, None, :] * coords[:, a][None, :, None]
    return angle.cos(), angle.sin()


def rope3d(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Dimensions 2f and 2f+1 are one complex number, multiplied by cos + i·sin: x [..,N,Ds], cos and sin [..,N,F].

    Computed in the wider of the two types and rounded once: tables are never narrower than float32.
    """
    wide = torch.promote_types(torch.promote_types(x.dtype, cos.dtype), sin.dtype)
    re, im = x[..., 0::2].to(wide), x[..., 1::2].to(wide)
    return torch.stack([re * cos - im * sin, re * sin + im * cos], dim=-1).flatten(-2).to(x.dtype)


# ---------------------------------------------------------------------------------------------------------------------
# Section 3.4: coordinates

def normalize_coords(coords: Tensor, options: Options, wide: torch.dtype) -> Tensor:
    """One sample's token coordinates [N,3] after coord_norm, then drift."""
    c = coords.to(wide)
    if options.coord_norm == "grid":
        options.check_normalization()
        c = c / (options.reduced_grid_size - 1)
    elif options.coord_norm != "none" and len(c):
        low, high = c.amin(0), c.amax(0)
        c = (c - low) / (high - low + 1e-8)
        if options.coord_norm == "virtual_resolution":
            c = c * options.virtual_resolution
    if options.drift == "average":
        c = c + len(c) / 2
    elif options.drift == "pointwise":
        c = c + torch.arange(len(c), dtype=wide)[:, None]
    return c


@dataclass
class Points:
    """The point tokens of one call: which of its tokens they are and where each lies."""

    mask: Tensor  # [B,q] bool
    coords: list[Tensor]  # each sample's [N_b,3], normalised; row k belongs to its k-th marked token

    def any(self) -> bool:
        return any(len(coords) for coords in self.coords)


def gather_points(point_token_mask: Tensor, point_coords: Tensor, point_counts: list[int] | None, options: Options,
                  wide: torch.dtype) -> Points:
    """Pairs every marked token with its coordinates; raises Refused where their numbers differ."""
    if point_coords.dim() == 2:
        if len(point_token_mask) != 1:
            raise Refused(f"point_coords has shape {list(point_coords.shape)} for a batch of {len(point_token_mask)}; "
                          "each sample needs its own rows: [B,N,3]")
        point_coords = point_coords[None]
    rows = point_coords.shape[1]
    coords = []
    for b, marked in enumerate(point_token_mask.sum(1).tolist()):
        if point_counts is None:
            count, found = rows, f"point_coords has {rows} rows"
        else:
            count, found = point_counts[b], f"point_counts says {point_counts[b]}"
        where = f"sample {b}: " if len(point_token_mask) > 1 else ""
        if not 0 <= count <= rows:
            raise Refused(f"{where}{found}, point_coords has {rows} rows")
        if count != marked:
            raise Refused(f"{where}{found}, point_token_mask marks {marked}; there must be one row of coordinates for "
                          "each point token (the encoder's tokens, not the raw scan)")
        coords.append(normalize_coords(point_coords[b, :count], options, wide))
    return Points(point_token_mask, coords)


# ---------------------------------------------------------------------------------------------------------------------
# Section 3.3: mixed rotation

@dataclass
class Tables:
    """What a call's tokens are rotated by, apart from each layer's 3D parameters."""

    split: HeadSplit
    cos: Tensor  # [B or 1,q,D]
    sin: Tensor
    temporal_cos: Tensor  # [B or 1,q,Dt]
    temporal_sin: Tensor
    points: Points | None


def mixed_tables(position_ids: Tensor, split: HeadSplit, options: Options, points: Points | None, dtype: torch.dtype,
                 wide: torch.dtype) -> Tables:
    """Tables computed in `wide` and rounded to the activations' type, as the library rounds them."""
    head_dim = len(split.spatial) + len(split.temporal)
    cos, sin = (t.to(dtype) for t in rope_tables(position_ids, options.rope_theta, head_dim, wide))
    if options.temporal_rope == "gathered" or not split.temporal:
        temporal = [t[..., list(split.temporal)] for t in (cos, sin)]
    else:
        temporal = [t.to(dtype) for t in rope_tables(position_ids, options.rope_theta, len(split.temporal), wide)]
    return Tables(split, cos, sin, *temporal, points)


def mixed_rope(x: Tensor, tables: Tables, freqs: Tensor | None, axial_weights: Tensor | None,
               wide: torch.dtype) -> Tensor:
    """x [B,heads,q,D]: points turn by their coordinates and positions, all other tokens by section 3.1."""
    y = rotate_half_split(x, tables.cos[:, None], tables.sin[:, None])
    if tables.points is None or not tables.split.spatial:
        return y
    spatial, temporal = list(tables.split.spatial), list(tables.split.temporal)
    for b, coords in enumerate(tables.points.coords):
        tokens = tables.points.mask[b].nonzero().flatten()
        if not len(tokens):
            continue
        point = x[b, :, tokens]  # [heads,N,D]
        rotated = torch.empty_like(point)
        rotated[..., spatial] = rope3d(point[..., spatial], *cis3d(freqs, axial_weights, coords, wide))
        row = b if len(tables.cos) > 1 else 0
        rotated[..., temporal] = rotate_half_split(point[..., temporal], tables.temporal_cos[row, tokens],
                                                   tables.temporal_sin[row, tokens])
        y[b, :, tokens] = rotated
    return y


# ---------------------------------------------------------------------------------------------------------------------
# Section 6: decoder

def rmsnorm(x: Tensor, weight: Tensor, eps: float, wide: torch.dtype) -> Tensor:
    """x / sqrt(mean(x²) + eps) · weight over the last axis, in the library's order of casts."""
    h = x.to(wide)
    h = h * torch.rsqrt(h.pow(2).mean(-1, keepdim=True) + eps)
    return weight * h.to(x.dtype)


def linear(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """x [..,in] · weightᵀ [in,out] + bias."""
    return F.linear(x, weight, bias)


def swiglu(gate: Tensor, up: Tensor) -> Tensor:
    """silu(gate) · up, silu(g) = g / (1 + exp(-g))."""
    return F.silu(gate) * up


def repeat_heads(x: Tensor, times: int) -> Tensor:
    """[B,G,..] -> [B,G·times,..]: query head h reads KV head h div times."""
    return x.repeat_interleave(times, dim=1)


def attention(query: Tensor, key: Tensor, value: Tensor, visible: Tensor | None, wide: torch.dtype,
              kind: str = "eager") -> Tensor:
    """softmax(q·kᵀ/√D over visible keys)·v: query [B,H,q,D], key and value [B,G,K,D], visible [B,q,K] or None: all.

    A hidden key has weight exactly 0; a row that sees no key is 0. `eager` is the library's order of operations, which
    stores scores before scaling them (and overflows float16 on large key biases); `eager_prescaled` scales queries first.
    """
    groups = query.shape[1] // key.shape[1]
    key, value = repeat_heads(key, groups), repeat_heads(value, groups)
    visible = None if visible is None else visible[:, None]
    if kind == "sdpa":
        y = F.scaled_dot_product_attention(query, key, value, attn_mask=visible)
    else:
        scale = query.shape[-1] ** 0.5
        scores = (query / scale) @ key.mT if kind == "eager_prescaled" else query @ key.mT / scale
        if visible is not None:
            scores = scores.masked_fill(~visible, -torch.inf)
        weights = scores.softmax(-1, dtype=wide).to(query.dtype)
        y = weights @ value
    return y if visible is None else y.masked_fill(~visible.any(-1, keepdim=True), 0)


# ---------------------------------------------------------------------------------------------------------------------
# Section 7: from raw scan to tokens

def voxelize(points: Tensor, options: Options) -> tuple[Tensor, Tensor]:
    """points [N_raw,3 or 6] -> grid [M,3] int64, sorted, and features [M,3 or 6] float64. Binary64 throughout."""
    points = points.to(torch.float64)
    points = points[points.isfinite().all(1)]
    if not len(points):
        raise Refused("points has no row in which every value is finite: an empty cloud has no tokens")
    shifted = points[:, :3] - points[:, :3].amin(0)
    cells = torch.floor(shifted / options.cell_size)
    last = options.num_bins - 1
    if options.grid_overflow == "clip":
        cells = cells.clamp(max=last)
    elif cells.max() > last:
        row, axis = divmod(int(cells.argmax()), 3)
        raise Refused(f"finite row {row} of points has grid index {cells[row, axis]:.0f} on axis {'xyz'[axis]}; the last "
                      f'is num_bins - 1 = {last}. Use a larger num_bins or cell_size, or grid_overflow "clip"')
    cells, cell_of = torch.unique(cells.to(torch.int64), dim=0, return_inverse=True)
    first = torch.full((len(cells),), len(points)).scatter_reduce(0, cell_of, torch.arange(len(points)), "amin")
    features = [shifted[first]]
    if points.shape[1] == 6:
        colours = points[:, 3:]
        if colours.min() < 0 or colours.max() > 255:
            raise Refused(f"points holds colours from {colours.min():g} to {colours.max():g}, expected 0 to 255")
        features.append(colours[first] / 127.5 - 1)
    return cells, torch.cat(features, dim=1)


def token_coords(grid: Tensor, stages: int) -> tuple[Tensor, Tensor]:
    """Occupied cells [M,3] halved `stages` times: tokens [N,3], sorted, and how many distinct cells each merged [N]."""
    if grid.numel() and grid.min() < 0:
        row = int((grid < 0).any(1).nonzero()[0])
        raise Refused(f"grid row {row} is {grid[row].tolist()}; indices count from 0")
    cells = torch.unique(grid, dim=0) if len(grid) else grid
    coords, count = torch.unique(cells >> stages, dim=0, return_counts=True) if len(grid) else (grid, grid[:, 0])
    return coords, count
