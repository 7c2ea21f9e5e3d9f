"""`OwnCausalLM`: the code of a family's causal LM, run around another decoder and output head.

Families add to their decoder's output: factors and caps of logits, a cut vocabulary, losses of
routers and of logits, inputs of a generation step. All of that is in their class of causal LM. Its
code runs here as it is, so that nothing of it must be known.
"""

import inspect
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from transformers import (
    GenerationMixin,
    LlamaForCausalLM,
    MixtralConfig,
    MixtralForCausalLM,
    PreTrainedModel,
)
from transformers.modeling_outputs import BaseModelOutputWithPast

from ..errors import WingsError
from .cache_name import NAME
from .contract import Contract
from .tiny import tiny_config, tiny_model

# Members of transformers' base classes that a family may replace: they are kept, or have no effect
# on a model that is built. Any other makes `generate` or loading do something that nobody reviewed.
REVIEWED = frozenset(
    {
        # Run by `OwnCausalLM`.
        "forward", "prepare_inputs_for_generation",
        # Masks of a static cache; Wings hands its own one on, and the decoder makes its masks.
        "create_masks_for_generate",
        # Refused when they are called.
        "resize_token_embeddings", "_get_resized_lm_head",
        # Used while the family's own model is built.
        "_init_weights", "_check_and_adjust_attn_implementation", "_check_and_enable_sdpa",
        # Where the parts are.
        "get_input_embeddings", "set_input_embeddings", "get_output_embeddings",
        "set_output_embeddings", "get_decoder", "set_decoder", "dummy_inputs",
    }
)  # fmt: skip
RESIZING = ("resize_token_embeddings", "_get_resized_lm_head")
# Keywords of the decoder that whoever runs it here decides on, not the family's causal LM.
_OF_CALLER = frozenset(
    {
        "input_ids", "attention_mask", "position_ids", "inputs_embeds", "pixel_values",
        "use_cache", "cache", "past_key_values", "output_attentions", "output_hidden_states",
        "return_dict", "num_items_in_batch", "shift_labels",
    }
)  # fmt: skip


def replaced_members(kind: type) -> set[str]:
    """Names of the callables of transformers' base classes that a model class replaces."""
    bases = set(PreTrainedModel.__mro__) | set(GenerationMixin.__mro__)
    own = {name for c in kind.__mro__ if c not in bases for name in vars(c)}
    return {
        name
        for name in own
        if not name.startswith("__")
        and any(
            callable(member := inspect.getattr_static(base, name, None))
            or isinstance(member, (property, classmethod, staticmethod))
            for base in (PreTrainedModel, GenerationMixin)
        )
    }


def validate_reviewed(kind: type) -> None:
    """Raises a `WingsError` if a causal LM replaces members that Wings does not reproduce."""
    unknown = sorted(replaced_members(kind) - REVIEWED)
    if unknown:
        raise WingsError(
            f"{kind.__name__} is not supported: it replaces {', '.join(unknown)} of transformers' "
            f"model class, which Wings does not reproduce; choose another decoder."
        )


