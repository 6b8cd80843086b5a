"""How much faster the judge is than torch.testing.assert_close, on tensors of the same size, in the same run.

    python3 tests/calibration/judging.py build/tests/conform/judging [MIB]

MIB (default 1024) of binary32 answer against binary64 truth. torch compares with one tolerance; the judge has every statistic.
Needs torch, and five times MIB of memory.
"""

import subprocess
import sys
import time

import torch


def main() -> int:
    if len(sys.argv) not in (2, 3):
        print(__doc__)
        return 1
    mib = int(sys.argv[2]) if len(sys.argv) == 3 else 1024
    said = subprocess.run([sys.argv[1], str(mib)], check=True, capture_output=True, text=True).stdout
    judged = float(said.split(" judged in ")[1].split(" s")[0])
    truth = torch.rand(mib << 18, dtype=torch.float64) * 2 - 1
    answer = truth.float()
    seconds = []
    for _ in range(3):
        start = time.perf_counter()
        torch.testing.assert_close(answer, truth, check_dtype=False, rtol=1e-6, atol=1e-6)
        seconds.append(time.perf_counter() - start)
    print(said, end="")
    print(f"torch.testing.assert_close: {min(seconds):.3f} s, {min(seconds) / judged:.1f} times as long ({torch.get_num_threads()} threads)")
    return 0


if __name__ == "__main__":
    sys.exit(main())
