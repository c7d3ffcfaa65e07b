"""The closed vocabulary of the village: people, animals, things, places, and their forms.

No noun, job or colour starts with a vowel, so "a" is always the right article.
"""

NAMES = (
    "Alma", "Bruno", "Clara", "David", "Emil", "Felix", "Greta", "Hugo", "Ines", "Jonas", "Karl",
    "Lena", "Mara", "Nora", "Oskar", "Petra", "Rosa", "Simon", "Tomas", "Vera", "Wanda",
)  # no two share their first letter: alphabetical order is the order of first letters  # fmt: skip

PLURALS_OF_ANIMALS = {
    "goat": "goats", "cow": "cows", "hen": "hens", "horse": "horses", "dog": "dogs",
    "cat": "cats", "pig": "pigs", "duck": "ducks", "goose": "geese", "rabbit": "rabbits",
    "fox": "foxes", "donkey": "donkeys", "frog": "frogs", "mouse": "mice", "bear": "bears",
    "pony": "ponies", "wolf": "wolves", "lamb": "lambs",
}  # fmt: skip
PLURALS_OF_TOOLS = {
    "basket": "baskets", "lamp": "lamps", "cup": "cups", "chair": "chairs", "box": "boxes",
    "knife": "knives", "hat": "hats", "book": "books", "rope": "ropes", "bell": "bells",
    "brush": "brushes", "key": "keys", "coat": "coats", "spoon": "spoons", "table": "tables",
    "kite": "kites", "drum": "drums", "candle": "candles", "ladder": "ladders",
    "bucket": "buckets", "map": "maps", "pot": "pots", "blanket": "blankets", "clock": "clocks",
}  # fmt: skip
PLURALS_OF_FOODS = {
    "pear": "pears", "plum": "plums", "carrot": "carrots", "cake": "cakes",
    "cherry": "cherries", "potato": "potatoes", "turnip": "turnips", "berry": "berries",
    "cabbage": "cabbages", "tomato": "tomatoes", "melon": "melons", "pie": "pies",
    "loaf": "loaves", "nut": "nuts",
}  # fmt: skip
PLURALS = {**PLURALS_OF_ANIMALS, **PLURALS_OF_TOOLS, **PLURALS_OF_FOODS}

ANIMALS = tuple(PLURALS_OF_ANIMALS)
THINGS = tuple(PLURALS_OF_TOOLS)
FOODS = tuple(PLURALS_OF_FOODS)
NOUNS = tuple(PLURALS)

PLACES = (
    "mill", "market", "garden", "barn", "bridge", "river", "school", "well", "bakery", "church",
    "harbour", "tower", "station", "castle", "lake", "gate",
)  # every one stands after "at the"  # fmt: skip
COLOURS = (
    "red", "blue", "green", "yellow", "white", "black", "brown", "grey", "pink", "purple",
)  # fmt: skip
JOBS = (
    "baker", "farmer", "teacher", "miller", "smith", "tailor", "fisher", "doctor", "painter",
    "shepherd", "carpenter", "gardener",
)  # fmt: skip
DAYS = ("Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday")
NUMBERS = (
    "zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten",
    "eleven", "twelve",
)  # NUMBERS[n] is the word for n  # fmt: skip

PAST_TENSE = {
    "carries": "carried", "paints": "painted", "washes": "washed", "finds": "found",
    "sells": "sold", "buys": "bought", "brings": "brought", "mends": "mended", "hides": "hid",
    "takes": "took", "loses": "lost", "drops": "dropped", "sees": "saw", "wants": "wanted",
    "holds": "held", "leaves": "left", "cleans": "cleaned", "moves": "moved", "draws": "drew",
    "keeps": "kept", "likes": "liked", "needs": "needed", "borrows": "borrowed",
    "forgets": "forgot",
}  # fmt: skip

# The name of a category is what an option of `word_category` reads.
CATEGORIES = {
    "animal": ANIMALS,
    "object": THINGS,
    "food": FOODS,
    "place": PLACES,
    "colour": COLOURS,
    "job": JOBS,
    "day": DAYS,
    "number": NUMBERS[1:11],
    "person": NAMES,
}

PRAISE = ("lovely", "wonderful", "great", "perfect", "pleasant", "superb", "delightful", "good")
BLAME = ("dull", "terrible", "horrible", "nasty", "poor", "dreadful", "disappointing", "bad")

# Sentences of a topic never hold the topic's own name.
TOPICS = {
    "weather": (
        "Rain fell on the {place} all {day}.",
        "Snow covered the {place}.",
        "A cold wind blew over the {place}.",
        "The sun shone on the {place} at noon.",
        "{name} saw dark clouds over the {place}.",
        "On {day} there was fog at the {place}.",
    ),
    "cooking": (
        "{name} baked a {food} pie for {other}.",
        "{name} boiled a {food} in the kitchen.",
        "The soup needed salt and a {food}.",
        "{name} cut the {food} for supper.",
        "On {day} {name} stirred the dough.",
        "{other} tasted the stew with the {food}.",
    ),
    "animals": (
        "{name} fed the {animal} at the {place}.",
        "The {animal} slept in the straw.",
        "On {day} the {animal} ran from the {place}.",
        "The {animal} ate hay from the hand of {name}.",
        "A young {animal} followed {name} home.",
        "{other} brushed the coat of the {animal}.",
    ),
    "music": (
        "{name} played the flute at the {place}.",
        "The choir sang for {name}.",
        "On {day} a band played at the {place}.",
        "{other} sang a song and {name} beat the drum.",
        "{name} wrote a new tune for the fiddle.",
        "The fiddle of {other} sounded clear.",
    ),
    "travel": (
        "{name} took the train to the {place}.",
        "The boat to the {place} left on {day}.",
        "{name} packed a bag for the long journey.",
        "{other} bought a ticket to the {place}.",
        "The road to the {place} was long.",
        "On {day} {name} rode by coach to the coast.",
    ),
}


def listed(words):
    """Writes three words as "goat, bell, cup"."""
    return ", ".join(words)


def listed_and(words):
    """Writes three words as "goat, bell and cup"."""
    return f"{', '.join(words[:-1])} and {words[-1]}"


def listed_or(words):
    """Writes three words as "goat, bell or cup"."""
    return f"{', '.join(words[:-1])} or {words[-1]}"