class OwnCausalLM:
    """The code of a causal LM, without its decoder and head.

    Attributes:
        kind: the class of the causal LM.
        fields: its plain attributes, such as factors of losses.
        replaces: members of transformers' base classes that it replaces.
    """

    def __init__(self, causal_lm: PreTrainedModel, decoder: str, head: str) -> None:
        """Keeps the code and plain attributes of `causal_lm`.

        Args:
            causal_lm: a causal LM of transformers; no reference to it is kept.
            decoder: dotted name of its decoder.
            head: dotted name of its output head.

        Raises:
            WingsError: it replaces members that are not reviewed, or has weights of its own.
        """
        self.kind = type(causal_lm)
        validate_reviewed(self.kind)
        self.replaces = replaced_members(self.kind)
        self.decoder, self.head = decoder, head
        within = (f"{decoder}.", f"{head}.")
        tensors = [*causal_lm.named_parameters(), *causal_lm.named_buffers()]
        extra = sorted(name for name, _ in tensors if not name.startswith(within))
        if extra:
            raise WingsError(
                f"{self.kind.__name__} is not supported: it has {len(extra)} tensors outside of "
                f"its decoder and output head ({extra[0]}), which a Wings model has no place for; "
                f"choose another decoder."
            )
        self.fields = {
            name: value for name, value in vars(causal_lm).items() if not name.startswith("_")
        }
        for name in ("training", "config", "generation_config"):
            self.fields.pop(name, None)
        roots = {decoder.partition(".")[0], head.partition(".")[0]}
        # Parts without tensors, such as a cap of logits.
        for name, child in causal_lm.named_children():
            if name not in roots:
                self.fields[name] = child
        parameters = inspect.signature(self.kind.forward).parameters
        takes_all = any(p.kind is p.VAR_KEYWORD for p in parameters.values())
        self.named = frozenset(parameters)
        self.adds_loss: bool | None = None
        self.accepts = None if takes_all else self.named

    def __call__(
        self,
        run: "DecoderCall",
        head: Callable[[Tensor], Tensor],
        loss_function: Callable[..., Tensor],
        training: bool,
        **inputs: Any,
    ) -> Any:
        """Runs the family's `forward`; returns its output.

        Args:
            run: takes the place of the decoder.
            head: takes the place of the output head.
            loss_function: takes the place of the model's loss.
            training: as of the model.
            **inputs: of the family's `forward`.

        Raises:
            WingsError: an input that the family does not have.
        """
        if self.accepts is not None:
            inputs = {name: value for name, value in inputs.items() if value is not None}
            if foreign := sorted(inputs.keys() - self.accepts):
                raise WingsError(f"{self.kind.__name__} has no input '{foreign[0]}': leave it out.")
        view = View(self.kind, self.fields)
        view.config = run.decoder.config
        view.training = training
        view.loss_function = loss_function
        put(view, self.decoder, run)
        put(view, self.head, head)
        return self.kind.forward(view, **inputs)  # type: ignore[arg-type]

    def logits(
        self, run: "DecoderCall", head: nn.Module, of_head: Tensor, training: bool
    ) -> Tensor:
        """Logits `[1, N, V]`: the head's own, with all that the family does to them.

        Args:
            run: the call of the decoder, which is not run again.
            head: whose attributes the family may read.
            of_head: `[1, N, V]`.
            training: as of the model.
        """
        return self._again(run, GivenHead(head, of_head), no_loss, training).logits

    def adds_loss_of_logits(self, run: "DecoderCall", head: nn.Module, training: bool) -> bool:
        """Returns whether the family adds a loss of logits to that of the loss function.

        Such a mean over no logits is not a number. It is asked once.

        Args:
            run: the call of the decoder, which is not run again.
            head: whose attributes the family may read.
            training: as of the model.
        """
        if self.adds_loss is None:
            none, labels = torch.zeros(1, 0, 1), torch.zeros(1, 0, dtype=torch.long)
            given = GivenHead(head, none)
            out = self._again(run, given, lambda *_, **__: torch.zeros(()), training, labels=labels)
            self.adds_loss = not bool(torch.isfinite(out.loss))
        return self.adds_loss

    def _again(self, run: "DecoderCall", *args: Any, **inputs: Any) -> Any:
        """The output on what a call of the decoder returned, without the loss of experts."""
        again = DecoderCall(run.decoder, lambda **_: run.out)
        # Some compare the number of hidden states with that of the inputs.
        again_inputs = {
            "output_router_logits": False, "inputs_embeds": run.out.last_hidden_state
        }  # fmt: skip
        inputs |= {name: given for name, given in again_inputs.items() if name in self.named}
        return self(again, *args, **inputs)

    def prepare_inputs(self, model: PreTrainedModel, *args: Any, **kwargs: Any) -> dict[str, Any]:
        """Runs the family's own `prepare_inputs_for_generation` on behalf of `model`."""
        own: Any = self.kind.__new__(self.kind)
        nn.Module.__init__(own)
        own.config = model.config.get_text_config()
        # Its dtype and device are read from its parameters.
        own.probe = nn.Parameter(torch.empty(0, dtype=model.dtype, device=model.device))
        vars(own)["create_masks_for_generate"] = model.create_masks_for_generate
        return own.prepare_inputs_for_generation(*args, **kwargs)


class GivenHead:
    """Takes the place of an output head whose logits are computed already."""

    def __init__(self, head: nn.Module, logits: Tensor) -> None:
        self.head, self.logits = head, logits

    def __call__(self, hidden: Tensor) -> Tensor:
        """Returns the logits, of whatever reaches the head."""
        return self.logits

    def __getattr__(self, name: str) -> Any:
        if name == "head":
            raise AttributeError(name)
        return getattr(self.head, name)


def no_loss(*_: Any, **__: Any) -> Tensor:
    """The loss function of a pass without labels."""
    raise AssertionError("a pass without labels asked for a loss")


class View:
    """The `self` of a family's `forward`: plain attributes, and the methods of its class."""

    config: Any
    training: bool
    loss_function: Callable[..., Tensor]

    def __init__(self, kind: type, fields: dict[str, Any]) -> None:
        self.__dict__.update(fields)
        self.kind = kind

    def __getattr__(self, name: str) -> Any:
        return inspect.getattr_static(self.kind, name).__get__(self, self.kind)


class Path:
    """An attribute on the way to a decoder that is a part of a part."""


