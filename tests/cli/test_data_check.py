"""`wings data check`: what it counts, what it calls broken, what it shows, and its exit code."""

import json
import re

import numpy as np
import pytest
import soundfile
import yaml
from audio_models import tiny_audio
from PIL import Image

from wings import WingsConfig
from wings.cli import main
from wings.cli.data import marked
from wings.processing.processor import WingsProcessor

ANSWER = "a red house"


def talk(question, answer, **more):
    turns = [{"from": "human", "value": question}, {"from": "gpt", "value": answer}]
    return {"conversations": turns, **more}


@pytest.fixture
def recipe(tmp_path, checkpoint):
    """A function of records: a recipe whose start has no weights, as a path."""
    start = tmp_path / "start"
    start.mkdir()
    WingsProcessor.from_pretrained(checkpoint).save_pretrained(start)
    (start / "config.json").write_text((checkpoint / "config.json").read_text())
    Image.new("RGB", (40, 30), "red").save(tmp_path / "red.jpg")

    def write(*sources, **changes):
        data = []
        for n, records in enumerate(sources):
            path = tmp_path / f"{n}.json"
            path.write_text(json.dumps(records))
            data.append({"path": str(path)})
        values = {"stage": "instruct", "output": "x", "start": str(start), "data": data}
        path = tmp_path / "recipe.yaml"
        path.write_text(yaml.safe_dump({**values, **changes}))
        return str(path)

    return write


def rows(said):
    """The figures of a report by name, the last source winning."""
    return dict(re.findall(r"^  (\S.{0,18}?) {2,}(.+)$", said, re.MULTILINE))


def test_good_data_is_counted_and_shown(recipe, capsys):
    pictures = [talk("<image>\nwhat?", ANSWER, image="red.jpg", id=str(n)) for n in range(40)]
    text = [talk(f"{n}?", ANSWER) for n in range(7)]
    path = recipe([*pictures, *text], max_length=64)
    assert main(["data", "check", path]) == 0
    said = capsys.readouterr().out
    found = rows(said)
    assert found["records"] == "47" and found["in an epoch"].startswith("47 samples, 100.0%")
    assert found["without image"] == "7" and found["images a record"] == "1: 40"
    assert found["cut"] == "0 (0.0%) to max_length 64"
    assert "all 47 records can be used" in said
    shown = said[said.index("3 samples") :]
    assert shown.count("record") >= 3 and f"{ANSWER}<|end|>]]" in shown.replace(" ]]", "]]")
    assert "<image: 4 tokens>" in shown and shown.count("[[") == 1 + 3


