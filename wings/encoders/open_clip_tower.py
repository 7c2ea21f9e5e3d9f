"""The vision tower: any open_clip or timm image encoder, cut after one block."""

import warnings
from collections.abc import Mapping
from itertools import chain
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn import functional as F

from wings.errors import WingsError
from wings.upstream import open_clip as upstream

from .lost_buffers import reset_lost_buffers
from .tower_config import TowerSource, canonical_config


class VisionTower(nn.Module):
    """A frozen image encoder that ends at one block's patch features (no class or register tokens).

    Args:
        vision_config: as `canonical_config` of `tower_config.py` takes it; the weights are random.

    Attributes:
        config: the canonical dict, which rebuilds this architecture and preprocessing offline.
        hidden_size: width of a patch feature.
        image_seq_length: patch features per image, after pooling.

    Raises:
        WingsError: a config that no tower can have.
    """

    def __init__(self, vision_config: Mapping) -> None:
        super().__init__()
        self.config = canonical_config(vision_config)
        self.visual, self._block = _build(self.config)
        self.train()
        self.image_seq_length, self.hidden_size = self._measure()

    @classmethod
    def from_pretrained(cls, vision: str | Mapping) -> "VisionTower":
        """Builds the tower and loads its weights.

        Args:
            vision: "hf-hub:ORG/NAME", "local-dir:PATH" (a folder with open_clip_config.json and
                weights), open_clip's "MODEL/TAG", or "MODEL" (random weights, with a warning); or a
                dict of the config's keys, whose `model_name` may be any of these and whose
                `vision_cfg` has random weights unless it says `timm_model_pretrained`.

        Raises:
            WingsError: a name that is not known or reached, or weights that do not fit (which).
        """
        if isinstance(vision, str):
            vision = {"model_name": vision}
        if "model_name" not in vision:
            tower = cls(vision)
            if vision["vision_cfg"].get("timm_model_pretrained"):
                tower.visual, _ = _build(tower.config, pretrained=True)
                tower.train()
            return tower
        # Checked first, so that nothing large is downloaded for a bad config.
        config = canonical_config(vision)
        weights = TowerSource.parse(vision["model_name"]).weights()
        tower = cls(config)
        if weights is None:
            warnings.warn(
                f"{vision['model_name']!r} names an architecture without weights, so the vision "
                "tower is random; give 'MODEL/TAG' for trained ones.",
                stacklevel=2,
            )
        else:
            tower._load(weights)
        return tower

    @classmethod
    def from_weights(cls, config: Mapping, name: str) -> "VisionTower":
        """Builds the tower of a canonical config and loads the weights that `name` has.

        Raises:
            WingsError: no weights under that name, or weights of another tower.
        """
        weights = TowerSource.parse(name).weights()
        if weights is None:
            raise WingsError(f"{name!r} names an architecture without weights: give 'MODEL/TAG'.")
        tower = cls(config)
        tower._load(weights)
        return tower

    @property
    def seq_length(self) -> int:
        """Features per image, as every encoder calls them."""
        return self.image_seq_length

    @property
    def item_shape(self) -> tuple[int, int, int]:
        """The shape of one image's pixels, (3, height, width)."""
        size = self.config["image_size"]
        height, width = (size, size) if isinstance(size, int) else size
        return 3, height, width

    @property
    def dtype(self) -> torch.dtype:
        """The dtype of the weights, to which pixels are cast."""
        return next(self.parameters()).dtype

    def train(self, mode: bool = True) -> "VisionTower":
        """Stays frozen and in evaluation mode, whatever `mode` says."""
        # Loading a checkpoint replaces parameters by trainable ones, and ends with `eval()`.
        self.requires_grad_(False)
        return super().train(False)

    def forward(self, pixel_values: Tensor) -> Tensor:
        """Computes patch features in reading order.

        Args:
            pixel_values: [N, 3, height, width], normalised, any floating type.

        Returns:
            [N, image_seq_length, hidden_size] in the tower's type (autocast aside); N may be 0.

        Raises:
            WingsError: images of another shape than the tower's.
        """
        wanted = list(self.item_shape)
        if list(pixel_values.shape[1:]) != wanted or pixel_values.ndim != 4:
            raise WingsError(
                f"'pixel_values' are {list(pixel_values.shape)} where the vision tower takes "
                f"{['N', *wanted]}; prepare images with the processor of this model."
            )
        if not len(pixel_values):
            # Encoders cannot reshape an empty batch.
            return pixel_values.new_zeros(
                (0, self.image_seq_length, self.hidden_size), dtype=self.dtype
            )
        # Channels first, as pooling needs the grid.
        features = upstream.block_features(self.visual, pixel_values.to(self.dtype), self._block)
        if self.config["pool"] > 1:
            features = F.avg_pool2d(features, self.config["pool"], ceil_mode=True)
        return features.flatten(2).transpose(1, 2)

    def reset_buffers(self) -> None:
        """Recomputes, in place, the buffers that no checkpoint holds (rotary tables, say).

        Needed after the tower was built on the meta device and its weights were loaded.
        """
        reset_lost_buffers(self, lambda: VisionTower(self.config))

    def _measure(self) -> tuple[int, int]:
        """Returns (features per image, their width), found by a forward on the meta device."""
        tensors = {
            name: torch.empty_like(tensor, device="meta")
            for name, tensor in chain(self.named_parameters(), self.named_buffers())
        }
        _, height, width = self.item_shape
        pixels = torch.empty(1, 3, height, width, device="meta")
        try:
            with torch.no_grad():
                features = functional_call(self, tensors, (pixels,))
        except (AssertionError, RuntimeError, AttributeError) as error:
            raise WingsError(
                f"The vision tower {_name(self.config)} gives no patch features for images of "
                f"{height} x {width} ({error}); choose another 'image_size'."
            ) from error
        return features.shape[1], features.shape[2]

    def _load(self, path: Path) -> None:
        try:
            state = upstream.read_weights(path, self.visual)
        # Readers of damaged files raise nearly anything (SafetensorError, UnpicklingError, ...).
        except Exception as error:
            raise WingsError(f"The weights in {path} cannot be read ({error}).") from error
        if any(name.startswith("visual.") for name in state):
            state = {name: value for name, value in state.items() if name.startswith("visual.")}
        else:
            state = {f"visual.{name}": value for name, value in state.items()}
        wanted = self.state_dict()
        upstream.resize_positions(state, self.visual)
        missing = [name for name in wanted if name not in state]
        wrong = [n for n in wanted if n in state and state[n].shape != wanted[n].shape]
        if missing or wrong:
            what = "lacks" if missing else "has in another shape"
            names = missing or wrong
            first = names[0].removeprefix("visual.")
            raise WingsError(
                f"'{path}' {what} {len(names)} of the {len(wanted)} tensors of "
                f"{_name(self.config)}, {first} first; give the weights of this architecture."
            )
        # The file also holds blocks after the selected layer and a head, which the tower lacks.
        self.load_state_dict({name: state[name] for name in wanted})


