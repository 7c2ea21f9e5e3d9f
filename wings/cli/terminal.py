"""The terminal: text of users, models and files is shown as it is, never read as markup."""

from typing import Any

from rich.console import Console


def make_console(**options: Any) -> Console:
    """A console that prints every string literally; styles are given as arguments or `Text`."""
    return Console(highlight=False, markup=False, emoji=False, **options)
