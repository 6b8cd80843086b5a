#!/bin/sh
# Builds the C example backend with all that a compiler may do to float32 arithmetic; the calibration judges it.
#   sh tests/calibration/fast_math.sh OUTPUT.so
# Sums are re-associated and vectorised, products contracted, quotients become products with reciprocals, denormals are flushed.
# One part of -ffast-math is taken back: it would compile away the search for NaN and infinity in requests.
set -eu
out=${1:?usage: fast_math.sh OUTPUT.so}
root=$(cd "$(dirname "$0")/../.." && pwd)
# shellcheck disable=SC2046
${CC:-cc} -std=c11 -D_GNU_SOURCE -O3 -ffast-math -fno-finite-math-only -march=native -fopenmp -fPIC -shared -fvisibility=hidden \
  -I "$root/ref/include" $(pkg-config --cflags libcjson) "$root"/tools/backends/f32/*.c $(pkg-config --libs libcjson) -lm -o "$out"
