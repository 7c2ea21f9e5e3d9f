"""The model card: its metadata and its figures are those of the run's own files."""

import json
import os
import re
import shutil
import time
from pathlib import Path

import pytest
from hub import yaml_of
from huggingface_hub import ModelCard
from safetensors.torch import load_file

from wings.cli import main
from wings.errors import WingsError
from wings.sharing.card import is_filled_in
from wings.sharing.card_facts import CardOptions
from wings.sharing.local_paths import in_sentence, strip_value
from wings.sharing.parcel import is_replaceable, pack, validate_checkpoint


def accuracy(right, total=240):
    percent = 100 * right / total
    return {"right": right, "total": total, "percent": percent, "interval": [percent - 3, percent]}


def pair(before, after):
    difference = {"value": (after - before) / 2.4, "interval": [-9.0, -1.0]}
    return {"before": accuracy(before), "after": accuracy(after), "difference": difference}


def measured(before, after):
    answers = [
        {"right": [n < before, n < after], "cluster": n, "messages": "a secret question"}
        for n in range(240)
    ]
    return {"kinds": {"all": pair(before, after)}, "answers": answers}


@pytest.fixture
def report(folder, home):
    """The report of `wings eval` of the folder, next to it."""
    alone = {"llm": accuracy(227), "model": accuracy(220)}
    content = {
        "inputs": {
            "checkpoint": str(folder),
            "against": str(home / "models" / "llm"),
            "files": {
                "text": [str(home / "t.jsonl")], "pictures": [str(home / "p|q.jsonl")],
                "conversations": [], "held_out": [],
            },
        },
        "command": f"wings eval {folder}",
        "date": "2026-11-29 21:42 UTC",
        "versions": {"wings-lorra": "0.1.0", "torch": "2.14.1"},
        "seeds": {"bootstrap": 0},
        "model": {"name": str(folder)},
        "notes": [f"The held-out items of {home}/data are used."],
        "verdict": ["Text alone: changed by -2.1 points."],
        "measurements": {
            "text": measured(235, 230),
            "conversations": measured(227, 211),
            "after_image": {"kinds": {"all": {"alone": alone}}, "answers_alone": ["a secret"]},
            "pictures": measured(51, 174),
            "tasks": {"rows": {"gsm8k, flexible": pair(60, 59)}, "documents": {}},
        },
    }  # fmt: skip
    place = folder.parent / "report"
    place.mkdir()
    (place / "report.json").write_text(json.dumps(content))
    return place


def packed(folder, **options):
    return pack(folder, "anna/wings-one", CardOptions(), **options)


def contents(parcel):
    return {file.name: file.read() for file in parcel.files}


