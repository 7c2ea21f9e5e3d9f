"""A model that is measured: loaded, named, and known by its fingerprint."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import torch
from safetensors import SafetensorError
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    PreTrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    ProcessorMixin,
)

from wings import WingsForCausalLM, WingsProcessor
from wings.errors import WingsError

from .fingerprint import model_fingerprint, tokenizer_of

Model = TypeVar("Model", bound=PreTrainedModel)


@dataclass(frozen=True)
class EvalModel:
    """A model under measurement.

    Attributes:
        name: folder or Hub id, as it was given.
        kind: `model_type` of its configuration; "wings" for one that sees.
        model: in evaluation mode, on its device.
        processor: the Wings processor, or the tokenizer of a plain language model.
        fingerprint: of weights, configuration and processor.
    """

    name: str
    kind: str
    model: PreTrainedModel
    processor: ProcessorMixin | PreTrainedTokenizerBase
    fingerprint: str

    @property
    def sees(self) -> bool:
        """Whether it can be shown pictures."""
        return isinstance(self.processor, ProcessorMixin)

    @property
    def tokenizer(self) -> PreTrainedTokenizerBase:
        """Of its text."""
        return tokenizer_of(self.processor)

    def to_dict(self) -> dict[str, Any]:
        """What a report says of it."""
        return {
            "name": self.name,
            "kind": self.kind,
            "parameters": sum(p.numel() for p in self.model.parameters()),
            "dtype": str(self.model.dtype).removeprefix("torch."),
            "fingerprint": self.fingerprint,
        }


def read_model_type(name: str) -> str:
    """The `model_type` of what lies in a folder or on the Hub; no weights are read.

    Raises:
        WingsError: nothing there, or nothing that transformers could load.
    """
    if Path(name).is_dir() and not (Path(name) / "config.json").is_file():
        if (Path(name) / "adapter_config.json").is_file():
            raise WingsError(
                f"{name} holds an adapter and no model: merge it into its LLM and save that first"
            )
        raise WingsError(f"{name} holds no model: there is no config.json in it")
    try:
        fields, _ = PreTrainedConfig.get_config_dict(name)
    except OSError as error:
        reason = str(error).strip().splitlines()[0]
        raise WingsError(f"'{name}' is no folder or Hub id of a model: {reason}") from error
    kind = fields.get("model_type")
    if not kind:
        raise WingsError(f"'{name}' holds no model: its config.json names no model_type")
    return kind


def load_eval_model(name: str, device: torch.device, dtype: Any = "auto") -> EvalModel:
    """A Wings checkpoint with its processor, or a language model with its tokenizer.

    Raises:
        WingsError: neither of them, or one that was not written whole.
    """
    kind = read_model_type(name)
    if kind == "wings":
        model = WingsForCausalLM.from_pretrained(name, dtype=dtype)
        return _eval_model(name, kind, model, _read(name, WingsProcessor, "processor"), device)
    model, info = _language_model(name, kind, dtype)
    if info["missing_keys"]:
        raise WingsError(
            f"'{name}' lacks {len(info['missing_keys'])} tensors of a '{kind}' language model "
            f"({min(info['missing_keys'])}, ...), so what it says would be noise: save it whole"
        )
    return _eval_model(name, kind, model, _read(name, AutoTokenizer, "tokenizer"), device)


def extract_llm(subject: EvalModel) -> EvalModel:
    """The language model inside a Wings checkpoint, as a subject of its own."""
    wings = subject.model
    assert isinstance(wings, WingsForCausalLM)
    model = wings.extract_language_model()
    name = f"the LLM inside {subject.name}"
    return _eval_model(name, model.config.model_type, model, subject.tokenizer, wings.device)


def copy_chat_template(subject: EvalModel, other: EvalModel) -> bool:
    """Gives a language model without a chat template that of another; whether it had none.

    Raises:
        WingsError: neither has one.
    """
    if subject.tokenizer.chat_template:
        return False
    if not other.tokenizer.chat_template:
        raise WingsError(
            f"neither {subject.name} nor {other.name} has a chat template, so no conversation can "
            "be put to them; save a tokenizer with one"
        )
    subject.tokenizer.chat_template = other.tokenizer.chat_template
    return True


def _eval_model(
    name: str, kind: str, model: PreTrainedModel, processor: Any, device: torch.device
) -> EvalModel:
    tokenizer = tokenizer_of(processor)
    if tokenizer.pad_token is None:
        # Padding is masked, so it needs an id and no meaning.
        tokenizer.pad_token = tokenizer.eos_token
    print_of = model_fingerprint(model, processor)
    return EvalModel(name, kind, on_device(model, device).eval(), processor, print_of)


def on_device(model: Model, device: torch.device) -> Model:
    """The model, moved to a device."""
    # The decorator of transformers' own `to` hides from mypy that it is a method.
    model.to(device)  # type: ignore[arg-type]
    return model


def _language_model(name: str, kind: str, dtype: Any) -> tuple[PreTrainedModel, dict]:
    try:
        # Declared as a model alone, which it is only without output_loading_info.
        return AutoModelForCausalLM.from_pretrained(  # type: ignore[return-value]
            name, dtype=dtype, output_loading_info=True
        )
    except (OSError, ValueError, RuntimeError, SafetensorError) as error:
        reason = " ".join(str(error).split())[:160]
        raise WingsError(
            f"'{name}' holds a '{kind}' model, which is neither a Wings checkpoint nor a language "
            f"model that can be loaded: {reason}"
        ) from error


def _read(name: str, kind: Any, what: str) -> Any:
    try:
        return kind.from_pretrained(name)
    except (OSError, ValueError, TypeError) as error:
        if isinstance(error, WingsError):
            raise
        raise WingsError(
            f"'{name}' holds a model but no {what} ({' '.join(str(error).split())[:160]}); save "
            "its own beside it"
        ) from error
