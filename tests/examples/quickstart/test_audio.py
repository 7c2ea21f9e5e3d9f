"""`wings quickstart --audio`: its sounds, its speaker, and a few steps of everything."""

import json
from collections import Counter
from pathlib import Path

import pytest
from forked import Program
from PIL import Image
from transformers import AutoTokenizer

from wings.cli import main
from wings.examples.conversations import read_lines
from wings.examples.quickstart import comparison, hearing
from wings.examples.quickstart.composition import PREFLIGHT_SIZE, Composition
from wings.examples.quickstart.dataset import QuickstartAmounts, QuickstartSize, Writer
from wings.examples.quickstart.hearing import choose_speaker
from wings.examples.quickstart.jobs import ASSETS
from wings.examples.quickstart.methods import METHODS
from wings.examples.quickstart.sounds import (
    DIGITS,
    NEW_SUMS,
    SEQUENCES,
    SPOKEN,
    SUMS,
    SoundAmounts,
    write_sequences,
    write_sounds,
)
from wings.examples.speech.synthesiser import Synthesiser
from wings.examples.speech.tones import Tones

# In a process of its own: it forks before torch computes. The run is as small as a preflight.
CODE = """
import sys
from pathlib import Path
from unittest import mock
from wings.examples.quickstart import hearing, run
from wings.examples.quickstart.composition import PREFLIGHT_SIZE
from wings.examples.quickstart.dataset import QuickstartAmounts, QuickstartSize

amounts = QuickstartAmounts(captions=16, conversations=16, held_out=6)
size = QuickstartSize(amounts, align_steps=1, instruct_steps=2)
with (
    mock.patch.object(run, "preflight"),
    mock.patch.object(hearing, "synthesiser", lambda: None),
):
    run.quickstart(Path(sys.argv[1]), seed=3, audio=True, size=size, sounds=PREFLIGHT_SIZE)
"""


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """The folder, results.json and what was printed."""
    folder = tmp_path_factory.mktemp("runs") / "heard"
    done = Program("-c", CODE, folder)
    printed, errors = done.communicate()
    assert done.returncode == 0, errors[-3000:]
    return folder, json.loads((folder / "results.json").read_text(encoding="utf-8")), printed


def test_what_both_models_compute_apart_the_composed_one_computes_to_the_last_bit(run):
    _, results, _ = run
    same = results["jobs"]["both"]["same_logits"]
    assert same == {name: {"equal": 6, "compared": 6} for name in ("text", "pictures", "sounds")}
    assert results["jobs"]["both"]["scores"]["text"] == results["jobs"]["before"]["text"]


def test_every_figure_of_the_page_was_measured(run):
    folder, results, printed = run
    report = (folder / "report.md").read_text(encoding="utf-8")
    jobs = results["jobs"]
    for rule in ("sum", "mean", "newest", "attended"):
        scores = jobs[f"both-{rule}"]["scores"]
        assert all(scores[test]["total"] == 6 for test in scores) and len(scores) == 3
    for words, test in (("pictures", "pictures"), ("text after a sound", "text_after_sound")):
        percent = 100 * jobs["both"]["scores"][test]["right"] / 6
        (line,) = [line for line in report.splitlines() if line.startswith(f"| {words} |")]
        assert f"| {percent:.1f} (" in line
    assert set(jobs["hears"]["trained"]) == {
        "audio_projector", "audio_learners", "audio_text_learners"
    }  # fmt: skip
    with Image.open(folder / "plot.png") as image:
        assert image.width > 1000
    assert "no speech synthesiser is installed" in printed and "no speech" in report
    lines = [line.strip() for line in printed.splitlines()]
    both, showcase = folder / "rows/both", folder / "showcase"
    assert f"wings chat {both} --image {showcase}/1.png --audio {showcase}/1.wav" in lines


