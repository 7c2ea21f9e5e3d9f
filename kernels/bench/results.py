"""Results of a run: tables, and a folder with `bench.json`, `README.md` and curves."""

import json
import math
import os
import platform
import shlex
import subprocess
import time
from dataclasses import asdict
from datetime import datetime, timezone
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import matplotlib
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator

from .operations import CHOICES
from .run import (
    AGAIN,
    BACKWARD,
    BARE,
    CHOSEN,
    CROSS,
    FLEX,
    LLAVA,
    MODELS,
    OPERATIONS,
    OTHER,
    PLAIN,
    SDPA,
    TEXTBOOK,
    WINGS,
    Row,
    Run,
)

VARIANTS = (WINGS, PLAIN, FLEX, TEXTBOOK, LLAVA, CROSS, OTHER, AGAIN)
ORDER = (
    *MODELS,
    *(what + suffix for suffix in ("", BACKWARD) for what in OPERATIONS),
    *(what + suffix for what in CHOICES for suffix in ("", BACKWARD)),
)
PLACE = ("", "model", "rows x tokens")
TITLES = {
    BARE: f"Whole models, in units of the {BARE}",
    SDPA: f"Operations, in units of causal {SDPA}",
    CHOSEN: "Choices, in units of the chosen way",
}
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
* LLaVA is transformers' model with the same decoder, tower and image tokens. Cross-attention is the
  decoder of Llama 3.2 Vision: a cross-attention block after every four, and rows without image
  tokens; it gets image features and no tower.
* Operations: alone, in units of the causal SDPA of a block of the bare LLM at that length.
  `textbook` stores whole attention matrices.
* `floor`: the lowest possible ratio. For operations it is the work at the machine's ceilings, which
  are a large copy and a large matrix product of the same run. For training steps it is the ratio of
  operations (`kernels/bench/roofline.py`).
* Choices: a piece of a block alone, and an alternative with the same result, in units of the chosen
  way. Above 1, the alternative is slower or larger.
"""

INK, PALE, GROUND, MUTED = "#1f2933", "#c3ccd5", "#ffffff", "#52606d"
# Colours that colour-blind readers can distinguish (Okabe and Ito), with marks and dashes.
STYLES: dict[str, dict[str, Any]] = {
    WINGS: {"color": "#0072b2", "marker": "o", "linestyle": "-", "linewidth": 2.4},
    PLAIN: {"color": "#56b4e9", "marker": "D", "linestyle": (0, (6, 2))},
    FLEX: {"color": "#009e73", "marker": "^", "linestyle": (0, (3, 2))},
    TEXTBOOK: {"color": "#d55e00", "marker": "s", "linestyle": (0, (1, 1.5))},
}
FLOOR: dict[str, Any] = {"color": "#5f6b76", "linewidth": 1, "linestyle": (0, (1, 3))}
UNITY: dict[str, Any] = {"color": INK, "linewidth": 1, "linestyle": (0, (5, 4))}
RC: Any = {
    "font.size": 10.5,
    "text.color": INK,
    "axes.labelcolor": INK,
    "axes.edgecolor": PALE,
    "axes.spines.top": False,
    "axes.spines.right": False,
}
TICKS = [n * 10**power for power in (-2, -1, 0, 1, 2, 3) for n in (1, 1.5, 2, 3, 5, 7)]

Cells = tuple[list[str], list[list[str]]]


def by_title(rows: list[Row]) -> dict[str, list[Row]]:
    """Rows by the title of their table; each baseline has one."""
    tables = {title: [r for r in rows if r.baseline == base] for base, title in TITLES.items()}
    return {title: part for title, part in tables.items() if part}


def lines(rows: list[Row]) -> list[dict[str, Row]]:
    """Rows by variant, a dict for each line of a table, in reading order."""
    shapes = list(dict.fromkeys(row.shape for row in rows))
    lines: dict[tuple, dict[str, Row]] = {}
    for row in rows:
        key = (ORDER.index(row.what), shapes.index(row.shape), row.batch, row.length)
        lines.setdefault(key, {})[row.variant] = row
    return [lines[key] for key in sorted(lines)]


def place(line: dict[str, Row]) -> list[str]:
    """The first cells of a line."""
    row = next(iter(line.values()))
    return [row.what, row.shape, f"{row.batch} x {row.length:,}"]


def measured_variants(rows: list[Row]) -> list[str]:
    """Variants with at least one ratio, in the order of columns."""
    measured = {row.variant for row in rows if row.ratio is not None}
    return [name for name in VARIANTS if name in measured]


def ratio_cells(rows: list[Row]) -> Cells:
    """Header and cells of the table of ratios; a dash for what was skipped."""
    variants = measured_variants(rows)
    has_floor = any(row.floor for row in rows)
    header = [*PLACE, *variants, *["floor", "wings / floor"] * has_floor]
    body = []
    for line in lines(rows):
        cells = place(line)
        for name in variants:
            row = line.get(name)
            cells.append("" if row is None else "-" if row.ratio is None else f"{row.ratio:.2f}")
        if has_floor:
            floor = next((row.floor for row in line.values() if row.floor), None)
            ratio = line[WINGS].ratio if WINGS in line else None
            cells.append(f"{floor:.2f}" if floor else "")
            cells.append(f"{ratio / floor:.2f}" if floor and ratio else "")
        body.append(cells)
    return header, body


def value_cells(rows: list[Row]) -> Cells:
    """Header and cells of the table of medians, the baseline's first."""
    variants = [name for name in measured_variants(rows) if name != AGAIN]
    body = []
    for line in lines(rows):
        bases = [with_unit(row.base, row.unit) for row in line.values() if row.base is not None]
        values = {n: with_unit(r.value, r.unit) for n, r in line.items() if r.value is not None}
        if bases:
            body.append([*place(line), bases[0], *(values.get(name, "") for name in variants)])
    return [*PLACE, rows[0].baseline, *variants], body


