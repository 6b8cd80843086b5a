#!/bin/sh
# The Slurm recipe on a real Slurm: a controller and one node of two processors, started here for this test alone (Debian: slurm-wlm and munge; as root).
#
#   sh tests/certify/slurm.sh MR3D BACKEND [TIER]       OPS, of tools/recipes/shard.sh, narrows it
#
# 1. An array of four shards on one slot, then on two: at least 1.7 times as fast (MR3D_LEAST_SPEEDUP; a busy machine cannot show it, so there are three attempts).
# 2. The parts merge into certificates that verify and have the same numbers, bit for bit (tests/certify/shards.c: as one run has).
# 3. A shard killed half-way loses its own part alone; submitted again, it is the only one that runs.
set -eu
mr3d=$1 backend=$2 tier=${3:-fp32}
here=$(cd "$(dirname "$0")/../.." && pwd)
for program in munged slurmctld slurmd sbatch; do
  PATH=$PATH:/usr/sbin:/sbin
  command -v "$program" >/dev/null || { echo "$program is missing: apt-get install slurm-wlm munge" >&2; exit 1; }
done

work=$(mktemp -d)
chmod 755 "$work"
mkdir "$work/munge" "$work/state" "$work/spool"
chmod 700 "$work/munge"
stop() {
  for name in slurmd slurmctld munged; do
    [ -s "$work/$name.pid" ] && kill "$(cat "$work/$name.pid")" 2>/dev/null || true
  done
  sleep 1
  rm -rf "$work"
}
trap stop EXIT
trap 'exit 1' INT TERM

host=$(hostname -s)
cat >"$work/slurm.conf" <<CONF
ClusterName=one
SlurmctldHost=$host(127.0.0.1)
SlurmctldPort=26817
SlurmdPort=26818
AuthType=auth/munge
CryptoType=crypto/munge
AuthInfo=socket=$work/munge.socket
SlurmUser=root
SlurmdUser=root
StateSaveLocation=$work/state
SlurmdSpoolDir=$work/spool
SlurmctldPidFile=$work/slurmctld.pid
SlurmdPidFile=$work/slurmd.pid
SlurmctldLogFile=$work/slurmctld.log
SlurmdLogFile=$work/slurmd.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
JobAcctGatherType=jobacct_gather/none
MpiDefault=none
ReturnToService=2
SchedulerParameters=sched_interval=1,bf_interval=1,sched_min_interval=0
NodeName=$host NodeAddr=127.0.0.1 CPUs=2 State=UNKNOWN
PartitionName=all Nodes=ALL Default=YES MaxTime=INFINITE State=UP
CONF
dd if=/dev/urandom of="$work/munge/key" bs=1 count=128 2>/dev/null
chmod 400 "$work/munge/key"
munged --force --key-file="$work/munge/key" --socket="$work/munge.socket" --pid-file="$work/munged.pid" --log-file="$work/munge/log" --seed-file="$work/munge/seed" 2>/dev/null
SLURM_CONF=$work/slurm.conf
export SLURM_CONF
slurmctld -f "$SLURM_CONF"
slurmd -f "$SLURM_CONF"
for second in $(seq 30); do
  [ "$(sinfo -h -o %t 2>/dev/null)" = idle ] && break
  [ "$second" = 30 ] && { tail -n 20 "$work"/slurm*.log >&2; exit 1; }
  sleep 1
done

MR3D=$mr3d BACKEND=$backend TIER=$tier PROFILE=core NONCE=000102030405060708090a0b0c0d0e0f KEY=$work/vendor.key OMP_WAIT_POLICY=passive
export MR3D BACKEND TIER PROFILE NONCE KEY OMP_WAIT_POLICY
"$MR3D" keygen "$KEY" >/dev/null

# submit PARTS SLOTS: the array and the merge; sets jobs, and seconds once both have ended.
submit() {
  PARTS=$work/$1 SLOTS=$2
  export PARTS SLOTS
  begin=$(date +%s.%N)
  jobs=$(sh "$here/tools/recipes/slurm.sh" 4 "$work/$1.json")
}
ended() {
  while squeue -h -j "${jobs% *}" 2>/dev/null | grep -q .; do sleep 0.2; done
  seconds=$(echo "$(date +%s.%N) $begin" | awk '{ print $1 - $2 }')
  while squeue -h -j "${jobs#* }" 2>/dev/null | grep -q .; do sleep 0.2; done
}

attempt=1
while :; do
  submit one-$attempt 1
  ended
  one=$seconds
  submit two-$attempt 2
  ended
  echo "four shards: $one s on one slot, $seconds s on two: $(echo "$one $seconds" | awk '{ printf "%.2f", $1 / $2 }') times as fast"
  echo "$one $seconds ${MR3D_LEAST_SPEEDUP:-1.7}" | awk '{ exit !($1 >= $3 * $2) }' && break
  [ $attempt -lt 3 ] || { echo "that is too slow, three times" >&2; exit 1; }
  attempt=$((attempt + 1))
done

# verify CERTIFICATE: says its first line; it must hold.
verify() {
  "$MR3D" verify "$1" --key "$KEY.pub" --nonce "$NONCE" ${OPS:+--op "$OPS"} >"$work/said" || { cat "$work/said"; exit 1; }
  head -n 1 "$work/said"
}
verify "$work/one-$attempt.json"
verify "$work/two-$attempt.json"
# root of all numbers
root() { sed 's/^{"payload":"\([^"]*\)".*/\1/' "$1" | base64 -d | sed 's/.*"results":{"root":"\([0-9a-f]*\)".*/\1/'; }
root "$work/one-$attempt.json" | grep -Eq '^[0-9a-f]{64}$'
[ "$(root "$work/one-$attempt.json")" = "$(root "$work/two-$attempt.json")" ] || { echo "the two have other numbers" >&2; exit 1; }
echo "both certificates have the same numbers, bit for bit"

# killed half-way
submit killed 2
for tenth in $(seq 1000); do # until the first shard has begun to judge
  worker=$(pgrep -o -f "certify .*--shard 1/4 .*$work/killed" || true)
  [ -n "$worker" ] && break
  sleep 0.1
done
sleep 2
kill -KILL "$worker" || { echo "shard 1 had ended before it could be killed" >&2; exit 1; }
ended
[ ! -e "$work/killed/1-of-4.json" ] && [ -e "$work/killed/2-of-4.json" ] && [ -e "$work/killed/3-of-4.json" ] && [ -e "$work/killed/4-of-4.json" ] && [ ! -e "$work/killed.json" ]
grep -q 'shard 1/4 is missing: run it again, alone' "$work/killed/merge.log"
stamp=$(stat -c %Y.%s "$work"/killed/[234]-of-4.json)
submit killed 2
ended
[ "$stamp" = "$(stat -c %Y.%s "$work"/killed/[234]-of-4.json)" ]
verify "$work/killed.json"
[ "$(root "$work/killed.json")" = "$(root "$work/one-$attempt.json")" ]
echo "a shard that was killed lost its own part alone, and was repeated alone"
