"""Preflight: what would fail at the end of a run fails before its first step, with its name."""

import functools
import json
import os
import random
import signal
import textwrap
from pathlib import Path

import numpy as np
import pytest
import torch
from forked import run_ranks
from safetensors.torch import load_file
from transformers import AutoConfig

from wings.config import WingsConfig
from wings.errors import WingsError
from wings.model.causal_lm import WingsForCausalLM
from wings.processing.processor import WingsProcessor
from wings.train import __main__ as command
from wings.train import preflight as module
from wings.train.preflight import (
    check_checkpoint,
    preflight,
    unready_stages,
)
from wings.train.run import train
from wings.train.signals import NOT_FINISHED
from wings.train.small_model import TOWER, small_config
from wings.train.trainer import WingsTrainer

VISION = {"vision_cfg": TOWER}


def broken(*args, **kwargs):
    raise RuntimeError("it broke")


@pytest.fixture
def real_steps(monkeypatch):
    """The folders in which training took a step, in order."""
    folders = []
    original = WingsTrainer.training_step

    def step(self, *args, **kwargs):
        folders.append(self.args.output_dir)
        return original(self, *args, **kwargs)

    monkeypatch.setattr(WingsTrainer, "training_step", step)
    return folders


BROKEN = {
    "save the processor": (WingsProcessor, "save_pretrained"),
    "write a conversation with the chat template": (WingsProcessor, "apply_chat_template"),
    "save a model": (WingsForCausalLM, "save_pretrained"),
    "load a model": (WingsForCausalLM, "from_pretrained"),
    "generate with a cache, text": (WingsForCausalLM, "generate"),
    "train and save checkpoints": (WingsTrainer, "_save_checkpoint"),
    "resume from a checkpoint": (WingsTrainer, "_load_from_checkpoint"),
}


@pytest.mark.parametrize("step", BROKEN)
def test_a_late_step_that_fails_is_named_before_training(
    step, make_recipe, tmp_path, monkeypatch, real_steps, capsys
):
    recipe = make_recipe("align")
    (tmp_path / "r.yaml").write_text(recipe.to_yaml())
    monkeypatch.setattr(*BROKEN[step], broken)
    assert command.main([str(tmp_path / "r.yaml"), "--debug"]) == 1
    said = capsys.readouterr().err
    assert f"PreflightError: preflight, {step}: RuntimeError: it broke" in said
    # The library's own error comes with the place where it was raised.
    assert "\nRuntimeError: it broke" in said and "in broken" in said
    assert all("drafts/preflight" in folder for folder in real_steps)
    assert not Path(recipe.output).exists()


def test_a_folder_that_cannot_be_written_is_a_sentence(make_recipe, tmp_path, capsys, real_steps):
    (tmp_path / "r.yaml").write_text(make_recipe("align").to_yaml())
    (tmp_path / "file").touch()
    assert command.main([str(tmp_path / "r.yaml"), f"output={tmp_path / 'file' / 'run'}"]) == 2
    assert "output: the folder could not be written" in capsys.readouterr().err
    assert not real_steps


def test_a_broken_first_record_is_named_before_the_model_is_loaded(
    make_recipe, data, tmp_path, monkeypatch
):
    (tmp_path / "bad.jsonl").write_text('{"conversations": []}\n')
    held_out = {"data": [{"name": "bad", "path": str(tmp_path / "bad.jsonl")}]}
    monkeypatch.setattr("wings.train.run.load_model", broken)
    recipe = make_recipe("align").to_dict()
    for changes in ({"evaluate": held_out}, {"data": [*recipe["data"], held_out["data"][0]]}):
        changes = json.loads(json.dumps(changes))
        for source in changes.get("data", ()):
            source.pop("name", None)
        with pytest.raises(WingsError, match=r"bad\.jsonl line 1"):
            train(type(make_recipe("align")).from_dict({**recipe, **changes}))


