"""Loading of checkpoints: missing and unexpected tensors are refused, fresh parts may be added."""

import copy
import os
from pathlib import Path
from typing import Any

from transformers import GenerationConfig
from transformers.utils import logging

from wings.config import BASE_KEY, WingsConfig
from wings.errors import WingsError
from wings.output_folder import make_readable
from wings.saved_files import inner_folder, reading, validate_has_owner
from wings.upstream.configuration import read_config_dict
from wings.upstream.quantizers import is_quantized, prepare_saving, with_kept_parts

from .learners_only import (
    FINGERPRINT,
    NOUNS,
    base_of,
    is_learners_only,
    left_out,
    whole_state,
)
from .load_causal_lm import HUB_OPTIONS, hub_options, validate_tensors
from .pretrained import WingsPreTrainedModel

# Fields that may change when a checkpoint is loaded. New learners, adapters and a new prefix start
# fresh and have no effect; a new router weighs the learners.
RECONFIGURABLE = (
    "learners",
    "router",
    "prefix_length",
    "lora",
    "gate_shape",
    "gate_power",
    "gate_detach",
    "other_senses",
)
# Fields of a further sense that may change likewise.
OF_SENSES = ("learners", "router", "gate_shape", "gate_power", "gate_detach")


GENERATION = "generation_config.json"


