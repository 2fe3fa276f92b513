#!/usr/bin/env bash
# On a CUDA device. Computes with $PYTHON; where it is not set with .venv/bin/python if the torch
# there has CUDA, else with the machine's python3 (torch, Triton, pytest). Installs nothing:
#
#   gpu.sh [--dry-run] [kernels] [engine] [bench] [runs]        all of them where none is named
#
# kernels: tests of the operations; engine: tests of the whole engine; bench: bench_<op>.py;
# runs: bench_runs.py. Each part writes gpu-<part>.json into $OUT or tests/bench/results. A part
# that fails stops no other; the exit code tells. All end inside $BUDGET_S seconds (560): parts get
# shares of it, and what one leaves passes on. --dry-run computes tiny shapes on the CPU, in the
# interpreter of Triton. $RUNS_OPTIONS (--peer) is handed to bench_runs.py; $THOTHY_COMMIT, or
# gpu_pack/commit, says which commit this is where .git has not travelled.
set -uo pipefail
cd "$(dirname "$0")/../.." || exit 2

IS_DRY_RUN=""
if [ "${1:-}" = --dry-run ]; then IS_DRY_RUN=1; shift; fi
PARTS=("$@")
[ $# -gt 0 ] || PARTS=(kernels engine bench runs)
declare -A WEIGHTS=([kernels]=4 [engine]=3 [bench]=3 [runs]=4)
for part in "${PARTS[@]}"; do
  [ -n "${WEIGHTS[$part]:-}" ] || { echo "gpu.sh: no part $part; there are kernels, engine, bench, runs" >&2; exit 2; }
done

has_cuda() { "$1" -c 'import sys, torch; sys.exit(not torch.cuda.is_available())' 2>/dev/null; }
if [ -z "${PYTHON:-}" ]; then
  PYTHON=.venv/bin/python
  if [ ! -x $PYTHON ] || { [ -z "$IS_DRY_RUN" ] && ! has_cuda $PYTHON; }; then PYTHON=python3; fi
fi
if [ -z "$IS_DRY_RUN" ] && ! has_cuda "$PYTHON"; then
  echo "make gpu: no CUDA device (or no torch in $PYTHON) here; make gpu-dry-run shows what would run" >&2
  exit 2
fi
"$PYTHON" -c 'import sys, torch; print(f"{sys.executable}: torch {torch.__version__}")' || exit 2
if [[ " ${PARTS[*]} " =~ " engine "|" runs " ]] && [ ! -d gpu_pack ]; then
  echo "make gpu: parts engine and runs need gpu_pack/: make gpu-pack, where the shared folder is" >&2
  exit 2
fi

RESULTS=${OUT:-tests/bench/results}
mkdir -p "$RESULTS"
WORK=$(mktemp -d)
trap 'rm -rf "$WORK"' EXIT
# The folder kernels/ is imported as thothy_kernels: a link serves where nothing is installed.
ln -s "$PWD/kernels" "$WORK/thothy_kernels"
export PYTHONPATH="$PWD:$WORK:$PWD/tests/oracles:$PWD/tests/bench${PYTHONPATH:+:$PYTHONPATH}"
# The engine finds the GPU through nvidia-ml-py; the pack has it for a machine that does not.
if ! "$PYTHON" -c 'import pynvml' 2>/dev/null; then
  export PYTHONPATH="$PYTHONPATH:$PWD/gpu_pack/python"
  if [[ " ${PARTS[*]} " =~ " engine "|" runs " ]] && ! "$PYTHON" -c 'import pynvml' 2>/dev/null; then
    echo "make gpu: neither $PYTHON nor gpu_pack/ has nvidia-ml-py: make the pack anew with make gpu-pack" >&2
    exit 2
  fi
fi
export PYTHONUNBUFFERED=1
export TRITON_INTERPRET=${IS_DRY_RUN:-0}  # the tests interpret unless told otherwise
export THOTHY_GPU_DRY_RUN=${IS_DRY_RUN:-0}
if [ -z "$IS_DRY_RUN" ]; then export THOTHY_GPU_TESTS=1; fi  # tests see no device otherwise
TRY=(${IS_DRY_RUN:+--dry-run})

# Most of a test on a device is compiling, on one core each.
WORKERS=()
if [ -z "$IS_DRY_RUN" ] && "$PYTHON" -c 'import xdist' 2>/dev/null; then
  WORKERS=(-n 6)
  export OMP_NUM_THREADS=2
fi

# An interrupt, not the end: pytest then still shows what it has found.
bounded() { timeout --signal=INT --kill-after=15 "$@"; }

tests() {  # seconds, name of the results, what to run
  local seconds=$1 name=$2; shift 2
  THOTHY_GPU_LOG="$WORK/$name.jsonl" bounded "$seconds" \
    "$PYTHON" -m pytest -q --tb=short -p gpu_log -p no:cacheprovider \
    -o addopts= -o filterwarnings= -o timeout=150 --import-mode=importlib --strict-markers \
    --maxfail=60 "${WORKERS[@]}" "$@"
}

# Tests of the operations that compute on a device where there is one: their cases for Triton. The
# step state's are quick, and those that compute on a device are not all called by its name.
OWN_TESTS=(rms_norm block_copy gated_activation rope_and_write sample/triton_impl step_state sample/penalize_seen)
CHOSEN="triton or step_state or penalize_seen"
if [ -n "$IS_DRY_RUN" ]; then OWN_TESTS=(block_copy); fi  # make test runs them all

run_kernels() {
  local worst=0 end=$((SECONDS + $1)) name own=()
  for name in "${OWN_TESTS[@]}"; do own+=("tests/kernels/$(dirname "$name")/test_$(basename "$name").py"); done
  tests $(($1 * 2 / 3)) kernels -m gpu tests/kernels/on_gpu tests/kernels/paged_attention/test_flex_impl.py \
    || worst=$?
  tests $((end - SECONDS)) kernels-own -k "$CHOSEN" "${own[@]}" || worst=$?
  return $worst
}

run_engine() {
  local chosen=()
  if [ -n "$IS_DRY_RUN" ]; then chosen=(-k "stories or golden or llama-odd or gemma2"); fi
  tests "$1" engine -m gpu "${chosen[@]}" tests/engine/execution/test_on_gpu.py
}

run_bench() {
  local worst=0 end=$((SECONDS + $1)) file left
  for file in $(grep -l "^from on_device import" tests/bench/bench_*.py); do
    left=$((end - SECONDS))
    if [ $left -lt 5 ]; then echo "$file: not run: no time is left" >&2; worst=124; continue; fi
    echo "== $file"
    bounded "$left" "$PYTHON" "$file" "${TRY[@]}" --out "$WORK/bench-$(basename "$file" .py).json" \
      | sed '$d' || worst=$?  # the last line is the document
  done
  return $worst
}

run_runs() {
  local options=() budget=$(($1 > 240 ? $1 - 125 : $1 / 2))
  if [ -n "$IS_DRY_RUN" ]; then options=(--dry-run); else read -ra options <<<"${RUNS_OPTIONS---peer}"; fi
  # It kills a run 120 seconds after its budget, and starts none after it.
  bounded "$1" "$PYTHON" tests/bench/bench_runs.py "${options[@]}" --budget-s "$budget" \
    --out "$WORK/runs.json" | sed '$d'
}

deadline=$((SECONDS + ${BUDGET_S:-560}))
worst=0
for i in "${!PARTS[@]}"; do
  part=${PARTS[$i]} weights=0
  for other in "${PARTS[@]:$i}"; do weights=$((weights + WEIGHTS[$other])); done
  limit=$(((deadline - SECONDS) * WEIGHTS[$part] / weights))
  echo "=== $part: at most $limit s"
  began=$SECONDS code=0
  "run_$part" "$limit" || code=$?
  "$PYTHON" tests/bench/gpu_report.py "$part" "$WORK" "$RESULTS/gpu-$part.json" \
    --exit-code "$code" --seconds $((SECONDS - began)) "${TRY[@]}" || code=$?
  [ "$code" -eq 0 ] || worst=1
done
exit $worst
