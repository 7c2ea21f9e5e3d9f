"""Instructions that a program can check: formats, counts and limits, generated from a seed."""

import json
import random
from collections.abc import Callable

from wings.eval.items import Item

LISTS = {
    "animals": "cat dog horse owl whale fox bear frog",
    "colours": "red green blue yellow black white orange purple",
    "fruits": "apple pear plum cherry lemon banana grape peach",
    "tools": "hammer saw drill wrench pliers chisel file axe",
    "instruments": "piano violin flute drum trumpet guitar harp cello",
    "planets": "Mercury Venus Earth Mars Jupiter Saturn Uranus Neptune",
    "countries": "Spain Japan Brazil Kenya Norway Canada India Peru",
    "vegetables": "carrot leek potato onion cabbage pea turnip bean",
}
SUBJECTS = {
    "the sea": "Waves roll in and salt hangs in the air",
    "a library": "Shelves of books wait in quiet rows",
    "winter": "Snow lies on the roofs and the days are short",
    "a train journey": "Fields pass by while the wheels hum",
    "bread": "Flour, water and time become a warm loaf",
    "a thunderstorm": "Dark clouds gather and rain drums on the window",
    "gardening": "Seeds go into the soil and patience does the rest",
    "the moon": "It circles the earth and lights the night",
}
Made = tuple[str, str, list[dict]]  # instruction, an answer that follows it, checks


def lines(draw: random.Random, things: str, names: list[str]) -> Made:
    """A number of lines."""
    n = len(names)
    text = f"Name {n} {things}. Write each on a line of its own, and nothing else."
    checks = [{"rule": "lines", "count": n}, {"rule": "words", "at_most": 3 * n}]
    return text, "\n".join(names), checks


def bullets(draw: random.Random, things: str, names: list[str]) -> Made:
    """A bulleted list."""
    n = len(names)
    text = f"Give me a list of exactly {n} {things}. Begin every line with '- '."
    return text, "\n".join(f"- {name}" for name in names), [{"rule": "bullets", "count": n}]


def numbered(draw: random.Random, things: str, names: list[str]) -> Made:
    """A numbered list."""
    n = len(names)
    text = f"Write a numbered list of {n} {things}, with lines that begin '1.', '2.' and so on."
    answer = "\n".join(f"{k}. {name}" for k, name in enumerate(names, 1))
    return text, answer, [{"rule": "numbered", "count": n}]


def commas(draw: random.Random, things: str, names: list[str]) -> Made:
    """One comma-separated line."""
    n = len(names)
    text = f"Name exactly {n} {things} on a single line, separated by commas."
    return text, ", ".join(names), [{"rule": "commas", "count": n}]


def capital_letters(draw: random.Random, things: str, names: list[str]) -> Made:
    """Upper case."""
    text = f"Name {len(names)} {things}. Use capital letters only."
    return text, ", ".join(names).upper(), [{"rule": "upper"}]


def small_letters(draw: random.Random, things: str, names: list[str]) -> Made:
    """Lower case, without one of the things."""
    last = names[-1]
    text = f"Name {len(names) - 1} {things} in lower case only, and do not mention '{last}'."
    checks = [{"rule": "lower"}, {"rule": "without", "text": last}]
    return text, ", ".join(names[:-1]).lower(), checks


def as_json(draw: random.Random, things: str, names: list[str]) -> Made:
    """A JSON object."""
    text = (
        f"Answer with a JSON object and nothing else. Its keys are 'kind' and 'example'; the kind "
        f"is '{things}', the example is one of them."
    )
    answer = json.dumps({"kind": things, "example": names[0]})
    return text, answer, [{"rule": "json", "keys": ["kind", "example"]}]


def few_words(draw: random.Random, subject: str, sentence: str) -> Made:
    """A maximum of words."""
    limit = draw.choice([12, 15, 20])
    text = f"Describe {subject} in at most {limit} words."
    return text, f"{sentence}.", [{"rule": "words", "at_least": 2, "at_most": limit}]


def many_words(draw: random.Random, subject: str, sentence: str) -> Made:
    """A minimum of words, on one line."""
    least = draw.choice([20, 30, 40])
    answer = f"{sentence}. " * (least // len(sentence.split()) + 1)
    text = f"Write one paragraph of at least {least} words about {subject}, without line breaks."
    return text, answer, [{"rule": "words", "at_least": least}, {"rule": "lines", "count": 1}]


def begins(draw: random.Random, subject: str, sentence: str) -> Made:
    """Given first words."""
    first = draw.choice(["As everyone knows,", "Once more:", "In short,"])
    text = f"Write a sentence about {subject} that begins exactly with '{first}'"
    return text, f"{first} {sentence.lower()}.", [{"rule": "starts", "text": first}]


def closes(draw: random.Random, subject: str, sentence: str) -> Made:
    """Given last words."""
    last = draw.choice(["The end.", "That is all.", "Any questions?"])
    text = f"Write two sentences about {subject}. The very last words must be '{last}'"
    return text, f"{sentence}. {last}", [{"rule": "ends", "text": last}]


def twice(draw: random.Random, subject: str, sentence: str) -> Made:
    """A word a number of times, and no commas."""
    word, count = draw.choice(["always", "slowly", "maybe"]), draw.choice([2, 3])
    text = f"Write about {subject}. Use the word '{word}' exactly {count} times and no commas."
    checks: list[dict] = [
        {"rule": "times", "text": word, "count": count},
        {"rule": "without", "text": ","},
    ]
    answer = " ".join([sentence.replace(",", " and"), *[word] * count])
    return text, answer, checks


OF_LISTS: tuple[Callable[..., Made], ...] = (
    lines, bullets, numbered, commas, capital_letters, small_letters, as_json,
)  # fmt: skip
OF_SUBJECTS: tuple[Callable[..., Made], ...] = (few_words, many_words, begins, closes, twice)


def instructions(seed: int = 0) -> list[Item]:
    """Every kind of instruction about every subject; an answer is right if it passes all checks.

    The reference answers show that each instruction can be followed.
    """
    draw = random.Random(seed)
    items = []
    for make in OF_LISTS:
        for things, names in LISTS.items():
            some = draw.sample(names.split(), draw.randint(3, 6))
            items.append(_item(make.__name__, *make(draw, things, some)))
    for make in OF_SUBJECTS:
        for subject, sentence in SUBJECTS.items():
            items.append(_item(make.__name__, *make(draw, subject, sentence)))
    draw.shuffle(items)  # so that any prefix is a fair sample
    return items


def _item(kind: str, text: str, answer: str, checks: list[dict]) -> Item:
    question = {"role": "user", "content": text}
    return Item(kind, (question,), answer.strip(), "checks", checks=tuple(checks))
