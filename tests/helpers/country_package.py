"""A small package of countries in the form of npm's `world-countries`."""

import json

COUNTRIES = (
    # code, name, capital, continent, area
    ("AAA", "Bigland", "Bigtown", "Africa", 90), ("BBB", "Côte", "Là", "Africa", 80),
    ("CCC", "Sand", "Oasis", "Africa", 70), ("DDD", "Rain", "Puddle", "Africa", 60),
    ("EEE", "Two Words", "One", "Africa", 50), ("FFF", "Mexico", "Mexico City", "Africa", 40),
    ("GGG", "Nowhere", None, "Africa", 30), ("HHH", "Outside", "Out", "Africa", 95),
    ("III", "Ice", "Cube", "Europe", 20), ("JJJ", "Snow", "Man", "Europe", 10),
    ("KKK", "Fog", "Horn", "Europe", 9), ("LLL", "Wind", "Mill", "Europe", 8),
)  # fmt: skip


def write_countries(folder):
    """Writes the package; "Outside" is no member of the United Nations."""
    (folder / "data").mkdir(parents=True)
    entries = []
    for code, name, capital, continent, area in COUNTRIES:
        entries.append(
            {"cca3": code, "name": {"common": name}, "capital": [capital] if capital else [],
             "region": continent, "area": area, "unMember": name != "Outside"}
        )  # fmt: skip
        # The tests draw no flag of their own.
        (folder / "data" / f"{code.lower()}.svg").touch()
    (folder / "countries.json").write_text(json.dumps(entries))
    return folder