def with_unit(value: float, unit: str) -> str:
    """`1.2 s`, `3.4 ms`, `12 us`, `1.2 GB`, `340 MB`."""
    if unit == "bytes":
        return f"{value / 1e9:.2f} GB" if value >= 1e9 else f"{value / 1e6:.1f} MB"
    for factor, name in ((1, "s"), (1e3, "ms")):
        if value * factor >= 1:
            return f"{value * factor:.3g} {name}"
    return f"{value * 1e6:.3g} us"


def markdown(cells: Cells) -> str:
    """The table in Markdown."""
    header, body = cells
    rule = ["---"] * len(PLACE) + ["---:"] * (len(header) - len(PLACE))
    return "\n".join(f"| {' | '.join(line)} |" for line in (header, rule, *body)) + "\n"


def environment(device: torch.device, arguments: list[str]) -> dict[str, Any]:
    """Device, versions, threads, date, the exact command, and the commit if there is one."""
    return {
        "device": device_name(device),
        "python": platform.python_version(),
        **{name: installed(name) for name in ("torch", "triton", "transformers")},
        "threads": torch.get_num_threads(),
        "cores": os.cpu_count(),
        "date": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "command": shlex.join(["python", "-m", "wings.kernels.bench", *arguments]),
        "commit": commit(),
    }


