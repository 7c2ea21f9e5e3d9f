"""`GateSetting`: one gate that is tried on a finished model."""

from dataclasses import dataclass

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
        """Changes a model's routers to this gate; "saved" leaves a freshly loaded one alone."""
        if self.gate == "saved":
            return
        if self.value is None:
            model.reconfigure(router=None)
        elif self.gate == "tanh":
            model.reconfigure(router="attended", gate_shape="tanh")
            model.set_gate(gain=self.value)
        else:
            model.reconfigure(router="attended", gate_shape="hill")
            model.set_gate(tau=self.value)


def all_settings(
    has_router: bool, gains: tuple[float, ...] = GAINS, taus: tuple[float, ...] = TAUS
) -> list[GateSetting]:
    """The settings to try: "saved" first, as the others change the model."""
    settings = [GateSetting("saved")] if has_router else []
    settings += [GateSetting("none"), GateSetting("off")]
    settings += [GateSetting("tanh", gain) for gain in gains]
    return settings + [GateSetting("hill", tau) for tau in taus]


def validate_can_be_gated(name: str, model: WingsForCausalLM) -> None:
    """Raises a `WingsError` if a gate on the attention to images would not fit a model."""
    config = model.config
    if not config.learners:
        raise WingsError(f"{name} has no learners to gate; name a checkpoint with learners.")
    if "text" in config.learners and not config.text_guard and config.router != "attended":
        raise WingsError(
            f"{name} has text learners without text_guard, which act before any image; a gate on "
            "the attention to images would turn them off there; train with text_guard: true."
        )
