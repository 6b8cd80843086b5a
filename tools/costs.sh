#!/bin/sh
# Measures what each case costs and writes golden/costs.json, by which --shard deals cases out: milliseconds of one thread at fp32, judge included, the least of
# several runs. On an idle machine; a quarter of an hour. Options: tools/costs.sh [RUNS]
set -eu
cd "$(dirname "$0")/.."
. tools/dependencies.sh
build build

runs=${1:-3}
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
run=1
while [ "$run" -le "$runs" ]; do
  build/tools/mr3d check --backend lib:build/tools/backends/f32/mr3d-f32.so --tier fp32 --threads 1 --quiet --json "$work/$run.json" >/dev/null
  sed -n 's/^{"type":"result","case":"\([^"]*\)".*"verdict":"passed".*"golden_worst":[^,]*,"seconds":\([0-9.e+-]*\),"again".*/\1 \2/p' "$work/$run.json" >>"$work/seconds"
  run=$((run + 1))
done
# Three digits, and at least a tenth of a millisecond: the rest is noise.
awk '{ ms = 1000 * $2; if (ms < 0.1) ms = 0.1; if (!($1 in least) || ms < least[$1]) least[$1] = ms } END { for (id in least) printf("%s %.3g\n", id, least[id]) }' "$work/seconds" |
  LC_ALL=C sort |
  awk 'BEGIN { printf "{\"format\": 1, \"unit\": \"milliseconds of one thread at fp32\", \"cases\": {" }
       { printf("%s\n  \"%s\": %s", (NR > 1 ? "," : ""), $1, $2) } END { printf "\n}}\n" }' >"$work/costs.json"
mv "$work/costs.json" golden/costs.json
echo "golden/costs.json: $(grep -c '/' golden/costs.json) cases"
