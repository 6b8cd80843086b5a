#!/bin/sh
# Judges one shard of a certificate: sh shard.sh I N. Where its part is there already, and is that of this run, nothing is done, so whoever started it may start it
# again: all recipes use this one. A part of another run (another nonce, profile, backend ...), or a damaged one, is put aside as PART.stale. Settings come from the environment:
#   BACKEND  SPEC of mr3d check            TIER   fp32,bf16      NONCE  chosen by the one who will verify
#   KEY      private key (mr3d keygen)     PARTS  folder that all workers share
#   PROFILE  core (default), decoder, scan        MR3D  the program (default: mr3d)     THREADS  of one shard (default 1)     OPS  only these operators
#   PUBLIC   its public key (default: KEY.pub)    PASSPHRASE_FILE  that opens the key   FILES  further files of the backend
set -eu
: "${BACKEND:?}" "${TIER:?}" "${NONCE:?}" "${KEY:?}" "${PARTS:?}"
mkdir -p "$PARTS"
part=$PARTS/$1-of-$2.json
if [ -e "$part" ]; then
  status=0
  "${MR3D:-mr3d}" verify "$part" --key "${PUBLIC:-$KEY.pub}" --part "$1/$2" --nonce "$NONCE" --profile "${PROFILE:-core}" --tier "$TIER" ${OPS:+--op "$OPS"} \
    --backend "$BACKEND" ${FILES:+--files "$FILES"} || status=$?
  case $status in
  0) echo "$part is there already" && exit 0 ;;
  2) mv "$part" "$part.stale" && echo "$part is not of this run: put aside as $part.stale" ;;
  *) exit "$status" ;;
  esac
fi
exec "${MR3D:-mr3d}" certify --backend "$BACKEND" --profile "${PROFILE:-core}" --tier "$TIER" ${OPS:+--op "$OPS"} --nonce "$NONCE" --key "$KEY" \
  ${PASSPHRASE_FILE:+--passphrase-file "$PASSPHRASE_FILE"} ${FILES:+--files "$FILES"} --shard "$1/$2" --threads "${THREADS:-1}" -o "$part" --quiet
