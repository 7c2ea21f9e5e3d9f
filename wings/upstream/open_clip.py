"""open_clip's image encoders without their text half: built, cut, filled with weights, run.

open_clip promises whole CLIP models. Wings needs the image encoder alone, its architecture from a
dict, and the features of one block. open_clip and timm are imported on first use: they cost
seconds, and a plain `import wings` needs neither.
"""

import math
from collections.abc import Mapping
from dataclasses import fields
from functools import cache
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor, nn

from .contract import Contract

# open_clip needs a width for the head, which is removed right after.
HEAD_WIDTH = 8
# open_clip's order of preference among the weights of a folder, from `_find_checkpoint_in_dir`.
PREFERRED = (
    "open_clip_model.safetensors",
    "open_clip_pytorch_model.safetensors",
    "open_clip_pytorch_model.bin",
    "open_clip_pytorch_model.pth",
    "model.safetensors",
    "pytorch_model.bin",
    "pytorch_model.pth",
    "model.pth",
)
SUFFIXES = (".safetensors", ".bin", ".pth")


class WeightHolder(nn.Module):
    """A weight and a bias that their owner reads, past any forward of this module.

    torch's attention reads those of its last layer so. As a linear layer, an adapter for "all
    linear layers" or a quantised weight would be put there and have no effect, or break it.
    """

    weight: Tensor
    bias: Tensor | None

    def forward(self, x: Tensor) -> Tensor:
        """Applies the layer, `[..., in]` -> `[..., out]`; its owner does not call this."""
        return nn.functional.linear(x, self.weight, self.bias)


@cache
def vision_cfg_keys() -> tuple[str, ...]:
    """Return the fields that describe an image encoder, read off open_clip's dataclass."""
    from open_clip import CLIPVisionCfg

    return tuple(field.name for field in fields(CLIPVisionCfg))


def model_config(name: str) -> dict[str, Any]:
    """Return a copy of the configuration that open_clip ships for one of its models."""
    from open_clip import get_model_config

    return get_model_config(name)


def find_weights(folder: Path) -> Path | None:
    """Return the weights file that open_clip would take from a folder, or None without one."""

    def preference(path: Path) -> tuple[int, bool, Path]:
        known = PREFERRED.index(path.name) if path.name in PREFERRED else len(PREFERRED)
        return known, path.suffix != ".safetensors", path

    found = [path for suffix in SUFFIXES for path in folder.glob(f"*{suffix}")]
    return min(found, key=preference, default=None)


def fetch_weights(model: str, tag: str) -> str:
    """Download the weights of one of open_clip's models, or take them from the cache.

    Raises:
        OSError, RuntimeError: they cannot be reached.
    """
    from open_clip import download_pretrained, get_pretrained_cfg

    return download_pretrained(get_pretrained_cfg(model, tag))


def fetch_from_hub(repository: str, filename: str | None = None) -> str:
    """Download a file of a Hub repository, by default its weights, or take it from the cache.

    Raises:
        OSError, RuntimeError: it cannot be reached.
    """
    from open_clip.pretrained import download_pretrained_from_hf

    return download_pretrained_from_hf(repository, filename=filename)


def build(vision_cfg: Mapping[str, Any], quick_gelu: bool) -> Any:
    """Return an image encoder with random weights; a timm trunk is set to the image size.

    Args:
        vision_cfg: open_clip's fields; `image_size` is (height, width).
        quick_gelu: as OpenAI's own weights want; timm trunks ignore it.

    Raises:
        AssertionError, RuntimeError, TypeError, ValueError, OSError: no encoder is like this.
    """
    from open_clip.model import _build_vision_tower

    visual = _build_vision_tower(HEAD_WIDTH, dict(vision_cfg), quick_gelu=quick_gelu)
    for module in visual.modules():
        if isinstance(module, nn.MultiheadAttention):
            holder: nn.Module = module.out_proj
            holder.__class__ = WeightHolder
    if is_timm(visual):
        visual.set_input_size(vision_cfg["image_size"])
    return visual