class CheckpointMixin(WingsPreTrainedModel):
    """`from_pretrained` that refuses a checkpoint which does not match the model."""

    # Prefixes of tensors in a checkpoint that the class has no parameters for.
    unread_tensors: tuple[str, ...] = ()
    # Some families have other names for tensors in files than in the model. False writes those of
    # the model, which `load_state_dict` reads; loading a checkpoint knows both.
    saves_original_names = True

    @classmethod
    def from_pretrained(
        cls, pretrained_model_name_or_path: str | os.PathLike | None, *args: Any, **kwargs: Any
    ) -> Any:
        """Loads a Wings checkpoint: a folder or a Hub id; no network for a folder.

        The arguments are transformers' own, and `learners`, `router`, `prefix_length`, `lora` and
        the fields of the gate as in `WingsConfig`: parts that the checkpoint lacks start fresh. So
        stage 2 begins from stage 1's folder. For a checkpoint of learners alone, `text`, `vision`
        and `audio` replace the language model (also a loaded one) and the encoders that it names.
        With `quantization_config` the language model is quantised; learners, routers, projector,
        vision tower and output head are not.

        Raises:
            WingsError: no Wings checkpoint, tensors that are missing or unexpected (named), or
                another language model or tower than the learners belong to.
        """
        source = pretrained_model_name_or_path
        if source is None:
            raise WingsError("pretrained_model_name_or_path is None: give a folder or a Hub id.")
        source = inner_folder(source, kwargs)
        validate_has_owner(source, "Wings checkpoint")
        changes = {name: kwargs.pop(name) for name in RECONFIGURABLE if name in kwargs}
        with_info = kwargs.pop("output_loading_info", False)
        # Tensors of another shape are named below, with both shapes.
        kwargs["ignore_mismatched_sizes"] = True
        if kwargs.get("quantization_config") is not None:
            kwargs["quantization_config"] = with_kept_parts(kwargs["quantization_config"])
        with reading(source, "Wings checkpoint"):
            fields = validate_is_wings(source, kwargs)
            parts = {name: kwargs.pop(name, None) for name in NOUNS}
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
            kwargs["output_loading_info"] = True
            try:
                if is_learners_only(fields):
                    loaded: Any = cls._from_learners(source, fields, parts, *args, **kwargs)
                elif given_part := next((n for n, part in parts.items() if part), None):
                    raise WingsError(
                        f"'{source}' has its own parts, {given_part} too: leave {given_part} out."
                    )
                else:
                    loaded = super().from_pretrained(source, *args, **kwargs)
            except RuntimeError as error:
                if "conversion of the weights" not in str(error):
                    raise
                raise WingsError(
                    f"The weights of '{source}' cannot be quantised in this way on this machine: "
                    f"choose another quantization_config; docs/quantised.md lists some."
                ) from error
            finally:
                logging.set_verbosity(verbosity)
            model, info = loaded
            unread = [n for n in info["unexpected_keys"] if n.startswith(cls.unread_tensors)]
            unexpected = set(info["unexpected_keys"]).difference(unread)
            validate_tensors(source, {**info, "unexpected_keys": unexpected})
        if changes:
            model.reconfigure(**changes)
        return (model, info) if with_info else model

    @classmethod
    def _from_learners(
        cls,
        source: str | os.PathLike,
        fields: dict[str, Any],
        parts: dict[str, Any],
        *args: Any,
        **kwargs: Any,
    ) -> Any:
        config = kwargs.pop("config", None)
        if not isinstance(config, WingsConfig):
            config = WingsConfig.from_pretrained(source, **hub_options(kwargs))
        folder, state = whole_state(source, config, fields, parts, kwargs)
        kwargs = {name: value for name, value in kwargs.items() if name not in HUB_OPTIONS}
        # Its tensors are no longer left out.
        base = base_of(config.wings_base).items()
        config.wings_base = {
            part: {key: value for key, value in one.items() if key != FINGERPRINT}
            for part, one in base
        }
        loaded: Any = super().from_pretrained(
            None, *args, config=config, state_dict=state, **kwargs
        )
        model, info = loaded
        model.config.name_or_path = model.name_or_path = str(source)
        if model.can_generate() and (folder / GENERATION).is_file():
            model.generation_config = GenerationConfig.from_pretrained(folder)
        return model, info

    def save_pretrained(
        self,
        save_directory: str | os.PathLike,
        *args: Any,
        learners_only: bool = False,
        **kwargs: Any,
    ) -> None:
        """As in transformers; the weights can be read by whoever may read new files.

        Args:
            save_directory: folder.
            *args: transformers' own.
            learners_only: leave out the frozen language model, and the tower if its name is known.
                The folder has their names and fingerprints, by which loading finds them again.
            **kwargs: transformers' own.

        Raises:
            WingsError: `learners_only` of a trained or a quantised language model, or weights that
                are quantised by a library that cannot save them.
        """
        prepare_saving(self)
        kwargs.setdefault("save_original_format", self.saves_original_names)
        if learners_only and is_quantized(self):
            raise WingsError(
                "learners_only: the language model is quantised, so its fingerprint would be that "
                "of another; save the learners of the checkpoint that was quantised."
            )
        base, trained = getattr(self.config, BASE_KEY, None), self.config.llm_trained
        try:
            if learners_only:
                state = kwargs.get("state_dict") or self.state_dict()
                self.config.wings_base, kwargs["state_dict"] = left_out(self.config, state)
                self.config.llm_trained = False
            super().save_pretrained(save_directory, *args, **kwargs)
        finally:
            self.config.llm_trained = trained
            if base is not None:
                self.config.wings_base = base
            elif learners_only and hasattr(self.config, BASE_KEY):
                del self.config.wings_base
        make_readable(Path(save_directory).glob("*.safetensors"))


def validate_is_wings(source: str | os.PathLike, kwargs: dict[str, Any]) -> dict[str, Any]:
    """Returns the fields of config.json; a `WingsError` if `source` holds another kind of model."""
    if Path(source).is_dir() and not (Path(source) / "config.json").is_file():
        raise WingsError(
            f"The folder '{source}' holds no checkpoint, as it has no config.json: name the folder "
            f"that save_pretrained or a training run wrote."
        )
    fields = read_config_dict(source, **hub_options(kwargs))
    kind = fields.get("model_type")
    if kind != "wings":
        raise WingsError(
            f"'{source}' holds a '{kind}' model, not a Wings checkpoint: to add wings to a "
            f"language model, call WingsForCausalLM.from_vision_text_pretrained(vision, text)."
        )
    return fields


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
