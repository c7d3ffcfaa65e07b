"""The verb generate: prompts of a file are answered, written as they finish, resumed if killed."""

import json
import pathlib
from collections.abc import Sequence
from typing import Any

import jax

from t5sft import errors
from t5sft.data import files, prepare, preprocess
from t5sft.evaluate import answering, opening
from t5sft.evaluate.answers_file import AnswersFile
from t5sft.evaluate.progress import Progress
from t5sft.generate import decode, stopping
from t5sft.generate import settings as settings_lib
from t5sft.parallel import rules as rules_lib


def generate(
    *,
    model: Any = None,
    data: prepare.Data | None = None,
    model_dir: str | None = None,
    prompt: str | None = None,
    inputs: str | None = None,
    prompt_field: str | None = None,
    output: str | None = None,
    vocabulary: str | None = None,
    template: str | None = None,
    system: str | None = None,
    dtype: str | None = None,
    max_new_tokens: int = 64,
    min_new_tokens: int = 0,
    temperature: float = 0.0,
    top_k: int = 0,
    top_p: float = 1.0,
    min_p: float = 0.0,
    repetition_penalty: float = 1.0,
    num_beams: int = 1,
    length_penalty: float | None = None,
    beam_style: str = "t5x",
    num_samples: int = 1,
    stop: Sequence[str] = (),
    seed: int = 0,
    cache_dtype: str | None = None,
    batch_size: int = 32,
    mesh=None,
    rules: Sequence = rules_lib.DEFAULT_RULES,
) -> dict:
    """Answers a prompt, or each row of a file: {"responses": the rows with their answers}.

    Args:
      model, data, model_dir, vocabulary, template, system, dtype, mesh, rules: see `opening.find`.
      prompt: one instruction.
      inputs: .json or .jsonl whose rows hold `instruction` (and `input`), `inputs`, `prompt` or
        `messages`, or the prompt in the field named; `seed` of a row is its own.
      output: a JSONL file for the rows with their `response` and `finished` (with num_samples
        lists of them, `responses`); None: standard output. A killed run goes on where it ends.
      max_new_tokens, ..., cache_dtype: see `settings.Settings`.
    """
    how = settings_lib.Settings(
        max_new_tokens=max_new_tokens, min_new_tokens=min_new_tokens, temperature=temperature,
        top_k=top_k, top_p=top_p, min_p=min_p, repetition_penalty=repetition_penalty,
        num_beams=num_beams, length_penalty=length_penalty, beam_style=beam_style,
        num_samples=num_samples, stop=tuple(stop), seed=seed, cache_dtype=cache_dtype,
    )  # fmt: skip
    if (prompt is None) == (inputs is None):
        raise errors.ConfigError("give one of --prompt and --inputs; generate; see --help")
    rows = _read(inputs) if inputs is not None else [("--prompt", {"prompt": prompt})]
    ready = opening.find(
        model_dir=model_dir, model=model, data=data, vocabulary=vocabulary, template=template,
        system=system, dtype=dtype, batch_size=batch_size, mesh=mesh, rules=rules,
    )  # fmt: skip
    assert model_dir is not None
    asked = _prompts(ready, rows, prompt_field, max_new_tokens)
    seeds = [_seed(row, i, where) for i, (where, row) in enumerate(rows)]
    about = {**opening.identity(model_dir), **_about(ready, how)}
    file = AnswersFile(output, [row for _, row in rows], asked, seeds, about)
    missing = [i for i in range(len(rows)) if i not in file.done]
    if missing:
        _answer(opening.load(model_dir, ready), how, file, asked, seeds, missing)
    answered = file.finish()
    if output is None and jax.process_index() == 0:
        for row in answered:
            print(row["response"] if inputs is None and num_samples == 1 else _line(row))
    return {"responses": answered}


def _answer(ready: answering.Ready, how, file: AnswersFile, asked, seeds, missing) -> None:
    """Answers the missing rows; a row is written when all its samples are there."""
    stop = stopping.Stop(ready.vocabulary.decode, how.stop) if how.stop else None
    found = decode.stream(
        ready.model,
        ready.params,
        [asked[i] for i in missing],
        eos_id=preprocess.end_ids(ready.template, ready.vocabulary),
        start_id=ready.start_id,
        batch_size=ready.batch_size,
        row_seeds=[seeds[i] for i in missing],
        stop=stop,
        mesh=ready.mesh,
        rules=ready.rules,
        **how.options(),
    )
    samples: dict[int, dict[int, tuple[str, bool]]] = {}
    with Progress(len(asked), len(file.done), is_wanted=len(asked) > 1) as progress:
        for number, one in found:
            which, sample = divmod(number, how.num_samples)
            text = ready.vocabulary.decode(one.tokens)
            mine = samples.setdefault(which, {})
            mine[sample] = (stop.cut(text) if stop else text, one.finished)
            if len(mine) == how.num_samples:
                del samples[which]
                file.add(missing[which], [mine[n] for n in range(how.num_samples)])
                progress.add()


def _read(path: str) -> list[tuple[str, dict]]:
    file = pathlib.Path(path).expanduser()
    if not file.exists():
        raise errors.ConfigError(f"no file {path}; --inputs; check the path")
    rows = list(files.read_rows(file))
    if not rows:
        raise errors.DataError(f"no rows; {path}; give a file with a prompt in every row")
    return rows


def _prompts(ready: answering.Ready, rows, prompt_field, max_new_tokens: int) -> list[list[int]]:
    """Returns the tokens that each row is asked by."""
    asked = [opening.ids(ready, opening.question(row, w, prompt_field), w) for w, row in rows]
    answering.check_positions(ready, max(map(len, asked), default=0) + max_new_tokens)
    return asked


def _seed(row: dict, index: int, where: str) -> int:
    """The row's own seed, else its place in the file."""
    seed = row.get("seed", index)
    if type(seed) is not int or not 0 <= seed < 2**32:
        raise errors.DataError(f"seed is {seed!r}; {where}; use an integer from 0 to 2^32 - 1")
    return seed


def _about(ready: answering.Ready, how: settings_lib.Settings) -> dict[str, Any]:
    """What else the answers depend on; not the batch size."""
    settings = {name: getattr(how, name) for name in how.__dataclass_fields__}
    return {
        "vocabulary_sha256": ready.vocabulary.fingerprint(),
        "dtype": ready.model.dtype,
        **settings,
        "stop": list(how.stop),
    }


def _line(row: dict) -> str:
    return json.dumps(row, ensure_ascii=False)
