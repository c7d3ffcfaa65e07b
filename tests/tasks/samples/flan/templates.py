"""Templates in the form of FLAN's file; the wording is t5sft's own."""

PATTERNS = {
    "rte": [
        ("{premise}\n\nDoes it follow that {hypothesis}\n\n{options_}", "{answer}"),
        ("Text: {premise}\nClaim: {hypothesis}\n{options_}", "{answer}"),
        ("Make up a text and a claim.", "Text: {premise}\nClaim: {hypothesis}"),
    ],
    "paws_wiki": [
        ("{sentence1}\n{sentence2}\nSame meaning?\n{options_}", "{answer}"),
        ("One: {sentence1}\nTwo: {sentence2}\nDo they say the same?\n{options_}", "{answer}"),
        ("Say it in other words: {sentence1}", "{sentence2}"),
    ],
    "trivia_qa": [
        ("{question}", "{answer}"),
        ("Tell me: {question}", "{answer}"),
        ("{question} Answer:", "{answer}"),
    ],
}
