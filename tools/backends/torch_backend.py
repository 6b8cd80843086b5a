"""PyTorch as a backend: the model of golden/mixedrope3d in the arithmetic of each tier.

    mr3d check --backend "exec:python tools/backends/torch_backend.py --attention sdpa"

fp64 is true binary64. The narrower tiers compute as the library ships: norm, softmax and rotary tables in float32, all
else in the tier's type. One thing differs from the library: eager attention at fp16 scales queries before the product
instead of scores after it, because Qwen2's key biases drive unscaled scores past 65504, float16's largest number.
"""

import argparse
import sys
from pathlib import Path

sys.path[:0] = [str(Path(__file__).resolve().parents[2] / "golden"), str(Path(__file__).resolve().parents[1])]

import torch
import transformers
from mixedrope3d import answer
from mr3d_backend import MAX_FRAME, Backend, Refused, Request, Unsupported, serve
from trace_torch import Tracer

TIERS = {"fp64": torch.float64, "fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
TYPES = {"BOOL": torch.bool, "U8": torch.uint8, "I8": torch.int8, "U16": torch.uint16, "I16": torch.int16,
         "U32": torch.uint32, "I32": torch.int32, "U64": torch.uint64, "I64": torch.int64, "F16": torch.float16,
         "BF16": torch.bfloat16, "F32": torch.float32, "F64": torch.float64, "F8_E4M3": torch.float8_e4m3fn,
         "F8_E5M2": torch.float8_e5m2}
NAMES = {dtype: name for name, dtype in TYPES.items()}


class Server(answer.Server):
    """One arithmetic, with the model's points handed to the request that is being answered."""

    traced: Request | None = None

    def _run(self, session, **arguments):
        if self.traced is None:
            return super()._run(session, **arguments)
        request = self.traced
        with Tracer(session.model, lambda step, layer, point, tensor: request.trace(f"{layer}.{point}", tensor.clone()),
                    lambda step, layer, point: request.wants(f"{layer}.{point}")):
            return super()._run(session, **arguments)


class TorchBackend(Backend):
    traces = True
    version = f"torch {torch.__version__}, transformers {transformers.__version__}"

    def __init__(self, attention: str, tiers: list[str]):
        self.name, self.tiers = f"torch-{attention}", tuple(tiers)
        sessions: dict = {}
        self.servers = {}
        for tier in tiers:
            kind = "eager_prescaled" if (attention, tier) == ("eager", "fp16") else attention
            self.servers[tier] = Server(TIERS[tier], tier == "fp64", kind, sessions)

    def ops(self) -> list[str]:
        return list(answer.OPS)

    def answer(self, request: Request) -> dict[str, torch.Tensor]:
        server = self.servers[request.tier]
        server.traced = request if "trace" in request.meta else None
        try:
            return server.answer(request.op, request.config, request.meta, request.tensors)
        except answer.Refused as reason:
            raise Refused(str(reason)) from reason
        except answer.Unsupported as reason:
            raise Unsupported(str(reason)) from reason

    def read_tensor(self, dtype: str, shape: list[int], data: bytes) -> torch.Tensor:
        if dtype not in TYPES:
            raise Refused(f"tensors of type {dtype} cannot be read here")
        if not data:  # frombuffer takes no empty buffer
            return torch.empty(shape, dtype=TYPES[dtype])
        return torch.frombuffer(bytearray(data), dtype=TYPES[dtype]).reshape(shape)

    def write_tensor(self, tensor: torch.Tensor) -> tuple[str, list[int], bytes]:
        flat = tensor.contiguous().reshape(-1)
        return NAMES[tensor.dtype], list(tensor.shape), flat.view(torch.uint8).numpy().tobytes() if len(flat) else b""


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--attention", choices=("eager", "sdpa"), default="eager")
    parser.add_argument("--tiers", nargs="+", choices=TIERS, default=list(TIERS), help="default: all of them")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--max-frame", type=int, default=MAX_FRAME, help="bytes")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    serve(TorchBackend(arguments.attention, arguments.tiers), arguments.max_frame)


if __name__ == "__main__":
    main()
