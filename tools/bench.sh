#!/bin/sh
# Times the reference, the float32 example and, where PYTHON has torch, PyTorch in float64 and float32 on the same work, and writes docs/benchmarks.md
# with its plot. Twenty minutes or so on two idle cores; other work on the machine shows in every number.
#   [PYTHON=venv/bin/python] sh tools/bench.sh [--quick]
set -eu
cd "$(dirname "$0")/.."
. tools/dependencies.sh
build build
sizes="--layers 1,6,12,18,24 --vocabulary 151936 --repeat 2 --rounds 3"
[ "${1:-}" != --quick ] || sizes="--layers 1,2,4"
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
set -- builtin:reference@fp64
torch="exec:${PYTHON:-} tools/backends/torch_backend.py --attention eager"
[ -z "${PYTHON:-}" ] || set -- "$@" "$torch@fp64"
set -- "$@" lib:build/tools/backends/f32/mr3d-f32.so@fp32
[ -z "${PYTHON:-}" ] || set -- "$@" "$torch@fp32"
build/tools/mr3d bench "$@" $sizes --markdown "$work/table.md" --svg "$work/benchmarks.svg" | tee "$work/said.txt"
# Two passes at a time are few where the machine's speed changes: layers once more, alone, in six.
build/tools/mr3d bench builtin:reference@fp64 --layers 1,6,12,18,24 --tokens 786 --points 0 --vocabulary 64 --repeat 6 --steps 0 >"$work/layers.txt"
# At the sizes above what is the same for any number of tokens shows in the exponent.
build/tools/mr3d bench builtin:reference@fp64 --layers 1 --tokens 786,1572,3144 --points 0 --vocabulary 64 --repeat 2 --steps 0 >"$work/attention.txt"
{
  echo "# Benchmarks"
  echo
  echo "Written by \`tools/bench.sh\` on $(date +%Y-%m-%d), $(sed -n 's/^model name[^:]*: *//p' /proc/cpuinfo | head -1), $(head -1 "$work/said.txt"); \`mr3d bench --help\` says what is counted. \`builtin:\` runs inside it, so its memory holds what it had before; weights are mapped and count where they were read."
  echo
  echo "![Seconds of a prefill over tokens](benchmarks.svg)"
  echo
  cat "$work/table.md"
  echo
  tail -1 "$work/layers.txt" | awk -F ' *[|] *' '{ print "In six passes through 1, 6, 12, 18 and 24 layers of 786 tokens, a head of 64 rows, the shortest prefills of the reference lie on " $4 " seconds, none farther from that line than " $5 "." }'
  echo
  echo "From 786 to 3,144 tokens the reference's attention alone grows as $(tail -1 "$work/attention.txt" | cut -d'|' -f7 | tr -d ' ')."
} >docs/benchmarks.md
cp "$work/benchmarks.svg" docs/benchmarks.svg
