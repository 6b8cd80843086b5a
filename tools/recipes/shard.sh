#!/bin/sh
# Judges one shard of a certificate: sh shard.sh I N. Where its part is there already nothing is done, so whoever started it may start it again: all recipes use
# this one. Settings come from the environment:
#   BACKEND  SPEC of mr3d check            TIER   fp32,bf16      NONCE  chosen by the one who will verify
#   KEY      private key (mr3d keygen)     PARTS  folder that all workers share
#   PROFILE  core (default), decoder, scan        MR3D  the program (default: mr3d)     THREADS  of one shard (default 1)     OPS  only these operators
set -eu
: "${BACKEND:?}" "${TIER:?}" "${NONCE:?}" "${KEY:?}" "${PARTS:?}"
mkdir -p "$PARTS"
part=$PARTS/$1-of-$2.json
if [ -e "$part" ]; then
  echo "$part is there already"
  exit 0
fi
exec "${MR3D:-mr3d}" certify --backend "$BACKEND" --profile "${PROFILE:-core}" --tier "$TIER" ${OPS:+--op "$OPS"} --nonce "$NONCE" --key "$KEY" \
  --shard "$1/$2" --threads "${THREADS:-1}" -o "$part" --quiet
