"""Damage to a run's files between two starts: named; the next older whole checkpoint is used."""

import dataclasses
import hashlib
import json
import os
import random
import shutil
from pathlib import Path

import pytest
import torch
from faults import killed_at
from safetensors.torch import load_file, save_file

from wings.errors import WingsError
from wings.train import manifest
from wings.train.checkpoint_choice import newest_whole_checkpoint
from wings.train.manifest import FILE, PART, Manifest, files_of
from wings.train.metrics.metric_tracker import without_process_metrics
from wings.train.result import TrainResult
from wings.train.run import train
from wings.train.run_folder import RunFolder

SETTINGS = {
    "steps": 6, "save_every": 2, "learning_rates": {"projector": 1e-2, "language_model": 1e-3},
}  # fmt: skip
# What `Trainer`, the model and the run write; a test below compares.
FILES = (
    "chat_template.jinja", "config.json", "generation_config.json", FILE, "model.safetensors",
    "modeling_wings.py", "optimizer.pt", "processor_config.json", "resume_state.json",
    "rng_state.pth", "scheduler.pt", "tokenizer.json", "tokenizer_config.json",
    "trainer_state.json",
)  # fmt: skip


def flip(file):
    content = bytearray(file.read_bytes())
    content[random.Random(file.name).randrange(len(content))] ^= 1
    file.write_bytes(content)


