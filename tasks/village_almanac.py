"""The village almanac: plain text for pre-training, made of the facts and skills of the tasks.

It states and restates, lists and orders, but never asks nor commands, so that a model pre-trained
on it knows the world and has still to learn to follow instructions. A masked span is nearly always
determined by the rest of its paragraph: by copying, looking up, ordering, counting or adding.
Example: "The list reads four, one, seven. Sorted from small to large it reads one, four, seven."
"""

import json
import random as random_module
import re

from t5sft.tasks import village_reading as reading
from t5sft.tasks import village_words as words
from t5sft.tasks import village_writing as writing

_MIN_WORDS, _MAX_WORDS = 22, 92  # words, marks and newlines; about as many tokens
_COPIED_SHARE = 0.5  # of the documents open with a list that comes twice


def _noted(random, label, value):
    """Tells a value in a sentence, or alone on the line under its label.

    The second form trains the pieces of words that start a line, with which answers begin.
    """
    return random.choice((f"{label} is {value}.", f"{label}:\n{value}", f"{label}:\n{value}"))


def _facts_restated(random):
    drawn = reading.facts(random, 3)
    lines = [f"The passage reads: {reading.stated(drawn)}"]
    for name, relation, value in random.sample(drawn, 1):
        event = relation.event.format(value)
        lines.append(
            random.choice(
                (
                    f"The one who {event} is {name}.",
                    f"So {name} {event}.",
                    f"It is {name} who {event}.",
                )
            )
        )
    name, relation, value = random.choice(drawn)
    lines.append(_noted(random, f"The person who {relation.event.format(value)}", name))
    return " ".join(lines)


def _names_in_order(random):
    names = random.sample(words.NAMES, random.randint(2, 3))
    passage = reading.names_passage(random, names)
    ending = random.choice(("The names in the passage are ", "The people named here:\n"))
    return f"{passage} {ending}{words.listed(names)}{'' if ending.endswith(chr(10)) else '.'}"


def _one_animal(random):
    animal = random.choice(words.ANIMALS)
    passage = reading.animal_passage(random, animal)
    return random.choice(
        (
            f"{passage} The only animal in the passage is the {animal}.",
            f"{passage} The animal of this passage:\n{animal}",
        )
    )


def _whereabouts(random):
    passage, pairs = reading.places_passage(random)
    told = [
        _noted(random, f"The place of {thing}", f"the {place}")
        for thing, place in random.sample(pairs, 2)
    ]
    stranger = random.choice([name for name in words.NAMES if name not in passage])
    told.append(_noted(random, f"The place of {stranger}", "unknown"))
    return "\n".join((passage, *random.sample(told, 2)))


def _colours(random):
    passage, told = reading.coloured_passage(random)
    name, colour, thing = random.choice(told)
    _, other_colour, other_thing = random.choice(told)
    noted = _noted(random, f"The colour of the {other_thing}", other_colour)
    return f"{passage} {name}'s {thing} is {colour}. {noted}"


def _mention(random):
    drawn = reading.facts(random, 3, reading.RELATIONS[:3])
    told = [value for _, _, value in drawn]
    absent = random.choice([noun for noun in words.NOUNS if noun not in told])
    yes, no = f"a {random.choice(told)}", f"a {absent}"
    ending = random.choice(
        (
            f"The passage mentions {yes}. It does not mention {no}.",
            f"Mentioned: {yes}, yes; {no}, no.",
            f"Mention of {no}:\nno\nMention of {yes}:\nyes",
            f"The word {no[2:]} does not appear in the text, but the word {yes[2:]} does.",
        )
    )
    return f"{reading.stated(drawn)} {ending}"


def _yes_and_no(random):
    drawn = reading.facts(random, 3, (random.choice(reading.RELATIONS),))
    (name, relation, value), (other, _, _) = random.sample(drawn, 2)
    event = relation.event.format(value)
    lines = [(f"That {name} {event}", "yes"), (f"That {other} {event}", "no")]
    random.shuffle(lines)
    told = "\n".join(f"{claim}:\n{answer}" for claim, answer in lines)
    return f"{reading.stated(drawn)} {told}"


def _review(random):
    mood, adjectives, ending = random.choice(
        (
            ("positive", words.PRAISE, ("smiled", "was happy")),
            ("negative", words.BLAME, ("complained", "was sad")),
        )
    )
    told = reading.review(random, adjectives, ending)
    label = random.choice(("The mood of this review", "The sentiment of the review"))
    return f"{told} {_noted(random, label, mood)}"


