"""Loads the models that are evaluated, with tokenizer or processor and fingerprint."""

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import torch
from transformers import (
    AutoTokenizer,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    ProcessorMixin,
)

from wings import WingsForCausalLM, WingsProcessor
from wings.errors import WingsError
from wings.model.load_causal_lm import load_causal_lm
from wings.model.load_composite import load_composite, load_composite_processor
from wings.saved_files import reading
from wings.sense import IMAGE
from wings.upstream.auto_models import reads_images_and_text
from wings.upstream.configuration import read_config_dict
from wings.upstream.gguf import place_of

from .fingerprint import model_fingerprint, tokenizer_of
from .generate import encode
from .items import Item
from .senses import SENSES, names_in

Model = TypeVar("Model", bound=PreTrainedModel)
TAKEN = "a Wings checkpoint, a model of images and text or a causal language model"
SAMPLE = "Two  words, 12 numbers: 3.14 + x_1?\n\tÄußerst naïve 你好 …"


@dataclass(frozen=True)
class EvalModel:
    """A model under evaluation.

    Attributes:
        name: folder or Hub id, as given.
        kind: `model_type` of its configuration; "wings" for a Wings model.
        model: in evaluation mode, on its device.
        processor: the Wings processor, that of a composite model of transformers, or the tokenizer
            of a plain language model.
        fingerprint: of weights, configuration and processor.
    """

    name: str
    kind: str
    model: PreTrainedModel
    processor: ProcessorMixin | PreTrainedTokenizerBase
    fingerprint: str

    @property
    def senses(self) -> tuple[str, ...]:
        """The senses whose items it accepts."""
        if isinstance(self.processor, WingsProcessor):
            return tuple(self.processor.senses)
        return (IMAGE,) if isinstance(self.processor, ProcessorMixin) else ()

    @property
    def tokenizer(self) -> PreTrainedTokenizerBase:
        """The tokenizer of its text."""
        return tokenizer_of(self.processor)

    @property
    def parameters(self) -> int:
        """The number of parameters."""
        return sum(p.numel() for p in self.model.parameters())

    def to_dict(self) -> dict[str, Any]:
        """Name, size, dtype and fingerprint, for JSON."""
        return {
            "name": self.name,
            "kind": self.kind,
            "parameters": self.parameters,
            "dtype": str(self.model.dtype).removeprefix("torch."),
            "fingerprint": self.fingerprint,
        }


def read_model_type(name: str) -> str:
    """The `model_type` of a folder or Hub id; no weights are read.

    Raises:
        WingsError: no model there, or none that transformers can load.
    """
    if Path(name).is_dir() and not (Path(name) / "config.json").is_file():
        if (Path(name) / "adapter_config.json").is_file():
            raise WingsError(
                f"{name} holds an adapter and no model; merge it into its LLM and save that first."
            )
        raise WingsError(f"{name} holds no model: it has no config.json.")
    with reading(name, "model"):
        fields = read_config_dict(name)
    kind = fields.get("model_type")
    if not isinstance(kind, str) or not kind:
        raise WingsError(f"'{name}' holds no model: its config.json has no model_type.")
    return kind


def read_senses(name: str) -> tuple[str, ...]:
    """The senses of the model in a folder or on the Hub; no weights are read.

    Raises:
        WingsError: as `read_model_type`.
    """
    kind = read_model_type(name)
    if kind != "wings":
        return (IMAGE,) if reads_images_and_text(kind) else ()
    with reading(name, "model"):
        fields = read_config_dict(name)
    others: Any = fields.get("other_senses") or {}
    return (*([IMAGE] if fields.get("vision_config") else []), *others)


def validate_asked(name: str, items: Iterable[Item], part: str) -> None:
    """Raises a `WingsError` if questions have items of a sense that a model lacks.

    A plain language model lacks them all: it is not asked, and the report says so.

    Args:
        name: folder or Hub id of the model; no weights are read.
        items: the questions.
        part: their option, such as "--pictures".
    """
    senses = read_senses(name)
    asked = {sense for item in items for sense in names_in(item.messages)}
    for sense in SENSES:
        if senses and sense in asked and sense not in senses:
            words = SENSES[sense]
            has = " and ".join(SENSES[one].nouns if one in SENSES else one for one in senses)
            raise WingsError(
                f"{part} has {words.nouns}, but {name} does not {words.verb}: it takes {has} "
                f"alone; leave these questions out, or name a checkpoint that {words.verb}s."
            )


