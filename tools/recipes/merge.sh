#!/bin/sh
# Puts N parts together: sh merge.sh N CERTIFICATE. Says which shard is missing, if one is; the settings are shard.sh's. Exit status: 0 certificate, 2 report of failure.
set -eu
: "${KEY:?}" "${PARTS:?}"
exec "${MR3D:-mr3d}" merge "$PARTS"/*-of-"$1".json --key "$KEY" -o "$2"
