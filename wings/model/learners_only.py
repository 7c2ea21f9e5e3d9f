"""Checkpoints of learners alone: language model and encoders are named, with their fingerprints."""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from huggingface_hub import snapshot_download, try_to_load_from_cache
from huggingface_hub.utils import HFValidationError
from safetensors.torch import load_file
from torch import Tensor, nn
from transformers import PreTrainedModel

from wings.config import BASE_KEY, WingsConfig
from wings.encoders.audio_encoder import AudioEncoder
from wings.encoders.open_clip_tower import VisionTower
from wings.errors import WingsError
from wings.processing.item_encoder import AUDIO
from wings.sense import IMAGE

from .fingerprint import fingerprint
from .inject import split
from .load_causal_lm import hub_options, load_causal_lm

TEXT, VISION = "text", "vision"
DECODER, HEAD = "model.language_model.", "lm_head."
# The encoders that can be left out, with the names of their tensors.
ENCODERS = {VISION: "model.vision_tower.", AUDIO: f"model.{AUDIO}_encoder."}
NOUNS = {TEXT: "language model", VISION: "vision tower", AUDIO: "audio encoder"}
FINGERPRINT = "fingerprint"
FILES = ["*.json", "*.safetensors"]


def part_left_out(name: str) -> str | None:
    """`"text"`, `"vision"` or `"audio"` for a tensor of that part, else None."""
    for part, prefix in ENCODERS.items():
        if name.startswith(prefix):
            return part
    return TEXT if name.startswith((DECODER, HEAD)) and ".wings." not in name else None


def named_parts(
    text: str | None, encoders: Mapping[str, str | Mapping | None]
) -> dict[str, dict[str, Any]]:
    """Describes where the parts of a new model came from, for its configuration.

    Args:
        text: folder or Hub id of the language model, if known.
        encoders: sources of the senses' encoders, as `from_pretrained_parts` takes them.
    """
    parts: dict[str, dict[str, Any]] = {}
    if text:
        parts[TEXT] = {"name": os.path.abspath(text) if Path(text).is_dir() else text}
        if revision := cached_revision(text):
            parts[TEXT]["revision"] = revision
    for sense, source in encoders.items():
        name = source.get("model_name") if isinstance(source, Mapping) else source
        if name:
            parts[part_of_sense(sense)] = {"name": absolute(name)}
    return parts


def part_of_sense(sense: str) -> str:
    """The name of a sense's encoder as a part of a checkpoint."""
    return VISION if sense == IMAGE else sense


def absolute(encoder: str) -> str:
    """The name of an encoder, with the whole path of a folder."""
    kind, colon, path = encoder.partition(":")
    if kind == "local-dir":
        return f"{kind}:{os.path.abspath(path)}"
    return encoder if colon or not Path(encoder).is_dir() else os.path.abspath(encoder)


def cached_revision(name: str) -> str | None:
    """The commit of a model on the Hub that was loaded before; None for a folder."""
    if Path(name).is_dir():
        return None
    try:
        found = try_to_load_from_cache(name, "config.json")
    except HFValidationError:
        return None
    return Path(found).parent.name if isinstance(found, str) else None


def is_learners_only(fields: Mapping[str, Any]) -> bool:
    """True if the fields of a config.json are of a checkpoint without its language model."""
    return FINGERPRINT in base_of(fields.get(BASE_KEY)).get(TEXT, {})


def base_of(base: Any) -> dict[str, dict[str, Any]]:
    """Reads what a configuration says of language model and tower.

    Raises:
        WingsError: no mapping of mappings.
    """
    if base is None:
        return {}
    if not isinstance(base, dict) or not all(isinstance(part, dict) for part in base.values()):
        raise WingsError(f"{BASE_KEY} in config.json is no mapping of parts: write it again.")
    return base


def left_out(
    config: WingsConfig, state: Mapping[str, Tensor]
) -> tuple[dict[str, dict], dict[str, Tensor]]:
    """Describes the parts of a model that a checkpoint of learners leaves out.

    An encoder is left out where its name is known, as it is never trained.

    Args:
        config: of the model.
        state: all tensors of the model.

    Returns:
        `wings_base` of its configuration, and the tensors that are saved.

    Raises:
        WingsError: the language model was trained, or may have been.
    """
    base = base_of(getattr(config, BASE_KEY, None))
    validate_llm_is_frozen(config, state, base.get(TEXT, {}).get("name"))
    present = {part_left_out(name) for name in state}
    base = {part: one for part, one in base.items() if part in present}
    named = [part for part in ENCODERS if base.get(part, {}).get("name")]
    parts = [TEXT, *named]
    written = {
        part: {
            **base.get(part, {}),
            FINGERPRINT: fingerprint({n: t for n, t in state.items() if part_left_out(n) == part}),
        }
        for part in parts
    }
    saved = {name: tensor for name, tensor in state.items() if part_left_out(name) not in parts}
    return {**base, **written}, saved


