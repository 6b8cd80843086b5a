#!/bin/sh
# The C plug-in of docs/writing-a-backend.md as its reader has it: saved, compiled and judged by the commands printed below it, word for word; and the
# program in plain C that it points to.
# Usage: snippet.sh SOURCE_ROOT BUILD_ROOT CC...
set -eu
source=$1 build=$2
shift 2
document=$source/docs/writing-a-backend.md
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
ln -s "$source/ref" ref
ln -s "$build" build
ln -s "$source/tools" tools

awk '/^    #include <math.h>/ {on = 1} /^Then:/ {exit} on {sub(/^    /, ""); print}' "$document" >mine.c
compile=$(sed -n 's/^    cc \(.* mine\.c.*\)/\1/p' "$document")
judge=$(sed -n 's/^    \(.*lib:.*mine\.so\)$/\1/p' "$document")
[ -s mine.c ] && [ -n "$compile" ] && [ -n "$judge" ] || { echo "$document: the plug-in or its commands were not found"; exit 1; }
"$@" $compile -Wall -Wextra -Werror
$judge

compile=$(sed -n 's/^    cc \(.* tools.backends.plain.plain\.c.*\)/\1/p' "$document")
judge=$(sed -n 's/^    \(.*exec:\.\/plain\)$/\1/p' "$document")
[ -n "$compile" ] && [ -n "$judge" ] || { echo "$document: the commands for plain.c were not found"; exit 1; }
"$@" $compile -Wall -Wextra -Wpedantic -Werror
exec $judge --op rmsnorm,rope1d --tier fp32
