"""`MergePlan`: which file of the result has which tensor, and where each comes from."""

import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from functools import reduce
from pathlib import Path

import torch
from torch import Tensor

from wings.errors import WingsError
from wings.model.learners_only import is_learners_only

from .language_model import LanguageModel
from .language_view import LanguageView
from .recipe import MergeRecipe
from .shard_writer import ShardEntry, in_file_order
from .source import FLOATS, Source, validate_same_architecture
from .vocabulary_rows import added_rows, validate_same_tokens

# Room for the small files of a folder.
SPARE = 16 << 20


@dataclass(frozen=True)
class PlannedFile:
    """A safetensors file of the result.

    Attributes:
        name: of the file.
        entries: in its order.
        merged: names in the file -> the LLM's names; all other tensors are the kept child's.
        metadata: of the child's file.
    """

    name: str
    entries: Sequence[ShardEntry]
    merged: dict[str, str]
    metadata: dict[str, str]


@dataclass(frozen=True)
class MergePlan:
    """A merge whose sources fit.

    Attributes:
        recipe: what is asked for.
        llm: the language model.
        views: the children, in their order.
        kept: the child whose other parts and files the result has.
        rows: of the kept child's table; marks those that are not merged.
        unties_head: the result has an output head of its own, which the kept child lacks.
        notes: sentences about the sources that are worth knowing.
        files: of the result.
    """

    recipe: MergeRecipe
    llm: LanguageModel
    views: Sequence[LanguageView]
    kept: LanguageView
    rows: Tensor
    unties_head: bool
    notes: Sequence[str]
    files: Sequence[PlannedFile]

    @classmethod
    def of(cls, recipe: MergeRecipe) -> "MergePlan":
        """Opens the sources and compares them; reads no tensor but tied heads.

        Raises:
            WingsError: sources that do not fit, or parameters that a tensor lacks.
        """
        base = Source(recipe.base.source)
        llm = LanguageModel.of(base)
        children = [Source(child.source) for child in recipe.children]
        notes: list[str] = []
        for child in children:
            if child.folder.resolve() == base.folder.resolve():
                raise WingsError(
                    f"'{child.given}' is the language model itself, so there is nothing to merge:"
                    f" name a child of it."
                )
            validate_has_language_model(child)
            notes += validate_same_architecture(base, child)
        views = [LanguageView.of(llm, child) for child in children]
        for child in children:
            validate_same_tokens(base, child)
        recipe.validate_filters(llm.names)
        for name in llm.names:
            recipe.values(name)
        kept = kept_child(views, recipe.keep)
        notes += _dtype_notes(llm, views)
        notes += [
            f"What {view.source.shown_name} has beside its language model is left out."
            for view in views
            if view is not kept and view.sees
        ]
        rows = _rows(llm, views, kept)
        if count := int(rows.sum()):
            notes.append(f"{count:,} vocabulary rows that the LLM lacks are the kept child's.")
        is_untied = not (llm.is_tied and all(view.is_tied for view in views))
        unties_head = is_untied and kept.is_tied
        files = _files(recipe, llm, kept, unties_head)
        return cls(recipe, llm, views, kept, rows, unties_head, notes, files)

    @property
    def size(self) -> int:
        """Bytes of all tensors of the result."""
        return sum(entry.size for file in self.files for entry in file.entries)

    def validate_space(self, folder: Path) -> None:
        """Raises a `WingsError` if the disk of a folder has too little space for the result."""
        place = folder.expanduser().absolute()
        while not place.exists():
            place = place.parent
        free = shutil.disk_usage(place).free
        if free < self.size + SPARE:
            raise WingsError(
                f"--output: the merged model takes {self.size / 1e9:.1f} GB, and the disk of"
                f" {folder} has {free / 1e9:.1f} GB left: make space, or choose another disk."
            )


def validate_has_language_model(child: Source) -> None:
    """Raises a `WingsError` for a checkpoint of learners alone, whose LLM was not trained."""
    if is_learners_only(child.fields):
        raise WingsError(
            f"'{child.given}' has learners only, and its language model is the one that it names,"
            f" untrained: there is nothing to merge."
        )


