"""2,000 damaged records of every file type: each is named or used, none is lost."""

import json
import os
import random
import re
import socket
import warnings
from collections import Counter

import pytest
from damaged import BAD, GOOD, damaged_image, damaged_text, in_a_list, png, png_of_size, write_shard

from wings.errors import WingsError
from wings.records.json_list import entry_spans
from wings.train.data.dataset import ConversationDataset
from wings.train.data.survey import survey
from wings.train.recipe import DataSource, Recipe

PART = 500


@pytest.fixture(scope="module")
def damaged(tmp_path_factory):
    """A folder with images, and the outcome of every record by file."""
    folder = tmp_path_factory.mktemp("damaged")
    # Seeded by conftest.py; other records with --fresh.
    draw = random.Random(random.random())
    (folder / "p.png").write_bytes(png())
    (folder / "wide.png").write_bytes(png_of_size(1, 150_000_000))
    (folder / "text.png").write_text("text")
    (folder / "folder.png").mkdir()
    os.mkfifo(folder / "pipe.png")
    outcomes = {}
    texts = [damaged_text(number, draw) for number in range(PART)]
    (folder / "d.jsonl").write_bytes(b"\n".join(text for text, _ in texts) + b"\n")
    outcomes["d.jsonl"] = [outcome for _, outcome in texts]
    texts = []
    while len(texts) < PART:
        text, outcome = damaged_text(len(texts), draw)
        if in_a_list(text):
            texts.append((text, outcome))
    (folder / "d.json").write_bytes(b"[" + b",\n".join(text for text, _ in texts) + b"]")
    outcomes["d.json"] = [outcome for _, outcome in texts]
    outcomes["d.tar"] = write_shard(folder / "d.tar", PART, draw)
    outcomes["d.parquet"] = write_parquet(folder / "d.parquet", draw)
    return folder, outcomes


def write_parquet(path, draw):
    """Rows with image bytes; captions are not checked to be UTF-8 when they are written."""
    import pyarrow
    import pyarrow.parquet

    images, captions, outcomes = [], [], []
    for _ in range(PART):
        image, outcome = (png(), GOOD) if draw.random() < 0.5 else damaged_image(draw)
        caption = b"A red square."
        if draw.random() < 0.3:
            caption = draw.choice([b"r\xffd", b"", b"\xed\xa0\x80", None, b" "])
            outcome = BAD
        images.append({"bytes": image, "path": None})
        captions.append(caption)
        outcomes.append(outcome)
    texts = pyarrow.array(captions, pyarrow.binary()).view(pyarrow.string())
    pyarrow.parquet.write_table(pyarrow.table({"image": images, "caption": texts}), path)
    return outcomes


@pytest.mark.parametrize("name", ["d.jsonl", "d.json", "d.tar", "d.parquet"])
def test_every_record_is_named_or_used_and_counted(damaged, make_model, monkeypatch, name):
    folder, outcomes = damaged
    wanted = outcomes[name]
    monkeypatch.setattr(socket.socket, "connect", no_network)
    warnings.simplefilter("ignore")
    recipe = Recipe(
        "align", "x", [DataSource(str(folder / name))], start="s", on_bad_record="skip",
        max_length=512,
    )  # fmt: skip
    processor = make_model()[1]
    data = ConversationDataset.of(recipe, processor)
    assert len(data) == PART
    found = []
    for number, outcome in enumerate(wanted):
        try:
            sample = data.encode(number)
        except WingsError as error:
            sentence = str(error)
            found.append(BAD)
            assert outcome != GOOD, sentence
            assert "\n" not in sentence and len(sentence) < 800, sentence
            assert re.search(rf"{re.escape(name)} (line|record|key) ", sentence), sentence
            sentence.encode()
        else:
            found.append(GOOD)
            assert outcome != BAD, (number, data.records[0].read(number))
            assert len(sample["labels"]) == len(sample["input_ids"])
    assert 0.3 < found.count(GOOD) / PART < 0.9
    # Training: a bad record is replaced by the next good one, and is counted.
    for number in range(0, PART, 7):
        sample = data[number]
        skipped = [one for one, _ in sample.get("skipped", ())]
        following = [(number + step) % PART for step in range(PART)]
        assert skipped == following[: [found[n] for n in following].index(GOOD)]
    # `wings data check` comes to the same counts.
    surveys, _ = survey(recipe, processor, workers=0)
    (one,) = surveys
    assert one.read == one.records == PART
    assert one.problems.total() == found.count(BAD) and len(one.tokens) == found.count(GOOD)


