"""A whole evaluation of known models: what was lost, what was won, and what a report says of it."""

import base64
import io
import json
import re
from dataclasses import replace
from html.parser import HTMLParser

import pytest
from matplotlib.figure import Figure
from rich.console import Console

from wings.cli.eval_output import show
from wings.errors import WingsError
from wings.eval.compare.comparison import Comparison
from wings.eval.data import EvalData, EvalFiles, read_data
from wings.eval.documents import Document, read_documents
from wings.eval.evaluation import evaluate
from wings.eval.items import Item
from wings.eval.report.report import Report, Section
from wings.output_folder import OutputFolder


def item(kind, text, answer, picture=None):
    parts = [{"type": "image", "image": picture}] if picture else []
    content = [*parts, {"type": "text", "text": text}] if parts else text
    return Item(kind, ({"role": "user", "content": content},), answer)


@pytest.fixture
def data(picture):
    text = [item("one", letter, "a") for letter in "abcd"] + [item("two", "e", "b")]
    seen = [item("shapes", letter, "b", picture) for letter in "fg"]
    first = seen[0].messages[0]
    turns = (first, {"role": "assistant", "content": "b"}, {"role": "user", "content": "h"})
    mixed = [Item("mixed", turns, "a")]
    return EvalData(text, seen, mixed, [Document("t", "a b c"), Document("u", "d e f g")])


def test_what_each_kind_lost_and_won(chain, winged, make_runner, data):
    llm, model = chain(1, "a")[0], winged(2, "b")[0]
    found = evaluate(llm, model, data, make_runner())
    assert list(found.measurements) == [
        "text", "pictures", "conversations", "after_image", "attention", "drift",
        "drift_after_image",
    ]  # fmt: skip
    assert found.notes == []
    text = found.to_dict()["text"]
    assert list(text["kinds"]) == ["all", "one", "two"]
    everything = text["kinds"]["all"]
    assert (everything["lost"], everything["won"]) == (4, 1)
    assert everything["before"]["right"] == 4 and everything["after"]["right"] == 1
    assert everything["difference"]["value"] == -60.0
    low, high = everything["difference"]["interval"]
    assert low == -100.0 and -60 < high <= 20
    assert text["kinds"]["two"]["difference"] == {"value": 100.0, "interval": None}
    assert text["answers"][4]["before"] == "a" and text["answers"][4]["right"] == [False, True]
    pictures = found.to_dict()["pictures"]["kinds"]
    assert list(pictures) == ["shapes"]
    # Both questions show one picture: a single cluster has no interval.
    assert pictures["shapes"]["difference"] == {"value": 100.0, "interval": None}
    mixed = found.to_dict()["conversations"]["kinds"]["mixed"]
    assert (mixed["lost"], mixed["won"]) == (1, 0)
    after = found.to_dict()["after_image"]["kinds"]["mixed"]
    assert [after[one][who]["right"] for one in ("alone", "after") for who in ("llm", "model")] == [
        1.0, 0.0, 1.0, 0.0,
    ]  # fmt: skip
    assert after["same_answers"]["right"] == 0 and after["clusters"] == 1
    assert found.to_dict()["drift_after_image"]["kinds"]["mixed"]["floor"]["value"] < 1e-6
    assert [line.partition(":")[0] for line in found.verdict] == [
        "Text alone", "Text after an image", "Images",
    ]  # fmt: skip
    assert "changed by -60.0 points (-100.0 to 20.0). 20.0% (4-62) right" in found.verdict[0]
    rows = found.sections[0].rows
    assert rows[1] == ("all", "5", "80.0 (38-96)", "20.0 (4-62)",
                       f"-60.0 ({low:.1f}, {high:.1f})", "4/1")  # fmt: skip
    json.dumps(found.to_dict())


def test_a_plain_model_is_not_shown_pictures(chain, make_runner, data):
    found = evaluate(chain(1, "a")[0], chain(2, "b")[0], data, make_runner())
    assert list(found.measurements) == ["text", "drift"]
    assert [note.split()[0] for note in found.notes] == ["Pictures", "Conversations"]
    assert "'llama'" in found.notes[0]


def test_other_tokenizers_leave_the_drift_out(chain, winged, make_runner, data):
    llm, model = chain(1, "a")[0], winged(2, "b")[0]
    llm.tokenizer.add_tokens(["zz"])
    found = evaluate(llm, model, data, make_runner())
    assert not {"drift", "drift_after_image"} & set(found.measurements)
    assert "'zz' is token" in found.notes[0]


