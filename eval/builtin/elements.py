"""Chemical elements, from the data of the package periodictable."""

import random

from wings.errors import WingsError
from wings.eval.items import Item

LAST = 103  # the elements behind it were named lately
WAYS = ("symbol", "name", "number")


def elements(seed: int = 0) -> list[Item]:
    """Symbol, name and atomic number of every element up to lawrencium, four choices each.

    Raises:
        WingsError: periodictable is not installed.
    """
    try:
        from periodictable import elements as table
    except ImportError as error:
        raise WingsError(
            "the elements come from the package periodictable; pip install 'wings-lorra[harness]'"
        ) from error
    draw = random.Random(seed)
    known = [(table[n].number, table[n].symbol, table[n].name) for n in range(1, LAST + 1)]
    items = []
    for way in WAYS:
        for number, symbol, name in known:
            asked, answer, column = {
                "symbol": (f"What is the chemical symbol of {name}?", symbol, 1),
                "name": (f"Which chemical element has the symbol {symbol}?", name, 2),
                "number": (f"What is the atomic number of {name}?", str(number), 0),
            }[way]
            wrong = draw.sample([str(o[column]) for o in known if str(o[column]) != answer], 3)
            check: dict[str, str | int] = {"rule": "mentions", "text": answer}
            if way == "number":
                check = {"rule": "number", "value": number}
            elif way == "symbol":
                # As, At, He, I, In and No are words too.
                check = {"rule": "last word", "text": answer}
            items.append(
                Item(
                    way,
                    ({"role": "user", "content": f"{asked} Answer with the {way} only."},),
                    answer,
                    "checks",
                    tuple(draw.sample([answer, *wrong], 4)),
                    checks=(check,),
                )
            )
    draw.shuffle(items)  # the first few are a fair sample
    return items
