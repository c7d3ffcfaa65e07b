"""Every answer of the village is found a second time, by code that only reads the fields."""

import re

import pytest

from t5sft.tasks import village_words, village_world


def value_of(word):
    return village_words.NUMBERS.index(word)


def numbers_in(text):
    return [value_of(word) for word in re.findall(r"[a-z]+", text) if word in village_words.NUMBERS]


def sentences_of(passage):
    return [sentence for sentence in re.split(r"(?<=\.) ", passage) if sentence]


def category_of(word):
    return next(name for name, group in village_words.CATEGORIES.items() if word in group)


def options_of(fields):
    return [line[2:] for line in fields["options_"].splitlines()[1:]]


def swap_word(sentence, old, new):
    return re.sub(rf"\b{old}\b", new, sentence)


def odd_of(options):
    kinds = [category_of(option) for option in options]
    return next(o for o, k in zip(options, kinds, strict=True) if kinds.count(k) == 1)


def past_of(sentence):
    return " ".join(village_words.PAST_TENSE.get(word, word) for word in sentence.split(" "))


def yes_or_no(holds):
    return "yes" if holds else "no"


def is_told(fields):
    """Turns "Does Mara have the lamp?" into "Mara has the lamp." and looks for it."""
    _, name, rest = fields["question"][:-1].split(" ", 2)
    verb, rest = rest.split(" ", 1)
    told = {"have": f"has {rest}", "feed": f"feeds {rest}", "eat": f"eats {rest}"}
    return f"{name} {told.get(verb, f'is {verb} {rest}')}." in sentences_of(fields["passage"])


def judged(fields):
    subject, rest = fields["statement"].split(" ", 1)
    if fields["statement"] in sentences_of(fields["passage"]):
        return "true"
    return "false" if subject in fields["passage"] else "unknown"


def compared(fields):
    subject, by, other = re.fullmatch(
        r"(\w+) has (more|fewer) \w+ than (\w+)\.", fields["statement"]
    ).groups()
    has = {name: value_of(n) for name, n in re.findall(r"(\w+) has (\w+) ", fields["story"])}
    holds = has[subject] > has[other] if by == "more" else has[subject] < has[other]
    return "true" if holds else "false"


def added(fields):
    (a, *noun), (b, *other) = (fields[k].split(" ") for k in ("first", "second"))
    total = value_of(a) + value_of(b)
    plurals = [village_words.PLURALS.get(word, word) for word in noun]
    assert plurals == [village_words.PLURALS.get(word, word) for word in other]
    return " ".join((village_words.NUMBERS[total], *plurals))


def mood_of(review):
    praise = any(word in review for word in (*village_words.PRAISE, "smiled", "happy"))
    blame = any(word in review for word in (*village_words.BLAME, "complained", "sad"))
    assert praise != blame, review
    return "positive" if praise else "negative"


def named_in(passage, group):
    return [word for word in re.findall(r"\w+", passage) if word in group]


def record_of(passage):
    groups = (village_words.NAMES, village_words.JOBS, village_words.PLACES)
    (name,), (job,), (home,) = (named_in(passage, group) for group in groups)
    return f"name: {name}\njob: {job}\nhome: {home}"


def price_of(passage):
    groups = (
        village_words.THINGS + village_words.FOODS,
        village_words.COLOURS,
        village_words.NUMBERS,
    )
    (thing,), (colour,), (coins,) = (named_in(passage, group) for group in groups)
    return f'{{"thing": "{thing}", "colour": "{colour}", "price": "{coins}"}}'


def items_of(text):
    return re.split(r", | and ", text)


def before(passage, end):
    """The subject of the one sentence that ends so."""
    (subject,) = [s.removesuffix(end) for s in sentences_of(passage) if s.endswith(end)]
    return subject


def place_of(fields):
    thing = fields["thing"][0].upper() + fields["thing"][1:]
    (place,) = re.findall(rf"{thing} is at (the \w+)\.", fields["passage"])
    return place


def colour_of(fields):
    (colour,) = re.findall(rf"has a (\w+) {fields['object']}\.", fields["passage"])
    return colour


def numbered_of(items):
    return "\n".join(f"{i + 1}. {item}" for i, item in enumerate(items))


def plurals_of(text):
    return re.sub(r"\w+", lambda m: village_words.PLURALS.get(m[0], m[0]), text)


FOUND_AGAIN = {
    "sentiment": lambda f: mood_of(f["review"]),
    "mention": lambda f: yes_or_no(f["word"] in re.findall(r"\w+", f["passage"])),
    "find_animal": lambda f: ", ".join(named_in(f["passage"], village_words.ANIMALS)),
    "list_names": lambda f: ", ".join(named_in(f["passage"], village_words.NAMES)),
    "who_question": lambda f: before(f["passage"], f" {f['event']}."),
    "where_question": place_of,
    "colour_question": colour_of,
    "boolean_question": lambda f: yes_or_no(is_told(f)),
    "capitals": lambda f: f["words"].upper(),
    "past_tense": lambda f: past_of(f["sentence"]),
    "plural": lambda f: plurals_of(f["words"]),
    "replace_word": lambda f: swap_word(f["sentence"], f["old"], f["new"]),
    "reverse_list": lambda f: ", ".join(reversed(items_of(f["list"]))),
    "sort_numbers": lambda f: ", ".join(sorted(items_of(f["numbers"]), key=value_of)),
    "sort_names": lambda f: ", ".join(sorted(items_of(f["names"]))),
    "smallest_number": lambda f: min(items_of(f["numbers"]), key=value_of),
    "count_items": lambda f: village_words.NUMBERS[f["list"].count(",") + 1],
    "add_amounts": added,
    "sum_problem": lambda f: village_words.NUMBERS[sum(numbers_in(f["story"]))],
    "difference_problem": lambda f: village_words.NUMBERS[
        numbers_in(f["story"])[0] - numbers_in(f["story"])[1]
    ],
    "compare_amounts": compared,
    "bullet_list": lambda f: "\n".join(f"- {item}" for item in items_of(f["list"])),
    "numbered_list": lambda f: numbered_of(items_of(f["list"])),
    "record_lines": lambda f: record_of(f["passage"]),
    "json_line": lambda f: price_of(f["passage"]),
    "word_category": lambda f: category_of(f["word"]),
    "odd_one_out": lambda f: odd_of(options_of(f)),
    "entailment": lambda f: yes_or_no(f["statement"] in sentences_of(f["passage"])),
    "judgement": judged,
}


@pytest.mark.parametrize("task", FOUND_AGAIN)
def test_answers_are_found_again_by_reading(task):
    for split, num in (("train", 300), ("validation", 20)):
        for fields in village_world.examples(task, split, num):
            assert FOUND_AGAIN[task](fields) == fields["answer"], fields


def test_every_answer_but_topics_is_found_again():
    tasks = {task for tasks in village_world.CLUSTERS.values() for task in tasks}
    assert tasks - set(FOUND_AGAIN) == {"topic"}
