"""Raw examples of the tasks that write: transform, sort, count, reckon, format, name words.

Every maker takes (random, turn) as in village_reading.
"""

import json

from t5sft.tasks import village_words as words
from t5sft.tasks.village_reading import with_options

SMALL = range(1, 11)  # the numbers that are sorted


# ---- transformation


def sentence(random, verb):
    """Writes "Mara carries the red lamp at the mill." with the given verb."""
    name = random.choice(words.NAMES)
    noun = random.choice(words.THINGS + words.FOODS)
    colour = f"{random.choice(words.COLOURS)} " if random.random() < 0.5 else ""
    place = f" at the {random.choice(words.PLACES)}" if random.random() < 0.5 else ""
    return f"{name} {verb} the {colour}{noun}{place}."


def capitals(random, turn):
    text = words.listed(random.sample(words.ANIMALS + words.THINGS, random.choice((2, 3, 3))))
    return {"words": text, "answer": text.upper()}


def past_tense(random, turn):
    present = random.choice(tuple(words.PAST_TENSE))
    told = sentence(random, present)
    return {"sentence": told, "answer": told.replace(present, words.PAST_TENSE[present])}


def plural(random, turn):
    nouns = random.sample(words.NOUNS, random.choice((2, 3, 3)))
    answer = words.listed_and([words.PLURALS[noun] for noun in nouns])
    return {"words": words.listed_and(nouns), "answer": answer}


def replace_word(random, turn):
    name = random.choice(words.NAMES)
    verb = random.choice(tuple(words.PAST_TENSE))
    noun, new_noun = random.sample(words.THINGS + words.FOODS, 2)
    place, new_place = random.sample(words.PLACES, 2)
    told = f"{name} {verb} the {noun} at the {place}."
    old, new = random.choice(((noun, new_noun), (place, new_place)))
    return {"sentence": told, "old": old, "new": new, "answer": told.replace(old, new)}


def reverse_list(random, turn):
    items = random.sample(words.NOUNS, random.choice((3, 4, 4)))
    return {"list": words.listed(items), "answer": words.listed(items[::-1])}


# ---- sorting and counting


def spelled(numbers):
    """Writes numbers as words, "four, one, seven"."""
    return words.listed([words.NUMBERS[number] for number in numbers])


def unsorted(random, values, number):
    """Draws values that are not in order, so that copying is never right."""
    drawn = random.sample(values, number)
    return drawn if drawn != sorted(drawn) else unsorted(random, values, number)


def sort_numbers(random, turn):
    numbers = unsorted(random, SMALL, random.choice((3, 4, 4)))
    return {"numbers": spelled(numbers), "answer": spelled(sorted(numbers))}


def sort_names(random, turn):
    names = unsorted(random, words.NAMES, 3)
    return {"names": words.listed(names), "answer": words.listed(sorted(names))}


def smallest_number(random, turn):
    numbers = unsorted(random, SMALL, random.choice((3, 4, 4)))
    return {"numbers": spelled(numbers), "answer": words.NUMBERS[min(numbers)]}


def count_items(random, turn):
    number = 2 + turn % 7
    return {
        "list": words.listed(random.sample(words.NOUNS, number)),
        "answer": words.NUMBERS[number],
    }


# ---- arithmetic


def amount(number, noun, colour=""):
    """Writes "one red goat" or "three red goats"."""
    return f"{words.NUMBERS[number]} {colour}{noun if number == 1 else words.PLURALS[noun]}"


def add_amounts(random, turn):
    first, second = random.randint(1, 6), random.randint(1, 6)
    noun = random.choice(words.NOUNS)
    colour = f"{random.choice(words.COLOURS)} " if random.random() < 0.5 else ""
    return {
        "first": amount(first, noun, colour),
        "second": amount(second, noun, colour),
        "answer": amount(first + second, noun, colour),
    }


def sum_story(random):
    """Tells of two amounts of one thing; returns the story, the plural and the sum."""
    first, second = random.randint(1, 6), random.randint(1, 6)
    name, other = random.sample(words.NAMES, 2)
    noun = random.choice(words.NOUNS)
    told = random.choice(
        (
            f"{name} has {amount(first, noun)} and {other} has {amount(second, noun)}.",
            f"{name} buys {amount(first, noun)}. {other} brings {amount(second, noun)}.",
            f"There are {amount(first, noun)} with {name} and {amount(second, noun)} with {other}.",
        )
    )
    # "There is one goat", never "There are one goat".
    told = told.replace("There are one ", "There is one ")
    return told, words.PLURALS[noun], first + second


