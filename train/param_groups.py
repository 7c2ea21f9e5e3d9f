"""Parameter groups: which ones a stage trains, at which rate, and which stay frozen."""

from collections.abc import Iterable
from dataclasses import dataclass, field

import torch
from torch import nn

from wings.errors import WingsError
from wings.model.causal_lm import WingsForCausalLM
from wings.train.build import trained_senses
from wings.train.lora import adapters, add_adapters
from wings.train.recipe import Recipe
from wings.train.stages import is_trained, role_of, sense_of


@dataclass
class ParamGroup:
    """One parameter group: its tensors, each once, and its learning rate (None: frozen).

    Attributes:
        count: number of weights in the group.
        saved: dtype of the group in the finished model.
    """

    name: str
    parameters: list[nn.Parameter]
    rate: float | None
    count: int = field(init=False)
    saved: torch.dtype = field(init=False, default=torch.float32)

    def __post_init__(self) -> None:
        self.count = sum(parameter.numel() for parameter in self.parameters)


@dataclass
class TrainPlan:
    """All parameter groups of a model, trained and frozen, for one stage."""

    stage: str
    groups: list[ParamGroup]

    @property
    def trained(self) -> list[ParamGroup]:
        """The groups with a learning rate."""
        return [group for group in self.groups if group.rate is not None]

    def optimizer_groups(self, weight_decay: float) -> list[dict]:
        """Named parameter groups for a torch optimiser, without decay on norms and biases.

        Tensors with fewer than two dimensions are norm scales, biases or gates in every decoder.
        """
        groups = []
        for group in self.trained:
            flat = [parameter for parameter in group.parameters if parameter.ndim < 2]
            full = [parameter for parameter in group.parameters if parameter.ndim >= 2]
            for parameters, decay in ((full, weight_decay), (flat, 0.0)):
                if parameters:
                    rest = {"lr": group.rate, "weight_decay": decay, "name": group.name}
                    groups.append({"params": parameters, **rest})
        return groups

    def saved_dtypes(self, model: nn.Module) -> dict[str, torch.dtype]:
        """The dtype of every parameter in the finished model, by name."""
        of = {id(p): group.saved for group in self.groups for p in group.parameters}
        named = model.named_parameters(remove_duplicate=False)
        # The finished model has adapters merged, and their layers under their own names.
        return {name.replace(".base_layer.", "."): of[id(p)] for name, p in named}

    def release(self) -> None:
        """Drop the tensors: after sharding they would keep a whole model in memory."""
        for group in self.groups:
            group.parameters = []

    def __str__(self) -> str:
        """A table of groups, weights and rates, frozen groups last."""
        rows = [("group", "weights", "rate")]
        for group in sorted(self.groups, key=lambda group: group.rate is None):
            rate = "frozen" if group.rate is None else f"{group.rate:.1e}"
            rows.append((group.name, f"{group.count:,}", rate))
        trained, total = (sum(g.count for g in part) for part in (self.trained, self.groups))
        rows.append(("trained", f"{trained:,}", f"of {total:,}"))
        wide = [max(map(len, column)) for column in zip(*rows, strict=True)]
        lines = [f"  {name:<{wide[0]}}  {n:>{wide[1]}}  {rate}" for name, n, rate in rows]
        rule = "  " + "-" * (max(map(len, lines)) - 2)
        return "\n".join([f"stage {self.stage}", lines[0], rule, *lines[1:-1], rule, lines[-1]])


def prepare_groups(model: WingsForCausalLM, recipe: Recipe) -> TrainPlan:
    """Freeze and unfreeze the groups of `model` in place, and set their dtypes.

    Adapters that the recipe names are added first and form a group. Trained weights become float32,
    because small optimiser steps vanish in bfloat16. With `bf16: true`, a frozen group is held in
    bfloat16 if that is exact, else in float32.

    The finished model stores a frozen group in bfloat16 if that is exact. With `bf16: true` it also
    stores a trained language model in bfloat16 if it was loaded in bfloat16. Small parts stay
    float32 for the next stage.

    Raises:
        WingsError: a rate for a group that the model lacks, or a model the stage cannot train.
    """
    plan = plan_groups(model, recipe)
    _freeze(model, plan.groups, recipe.bf16)
    return plan


