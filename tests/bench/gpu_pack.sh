#!/usr/bin/env bash
# Copies what the GPU machine needs of the shared folder into gpu_pack/ (ignored by git): a small
# model with its golden outputs, the traces of bench_runs.py, one small tokenizer, the one file of nvidia-ml-py
# (the engine finds the GPU through it), and which commit this is.
set -euo pipefail
cd "$(dirname "$0")/../.."
SHARED=${SHARED:-../shared}
PYTHON=${PYTHON:-.venv/bin/python}  # has nvidia-ml-py
MOST_KB=$((40 * 1024))  # small enough to be copied along with the working tree
[ -d "$SHARED/data" ] || { echo "make gpu-pack: no shared folder at $SHARED (set SHARED=...)" >&2; exit 2; }

# Made beside and moved, so that half a pack is never taken for a whole one.
rm -rf gpu_pack gpu_pack.part
mkdir -p gpu_pack.part/traces gpu_pack.part/tokenizers
trap 'rm -rf gpu_pack.part' EXIT
cp -r "$SHARED/data/weights/stories260K" gpu_pack.part/
for trace in arxiv_summarization_lengths azure2023_conv azure2023_code; do
  cp "$SHARED/data/traces/$trace.parquet" gpu_pack.part/traces/
done
cp -r "$SHARED/data/tokenizers/minimind-6400" gpu_pack.part/tokenizers/
mkdir gpu_pack.part/python
cp "$("$PYTHON" -c 'import pynvml; print(pynvml.__file__)')" gpu_pack.part/python/
# The history stays behind.
commit=${THOTHY_COMMIT:-$(git rev-parse --short HEAD 2>/dev/null || true)}
echo "$commit" >gpu_pack.part/commit
chmod -R u+w gpu_pack.part  # the shared folder is read-only, and so were its copies

size_kb=$(du -sk gpu_pack.part | cut -f1)
if [ "$size_kb" -gt "$MOST_KB" ]; then
  echo "make gpu-pack: $size_kb KiB, more than the $MOST_KB that a pack may have; gpu_pack is not made" >&2
  exit 1
fi
mv gpu_pack.part gpu_pack
echo "gpu_pack: $size_kb KiB of $MOST_KB"
