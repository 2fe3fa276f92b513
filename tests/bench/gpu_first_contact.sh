#!/usr/bin/env bash
# The first minute on a CUDA device (first_contact/), in the environment of gpu.sh:
#
#   gpu_first_contact.sh [--dry-run] [env] [ops] [attention] [graphs] [far] [speed]
#
# Writes gpu-first-contact.json into $OUT or tests/bench/results. THOTHY_GPU_DRY_RUN=1 is --dry-run.
set -uo pipefail
cd "$(dirname "$0")/../.." || exit 2

IS_DRY_RUN=""
if [ "${1:-}" = --dry-run ]; then IS_DRY_RUN=1; shift; fi
if [ "${THOTHY_GPU_DRY_RUN:-0}" = 1 ]; then IS_DRY_RUN=1; fi
. tests/bench/gpu_env.sh
"$PYTHON" -m first_contact --out "$RESULTS/gpu-first-contact.json" "$@"
