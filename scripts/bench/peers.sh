#!/usr/bin/env bash
# t5sft against PyTorch trainers on the same token ids and model sizes, run in turn.
#
#   scripts/bench/peers.sh PEERS [ROUNDS]
#
# PEERS is a folder with the peers' scripts (common.py, sft_trl.py, t5_trainer.py) and their
# environment venv/; the token ids are made there first. Each round runs
#   t5sft decoder, TRL SFTTrainer wrapped, TRL SFTTrainer bfd (its default),
#   t5sft encoder-decoder, Seq2SeqTrainer with batches grouped by length
# and the medians of all rounds are printed at the end; PEERS/out/side_by_side.jsonl keeps the lines.
# STEPS, REPEATS, WARMUP: steps in a window (20), windows (3), steps before them (5).
# CPUS: the cores for all (0,1). PYTHON: one with t5sft (python).
set -euo pipefail
[[ $# -ge 1 ]] || { sed -n '2,/^set/{/^set/d;s/^# \{0,1\}//;p}' "$0"; exit 2; }
root="$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)"
peers="$(cd "$1" && pwd)"
rounds="${2:-3}"
steps="${STEPS:-20}" repeats="${REPEATS:-3}" warmup="${WARMUP:-5}"
python="${PYTHON:-python}"
export PYTHONPATH="$root${PYTHONPATH:+:$PYTHONPATH}"
export HF_HUB_OFFLINE=1 TOKENIZERS_PARALLELISM=false OMP_NUM_THREADS=2 OMP_WAIT_POLICY=PASSIVE
results="$peers/out/side_by_side.jsonl" log="$peers/out/side_by_side.log"
mkdir -p "$peers/out"
: > "$results"
: > "$log"
if [[ ! -f "$peers/data/ids.npz" ]]; then
  (cd "$peers" && venv/bin/python -c "import common; common.tokenised()" >> "$log" 2>&1)
fi

run() { # Keeps the line of JSON of a program, and the rest in the log.
  echo "round $round: $*" >&2
  taskset -c "${CPUS:-0,1}" "$@" 2>> "$log" | tee -a "$log" | grep '^{"name"' >> "$results" ||
    { echo "it failed, see $log: $*" >&2; exit 1; }
}
ours() {
  run "$python" "$root/scripts/bench/alpaca_like.py" "$1" "$peers/data/ids.npz" \
    --steps "$steps" --repeats "$repeats" --warmup "$warmup"
}
theirs() {
  (cd "$peers" && run venv/bin/python "$@" --steps "$steps" --reps "$repeats" --warmup "$warmup")
}

for round in $(seq "$rounds"); do
  ours decoder
  theirs sft_trl.py wrapped
  theirs sft_trl.py bfd
  ours encoder_decoder
  theirs t5_trainer.py --group
done
"$python" "$root/scripts/bench/windows.py" "$results" \
  t5sft/decoder=trl-sft/wrapped t5sft/decoder=trl-sft/bfd \
  t5sft/encoder_decoder=seq2seqtrainer/t5/group