def test_everything_that_is_wrong_is_named_and_the_exit_code_says_so(recipe, tmp_path, capsys):
    whole = (tmp_path / "red.jpg").read_bytes()
    (tmp_path / "half.jpg").write_bytes(whole[: len(whole) // 2])
    (tmp_path / "page.jpg").write_text("<html>not found</html>")
    bad = [
        talk("<image>", ANSWER, image="gone.jpg", id="g"),
        talk("<image>", ANSWER, image="half.jpg"),
        talk("<image>", ANSWER, image="page.jpg"),
        {"conversations": [{"from": "gpt", "value": "me first"}]},
        talk("no place", ANSWER, image="red.jpg"),
        talk("word " * 99, ANSWER),
        talk("empty", " "),
        {"unknown": 1},
    ]
    path = recipe([talk("fine?", ANSWER), *bad], max_length=64)
    assert main(["data", "check", path]) == 1
    said = capsys.readouterr().out
    found = rows(said)
    assert found["missing images"] == "1" and found["broken images"] == "2"
    assert found["unbalanced turns"] == "1" and found["too long"] == "1"
    assert found["other bad records"] == "3"
    assert re.search(r"0\.json record 1 \(id 'g'\): there is no image file .*gone\.jpg", said)
    assert "8 of 9 records cannot be used; training stops there" in said
    assert main(["data", "check", path, "on_bad_record=skip"]) == 1
    assert "training takes the next good one instead" in capsys.readouterr().out


@pytest.fixture
def hears(tmp_path, checkpoint):
    """A folder of a model that hears and does not see, without its weights."""
    folder, own = tmp_path / "hears", json.loads((checkpoint / "config.json").read_text())
    tokenizer = WingsProcessor.from_pretrained(checkpoint).tokenizer
    processor = WingsProcessor.from_pretrained_parts(
        text=tokenizer, audio=tiny_audio("whisper", pool=4)
    )
    WingsConfig(
        text_config=own["text_config"],
        other_senses={
            "audio": {**processor.other_senses["audio"], "rank": 4,
                      "token_id": processor.senses["audio"].token_id},
        },
    ).save_pretrained(folder)  # fmt: skip
    processor.save_pretrained(folder)
    return str(folder)


def test_sounds_are_counted_and_shown_and_bad_ones_are_named(recipe, hears, tmp_path, capsys):
    for name, seconds in (("a.wav", 0.5), ("b.wav", 2.5)):
        soundfile.write(tmp_path / name, np.zeros(int(seconds * 8000)), 8000)
    good = [talk("<audio>\nwhat?", ANSWER, audio=name) for name in ("a.wav", "b.wav", "a.wav")]
    good += [talk("<audio><audio>", ANSWER, audio=["a.wav", "b.wav"]), talk("hi", ANSWER)]
    path = recipe(good, start=hears, max_length=64)
    assert main(["data", "check", path]) == 0
    said = capsys.readouterr().out
    found = rows(said)
    assert found["without sound"] == "1" and found["sounds a record"] == "1: 3, 2: 1"
    assert found["seconds a sound"].startswith("shortest 0.5, 5% 0.5, median 0.5, 95% 2.5")
    assert found["stretches a sound"] == "1: 3, 3: 2" and "images a record" not in found
    length = WingsProcessor.from_pretrained(hears).senses["audio"].seq_length
    shown = said[said.index("3 samples") :]
    assert f"<audio: {length} tokens>" in shown and shown.count(f"{ANSWER}<|end|>]]") == 3

    (tmp_path / "page.wav").write_text("<html>not found</html>")
    Image.new("RGB", (9, 9)).save(tmp_path / "red.jpg")
    bad = [talk("<audio>", ANSWER, audio=name) for name in ("gone.wav", "page.wav")]
    bad.append(talk("<image>", ANSWER, image="red.jpg"))
    assert main(["data", "check", recipe([*good, *bad], start=hears, max_length=64)]) == 1
    said = capsys.readouterr().out
    found = rows(said)
    names = ("missing sounds", "broken sounds", "no such sense")
    assert [found[name] for name in names] == ["1"] * 3
    assert re.search(r"0\.json record 5: there is no sound file .*gone\.wav", said)
    assert re.search(r"0\.json record 6: Sound '.*page\.wav' is not a whole, readable sound", said)
    assert "record 7: it has an image, and the recipe's model does not see" in said
    turns = [*talk("<audio>" + "word " * 9, ANSWER, audio="b.wav")["conversations"],
             *talk("And now?", ANSWER)["conversations"]]  # fmt: skip
    long = {"conversations": turns, "audio": "b.wav"}
    assert main(["data", "check", recipe([long], start=hears, max_length=24)]) == 0
    cut = rows(capsys.readouterr().out)["cut"]
    assert cut.endswith("1 lose pictures or sounds with their oldest turns")
    # The model of the other recipes sees and does not hear.
    assert main(["data", "check", recipe(good, max_length=64)]) == 1
    said = capsys.readouterr().out
    assert rows(said)["no such sense"] == "4"
    assert "it has a sound, and the recipe's model does not hear" in said


def test_only_the_first_sentences_are_printed(recipe, capsys):
    assert main(["data", "check", recipe([talk("q", "") for _ in range(30)])]) == 1
    said = capsys.readouterr().out
    assert rows(said)["other bad records"] == "30" and said.count("an answer is empty") == 5
    assert "samples; what is learned" not in said


def test_quick_draws_from_every_source(recipe, capsys):
    # Of two kinds in turn, a tenth taken at equal steps would be of one kind.
    first = [talk(*pair, **more) for _ in range(50) for pair, more in KINDS_IN_TURN]
    path = recipe(first, [talk("q", "b")] * 3, max_length=64)
    assert main(["data", "check", path, "--quick", "10"]) == 0
    said = capsys.readouterr().out
    assert "100, 10 of them read" in said and "all 13 records" in said
    without = int(re.search(r"without image +(\d+)", said).group(1))
    assert 0 < without < 10


KINDS_IN_TURN = [(("<image>", "a"), {"image": "red.jpg"}), (("q", "b"), {})]


def test_turns_that_are_cut_are_counted_with_the_pictures_they_take_along(recipe, capsys):
    turns = talk("<image>" + "word " * 9, ANSWER)["conversations"] * 2
    turns[2] = {"from": "human", "value": "And now?"}
    record = {"conversations": turns, "image": "red.jpg"}
    path = recipe([record, talk("q", ANSWER)], max_length=32)
    assert main(["data", "check", path]) == 0
    cut = rows(capsys.readouterr().out)["cut"]
    assert cut == "1 (50.0%) to max_length 32; 1 lose pictures with their oldest turns"


def test_any_number_of_processes_finds_the_same(recipe, capsys):
    records = [talk(f"{n}?", "x" * (n % 7)) for n in range(100)]
    path = recipe(records)
    said = []
    for workers in ("1", "2"):
        assert main(["data", "check", path, "--workers", workers]) == 1
        said.append(capsys.readouterr().out)
    assert said[0] == said[1] and "15 of 100 records" in said[0]


def test_marks_are_brackets_or_colour(checkpoint):
    processor = WingsProcessor.from_pretrained(checkpoint)
    image = Image.new("RGB", (9, 9))
    messages = [
        {"role": "user", "content": [{"type": "image", "image": image}] * 2},
        {"role": "assistant", "content": "two"},
        {"role": "user", "content": "x" * 2000},
        {"role": "assistant", "content": "yes"},
    ]
    sample = processor.encode(messages)
    plain, green = marked(sample, processor, False), marked(sample, processor, True)
    assert plain.plain.count("[[") == plain.plain.count("]]") == 2 and "[[" not in green.plain
    assert plain.plain.count("<image: 4 tokens>") == 2 and "letters ..." in plain.plain
    learned = [green.plain[span.start : span.end] for span in green.spans if span.style == "green"]
    assert ["two" in learned[0].replace(" ", ""), "yes" in learned[1].replace(" ", "")] == [1, 1]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["nothing.yaml"], "no such recipe file"),
        (["{}", "data.0.path=gone.json"], "gone.json: no such data file"),
        (["{}", "batchsize=3"], "did you mean 'batch_size'"),
        (["{}", "start=gone/folder/x"], "there is no folder"),
    ],
)
def test_what_cannot_be_opened_is_one_sentence(recipe, capsys, arguments, words):
    path = recipe([talk("a", "b")])
    assert main(["data", "check", *(one.format(path) for one in arguments)]) == 2
    error = capsys.readouterr().err
    assert words in error and error.startswith("wings data: ") and error.count("\n") == 1


