"""Judges backends that are known to be right, with fresh seeds, and tables how near they come to each limit.

    python3 tests/calibration/calibrate.py --seeds 1-20 --markdown docs/calibration.md

Every stack runs at every tier it has; --stack, --tier, --seeds and --select choose a part. Cases tagged `slow` are left out, but where
--select is "--tag whole": the 24 layers of docs/cases.md, half an hour a tier for the first stack. One line of JSON is appended to the
results (tests/calibration/results.jsonl, which is committed) for each finished run, and a run that is there already is not
repeated: stop it whenever you like. Delete the lines that a change of the judge has made old. --table only writes the page. PYTHON (default python3) must have torch, transformers, numpy, safetensors, jax, onnxruntime and onnx for the stacks
that use them; this program itself needs nothing.

Every failure must be explained in tests/calibration/explained.json: either the stack is wrong, or the judge is.
Exit status: 0, 2 where a failure is unexplained or the judge's, 1 where something could not run.
"""

import argparse
import json
import math
import os
import platform
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from contextlib import closing
from datetime import date
from fnmatch import fnmatchcase
from pathlib import Path

from kept import Kept

ROOT = Path(__file__).resolve().parents[2]
HERE = "tests/calibration"
TIERS = ("fp64", "fp32", "tf32", "bf16", "fp16")
TORCH_TIERS = tuple(tier for tier in TIERS if tier != "tf32")
F32_TIERS = ("fp32", "bf16", "fp16")
SELECT = "--level L0,L1,L2"
# name: (--backend, tiers, what is particular)
STACKS = {
    "emulated": ("builtin:emulated", TIERS[1:], "the reference itself, rounded to nearest wherever some stack stores a value"),
    "torch eager": ("exec:{python} tools/backends/torch_backend.py --attention eager --threads {threads}", TORCH_TIERS, "the library's order of operations, each result stored in the tier's type"),
    "torch SDPA": ("exec:{python} tools/backends/torch_backend.py --attention sdpa --threads {threads}", TORCH_TIERS, "the same with fused attention"),
    "torch compile": ("exec:{python} " + HERE + "/torch_compile_stack.py --tiers fp64 fp32 bf16 fp16 --threads {threads}", TORCH_TIERS, "operators compiled by Inductor"),
    "numpy": ("exec:{python} " + HERE + "/numpy_stack.py", TIERS, "fp64: BLAS; tf32: BLAS in float32, inputs of products rounded to 10 fraction bits; else every sum in index order in float32"),
    "numpy truncated": ("exec:{python} " + HERE + "/numpy_stack.py --truncate", ("tf32",), "the same, the inputs of products cut off at 10 fraction bits"),
    "JAX": ("exec:{python} " + HERE + "/jax_stack.py", TORCH_TIERS, "XLA compiles each request, a layer as one"),
    "ONNX Runtime": ("exec:{python} " + HERE + "/onnx_stack.py", ("fp64", "fp32", "fp16"), "one optimised graph a request"),
    "C": ("lib:{build}/tools/backends/f32/mr3d-f32.so", F32_TIERS, "tools/backends/f32: -O3, contracted; float32 at every tier, outputs too"),
    "C fast-math": ("lib:{fast_math}", F32_TIERS, "the same with -O3 -ffast-math -march=native"),
}
COLUMNS = ("rope1d", "cis3d", "rope3d", "normalize_coords", "mixed_rope", "rmsnorm", "linear", "swiglu", "attention", "voxelize",
           "attention_block", "decoder_layer", "prefill", "decode")


# ---------------------------------------------------------------------------------------------------------------------
# Running

def key_of(record: dict) -> tuple:
    return record["stack"], record["tier"], record["seed"], record["selection"]


def read_results(path: Path) -> list[dict]:
    """The runs recorded so far; half a line at the end, of a run that was killed, is cut off."""
    if not path.exists():
        return []
    data = path.read_bytes()
    whole = data[:data.rfind(b"\n") + 1]
    if whole != data:
        path.write_bytes(whole)
    return [json.loads(line) for line in whole.splitlines()]


def commit() -> str:
    """The suite's, with a + where files were changed since."""
    def git(*words):
        return subprocess.run(["git", *words], cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, check=False).stdout.strip()
    return git("rev-parse", "--short=10", "HEAD") + ("+" if git("status", "--porcelain", "--untracked-files=no", "--", ".", f":!{HERE}/results.jsonl") else "")


def asks_whole(select: str) -> bool:
    """Whether a selection is of the whole model, whose cases are all slow."""
    return "--tag whole" in select


