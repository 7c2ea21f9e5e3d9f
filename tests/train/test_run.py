"""Runs: both stages end to end on a tiny model; what is kept, continued and refused."""

import inspect
import json
import shutil
import signal
import time
from pathlib import Path

import pytest
import torch
from faults import killed_at
from forked import Program
from processors import ask
from safetensors.torch import load_file
from tiny import tiny_model

from wings.errors import WingsError
from wings.model.causal_lm import WingsForCausalLM
from wings.processing.processor import WingsProcessor
from wings.train import preflight, run
from wings.train.__main__ import main
from wings.train.build import load_model
from wings.train.data.collator import Collator
from wings.train.data.dataset import ConversationDataset
from wings.train.data.sampler import RecordSampler
from wings.train.recipe import DataSource
from wings.train.run import train
from wings.train.run_folder import RunFolder


def weights(folder):
    # Copied: the file is mapped into memory, and one test below writes over it.
    tensors = load_file(Path(folder) / "model.safetensors")
    return {name: tensor.clone() for name, tensor in tensors.items()}


def changed(before, after):
    """Names of the tensors that are not what they were."""
    return {name for name in before if not torch.equal(before[name], after[name])}


def test_both_stages_one_after_the_other(make_recipe, checkpoint, tmp_path, capsys):
    one = train(make_recipe("align", output=str(tmp_path / "one"), steps=12))
    assert one.losses[-1] < one.losses[0] and len(one.losses) == one.steps == 12
    moved = changed(weights(checkpoint), weights(one.folder))
    assert moved and all("projector" in name or ".wings.image" in name for name in moved)
    printed = capsys.readouterr().out
    assert "image_learners" in printed and "frozen" in printed and "align 12/12" in printed
    warm = ["rate 0.0e+00 (warmup)" in line for line in printed.splitlines() if "align " in line]
    assert warm[-12:] == [True, *[False] * 11]

    two = train(make_recipe("instruct", output=str(tmp_path / "two"), start=str(one.folder)))
    assert two.history[0].keys() >= {"loss", "grad_norm", "rate/router", "rate/language_model"}
    assert two.history[1]["rate/projector"] == pytest.approx(
        5 * two.history[1]["rate/language_model"]
    )
    model = WingsForCausalLM.from_pretrained(two.folder)
    processor = WingsProcessor.from_pretrained(two.folder)
    assert tuple(model.config.learners) == ("image", "text") and model.config.router == "position"
    assert not any("vision_tower" in n for n in changed(weights(one.folder), weights(two.folder)))
    batch = ask(processor, [{"role": "user", "content": "1+1?"}])
    assert model.generate(**batch, max_new_tokens=2).shape[0] == 1
    # Nothing pickled lies where people publish, and the loop leaves no trace in the configuration.
    assert not list(two.folder.glob("*.bin"))
    assert json.loads((two.folder / "config.json").read_text()).get("use_cache") is not False


def test_a_model_passed_in_is_trained_in_place(make_recipe, checkpoint):
    model = WingsForCausalLM.from_pretrained(checkpoint)
    processor = WingsProcessor.from_pretrained(checkpoint)
    before = model.model.projector.first.weight.detach().clone()
    calls = []
    recipe = make_recipe("align", start=None)
    result = train(recipe, model, processor, watch=lambda *call: calls.append(call))
    assert not torch.equal(before, model.model.projector.first.weight) and not model.training
    assert [call[:2] for call in calls] == [(n, 4) for n in (1, 2, 3, 4)]
    assert calls[-1][2]["loss"] == result.losses[-1]
    with pytest.raises(WingsError, match="already contains a finished run"):
        train(recipe, model, processor)
    with pytest.raises(WingsError, match="together"):
        train(recipe, model)


def test_watched_runs_print_nothing(make_recipe, capfd):
    train(make_recipe("align"), watch=lambda *call: None)
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("stage", ["align", "instruct"])
def test_text_only_data_trains(make_recipe, data, stage):
    result = train(make_recipe(stage, data=[DataSource(str(data / "text.jsonl"))]))
    assert all(0 < loss < 20 for loss in result.losses)