@pytest.mark.parametrize("number", ["0", "-3", "many"])
def test_quick_takes_a_number_from_one(number, capsys):
    with pytest.raises(SystemExit) as end:
        main(["data", "check", "align", "--quick", number])
    assert end.value.code == 2 and "--quick" in capsys.readouterr().err


def test_a_stream_is_read_from_its_beginning_and_its_end_is_named(
    recipe, tmp_path, capsys, children_end
):
    pytest.importorskip("datasets")
    lines = [json.dumps(talk(f"{n}?", ANSWER)) for n in range(40)]
    (tmp_path / "lines.jsonl").write_text("\n".join(lines))
    source = {"path": str(tmp_path / "lines.jsonl"), "split": "train", "stream": True}
    path = recipe(data=[{**source, "limit": 40, "shuffle_buffer": 16}])
    assert main(["data", "check", path, "--workers", "2"]) == 0
    assert "all 40 records" in capsys.readouterr().out
    for quick, code in (([], 2), (["--quick", "20"], 0)):
        assert main(["data", "check", path, "data.0.limit=90", *quick]) == code
    said = capsys.readouterr()
    assert "90, 20 of them read" in said.out
    assert "the stream has fewer than 90 records; lower limit" in said.err and "\n" in said.err


def test_text_turns_are_counted(recipe, tmp_path, capsys):
    pictures = [talk("<image>\nwhat?", ANSWER, image="red.jpg", id=str(n)) for n in range(9)]
    lines = [talk("1+1?", "2"), talk("1+" * 30 + "?", "2")]
    (tmp_path / "texts.jsonl").write_text("\n".join(map(json.dumps, lines)))
    turns = {"path": str(tmp_path / "texts.jsonl"), "share": 1.0}
    path = recipe([*pictures, talk("hi", ANSWER)], max_length=64, text_turns=turns)
    assert main(["data", "check", path]) == 0
    found = rows(capsys.readouterr().out)
    after, without = re.findall(r"\d+", found["text turns"])[:2]
    assert int(after) + int(without) == 9 and int(after) and int(without)
    assert found["cut"].startswith("0 ")