def no_network(*_):
    raise AssertionError("a record was downloaded from a private address")


def test_an_error_of_any_type_names_the_record(tmp_path, make_model, monkeypatch):
    (tmp_path / "d.jsonl").write_text('{"messages": 1}\n' + json.dumps(text_record()) + "\n")
    data = ConversationDataset([DataSource(str(tmp_path / "d.jsonl"))], make_model()[1])
    for error in (
        MemoryError(), RecursionError("deep"), KeyError("k"), OSError(5, "I/O\nerror"),
        UnicodeError("\ud800"), AssertionError("x" * 9_999), RuntimeError(), StopIteration(),
    ):  # fmt: skip

        def fail(*_args, _error=error, **_more):
            raise _error

        with monkeypatch.context() as patch:
            patch.setattr(data.processor, "encode", fail)
            with pytest.raises(WingsError, match=rf"line 2: {type(error).__name__}: ") as caught:
                data[1]
            assert "\n" not in str(caught.value)
    for interrupt in (KeyboardInterrupt(), SystemExit(3)):

        def stop(*_args, _error=interrupt, **_more):
            raise _error

        with monkeypatch.context() as patch:
            patch.setattr(data.processor, "encode", stop)
            with pytest.raises(type(interrupt)):
                data[1]


def text_record():
    return {"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]}


def test_a_record_larger_than_the_limit_is_not_parsed(tmp_path, make_model):
    large = {**text_record(), "more": [[]] * 60_000}
    values = [text_record(), large, text_record()]
    (tmp_path / "d.json").write_text(json.dumps(values))
    (tmp_path / "d.jsonl").write_text("\n".join(json.dumps(value) for value in values))
    for name in ("d.json", "d.jsonl"):
        settings = {"stage": "align", "output": "x", "start": "s", "on_bad_record": "skip"}
        source = {"path": str(tmp_path / name)}
        recipe = Recipe.from_dict({**settings, "data": [source], "limits": {"record_bytes": 9_999}})
        data = ConversationDataset.of(recipe, make_model()[1])
        assert len(data) == 3
        ((number, sentence),) = data[1]["skipped"]
        assert number == 1 and "more than limits.record_bytes allows, 9,999" in sentence
        free = Recipe.from_dict({**settings, "data": [source]})
        assert "skipped" not in ConversationDataset.of(free, make_model()[1])[1]


def test_lists_end_where_json_says(tmp_path):
    """Texts with brackets, quotes, commas and escapes do not change where an entry ends."""
    draw = random.Random(random.random())
    letters = '[]{},:"\\\n aé😀'
    for _ in range(200):
        values = [
            draw.choice([
                "".join(draw.choice(letters) for _ in range(draw.randrange(30))),
                {"".join(draw.choice(letters) for _ in range(9)): [[], {}, "]"]}, 3, None, [["["]],
            ])
            for _ in range(draw.randrange(1, 6))
        ]  # fmt: skip
        text = json.dumps(values, ensure_ascii=draw.random() < 0.5, indent=draw.choice([None, 1]))
        data = text.encode()
        got = [json.loads(data[start:end].decode()) for start, end in entry_spans(data)]
        assert got == values
    assert Counter(len(entry_spans(text)) for text in (b"[]", b" [ ] ", b"[1]")) == {0: 2, 1: 1}
