#!/bin/sh
# Slurm: sh slurm.sh N CERTIFICATE submits an array of N shards, SLOTS at a time (default: no limit), and a job that merges when all have ended, and prints the two job
# numbers. A shard that was killed is submitted alone: sbatch --array=I ... or this again, which repeats only what is missing. SBATCH_OPTIONS are given to sbatch
# (--partition, --gres=gpu:1, --time ...); the other settings are shard.sh's. PARTS and CERTIFICATE lie in a shared folder, under absolute paths.
set -eu
here=$(cd "$(dirname "$0")" && pwd)
mkdir -p "$PARTS"
# shellcheck disable=SC2086 # options are words
array=$(sbatch --parsable --job-name=mr3d --array="1-$1${SLOTS:+%$SLOTS}" --ntasks=1 --cpus-per-task="${THREADS:-1}" --output="$PARTS/%a.log" ${SBATCH_OPTIONS:-} \
  --wrap="sh '$here/shard.sh' \$SLURM_ARRAY_TASK_ID $1")
# shellcheck disable=SC2086
merge=$(sbatch --parsable --job-name=mr3d-merge --dependency="afterany:$array" --ntasks=1 --output="$PARTS/merge.log" ${SBATCH_OPTIONS:-} --wrap="sh '$here/merge.sh' $1 '$2'")
echo "$array $merge"
