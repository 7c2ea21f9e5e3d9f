"""Runs recipes on records in the order of their file and writes down the last step's gradients.

`torchrun .. spread.py RECIPE.yaml ...` runs one after the other; `break:N` before a recipe makes
it stop after step N, as a kill does.
"""

import contextlib
import json
import sys
from pathlib import Path

import torch
from safetensors.torch import load_file
from transformers import TrainerCallback

from wings.train import run
from wings.train.data import dataset as data
from wings.train.data.sampler import RecordSampler
from wings.train.metrics import answers
from wings.train.recipe import Recipe
from wings.train.trainer import WingsTrainer


class Broken(Exception):
    pass


class InOrder(RecordSampler):
    """No shuffle, so that a file says which rank gets what."""

    used = False

    def __iter__(self):
        InOrder.used = True
        yield from (number % sum(self.lengths) for number in range(len(self)))


class GradientRecorder(TrainerCallback):
    """Writes `gradients.pt` before every optimiser step: name -> whole gradient."""

    def __init__(self, stop_after):
        self.stop_after = stop_after

    def on_pre_optimizer_step(self, args, state, control, model=None, **kwargs):
        gradients = {}
        for name, parameter in model.named_parameters():
            if parameter.requires_grad:
                whole = getattr(parameter.grad, "full_tensor", parameter.grad.clone)()
                gradients[name] = whole.cpu()
        if state.is_world_process_zero:
            torch.save(gradients, f"{args.output_dir}/gradients.pt")

    def on_step_end(self, args, state, control, **kwargs):
        if not InOrder.used:
            raise AssertionError("the run takes its order from elsewhere: ranks get other records")
        if state.global_step == self.stop_after:
            raise Broken


def recorded(recipe, stop_after=None):
    """`train` with the two above in place, and with short answers to its questions."""

    class Recording(WingsTrainer):
        def __init__(self, **kwargs):
            extra = [*kwargs.pop("callbacks"), GradientRecorder(stop_after)]
            super().__init__(callbacks=extra, **kwargs)

    before = run.WingsTrainer, data.RecordSampler, answers.MAX_NEW_TOKENS
    run.WingsTrainer, data.RecordSampler, answers.MAX_NEW_TOKENS = Recording, InOrder, 6
    InOrder.used = False
    try:
        return run.train(recipe, watch=lambda *call: None)
    finally:
        run.WingsTrainer, data.RecordSampler, answers.MAX_NEW_TOKENS = before


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


if __name__ == "__main__":
    stop_after = None
    for argument in sys.argv[1:]:
        if argument.startswith("break:"):
            stop_after = int(argument.removeprefix("break:"))
            continue
        with contextlib.suppress(Broken):
            recorded(Recipe.from_yaml(argument), stop_after)
        stop_after = None
    torch.distributed.destroy_process_group()