def load_eval_model(name: str, device: torch.device, dtype: Any = "auto") -> EvalModel:
    """Loads a Wings checkpoint or a composite with its processor, or an LLM with its tokenizer.

    Raises:
        WingsError: none of them, or an incomplete checkpoint.
    """
    kind = read_model_type(name)
    if kind == "wings":
        model = WingsForCausalLM.from_pretrained(name, dtype=dtype)
        return _eval_model(name, kind, model, _read(name, WingsProcessor, "processor"), device)
    if reads_images_and_text(kind):
        # The processor first: it is small, and older checkpoints often lack it.
        processor = load_composite_processor(name)
        return _eval_model(name, kind, load_composite(name, dtype), processor, device)
    model = load_causal_lm(name, dtype, expected=TAKEN)
    return _eval_model(name, kind, model, _read(name, AutoTokenizer, "tokenizer"), device)


def load_llm(name: str, device: torch.device, dtype: Any = "auto") -> EvalModel:
    """Loads a causal language model with its tokenizer, for text alone.

    Raises:
        WingsError: no causal language model, or an incomplete one.
    """
    model = load_causal_lm(name, dtype, expected="a causal language model")
    kind = model.config.model_type
    return _eval_model(name, kind, model, _read(name, AutoTokenizer, "tokenizer"), device)


def extract_llm(wings_model: EvalModel) -> EvalModel:
    """The language model inside a Wings checkpoint, as a model of its own."""
    wings = wings_model.model
    assert isinstance(wings, WingsForCausalLM)
    model = wings.extract_language_model()
    name = f"the LLM inside {wings_model.name}"
    return _eval_model(name, model.config.model_type, model, wings_model.tokenizer, wings.device)


def copy_chat_template(target: EvalModel, source: EvalModel) -> bool:
    """Copies the chat template of `source` if `target` has none; returns True if it was copied.

    Raises:
        WingsError: neither has one.
    """
    if target.tokenizer.chat_template:
        return False
    if not source.tokenizer.chat_template:
        raise WingsError(
            f"Neither {target.name} nor {source.name} has a chat template, so neither can be asked "
            "in conversations; save a tokenizer with a chat template."
        )
    target.tokenizer.chat_template = source.tokenizer.chat_template
    return True


def prompt_difference(llm: EvalModel, model: EvalModel) -> bool:
    """True if both models are asked the same question of text by different tokens.

    Raises:
        WingsError: a question that a chat template cannot render.
    """
    question = [[{"role": "user", "content": SAMPLE}]]
    llm_ids, ids = (encode(one.processor, question)["input_ids"] for one in (llm, model))
    return not torch.equal(llm_ids, ids)


def tokenizer_difference(
    llm: PreTrainedTokenizerBase, model: PreTrainedTokenizerBase
) -> str | None:
    """Describes how two tokenizers differ; None if they tokenize text alike.

    Tokens added to the model's tokenizer, such as `<image>`, are ignored: text is read with the
    LLM's.
    """
    known, other = llm.get_vocab(), model.get_vocab()
    unknown = other.keys() - known.keys() - model.get_added_vocab().keys()
    for token in [*known, *sorted(unknown)]:
        if known.get(token) != other.get(token):
            ids = (known.get(token, "none"), other.get(token, "none"))
            return f"{token!r} is token {ids[0]} of one and {ids[1]} of the other"
    if llm(SAMPLE).input_ids != model(SAMPLE).input_ids:
        return f"they tokenize {SAMPLE!r} differently"
    return None


def on_device(model: Model, device: torch.device) -> Model:
    """Moves a model to a device and returns it."""
    # The decorator of transformers' own `to` hides from mypy that it is a method.
    model.to(device)  # type: ignore[arg-type]
    return model


def _eval_model(
    name: str, kind: str, model: PreTrainedModel, processor: Any, device: torch.device
) -> EvalModel:
    tokenizer = tokenizer_of(processor)
    if tokenizer.pad_token is None:
        # Padding is masked; it only needs some id.
        tokenizer.pad_token = tokenizer.eos_token
    fingerprint = model_fingerprint(model, processor)
    return EvalModel(name, kind, on_device(model, device).eval(), processor, fingerprint)


def _read(name: str, kind: Any, noun: str) -> Any:
    place, file = place_of(name)
    with reading(place, noun):
        return kind.from_pretrained(place, **file)
