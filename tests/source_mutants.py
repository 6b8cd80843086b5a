#!/usr/bin/env python3
"""Changes the reference's source in one place at a time and asks whether its tests notice (docs/concepts.md, "Mutating the source").

    python3 tests/source_mutants.py --list                     every mutant, FILE:LINE:COLUMN OLD->NEW
    python3 tests/source_mutants.py --sample 150 --seed 1      tries 150 of them, spread evenly over the files
    python3 tests/source_mutants.py --file ref/ops/mask.c      tries all of a file
    python3 tests/source_mutants.py --only ref/ops/mask.c:20   tries those of a line
    python3 tests/source_mutants.py --sample 150 --seed 1 --again FILE   tries those of the sample that FILE (an earlier --json) does not call killed

Known equivalent mutants stand in tests/source_mutants_equivalent.txt; they are not run (--equivalent runs them alone: none may be killed).
Exit status: 0 all killed or equivalent, 2 some survive (or, with --equivalent, some are killed), 1 could not run.
"""
import argparse
import concurrent.futures
import json
import os
import pathlib
import queue
import random
import re
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
import time

ROOT = pathlib.Path(__file__).resolve().parent.parent
EQUIVALENT = ROOT / "tests" / "source_mutants_equivalent.txt"
MESON = os.environ.get("MESON", "meson")
FOLDERS = ("ref/ops", "ref/model")

# Functions that are not part of the answer: error scales, which the judge's own tests cover, and texts of messages.
SKIPPED_FUNCTIONS = re.compile(r"(mr3d_)?(scale_\w+|\w+_(scale|turn)|angle_error_1d)|shift|stagnant|sizes_of|temporal_inv_freq"
                               r"|append_known|index_text|tensor_list|mr3d_session_list")
# Calls whose arguments are sizes of memory or parts of messages.
SKIPPED_CALLS = re.compile(r"mr3d_allocate|mr3d_request_memory|malloc|calloc|strdup|free|\w+_free|va_\w+|mr3d_fail|mr3d_fail_in|v?snprintf|fprintf|sizeof")
# ... and appends to a message; attention_block.c has a function of that name that moves data.
MESSAGE_CALLS = {"ref/model/sizes.c": re.compile(r"append|append_known")}

SWAPS = {"+": ["-"], "-": ["+"], "*": ["/"], "/": ["*"], "%": ["/"], "+=": ["-="], "-=": ["+="], "*=": ["/="], "/=": ["*="],
         "<": ["<=", ">="], "<=": ["<", ">"], ">": [">=", "<="], ">=": [">", "<"], "==": ["!="], "!=": ["=="], "&&": ["||"], "||": ["&&"],
         "continue": ["break"], "break": ["continue"], "true": ["false"], "false": ["true"]}
ASSIGNMENTS = {"=", "+=", "-=", "*=", "/=", "|=", "&=", "^=", "%=", "<<=", ">>="}
KEYWORDS = {"if", "for", "while", "do", "else", "return", "switch", "case", "default", "goto", "sizeof", "break", "continue"}
TOKEN = re.compile(r"""(?P<space>\s+|\\\n)|(?P<comment>/\*.*?\*/|//[^\n]*)|(?P<directive>^[ \t]*\#(?:\\\n|[^\n])*)|(?P<string>"(?:\\.|[^"\\])*")
    |(?P<char>'(?:\\.|[^'\\])+')|(?P<number>(?:0[xX][0-9a-fA-F.]+(?:[pP][+-]?\d+)?|\.?\d[\d.]*(?:[eE][+-]?\d+)?)[uUlLfF]*)|(?P<word>[A-Za-z_]\w*)
    |(?P<op><<=|>>=|\.\.\.|->|\+\+|--|<<|>>|<=|>=|==|!=|&&|\|\||[-+*/%&|^]=|.)""", re.X | re.S | re.M)


class Token:
    def __init__(self, kind, text, at):
        self.kind, self.text, self.at, self.end = kind, text, at, at + len(text)