@pytest.mark.parametrize("checkpointing", [False, True])
def test_bf16_and_gradient_checkpointing_stay_close(make_recipe, tmp_path, checkpointing):
    plain = train(make_recipe("instruct", output=str(tmp_path / "plain")))
    other = {"bf16": not checkpointing, "gradient_checkpointing": checkpointing}
    result = train(make_recipe("instruct", output=str(tmp_path / "other"), **other))
    tolerance = 1e-5 if checkpointing else 2e-2
    assert result.losses == pytest.approx(plain.losses, rel=tolerance)
    assert checkpointing or result.losses != plain.losses


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"bf16": True},
        {"lora": {"rank": 2}, "learning_rates": {"lora": 1e-2}},
        {"kl_to_base": {"weight": 0.1}, "freeze_llm": True, "learning_rates": {}},
    ],
)
def test_chunks_of_the_loss_change_rounding_only(make_recipe, tmp_path, data, changes, monkeypatch):
    """Training and evaluation; a term that reads all logits gets all."""
    asked = []
    forward = WingsForCausalLM.forward

    def watched(self, *args, loss_chunk=None, **inputs):
        out = forward(self, *args, loss_chunk=loss_chunk, **inputs)
        if "labels" in inputs:
            asked.append((self.training, loss_chunk, out.logits.numel() > 0))
        return out

    # The trainer and the evaluation read its parameters.
    watched.__signature__ = inspect.signature(forward)
    monkeypatch.setattr(WingsForCausalLM, "forward", watched)
    held_out = {"name": "text", "path": str(data / "text.jsonl")}
    settings = {"evaluate": {"data": [held_out], "every": 2}, **changes}
    runs = []
    for chunk in (0, 3):
        recipe = make_recipe(
            "instruct", output=str(tmp_path / str(chunk)), loss_chunk=chunk, **settings
        )
        runs.append(train(recipe))
    whole, chunked = runs
    for training in (True, False):
        seen = {(chunk, has_logits) for of, chunk, has_logits in asked if of == training}
        is_kl = training and "kl_to_base" in changes
        assert seen == ({(None, True)} if is_kl else {(None, True), (3, False)})
    tolerance = 2e-3 if "bf16" in changes else 1e-5
    assert chunked.losses == pytest.approx(whole.losses, rel=tolerance)
    assert len(chunked.evaluations) > 1
    for one, other in zip(chunked.evaluations, whole.evaluations, strict=True):
        assert one == pytest.approx(other, rel=tolerance, abs=tolerance)


def test_accumulation_gives_the_same_losses_and_weights(make_recipe, tmp_path):
    results = []
    for size in (4, 2, 1):
        recipe = make_recipe(
            "instruct", output=str(tmp_path / str(size)), device_batch_size=size,
            learning_rates={"language_model": 1e-3, "projector": 1e-3, "router": 1e-3},
        )  # fmt: skip
        results.append(train(recipe))
    for other in results[1:]:
        assert other.losses == pytest.approx(results[0].losses, rel=1e-5)


def test_a_frozen_bfloat16_llm_stays_in_bfloat16(make_recipe, checkpoint):
    model = WingsForCausalLM.from_pretrained(checkpoint, dtype=torch.bfloat16)
    processor = WingsProcessor.from_pretrained(checkpoint)
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    recipe = make_recipe("align", bf16=True, start=None, learning_rates={"projector": 1e-2})
    result = train(recipe, model, processor)
    after = weights(result.folder)
    frozen = [name for name in before if ".language_model." in name and ".wings." not in name]
    assert frozen and all(torch.equal(before[name], after[name]) for name in frozen)
    assert after["model.projector.first.weight"].dtype == torch.float32
    assert result.losses[-1] < result.losses[0]


