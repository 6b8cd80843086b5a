#!/bin/sh
# Measures the numbers that the documentation quotes, on this machine.
#   sh tools/numbers.sh [--seeds LIST] [SECTION ...]
# Sections, all but `drift` and `source` without one (three idle hours on two cores, most of them `honest`):
#   reference   how far the reference is from the goldens; time and memory over L0 to L2
#   speed       one job and two; a quick run; what the protocol and the judging cost
#   mutants     that every mutant is caught, how often it is named, what the diagnosis adds to a run
#   honest      that right backends pass with fresh inputs, at every tier they claim; --seeds, default "1 2 3 4 5". With PYTHON that has torch, PyTorch too
#   drift       every mutant in one layer of a decoder: layer, operator and mistake named at fp32 and bf16; honest arithmetic at all tiers (an hour). With PYTHON that has
#               torch, PyTorch's eager, SDPA and compiled at full width too; with one that has onnxruntime or jax, those
#   source      that the tests notice changes of the source of ref/: 150 of them, one at a time (a quarter of an hour; needs python3)
set -eu
cd "$(dirname "$0")/.."
. tools/dependencies.sh
build build
mr3d=build/tools/mr3d
seeds="1 2 3 4 5"
sections=""
while [ $# -gt 0 ]; do
  case "$1" in
    --seeds) seeds=${2:?which seeds?}; shift ;;
    reference|speed|mutants|honest|drift|source) sections="$sections $1" ;;
    *) echo "$0: \"$1\" is no section; they are reference, speed, mutants, honest, drift, source" >&2; exit 1 ;;
  esac
  shift
done
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
failed=0
wanted() { case " ${sections:-reference speed mutants honest} " in *" $1 "*) ;; *) return 1 ;; esac; }

if wanted reference; then
  echo "== the reference against the goldens: largest difference over the tensor's scale"
  $mr3d check --backend builtin:reference --tier fp64 --quiet --json "$work/reference.json" >/dev/null
  for level in L0 L1 L2 L3 L4; do
    grep -o "\"level\":\"$level\".*\"golden_worst\":[^,}]*" "$work/reference.json" | sed 's/.*"golden_worst"://' | grep -v null | sort -g | tail -1 | sed "s/^/$level  /"
  done
  echo "== time and memory of builtin:reference over L0 to L2"
  if [ -x /usr/bin/time ]; then
    /usr/bin/time -f '%e s, %M KiB' $mr3d check --backend builtin:reference --level L0,L1,L2 --quiet | tail -1
  else
    $mr3d check --backend builtin:reference --level L0,L1,L2 --quiet | tail -1
  fi
fi

if wanted speed; then
  echo "== one job of one thread, and two"
  for jobs in 1 2; do
    $mr3d check --backend lib:build/tools/backends/f32/mr3d-f32.so --tier fp32 --without-slow --threads $jobs --jobs $jobs --quiet | tail -1 || failed=1
  done
  echo "== a quick run: L0 to L2 at one tier, first with its yardsticks, then with those kept"
  for run in first again; do
    $mr3d check --backend lib:build/tools/backends/f32/mr3d-f32.so --tier fp32 --level L0,L1,L2 --yardsticks "$work/yardsticks" --quiet | tail -1 || failed=1
  done
  echo "== what the protocol and the judging cost"
  $meson test -C build --no-rebuild --benchmark --verbose conform-throughput conform-judging | grep -E 'requests/s|GB/s' || failed=1
fi

if wanted mutants; then
  echo "== every mutant against every case; how often the diagnosis names it, and both of random pairs"
  $mr3d mutants --quiet || failed=1
  $mr3d mutants --quiet --without-slow --without '*/*canonical*' --tier fp32,bf16 --diagnosis --pairs 200 || failed=1
  echo "== mutants at the narrower tiers: what survives, and how large it is"
  $mr3d mutants --quiet --without-slow --tier tf32,bf16,fp16 || failed=1
  echo "== what the diagnosis adds to a failing run: seconds, at most 5"
  for mutant in mask-length/unrepaired decode-rope/position-text-only theta-mixup/counted-from-one gqa-heads/kv-head-modulo pairing/adjacent-in-1d order-sensitivity/last-session; do
    $mr3d check --backend "mutant:$mutant" --tier fp32 --without-slow --quiet --json "$work/failing.json" >/dev/null || true
    sed -n 's/.*"diagnosis_seconds":\([0-9.]*\).*"seconds":\([0-9.]*\).*/\1 of \2/p' "$work/failing.json" | tail -1 | sed "s|^|$mutant  |"
    sed -n 's/.*"diagnosis_seconds":\([0-9.]*\).*/\1/p' "$work/failing.json" | tail -1 | awk '{ exit !($1 <= 5) }' || failed=1
  done
