"""Tiny random decoders of many families, and batches of random layout, for the tests."""

import functools
import random

import torch
from transformers import AutoConfig

from wings import WingsConfig, WingsForCausalLM

VISION = {
    "vision_cfg": {
        "image_size": 16,
        "patch_size": 8,
        "width": 32,
        "layers": 2,
        "head_width": 16,
        "mlp_ratio": 2.0,
    }
}
VOCABULARY = 96
BASE = {
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "intermediate_size": 48,
    "vocab_size": VOCABULARY,
    "max_position_embeddings": 512,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
WINDOW = {"sliding_window": 6}
FAMILIES = {
    "llama": {},
    "qwen2": {"tie_word_embeddings": True},
    "qwen3": {"head_dim": 16},
    "mistral": WINDOW,
    "gemma2": {"head_dim": 16, "attn_logit_softcapping": 5.0, **WINDOW},
    "gemma3_text": {
        "head_dim": 16,
        "layer_types": ["sliding_attention", "full_attention"],
        **WINDOW,
    },
    "phi3": {},
    "olmo2": {},
    "granite": {"logits_scaling": 4.0, "embedding_multiplier": 2.0, "residual_multiplier": 0.5},
    "smollm3": {"no_rope_layers": [1, 0]},
    "cohere": {"logit_scale": 0.5},
    "gpt_neox": {},
    "gpt2": {},
    "falcon_h1": {"mamba_d_ssm": 32, "mamba_n_heads": 4, "mamba_d_head": 8, "mamba_d_state": 8},
    "lfm2": {"layer_types": ["conv", "full_attention"], "block_multiple_of": 8},
    "qwen3_moe": {
        "head_dim": 8,
        "num_experts": 4,
        "num_experts_per_tok": 2,
        "moe_intermediate_size": 16,
    },
}
HYBRIDS = ("falcon_h1", "lfm2")
MAIN = ["llama", "qwen3", "mistral", "gemma2", "gemma3_text"]


def text_config(family, **changes):
    return AutoConfig.for_model(family, **(BASE | FAMILIES[family] | changes))


@functools.cache
def _built(family, options):
    torch.manual_seed(0)
    config = WingsConfig(text_config=text_config(family), vision_config=VISION, **dict(options))
    return WingsForCausalLM(config).eval()


def build(family, awake=True, **options):
    """A model whose learners act (`awake`) or are fresh; float32, in evaluation mode."""
    options.setdefault("rank", 4)
    options.setdefault("router_positions", 512)
    model = _built(family, tuple(sorted(options.items())))
    torch.manual_seed(1)
    for name, parameter in model.named_parameters():
        if ".wings." in name:
            last = name.removesuffix(".weight").rsplit(".", 1)[1]
            is_zero = last.startswith("b_") or last in ("gates", "alpha") or "router" in name
            zero = not awake and is_zero
            parameter.data.normal_(std=0.0 if zero else 0.5)
            if "router" in name and awake:
                parameter.data.mul_(4.0)
    model.zero_grad(set_to_none=True)
    return model


class Layouts:
    """Random rows: lists of "text" (one token) and "image" (one whole image)."""

    def __init__(self, seed):
        self.random = random.Random(seed)

    def row(self, longest=8, most_images=3):
        images = self.random.randint(0, most_images)
        parts = ["image"] * images + ["text"] * self.random.randint(1, longest)
        self.random.shuffle(parts)
        return parts

    def rows(self, count, **limits):
        return [self.row(**limits) for _ in range(count)]


def ids_of(model, parts, generator):
    config = model.config
    ids = []
    for part in parts:
        if part == "image":
            ids += [config.image_token_id] * config.image_seq_length
        else:
            ids.append(int(torch.randint(3, VOCABULARY, (1,), generator=generator)))
    return ids


def batch_of(model, rows, seed=0, side="right", extra=0):
    """A padded batch of rows; also each row's own ids and pictures, `[(ids, pictures)]`."""
    generator = torch.Generator().manual_seed(seed)
    alone = []
    for parts in rows:
        ids = torch.tensor([ids_of(model, parts, generator)])
        count = parts.count("image")
        pictures = torch.randn(count, 3, 16, 16, generator=generator)
        alone.append((ids, pictures if count else None))
    width = max(ids.shape[1] for ids, _ in alone) + extra
    input_ids = torch.zeros(len(rows), width, dtype=torch.long)
    mask = torch.zeros_like(input_ids)
    for row, (ids, _) in enumerate(alone):
        length = ids.shape[1]
        where = slice(0, length) if side == "right" else slice(width - length, width)
        input_ids[row, where], mask[row, where] = ids[0], 1
    pictures = [p for _, p in alone if p is not None]
    batch = {"input_ids": input_ids, "attention_mask": mask}
    if pictures:
        batch["pixel_values"] = torch.cat(pictures)
    return batch, alone


def logits(model, batch, **more):
    with torch.no_grad():
        return model(**batch, use_cache=False, **more).logits


def single(ids, pictures):
    """The batch of one row, as `batch_of` gives it."""
    return {"input_ids": ids} | ({} if pictures is None else {"pixel_values": pictures})


def packed(alone):
    """The rows `[(ids, pictures)]` one after the other in one row."""
    positions = torch.cat([torch.arange(ids.shape[1]) for ids, _ in alone])[None]
    pictures = [pixels for _, pixels in alone if pixels is not None]
    ids = torch.cat([ids for ids, _ in alone], 1)
    return {**single(ids, torch.cat(pictures) if pictures else None), "position_ids": positions}


def chunked_logits(model, batch, cache, draw):
    """Logits `[B, T, V]` of a batch that goes through the cache in chunks of a drawn length."""
    ids, mask, pictures = batch["input_ids"], batch["attention_mask"], batch.get("pixel_values")
    is_image = (ids == model.config.image_token_id) & mask.bool()
    begins = is_image & ((is_image.cumsum(1) - 1) % model.config.image_seq_length == 0)
    owners, start, pieces = begins.nonzero()[:, 1], 0, []
    while start < ids.shape[1]:
        stop = min(ids.shape[1], start + draw.choice([1, 1, 2, 5]))
        here = (owners >= start) & (owners < stop)
        piece = single(ids[:, start:stop], pictures[here] if here.any() else None)
        with torch.no_grad():
            out = model(**piece, attention_mask=mask[:, :stop], cache=cache, use_cache=True)
        pieces.append(out.logits)
        start = stop
    return torch.cat(pieces, 1)


def own_logits(model, batch):
    """The bare decoder on the very embeddings that the model would give it."""
    with torch.no_grad():
        bare = model.extract_language_model()
        embeddings = model.get_input_embeddings()(
            batch["input_ids"].masked_fill(batch["input_ids"] == model.config.image_token_id, 0)
        )
        if "pixel_values" in batch:
            features = model.model.image_features(batch["pixel_values"])
            is_image = batch["input_ids"] == model.config.image_token_id
            embeddings = embeddings.masked_scatter(is_image[..., None], features)
        positions = (batch["attention_mask"].cumsum(1) - 1).clamp(min=0)
        return bare(
            inputs_embeds=embeddings,
            attention_mask=batch["attention_mask"],
            position_ids=positions,
            use_cache=False,
        ).logits


# Heads that are wide enough for the kernels.
WIDE = {"hidden_size": 32, "intermediate_size": 64, "num_attention_heads": 2, "head_dim": 16}


def wide_llama(blocks, impl, **options):
    """A model of a few blocks that the kernels can run, whose learners act."""
    config = WingsConfig(
        text_config=text_config("llama", num_hidden_layers=blocks, **WIDE), vision_config=VISION,
        rank=4, router_positions=512, **options,
    )  # fmt: skip
    torch.manual_seed(0)
    model = WingsForCausalLM(config)
    model.impl = impl
    for name, parameter in model.named_parameters():
        if ".wings." in name:
            parameter.data.normal_(std=0.3)
    return model
