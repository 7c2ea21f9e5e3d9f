"""Tests of the sampler: mixtures, shares and shuffle buffers; only seed and epoch decide."""

import os
from collections import Counter

import pytest
from torch.utils.data import DataLoader

from wings.errors import WingsError
from wings.processing.image_processor import WingsImageProcessor
from wings.processing.processor import WingsProcessor
from wings.train.data import dataset as data_module
from wings.train.data.dataset import ConversationDataset
from wings.train.data.sampler import RecordSampler, epoch_counts
from wings.train.recipe import DataSource, Recipe
from wings.train.run import train


def test_a_share_is_of_the_samples_of_an_epoch():
    counts = epoch_counts([1000, 50, 9000], [1.0, 1.0, 1.0], [None, None, 0.1])
    assert counts == [1000, 50, 117]
    assert counts[2] / sum(counts) == pytest.approx(0.1, abs=1e-3)
    # A small source is repeated to reach its share; two shares are each of the whole.
    counts = epoch_counts([30, 600, 7], [1.0, 0.5, 1.0], [0.25, None, 0.15])
    assert counts == [125, 300, 75] and sum(counts) == 500
    seen = Counter(RecordSampler([30, 600, 7], [1, 0.5, 1], 4, 0, shares=[0.25, None, 0.15]))
    assert {seen[n] for n in range(30)} == {4, 5}
    assert sum(seen[n] for n in range(630, 637)) == 75


def test_without_a_share_epochs_are_what_weights_say():
    assert list(RecordSampler([9, 5], [1.0, 2.0], 4, 1)) == list(
        RecordSampler([9, 5], [1.0, 2.0], 4, 1, shares=[None, None], shuffle_buffers=[None, None])
    )


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ([{"share": 10}, {}], r"data\.0\.share: 10\.0 is not between 0 and 1"),
        ([{"share": 0}, {}], r"data\.0\.share: 0\.0 is not"),
        ([{}, {"share": 0.1, "weight": 2}], r"data\.1: weight and share are both given"),
        ([{"share": 0.5}, {"share": 0.5}], "every source has a share"),
        ([{"share": 0.5}, {"share": 0.5}, {}], "the shares add up to 1 "),
        ([{"stream": True}], r"data\.0\.stream: also needs split"),
        ([{"subset": "x"}], r"data\.0\.subset: also needs split"),
        (
            [{"split": "train", "stream": True, "shuffle_buffer": 0}],
            r"data\.0\.shuffle_buffer: 0 must be larger",
        ),
    ],
)
def test_mixtures_that_mean_nothing_are_refused(changes, words):
    sources = [{"path": f"{n}.json", **change} for n, change in enumerate(changes)]
    values = {"stage": "align", "output": "x", "start": "y", "data": sources}
    with pytest.raises(WingsError, match=words):
        Recipe.from_dict(values, "r.yaml")


def test_a_window_is_read_forwards_and_misses_nothing():
    order = RecordSampler([23, 10], [1.0, 1.0], 1, 3, shuffle_buffers=[6, None])
    stream = [number for number in order if number < 23]
    assert sorted(stream) == list(range(23)) and stream != sorted(stream)
    assert [number // 6 for number in stream] == sorted(number // 6 for number in stream)
    order.set_epoch(1)
    again = [number for number in order if number < 23]
    assert again != stream and sorted(again) == list(range(23))


def test_parts_of_a_stream_follow_one_another_over_the_epochs():
    order = RecordSampler([23], [0.3], 1, 0, shuffle_buffers=[6])
    seen = []
    for epoch in range(23):
        order.set_epoch(epoch)
        seen.append(list(order))
    assert {len(part) for part in seen} == {7}
    # Seven passes over 23 records, each whole before the next begins.
    flat = [number for part in seen for number in part]
    passes = [flat[start : start + 23] for start in range(0, len(flat), 23)]
    assert len(passes) == 7 and all(sorted(one) == list(range(23)) for one in passes)
    assert passes[0] != passes[1]
    order.set_epoch(5)
    assert list(order) == seen[5]


def test_batches_do_not_depend_on_the_number_of_workers(data, plain, tmp_path):
    lines = (data / "text.jsonl").read_text().splitlines()
    lines[3] = "{broken"
    bad = tmp_path / "broken.jsonl"
    bad.write_text("\n".join(lines))
    sources = [DataSource(str(data / "pictures.json"), weight=0.5), DataSource(str(bad), share=0.6)]
    conversations = ConversationDataset(sources, plain[1], on_bad_record="skip")
    order = conversations.sampler(batch_size=4, seed=2)
    seen = []
    for workers in (0, 1, 3):
        loader = DataLoader(conversations, 4, sampler=order, num_workers=workers, collate_fn=list)
        epochs = []
        for epoch in (0, 1):
            order.set_epoch(epoch)
            epochs.append(
                [
                    [
                        (s["input_ids"].tolist(), "pixel_values" in s, s.get("skipped"))
                        for s in batch
                    ]
                    for batch in loader
                ]
            )
        seen.append(epochs)
    assert seen[0] == seen[1] == seen[2]
    assert seen[0][0] != seen[0][1]
    assert any(skipped for batch in seen[0][0] for _, _, skipped in batch)


def test_only_workers_read_decode_and_tokenise(make_recipe, tmp_path, monkeypatch):
    log = tmp_path / "processes"

    def watched(name, function):
        def call(*arguments, **options):
            with log.open("a") as file:
                file.write(f"{name} {os.getpid()}\n")
            return function(*arguments, **options)

        return call

    monkeypatch.setattr(data_module, "to_messages", watched("read", data_module.to_messages))
    for kind, name in ((WingsImageProcessor, "preprocess"), (WingsProcessor, "encode")):
        monkeypatch.setattr(kind, name, watched(name, vars(kind)[name]))
    recipe = make_recipe("instruct", workers=2)
    train(recipe)
    entries = [line.split() for line in log.read_text().splitlines()]
    assert {name for name, _ in entries} == {"read", "preprocess", "encode"}
    here = [name for name, process in entries if int(process) == os.getpid()]
    # Before the first step: the first record of each source is tried, and one with an image is
    # looked for, which is the first that is read.
    assert here.count("encode") == len(recipe.data)
    assert here.count("read") == len(recipe.data) + 1
    assert [name for name, _ in entries[: len(here)]] == here
    assert len({process for _, process in entries[len(here) :]} - {str(os.getpid())}) == 2
    log.unlink()
    # The same watch sees the main process where there are no workers.
    train(make_recipe("instruct", workers=0, output=str(tmp_path / "other")))
    assert {int(line.split()[1]) for line in log.read_text().splitlines()} == {os.getpid()}
