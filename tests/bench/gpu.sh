#!/usr/bin/env bash
# On a CUDA device: the tests that need one; a JSON line last, also in $OUT or tests/bench/results.
# Uses the machine's own python3 with torch and pytest; installs nothing. What runs here is the
# reference on the device: the Triton kernels have their tests in the interpreter only so far, and
# their benchmarks (bench_<op>.py) are started by hand.
set -euo pipefail
cd "$(dirname "$0")/../.."
PYTHON=${PYTHON:-python3}
RESULTS=${OUT:-tests/bench/results}

if ! "$PYTHON" -c 'import sys, torch; sys.exit(not torch.cuda.is_available())' 2>/dev/null; then
  echo "make gpu: no CUDA device (or no torch in $PYTHON) here; make test runs what a CPU can show" >&2
  exit 2
fi

# The folder kernels/ is imported as thothy_kernels: a link serves where nothing is installed.
LINKS=$(mktemp -d)
trap 'rm -rf "$LINKS"' EXIT
ln -s "$PWD/kernels" "$LINKS/thothy_kernels"
export TRITON_INTERPRET=0  # the tests interpret unless told otherwise
export PYTHONPATH="$PWD:$LINKS${PYTHONPATH:+:$PYTHONPATH}"

"$PYTHON" -m pytest -q -m gpu -p no:cacheprovider -o addopts= -o filterwarnings= -o timeout= \
  --import-mode=importlib --strict-markers tests/kernels/test_on_gpu.py

"$PYTHON" - "$RESULTS/gpu-tests.json" <<'PY'
import json, subprocess, sys, torch
commit = subprocess.run(["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True).stdout.strip()
line = json.dumps({"device": torch.cuda.get_device_name(), "torch": torch.__version__, "commit": commit, "gpu_tests": "passed"})
open(sys.argv[1], "w").write(line + "\n")
print(line)
PY