def test_kinds_that_come_only_after_an_image_are_asked_alone_too(chain, winged, make_runner, data):
    conversations = [
        *data.conversations,
        *(replace(one, kind="late") for one in data.conversations),
    ]
    llm, model = chain(1, "a")[0], winged(1, "a")[0]
    found = evaluate(llm, model, EvalData(conversations=conversations), make_runner())
    assert list(found.measurements) == [
        "conversations", "after_image", "attention", "drift_after_image",
    ]  # fmt: skip
    kinds = found.to_dict()["after_image"]["kinds"]
    assert list(kinds) == ["all", "mixed", "late"]
    # Both conversations show one image.
    assert {figures["clusters"] for figures in kinds.values()} == {1}
    assert kinds["late"]["alone"]["model"]["right"] == 1
    assert kinds["all"]["model_after_minus_alone"] == {"value": 0.0, "interval": None}
    assert "resample 1 clusters of 2 questions" in found.sections[0].sentence
    text, after = found.verdict
    assert text.startswith("Text alone: kept exactly. All 2 answers are those of the LLM, 100.0%")
    assert after.startswith("Text after an image: all answers kept. All 2")


def test_without_images_the_verdict_has_one_line(chain, winged, make_runner, data):
    llm, model = chain(1, "a")[0], winged(1, "a")[0]
    given = EvalData(data.text, held_out=data.held_out)
    found = evaluate(llm, model, given, make_runner())
    assert list(found.measurements) == ["text", "drift"] and len(found.verdict) == 1
    assert "kept exactly. All 5" in found.verdict[0]
    assert found.verdict[0].endswith("KL on held-out text is 0 (0 to 0) nats a token.")
    drifted = evaluate(llm, winged(2, "a")[0], given, make_runner())
    assert drifted.verdict[0].startswith("Text alone: all answers kept. All 5")


def test_letters_of_markup_in_a_kind_are_letters(chain, winged, make_runner, data, tmp_path):
    kind = "<b>[red]$x$ & [/x]"
    named = [[replace(one, kind=kind) for one in items] for items in vars(data).values() if items
             and isinstance(items[0], Item)]  # fmt: skip
    named[2].append(replace(data.conversations[0], kind="mixed"))
    found = evaluate(chain(1, "a")[0], winged(2, "b")[0], EvalData(*named), make_runner())
    report = Report("t", {}, [], found.sections, found.samples, verdict=found.verdict)
    page = Sources()
    page.feed(report.html())
    assert "b" not in page.tags[page.tags.index("body") : page.tags.index("details")]
    assert page.said.count(kind) >= 4
    assert any(f"Lost most: {kind}, from 100.0 to 0.0%" in words for words in page.said)
    stream = io.StringIO()
    show(Console(file=stream, width=110, highlight=False), report)
    assert stream.getvalue().count(kind) >= 4


def test_samples_are_of_every_kind_and_always_the_same():
    kinds = ["w", "x", "y", "z"] * 60
    items = [item(kind, str(n), "a") for n, kind in enumerate(kinds)]
    comparison = Comparison("Text", "", items, ["a"] * 240, ["b"] * 240)
    samples = comparison.samples()
    assert len(samples) == 10 and len({sample.kind for sample in samples}) > 2
    assert samples == comparison.samples() and samples[0].right == (True, False)
    assert len(Comparison("Text", "", items[:3], ["a"] * 3, ["b"] * 3).samples()) == 3


class Sources(HTMLParser):
    """What a page would load, and what it says."""

    def __init__(self):
        super().__init__()
        self.sources, self.tags, self.said = [], [], []

    def handle_starttag(self, tag, attributes):
        self.tags.append(tag)
        self.sources += [v for k, v in attributes if k in ("src", "href", "srcset", "data")]

    def handle_data(self, data):
        self.said.append(data.strip())


