"""Description of a vision tower: every way to name one becomes the same offline dict."""

import json
import os
from collections.abc import Mapping
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from wings.errors import WingsError, nearest
from wings.upstream import open_clip as upstream

PREPROCESS = ("image_mean", "image_std", "interpolation", "resize_mode")
KEYS = ("model_name", "vision_cfg", "quick_gelu", "select_layer", "pool", "image_size", *PREPROCESS)
INTERPOLATIONS = ("nearest", "bilinear", "bicubic", "lanczos")
RESIZE_MODES = ("pad", "resize")
KINDS = ("local-dir", "hf-hub")

# The head is never built, so its fields are left out of the description.
HEAD_KEYS = (
    "attentional_pool", "attn_pooler_queries", "attn_pooler_heads", "final_ln_after_pool",
    "pool_type", "output_tokens", "patch_dropout",
)  # fmt: skip


@dataclass(frozen=True)
class TowerSource:
    """A named tower: `kind` is "local-dir", "hf-hub" or "model" (open_clip's own, with a tag)."""

    kind: str
    name: str
    tag: str | None = None

    @classmethod
    def parse(cls, text: str) -> "TowerSource":
        """Reads `local-dir:PATH`, `hf-hub:ORG/NAME`, `MODEL` or `MODEL/TAG`."""
        import open_clip

        kind, colon, name = text.partition(":")
        if colon and kind in KINDS:
            if not name:
                raise WingsError(
                    f"'vision' is {text!r}, without a name: write one after the colon."
                )
            return cls(kind, os.path.expanduser(name) if kind == "local-dir" else name)
        known = open_clip.list_models()
        if (whole := text.replace("/", "-")) in known:
            return cls("model", whole)
        model, _, tag = text.rpartition("/")
        model = model.replace("/", "-")
        if model not in known:
            wanted = model or text
            raise WingsError(
                f"'vision': open_clip has no model {wanted!r}{nearest(wanted, known)}; give one of "
                "open_clip.list_models(), 'MODEL/TAG', 'hf-hub:ORG/NAME' or 'local-dir:PATH'."
            )
        if not open_clip.get_pretrained_cfg(model, tag):
            tags = open_clip.list_pretrained_tags_by_model(model)
            raise WingsError(
                f"'vision': open_clip has no weights {tag!r} for {model}{nearest(tag, tags)}; "
                f"it has {', '.join(tags) or 'none'}."
            )
        return cls("model", model, tag)

    def describe(self) -> dict:
        """Returns `vision_cfg`, `quick_gelu` and the preprocessing that belong to the name."""
        model_cfg: dict[str, Any]
        preprocess: dict[str, Any]
        if self.kind == "model":
            import open_clip

            model_cfg, preprocess = upstream.model_config(self.name), {}
            if self.tag:
                preprocess = open_clip.get_pretrained_cfg(self.name, self.tag)
                # The tag's own activation; open_clip only warns where it differs.
                model_cfg["quick_gelu"] = preprocess.get("quick_gelu", False)
        else:
            folder_config = self._read_folder_config()
            model_cfg = folder_config.get("model_cfg", folder_config)
            preprocess = folder_config.get("preprocess_cfg", {})
        if "vision_cfg" not in model_cfg:
            raise WingsError(
                f"'vision_cfg' is missing in open_clip_config.json of {self.name}; add it."
            )
        described = {
            "vision_cfg": deepcopy(model_cfg["vision_cfg"]),
            "quick_gelu": model_cfg.get("quick_gelu", False),
            "image_mean": preprocess.get("mean"),
            "image_std": preprocess.get("std"),
            "interpolation": preprocess.get("interpolation"),
        }
        return {key: value for key, value in described.items() if value is not None}

    def weights(self) -> Path | None:
        """Returns the weights file, downloaded if needed; None for a name without a tag."""
        found: str | Path | None
        try:
            if self.kind == "local-dir":
                found = upstream.find_weights(Path(self.name))
            elif self.kind == "hf-hub":
                found = upstream.fetch_from_hub(self.name)
            elif self.tag:
                found = upstream.fetch_weights(self.name, self.tag)
            else:
                return None
        except (OSError, RuntimeError) as error:
            raise WingsError(f"The weights of {self.name} cannot be fetched ({error}).") from error
        if not found:
            raise WingsError(
                f"There is no weights file (*.safetensors, *.bin, *.pth) in {self.name}; "
                "add one next to open_clip_config.json."
            )
        return Path(found)

    def _read_folder_config(self) -> dict:
        try:
            path = Path(self.name, "open_clip_config.json")
            if self.kind == "hf-hub":
                path = Path(upstream.fetch_from_hub(self.name, "open_clip_config.json"))
            return json.loads(path.read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise WingsError(
                f"There is no readable open_clip_config.json in {self.kind}:{self.name} ({error})."
            ) from error


def canonical_config(vision: str | Mapping) -> dict:
    """Returns the dict that rebuilds a tower's architecture and preprocessing without a network.

    Args:
        vision: "hf-hub:..", "local-dir:..", open_clip "MODEL" or "MODEL/TAG", or a dict of `KEYS`
            with one of `model_name` (any of those strings) and `vision_cfg` (open_clip's fields).

    Returns:
        `vision_cfg`, `quick_gelu`, `select_layer`, `pool`, `image_size` (pixels; int, or [height,
        width]), `image_mean`, `image_std` (of RGB in 0..1), `interpolation`, `resize_mode`.

    Raises:
        WingsError: an unknown key or name, or a value that no tower can have.
    """
    given: dict[str, Any]
    given = {"model_name": vision} if isinstance(vision, str) else deepcopy(dict(vision))
    _refuse_unknown(given, KEYS, "The vision config")
    if ("model_name" in given) == ("vision_cfg" in given):
        raise WingsError("The vision config needs exactly one of 'model_name' and 'vision_cfg'.")
    if "model_name" in given:
        given = TowerSource.parse(given.pop("model_name")).describe() | given
    cfg = dict(given["vision_cfg"])
    _refuse_unknown(cfg, upstream.vision_cfg_keys(), "'vision_cfg'")
    config = _preprocess_defaults(cfg.get("timm_model_name")) | {
        key: value for key, value in given.items() if value is not None
    }
    size = config.get("image_size", cfg.get("image_size", 224))
    size = list(size) if isinstance(size, tuple | list) else [size, size]
    cfg["image_size"] = size[0] if size[0] == size[-1] else size
    config = {
        "vision_cfg": _without_head(cfg),
        "quick_gelu": bool(config.get("quick_gelu", False)),
        "select_layer": config.get("select_layer", -2),
        "pool": config.get("pool", 1),
        "image_size": cfg["image_size"],
        "image_mean": [float(value) for value in config["image_mean"]],
        "image_std": [float(value) for value in config["image_std"]],
        "interpolation": config["interpolation"],
        "resize_mode": config.get("resize_mode", "pad"),
    }
    _check_values(config, size)
    return config


def _without_head(cfg: dict) -> dict:
    if isinstance(cfg.get("layers"), tuple | list):
        raise WingsError(
            "'vision_cfg' describes a CLIP ResNet, which has no patch tokens; "
            "use a ViT or a timm trunk."
        )
    if name := cfg.get("timm_model_name"):
        return {"timm_model_name": name, "image_size": cfg["image_size"]}
    return {
        key: value
        for key, value in cfg.items()
        if key not in HEAD_KEYS and not key.startswith("timm_")
    }


def _preprocess_defaults(timm_name: str | None) -> dict:
    """Returns the mean, std and interpolation that the architecture's weights were trained with."""
    if timm_name is None:
        import open_clip

        return {
            "image_mean": open_clip.OPENAI_DATASET_MEAN,
            "image_std": open_clip.OPENAI_DATASET_STD,
            "interpolation": "bicubic",
        }
    import timm

    if not timm.is_model(timm_name):
        known = timm.list_models()
        raise WingsError(
            f"'timm_model_name': timm has no model {timm_name!r}{nearest(timm_name, known)}; "
            "give one of timm.list_models()."
        )
    pretrained = timm.get_pretrained_cfg(timm_name)
    if pretrained is None:
        return {
            "image_mean": timm.data.IMAGENET_DEFAULT_MEAN,
            "image_std": timm.data.IMAGENET_DEFAULT_STD,
            "interpolation": "bicubic",
        }
    return {
        "image_mean": pretrained.mean,
        "image_std": pretrained.std,
        "interpolation": pretrained.interpolation,
    }


def _check_values(config: dict, size: list) -> None:
    def refuse(key: str, wanted: str) -> None:
        raise WingsError(f"'{key}' of the vision config is {config[key]!r}; it must be {wanted}.")

    if len(size) != 2 or not all(type(edge) is int and edge > 0 for edge in size):
        refuse("image_size", "a number of pixels or [height, width]")
    if type(config["select_layer"]) is not int:
        refuse("select_layer", "the number of a block, counted from the last if negative")
    if config["pool"] not in (1, 2):
        refuse("pool", "1 (every patch) or 2 (2 x 2 patches averaged)")
    for key in ("image_mean", "image_std"):
        if len(config[key]) != 3:
            refuse(key, "three numbers, for red, green and blue in 0..1")
    if min(config["image_std"]) <= 0:
        refuse("image_std", "positive")
    if config["interpolation"] not in INTERPOLATIONS:
        refuse("interpolation", f"one of {', '.join(INTERPOLATIONS)}")
    if config["resize_mode"] not in RESIZE_MODES:
        refuse("resize_mode", f"one of {', '.join(RESIZE_MODES)}")


def _refuse_unknown(given: Mapping, known: tuple[str, ...], where: str) -> None:
    for key in given:
        if key not in known:
            raise WingsError(
                f"{where} has no key {key!r}{nearest(key, known)}; it has {', '.join(known)}."
            )
