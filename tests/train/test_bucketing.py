"""Tests of batching by length and of packed rows: contents, and losses equal to padded ones."""

from collections import Counter

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from wings.errors import WingsError
from wings.model.causal_lm import WingsForCausalLM
from wings.processing.processor import WingsProcessor
from wings.train.data.bucketing import MEGABATCH, BatchingSampler
from wings.train.data.collator import Collator, Packer, fill_rows
from wings.train.data.dataset import ConversationDataset
from wings.train.data.lengths import EstimatedLength, LengthEstimator
from wings.train.data.sampler import RecordSampler
from wings.train.recipe import DataSource
from wings.train.run import train


def made_up(number):
    """LengthEstimator as people's are: many short ones, few long ones, pictures in two of three."""
    pictures = int(number % 3 > 0)
    senses = ("image",) * pictures
    return EstimatedLength(senses, 10.0 + (number * 7919 % 997) ** 2 / 1000 + 100 * pictures)


def batches_of(order, size):
    numbers = list(order)
    return [numbers[start : start + size] for start in range(0, len(numbers), size)]


@pytest.mark.parametrize("way", ["group", "pack"])
def test_batching_moves_samples_within_windows_and_loses_none(way):
    order = RecordSampler([1500, 700], [1.0, 1.3], batch_size=16, seed=5)
    batching = BatchingSampler(order, way, made_up)
    assert len(batching) == len(order)
    room = MEGABATCH * 16
    for epoch in (0, 1):
        batching.set_epoch(epoch)
        plain, arranged = list(order), list(batching)
        assert arranged != plain and arranged == list(batching)
        for start in range(0, len(plain), room):
            assert Counter(plain[start : start + room]) == Counter(arranged[start : start + room])


def test_group_pads_little_and_parts_pictures_from_text():
    order = RecordSampler([4000], [1.0], batch_size=16, seed=0)

    def padded(numbers):
        rows = [[made_up(n).tokens for n in batch] for batch in batches_of(numbers, 16)]
        return 1 - sum(map(sum, rows)) / sum(16 * max(row) for row in rows)

    grouped = BatchingSampler(order, "group", made_up)
    assert padded(order) > 0.5 and padded(grouped) < 0.1
    kinds = [{made_up(n).senses for n in batch} for batch in batches_of(grouped, 16)]
    windows = len(order) // (MEGABATCH * 16) + 1
    assert sum(len(kind) == 2 for kind in kinds) <= windows
    # Not from short to long: neighbours in time are strangers.
    first = [made_up(batch[0]).tokens for batch in batches_of(grouped, 16)[:MEGABATCH]]
    assert first != sorted(first)


def test_pack_gives_every_step_and_every_half_of_it_as_many_tokens():
    order = RecordSampler([4096], [1.0], batch_size=32, seed=0)

    def spreads(numbers, size):
        sums = [sum(made_up(n).tokens for n in part) for part in batches_of(numbers, size)]
        return max(sums) / min(sums)

    packed = BatchingSampler(order, "pack", made_up)
    assert spreads(order, 32) > 1.5 and spreads(packed, 32) < 1.02
    assert spreads(order, 8) > 3 and spreads(packed, 8) < 1.6


