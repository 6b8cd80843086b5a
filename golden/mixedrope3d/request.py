"""Reading a request: every tensor and every piece of metadata is checked before anything is computed.

Whatever does not fit is refused with the tensor's name, what was found and what was expected.
"""

import re
from dataclasses import dataclass, field

import torch
from torch import Tensor

from .errors import Refused

TYPE_NAMES = {
    torch.bool: "BOOL", torch.uint8: "U8", torch.int8: "I8", torch.int16: "I16", torch.int32: "I32",
    torch.int64: "I64", torch.float16: "F16", torch.bfloat16: "BF16", torch.float32: "F32", torch.float64: "F64",
}
COORDINATE_TYPES = (torch.int64, torch.float32, torch.float64)
ANGLE_TYPES = (torch.float32, torch.float64)


def type_name(dtype: torch.dtype) -> str:
    return TYPE_NAMES.get(dtype, str(dtype).removeprefix("torch."))


@dataclass
class Request:
    """One request. `sizes` holds the size each symbol (B, q, D ...) must have, and `origins` where it came from."""

    op: str
    meta: dict[str, str]
    tensors: dict[str, Tensor]
    dtype: torch.dtype
    sizes: dict[str, int | tuple] = field(default_factory=dict)
    origins: dict[str, str] = field(default_factory=dict)
    taken: set[str] = field(default_factory=set)

    def bind(self, origin: str, **sizes: int | None):
        for symbol, size in sizes.items():
            if size is not None:
                self.sizes[symbol] = size
                self.origins[symbol] = origin

    def shape(self, symbols: str) -> list[int]:
        return [int(symbol) if symbol.isdigit() else self.sizes[symbol] for symbol in symbols.split()]

    # -- tensors ------------------------------------------------------------------------------------------------------

    def floats(self, name: str, *shapes: str, optional: bool = False) -> Tensor | None:
        """A floating tensor of the tier's storage type."""
        return self._tensor(name, (self.dtype,), shapes, optional)

    def coordinates(self, name: str, *shapes: str, optional: bool = False) -> Tensor | None:
        return self._tensor(name, COORDINATE_TYPES, shapes, optional)

    def angles(self, name: str, *shapes: str) -> Tensor | None:
        return self._tensor(name, ANGLE_TYPES, shapes, False)

    def booleans(self, name: str, *shapes: str, optional: bool = False) -> Tensor | None:
        return self._tensor(name, (torch.bool,), shapes, optional)

    def integers(self, name: str, *shapes: str, optional: bool = False, at_least: int | None = None,
                 below: int | None = None, what: str = "") -> Tensor | None:
        tensor = self._tensor(name, (torch.int64,), shapes, optional)
        if tensor is not None:
            wrong = torch.zeros_like(tensor, dtype=torch.bool)
            if at_least is not None:
                wrong |= tensor < at_least
            if below is not None:
                wrong |= tensor >= below
            limits = f"{at_least} or more" if below is None else f"{at_least} to {below - 1}"
            self._refuse_first(name, tensor, wrong, limits + what)
        return tensor

    def mask(self, name: str, *shapes: str, optional: bool = False) -> Tensor | None:
        return self.integers(name, *shapes, optional=optional, at_least=0, below=2)

    def _tensor(self, name: str, types: tuple, shapes: tuple[str, ...], optional: bool) -> Tensor | None:
        tensor = self.tensors.get(name)
        expected_types = " or ".join(type_name(t) for t in types)
        if tensor is None:
            if optional:
                return None
            raise Refused(f"{name} is missing; {self.op} needs it as {expected_types} {self._shown(shapes)}")
        self.taken.add(name)
        if tensor.dtype not in types:
            raise Refused(f"{name} has type {type_name(tensor.dtype)}, expected {expected_types}")
        if not any(self._fits(name, tensor, shape.split()) for shape in shapes):
            raise Refused(f"{name} has shape {list(tensor.shape)}, expected {self._shown(shapes)}")
        self.check_finite(name, tensor)
        return tensor

    def _fits(self, name: str, tensor: Tensor, symbols: list[str]) -> bool:
        """Whether the shape fits the symbols; if so, those without a size get theirs from this tensor."""
        shape = tuple(tensor.shape)
        if symbols[0] == "...":  # any number of leading sizes, the same wherever "..." stands in a request
            trailing = len(symbols) - 1
            if len(shape) < trailing:
                return False
            shape = (shape[:len(shape) - trailing], *shape[len(shape) - trailing:])
        if len(shape) != len(symbols):
            return False
        found = {}
        for symbol, size in zip(symbols, shape):
            expected = int(symbol) if symbol.isdigit() else self.sizes.get(symbol, found.get(symbol, size))
            if size != expected:
                return False
            found[symbol] = size
        for symbol, size in found.items():
            if not symbol.isdigit() and symbol not in self.sizes:
                self.bind(name, **{symbol: size})
        return True

    def _shown(self, shapes: tuple[str, ...]) -> str:
        texts, origins = [], {}
        for shape in shapes:
            symbols = shape.split()
            sizes = []
            for symbol in symbols:
                size = self.sizes.get(symbol, "?" if not symbol.isdigit() else symbol)
                sizes.append(",".join(map(str, size)) or "(none)" if isinstance(size, tuple) else str(size))
                if symbol in self.origins:
                    origins[symbol] = self.origins[symbol]
            text = f"[{','.join(symbols)}]"
            texts.append(text if symbols == sizes else f"{text} = [{','.join(sizes)}]")
        return " or ".join(texts) + "".join(f", {symbol} from {origin}" for symbol, origin in origins.items())

    def check_finite(self, name: str, tensor: Tensor):
        if tensor.is_floating_point() and not (self.op == "voxelize" and name == "points"):
            self._refuse_first(name, tensor, ~tensor.isfinite(), "a finite number")

    @staticmethod
    def _refuse_first(name: str, tensor: Tensor, wrong: Tensor, expected: str):
        if wrong.any():
            index = wrong.nonzero()[0].tolist()
            raise Refused(f"{name}{index} is {tensor[tuple(index)].item()}, expected {expected}")

    def accept_unused(self, *names: str):
        """Tensors that the operator allows and does not read: only their type and finiteness matter."""
        for name in names:
            if name in self.tensors:
                tensor = self.tensors[name]
                self.taken.add(name)
                if tensor.dtype != self.dtype:
                    raise Refused(f"{name} has type {type_name(tensor.dtype)}, expected {type_name(self.dtype)}")
                self.check_finite(name, tensor)

    def finish(self):
        """Raises Refused where the request holds a tensor that nobody asked for."""
        for name in self.tensors:
            if name not in self.taken:
                known = ", ".join(sorted(self.taken)) or "no tensors"
                raise Refused(f"{name} is unexpected: this {self.op} takes {known}")

    # -- metadata -----------------------------------------------------------------------------------------------------

    def text(self, name: str) -> str:
        if name not in self.meta:
            raise Refused(f'metadata "{name}" is missing; {self.op} needs it')
        return self.meta[name]

    def number(self, name: str, at_least: int, default: int | None = None) -> int:
        if default is not None and name not in self.meta:
            return default
        text = self.text(name)
        if not re.fullmatch(r"[+-]?[0-9]{1,18}", text) or int(text) < at_least:
            raise Refused(f'metadata "{name}" is "{text[:40]}", expected an integer of at least {at_least}')
        return int(text)