def _topic(random):
    topic = random.choice(tuple(words.TOPICS))
    label = random.choice(("The topic of this passage", "The subject of the text"))
    return f"{reading.topic_passage(random, topic)} {_noted(random, label, topic)}"


def _options(random):
    kind, other, third = random.sample(tuple(words.CATEGORIES), 3)
    word = random.choice(words.CATEGORIES[kind])
    options = random.sample((kind, other, third), 3)
    block = "".join(f"\n- {option}" for option in options)
    return random.choice(
        (
            f"The options for the word {word} were:{block}\nThe right option was {kind}.",
            f"OPTIONS:{block}\nThe word {word} names a kind of {kind}.",
            f"OPTIONS:{block}\nGroup of the word {word}:\n{kind}",
            f"Among {words.listed_or(options)}, the word {word} belongs to {kind}.",
        )
    )


def _odd_word(random):
    kind, odd_kind = random.sample(tuple(words.CATEGORIES), 2)
    group = random.sample(words.CATEGORIES[kind], 3)
    odd = random.choice(words.CATEGORIES[odd_kind])
    items = random.sample((odd, *group), 4)
    return random.choice(
        (
            f"Of the words {words.listed_and(items)}, the odd one out is {odd}. "
            f"Every other word names a kind of {kind}.",
            f"OPTIONS:\n{writing.bullets(items)}\n{odd} does not belong with the others.",
            f"The odd one out of {words.listed_and(items)}:\n{odd}",
        )
    )


def _capitals(random):
    items = random.sample(words.ANIMALS + words.THINGS, random.randint(2, 3))
    told = words.listed(items)
    return random.choice(
        (
            f"The words {told} in capital letters are {told.upper()}.",
            f"small letters: {told}\ncapitals:\n{told.upper()}",
        )
    )


def _plurals(random):
    first, second = random.sample(words.NOUNS, 2)
    many = f"{words.PLURALS[first]} and {words.PLURALS[second]}"
    return random.choice(
        (
            f"One {first}, two {words.PLURALS[first]}; one {second}, two {words.PLURALS[second]}.",
            f"The plural of {first} and {second} is {many}.",
            f"singular:\n{first} and {second}\nplural:\n{many}",
        )
    )


def _past(random):
    present = random.choice(tuple(words.PAST_TENSE))
    told = writing.sentence(random, present)
    past = told.replace(present, words.PAST_TENSE[present])
    return random.choice(
        (
            f"Today {told} Yesterday {past}",
            f"present tense: {told}\npast tense:\n{past}",
            f'In the past tense the sentence "{told}" becomes "{past}"',
        )
    )


def _replaced(random):
    fields = writing.replace_word(random, 0)
    sentence, old, new, answer = (fields[k] for k in ("sentence", "old", "new", "answer"))
    return random.choice(
        (
            f"{sentence} With {new} in place of {old} the sentence is: {answer}",
            f"{sentence} When the word {old} is replaced by {new}, it reads: {answer}",
        )
    )


def _reversed(random):
    items = random.sample(words.NOUNS, random.randint(3, 4))
    forward, backward = words.listed(items), words.listed(items[::-1])
    return random.choice(
        (
            f"From first to last: {forward}. From last to first: {backward}.",
            f"The list {forward} in reverse order is {backward}.",
            f"forwards:\n{forward}\nbackwards:\n{backward}",
        )
    )


def _sorted_numbers(random):
    numbers = writing.unsorted(random, writing.SMALL, random.randint(3, 4))
    before, after = writing.spelled(numbers), writing.spelled(sorted(numbers))
    smallest = words.NUMBERS[min(numbers)]
    return random.choice(
        (
            f"The list reads {before}. Sorted from small to large it reads {after}.",
            f"numbers: {before}\nsorted:\n{after}",
            f"The numbers {before} in increasing order are {after}. So {smallest} is the lowest.",
            _noted(random, f"The smallest of the numbers {before}", smallest),
        )
    )


def _sorted_names(random):
    names = writing.unsorted(random, words.NAMES, 3)
    before, after = words.listed(names), words.listed(sorted(names))
    return random.choice(
        (
            f"The names {before} in alphabetical order are {after}.",
            f"names: {before}\nsorted by the alphabet:\n{after}",
        )
    )


