"""Bad input: one sentence each, before anything is lost, and nothing is left behind."""

import json
import shutil
from collections import namedtuple

import pytest
import torch
from merged import language_model, moved, save
from safetensors.torch import load_file, save_file
from tiny import VISION, tiny_tokenizer

from wings.cli import main
from wings.merge import merged_model
from wings.model.causal_lm import WingsForCausalLM
from wings.output_folder import OutputFolder


@pytest.fixture
def refused(merge):
    """Runs the command, which must refuse; the output must not exist afterwards."""

    def run(*arguments):
        folder, said = merge(*arguments, code=2)
        assert not folder.exists()
        return said

    return run


@pytest.fixture
def copy_of(tmp_path):
    """A copy of a folder with other tensors or another configuration."""

    def run(folder, change=None, **fields):
        copy = shutil.copytree(folder, tmp_path / "copy")
        if change is not None:
            tensors = load_file(copy / "model.safetensors")
            change(tensors)
            save_file(tensors, copy / "model.safetensors", {"format": "pt"})
        if fields:
            config = json.loads((copy / "config.json").read_text())
            (copy / "config.json").write_text(json.dumps({**config, **fields}))
        return copy

    return run


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"num_hidden_layers": 1}, "another architecture than"),
        ({"num_attention_heads": 8, "head_dim": 8}, "num_attention_heads is 8 and not 4"),
        ({"attention_bias": True}, "has no match in"),
    ],
)
def test_another_architecture(changes, said, llm, refused, tmp_path):
    other = save(tmp_path / "other", language_model(**changes))
    assert said in refused(llm, other, "--weight", 0.5)


def test_a_tensor_that_the_child_lacks_is_named(llm, child, copy_of, refused):
    name = "model.layers.1.mlp.up_proj.weight"
    lacking = copy_of(child, lambda tensors: tensors.pop(name))
    assert f"no tensor for {name}" in refused(llm, lacking, "--weight", 0.5)


def test_a_lost_head_is_named(llm, child, copy_of, refused):
    lacking = copy_of(child, lambda tensors: tensors.pop("lm_head.weight"))
    assert "no tensor for lm_head.weight" in refused(llm, lacking, "--weight", 0.5)


def test_a_tensor_of_another_shape_is_named(llm, child, copy_of, refused):
    name = "model.norm.weight"
    other = copy_of(child, lambda tensors: tensors.update({name: torch.ones(31)}))
    said = refused(llm, other, "--weight", 0.5)
    assert f"{name} of" in said and "[31]" in said and "[32]" in said


def test_two_language_models_in_one_child(llm, child, copy_of, refused):
    def twice(tensors):
        tensors.update({f"draft.{name}": t.clone() for name, t in list(tensors.items())})

    said = refused(llm, copy_of(child, twice), "--weight", 0.5)
    assert "has several language models, draft.model.* and model.*" in said


def test_another_tokenizer(llm, refused, tmp_path):
    tokenizer = tiny_tokenizer()
    state = json.loads(tokenizer.backend_tokenizer.to_str())
    words = state["model"]["vocab"]
    words["a"], words["b"] = words["b"], words["a"]
    other = save(tmp_path / "other", moved(language_model(), 1), tokenizer)
    (other / "tokenizer.json").write_text(json.dumps(state))
    assert "another tokenizer" in refused(llm, other, "--weight", 0.5)


def test_quantised_sources(llm, child, copy_of, refused):
    other = copy_of(child, quantization_config={"quant_method": "bitsandbytes"})
    assert "is quantised" in refused(llm, other, "--weight", 0.5)


def test_whole_numbers_among_the_weights(llm, child, copy_of, refused):
    name = "model.layers.0.mlp.up_proj.weight"
    other = copy_of(child, lambda tensors: tensors.update({name: tensors[name].to(torch.int8)}))
    said = refused(llm, other, "--weight", 0.5)
    assert name in said and "dtype I8" in said


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
@pytest.mark.parametrize("where", ["llm", "child"])
def test_nan_and_infinity_are_named(value, where, llm, child, copy_of, refused):
    name = "model.layers.1.self_attn.o_proj.weight"

    def damage(tensors):
        tensors[name][3, 2] = value

    models = [copy_of(f, damage) if n == where else f for n, f in (("llm", llm), ("child", child))]
    said = refused(*models, "--weight", 0.5)
    assert f"The tensor {name} of '{models[where == 'child']}' has NaN or infinite" in said


def test_a_result_that_the_dtype_cannot_hold(llm, child, refused):
    options = ["--method", "task_arithmetic", "--weight", 1e7, "--dtype", "float16"]
    assert "float16 cannot hold" in refused(llm, child, *options)


def test_too_little_space(llm, child, refused, monkeypatch):
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(shutil, "disk_usage", lambda place: usage(10, 9, 1))
    assert "has 0.0 GB left" in refused(llm, child, "--weight", 0.5)


def test_an_output_that_exists(llm, child, merge, tmp_path):
    merge(llm, child, "--weight", 0.5)
    before = (tmp_path / "merged" / "model.safetensors").read_bytes()
    _, said = merge(llm, child, "--weight", 0.4, code=2)
    assert "has a checkpoint" in said
    assert (tmp_path / "merged" / "model.safetensors").read_bytes() == before
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "notes.txt").write_text("mine")
    merge(llm, child, "--weight", 0.5, output="mine", code=2)
    assert [path.name for path in (tmp_path / "mine").iterdir()] == ["notes.txt"]