@pytest.mark.parametrize(
    ("stage", "changes"),
    [
        ("align", {}),
        ("instruct", {"lora": {"rank": 2, "alpha": 4.0}}),
        ("instruct", {"freeze_llm": True, "kl_to_base": {"weight": 1.0}, "bf16": True}),
        ("instruct", {"wings": {"router": "attended", "prefix_length": 3}, "batching": "pack"}),
    ],
)
def test_it_leaves_nothing_behind(stage, changes, make_recipe, capsys, real_steps):
    recipe = make_recipe(stage)
    recipe = type(recipe).from_dict({**recipe.to_dict(), "freeze_llm": None, **changes})
    random.seed(3), np.random.seed(3), torch.manual_seed(3)
    before = random.getstate(), np.random.get_state()[1].copy(), torch.get_rng_state()
    preflight(recipe)
    after = random.getstate(), np.random.get_state()[1], torch.get_rng_state()
    assert before[0] == after[0]
    assert (before[1] == after[1]).all() and torch.equal(before[2], after[2])
    assert not Path(recipe.output).exists()
    assert len(real_steps) == 3
    captured = capsys.readouterr()
    assert captured.out.startswith("Checking every later step on a few samples ... done in")
    assert captured.out.count("\n") == 1 and not captured.err


def test_the_run_after_it_is_the_same_to_the_bit(make_recipe, tmp_path):
    plain = make_recipe("instruct", output=str(tmp_path / "plain"))
    checked = make_recipe("instruct", output=str(tmp_path / "checked"))
    expected = train(plain)
    (tmp_path / "r.yaml").write_text(checked.to_yaml())
    assert command.main([str(tmp_path / "r.yaml")]) == 0
    ours, theirs = (
        load_file(tmp_path / name / "model.safetensors") for name in ("plain", "checked")
    )
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)
    found = json.loads((tmp_path / "checked" / "result.json").read_text())
    assert [entry["loss"] for entry in found["history"]] == expected.losses
    assert not any(Path(tmp_path, "checked", ".wings").glob("drafts/*"))


def test_a_finished_run_needs_none_and_one_that_goes_on_keeps_its_checkpoint(
    make_recipe, monkeypatch
):
    recipe = make_recipe("align", save_every=2)
    result = train(recipe)
    (result.folder / "result.json").rename(result.folder / "aside")
    before = sorted(path.name for path in result.folder.iterdir())
    preflight(recipe)
    assert sorted(path.name for path in result.folder.iterdir()) == before
    (result.folder / "aside").rename(result.folder / "result.json")
    monkeypatch.setattr(module, "_check", broken)
    preflight(recipe)


