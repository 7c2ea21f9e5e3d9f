"""Loading of checkpoints: missing and unexpected tensors are refused, fresh parts may be added."""

import copy
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from transformers import AutoModelForCausalLM, PreTrainedModel
from transformers.utils import logging

from wings.config import WingsConfig
from wings.errors import WingsError
from wings.output_folder import make_readable
from wings.saved_files import reading, validate_has_owner
from wings.upstream.configuration import read_config_dict

from .pretrained import WingsPreTrainedModel

NAMED = 5
HUB_OPTIONS = ("cache_dir", "force_download", "local_files_only", "revision", "subfolder", "token")
# Fields that may change when a checkpoint is loaded. New learners, adapters and a new prefix start
# fresh and have no effect; a new router weighs the learners.
RECONFIGURABLE = ("learners", "router", "prefix", "lora", "gate_shape", "gate_power", "gate_detach")


class CheckpointMixin(WingsPreTrainedModel):
    """`from_pretrained` that refuses a checkpoint which does not match the model."""

    # Prefixes of tensors in a checkpoint that the class has no parameters for.
    unread_tensors: tuple[str, ...] = ()

    @classmethod
    def from_pretrained(
        cls, pretrained_model_name_or_path: str | os.PathLike | None, *args: Any, **kwargs: Any
    ) -> Any:
        """Loads a Wings checkpoint: a folder or a Hub id; no network for a folder.

        The arguments are transformers' own, and `learners`, `router`, `prefix`, `lora` and the
        fields of the gate as in `WingsConfig`: parts that the checkpoint lacks start fresh. So
        stage 2 begins from stage 1's folder.

        Raises:
            WingsError: no Wings checkpoint, or tensors that are missing or unexpected (named).
        """
        source = pretrained_model_name_or_path
        if source is None:
            raise WingsError("pretrained_model_name_or_path is None: give a folder or a Hub id.")
        validate_has_owner(source, "Wings checkpoint")
        changes = {name: kwargs.pop(name) for name in RECONFIGURABLE if name in kwargs}
        with_info = kwargs.pop("output_loading_info", False)
        # Tensors of another shape are named below, with both shapes.
        kwargs["ignore_mismatched_sizes"] = True
        with reading(source, "Wings checkpoint"):
            validate_is_wings(source, kwargs)
            if isinstance(given := kwargs.get("config"), WingsConfig):
                # Auto classes put `learners` and the like into a configuration.
                kwargs["config"] = as_saved(given, source, kwargs)
                changes = changed_fields(given, kwargs["config"]) | changes
            if changes and not hasattr(cls, "reconfigure"):
                raise WingsError(
                    f"{cls.__name__} loads a checkpoint as it is: give '{next(iter(changes))}' to "
                    f"WingsForCausalLM.from_pretrained."
                )
            verbosity = logging.get_verbosity()
            # What transformers would log as a table, the error below says in a sentence.
            logging.set_verbosity_error()
            try:
                loaded: Any = super().from_pretrained(
                    source, *args, output_loading_info=True, **kwargs
                )
            finally:
                logging.set_verbosity(verbosity)
            model, info = loaded
            unread = [n for n in info["unexpected_keys"] if n.startswith(cls.unread_tensors)]
            unexpected = set(info["unexpected_keys"]).difference(unread)
            validate_tensors(source, {**info, "unexpected_keys": unexpected})
        if changes:
            model.reconfigure(**changes)
        return (model, info) if with_info else model

    def save_pretrained(self, save_directory: str | os.PathLike, *args: Any, **kwargs: Any) -> None:
        """As in transformers; the weights can be read by whoever may read new files."""
        super().save_pretrained(save_directory, *args, **kwargs)
        make_readable(Path(save_directory).glob("*.safetensors"))


def load_causal_lm(source: str | os.PathLike, dtype: Any = "auto") -> PreTrainedModel:
    """Loads a language model from a folder or from the Hub.

    Raises:
        WingsError: none that can be read, or tensors that are missing (named).
    """
    with reading(source, "language model"):
        # Annotated as returning the model alone, which is true only without output_loading_info.
        try:
            loaded: Any = AutoModelForCausalLM.from_pretrained(
                source, dtype=dtype, output_loading_info=True, ignore_mismatched_sizes=True
            )
        except ValueError as error:
            if "Unrecognized configuration class" not in str(error):
                raise
            # transformers lists every kind that it knows here.
            kind = read_config_dict(source).get("model_type")
            raise WingsError(
                f"'{source}' holds a '{kind}' model, which is neither a Wings checkpoint nor a "
                f"causal language model: name one of these."
            ) from None
        model, info = loaded
        # Tensors that nobody reads are the business of transformers, which knows some by name.
        validate_tensors(source, {**info, "unexpected_keys": ()})
    return model


def validate_is_wings(source: str | os.PathLike, kwargs: dict[str, Any]) -> None:
    """Raises a `WingsError` if `source` holds another kind of model."""
    if Path(source).is_dir() and not (Path(source) / "config.json").is_file():
        raise WingsError(
            f"The folder '{source}' holds no checkpoint, as it has no config.json: name the folder "
            f"that save_pretrained or a training run wrote."
        )
    kind = read_config_dict(source, **hub_options(kwargs)).get("model_type")
    if kind != "wings":
        raise WingsError(
            f"'{source}' holds a '{kind}' model, not a Wings checkpoint: to add wings to a "
            f"language model, call WingsForCausalLM.from_vision_text_pretrained(vision, text)."
        )


def as_saved(given: WingsConfig, source: str | os.PathLike, kwargs: dict[str, Any]) -> WingsConfig:
    """Copies a configuration, with the reconfigurable fields of the checkpoint at `source`."""
    saved = WingsConfig.from_pretrained(source, **hub_options(kwargs))
    config = copy.deepcopy(given)
    for name in RECONFIGURABLE:
        setattr(config, name, getattr(saved, name))
    return config


def changed_fields(given: WingsConfig, saved: WingsConfig) -> dict[str, Any]:
    """Returns the reconfigurable fields of `given` that differ."""
    both = {name: (getattr(given, name), getattr(saved, name)) for name in RECONFIGURABLE}
    return {name: new for name, (new, old) in both.items() if new != old}


def hub_options(kwargs: dict[str, Any]) -> dict[str, Any]:
    """Picks the arguments that say how files are read from the Hub."""
    return {name: value for name, value in kwargs.items() if name in HUB_OPTIONS}


def validate_tensors(source: str | os.PathLike, info: dict[str, Any]) -> None:
    """Raises a `WingsError` that names missing and unexpected tensors."""
    faults = [
        ("lacks", info["missing_keys"]),
        (
            "has in another shape than config.json says:",
            [f"{name} ({list(a)}, not {list(b)})" for name, a, b in info["mismatched_keys"]],
        ),
        ("has tensors that the model has no parameter for:", info["unexpected_keys"]),
    ]
    for what, names in faults:
        if names:
            raise WingsError(
                f"The checkpoint '{source}' {what} {listed(names)}: it belongs to another model or "
                f"was not written whole, so save it again."
            )


def listed(names: Iterable[str]) -> str:
    """Lists the first few names, and how many more there are."""
    ordered = sorted(names)
    more = f" and {len(ordered) - NAMED} more" if len(ordered) > NAMED else ""
    return ", ".join(ordered[:NAMED]) + more
