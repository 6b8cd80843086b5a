"""Answers the protocol's requests with the PyTorch model."""

import torch

from .errors import Refused, Unsupported

__all__ = ["Refused", "Server", "Unsupported"]


class Server:
    """One arithmetic and its sessions. `dtype` is the tier's storage type, which floating inputs must have."""

    def __init__(self, dtype: torch.dtype, true_precision: bool, attention: str = "eager"):
        self.dtype, self.true_precision, self.attention = dtype, true_precision, attention

    def answer(self, op: str, config: dict, meta: dict[str, str],
               tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        raise Unsupported(op)
