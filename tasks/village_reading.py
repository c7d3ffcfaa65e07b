"""Raw examples of the tasks that read a passage: classify, extract, answer, infer.

Every maker takes (random, turn) and returns the fields of the task's templates. The turns of the
accepted examples are 0, 1, 2 ... in shuffled order, so answers chosen by `turn % n` are balanced.
"""

import dataclasses

from t5sft.tasks import village_words as words


@dataclasses.dataclass(frozen=True)
class Relation:
    """A kind of fact: "Mara has the lamp." with its question "Does Mara have the lamp?"."""

    event: str  # follows the name of a person
    question: str
    values: tuple[str, ...]


RELATIONS = (
    Relation("has the {}", "Does {name} have the {}?", words.THINGS),
    Relation("feeds the {}", "Does {name} feed the {}?", words.ANIMALS),
    Relation("eats the {}", "Does {name} eat the {}?", words.FOODS),
    Relation("is at the {}", "Is {name} at the {}?", words.PLACES),
    Relation("is the {}", "Is {name} the {}?", words.JOBS),
)
STAYING = ("is at the {}", "works at the {}", "sleeps at the {}", "waits at the {}")


def with_options(random, options, fields):
    """Adds the options in random order, as a block and as a phrase."""
    options = random.sample(options, len(options))
    block = "OPTIONS:" + "".join(f"\n- {option}" for option in options)
    return {**fields, "options_": block, "choices": words.listed_or(options)}


def facts(random, number, relations=RELATIONS):
    """Draws (name, relation, value) facts; no name and no value comes twice."""
    names = random.sample(words.NAMES, number)
    drawn = []
    for name in names:
        relation = random.choice(relations)
        used = {value for _, _, value in drawn}
        value = random.choice([value for value in relation.values if value not in used])
        drawn.append((name, relation, value))
    return drawn


def stated(drawn):
    """Tells facts as a passage."""
    return " ".join(f"{name} {relation.event.format(value)}." for name, relation, value in drawn)


# ---- classification


def review(random, adjectives, ending):
    """Writes a review of two sentences and its ending, all of one mood."""
    name, place = random.choice(words.NAMES), random.choice(words.PLACES)
    first, second = random.sample(adjectives, 2)
    sentences = [
        f"The {random.choice(words.FOODS)} from the {place} was {first}.",
        f"{name} found the {random.choice(words.THINGS)} {first}.",
        f"The {random.choice(words.JOBS)} at the {place} was {first}.",
        f"It was a {second} {random.choice(words.DAYS)} at the {place}.",
        f"The visit to the {place} was {second}.",
    ]
    chosen = [random.choice(sentences[:3]), random.choice(sentences[3:])]
    random.shuffle(chosen)
    if random.random() < 0.5:
        chosen.append(f"{name} {random.choice(ending)}.")
    return " ".join(chosen)


def sentiment(random, turn):
    options = ("positive", "negative")
    answer = options[turn % 2]
    adjectives = words.PRAISE if answer == "positive" else words.BLAME
    ending = ("smiled", "was happy") if answer == "positive" else ("complained", "was sad")
    fields = {"review": review(random, adjectives, ending), "answer": answer}
    return with_options(random, options, fields)


def topic_passage(random, topic):
    """Writes two sentences about a topic."""
    name, other = random.sample(words.NAMES, 2)
    fields = {
        "name": name,
        "other": other,
        "place": random.choice(words.PLACES),
        "day": random.choice(words.DAYS),
        "food": random.choice(words.FOODS),
        "animal": random.choice(words.ANIMALS),
    }
    patterns = random.sample(words.TOPICS[topic], 2)
    return " ".join(pattern.format(**fields) for pattern in patterns)


def topic(random, turn):
    topics = tuple(words.TOPICS)
    answer = topics[turn % len(topics)]
    others = random.sample([name for name in topics if name != answer], 2)
    fields = {"passage": topic_passage(random, answer), "answer": answer}
    return with_options(random, (answer, *others), fields)


def mention(random, turn):
    drawn = facts(random, 3, RELATIONS[:3])
    told = [value for _, _, value in drawn]
    answer = ("yes", "no")[turn % 2]
    absent = [noun for noun in words.NOUNS if noun not in told]
    word = random.choice(told if answer == "yes" else absent)
    fields = {"passage": stated(drawn), "word": word, "answer": answer}
    return with_options(random, ("yes", "no"), fields)


# ---- extraction


