"""Checks that a program can make on an answer: formats, counts, limits, required words.

A check is a mapping of a rule's name and its fields, such as `{"rule": "words", "at_most": 12}`.
Each rule below is a predicate on the answer.
"""

import inspect
import json
import re
from collections.abc import Callable, Sequence

from wings.errors import WingsError, nearest


def mentions(answer: str, text: str) -> bool:
    """`text` occurs in the answer as whole words, ignoring case."""
    return occurrences(answer, text) > 0


def without(answer: str, text: str) -> bool:
    """`text` does not occur in the answer."""
    return occurrences(answer, text) == 0


def times(answer: str, text: str, count: int) -> bool:
    """`text` occurs exactly `count` times."""
    return occurrences(answer, text) == count


def number(answer: str, value: int) -> bool:
    """The last integer in the answer is `value`; thousands separators are ignored."""
    numbers = re.findall(r"-?\d+", re.sub(r"(?<=\d),(?=\d{3}\b)", "", answer))
    return bool(numbers) and int(numbers[-1]) == value


def words(answer: str, at_least: int = 0, at_most: int | None = None) -> bool:
    """The number of words is within the limits."""
    count = len(answer.split())
    return at_least <= count and (at_most is None or count <= at_most)


def lines(answer: str, count: int) -> bool:
    """The answer has exactly `count` non-empty lines."""
    return len(_lines(answer)) == count


def bullets(answer: str, count: int) -> bool:
    """The answer is exactly `count` lines, each starting with `-` or `*`."""
    items = _lines(answer)
    return len(items) == count and all(re.match(r"[-*] +\S", line) for line in items)


def numbered(answer: str, count: int) -> bool:
    """The lines are numbered `1.`, `2.`, ... up to `count`."""
    heads = [re.match(r"(\d+)[.)] +\S", line) for line in _lines(answer)]
    return [head and int(head[1]) for head in heads] == list(range(1, count + 1))


def commas(answer: str, count: int) -> bool:
    """The answer is one line of exactly `count` comma-separated parts."""
    things = answer.strip().removesuffix(".").split(",")
    return len(_lines(answer)) == 1 and len(things) == count and all(map(str.strip, things))


def starts(answer: str, text: str) -> bool:
    """The answer starts with exactly `text`."""
    return answer.lstrip().startswith(text)


def ends(answer: str, text: str) -> bool:
    """The answer ends with exactly `text`."""
    return answer.rstrip().endswith(text)


def last_word(answer: str, text: str) -> bool:
    """The last word is exactly `text`; punctuation around it is ignored."""
    return bool(answer.split()) and re.sub(r"^\W+|\W+$", "", answer.split()[-1]) == text


def upper(answer: str) -> bool:
    """The answer has letters, all of them upper case."""
    return answer.isupper()


def lower(answer: str) -> bool:
    """The answer has letters, none of them upper case."""
    return answer.islower()


def object_with(answer: str, keys: list) -> bool:
    """The answer is a JSON object with exactly these keys, optionally in a code fence."""
    text = re.sub(r"^```(?:json)?\s*|\s*```$", "", answer.strip())
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


def passes(check: dict, answer: str) -> bool:
    """True if an answer passes a check."""
    fields = {name: value for name, value in check.items() if name != "rule"}
    return RULES[check["rule"]](answer, **fields)


def validate_checks(checks: Sequence[dict], where: str) -> Sequence[dict]:
    """Returns the checks if each names a rule and gives it valid fields.

    Raises:
        WingsError: an invalid check; the message names `where`.
    """
    if not isinstance(checks, list):
        raise WingsError(f"{where}: checks is {checks!r}; give a list of mappings.")
    for check in checks:
        rule = check.get("rule") if isinstance(check, dict) else None
        if rule not in RULES:
            raise WingsError(
                f"{where}: the check {check!r} has no known rule{nearest(str(rule), RULES)}; set "
                f"'rule' to one of {', '.join(RULES)}."
            )
        signature = inspect.signature(RULES[rule])
        fields = {name: value for name, value in check.items() if name != "rule"}
        try:
            bound = signature.bind("", **fields)
        except TypeError as error:
            takes = ", ".join(list(signature.parameters)[1:]) or "no field"
            raise WingsError(
                f"{where}: the check {check!r} is invalid; {rule} takes {takes}."
            ) from error
        for name, value in fields.items():
            wanted = bound.signature.parameters[name].annotation
            if isinstance(wanted, type) and not isinstance(value, wanted):
                raise WingsError(
                    f"{where}: {name} of the check {rule} is {value!r}; it must be of type "
                    f"{wanted.__name__}."
                )
            if wanted == int | None and not isinstance(value, int | None):
                raise WingsError(
                    f"{where}: {name} of the check {rule} is {value!r}; give a number."
                )
    return checks


def occurrences(answer: str, text: str) -> int:
    """Counts `text` in the answer as whole words, ignoring case."""
    before = r"(?<!\w)" if text[:1].isalnum() else ""
    after = r"(?!\w)" if text[-1:].isalnum() else ""
    return len(re.findall(before + re.escape(text.lower()) + after, answer.lower()))


def _lines(answer: str) -> list[str]:
    return [line.strip() for line in answer.splitlines() if line.strip()]
