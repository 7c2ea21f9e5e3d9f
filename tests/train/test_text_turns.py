"""Text turns: which conversation gets which exchange, what is learned of it, what is refused."""

import json
import math
from collections import Counter

import pytest
import torch
from draws import examples
from hypothesis import given
from hypothesis import strategies as st

from wings.errors import WingsError
from wings.processing.processor import WingsProcessor
from wings.train.data.dataset import ConversationDataset
from wings.train.data.lengths import LengthEstimator
from wings.train.data.survey import survey
from wings.train.data.text_turns import TextExchanges
from wings.train.estimate.budget import EpochEstimate
from wings.train.recipe import DataSource, TextTurns
from wings.train.run import train

PICTURE = [{"role": "user", "content": [{"type": "image", "image": "x"}]}]
ANSWERED = [*PICTURE, {"role": "assistant", "content": [{"type": "text", "text": "red"}]}]


def exchange(n, **more):
    turns = [{"role": "user", "content": f"{n}*2?"}, {"role": "assistant", "content": f"{2 * n}."}]
    return {"messages": turns, **more}


def write(path, records):
    path.write_text("\n".join(map(json.dumps, records)))
    return str(path)


@pytest.fixture
def texts(tmp_path):
    """A file of 10 exchanges in two formats, some with a system message or more turns."""
    records = [exchange(n) for n in range(10)]
    records[3]["messages"].insert(0, {"role": "system", "content": "be brief"})
    records[4]["messages"] += exchange(99)["messages"]
    records[5] = {"texts": [{"user": "5*2?", "assistant": "10."}]}
    return write(tmp_path / "texts.jsonl", records)


def said(messages):
    return ["".join(part["text"] for part in one["content"]) for one in messages]


@examples(25)
@given(seed=st.integers(0, 2**40), start=st.integers(0, 10**9), share=st.floats(0.05, 1.0))
def test_who_gets_what_depends_on_seed_and_number_alone(tmp_path_factory, seed, start, share):
    path = tmp_path_factory.mktemp("t") / "t.jsonl"
    write(path, [exchange(n) for n in range(10)])
    one, other = (TextExchanges(TextTurns(str(path), share), seed) for _ in range(2))
    numbers = range(start, start + 600)
    drawn = [one.after(n, ANSWERED) for n in numbers]
    # In another order, with other conversations.
    talk = [*ANSWERED, *ANSWERED]
    assert [other.after(n, talk) for n in reversed(numbers)] == drawn[::-1]
    got = [said(turns) for turns in drawn if turns]
    # Bernstein's inequality: fair draws miss it once in a billion times, for any share.
    log, variance = math.log(2e9), 600 * share * (1 - share)
    assert abs(len(got) - 600 * share) <= log / 3 + (log**2 / 9 + 2 * log * variance) ** 0.5
    assert {turn[0] for turn in got} <= {f"{n}*2?" for n in range(10)}
    if share > 0.5:
        assert len({turn[0] for turn in got}) == 10
        further = TextExchanges(TextTurns(str(path), share), seed + 1)
        assert [further.after(n, ANSWERED) for n in numbers] != drawn


def test_an_exchange_is_the_first_of_its_record_and_stands_behind_answered_pictures(texts):
    exchanges = TextExchanges(TextTurns(texts, 1.0), 0)
    assert [said(exchanges.read(n)) for n in range(10)] == [
        [f"{n}*2?", f"{2 * n}."] for n in range(10)
    ]
    assert [one["role"] for one in exchanges.read(3)] == ["user", "assistant"]
    assert len(exchanges.after(0, ANSWERED)) == 2
    assert exchanges.after(0, exchanges.read(1)) == []
    assert exchanges.after(0, [*ANSWERED, *PICTURE]) == []


