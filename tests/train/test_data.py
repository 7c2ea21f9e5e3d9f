"""Data: files of every kind, bad records stopped or skipped, the batch contract, the order."""

import json
from collections import Counter
from types import SimpleNamespace

import pytest
import torch

from wings.errors import WingsError
from wings.records.open_records import open_records
from wings.train.data.collator import Collator
from wings.train.data.dataset import ROW_OF_BAD_RECORDS, ConversationDataset
from wings.train.data.sampler import RecordSampler
from wings.train.recipe import DataSource


class Speller:
    """Stands for the processor: one token per character, three per image; files must exist."""

    image_processor = SimpleNamespace(limits=None)

    def encode(self, messages, *, max_length=None):
        ids, labels, images = [], [], []
        for message in messages:
            for part in message["content"]:
                if part["type"] == "image":
                    if not part["image"].exists():
                        raise WingsError(f"no image file {part['image']}")
                    images.append(torch.full((3, 2, 2), float(len(images) + 1)))
                    new = [1, 1, 1]
                else:
                    new = [ord(letter) for letter in part["text"]]
                ids += new
                labels += new if message["role"] == "assistant" else [-100] * len(new)
        if max_length is not None and len(ids) > max_length:
            raise WingsError(f"{len(ids)} tokens do not fit into {max_length}")
        sample = {"input_ids": torch.tensor(ids), "labels": torch.tensor(labels)}
        return {**sample, "pixel_values": torch.stack(images)} if images else sample


def record(question, answer, **more):
    turns = [{"from": "human", "value": question}, {"from": "gpt", "value": answer}]
    return {"conversations": turns, **more}


@pytest.fixture
def mixed(tmp_path):
    """Five records: good, missing image, empty answer, text only, too long."""
    (tmp_path / "a.png").touch()
    records = [
        record("<image>\nq", "yes", image="a.png", id="one"),
        record("<image>\nq", "yes", image="gone.png", id="two"),
        record("q", ""),
        record("hello", "you"),
        record("x" * 99, "y"),
    ]
    (tmp_path / "d.json").write_text(json.dumps(records))
    return DataSource(str(tmp_path / "d.json"), str(tmp_path))


def test_every_file_kind_holds_the_same_records(tmp_path):
    import pyarrow
    import pyarrow.parquet

    values = [
        {
            "messages": [{"role": "user", "content": "é\u2028"}],
            "images": [{"bytes": b"x", "path": None}],
        },
        {"messages": [{"role": "user", "content": "b"}], "images": []},
    ]
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(values), tmp_path / "d.parquet")
    for value in values:
        value["images"] = [{"bytes": None, "path": "x"} for _ in value["images"]]
    (tmp_path / "d.json").write_text(json.dumps(values, ensure_ascii=False))
    lines = [json.dumps(value, ensure_ascii=False) for value in values]
    (tmp_path / "d.jsonl").write_text(lines[0] + "\n\n" + lines[1] + "\n")
    for kind in ("json", "jsonl", "parquet"):
        records = open_records(DataSource(str(tmp_path / f"d.{kind}")))
        assert len(records) == 2
        assert records[0]["messages"] == values[0]["messages"]
        assert records[1] == values[1]
    assert open_records(DataSource(str(tmp_path / "d.parquet")))[0]["images"][0]["bytes"] == b"x"
    # The empty line counts for a person who looks the record up.
    assert open_records(DataSource(str(tmp_path / "d.jsonl"))).place(1).endswith("d.jsonl line 3")
    assert open_records(DataSource(str(tmp_path / "d.json"))).place(1).endswith("d.json record 1")


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("none.json", None, "no such data file"),
        ("a.txt", "x", "unknown file type '.txt'"),
        ("a.json", "[1,", "not JSON"),
        ("a.json", "{}", "expected a JSON list"),
        ("a.json", "[]", "no records"),
        ("a.jsonl", "\n", "no records"),
        ("a.parquet", "x", "not readable as parquet"),
    ],
)
def test_unreadable_files_are_named(tmp_path, name, content, words):
    if content is not None:
        (tmp_path / name).write_text(content)
    with pytest.raises(WingsError, match=words) as error:
        open_records(DataSource(str(tmp_path / name)))
    assert name in str(error.value)


def test_stop_names_file_record_and_id(mixed):
    data = ConversationDataset([mixed], Speller(), max_length=50)
    assert "pixel_values" in data[0] and "pixel_values" not in data[3]
    with pytest.raises(
        WingsError, match=r"d\.json record 1 \(id 'two'\): no image file .*gone\.png"
    ):
        data[1]
    with pytest.raises(WingsError, match=r"record 2: an answer is empty; .*on_bad_record"):
        data[2]
    with pytest.raises(WingsError, match=r"record 4: 100 tokens do not fit into 50"):
        data[4]


