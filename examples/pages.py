"""Markdown pages of results."""

from collections.abc import Iterable


def join_parts(parts: Iterable[str]) -> str:
    """Paragraphs, tables and headings as one page; empty parts are left out."""
    return "\n\n".join(part for part in parts if part) + "\n"


def markdown_table(head: Iterable, rows: Iterable[Iterable]) -> str:
    """A Markdown table."""
    head = list(head)
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(str(value) for value in line) + " |" for line in lines)


def with_interval(value: float, low: float, high: float) -> str:
    """`81.2 (75 to 86)`."""
    return f"{value:.1f} ({low:.0f} to {high:.0f})"
