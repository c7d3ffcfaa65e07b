#!/usr/bin/env bash
# Instruction-tunes a small bundled model and evaluates it; the first run installs t5sft.
#
#   scripts/quickstart.sh                 encoder-decoder
#   scripts/quickstart.sh decoder         decoder
#   scripts/quickstart.sh --steps 20      flags of t5sft train go on to it
#   scripts/quickstart.sh --model_dir D   in D, not in runs/ of the checkout
#
# An interrupted run is continued, a finished one is kept: the next goes to runs/quickstart-2, ...
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/environment.sh"

name=quickstart
if [[ $# -gt 0 && "$1" != -* ]]; then
  name="quickstart_$1"
  shift
fi
recipe="gin/recipes/$name.gin"
[[ -f "$root/$recipe" ]] || fail "no recipe $recipe; there are: $(cd "$root" && echo gin/recipes/quickstart*.gin)"

install run
cd "$root"
model_dir="$root/runs/$name"
if [[ $# -gt 1 && "$1" == --model_dir ]]; then
  model_dir="$2"
  shift 2
else
  number=1
  while [[ -e "$model_dir/result.json" ]]; do
    number=$((number + 1))
    model_dir="$root/runs/$name-$number"
  done
fi

run() {
  printf '\n$ t5sft' >&2
  printf ' %q' "$@" >&2
  printf '\n' >&2
  "$venv/bin/t5sft" "$@"
}
run train --gin_file "$recipe" --model_dir "$model_dir" "$@"
run evaluate --model_dir "$model_dir"
