"""HumanEval at a model: several answers to each problem, run as `answers/programs.py` runs them."""

from typing import Any

import jax

from t5sft import errors
from t5sft.data import records
from t5sft.evaluate import answering, answers_file, results, suites
from t5sft.evaluate.answers import programs, statistics

NAME = "humaneval"


def prepare(name: str, ready: answering.Ready, options: Any) -> suites.Measure:
    """Reads the problems; see `at_model.Options` for samples and temperature."""
    del name
    programs.refuse(options.allow_code_execution)
    if options.samples > 1 and options.temperature <= 0:
        raise errors.ConfigError(
            f"{options.samples} samples would all be the same; --temperature is 0; give 0.2 to 0.8"
        )
    asked = results.first(programs.questions(options.questions), options.num_examples)
    how = answering.Decoding(
        options.answer_tokens or 512, (), options.temperature, seed=options.seed
    )
    messages = [(records.Message("user", one["prompt"]),) for one in asked]
    known = {"protocol": f"zero, {options.samples} samples", "decode": how._asdict()}
    prompts = [answering.prompt(ready, one) for one in messages for _ in range(options.samples)]

    def run(loaded: answering.Ready) -> suites.Scored:
        texts = [one.text for one in answering.reply(loaded, prompts, how)]
        size = options.samples
        grouped = [texts[i : i + size] for i in range(0, len(texts), size)]
        is_first = jax.process_index() == 0  # programs are run once, not once a process
        scores = programs.score(asked, grouped) if is_first else None
        answers = [
            {"prompt": one["prompt"], "responses": texts}
            for one, texts in zip(asked, grouped, strict=True)
        ]
        return suites.Scored(statistics.Scores(*answers_file.of_the_first(scores)), answers)

    return suites.of_benchmark(NAME, asked, known, run, output=options.output)
