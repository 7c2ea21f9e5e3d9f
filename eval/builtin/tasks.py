"""The tasks that ship: by name, what makes their items."""

from collections.abc import Callable

from wings.eval.items import Item

from .arithmetic import arithmetic
from .capitals import capitals
from .elements import elements
from .instructions import instructions

TASKS: dict[str, Callable[[], list[Item]]] = {
    "arithmetic": arithmetic,
    "capitals": capitals,
    "elements": elements,
    "instructions": instructions,
}
