"""Wordings of the chain-of-thought tasks, as data; written for t5sft.

Fields: question, answer, rationale. FLAN v2's own are in google-research/FLAN.
Example: PATTERNS[1]
  "{question}\\nThink step by step, then give the answer.", "{rationale}\\nThe answer is {answer}."
"""

from t5sft.data.flan.patterns import Pattern

_ENDS = (
    "{rationale}\nSo the answer is {answer}.",
    "{rationale}\nThe answer is {answer}.",
    "{rationale} Therefore: {answer}",
)

# Question -> reasoning and answer.
PATTERNS = tuple(
    Pattern(inputs, _ENDS[number % len(_ENDS)], x_y_delimiter="\n", example_separator="\n\n\n")
    for number, inputs in enumerate(
        (
            "{question}\nReason first, then answer.",
            "{question}\nThink step by step, then give the answer.",
            "Answer with your reasoning.\n\n{question}",
            "Question: {question}\nExplain how you get to the answer, and give it last.",
            "{question}\n\nWhat follows from what? Write it down and end with the answer.",
            "Work this out on paper:\n{question}",
            "Show the steps of your thinking for this question: {question}",
            "{question}\nDo not guess; argue, then conclude.",
            "Here is a question. Take it apart, one thought after the other.\n{question}",
            "Q: {question}\nReasoning and answer:",
        )
    )
)

# Input inversion: what was given is asked for.
INVERSIONS = tuple(
    Pattern(inputs, targets, x_y_delimiter="\n", example_separator="\n\n\n")
    for inputs, targets in (
        ("Reasoning: {rationale}\nAnswer: {answer}\nWhich question was asked?", "{question}"),
        ("{question}\nThe answer is {answer}. Why?", "{rationale}"),
        ("Somebody argues: {rationale}\nMake up the question they answer.", "{question}"),
        ("{question}\nGive the argument that leads to {answer}.", "{rationale}"),
        (
            "Write a question whose answer is {answer}, and reason about it.",
            "{question}\n{rationale}",
        ),
        ("What is {answer} the answer to, if one thinks like this? {rationale}", "{question}"),
    )
)