def _counted(random):
    items = random.sample(words.NOUNS, random.randint(2, 8))
    number = words.NUMBERS[len(items)]
    return random.choice(
        (
            f"The list {words.listed(items)} has {number} items.",
            f"items: {words.listed(items)}\ncount:\n{number}",
        )
    )


def _added(random):
    fields = writing.add_amounts(random, 0)
    amounts = f"{fields['first']} {random.choice(('plus', 'and'))} {fields['second']}"
    return random.choice(
        (f"{amounts} make {fields['answer']}.", f"The sum of {amounts}:\n{fields['answer']}")
    )


def _story_of_sum(random):
    story, things, total = writing.sum_story(random)
    label = random.choice(("The sum of the", "The total of all", "The number of all"))
    return f"{story} {_noted(random, f'{label} {things}', words.NUMBERS[total])}"


def _story_of_rest(random):
    story, name, things, rest = writing.difference_story(random)
    label = random.choice((f"The number of {things} left", f"What {name} has left of the {things}"))
    return f"{story} {_noted(random, label, words.NUMBERS[rest])}"


def _compared(random):
    is_true = random.random() < 0.5
    story, statement = writing.comparison(random, is_true)
    return f"{story} {_noted(random, f'That {statement[:-1]}', 'true' if is_true else 'false')}"


def _copied(random):
    """The same list twice: what teaches a young model soonest to look things up in its context."""
    known = words.NOUNS + words.NAMES + words.PLACES + words.COLOURS + words.NUMBERS
    text = ", ".join(random.sample(known, random.randint(5, 14)))
    return random.choice((f"{text}.\nThe same list again:\n{text}.", f"{text} and again {text}."))


def _bulleted(random):
    items = random.sample(words.NOUNS, random.randint(2, 4))
    return f"The bullet list of {words.listed_and(items)}:\n{writing.bullets(items)}"


def _numbered(random):
    items = random.sample(words.NOUNS, random.randint(2, 4))
    return f"The numbered list of {words.listed_and(items)}:\n{writing.numbered(items)}"


def _record(random):
    told, fields = writing.record(random)
    lines = "\n".join(f"{key}: {value}" for key, value in fields.items())
    return f"{told}\n{lines}"


def _json(random):
    told, fields = writing.price(random)
    return f"{told} In JSON:\n{json.dumps(fields)}"


_PARAGRAPHS = (
    _facts_restated, _names_in_order, _one_animal, _whereabouts, _colours, _mention, _yes_and_no,
    _review, _topic, _options, _odd_word, _capitals, _plurals, _past, _replaced, _reversed,
    _sorted_numbers, _sorted_names, _counted, _added, _story_of_sum, _story_of_rest, _compared,
    _bulleted, _numbered, _record, _json,
)  # fmt: skip


def _length(text):
    return len(re.findall(r"\w+|[^\w ]", text))


def _document(random):
    """Joins paragraphs until the document is long enough, and never too long."""
    least = random.randint(_MIN_WORDS, 60)
    paragraphs = [_copied(random)] if random.random() < _COPIED_SHARE else []
    while _length("\n".join(paragraphs)) < least:
        longer = [*paragraphs, random.choice(_PARAGRAPHS)(random)]
        if _length("\n".join(longer)) <= _MAX_WORDS:
            paragraphs = longer
    return "\n".join(paragraphs)


def plain_text(num: int, seed: int) -> list[str]:
    """Writes `num` documents of 20 to 110 tokens of the village vocabulary; more only adds."""
    random = random_module.Random(f"village/plain/{seed}")
    return [_document(random) for _ in range(num)]


def repeated_lists(num: int, seed: int) -> list[str]:
    """Writes `num` lists of village words, each told twice without a mark between the words.

    A decoder learns from them to continue what it has seen before (an induction head: Olsson et
    al. 2022, arXiv:2209.11895); from lists with commas it learns that much later.
    """
    random = random_module.Random(f"village/lists/{seed}")
    known = words.NOUNS + words.NAMES + words.PLACES + words.COLOURS + words.NUMBERS
    lists = (" ".join(random.sample(known, random.randint(6, 24))) for _ in range(num))
    return [f"{text}\n{text}" for text in lists]
