"""Writes the golden set, its manifest and the library's own error texts from nothing (docs/cases.md).

    python golden/generate.py                  everything
    python golden/generate.py --case 'mask/*'  some cases
    python golden/generate.py --whole          the whole model's: 24 layers, five minutes, 8 GB on disk meanwhile
    python golden/generate.py --check          regenerate into a temporary folder and compare with the committed set

Cases that need data (real prompts) are made where --data or MR3D_DATA names the folder, those tagged `whole` with
--whole; elsewhere their committed files stay as they are. Equal machines and libraries give equal files: one thread,
aligned tensors, no time stamps.
"""

import argparse
import contextlib
import fnmatch
import gzip
import hashlib
import json
import math
import multiprocessing
import os
import pathlib
import sys
import tempfile
import traceback
from typing import NamedTuple

import numpy as np
import safetensors.torch
import torch
import transformers

import mr3d_random
import recipes
from mixedrope3d import unrepaired
from mixedrope3d.answer import Refused, Server
from mixedrope3d.configuration import OPTIONS

HERE = pathlib.Path(__file__).resolve().parent
GENERATOR = "philox4x64-10/1"
LIBRARIES = {"torch": torch.__version__, "transformers": transformers.__version__, "numpy": np.__version__}
WHOLE = 16384         # elements up to which a tensor is kept whole
WIDEST = 4096         # columns of the view of a tensor whose last size is over WHOLE
ROW_ELEMENTS = 10240  # about how many elements of a larger tensor are kept as rows, at most 16 rows
YARDSTICKS = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
# The manifest lists them beside the set.
OTHERS = ("scene/canonical.ply", "random_digests.json", "library_errors.json", "encoder_operators.safetensors.gz",
          *(f"scans/{scan}_{encoder}.safetensors.gz" for scan in ("canonical", "office1", "five-people")
            for encoder in ("scenescript", "sonata")))
LIMITS = {"F64": 1e-12, "F32": 1e-4, "BF16": 0.1, "F16": 0.1}  # --check on another machine: of the tensor's scale


class Failure(Exception):
    """A case whose golden cannot be made: the model and the case disagree."""


def file_name(case):
    return case["id"].replace("/", "_") + ".safetensors.gz"


def op_of(case):
    return case["id"].split("/")[0].replace("-", "_")


# What a golden keeps of a tensor.

def columns(shape):
    """C of the view [R,C]: the last size, or its largest divisor up to WIDEST where it is over WHOLE."""
    last = shape[-1]
    return last if last <= WHOLE else max(d for d in range(1, WIDEST + 1) if last % d == 0)


class Keeping(NamedTuple):
    """How much a golden keeps of tensors that are not small."""
    rows: int = 16
    parts: int = 4  # of rows that are cut
    digests: int = 4
    as_they_are: tuple = ()


def is_whole(case):
    """Whether a case runs the whole model: made with --whole only, and less is kept, for its tensors are many."""
    return "whole" in case["tags"]


def keeping_of(case):
    if not is_whole(case):
        return Keeping()
    return Keeping(rows=4, parts=1, digests=1, as_they_are=("0.logits",) if "greedy" in case["tags"] else ())


