"""The folder that a run leaves: `bench.json`, a page with its tables, and curves for each shape."""

from pathlib import Path
from typing import Any

from .curves import draw
from .record import as_json
from .row import AGAIN, OTHER
from .run import Run
from .table import markdown, ratio_cells, split, value_cells

HOW = """\
Ratios are medians over interleaved rounds of one run: each round takes every version once, in a
random order that the next takes backwards, and each time is divided by the baseline's of its round;
the textbook has rounds of its own with the baseline, as it would leave few to the others. `again`
is the baseline against itself and shows the noise. Freed memory stays with the process, so that no
call pays for pages that another gave back. Forward passes and training steps are timed by the wall;
a training step is forward with labels and backward, everything trained but the vision tower.
Training memory is the peak above what was allocated before the step: what the forward keeps,
temporaries inside operators too, and all gradients. Decoding is one token behind a cache of so
many; compiled or recorded, both models have a static cache and run a step as one graph
(torch.compile, or on a card a recording). `textbook` is the same model with whole attention
matrices. `products` is a forward, or a decoded token, with nothing of the learners but their matrix
products and fused attention, and what a cache takes in: of no use, but torch's own operators do not
get below it. Operations are timed alone, in units of the causal SDPA that a block of the bare LLM
runs at that length. `floor` is the ratio that arithmetic allows at best: of operations by the
machine's own ceilings (a large copy, a large matrix product in the same run), of training steps by
counting operations (`kernels/bench/floor.py`). A choice is a piece of a block, alone, beside the
other way to compute the same, in units of the way that was chosen: above 1 the other way is slower,
or larger.
"""


def write(folder: Path, run: Run, where: dict[str, Any]) -> None:
    """Writes all files anew, so that a run that is cut off leaves what it had."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "bench.json").write_text(as_json(run, where), encoding="utf-8")
    (folder / "README.md").write_text(page(run, where), encoding="utf-8")


def draw_all(folder: Path, run: Run, where: dict[str, Any]) -> list[Path]:
    """One PNG for each shape with ratios."""
    paths = []
    for shape in run.preset.shapes:
        rows = [row for row in run.rows if row.shape == shape.name]
        if any(row.ratio is not None and row.variant not in (AGAIN, OTHER) for row in rows):
            paths.append(folder / curve_name(run, shape.name))
            dtype = str(run.preset.dtype).removeprefix("torch.")
            draw(paths[-1], rows, f"{shape.name}, {dtype}, on {where['device']}")
    return paths


def curve_name(run: Run, shape: str) -> str:
    """`curves.png`, or `curves-d4096.png` where there are several shapes."""
    return "curves.png" if len(run.preset.shapes) == 1 else f"curves-{slug(shape)}.png"


def slug(text: str) -> str:
    """`NVIDIA H100 80GB HBM3` -> `nvidia-h100-80gb-hbm3`; letters, digits and hyphens."""
    kept = "".join(c if c.isalnum() else " " for c in text.lower().replace("d ", "d"))
    return "-".join(kept.split())


def page(run: Run, where: dict[str, Any]) -> str:
    """The tables in Markdown."""
    red = [check for check in run.checks if not check["green"]]
    shapes = "".join(
        f"* {shape.name}: {shape.heads} heads ({shape.key_heads} of keys), {shape.inner} inside, "
        f"{shape.layers} blocks ({shape.decoding_layers} to decode), vocabulary "
        f"{shape.vocabulary:,}, rank {shape.rank}, {shape.image_tokens} image tokens\n"
        for shape in run.preset.shapes
    )
    curves = "".join(
        f"![ratio against length, {shape.name}]({curve_name(run, shape.name)})\n\n"
        for shape in run.preset.shapes
        if any(row.shape == shape.name and row.ratio is not None for row in run.rows)
    )
    skipped = "".join(
        f"* {row.what}, {row.shape}, {row.batch} x {row.length:,}, {row.variant}: {row.skipped}\n"
        for row in run.rows
        if row.skipped is not None
    )
    tables = split(run.rows)
    versions = ", ".join(f"{name} {where[name]}" for name in ("python", "torch", "triton"))
    parts = [
        f"# Measured on {where['device']}\n",
        f"```\n{where['command']}\n```\n",
        f"{where['date']}, commit {where['commit']}, {versions}, transformers "
        f"{where['transformers']}, {where['threads']} threads. {len(run.checks)} checks, "
        f"{len(red)} red. A large matrix product ran at {run.ceilings.operations / 1e12:.3g} "
        f"TFLOP/s, a large copy moved {run.ceilings.bytes / 1e9:.3g} GB/s.\n",
        curves.rstrip() + "\n",
        *(f"## {title}\n\n{markdown(*ratio_cells(rows))}" for title, rows in tables.items()),
        HOW,
        f"Models of Llama's form, random weights, {str(run.preset.dtype).removeprefix('torch.')}:"
        f"\n\n{shapes}",
        "## Medians, which say something about this machine only\n",
        *(markdown(*value_cells(rows)) for rows in tables.values()),
    ]
    if run.failures:
        parts.append("Broken:\n\n" + "".join(f"* {failure}\n" for failure in run.failures))
    skipped += "".join(f"* {name}: the run's time was up\n" for name in run.left_out)
    if skipped:
        parts.append(f"Skipped:\n\n{skipped}")
    return "\n".join(parts)
