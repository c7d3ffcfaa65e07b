"""A run of t5sft on the token ids that the PyTorch peers train on; peers.sh runs both in turn.

python scripts/bench/alpaca_like.py decoder|encoder_decoder IDS.npz [--steps 20] [--repeats 3]

IDS.npz holds flat prompt ids `p` with their lengths `pl`, and completions `c`, `cl` that end with
EOS = 1; 0 is padding. Decoder: 8.39 M parameters, rows of 512. Encoder-decoder: T5 with tied head,
11.5 M parameters, rows of 240 + 256, the prompt with EOS as input. Eight rows a step, packed,
float32, AdamW at 1e-3, clipped to norm 1. Counted are tokens that are no padding; a decoder's
example of n tokens counts n - 1 here and n in the peers. All of t5sft.train.run.train runs.
"""

import argparse
import json
import pathlib
import shutil
import tempfile

import loop as loop_bench
import numpy as np
import step as step_bench
import windows

from t5sft.data import cache, prepare, preprocess, records
from t5sft.data.preparing import fingerprint
from t5sft.train import optim

EOS = 1
NUM_VALIDATION = 64  # examples; evaluated once after the last window


def read_examples(path: str, layout: str, lengths: dict[str, int]) -> list[preprocess.Example]:
    """Returns the examples that fit a row; completions learn, prompts do not."""
    ids = np.load(path)
    sides = [np.split(ids[x], np.cumsum(ids[f"{x}l"])[:-1]) for x in ("p", "c")]

    def tokens(values, weight: float):
        return preprocess.Tokens(values.tolist(), [weight] * len(values), [0] * len(values))

    examples = []
    for prompt, completion in zip(*sides, strict=True):
        if layout == "decoder":
            inputs, targets = preprocess.EMPTY, tokens(prompt, 0.0) + tokens(completion, 1.0)
        else:
            inputs, targets = tokens(np.append(prompt, EOS), 0.0), tokens(completion, 1.0)
        try:
            example = preprocess.Example(inputs, targets)
            fitted, _ = preprocess.fit(example, layout=layout, too_long="drop", **lengths)
            examples.append(fitted)
        except records.Dropped:
            continue
    return examples


def write_cache(data: prepare.Data, layout: str, examples: list[preprocess.Example]) -> None:
    """Writes what `t5sft prepare` would, from ids in place of text."""
    splits = {"train": examples, "validation": examples[-NUM_VALIDATION:]}
    for split, part in splits.items():
        directory = prepare.directory(data, layout, split)
        temporary = directory.with_suffix(".tmp")
        shutil.rmtree(temporary, ignore_errors=True)
        cache.write_task(temporary / data.task, part, list(range(len(part))))
        tokens = [len(example.inputs.ids) + len(example.targets.ids) for example in part]
        learnt = sum(sum(example.targets.weights) for example in part)
        counts = {"read": len(part), "kept": len(part), "tokens": sum(tokens)}
        counts["learnt_tokens"] = int(learnt)
        tasks = {data.task: {"rate": 1.0, "content": directory.name, **counts}}
        origin = prepare.origin(data, layout, split, fingerprint.measure(data, []))
        cache.publish(temporary, directory, {**counts, "tasks": tasks, **origin})


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("layout", choices=("decoder", "encoder_decoder"))
    parser.add_argument("ids", type=pathlib.Path)
    parser.add_argument("--steps", type=int, default=20, help="steps in a window")
    parser.add_argument("--repeats", type=int, default=3, help="windows")
    parser.add_argument("--warmup", type=int, default=5, help="steps before the first window")
    arguments = vars(parser.parse_args())
    layout, path = arguments.pop("layout"), arguments.pop("ids")
    half = step_bench.TOKENS // 2
    # Prompts hold 48 tokens, answers 52: in rows as unlike, both sides fill alike.
    lengths = {"encoder_length": half - 16, "decoder_length": half}
    if layout == "decoder":
        lengths["decoder_length"] = step_bench.TOKENS
    with tempfile.TemporaryDirectory() as directory:
        # The vocabulary gives the ids of padding and EOS only: no text is tokenised.
        data = prepare.Data("alpaca_like", vocabulary="bytes", cache_dir=directory, **lengths)
        write_cache(data, layout, read_examples(path, layout, lengths))
        watch = loop_bench.timed(
            model=step_bench.make_model(layout, logits_via_embedding=layout == "encoder_decoder"),
            data=data,
            optimizer=optim.adamw(
                learning_rate=optim.schedule(peak=1e-3, total_steps=1, shape="constant"),
                clip_norm=1.0,
            ),
            bare=False,
            **arguments,
        )
    print(json.dumps(windows.summary(f"t5sft/{layout}", watch.windows, **watch.first_step)))


if __name__ == "__main__":
    main()
