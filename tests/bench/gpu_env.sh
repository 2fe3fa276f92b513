# Sourced, at the root of the checkout, by what computes on a CUDA device: sets PYTHON, RESULTS, WORK
# (a folder that goes at the end), the paths of imports and which of Triton's modes is used.
# IS_DRY_RUN=1: on the CPU. Installs nothing.

has_cuda() { "$1" -c 'import sys, torch; sys.exit(not torch.cuda.is_available())' 2>/dev/null; }
if [ -z "${PYTHON:-}" ]; then
  PYTHON=.venv/bin/python
  if [ ! -x $PYTHON ] || { [ -z "$IS_DRY_RUN" ] && ! has_cuda $PYTHON; }; then PYTHON=python3; fi
fi
if [ -z "$IS_DRY_RUN" ] && ! has_cuda "$PYTHON"; then
  echo "no CUDA device (or no torch in $PYTHON) here; a dry run shows what would run" >&2
  exit 2
fi
"$PYTHON" -c 'import sys, torch; print(f"{sys.executable}: torch {torch.__version__}")' || exit 2

RESULTS=${OUT:-tests/bench/results}
mkdir -p "$RESULTS"
WORK=$(mktemp -d)
trap 'rm -rf "$WORK"' EXIT
# The folder kernels/ is imported as thothy_kernels: a link serves where nothing is installed.
ln -s "$PWD/kernels" "$WORK/thothy_kernels"
export PYTHONPATH="$PWD:$WORK:$PWD/tests/oracles:$PWD/tests/bench${PYTHONPATH:+:$PYTHONPATH}"
export PYTHONUNBUFFERED=1
export TRITON_INTERPRET=${IS_DRY_RUN:-0}  # the tests interpret unless told otherwise
export THOTHY_GPU_DRY_RUN=${IS_DRY_RUN:-0}
if [ -z "$IS_DRY_RUN" ]; then export THOTHY_GPU_TESTS=1; fi  # tests see no device otherwise
