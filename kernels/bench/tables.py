"""Tables of a run: ratios to the baseline, and medians, as cells and in Markdown."""

from .operations import CHOICES
from .run import (
    AGAIN,
    BACKWARD,
    BARE,
    CHEAP,
    CHOSEN,
    CROSS,
    DESCRIPTORS,
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
)

VARIANTS = (WINGS, CHEAP, DESCRIPTORS, PLAIN, FLEX, TEXTBOOK, LLAVA, CROSS, OTHER, AGAIN)
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
    """`1.2 s`, `3.4 ms`, `12 us`, `1.2 GB`, `340 MB`, `1,169` launches."""
    if unit == "bytes":
        return f"{value / 1e9:.2f} GB" if value >= 1e9 else f"{value / 1e6:.1f} MB"
    if unit == "launches":
        return f"{value:,.0f}"
    for factor, name in ((1, "s"), (1e3, "ms")):
        if value * factor >= 1:
            return f"{value * factor:.3g} {name}"
    return f"{value * 1e6:.3g} us"


def markdown(cells: Cells) -> str:
    """The table in Markdown."""
    header, body = cells
    rule = ["---"] * len(PLACE) + ["---:"] * (len(header) - len(PLACE))
    return "\n".join(f"| {' | '.join(line)} |" for line in (header, rule, *body)) + "\n"
