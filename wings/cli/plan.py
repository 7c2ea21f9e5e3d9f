"""`wings plan`: memory and cost of a recipe, estimated without loading weights."""

import math
import sys
from dataclasses import dataclass

from rich.console import JustifyMethod
from rich.table import Table
from transformers.utils import logging

from wings.errors import WingsError
from wings.sense import Words
from wings.train.estimate.budget import (
    GIB,
    KEPT_FREE,
    PARALLEL_MODES,
    Budget,
    EpochEstimate,
)
from wings.train.estimate.meta_model import ModelSpec
from wings.train.recipe import Recipe
from wings.train.recipe_file import find_recipe

from .terminal import make_console

LEFT_OUT = (
    "Estimated by running the model's own code, forward and backward, on fake tensors in plain"
    " torch, for the largest batch: every sample of max_length with one image and all text trained."
    " Identical blocks are extrapolated from two and three. Not counted: the CUDA context, NCCL"
    f" buffers, workspaces and allocator gaps ({KEPT_FREE:.0%} of GPU memory is left for them);"
    " savings of Triton kernels; evaluation; the LLM's pass of kl_to_base; time for data,"
    " communication and checkpoints, which the MFU has to cover."
)


@dataclass(frozen=True)
class Card:
    """Assumed GPU: GiB, dense bfloat16 TFLOP/s, the used share of them (MFU), TB/s of memory."""

    memory: float
    tflops: float
    mfu: float
    bandwidth: float


def plan(recipe: str, overrides: list[str], gpus: int, card: Card) -> None:
    """Prints the estimate of a recipe.

    Args:
        recipe: a recipe file or the name of a shipped recipe.
        overrides: `key=value` each.
        gpus: number of GPUs.
        card: the assumed GPU.

    Raises:
        WingsError: an unusable recipe or configuration.
    """
    for name, value in (("gpus", gpus), *vars(card).items()):
        if not value > 0:
            raise WingsError(f"--{name} {value} must be larger than 0.")
    logging.set_verbosity_error()
    file = find_recipe(recipe)
    read = Recipe.from_yaml(file, overrides)
    if read.batch_size % gpus:
        raise WingsError(f"batch_size: {read.batch_size} cannot be split over {gpus} GPUs.")
    budget = Budget(read, ModelSpec.of(read, file), gpus, card.memory)
    # Whole lines in a file, whole words in a terminal.
    console = make_console(soft_wrap=not sys.stdout.isatty())
    if budget.spec.note:
        console.print(budget.spec.note)
    console.print(title(budget, recipe, card))
    console.print(groups(budget))
    console.print(memory(budget))
    for line in fits(budget):
        console.print(line)
    epoch = EpochEstimate.of(read, file)
    for line in (*cost(budget, card, epoch), *shares(budget, card, epoch)):
        console.print(line)
    console.print(LEFT_OUT, style="dim")


def title(budget: Budget, name: str, card: Card) -> str:
    """First line: model, stage, dtype, GPUs and batch."""
    recipe, blocks = budget.recipe, budget.model.config.text_config.num_hidden_layers
    on = "one GPU" if budget.gpus == 1 else f"{budget.gpus} GPUs"
    precision = "bfloat16" if recipe.bf16 else "float32"
    return (
        f"{name}: stage {recipe.stage}, {blocks} blocks of width"
        f" {budget.model.config.hidden_size}, {precision}, on {on} of {card.memory:g} GiB;"
        f" {recipe.batch_size} samples a step, {budget.rows} at once on a GPU,"
        f" up to {budget.length:,} tokens each"
    )


