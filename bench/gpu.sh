#!/usr/bin/env bash
# Every check that needs a GPU, in under ten minutes, as one table; exits with 0 and says so where there is none.
#   bash bench/gpu.sh [--photos FOLDER] [--backbone NAME] [--images 3000]
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

python=.venv/bin/python
[ -x "$python" ] || python=python3
"$python" -c 'import torch' 2>/dev/null || { echo "no PyTorch: not measured (pip install 'graft-vision[train]')"; exit 0; }
timeout 600 "$python" bench/gpu.py "$@"
