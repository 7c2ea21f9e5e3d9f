"""The audio encoder: any encoder of sounds of transformers, for stretches of a fixed length."""

import os
from collections.abc import Mapping

import torch
from torch import Tensor, nn
from transformers import AutoModel

from wings.errors import WingsError
from wings.saved_files import reading

from .audio_config import NOUN, resolve, source_of
from .encoder_trial import arrange, raw_features
from .lost_buffers import reset_lost_buffers


class AudioEncoder(nn.Module):
    """A frozen audio encoder whose features are in the order of time.

    Args:
        audio_config: as `canonical_audio_config` takes it; the weights are random.

    Attributes:
        config: the canonical dict, which rebuilds this architecture and its values offline.
        hidden_size: width of a feature.
        seq_length: features per stretch, after pooling.
        item_shape: shape of one stretch's values, see `StretchValues`.

    Raises:
        WingsError: a config that no encoder can have.
    """

    def __init__(self, audio_config: str | Mapping) -> None:
        super().__init__()
        self.config, values, trial = resolve(audio_config)
        self.item_shape = values.item_shape
        self._name, self._flags, self._grid = values.name, dict(trial.flags), trial.grid
        self.encoder = trial.kind(trial.config)
        self.train()
        self.seq_length, self.hidden_size = trial.size(self.config["pool"])

    @classmethod
    def from_pretrained(cls, audio: str | Mapping) -> "AudioEncoder":
        """Builds the encoder and loads its weights.

        Args:
            audio: a folder or Hub id with a model of transformers and its feature extractor, or a
                dict of the config's keys, whose `model_name` may be any of these; without it the
                weights are random.

        Raises:
            WingsError: a name that is not known or reached, no audio encoder, or weights that do
                not fit (which).
        """
        encoder = cls(audio)
        source = source_of(audio)
        if source is not None:
            encoder._load(source)
        return encoder

    @classmethod
    def from_weights(cls, config: Mapping, name: str) -> "AudioEncoder":
        """Builds the encoder of a canonical config and loads the weights that `name` has.

        Raises:
            WingsError: no weights under that name, or weights of another encoder.
        """
        encoder = cls(config)
        encoder._load(name)
        return encoder

    @property
    def dtype(self) -> torch.dtype:
        """The dtype of the weights, to which values are cast."""
        return next(self.parameters()).dtype

    def train(self, mode: bool = True) -> "AudioEncoder":
        """Stays frozen and in evaluation mode, whatever `mode` says."""
        # Loading a checkpoint replaces parameters by trainable ones, and ends with `eval()`.
        self.requires_grad_(False)
        return super().train(False)

    def forward(self, audio_values: Tensor) -> Tensor:
        """Computes features in the order of time.

        Args:
            audio_values: [N, *item_shape], any floating type.

        Returns:
            [N, seq_length, hidden_size] in the encoder's type (autocast aside); N may be 0.

        Raises:
            WingsError: stretches of another shape than the encoder's.
        """
        if tuple(audio_values.shape[1:]) != self.item_shape or not audio_values.ndim:
            raise WingsError(
                f"'audio_values' are {list(audio_values.shape)} where the audio encoder takes "
                f"{['N', *self.item_shape]}; prepare sounds with the processor of this model."
            )
        if not len(audio_values):
            # Encoders cannot reshape an empty batch.
            return audio_values.new_zeros((0, self.seq_length, self.hidden_size), dtype=self.dtype)
        features = raw_features(
            self.encoder,
            audio_values.to(self.dtype),
            self._name,
            self._flags,
            self.config["select_layer"],
        )
        return arrange(features, self._grid, self.config["pool"])

    def reset_buffers(self) -> None:
        """Recomputes, in place, the buffers that no checkpoint holds (rotary tables, say).

        Needed after the encoder was built on the meta device and its weights were loaded.
        """
        reset_lost_buffers(self, lambda: AudioEncoder(self.config))

    def _load(self, source: str) -> None:
        source = os.path.expanduser(source)
        with reading(source, NOUN):
            whole, report = AutoModel.from_pretrained(
                source, dtype=self.dtype, trust_remote_code=False, output_loading_info=True
            )
        parts = {name: part for name, part in whole.named_modules()}
        path = next((name for name, one in parts.items() if type(one) is type(self.encoder)), None)
        if path is None:
            raise WingsError(
                f"'{source}' holds a {type(whole).__name__} and no {type(self.encoder).__name__}; "
                "give the weights of this encoder."
            )
        state, wanted = parts[path].state_dict(), self.encoder.state_dict()
        wrong = []
        for name, tensor in wanted.items():
            fitted = self._fitted(state.get(name), tensor)
            if fitted is None:
                wrong.append(name)
            else:
                state[name] = fitted
        prefix = f"{path}." if path else ""
        lost = {name for name in wanted if prefix + name in report["missing_keys"]}
        if not wrong:
            self.encoder.load_state_dict({name: state[name] for name in wanted})
            lost = self._needed(lost)
        if wrong or lost:
            names = wrong or sorted(lost)
            raise WingsError(
                f"'{source}' {'has in another shape' if wrong else 'lacks'} {len(names)} of the "
                f"{len(wanted)} tensors of {type(self.encoder).__name__}, {names[0]} first; give "
                "the weights of this architecture."
            )

    def _fitted(self, tensor: Tensor | None, wanted: Tensor) -> Tensor | None:
        """A tensor in the wanted shape, where only places of a longer sound are left out."""
        if tensor is None or tensor.ndim != wanted.ndim:
            return None
        sizes = zip(tensor.shape, wanted.shape, strict=True)
        axes = [axis for axis, (have, want) in enumerate(sizes) if have != want]
        if not axes:
            return tensor
        axis = axes[0]
        indices = self._grid.indices(tensor.shape[axis])
        if len(axes) > 1 or indices is None or len(indices) != wanted.shape[axis]:
            return None
        if tensor.shape[axis] < wanted.shape[axis]:
            return None
        return tensor.index_select(axis, indices)

    def _needed(self, names: set[str]) -> set[str]:
        """Those of some tensors on which the features depend; zeros in the others."""
        tensors = {name: t for name, t in self.encoder.state_dict().items() if name in names}
        tensors = {name: t for name, t in tensors.items() if t.is_floating_point()}
        if not tensors:
            return set()
        for tensor in tensors.values():
            tensor.fill_(float("nan"))
        with torch.no_grad():
            features = self(torch.ones(1, *self.item_shape, dtype=self.dtype))
        for tensor in tensors.values():
            tensor.zero_()
        return set() if features.isfinite().all() else set(tensors)
