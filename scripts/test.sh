#!/usr/bin/env bash
# Runs the tests; the first run installs t5sft.
#
#   scripts/test.sh                       all but the slow ones
#   scripts/test.sh -m slow               the slow ones: kills, two processes, every mesh
#   scripts/test.sh tests/train -k loop   arguments go on to pytest
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/environment.sh"

install test
cd "$root"
"$venv/bin/python" -m pytest -n 2 -m "not slow and not manual" "$@"