def is_timm(visual: nn.Module) -> bool:
    """Return True for a timm trunk in open_clip's adapter, which has it as `trunk`."""
    from open_clip.timm_model import TimmModel

    return isinstance(visual, TimmModel)


def cut(visual: Any, layer: int) -> int:
    """Remove the blocks after a layer, the last norm and the head; return the block's number.

    Raises:
        AssertionError: there is no such layer.
        AttributeError, NotImplementedError: the encoder cannot give the features of a layer.
    """
    trunk = visual.trunk if is_timm(visual) else visual
    (block,) = trunk.prune_intermediate_layers([layer], prune_norm=True, prune_head=True)
    return block


def block_features(visual: Any, pixels: Tensor, block: int) -> Tensor:
    """Return the patch features of a block, without class or register tokens.

    Args:
        visual: a tower that was cut after the block.
        pixels: [N, 3, height, width].
        block: its number, as `cut` returned it.

    Returns:
        [N, width, rows, columns], as hierarchical timm trunks give them too.
    """
    return visual.forward_intermediates(
        pixels, indices=[block], stop_early=True, intermediates_only=True, output_fmt="NCHW"
    )["image_intermediates"][0]


def read_weights(path: Path, visual: nn.Module) -> dict[str, Tensor]:
    """Return the tensors of a weights file under open_clip's names.

    Raises:
        Exception: nearly any, if the file is damaged.
    """
    from open_clip.convert import convert_state_dict
    from open_clip.factory import load_state_dict

    return convert_state_dict(SimpleNamespace(visual=visual), load_state_dict(str(path)))


def resize_positions(state: dict[str, Tensor], visual: Any) -> None:
    """Resize, in place, position embeddings of `state` that were made for another image size.

    Args:
        state: tensors whose names start with "visual.".
        visual: the tower that is to take them.
    """
    if not is_timm(visual):
        from open_clip.model import resize_pos_embed

        resize_pos_embed(state, SimpleNamespace(visual=visual))
        return
    from timm.layers import resample_abs_pos_embed

    # open_clip leaves the positions of a timm trunk to timm, which resizes them only in its own
    # loading functions.
    name = "visual.trunk.pos_embed"
    old, new = state.get(name), visual.state_dict().get("trunk.pos_embed")
    if old is None or new is None:
        return
    if old.ndim != 3 or new.ndim != 3 or old.shape == new.shape or old.shape[2] != new.shape[2]:
        return
    grid = visual.trunk.patch_embed.grid_size
    prefix = new.shape[1] - math.prod(grid)
    state[name] = resample_abs_pos_embed(old, new_size=grid, num_prefix_tokens=prefix)


_TINY: dict[str, Any] = {
    "image_size": (28, 28),
    "patch_size": 14,
    "width": 16,
    "layers": 2,
    "head_width": 8,
}
_TINY_TIMM: dict[str, Any] = {
    "timm_model_name": "test_vit",
    "timm_pool": "",
    "timm_proj": "none",
    "image_size": (64, 64),
}


def _check_features() -> None:
    """A cut tower's features are the output of that block in the whole tower."""
    seen: list[Tensor] = []
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        whole = build(_TINY, quick_gelu=False).eval()
        pixels = torch.randn(1, 3, 28, 28)
        whole.transformer.resblocks[0].register_forward_hook(lambda *call: seen.append(call[-1]))
        whole(pixels)
        names = set(whole.state_dict())
        assert cut(whole, 0) == 0, "layer 0 is not block 0"
        features = block_features(whole, pixels, 0)
    assert torch.allclose(features.flatten(2).mT, seen[0][:, 1:], atol=1e-5), "features differ"
    left = set(whole.state_dict())
    assert left < names and not any("resblocks.1" in name or name == "proj" for name in left), (
        "the blocks after the layer and the head are still there"
    )


def _check_timm() -> None:
    """The trunk is reached as `trunk`, takes the image size, and gives a grid of features."""
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        visual = build(_TINY_TIMM, quick_gelu=False).eval()
        block = cut(visual, -2)
        features = block_features(visual, torch.randn(1, 3, 64, 64), block)
    assert tuple(features.shape[2:]) == tuple(visual.trunk.patch_embed.grid_size), "not a grid"


