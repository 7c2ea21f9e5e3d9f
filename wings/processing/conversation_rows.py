"""The rows of a processor's input: one conversation or several, and errors that name the row."""

from collections.abc import Callable, Mapping, Sequence

from wings.errors import WingsError


def conversations_of(given: Sequence) -> tuple[list, bool]:
    """The conversations, and whether there may be several; transformers also has objects."""
    if not given or isinstance(given, str | Mapping):
        return [given], False
    first = given[0]
    is_batch = isinstance(first, list | tuple) or hasattr(first, "messages")
    rows = list(given) if is_batch else [given]
    return [getattr(row, "messages", row) for row in rows], is_batch


def each_row(rows: list, work: Callable) -> list:
    """Calls `work` on every row; an error names the row where there are several."""
    done = []
    for index, row in enumerate(rows):
        try:
            done.append(work(row))
        except WingsError as error:
            if len(rows) == 1:
                raise
            raise WingsError(f"Row {index}: {error}") from error
    return done
