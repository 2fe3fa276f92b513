#!/usr/bin/env bash
# On a CUDA device: the kernel tests that need one, then the benchmarks; JSON into tests/bench/results
# (or $OUT where that is set). Needs the machine's own python3 with torch and pytest; installs nothing.
set -euo pipefail
cd "$(dirname "$0")/../.."
PYTHON=${PYTHON:-python3}
RESULTS=${OUT:-tests/bench/results}

"$PYTHON" - <<'PY' || exit 2
import sys, torch
if not torch.cuda.is_available():
    sys.exit("make gpu: no CUDA device here; `make test` runs what a CPU can show")
PY

# The folder kernels/ is imported as thothy_kernels: a link serves where nothing is installed.
LINKS=$(mktemp -d)
trap 'rm -rf "$LINKS"' EXIT
ln -s "$PWD/kernels" "$LINKS/thothy_kernels"
export PYTHONPATH="$PWD:$LINKS${PYTHONPATH:+:$PYTHONPATH}"

"$PYTHON" -m pytest -q -m gpu -p no:cacheprovider tests/kernels
"$PYTHON" tests/bench/bench_gpu.py --out "$RESULTS"