def test_an_output_that_is_written_at_this_moment(llm, child, merge, tmp_path):
    busy = OutputFolder(tmp_path / "merged", "wings merge")
    with busy.locked():
        draft = busy.draft("model")
        (draft / "model.safetensors").write_text("half")
        _, said = merge(llm, child, "--weight", 0.5, code=2)
        assert "another process is writing to" in said
        assert (draft / "model.safetensors").read_text() == "half"


def test_an_interrupted_merge_leaves_nothing_and_a_killed_one_is_replaced(
    llm, child, merge, tmp_path, monkeypatch
):
    def interrupt(*arguments):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(merged_model, "write_small_files", interrupt)
        command = ["merge", str(llm), str(child), "--weight", "0.5"]
        assert main([*command, "--output", str(tmp_path / "stopped")]) == 130
    assert not (tmp_path / "stopped").exists()
    killed = OutputFolder(tmp_path / "killed", "wings merge")
    killed.claim()
    (killed.draft("model") / "model.safetensors").write_text("half")
    folder, _ = merge(llm, child, "--weight", 0.5, output="killed")
    assert not (folder / ".wings" / "drafts" / "model").exists()


def test_the_language_model_itself_is_no_child(llm, copy_of, refused):
    assert "is the language model itself" in refused(llm, f"{llm}/", "--weight", 0.5)
    assert "equals" in refused(llm, copy_of(llm), "--weight", 0.5)


def test_learners_alone_have_nothing_to_merge(llm, refused, tmp_path):
    model = WingsForCausalLM.from_vision_text_pretrained(VISION, str(llm), rank=4)
    model.config.llm_trained = False
    model.save_pretrained(tmp_path / "learners", learners_only=True)
    said = refused(llm, tmp_path / "learners", "--weight", 0.5)
    assert "has learners only" in said and "there is nothing to merge" in said


def test_a_model_that_sees_is_no_language_model(wings_child, child, refused):
    said = refused(wings_child, child, "--weight", 0.5)
    assert "given as the language model" in said and "wings extract" in said


def test_folders_without_what_is_read(llm, child, copy_of, refused, tmp_path):
    copy = copy_of(child)
    (copy / "model.safetensors").rename(copy / "pytorch_model.bin")
    assert "save the model as safetensors" in refused(llm, copy, "--weight", 0.5)
    assert "There is no folder" in refused(llm, tmp_path / "none", "--weight", 0.5)
    (tmp_path / "empty").mkdir()
    assert "no config.json" in refused(llm, tmp_path / "empty", "--weight", 0.5)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--weight", "0.5", "--method", "linaer"], "did you mean 'linear'?"),
        (["--weight", "1.2"], "add up to 1.2"),
        (["--weight", "-0.1"], "weight is -0.1, but must be a number of 0 or more"),
        ([], "linear needs weight"),
        (["--weight", "0.5", "0.2"], "2 numbers for 1 children"),
        (["--method", "ties", "--weight", "1", "--set", "densty=0.2"], "did you mean 'density'?"),
        (["--method", "ties", "--weight", "1", "--set", "density=1.5"], "a number from 0 to 1"),
        (["--method", "ties", "--weight", "1", "--set", "density"], "write name=value"),
        (["--method", "weighted", "--weight", "1"], "has no weight"),
        (["--weight", "0.5", "--dtype", "bfloat"], "did you mean 'bfloat16'?"),
        (["--weight", "0.5", "--keep", "x"], "which is no child"),
    ],
)
def test_wrong_parameters(arguments, said, llm, child, refused):
    assert said in refused(llm, child, *arguments)


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"slices": []}, "'slices' is not supported"),
        ({"merge_metod": "ties"}, "did you mean 'merge_method'?"),
        ({"merge_method": None}, "merge_method is missing"),
        ({"models": []}, "models is missing"),
        ({"parameters": {"weight": [0.1, 0.9]}}, "gradients over the blocks are not read"),
        ({"parameters": {"weight": []}}, "empty list"),
        ({"parameters": {"weight": [{"filtre": "a", "value": 1}]}}, "did you mean 'filter'?"),
        (
            {"parameters": {"weight": [{"filter": "mpl", "value": 1}, {"value": 0}]}},
            "names no tensor of the language model (did you mean 'mlp'?)",
        ),
        (
            {"parameters": {"weight": [{"filter": "blocks 2-", "value": 1}, {"value": 0}]}},
            "names no tensor",
        ),
        ({"parameters": {"weight": [{"filter": "mlp", "value": 1}]}}, "has no value for lm_head"),
    ],
)
def test_wrong_configurations(fields, said, llm, child, refused, tmp_path):
    content = {
        "base_model": str(llm), "merge_method": "task_arithmetic", "models": [{"model": str(child)}]
    }  # fmt: skip
    file = tmp_path / "merge.yaml"
    file.write_text(json.dumps({**content, **fields}))
    assert said in refused("--config", file)


def test_a_configuration_that_cannot_be_read(llm, child, refused, tmp_path):
    assert "cannot be read" in refused("--config", tmp_path / "none.yaml")
    (tmp_path / "bad.yaml").write_text("models: [")
    assert "is no valid YAML" in refused("--config", tmp_path / "bad.yaml")
    assert "give no others" in refused(llm, child, "--config", tmp_path / "bad.yaml")
    assert "at least one child" in refused(llm)