def test_pictures_get_a_learned_answer_and_text_stays(make_recipe, checkpoint, texts):
    processor = WingsProcessor.from_pretrained(checkpoint)
    plain = make_recipe("align")
    recipe = make_recipe("align", text_turns=TextTurns(texts, 0.5), seed=3)
    before, after = (ConversationDataset.of(r, processor) for r in (plain, recipe))
    longer = Counter()
    for number in range(len(after)):
        one, other = before[number], after[number]
        length = len(one["input_ids"])
        added = processor.tokenizer.decode(other["input_ids"][length:], skip_special_tokens=False)
        longer["pixel_values" in one, bool(added)] += 1
        assert torch.equal(other["input_ids"][:length], one["input_ids"])
        assert torch.equal(other["labels"][:length], one["labels"])
        if added:
            question, answer = said(after.messages(number)[1])
            written = added.replace(" ", "")
            assert written == f"<|user|>{question}<|end|><|assistant|>{answer}<|end|>"
            learned = other["labels"][length:]
            spoken = processor.tokenizer.decode(learned[learned != -100]).replace(" ", "")
            assert spoken == f"{answer}<|end|>"
            assert torch.equal(one["pixel_values"], other["pixel_values"])
    assert longer[False, True] == 0 and longer[False, False] == 8
    assert 3 <= longer[True, True] <= 13 and longer[True, True] + longer[True, False] == 16


def test_a_conversation_without_room_for_it_keeps_its_picture(make_recipe, checkpoint, texts):
    processor = WingsProcessor.from_pretrained(checkpoint)
    full = make_recipe("align", text_turns=TextTurns(texts, 1.0))
    data = ConversationDataset.of(full, processor)
    lengths = sorted(len(data[n]["input_ids"]) for n in range(16))
    room = lengths[8]
    recipe = make_recipe("align", text_turns=TextTurns(texts, 1.0), max_length=room)
    plain = make_recipe("align", max_length=room)
    short, before = (ConversationDataset.of(r, processor) for r in (recipe, plain))
    kinds = Counter()
    for number in range(16):
        whole, mine, own = (d[number]["input_ids"] for d in (data, short, before))
        kinds[len(whole) <= room] += 1
        assert torch.equal(mine, whole if len(whole) <= room else own)
        assert "pixel_values" in short[number]
    assert len(kinds) == 2


def test_a_skipped_record_is_replaced_by_one_with_its_own_exchange(make_recipe, checkpoint, texts):
    processor = WingsProcessor.from_pretrained(checkpoint)
    recipe = make_recipe("align", text_turns=TextTurns(texts, 1.0), on_bad_record="skip")
    data = ConversationDataset.of(recipe, processor)
    whole = data[3]["input_ids"]
    encode = data.encode

    def broken(number):
        if number == 2:
            raise WingsError("gone")
        return encode(number)

    data.encode = broken
    assert torch.equal(data[2]["input_ids"], whole) and data[2]["skipped"] == [(2, "gone")]


@pytest.mark.parametrize(
    ("records", "words"),
    [
        (None, "text_turns: .*no such data file"),
        ([], "text_turns: .*contains no records"),
        ([exchange(1), {"x": 1}], "text_turns: .*line 2: no 'conversations'"),
        ([exchange(1, image="a.png")], "text_turns: .*line 1: 0 image placeholders for 1"),
        (
            [{"texts": [{"user": "<image>?", "assistant": "a"}], "images": ["a.png"]}],
            "text_turns: .*line 1: it has an image; remove the record",
        ),
    ],
)
def test_a_bad_file_is_refused_before_any_work(make_recipe, monkeypatch, tmp_path, records, words):
    monkeypatch.setattr("wings.train.run.load_model", None)
    if records is not None:
        write(tmp_path / "t.jsonl", records)
    recipe = make_recipe("align", text_turns=TextTurns(str(tmp_path / "t.jsonl"), 0.5))
    with pytest.raises(WingsError, match=words) as error:
        train(recipe)
    assert "\n" not in str(error.value) and "t.jsonl" in str(error.value)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("share", [-0.1, 0.0, 1.1])
