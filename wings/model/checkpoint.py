"""Checkpoints: nothing is missing, nothing is foreign, and a stage-1 model may grow on."""

import os
from collections.abc import Iterable
from typing import Any

from transformers.utils import logging

from wings.errors import WingsError
from wings.upstream.configuration import read_config_dict

from .pretrained import WingsPreTrainedModel

NAMED = 5
# What a checkpoint may lack and grow when it is loaded, fresh and without effect.
GROWTH = ("learners", "router", "prefix")


class CheckpointMixin(WingsPreTrainedModel):
    """`from_pretrained` that refuses what does not fit, before anyone relies on it."""

    @classmethod
    def from_pretrained(
        cls, pretrained_model_name_or_path: str | os.PathLike | None, *args: Any, **kwargs: Any
    ) -> Any:
        """Loads a Wings checkpoint: a folder or a Hub id; no network for a folder.

        Beside transformers' own arguments, `learners`, `router` and `prefix` (as in `WingsConfig`)
        let the model grow: parts that the checkpoint lacks start fresh, with no effect. So stage 2
        begins from stage 1's folder as it is.

        Raises:
            WingsError: no Wings checkpoint, or tensors that are missing or foreign (named).
        """
        source = pretrained_model_name_or_path
        if source is None:
            raise WingsError(
                "pretrained_model_name_or_path is None: give a folder or an id on the Hub."
            )
        growth = {name: kwargs.pop(name) for name in GROWTH if name in kwargs}
        with_info = kwargs.pop("output_loading_info", False)
        refuse_other_models(source, kwargs)
        verbosity = logging.get_verbosity()
        # What transformers would log as a table, the error below says in a sentence.
        logging.set_verbosity_error()
        try:
            loaded: Any = super().from_pretrained(source, *args, output_loading_info=True, **kwargs)
        finally:
            logging.set_verbosity(verbosity)
        model, info = loaded
        refuse_misfits(source, info)
        if growth:
            model.grow(**growth)
        return (model, info) if with_info else model


def refuse_other_models(source: str | os.PathLike, kwargs: dict[str, Any]) -> None:
    """Raises a `WingsError` where `source` holds a model that is not ours."""
    known = {"cache_dir", "force_download", "local_files_only", "revision", "subfolder", "token"}
    hub = {name: value for name, value in kwargs.items() if name in known}
    try:
        fields = read_config_dict(source, **hub)
    except OSError as error:
        raise WingsError(f"'{source}' holds no checkpoint that can be read: {error}") from error
    kind = fields.get("model_type")
    if kind != "wings":
        raise WingsError(
            f"'{source}' holds a '{kind}' model, not a Wings checkpoint: to give a language model "
            f"wings, call WingsForCausalLM.from_vision_text_pretrained(vision, text)."
        )


def refuse_misfits(source: str | os.PathLike, info: dict[str, Any]) -> None:
    """Raises a `WingsError` that names the tensors that are missing or foreign."""
    faults = [
        ("lacks", info["missing_keys"]),
        ("has in another shape", [entry[0] for entry in info["mismatched_keys"]]),
        ("holds foreign tensors, which the model has no place for:", info["unexpected_keys"]),
    ]
    for what, names in faults:
        if names:
            raise WingsError(
                f"the checkpoint '{source}' {what} {listed(names)}: it belongs to another model or "
                f"was not written whole, so save it again."
            )


def listed(names: Iterable[str]) -> str:
    """The first few of many names, and how many more there are."""
    ordered = sorted(names)
    more = f" and {len(ordered) - NAMED} more" if len(ordered) > NAMED else ""
    return ", ".join(ordered[:NAMED]) + more