def test_the_dtype_that_the_llm_came_with_stays_in_its_configuration(make_recipe, tmp_path):
    """So that the LLM of a last stage can be extracted as what it was before the first."""
    model, processor = tiny_model(learners=("image",), router=None)
    model.config.text_config.dtype = torch.bfloat16
    for part in (model, processor):
        part.save_pretrained(tmp_path / "start")
    loaded = load_model(make_recipe("instruct", start=str(tmp_path / "start")))
    loaded.save_pretrained(tmp_path / "end")
    fields = json.loads((tmp_path / "end" / "config.json").read_text())
    assert fields["dtype"] == "float32" and fields["text_config"]["dtype"] == "bfloat16"


def test_plain_baselines(make_recipe, tmp_path, plain):
    recipe = make_recipe("align", start=None, wings={"learners": []}, output=str(tmp_path / "one"))
    one = train(recipe, *plain)
    assert not any(".wings." in name for name in weights(one.folder))
    settings = {"start": str(one.folder), "wings": {"learners": []}}
    frozen = train(
        make_recipe("instruct", freeze_llm=True, output=str(tmp_path / "frozen"), **settings)
    )
    moved = changed(weights(one.folder), weights(frozen.folder))
    assert moved and all("projector" in name for name in moved)
    full = train(make_recipe("instruct", output=str(tmp_path / "full"), **settings))
    moved = changed(weights(one.folder), weights(full.folder))
    assert any("language_model" in name for name in moved)
    assert not any(".wings." in name for name in weights(full.folder))


def test_skipped_records_are_counted_in_log_and_result(make_recipe, data, tmp_path, capsys):
    folder = tmp_path / "data"
    shutil.copytree(data, folder)
    (folder / "0-3.png").write_bytes((folder / "0-3.png").read_bytes()[:40])
    (folder / "0-5.png").unlink()
    (folder / "0-7.png").write_text("not a picture")
    sources = [DataSource(str(folder / "pictures.json"), str(folder))]
    with pytest.raises(WingsError, match=r"record 3 \(id '0-3'\).*0-3\.png|record [57]"):
        train(make_recipe("align", data=sources, steps=None, output=str(tmp_path / "stopped")))
    result = train(make_recipe("align", data=sources, steps=None, on_bad_record="skip"))
    assert result.steps == 4 and result.history[-1]["skipped"] == 3
    assert [("0-3.png" in s, "0-5.png" in s, "0-7.png" in s) for s in result.skipped] == [
        (True, False, False), (False, True, False), (False, False, True)
    ]  # fmt: skip
    assert "3 records were skipped" in capsys.readouterr().out
    assert json.loads((result.folder / "result.json").read_text())["skipped"] == result.skipped


def test_data_workers_change_nothing_but_where_the_work_is_done(make_recipe, data, tmp_path):
    records = (data / "text.jsonl").read_text().splitlines()
    (tmp_path / "d.jsonl").write_text("\n".join([*records, '{"conversations": []}']))
    source = [DataSource(str(tmp_path / "d.jsonl"))]
    results = []
    for workers in (0, 1):
        settings = {"data": source, "workers": workers, "on_bad_record": "skip"}
        results.append(train(make_recipe("align", output=str(tmp_path / f"{workers}"), **settings)))
    assert results[0].losses == results[1].losses
    assert results[0].skipped == results[1].skipped and "line 9" in results[0].skipped[0]
    recipe = make_recipe("align", data=source, workers=1)
    with pytest.raises(WingsError) as error:
        train(recipe)
    assert str(error.value).startswith(str(tmp_path)) and "\n" not in str(error.value)


def test_the_loss_is_the_mean_over_trained_tokens(make_recipe, checkpoint):
    """The logged loss of a step that moves nothing yet, against the model's own over all logits."""
    recipe = make_recipe("align", steps=1)
    processor = WingsProcessor.from_pretrained(checkpoint)
    data = ConversationDataset(recipe.data, processor, recipe.max_length)
    order = RecordSampler(data.lengths, [1.0, 1.0], recipe.batch_size, recipe.seed)
    samples = [data[number] for number in list(order)[: recipe.batch_size]]
    batch = Collator(processor.tokenizer.pad_token_id)(samples)
    assert 0 < len(batch["pixel_values"]) < 4
    model = WingsForCausalLM.from_pretrained(checkpoint)
    with torch.no_grad():
        logits = model(**{k: v for k, v in batch.items() if k != "labels"}).logits
    expected = torch.nn.functional.cross_entropy(
        logits[:, :-1].flatten(0, 1), batch["labels"][:, 1:].flatten(), ignore_index=-100
    )
    assert train(recipe).losses == [pytest.approx(float(expected), rel=1e-5)]