def test_the_metadata_is_that_of_the_run_and_of_its_report(folder, report, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    parcel = packed(folder, plot=lambda report: b"png")
    data = ModelCard(parcel.card).data
    assert data.pipeline_tag == "image-text-to-text" and data.library_name == "transformers"
    # The two parts have two licences, so that of the whole is its author's to choose.
    assert data.license == "unknown" and data.base_model is None
    (entry,) = yaml_of(parcel.card)["model-index"]
    found = {one["task"]["name"]: one["metrics"][0]["value"] for one in entry["results"]}
    figures = json.loads((report / "report.json").read_text())["measurements"]
    text, after = (figures[name]["kinds"]["all"]["after"] for name in ("text", "conversations"))
    assert entry["name"] == "wings-one"
    assert found == {
        "Text alone": round(text["percent"], 2),
        "Text after an image": round(after["percent"], 2),
        "Images (the LLM does not see them)": 72.5,
        "gsm8k, flexible": round(100 * 59 / 240, 2),
    }  # fmt: skip
    names = {one["dataset"]["name"] for one in entry["results"]}
    assert {"t.jsonl", "p|q.jsonl"} <= names


def test_the_text_has_parts_stages_and_figures_of_the_files(folder, report, home):
    parcel = packed(folder, plot=lambda report: b"png")
    card = parcel.card
    rows = [[cell.strip() for cell in line.strip("|").split(" | ")] for line in card.splitlines()]
    assert ["language model", "llm (a folder; fill in its name on the Hub)", "apache-2.0",
            "the card in the folder llm"] in rows  # fmt: skip
    assert any(row[:1] == ["vision tower"] and "mit" in row for row in rows)
    tensors = load_file(folder / "model.safetensors")
    assert ["all", f"{sum(t.numel() for t in tensors.values()):,}"] in rows
    learners = sum(t.numel() for name, t in tensors.items() if ".wings." in name)
    assert ["learners and routers", f"{learners:,}"] in rows
    assert ["steps", "30", "60"] in rows and ["seed", "7", "3"] in rows
    assert ["last training loss", "not recorded", "0.4321"] in rows
    data = [
        "data",
        "captions.jsonl",
        "questions.jsonl, lab/pictures, text.jsonl (text turns, share 0.5)",
    ]
    assert data in rows
    assert ["learning rates", "projector 0.002", "projector 1e-4, image_learners 0.0003"] in rows
    assert any(row[0] == "releases" and "commit abc1234" in row[2] for row in rows)
    assert ["Text alone", "240", "97.9 (95-98)", "95.8 (93-96)", "-2.1 (-9.0 to -1.0)"] in rows
    after = ["Text after an image", "240", "94.6 (92-95)", "87.9 (85-88)", "-6.7 (-9.0 to -1.0)"]
    assert after in rows
    assert ["Text of the next row, asked alone", "240", "94.6 (92-95)", "91.7 (89-92)", "-"] in rows
    assert "own logits" in card and 'from_pretrained("anna/wings-one")' in card
    sent = contents(parcel)
    assert sent["retention.png"] == b"png" and 'src="retention.png"' in card
    for content in sent.values():
        for word in (str(home), "a secret", str(folder.parent)):
            assert word.encode() not in content
    shared = json.loads(sent["report.json"])
    assert shared["measurements"]["text"]["kinds"]["all"] == pair(235, 230)


def test_nothing_is_invented(folder):
    for name in ("recipe.yaml", "result.json"):
        (folder / name).unlink()
    config = json.loads((folder / "config.json").read_text())
    del config["text_config"]["_name_or_path"], config["llm_trained"]
    (folder / "config.json").write_text(json.dumps(config))
    card = packed(folder).card
    assert "Not measured: no report" in card and "Not recorded: the folder has no recipe" in card
    assert card.count("not recorded") >= 4 and "do not record if training changed" in card
    assert "model-index" not in yaml_of(card) and yaml_of(card)["license"] == "unknown"
    assert "own logits" not in card


def test_statements_of_the_author_come_first(folder):
    card = pack(folder, "x/y", CardOptions("apache-2.0", tags=("mine",))).card
    data = ModelCard(card).data
    assert data.license == "apache-2.0" and "mine" in data.tags
    own = pack(folder, "x/y", CardOptions("My own licence")).card
    assert ModelCard(own).data.license == "other"
    assert ModelCard(own).data.license_name == "My own licence"


def test_licences_are_asked_of_the_hub(hub, push, folder):
    hub.add("lab/llm", {"README.md": b"---\nlicense: llama3.2\n---\n"})
    hub.add("lab/tower", {"README.md": b"# No metadata\n"})
    words = ["--base-model", "lab/llm", "--tower", "lab/tower"]
    card = push(folder, *words, command="card").stdout
    assert ModelCard(card).data.base_model == ["lab/llm", "lab/tower"]
    assert "| language model | lab/llm | llama3.2 | the card of lab/llm |" in card
    assert (
        "| vision tower | lab/tower | unknown, fill in | the card of lab/tower states none |"
        in card
    )
    # A name that no file tells apart from a relative folder is none of the Hub's, if it has none.
    (folder / "recipe.yaml").write_text(
        "stage: align\nmodel: {text: parts/llm, vision: lab/tower}\n"
    )
    card = push(folder, command="card").stdout
    assert ModelCard(card).data.base_model == ["lab/tower"]
    assert "the Hub shows no parts/llm" in card
    begin = time.monotonic()
    card = push(folder, *words, command="card", HF_ENDPOINT="http://127.0.0.1:9").stdout
    assert ModelCard(card).data.base_model == ["lab/llm", "lab/tower"]
    assert "could not be read" in card and time.monotonic() - begin < 60


def test_one_licence_of_both_parts_is_that_of_the_whole(folder, home):
    (home / "models" / "tower" / "README.md").write_text("---\nlicense: apache-2.0\n---\n")
    assert ModelCard(packed(folder).card).data.license == "apache-2.0"


def test_the_hub_is_told_how_the_folder_loads(folder):
    parcel = packed(folder)
    assert "trust_remote_code=True" in parcel.card and "need the package installed" in parcel.card
    assert "modeling_wings.py" in contents(parcel)
    (folder / "wings_config.py").write_text("")
    exported = packed(folder)
    assert "open_clip_torch are enough" in exported.card and "wings_config.py" in contents(exported)
    for name in ("config.json", "processor_config.json"):
        fields = json.loads((folder / name).read_text())
        del fields["auto_map"]
        (folder / name).write_text(json.dumps(fields))
    plain = packed(folder)
    assert ModelCard(plain.card).data.library_name == "wings-lorra"
    assert "wings export" in plain.card and "modeling_wings.py" not in contents(plain)


def test_a_card_of_ones_own_is_kept(folder, tmp_path):
    filled = packed(folder).card
    assert is_filled_in(filled) and is_replaceable(filled)
    edited = filled.replace("## Limits", "## My limits")
    assert not is_filled_in(edited)
    (folder / "README.md").write_text(edited)
    assert packed(folder).card == edited
    assert packed(folder, new_card=True).card == filled
    (folder / "README.md").write_text(filled)
    (folder / "recipe.yaml").unlink()
    assert packed(folder).card != filled, "a card that nobody edited is not filled in again"


def test_a_report_of_another_model_or_of_older_weights_is_not_taken(folder, report, tmp_path):
    content = json.loads((report / "report.json").read_text())
    content["inputs"]["checkpoint"] = "/somewhere/else"
    (report / "report.json").write_text(json.dumps(content))
    with pytest.raises(WingsError, match="is of /somewhere/else"):
        packed(folder, report=report)
    with pytest.raises(WingsError, match=r"has no report\.json"):
        packed(folder, report=tmp_path)
    assert "Not measured" in packed(folder).card
    content["inputs"]["checkpoint"] = str(folder)
    (report / "report.json").write_text(json.dumps(content))
    assert "Not measured" not in packed(folder).card
    weights = folder / "model.safetensors"
    weights.write_bytes(weights.read_bytes())
    os.utime(weights, (2e9, 2e9))
    assert "Not measured" in packed(folder).card


@pytest.mark.parametrize(
    "name", ["a|b.jsonl", "<script>alert(1)</script>.jsonl", "`x` *y* [z](w).jsonl", "ü 漢.jsonl"]
)
def test_odd_names_do_not_break_the_page(name, folder):
    recipe = folder / "recipe.yaml"
    recipe.write_text(recipe.read_text().replace("questions.jsonl", json.dumps(name)[1:-1]))
    card = packed(folder).card
    assert "<script>" not in card
    (row,) = [line for line in card.splitlines() if line.startswith("| data |")]
    assert len(re.findall(r"(?<!\\)\|", row)) == 4
    ModelCard(card)


def test_a_finished_folder_is_valid(folder):
    validate_checkpoint(folder)
    with pytest.raises(WingsError, match="no finished checkpoint"):
        validate_checkpoint(Path(folder / "checkpoint-40"))


def test_a_card_replaces_only_a_card(folder, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    command = ["card", str(folder), "--output", "card.md"]
    assert main(command) == 0 and main(command) == 0
    (tmp_path / "card.md").write_text("my notes")
    assert main(command) == 2
    assert "card.md is in the way" in capsys.readouterr().err
    assert (tmp_path / "card.md").read_text() == "my notes"
    assert main([*command[:-1], str(tmp_path)]) == 2
    assert main([*command[:-1], "nowhere/card.md"]) == 1
    assert {path.name for path in tmp_path.iterdir()} == {"anna-home", "runs", "card.md"}


def test_a_checkpoint_of_learners_says_what_it_lacks(folder, home):
    config = json.loads((folder / "config.json").read_text())
    config["wings_base"] = {
        "text": {"name": f"{home}/models/llm", "fingerprint": "ab"},
        "vision": {"name": "lab/tower", "fingerprint": "cd", "revision": "1"},
    }
    (folder / "config.json").write_text(json.dumps(config))
    parcel = packed(folder)
    base = json.loads(contents(parcel)["config.json"])["wings_base"]
    # The folder means nothing to others; the fingerprint still refuses another model.
    assert base == {
        "text": {"fingerprint": "ab"}, "vision": config["wings_base"]["vision"]
    }  # fmt: skip
    assert "weights of the language model and of the vision tower are not in" in parcel.card
    assert any("--base-model names them" in note for note in parcel.notes)
    named = pack(folder, "x/y", CardOptions(base_model="lab/llm"))
    base = json.loads(contents(named)["config.json"])["wings_base"]
    assert base["text"] == {"name": "lab/llm", "fingerprint": "ab"}
    assert not any("names them" in note for note in named.notes)


@pytest.mark.parametrize(
    ("text", "left"),
    [
        ("/home/anna/llm", "llm"), ("~/llm", "llm"), ("../llm", "llm"), ("file:///a/b", "b"),
        ("local-dir:/home/anna/tower", "local-dir:tower"), ("C:\\models\\llm", "llm"),
        ("/home/anna b/my llm/", "my llm"),
        ("/x/hub/models--Qwen--Qwen2.5/snapshots/" + "a" * 40, "Qwen/Qwen2.5"),
        ("Qwen/Qwen2.5-0.5B", None), ("hf-hub:timm/vit", None), ("MODEL/TAG", None),
        ("https://example.org/a/b/c", None), ("</s>", None), ("/think", None), ("a\n/b/c/d", None),
        ("", None), ("1/2", None),
    ],
)  # fmt: skip
def test_paths_are_told_from_names(text, left):
    assert strip_value({"x": [text]}) == {"x": [text if left is None else left]}
    assert strip_value({"_name_or_path": text}) == (
        {"_name_or_path": text} if left is None else
        {"_name_or_path": left} if "--" in text else {}
    )  # fmt: skip


def test_paths_within_sentences_are_cut_and_urls_stay():
    said = "See /home/anna/my/data.jsonl: line 3, '/tmp/x/y.png' and https://a.org/b/c, 1/2, </p>."
    assert in_sentence(said) == (
        "See data.jsonl: line 3, 'y.png' and https://a.org/b/c, 1/2, </p>."
    )
    assert (
        in_sentence(f"in {Path.home()}/a b/x.png and {Path.home()}/y") == "in ~/a b/x.png and ~/y"
    )
    template = {"chat_template": "{{ '/home/anna/x/y' }}"}
    assert strip_value(template, sentences=True) == template


def test_a_copy_of_a_model_names_its_run(folder, report, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    copy = tmp_path / "copies" / "copy"
    copy.parent.mkdir()
    shutil.copytree(folder, copy)
    assert main(["card", str(copy)]) == 0
    alone = capsys.readouterr().out
    assert "started from align, whose recipe was not found" in alone and "Not measured" in alone
    assert main(["card", str(copy), "--run", str(folder)]) == 0
    whole = capsys.readouterr().out
    assert "| steps | 30 | 60 |" in whole and "not found" not in whole
    assert "Not measured" not in whole
    assert main(["card", str(copy), "--run", str(tmp_path)]) == 2
    assert "has no recipe.yaml" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("changes", "exact"),
    [
        ({"learners": ["image"], "text_guard": True}, True),
        ({"learners": ["image"], "text_guard": False}, False),
        ({"learners": [], "text_guard": False}, True),
        ({"learners": [], "prefix_length": 4}, False),
        ({"learners": [], "lora": {"rank": 2, "guard": True}}, True),
        ({"learners": [], "lora": {"rank": 2, "guard": False}}, False),
        ({"learners": [], "llm_trained": True}, False),
    ],
    ids=str,
)
def test_what_acts_on_text_is_said(changes, exact, folder):
    config = json.loads((folder / "config.json").read_text())
    config |= {"llm_trained": False, "text_guard": False, "lora": None, "prefix_length": 0}
    (folder / "config.json").write_text(json.dumps(config | changes))
    card = pack(folder, "x/y", CardOptions()).card
    assert ("gets the language model's own logits" in card) == exact
    assert ("it has Wings learners" in card) == bool(changes["learners"])
    assert ("Learners: none." in card) == (not changes["learners"])
