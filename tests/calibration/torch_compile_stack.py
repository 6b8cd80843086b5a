"""PyTorch compiled: tools/backends/torch_backend.py with its operators under torch.compile, which needs a C++ compiler.

    mr3d check --backend "exec:python tests/calibration/torch_compile_stack.py"

Each operator is compiled by itself, with dynamic shapes; what Inductor fuses within one is not rounded in between.
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "tools" / "backends"))

import torch
import torch_backend
from mixedrope3d import operators

torch._dynamo.config.recompile_limit = 10_000  # beyond it the operator would silently run eagerly
torch._dynamo.config.accumulated_recompile_limit = 100_000
for name in ("rope1d", "rotate_half_split", "cis3d", "rope3d", "rmsnorm", "linear", "swiglu", "attention"):
    setattr(operators, name, torch.compile(getattr(operators, name), dynamic=True))


class CompiledBackend(torch_backend.TorchBackend):
    def __init__(self, attention: str, tiers: list[str]):
        super().__init__(attention, tiers)
        self.name = f"torch-compile-{attention}"


if __name__ == "__main__":
    torch_backend.TorchBackend = CompiledBackend
    torch_backend.main()
