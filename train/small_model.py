"""A small model with the classes and options of a run's model, and samples for it."""

import copy
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import Dataset
from transformers import PreTrainedConfig

from wings.config import WingsConfig
from wings.encoders.encoder import register_encoder
from wings.model.causal_lm import WingsForCausalLM
from wings.processing.tokenization import IGNORED
from wings.sense import IMAGE

from .data.collator import with_kl_mask
from .data.sampler import RecordSampler

# Its blocks have the class and width of the real ones.
BLOCKS, VOCABULARY, MLP_WIDTH = 2, 512, 256
# A small ViT: the tower is frozen, and the first training step runs the real one.
TOWER = {"image_size": 28, "patch_size": 14, "width": 32, "layers": 2, "head_width": 16}

# The type of the encoders of further senses.
LINEAR = "small_linear"


class SmallEncoder(nn.Module):
    """A linear encoder that stands for those of further senses: three features of two numbers."""

    item_shape, seq_length, hidden_size = (6,), 3, 16

    def __init__(self, config: Mapping[str, Any]) -> None:
        super().__init__()
        self.config = dict(config)
        self.linear = nn.Linear(2, self.hidden_size)
        self.requires_grad_(False)

    @property
    def dtype(self) -> torch.dtype:
        """The dtype of the weights."""
        return self.linear.weight.dtype

    def train(self, mode: bool = True) -> "SmallEncoder":
        """Stays frozen, whatever `mode` says."""
        self.requires_grad_(False)
        return super().train(False)

    def forward(self, values: Tensor) -> Tensor:
        """`[N, 6]` -> `[N, 3, 16]`."""
        return self.linear(values.to(self.dtype).unflatten(-1, (self.seq_length, -1)))

    def reset_buffers(self) -> None:
        """Does nothing: there are none."""


register_encoder(LINEAR, SmallEncoder)


def small_config(config: WingsConfig) -> WingsConfig | None:
    """The configuration with few blocks, few tokens, narrow MLPs and small encoders.

    Returns:
        the configuration; None if the decoder does not allow these sizes.
    """
    decoder: Any = config.text_config
    text = decoder.to_dict()
    text.pop("quantization_config", None)
    count = text["num_hidden_layers"]
    chosen = _blocks(decoder)
    for name, value in text.items():
        # A list with an entry per block, such as the kinds of attention.
        if isinstance(value, list) and len(value) == count:
            text[name] = [value[block] for block in chosen]
        elif name.endswith("intermediate_size") and isinstance(value, int):
            text[name] = min(value, MLP_WIDTH)
        elif name.endswith("_token_id"):
            text[name] = None
    text |= {"num_hidden_layers": len(chosen), "vocab_size": min(text["vocab_size"], VOCABULARY)}
    fields: dict[str, Any] = config.to_dict() | {
        "text_config": text,
        "learner_layers": None,
        "image_token_id": None,
        "image_seq_length": None,
    }
    if config.vision_config is not None:
        fields["vision_config"] = {"vision_cfg": TOWER, "pool": config.vision_config.get("pool", 1)}
    fields["other_senses"] = {
        name: {
            **one, "encoder": {"type": LINEAR}, "learner_layers": None, "token_id": None,
            "seq_length": None,
        }
        for name, one in config.other_senses.items()
    }  # fmt: skip
    fields.pop("model_type")
    try:
        small = WingsConfig(**fields)
        with torch.device("meta"):
            WingsForCausalLM(small)  # fills in the features of an image
    except Exception:  # Error types depend on the family.
        return None
    return small


def _blocks(text: PreTrainedConfig) -> list[int]:
    """Indices of the first blocks, including the first one of every kind of attention."""
    kinds = list(text.to_dict().get("layer_types") or ())
    chosen = {kinds.index(kind) for kind in kinds} | set(range(BLOCKS))
    return sorted(block for block in chosen if block < text.num_hidden_layers)


def small_model(config: WingsConfig) -> WingsForCausalLM:
    """A random model of this configuration, in which every part has an effect."""
    torch.manual_seed(0)
    model = WingsForCausalLM(copy.deepcopy(config))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.02 * torch.randn_like(parameter))
    return model.float().eval()


class TinyDataset(Dataset):
    """Two samples of random tokens for a small model: one with items, one with only text.

    Args:
        config: configuration of the model.
        needs_kl_mask: adds the keys of `kl_to_base` to the text.
    """

    def __init__(self, config: WingsConfig, needs_kl_mask: bool) -> None:
        items, text = (tiny_sample(config, with_items) for with_items in (True, False))
        self.samples = [items, with_kl_mask(text, text) if needs_kl_mask else text]

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, number: int) -> dict[str, Any]:
        return dict(self.samples[number])

    def sampler(self, batch_size: int, seed: int) -> RecordSampler:
        """The sampler of every epoch."""
        return RecordSampler([len(self)], [1.0], batch_size, seed)


def tiny_sample(config: WingsConfig, with_items: bool) -> dict[str, Tensor]:
    """`input_ids` and `labels` [T], and the values of an item of each sense, `[1, *item shape]`."""
    generator = torch.Generator().manual_seed(1)
    decoder: Any = config.text_config
    ids = torch.randint(decoder.vocab_size, (12,), generator=generator)
    sample, items = {}, []
    for name, sense in config.senses.items() if with_items else ():
        items.append(torch.full((sense.seq_length or 1,), sense.token_id))
        side = TOWER["image_size"]
        shape = (3, side, side) if name == IMAGE else SmallEncoder.item_shape
        sample[sense.values_name] = torch.randn(1, *shape, generator=generator)
    ids = torch.cat([ids[:4], *items, ids[4:]])
    labels = torch.full_like(ids, IGNORED)
    labels[-4:] = ids[-4:]
    return sample | {"input_ids": ids, "labels": labels}
