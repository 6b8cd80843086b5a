"""Operators on the occupied cells of a grid, from encoders.md alone, in plain PyTorch.

A sparse tensor is a pair: `cells [M,3]` int64, distinct, not negative, below 2^21, in lexicographic order of (x,y,z), and
`x [M,C]`, a row of channels for each cell. Every function computes in the type of `x`; moments and softmax are taken in
the type `wide`, as in `operators.py`. Arguments are trusted here; `answer.py` checks requests.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from . import operators

EPS = 1e-5  # of LayerNorm and GroupNorm
AXIS_BITS = 21  # three indices of so many bits are one key of 63 bits
ROWS_AT_A_TIME = 4096  # of a convolution's neighbours and gathered inputs, to bound memory


# ---------------------------------------------------------------------------------------------------------------------
# Cells

def keys(cells: Tensor) -> Tensor:
    """One number a cell [M], ascending exactly where cells are in lexicographic order."""
    x, y, z = cells.unbind(-1)
    return ((x << AXIS_BITS) | y) << AXIS_BITS | z


def find(cells: Tensor, wanted: Tensor) -> Tensor:
    """Row of `cells` that holds each wanted index [..,3], -1 where that cell is not occupied (or not on the grid)."""
    known = keys(cells)
    on_grid = ((wanted >= 0) & (wanted < 1 << AXIS_BITS)).all(-1)
    key = keys(wanted.clamp(0, (1 << AXIS_BITS) - 1))
    row = torch.searchsorted(known, key).clamp(max=len(known) - 1)
    return torch.where(on_grid & (known[row] == key), row, -1)


def offsets(kernel: int, fastest: str) -> Tensor:
    """All offsets [k³,3] of a kernel, each axis counted from 0, in the order of a kernel's rows: `fastest` is "x" or "z"."""
    z_fastest = torch.cartesian_prod(*[torch.arange(kernel)] * 3)
    return z_fastest.flip(1) if fastest == "x" else z_fastest


def neighbours(cells: Tensor, kernel: int, fastest: str) -> Tensor:
    """Rows [M,k³] of the cells around each cell, itself in the middle, -1 where none is occupied. `kernel` is odd."""
    around = offsets(kernel, fastest) - (kernel - 1) // 2
    return torch.cat([find(cells, part[:, None] + around) for part in cells.split(ROWS_AT_A_TIME)])


def children(cells: Tensor, parents: Tensor) -> Tensor:
    """Rows [N,8] of the cells 2p + o, o in {0,1}³, z fastest, of each parent p; -1 where none is occupied."""
    return find(cells, 2 * parents[:, None] + offsets(2, "z"))


def coarsen(cells: Tensor, stride: int) -> tuple[Tensor, Tensor]:
    """floor(cell / stride) of all cells, each once and in order [N,3], and the new row of each old cell [M]."""
    parents, row = torch.unique(cells // stride, dim=0, return_inverse=True)
    return parents, row


# ---------------------------------------------------------------------------------------------------------------------
# Convolution, pooling

def convolve(x: Tensor, rows: Tensor, kernel: Tensor) -> Tensor:
    """y[p] = Σ_o W[o]ᵀ x[rows[p,o]], where a row of -1 adds nothing: x [M,C_in], rows [N,k³], kernel [k³,C_in,C_out].

    One product of gathered rows, so that a narrow type rounds each output once, as fused kernels do.
    """
    with_missing = torch.cat([x, torch.zeros_like(x[:1])])  # row -1 is the last one: zeros
    weight = kernel.flatten(0, 1)
    return torch.cat([with_missing[part].flatten(1) @ weight for part in rows.split(ROWS_AT_A_TIME)])


def pool_max(x: Tensor, row: Tensor, count: int) -> Tensor:
    """Maximum over the rows of x [M,C] that meet in one of `count` rows."""
    lowest = torch.full((count, x.shape[1]), -torch.inf, dtype=x.dtype)
    return lowest.scatter_reduce(0, row[:, None].expand_as(x), x, "amax")


# ---------------------------------------------------------------------------------------------------------------------
# Norms

def standardize(x: Tensor, dims: tuple[int, ...]) -> Tensor:
    """(x − mean) / sqrt(variance + eps) over `dims`, with the biased variance."""
    centred = x - x.mean(dims, keepdim=True)
    return centred * torch.rsqrt(centred.square().mean(dims, keepdim=True) + EPS)


def layer_norm(x: Tensor, weight: Tensor, bias: Tensor, wide: torch.dtype) -> Tensor:
    """x [M,C], over the channels of each row."""
    h = standardize(x.to(wide), (-1,))
    return (h * weight.to(wide) + bias.to(wide)).to(x.dtype)


def group_norm(x: Tensor, groups: int, weight: Tensor, bias: Tensor, wide: torch.dtype, per_row: bool = False) -> Tensor:
    """x [M,C], over a group's channels and all cells of the sample, or, `per_row`, over a group's channels of each row."""
    h = x.to(wide).unflatten(1, (groups, -1))
    h = standardize(h, (2,) if per_row else (0, 2)).flatten(1)
    return (h * weight.to(wide) + bias.to(wide)).to(x.dtype)


# ---------------------------------------------------------------------------------------------------------------------
# Orders and patches

AXES = {"z": (0, 1, 2), "z-trans": (1, 0, 2)}


def z_order_codes(cells: Tensor, order: str) -> Tensor:
    """Codes [M]: bit i of the first, second, third axis is bit 3i+2, 3i+1, 3i; "z-trans" exchanges x and y."""
    first, second, third = (cells[:, axis] for axis in AXES[order])
    code = torch.zeros_like(first)
    for i in range(AXIS_BITS):
        for place, axis in ((2, first), (1, second), (0, third)):
            code |= (axis >> i & 1) << 3 * i + place
    return code


def patches(sequence: Tensor, size: int) -> Tensor:
    """Runs [P,K] of a sequence [n], K = min(n, size). Where K does not divide n the last run holds the last n mod K in
    front and is filled with what stands at the same places of the run before."""
    n, k = len(sequence), min(len(sequence), size)
    rest = n % k
    if rest:
        whole = n - rest
        sequence = torch.cat([sequence, sequence[whole - k + rest:whole]])
    return sequence.view(-1, k)


def patch_attention(qkv: Tensor, sequence: Tensor, size: int, heads: int, wide: torch.dtype, kind: str) -> Tensor:
    """softmax(q·kᵀ/√(C/heads))·v inside each run of `sequence`, the tokens' rows in order: qkv [n,3C] -> [n,C].

    Fillers are queries and keys as others; only the outputs of the first n places are kept.
    """
    n, channels = len(qkv), qkv.shape[1] // 3
    runs = patches(sequence, size)
    kept = []
    for run in runs:  # one at a time, to bound memory
        q, k, v = qkv[run].view(1, len(run), 3, heads, channels // heads).permute(2, 0, 3, 1, 4)
        kept.append(operators.attention(q, k, v, None, wide, kind)[0].transpose(0, 1).reshape(len(run), channels))
    return torch.empty_like(qkv[:, :channels]).index_copy(0, sequence, torch.cat(kept)[:n])


# ---------------------------------------------------------------------------------------------------------------------
# Activation

def gelu(x: Tensor) -> Tensor:
    """x · (1 + erf(x/√2)) / 2: the exact one."""
    return F.gelu(x)
