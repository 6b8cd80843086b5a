"""A backend in Python: import this file, subclass Backend, call serve(). It needs numpy and safetensors, nothing else.

    import numpy as np
    from mr3d_backend import Backend, Refused, serve

    class Mine(Backend):
        name, version, tiers = "mine", "1.0", ("fp64", "fp32")

        def swiglu(self, request):
            gate, up = request.tensors["gate"], request.tensors["up"]
            if gate.shape != up.shape:
                raise Refused(f"gate has shape {gate.shape}, up {up.shape}")
            return {"y": gate / (1 + np.exp(-gate)) * up}

    serve(Mine())

Every method that bears the name of an operator is announced to the suite, at every tier of `tiers`; what a method
returns is the answer. Raise Refused for a request that must not be answered and Unsupported for an exception to what
was announced. Any other exception is answered as an error too, and its traceback goes to stderr, the backend's log.
NaN and infinity are refused here, before a method is called (not in `points`, whose rows without a return are dropped).
A backend that sets `traces = True` may be asked for what passes between its operators (docs/protocol.md, "Traces"): it calls
`request.trace("3.query_rotated", tensor)` for each point that it has, "model.logits" for what belongs to no layer, and those
that the request asks for go into the answer. `request.wants(point)` says beforehand whether one is worth computing.
Save yours beside this file, or a copy of this file beside yours, and judge it with

    mr3d check --backend "exec:python tools/backends/mine.py"
"""

import fnmatch
import json
import os
import struct
import sys
import traceback
from dataclasses import dataclass, field

import numpy as np
import safetensors

PROTOCOL = "1"
MAX_FRAME = 4 << 30
OPS = ("splice", "mask", "rope1d", "cis3d", "rope3d", "normalize_coords", "mixed_rope", "rmsnorm", "linear", "swiglu",
       "attention", "attention_block", "decoder_layer", "prefill", "decode", "drop_session", "voxelize", "token_coords",
       "encode_points")

NUMPY_TYPES = {"BOOL": "?", "U8": "u1", "I8": "i1", "U16": "<u2", "I16": "<i2", "U32": "<u4", "I32": "<i4",
               "U64": "<u8", "I64": "<i8", "F16": "<f2", "F32": "<f4", "F64": "<f8"}
EXPONENTS = {"F64": ("<u8", 0x7FF << 52), "F32": ("<u4", 0xFF << 23), "F16": ("<u2", 0x1F << 10), "BF16": ("<u2", 0xFF << 7)}


class Refused(Exception):
    """The request breaks a rule; the message says which, what was found and what was expected."""


class Unsupported(Exception):
    """This backend does not answer this request although it announced the operator."""


class Malformed(Exception):
    """What came in is not the protocol: the backend stops with a status other than 0."""


@dataclass
class Request:
    id: str
    op: str
    tier: str
    config: dict
    meta: dict[str, str]  # all of the frame's metadata; `session`, `weights` and the like stand here
    tensors: dict
    traced: dict = field(default_factory=dict)  # what `trace` was called with

    def wants(self, point: str) -> bool:
        """Whether the request asks for a point, "3.query_rotated" or "model.logits"."""
        return any(fnmatch.fnmatchcase(point, glob) for glob in self.meta.get("trace", "").split(","))

    def trace(self, point: str, tensor):
        """Puts a point into the answer, if the request asks for it. A tensor that changes afterwards must be copied."""
        if self.wants(point):
            self.traced["trace." + point] = tensor


class Backend:
    name = "unnamed"
    version = "0"
    tiers: tuple[str, ...] = ("fp32",)
    traces = False  # whether prefill and decode call request.trace
    keeps: tuple[str, ...] = ()  # promises: "scores", "probabilities", "products" stay in binary32 at every tier

    def ops(self) -> list[str]:
        """What is announced."""
        return [op for op in OPS if hasattr(self, op)]

    def answer(self, request: Request) -> dict:
        return getattr(self, request.op)(request)

    def read_tensor(self, dtype: str, shape: list[int], data: bytes):
        """The tensor of a type name of safetensors, a shape and little-endian bytes.

        numpy has no bfloat16: BF16 arrives as float32, which holds it exactly, and may be answered as float32. Override
        this and `write_tensor` to use another library's tensors.
        """
        if dtype == "BF16":
            return (np.frombuffer(data, "<u2").astype("<u4") << 16).view("<f4").reshape(shape)
        if dtype not in NUMPY_TYPES:
            raise Refused(f"tensors of type {dtype} cannot be read here")
        return np.frombuffer(data, NUMPY_TYPES[dtype]).reshape(shape)

    def write_tensor(self, tensor) -> tuple[str, list[int], bytes]:
        """The reverse of `read_tensor`."""
        array = np.asarray(tensor)
        for name, code in NUMPY_TYPES.items():
            if array.dtype.newbyteorder("<") == np.dtype(code):
                return name, list(array.shape), array.astype(code, order="C").tobytes()
        raise TypeError(f"an array of type {array.dtype} has no name in safetensors")


# ---------------------------------------------------------------------------------------------------------------------
# Frames

def read_exactly(stream, size: int) -> bytes:
    data = stream.read(size)
    if len(data) != size:
        raise Malformed(f"the input ended after {len(data)} of {size} bytes" if data else "the input ended without bye")
    return data


