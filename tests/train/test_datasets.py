"""Hugging Face datasets: from the disk, by name, streamed; pictures stay bytes."""

import json
import pickle
import shutil
import sys

import pytest
from torch.utils.data import DataLoader

from wings.errors import WingsError
from wings.records.open_records import open_records
from wings.train.data.dataset import ConversationDataset
from wings.train.recipe import DataSource

datasets = pytest.importorskip("datasets")
COLOURS = ("red", "green", "blue", "white", "black")


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    """A cache of its own, and no bars."""
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    datasets.disable_progress_bars()


def rows(count=23):
    from PIL import Image

    for n in range(count):
        turns = [
            {"role": "user", "content": f"<image>{n}?"},
            {"role": "assistant", "content": COLOURS[n % 5]},
        ]
        yield {"images": [Image.new("RGB", (9, 8), COLOURS[n % 5])], "messages": turns}


CARD = """---
dataset_info:
  splits:
  - name: train
    num_examples: 23
---
"""


@pytest.fixture
def saved(tmp_path):
    """A function of a split or None: the folder of a dataset with pictures."""

    def save(split=None):
        features = datasets.Features(
            {
                "images": datasets.List(datasets.Image()),
                "messages": datasets.List(
                    {"role": datasets.Value("string"), "content": datasets.Value("string")}
                ),
            }
        )
        data = datasets.Dataset.from_generator(rows, features=features)
        folder = tmp_path / "saved"
        (datasets.DatasetDict({split: data}) if split else data).save_to_disk(folder)
        return folder

    return save


@pytest.fixture
def card(saved, tmp_path):
    """A folder of a dataset with pictures whose card says how many records there are."""
    folder = tmp_path / "card"
    folder.mkdir()
    datasets.load_from_disk(saved()).to_parquet(folder / "train.parquet")
    (folder / "README.md").write_text(CARD)
    return folder


def question(records, number):
    return records[number]["messages"][0]["content"]


def test_a_saved_folder_needs_no_split_and_keeps_pictures_as_bytes(saved, plain):
    folder = saved()
    records = open_records(DataSource(str(folder)))
    assert len(records) == 23 and question(records, 22) == "<image>22?"
    assert records[3]["images"][0]["bytes"].startswith(b"\x89PNG")
    assert pickle.loads(pickle.dumps(records))[7] == records[7]
    sample = ConversationDataset([DataSource(str(folder), limit=4)], plain[1])[3]
    assert sample["pixel_values"].shape == (1, 3, 28, 28)


def test_a_saved_folder_of_splits_names_them(saved):
    folder = saved("train")
    assert len(open_records(DataSource(str(folder), split="train"))) == 23
    with pytest.raises(WingsError, match=r"set split to one of train\."):
        open_records(DataSource(str(folder)))
    with pytest.raises(WingsError, match="one of train, not test"):
        open_records(DataSource(str(folder), split="test"))


@pytest.fixture
def lines(tmp_path):
    """A folder of a dataset without script: two JSON Lines files, 23 records."""
    folder = tmp_path / "lines"
    folder.mkdir()
    written = []
    for n in range(23):
        turns = [{"from": "human", "value": f"{n}?"}, {"from": "gpt", "value": "x" * (n % 4 + 1)}]
        written.append(json.dumps({"id": str(n), "conversations": turns}))
    (folder / "train-0.jsonl").write_text("\n".join(written[:10]))
    (folder / "train-1.jsonl").write_text("\n".join(written[10:]))
    return folder


@pytest.mark.parametrize("name", ["", "*.jsonl", "train-{0..1}.jsonl"])
@pytest.mark.parametrize("stream", [False, True])
def test_local_files_by_split(lines, name, stream):
    limit = 23 if stream else None
    path = str(lines / name) if name else str(lines)
    records = open_records(
        DataSource(path, split="train", stream=stream, limit=limit, shuffle_buffer=7)
    )
    assert [records[n]["id"] for n in range(len(records))] == [str(n) for n in range(23)]
    assert records.folder == lines


@pytest.mark.parametrize("stream", [False, True])
def test_contents_of_different_kinds_come_as_they_were_written(tmp_path, stream):
    parts = [{"type": "text", "text": "hi"}]
    contents = ["hello", parts, "plain"]
    lines = [
        {"messages": [{"role": "user", "content": one}, {"role": "assistant", "content": "x"}]}
        for one in contents
    ]
    (tmp_path / "mixed.jsonl").write_text("\n".join(map(json.dumps, lines)))
    keys = {"split": "train", "stream": stream, "limit": 3}
    records = open_records(DataSource(str(tmp_path / "mixed.jsonl"), **keys))
    assert [question(records, n) for n in range(3)] == contents


def test_a_stream_gives_any_record_of_its_window_and_goes_back(card):
    records = open_records(DataSource(str(card), split="train", stream=True, shuffle_buffer=5))
    assert len(records) == 23
    for number in (3, 0, 4, 9, 5, 22, 20, 1, 12, 11):
        assert question(records, number) == f"<image>{number}?"
    assert records[21]["images"][0]["bytes"].startswith(b"\x89PNG")
    assert question(pickle.loads(pickle.dumps(records)), 13) == "<image>13?"