def nothing_to_merge(plan: MergePlan, view: LanguageView) -> WingsError:
    """The error for a child with the LLM's own weights."""
    return WingsError(
        f"The language model of '{view.source.given}' equals '{plan.llm.source.given}' in every"
        f" tensor, so there is nothing to merge: nothing was written."
    )


def kept_child(views: Sequence[LanguageView], keep: str | None) -> LanguageView:
    """The child whose parts beside the language model are kept.

    Raises:
        WingsError: learners of one sense in two children, or several children that see.
    """
    owners: dict[str, Source] = {}
    for view in views:
        for sense in view.source.learners:
            if sense in owners:
                raise WingsError(
                    f"'{owners[sense].given}' and '{view.source.given}' both have {sense} learners,"
                    f" which are not merged: name one child with them."
                )
            owners[sense] = view.source
    if keep is not None:
        return next(view for view in views if view.source.given == keep)
    seeing = [view for view in views if view.sees]
    if len(seeing) > 1:
        names = " and ".join(f"'{view.source.given}'" for view in seeing)
        raise WingsError(
            f"{names} have parts beside their language models, of which one is kept: name the child"
            f" by --keep."
        )
    return seeing[0] if seeing else views[0]


def merged_dtype(recipe: MergeRecipe, llm: LanguageModel, name: str) -> torch.dtype:
    """The dtype of a merged tensor: the recipe's, or that of the LLM's tensor."""
    if recipe.dtype is not None:
        return getattr(torch, recipe.dtype)
    dtype = llm.source.store[llm.stored(name)].dtype
    assert dtype is not None
    return dtype


def _dtype_notes(llm: LanguageModel, views: Sequence[LanguageView]) -> list[str]:
    kinds: dict[str, list[str]] = {}
    for source, names in [
        (llm.source, [llm.stored(name) for name in llm.names]),
        *((view.source, [view.stored(name, llm) for name in llm.names]) for view in views),
    ]:
        found = {str(source.store[name].dtype).removeprefix("torch.") for name in names}
        for kind in sorted(found):
            kinds.setdefault(kind, []).append(source.shown_name)
    if len(kinds) == 1:
        return []
    told = "; ".join(f"{kind} in {', '.join(names)}" for kind, names in kinds.items())
    return [f"The sources have several dtypes ({told}); they are merged in float32 or wider."]


def _rows(llm: LanguageModel, views: Sequence[LanguageView], kept: LanguageView) -> Tensor:
    own = llm.source.store[llm.table].shape[0]
    counts = [view.source.store[view.table].shape[0] for view in views]
    total = kept.source.store[kept.table].shape[0]
    return added_rows(llm.source, kept.source, min(own, *counts), total)


def _files(
    recipe: MergeRecipe, llm: LanguageModel, kept: LanguageView, unties_head: bool
) -> list[PlannedFile]:
    store = kept.source.store
    of_llm = {stored: name for name, stored in kept.names.items()}
    files = []
    for path in store.files:
        entries, merged = [], {}
        for name in store:
            stored = store[name]
            if stored.file != path:
                continue
            if name in of_llm:
                merged[name] = of_llm[name]
                dtype = merged_dtype(recipe, llm, of_llm[name])
                entries.append(ShardEntry.of(name, dtype, stored.shape))
            elif recipe.dtype is not None and stored.dtype in FLOATS:
                entries.append(ShardEntry.of(name, getattr(torch, recipe.dtype), stored.shape))
            else:
                entries.append(ShardEntry(name, stored.code, stored.shape, stored.size))
        head = kept.names[llm.head]
        if unties_head and head not in store and store[kept.table].file == path:
            merged[head] = llm.head
            dtype = merged_dtype(recipe, llm, llm.head)
            entries.append(ShardEntry.of(head, dtype, store[kept.table].shape))
        files.append(PlannedFile(path.name, in_file_order(entries), merged, store.metadata[path]))
    return files


def widest(dtypes: Sequence[torch.dtype]) -> torch.dtype:
    """The dtype that holds all values of several."""
    return reduce(torch.promote_types, dtypes)