def test_the_page_holds_everything_and_escapes_what_was_said(
    chain, winged, make_runner, data, tmp_path
):
    found = evaluate(chain(1, "a")[0], winged(2, "b")[0], data, make_runner())
    figure = Figure(figsize=(2, 2))
    figure.subplots().plot([1, 2])
    more = [
        Section("Shift", "Added <by> another.", [("layer", "score"), ("0", "1.5")], figure),
        Section("Bare", "Nothing but a sentence."),
    ]
    bad = "<script>alert(1)</script>"
    comparison = Comparison("Said", "", [item("k", bad, "a")], [bad], ["a"])
    report = Report(
        "a & b", {"model": "m<1>"}, ["note one"], [*found.sections, *more],
        {**found.samples, "Said": comparison.samples()}, {"measurements": found.to_dict()},
        found.verdict,
    )  # fmt: skip
    folder = OutputFolder(tmp_path / "report", "wings eval")
    folder.claim()
    report.save(folder)
    html = (folder.path / "report.html").read_text(encoding="utf-8")
    page = Sources()
    page.feed(html)
    assert len(page.sources) == 7 + 3 and all(s.startswith("data:image/") for s in page.sources)
    assert "script" not in page.tags and "link" not in page.tags and "@import" not in html
    assert re.search(r"url\(|https?://", re.sub(r'src="[^"]*"', "", html)) is None
    kinds = [source.split(";")[0] for source in page.sources]
    assert kinds.count("data:image/svg+xml") == 7 and kinds.count("data:image/png") == 3
    svg = base64.b64decode(page.sources[0].split(",")[1]).decode()
    assert "<svg" in svg and 'href="http' not in svg
    shown = (
        "a & b", "m<1>", "note one", "Added <by> another.", "Drift on held-out text", bad,
        "-60.0 (-100.0, 20.0)", "1.5", "Drift after an image", "Text after an image and alone",
    )  # fmt: skip
    for words in (*shown, *found.verdict):
        assert words in page.said, words
    assert 'name="viewport"' in html
    saved = json.loads((folder.path / "report.json").read_text(encoding="utf-8"))
    assert saved["measurements"]["text"]["kinds"]["all"]["lost"] == 4
    assert report.html() == html
    assert sorted(path.name for path in folder.path.iterdir()) == [
        ".wings", "report.html", "report.json"
    ]  # fmt: skip


def record(*contents, **more):
    roles = ("user", "assistant") * len(contents)
    return {"messages": [{"role": r, "content": c} for r, c in zip(roles, contents, strict=False)],
            **more}  # fmt: skip


def test_files_are_read_as_what_they_were_given_for(write, picture):
    seen = [{"type": "image", "image": "red.png"}, {"type": "text", "text": "what?"}]
    files = EvalFiles(
        text=[write("t.jsonl", record("a", "b", choices=["a", "b"]))],
        pictures=[write("p.jsonl", record(seen, "b"))],
        held_out=[write("h.jsonl", {"text": "one"}, record("a", "b"))],
    )
    data = read_data(files)
    assert [len(data.text), len(data.pictures), len(data.held_out)] == [1, 1, 2]
    assert files and not EvalFiles() and not any(vars(read_data(EvalFiles())).values())


SEEN = [{"type": "image", "image": "nowhere.png"}, {"type": "text", "text": "what?"}]
FOUND = [{"type": "image", "image": "red.png"}, {"type": "text", "text": "what?"}]


@pytest.mark.parametrize(
    ("kind", "wrong", "said"),
    [
        ("text", {"mesages": []}, r"\(mesages\)"),
        ("text", record("a"), "no answer"),
        ("text", record("a", "b", scoring="choice"), "has no choices"),
        ("text", record("a", "b", scoring="mentions"), "did you mean 'mention'"),
        ("text", record("a", "b", choices=["c"]), "none of its choices"),
        ("text", {"messages": [{"role": "user"}, {"role": "assistant", "content": "b"}]}, "'role'"),
        ("text", record([{"type": "sound"}], "b"), "sound"),
        ("text", record(FOUND, "b"), "has a picture"),
        ("pictures", record("a", "b"), "has no picture"),
        ("conversations", record(SEEN, "b"), r"nowhere\.png, which does not exist"),
        ("held_out", {"txt": "a"}, r"\(txt\)"),
        ("held_out", ["a"], "is a mapping"),
        ("held_out", record(FOUND, "b"), "held-out text cannot have"),
    ],
)  # fmt: skip
def test_a_wrong_record_is_a_sentence(write, picture, kind, wrong, said):
    path = write("wrong.jsonl", wrong)
    with pytest.raises(WingsError, match=said) as error:
        read_data(EvalFiles(**{kind: [path]}))
    assert "wrong.jsonl" in str(error.value)


def test_held_out_texts(tmp_path, write):
    (tmp_path / "a.txt").write_text("one\n\ntwo", encoding="utf-8")
    assert [d.text for d in read_documents([tmp_path / "a.txt"])] == ["one\n\ntwo"]
    (tmp_path / "latin.txt").write_bytes("für".encode("latin-1"))
    (tmp_path / "empty.txt").write_text(" \n")
    for name, said in (("latin", "UTF-8"), ("empty", "is empty"), ("none", "no such data file")):
        with pytest.raises(WingsError, match=said):
            read_documents([tmp_path / f"{name}.txt"])
    with pytest.raises(WingsError, match="contains no records"):
        read_documents([write("nothing.jsonl")])