@given(
    lengths=st.lists(st.integers(1, 60), min_size=1, max_size=20),
    room=st.integers(1, 100),
)
def test_rows_hold_every_sample_once_and_no_more_than_fits(lengths, room):
    rows = fill_rows(lengths, room)
    assert sorted(n for row in rows for n in row) == list(range(len(lengths)))
    room = max(room, *lengths)
    assert all(0 < sum(lengths[n] for n in row) <= room for row in rows)
    # Two rows that fit into one would be one: no more than twice as many as could be.
    assert len(rows) <= max(1, 2 * -(-sum(lengths) // room))


@pytest.fixture
def samples(make_recipe, checkpoint):
    """Eight encoded conversations, with pictures and without, of many lengths."""
    recipe = make_recipe("align")
    data = ConversationDataset(recipe.data, WingsProcessor.from_pretrained(checkpoint), 64)
    return [data[n] for n in (0, 16, 3, 7, 17, 19, 12, 23)]


def test_a_packed_batch_has_the_loss_and_the_gradient_of_the_padded_one(samples, checkpoint):
    model = WingsForCausalLM.from_pretrained(
        checkpoint, learners=["image", "text"], router="position"
    )
    # Fresh learners say nothing; these do.
    torch.manual_seed(1)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if ".wings." in name:
                parameter.normal_(std=0.3)
    model.train()
    found = []
    # A label on a first token too: what stands before it in a row must not have to foretell it.
    samples[1]["labels"][0] = samples[1]["input_ids"][0]
    for collate in (Collator(0), Packer(0, 64)):
        batch = collate(samples)
        model.zero_grad()
        loss = model(**batch).loss
        loss.backward()
        gradient = {n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None}
        found.append((batch, loss.item(), gradient))
    (padded, one, first), (packed, two, second) = found
    assert len(packed["input_ids"]) < len(padded["input_ids"]) == 8
    assert packed["attention_mask"].sum() == padded["attention_mask"].sum()
    share = [1 - batch["attention_mask"].float().mean().item() for batch in (padded, packed)]
    assert share[1] < 0.5 * share[0]
    assert (packed["position_ids"] == 0).logical_and(packed["attention_mask"] == 1).sum() == 8
    assert two == pytest.approx(one, rel=1e-5)
    for name, gradient in first.items():
        torch.testing.assert_close(second[name], gradient, rtol=1e-3, atol=1e-5)


def test_pictures_of_packed_rows_stand_in_reading_order(samples):
    for n, sample in enumerate(samples):
        if "pixel_values" in sample:
            sample["pixel_values"] = torch.full_like(sample["pixel_values"], float(n))
        sample["input_ids"] = torch.full_like(sample["input_ids"], n + 1)
    batch = Packer(0, 64)(samples)
    rows = [row[row > 0].unique_consecutive().tolist() for row in batch["input_ids"]]
    expected = [n - 1 for row in rows for n in row if "pixel_values" in samples[n - 1]]
    assert batch["pixel_values"][:, 0, 0, 0].tolist() == expected


def test_lengths_come_near_what_encoding_gives(make_recipe, checkpoint, data, tmp_path):
    processor = WingsProcessor.from_pretrained(checkpoint)
    recipe = make_recipe("align")
    conversations = ConversationDataset(recipe.data, processor, 64)
    lengths = LengthEstimator(conversations, processor, 64)
    for number in (0, 5, 15, 16, 23):
        encoded = conversations[number]
        # The template's own tokens are not counted.
        assert 0 <= len(encoded["input_ids"]) - lengths(number).tokens <= 6
        assert bool(lengths(number).senses) == ("pixel_values" in encoded)
    (tmp_path / "d.jsonl").write_text('{oops\n{"conversations": []}')
    broken = ConversationDataset([DataSource(str(tmp_path / "d.jsonl"))], processor, 64)
    assert LengthEstimator(broken, processor, 64)(0) == EstimatedLength((), 0.0)


@pytest.mark.parametrize("way", ["group", "pack"])
def test_accumulation_and_workers_do_not_matter_to_batching(make_recipe, tmp_path, way):
    losses = []
    for name, changes in {"a": {}, "b": {"device_batch_size": 2}, "c": {"workers": 1}}.items():
        recipe = make_recipe(
            "instruct", output=str(tmp_path / name), batch_size=8, batching=way,
            learning_rates={"projector": 1e-2}, **changes,
        )  # fmt: skip
        losses.append(train(recipe).losses)
    assert losses[1] == pytest.approx(losses[0], rel=1e-5) and losses[2] == losses[0]
    assert max(losses[0]) != pytest.approx(min(losses[0]), rel=1e-3)


def test_a_stream_has_no_lengths_to_batch_by(make_recipe):
    stream = DataSource("some/name", split="train", stream=True, limit=8)
    with pytest.raises(WingsError, match=r"batching: pack .* the stream data\.0"):
        make_recipe("align", batching="pack", data=[stream])
