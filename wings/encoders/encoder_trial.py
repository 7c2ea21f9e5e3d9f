"""A trial pass: which part of a model of transformers turns a stretch of sound into features."""

import inspect
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import AutoConfig, AutoModel, PreTrainedConfig, PreTrainedModel

from wings.errors import WingsError

from .stretch_values import StretchValues, short

# Tokens before the patches of a spectrogram (classes, registers).
_MOST_PREFIX = 8
# Frames of the extractor that become one position of an encoder.
_MOST_STRIDE = 16


@dataclass(frozen=True)
class FeatureGrid:
    """The layout of an encoder's output [N, prefix + rows * columns, d].

    Attributes:
        prefix: tokens before the features.
        rows: number of rows.
        columns: number of columns.
        is_time_last: columns are time and rows frequency; else rows are time.
    """

    prefix: int = 0
    rows: int = 1
    columns: int = 1
    is_time_last: bool = True

    def indices(self, before: int) -> Tensor | None:
        """The places that this grid keeps of a longer one, [prefix + rows * columns].

        Args:
            before: number of places of the longer one, which has as many frequencies.
        """
        if not self.is_time_last or self.rows == 1:
            return torch.arange(self.prefix + self.rows * self.columns)
        columns, rest = divmod(before - self.prefix, self.rows)
        if rest:
            return None
        grid = torch.arange(self.rows)[:, None] * columns + torch.arange(self.columns)
        return torch.cat([torch.arange(self.prefix), self.prefix + grid.flatten()])


@dataclass(frozen=True)
class EncoderTrial:
    """The outcome of a trial pass.

    Attributes:
        kind: class of the part that is the encoder.
        config: configuration of that part.
        whole: configuration from which `AutoModel` makes a model with that part.
        flags: keyword arguments that are false for every item: keyword -> shape of one.
        grid: layout of the features.
        shape: of the features of one stretch, as the encoder gives them.
    """

    kind: type[PreTrainedModel]
    config: PreTrainedConfig
    whole: PreTrainedConfig
    flags: Mapping[str, tuple[int, ...]]
    grid: FeatureGrid
    shape: tuple[int, ...]

    def size(self, pool: int) -> tuple[int, int]:
        """Returns (features of a stretch, their width) after `arrange`."""
        features = arrange(torch.empty(self.shape, device="meta"), self.grid, pool)
        return features.shape[1], features.shape[2]


def raw_features(
    encoder: nn.Module,
    values: Tensor,
    name: str,
    flags: Mapping[str, tuple[int, ...]],
    select_layer: int,
) -> Tensor:
    """The features of one layer of an encoder, in the layout that it has.

    Args:
        encoder: of transformers.
        values: [N, *item_shape], by the keyword `name`.
        name: see `StretchValues`.
        flags: see `EncoderTrial`.
        select_layer: -1 for the output; else a number in its hidden states.
    """
    given: dict[str, Any] = {
        flag: torch.zeros(len(values), *shape, dtype=torch.bool, device=values.device)
        for flag, shape in flags.items()
    }
    if select_layer == -1:
        return encoder(**{name: values}, **given).last_hidden_state
    return encoder(**{name: values}, **given, output_hidden_states=True).hidden_states[select_layer]


def arrange(features: Tensor, grid: FeatureGrid, pool: int) -> Tensor:
    """Brings features into the order of time and averages neighbours.

    Args:
        features: [N, prefix + rows * columns, d], or [N, d, frequencies, times].
        grid: their layout.
        pool: number of neighbouring times that are averaged.

    Returns:
        [N, times / pool (rounded up) * frequencies, d], all frequencies of a time together.
    """
    if features.ndim == 3:
        features = features[:, grid.prefix :].unflatten(1, (grid.rows, grid.columns))
        features = features.permute(0, 3, 1, 2)
        if not grid.is_time_last:
            features = features.transpose(2, 3)
    if pool > 1:
        features = F.avg_pool2d(features, (1, pool), ceil_mode=True)
    return features.permute(0, 3, 2, 1).flatten(1, 2)