DAMAGE = {
    "deleted": Path.unlink,
    "emptied": lambda file: file.write_bytes(b""),
    "truncated": lambda file: os.truncate(file, file.stat().st_size // 2),
    "extended": lambda file: file.write_bytes(file.read_bytes() + b"\0"),
    "one bit": flip,
    "a folder": lambda file: (file.unlink(), file.mkdir()),
    "a dead link": lambda file: (file.unlink(), file.symlink_to("nowhere")),
}


def weights(folder):
    return {k: t.clone() for k, t in load_file(Path(folder) / "model.safetensors").items()}


@pytest.fixture(scope="module")
def left(tmp_path_factory):
    """A place for what a killed and an undisturbed run left; made by the first test."""
    return tmp_path_factory.mktemp("left")


@pytest.fixture
def broken(left, make_recipe, tmp_path):
    """A recipe whose run was killed at step 5, in a folder of its own."""
    if not (left / "run").exists():
        with killed_at(5):
            train(make_recipe("instruct", **SETTINGS))
        shutil.move(tmp_path / "run", left / "run")
        train(make_recipe("instruct", output=str(left / "whole"), **SETTINGS))
    shutil.copytree(left / "run", tmp_path / "run")
    return make_recipe("instruct", **SETTINGS)


def resumed_as_undisturbed(recipe, left):
    """True if the run goes on to the weights and metrics of the undisturbed one."""
    result, whole = train(recipe), RunFolder(left / "whole").read_result()
    assert without_process_metrics(result.history) == without_process_metrics(whole["history"])
    one, two = weights(recipe.output), weights(left / "whole")
    return one.keys() == two.keys() and all(torch.equal(one[name], two[name]) for name in one)


def test_the_files_of_a_checkpoint_are_those_that_are_damaged_here(broken):
    folder = RunFolder(broken.output)
    assert [path.name for path in folder.checkpoints()] == ["checkpoint-2", "checkpoint-4"]
    assert sorted(os.listdir(folder.path / "checkpoint-4")) == sorted(FILES)


@pytest.mark.parametrize("damage", DAMAGE)
@pytest.mark.parametrize("name", FILES)
def test_damage_to_any_file_makes_the_older_checkpoint_the_newest_whole(
    broken, name, damage, capsys
):
    folder = RunFolder(broken.output)
    DAMAGE[damage](folder.path / "checkpoint-4" / name)
    assert newest_whole_checkpoint(folder).name == "checkpoint-2"
    said = capsys.readouterr().err
    assert f"checkpoint-4: {name}" in said or f"of {name} changed" in said or "missing" in said
    assert name in said and said.count("\n") == 1 and said.endswith("/checkpoint-2.\n")
    # Kept for a look, and no later checkpoint is taken for older than it.
    assert (folder.path / "damaged-checkpoint-4").is_dir()
    assert [path.name for path in folder.recorded_checkpoints()] == ["checkpoint-2"]
    # Without a whole one there is a sentence, and nothing is removed.
    DAMAGE[damage](folder.path / "checkpoint-2" / name)
    with pytest.raises(WingsError, match=r"no checkpoint in .* is whole \(checkpoint-2: .*again\."):
        newest_whole_checkpoint(folder)
    assert (folder.path / "checkpoint-2").is_dir()


@pytest.mark.parametrize("damage", ["a foreign file", "an empty folder", "no folder", "a file"])
def test_damage_to_the_folder_of_a_checkpoint(broken, damage, capsys):
    folder = RunFolder(broken.output)
    checkpoint = folder.path / "checkpoint-4"
    if damage == "a foreign file":
        (checkpoint / "pytorch_model.bin").write_bytes(b"x")
    else:
        shutil.rmtree(checkpoint)
    if damage == "an empty folder":
        checkpoint.mkdir()
    if damage == "a file":
        checkpoint.write_text("x")
    assert newest_whole_checkpoint(folder).name == "checkpoint-2"
    assert ("checkpoint-4: " in capsys.readouterr().err) == (damage != "no folder")


@pytest.mark.parametrize("name", ["model.safetensors", "optimizer.pt", FILE, "trainer_state.json"])
def test_a_run_goes_on_from_the_older_checkpoint_to_the_same_weights(broken, left, name):
    DAMAGE["one bit" if name != FILE else "deleted"](Path(broken.output, "checkpoint-4", name))
    assert resumed_as_undisturbed(broken, left)
    names = {path.name for path in RunFolder(broken.output).recorded_checkpoints()}
    assert names == {"checkpoint-4", "checkpoint-6"}
    # Nothing is wrong with what the run wrote in its place.
    assert [p.name for p in RunFolder(broken.output).checkpoints()] == sorted(names)


def test_every_bit_of_a_manifest_matters(broken):
    folder = RunFolder(broken.output)
    checkpoint = folder.path / "checkpoint-4"
    whole = (checkpoint / FILE).read_bytes()
    assert folder.problem(checkpoint, (0, 1)) is None
    for place in range(0, len(whole), 7):
        for bit in (0, 5):
            content = bytearray(whole)
            content[place] ^= 1 << bit
            (checkpoint / FILE).write_bytes(content)
            assert folder.problem(checkpoint, (0, 1)) is not None, (place, bit)


def sealed(checkpoint):
    """Writes a manifest of what is there now, as if the run had written that."""
    (checkpoint / FILE).write_text(Manifest.of(checkpoint).to_json())


@pytest.mark.parametrize("change", ["missing", "foreign", "shape"])
def test_tensors_that_do_not_match_the_model_are_named(broken, change):
    checkpoint = RunFolder(broken.output).path / "checkpoint-4"
    tensors = load_file(checkpoint / "model.safetensors")
    name = "model.projector.first.weight"
    if change == "missing":
        del tensors[name]
    elif change == "foreign":
        tensors["model.other"] = torch.ones(1)
    else:
        tensors[name] = tensors[name][:1].clone()
    save_file(tensors, checkpoint / "model.safetensors", {"format": "pt"})
    sealed(checkpoint)
    said = {"missing": f"lacks {name}", "foreign": "unknown tensor model.other", "shape": name}
    with pytest.raises(WingsError, match=f"{said[change]}.*delete it to resume from an older one"):
        train(broken)


@pytest.mark.parametrize("name", ["optimizer.pt", "scheduler.pt", "rng_state.pth"])
def test_a_checkpoint_without_a_part_is_not_whole_whatever_its_manifest_has(broken, name):
    folder = RunFolder(broken.output)
    (folder.path / "checkpoint-4" / name).unlink()
    sealed(folder.path / "checkpoint-4")
    assert newest_whole_checkpoint(folder).name == "checkpoint-2"


def test_a_part_of_another_model_is_a_sentence(broken):
    checkpoint = RunFolder(broken.output).path / "checkpoint-4"
    torch.save({"state": {}, "param_groups": []}, checkpoint / "optimizer.pt")
    sealed(checkpoint)
    with pytest.raises(WingsError, match=r"checkpoint-4 cannot be resumed from .*older one"):
        train(broken)


@pytest.mark.parametrize("name", ["mark.json", "data.json"])
@pytest.mark.parametrize("damage", ["deleted", "emptied", "truncated", "a folder"])
def test_damage_to_the_records_of_a_run_is_a_sentence(broken, name, damage):
    before = weights(RunFolder(broken.output).path / "checkpoint-4")
    DAMAGE[damage](Path(broken.output, ".wings", name))
    with pytest.raises(WingsError, match=r"^output: .*\.$") as error:
        train(broken)
    assert "\n" not in str(error.value)
    assert before.keys() == weights(Path(broken.output, "checkpoint-4")).keys()


@pytest.mark.parametrize("damage", ["deleted", "emptied", "truncated", "a folder"])
def test_damage_to_the_recipe_of_a_run_is_a_sentence(broken, damage):
    DAMAGE[damage](Path(broken.output, "recipe.yaml"))
    with pytest.raises(WingsError, match=r"^(output: )?/.*(recipe\.yaml|another run).*\.$"):
        train(broken)


@pytest.fixture
def finished(left, make_recipe, tmp_path, broken):
    """A finished run, in a folder of its own."""
    shutil.copytree(left / "whole", tmp_path / "finished")
    return make_recipe("instruct", output=str(tmp_path / "finished"), **SETTINGS)


def test_a_finished_run_without_a_file_of_its_model_writes_it_again(finished, left, capsys):
    names = list(Manifest.read(Path(finished.output, ".wings", "model.json")).bytes)
    assert {"config.json", "model.safetensors", "tokenizer.json"} <= set(names)
    for name in [*names, ".wings/model.json"]:
        file = Path(finished.output, name)
        file.unlink()
        assert not RunFolder(finished.output).finished
        assert train(finished).steps == 6 and file.is_file(), name
        assert "instruct 6/6" not in capsys.readouterr().out
    assert resumed_as_undisturbed(finished, left)
    Path(finished.output, "result.json").write_text("{")
    assert resumed_as_undisturbed(finished, left)


@pytest.mark.parametrize("damage", ["emptied", "truncated", "one bit"])
def test_changed_weights_of_a_finished_run_are_a_sentence(finished, make_recipe, tmp_path, damage):
    DAMAGE[damage](Path(finished.output, "model.safetensors"))
    with pytest.raises(WingsError, match=r"(content|size) of model\.safetensors changed since"):
        train(finished)
    # Stage 2 does not start from it.
    later = make_recipe("instruct", output=str(tmp_path / "two"), start=finished.output)
    with pytest.raises(WingsError, match=r"start: .*model\.safetensors changed"):
        train(later)
    assert not (tmp_path / "two").exists()
    Path(finished.output, "result.json").unlink()
    with pytest.raises(WingsError, match=r"start: .*finish that run first"):
        train(later)
    train(finished)
    train(later)


def test_a_model_in_the_way_of_other_files_is_not_written_over_them(broken):
    """The folder is the run's, but a file in it is not."""
    mine = Path(broken.output, "tokenizer.json")
    mine.write_text("mine")
    with pytest.raises(WingsError, match=r"tokenizer\.json was not written by wings train"):
        train(broken)
    assert mine.read_text() == "mine" and not Path(broken.output, "config.json").exists()
    mine.unlink()
    assert train(broken).steps == 6


def test_names_that_look_like_the_runs_own_stay(broken):
    folder = Path(broken.output)
    names = [
        "writing-9/mine",
        "writing-notes/mine",
        ".x.draft",
        "checkpoint-1/mine",
        "checkpoint-9",
    ]
    for name in names:
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text("mine")
    assert train(broken).steps == 6
    assert all((folder / name).read_text() == "mine" for name in names)


def test_large_files_are_hashed_in_parts_by_all_processes(tmp_path, monkeypatch):
    monkeypatch.setattr(manifest, "PART", 1000)
    sizes = {"a": 0, "b/c": 1, "d": 1000, "e": 2500}
    for name, size in sizes.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(random.Random(size).randbytes(size))
    whole = Manifest.of(tmp_path)
    assert whole.bytes == sizes and files_of(tmp_path) == sorted(sizes)
    assert {name: len(parts) for name, parts in whole.sha256.items()} == {
        "a": 1, "b/c": 1, "d": 1, "e": 3
    }  # fmt: skip
    content = (tmp_path / "e").read_bytes()
    parts = [content[:1000], content[1000:2000], content[2000:]]
    assert whole.sha256["e"] == [hashlib.sha256(part).hexdigest() for part in parts]
    flip(tmp_path / "e")
    found = [whole.changed(tmp_path, rank, 3) for rank in range(3)]
    assert sorted(map(str, found)) == ["None", "None", "the content of e changed"]
    assert PART % 2**20 == 0


def test_results_are_json_without_other_keys(finished):
    result = json.loads(Path(finished.output, "result.json").read_text())
    assert set(result) == {field.name for field in dataclasses.fields(TrainResult)}
    assert result["steps"] == 6 and result["versions"]["wings-lorra"]
