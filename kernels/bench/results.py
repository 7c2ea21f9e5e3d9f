"""Results of a run: a folder with `bench.json`, `README.md` and curves."""

import json
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

from .curves import curve_names
from .run import Run
from .tables import by_title, markdown, ratio_cells, value_cells

# Besides the curves.
FILES = ("bench.json", "README.md")
METHOD = """\
Every ratio is a median over interleaved rounds. A round takes every version once, in a random order
that the next round reverses. Each time is divided by that of the baseline in the same round. The
textbook takes long, so it has rounds of its own with the baseline. `again` is the baseline against
itself and shows the noise. Freed memory stays with the process, so no call pays for new pages.

* Forward passes and training steps: wall-clock time. A training step is a forward with labels and a
  backward; everything but the vision tower is trained.
* Training memory: the peak above what was allocated before the step. It counts saved tensors,
  temporaries inside operators and all gradients.
* Decoding: one token, after a cache of so many. Compiled or recorded, both models have a static
  cache and run a step as one graph: torch.compile on a CPU, a CUDA graph on a GPU.
* Launches and bytes of a decoded token are counted, not measured: the operations that run, and what
  they are given and give. Caches of the processor and what a kernel keeps do not count. The floor
  of bytes reads the factors, and each source token once in a block, beside what the bare LLM reads.
  It has no copies of a growing cache, which the bare LLM's makes for every token.
* LLaVA is transformers' model with the same decoder, tower and image tokens. Cross-attention is the
  decoder of Llama 3.2 Vision: a cross-attention block after every four, and rows without image
  tokens; it gets image features and no tower.
* Operations: alone, in units of the causal SDPA of a block of the bare LLM at that length.
  `textbook` stores whole attention matrices.
* `floor`: the lowest possible ratio. For operations it is the work at the machine's ceilings, which
  are a large copy and a large matrix product of the same run. For training steps it is the ratio of
  operations (`kernels/bench/roofline.py`): on a GPU of those that the kernels run, with attention
  as fast as matrix products, else of the fewest possible.
* Choices: a piece of a block alone, and an alternative with the same result, in units of the chosen
  way. Above 1, the alternative is slower or larger.
"""


def write(folder: Path, run: Run, where: dict[str, Any]) -> None:
    """Writes `bench.json` and `README.md`; called after each part, as a run may be cut off."""
    models = [
        {
            "name": shape.name, "width": shape.width, "heads": shape.heads,
            "key_heads": shape.key_heads, "inner": shape.inner, "layers": shape.layers,
            "decoding_layers": shape.decoding_layers, "vocabulary": shape.vocabulary,
            "rank": shape.rank, "image_tokens": shape.image_tokens,
        }
        for shape in run.preset.shapes
    ]  # fmt: skip
    record = {
        **where,
        "preset": run.preset.name,
        "seconds": round(time.monotonic() - run.started),
        "models": models,
        "ceilings": asdict(run.ceilings),
        "failures": run.failures,
        "left_out": run.left_out,
        "checks": run.checks,
        "rows": [asdict(row) for row in run.rows],
    }
    folder.mkdir(parents=True, exist_ok=True)
    text = json.dumps(record, indent=1) + "\n"
    (folder / "bench.json").write_text(text, encoding="utf-8")
    (folder / "README.md").write_text(page(run, where), encoding="utf-8")


def page(run: Run, where: dict[str, Any]) -> str:
    """The tables in Markdown."""
    dtype = str(run.preset.dtype).removeprefix("torch.")
    failed = [check for check in run.checks if not check["green"]]
    models = "".join(
        f"* {shape.name}: {shape.heads} heads ({shape.key_heads} for keys), {shape.inner} inner "
        f"features, {shape.layers} blocks ({shape.decoding_layers} to decode), vocabulary "
        f"{shape.vocabulary:,}, rank {shape.rank}, {shape.image_tokens} image tokens\n"
        for shape in run.preset.shapes
    )
    curves = "".join(
        f"![ratio against length, {shape}]({name})\n\n" for shape, name in curve_names(run).items()
    )
    skipped = "".join(
        f"* {row.what}, {row.shape}, {row.batch} x {row.length:,}, {row.variant}: {row.skipped}\n"
        for row in run.rows
        if row.skipped is not None
    )
    skipped += "".join(f"* {name}: the time of the run was over\n" for name in run.left_out)
    versions = ", ".join(
        f"{name} {where[name]}" for name in ("python", "torch", "triton", "transformers")
    )
    tables = by_title(run.rows)
    parts = [
        f"# Measured on {where['device']}\n",
        f"```\n{where['command']}\n```\n",
        f"{where['date']}, commit {where['commit']}, {versions}, {where['threads']} threads. "
        f"{len(run.checks)} checks, {len(failed)} failed. A large matrix product ran at "
        f"{run.ceilings.operations / 1e12:.3g} TFLOP/s, a large copy moved "
        f"{run.ceilings.bytes / 1e9:.3g} GB/s.\n",
        curves.rstrip() + "\n",
        *(
            f"## {title} (lower is better)\n\n{markdown(ratio_cells(rows))}"
            for title, rows in tables.items()
        ),
        METHOD,
        f"Models of Llama's form with random weights in {dtype}:\n\n{models}",
        "## Medians on this machine\n",
        *(markdown(value_cells(rows)) for rows in tables.values()),
    ]
    if run.failures:
        parts.append("Failed:\n\n" + "".join(f"* {failure}\n" for failure in run.failures))
    if skipped:
        parts.append(f"Skipped:\n\n{skipped}")
    return "\n".join(parts)