def try_encoder(model_config: Mapping, values: StretchValues, select_layer: int) -> EncoderTrial:
    """Finds the encoder in a model, by passes of one stretch without weights.

    The outermost part that takes the values is the encoder. A model with a table of positions
    for longer sounds gets a shorter table: the number in its configuration that makes the pass
    succeed is scaled to the stretch, and `values` is cut to a whole number of positions.

    Args:
        model_config: fields of the model's configuration, with `model_type`.
        values: of the model's feature extractor; its item shape may change.
        select_layer: as in `raw_features`.

    Raises:
        WingsError: no part takes the values and gives features.
    """
    fields = dict(model_config)
    kind = fields.pop("model_type", None)
    item_shape = values.item_shape
    reason: Any = "no part of it takes sounds"
    for changes, shape in _attempts(fields, values):
        values.item_shape = shape
        try:
            config = AutoConfig.for_model(kind, **{**fields, **changes})
            with torch.device("meta"):
                model = AutoModel.from_config(config, trust_remote_code=False)
        # Configurations check themselves in many ways.
        except Exception as error:
            if changes:
                continue
            raise WingsError(
                f"'model_config' is none of a model of transformers ({short(error)})."
            ) from error
        for part, flags in _parts(model, values):
            try:
                grid, size = _pass(part, values, flags, select_layer)
                return EncoderTrial(type(part), part.config, config, flags, grid, size)
            # Models raise nearly anything.
            except Exception as error:
                reason = reason if changes else short(error)
    values.item_shape = item_shape
    raise WingsError(
        f"No part of the model {kind!r} turns {values.samples / values.rate:g} seconds of sound "
        f"({values.name} {list(item_shape)}) into features ({reason}); name an audio encoder, or "
        "other 'seconds' or another 'select_layer'."
    )


def _attempts(
    fields: dict[str, Any], values: StretchValues
) -> Iterator[tuple[dict[str, Any], tuple[int, ...]]]:
    """Fields of a configuration to change, and the shape of the values to try with them."""
    shape, axis, trained = values.item_shape, values.time_axis, values.trained_frames
    yield {}, shape
    if axis is None or shape[axis] >= trained:
        return
    for name, number in fields.items():
        if type(number) is not int or number < 1 or trained % number:
            continue
        stride = trained // number
        positions = shape[axis] // stride
        if stride <= _MOST_STRIDE and positions:
            cut = (*shape[:axis], positions * stride, *shape[axis + 1 :])
            yield {name: positions}, cut


def _parts(
    model: nn.Module, values: StretchValues
) -> Iterator[tuple[PreTrainedModel, dict[str, tuple[int, ...]]]]:
    """The parts of a model that take the values, outermost first; then once more with flags."""
    found = []
    for part in model.modules():
        if isinstance(part, PreTrainedModel):
            keywords = inspect.signature(part.forward).parameters
            if values.name in keywords:
                yield part, {}
                found.append((part, {n: s for n, s in values.flags.items() if n in keywords}))
    yield from ((part, flags) for part, flags in found if flags)


def _pass(
    part: PreTrainedModel, values: StretchValues, flags: Mapping, select_layer: int
) -> tuple[FeatureGrid, tuple[int, ...]]:
    """Runs one stretch; returns the layout of the features and their shape."""
    try:
        return _measure(part, values, flags, select_layer)
    except Exception as error:
        if "meta" not in str(error).lower():
            raise
    # Some models look at numbers, which the meta device does not have.
    with torch.random.fork_rng(devices=[]), torch.device("cpu"):
        return _measure(type(part)(part.config), values, flags, select_layer)


def _measure(
    part: PreTrainedModel, values: StretchValues, flags: Mapping, select_layer: int
) -> tuple[FeatureGrid, tuple[int, ...]]:
    seen: list[tuple[torch.Size, torch.Size]] = []

    def watch(_: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        seen.append((inputs[0].shape, output.shape))

    hooks = [
        module.register_forward_hook(watch)
        for module in part.modules()
        if isinstance(module, nn.Conv2d)
    ]
    item = torch.zeros(1, *values.item_shape, device=next(part.parameters()).device)
    try:
        with torch.no_grad():
            features = raw_features(part.eval(), item, values.name, flags, select_layer)
    finally:
        for hook in hooks:
            hook.remove()
    if features.ndim == 4 and select_layer == -1:
        return FeatureGrid(), tuple(features.shape)
    if features.ndim != 3 or len(features) != 1 or not features.is_floating_point():
        raise ValueError(f"its features are {list(features.shape)} and not [N, features, width]")
    count = features.shape[1]
    frames = values.item_shape[values.time_axis or 0]
    for before, after in seen:
        if len(after) != 4:
            continue
        rows, columns = after[2:]
        prefix = count - rows * columns
        if rows > 1 and columns > 1 and 0 <= prefix <= _MOST_PREFIX:
            grid = FeatureGrid(prefix, rows, columns, is_time_last=before[3] == frames)
            return grid, tuple(features.shape)
    return FeatureGrid(columns=count), tuple(features.shape)
