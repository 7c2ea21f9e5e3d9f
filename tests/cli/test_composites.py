"""A merged LLaVA of transformers through `wings eval`, `wings chat` and `wings push`."""

import io
import json
import shutil
from dataclasses import replace

import pytest
from composites import llava_processor, save_composite
from huggingface_hub import ModelCard
from llava import llava
from merged import language_model, save
from PIL import Image
from transformers import (
    AutoModelForImageTextToText,
    AutoProcessor,
    Qwen2AudioConfig,
    Qwen2AudioEncoderConfig,
)

from wings.cli import main
from wings.cli.chat import load
from wings.cli.chat_files import picture_parts
from wings.errors import WingsError
from wings.examples.conversations import write_lines
from wings.sharing.card_facts import CardOptions
from wings.sharing.parcel import pack
from wings.sharing.push import validate_target
from wings.sharing.repository import RemoteState


@pytest.fixture(scope="module")
def llm(tmp_path_factory):
    return save(tmp_path_factory.mktemp("llm"), language_model())


@pytest.fixture(scope="module")
def merged(llm, tmp_path_factory):
    folder = tmp_path_factory.mktemp("llava")
    child = save_composite(folder / "child", llava(llm), llava_processor())
    command = ["merge", llm, child, "--output", folder / "merged", "--weight", "0.75"]
    assert main([*map(str, command)]) == 0
    return folder / "merged"


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """Files of a few questions of each kind."""
    folder = tmp_path_factory.mktemp("data")
    for colour in ("red", "blue"):
        Image.new("RGB", (30, 28), colour).save(folder / f"{colour}.png")
    kinds = {"text": [], "pictures": [], "conversations": []}
    for n, colour in enumerate(("red", "blue")):
        picture = {"type": "image", "image": f"{colour}.png"}
        seen = ("user", [picture, {"type": "text", "text": "Which colour?"}])
        asked, answer = ("user", f"{n}+1?"), ("assistant", str(n + 1))
        kinds["text"].append([asked, answer])
        kinds["pictures"].append([seen, ("assistant", colour)])
        kinds["conversations"].append([seen, ("assistant", colour), asked, answer])
    for name, conversations in kinds.items():
        records = [
            {"messages": [{"role": role, "content": content} for role, content in turns]}
            for turns in conversations
        ]
        if name == "pictures":
            records[1] |= {"scoring": "likelihood", "choices": ["red", "blue"]}
        write_lines(folder / f"{name}.jsonl", records)
    (folder / "held_out.txt").write_text("The quick brown fox.", encoding="utf-8")
    return folder


def arguments(model, llm, data, output):
    files = [f"--{name}={data / name}.jsonl" for name in ("text", "pictures", "conversations")]
    command = ["eval", model, "--against", llm, "--output", output, *files]
    return [*map(str, command), f"--held-out={data / 'held_out.txt'}", "--max-new-tokens=4"]


def test_a_merged_llava_is_measured_against_its_language_model(merged, llm, data, tmp_path, capsys):
    out = tmp_path / "out"
    assert main(arguments(merged, llm, data, out)) == 0
    report = json.loads((out / "report.json").read_text(encoding="utf-8"))
    found = report["measurements"]
    assert list(found) == [
        "text", "pictures", "conversations", "after_image", "attention", "drift",
        "drift_after_image",
    ]  # fmt: skip
    assert report["notes"] == [] and report["model"]["kind"] == "llava"
    assert found["drift"]["kl"]["value"] > 0.01
    drift = found["drift_after_image"]["kinds"]["all"]
    assert drift["image"]["value"] != drift["alone"]["value"] and drift["floor"]["value"] > 0.01
    starts = [line.partition(":")[0] for line in report["verdict"]]
    assert starts == ["Text alone", "Text after an image", "Images"]
    printed = capsys.readouterr().out
    assert "Everything is in" in printed and "is skipped" not in printed
    page = (out / "report.html").read_text(encoding="utf-8")
    assert f"{merged} (llava, " in page


def test_a_llava_is_swept(merged, llm, data, tmp_path):
    files = [f"--{name}={data / name}.jsonl" for name in ("text", "pictures", "conversations")]
    command = ["merge", llm, merged.parent / "child", "--sweep", "0,.75", "--beside", merged]
    options = ["--output", tmp_path / "front", "--max-new-tokens", 4]
    assert main([*map(str, (*command, *options)), *files]) == 0
    front = json.loads((tmp_path / "front" / "front.json").read_text(encoding="utf-8"))["front"]
    start, merge = front["merges"]
    # The saved merge has the weights that are written in place.
    assert merge["scores"] == front["others"][0]["scores"]
    assert merge["kl"] == front["others"][0]["kl"] != start["kl"]
    # At weight 0 it is the LLM, but for the output row of the image token.
    assert start["kl"][0]["alone"] < 0.05 * merge["kl"][0]["alone"]
    assert start["scores"]["text"] == front["llm"]["scores"]["text"]


def test_a_sweep_goes_on_where_kl_cannot_be_measured(merged, llm, data, tmp_path, capsys):
    child = shutil.copytree(merged.parent / "child", tmp_path / "child")
    template = child / "chat_template.jinja"
    # The end of an answer is another token than with the LLM's template.
    template.write_text(template.read_text().replace("<|end|>", "<|user|>"))
    files = [f"--{name}={data / name}.jsonl" for name in ("text", "pictures", "conversations")]
    command = ["merge", llm, child, "--sweep", ".5", "--output", tmp_path / "front", "--beside"]
    assert main([*map(str, (*command, merged, "--max-new-tokens", 4)), *files]) == 0
    front = json.loads((tmp_path / "front" / "front.json").read_text(encoding="utf-8"))["front"]
    assert front["child"]["kl"] is None and front["merges"][0]["kl"] is None
    (note,) = front["notes"]
    assert "KL of the child, unmerged is skipped" in note
    assert "is skipped: " in capsys.readouterr().out