def plan_groups(model: WingsForCausalLM, recipe: Recipe) -> TrainPlan:
    """The plan without effect on weights; only the adapters of the recipe are added.

    Raises:
        WingsError: as `prepare_groups`.
    """
    parameters = _parameters_by_group(model, recipe)
    trained = trained_senses(recipe, model.config.senses)
    if recipe.stage == "align":
        extra = sorted(
            name
            for name in parameters
            if role_of(name) in ("text_learners", "router", "prefix")
            and sense_of(name) in (*trained, None)
        )
        if extra:
            raise WingsError(
                f"Stage align trains projectors and each sense's own learners, but this model has"
                f" {extra[0]}; train it in stage instruct."
            )
    for name in recipe.learning_rates:
        if sense_of(name) not in (*trained, None) and name in parameters:
            raise WingsError(
                f"learning_rates.{name}: this run does not train {sense_of(name)}; remove the rate,"
                " or name the sense in trained_senses."
            )
        if name not in parameters:
            raise WingsError(
                f"learning_rates.{name}: this model has no such group (it has"
                f" {', '.join(parameters)}); remove the rate or change the wings options."
            )
    taken: set[int] = set()
    groups = []
    for name, tensors in parameters.items():
        # Tied weights are in two groups and count once.
        tensors = [p for p in dict.fromkeys(tensors) if id(p) not in taken]
        taken |= {id(p) for p in tensors}
        frozen = (
            not is_trained(recipe.stage, name)
            or (name == "language_model" and bool(recipe.freeze_llm))
            or sense_of(name) not in (*trained, None)
        )
        groups.append(ParamGroup(name, tensors, None if frozen else recipe.learning_rate(name)))
    return TrainPlan(recipe.stage, groups)


def _parameters_by_group(model: WingsForCausalLM, recipe: Recipe) -> dict[str, list[nn.Parameter]]:
    if recipe.trained_layers is not None:
        return _with_chosen_layers(model, recipe.trained_layers)
    if recipe.lora is None or recipe.lora.is_kept:
        return model.parameter_groups()
    if not adapters(model):
        add_adapters(model, recipe.lora)
    lora = adapters(model)
    ids, groups = set(map(id, lora)), model.parameter_groups()
    base = [p for p in groups.pop("language_model") if id(p) not in ids]
    return {**groups, "lora": lora, "language_model": base}


def _with_chosen_layers(
    model: WingsForCausalLM, chosen: list[str]
) -> dict[str, list[nn.Parameter]]:
    """Groups in which `language_model` has the named layers, and `other_layers` the rest of it."""
    groups, decoder = model.parameter_groups(), model.model.language_model
    llm = set(map(id, groups["language_model"]))
    own = {name: p for name, p in decoder.named_parameters() if id(p) in llm}
    modules = {name.rpartition(".")[0] for name in own}
    for target in chosen:
        if not any(f".{module}".endswith(f".{target}") for module in modules):
            known = sorted({module.rpartition(".")[2] for module in modules})
            raise WingsError(
                f"trained_layers: {type(decoder).__name__} has no layer {target!r} with weights; it"
                f" has {', '.join(known)}."
            )
    trained = [
        parameter
        for name, parameter in own.items()
        if any(f".{name.rpartition('.')[0]}".endswith(f".{target}") for target in chosen)
    ]
    taken = set(map(id, trained))
    rest = [parameter for parameter in groups["language_model"] if id(parameter) not in taken]
    return {**groups, "language_model": trained, "other_layers": rest}


def _freeze(model: WingsForCausalLM, groups: Iterable[ParamGroup], bf16: bool) -> None:
    lost = sum(p.numel() for p in model.parameters()) - sum(group.count for group in groups)
    if lost:
        raise WingsError(f"parameter_groups() does not list {lost:,} weights of this model.")
    if not bf16:
        # Buffers too: nothing casts between dtypes without autocast.
        model.float()
    for group in groups:
        exact = all(map(_fits_bfloat16, group.parameters))
        if exact and (group.rate is None or (bf16 and group.name == "language_model")):
            group.saved = torch.bfloat16
        held = torch.bfloat16 if exact and bf16 and group.rate is None else torch.float32
        for parameter in group.parameters:
            parameter.requires_grad_(group.rate is not None)
            parameter.data = parameter.data.to(held)


def _fits_bfloat16(parameter: nn.Parameter) -> bool:
    return torch.equal(parameter.data.to(torch.bfloat16).to(parameter.dtype), parameter.data)
