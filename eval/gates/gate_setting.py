"""`GateSetting`: one gate that is tried on a finished model."""

from dataclasses import dataclass
from typing import Any

from wings.errors import WingsError
from wings.model.causal_lm import WingsForCausalLM

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
    """

    gate: str
    value: float | None = None

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
        """Changes a model's routers and its adapters' gate to this one.

        "saved" leaves a freshly loaded model alone. Adapters that act on image tokens alone keep
        that, as they have no effect on text turns.
        """
        if self.gate == "saved":
            return
        shape = None if self.value is None else self.gate
        changes: dict[str, Any] = {"gate_shape": shape} if shape else {}
        if model.config.learners:
            changes["router"] = "attended" if shape else None
        adapters = model.config.adapters
        if adapters is not None and can_gate_adapters(model):
            changes["lora"] = {**adapters.to_dict(), "gate": "attended" if shape else None}
        model.reconfigure(**changes)
        if shape == "tanh":
            model.set_gate(gain=self.value)
        elif shape == "hill":
            model.set_gate(tau=self.value)


def can_gate_adapters(model: WingsForCausalLM) -> bool:
    """True for adapters that act on all tokens after an image, or are gated by attention."""
    options = model.config.adapters
    return options is not None and options.gate != "image_tokens"


def all_settings(
    has_router: bool, gains: tuple[float, ...] = GAINS, taus: tuple[float, ...] = TAUS
) -> list[GateSetting]:
    """The settings to try: "saved" first, as the others change the model."""
    settings = [GateSetting("saved")] if has_router else []
    settings += [GateSetting("none"), GateSetting("off")]
    settings += [GateSetting("tanh", gain) for gain in gains]
    return settings + [GateSetting("hill", tau) for tau in taus]


def has_gate(model: WingsForCausalLM) -> bool:
    """True if learners have a router, or adapters a gate."""
    adapters = model.config.adapters
    return model.config.is_routed or (adapters is not None and adapters.gate == "attended")


def validate_can_be_gated(name: str, model: WingsForCausalLM) -> None:
    """Raises a `WingsError` if a gate on the attention to images would not fit a model."""
    config, adapters = model.config, model.config.adapters
    if not config.learners and not can_gate_adapters(model):
        raise WingsError(
            f"{name} has no learners and no adapters to gate; name a checkpoint with learners."
        )
    if "text" in config.learners and not config.text_guard and config.router != "attended":
        raise WingsError(
            f"{name} has text learners without text_guard, which act before any image; a gate on "
            "the attention to images would turn them off there; train with text_guard: true."
        )
    if adapters is not None and not adapters.needs_images:
        raise WingsError(
            f"{name} has adapters without lora.guard, which act before any image; a gate on the "
            "attention to images would turn them off there; train with lora.guard: true."
        )