@pytest.mark.parametrize("step", [3, 6, 9])
def test_a_killed_run_goes_on_to_the_same_weights(make_recipe, tmp_path, step):
    settings = {"steps": 10, "save_every": 2, "save_total_limit": 2, "device_batch_size": 2}
    whole = train(make_recipe("instruct", output=str(tmp_path / "whole"), **settings))
    recipe = make_recipe("instruct", **settings)
    with killed_at(step):
        train(recipe)
    folder = RunFolder(recipe.output)
    assert [path.name for path in folder.checkpoints()][-1] == f"checkpoint-{(step - 1) // 2 * 2}"
    # As a kill in the middle of writing leaves it.
    folder.unfinished("9").joinpath("checkpoint-9").mkdir(parents=True)
    result = train(recipe)
    assert result.losses == whole.losses
    assert not changed(weights(whole.folder), weights(result.folder))
    assert not any(folder.owned.drafts.rglob("*")) and len(folder.checkpoints()) == 2


def test_kill_9_in_the_middle_loses_nothing(make_recipe, tmp_path):
    settings = {"steps": 20, "save_every": 1, "learning_rates": {"projector": 1e-2}}
    whole = train(make_recipe("align", output=str(tmp_path / "whole"), **settings))
    recipe = make_recipe("align", **settings)
    (tmp_path / "r.yaml").write_text(recipe.to_yaml())
    folder = RunFolder(recipe.output)
    run = Program("-m", "wings.train", tmp_path / "r.yaml")
    while run.poll() is None and len(folder.checkpoints()) < 2:
        time.sleep(0.01)
    run.kill()
    assert run.wait() == -signal.SIGKILL and not folder.finished
    result = train(recipe)
    assert result.losses == whole.losses
    assert not changed(weights(whole.folder), weights(result.folder))


def test_the_command_runs_a_recipe_and_refuses_in_a_sentence(make_recipe, tmp_path, capsys):
    (tmp_path / "r.yaml").write_text(make_recipe("align").to_yaml())
    assert main([str(tmp_path / "r.yaml"), "steps=2", "learning_rates.projector=1e-4"]) == 0
    out = capsys.readouterr().out
    assert "projector" in out and "1.0e-04" in out and "2 steps" in out
    assert main([str(tmp_path / "r.yaml"), "steps=2", "learning_rates.projector=1e-3"]) == 2
    error = capsys.readouterr().err
    assert "another run, with learning_rates.projector 0.0001 (now 0.001); choose" in error
    assert len(error) < 300
    # A shipped recipe is found by its name; its placeholder of a data file is not.
    assert main(["qwen2.5-7b/align", f"start={tmp_path}", "model="]) == 2
    assert "start" in capsys.readouterr().err


def test_killed_between_the_last_step_and_the_final_model(make_recipe, tmp_path):
    recipe = make_recipe("align", steps=3, save_every=3)
    result = train(recipe)
    expected = weights(result.folder)
    (result.folder / "result.json").unlink()
    (result.folder / "model.safetensors").write_bytes(b"half")
    again = train(recipe)
    assert not changed(expected, weights(again.folder)) and again.losses == result.losses


def test_a_finished_run_is_not_run_again(make_recipe, monkeypatch, capsys):
    recipe = make_recipe("align")
    result = train(recipe)
    monkeypatch.setattr(run, "_train", None)
    capsys.readouterr()
    assert train(recipe) == result
    assert "finished after 4 steps; nothing was trained" in capsys.readouterr().out


def test_a_folder_of_another_run_is_refused(make_recipe, tmp_path, checkpoint):
    train(make_recipe("align"))
    with pytest.raises(WingsError, match=r"contains another run, with seed 0 \(now 1\)"):
        train(make_recipe("align", seed=1))
    with pytest.raises(WingsError, match="contains files without a mark of wings train"):
        train(make_recipe("align", output=str(checkpoint)))
    (tmp_path / "file").touch()
    with pytest.raises(WingsError, match="is a file"):
        train(make_recipe("align", output=str(tmp_path / "file")))


