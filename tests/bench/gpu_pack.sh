#!/usr/bin/env bash
# Copies what the GPU machine needs of the shared folder into gpu_pack/ (ignored by git, under 40 MiB).
set -euo pipefail
cd "$(dirname "$0")/../.."
SHARED=${SHARED:-../shared}
[ -d "$SHARED/data" ] || { echo "make gpu-pack: no shared folder at $SHARED (set SHARED=...)" >&2; exit 2; }
rm -rf gpu_pack
mkdir -p gpu_pack
cp -r "$SHARED/data/weights/stories260K" gpu_pack/
du -sh gpu_pack
