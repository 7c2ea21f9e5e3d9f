"""The places of the entries of a JSON list, found without parsing them."""

import re

# Text without brackets, and whole strings; bounded, because each repetition takes memory.
_INSIDE = re.compile(rb'[^"\[\]{}]*(?:"[^"\\]*(?:\\.[^"\\]*){0,999}"[^"\[\]{}]*){0,999}', re.DOTALL)
_OPENING, _CLOSING = re.compile(rb"[\[{]+"), re.compile(rb"[\]}]+")
_BETWEEN = re.compile(rb'[^"\[\]{},]*')
_BLANK = b" \t\r\n"
_OTHERS = {b"{": "dict", b'"': "str", b"t": "bool", b"f": "bool", b"n": "NoneType"}


class NotAList(ValueError):
    """Not a JSON list; the message says what it is."""


def entry_spans(data: bytes) -> list[tuple[int, int]]:
    """The bytes [start, end) of each entry of the JSON list `data`, in UTF-8.

    Only brackets, commas and strings are looked at: an entry that is not JSON, or one that is too
    deep or large to parse, leaves the others usable.

    Raises:
        NotAList: another value, a list that does not end, or an entry that is empty.
    """
    place = _after_blanks(data, 0)
    first = data[place : place + 1]
    if first != b"[":
        kind = _OTHERS.get(first, "number" if first.isdigit() or first == b"-" else "")
        raise NotAList(f"expected a JSON list of records, got {kind}" if kind else "not JSON")
    spans: list[tuple[int, int]] = []
    place = start = place + 1
    depth = 1
    while depth:
        match = (_BETWEEN if depth == 1 else _INSIDE).match(data, place)
        place = match.end() if match else place
        letter = data[place : place + 1]
        if letter == b'"':
            place = _end_of_string(data, place)
            continue
        if not letter:
            raise NotAList("not JSON: the list has no end; the file was cut off")
        # Brackets that follow one another at once: some records nest very deeply.
        if run := _OPENING.match(data, place):
            depth += run.end() - place
            place = run.end()
            continue
        if depth > 1 and (run := _CLOSING.match(data, place)):
            end = min(run.end(), place + depth - 1)
            depth -= end - place
            place = end
            continue
        depth -= letter != b","
        if data[start:place].strip(_BLANK):
            spans.append((start, place))
        elif letter == b"," or spans:
            raise NotAList(f"not JSON: entry {len(spans)} is empty")
        place = start = place + 1
    if _after_blanks(data, place) < len(data):
        raise NotAList(f"not JSON: there is more after the list, at byte {place}")
    return spans


def _after_blanks(data: bytes, place: int) -> int:
    while data[place : place + 1] and data[place] in _BLANK:
        place += 1
    return place


def _end_of_string(data: bytes, place: int) -> int:
    """The place after the string that begins at `place`."""
    end = place
    while True:
        end = data.find(b'"', end + 1)
        if end < 0:
            raise NotAList("not JSON: a text has no end; the file was cut off")
        escapes = 0
        while data[end - 1 - escapes] == 0x5C:
            escapes += 1
        if escapes % 2 == 0:
            return end + 1
