"""The same questions in every form that training reads: the same items, answers and scores."""

import base64
import io
import json
import random
import tarfile

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from wings.errors import WingsError
from wings.eval.data import EvalFiles, read_data
from wings.eval.documents import read_documents
from wings.eval.evaluation import Questions, measure_questions
from wings.eval.items import pictures_of, read_items, without_sources, write_items
from wings.eval.scoring.score import score
from wings.eval.senses import SEEN
from wings.processing.image_reader import load_image

WORDS = "abcdefghijkl"


@pytest.fixture
def questions(tmp_path):
    """Random questions about pictures: (exchanges, picture, other fields)."""
    draw = random.Random(5)
    found = []
    for n in range(6):
        (tmp_path / "shown").mkdir(exist_ok=True)
        picture = tmp_path / "shown" / f"{n}.png"
        Image.new("RGB", (28, 28), tuple(draw.choices(range(256), k=3))).save(picture)
        exchanges = [
            (" ".join(draw.choices(WORDS, k=3)), draw.choice(WORDS))
            for _ in range(draw.randint(1, 3))
        ]
        more = {"kind": draw.choice(["one", "two"])}
        if n % 2:
            more |= {"scoring": "choice", "choices": [exchanges[-1][1], "z"]}
        found.append((exchanges, picture, more))
    return found


def llava(exchanges, image, more):
    turns = []
    for n, (question, answer) in enumerate(exchanges):
        mark = "<image>\n" if n == 0 and image is not None else ""
        turns += [{"from": "human", "value": mark + question}, {"from": "gpt", "value": answer}]
    return {"conversations": turns, **({} if image is None else {"image": image}), **more}


def chat(exchanges, image, more, key="image"):
    messages = []
    for n, (question, answer) in enumerate(exchanges):
        parts = [{"type": "text", "text": question}]
        if n == 0 and image is not None:
            parts = [{"type": "image", key: image}, *parts]
        messages += [
            {"role": "user", "content": parts},
            {"role": "assistant", "content": [{"type": "text", "text": answer}]},
        ]
    return {"messages": messages, **more}


def cauldron(exchanges, image, more):
    texts = [{"user": question, "assistant": answer} for question, answer in exchanges]
    return {"texts": texts, "images": [] if image is None else [image], **more}


def lines(path, records):
    path.write_text("".join(json.dumps(record) + "\n" for record in records), encoding="utf-8")
    return path


def shard(path, questions):
    with tarfile.open(path, "w") as tar:
        for n, (exchanges, picture, more) in enumerate(questions):
            record = json.dumps(llava(exchanges, picture.name, more)).encode()
            for name, data in ((f"{n}.json", record), (f"{n}.png", picture.read_bytes())):
                entry = tarfile.TarInfo(name)
                entry.size = len(data)
                tar.addfile(entry, io.BytesIO(data))
    return path


def table(path, records):
    # Not `from_pylist`, which takes the columns of the first record alone.
    pq.write_table(pa.Table.from_struct_array(pa.array(records)), path)
    return path


def forms(folder, questions):
    """(path, folder of pictures or None) of each form; paths are relative to different folders."""
    named = [(e, f"shown/{p.name}", m) for e, p, m in questions]
    bare = [(e, p.name, m) for e, p, m in questions]
    held = [(e, {"bytes": p.read_bytes(), "path": p.name}, m) for e, p, m in questions]
    (folder / "list.json").write_text(json.dumps([llava(*one) for one in named]))
    parts = folder / "parts"
    parts.mkdir()
    lines(parts / "1.jsonl", [chat(*one) for one in bare[:4]])
    lines(parts / "2.jsonl", [llava(*one) for one in bare[4:]])
    yield folder / "list.json", None
    yield lines(folder / "lines.json", [llava(*one) for one in named]), None
    yield lines(folder / "chat.jsonl", [chat(*one) for one in named]), None
    yield lines(folder / "path.jsonl", [chat(*one, key="path") for one in named]), None
    yield lines(folder / "texts.jsonl", [cauldron(*one) for one in bare]), folder / "shown"
    yield table(folder / "texts.parquet", [cauldron(*one) for one in held]), None
    yield table(folder / "chat.parquet", [chat(*one) for one in named]), None
    yield shard(folder / "shard.tar", questions), None
    yield parts, folder / "shown"
    yield parts / "*.jsonl", folder / "shown"


