"""Gives the profiles of certificates their versions: golden/profiles.json (docs/certificate.md, "Profiles").

    python golden/profiles.py            after a change of cases.json: a profile whose list has changed gets the next version
    python golden/profiles.py --check    exit status 1 where that is due

The roots are Merkle tree hashes (RFC 6962, SHA-256) over lines "ID TIER TIER ...", written here a second time, beside tools/certify/merkle.c.
"""

import argparse
import hashlib
import json
import pathlib
import sys

FOLDER = pathlib.Path(__file__).resolve().parent
TIERS = ("fp64", "fp32", "tf32", "bf16", "fp16")
PROFILES = {"core": ("L0", "L1", "L2"), "decoder": ("L0", "L1", "L2", "L3", "L4"), "scan": ("L0", "L1", "L2", "L3", "L4", "L5")}


def root(leaves):
    """The Merkle tree hash: the left half is the largest power of two below the number of leaves."""
    if not leaves:
        return hashlib.sha256(b"").digest()
    if len(leaves) == 1:
        return hashlib.sha256(b"\0" + leaves[0]).digest()
    left = 1
    while 2 * left < len(leaves):
        left *= 2
    return hashlib.sha256(b"\1" + root(leaves[:left]) + root(leaves[left:])).digest()


def profiles_of(cases):
    """Each profile's number of cases and root. What needs the data folder is in none, nor what runs the whole model for minutes."""
    found = {}
    for name, levels in PROFILES.items():
        lines = [
            " ".join([case["id"], *(tier for tier in TIERS if tier in case.get("tiers", TIERS))]).encode()
            for case in cases
            if case["level"] in levels and "needs" not in case and "whole" not in case["tags"]
        ]
        found[name] = {"cases": len(lines), "root": root(lines).hex()}
    return found


def main():
    """Compares, and writes unless --check."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--check", action="store_true", help="write nothing; exit status 1 where a list has changed")
    arguments = parser.parse_args()
    path = FOLDER / "profiles.json"
    old = json.loads(path.read_text())["profiles"] if path.exists() else {}
    new = profiles_of(json.loads((FOLDER / "cases.json").read_text())["cases"])
    changed = [name for name in new if {k: old.get(name, {}).get(k) for k in ("cases", "root")} != new[name]]
    for name, entry in new.items():
        entry["version"] = old.get(name, {}).get("version", 0) + (name in changed)
    if arguments.check:
        for name in changed:
            print(f"profile {name}: cases.json gives another list; python golden/profiles.py gives it version {new[name]['version']}")
        return 1 if changed else 0
    lines = [f'  "{name}": {json.dumps({"version": e["version"], "cases": e["cases"], "root": e["root"]})}' for name, e in new.items()]
    path.write_text('{"format": 1, "profiles": {\n' + ",\n".join(lines) + "\n}}\n")
    print("changed: " + ", ".join(changed) if changed else "no list has changed")
    return 0


if __name__ == "__main__":
    sys.exit(main())
