"""`LanguageView`: where a model keeps the tensors of a language model."""

import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from functools import cached_property

from wings.errors import WingsError

from .language_model import BUFFERS, LanguageModel, is_tied_head
from .source import Source

# The part of a name up to the number of a block.
ROOT = re.compile(r"(.*?\.)?\d+\.")


@dataclass(frozen=True)
class LanguageView:
    """The LLM's names of tensors -> the names that a child has for them.

    Attributes:
        source: the child.
        names: of every tensor of the LLM; that of the head is where it is, or would be, stored.
        is_tied: the child's table is its head.
        table: the child's name of the table.
    """

    source: Source
    names: Mapping[str, str]
    is_tied: bool
    table: str

    @classmethod
    def of(cls, llm: LanguageModel, source: Source) -> "LanguageView":
        """Finds the LLM's tensors in a child, by one prefix, and compares their shapes.

        Raises:
            WingsError: tensors that do not meet, by name, or several language models.
        """
        prefix, names = names_in(llm, source.store, source.given)
        table, head = names[llm.table], names[llm.head]
        is_stored = head in source.store
        if not is_stored and not source.ties_head:
            raise _missing(llm, source.given, llm.head)
        view = cls(source, names, is_tied_head(source, table, head if is_stored else None), table)
        view._validate(llm)
        view._validate_no_more(llm, prefix)
        return view

    def stored(self, name: str, llm: LanguageModel) -> str:
        """The stored name of a tensor of the LLM: the table's for a tied head."""
        return self.table if name == llm.head and self.is_tied else self.names[name]

    @cached_property
    def others(self) -> list[str]:
        """Names of the tensors that do not belong to the language model."""
        own = set(self.names.values())
        return [name for name in self.source.store if name not in own]

    @property
    def sees(self) -> bool:
        """True for a model with parts beside its language model."""
        return any(not name.endswith(BUFFERS) for name in self.others)

    def _validate(self, llm: LanguageModel) -> None:
        for name in llm.names:
            stored = self.stored(name, llm)
            if stored not in self.source.store:
                raise _missing(llm, self.source.given, name)
            self.source.validate_floats(stored)
            theirs = llm.source.store[llm.stored(name)].shape
            own = self.source.store[stored].shape
            if name in llm.rows:
                theirs, own = theirs[1:], own[1:]
            if theirs != own:
                raise WingsError(
                    f"The tensor {stored} of '{self.source.given}' has the shape"
                    f" {list(self.source.store[stored].shape)}, but {name} of '{llm.source.given}'"
                    f" {list(llm.source.store[llm.stored(name)].shape)}: name the LLM that it was"
                    f" trained from."
                )

    def _validate_no_more(self, llm: LanguageModel, prefix: str) -> None:
        """Refuses blocks with tensors that the LLM lacks, other than those of Wings."""
        if self.source.is_wings:
            return
        inner = inner_names(llm).values()
        roots = {found[0] for short in inner if (found := ROOT.match(short))}
        for name in self.others:
            found = ROOT.match(name.removeprefix(prefix)) if name.startswith(prefix) else None
            if found and found[0] in roots and not name.endswith(BUFFERS):
                raise WingsError(
                    f"The tensor {name} of '{self.source.given}' is in a block of its language"
                    f" model and has no match in '{llm.source.given}': name the LLM that it was"
                    f" trained from."
                )


def inner_names(llm: LanguageModel) -> dict[str, str]:
    """Names of the decoder's tensors -> the same without the decoder's prefix."""
    return {
        name: name.removeprefix(llm.prefix)
        for name in llm.names
        if name.startswith(llm.prefix) and name != llm.head
    }


def names_in(llm: LanguageModel, known: Collection[str], given: str) -> tuple[str, dict[str, str]]:
    """Finds the names that a child has for the LLM's tensors.

    Args:
        llm: the language model.
        known: all names of the child.
        given: the child, for messages.

    Returns:
        The prefix of its decoder; and the LLM's names -> the child's. That of the head is where it
        is, or would be, stored.

    Raises:
        WingsError: no language model with all tensors, or several.
    """
    inner = inner_names(llm)
    prefix = _prefix(llm, known, given, inner)
    outer = prefix[: -len(llm.prefix)] if prefix.endswith(llm.prefix) else ""
    names = {name: prefix + short for name, short in inner.items()}
    for name in llm.names:
        if name not in names:
            options = [f"{outer}{name}", name, f"{prefix}{name}"]
            names[name] = next((one for one in options if one in known), options[0])
    return prefix, names


def _prefix(
    llm: LanguageModel, known: Collection[str], given: str, inner: Mapping[str, str]
) -> str:
    """The prefix with which a child has all of a decoder's tensors."""
    ending = inner[llm.table] if llm.table in inner else next(iter(inner.values()))
    candidates = {
        name[: -len(ending)] for name in known if name == ending or name.endswith(f".{ending}")
    }
    if not candidates:
        raise _missing(llm, given, llm.table)
    met = {
        candidate: sum(f"{candidate}{short}" in known for short in inner.values())
        for candidate in candidates
    }
    whole = sorted(candidate for candidate, count in met.items() if count == len(inner))
    if len(whole) > 1:
        raise WingsError(
            f"'{given}' has several language models, {whole[0]}* and {whole[1]}*: save the"
            f" one to merge as a model of its own."
        )
    if whole:
        return whole[0]
    nearest = max(sorted(met), key=lambda candidate: met[candidate])
    lost = next(name for name, short in inner.items() if f"{nearest}{short}" not in known)
    raise _missing(llm, given, lost)


def _missing(llm: LanguageModel, given: str, name: str) -> WingsError:
    return WingsError(
        f"'{given}' has no tensor for {name} of '{llm.source.given}': name the LLM that it"
        f" was trained from."
    )
