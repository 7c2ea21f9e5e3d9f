"""The page of `wings emoji`: every figure of the results is on it, where a reader looks for it."""

from wings.examples.emoji.emoji_page import emoji_page, shorten

SCORE = {"right": 3, "of": 4, "percent": 75.0, "interval": [30.1, 95.4]}
SAMPLE = {
    "asked": "What is | this?",
    "said": "a cat",
    "right answer": "cat",
    "picture": "1F408.png",
}
RESULTS = {
    "command": "wings emoji --output runs/emoji",
    "date": "2026-01-01 00:00 UTC",
    "machine": {"processor": "P", "cores": 2, "threads": 1, "torch": "2", "transformers": "5",
                "load average at the end": [0.5, 0.4, 0.3]},
    "seconds": {"align": 12},
    "records": {"align": 9},
    "steps": {"align": 3},
    "last loss": {"align": 0.5},
    "scores": {
        "llm": {"name": SCORE | {"percent": 1.5}},
        "wings, blank picture": {"group": SCORE | {"percent": 2.5}},
        "wings": {"name": SCORE, "group": SCORE, "group/animal": SCORE, "text": SCORE},
    },
    "chance": {"group": 25.0, "name": 0.5},
    "most frequent": {"group": SCORE | {"percent": 33.3}},
    "text logits bitwise equal": SCORE | {"right": 4},
    "mixed answer equals the LLM's alone": SCORE,
    "samples": {kind: [SAMPLE] for kind in ("name", "group", "text", "mixed")},
    "confusions": [["tool -> hand", 2]],
}  # fmt: skip


def test_the_table_has_a_row_per_model_and_baseline():
    rows = {
        cells[1]: cells[2:-1]
        for line in emoji_page(RESULTS).splitlines()
        if line.startswith("|") and len(cells := [c.strip() for c in line.split("|")]) == 7
    }
    assert rows["Wings"] == ["75.0 (30 to 95)", "75.0 (30 to 95)", "75.0 (30 to 95)", ""]
    assert rows["the LLM, same question, no picture"][0] == "1.5 (30 to 95)"
    assert rows["Wings, blank picture"][1] == "2.5 (30 to 95)"
    assert rows["chance"][:2] == ["0.5", "25.0"]
    assert rows["the most frequent group"][1] == "33.3 (30 to 95)"


def test_the_page_names_licence_machine_and_what_was_kept():
    text = emoji_page(RESULTS)
    for part in ("CC BY-SA 4.0", "P, 2 cores", "4 of 4 text prompts", "3 of 4 answers",
                 "| animal | 3 | 4 |", "tool -> hand (2)", "| align | 12 |"):  # fmt: skip
        assert part in text


def test_a_sample_fits_a_table():
    assert shorten("a | b\nc") == "a / b c"
    assert len(shorten("x" * 200)) == 90