def test_skip_takes_the_next_good_record_and_counts(mixed):
    data = ConversationDataset([mixed, mixed], Speller(), max_length=50, on_bad_record="skip")
    assert len(data) == 10
    good = {0: 0, 1: 3, 2: 3, 3: 3, 4: 0, 5: 5, 6: 8, 7: 8, 8: 8, 9: 5}
    for number, replacement in good.items():
        assert torch.equal(data[number]["input_ids"], data[replacement]["input_ids"]), number
    assert [number for number, _ in data[6]["skipped"]] == [6, 7]
    assert "gone.png" in data[6]["skipped"][0][1]
    assert "skipped" not in data[0]


def test_a_broken_line_is_one_bad_record(tmp_path):
    (tmp_path / "d.jsonl").write_text(json.dumps(record("a", "b")) + "\n{oops\n[1]\n")
    data = ConversationDataset(
        [DataSource(str(tmp_path / "d.jsonl"))], Speller(), on_bad_record="skip"
    )
    assert torch.equal(data[1]["input_ids"], data[0]["input_ids"])
    sentences = [sentence for _, sentence in data[1]["skipped"]]
    assert "line 2: not JSON" in sentences[0] and "line 3: a record is a mapping" in sentences[1]


def test_a_wrong_images_folder_stops_even_when_skipping(tmp_path):
    records = [record("<image>", "b", image=f"{n}.png") for n in range(ROW_OF_BAD_RECORDS + 50)]
    (tmp_path / "d.json").write_text(json.dumps(records))
    data = ConversationDataset(
        [DataSource(str(tmp_path / "d.json"))], Speller(), on_bad_record="skip"
    )
    with pytest.raises(WingsError, match=f"{ROW_OF_BAD_RECORDS} records in a row.*0.png"):
        data[0]


def test_images_lie_beside_the_file_unless_a_folder_is_named(mixed, tmp_path):
    (tmp_path / "other").mkdir()
    assert "pixel_values" in ConversationDataset([DataSource(mixed.path)], Speller())[0]
    with pytest.raises(WingsError, match=r"other.a\.png"):
        ConversationDataset([DataSource(mixed.path, str(tmp_path / "other"))], Speller())[0]


def test_limit_takes_the_first_records(mixed):
    mixed.limit = 1
    assert len(ConversationDataset([mixed], Speller())) == 1
    mixed.limit = 50
    assert len(ConversationDataset([mixed], Speller())) == 5


def test_collate_pads_on_the_right_and_keeps_reading_order(mixed):
    data = ConversationDataset([mixed], Speller(), max_length=50, on_bad_record="skip")
    batch = Collator(pad_token_id=0)([data[0], data[3], data[2]])
    assert batch["input_ids"].shape == batch["labels"].shape == (3, 8)
    assert batch["attention_mask"].tolist()[0] == [1] * 7 + [0]
    assert batch["labels"][0].tolist() == [-100] * 4 + [ord(c) for c in "yes"] + [-100]
    assert batch["pixel_values"].shape == (1, 3, 2, 2)
    assert [number for number, _ in batch["skipped"]] == [2]
    assert {"pixel_values", "skipped"}.isdisjoint(Collator(0)([data[3]]))


def test_collate_does_not_take_a_real_token_for_padding():
    ids = torch.tensor([5, 0, 5])
    batch = Collator(pad_token_id=0)([{"input_ids": ids, "labels": ids}])
    assert batch["attention_mask"].tolist() == [[1, 1, 1]]


def test_the_order_depends_on_seed_and_epoch_only():
    order = RecordSampler([10, 6], [1.0, 1.0], batch_size=4, seed=3)
    first = list(order)
    assert sorted(first) == list(range(16)) and first != sorted(first)
    assert list(RecordSampler([10, 6], [1.0, 1.0], batch_size=4, seed=3)) == first
    order.set_epoch(1)
    assert sorted(order) == list(range(16)) and list(order) != first
    assert list(RecordSampler([10, 6], [1.0, 1.0], batch_size=4, seed=4)) != first


def test_weights_are_passes_per_epoch_and_epochs_fill_whole_batches():
    order = RecordSampler([10, 100], [2.5, 0.1], batch_size=8, seed=0)
    seen = Counter(list(order)[:35])
    assert len(order) == 40 and len(list(order)) == 40
    assert sorted(Counter(seen[n] for n in range(10)).items()) == [(2, 5), (3, 5)]
    chosen = {n for n in seen if n >= 10}
    assert len(chosen) == 10
    order.set_epoch(1)
    # The part of a file that a small weight takes is a fresh one in every epoch.
    assert {n for n in list(order)[:35] if n >= 10} != chosen


def test_an_epoch_smaller_than_a_batch_repeats_itself():
    assert Counter(RecordSampler([3], [1.0], batch_size=8, seed=0)).most_common()[-1][1] == 2