def test_the_attention_shift_of_a_composite(merged, data, tmp_path, capsys):
    command = ["shift", merged, "--items", data / "conversations.jsonl", "--output", tmp_path / "s"]
    assert main([*map(str, command)]) == 0
    assert "2 of 2" in capsys.readouterr().out


def test_a_composite_chats_and_reads_the_whole_conversation(merged, data, monkeypatch, capsys):
    pictures = [str(data / f"{colour}.png") for colour in ("red", "blue")]
    lines = ["Which colour?", f"/image {pictures[1]}", "And this?", "<image>?", "/new", "Hi"]
    monkeypatch.setattr("sys.stdin", io.StringIO("\n".join(lines)))
    arguments = ["chat", str(merged), "--image", pictures[0], "--max-new-tokens", "3"]
    assert main(arguments) == 0
    printed = capsys.readouterr().out
    # The processor refuses a text with its own image token; the conversation goes on.
    assert printed.count("wings  ") == 4 and "would read <image>" in printed

    session = load(str(merged))
    session.items += picture_parts(session.processor, pictures[0])
    first = session.say("Which colour?", 3)
    session.items += picture_parts(session.processor, pictures[1])
    second = session.say("And this?", 3)
    processor = AutoProcessor.from_pretrained(merged)
    messages = [
        {"role": "user", "content": [picture(pictures[0]), text("Which colour?")]},
        {"role": "assistant", "content": [text(first)]},
        {"role": "user", "content": [picture(pictures[1]), text("And this?")]},
    ]
    batch = processor.apply_chat_template(
        messages, add_generation_prompt=True, tokenize=True, return_dict=True, return_tensors="pt"
    )
    model = AutoModelForImageTextToText.from_pretrained(merged)
    new = model.generate(**batch, max_new_tokens=3, do_sample=False)[0, -3:]
    assert second == processor.decode(new, skip_special_tokens=True).strip()


def picture(path):
    return {"type": "image", "image": path}


def text(said):
    return {"type": "text", "text": said}


def test_mistakes_are_one_sentence_before_a_model_is_loaded(merged, llm, data, tmp_path, capsys):
    audio = tmp_path / "audio"
    Qwen2AudioConfig(audio_config=Qwen2AudioEncoderConfig(d_model=8)).save_pretrained(audio)
    text, questions = (f"--{name}={data / name}.jsonl" for name in ("text", "pictures"))
    for command, words in (
        (["eval", merged, text], "is a 'llava' model, which does not record the LLM"),
        (["eval", merged, "--against", merged, text], "is a 'llava' model, which reads images"),
        (["eval", audio, "--against", llm, text], "'qwen2_audio' model, which cannot be used"),
        (["eval", merged, "--against", llm, f"--text={data / 'pictures.jsonl'}"], "as --text"),
        (["chat", audio], "qwen2_audio"),
        (["gate", merged, questions], "is no Wings checkpoint; name one with learners"),
    ):
        where = ["--output", tmp_path / "out"] if command[0] == "eval" else []
        assert main([*map(str, [*command, *where])]) == 2
        error = capsys.readouterr().err
        assert words in error and error.count("\n") == 1 and error.endswith(".\n"), error


def test_a_merged_llava_is_pushed_with_a_card_of_its_own(merged, llm, tmp_path, capsys):
    card = tmp_path / "card.md"
    command = ["push", merged, "me/repaired", "--dry-run", "--card", card]
    assert main([*map(str, command)]) == 0
    printed = capsys.readouterr().out
    for name in ("merged.json", "model.safetensors", "processor_config.json", "tokenizer.json"):
        assert name in printed
    assert printed.count("stays:") == 1  # .wings
    page = card.read_text(encoding="utf-8")
    assert 'AutoModelForImageTextToText.from_pretrained("me/repaired")' in page
    assert "`llava` model of transformers that reads images" in page
    assert "| child | weight 0.75 |" in page and f"| {llm.name} | - |" in page
    assert "WingsForCausalLM" not in page and "Learners" not in page
    fields = ModelCard(page).data.to_dict()
    assert fields["library_name"] == "transformers"
    assert fields["pipeline_tag"] == "image-text-to-text" and "merge" in fields["tags"]
    parcel = pack(merged, "me/repaired", CardOptions())
    public = RemoteState("", False, (), "llava", None)
    validate_target("me/repaired", public, True, parcel.kind)
    with pytest.raises(WingsError, match="has a 'wings' model already"):
        validate_target("me/repaired", replace(public, kind="wings"), True, parcel.kind)
    assert main(["push", str(merged.parent / "child"), "me/child", "--dry-run"]) == 2
    assert "'llava' model, which is neither a Wings checkpoint nor" in capsys.readouterr().err


def test_a_merged_language_model_has_a_card_of_text(llm, tmp_path, capsys):
    child = save(tmp_path / "child", language_model(1))
    recipe = tmp_path / "merge.yaml"
    recipe.write_text(
        f"base_model: {llm}\nmerge_method: linear\nmodels:\n- model: {child}\n  parameters:\n"
        "    weight: [{filter: mlp, value: 0.5}, {value: 1.0}]\n"
    )
    command = ["merge", "--config", recipe, "--output", tmp_path / "merged"]
    assert main([*map(str, command)]) == 0
    capsys.readouterr()
    assert main(["card", str(tmp_path / "merged")]) == 0
    page = capsys.readouterr().out
    assert 'AutoModelForCausalLM.from_pretrained("merged")' in page and "wings chat" not in page
    assert "| child | weight 0.5 for mlp, else 1 |" in page and "image" not in page.lower()
