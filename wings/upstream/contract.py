"""`Contract`: something that this package relies on and another library does not promise."""

import importlib
import importlib.metadata
import inspect
import pkgutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from ..errors import WingsError


class BrokenContract(WingsError):
    """Raised where a library no longer does what this package relies on."""


@dataclass(frozen=True)
class Member:
    """A member of a library, written as `package.module:Class.name(argument, ...)`.

    The arguments are those that must be accepted by name; without brackets none is looked at.
    """

    text: str

    @cached_property
    def path(self) -> str:
        """Path of the member, without its arguments."""
        return self.text.partition("(")[0]

    @cached_property
    def arguments(self) -> tuple[str, ...]:
        """Names the member must accept."""
        inner = self.text.partition("(")[2].rstrip(")")
        return tuple(name.strip() for name in inner.split(",") if name.strip())

    def owner(self) -> tuple[Any, str]:
        """The module or class that holds the member, and its name there."""
        module, _, dotted = self.path.partition(":")
        *parents, name = dotted.split(".")
        held: Any = importlib.import_module(module)
        for parent in parents:
            held = getattr(held, parent)
        return held, name

    def fault(self) -> str | None:
        """Describes what is missing of the member; None where nothing is."""
        try:
            held, name = self.owner()
            found = getattr(held, name)
        except (ImportError, AttributeError):
            return f"{self.path} is gone"
        if not self.arguments:
            return None
        parameters = inspect.signature(found).parameters
        for argument in self.arguments:
            if argument not in parameters:
                return f"{self.path} takes no argument '{argument}'"
        return None


@dataclass(frozen=True)
class Contract:
    """One thing that is relied on.

    Attributes:
        library: the distribution that may change it.
        since: the first version of the library for which it is known to hold.
        sentence: what is relied on, as one sentence.
        members: what must exist, see `Member`.
        check: proves a behaviour that names do not show; raises AssertionError where it is lost.
    """

    library: str
    since: str
    sentence: str
    members: tuple[str, ...] = ()
    check: Callable[[], None] | None = None

    def verify(self) -> None:
        """Checks the installed library.

        Raises:
            BrokenContract: with the sentence and what is missing.
        """
        for member in self.members:
            if fault := Member(member).fault():
                raise self._broken(fault)
        if self.check is not None:
            try:
                self.check()
            except AssertionError as error:
                raise self._broken(str(error) or "a check of it fails") from error
            except Exception as error:
                raise self._broken(f"{type(error).__name__}: {error}".rstrip(": .")) from error

    def _broken(self, fault: str) -> BrokenContract:
        version = importlib.metadata.version(self.library)
        return BrokenContract(
            f"{self.library} {version} no longer does what wings relies on ({self.sentence}): "
            f"{fault}. Install a version within the bounds of setup.py."
        )


def contracts(importable_only: bool = False) -> Iterator[tuple[str, Contract]]:
    """All contracts of the room, as (name of the module, contract), modules in order.

    Args:
        importable_only: leave out modules whose libraries are not installed.
    """
    package = importlib.import_module(__name__.rpartition(".")[0])
    names = sorted(info.name for info in pkgutil.iter_modules(package.__path__))
    for name in names:
        if name.startswith("_"):
            continue
        try:
            module = importlib.import_module(f"{package.__name__}.{name}")
        except (ImportError, WingsError):
            if importable_only:
                continue
            raise
        for contract in getattr(module, "CONTRACTS", ()):
            yield name, contract


def listing() -> str:
    """All contracts as a list in Markdown, for docs/upstream.md."""
    return "\n".join(
        f"- `{module}.py`, {contract.library} since {contract.since}: {contract.sentence}."
        for module, contract in contracts()
    )
