"""Files of a checkpoint that are lost, torn or edited: the file is named, or no harm is done."""

import json
import shutil

import pytest
import torch
from processors import ask, batch_of
from tiny import tiny_model

from wings import WingsError, WingsForCausalLM, WingsProcessor
from wings.saved_files import file_fault, reading

TALK = [{"role": "user", "content": "ab?"}, {"role": "assistant", "content": "c"}]
POINTER = "version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 1\n"
DAMAGES = {
    "gone": lambda path, data: path.unlink(),
    "empty": lambda path, data: path.write_bytes(b""),
    "half": lambda path, data: path.write_bytes(data[: len(data) // 2]),
    "longer": lambda path, data: path.write_bytes(data + b"\0" * 7),
    "pointer": lambda path, data: path.write_text(POINTER),
    "zeros": lambda path, data: path.write_bytes(bytes(len(data))),
    "no UTF-8": lambda path, data: path.write_bytes(b"\xff\xfe" + data[2:]),
    "a list": lambda path, data: path.write_text("[1, 2]"),
    "a dangling link": lambda path, data: (path.unlink(), path.symlink_to("nowhere")),
}
# Files whose loss no reader can see: transformers computes the defaults of the first, and the
# second is asked for, with a sentence, when a conversation is rendered.
OPTIONAL = ("generation_config.json", "chat_template.jinja")
NAMES = (
    "chat_template.jinja", "config.json", "generation_config.json",
    "model-00001-of-00006.safetensors", "model-00006-of-00006.safetensors",
    "model.safetensors.index.json", "processor_config.json", "tokenizer.json",
    "tokenizer_config.json",
)  # fmt: skip


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    folder = tmp_path_factory.mktemp("whole")
    model, processor = tiny_model()
    model.save_pretrained(folder, max_shard_size="60KB")
    processor.save_pretrained(folder)
    return folder, model, processor


def test_every_file_is_damaged_below(whole):
    # Code is not read where the package is imported.
    names = {path.name for path in whole[0].iterdir() if path.suffix != ".py"}
    assert {name for name in names if "-0000" not in name} <= set(NAMES)


@pytest.mark.parametrize("damage", DAMAGES)
@pytest.mark.parametrize("name", NAMES)
def test_a_damaged_file_is_named_or_does_no_harm(name, damage, whole, tmp_path):
    folder, model, processor = whole
    bad = tmp_path / "bad"
    shutil.copytree(folder, bad)
    DAMAGES[damage](bad / name, (bad / name).read_bytes())
    outcomes = []
    try:
        found = WingsForCausalLM.from_pretrained(bad)
    except WingsError as error:
        outcomes.append(str(error))
    else:
        for key, tensor in model.state_dict().items():
            assert torch.equal(found.state_dict()[key], tensor), key
    try:
        found = batch_of(WingsProcessor.from_pretrained(bad), TALK, return_labels=True)
    except WingsError as error:
        outcomes.append(str(error))
    else:
        for key, tensor in batch_of(processor, TALK, return_labels=True).items():
            assert torch.equal(found[key], tensor), key
    for sentence in outcomes:
        assert sentence.endswith(".") and "\n" not in sentence and "Traceback" not in sentence
        assert name in sentence or name in OPTIONAL or damage == "gone"
    if damage not in ("longer",) and name not in OPTIONAL:
        assert outcomes, "the damage was not seen"


def number_fields(fields, path=()):
    for key, value in fields.items():
        if isinstance(value, dict):
            yield from number_fields(value, (*path, key))
        elif isinstance(value, int | float) and not isinstance(value, bool):
            yield (*path, key)


@pytest.mark.parametrize("value", ["a", -1, 3])
def test_an_edited_number_is_refused_with_a_sentence_or_does_no_harm(value, whole, tmp_path):
    folder, model, processor = whole
    bad = tmp_path / "bad"
    shutil.copytree(folder, bad)
    fields = json.loads((folder / "config.json").read_text())
    ids = ask(processor, TALK[:1])
    with torch.no_grad():
        expected = model.eval()(**ids).logits
    for *path, key in number_fields(fields):
        edited = json.loads(json.dumps(fields))
        inner = edited
        for step in path:
            inner = inner[step]
        inner[key] = value
        (bad / "config.json").write_text(json.dumps(edited))
        try:
            found = WingsForCausalLM.from_pretrained(bad)
        except WingsError as error:
            assert str(bad) in str(error) and "\n" not in str(error), (path, key)
            continue
        # Edits that no tensor shows, such as an epsilon, are the user's own business.
        if key != "image_token_id":
            with torch.no_grad():
                assert found(**ids).logits.shape == expected.shape, (path, key)


def test_an_edited_rank_names_tensors_and_both_shapes(whole, tmp_path):
    bad = tmp_path / "bad"
    shutil.copytree(whole[0], bad)
    fields = json.loads((bad / "config.json").read_text())
    (bad / "config.json").write_text(json.dumps({**fields, "rank": 5}))
    with pytest.raises(WingsError, match=r"a_k \(\[32, 4\], not \[32, 5\]\)"):
        WingsForCausalLM.from_pretrained(bad)


def test_a_language_model_without_a_shard_is_named(whole, tmp_path):
    llm = whole[1].extract_language_model()
    llm.save_pretrained(tmp_path, max_shard_size="30KB")
    lost = sorted(tmp_path.glob("*.safetensors"))[1]
    lost.unlink()
    with pytest.raises(WingsError, match=lost.name):
        WingsForCausalLM.from_vision_text_pretrained(whole[1].config.vision_config, str(tmp_path))


def test_no_hub_is_a_sentence(monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    # Read at import; without it each load waits for a network.
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    for kind in (WingsForCausalLM, WingsProcessor):
        with pytest.raises(WingsError, match=r"'no/body' is no folder here.*HF_HUB_OFFLINE"):
            kind.from_pretrained("no/body")


def test_a_bare_name_is_refused_without_a_look_at_the_hub(monkeypatch, tmp_path):
    def look(*_, **__):
        pytest.fail("the Hub was asked")

    monkeypatch.setattr("wings.saved_files.reading", look)
    monkeypatch.setattr("wings.model.checkpoint.reading", look)
    monkeypatch.setattr("wings.processing.processor.reading", look)
    monkeypatch.chdir(tmp_path)
    for kind in (WingsForCausalLM, WingsProcessor):
        with pytest.raises(WingsError, match=r"no folder 'nobody'.*owner/name\.$"):
            kind.from_pretrained("nobody")


def test_an_interrupt_is_not_a_fault_of_a_file(tmp_path):
    with pytest.raises(KeyboardInterrupt), reading(tmp_path, "model"):
        raise KeyboardInterrupt
    assert file_fault(tmp_path) is None


@pytest.mark.parametrize("name", ["./my-wigns", "{}/my-wigns", "./my-wigns/"])
def test_a_mistyped_folder_is_named_with_the_near_one(monkeypatch, tmp_path, name):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "my-wings").mkdir()
    given = name.format(tmp_path)
    near = given.rstrip("/").replace("wigns", "wings")
    words = f"no folder '{given}' .did you mean '{near}'"
    with pytest.raises(WingsError, match=words) as error, reading(given, "Wings checkpoint"):
        raise AssertionError("the name is a path, so that the Hub need not be asked")
    assert "Hub" not in str(error.value)