class Mutant:
    """`new` stands in place of source[at:end]."""

    def __init__(self, file, source, at, end, old, new, inserted):
        self.file, self.at, self.end, self.old, self.new, self.inserted = file, at, end, old, new, inserted
        start = source.rfind("\n", 0, at) + 1
        stop = source.find("\n", at)
        self.line, self.column = source.count("\n", 0, at) + 1, at - start + 1
        self.text = source[start:stop].strip()
        self.change, self.nth = f"{old}->{new}", 1

    @property
    def name(self):
        return f"{self.file}:{self.line}:{self.column} {self.change}"

    @property
    def key(self):
        return self.file, self.text, self.change, self.nth


def tokens_of(source):
    return [Token(m.lastgroup, m.group(), m.start()) for m in TOKEN.finditer(source) if m.lastgroup not in ("space", "comment", "directive")]


def closing(tokens, i):
    """Index of the bracket that closes the one at i."""
    depth = 0
    for k in range(i, len(tokens)):
        depth += tokens[k].text in ("(", "[", "{")
        depth -= tokens[k].text in (")", "]", "}")
        if depth == 0:
            return k
    return len(tokens) - 1


def constants(text):
    """What stands in place of a number."""
    value = re.fullmatch(r"(\d+)([uUlL]*)", text)
    if value:
        n = int(value.group(1))
        return [str(v) + value.group(2) for v in ([1] if n == 0 else [0, 2] if n == 1 else [n + 1])]
    if re.fullmatch(r"1\.0+", text):
        return ["0.0", "2.0"]
    return [f"({text} + 1)"]


def deletable(tokens, i):
    """Index of the `;` of an assignment or a call that starts at token i; else None."""
    end = i
    while end < len(tokens) and tokens[end].text not in (";", "{", "}"):
        end = closing(tokens, end) + 1 if tokens[end].text in ("(", "[") else end + 1
        if end < len(tokens) and tokens[end].text == "{" and tokens[end - 1].text == ")":  # compound literal, not a block
            end = closing(tokens, end) + 1
    if end >= len(tokens) or tokens[end].text != ";" or end == i:
        return None
    part = tokens[i:end]
    if part[0].text in KEYWORDS or any(SKIPPED_CALLS.fullmatch(t.text) for t in part if t.kind == "word" and t.text != "sizeof"):
        return None
    depth = 0
    for k, t in enumerate(part):
        if depth == 0 and t.text in ASSIGNMENTS | {"++", "--"}:
            left = part[:k]
            declares = any(a.kind == "word" and (b.kind == "word" or b.text == "*") for a, b in zip(left, left[1:]))
            return None if declares else end
        depth += t.text in ("(", "[", "{")
        depth -= t.text in (")", "]", "}")
    call = part[0].kind == "word" and len(part) > 2 and part[-1].text == ")" and not any(
        a.kind == "word" and (b.kind == "word" or b.text == "*") for a, b in zip(part[:2], part[1:3]))
    return end if call else None


def labels(tokens, i):
    """Whether the colon at i ends a `case` or `default`; else it is a conditional's."""
    while tokens[i - 1].text not in (";", "{", "}"):
        i -= 1
    return tokens[i].text in ("case", "default")


def mutants_of(file, source):
    tokens, out = tokens_of(source), []

    def add(i, j, old, new):
        out.append(Mutant(file, source, tokens[i].at, tokens[j].end, old, new, new if old != "statement" else "{}"))

    messages = MESSAGE_CALLS.get(file)
    i, function = 0, None
    while i < len(tokens):  # top level: function bodies and tables of initializers
        t = tokens[i]
        if t.text == "(" and i and tokens[i - 1].kind == "word":
            function = tokens[i - 1].text
        if t.text in ("(", "["):
            i = closing(tokens, i) + 1
            continue
        if t.text != "{":
            i += 1
            continue
        end, before = closing(tokens, i), tokens[i - 1].text
        if (before == ")" and not SKIPPED_FUNCTIONS.fullmatch(function or "")) or before == "=":
            body(tokens, i, end, source, add, messages)
        i = end + 1
    seen = {}
    for m in sorted(out, key=lambda m: (m.at, m.change)):
        k = (m.text, m.change)
        m.nth = seen[k] = seen.get(k, 0) + 1
    return sorted(out, key=lambda m: (m.at, m.change))


