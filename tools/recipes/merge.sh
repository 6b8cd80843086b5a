#!/bin/sh
# Puts N parts together: sh merge.sh N CERTIFICATE. Says which shard is missing or left from another run, if one is; the settings are shard.sh's, and
#   WAIVERS  signed list of failures that somebody answers for (mr3d sign)      WAIVER_KEY  public keys of those who may (default: that of KEY)
# Exit status: 0 certificate, 2 report of failure.
set -eu
: "${KEY:?}" "${PARTS:?}" "${NONCE:?}"
exec "${MR3D:-mr3d}" merge "$PARTS"/*-of-"$1".json --key "$KEY" ${PASSPHRASE_FILE:+--passphrase-file "$PASSPHRASE_FILE"} --nonce "$NONCE" \
  ${WAIVERS:+--waivers "$WAIVERS"} ${WAIVER_KEY:+--waiver-key "$WAIVER_KEY"} -o "$2"
