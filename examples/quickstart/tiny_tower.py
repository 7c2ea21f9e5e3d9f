"""A small vision tower in open_clip's format: a ViT trained from random weights on shapes.

From every patch's feature it predicts the patch's quarter of the picture, and the shape and colour
there. A linear probe finds shape and colour in 88% of the patches of a random tower (half of the
quarters are empty), and in 99.6% of those of a trained one.
"""

import json
import random
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn import functional as F

from wings.encoders.open_clip_tower import VisionTower
from wings.examples.scenes import COLOURS, PLACES, SHAPES, SIDE, Scene, draw, make_scene
from wings.examples.weights import open_clip_config

CONFIG = {"image_size": SIDE, "patch_size": 8, "width": 64, "layers": 3, "head_width": 16}
MEAN, STD = (0.2, 0.2, 0.2), (0.25, 0.25, 0.25)
CLASSES = (len(SHAPES) + 1, len(COLOURS) + 1, len(PLACES))
GRID = SIDE // CONFIG["patch_size"]


def train_tower(
    folder: Path, seed: int, steps: int, on_step: Callable[[float], None], batch_size: int = 64
) -> float:
    """Trains a tower on drawn pictures and writes open_clip's two files to `folder`.

    Returns:
        Share of the patches of fresh pictures with all three predictions right.
    """
    torch.manual_seed(seed)
    rng = random.Random(f"tower {seed}")
    tower = VisionTower({"vision_cfg": CONFIG, "image_mean": MEAN, "image_std": STD})
    tower.requires_grad_(True)
    head = nn.Linear(tower.hidden_size, sum(CLASSES))
    parameters = [*tower.parameters(), *head.parameters()]
    optimizer = torch.optim.AdamW(parameters, lr=2e-3, weight_decay=0.01, fused=True)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 2e-3, steps, pct_start=0.1)

    def batch(size: int) -> Iterator[tuple[Tensor, Tensor]]:
        """Logits [size, classes, patches] and labels [size, patches] of fresh pictures."""
        pixels, labels = picture_batch(rng, size)
        logits = head(tower(pixels)).transpose(1, 2).split(CLASSES, 1)
        return zip(logits, labels, strict=True)

    for _ in range(steps):
        losses = [F.cross_entropy(x, y) for x, y in batch(batch_size)]
        loss = torch.stack(losses).sum()
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        schedule.step()
        on_step(loss.item())
    with torch.inference_mode():
        right = [x.argmax(1) == y for x, y in batch(256)]
    save_tower(tower, folder)
    return torch.stack(right).all(0).float().mean().item()


def picture_batch(rng: random.Random, size: int) -> tuple[Tensor, tuple[Tensor, Tensor, Tensor]]:
    """Fresh pictures and the labels of their patches.

    Returns:
        pixels [size, 3, SIDE, SIDE] float32; and per patch, in reading order, the number of the
        shape and of the colour in its quarter (0 for an empty one) and of the quarter, each
        [size, GRID * GRID] int64.
    """
    scenes = [make_scene(rng) for _ in range(size)]
    pixels = torch.from_numpy(np.stack([np.asarray(draw(scene)) for scene in scenes]))
    pixels = (pixels.permute(0, 3, 1, 2) / 255.0 - MEAN[0]) / STD[0]
    patch = torch.arange(GRID * GRID)
    quarter = 2 * (patch // GRID // (GRID // 2)) + patch % GRID // (GRID // 2)
    things = torch.tensor([quarters(scene) for scene in scenes])[:, quarter]
    return pixels, (things[..., 0], things[..., 1], quarter.expand(size, -1))


def quarters(scene: Scene) -> list[tuple[int, int]]:
    """(shape, colour) of the four quarters, as numbers from 1; (0, 0) for an empty quarter."""
    numbers = {
        place: (SHAPES.index(shape) + 1, COLOURS.index(colour) + 1)
        for shape, colour, place in scene.things
    }
    return [numbers.get(place, (0, 0)) for place in PLACES]


def save_tower(tower: VisionTower, folder: Path) -> None:
    """Writes weights and configuration as open_clip's `local-dir:` scheme expects them."""
    folder.mkdir(parents=True)
    weights = {name: weight.contiguous() for name, weight in tower.state_dict().items()}
    save_file(weights, folder / "open_clip_model.safetensors")
    config = open_clip_config(CONFIG["width"], CONFIG, MEAN, STD)
    (folder / "open_clip_config.json").write_text(json.dumps(config, indent=2), encoding="utf-8")