def device_name(device: torch.device) -> str:
    """Name of the GPU or the processor."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()


def installed(package: str) -> str | None:
    """The version of a package, or None."""
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def commit() -> str | None:
    """The commit of the checkout, marked if files differ from it; None outside of a checkout."""
    command = ["git", "describe", "--always", "--dirty", "--abbrev=12", "--exclude=*"]
    try:
        done = subprocess.run(
            command, cwd=Path(__file__).parent, capture_output=True, text=True, check=True
        )
    except (OSError, subprocess.CalledProcessError):
        return None
    return done.stdout.strip()


# Besides the curves.
FILES = ("bench.json", "README.md")


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


def curve_names(run: Run) -> dict[str, str]:
    """File of the curves of each shape that has any: `curves.png`, or `curves-d4096.png`."""
    shapes = [shape.name for shape in run.preset.shapes]
    drawn = {row.shape for row in run.rows if row.ratio is not None and row.variant in STYLES}
    return {
        shape: "curves.png" if len(shapes) == 1 else f"curves-{slug(shape)}.png"
        for shape in shapes
        if shape in drawn
    }


def slug(text: str) -> str:
    """`NVIDIA H100 80GB HBM3` -> `nvidia-h100-80gb-hbm3`; letters, digits and hyphens."""
    kept = "".join(c if c.isalnum() else " " for c in text.lower().replace("d ", "d"))
    return "-".join(kept.split())


def draw_curves(folder: Path, run: Run, where: dict[str, Any]) -> None:
    """Writes one PNG for each shape that has ratios."""
    dtype = str(run.preset.dtype).removeprefix("torch.")
    for shape, name in curve_names(run).items():
        rows = [row for row in run.rows if row.shape == shape]
        draw(folder / name, rows, f"{shape}, {dtype}, on {where['device']}")


def draw(path: Path, rows: list[Row], title: str) -> None:
    """Writes a PNG of the rows of one shape: ratio against length, a panel for each thing."""
    rows = [row for row in rows if row.variant in STYLES and row.ratio is not None]
    batch = min(row.batch for row in rows)
    rows = [row for row in rows if row.batch == batch]
    present = {row.what for row in rows}
    operations = [what for what in ORDER if what in present and what not in MODELS]
    panels = [
        [what for what in MODELS if what in present],
        [what for what in operations if not what.endswith(BACKWARD)],
        [what for what in operations if what.endswith(BACKWARD)],
    ]
    panels = [line for line in panels if line]
    columns = max(3, *map(len, panels))
    height = 0.85 + 2.9 * len(panels)  # inches
    with matplotlib.rc_context(RC):
        figure = Figure(figsize=(3.45 * columns + 0.3, height), facecolor=GROUND)
        grid = figure.subplots(len(panels), columns, squeeze=False)
        for line, names in zip(grid, panels, strict=True):
            for axes, name in zip(line, names, strict=False):
                draw_panel(axes, [row for row in rows if row.what == name], name)
            for axes in line[len(names) :]:
                axes.set_visible(False)
        figure.text(0.012, 1 - 0.3 / height, title, fontsize=13, fontweight="bold")
        figure.text(
            0.012, 1 - 0.56 / height,
            "Lower is better; 1 is the baseline of each panel. Bars: quartiles of the rounds. "
            f"Batch size {batch}.",
            fontsize=10, color=MUTED,
        )  # fmt: skip
        handles = [
            Line2D([], [], label=name, **style)
            for name, style in STYLES.items()
            if any(row.variant == name for row in rows)
        ]
        if any(row.floor for row in rows):
            handles.append(Line2D([], [], label="floor", **FLOOR))
        figure.legend(
            handles=handles, loc="upper right", ncols=len(handles), frameon=False,
            bbox_to_anchor=(0.995, 1 - 0.05 / height), fontsize=10,
        )  # fmt: skip
        figure.subplots_adjust(
            left=0.045, right=0.985, top=1 - 1.2 / height, bottom=0.55 / height, wspace=0.24,
            hspace=0.48,
        )  # fmt: skip
        figure.savefig(path, dpi=160)


def draw_panel(axes: Axes, rows: list[Row], what: str) -> None:
    """Ratio against length on logarithmic axes, with the last ratio of each line as a number."""
    axes.set(xscale="log", yscale="log", axisbelow=True)
    axes.set_xscale("log", base=2)
    axes.grid(color="#eef1f4", linewidth=1)
    axes.tick_params(length=0)
    axes.axhline(1.0, **UNITY, zorder=1)
    axes.set_title(f"{what}\n", loc="left", fontsize=11, fontweight="bold")
    axes.text(
        0, 1.03, f"in units of {rows[0].baseline}", transform=axes.transAxes, fontsize=9.5,
        color=MUTED,
    )  # fmt: skip
    floors = sorted({(row.length, row.floor) for row in rows if row.floor})
    if floors:
        axes.plot(*zip(*floors, strict=True), **FLOOR, zorder=2)
    ends: list[tuple[float, int, str]] = []
    for name, style in STYLES.items():
        line = sorted(
            (row.length, row.ratio, row.low, row.high)
            for row in rows
            if row.variant == name and None not in (row.ratio, row.low, row.high)
        )
        if not line:
            continue
        lengths, ratios, lows, highs = map(list, zip(*line, strict=True))
        below = [max(ratio - low, 0) for ratio, low in zip(ratios, lows, strict=True)]
        above = [max(high - ratio, 0) for ratio, high in zip(ratios, highs, strict=True)]
        axes.errorbar(
            lengths, ratios, yerr=[below, above], markersize=6, markeredgecolor=GROUND, **style
        )
        ends.append((ratios[-1], lengths[-1], style["color"]))
    numbers = [ratio for ratio, *_ in ends] + [floor for _, floor in floors] + [1.0]
    low, high = min(numbers) / 1.12, max(numbers) * 1.12
    axes.set_ylim(low, high)
    # Numbers that would overlap are moved up.
    lowest = -math.inf
    for ratio, length, colour in sorted(ends):
        at = max(math.log(ratio), lowest)
        lowest = at + 0.085 * math.log(high / low)
        axes.annotate(
            f"{ratio:.2f}", (length, math.exp(at)), xytext=(7, 0), textcoords="offset points",
            va="center", fontsize=9.5, color=colour,
        )  # fmt: skip
    wide = high / low > 12
    ticks = [tick for tick in TICKS if not wide or f"{tick:e}"[0:3] in ("1.0", "3.0")]
    lengths = sorted({row.length for row in rows})
    axes.set_xlim(lengths[0] / 1.15, lengths[-1] * 1.5)
    axes.set_xlabel("tokens", fontsize=10)
    for axis, places, form in ((axes.yaxis, ticks, "g"), (axes.xaxis, lengths, ",.0f")):
        axis.set_major_locator(FixedLocator(places))
        axis.set_major_formatter(FuncFormatter(lambda number, _, form=form: f"{number:{form}}"))
        axis.set_minor_locator(NullLocator())
