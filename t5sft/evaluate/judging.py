"""MT-bench and pairwise comparison at a model: it answers, a judge decides."""

from collections.abc import Mapping, Sequence
from typing import Any

import jax

from t5sft import errors
from t5sft.data import files
from t5sft.data.records import Message
from t5sft.evaluate import answering, results, suites
from t5sft.evaluate.answers import judge as judge_lib
from t5sft.evaluate.answers import judged

NAMES = judged.NAMES


def prepare(name: str, ready: answering.Ready, options: Any) -> suites.Measure:
    """Reads the questions and opens the judge; see `at_model.Options`.

    Without a judge MT-bench is only answered: the answers go to --output, to be judged later.
    """
    ask = judge_lib.open_judge(options.judge, options.judge_model) if options.judge else None
    if ask is None and (name == "pairwise" or not options.output):
        raise errors.ConfigError(
            f"{name} needs a judge; evaluate; add --judge http://HOST/v1 --judge_model NAME, a "
            "file of judgements, or (mt_bench) --output FILE to keep the answers"
        )
    if name == "pairwise" and not options.baseline:
        raise errors.ConfigError("pairwise needs answers to compare with; add --baseline FILE")
    asked = judged.questions(options.questions) if name == "mt_bench" else _pairs(options.baseline)
    asked = results.first(asked, options.num_examples)
    how = answering.Decoding(options.answer_tokens or 1024, seed=options.seed)
    known = {
        "protocol": "pairs in both orders" if options.baseline else "single grades",
        "judge": {"where": options.judge, "model": options.judge_model, "temperature": 0.0},
        "decode": {**how._asdict(), "temperature": "by category" if name == "mt_bench" else 0.0},
    }
    is_first = jax.process_index() == 0  # a judge is paid once

    def run(loaded: answering.Ready) -> suites.Scored:
        scores = None
        if name == "pairwise":
            texts = _replies(loaded, [(Message("user", one["prompt"]),) for one in asked], how)
            pairs = [
                judge_lib.Pair(one["prompt"], text, one["response"])
                for one, text in zip(asked, texts, strict=True)
            ]
            answers = [[text] for text in texts]
            if ask and is_first:
                scores = judged.compare(pairs, ask)
        else:
            answers = two_turns(loaded, asked, how)
            if ask and is_first:
                scores = judge_mt_bench(asked, answers, options, ask)
        told = [
            {**_named(one), "responses": texts} for one, texts in zip(asked, answers, strict=True)
        ]
        return suites.Scored(scores, told)

    return suites.of_benchmark(name, asked, known, run, output=options.output, groups="by_category")


def judge_mt_bench(asked, answers, options: Any, ask: judge_lib.Judge):
    """Grades MT-bench answers, or compares them with --baseline's."""
    known = judged.prompts(options.questions)
    if options.baseline is None:
        return judged.grade(asked, answers, known, ask)
    rows = list(files.read_rows(options.baseline))
    theirs = judged.recorded_turns(rows, judged.questions(options.questions))[: len(asked)]
    return judged.compare_mt_bench(asked, answers, theirs, known, ask)


def two_turns(loaded: answering.Ready, asked: Sequence[Mapping], how: answering.Decoding):
    """Answers both turns; the second is asked behind the first answer. Temperature by category."""
    out: list[list[str]] = [[] for _ in asked]
    groups: dict[float, list[int]] = {}
    for i, one in enumerate(asked):
        temperature = judged.TEMPERATURES.get(one["category"], 0.0)
        groups.setdefault(temperature, []).append(i)
    for temperature, members in groups.items():
        for turn in (0, 1):
            conversations = []
            for i in members:
                messages = [Message("user", asked[i]["turns"][0])]
                if turn:
                    messages += [Message("assistant", out[i][0])]
                    messages += [Message("user", asked[i]["turns"][1])]
                conversations.append(tuple(messages))
            texts = _replies(loaded, conversations, how._replace(temperature=temperature))
            for i, text in zip(members, texts, strict=True):
                out[i].append(text)
    return out


def _replies(loaded, conversations, how: answering.Decoding) -> list[str]:
    prompts = [answering.prompt(loaded, messages) for messages in conversations]
    return [one.text for one in answering.reply(loaded, prompts, how)]


def _pairs(path: str) -> list[dict[str, Any]]:
    out = []
    for where, row in files.read_rows(files.expand(path)):
        prompt = row.get("prompt", row.get("instruction"))
        response = row.get("response", row.get("output"))
        if not isinstance(prompt, str) or not isinstance(response, str):
            raise errors.DataError(f"no prompt and response; {where}; --baseline needs both")
        out.append({"prompt": prompt, "response": response})
    return out


def _named(question: Mapping[str, Any]) -> dict[str, Any]:
    names = ("question_id", "category", "prompt")
    return {name: question[name] for name in names if name in question}