fi

if wanted honest; then
  echo "== honest backends at every tier they claim"
  judge() {
    status=0
    $mr3d check --backend "$1" --seed "$seed" --jobs 2 --timeout 900 --yardsticks "$work/yardsticks" --quiet >"$work/honest.txt" || status=$?
    printf '%s  seed %s  exit status %s  %s\n' "$2" "$seed" "$status" "$(tail -1 "$work/honest.txt")"
    [ $status = 0 ] || failed=1
  }
  for seed in $seeds; do
    rm -rf "$work/yardsticks" # the backends share those of a seed: some gigabytes
    judge "builtin:emulated" "emulated   "
    judge "lib:build/tools/backends/f32/mr3d-f32.so" "f32        "
    [ -n "${PYTHON:-}" ] || continue
    judge "exec:$PYTHON tools/backends/torch_backend.py --attention eager" "torch eager"
    judge "exec:$PYTHON tools/backends/torch_backend.py --attention sdpa" "torch sdpa "
  done
fi

if wanted drift; then
  planted=build/tests/drift/test-drift-planted
  echo "== drift: honest arithmetic, the statistic nearest to its limit of all settings"
  for tier in fp32 tf32 bf16 fp16; do
    $planted $tier 4 56 72 9 24 honest >"$work/honest.txt" || failed=1
    sed 's/.*: \(.*\) of a limit.*/\1/' "$work/honest.txt" | sort -g | tail -1 | sed "s/^/$tier  /"
  done
  echo "== drift: every mutant in one layer"
  for tier in fp32 bf16; do $planted $tier 4 56 72 9 24 >"$work/planted.txt" || failed=1; tail -1 "$work/planted.txt"; done
  echo "== drift: every mutant in one layer of 24, of full width"
  $planted fp32 24 896 4864 9 12 >"$work/planted.txt" || failed=1
  tail -1 "$work/planted.txt"
  $planted bf16 24 896 4864 9 12 >"$work/planted.txt" || failed=1
  tail -1 "$work/planted.txt"
  echo "== drift: two traces of 24 layers and 786 tokens, all points: at most 15 s on two cores and 512 MiB"
  $meson test -C build --no-rebuild --benchmark --verbose drift-full_traces >"$work/traces.txt" || failed=1
  grep -E "^the reference's trace|^two traces|^full_traces:" "$work/traces.txt" || failed=1
  if [ -n "${PYTHON:-}" ]; then
    echo "== drift: other stacks at full width: rounding, each time"
    rounding() {
      status=0
      $mr3d drift "$@" --runs 0 --no-diagnosis >"$work/drift.txt" || status=$?
      [ $status = 0 ] || failed=1
      printf '%s  exit status %s  %s\n' "$name" "$status" "$(grep 'nearest to a bound' "$work/drift.txt" | sed 's/^ *//')"
    }
    printf '{"hidden_size":896,"intermediate_size":4864,"num_hidden_layers":24,"num_attention_heads":14,"num_key_value_heads":2,"head_dim":64,"vocab_size":257,"rope_theta":1e6,"rms_norm_eps":1e-6,"tie_word_embeddings":true}' >"$work/full.json"
    for tier in fp32 bf16 fp16; do
      for stack in "tools/backends/torch_backend.py --attention eager" "tools/backends/torch_backend.py --attention sdpa" "tests/calibration/torch_compile_stack.py --tiers $tier"; do
        name="$stack $tier"
        rounding --backend "exec:$PYTHON $stack" --weights generated:5 --config "$work/full.json" --tier "$tier" --text 12 --point-tokens 12
      done
      for stack in onnx jax; do
        [ "$stack $tier" != "onnx bf16" ] || continue # it has no kernels for it
        "$PYTHON" -c "import ${stack}$([ $stack = jax ] || echo runtime)" 2>/dev/null || continue
        name="$stack $tier"
        "$PYTHON" tests/calibration/trace_stack.py $stack $tier "$work/stack" && rounding "$work/stack/trace.safetensors" || failed=1
      done
    done
  fi
fi

if wanted source; then
  echo "== mutants of the source: 150 of them"
  MESON=$meson python3 tests/source_mutants.py --sample 150 --seed 1 --quick >"$work/source.txt" || [ $? = 2 ] || failed=1
  sed -n '/^killed by/,$p' "$work/source.txt"
fi
exit $failed