def body(tokens, begin, end, source, add, messages):
    i, heads = begin + 1, 0  # heads: up to where the head of a `for` reaches, whose semicolons end no statement
    while i < end:
        t, before, after = tokens[i], tokens[i - 1], tokens[i + 1]
        if t.text == "for":
            heads = closing(tokens, i + 1)
        starts = i > heads and (before.text in (";", "{", "}", "else") or before.text == ":" and labels(tokens, i - 1)) or i > heads and before.text == ")" and t.kind == "word"
        if starts and t.text not in ("{", "}", ";"):
            stop = deletable(tokens, i)
            if stop is not None and stop < end:
                add(i, stop, "statement", ";")
        if t.kind == "word" and after.text == "(" and (SKIPPED_CALLS.fullmatch(t.text) or (messages and messages.fullmatch(t.text))):
            i = closing(tokens, i + 1) + 1
            continue
        if t.text == "struct" or (t.text == "char" and after.kind == "word" and tokens[i + 2].text == "["):  # a type, a text's buffer
            i = closing(tokens, i + 2) + 1 if tokens[i + 2].text in ("{", "[") else i + 1 if after.text != "{" else closing(tokens, i + 1) + 1
            continue
        if t.kind == "number" and before.text not in (".", "->"):
            for new in constants(t.text):
                add(i, i, t.text, new)
        elif t.text in ("+", "-", "*", "/", "%"):
            spaced = source[t.at - 1].isspace() and source[t.end].isspace()
            operand = before.kind in ("number", "word") and before.text not in KEYWORDS or before.text in (")", "]")
            if spaced and operand:
                for new in SWAPS[t.text]:
                    add(i, i, t.text, new)
            elif t.text == "-" and not operand:
                add(i, i, "-", "")
        elif t.text in SWAPS:
            for new in SWAPS[t.text]:
                add(i, i, t.text, new)
        elif t.text == "!":
            add(i, i, "!", "")
        i += 1


def all_mutants():
    sources, out = {}, []
    for folder in FOLDERS:
        for path in sorted(list((ROOT / folder).rglob("*.c")) + list((ROOT / folder).rglob("*.h"))):
            file = path.relative_to(ROOT).as_posix()
            sources[file] = path.read_text()
            out += mutants_of(file, sources[file])
    return sources, out


def sample_of(mutants, count, seed):
    """One of each file in turn, at random, until there are enough."""
    files = {}
    for m in mutants:
        files.setdefault(m.file, []).append(m)
    for file, group in files.items():
        random.Random(f"{seed} {file}").shuffle(group)
    order = sorted(files)
    random.Random(seed).shuffle(order)
    chosen = []
    while len(chosen) < count and any(files[f] for f in order):
        for f in order:
            if files[f] and len(chosen) < count:
                chosen.append(files[f].pop())
    return sorted(chosen, key=lambda m: (m.file, m.at, m.change))


def read_equivalent(mutants):
    """{key: reason}; an entry that fits no mutant is an error, so that the list cannot outlive the source."""
    known, reasons = {m.key for m in mutants}, {}
    for number, line in enumerate(EQUIVALENT.read_text().splitlines(), 1):
        if not line or line.startswith("#"):
            continue
        try:
            file, rest = line.split(" | ", 1)
            text, change, reason = rest.rsplit(" | ", 2)
        except ValueError:
            sys.exit(f"{EQUIVALENT.name}:{number}: expected FILE | source line | OLD->NEW | reason")
        change, _, nth = change.strip().partition(" #")
        key = (file.strip(), text.strip(), change, int(nth or 1))
        if key not in known:
            sys.exit(f"{EQUIVALENT.name}:{number}: no mutant {change} #{key[3]} in {key[0]}: {key[1]}")
        reasons[key] = reason.strip()
    return reasons


# ---- trying ----