class DecoderCall:
    """Takes the place of a decoder: calls `run` with what its causal LM adds to the keywords.

    Attributes:
        decoder: whose other attributes are read through.
        out: of the call.
    """

    def __init__(self, decoder: PreTrainedModel, run: Callable[..., Any]) -> None:
        self.decoder = decoder
        self.run = run
        self.out: Any = None

    def __call__(self, *args: Any, **chosen: Any) -> Any:
        added = {
            name: value
            for name, value in chosen.items()
            if name not in _OF_CALLER and value is not None
        }
        self.out = self.run(**added)
        return Outputs(self.out)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.decoder, name)


class Outputs:
    """A decoder's outputs as its causal LM reads them: by name or by number."""

    def __init__(self, out: Any) -> None:
        self.out = out

    def __getattr__(self, name: str) -> Any:
        others = self.out.others
        return others[name] if others and name in others else getattr(self.out, name)

    def __getitem__(self, number: Any) -> Any:
        return self.out.to_tuple()[number]


def put(view: View, path: str, value: Any) -> None:
    """Sets the attribute at a dotted path."""
    first, _, rest = path.partition(".")
    if not rest:
        setattr(view, first, value)
        return
    if not isinstance(vars(view).get(first), Path):
        setattr(view, first, Path())
    put(getattr(view, first), rest, value)


_SIZES = (
    "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads",
    "num_key_value_heads", "vocab_size",
)  # fmt: skip


@dataclass
class Answer(BaseModelOutputWithPast):
    """The output of a decoder, in the form that `DecoderCall` expects."""

    others: Any = None


def _check_forward() -> None:
    calls: list[dict[str, Any]] = []
    model = tiny_model(LlamaForCausalLM)
    own = OwnCausalLM(model, "model", "lm_head")
    ids = torch.tensor([[1, 2, 3]])

    def run(**added: Any) -> Answer:
        calls.append(added)
        return Answer(**model.model(ids), others={})

    with torch.no_grad():
        out = own(
            DecoderCall(model.model, run), model.lm_head, model.loss_function, False,
            input_ids=ids, labels=ids,
        )  # fmt: skip
        expected = model(ids, labels=ids)
    assert torch.equal(out.logits, expected.logits), "the logits differ"
    assert torch.equal(out.loss, expected.loss), "the loss differs"
    assert calls == [{}], f"the decoder is called with {calls}"


def _check_router_loss() -> None:
    fields = {name: value for name, value in tiny_config().to_dict().items() if name in _SIZES}
    config = MixtralConfig(
        **fields, num_local_experts=2, num_experts_per_tok=1, output_router_logits=True
    )
    with torch.random.fork_rng(devices=[]):
        model = MixtralForCausalLM(config).eval()
    own = OwnCausalLM(model, "model", "lm_head")
    ids = torch.tensor([[1, 2, 3]])
    with torch.no_grad():
        run = DecoderCall(model.model, lambda **added: Answer(others=model.model(ids, **added)))
        out = own(run, model.lm_head, model.loss_function, False, input_ids=ids, labels=ids)
        expected = model(ids, labels=ids)
    assert expected.aux_loss is not None, "a mixture of experts has no loss of its router"
    assert torch.equal(out.loss, expected.loss), "the router's loss is lost"


def _check_preparing() -> None:
    asked: list[str] = []

    class Watched(LlamaForCausalLM):
        def prepare_inputs_for_generation(self, *args: Any, **kwargs: Any) -> dict[str, Any]:
            asked.append(type(self).__name__)
            return super().prepare_inputs_for_generation(*args, **kwargs)

    model = tiny_model(Watched)
    own = OwnCausalLM(model, "model", "lm_head")
    ids = torch.tensor([[1, 2, 3]])
    vars(model)["create_masks_for_generate"] = None
    inputs = own.prepare_inputs(model, ids, next_sequence_length=1, use_cache=True)
    assert asked == ["Watched"], "it is not called"
    assert inputs["input_ids"].tolist() == [[3]], f"it prepares {inputs}"


CONTRACTS = (
    Contract(
        "transformers",
        "5.17",
        "the forward of a causal LM is a plain function of `self`: it calls its decoder, its "
        "output head and self.loss_function(logits, labels, vocab_size), and adds the rest itself",
        ("transformers:LlamaForCausalLM.forward(input_ids, attention_mask, labels)",),
        check=_check_forward,
    ),
    Contract(
        "transformers",
        "5.17",
        "a mixture of experts asks its decoder for router_logits and adds their loss to its own",
        ("transformers:MixtralForCausalLM.forward(output_router_logits)",),
        check=_check_router_loss,
    ),
    Contract(
        "transformers",
        "5.17",
        "prepare_inputs_for_generation reads no more of a model than its configuration, dtype, "
        "device and create_masks_for_generate",
        (f"transformers:GenerationMixin.prepare_inputs_for_generation(input_ids, {NAME})",),
        check=_check_preparing,
    ),
)
