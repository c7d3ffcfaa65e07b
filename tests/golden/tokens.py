"""What samples of every corpus become, under every template, policy and kind of vocabulary.

After a change that is meant to change it, raise `fingerprint.SEMANTICS` and make it again:

python tests/golden/tokens.py
"""

import dataclasses
import hashlib
import importlib
import json
import os
import pathlib
import sys

HERE = pathlib.Path(__file__).parent
FILE = HERE / "tokens.json"
POLICIES = [
    {"learn": "targets"},
    {"learn": "last_assistant"},
    {"learn": "everything", "prompt_weight": 0.5},
    {"prompt_weight": 0.1, "too_long": "cut_prompt", "encoder_length": 96, "decoder_length": 192},
    {"too_long": "cut_response", "encoder_length": 400, "decoder_length": 300},
    {"too_long": "split_turns", "encoder_length": 200, "decoder_length": 200},
    {"candidates": "best", "system": "Be brief."},
    {"objective": "language_model", "too_long": "cut_response", "decoder_length": 64},
    {"objective": "span_corruption", "noise_density": 0.3, "seed": 3},
    {"objective": "span_corruption", "too_long": "split_text", "encoder_length": 24},
]


def samples() -> dict[str, list]:
    """Task and split -> the records (or why there are none) of the samples of all corpora."""
    from oracles import corpora

    from t5sft.data import prepare, sources
    from t5sft.data.corpora import follow

    out = {}
    follow(prepare.Data(task="any", vocabulary="bytes"))  # whatever was prepared in this process
    for module in corpora.EXPECTED:
        loaded = importlib.import_module(f"t5sft.tasks.{module}")
        if module in corpora.WITH_REGISTER:
            named = corpora.WITH_REGISTER[module]
            loaded.register(prepare.Data(task=named, vocabulary="bytes"))
    for _, task, split in corpora.CASES:
        source = sources.load_seqio().TaskRegistry.get(task).source
        # Numbered as they are on being read: span corruption draws by that.
        out[f"{task}/{split}"] = [
            one._replace(source=task, number=i) if hasattr(one, "messages") else one
            for i, one in enumerate(source.make_records(split))
        ]
    return out


def digests() -> dict[str, str]:
    """Name of a case -> what stands for its records, or its ids, weights, roles and counts."""
    from oracles import vocabularies

    from t5sft.data import preprocess, records, templates, vocab

    read = samples()
    out = {name: _short([records.to_json(one) for one in found]) for name, found in read.items()}
    rows = [one for found in read.values() for one in found if isinstance(one, records.Record)]
    texts = [one._replace(messages=(records.Message("text", one.messages[-1].content),),
                          candidates=()) for one in rows]  # fmt: skip
    whole = preprocess.Options("decoder", encoder_length=4096, decoder_length=4096)
    village = vocab.load("tasks/village/vocab.model")
    kinds = {"bytes": vocab.load("bytes"), "json": vocab.load(str(vocabularies.directory()))}

    def made(rows, vocabulary, template, options):
        return _short([_told(row, vocabulary, template, options) for row in rows])

    for layout in ("decoder", "encoder_decoder"):
        options = dataclasses.replace(whole, layout=layout)
        for name in templates.TEMPLATES:
            for kind, vocabulary in kinds.items():
                spelled = name if kind == "json" else f"{name}:text"
                out[f"{spelled}, {kind}, {layout}"] = made(
                    rows, vocabulary, templates.get(spelled), options
                )
        for policy in POLICIES:
            is_plain = "objective" in policy
            out[f"{policy}, {layout}"] = made(
                texts if is_plain else rows, village, templates.get("chatml:text"),
                dataclasses.replace(options, **policy),
            )  # fmt: skip
    return out


def _told(row, vocabulary, template, options):
    """Returns what becomes of a record as plain values, or which error it is."""
    from t5sft import errors
    from t5sft.data import preprocess

    try:
        made = preprocess.examples(row, vocabulary, template, options)
    except errors.DataError as error:
        return type(error).__name__
    columns = [
        # A cache has no -0.0; which of the two zeros a mould holds depends on who came first.
        [[float(x) + 0.0 for x in column] for side in one for column in side]
        for unit in made.units
        for one in unit
    ]
    return [columns, [len(unit) for unit in made.units], made.labels, sorted(made.counts.items())]


def _short(value) -> str:
    return hashlib.sha256(json.dumps(value).encode()).hexdigest()[:12]


def remake() -> None:
    from oracles import corpora

    from t5sft.data.preparing import fingerprint

    os.environ["T5SFT_DATA"] = str(corpora.SAMPLES)
    old = json.loads(FILE.read_text()) if FILE.exists() else {"semantics": 0, "digests": {}}
    new = digests()
    changed = [name for name, digest in old["digests"].items() if new.get(name) != digest]
    if changed and old["semantics"] == fingerprint.SEMANTICS:
        sys.exit(f"other tokens than before ({changed[0]}, ...): raise fingerprint.SEMANTICS first")
    FILE.write_text(json.dumps({"semantics": fingerprint.SEMANTICS, "digests": new}, indent=0))
    print(f"{len(new)} cases, {len(changed)} changed")


if __name__ == "__main__":
    sys.path[:0] = [str(HERE.parent), str(HERE.parent.parent)]
    remake()