# What is asked first of a file whose name is no operator's.
NEAR = {"rotation": "rope1d,rope3d,cis3d,normalize_coords,mixed_rope", "scan": "voxelize,token_coords", "sequence": "splice,mask",
        "rotary_table": "rope1d", "base_frequencies": "cis3d", "points_check": "mixed_rope", "decoder_parts": "rmsnorm,linear,swiglu,attention"}
# The point encoders', which the goldens of L5 ask.
ENCODERS = {"cell_table", "coarse_cells", "fourier_features", "gelu", "grid_pooling", "group_norm", "layernorm", "neighbours", "norm", "patch_attention", "patches", "projector",
            "relu", "sparse_conv", "strided_conv", "submanifold_conv", "z_order", "encoder", "scenescript", "sonata"}
NEAR_TESTS = {"norm": ["group_norm", "layernorm", "arithmetic"], "encoder": ["encoders"], "scenescript": ["encoders"], "sonata": ["encoders"], "request": ["refusals", "requests"], "sizes": ["refusals"], "server": ["requests", "refusals"], "session": ["sessions"],
              "generation": ["sessions"], "weights": ["weights"], "decoder": ["layers", "sessions"], "layer": ["layers", "refusals"]}


class Place:
    """A private copy of the tree with its builds. Killed by signal, exit status or time: one answer, what killed."""

    def __init__(self, folder, quick):
        self.tree, self.build, self.sanitized = folder / "tree", folder / "build", folder / "build-sanitized"
        self.scratch, self.quick = folder / "scratch", quick
        self.scratch.mkdir(parents=True, exist_ok=True)
        listed = subprocess.run(["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"], cwd=ROOT, check=True, capture_output=True)
        names = {name for name in listed.stdout.decode().split("\0") if name and (ROOT / name).is_file()}
        for path in list(self.tree.rglob("*")):
            if path.is_file() and path.relative_to(self.tree).as_posix() not in names:
                path.unlink()
        for name in names:  # what is equal stays; what an interrupted run left changed is new, so that ninja builds it again
            source, copy = ROOT / name, self.tree / name
            if not copy.exists() or copy.read_bytes() != source.read_bytes():
                copy.parent.mkdir(parents=True, exist_ok=True)
                copy.unlink(missing_ok=True)
                copy.write_bytes(source.read_bytes())
                copy.chmod(source.stat().st_mode)
        self.limits = {}
        self.tests = self.set_up(self.build, ["--werror", "-Dc_args=-Wno-parentheses"])  # swapped && and || lack them
        self.sanitized_tests = self.set_up(self.sanitized, ["-Db_sanitize=address,undefined", "-Db_lundef=false"])
        self.ops = set(self.output([self.build / "tools/mr3d", "list", "ops"]).split())
        self.levels = [l.split()[0] for l in self.output([self.build / "tools/mr3d", "list", "levels"]).splitlines() if not re.search(r"\s0 cases", l)]

    def output(self, command):
        return subprocess.run([str(c) for c in command], check=True, capture_output=True, text=True, env=self.environment({})).stdout

    def environment(self, more):
        return dict(os.environ, MR3D_GOLDEN=str(self.tree / "golden"), TMPDIR=str(self.scratch), UBSAN_OPTIONS="halt_on_error=1", **more)

    def set_up(self, build, options):
        fresh = not (build / "build.ninja").exists()
        setup = [MESON, "setup", str(build), str(self.tree), *options] if fresh else [MESON, "setup", "--reconfigure", str(build), str(self.tree), *options]
        done = subprocess.run(setup, capture_output=True, text=True)
        if done.returncode:
            sys.exit(done.stdout[-2000:] + done.stderr)
        tests = [t for t in json.loads((build / "meson-info/intro-tests.json").read_text()) if {"mr3d:ops", "mr3d:model"} & set(t["suite"])]
        done = self.ninja(build, tests)
        if done.returncode:
            sys.exit(done.stdout[-4000:])
        return tests

    def ninja(self, build, tests):
        targets = sorted({os.path.relpath(t["cmd"][0], build) for t in tests}) + (["tools/mr3d"] if build == self.build else [])
        return subprocess.run(["ninja", "-C", str(build), *targets], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)

    def kills(self, label, command, env, bound_memory=True):
        """Why the mutant fails this command, or None. The unchanged source ran first and says how long it may take."""
        def limit():
            resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
            if bound_memory:
                resource.setrlimit(resource.RLIMIT_AS, (4 << 30, 4 << 30))
        start = time.monotonic()
        process = subprocess.Popen([str(c) for c in command], env=self.environment(env), cwd=self.scratch, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
                                   preexec_fn=limit, start_new_session=True)
        try:
            status = process.wait(self.limits.get(label, 600))
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
            return f"{label}: no end after {self.limits[label]:.0f} s"
        self.seconds = time.monotonic() - start
        return None if status == 0 else f"{label}: " + (f"exit status {status}" if status > 0 else signal.Signals(-status).name)

    def stages(self, file):
        """(label, command, environment, bound memory) in the order tried: near and cheap first."""
        stem = pathlib.PurePath(file).stem
        check = [self.build / "tools/mr3d", "check", "--backend", "builtin:reference", "--without-slow", "--fail-fast", "--quiet"]
        near = "encode_points" if stem in ENCODERS else NEAR.get(stem, stem if stem in self.ops else None)
        level = "L5" if stem in ENCODERS else "L1,L2" if stem in ("attention_block", "decoder_layer") else "L0"
        if near:
            yield f"goldens {level} {near}", check + ["--level", level, "--op", near], {}, True
        first = NEAR_TESTS.get(stem, [stem])
        tests = sorted(self.tests, key=lambda t: t["name"].split("-")[1] not in first)
        n_first = sum(t["name"].split("-")[1] in first for t in tests)
        for level in self.levels[:3]:
            yield f"goldens {level}", check + ["--level", level], {}, True
        for t in tests:
            yield f"test {t['name']}", t["cmd"], t["env"], True
        for t in sorted(self.sanitized_tests, key=lambda t: t["name"].split("-")[1] not in first):
            yield f"sanitized {t['name']}", t["cmd"], t["env"], False
        for level in [] if self.quick else self.levels[3:]:
            yield f"goldens {level}", check + ["--level", level], {}, True

    def measure(self, files):
        """The unchanged source passes everything; how long that takes bounds the mutants."""
        for file in files:
            for label, command, env, bound in self.stages(file):
                if label in self.limits:
                    continue
                killed = self.kills(label, command, env, bound)
                if killed:
                    sys.exit(f"the unchanged source fails {killed}")
                self.limits[label] = 10 + 8 * self.seconds

    def judge(self, mutant, source):
        """("uncompiled" | "killed" | "survived", by what)."""
        path = self.tree / mutant.file
        path.write_text(source[:mutant.at] + mutant.inserted + source[mutant.end:])
        try:
            done = self.ninja(self.build, self.tests)
            if done.returncode:
                return "uncompiled", next((l.split(self.tree.as_posix())[-1] for l in done.stdout.splitlines() if "error:" in l), "build failed")
            sanitized = False
            for label, command, env, bound in self.stages(mutant.file):
                if label.startswith("sanitized") and not sanitized:
                    sanitized = True
                    if self.ninja(self.sanitized, self.sanitized_tests).returncode:
                        return "killed", "sanitized: build failed"
                killed = self.kills(label, command, env, bound)
                if killed:
                    return "killed", killed
            return "survived", ""
        finally:
            path.write_text(source)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sample", type=int, help="try this many, chosen by --seed, spread evenly over the files (default: all)")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--file", action="append", help="only mutants of this file")
    parser.add_argument("--only", help="only mutants whose name starts so")
    parser.add_argument("--equivalent", action="store_true", help="run those listed as equivalent, and no others")
    parser.add_argument("--quick", action="store_true", help="leave out the goldens above L2, which take half a minute for each mutant that survives the rest")
    parser.add_argument("--again", type=pathlib.Path, help="an earlier --json: what was killed then counts as killed and is not run")
    parser.add_argument("--jobs", type=int, default=1)
    parser.add_argument("--build", type=pathlib.Path, help="folder for the private copies and their builds, kept for the next run (default: a temporary one)")
    parser.add_argument("--json", help="write the results to this file")
    parser.add_argument("--list", action="store_true", help="print the mutants, run nothing")
    arguments = parser.parse_args()

    sources, mutants = all_mutants()
    equivalent = read_equivalent(mutants)
    chosen = [m for m in mutants if (not arguments.file or m.file in arguments.file) and (not arguments.only or m.name.startswith(arguments.only))]
    if arguments.sample is not None:
        chosen = sample_of(chosen, arguments.sample, arguments.seed)
    if arguments.list:
        for m in chosen:
            print(m.name, "  ", m.text, "   (equivalent)" if m.key in equivalent else "")
        print(f"{len(chosen)} mutants of {len({m.file for m in chosen})} files")
        return 0
    run = [m for m in chosen if (m.key in equivalent) == arguments.equivalent]
    listed, earlier = len(chosen) - len(run), {}
    if arguments.again:
        known = {(r["file"], r["source"], r["change"], r["nth"]): r for r in json.loads(arguments.again.read_text())["results"] if r["verdict"] == "killed"}
        earlier = {m: known[m.key] for m in run if m.key in known}
        run = [m for m in run if m not in earlier]
    if not run and not earlier:
        sys.exit("no mutant was selected")

    base = (arguments.build or pathlib.Path(tempfile.mkdtemp(prefix="source-mutants-"))).resolve()
    places, results, started = queue.Queue(), [], time.monotonic()
    try:
        for n in range(arguments.jobs):
            place = Place(base / str(n), arguments.quick)
            if n == 0:
                place.measure(sorted({m.file for m in run}))
                limits = place.limits
            place.limits = limits
            places.put(place)
        print(f"{len(run)} mutants to try; the unchanged source passes ({time.monotonic() - started:.0f} s)", flush=True)

        def one(m):
            place = places.get()
            try:
                verdict, by = place.judge(m, sources[m.file])
            finally:
                places.put(place)
            print(f"{verdict:10} {m.name}   {by}" + (f"   {m.text}" if verdict == "survived" else ""), flush=True)
            return {"name": m.name, "file": m.file, "line": m.line, "column": m.column, "change": m.change, "nth": m.nth, "source": m.text, "verdict": verdict, "by": by}

        with concurrent.futures.ThreadPoolExecutor(arguments.jobs) as pool:
            results = list(pool.map(one, run)) + list(earlier.values())
    finally:
        if not arguments.build:
            shutil.rmtree(base, ignore_errors=True)

    count = {v: sum(r["verdict"] == v for r in results) for v in ("killed", "survived", "uncompiled")}
    tried = count["killed"] + count["survived"]
    by = {}
    for r in results:
        if r["verdict"] == "killed":
            what = r["by"].split(":")[0].split()
            what = " ".join(what[:2]) if what[0] == "goldens" else what[0]
            by[what] = by.get(what, 0) + 1
    if arguments.json:
        pathlib.Path(arguments.json).write_text(json.dumps({"sample": arguments.sample, "seed": arguments.seed, "mutants": len(mutants), **count,
                                                           "equivalent": listed, "by": by, "results": results}, indent=1) + "\n")
    print(f"\nkilled by: {', '.join(f'{k} {v}' for k, v in sorted(by.items()))}")
    if arguments.equivalent:
        wrong = [r for r in results if r["verdict"] == "killed"]
        for r in wrong:
            print(f"NOT EQUIVALENT  {r['name']}   {r['by']}   {r['source']}")
        print(f"{len(results)} listed as equivalent, {len(wrong)} of them killed")
        return 2 if wrong else 0
    for r in results:
        if r["verdict"] == "survived":
            print(f"SURVIVES  {r['name']}   {r['source']}")
    print(f"score {count['killed']}/{tried} = {100 * count['killed'] / max(tried, 1):.1f} %: {count['killed']} killed, {count['survived']} survive; "
          f"apart: {listed} known equivalent, {count['uncompiled']} did not compile ({len(mutants)} mutants in all, {time.monotonic() - started:.0f} s)")
    return 2 if count["survived"] else 0


if __name__ == "__main__":
    sys.exit(main())