def read_frame(stream, max_frame: int) -> tuple[dict[str, str], list]:
    """(metadata, [(name, {"dtype", "shape", "data"})]) of the next frame."""
    (size,) = struct.unpack("<Q", read_exactly(stream, 8))
    if size > max_frame:
        raise Malformed(f"a frame of {size} bytes is longer than {max_frame}")
    frame = read_exactly(stream, size)
    try:
        tensors = safetensors.deserialize(frame)  # strict: sizes, offsets and types all fit when it returns
        (header_size,) = struct.unpack("<Q", frame[:8])
        header = json.loads(frame[8:8 + header_size], object_pairs_hook=without_duplicates)
    except (safetensors.SafetensorError, ValueError) as error:
        raise Malformed(f"a frame is not a safetensors file: {error}") from error
    meta = header.get("__metadata__", {})
    if meta.get("protocol") != PROTOCOL:
        raise Malformed(f"a frame has protocol {meta.get('protocol')}, expected {PROTOCOL}")
    return meta, tensors


def write_frame(stream, meta: dict[str, str], tensors: dict[str, tuple[str, list[int], bytes]]):
    header, offset = {"__metadata__": {"protocol": PROTOCOL, **meta}}, 0
    for name, (dtype, shape, data) in tensors.items():
        header[name] = {"dtype": dtype, "shape": shape, "data_offsets": [offset, offset + len(data)]}
        offset += len(data)
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    stream.write(struct.pack("<QQ", 8 + len(text) + offset, len(text)) + text)
    for _, _, data in tensors.values():
        stream.write(data)
    stream.flush()


def without_duplicates(pairs: list) -> dict:
    result = dict(pairs)
    if len(result) != len(pairs):
        raise ValueError("a key stands twice in one JSON object")
    return result


# ---------------------------------------------------------------------------------------------------------------------
# The conversation

def check_finite(name: str, dtype: str, data: bytes):
    """Refuses a floating tensor that holds NaN or infinity: numbers whose bits of the exponent are all set."""
    if dtype not in EXPONENTS or name == "points":
        return
    code, exponent = EXPONENTS[dtype]
    exponent = np.array(exponent, code)
    found = np.flatnonzero(np.frombuffer(data, code) & exponent == exponent)
    if len(found):
        raise Refused(f"{name} holds NaN or infinity at flat index {found[0]}, expected finite values")


def make_request(backend: Backend, meta: dict[str, str], tensors: list) -> Request:
    for key in ("op", "tier", "config"):
        if key not in meta:
            raise Refused(f'metadata "{key}" is missing')
    try:
        config = json.loads(meta["config"], object_pairs_hook=without_duplicates)
    except ValueError as error:
        raise Refused(f"config is not JSON: {error}") from error
    if not isinstance(config, dict):
        raise Refused(f"config is {meta['config'][:40]}, expected a JSON object")
    if meta["op"] not in backend.ops():
        raise Unsupported(f'op "{meta["op"]}" is not among {", ".join(backend.ops())}')
    if meta["tier"] not in backend.tiers:
        raise Unsupported(f'tier "{meta["tier"]}" is not among {", ".join(backend.tiers)}')
    if "trace" in meta and not backend.traces:
        raise Unsupported("this backend gives no traces (metadata \"trace\")")
    for name, t in tensors:
        check_finite(name, t["dtype"], t["data"])
    arrays = {name: backend.read_tensor(t["dtype"], t["shape"], t["data"]) for name, t in tensors}
    return Request(meta["id"], meta["op"], meta["tier"], config, meta, arrays)


def reply(backend: Backend, meta: dict[str, str], tensors: list) -> tuple[dict[str, str], dict]:
    """(metadata, tensors) of the frame that answers a request."""
    try:
        request = make_request(backend, meta, tensors)
        answer = {**backend.answer(request), **request.traced}
        return {"type": "answer"}, {name: backend.write_tensor(tensor) for name, tensor in answer.items()}
    except Refused as reason:
        return {"type": "error", "message": str(reason)}, {}
    except Unsupported as reason:
        return {"type": "unsupported", "message": str(reason)}, {}
    except Exception as error:  # a mistake in one operator costs one case, not the run
        traceback.print_exc()
        return {"type": "error", "message": f"{type(error).__name__}: {error}"}, {}


def converse(backend: Backend, stdin, stdout, max_frame: int):
    """Answers frames until `bye`; raises Malformed where the other side breaks the protocol."""
    while True:
        meta, tensors = read_frame(stdin, max_frame)
        kind = meta.get("type")
        if kind == "bye":
            return
        if kind == "hello":
            write_frame(stdout, {"type": "hello", "name": backend.name, "version": backend.version,
                                 "ops": json.dumps(backend.ops()), "tiers": json.dumps(list(backend.tiers)),
                                 **({"traces": "1"} if backend.traces else {}),
                                 **{kept: "fp32" for kept in backend.keeps}}, {})
        elif kind == "request" and "id" in meta:
            answer_meta, outputs = reply(backend, meta, tensors)
            write_frame(stdout, {"id": meta["id"], **answer_meta}, outputs)
        else:
            raise Malformed("a request has no id" if kind == "request" else f'a frame has type "{kind}"')


def serve(backend: Backend, max_frame: int = MAX_FRAME):
    """Runs the backend on stdin and stdout, and ends the process: status 0 after `bye`, 1 otherwise."""
    stdin, stdout = os.fdopen(os.dup(0), "rb"), os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # whatever anyone prints is log, not protocol
    try:
        converse(backend, stdin, stdout, max_frame)
    except (Malformed, BrokenPipeError) as error:
        sys.exit(f"{backend.name}: {error}")
    sys.exit(0)
