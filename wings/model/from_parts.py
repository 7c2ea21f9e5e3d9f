"""`from_parts`: a model of a language model and encoders that were trained before."""

import copy
import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor
from transformers import AutoTokenizer, PreTrainedModel

from wings.config import IMAGE_FIELDS, WingsConfig
from wings.encoders.audio_encoder import AudioEncoder
from wings.encoders.open_clip_tower import VisionTower
from wings.errors import WingsError, nearest
from wings.processing.image_token import add_placeholder
from wings.processing.item_encoder import AUDIO, token_of
from wings.sense import FIELDS, IMAGE
from wings.upstream.gguf import place_of
from wings.upstream.quantizers import forget_gguf, take_quantizer

from .learners_only import named_parts
from .load_causal_lm import load_causal_lm

# The largest difference from the decoder's own logits, relative to their size, that is rounding.
ROUNDING = {torch.float64: 1e-6, torch.float32: 1e-3}
LOW_PRECISION_ROUNDING = 5e-2
READERS: dict[str, Callable[[Any], Any]] = {
    IMAGE: VisionTower.from_pretrained,
    AUDIO: AudioEncoder.from_pretrained,
}


def read_encoder(sense: str, source: str | Mapping) -> Any:
    """The encoder of images or sounds that a source names, with its weights.

    Raises:
        WingsError: another sense, or an encoder that cannot be read.
    """
    if sense not in READERS:
        raise WingsError(
            f"The encoder of {sense!r} cannot be read from {source!r}: pass it as a module; sources"
            f" are known of {' and '.join(READERS)}."
        )
    return READERS[sense](source)


def from_parts(
    kind: type,
    text: str | PreTrainedModel,
    sources: Mapping[str, str | Mapping | None],
    senses: Mapping[str, Mapping[str, Any]],
    options: dict[str, Any],
) -> Any:
    """`WingsForCausalLM.from_pretrained_parts`.

    Args:
        kind: class of the model.
        text: the language model.
        sources: of the encoders, by sense; None for none.
        senses: fields of further senses.
        options: fields of `WingsConfig`, and `dtype`.
    """
    dtype = options.pop("dtype", "auto")
    validate_options(options)
    given = {name: source for name, source in sources.items() if source is not None}
    further = {name: dict(fields) for name, fields in senses.items()}
    if lone := sorted(further.keys() - given.keys()):
        raise WingsError(
            f"senses gives fields of {lone[0]!r}, for which there is no encoder: pass "
            f"{lone[0]}= too, or leave them out."
        )
    if not given:
        raise WingsError("No encoder was given: pass image=, audio= or both.")
    of_images = {IMAGE_FIELDS.get(field, field) for field in FIELDS}
    if IMAGE not in given and (lost := sorted(of_images & options.keys())):
        raise WingsError(
            f"'{lost[0]}' is about images and the model does not see, so it has no effect: give "
            f"fields of other senses as senses={{NAME: {{...}}}}."
        )
    name = text if isinstance(text, str) else text.name_or_path
    if isinstance(text, str):
        text = load_causal_lm(text, dtype)
    encoders: dict[str, Any] = {
        sense: read_encoder(sense, source) for sense, source in given.items()
    }
    further |= {
        sense: {**further.get(sense, {}), "encoder": encoder.config}
        for sense, encoder in encoders.items()
        if sense != IMAGE
    }
    try:
        if name:
            ids = token_ids(name, text.config.vocab_size, list(encoders))
            if IMAGE in encoders and ids:
                options.setdefault("image_token_id", ids[IMAGE])
            for sense, fields in further.items():
                if ids:
                    fields.setdefault("token_id", ids[sense])
        options |= {"other_senses": further} if further else {}
        model = put_together(kind, text.eval(), encoders, options)
    except WingsError:
        raise
    except Exception as error:
        # Whatever a family does that nobody foresaw, while it is read, built or run.
        raise WingsError(
            f"{type(text).__name__} is not supported, as a trial failed "
            f"({type(error).__name__}: {' '.join(str(error).split())}): choose a decoder that "
            f"uses transformers' attention interface."
        ) from error
    model.config.wings_base = named_parts(name, given)
    return model


def put_together(
    kind: type, causal_lm: PreTrainedModel, encoders: dict[str, Any], options: dict[str, Any]
) -> Any:
    """The model of class `kind` with these parts, after a trial pass."""
    few = range(min(9, causal_lm.config.vocab_size))
    used = [one.get("token_id") for one in options.get("other_senses", {}).values()]
    plain = [token for token in few if token not in (options.get("image_token_id"), *used)]
    ids = torch.tensor([plain], device=causal_lm.device)
    with torch.no_grad():
        expected = causal_lm(input_ids=ids, use_cache=False).logits
    generation_config = causal_lm.generation_config
    forget_gguf(causal_lm)
    config = WingsConfig(
        text_config=copy.deepcopy(causal_lm.config),
        vision_config=encoders[IMAGE].config if IMAGE in encoders else None,
        dtype=causal_lm.dtype,
        **options,
    )
    for encoder in encoders.values():
        encoder.to(causal_lm.device, causal_lm.dtype)
    model = kind(config, causal_lm, encoders)
    model.to(causal_lm.device)
    model.generation_config = generation_config
    take_quantizer(model, causal_lm, "model.language_model.")
    model.eval()
    prove_identity(model, ids, expected)
    return model


@torch.no_grad()
def prove_identity(model: Any, ids: Tensor, expected: Tensor) -> None:
    """Checks that with fresh learners the logits are the decoder's own.

    The trial passes go through every learner. They find blocks that are left out or run twice,
    keywords that are swallowed, and whatever else a Wings model computes differently.
    """
    guards = {name: sense.guard for name, sense in model.config.senses.items()}
    for name in guards:
        model.config.change_sense(name, guard=False)
    decoder = type(model.model.language_model).__name__
    try:
        logits = model(input_ids=ids, use_cache=False).logits
        # With a cache, blocks that run more than once in a pass would mix up their parts of it.
        model(input_ids=ids, use_cache=True)
    finally:
        for name, guard in guards.items():
            model.config.change_sense(name, guard=guard)
    allowed = ROUNDING.get(expected.dtype, LOW_PRECISION_ROUNDING) * expected.abs().max()
    change = (logits - expected).abs().max()
    if not change <= allowed:
        raise WingsError(
            f"{decoder} is not supported: with fresh learners its logits change by "
            f"{change:.2g} where rounding explains {allowed:.2g}, so it computes "
            f"something that Wings does not reproduce; choose another decoder."
        )


def validate_options(options: dict[str, Any]) -> None:
    """Raises a `WingsError` for an option that `WingsConfig` does not have."""
    known = {field.name for field in dataclasses.fields(WingsConfig)} - {
        "text_config",
        "vision_config",
        "other_senses",
    }
    for name in options:
        if name not in known:
            raise WingsError(f"There is no option '{name}'{nearest(name, known)}; see WingsConfig.")


def token_ids(text: str, vocab_size: int, senses: list[str]) -> dict[str, int]:
    """The ids that the processor of `text` gives the placeholders; none without a tokenizer."""
    try:
        place, file = place_of(text)
        tokenizer = AutoTokenizer.from_pretrained(place, **file)
    except (OSError, ValueError):
        return {}
    if len(tokenizer) <= len(tokenizer.all_special_tokens):
        # Some tokenizer classes make an empty tokenizer of a folder that holds none.
        return {}
    return {name: add_placeholder(tokenizer, token_of(name), vocab_size) for name in senses}
