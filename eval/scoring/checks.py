"""What a program can verify about an answer: formats, counts, limits, words that must (not) occur.

A check is a mapping with the name of its rule and the rule's own fields, as
`{"rule": "words", "at_most": 12}`.
"""

import inspect
import json
import re
from collections.abc import Callable, Sequence

from wings.errors import WingsError, nearest


def mentions(said: str, text: str) -> bool:
    """`text` stands in the answer as whole words, whatever the capitals."""
    return occurrences(said, text) > 0


def without(said: str, text: str) -> bool:
    """`text` does not stand in the answer."""
    return occurrences(said, text) == 0


def times(said: str, text: str, count: int) -> bool:
    """`text` stands in the answer exactly `count` times."""
    return occurrences(said, text) == count


def number(said: str, value: int) -> bool:
    """The last whole number in the answer is `value`; commas between thousands do not matter."""
    found = re.findall(r"-?\d+", re.sub(r"(?<=\d),(?=\d{3}\b)", "", said))
    return bool(found) and int(found[-1]) == value


def words(said: str, at_least: int = 0, at_most: int | None = None) -> bool:
    """How many words the answer has."""
    count = len(said.split())
    return at_least <= count and (at_most is None or count <= at_most)


def lines(said: str, count: int) -> bool:
    """The answer has exactly so many lines that are not empty."""
    return len(_lines(said)) == count


def bullets(said: str, count: int) -> bool:
    """Every line begins with `-` or `*`, and there are exactly so many."""
    found = _lines(said)
    return len(found) == count and all(re.match(r"[-*] +\S", line) for line in found)


def numbered(said: str, count: int) -> bool:
    """The lines are numbered `1.`, `2.`, ... up to `count`."""
    heads = [re.match(r"(\d+)[.)] +\S", line) for line in _lines(said)]
    return [head and int(head[1]) for head in heads] == list(range(1, count + 1))


def commas(said: str, count: int) -> bool:
    """One line of exactly so many things with commas between them."""
    things = said.strip().removesuffix(".").split(",")
    return len(_lines(said)) == 1 and len(things) == count and all(map(str.strip, things))


def starts(said: str, text: str) -> bool:
    """The answer begins with `text`, letter by letter."""
    return said.lstrip().startswith(text)


def ends(said: str, text: str) -> bool:
    """The answer ends with `text`, letter by letter."""
    return said.rstrip().endswith(text)


def last_word(said: str, text: str) -> bool:
    """The last word is `text`, letter by letter, whatever marks stand around it."""
    return bool(said.split()) and re.sub(r"^\W+|\W+$", "", said.split()[-1]) == text


def upper(said: str) -> bool:
    """There are letters, and all are capitals."""
    return said.isupper()


def lower(said: str) -> bool:
    """There are letters, and none is a capital."""
    return said.islower()


def object_with(said: str, keys: list) -> bool:
    """The answer is a JSON object with exactly these keys, in a code fence or not."""
    text = re.sub(r"^```(?:json)?\s*|\s*```$", "", said.strip())
    try:
        value = json.loads(text)
    except ValueError:
        return False
    return isinstance(value, dict) and set(value) == set(keys)


RULES: dict[str, Callable[..., bool]] = {
    "mentions": mentions, "without": without, "times": times, "number": number, "words": words,
    "lines": lines, "bullets": bullets, "numbered": numbered, "commas": commas, "starts": starts,
    "ends": ends, "last word": last_word, "upper": upper, "lower": lower, "json": object_with,
}  # fmt: skip


def passes(check: dict, said: str) -> bool:
    """Whether an answer does what a check asks for."""
    fields = {name: value for name, value in check.items() if name != "rule"}
    return RULES[check["rule"]](said, **fields)


def validate_checks(checks: Sequence[dict], where: str) -> Sequence[dict]:
    """The checks, if each names a rule and gives it the fields that it takes.

    Raises:
        WingsError: otherwise; names `where`.
    """
    if not isinstance(checks, list):
        raise WingsError(f"{where}: checks is {checks!r}; give a list of mappings")
    for check in checks:
        rule = check.get("rule") if isinstance(check, dict) else None
        if rule not in RULES:
            raise WingsError(
                f"{where}: the check {check!r} has no known rule{nearest(str(rule), RULES)}; give "
                f"one of {', '.join(RULES)} as 'rule'"
            )
        signature = inspect.signature(RULES[rule])
        fields = {name: value for name, value in check.items() if name != "rule"}
        try:
            bound = signature.bind("", **fields)
        except TypeError as error:
            takes = ", ".join(list(signature.parameters)[1:]) or "no field"
            raise WingsError(
                f"{where}: the check {check!r} does not fit; {rule} takes {takes}"
            ) from (error)
        for name, value in fields.items():
            wanted = bound.signature.parameters[name].annotation
            if isinstance(wanted, type) and not isinstance(value, wanted):
                raise WingsError(
                    f"{where}: {name} of the check {rule} is {value!r}; it must be of type "
                    f"{wanted.__name__}"
                )
            if wanted == int | None and not isinstance(value, int | None):
                raise WingsError(f"{where}: {name} of the check {rule} is {value!r}; give a number")
    return checks


def occurrences(said: str, text: str) -> int:
    """How often `text` stands in the answer, as whole words, whatever the capitals."""
    before = r"(?<!\w)" if text[:1].isalnum() else ""
    after = r"(?!\w)" if text[-1:].isalnum() else ""
    return len(re.findall(before + re.escape(text.lower()) + after, said.lower()))


def _lines(said: str) -> list[str]:
    return [line.strip() for line in said.splitlines() if line.strip()]
