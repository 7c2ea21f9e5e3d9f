"""Tables of a run: ratios first, then the times, sizes and floors behind them."""

from rich.box import SIMPLE_HEAD
from rich.table import Table

from .row import (
    AGAIN,
    BARE,
    CHOSEN,
    FLEX,
    OTHER,
    PLAIN,
    PRODUCTS,
    SDPA,
    TEXTBOOK,
    WINGS,
    Row,
    in_order,
)

VARIANTS = (WINGS, PLAIN, FLEX, TEXTBOOK, PRODUCTS, OTHER, AGAIN)
PLACE = ("", "model", "rows x tokens")


def split(rows: list[Row]) -> dict[str, list[Row]]:
    """Rows by title: whole models, operations and choices have baselines of their own."""
    titles = {
        BARE: f"Whole models, in units of the {BARE}",
        SDPA: f"Operations, in units of causal {SDPA}",
        CHOSEN: f"Choices, in units of {CHOSEN}",
    }
    found = {title: [row for row in rows if row.baseline == of] for of, title in titles.items()}
    return {title: some for title, some in found.items() if some}


def lines(rows: list[Row]) -> list[dict[str, Row]]:
    """Rows by variant, one dict for each place, in the order they are read."""
    found: dict[tuple, dict[str, Row]] = {}
    kinds = in_order(rows)
    shapes = list(dict.fromkeys(row.shape for row in rows))
    order = sorted(
        rows, key=lambda r: (kinds.index(r.what), shapes.index(r.shape), r.batch, r.length)
    )
    for row in order:
        found.setdefault(row.place, {})[row.variant] = row
    return list(found.values())


def ratio_cells(rows: list[Row]) -> tuple[list[str], list[list[str]]]:
    """Header and cells of the table of ratios."""
    variants = measured_variants(rows)
    has_floor = any(row.floor for row in rows)
    header = [*PLACE, *variants, *["floor", "wings / floor"] * has_floor]
    body = []
    for line in lines(rows):
        cells = [*place(line), *(ratio(line.get(name)) for name in variants)]
        if has_floor:
            floors = [row.floor for row in line.values() if row.floor]
            cells.append(f"{floors[0]:.2f}" if floors else "")
            gap = floors and WINGS in line and line[WINGS].ratio
            cells.append(f"{gap / floors[0]:.2f}" if gap else "")
        body.append(cells)
    return header, body


def value_cells(rows: list[Row]) -> tuple[list[str], list[list[str]]]:
    """Header and cells of the table of medians, the baseline's first."""
    variants = [name for name in measured_variants(rows) if name != AGAIN]
    header = [*PLACE, rows[0].baseline, *variants]
    body = []
    for line in lines(rows):
        bases = [spelled(row.base, row.unit) for row in line.values() if row.base is not None]
        values = {
            name: spelled(row.value, row.unit)
            for name, row in line.items()
            if row.value is not None
        }
        if bases:
            body.append([*place(line), bases[0], *(values.get(name, "") for name in variants)])
    return header, body


def measured_variants(rows: list[Row]) -> list[str]:
    """Those with at least one ratio, in the order of columns."""
    measured = {row.variant for row in rows if row.ratio is not None}
    return [name for name in VARIANTS if name in measured]


def place(line: dict[str, Row]) -> list[str]:
    """What a line is about."""
    row = next(iter(line.values()))
    return [row.what, row.shape, f"{row.batch} x {row.length:,}"]


def ratio(row: Row | None) -> str:
    """`1.24`, a dash for what was skipped."""
    if row is None:
        return ""
    return "-" if row.ratio is None else f"{row.ratio:.2f}"


def spelled(value: float, unit: str) -> str:
    """`1.2 s`, `3.4 ms`, `12 us`, `1.2 GB`, `340 MB`."""
    if unit == "bytes":
        return f"{value / 1e9:.2f} GB" if value >= 1e9 else f"{value / 1e6:.1f} MB"
    for factor, name in ((1, "s"), (1e3, "ms")):
        if value * factor >= 1:
            return f"{value * factor:.3g} {name}"
    return f"{value * 1e6:.3g} us"


def drawn(title: str, header: list[str], body: list[list[str]]) -> Table:
    """For a terminal."""
    table = Table(title=title, title_justify="left", box=SIMPLE_HEAD, pad_edge=False)
    for number, name in enumerate(header):
        table.add_column(name, justify="left" if number < len(PLACE) else "right")
    before = None
    for cells in body:
        if before not in (None, cells[0]):
            table.add_section()
        before = cells[0]
        table.add_row(*cells)
    return table


def markdown(header: list[str], body: list[list[str]]) -> str:
    """For a file."""
    rule = ["---"] * len(PLACE) + ["---:"] * (len(header) - len(PLACE))
    return "\n".join(f"| {' | '.join(cells)} |" for cells in (header, rule, *body)) + "\n"