def _name(config: dict) -> str:
    cfg = config["vision_cfg"]
    return cfg.get("timm_model_name") or f"ViT of width {cfg.get('width', 768)}"


def _build(config: dict, pretrained: bool = False) -> tuple[nn.Module, int]:
    """Builds the image encoder, cut after the selected block; returns that block's number too."""
    cfg = dict(config["vision_cfg"])
    size = cfg["image_size"]
    cfg["image_size"] = (size, size) if isinstance(size, int) else tuple(size)
    if "timm_model_name" in cfg:
        cfg |= {"timm_pool": "", "timm_proj": "none", "timm_model_pretrained": pretrained}
    try:
        visual = upstream.build(cfg, config["quick_gelu"])
    except (AssertionError, RuntimeError, TypeError, ValueError, OSError) as error:
        raise WingsError(f"No vision tower can be built from {cfg} ({error}).") from error
    try:
        block = upstream.cut(visual, config["select_layer"])
    except AssertionError as error:
        raise WingsError(
            f"'select_layer' is {config['select_layer']}, which is no layer of {_name(config)} "
            f"({error})."
        ) from error
    except (AttributeError, NotImplementedError) as error:
        raise WingsError(
            f"The trunk {_name(config)} cannot give the features of a layer ({error}); use "
            f"another one."
        ) from error
    return visual, block