def test_a_share_is_a_share(make_recipe, share):
    with pytest.raises(WingsError, match=r"text_turns\.share: .*above 0 and up to 1"):
        make_recipe("align", text_turns=TextTurns("t.jsonl", share))


def test_lengths_plan_and_check_see_the_longer_samples(make_recipe, checkpoint, texts, data):
    processor = WingsProcessor.from_pretrained(checkpoint)
    sources = [DataSource(str(data / "pictures.json"), str(data))]
    plain = make_recipe("align", data=sources)
    recipe = make_recipe("align", data=sources, text_turns=TextTurns(texts, 1.0))
    conversations = ConversationDataset.of(recipe, processor)
    lengths = LengthEstimator(conversations, processor, recipe.max_length)
    encoded = [len(conversations[number]["input_ids"]) for number in range(16)]
    for number, tokens in enumerate(encoded):
        # The template's own tokens are not counted.
        assert 0 <= tokens - lengths(number).tokens <= 12 and lengths(number).senses == ("image",)
    means = [EpochEstimate.of(one).mean for one in (plain, recipe)]
    assert means[1] == pytest.approx(sum(encoded) / 16) and means[1] > means[0] + 8
    (found, _), _ = survey(recipe, processor, workers=0)
    assert sorted(found.tokens) == sorted(encoded)
    assert (found.text_turns, found.without, found.cut) == (16, 0, 0)
    room = sorted(encoded)[8]
    narrow = make_recipe(
        "align", data=sources, text_turns=TextTurns(texts, 1.0), max_length=room
    )  # fmt: skip
    (found, _), _ = survey(narrow, processor, workers=0)
    fit = sum(tokens <= room for tokens in encoded)
    assert (found.text_turns, found.without, found.cut) == (fit, 16 - fit, 0)
    assert max(found.tokens) <= room
    whole = [lengths(n).tokens for n in range(16)]
    room = round(sorted(whole)[8])
    short, own = (
        LengthEstimator(ConversationDataset.of(r, processor), processor, room)
        for r in (recipe, plain)
    )
    assert min(whole) < room < max(whole)
    for n in range(16):
        assert short(n).tokens == pytest.approx(
            whole[n] if whole[n] <= room else min(own(n).tokens, room)
        )


@pytest.mark.parametrize("way", ["group", "pack"])
def test_workers_accumulation_and_batching_change_no_loss(make_recipe, texts, tmp_path, way):
    losses = []
    settings = {"batching": way, "batch_size": 8, "steps": None, "epochs": 2}
    for name, changes in {"a": {}, "b": {"device_batch_size": 2}, "c": {"workers": 2}}.items():
        recipe = make_recipe(
            "align", output=str(tmp_path / name), text_turns=TextTurns(texts, 0.5),
            learning_rates={"projector": 1e-2}, **settings, **changes,
        )  # fmt: skip
        losses.append(train(recipe).losses)
    plain = train(make_recipe("align", output=str(tmp_path / "d"), **settings)).losses
    assert losses[1] == pytest.approx(losses[0], rel=1e-5) and losses[2] == losses[0]
    assert losses[0][0] != pytest.approx(plain[0], rel=1e-3)


def test_a_resumed_run_gives_the_same_exchanges(make_recipe, texts, tmp_path):
    settings = {
        "text_turns": TextTurns(texts, 0.5), "learning_rates": {"projector": 1e-2}, "save_every": 3,
        "steps": None, "epochs": 2,
    }  # fmt: skip
    whole = train(make_recipe("align", output=str(tmp_path / "whole"), **settings))

    def stop(step, steps, metrics):
        if step == 8:
            raise KeyboardInterrupt

    recipe = make_recipe("align", **settings)
    with pytest.raises(KeyboardInterrupt):
        train(recipe, watch=stop)
    assert train(recipe).losses == whole.losses