def test_all_that_a_run_reads_is_read(recipe, tmp_path, capsys):
    texts = [talk("1+1?", "2"), talk("<image>", "2", image="red.jpg"), talk("1+2?", " ")]
    held_out = [talk("q", ANSWER), talk("<image>", ANSWER, image="gone.jpg")]
    for name, records in (("texts", texts), ("held", held_out)):
        (tmp_path / f"{name}.jsonl").write_text("\n".join(map(json.dumps, records)))
    path = recipe(
        [talk("<image>\nwhat?", ANSWER, image="red.jpg")],
        max_length=64,
        text_turns={"path": str(tmp_path / "texts.jsonl"), "share": 1.0},
        evaluate={"data": [{"name": "text", "path": str(tmp_path / "held.jsonl")}]},
    )
    assert main(["data", "check", path]) == 1
    said = capsys.readouterr().out
    parts = re.findall(r"^(\S+): \S+\n  records +(\d+)$", said, re.MULTILINE)
    assert parts == [("data.0", "1"), ("text_turns", "3"), ("evaluate.data.0", "2")]
    assert re.search(r"texts\.jsonl line 2: it has an image", said)
    assert re.search(r"texts\.jsonl line 3: an answer is empty", said)
    assert "held.jsonl line 2: there is no image file" in said
    assert "3 of 6 records cannot be used" in said and "No text turn was appended" in said
    texts = {"text_turns.path": tmp_path / "texts.jsonl", "evaluate.data.0.path": "gone.json"}
    for key, file in texts.items():
        assert main(["data", "check", path, f"{key}={tmp_path / 'none.json'}"]) == 2, file
        assert re.match(rf"wings data: {key[:8]}.*none\.json: no such", capsys.readouterr().err)


def test_before_stage_1_exists_its_recipe_is_read(
    recipe, tmp_path, checkpoint, capsys, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "runs").mkdir()
    path = recipe(
        [talk("<image>\nwhat?", ANSWER, image="red.jpg")], start="runs/one", max_length=64
    )
    assert main(["data", "check", path]) == 2
    error = capsys.readouterr().err
    assert "there is no folder runs/one" in error
    assert "model.vision=NAME" in error and error.count("\n") == 1
    processor = WingsProcessor.from_pretrained(checkpoint)
    processor.tokenizer.save_pretrained(tmp_path / "llm")
    json_of = json.loads((checkpoint / "config.json").read_text())
    (tmp_path / "llm" / "config.json").write_text(json.dumps(json_of["text_config"]))
    names = {"vision": json_of["vision_config"], "text": str(tmp_path / "llm")}
    first = {"stage": "align", "output": "runs/one", "data": [{"path": "x.json"}]}
    (tmp_path / "align.yaml").write_text(yaml.safe_dump({**first, "model": names}))
    assert main(["data", "check", path]) == 0
    said = capsys.readouterr().out
    assert f"runs/one does not exist yet: reading {tmp_path / 'llm'} and" in said
    assert "align.yaml" in said and "all 1 records can be used" in said
    tokens = rows(said)["tokens"]
    assert main(["data", "check", path, "start=", f"model={json.dumps(names)}"]) == 0
    assert rows(capsys.readouterr().out)["tokens"] == tokens
