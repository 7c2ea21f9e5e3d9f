"""DDP and FSDP2 in two gloo processes: one process's curve, gradients and weights, and no hang."""

import contextlib
import json
import shutil
from pathlib import Path
from types import SimpleNamespace

import pytest
import spread
import torch
from accelerate.state import AcceleratorState
from PIL import Image
from safetensors.torch import load_file
from spread import outcome, worst
from transformers.training_args import ParallelMode

from wings.errors import WingsError
from wings.model.causal_lm import WingsForCausalLM
from wings.train import distributed as parallel
from wings.train.manifest import files_of
from wings.train.recipe import DataSource
from wings.train.run import train
from wings.train.run_folder import RunFolder

# What both ranks get at the same time: T text alone, P a picture, W three of them in one row.
MIXED = "TP PT TT WP PW TT PP WT"
LENGTHS = (1, 60, 3, 25, 2, 44, 7, 90)


@pytest.fixture(scope="module")
def mixed(tmp_path_factory):
    """A file of records in the pattern `MIXED`, with answers of very different lengths."""
    folder = tmp_path_factory.mktemp("mixed")
    lines = []
    for n, kind in enumerate(MIXED.replace(" ", "")):
        content = [{"type": "text", "text": f"{n}?"}]
        for picture in range({"T": 0, "P": 1, "W": 3}[kind]):
            name = f"{n}-{picture}.png"
            Image.effect_noise((28, 28), 90).convert("RGB").save(folder / name)
            content.insert(0, {"type": "image", "image": name})
        answer = "ab!c"[n % 4] * LENGTHS[n % 8]
        turns = [{"role": "user", "content": content}, {"role": "assistant", "content": answer}]
        lines.append(json.dumps({"messages": turns}))
    (folder / "mixed.jsonl").write_text("\n".join(lines))
    return [DataSource(str(folder / "mixed.jsonl"), str(folder))]


@pytest.fixture(scope="module")
def starts(tmp_path_factory, make_model):
    """Two checkpoints with tied embeddings and learners that already do something.

    `stage1` has a visual learner, `stage2` both and a router. The language model and the tower are
    what bfloat16 can say.
    """
    folders = {}
    options = {"learners": ("image", "text"), "router": "modality"}
    for name, parts in (("stage1", {"learners": ("image",), "router": None}), ("stage2", options)):
        model, processor = make_model(text={"tie_word_embeddings": True}, **parts)
        for parameter_name, parameter in model.named_parameters():
            if ".wings." in parameter_name and not parameter.any():
                torch.nn.init.normal_(parameter, std=0.1)
        groups = model.parameter_groups()
        for parameter in (*groups["language_model"], *groups["vision_tower"]):
            parameter.data = parameter.data.bfloat16().float()
        folders[name] = str(tmp_path_factory.mktemp(name))
        model.save_pretrained(folders[name])
        processor.save_pretrained(folders[name])
    return folders


@pytest.fixture
def make(make_recipe, mixed, starts, tmp_path):
    """A function of (name, stage, **changes): a recipe on the mixed records, unclipped."""

    def recipe(name, stage, **changes):
        settings = {
            "output": str(tmp_path / name),
            "data": mixed,
            "start": starts["stage1" if stage == "align" else "stage2"],
            "max_length": 160,
            "max_grad_norm": 1e6,
            "wings": {} if stage == "align" else {"router": "modality"},
        }
        return make_recipe(stage, **{**settings, **changes})

    return recipe


