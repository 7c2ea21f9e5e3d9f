"""`compose` puts senses that were trained apart on one language model; `add` and `drop` one."""

import copy
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from wings.config import BASE_KEY, WingsConfig
from wings.errors import WingsError
from wings.lora_options import LoraOptions
from wings.sense import IMAGE, Sense
from wings.upstream.quantizers import is_quantized
from wings.upstream.weights import mark_as_drawn

from .inject import attach_wings
from .learners_only import base_of, named_parts, part_of_sense

BASE = "model.language_model."


def compose(first: Any, *others: Any, rule: str = "sum") -> Any:
    """`WingsForCausalLM.compose`: the senses of models trained apart on one language model."""
    return type(first).compose(first, *others, rule=rule)


def use_processor(model: Any, processor: Any) -> None:
    """Gives each sense of a model the id that a processor writes for its placeholder, in place.

    Raises:
        WingsError: an id within the vocabulary for a placeholder whose id was past it: the
            embedding there is a word's.
    """
    size = model.config.text_config.vocab_size
    for name, sense in model.config.senses.items():
        number = processor.senses[name].token_id
        if number != sense.token_id and number < size:
            raise WingsError(
                f"The processor gives the placeholder of {name!r} the id {number}, which is a "
                f"token of the language model; its tokenizer has no free id."
            )
        model.config.change_sense(name, token_id=number)


def composed(first: Any, others: list[Any], rule: str) -> Any:
    """A copy of `first` with the senses of all; see `WingsForCausalLM.compose`."""
    for model in (first, *others):
        validate_can_compose(model)
    result = copy.deepcopy(first)
    for number, other in enumerate(others, 2):
        validate_same_language_model(first, other, number)
        add_senses(result, other, number)
    result.config.senses_rule = rule
    result.config.validate()
    return result


def validate_can_compose(model: Any) -> None:
    """Checks that the senses of a model change no text, and that its weights can be compared.

    Raises:
        WingsError: quantised weights, a prefix, or a sense or adapters without a guard.
    """
    config = model.config
    if is_quantized(model):
        raise WingsError(
            "A model to compose is quantised, so its language model cannot be compared bit by bit: "
            "load it without quantization_config, compose, save, and load the result with it."
        )
    if config.prefix_length:
        raise WingsError(
            "A model to compose has a prefix, which acts on every token, so text would no longer "
            "be the language model's: take it off with reconfigure(prefix_length=0)."
        )
    for name, sense in config.senses.items():
        if sense.learners and not sense.guard:
            field = "text_guard" if name == IMAGE else "guard"
            raise WingsError(
                f"The learners of the sense {name!r} act without a guard, so they would change "
                f"what another sense computes: train it with {field}: true."
            )
    if config.adapters is not None and not config.adapters.needs_images:
        raise WingsError(
            "The adapters of a model to compose act on every token: train them with lora.guard."
        )


def validate_same_language_model(first: Any, other: Any, number: int) -> None:
    """Raises a `WingsError` if the language models of two models differ in a name or a bit."""
    ours, theirs = (language_tensors(model) for model in (first, other))
    if lone := sorted(ours.keys() ^ theirs.keys()):
        raise WingsError(
            f"The language models differ, so their senses do not fit together: only one has the "
            f"tensor '{lone[0]}'; compose models that were trained on the same frozen one."
        )
    for name, tensor in ours.items():
        if not same_bits(tensor, theirs[name]):
            raise WingsError(
                f"The language models differ, so their senses do not fit together: the tensor "
                f"'{name}' of model {number} is not that of the first, bit by bit; compose models "
                f"that were trained on the same frozen language model."
            )


def language_tensors(model: Any) -> dict[str, Tensor]:
    """The tensors of a model's language model, by their names in it."""
    return {
        name: tensor
        for name, tensor in model.state_dict().items()
        if name.startswith((BASE, "lm_head.")) and ".wings." not in name
    }


def same_bits(one: Tensor, other: Tensor) -> bool:
    """Returns whether two tensors have one dtype, one shape and the same bits."""
    if one.dtype != other.dtype or one.shape != other.shape:
        return False
    first, second = (x.detach().contiguous().reshape(-1).view(torch.uint8) for x in (one, other))
    return torch.equal(first, second.to(first.device))