def groups(budget: Budget) -> Table:
    """Table of the parameter groups and their bytes in the whole model."""
    table = Table(box=None, header_style="", pad_edge=False)
    for name in ("group", "weights", "rate", "held in", "weights, GiB", "gradients", "AdamW"):
        justify: JustifyMethod = "left" if name in ("group", "held in") else "right"
        table.add_column(name, justify=justify, no_wrap=name in ("group", "weights"))
    totals = [0, 0, 0]
    for group in budget.groups:
        sizes = group.weights, group.gradients, group.optimiser
        totals = [total + size for total, size in zip(totals, sizes, strict=True)]
        table.add_row(
            group.name,
            f"{group.count:,}",
            "frozen" if group.rate is None else f"{group.rate:.1e}",
            str(group.kind).removeprefix("torch."),
            *map(gib, sizes),
        )
    trained = sum(group.count for group in budget.groups if group.rate is not None)
    everything = sum(group.count for group in budget.groups)
    table.add_row("all", f"{everything:,}", "", "", *map(gib, totals), style="bold")
    table.add_row("of it trained", f"{trained:,}")
    return table


def memory(budget: Budget) -> Table:
    """Table of the memory of one GPU, a column per parallel mode."""
    modes = PARALLEL_MODES if budget.gpus > 1 else PARALLEL_MODES[:1]
    table = Table(box=None, header_style="", pad_edge=False)
    table.add_column("GiB on each GPU")
    for mode in modes:
        mark = " (the recipe's)" if mode == budget.recipe.parallel and budget.gpus > 1 else ""
        table.add_column(f"{mode}{mark}" if budget.gpus > 1 else "one GPU", justify="right")
    shares = [budget.device_memory(mode) for mode in modes]
    for name in ("weights", "gradients", "optimiser"):
        table.add_row(name, *(gib(vars(share)[name]) for share in shares))
    if budget.gpus > 1:
        table.add_row("buckets, gathered parts", *(gib(share.extra) for share in shares))
    chosen = budget.recipe.gradient_checkpointing
    for on in (True, False):
        name = "with gradient checkpointing" if on else "without gradient checkpointing"
        mark = " (the recipe's)" if on == chosen else ""
        sizes = [budget.activations(mode, budget.rows, on) for mode in modes]
        table.add_row(f"activations of {budget.rows}, {name}{mark}", *map(gib, sizes))
    table.add_row("  of it logits and loss", *[gib(budget.logits())] * len(modes), style="dim")
    table.add_row("  of it learners' sources", *[gib(budget.sources())] * len(modes), style="dim")
    whole = [
        share.fixed + budget.activations(mode, budget.rows, chosen)
        for mode, share in zip(modes, shares, strict=True)
    ]
    table.add_row("together", *map(gib, whole), style="bold")
    return table


def fits(budget: Budget) -> list[str]:
    """Lines with the largest batches that fit, and whether the recipe fits."""
    lines = []
    for mode in PARALLEL_MODES if budget.gpus > 1 else PARALLEL_MODES[:1]:
        most = {on: budget.largest(mode, on) for on in (True, False)}
        name = mode if budget.gpus > 1 else "one GPU"
        lines.append(
            f"{name}: the largest device_batch_size that fits is {most[True] or 'none'} with"
            f" gradient checkpointing, {most[False] or 'none'} without"
        )
    mode = budget.recipe.parallel if budget.gpus > 1 else "ddp"
    ok = budget.largest(mode, budget.recipe.gradient_checkpointing) >= budget.rows
    lines.append("the recipe fits" if ok else "THE RECIPE DOES NOT FIT")
    return lines


def tokens_per_second(budget: Budget, card: Card) -> float:
    """Tokens that all GPUs process in a second."""
    done = budget.flops_per_token(budget.recipe.gradient_checkpointing)
    return budget.gpus * card.tflops * 1e12 * card.mfu / done


