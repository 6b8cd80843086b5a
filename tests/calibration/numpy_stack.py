"""numpy: float64 as it is, with BLAS and pairwise sums; below, float32 with every sum in index order, as a plain loop adds.

    mr3d check --backend "exec:python tests/calibration/numpy_stack.py"

What is stored is rounded to the tier's type: outputs of operators, and the probabilities. All else stays in float32. At tf32 the
inputs of each product lose all but 10 fraction bits, as tensor cores take them, rounded to nearest, ties away from zero
(cvt.rna.tf32), or with --truncate cut off (a tensor core that is handed binary32); the product is BLAS's in float32.
"""

import sys

import numpy as np
from stack import Stack, serve


class NumpyStack(Stack):
    name, version, tiers = "numpy", np.__version__, ("fp64", "fp32", "tf32", "bf16", "fp16")
    half = np.uint32(0 if "--truncate" in sys.argv else 0x1000)

    def tensor_core_input(self, x):
        bits = np.ascontiguousarray(x).view(np.uint32)
        return np.where(np.isfinite(x), (bits + self.half) & np.uint32(0xFFFFE000), bits).view(np.float32)

    def product(self, a, b):
        if self.tier == "tf32":
            return super().product(self.tensor_core_input(a), self.tensor_core_input(b))
        if self.wide == np.float64:
            return super().product(a, b)
        a, b = self.widen(a), np.ascontiguousarray(self.widen(b))
        columns = np.ascontiguousarray(np.moveaxis(a, -1, 0))
        result = np.zeros((*np.broadcast_shapes(a.shape[:-2], b.shape[:-2]), a.shape[-2], b.shape[-1]), self.wide)
        term = np.empty_like(result)
        for k in range(a.shape[-1]):
            np.multiply(columns[k][..., None], b[..., k, None, :], out=term)
            np.add(result, term, out=result)
        return result

    def total(self, x):
        return super().total(x) if self.wide == np.float64 else np.add.accumulate(x, -1)[..., -1:]  # accumulate keeps the order


if __name__ == "__main__":
    np.seterr(over="ignore", invalid="ignore", divide="ignore", under="ignore")
    serve(NumpyStack())