def plain(item):
    """The item with pixels in the place of its pictures."""
    pixels = [load_image(source).tobytes() for source in pictures_of(item)]
    return without_sources(item), pixels


def test_every_form_gives_the_same_items_and_scores(tmp_path, questions):
    draw = random.Random(7)
    said = [draw.choice([exchanges[-1][1], "z", "q"]) for exchanges, _, _ in questions]
    results = {}
    for path, images in forms(tmp_path, questions):
        items = read_data(EvalFiles(pictures=[path], images=images)).pictures
        scores = [score(item, words) for item, words in zip(items, said, strict=True)]
        results[path] = [plain(item) for item in items], scores
    first, *others = results.values()
    assert len(results) == 10 and {0.0, 1.0} == set(first[1])
    assert [item.answer for item, _ in first[0]] == [e[-1][1] for e, _, _ in questions]
    for path, result in results.items():
        assert result == first, path
    assert len(others) == 9


def test_a_model_answers_a_file_and_a_table_alike(tmp_path, questions, chain, winged, make_runner):
    named = {path.name: (path, images) for path, images in forms(tmp_path, questions)}
    llm, model, runner = chain(1, "a")[0], winged(2, "b")[0], make_runner()
    found = []
    for name in ("list.json", "texts.parquet"):
        items = read_items(*named[name])
        result = measure_questions(Questions.about(SEEN), llm, model, items, runner)
        figures = result.to_dict()
        for answer in figures["answers"]:
            # The bytes of a picture would make a report as large as its data.
            assert len(json.dumps(answer.pop("messages"))) < 1000
        found.append(figures)
    assert found[0] == found[1]


def test_captions_and_pictures_in_bytes_are_items_that_can_be_written(tmp_path, questions):
    picture = questions[0][1]
    lines(tmp_path / "captions.jsonl", [{"image": f"shown/{picture.name}", "caption": "a b"}])
    (item,) = read_items(tmp_path / "captions.jsonl")
    assert item.answer == "a b" and pictures_of(item) == [str(picture)]
    source = {"bytes": picture.read_bytes(), "path": None}
    (item,) = read_items(table(tmp_path / "c.parquet", [cauldron([("q", "a")], source, {})]))
    (address,) = pictures_of(item)
    assert base64.b64decode(address.partition(",")[2]) == picture.read_bytes()
    write_items(tmp_path / "again.jsonl", [item])
    assert read_items(tmp_path / "again.jsonl") == [item]


def test_held_out_text_is_read_in_every_form(tmp_path):
    exchanges = [[("a b", "c")], [("d", "e f"), ("g", "h")]]
    records = [llava(one, None, {}) for one in exchanges]
    (tmp_path / "list.json").write_text(json.dumps(records))
    paths = [
        tmp_path / "list.json",
        lines(tmp_path / "chat.jsonl", [chat(one, None, {}) for one in exchanges]),
        table(tmp_path / "texts.parquet", [cauldron(one, None, {}) for one in exchanges]),
    ]
    found = [[document.messages for document in read_documents([path])] for path in paths]
    assert found[0] == found[1] == found[2] and [len(one) for one in found[0]] == [2, 4]
    texts = table(tmp_path / "t.parquet", [{"text": "one"}, {"text": "two"}])
    assert [document.text for document in read_documents([texts])] == ["one", "two"]


@pytest.mark.parametrize(
    ("name", "content", "reason"),
    [
        (
            "a.json",
            '[{"conversations": [{"from": "gpt", "value": "me"}]}]',
            "record 0: .*alternate",
        ),
        ("a.json", '{"conversations": 3}\n{"b": 1}', "line 1: .*not a list"),
        ("a.json", '{"b": ', "expected a JSON list"),
        ("a.tar", "no tar", "uncompressed tar"),
        ("a.parquet", "no table", "not readable as parquet"),
        ("a.csv", "a,b", "unknown file type"),
    ],
)
def test_a_refusal_names_file_record_and_reason(tmp_path, name, content, reason):
    (tmp_path / name).write_text(content)
    with pytest.raises(WingsError, match=rf"{name}.*{reason}.*\.$"):
        read_items(tmp_path / name)
