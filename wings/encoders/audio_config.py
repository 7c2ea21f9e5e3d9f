"""Description of an audio encoder: every way to name one becomes the same offline dict."""

import json
import math
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from transformers import AutoConfig, AutoFeatureExtractor

from wings.errors import WingsError, nearest
from wings.saved_files import reading, validate_has_owner

from .encoder_trial import EncoderTrial, try_encoder
from .stretch_values import StretchValues

TYPE = "transformers"
KEYS = (
    "type", "model_name", "model_config", "feature_extractor", "seconds", "pool", "select_layer",
    "item_shape",
)  # fmt: skip
NOUN = "audio encoder"
_LONGEST = 600.0
# Fields of a model's configuration that do not change its features.
_IRRELEVANT = (
    "_name_or_path", "architectures", "auto_map", "dtype", "id2label", "label2id", "torch_dtype",
    "transformers_version",
)  # fmt: skip


def canonical_audio_config(audio: str | Mapping) -> dict:
    """Returns the dict that rebuilds an encoder's architecture and values without a network.

    Args:
        audio: a folder or Hub id of a model of transformers with a feature extractor; or a dict of
            `KEYS` with either `model_name` (any of those) or both `model_config` (fields of the
            model's configuration, with `model_type`) and `feature_extractor` (its `to_dict()`).

    Returns:
        `type` ("transformers"), `model_config`, `feature_extractor`, `seconds` (of a stretch;
        default 2), `pool` (neighbouring times that are averaged; default 4), `select_layer` (-1,
        the default: the output; else a number in the model's hidden states) and `item_shape`
        (shape of a stretch's values; found by a trial).

    Raises:
        WingsError: an unknown key or name, or a model that is no audio encoder.
    """
    return resolve(audio)[0]


def resolve(audio: str | Mapping) -> tuple[dict, StretchValues, EncoderTrial]:
    """As `canonical_audio_config`; also returns what makes values, and the trial pass."""
    given = _given(audio)
    if "model_name" in given:
        given = _read(given.pop("model_name")) | given
    config = {"seconds": 2.0, "pool": 4, "select_layer": -1, **given}
    _check_values(config)
    shape = config.get("item_shape")
    shape = None if shape is None else tuple(shape)
    with _plain_tensors():
        values = StretchValues(config["feature_extractor"], config["seconds"], shape)
        trial = try_encoder(config["model_config"], values, config["select_layer"])
    canonical = {
        "type": TYPE,
        "model_config": _plain(trial.whole.to_diff_dict()),
        "feature_extractor": _plain(config["feature_extractor"]),
        "seconds": float(config["seconds"]),
        "pool": config["pool"],
        "select_layer": config["select_layer"],
        "item_shape": list(values.item_shape),
    }
    return canonical, values, trial


def source_of(audio: str | Mapping) -> str | None:
    """The folder or Hub id that a description names, if any."""
    return _given(audio).get("model_name")


@contextmanager
def _plain_tensors() -> Iterator[None]:
    """New tensors are float32 on the CPU, whatever the model around is being built with."""
    dtype = torch.get_default_dtype()
    torch.set_default_dtype(torch.float32)
    try:
        with torch.device("cpu"):
            yield
    finally:
        torch.set_default_dtype(dtype)


def _given(audio: str | Mapping) -> dict[str, Any]:
    given = {"model_name": os.fspath(audio)} if not isinstance(audio, Mapping) else dict(audio)
    for key in given:
        if key not in KEYS:
            raise WingsError(
                f"The audio config has no key {key!r}{nearest(key, KEYS)}; it has "
                f"{', '.join(KEYS)}."
            )
    given = {key: value for key, value in given.items() if value is not None}
    if given.get("type", TYPE) != TYPE:
        raise WingsError(f"'type' of the audio config is {given['type']!r}; it must be {TYPE!r}.")
    if ("model_name" in given) == ("model_config" in given):
        raise WingsError("The audio config needs exactly one of 'model_name' and 'model_config'.")
    if "model_config" in given and "feature_extractor" not in given:
        raise WingsError(
            "The audio config has 'model_config' without 'feature_extractor'; give the "
            "extractor's 'to_dict()'."
        )
    return given


def _read(source: str) -> dict[str, Any]:
    """The configuration and the extractor of a folder or Hub id."""
    source = os.path.expanduser(source)
    validate_has_owner(source, NOUN)
    with reading(source, NOUN):
        config = AutoConfig.from_pretrained(source, trust_remote_code=False)
        extractor = AutoFeatureExtractor.from_pretrained(source, trust_remote_code=False)
        return {
            "model_config": config.to_dict(),
            "feature_extractor": json.loads(extractor.to_json_string()),
        }


def _plain(fields: Mapping) -> dict[str, Any]:
    """The fields as JSON gives them back, without those that do not matter, at any depth."""

    def relevant(inner: dict[str, Any]) -> dict[str, Any]:
        return {key: value for key, value in inner.items() if key not in _IRRELEVANT}

    try:
        return json.loads(json.dumps(dict(fields)), object_hook=relevant)
    except (TypeError, ValueError) as error:
        raise WingsError(
            f"The audio config cannot be written as JSON ({error}); give plain numbers, texts "
            "and lists."
        ) from error


def _check_values(config: dict[str, Any]) -> None:
    def refuse(key: str, wanted: str) -> None:
        raise WingsError(f"'{key}' of the audio config is {config[key]!r}; it must be {wanted}.")

    for key in ("model_config", "feature_extractor"):
        if not isinstance(config[key], Mapping):
            refuse(key, "a mapping")
    seconds = config["seconds"]
    if type(seconds) not in (int, float) or not 0 < seconds <= _LONGEST or math.isnan(seconds):
        refuse("seconds", f"a number of seconds above 0 and up to {_LONGEST:g}")
    if type(config["pool"]) is not int or config["pool"] < 1:
        refuse("pool", "a whole number of neighbouring features, 1 or more")
    if type(config["select_layer"]) is not int:
        refuse("select_layer", "-1 (the output) or the number of a hidden state")
    shape = config.get("item_shape")
    if shape is not None and not all(type(size) is int and size > 0 for size in shape):
        refuse("item_shape", "a list of sizes; it may be left out")