def shares(budget: Budget, card: Card, epoch: EpochEstimate) -> list[str]:
    """Lines about encoders, optimiser and data of a step."""
    recipe, speed = budget.recipe, tokens_per_second(budget, card)
    mean = budget.length if epoch.tokens is None else epoch.mean
    shares = budget.encoder_shares(mean)
    parts = [
        f"the encoder of {name} {shares[name]:.1%}"
        if name in shares
        else f"{name} does not fit into max_length"
        for name in budget.model.config.senses
    ]
    lines = [f"of the FLOPs of a sample of {mean:,.0f} tokens with one item: {', '.join(parts)}"]
    if recipe.feature_cache is not None:
        sizes = [
            f"{size / 2**20:,.2f} MiB in float32 for {Words.of(name).one}"
            for name, size in budget.item_bytes().items()
        ]
        lines[0] += f"; feature_cache keeps {' and '.join(sizes)}"
    step = milliseconds(recipe.batch_size * mean / speed)
    adam = milliseconds(budget.optimiser_traffic() / (card.bandwidth * 1e12))
    lines.append(
        f"AdamW takes {adam} a step and the rest of it {step}, at {card.bandwidth:g} TB/s of memory"
        " (--bandwidth)"
    )
    if epoch.seconds:
        needed = epoch.seconds * speed / budget.gpus / epoch.mean
        lines.append(
            f"data: one process reads and encodes a sample in {milliseconds(epoch.seconds)} here,"
            f" so a GPU is kept busy by {max(1, math.ceil(needed)):,} `workers`; the recipe has"
            f" {recipe.workers}"
        )
    return lines


def cost(budget: Budget, card: Card, epoch: EpochEstimate) -> list[str]:
    """Lines with FLOPs, tokens and time."""
    useful = budget.flops_per_token(False)
    again = budget.recipe.gradient_checkpointing
    done = budget.flops_per_token(True) if again else useful
    speed = tokens_per_second(budget, card)
    lines = [
        f"{useful / 1e9:,.1f} GFLOP a token"
        + (f", {done / 1e9:,.1f} with recomputation" if done > useful else "")
        + f"; at an MFU of {card.mfu:.0%} of {card.tflops:g} TFLOP/s (--mfu, --tflops; with"
        f" recomputation) {speed:,.0f} tokens/s"
    ]
    if epoch.tokens is None:
        return [
            *lines,
            f"{1e6 / speed / 3600:,.4f} hours per million tokens"
            f" ({1e9 / speed / 3600 * budget.gpus:,.1f} GPU-hours per billion);"
            f" {epoch.why}",
        ]
    total = epoch.tokens * epoch.epochs
    gpu_hours = total / speed / 3600 * budget.gpus
    return [
        *lines,
        f"{samples(epoch)} of {epoch.mean:,.0f} tokens on average ({epoch.measured:,} were"
        f" encoded): {epoch.tokens:,.0f} tokens an epoch",
        f"{amount(epoch.epochs, 'epoch')}: {duration(total / speed)} on"
        f" {amount(budget.gpus, 'GPU')}{f', {gpu_hours:,.2f} GPU-hours' * (gpu_hours >= 0.01)}",
    ]


def samples(epoch: EpochEstimate) -> str:
    """The samples of an epoch, and those that fill its last batch."""
    more = epoch.samples - epoch.drawn
    filled = f" ({epoch.samples:,} with {more:,} again to fill the last batch)" if more else ""
    return f"{amount(epoch.drawn, 'sample')}{filled}"


def amount(value: float, noun: str) -> str:
    """A number and its noun, which has an s unless it is one."""
    number = f"{value:,}" if isinstance(value, int) else f"{value:,.4g}"
    return f"{number} {noun}{'' if value == 1 else 's'}"


def milliseconds(seconds: float) -> str:
    """Seconds as milliseconds, three digits."""
    return f"{float(f'{seconds * 1e3:.3g}'):,g} ms"


def duration(seconds: float) -> str:
    """Seconds as text: two digits below 10 s, seconds up to 10 minutes, then hours."""
    if seconds < 0.01:
        return "less than 0.01 s"
    if seconds < 10:
        return f"{seconds:.2g} s"
    return f"{seconds:,.0f} s" if seconds < 600 else f"{seconds / 3600:,.1f} hours"


def gib(size: float) -> str:
    """Bytes in GiB, with two decimals below 10."""
    value = size / GIB
    return "-" if not size else f"{value:,.1f}" if value >= 10 else f"{value:,.2f}"
