"""YAML of recipes: the core schema of YAML 1.2, and errors with a line and a remedy."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from wings.errors import WingsError
from wings.train.recipe_yaml import read_yaml, write_yaml

# Values as YAML 1.2's core schema reads them (section 10.3.2); others read several differently.
CORE = {
    "on": "on", "off": "off", "yes": "yes", "No": "No", "y": "y", "true": True, "False": False,
    "tRUE": "tRUE", "~": None, "null": None, "Null": None, "nULL": "nULL", "": None,
    "1e-4": 1e-4, "1E3": 1000.0, ".5": 0.5, "1.": 1.0, "+.5e1": 5.0, "1e": "1e", "-.inf": -math.inf,
    "0o17": 15, "017": 17, "0x1F": 31, "0b11": "0b11", "1_000": "1_000", "-0": 0, "+12": 12,
    "12:30": "12:30", "1:1:1": "1:1:1", "2026-01-01": "2026-01-01", "=": "=",
    "2001-12-14t21:59:43.10-05:00": "2001-12-14t21:59:43.10-05:00", '"on"': "on", "'1e-4'": "1e-4",
    "!!str 1": "1", "!!float 1": 1.0, "[on, 1e3]": ["on", 1000.0], "{no: yes}": {"no": "yes"},
    "~/data": "~/data", "a#b": "a#b", "a # b": "a",
}  # fmt: skip


@pytest.mark.parametrize("text", CORE)
def test_values_are_those_of_the_core_schema(text):
    read = read_yaml(f"key: {text}", "r.yaml")["key"]
    assert read == CORE[text] and type(read) is type(CORE[text])
    assert read_yaml(text, "key") == CORE[text], "an override reads the same"


def test_keys_are_read_like_values():
    assert read_yaml("on: 1\nyes: 2\n2026-01-01: 3", "r.yaml") == {
        "on": 1,
        "yes": 2,
        "2026-01-01": 3,
    }


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("a: 1\nb: 2\na: 3", "line 3: the key 'a' is written twice, first in line 1; remove one."),
        ("- a: 1\n  b: {c: 1,\n    c: 2}", "line 3: the key 'c' is written twice, first in"),
        ("a: &x {b: 1}\nc:\n  <<: *x", "line 3: '<<' is no key, as YAML 1.2 has no merge keys;"),
        ("a: 1\n---\nb: 2", "line 2, column 1: not readable as YAML (expected a single document"),
        ("a: 1\n---\nb: 2", "keep one recipe in a file, without a second line '---'."),
        ("a:\n\t- 1", "line 2, column 1: not readable as YAML"),
        ("a:\n\t- 1", "write spaces instead of tabs."),
        ("a: 1\nb: c: d", "line 2, column 5: not readable as YAML (mapping values are not allowed"),
        ("a: 1\nb: c: d", "put a text with ': ' in quotes"),
        ("a: @x", "line 1, column 4: not readable as YAML (while scanning"),
        ("a: @x", "put the text in quotes."),
        ("a: *.jsonl", "put a text that begins with '*' in quotes"),
        ("a: 1\nb: !!python/name:os.system x", "line 2, column 4: not readable as YAML"),
        ("a: !!timestamp 2026-01-01", "remove the tag that begins with '!'."),
        ("a: !!int x", "line 1, column 4: not readable as YAML (invalid literal"),
        ("a: 1\nb: \x07", "line 2: not readable as YAML (the character '\\x07' is not allowed)"),
        ("a: " + "9" * 5000, "line 1, column 4: not readable as YAML (Exceeds the limit"),
        ("[" * 5000, "is nested too deeply; write fewer brackets."),
        ("a: [1,\nb: 2", "line 2, column"),
        ("a: &x [*x]", "has more than 100,000 values; check its aliases."),
    ],
)  # fmt: skip
def test_an_error_has_the_file_the_line_and_a_remedy(text, sentence):
    with pytest.raises(WingsError) as error:
        read_yaml(text, "r.yaml")
    said = str(error.value)
    assert said.startswith("r.yaml: ") and sentence in said, said
    assert said.endswith(".") and "\n" not in said and len(said) < 500


PLAIN = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**60), 2**60)
    | st.floats(allow_nan=False)
    | st.text(st.characters(codec="utf-8", exclude_categories=["Cc"]))
    | st.sampled_from(list(CORE)),
    lambda inner: (
        st.lists(inner, max_size=4) | st.dictionaries(st.text("abon-1e.", min_size=1), inner)
    ),
    max_leaves=12,
)


@given(st.dictionaries(st.sampled_from(["a", "on", "1e-4", "~"]), PLAIN))
def test_what_is_written_is_read_back(values):
    assert read_yaml(write_yaml(values), "r.yaml") == values