def chosen_rows(shape, points, keeping=Keeping()):
    """Rows of the view [R,C] that are kept: first, last, the neighbours of the markers in the first and the last of what
    the leading axes count (heads, samples), then others spread evenly. `points` is (first, last) point token or None."""
    width = columns(shape)
    total, tokens = math.prod(shape) // width, shape[-2] if len(shape) > 1 else 1
    limit = min(total, keeping.rows if width == shape[-1] else keeping.parts, max(4, ROW_ELEMENTS // width))
    wanted = [0, total - 1]
    if points and width == shape[-1]:
        first, last = points
        near = [i for i in (first - 1, first, last, last + 1) if 0 <= i < tokens]
        wanted += near + [total - tokens + i for i in near]
    wanted = list(dict.fromkeys(wanted))[:limit]
    spread = (k * (total - 1) // (limit + 1) for k in range(1, limit + 1))
    wanted += [row for row in spread if row not in wanted][:limit - len(wanted)]
    return np.array(sorted(wanted), dtype=np.int64)


def digest(rows, count):
    """[count,C]: sums of all rows, in ascending order, under signs drawn from the stream digest/k."""
    out = np.zeros((count, rows.shape[1]))
    for k in range(count):
        words = mr3d_random.raw(0, f"digest/{k}", 0, len(rows))
        for row, word in zip(rows, words):
            out[k] += -row if word & np.uint64(1) else row
    return out


def is_kept_whole(name, array, keeping):
    return array.size <= WHOLE or name in keeping.as_they_are


def kept(name, value, points, keeping):
    """Golden tensors of one output."""
    value = recipes.from_torch(value)
    if value.dtype != "F64" or is_kept_whole(name, value.array, keeping):
        return {name: value}
    index = chosen_rows(value.array.shape, points, keeping)
    rows = value.array.reshape(-1, columns(value.array.shape))
    return {name + ".rows": recipes.Tensor("F64", rows[index]), name + ".row_index": recipes.Tensor("I64", index),
            name + ".digest": recipes.Tensor("F64", digest(rows, keeping.digests))}


def kept_stock(name, tier, value, points, keeping):
    value = recipes.from_torch(value)
    array = value.array
    if not is_kept_whole(name, array, keeping):
        array = array.reshape(-1, columns(array.shape))[chosen_rows(array.shape, points, keeping)]
    return {f"{name}.stock.{tier}": recipes.Tensor(value.dtype, array)}


def point_span(tensors):
    mask = tensors.get("point_token_mask")
    marked = np.flatnonzero(mask.array[0]) if mask is not None else []
    return (int(marked[0]), int(marked[-1])) if len(marked) else None


# Running a case.

@contextlib.contextmanager
def layers_heard(model):
    """Within, a model's calls leave each layer's output in the dictionary, under the name it has in a trace."""
    heard, hooks = {}, []
    for number, layer in enumerate(model.model.layers):
        def hear(module, arguments, output, name=f"trace.{number}.output"):
            heard[name] = output[0]
        hooks.append(layer.register_forward_hook(hear))
    try:
        yield heard
    finally:
        for hook in hooks:
            hook.remove()


class Runner:
    """Answers cases with the PyTorch model, in true float64 and as the library ships. Weight files lie in `folder`."""

    def __init__(self, suite, folder, data, seed):
        self.suite, self.folder, self.data, self.seed = suite, pathlib.Path(folder), data, seed
        self.truth = Server(torch.float64, true_precision=True)
        self.stock = {tier: Server(dtype, true_precision=False) for tier, dtype in YARDSTICKS.items()}

    def weights(self, name, tier):
        path = self.folder / f"{name}.{tier}.safetensors"
        if not path.exists():
            partial = path.with_suffix(f".{os.getpid()}")
            recipes.write_weights(self.suite, name, tier, self.seed, partial)
            partial.rename(path)  # in one step, for another process may be at it too
        return str(path)

    def steps(self, case, server, tier, logits=None):
        """Yields (number, step, request tensors, outputs or the refusal's message). `logits`, by step, feed argmax."""
        server.sessions.clear()
        maker = recipes.Maker(self.suite, case, tier, self.seed, self.data)
        for number, step in enumerate(case["steps"]):
            maker.logits = logits if logits is not None else maker.logits
            op, config, meta, tensors = maker.request(number)
            if op in ("prefill", "encode_points") and maker.weight_set(number):
                meta["weights"] = self.weights(maker.weight_set(number), tier)
            try:
                listening = contextlib.nullcontext({})
                if op == "prefill" and is_whole(case) and "greedy" in case["tags"]:
                    listening = layers_heard(server.model(config, meta["weights"]))
                with listening as heard:
                    # Copies, because torch aligns its memory and NumPy does not: alignment can change the last bit.
                    outputs = server.answer(op, config, meta, {k: recipes.to_torch(t).clone() for k, t in tensors.items()})
                outputs |= heard
            except Refused as refusal:
                outputs = str(refusal)
            if (step.get("expect") == "error") != isinstance(outputs, str):
                raise Failure(f"{case['id']} step {number}: " + (
                    f"refused: {outputs}" if isinstance(outputs, str) else "answered, and must be refused"))
            if logits is None and isinstance(outputs, dict) and "logits" in outputs:
                maker.logits[number] = outputs["logits"].numpy()
            yield number, step, tensors, outputs
        server.sessions.clear()

    def golden(self, case):
        """The golden of a case as (tensors, metadata)."""
        tensors, logits = {}, {}
        metadata = {"case": case["id"], "op": op_of(case), "seed": str(self.seed), "generator": GENERATOR, **LIBRARIES}
        for number, _, request, outputs in self.steps(case, self.truth, "fp64"):
            if isinstance(outputs, str):
                metadata[f"{number}.error"] = "1"
                continue
            if "logits" in outputs:
                logits[number] = outputs["logits"].numpy()
            for name, value in outputs.items():
                tensors |= kept(f"{number}.{name}", value, point_span(request), keeping_of(case))
        if "greedy" in case["tags"]:
            metadata["0.tokens"] = self.generated(case, logits)
        if "yardstick" in case["tags"]:
            for tier, server in self.stock.items():
                for number, _, request, outputs in self.steps(case, server, tier, logits):
                    for name, value in outputs.items():
                        tensors |= kept_stock(f"{number}.{name}", tier, value, point_span(request), keeping_of(case))
                    if is_whole(case):
                        break  # after the prefill
        return tensors, metadata

    def generated(self, case, logits):
        """Tokens of the model's own generate() on the ids and features that the case's prefill splices, which must be
        the tokens of its steps."""
        step = case["steps"][0]
        maker = recipes.Maker(self.suite, case, "fp64", self.seed, self.data)
        recipe, stream = step["inputs"]["inputs_embeds"]["embeds"], f"{case['id']}/0/inputs_embeds"
        ids = recipes.to_torch(maker.make(recipe["ids"], stream + ".ids"))
        features = recipes.to_torch(maker.make(recipe["features"], stream + ".features"))
        coords = recipes.to_torch(maker.make(step["inputs"]["point_coords"], f"{case['id']}/0/point_coords"))
        model = self.truth.model(case["config"], self.weights(case["weights"], "fp64"))
        with torch.no_grad():
            out = model.generate(input_ids=ids, attention_mask=torch.ones_like(ids), point_features=features,
                                 point_coords=coords, do_sample=False, max_new_tokens=len(logits), eos_token_id=None)
        tokens = out[0, ids.shape[1]:].tolist()
        stepwise = [int(np.argmax(logits[number][0, -1])) for number in sorted(logits)]
        if tokens != stepwise:
            raise Failure(f"{case['id']}: generate() gives tokens {tokens}, the steps {stepwise}")
        return ",".join(map(str, tokens))


def described(case, seed):
    """The part of a manifest entry that follows from the case alone."""
    return {"case": case["id"], "op": op_of(case), "level": case["level"],
            "options": {key: case["config"][key] for key in OPTIONS if key in case["config"]},
            "pitfalls": case["pitfalls"], "seed": seed}


def identity(name, blob):
    return {"path": name, "sha256": hashlib.sha256(blob).hexdigest(), "bytes": len(blob)}


def manifest_entry(case, path, seed):
    return {**identity(f"set/{path.name}", path.read_bytes()), **described(case, seed)}


_runner, _out = None, None


def start_worker(suite, folder, data, seed, out):
    global _runner, _out
    torch.set_num_threads(1)
    transformers.logging.set_verbosity_error()
    _runner, _out = Runner(suite, folder, data, seed), out


def work(case):
    """Writes the golden of one case; returns (manifest entry or None, error text or None)."""
    try:
        tensors, metadata = _runner.golden(case)
        path = _out / file_name(case)
        path.write_bytes(gzip.compress(b"".join(recipes.safetensors(tensors, metadata)), 9, mtime=0))
        return manifest_entry(case, path, _runner.seed), None
    except Failure as failure:
        return None, str(failure)
    except Exception:
        return None, f"{case['id']}:\n{traceback.format_exc()}"


def generate(suite, cases, out, data, seed, jobs):
    """Writes the goldens of `cases` to `out`; returns manifest entries by case and the list of errors."""
    entries, errors = {}, []
    with tempfile.TemporaryDirectory() as folder:
        with multiprocessing.get_context("spawn").Pool(jobs, start_worker, (suite, folder, data, seed, out)) as pool:
            for number, (entry, error) in enumerate(pool.imap_unordered(work, cases), 1):
                if error:
                    errors.append(error)
                else:
                    entries[entry["case"]] = entry
                if sys.stderr.isatty():
                    print(f"\r{number}/{len(cases)} cases", end="", file=sys.stderr)
    return entries, errors


def library_errors():
    return json.dumps(unrepaired.collect(), indent=1, ensure_ascii=False) + "\n"


def manifest(suite, entries, seed):
    """manifest.json, one line a file, in the order of cases.json."""
    head = {"format": 1, "generator": GENERATOR, "libraries": LIBRARIES,
            "cases_sha256": hashlib.sha256((HERE / "cases.json").read_bytes()).hexdigest()}
    lists = {"files": [entries[name] for name in suite.cases if name in entries],
             "other_files": [identity(name, (HERE / name).read_bytes()) for name in OTHERS]}
    lines = (f' "{key}": [\n' + ",\n".join("  " + json.dumps(entry, ensure_ascii=False) for entry in listed) + "]"
             for key, listed in lists.items())
    return json.dumps(head, ensure_ascii=False)[:-1] + ",\n" + ",\n".join(lines) + "}\n"


# Comparing.

def load(path):
    blob = gzip.decompress(path.read_bytes())
    length = int.from_bytes(blob[:8], "little")
    metadata = json.loads(blob[8:8 + length])["__metadata__"]
    return {name: recipes.from_torch(value) for name, value in safetensors.torch.load(blob).items()}, metadata


def difference(committed, fresh):
    """0 where two goldens hold the same bits, else the largest difference of a tensor over its scale and limit; a text
    where they cannot be compared."""
    (old, old_meta), (new, new_meta) = committed, fresh
    versions = set(LIBRARIES)
    changed = {key for key in {*old_meta, *new_meta} - versions if old_meta.get(key) != new_meta.get(key)}
    if changed or old.keys() != new.keys():
        return f"other metadata or tensors: {sorted(changed | (old.keys() ^ new.keys()))}"
    worst = 0.0
    for name, (dtype, before) in old.items():
        after = new[name].array
        if dtype != new[name].dtype or before.shape != after.shape:
            return f"{name} has another type or shape"
        if before.tobytes() == after.tobytes():
            continue
        if dtype not in LIMITS:
            return f"{name} differs"
        before, after = mr3d_random.widen(before, dtype), mr3d_random.widen(after, dtype)
        if not np.array_equal(np.isnan(before), np.isnan(after)):
            return f"{name} has NaN at other places"
        with np.errstate(invalid="ignore"):
            error = np.nanmax(np.abs(np.where(before == after, 0, before - after)))
        scale = np.nanmax(np.abs(before[np.isfinite(before)]), initial=0)
        worst = max(worst, error / (LIMITS[dtype] * scale) if scale else math.inf)
    return worst


def check(suite, cases, data, seed, jobs):
    """Regenerates and compares. Returns the exit status."""
    failures, equal, near = [], 0, []
    old = json.loads((HERE / "manifest.json").read_text())
    if old["cases_sha256"] != hashlib.sha256((HERE / "cases.json").read_bytes()).hexdigest():
        failures.append("manifest.json was made for another cases.json")
    for name in OTHERS:
        listed = next((entry for entry in old.get("other_files", ()) if entry["path"] == name), None)
        if listed is None or not (HERE / name).exists():
            failures.append(f"{name}: {'no such file; restore it from version control' if listed else 'manifest.json does not list it'}")
        elif identity(name, (HERE / name).read_bytes()) != listed:
            failures.append(f"{name}: the file is not the one in manifest.json; restore it from version control")
    listed = {entry["case"]: entry for entry in old["files"]}
    path = HERE / "library_errors.json"
    if path.exists() and path.read_text() != library_errors():
        failures.append("library_errors.json: the library says something else")
    with tempfile.TemporaryDirectory() as folder:
        fresh = pathlib.Path(folder)
        entries, errors = generate(suite, cases, fresh, data, seed, jobs)
        failures += errors
        for case in cases:
            path = HERE / "set" / file_name(case)
            if case["id"] not in entries:
                continue
            if case["id"] not in listed or not path.exists():
                failures.append(f"{case['id']}: no committed golden")
                continue
            blob = path.read_bytes()
            if hashlib.sha256(blob).hexdigest() != listed[case["id"]]["sha256"]:
                failures.append(f"{case['id']}: the committed file is not the one in manifest.json")
            elif blob == (fresh / path.name).read_bytes():
                equal += 1
            else:
                apart = difference(load(path), load(fresh / path.name))
                if isinstance(apart, str) or not apart <= 1:
                    failures.append(f"{case['id']}: {apart if isinstance(apart, str) else f'{apart:.3g} of the limit'}")
                else:
                    near.append((apart, case["id"]))
    print(f"{equal} goldens equal bit for bit, {len(near)} within the limits of another machine, {len(failures)} differ")
    for apart, name in sorted(near, reverse=True)[:10]:
        print(f"  {name}: {apart:.3g} of the limit")
    for failure in failures:
        print(failure, file=sys.stderr)
    return 1 if failures or not equal + len(near) else 0


def main():
    parser = argparse.ArgumentParser(description="Writes the golden set, or checks the committed one.")
    parser.add_argument("--case", default="*", metavar="GLOB", help="only cases whose id fits")
    parser.add_argument("--check", action="store_true", help="write nothing, compare with the committed set")
    parser.add_argument("--data", default=os.environ.get("MR3D_DATA"), help="folder with prompt_ids.json")
    parser.add_argument("--jobs", type=int, default=os.cpu_count(), help="processes (default: one a core)")
    parser.add_argument("--whole", action="store_true", help="the cases tagged `whole` and no other, in one process")
    arguments = parser.parse_args()

    suite, seed = recipes.Suite.load(), 0
    fitting = [case for case in suite.cases.values()
               if fnmatch.fnmatchcase(case["id"], arguments.case) and is_whole(case) == arguments.whole]
    cases = [case for case in fitting if arguments.data or "needs" not in case]
    jobs = 1 if arguments.whole else arguments.jobs  # a model in binary64 takes 4 GB
    if not cases:
        parser.error(f"no case fits {arguments.case}" if not fitting else "the fitting cases need --data")
    if len(cases) < len(fitting):
        print(f"{len(fitting) - len(cases)} cases need the data folder (--data) and are left as they are")
    if arguments.check:
        return check(suite, cases, arguments.data, seed, jobs)

    out = HERE / "set"
    out.mkdir(exist_ok=True)
    entries, errors = generate(suite, cases, out, arguments.data, seed, jobs)
    for error in errors:
        print(error, file=sys.stderr)
    if errors:
        print(f"{len(errors)} of {len(cases)} goldens could not be made; manifest.json is as it was", file=sys.stderr)
        return 1
    path = HERE / "manifest.json"
    if path.exists():
        earlier = {entry["case"]: entry for entry in json.loads(path.read_text())["files"]}
        entries = {name: {**entry, **described(suite.cases[name], seed)} for name, entry in earlier.items()
                   if name in suite.cases} | entries
    if arguments.case == "*" and not arguments.whole:
        (HERE / "library_errors.json").write_text(library_errors())
    path.write_text(manifest(suite, entries, seed))
    for stray in set(out.iterdir()) - {HERE / entry["path"] for entry in entries.values()}:
        stray.unlink()
    total = sum(entry["bytes"] for entry in entries.values())
    print(f"{len(cases)} goldens written; the set has {len(entries)} files, {total / 1e6:.1f} MB")
    return 0


if __name__ == "__main__":
    sys.exit(main())