@pytest.fixture
def alone(monkeypatch):
    """A context in which this process is the only one that torchrun has started."""

    @contextlib.contextmanager
    def launched():
        with monkeypatch.context() as patch:
            world = {"RANK": 0, "LOCAL_RANK": 0, "WORLD_SIZE": 1, "LOCAL_WORLD_SIZE": 1}
            # The store of a single process takes port 0 for one that is free.
            for name, value in {**world, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": 0}.items():
                patch.setenv(name, str(value))
            try:
                yield
            finally:
                if torch.distributed.is_initialized():
                    torch.distributed.destroy_process_group()
                AcceleratorState._reset_state(reset_partial_state=True)

    return launched


STAGES = {
    "align": ("align", {"device_batch_size": 1}),
    "instruct": ("instruct", {"learning_rates": {"language_model": 1e-3, "router": 1e-2}}),
    "frozen": (
        "instruct",
        {
            "freeze_llm": True,
            "wings": {"router": "modality", "text_guard": True},
            "device_batch_size": 1,
            "gradient_checkpointing": True,
        },
    ),
}


def test_two_processes_equal_one_whatever_each_of_them_gets(make, in_two):
    """Curve, gradients, weights; stages, frozen parts, tied embeddings, ranks without a picture.

    FSDP2 goes first: nothing of it may stay behind for the runs of the same process that follow.
    """
    pairs = []
    for name, (stage, changes) in STAGES.items():
        single = make(f"{name}-1", stage, **changes)
        spread.recorded(single)
        for way in ("fsdp", "ddp"):
            double = make(f"{name}-{way}", stage, parallel=way, save_every=4, **changes)
            pairs.append((single, double))
    # One step at batch 8: at once, in eight parts, on two ranks, on two ranks in parts.
    whole = make("whole-1", "instruct", batch_size=8, steps=1)
    spread.recorded(whole)
    parts = make("parts-1", "instruct", batch_size=8, steps=1, device_batch_size=1)
    spread.recorded(parts)
    for way, size in (("fsdp", 4), ("fsdp", 1), ("ddp", 4), ("ddp", 2)):
        settings = {"batch_size": 8, "steps": 1, "device_batch_size": size, "parallel": way}
        # The loss of four samples in chunks of tokens, the head trained too.
        settings["loss_chunk"] = 5 if size == 4 else 1024
        pairs.append((whole, make(f"whole-{way}-{size}", "instruct", **settings)))
    in_two(*(double for _, double in pairs))
    for single, double in [*pairs, (whole, parts)]:
        one, two = outcome(single), outcome(double)
        assert two[0] == pytest.approx(one[0], rel=2e-5), double.output
        assert two[1] == pytest.approx(one[1], rel=1e-4), double.output
        assert all(gradient.any() for gradient in one[2].values()), double.output
        assert worst(one[2], two[2]) < 1e-4, double.output
        assert worst(one[3], two[3]) < 1e-5, double.output
        assert {k: t.dtype for k, t in one[3].items()} == {k: t.dtype for k, t in two[3].items()}
        checkpoint = RunFolder(double.output).last_checkpoint()
        assert checkpoint is None or parallel.kind_of(checkpoint) == double.parallel


def test_half_precision_with_frozen_half_weights(make, in_two, starts):
    """The frozen language model stays what it was, and stage 2's output is one folder as always."""
    settings = {"bf16": True, "freeze_llm": True}
    single = make("half-1", "instruct", **settings)
    spread.recorded(single)
    doubles = [make(f"half-{way}", "instruct", parallel=way, **settings) for way in ("fsdp", "ddp")]
    trained = make("trained", "instruct", parallel="fsdp", bf16=True)
    in_two(*doubles, trained)
    before = load_file(Path(starts["stage2"]) / "model.safetensors")
    for double in doubles:
        one, two = outcome(single), outcome(double)
        assert two[0] == pytest.approx(one[0], rel=5e-3)
        assert two[1] == pytest.approx(one[1], rel=5e-2)
        for name, tensor in two[3].items():
            frozen = ".wings." not in name and "projector" not in name
            assert tensor.dtype == (torch.bfloat16 if frozen else torch.float32), name
            assert torch.equal(tensor.float(), before[name]) == frozen, name
    kinds = {name: tensor.dtype for name, tensor in outcome(trained)[3].items()}
    assert kinds["model.language_model.norm.weight"] == torch.bfloat16
    assert kinds["model.projector.first.weight"] == torch.float32
    assert WingsForCausalLM.from_pretrained(trained.output).lm_head.weight.dtype == torch.bfloat16


def every_file_matters(folder, name):
    """Damages each file of a checkpoint in three ways and restores it."""
    checkpoint = folder.path / name
    assert folder.problem(checkpoint, (0, 1)) is None
    for file in [checkpoint / "manifest.json", *map(checkpoint.joinpath, files_of(checkpoint))]:
        content = file.read_bytes()
        for damaged in (b"", content[:-1], bytes([content[0] ^ 1]) + content[1:]):
            file.write_bytes(damaged)
            assert folder.problem(checkpoint, (0, 1)) is not None, file
        file.write_bytes(content)
    assert folder.problem(checkpoint, (0, 1)) is None


def test_a_sharded_run_goes_on_bitwise_and_from_another_number_of_processes(make, in_two, alone):
    settings = {"parallel": "fsdp", "save_every": 2, "steps": 5, "save_total_limit": 9}
    whole = make("whole", "instruct", **settings)
    broken = make("broken", "instruct", **settings)
    in_two(whole, "break:5", broken)
    folder = RunFolder(broken.output)
    # One bit of a shard: both processes go back to the older checkpoint.
    shard = next((folder.path / "checkpoint-4").rglob("__1_*.distcp"))
    shard.write_bytes(shard.read_bytes()[:-1] + bytes([shard.read_bytes()[-1] ^ 1]))
    in_two(broken)
    assert (folder.path / "damaged-checkpoint-4").is_dir()
    expected = outcome(whole)
    got = outcome(broken)
    assert got[0] == expected[0] and worst(got[3], expected[3]) == 0.0
    every_file_matters(RunFolder(whole.output), "checkpoint-4")
    assert [path.name[-1] for path in folder.checkpoints()] == ["2", "4", "5"]
    # What two processes wrote, one goes on with: first a step, then only the final model.
    shutil.rmtree(folder.path / "checkpoint-5")
    (folder.path / "result.json").unlink()
    with pytest.raises(WingsError, match=r"checkpoint-4 was written with fsdp .*nproc-per-node 1"):
        train(broken)
    with alone():
        other = make("broken", "instruct", **{**settings, "parallel": "ddp"})
        with pytest.raises(WingsError, match="with fsdp and cannot be resumed with ddp"):
            train(other)
        spread.recorded(broken)
    got = outcome(broken)
    assert got[0] == pytest.approx(expected[0], rel=2e-5) and worst(got[3], expected[3]) < 1e-5
    last = make("broken", "instruct", **{**settings, "steps": 4})
    shutil.rmtree(folder.path / "checkpoint-5")
    for name in ("result.json", "model.safetensors", "recipe.yaml"):
        (folder.path / name).unlink()
    folder.write("recipe.yaml", last.to_yaml())
    with alone():
        spread.recorded(last)
    ahead = outcome(last)
    assert ahead[0] == expected[0][:4]
    # Stage 2's output is a start as any other, whoever wrote it.
    follower = make("next", "instruct", start=last.output, steps=1)
    assert train(follower).losses


def test_one_process_has_nothing_to_share_out(make, capsys):
    result = train(make("base_inputs", "align", parallel="fsdp", steps=1))
    assert "fsdp has no effect in one process" in capsys.readouterr().out
    assert (result.folder / "model.safetensors").is_file()


def test_what_cannot_be_spread_is_refused_in_a_sentence(make, monkeypatch, starts):
    model = WingsForCausalLM.from_pretrained(starts["stage1"])
    names = {unit.__name__ for unit in parallel.unit_classes(model)}
    assert names == {"LlamaDecoderLayer", "VisionTower"}
    decoder = model.model.language_model
    decoder.layers = torch.nn.Sequential(*decoder.layers)
    with pytest.raises(WingsError, match="has no list of its 2 blocks"):
        parallel.unit_classes(model)
    monkeypatch.setenv("LOCAL_RANK", "0")
    lonely = SimpleNamespace(parallel_mode=ParallelMode.NOT_PARALLEL, device=torch.device("mps"))
    with pytest.raises(WingsError, match=r"fsdp cannot join several processes on mps"):
        parallel.validate_distributed(make("mps", "align", parallel="fsdp"), lonely)