def test_a_cache_that_forgets_a_key_is_seen(monkeypatch, tmp_path):
    text = {"model_type": "llama", "hidden_size": 32, "intermediate_size": 64, "vocab_size": 128,
            "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2}  # fmt: skip
    config = small_config(WingsConfig(text_config=text, vision_config=VISION, rank=4))
    check_checkpoint(config, tmp_path / "whole")
    original = WingsForCausalLM.forward

    @functools.wraps(original)
    def forgetful(self, *args, **kwargs):
        out = original(self, *args, **kwargs)
        if kwargs.get("use_cache"):
            out.logits = out.logits.roll(1, -1)
        return out

    monkeypatch.setattr(WingsForCausalLM, "forward", forgetful)
    with pytest.raises(WingsError, match="without a cache, text: logits with a cache differ"):
        check_checkpoint(config, tmp_path / "broken")


@pytest.mark.parametrize(
    ("family", "more"),
    [
        ("qwen2", {"bos_token_id": 150000, "eos_token_id": 150001}),
        ("llama", {"pad_token_id": 127999}),
        ("gemma3_text", {"head_dim": 16, "layer_types": ["sliding_attention"] * 3
                         + ["full_attention"] * 3, "sliding_window": 8}),
        ("smollm3", {"no_rope_layers": [1, 1, 1, 0, 1, 1], "pad_token_id": 3}),
        ("qwen3_moe", {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 900}),
    ],
)  # fmt: skip
def test_a_small_model_keeps_family_width_and_options(family, more, tmp_path):
    text = AutoConfig.for_model(
        family,
        **{"hidden_size": 64, "intermediate_size": 1000, "num_hidden_layers": 6,
           "num_attention_heads": 4, "num_key_value_heads": 2, "vocab_size": 151000, **more},
    )  # fmt: skip
    options = {"rank": 4, "router": "attended", "prefix_length": 2, "learner_layers": [0, 5]}
    config = WingsConfig(text_config=text, vision_config=VISION, **options)
    small = small_config(config)
    assert small.text_config.model_type == family and small.hidden_size == 64
    assert small.text_config.num_hidden_layers <= 4 and small.text_config.vocab_size == 512
    assert (small.rank, small.router, small.prefix_length) == (4, "attended", 2)
    assert config.text_config.num_hidden_layers == 6
    check_checkpoint(small, tmp_path / "model")


def test_sizes_that_a_family_does_not_take_are_left_to_the_run():
    text = AutoConfig.for_model(
        "llama", hidden_size=48, num_attention_heads=4, num_key_value_heads=4, vocab_size=64,
        num_hidden_layers=2, intermediate_size=32,
    )  # fmt: skip
    config = WingsConfig(text_config=text, vision_config=VISION, rank=4)
    assert small_config(config) is not None
    # No decoder has a rank above its width: the configuration refuses to be built.
    config.rank = 64
    assert small_config(config) is None


def test_a_run_whose_family_cannot_be_made_small_goes_on_and_says_so(
    make_recipe, monkeypatch, capsys, real_steps
):
    monkeypatch.setattr(module, "small_config", lambda config: None)
    preflight(make_recipe("align"))
    assert "no small model of this family can be built; done" in capsys.readouterr().out
    assert not real_steps


def test_a_second_stage_that_cannot_run_yet_is_said_at_the_start_of_the_first(
    make_recipe, data, tmp_path, capsys
):
    first = make_recipe("align")
    later = {
        "fine": {"data": [{"path": str(data / "text.jsonl")}]},
        "no-data": {"data": [{"path": str(tmp_path / "gone.jsonl")}]},
        "typo": {"data": [{"path": str(data / "text.jsonl")}], "batchsize": 3},
        "other": {"start": "elsewhere", "data": [{"path": "gone.jsonl"}]},
    }
    (tmp_path / "align.yaml").write_text(first.to_yaml())
    (tmp_path / "unreadable.yaml").write_text("{")
    for name, values in later.items():
        whole = {"stage": "instruct", "output": name, "start": first.output, **values}
        (tmp_path / f"{name}.yaml").write_text(json.dumps(whole))
    no_data, typo = unready_stages(first, tmp_path / "align.yaml")
    assert no_data.startswith("no-data, which starts from this run, cannot run yet: ")
    assert "gone.jsonl: no such data file" in no_data
    assert typo.startswith("typo, ") and "batchsize" in typo
    # It may still come: the first stage runs.
    assert command.main([str(tmp_path / "align.yaml")]) == 0
    assert no_data in capsys.readouterr().out


def test_a_signal_during_it_ends_the_command_as_one_during_the_run(
    make_recipe, tmp_path, monkeypatch, capsys
):
    recipe = make_recipe("align")
    (tmp_path / "r.yaml").write_text(recipe.to_yaml())

    def signals(*args, **kwargs):
        os.kill(os.getpid(), signal.SIGTERM)

    monkeypatch.setattr("wings.train.metrics.progress.Progress.on_train_begin", signals)
    assert command.main([str(tmp_path / "r.yaml")]) == NOT_FINISHED
    assert "Stopped before the first step" in capsys.readouterr().err
    assert not Path(recipe.output).exists()


@pytest.mark.parametrize("parallel", ["ddp", "fsdp"])
def test_two_processes_do_it_together_and_end_together(parallel, make_recipe, tmp_path):
    recipe = make_recipe("instruct", parallel=parallel, output=str(tmp_path / "run"))
    (tmp_path / "r.yaml").write_text(recipe.to_yaml())
    (tmp_path / "script.py").write_text(
        textwrap.dedent(
            """
            import sys
            from wings.model.causal_lm import WingsForCausalLM
            from wings.train.__main__ import main
            from wings.train.preflight import preflight
            from wings.train.recipe import Recipe

            preflight(Recipe.from_yaml("r.yaml"))
            print("whole", flush=True)
            def broken(*args, **kwargs):
                raise RuntimeError("it broke")
            WingsForCausalLM.save_pretrained = broken
            sys.exit(main(["r.yaml"]))
            """
        )
    )
    code, printed, errors = run_ranks(2, "script.py", cwd=tmp_path)
    assert code != 0 and "it broke" in errors
    assert printed.count("whole") == 2 and printed.count("done in") == 1
    assert not (tmp_path / "run").exists()
