"""Benchmarks asked of a model: questions, prompts, answers or ranks, figures."""

import dataclasses
from collections.abc import Callable, Sequence

from t5sft import errors
from t5sft.data import prepare as prepare_lib
from t5sft.evaluate import answering, coding, judging, prompting, ranks, results, suites
from t5sft.evaluate.answers import benchmarks

PREFIX = "benchmark:"  # of a benchmark whose name a SeqIO task of the run has, too


_OWN: dict[str, Callable[..., suites.Measure]] = {  # those with more than prompts and answers
    **dict.fromkeys(ranks.NAMES, ranks.prepare),
    **dict.fromkeys(judging.NAMES, judging.prepare),
    coding.NAME: coding.prepare,
}


@dataclasses.dataclass(frozen=True)
class Options:
    """How a model is asked; the flags of `t5sft evaluate` by their names.

    Args:
      num_examples: at most so many questions of each task.
      seed: of sampling.
      template_split: SeqIO tasks that tell accuracy by template: where the best one is chosen.
      output: a JSONL file for every question with its answer.
      questions: a benchmark's file, or the folder in place of T5SFT_DATA.
      style: how it is asked, see `prompting`; shots: worked examples before the question.
      extraction: the rule that finds the answer in a response.
      answer_tokens: at most so many new tokens; None: as the style has it.
      samples, temperature: HumanEval: how many answers to each question, drawn how.
      allow_code_execution: HumanEval runs what the model wrote, in a sandbox.
      judge, judge_model: http://HOST/v1 and the model there, or a file of judgements.
      baseline: answers to compare with: rows of prompt and response, or of MT-bench's.
    """

    num_examples: int | None = None
    seed: int = 0
    template_split: str | None = None
    output: str | None = None
    questions: str | None = None
    style: str | None = None
    shots: int | None = None
    extraction: str | None = None
    answer_tokens: int | None = None
    samples: int = 1
    temperature: float = 0.0
    allow_code_execution: bool = False
    judge: str | None = None
    judge_model: str | None = None
    baseline: str | None = None

    def __post_init__(self) -> None:
        least = {"num_examples": 1, "shots": 0, "answer_tokens": 1, "samples": 1}
        for name, number in least.items():
            value = getattr(self, name)
            if value is not None and value < number:
                raise errors.ConfigError(f"{name} = {value}; evaluate; use {number} or more")


_FOR_TASKS = {"num_examples", "seed", "template_split", "output"}


_USED = {  # of a benchmark's flags, by those that have not all that _ASKED have
    "rank": {"questions"},
    "mmlu": {"questions", "style", "shots"},
    "mt_bench": {"questions", "answer_tokens", "judge", "judge_model", "baseline"},
    "pairwise": {"answer_tokens", "judge", "judge_model", "baseline"},
    coding.NAME: {"questions", "answer_tokens", "samples", "temperature", "allow_code_execution"},
}
_ASKED = {"questions", "style", "shots", "extraction", "answer_tokens"}


def _refuse_without_effect(options: Options, name: str) -> None:
    """Raises ConfigError for a flag that this benchmark does not look at."""
    used = {"num_examples", "seed", "output"} | _USED.get(name, _ASKED)
    for field in dataclasses.fields(options):
        if field.name not in used and getattr(options, field.name) != field.default:
            raise errors.ConfigError(
                f"--{field.name} has no effect on {name}; evaluate; leave it out"
            )


def refuse_unused(options: Options, task: str) -> None:
    """Raises ConfigError for a benchmark's flag given to a SeqIO task."""
    for field in dataclasses.fields(options):
        if field.name not in _FOR_TASKS and getattr(options, field.name) != field.default:
            raise errors.ConfigError(
                f"--{field.name} has no effect on the SeqIO task {task!r}; evaluate; leave it "
                f"out, or name a benchmark ({', '.join(names())})"
            )


def names() -> list[str]:
    """Returns the benchmarks that can be asked of a model."""
    return list(dict.fromkeys([*benchmarks.names(), *_OWN]))


def benchmark_of(
    task: str | None, data: prepare_lib.Data | None, suites_: Sequence[tuple[str, str]]
) -> str | None:
    """Returns the benchmark that --task names; None: it is a SeqIO task of the run.

    A name that both have is the SeqIO task, where the run was trained on it or evaluates it; with
    `benchmark:` before it, it is the benchmark.
    """
    if task is None:
        return None
    if task.startswith(PREFIX):
        name = task.removeprefix(PREFIX)
        if not _is_benchmark(name):
            benchmarks.get(name)  # raises, with the nearest name
        return name
    mine = {data and data.task, *(one for _, one in suites_)}
    return task if _is_benchmark(task) and task not in mine else None


def _is_benchmark(name: str) -> bool:
    return benchmarks.is_known(name) or name in _OWN


def prepare(name: str, ready: answering.Ready, options: Options) -> suites.Measure:
    """Reads a benchmark's questions and writes its prompts, once for all checkpoints."""
    _refuse_without_effect(options, name)
    if name in _OWN:
        return _OWN[name](name, ready, options)
    benchmark = benchmarks.get(name)
    if options.questions is None and benchmark.load is benchmarks.own_references:
        raise errors.ConfigError(f"{name} has no questions of its own; evaluate; add --questions")
    if options.extraction is not None and options.extraction not in benchmark.extractions:
        raise errors.ConfigError(
            f"no rule {options.extraction!r}; --extraction of {name}; use "
            f"{', '.join(benchmark.extractions) or 'none'}"
        )
    questions = results.first(benchmark.load(options.questions, []), options.num_examples)
    if any(one.get(benchmarks.UNASKED) for one in questions):
        raise errors.DataError(
            f"no prompt in some rows; --questions {options.questions}; name it prompt, question, "
            "inputs or input"
        )
    protocol = prompting.build(
        name,
        questions,
        style=options.style,
        shots=options.shots,
        folder=options.questions,
        max_new_tokens=options.answer_tokens,
    )
    prompts = [answering.prompt(ready, messages) for messages in protocol.conversations]
    known = {"protocol": protocol.name, "decode": protocol.decoding._asdict()}
    known |= {"extraction": options.extraction} if options.extraction else {}

    def run(loaded: answering.Ready) -> suites.Scored:
        replies = answering.reply(loaded, prompts, protocol.decoding)
        scores = benchmark.score(questions, [one.text for one in replies], options.extraction)
        answers = [
            {"index": i, "prompt": messages[-1].content, "response": reply.text}
            for i, (messages, reply) in enumerate(zip(protocol.conversations, replies, strict=True))
        ]
        unfinished = sum(not one.finished for one in replies)
        extraction = scores.verdicts[0].get("extraction")
        return suites.Scored(scores, answers, {"extraction": extraction, "unfinished": unfinished})

    return suites.of_benchmark(
        name, questions, known, run, output=options.output, packages=benchmark.packages
    )
