"""DDP and FSDP2 in two gloo processes: one process's curve, gradients and weights, and no hang."""

import importlib.util
import json
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file
from transformers.training_args import ParallelMode

from wings.errors import WingsError
from wings.model import WingsForCausalLM
from wings.train import parallel
from wings.train.folder import RunFolder
from wings.train.recipe import Source
from wings.train.run import train

# Long enough for two processes to import torch on a busy machine, short enough to name a hang.
HANG = 240
SPREAD = Path(__file__).with_name("spread.py")
# What both ranks get at the same time: T text alone, P a picture, W three of them in one row.
MIXED = "TP PT TT WP PW TT PP WT"
LENGTHS = (1, 60, 3, 25, 2, 44, 7, 90)


@pytest.fixture(scope="module")
def recorded():
    spec = importlib.util.spec_from_file_location("spread", SPREAD)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.recorded


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
    return [Source(str(folder / "mixed.jsonl"), str(folder))]


@pytest.fixture(scope="module")
def starts(tmp_path_factory, make_tiny):
    """Two checkpoints with tied embeddings and learners that already do something.

    `stage1` has a visual learner, `stage2` both and a router. The language model and the tower are
    what bfloat16 can say.
    """
    folders = {}
    options = {"learners": ("image", "text"), "router": "modality"}
    for name, parts in (("stage1", {"learners": ("image",), "router": None}), ("stage2", options)):
        model, processor = make_tiny(text={"tie_word_embeddings": True}, **parts)
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
def in_two(torchrun, tmp_path):
    """A function of recipes and `break:N`: all of them in two processes."""

    def run(*entries):
        arguments = []
        for n, entry in enumerate(entries):
            arguments.append(entry)
            if not isinstance(entry, str):
                arguments[-1] = tmp_path / f"recipe-{n}.yaml"
                arguments[-1].write_text(entry.to_yaml())
        code, _, errors = torchrun(2, SPREAD, *arguments, timeout=HANG)
        assert code == 0, errors[-3000:]

    return run


def outcome(recipe):
    """Losses, gradient norms, the last step's gradients and the saved weights of a run."""
    folder = Path(recipe.output)
    history = json.loads((folder / "result.json").read_text())["history"]
    gradients = torch.load(folder / "gradients.pt")
    curve = [[entry[key] for entry in history] for key in ("loss", "grad_norm")]
    return *curve, gradients, load_file(folder / "model.safetensors")


def worst(one, other):
    """The largest difference of two sets of tensors, as a share of the largest number."""
    assert one.keys() == other.keys()
    top = max(float(tensor.abs().max()) for tensor in one.values())
    return max(float((one[k].float() - other[k].float()).abs().max()) for k in one) / top


STAGES = {
    "align": ("align", {"device_batch_size": 1}),
    "instruct": ("instruct", {"rates": {"language_model": 1e-3, "router": 1e-2}}),
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


def test_two_processes_equal_one_whatever_each_of_them_gets(make, in_two, recorded):
    """Curve, gradients and weights, stages, frozen parts, tied embeddings, with and without pictures.

    FSDP2 goes first: nothing of it may stay behind for the runs of the same process that follow.
    """
    pairs = []
    for name, (stage, changes) in STAGES.items():
        single = make(f"{name}-1", stage, **changes)
        recorded(single)
        for way in ("fsdp", "ddp"):
            double = make(f"{name}-{way}", stage, parallel=way, save_every=4, **changes)
            pairs.append((single, double))
    # One step at batch 8: at once, in eight parts, on two ranks, on two ranks in parts.
    whole = make("whole-1", "instruct", batch_size=8, steps=1)
    recorded(whole)
    parts = make("parts-1", "instruct", batch_size=8, steps=1, device_batch_size=1)
    recorded(parts)
    for way, size in (("fsdp", 4), ("fsdp", 1), ("ddp", 4), ("ddp", 2)):
        settings = {"batch_size": 8, "steps": 1, "device_batch_size": size, "parallel": way}
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


def test_half_precision_with_frozen_half_weights(make, in_two, recorded, starts):
    """The frozen language model stays what it was, and stage 2's output is one folder as always."""
    settings = {"bf16": True, "freeze_llm": True}
    single = make("half-1", "instruct", **settings)
    recorded(single)
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
