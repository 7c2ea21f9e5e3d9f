"""Tables of a run: ratios first, then the times, sizes and floors behind them."""

from rich.box import SIMPLE_HEAD
from rich.table import Table

from .row import AGAIN, BARE, FLEX, PLAIN, SDPA, TEXTBOOK, WINGS, Row

VARIANTS = (WINGS, PLAIN, FLEX, TEXTBOOK, AGAIN)


def lines(rows: list[Row]) -> list[dict[str, Row]]:
    """Rows by variant, one dict for each place, in the order they were measured."""
    found: dict[tuple, dict[str, Row]] = {}
    for row in rows:
        found.setdefault(row.place, {})[row.variant] = row
    return list(found.values())


def ratio_cells(rows: list[Row]) -> tuple[list[str], list[list[str]]]:
    """Header and cells of the table of ratios."""
    variants = measured_variants(rows)
    has_floor = any(row.floor for row in rows)
    header = ["", "shape", "rows x tokens", "in units of", *variants, *["floor"] * has_floor]
    body = []
    for line in lines(rows):
        first = next(iter(line.values()))
        cells = [first.what, first.shape, size(first), first.baseline]
        cells += [ratio(line.get(name)) for name in variants]
        if has_floor:
            floors = [row.floor for row in line.values() if row.floor]
            cells.append(f"{floors[0]:.2f}" if floors else "")
        body.append(cells)
    return header, body


def value_cells(rows: list[Row]) -> tuple[list[str], list[list[str]]]:
    """Header and cells of the table of medians."""
    variants = measured_variants(rows)
    header = ["", "shape", "rows x tokens", f"{BARE} / {SDPA}", *variants]
    body = []
    for line in lines(rows):
        measured = {name: row for name, row in line.items() if row.value is not None}
        if measured:
            first = next(iter(measured.values()))
            cells = [first.what, first.shape, size(first), spelled(first.base, first.unit)]
            for name in variants:
                found = measured.get(name)
                cells.append("" if found is None else spelled(found.value, found.unit))
            body.append(cells)
    return header, body


def measured_variants(rows: list[Row]) -> list[str]:
    """Those with at least one ratio, in the order of columns."""
    return [
        name
        for name in VARIANTS
        if any(row.variant == name and row.ratio is not None for row in rows)
    ]


def ratio(row: Row | None) -> str:
    """`1.24`, a dash for what was skipped."""
    if row is None:
        return ""
    return "-" if row.ratio is None else f"{row.ratio:.2f}"


def size(row: Row) -> str:
    return f"{row.batch} x {row.length:,}"


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
        table.add_column(name, justify="left" if number < 4 else "right", no_wrap=number < 4)
    before = None
    for cells in body:
        if before not in (None, cells[0]):
            table.add_section()
        before = cells[0]
        table.add_row(*cells)
    return table


def markdown(header: list[str], body: list[list[str]]) -> str:
    """For a file."""
    rule = ["---"] * 4 + ["---:"] * (len(header) - 4)
    return "\n".join(f"| {' | '.join(cells)} |" for cells in (header, rule, *body)) + "\n"
