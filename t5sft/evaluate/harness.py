"""Tasks of EleutherAI's lm-evaluation-harness at our checkpoints: `pip install t5sft[harness]`.

    import lm_eval
    from t5sft.evaluate import harness
    lm_eval.simple_evaluate(model=harness.open_model("runs/quickstart"), tasks=["piqa"])

Its three requests (lm_eval/api/model.py): `loglikelihood` scores a continuation, without an end
token; `loglikelihood_rolling` a whole text; `generate_until` answers. No template takes part, nor
chats: texts are encoded as the harness does, the continuation of a decoder as part of the whole,
that of an encoder-decoder by itself.
"""

from typing import Any

from t5sft import errors
from t5sft.data import vocab
from t5sft.evaluate import answering, likelihoods, opening
from t5sft.evaluate.answers import language

MAX_NEW_TOKENS = 256  # where a task does not say, as in the harness


def open_model(
    path: str,
    *,
    vocabulary: str | None = None,
    batch_size: int = 8,
    max_length: int = 2048,
    mesh: Any = None,
) -> Any:
    """Returns an lm_eval.api.model.LM of a checkpoint of ours or a Hugging Face directory.

    Args:
      vocabulary: a tokenizer, where none lies beside the weights.
      max_length: tokens of a row; longer contexts lose their beginning.

    Raises:
      ConfigError: lm_eval is not installed, or the checkpoint does not say its model.
    """
    base = language.package("lm_eval.api.model", "lm_eval").LM
    ready = opening.find(
        model_dir=path, vocabulary=vocabulary, template="plain", batch_size=batch_size, mesh=mesh
    )
    max_length = min(max_length, ready.model.max_position_embeddings or max_length)
    return adapt(base, opening.load(path, ready), max_length)


def adapt(base: type, ready: answering.Ready, max_length: int) -> Any:
    """Returns an object of the harness's class `base` that answers by a loaded model."""

    def loglikelihood(self, requests) -> list[tuple[float, bool]]:
        rows = [pair(ready, one.args[0], one.args[1], max_length) for one in requests]
        found = answering.judge(ready, rows)
        return [(one.total(), bool(one.is_greedy.all())) for one in found]

    def loglikelihood_rolling(self, requests) -> list[float]:
        windows = [rolling(ready, one.args[0], max_length) for one in requests]
        found = iter(answering.judge(ready, [row for rows in windows for row in rows]))
        return [sum(next(found).total() for _ in rows) for rows in windows]

    def generate_until(self, requests) -> list[str]:
        out: dict[int, str] = {}
        groups: dict[answering.Decoding, list[int]] = {}
        for i, one in enumerate(requests):
            groups.setdefault(_decoding(one.args[1]), []).append(i)
        for how, members in groups.items():
            room = _room(ready, max_length, how.max_new_tokens)
            prompts = [context(ready, requests[i].args[0], room) for i in members]
            for i, reply in zip(members, answering.reply(ready, prompts, how), strict=True):
                out[i] = reply.text
        return [out[i] for i in range(len(requests))]

    methods = {
        "loglikelihood": loglikelihood,
        "loglikelihood_rolling": loglikelihood_rolling,
        "generate_until": generate_until,
    }
    return type("T5sft", (base,), methods)()


def _prefix(vocabulary: vocab.Vocabulary) -> int:
    """What stands before a text: the beginning token, or the end of the text before."""
    return vocabulary.eos_id if vocabulary.bos_id is None else vocabulary.bos_id


def _room(ready: answering.Ready, max_length: int, max_new_tokens: int) -> int:
    """Returns how many tokens a context may have; that of an encoder-decoder has its own row."""
    if ready.model.layout == "encoder_decoder":
        return max_length
    if max_new_tokens >= max_length:
        raise errors.ConfigError(
            f"{max_new_tokens} new tokens leave no place for a context in a row of {max_length}; "
            "generate_until; give the task a smaller max_gen_toks, or open_model a greater "
            "max_length"
        )
    return max_length - max_new_tokens


def context(ready: answering.Ready, text: str, room: int) -> list[int]:
    """Returns the ids of what is given; of a long one the end, behind the beginning token."""
    vocabulary = ready.vocabulary
    ids = vocabulary.encode(text)
    if ready.model.layout == "encoder_decoder":
        return ids[max(len(ids) - (room - 1), 0) :] + [vocabulary.eos_id]
    has_bos = vocabulary.bos_id is not None
    before = [_prefix(vocabulary)] if has_bos or not ids else []
    return before + ids[max(len(ids) - (room - len(before)), 0) :]


def pair(ready: answering.Ready, given: str, continuation: str, max_length: int) -> likelihoods.Ids:
    """Returns a context and its continuation as ids.

    Example (a decoder): white space at the end of the context goes to the continuation, and what
    both are together is split where the context alone ends.
      "2 + 2 = ", "4"   _2 _+ _2 _= | _4
    """
    vocabulary = ready.vocabulary
    if ready.model.layout == "encoder_decoder":
        return likelihoods.Ids(context(ready, given, max_length), vocabulary.encode(continuation))
    bare = given.rstrip() if given.strip() else given
    whole = vocabulary.encode(bare + given[len(bare) :] + continuation)
    split = len(vocabulary.encode(bare))
    targets = whole[split:]
    before = [_prefix(vocabulary)] if vocabulary.bos_id is not None or not split else []
    kept = max(max_length + 1 - len(targets) - len(before), 0)
    inputs = whole[:split][-kept:] if kept else []
    return likelihoods.Ids((before + inputs) or [_prefix(vocabulary)], targets)


def rolling(ready: answering.Ready, text: str, max_length: int) -> list[likelihoods.Ids]:
    """Returns windows over a text that predict every token once, with as much before it as fits.

    An encoder-decoder's windows follow each other without overlap; its encoder is given nothing.

    Example (max_length 4, tokens 0 to 9):
      inputs    BOS | 3 | 5 6 7
      targets   0 1 2 3 | 4 5 6 7 | 8 9
    """
    tokens = ready.vocabulary.encode(text)
    starts = range(0, len(tokens), max_length)
    chunks = [tokens[first : first + max_length] for first in starts]
    if ready.model.layout == "encoder_decoder":
        return [likelihoods.Ids([ready.vocabulary.eos_id], chunk) for chunk in chunks]
    out = []
    for first, chunk in zip(starts, chunks, strict=True):
        before = tokens[first - (max_length + 1 - len(chunk)) : first] if first else []
        out.append(likelihoods.Ids(before or [_prefix(ready.vocabulary)], chunk))
    return out


def _decoding(told: dict[str, Any]) -> answering.Decoding:
    """The harness's generation arguments as ours."""
    until = told.get("until") or ()
    stop = (until,) if isinstance(until, str) else tuple(until)
    length = told.get("max_gen_toks", told.get("max_new_tokens", MAX_NEW_TOKENS))
    samples = told.get("do_sample", float(told.get("temperature") or 0) > 0)
    temperature = float(told.get("temperature") or 1.0) if samples else 0.0
    return answering.Decoding(int(length), stop, temperature, float(told.get("top_p", 1.0)))
