#!/bin/sh
# GNU parallel: sh parallel.sh N CERTIFICATE judges N shards, SLOTS at a time (default: one a processor), and merges. Started again after it was stopped, it goes on
# with the shards whose parts are missing. For several machines see --sshlogin in parallel's manual; PARTS must then be a shared folder. Settings: shard.sh.
set -eu
here=$(cd "$(dirname "$0")" && pwd)
seq "$1" | parallel --jobs "${SLOTS:-100%}" --retries 2 sh "$here/shard.sh" '{}' "$1"
exec sh "$here/merge.sh" "$1" "$2"