def test_a_stream_says_what_it_lacks(lines, saved):
    with pytest.raises(WingsError, match=r"does not give its number of records; set limit"):
        open_records(DataSource(str(lines), split="train", stream=True))
    short = open_records(
        DataSource(str(lines), split="train", stream=True, limit=50, shuffle_buffer=10)
    )
    assert short[22]["id"] == "22"
    for number in (23, 29, 30, 49):
        with pytest.raises(WingsError, match="fewer than 50 records; lower limit"):
            short[number]
    with pytest.raises(WingsError, match=r"save_to_disk cannot be streamed; remove stream"):
        open_records(DataSource(str(saved("train")), split="train", stream=True))


def test_a_stream_that_breaks_off_is_named_and_can_be_asked_again(lines):
    records = open_records(
        DataSource(str(lines), split="train", stream=True, limit=23, shuffle_buffer=5)
    )
    second = lines / "train-1.jsonl"
    kept = second.read_text()
    second.write_text("{oops")
    assert records[2]["id"] == "2"
    with pytest.raises(WingsError, match=r"the stream failed"):
        records[22]
    second.write_text(kept)
    assert records[22]["id"] == "22"


@pytest.mark.parametrize(
    ("source", "words"),
    [
        (DataSource("lines", split="test"), r"lines \(test\): cannot be loaded"),
        (
            DataSource("nobody/nothing", split="train"),
            r"nobody/nothing \(train\): cannot be loaded",
        ),
        (DataSource("gone-*.jsonl", split="train"), r"gone-\*\.jsonl: no data files"),
        (DataSource("s.tar", split="train"), "shards are read without split"),
    ],
)
def test_what_cannot_be_loaded_is_named(lines, monkeypatch, source, words):
    monkeypatch.chdir(lines.parent)
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)
    (lines.parent / "s.tar").touch()
    with pytest.raises(WingsError, match=words) as error:
        open_records(source)
    assert "\n" not in str(error.value)


def test_without_the_library_the_sentence_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(WingsError, match="pip install datasets"):
        open_records(DataSource("a/b", split="train"))


def test_shards_that_the_library_streams_are_the_same_records(tmp_path):
    import io
    import tarfile

    from PIL import Image

    (tmp_path / "web").mkdir()
    with tarfile.open(tmp_path / "web" / "train-0.tar", "w") as tar:
        for n, colour in enumerate(COLOURS):
            file = io.BytesIO()
            Image.new("RGB", (9, 8), colour).save(file, "PNG")
            for kind, data in (("png", file.getvalue()), ("txt", colour.encode())):
                member = tarfile.TarInfo(f"{n}.{kind}")
                member.size = len(data)
                tar.addfile(member, io.BytesIO(data))
    own = open_records(DataSource(str(tmp_path / "web" / "train-0.tar")))
    keys = {"split": "train", "stream": True, "limit": 5, "shuffle_buffer": 2}
    theirs = open_records(DataSource(str(tmp_path / "web"), **keys))
    for n in range(5):
        assert theirs[n]["caption"] == own[n]["caption"] == COLOURS[n]
        assert theirs[n]["images"][0]["bytes"] == own[n]["images"][0]


def test_a_stream_and_files_give_the_same_batches_for_any_number_of_workers(
    lines, card, data, plain
):
    sources = [
        DataSource(str(lines), split="train", stream=True, limit=23, shuffle_buffer=6, share=0.4),
        DataSource(str(card), split="train", stream=True, shuffle_buffer=4),
        DataSource(str(data / "pictures.json"), weight=0.5),
    ]
    conversations = ConversationDataset(sources, plain[1], on_bad_record="skip")
    seen = []
    for workers in (0, 1, 3):
        batches = []
        order = conversations.sampler(batch_size=4, seed=5)
        loader = DataLoader(
            conversations,
            batch_size=4,
            sampler=order,
            num_workers=workers,
            collate_fn=lambda samples: [sample["input_ids"].tolist() for sample in samples],
        )
        for epoch in (0, 1):
            order.set_epoch(epoch)
            batches += list(loader)
        seen.append(batches)
    assert seen[0] == seen[1] == seen[2]
    half = len(seen[0]) // 2
    assert seen[0][:half] != seen[0][half:]


def test_a_skipped_record_of_a_stream_is_replaced_within_its_window(lines, plain):
    bad = {"id": "b", "conversations": [{"from": "human", "value": "?"}]}
    kept = (lines / "train-0.jsonl").read_text().splitlines()
    kept[4] = kept[9] = json.dumps(bad)
    (lines / "train-0.jsonl").write_text("\n".join(kept))
    source = DataSource(str(lines), split="train", stream=True, limit=23, shuffle_buffer=5)
    data = ConversationDataset([source, source], plain[1], on_bad_record="skip")
    for number, replacement in ((4, 0), (9, 5), (27, 23), (32, 28)):
        assert data[number]["input_ids"].tolist() == data[replacement]["input_ids"].tolist()
        assert [skipped for skipped, _ in data[number]["skipped"]] == [number]


def test_a_run_on_a_stream_and_shards_goes_on_where_it_was(card, make_recipe, tmp_path):
    from wings.train.run import train
    from wings.train.run_folder import RESULT

    sources = [
        DataSource(str(card), split="train", stream=True, shuffle_buffer=4),
        DataSource(str(card / "train.parquet"), share=0.3),
    ]
    keys = {"data": sources, "steps": 8, "save_every": 5}
    whole = train(make_recipe("instruct", **keys))
    # As if it had been killed before its end: the last checkpoint is that of step 5.
    other = tmp_path / "other"
    shutil.copytree(tmp_path / "run", other)
    (other / RESULT).unlink()
    again = train(make_recipe("instruct", output=str(other), workers=2, **keys))
    assert again.losses == whole.losses and len(whole.losses) == 8
