"""`wings speech` with small random weights and tones: data, both stages, scores and page."""

import json

import pytest
from small_weights import SPEECH, make_ears, make_weights

from wings.errors import WingsError
from wings.eval.items import Item, read_items
from wings.examples.conversations import read_lines
from wings.examples.speech import speech_run
from wings.examples.speech.records import KINDS, SpokenAmounts
from wings.examples.speech.speech_data import SILENCE, SpeechAmounts, make_speech
from wings.examples.speech.speech_score import count, with_sound
from wings.examples.speech.tones import Tones
from wings.train.run_folder import RunFolder

AMOUNTS = SpeechAmounts(SpokenAmounts(align=4, instruct=24, held_out=2), texts=3)
SMALL = (
    "steps=2", "batch_size=2", "senses.audio.learner_layers=[0]", "senses.audio.rank=4",
)  # fmt: skip


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A finished run: its folder and its results."""
    folder = tmp_path_factory.mktemp("speech")
    make_weights(folder / "weights")
    make_ears(folder / "weights" / "whisper")
    shipped = speech_run.shipped_recipe
    of_ears = [f"model.audio.{key}={value}" for key, value in SPEECH.items()]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(speech_run, "find_speaker", Tones)
        patch.setattr(
            speech_run, "shipped_recipe",
            lambda name, place, keys: shipped(
                name, place, [*keys, *(of_ears if name == "speech-align" else ())]
            ),
        )  # fmt: skip
        patch.setattr(speech_run, "llm_answers", lambda llm, asked: ["It is so."] * len(asked))
        found = speech_run.run_all(folder, AMOUNTS, 5, SMALL, speech_run.unwatched)
    return folder, found


def test_text_is_kept_to_the_last_bit(finished):
    _, found = finished
    for name in ("text logits bitwise equal", "text answers equal"):
        assert found[name]["right"] == found[name]["of"] == 3


def test_every_kind_is_scored_with_and_without_the_sound(finished):
    folder, found = finished
    for model, kinds in (
        ("wings", {*KINDS, "text", "mixed"}), ("llm", {*KINDS, "text", "mixed"}),
        ("silence", {*KINDS}), ("words", {*KINDS}),
    ):  # fmt: skip
        scores = found["scores"][model]
        assert scores.keys() == kinds and all(scores[kind]["of"] == 2 for kind in KINDS)
    assert json.loads((folder / "results.json").read_text()) == found
    page = (folder / "README.md").read_text()
    assert "3 of 3 written questions give bitwise" in page and "--seed 5" in page
    assert page.count("| Wings |") == 1
    assert all(RunFolder(folder / stage).finished for stage in ("align", "instruct"))


def test_some_conversations_go_on_with_a_written_question(finished):
    folder, _ = finished
    lengths = {len(record["messages"]) for record in read_lines(folder / "data/instruct.jsonl")}
    assert lengths == {2, 4}
    texts, mixed = (read_items(folder / f"data/{name}.jsonl") for name in ("text", "mixed"))
    for item, after in zip(texts, mixed, strict=True):
        assert item.messages == after.messages[2:] and item.answer == after.answer
        assert after.messages[0]["content"][0]["type"] == "audio"


def test_data_of_another_seed_is_refused(finished):
    folder, _ = finished
    with pytest.raises(WingsError, match="the data of --seed 5"):
        make_speech(folder / "data", Tones, list, AMOUNTS, 6)


def test_silence_takes_the_place_of_the_sound_alone():
    parts = [{"type": "audio", "audio": "a.wav"}, {"type": "text", "text": "What?"}]
    item = Item("word", ({"role": "user", "content": parts},), "cat")
    assert with_sound(item, SILENCE).messages[0]["content"] == [
        {"type": "audio", "audio": SILENCE}, parts[1],
    ]  # fmt: skip
    right = count([item, item], ["It is a cat.", "category"])["word"]
    assert (right.right, right.total) == (1, 2)


def test_a_machine_without_a_synthesiser_is_told_what_to_install(monkeypatch):
    monkeypatch.setattr(speech_run, "synthesiser", lambda: None)
    with pytest.raises(WingsError, match="pip install espeakng-loader"):
        speech_run.find_speaker()
