"""`GateSetting`: one gate that is tried on a finished model."""

from dataclasses import dataclass
from typing import Any

from wings.errors import WingsError
from wings.eval.senses import SENSES
from wings.model.causal_lm import WingsForCausalLM
from wings.sense import IMAGE

# Both from open to closed. Attention to images differs between LLMs, so they span two decades.
GAINS = (64.0, 32.0, 16.0, 12.0, 8.0, 6.0, 4.0, 2.0, 1.0)
TAUS = (0.01, 0.02, 0.03, 0.05, 0.07, 0.1, 0.14, 0.2, 0.28, 0.4)


@dataclass(frozen=True)
class GateSetting:
    """A gate and its value.

    Attributes:
        gate: "none", "saved" (the checkpoint's own router), "tanh", "hill", or "off": learners off
            in text turns, which no gate can do.
        value: the gain of "tanh" or the tau of "hill".
        sense: whose learners it weighs.
    """

    gate: str
    value: float | None = None
    sense: str = IMAGE

    @property
    def name(self) -> str:
        """Its name in tables."""
        names = {"none": "no gate", "saved": "as saved", "off": "learners off in text turns"}
        word = "gain" if self.gate == "tanh" else "tau"
        return names.get(self.gate) or f"{self.gate}, {word} {self.value:g}"

    @property
    def can_be_chosen(self) -> bool:
        """False for the setting that needs to know which turns are about text."""
        return self.gate != "off"

    def put_on(self, model: WingsForCausalLM) -> None:
        """Changes a sense's routers, and the adapters' gate of a model that only sees, to this one.

        "saved" leaves a freshly loaded model alone. Adapters that act on image tokens alone keep
        that, as they have no effect on text turns.
        """
        if self.gate == "saved":
            return
        shape = None if self.value is None else self.gate
        changes: dict[str, Any] = {"gate_shape": shape} if shape else {}
        if model.config.senses[self.sense].learners:
            changes["router"] = "attended" if shape else None
        if self.sense != IMAGE:
            changes = {"other_senses": {self.sense: changes}}
        adapters = model.config.adapters
        if adapters is not None and can_gate_adapters(model):
            changes["lora"] = {**adapters.to_dict(), "gate": "attended" if shape else None}
        model.reconfigure(**changes)
        if shape:
            word = "gain" if shape == "tanh" else "tau"
            whose = self.sense if len(model.config.senses) > 1 else None
            model.set_gate(**{word: self.value}, sense=whose)


def can_gate_adapters(model: WingsForCausalLM) -> bool:
    """True for adapters that act on all tokens after an image, or are gated by attention."""
    options = model.config.adapters
    return options is not None and options.gate != "image_tokens"


def all_settings(
    has_router: bool,
    gains: tuple[float, ...] = GAINS,
    taus: tuple[float, ...] = TAUS,
    sense: str = IMAGE,
) -> list[GateSetting]:
    """The settings to try: "saved" first, as the others change the model."""
    named = ["saved"] * has_router + ["none", "off"]
    settings = [GateSetting(name, None, sense) for name in named]
    settings += [GateSetting("tanh", gain, sense) for gain in gains]
    return settings + [GateSetting("hill", tau, sense) for tau in taus]


def has_gate(model: WingsForCausalLM, sense: str = IMAGE) -> bool:
    """True if a sense's learners have a router, or adapters a gate."""
    adapters = model.config.adapters
    has_router = model.config.senses[sense].is_routed
    return has_router or (adapters is not None and adapters.gate == "attended")


def validate_can_be_gated(name: str, model: WingsForCausalLM, sense: str = IMAGE) -> None:
    """Raises a `WingsError` if a gate on the attention to a sense's items would not fit a model."""
    adapters, own, words = model.config.adapters, model.config.senses[sense], SENSES[sense]
    if adapters is not None and model.config.senses.keys() != {IMAGE}:
        raise WingsError(
            f"{name} has adapters and other senses than images; a gate of one sense cannot be put "
            "on adapters, so name a checkpoint without lora."
        )
    if not own.learners and not can_gate_adapters(model):
        raise WingsError(
            f"{name} has no learners and no adapters to gate; name a checkpoint with learners."
        )
    if "text" in own.learners and not own.guard and own.router != "attended":
        guard = "text_guard" if sense == IMAGE else f"a guard of {sense}"
        how = "text_guard: true" if sense == IMAGE else f"senses: {{{sense}: {{guard: true}}}}"
        raise WingsError(
            f"{name} has text learners without {guard}, which act before any "
            f"{words.noun_in_words}; a gate on the attention to {words.many} would turn them off "
            f"there; train with {how}."
        )
    if adapters is not None and not adapters.needs_images:
        raise WingsError(
            f"{name} has adapters without lora.guard, which act before any image; a gate on the "
            "attention to images would turn them off there; train with lora.guard: true."
        )
