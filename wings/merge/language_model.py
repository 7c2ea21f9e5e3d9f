"""The tensors of the language model that a merge begins from: its own names, table and head."""

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from transformers import AutoModelForCausalLM, PreTrainedModel

from wings.errors import WingsError
from wings.model.learners_only import DECODER, HEAD

from .source import Source

# Buffers that old checkpoints have; they follow from the configuration.
BUFFERS = (".rotary_emb.inv_freq",)


@dataclass(frozen=True)
class LanguageModel:
    """The names that an LLM has for its tensors.

    Attributes:
        source: of its files.
        names: of all tensors that are merged, with the output head, tied or not.
        prefix: of the decoder's tensors, such as `model.`.
        table: name of the embedding table.
        head: name of the output head.
        rows: names of the tensors with a row for each token.
        is_tied: the table is the head.
    """

    source: Source
    names: tuple[str, ...]
    prefix: str
    table: str
    head: str
    rows: frozenset[str]
    is_tied: bool

    @classmethod
    def of(cls, source: Source) -> "LanguageModel":
        """Describes a plain language model.

        Raises:
            WingsError: a composite, no causal language model, or a lost tensor.
        """
        if source.config.get_text_config(decoder=True) is not source.config:
            remedy = (
                "save its language model by wings extract" if source.is_wings else "name the LLM"
            )
            raise WingsError(
                f"'{source.given}' is given as the language model, but holds a"
                f" '{source.config.model_type}' model with other parts: {remedy}."
            )
        model = empty_model(source)
        table, head = name_of(model, model.get_input_embeddings()), head_name(model)
        if head is None:
            raise WingsError(f"'{source.given}' has no output head: name a causal language model.")
        names = [name for name in source.store if not name.endswith(BUFFERS)]
        if table not in names:
            raise WingsError(f"'{source.given}' lacks the tensor {table}: save it again.")
        if head not in names and not source.ties_head:
            raise WingsError(f"'{source.given}' lacks the tensor {head}: save it again.")
        for name in names:
            source.validate_floats(name)
        is_tied = is_tied_head(source, table, head if head in names else None)
        bias = head.removesuffix("weight") + "bias"
        return cls(
            source,
            tuple(sorted({*names, head})),
            f"{model.base_model_prefix}.",
            table,
            head,
            frozenset({table, head, bias} & {*names, head}),
            is_tied,
        )

    def stored(self, name: str) -> str:
        """The stored name of a tensor: the table's for a tied head."""
        return self.table if name == self.head and self.is_tied else name

    def name_in_wings(self, name: str) -> str:
        """The name of a tensor in a Wings checkpoint of this LLM, by which it is fingerprinted."""
        if name.startswith(self.prefix):
            return DECODER + name.removeprefix(self.prefix)
        return HEAD + name.rpartition(".")[2]


def empty_model(source: Source) -> PreTrainedModel:
    """The causal language model of a configuration, without memory for its weights."""
    with torch.device("meta"):
        try:
            return AutoModelForCausalLM.from_config(source.text_config)
        except ValueError as error:
            raise WingsError(
                f"'{source.given}' holds a '{source.config.model_type}' model, which is no causal"
                f" language model: name the LLM that the child was trained from."
            ) from error


def name_of(model: PreTrainedModel, module: nn.Module) -> str:
    """The name of a module's weight in its model."""
    (found,) = [name for name, one in model.named_modules() if one is module]
    return f"{found}.weight"


def head_name(model: PreTrainedModel) -> str | None:
    """The name of the output head; None without any."""
    head = model.get_output_embeddings()
    return None if head is None else name_of(model, head)


def is_tied_head(source: Source, table: str, head: str | None) -> bool:
    """True if table and head are one: the head is not stored, or is a copy of the table."""
    if head is None:
        return True
    if not source.ties_head or source.store[table].shape != source.store[head].shape:
        return False
    tensors: list[Tensor] = [source.store[name].read() for name in (table, head)]
    return torch.equal(*tensors)
