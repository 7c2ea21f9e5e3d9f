"""The terminal: text of users, models and files is shown as it is, never read as markup."""

from typing import Any

from rich.console import Console
from rich.table import Table


def make_console(**options: Any) -> Console:
    """A console that prints every string literally; styles are given as arguments or `Text`."""
    return Console(highlight=False, markup=False, emoji=False, **options)


def make_table(*headers: str, **options: Any) -> Table:
    """A table whose long words go on in the next line, where rich would cut them.

    Args:
        *headers: of the columns; all but the first are aligned to the right.
        **options: of the table.
    """
    table = Table(**options)
    for n, header in enumerate(headers):
        table.add_column(header, justify="right" if n else "left", overflow="fold")
    return table
