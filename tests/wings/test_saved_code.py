"""Folders that load anywhere: with the package, without it, and two of them in one process."""

import json
import os
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path
from types import ModuleType

import pytest
import torch
from PIL import Image
from tiny import tiny_model
from transformers import (
    AutoConfig,
    AutoImageProcessor,
    AutoModelForImageTextToText,
    AutoProcessor,
)

import wings
from wings import WingsConfig, WingsError, WingsForCausalLM, WingsProcessor
from wings.cli import main
from wings.model.flat_code import flat_files
from wings.saved_code import FORMAT, OF_IMAGES, STUB
from wings.sharing.shared_files import select_files

ROOT = Path(wings.__file__).parents[1]
CHAT = [{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "Which colour?"}]}]
# Loads folders and says of each class where it is from, or the error; keeps logits and inputs.
LOAD = """
import importlib.util, json, sys, torch
from PIL import Image
has_package, chat, output, *folders = sys.argv[1:]
assert bool(importlib.util.find_spec("wings")) == json.loads(has_package)
import transformers
trusted = {"trust_remote_code": True}
seen, results, loaded = {}, {}, {}
for name in ("AutoConfig", "AutoModelForCausalLM", "AutoProcessor", "AutoImageProcessor"):
    for options in ({}, trusted):
        try:
            found = getattr(transformers, name).from_pretrained(folders[0], **options)
            seen[f"{name} {bool(options)}"] = type(found).__module__
        except Exception as error:
            seen[f"{name} {bool(options)}"] = f"{type(error).__name__}: {error}"
for folder in folders[1:]:
    model = transformers.AutoModelForImageTextToText.from_pretrained(folder, **trusted)
    loaded[folder] = model, transformers.AutoProcessor.from_pretrained(folder, **trusted)
# All are loaded before any is used.
for folder, (model, processor) in loaded.items():
    image = Image.new("RGB", (30, 20), "red")
    batch = processor.apply_chat_template(
        json.loads(chat), images=[image], tokenize=True, return_dict=True, return_tensors="pt"
    )
    with torch.no_grad():
        results[folder] = dict(batch), model(**batch).logits
    seen[folder] = [type(model).__module__, type(processor).__module__]
    model.save_pretrained(f"{output}-saved/{len(results)}")
    processor.save_pretrained(f"{output}-saved/{len(results)}")
torch.save((seen, results), output)
"""


