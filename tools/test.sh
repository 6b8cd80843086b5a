#!/bin/sh
# Builds everything and runs all tests; --quick leaves out the long suite.
set -eu
cd "$(dirname "$0")/.."
. tools/dependencies.sh
build build

# Tests run side by side: threads that wait must leave the processors to others.
export OMP_WAIT_POLICY="${OMP_WAIT_POLICY:-passive}"
suites=""
[ "${1:-}" = --quick ] && suites="--no-suite long"
status=0
$meson test -C build --print-errorlogs $suites || status=$?

# One closing line that counts, from meson's own summary.
awk '/^Ok:|^Expected Fail:/ {ok += $NF} /^Fail:|^Unexpected Pass:|^Timeout:/ {bad += $NF} /^Skipped:/ {skip += $NF}
     END {printf "%d passed, %d failed, %d skipped\n", ok, bad, skip; exit bad > 0 || ok == 0}' build/meson-logs/testlog.txt || status=1
exit $status
