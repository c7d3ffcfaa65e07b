"""Templates in the form of FLAN v2's file; the wording is t5sft's own."""

PATTERNS = {
    "rte": [
        ("{premise}\nPick one: {hypothesis}\n{options_}", "{answer}"),
    ],
    "trivia_qa": [
        ("Quiz: {question}", "{answer}"),
    ],
}
PATTERNS["paws_wiki"] = [
    ("{sentence1} / {sentence2}\n{options_}", "{answer}"),
]


class FewShotPattern:
    """Stands for FLAN's class of this name; t5sft never runs this file."""


FEWSHOT_PATTERNS = {
    "rte": [
        FewShotPattern(
            inputs="{premise} -> {hypothesis}\n{options_}",
            targets="{answer}",
            inputs_prefix="Q: ",
            targets_prefix="A: ",
            x_y_delimiter="\n",
            example_separator="\n\n",
            in_template_mix=False,
        ),
    ],
    "trivia_qa": [
        FewShotPattern(inputs="{question}", targets="{answer}", inputs_prefix="Q: "),
    ],
}
FEWSHOT_PATTERNS["paws_wiki"] = [
    FewShotPattern(inputs="{sentence1} / {sentence2}\n{options_}", targets="{answer}"),
]