def run_load(output, *folders, site=None):
    """Runs LOAD in a process of its own; `site`: the only folder to import from."""
    env = {**os.environ, "PYTHONPATH": str(site or ROOT), "HF_HOME": str(output) + "-hf"}
    options = [] if site is None else ["-S"]
    command = [sys.executable, *options, "-c", LOAD, json.dumps(site is None), json.dumps(CHAT)]
    done = subprocess.run(
        [*command, str(output), *map(str, folders)],
        cwd=output.parent, env=env, capture_output=True, text=True, stdin=subprocess.DEVNULL,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return torch.load(output, weights_only=False)


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    """A folder with all installed packages but this one."""
    folder = tmp_path_factory.mktemp("site")
    for path in {sysconfig.get_path("purelib"), sysconfig.get_path("platlib")}:
        for entry in Path(path).iterdir():
            if not entry.name.startswith(("wings", "__editable__")) and entry.suffix != ".pth":
                (folder / entry.name).symlink_to(entry)
    return folder


def save(folder, dtype=torch.float32, **options):
    model, processor = tiny_model(**options)
    for parameter in model.parameters():
        parameter.data.add_(torch.randn_like(parameter) * 0.1)
    model.to(dtype).save_pretrained(folder)
    processor.save_pretrained(folder)


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """(as saved, exported, another one of another release, the first one's learners alone)."""
    base = tmp_path_factory.mktemp("folders")
    save(base / "saved")
    assert main(["export", str(base / "saved"), str(base / "exported")]) == 0
    tied = {"text": {"tie_word_embeddings": True}, "router": "attended"}
    save(base / "my-other.model", torch.bfloat16, **tied)
    assert main(["export", str(base / "my-other.model")]) == 0
    with (base / "my-other.model" / "wings_errors.py").open("a") as file:
        file.write("# Another release.\n")
    model = WingsForCausalLM.from_pretrained(base / "saved")
    model.extract_language_model().save_pretrained(base / "llm")
    # As `from_vision_text_pretrained` and a run with a frozen language model leave it.
    model.config.wings_base = {"text": {"name": str(base / "llm")}}
    model.config.llm_trained = False
    model.config.save_pretrained(base / "saved")
    command = ["export", "--learners-only", str(base / "saved"), str(base / "learners")]
    assert main(command) == 0
    return base / "saved", base / "exported", base / "my-other.model", base / "learners"


def expected(folder):
    model = WingsForCausalLM.from_pretrained(folder)
    processor = WingsProcessor.from_pretrained(folder)
    image = Image.new("RGB", (30, 20), "red")
    batch = processor.apply_chat_template(
        CHAT, images=[image], tokenize=True, return_dict=True, return_tensors="pt"
    )
    with torch.no_grad():
        return dict(batch), model(**batch).logits


def assert_same(found, folder):
    batch, logits = expected(folder)
    assert batch.keys() == found[0].keys()
    assert all(torch.equal(found[0][name], batch[name]) for name in batch)
    assert torch.equal(found[1], logits)


def test_without_the_package(folders, site, tmp_path):
    """A copy gives the same bits, two of them do not disturb one another, and save themselves."""
    saved, *exported = folders
    seen, results = run_load(tmp_path / "out", saved, *exported, site=site)
    for name in ("AutoConfig", "AutoModelForCausalLM", "AutoProcessor", "AutoImageProcessor"):
        # Never a bare tokenizer.
        assert seen[f"{name} False"].startswith("ValueError") and "trust" in seen[f"{name} False"]
        assert seen[f"{name} True"].startswith(
            "ImportError: This checkpoint needs the package wing"
        )
        assert "pip install wings-lorra" in seen[f"{name} True"]
    modules = [module for folder in exported for module in seen[str(folder)]]
    assert all(module.startswith("transformers_modules.") for module in modules)
    assert len({module.rpartition(".")[0] for module in modules}) == 3
    for number, folder in enumerate(exported, 1):
        assert_same(results[str(folder)], folder)
        again = tmp_path / "out-saved" / str(number)
        code = {path.name: path.read_bytes() for path in folder.glob("*.py")}
        assert code == {path.name: path.read_bytes() for path in again.glob("*.py")}
        assert_same(results[str(folder)], again)


def test_with_the_package_its_own_classes_are_used(folders, tmp_path):
    """In a process that did not import it, trust_remote_code=True leads to it."""
    seen, results = run_load(tmp_path / "out", folders[0], *folders[:2])
    assert seen["AutoConfig False"].startswith("ValueError")
    # The first that was trusted has imported the package, so nothing needs trust any more.
    assert seen["AutoConfig True"] == "wings.config"
    assert seen["AutoModelForCausalLM False"] == "wings.model.causal_lm"
    assert seen["AutoProcessor False"] == "wings.processing.processor"
    for number, folder in enumerate(folders[:2], 1):
        assert seen[str(folder)] == ["wings.model.causal_lm", "wings.processing.processor"]
        assert_same(results[str(folder)], folder)
        # transformers would save the file of each class, which is of no use alone.
        names = [path.name for path in (tmp_path / "out-saved" / str(number)).glob("*.py")]
        assert names == ["modeling_wings.py"]


def test_registered_classes_win(folders):
    for options in ({}, {"trust_remote_code": True}):
        for folder in folders[1:3]:
            assert type(AutoConfig.from_pretrained(folder, **options)) is WingsConfig
            assert type(AutoProcessor.from_pretrained(folder, **options)) is WingsProcessor
            model = AutoModelForImageTextToText.from_pretrained(folder, **options)
            assert type(model) is WingsForCausalLM


def test_a_subfolder_is_read(folders):
    base = {"pretrained_model_name_or_path": folders[0].parent}
    for name in ("saved", "learners"):
        model = AutoModelForImageTextToText.from_pretrained(**base, subfolder=name)
        assert type(model) is WingsForCausalLM
    for kind in (AutoProcessor, WingsProcessor):
        assert type(kind.from_pretrained(**base, subfolder="saved")) is WingsProcessor
    for kind in (WingsForCausalLM, WingsProcessor):
        with pytest.raises(WingsError, match=r"no folder '.*/svaed' .did you mean '.*/saved'"):
            kind.from_pretrained(**base, subfolder="svaed")


def test_parts_that_are_saved_alone_name_their_code(folders, tmp_path):
    model, processor = tiny_model()
    for name, part in {
        "config": model.config, "model": model.model, "processor": processor,
        "images": processor.image_processor,
    }.items():  # fmt: skip
        part.save_pretrained(tmp_path / name)
        assert (tmp_path / name / "modeling_wings.py").read_text() == STUB
        fields = [json.loads(path.read_text()) for path in (tmp_path / name).glob("*config.json")]
        assert any("auto_map" in one for one in fields)
        assert "modeling_wings.py" in {file.name for file in select_files(tmp_path / name).files}
    assert AutoProcessor.from_pretrained(tmp_path / "processor").image_token_id
    loaded = AutoImageProcessor.from_pretrained(tmp_path / "images")
    assert loaded.to_dict() == processor.image_processor.to_dict()


def test_a_folder_of_an_older_release_is_exported_too(folders, tmp_path, capsys):
    shutil.copytree(folders[0], tmp_path / "old")
    (tmp_path / "old" / "modeling_wings.py").unlink()
    for name in ("config.json", "processor_config.json"):
        path = tmp_path / "old" / name
        fields = json.loads(path.read_text())
        for key in ("auto_map", "wings_version", "wings_format"):
            del fields[key]
        fields.get("image_processor", {}).pop("auto_map", None)
        path.write_text(json.dumps(fields))
    WingsForCausalLM.from_pretrained(tmp_path / "old")
    (tmp_path / "old" / "optimizer.pt").write_bytes(b"x")
    assert main(["export", str(tmp_path / "old"), str(tmp_path / "new")]) == 0
    assert "trust_remote_code=True" in capsys.readouterr().out
    for name in ("config.json", "processor_config.json"):
        fields = [
            json.loads((folder / name).read_text()) for folder in (tmp_path / "new", folders[0])
        ]
        assert fields[0] == fields[1]
    wanted = {path.name for path in folders[0].iterdir()} | flat_files().keys()
    assert {path.name for path in (tmp_path / "new").iterdir()} == wanted | {".wings"}


def test_exports_of_other_things_are_refused(folders, tmp_path, capsys, monkeypatch):
    model, _ = tiny_model()
    model.extract_language_model().save_pretrained(tmp_path / "llm")
    for source, said in {
        tmp_path / "nowhere": "There is no folder", tmp_path / "llm": "holds a 'llama' model",
    }.items():  # fmt: skip
        assert main(["export", str(source), str(tmp_path / "out")]) == 2
        assert said in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
    assert main(["export", str(folders[0]), str(folders[1])]) == 2
    assert "has a checkpoint" in capsys.readouterr().err

    def write_text(path, *args, **kwargs):
        if path.name.startswith(".wings_model"):
            raise OSError(28, "No space left on device", str(path))
        return write(path, *args, **kwargs)

    write = Path.write_text
    shutil.copytree(folders[0], tmp_path / "full")
    before = {path.name: path.read_bytes() for path in (tmp_path / "full").iterdir()}
    monkeypatch.setattr(Path, "write_text", write_text)
    assert main(["export", str(tmp_path / "full")]) == 1
    assert "No space left on device" in capsys.readouterr().err
    assert {path.name: path.read_bytes() for path in (tmp_path / "full").iterdir()} == before


def test_another_package_of_the_name_is_not_taken_for_this_one(monkeypatch):
    monkeypatch.setitem(sys.modules, "wings", ModuleType("wings"))
    with pytest.raises(ImportError, match="pip install wings-lorra"):
        exec(STUB, {})

    def lacks_open_clip(name):
        raise ModuleNotFoundError("No module named 'open_clip'", name="open_clip")

    # A library that the package needs is named by Python itself.
    sys.modules["wings"].__getattr__ = lacks_open_clip
    with pytest.raises(ImportError, match=r"^No module named 'open_clip'"):
        exec(STUB, {})


@pytest.mark.parametrize("name", ["config.json", "processor_config.json"])
def test_a_newer_format_is_refused(name, folders, tmp_path):
    shutil.copytree(folders[0], tmp_path / "new")
    fields = json.loads((tmp_path / "new" / name).read_text())
    assert fields["wings_format"] == OF_IMAGES and fields["wings_version"] == wings.__version__
    # A newer release may have keys that are unknown here; the format is what is said.
    fields |= {"wings_format": FORMAT + 1, "wings_version": "9.1", "rnak": 3}
    (tmp_path / "new" / name).write_text(json.dumps(fields))
    kind = WingsForCausalLM if name == "config.json" else WingsProcessor
    with pytest.raises(WingsError, match=r"format 3 of wings-lorra 9\.1.*install --upgrade"):
        kind.from_pretrained(tmp_path / "new")


def test_keys_of_other_programs_survive(folders, tmp_path):
    shutil.copytree(folders[0], tmp_path / "theirs")
    fields = json.loads((tmp_path / "theirs" / "config.json").read_text())
    stamps = {"unsloth_version": "1", "torchao_config": {"a": [1]}, "learner": None}
    stamps["quantization_config"] = {"quant_method": "torchao"}
    theirs = {**fields["auto_map"], "AutoTokenizer": ["tokens.T", None]}
    (tmp_path / "theirs" / "config.json").write_text(
        json.dumps({**fields, **stamps, "auto_map": theirs})
    )
    config = AutoConfig.from_pretrained(tmp_path / "theirs")
    assert config.torchao_config == {"a": [1]}
    config.save_pretrained(tmp_path / "again")
    again = json.loads((tmp_path / "again" / "config.json").read_text())
    assert again == {**fields, **stamps, "auto_map": theirs, "text_config": again["text_config"]}
    with pytest.raises(WingsError, match=r"'lerners'.*did you mean 'learners'"):
        WingsConfig(**{**fields, "lerners": ()})
    (tmp_path / "theirs" / "config.json").write_text(json.dumps({**fields, "hidden_size": 1}))
    with pytest.raises(WingsError, match="'hidden_size', which follows"):
        WingsForCausalLM.from_pretrained(tmp_path / "theirs")