def _check_own_positions() -> None:
    """Position embeddings of open_clip's own encoder are brought to a larger grid."""
    _check_positions(_TINY, "positional_embedding", axis=0)


def _check_timm_positions() -> None:
    """Position embeddings of a timm trunk are brought to a larger grid."""
    _check_positions(_TINY_TIMM, "trunk.pos_embed", axis=1)


def _check_positions(cfg: dict[str, Any], name: str, axis: int) -> None:
    with torch.random.fork_rng(devices=[]):
        small = build(cfg, quick_gelu=False)
        size = tuple(2 * edge for edge in cfg["image_size"])
        large = build({**cfg, "image_size": size}, quick_gelu=False)
    old, wanted = small.state_dict()[name], large.state_dict()[name]
    assert old.shape[axis] < wanted.shape[axis], "the larger tower has as few positions"
    state = {f"visual.{name}": old}
    resize_positions(state, large)
    assert state[f"visual.{name}"].shape == wanted.shape, f"{name} was not resized"


CONTRACTS = (
    Contract(
        library="open_clip_torch",
        since="3.0",
        sentence="an image encoder can be built without its text half, from a dict of the fields "
        "of CLIPVisionCfg, of which those of the head do not matter once it is cut",
        members=(
            "open_clip.model:_build_vision_tower(embed_dim, vision_cfg, quick_gelu)",
            "open_clip:CLIPVisionCfg(layers, width, head_width, mlp_ratio, patch_size, image_size, "
            "ls_init_value, timm_model_name, timm_model_pretrained, timm_pool, timm_proj)",
            "open_clip:get_model_config(model_name)",
        ),
    ),
    Contract(
        library="open_clip_torch",
        since="3.0",
        sentence="a tower cut after a block gives that block's patch features as "
        "image_intermediates",
        members=(
            "open_clip.transformer:VisionTransformer.prune_intermediate_layers"
            "(indices, prune_norm, prune_head)",
            "open_clip.transformer:VisionTransformer.forward_intermediates"
            "(indices, stop_early, intermediates_only, output_fmt)",
        ),
        check=_check_features,
    ),
    Contract(
        library="open_clip_torch",
        since="3.0",
        sentence="a timm trunk is the attribute trunk of TimmModel, takes an image size after it "
        "was built, and gives features like open_clip's own encoders",
        members=(
            "open_clip.timm_model:TimmModel.set_input_size(image_size)",
            "open_clip.timm_model:TimmModel.forward_intermediates"
            "(indices, stop_early, intermediates_only, output_fmt)",
        ),
        check=_check_timm,
    ),
    Contract(
        library="open_clip_torch",
        since="3.0",
        sentence="weights files are read and brought to open_clip's names by these functions, "
        "which look at no more of a model than its attribute visual",
        members=(
            "open_clip.factory:load_state_dict(checkpoint_path)",
            "open_clip.convert:convert_state_dict(model, state_dict)",
            "open_clip.pretrained:download_pretrained_from_hf(model_id, filename)",
            "open_clip:download_pretrained(cfg)",
            "open_clip:get_pretrained_cfg(model, tag)",
        ),
    ),
    Contract(
        library="open_clip_torch",
        since="3.0",
        sentence="resize_pos_embed resizes visual.positional_embedding in a dict of tensors, in "
        "place, to the grid of a holder's attribute visual",
        members=("open_clip.model:resize_pos_embed(state_dict, model)",),
        check=_check_own_positions,
    ),
    Contract(
        library="timm",
        since="1.0.17",
        sentence="vision transformers keep absolute positions as pos_embed, prefix tokens first, "
        "and have a patch_embed with a grid_size",
        members=(
            "timm.layers:resample_abs_pos_embed(posemb, new_size, num_prefix_tokens)",
            "timm.models.vision_transformer:VisionTransformer.prune_intermediate_layers"
            "(indices, prune_norm, prune_head)",
            "timm.models.vision_transformer:VisionTransformer.forward_intermediates"
            "(indices, norm, stop_early, output_fmt, intermediates_only)",
        ),
        check=_check_timm_positions,
    ),
)
