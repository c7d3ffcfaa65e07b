#!/usr/bin/env bash
# Everything a change must pass: format, lint, types, layers, sizes, tests.
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/environment.sh"

install dev
cd "$root"
export PATH="$venv/bin:$PATH"
ruff format --check .
ruff check .
mypy
lint-imports
python scripts/sizes.py
python -m pytest -n 2 -m "not slow and not manual" "$@"
