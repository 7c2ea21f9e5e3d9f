"""Shows a report of `wings eval` in the terminal."""

from typing import Any

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from wings.eval.report.report import Report, Section


def show(console: Console, report: Report) -> None:
    """Prints the tables, the notes and, as the last lines, the verdict."""
    for section in report.sections:
        console.print(section_table(section), "")
    for note in report.notes:
        console.print(f"  {note}", style="dim", markup=False)
    for line in report.verdict:
        console.print(Padding(Text(line), (1, 2, 0, 2)))
    console.print()


def section_table(section: Section) -> Table:
    """A section's table for the terminal; square brackets in a cell are not read as markup."""
    table = Table(
        title=section.title, title_style="bold", title_justify="left", box=SIMPLE_HEAD,
        pad_edge=False, show_edge=False, padding=(0, 1, 0, 0),
    )  # fmt: skip
    for n, header in enumerate(section.rows[0]):
        # Names of kinds and tasks may be long; a number is never broken.
        options: dict[str, Any] = {"no_wrap": True} if n else {"overflow": "fold"}
        table.add_column(header, justify="right" if n else "left", **options)
    for row in section.rows[1:]:
        table.add_row(*map(Text, row))
    return table