def add_senses(model: Any, other: Any, number: int) -> None:
    """Gives a model, in place, the senses and the adapters of another one.

    Raises:
        WingsError: both have one of the senses, or adapters.
    """
    config, theirs = model.config, other.config
    if both := sorted(config.senses.keys() & theirs.senses.keys()):
        raise WingsError(
            f"Model {number} has the sense {both[0]!r}, and one before it too: drop it from one of "
            f"them with model.drop({both[0]!r})."
        )
    adapters = config.adapters, theirs.adapters
    if all(adapters):
        raise WingsError(
            "Two models to compose have adapters (lora), and a layer has room for one."
        )
    used = {sense.token_id for sense in config.senses.values()}
    size = config.text_config.vocab_size
    senses = dict(config.senses)
    if adapters[0] is not None:
        config.lora = of_senses(adapters[0], tuple(senses)).to_dict()
    for name, sense in theirs.senses.items():
        token = sense.token_id
        if token in used:
            token = max(size - 1, *used) + 1
        used.add(token)
        add_fields(config, theirs, name, token_id=token)
    if adapters[1] is not None:
        config.lora = of_senses(adapters[1], tuple(theirs.senses)).to_dict()
    for sense in theirs.senses.values():
        for module in (sense.encoder_name, sense.projector_name):
            model.model.add_module(module, copy.deepcopy(other.model.get_submodule(module)))
    attach_wings(model.model.language_model, config)
    add_weights(model, other, list(theirs.senses.values()), with_lora=adapters[1] is not None)
    base, more = (base_of(getattr(one, BASE_KEY, None)) for one in (config, theirs))
    if base or more:
        config.wings_base = {**more, **base}


def of_senses(options: LoraOptions, senses: tuple[str, ...]) -> LoraOptions:
    """The options of adapters that look for items of certain senses alone."""
    return LoraOptions.of({**options.to_dict(), "senses": list(options.senses or senses)})


def add_fields(config: WingsConfig, other: WingsConfig, name: str, **changes: Any) -> None:
    """Gives a configuration a sense of another one, with some of its fields changed."""
    if name == IMAGE:
        config.change_sense(IMAGE, **{**other.fields_of(IMAGE), **changes})
    else:
        fields = {**other.other_senses[name], **changes}
        config.other_senses = {**config.other_senses, name: copy.deepcopy(fields)}


def add_weights(model: Any, other: Any, senses: list[Sense], with_lora: bool) -> None:
    """Copies the learners, routers and adapters of another model, where a model has places."""
    parts = {part for sense in senses for part in (*sense.modules, sense.router_name)}
    if with_lora:
        parts |= {"lora_a", "lora_b", "lora_router"}
    taken = {
        name: tensor
        for name, tensor in other.state_dict().items()
        if ".wings." in name and name.split(".wings.")[1].split(".")[0] in parts
    }
    missing = taken.keys() - model.state_dict().keys()
    assert not missing, f"a composed model has no place for {sorted(missing)}"
    model.load_state_dict(taken, strict=False)


def add_sense(model: Any, name: str, encoder: Any, fields: Mapping[str, Any]) -> None:
    """Gives a model a fresh sense, in place; see `WingsForCausalLM.add`."""
    config = model.config
    if name in config.senses:
        raise WingsError(f"The model has the sense {name!r} already; drop it with drop({name!r}).")
    before = copy.deepcopy(vars(config))
    if config.adapters is not None:
        config.lora = of_senses(config.adapters, tuple(config.senses)).to_dict()
    fields = {**fields, "encoder": encoder.config}
    try:
        if name == IMAGE:
            config.change_sense(IMAGE, **fields)
        else:
            config.other_senses = {**config.other_senses, name: fields}
        config.settle_tokens()
        config.validate()
    except WingsError:
        vars(config).update(before)
        raise
    mark_as_drawn(encoder)
    model.model.add_encoder(config.senses[name], encoder)
    for module in (config.senses[name].encoder_name, config.senses[name].projector_name):
        part = model.model.get_submodule(module)
        part.to(model.device, model.dtype).train(model.training)
    attach_wings(model.model.language_model, config)


def name_encoder(config: WingsConfig, sense: str, source: str | Mapping) -> None:
    """Notes where the encoder of a sense came from."""
    base = base_of(getattr(config, BASE_KEY, None))
    config.wings_base = {**base, **named_parts(None, {sense: source})}


def drop_sense(model: Any, name: str) -> None:
    """Takes a sense off a model, in place; see `WingsForCausalLM.drop`."""
    config = model.config
    senses = config.senses
    if name not in senses:
        raise WingsError(
            f"The model has no sense {name!r} to drop; it has {', '.join(map(repr, senses))}."
        )
    if len(senses) == 1:
        raise WingsError(
            f"{name!r} is the model's only sense: take its language model out with "
            f"extract_language_model(), or wings extract."
        )
    sense, adapters = senses[name], config.adapters
    if adapters is not None and adapters.senses is not None and name in adapters.senses:
        left = [one for one in adapters.senses if one != name]
        config.lora = {**adapters.to_dict(), "senses": left} if left else None
    if name == IMAGE:
        config.change_sense(IMAGE, encoder=None, token_id=None, seq_length=None)
    else:
        config.other_senses = {n: one for n, one in config.other_senses.items() if n != name}
    for module in (sense.encoder_name, sense.projector_name):
        del model.model._modules[module]
    if base := base_of(getattr(config, BASE_KEY, None)):
        config.wings_base = {part: one for part, one in base.items() if part != part_of_sense(name)}
    attach_wings(model.model.language_model, config)