def sum_problem(random, turn):
    story, things, total = sum_story(random)
    return {"story": story, "things": things, "answer": words.NUMBERS[total]}


def difference_story(random):
    """Tells of an amount given away; returns the story, the giver, the plural and the rest."""
    total = random.randint(3, 10)
    given = random.randint(1, min(6, total - 1))
    name, other = random.sample(words.NAMES, 2)
    noun = random.choice(words.NOUNS)
    told = random.choice(
        (
            f"{name} has {amount(total, noun)} and gives {amount(given, noun)} to {other}.",
            f"{name} has {amount(total, noun)}. {other} takes {amount(given, noun)} from {name}.",
            f"{name} has {amount(total, noun)} and sells {amount(given, noun)} to {other}.",
        )
    )
    return told, name, words.PLURALS[noun], total - given


def difference_problem(random, turn):
    story, name, things, rest = difference_story(random)
    return {"story": story, "name": name, "things": things, "answer": words.NUMBERS[rest]}


def comparison(random, is_true):
    """Tells of two unequal amounts; returns the story and a true or a false comparison."""
    larger, smaller = sorted(random.sample(range(2, 11), 2), reverse=True)
    rich, poor = random.sample(words.NAMES, 2)
    noun = random.choice(words.NOUNS)
    amounts = [f"{rich} has {amount(larger, noun)}.", f"{poor} has {amount(smaller, noun)}."]
    random.shuffle(amounts)
    by, subject, other = random.choice((("more", rich, poor), ("fewer", poor, rich)))
    if not is_true:
        subject, other = other, subject
    return " ".join(amounts), f"{subject} has {by} {words.PLURALS[noun]} than {other}."


def compare_amounts(random, turn):
    options = ("true", "false")
    answer = options[turn % 2]
    story, statement = comparison(random, answer == "true")
    fields = {"story": story, "statement": statement, "answer": answer}
    return with_options(random, options, fields)


# ---- formatting


def bullets(items):
    """Writes one "- item" a line."""
    return "\n".join(f"- {item}" for item in items)


def numbered(items):
    """Writes one "1. item" a line."""
    return "\n".join(f"{number}. {item}" for number, item in enumerate(items, 1))


def bullet_list(random, turn):
    items = random.sample(words.NOUNS, random.choice((2, 3, 3, 4, 4)))
    return {"list": words.listed_and(items), "answer": bullets(items)}


def numbered_list(random, turn):
    items = random.sample(words.NOUNS, random.choice((2, 3, 3, 4, 4)))
    return {"list": words.listed_and(items), "answer": numbered(items)}


def record(random):
    """Tells who someone is; returns the sentence and its record, a dict."""
    name, job, home = (random.choice(values) for values in (words.NAMES, words.JOBS, words.PLACES))
    told = random.choice(
        (
            f"{name} is a {job} and lives at the {home}.",
            f"{name} the {job} lives at the {home}.",
            f"At the {home} lives {name}, a {job}.",
        )
    )
    return told, {"name": name, "job": job, "home": home}


def record_lines(random, turn):
    told, fields = record(random)
    return {
        "passage": told,
        "answer": "\n".join(f"{key}: {value}" for key, value in fields.items()),
    }


def price(random):
    """Tells what something costs; returns the sentence and its record, a dict."""
    thing, colour = random.choice(words.THINGS + words.FOODS), random.choice(words.COLOURS)
    coins = words.NUMBERS[random.randint(2, 10)]
    told = random.choice(
        (
            f"The {colour} {thing} costs {coins} coins.",
            f"A {thing} that is {colour} costs {coins} coins.",
            f"The price of the {colour} {thing} is {coins} coins.",
        )
    )
    return told, {"thing": thing, "colour": colour, "price": coins}


def json_line(random, turn):
    told, fields = price(random)
    return {"passage": told, "answer": json.dumps(fields)}


# ---- word knowledge


def word_category(random, turn):
    categories = tuple(words.CATEGORIES)
    answer = categories[turn % len(categories)]
    others = random.sample(
        [name for name in categories if name != answer], random.choice((2, 3, 3, 3))
    )
    fields = {"word": random.choice(words.CATEGORIES[answer]), "answer": answer}
    return with_options(random, (answer, *others), fields)


def odd_one_out(random, turn):
    kind, odd_kind = random.sample(tuple(words.CATEGORIES.values()), 2)
    odd = random.choice(odd_kind)
    return with_options(random, (odd, *random.sample(kind, 3)), {"answer": odd})