def test_one_conversation_has_the_picture_and_both_sounds(run):
    folder, results, printed = run
    talk = results["talk"]
    assert [("picture" in turn, "sound" in turn) for turn in talk] == [
        (True, False), (False, True), (False, False), (False, True), (False, False)
    ]  # fmt: skip
    for turn in talk:
        assert all((folder / turn[kind]).is_file() for kind in ("picture", "sound") if kind in turn)
        assert turn["answer"] in printed and turn["question"] in printed


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """The data of a small run, with tones."""
    folder = tmp_path_factory.mktemp("data") / "data"
    Writer(folder, 4).write(QuickstartAmounts(text=0, captions=1, conversations=1, held_out=8))
    write_sounds(folder, Tones(), SoundAmounts(40, 40, 8), 4)
    write_sequences(folder, 4)
    return folder


def test_the_language_model_has_a_token_for_every_word():
    tokenizer = AutoTokenizer.from_pretrained(ASSETS / "llm")
    numbers = {word: str(n) for n, word in enumerate(DIGITS)}
    space = tokenizer.convert_tokens_to_ids("Ġ")  # before a digit it is a token of its own
    for word in SPOKEN:
        ids = tokenizer(numbers.get(word, word)).input_ids
        assert len([one for one in ids if one != space]) == 1, word


def test_no_training_has_a_new_sum(data):
    assert not {tuple(sorted(pair)) for pair in SUMS} & {tuple(sorted(pair)) for pair in NEW_SUMS}
    assert len({*SUMS, *NEW_SUMS}) == 100 and len(NEW_SUMS) >= 20
    new = {f"{a} plus {b}" for a, b in NEW_SUMS} | {f"{a} + {b} = {a + b}" for a, b in NEW_SUMS}
    trained = [r for name in ("transcripts", "sounds") for r in read_lines(data / f"{name}.jsonl")]
    answers = {record["messages"][1]["content"] for record in trained}
    assert not answers & new and any("plus" in answer for answer in answers)
    test = read_lines(data / "sounds_held_out.jsonl")
    assert Counter(record["kind"] for record in test) == {"word": 4, "sum": 2, "new sum": 2}
    for record in test:
        assert (record["messages"][1]["content"] in new) == (record["kind"] == "new sum")


def test_exchanges_follow_each_other(data):
    held_out = {
        name: {
            json.dumps(record["messages"]) for record in read_lines(data / f"{name}_held_out.jsonl")
        }
        for name in ("text", "pictures", "sounds")
    }
    for test, ways in SEQUENCES.items():
        for n, record in enumerate(read_lines(data / f"{test}_held_out.jsonl")):
            way, messages = ways[n % len(ways)], record["messages"]
            pairs = [messages[start : start + 2] for start in range(0, len(messages), 2)]
            assert len(pairs) == len(way)
            for name, pair in zip(way, pairs, strict=True):
                assert json.dumps(pair) in held_out[name]


def test_a_speaker_is_always_found(monkeypatch):
    monkeypatch.setattr(hearing, "synthesiser", lambda: None)
    speaker, sentence = choose_speaker()
    assert isinstance(speaker, Tones) and 'pip install "wings-lorra[speech]"' in sentence
    monkeypatch.setattr(hearing, "synthesiser", lambda: Synthesiser("no-such-library.so"))
    speaker, sentence = choose_speaker()
    assert isinstance(speaker, Tones) and "eSpeak NG does not run" in sentence
    assert sentence.count(".") == sentence.count(".so") + 1 and sentence.endswith(".")


def test_the_preflight_has_the_same_parts_in_small(monkeypatch):
    monkeypatch.setattr(hearing, "synthesiser", lambda: None)
    plan = Composition.of(list(METHODS[:1]), 3, QuickstartSize(), True, None)
    few = plan.preflight()
    assert isinstance(few, Composition) and few.sounds == PREFLIGHT_SIZE
    assert few.size == comparison.PREFLIGHT_SIZE and few.seed == 3 and few.from_nothing
    jobs = [[job.key for job in one.jobs(Path("folder"))] for one in (plan, few)]
    assert jobs[0] == jobs[1] and {"llm", "row-wings-frozen", "hears", "both-mean"} <= {*jobs[0]}


def test_audio_and_all_methods_are_refused_together(tmp_path, capsys):
    assert main(["quickstart", "--audio", "--all", "--output", str(tmp_path / "a")]) == 2
    assert "--audio" in capsys.readouterr().err and not (tmp_path / "a").exists()