def test_a_loss_that_is_not_a_number_stops_and_names_what_was_saved(make_recipe, checkpoint):
    model = WingsForCausalLM.from_pretrained(checkpoint)
    processor = WingsProcessor.from_pretrained(checkpoint)

    def poison(step, steps, metrics):
        if step == 3:
            torch.nn.init.constant_(model.model.projector.first.weight, float("nan"))

    recipe = make_recipe("align", save_every=2, start=None)
    with pytest.raises(WingsError, match=r"loss is nan at step 4.*checkpoint-2"):
        train(recipe, model, processor, watch=poison)


def test_verbosity_of_transformers_is_left_alone(make_recipe):
    from transformers.utils import logging

    logging.set_verbosity_info()
    try:
        train(make_recipe("align", steps=1))
        assert logging.get_verbosity() == logging.INFO
    finally:
        logging.set_verbosity_warning()


def test_a_sample_longer_than_the_limit_is_named(make_recipe):
    with pytest.raises(WingsError, match=r"\.json(l line| record) \d+.*9"):
        train(make_recipe("align", max_length=9))


def test_two_runs_in_one_folder(make_recipe, tmp_path):
    """The second is refused and disturbs nothing; a first that was killed is not in the way."""
    recipe = make_recipe("align", steps=20, save_every=1, batch_size=8, device_batch_size=1)
    (tmp_path / "r.yaml").write_text(recipe.to_yaml())
    command = ("-m", "wings.train", tmp_path / "r.yaml")
    first = Program(*command)
    folder = RunFolder(recipe.output)
    while first.poll() is None and not folder.checkpoints():
        time.sleep(0.01)
    # Held where it is: the second may take long to load.
    first.send_signal(signal.SIGSTOP)
    with pytest.raises(WingsError, match=r"^output: another process is writing to .*\.$"):
        train(recipe)
    second = Program(*command)
    _, errors = second.communicate()
    assert second.returncode == 2 and "another process is writing to" in errors
    assert "Traceback" not in errors
    first.kill()
    first.wait()
    assert train(recipe, watch=lambda *_: None).steps == 20


def test_stage_two_before_stage_one_is_refused_before_anything_is_read(
    make_recipe, tmp_path, capsys, monkeypatch
):
    """A start with one slash could be a name on the Hub, which is not asked."""
    monkeypatch.setattr(preflight, "preflight", lambda *_: pytest.fail("the preflight began"))
    monkeypatch.chdir(tmp_path)
    one = make_recipe("align", output=str(tmp_path / "runs" / "align"))
    two = make_recipe("instruct", start=str(tmp_path / "runs" / "align"))
    for name, recipe in (("align", one), ("instruct", two)):
        (tmp_path / f"{name}.yaml").write_text(recipe.to_yaml(tmp_path))
    assert main(["instruct.yaml"]) == 2
    said = capsys.readouterr().err
    assert "start: there is no finished model in" in said and "run align.yaml, which writes" in said


@pytest.mark.parametrize("saves", [True, False])
def test_an_interrupt_says_what_the_same_command_does_next(
    make_recipe, tmp_path, capsys, monkeypatch, saves
):
    recipe = make_recipe("align", steps=4, save_every=2 if saves else None)
    (tmp_path / "r.yaml").write_text(recipe.to_yaml(tmp_path))

    def interrupt(self, args, state, *_, **__):
        if state.global_step == 3:
            raise KeyboardInterrupt

    monkeypatch.setattr(preflight, "preflight", lambda *_: None)
    monkeypatch.setattr(run.Progress, "on_step_end", interrupt)
    assert main([str(tmp_path / "r.yaml")]) == 130
    said = capsys.readouterr().out
    assert ("the same command resumes from" in said and "checkpoint-2" in said) == saves
    assert ("no checkpoint was saved, so the same command starts again" in said) != saves