class Programs:
    """The stacks that are programs of Python, begun when they are first asked and kept (kept.py)."""

    def __init__(self, arguments, folder: Path):
        self.arguments, self.folder, self.kept = arguments, folder, {}

    def spec(self, stack: str) -> str:
        arguments = self.arguments
        spec = STACKS[stack][0].format(python=arguments.python, build=arguments.build, fast_math=arguments.fast_math, threads=arguments.threads)
        if not spec.startswith("exec:"):
            return spec
        if stack not in self.kept:
            self.kept[stack] = Kept(self.folder / f"{len(self.kept)}.socket", arguments.jobs + 1, spec.removeprefix("exec:").split(), cwd=ROOT, env=environment(arguments))
        return f"exec:{sys.executable} {HERE}/kept.py {self.kept[stack].path}"

    def close(self):
        for kept in self.kept.values():
            kept.close()


def environment(arguments) -> dict:
    return {"MR3D_GOLDEN": str(ROOT / "golden"), "OMP_NUM_THREADS": str(arguments.threads),
            "JAX_COMPILATION_CACHE_DIR": f"{arguments.build}/jax-cache", **os.environ}


def run(arguments, programs: Programs, stack: str, tier: str, seed: int, select: str, folder: Path) -> dict | None:
    """One run's record. Stacks share the judge's emulated runs of a seed, which lie in the folder."""
    spec = programs.spec(stack)
    report = folder / "report.json"
    command = [f"{arguments.build}/tools/mr3d", "check", "--backend", spec, "--tier", tier, "--seed", str(seed),
               *([] if asks_whole(select) else ["--without-slow"]), "--timeout", str(arguments.timeout), "--jobs", str(arguments.jobs), "--yardsticks", str(folder), "--quiet", "--json", str(report), *select.split()]
    begin = time.monotonic()
    done = subprocess.run(command, cwd=ROOT, env=environment(arguments), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    if done.returncode not in (0, 2):
        print(f"{stack} at {tier}, seed {seed}, {select}: exit status {done.returncode}\n{done.stdout}", file=sys.stderr)
        return None
    lines = [json.loads(line) for line in report.read_text().splitlines()]
    return {"stack": stack, "tier": tier, "seed": seed, "selection": select, "date": date.today().isoformat(),
            "version": lines[0]["version"], "mr3d": lines[0]["mr3d"], "commit": arguments.commit, "machine": f"{platform.machine()}, {platform.system()}",
            "seconds": round(time.monotonic() - begin, 1), **digest(lines[1:-1])}


def digest(results: list[dict]) -> dict:
    """counts, the largest value/limit of each operator with its rule and case, and the failures."""
    counts: dict[str, int] = defaultdict(int)
    maxima: dict[str, list] = {}
    failures = []
    for result in results:
        counts[result["verdict"]] += 1
        worst = [0.0, ""]
        for step in result["steps"]:
            for tensor in step["tensors"]:
                for statistic in tensor["statistics"]:
                    if statistic["tested"]:
                        ratio = fraction(float(statistic["value"]), float(statistic["limit"]))
                        worst = max(worst, [ratio, statistic["rule"]])
                        # what failed is listed with the failures; the maxima are those of answers that passed
                        if result["verdict"] == "passed" and ratio > maxima.get(step["op"], [-1.0])[0]:
                            maxima[step["op"]] = [round(ratio, 6), statistic["rule"], result["case"]]
        if result["verdict"] in ("failed", "broken"):
            failures.append({"case": result["case"], "op": result["op"], "ratio": worst[0], "rule": worst[1],
                             "reason": result["reason"], "mistake": result["mistake"]})
    return {"counts": counts, "maxima": maxima, "failures": failures}


def fraction(value: float, limit: float) -> float:
    if math.isnan(value):
        return math.inf
    return value / limit if limit else (math.inf if value else 0.0)


# ---------------------------------------------------------------------------------------------------------------------
# The page

def explanation(stack: str, tier: str, case: str, explained: list[dict]) -> dict | None:
    return next((e for e in explained if e["stack"] == stack and tier in e["tiers"] and fnmatchcase(case, e["case"])), None)


def seeds_text(seeds) -> str:
    seeds = sorted(set(seeds))
    return f"{seeds[0]}–{seeds[-1]}" if len(seeds) > 2 and seeds == list(range(seeds[0], seeds[-1] + 1)) else ", ".join(map(str, seeds))


def runs_text(records: list[dict]) -> str:
    """Which seeds each selection ran with."""
    seeds = defaultdict(list)
    for record in records:
        seeds[record["selection"].replace("--level ", "").replace("--tag whole --case ", "")].append(record["seed"])
    return "; ".join(f"{select}: {seeds_text(seeds[select])}" for select in sorted(seeds))


def page(records: list[dict], explained: dict) -> tuple[str, int]:
    """(Markdown, failures that are unexplained or the judge's)"""
    days = sorted({r["date"] for r in records})
    whole = all(asks_whole(r["selection"]) for r in records)
    title = "Calibration at full size: stacks that are right, 24 layers deep" if whole else "Calibration: stacks that are right, and how near they come to a limit"
    out = [f"# {title}", "",
           "The judge's numbers come from derivations (`tolerance.md`); this page is the other half: backends that are known to be right, in arithmetics of",
           ("their own, on the whole model of 24 layers (`cases.md`), with the inputs of the golden set. A cell" if whole else
            "their own, with inputs that nobody has seen before. A cell") + " is the largest statistic over its limit among all answers that passed, and the rule that it belongs to;",
           "1 would fail. Above L0 a cell is of eight emulated runs, in which the spread of a single element is itself uncertain (`element` most of all); only",
           "thirty-two decide that an answer fails. Written by `tests/calibration/calibrate.py`; do not edit.", "",
           f"{days[0]}{' to ' + days[-1] if days[-1] != days[0] else ''}, mr3d {', '.join(sorted({r['mr3d'] for r in records}))}, "
           f"({', '.join(sorted({r['commit'] for r in records}))}), {', '.join(sorted({r['machine'] for r in records}))}, cases of {', '.join(sorted({'`' + r['selection'] + '`' for r in records}))}"
           + ("." if whole else " without those tagged `slow`."), "", "| stack | version | what is particular | runs |", "|---|---|---|---|"]
    for stack in STACKS:
        of_stack = [r for r in records if r["stack"] == stack]
        if of_stack:
            out.append(f"| {stack} | {', '.join(sorted({r['version'] for r in of_stack}))} | {STACKS[stack][2]} | {len(of_stack)} |")
    for tier in TIERS:
        of_tier = [r for r in records if r["tier"] == tier]
        if of_tier:
            out += ["", f"## {tier}", "", *tier_table(of_tier)]
    listed, wrong = failure_list(records, explained["failures"])
    notes = [] if whole else ["", "## Seen beside", "", *(f"* {note}" for note in explained["notes"])]
    out += ["", "## Failures", "", *listed, *notes, "", "## Do it again", "",
            "    meson setup build && meson compile -C build",
            "    PYTHON=venv/bin/python python3 tests/calibration/calibrate.py " + (
                f"--select '{'; '.join(sorted({r['selection'] for r in records}))}' --seeds 0 --stack '{','.join(s for s in STACKS if any(r['stack'] == s for r in records))}' "
                "--results tests/calibration/whole.jsonl --markdown docs/calibration-whole.md" if whole else "--seeds 1-20 --markdown docs/calibration.md"), "",
            "The Python that runs the stacks needs torch, transformers, numpy, safetensors, jax, onnxruntime and onnx; `--stack` chooses those that it has (`--stack numpy,C`).",
            "A run that was stopped goes on where it was. On two cores " + (
                f"and beside other work these runs took {min(r['seconds'] for r in records) / 60:.0f} to {max(r['seconds'] for r in records) / 60:.0f} minutes; the first of a tier computes what the others share."
                if whole else "a run took " + f"{sorted(r['seconds'] for r in records)[len(records) // 2]:.0f} s (half of them; at most {max(r['seconds'] for r in records):.0f}): processes of Python stay from one to the next.")]
    return "\n".join(out) + "\n", wrong


def tier_table(records: list[dict]) -> list[str]:
    columns = [c for c in COLUMNS if any(c in r["maxima"] for r in records)]
    rows = [f"| stack | seeds | passed | failed | skipped | {' | '.join(columns)} |", "|---" * (5 + len(columns)) + "|"]
    for stack in STACKS:
        of_stack = [r for r in records if r["stack"] == stack]
        if not of_stack:
            continue
        counts = [sum(r["counts"].get(verdict, 0) for r in of_stack) for verdict in ("passed", "failed", "skipped")]
        cells = []
        for column in columns:
            ratio, rule, _ = max((r["maxima"][column] for r in of_stack if column in r["maxima"]), default=[0.0, "", ""])
            cells.append("–" if not rule else "exact" if ratio == 0 else f"{ratio:.2g} {rule}")
        rows.append(f"| {stack} | {runs_text(of_stack)} | {' | '.join(map(str, counts))} | {' | '.join(cells)} |")
    return rows


def failure_list(records: list[dict], explained: list[dict]) -> tuple[list[str], int]:
    found: dict[tuple, list] = defaultdict(list)
    for record in records:
        for failure in record["failures"]:
            reason = explanation(record["stack"], record["tier"], failure["case"], explained)
            group = (record["stack"], reason["case"], reason["who"], reason["why"]) if reason else (record["stack"], failure["case"], "?", "")
            found[group].append((record["tier"], record["seed"], failure))
    wrong = sum(len(failures) for group, failures in found.items() if group[2] != "stack")
    lines = []
    for who, title in (("judge", "The judge is wrong"), ("?", "Not explained yet"), ("stack", "Known defects of real stacks")):
        groups = {group: failures for group, failures in found.items() if group[2] == who}
        if not groups:
            continue
        lines += [f"### {title}", "", "| stack | cases | tiers | seeds | largest over limit | what it was | why |", "|---" * 7 + "|"]
        for (stack, case, _, why), failures in groups.items():
            worst = max(failures, key=lambda f: f[2]["ratio"])[2]
            size = f"{worst['ratio']:.3g} {worst['rule']}" if worst["rule"] else "–"
            cases = sorted({f[2]["case"] for f in failures})
            shown = ", ".join(f"`{c}`" for c in cases[:3]) + (f" and {len(cases) - 3} more" if len(cases) > 3 else "")
            reason = worst["reason"].replace("|", "\\|")
            lines.append(f"| {stack} | {shown} | {', '.join(t for t in TIERS if t in {f[0] for f in failures})} | {seeds_text(f[1] for f in failures)} | "
                         f"{size} | {reason[:240]} | {why} |")
        lines.append("")
    return lines[:-1] or ["None."], wrong


# ---------------------------------------------------------------------------------------------------------------------

def numbers(text: str) -> list[int]:
    result = []
    for part in text.split(","):
        first, _, last = part.partition("-")
        result += range(int(first), int(last or first) + 1)
    return result


def chosen(text: str | None, known, what: str) -> list[str]:
    names = list(known) if text is None else text.split(",")
    unknown = [name for name in names if name not in known]
    if unknown:
        sys.exit(f"{what} {unknown[0]} is unknown; known are {', '.join(known)}")
    return names


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--results", type=Path, default=ROOT / HERE / "results.jsonl", help="JSON lines, appended to")
    parser.add_argument("--stack", metavar="LIST", help="default: " + ",".join(STACKS))
    parser.add_argument("--tier", metavar="LIST", help="default: those each stack has")
    parser.add_argument("--seeds", type=numbers, default=[1, 2, 3], metavar="1-20")
    parser.add_argument("--select", default=SELECT, metavar="OPTIONS", help=f"of mr3d check; between ';' each is a run of its own (default \"{SELECT}\")")
    parser.add_argument("--build", default="build", help="build folder of the suite")
    parser.add_argument("--python", default=os.environ.get("PYTHON", "python3"))
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--jobs", type=int, default=1, help="of mr3d check; --threads are each job's")
    parser.add_argument("--timeout", type=int, default=300, help="seconds for one request")
    parser.add_argument("--markdown", type=Path, help="the page to write")
    parser.add_argument("--table", action="store_true", help="run nothing, write the page")
    arguments = parser.parse_args()
    stacks, tiers = chosen(arguments.stack, STACKS, "stack"), chosen(arguments.tier, TIERS, "tier")
    arguments.build, arguments.results = Path(arguments.build).resolve(), arguments.results.resolve()
    arguments.fast_math = arguments.build / "mr3d-f32-fast-math.so"
    arguments.commit = commit()
    records, broken = read_results(arguments.results), False
    known = {key_of(r) for r in records}
    wanted = [(seed, stack, tier, select) for seed in arguments.seeds for stack in stacks for tier in STACKS[stack][1] if tier in tiers
              for select in map(str.strip, arguments.select.split(";"))]
    if not arguments.table:
        if "C fast-math" in stacks and not arguments.fast_math.exists():
            subprocess.run(["sh", f"{HERE}/fast_math.sh", str(arguments.fast_math)], cwd=ROOT, check=True)
        with tempfile.TemporaryDirectory() as sockets, tempfile.TemporaryDirectory() as folder, arguments.results.open("a") as results, closing(Programs(arguments, Path(sockets))) as programs:
            of_seed = None
            for seed, stack, tier, select in wanted:
                if (stack, tier, seed, select) in known:
                    continue
                if seed != of_seed:
                    for file in Path(folder).iterdir():
                        file.unlink()
                    of_seed = seed
                record = run(arguments, programs, stack, tier, seed, select, Path(folder))
                broken |= record is None
                if record:
                    records.append(record)
                    results.write(json.dumps(record) + "\n")
                    results.flush()
                    counts = record["counts"]
                    print(f"{stack:14} {tier} seed {seed} {select:18} {counts.get('passed', 0)} passed, {counts.get('failed', 0)} failed, {record['seconds']} s", flush=True)
    if not records:
        sys.exit("no results")
    text, wrong = page(records, json.loads((ROOT / HERE / "explained.json").read_text()))
    if arguments.markdown:
        arguments.markdown.write_text(text)
    else:
        print(text)
    return 1 if broken else 2 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
