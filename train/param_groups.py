"""A stage decides which parameter groups are trained, at which rates, and which stay frozen."""

from dataclasses import dataclass, field

import torch
from torch import nn

from wings.errors import WingsError
from wings.model.causal_lm import WingsForCausalLM
from wings.train.lora import adapters, add_adapters
from wings.train.recipe import Recipe

from .validation import RATES


@dataclass
class Row:
    """One parameter group: its tensors, each once, and its rate (None: frozen).

    Attributes:
        count: number of weights in the group.
        saved: the type in which the finished model keeps the group.
    """

    group: str
    parameters: list[nn.Parameter]
    rate: float | None
    count: int = field(init=False)
    saved: torch.dtype = field(init=False, default=torch.float32)

    def __post_init__(self) -> None:
        self.count = sum(parameter.numel() for parameter in self.parameters)


@dataclass
class Plan:
    """Every parameter group of a model with what a stage does to it."""

    stage: str
    rows: list[Row]

    @property
    def trained(self) -> list[Row]:
        """The rows that have a rate."""
        return [row for row in self.rows if row.rate is not None]

    def optimizer_groups(self, weight_decay: float) -> list[dict]:
        """Parameter groups for a torch optimiser, named, with the decay kept off norms and biases.

        A tensor with fewer than two dimensions is a norm's scale, a bias or a gate in every
        decoder.
        """
        groups = []
        for row in self.trained:
            flat = [parameter for parameter in row.parameters if parameter.ndim < 2]
            full = [parameter for parameter in row.parameters if parameter.ndim >= 2]
            for parameters, decay in ((full, weight_decay), (flat, 0.0)):
                if parameters:
                    rest = {"lr": row.rate, "weight_decay": decay, "name": row.group}
                    groups.append({"params": parameters, **rest})
        return groups

    def release(self) -> None:
        """Let go of the tensors: once they are sharded, what is held here is a whole model."""
        for row in self.rows:
            row.parameters = []

    def __str__(self) -> str:
        """A table of groups, weights and rates, the frozen ones below."""
        rows = [("", "group", "weights", "rate")]
        for row in sorted(self.rows, key=lambda row: row.rate is None):
            rate = "frozen" if row.rate is None else f"{row.rate:.1e}"
            rows.append(("", row.group, f"{row.count:,}", rate))
        total = sum(row.count for row in self.trained)
        rows.append(("", "trained", f"{total:,}", f"of {sum(row.count for row in self.rows):,}"))
        wide = [max(len(row[n]) for row in rows) for n in range(4)]
        lines = [f"  {row[1]:<{wide[1]}}  {row[2]:>{wide[2]}}  {row[3]}" for row in rows]
        rule = "  " + "-" * (max(map(len, lines)) - 2)
        return "\n".join([f"stage {self.stage}", lines[0], rule, *lines[1:-1], rule, lines[-1]])


def prepare(model: WingsForCausalLM, recipe: Recipe) -> Plan:
    """Freeze and thaw `model` as the recipe's stage says, and return the plan.

    Trained weights are made float32, as the optimiser's small steps vanish in bfloat16. Under
    `bf16: true` a frozen group is held in bfloat16 where that loses nothing, else in float32.
    Adapters that the recipe asks for are hung in first and are a group of their own.

    The finished model keeps a frozen group in bfloat16 where that loses nothing, and under `bf16:
    true` also a language model that came in bfloat16 and was trained: no product of the run saw
    more of it. The small parts, which the next stage goes on with, stay in float32.

    Raises:
        WingsError: a rate for a group that the model lacks, or a model that the stage cannot train.
    """
    plan = lay_out(model, recipe)
    _freeze(model, plan.rows, recipe.bf16)
    return plan


def lay_out(model: WingsForCausalLM, recipe: Recipe) -> Plan:
    """The plan alone, with the adapters that it needs: no weight is frozen, thawed or cast.

    Raises:
        WingsError: as `prepare`.
    """
    groups = _groups(model, recipe)
    if recipe.stage == "align":
        extra = sorted({"text_learners", "router", "prefix"} & set(groups))
        if extra:
            raise WingsError(
                f"stage align trains projector and visual learners, but this model has {extra[0]};"
                " train it in stage instruct."
            )
    for group in recipe.learning_rates:
        if group not in groups:
            raise WingsError(
                f"learning_rates.{group}: this model has no such group (it has"
                f" {', '.join(groups)}); remove the rate or change the wings options."
            )
    taken: set[int] = set()
    rows = []
    for group, parameters in groups.items():
        # Tied weights stand in a group twice and count once.
        own = [p for p in dict.fromkeys(parameters) if id(p) not in taken]
        taken |= {id(parameter) for parameter in own}
        trains = group in RATES[recipe.stage] and not (
            group == "language_model" and recipe.freeze_llm
        )
        rows.append(Row(group, own, recipe.learning_rate(group) if trains else None))
    return Plan(recipe.stage, rows)


def _groups(model: WingsForCausalLM, recipe: Recipe) -> dict[str, list[nn.Parameter]]:
    if recipe.lora is None:
        return model.parameter_groups()
    if not adapters(model):
        add_adapters(model, recipe.lora)
    own = adapters(model)
    known, groups = set(map(id, own)), model.parameter_groups()
    bare = [p for p in groups.pop("language_model") if id(p) not in known]
    return {**groups, "lora": own, "language_model": bare}


def _freeze(model: WingsForCausalLM, rows: list[Row], bf16: bool) -> None:
    lost = sum(p.numel() for p in model.parameters()) - sum(row.count for row in rows)
    if lost:
        raise WingsError(f"parameter_groups() covers all but {lost:,} weights of this model.")
    if not bf16:
        # Buffers too: nothing casts between types without autocast.
        model.float()
    for row in rows:
        exact = all(map(_fits_bfloat16, row.parameters))
        if exact and (row.rate is None or (bf16 and row.group == "language_model")):
            row.saved = torch.bfloat16
        exact = exact and bf16 and row.rate is None
        for parameter in row.parameters:
            parameter.requires_grad_(row.rate is not None)
            parameter.data = parameter.data.to(torch.bfloat16 if exact else torch.float32)


def _fits_bfloat16(parameter: nn.Parameter) -> bool:
    return torch.equal(parameter.data.to(torch.bfloat16).to(parameter.dtype), parameter.data)