def animal_passage(random, animal):
    """Tells of one animal among facts without animals."""
    drawn = facts(random, 2, (RELATIONS[0], RELATIONS[2], RELATIONS[3], RELATIONS[4]))
    name = random.choice([name for name in words.NAMES if name not in stated(drawn)])
    about = random.choice(
        (
            f"{name} feeds the {animal}.",
            f"The {animal} sleeps at the {random.choice(words.PLACES)}.",
            f"{name} sells a {random.choice(words.COLOURS)} {animal}.",
            f"The {random.choice(words.COLOURS)} {animal} follows {name}.",
        )
    )
    sentences = [stated([fact]) for fact in drawn]
    sentences.insert(random.randrange(3), about)
    return " ".join(sentences)


def find_animal(random, turn):
    answer = words.ANIMALS[turn % len(words.ANIMALS)]
    return {"passage": animal_passage(random, answer), "answer": answer}


def names_passage(random, names):
    """Tells of the people in order; two or three of them, each once."""
    sentences, left = [], list(names)
    while left:
        name = left.pop(0)
        if left and random.random() < 0.4:
            noun = random.choice(words.THINGS + words.FOODS)
            sentences.append(f"{name} gives a {noun} to {left.pop(0)}.")
        else:
            relation = random.choice(RELATIONS)
            sentences.append(f"{name} {relation.event.format(random.choice(relation.values))}.")
    return " ".join(sentences)


def list_names(random, turn):
    names = random.sample(words.NAMES, 2 + turn % 2)
    return {"passage": names_passage(random, names), "answer": words.listed(names)}


# ---- question answering


def who_question(random, turn):
    drawn = facts(random, 3)
    name, relation, value = random.choice(drawn)
    return {"passage": stated(drawn), "event": relation.event.format(value), "answer": name}


def places_passage(random):
    """Tells where three people, things or animals are; returns the passage and the pairs."""
    subjects = [
        random.choice(
            (
                random.choice(words.NAMES),
                f"the {random.choice(words.THINGS)}",
                f"the {random.choice(words.ANIMALS)}",
            )
        )
        for _ in range(3)
    ]
    if len(set(subjects)) < 3:
        return places_passage(random)
    pairs = list(zip(subjects, random.sample(words.PLACES, 3), strict=True))
    passage = " ".join(
        f"{thing[0].upper()}{thing[1:]} is at the {place}." for thing, place in pairs
    )
    return passage, pairs


def where_question(random, turn):
    passage, pairs = places_passage(random)
    thing, place = random.choice(pairs)
    return {"passage": passage, "thing": thing, "answer": f"the {place}"}


def coloured_passage(random):
    """Tells three people's coloured things; returns the passage and (name, colour, thing)s."""
    names, colours, things = (
        random.sample(values, 3) for values in (words.NAMES, words.COLOURS, words.THINGS)
    )
    told = list(zip(names, colours, things, strict=True))
    return " ".join(f"{name} has a {colour} {thing}." for name, colour, thing in told), told


def colour_question(random, turn):
    passage, told = coloured_passage(random)
    _, colour, thing = random.choice(told)
    return {"passage": passage, "object": thing, "answer": colour}


def boolean_question(random, turn):
    # One relation only: "Bruno has the cup." does not tell whether Bruno is at the mill.
    drawn = facts(random, 3, (random.choice(RELATIONS),))
    answer = ("yes", "no")[turn % 2]
    (name, relation, value), (other, _, _) = random.sample(drawn, 2)
    asked = relation.question.format(value, name=name if answer == "yes" else other)
    fields = {"passage": stated(drawn), "question": asked, "answer": answer}
    return with_options(random, ("yes", "no"), fields)


# ---- natural language inference, never trained on


def entailment(random, turn):
    drawn = facts(random, 3)
    answer = ("yes", "no")[turn % 2]
    (name, relation, value), (other, _, _) = random.sample(drawn, 2)
    told = f"{name if answer == 'yes' else other} {relation.event.format(value)}."
    fields = {"passage": stated(drawn), "statement": told, "answer": answer}
    return with_options(random, ("yes", "no"), fields)


def judgement(random, turn):
    staying = Relation(random.choice(STAYING), "", words.PLACES)
    drawn = facts(random, 2, (staying,))
    (name, _, place), (other, _, _) = random.sample(drawn, 2)
    stranger = random.choice([name for name in words.NAMES if name not in stated(drawn)])
    options = ("true", "false", "unknown")
    answer = options[turn % 3]
    subject = {"true": name, "false": other, "unknown": stranger}[answer]
    told = f"{subject} {staying.event.format(place)}."
    fields = {"passage": stated(drawn), "statement": told, "answer": answer}
    return with_options(random, options, fields)
