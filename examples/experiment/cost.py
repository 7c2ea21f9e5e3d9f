"""The cost of cells: the time of a forward pass in units of the bare LLM's, and the command.

`python -m wings.examples.experiment.cost LLM COST.json` measures all cells in one run. Rounds
take every model once, in random orders that are each followed by their reverse, so that a machine
that slows down favours none. The tower is so small that its cost hides nothing; its 256 image
tokens count. All models share the LLM's weights. Nothing else should run on the machine.
"""

import argparse
import copy
import json
import random
import shlex
import statistics
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import datetime, timezone
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import AutoModelForCausalLM, PreTrainedModel
from transformers.utils import logging

from wings import WingsForCausalLM
from wings.endings import run_command
from wings.examples.commit import code_version
from wings.lora_options import LoraOptions
from wings.machine import processor_name, versions

from .cells import BY_KEY, CHEAP, Cell

LENGTHS = (1024, 2048)  # tokens
BEFORE = 10  # text tokens before the image
TOWER = {"image_size": 224, "patch_size": 14, "width": 64, "layers": 2, "head_width": 32}
ROUNDS = 8
# LoRA is measured too, as the primary comparison is with it.
MEASURED = (*CHEAP, BY_KEY["lora-both-attended"])
BARE, AGAIN = "bare", "again"
Calls = Mapping[str, Callable[[], object]]


def measure_cost(
    llm: PreTrainedModel,
    cells: Sequence[Cell] = MEASURED,
    lengths: Sequence[int] = LENGTHS,
    rounds: int = ROUNDS,
    tower: Mapping[str, Any] = TOWER,
) -> dict[str, dict[str, list[float]]]:
    """The ratio of each cell's forward time to the bare LLM's.

    Args:
        llm: the untouched LLM.
        cells: whose models of stage 2 are measured, with random weights.
        lengths: tokens of the row, of which one image's are image tokens.
        rounds: how often each model runs.
        tower: `vision_cfg` of the image tokens.

    Returns:
        per length (as text) and cell median and quartiles of the ratios of the rounds; "again" is
        the bare LLM once more, which shows the noise.
    """
    models = {cell.key: costed_model(cell, llm, tower) for cell in cells}
    found = {}
    for length in lengths:
        row = one_image(next(iter(models.values())), length)
        text = row["input_ids"].clamp(max=llm.config.vocab_size - 1)
        bare_call = partial(llm, text, use_cache=False)
        calls: Calls = {BARE: bare_call, AGAIN: bare_call} | {
            key: partial(model, **row, use_cache=False) for key, model in models.items()
        }
        seconds = alternate(calls, rounds)
        bare = seconds.pop(BARE)
        found[str(length)] = {name: ratios(times, bare) for name, times in seconds.items()}
    return found


def costed_model(cell: Cell, llm: PreTrainedModel, tower: Mapping[str, Any]) -> WingsForCausalLM:
    """A cell's model as stage 2 has it, on the weights of `llm`, with no weight that is zero."""
    options = {"router": None, **cell.stage_2["wings"]}
    if "lora" in cell.stage_2:
        fields = {k: v for k, v in cell.stage_2["lora"].items() if k != "stages"}
        options["lora"] = LoraOptions.of(fields).to_dict()
    model = WingsForCausalLM.from_vision_text_pretrained(
        {"vision_cfg": dict(tower)}, copy.deepcopy(llm), **options
    ).eval()
    shared = dict(llm.named_parameters())
    for name, parameter in model.named_parameters():
        if (own := shared.get(name.replace("language_model.", "", 1))) is not None:
            parameter.data = own.data
    # Fresh branches are zero, and products with zeros may run faster.
    groups = model.parameter_groups()
    with torch.no_grad():
        for group in set(groups) - {"language_model", "vision_tower"}:
            for parameter in groups[group]:
                if not parameter.any():
                    parameter.normal_(std=0.05)
    return model


def one_image(model: WingsForCausalLM, length: int) -> dict[str, Tensor]:
    """A row of random tokens with one image: `input_ids` [1, T] and `pixel_values` [1, 3, H, W]."""
    config = model.config
    ids = torch.randint(0, config.text_config.vocab_size, (1, length))
    ids[ids == config.image_token_id] = 0
    count = config.image_seq_length
    assert count is not None and length > BEFORE + count
    ids[:, BEFORE : BEFORE + count] = config.image_token_id
    side = model.model.vision_tower.config["vision_cfg"]["image_size"]
    return {"input_ids": ids, "pixel_values": torch.randn(1, 3, side, side)}


def orders(names: Sequence[str]) -> Iterator[list[str]]:
    """Endless random orders, each followed by its reverse."""
    shuffle = random.Random(0).shuffle
    while True:
        order = list(names)
        shuffle(order)
        yield from (order, order[::-1])


@torch.inference_mode()
def alternate(calls: Calls, rounds: int) -> dict[str, list[float]]:
    """Seconds of every call in every round, after one round that does not count."""
    for call in calls.values():
        call()
    seconds: dict[str, list[float]] = {name: [] for name in calls}
    for _, order in zip(range(rounds), orders(list(calls)), strict=False):
        for name in order:
            start = time.perf_counter()
            calls[name]()
            seconds[name].append(time.perf_counter() - start)
    return seconds


def ratios(times: Sequence[float], bare: Sequence[float]) -> list[float]:
    """Median and quartiles of the ratios, round by round."""
    found = [a / b for a, b in zip(times, bare, strict=True)]
    low, _, high = statistics.quantiles(found, n=4, method="inclusive")
    return [round(value, 4) for value in (statistics.median(found), low, high)]


def main() -> int:
    """Measures the cells and writes the file."""
    parser = argparse.ArgumentParser(prog="python -m wings.examples.experiment.cost")
    parser.add_argument("llm", type=Path, help="folder of the LLM, as OUTPUT/weights/llm")
    parser.add_argument("output", type=Path, help="cost.json in the folder of the results")
    parser.add_argument("--rounds", type=int, default=ROUNDS, help=f"default: {ROUNDS}")
    parser.add_argument("--threads", type=int, default=1, help="default: 1")
    parser.add_argument("--lengths", type=int, nargs="+", default=LENGTHS, metavar="T")
    arguments = parser.parse_args()
    logging.disable_progress_bar()
    torch.set_num_threads(arguments.threads)
    torch.manual_seed(0)
    llm = AutoModelForCausalLM.from_pretrained(arguments.llm, dtype=torch.float32).eval()
    measured = measure_cost(llm, lengths=arguments.lengths, rounds=arguments.rounds)
    words = ["python", "-m", "wings.examples.experiment.cost", "LLM", "COST.json", *sys.argv[3:]]
    about = {
        "device": processor_name(), "threads": arguments.threads, "dtype": "float32",
        "rounds": arguments.rounds, "command": shlex.join(words), **versions(), **code_version(),
        "date": datetime.now(timezone.utc).strftime("%Y-%m-%d"),
    }  # fmt: skip
    text = json.dumps({**about, "ratios": measured}, indent=1) + "\n"
    arguments.output.write_text(text, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(run_command("wings.examples.experiment.cost", main))
