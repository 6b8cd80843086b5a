"""Point encoders of public size on whole scans, from raw points to tokens: golden/scans, made anew or checked.

    python golden/encode_scans.py                  write the goldens
    python golden/encode_scans.py --check          compare the PyTorch model with the committed ones
    python golden/encode_scans.py --check --mr3d build/tools/mr3d    compare the C reference with them
    python golden/encode_scans.py --only 'canonical*,*_scenescript'  some of them

The canonical scene is in the repository; the real scans are read from `scans/` of the data folder (--data or MR3D_DATA) and
left out, with a word, where it is not given. Of them nothing is kept: a golden holds a digest of all rows and a few rows of
the features (docs/cases.md), of coordinates their number and SHA-256. Exit status 0: all agree, 2: some part, 1: could not
run.
"""

import argparse
import fnmatch
import gzip
import hashlib
import json
import os
import pathlib
import subprocess
import sys
import tempfile
import time

import numpy as np
import torch

import cases
import generate
import recipes
from mixedrope3d import operators
from mixedrope3d.answer import Server
from mixedrope3d.configuration import Options

HERE = pathlib.Path(__file__).resolve().parent
SCANS = {"canonical": HERE / "scene" / "canonical.ply", "office1": "scans/office1.ply", "five-people": "scans/five_people.ply"}
ENCODERS = {
    "scenescript": {**cases.SCENESCRIPT, "projector": "linear", "hidden_size": 896, "num_bins": 1280},
    "sonata": {**cases.SONATA, "projector": "mlp", "hidden_size": 896, "num_bins": 1280},
}
LIMIT = 1e-10  # of the tensor's scale, for whole encoders


def set_name(encoder):
    return f"{encoder}-public"


def write_weights(encoder, path):
    suite = recipes.Suite({"format": 1, "cases": [], "weights": {set_name(encoder): cases.encoder_weights(ENCODERS[encoder])}})
    recipes.write_weights(suite, set_name(encoder), "fp64", 0, path)


def request(path):
    """grid and features of a scan, as voxelize gives them."""
    grid, features = operators.voxelize(torch.from_numpy(recipes.read_ply(path)), Options({}))
    return {"grid": grid, "features": features}


def by_torch(encoder, weights, tensors, folder):
    return Server(torch.float64, true_precision=True).answer("encode_points", ENCODERS[encoder], {"weights": str(weights)}, tensors)


def by_program(program):
    def answer(encoder, weights, tensors, folder):
        asked, answered = folder / "request.safetensors", folder / "answer.safetensors"
        meta = {"protocol": "1", "type": "request", "id": "0", "op": "encode_points", "tier": "fp64", "weights": str(weights),
                "config": json.dumps(ENCODERS[encoder])}
        with open(asked, "wb") as file:
            file.writelines(recipes.safetensors({name: recipes.from_torch(tensor) for name, tensor in tensors.items()}, meta))
        run = subprocess.run([program, "eval", asked, "-o", answered], capture_output=True, text=True)
        if run.returncode:
            raise generate.Failure(f"{program} eval ended with {run.returncode}: {(run.stdout + run.stderr).strip()}")
        return generate.safetensors.torch.load_file(answered)
    return answer


def golden(scan, encoder, tensors, outputs):
    """(tensors, metadata) of a golden file."""
    coords = np.ascontiguousarray(outputs["coords"].numpy())
    metadata = {"scan": scan, "op": "encode_points", "config": json.dumps(ENCODERS[encoder]), "weights": set_name(encoder), "seed": "0",
                "generator": generate.GENERATOR, **generate.LIBRARIES, "cells": str(len(tensors["grid"])),
                "tokens": str(len(coords)), "coords_sha256": hashlib.sha256(coords.tobytes()).hexdigest()}
    return generate.kept("features", outputs["features"], None, generate.Keeping()), metadata


def parted(committed, fresh):
    """What differs between two goldens, a text, or None; and the largest difference over its tensor's scale."""
    (old, old_meta), (new, new_meta) = committed, fresh
    for key in sorted({*old_meta, *new_meta} - {*generate.LIBRARIES}):
        if old_meta.get(key) != new_meta.get(key):
            return f"{key} is {new_meta.get(key)}, expected {old_meta.get(key)}", 0
    worst = 0
    for name in sorted({*old, *new}):
        if name not in old or name not in new or old[name].array.shape != new[name].array.shape:
            return f"{name} is in one of them only, or has another shape", 0
        before, after = (side[name].array.astype(np.float64) for side in (old, new))
        error = np.abs(before - after).max() / np.abs(before).max()
        if not error <= LIMIT:
            return f"{name} differs by {error:.3g} of its scale, expected at most {LIMIT:g}", error
        worst = max(worst, error)
    return None, worst


def is_chosen(scan, encoder, only):
    return any(fnmatch.fnmatchcase(f"{scan}_{encoder}", glob) for glob in only.split(","))


def paths(data, only):
    """Scans by name, those left out said."""
    found = {}
    for name, path in SCANS.items():
        if not any(is_chosen(name, encoder, only) for encoder in ENCODERS):
            continue
        path = path if name == "canonical" else data and pathlib.Path(data) / path
        if path and path.exists():
            found[name] = path
        else:
            print(f"{name}: skipped, needs the data folder (--data or MR3D_DATA) with {SCANS[name]}")
    return found


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--check", action="store_true", help="write nothing, compare with the committed goldens")
    parser.add_argument("--only", default="*", metavar="GLOBS", help="only those whose name, SCAN_ENCODER, fits; joined by commas")
    parser.add_argument("--data", default=os.environ.get("MR3D_DATA"), help="folder with scans/")
    parser.add_argument("--mr3d", metavar="PROGRAM", help="with --check: answers of the C reference instead of the PyTorch model's")
    arguments = parser.parse_args()
    if arguments.mr3d and not arguments.check:
        parser.error("--mr3d goes with --check: goldens are the PyTorch model's")
    answer = by_program(arguments.mr3d) if arguments.mr3d else by_torch
    out, done, failures = HERE / "scans", 0, []
    out.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory() as folder:
        folder = pathlib.Path(folder)
        requests = {scan: request(path) for scan, path in paths(arguments.data, arguments.only).items()}
        for encoder in ENCODERS:
            names = {scan: f"{scan}_{encoder}" for scan in requests if is_chosen(scan, encoder, arguments.only)}
            if not names:
                continue
            weights = folder / "weights.safetensors"
            write_weights(encoder, weights)
            for scan, name in names.items():
                start, path = time.monotonic(), out / f"{name}.safetensors.gz"
                try:
                    fresh = golden(scan, encoder, requests[scan], answer(encoder, weights, requests[scan], folder))
                except generate.Failure as failure:
                    print(failure, file=sys.stderr)
                    return 1
                note = ""
                if arguments.check:
                    wrong, worst = parted(generate.load(path), fresh) if path.exists() else ("no committed golden", 0)
                    note = f", within {worst:.2g} of the golden's scale"
                    if wrong:
                        failures.append(f"{name}: {wrong}")
                        note = ": PARTS"
                else:
                    path.write_bytes(gzip.compress(b"".join(recipes.safetensors(*fresh)), 9, mtime=0))
                done += 1
                print(f"{name}: {fresh[1]['cells']} cells, {fresh[1]['tokens']} tokens, {time.monotonic() - start:.0f} s{note}", flush=True)
    for failure in failures:
        print(failure, file=sys.stderr)
    if not done:
        print(f"nothing was encoded: no scan that is here fits {arguments.only}", file=sys.stderr)
        return 1
    return 2 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
