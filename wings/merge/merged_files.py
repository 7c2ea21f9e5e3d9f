"""The small files of a merged model: its configuration, its record and what the child has."""

import json
import shutil
from pathlib import Path
from typing import Any

from wings import __version__
from wings.sharing.shared_files import CARD, LARGE, MERGED, RECIPE, RESULT, files_of, fits

from .merge_tensor import MergeTrace
from .plan import MergePlan, merged_dtype, widest
from .recipe import MergeInput, Settings
from .source import Source
from .tensor_store import DTYPES, WEIGHTS_INDEX

CONFIG = "config.json"
# Files that tell of the child's training, and those that are written anew.
LEFT_OUT = (CONFIG, CARD, RECIPE, RESULT, MERGED)
DTYPE_KEYS = ("dtype", "torch_dtype")


def write_small_files(plan: MergePlan, trace: MergeTrace, folder: Path) -> None:
    """Writes everything but the weights.

    Args:
        plan: of the merge.
        trace: of all its tensors.
        folder: of the result.
    """
    child = plan.kept.source.folder
    for path in files_of(child):
        if path.name not in LEFT_OUT and not fits(path.name, LARGE):
            copy = folder / path.relative_to(child)
            copy.parent.mkdir(exist_ok=True)
            shutil.copyfile(path, copy)
    if len(plan.files) > 1 or plan.kept.source.store.files[0].name != "model.safetensors":
        places = {entry.name: file.name for file in plan.files for entry in file.entries}
        _write(
            folder / WEIGHTS_INDEX,
            {"metadata": {"total_size": plan.size}, "weight_map": dict(sorted(places.items()))},
        )
    _write(folder / MERGED, record(plan, trace))
    _write(folder / CONFIG, configuration(plan))


def configuration(plan: MergePlan) -> dict[str, Any]:
    """The kept child's configuration with what a merge changes: dtypes, head, a trained LLM."""
    fields = json.loads((plan.kept.source.folder / CONFIG).read_text(encoding="utf-8"))
    inner = [one for one in fields.values() if isinstance(one, dict) and "model_type" in one]
    if plan.unties_head:
        fields["tie_word_embeddings"] = False
        for one in inner:
            if "tie_word_embeddings" in one or one is fields.get("text_config"):
                one["tie_word_embeddings"] = False
    written = widest([merged_dtype(plan.recipe, plan.llm, name) for name in plan.llm.names])
    for one in (fields, *inner):
        for key in DTYPE_KEYS:
            if key in one:
                one[key] = _dtype_name(plan, one[key], written)
    if plan.kept.source.is_wings:
        fields["llm_trained"] = True
    return fields


def _dtype_name(plan: MergePlan, saved: Any, written: Any) -> Any:
    known = {str(dtype).removeprefix("torch."): dtype for dtype in DTYPES.values()}
    if plan.recipe.dtype is not None:
        return plan.recipe.dtype
    if saved not in known:
        return saved
    return str(widest([known[saved], written])).removeprefix("torch.")


def record(plan: MergePlan, trace: MergeTrace) -> dict[str, Any]:
    """The content of merged.json: sources, method and parameters; no paths."""
    recipe = plan.recipe
    return {
        "wings_version": __version__,
        "method": recipe.method.name,
        "parameters": _settings(recipe.settings),
        "dtype": recipe.dtype,
        "base": _source(plan.llm.source, recipe.base, trace),
        "children": [
            _source(view.source, child, trace)
            for view, child in zip(plan.views, recipe.children, strict=True)
        ],
        "kept": plan.kept.source.shown_name,
        "notes": list(plan.notes),
    }


def _source(source: Source, given: MergeInput, trace: MergeTrace) -> dict[str, Any]:
    return {
        "name": source.shown_name,
        "llm_fingerprint": trace.fingerprint(source),
        "parameters": _settings(given.settings),
    }


def _settings(settings: Settings) -> dict[str, Any]:
    return {name: setting.to_json() for name, setting in settings.items()}


def _write(path: Path, fields: dict[str, Any]) -> None:
    path.write_text(json.dumps(fields, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
