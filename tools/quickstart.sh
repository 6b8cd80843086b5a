#!/bin/sh
# Builds the suite and judges the example backend with it, at the tier it is made for: the verdict, and where the HTML report lies.
set -eu
cd "$(dirname "$0")/.."
. tools/dependencies.sh
build build

report=build/report.html
status=0
build/tools/mr3d check --backend "lib:build/tools/backends/f32/mr3d-f32.so" --tier fp32 --jobs "$(nproc)" ${MR3D_DATA:+--data "$MR3D_DATA"} --html "$report" || status=$?
echo "Report: $report"
exit $status