def validate_llm_is_frozen(
    config: WingsConfig, state: Mapping[str, Tensor], name: str | None
) -> None:
    """Raises a `WingsError` unless the language model is as it was before training."""
    trained = config.llm_trained
    if trained is False:
        return
    if trained:
        raise WingsError(
            "The language model was trained (llm_trained in config.json), so learners alone are no "
            "checkpoint: save the whole model, without learners_only."
        )
    ours = {name: tensor for name, tensor in state.items() if part_left_out(name) == TEXT}
    try:
        same = name and fingerprint(ours) == fingerprint(
            tensors_of_llm(load_causal_lm(name, config.dtype))
        )
    except WingsError:
        same = False
    if not same:
        raise WingsError(
            f"It is not known if training changed the language model, and it does not equal "
            f"'{name}', as far as that can be read: set model.config.llm_trained = False if it was "
            f"frozen, or save the whole model."
        )


def tensors_of_llm(causal_lm: PreTrainedModel) -> dict[str, Tensor]:
    """The tensors of a causal LM, by their names in a Wings model."""
    decoder, head = split(causal_lm)
    return {**_prefixed(DECODER, decoder), **_prefixed(HEAD, head)}


def _prefixed(prefix: str, module: nn.Module) -> dict[str, Tensor]:
    return {f"{prefix}{name}": tensor for name, tensor in module.state_dict().items()}


def whole_state(
    source: str | os.PathLike,
    config: WingsConfig,
    fields: Mapping[str, Any],
    given: Mapping[str, Any],
    kwargs: Mapping[str, Any],
) -> tuple[Path, dict[str, Tensor]]:
    """Reads the learners of a checkpoint, and the language model and encoders that it names.

    Args:
        source: folder or Hub id of the learners.
        config: of the checkpoint.
        fields: of its config.json.
        given: `text`, `vision` and `audio`, in place of named parts; None for those.
        kwargs: arguments of `from_pretrained`, of which those for the Hub are used.

    Returns:
        The folder, and all tensors of the model in the dtypes in which they were saved.

    Raises:
        WingsError: a part that cannot be read, or another one than the learners belong to.
    """
    options: dict[str, Any] = hub_options(dict(kwargs))
    folder = Path(source)
    if not folder.is_dir():
        options.pop("force_download", None)
        subfolder = options.pop("subfolder", "")
        downloaded: str = snapshot_download(str(source), allow_patterns=FILES, **options)
        folder = Path(downloaded) / subfolder
    files = sorted(folder.glob("*.safetensors"))
    if not files:
        raise WingsError(
            f"The folder '{source}' has no file of tensors (*.safetensors): copy or download it "
            f"again."
        )
    state = {name: tensor for path in files for name, tensor in load_file(path).items()}
    base = base_of(fields.get(BASE_KEY))
    # The configuration may have the dtype that the caller wants.
    dtype = getattr(torch, str(fields.get("dtype") or "float32"))
    for part, other in given.items():
        expected = base.get(part, {}).get(FINGERPRINT)
        if expected is None:
            if other is not None:
                raise WingsError(f"The checkpoint has its own {NOUNS[part]}: leave {part} out.")
            continue
        tensors = _read_part(part, other, base[part], config, dtype)
        found = fingerprint(tensors)
        if found != expected:
            raise WingsError(
                f"The learners belong to the {NOUNS[part]} {_described(base[part])}, and "
                f"{_named(other, base[part])} has the fingerprint {found}: give the one that they "
                f"were trained with as {part}=."
            )
        state |= tensors
    return folder, state


def _read_part(
    part: str, given: Any, base: Mapping[str, Any], config: WingsConfig, dtype: torch.dtype
) -> dict[str, Tensor]:
    if isinstance(given, PreTrainedModel):
        return tensors_of_llm(given)
    name = given or base.get("name")
    if not name:
        raise WingsError(f"The checkpoint names no {NOUNS[part]}: give it as {part}=.")
    try:
        if part == VISION:
            tower = VisionTower.from_weights(config.vision_config, name).to(dtype)
            return _prefixed(ENCODERS[VISION], tower)
        if part == AUDIO:
            encoder = AudioEncoder.from_weights(config.other_senses[AUDIO]["encoder"], name)
            return _prefixed(ENCODERS[AUDIO], encoder.to(dtype))
        revision = None if given else base.get("revision")
        return tensors_of_llm(load_causal_lm(name, dtype, revision))
    except WingsError as error:
        reason = str(error).rstrip(".")
        raise WingsError(
            f"The {NOUNS[part]} {_described(base)}, which the checkpoint names, cannot be read "
            f"({reason}): give it as {part}=."
            if given is None
            else f"{part}={name!r} cannot be read ({reason})."
        ) from error


def _described(base: Mapping[str, Any]) -> str:
    details = [f"{key} {base[key]}" for key in ("revision", FINGERPRINT) if base.get(key)]
    return f"{base.get('name') or 'without a name'!r} ({', '.join(details)})"


def _named(given: Any, base: Mapping[str, Any]) -> str:
    if isinstance(given, PreTrainedModel):
        return "the given model"
    return f"'{given}'" if given else f"what is there now under '{base.get('name')}'"
