"""Models with three senses, images and two kinds of tones, and batches of random layout."""

import functools
import random

import torch
from families import VISION, VOCABULARY, text_config
from torch import nn

from wings import WingsConfig, WingsForCausalLM
from wings.encoders.encoder import register_encoder

# Numbers of one tone.
NUMBERS = 5


class Tones(nn.Module):
    """A tone is a few numbers; a linear layer makes its features."""

    def __init__(self, config):
        super().__init__()
        self.config = {"type": "tones", "features": config["features"]}
        self.seq_length, self.hidden_size = config["features"], 6
        self.item_shape = (NUMBERS,)
        self.inner = nn.Linear(NUMBERS, self.seq_length * self.hidden_size)
        self.requires_grad_(False)

    @property
    def dtype(self):
        return self.inner.weight.dtype

    def forward(self, values):
        return self.inner(values.to(self.dtype)).view(len(values), self.seq_length, -1)

    def reset_buffers(self):
        pass


register_encoder("tones", Tones)


def tone(features, **options):
    """Fields of a sense whose items are tones."""
    options = {"rank": 4, "router_positions": 512, **options}
    return {"encoder": {"type": "tones", "features": features}, **options}


# Heads that are wide enough for the kernels.
WIDE = {"intermediate_size": 64, "num_attention_heads": 2, "head_dim": 16}


@functools.cache
def _built(family, router, guard, rule, only, wide):
    torch.manual_seed(0)
    routers = router if isinstance(router, tuple) else (router,) * 3
    more = {
        "tone": tone(2, router=routers[1], guard=guard),
        "hum": tone(3, router=routers[2], guard=guard, learners=["hum"], learner_layers=[1]),
    }
    more = {name: fields for name, fields in more.items() if only in (None, name)}
    config = WingsConfig(
        text_config=text_config(family, **(WIDE if wide else {})),
        vision_config=VISION if only in (None, "image") else None,
        other_senses=more, rank=4, router=routers[0], text_guard=guard, router_positions=512,
        senses_rule=rule,
    )  # fmt: skip
    return WingsForCausalLM(config).eval()


def build(
    family="llama", router="attended", guard=True, rule="sum", only=None, awake=True, wide=False
):
    """A model of three senses, or of `only` one, whose learners act (`awake`) or are fresh.

    A part has the same weights in every model that has it.
    """
    model = _built(family, router, guard, rule, only, wide)
    for name, parameter in model.named_parameters():
        torch.manual_seed(hash_of(name))
        last = name.removesuffix(".weight").rsplit(".", 1)[-1]
        is_zero = ".wings." in name and (last.startswith("b_") or "router" in name)
        std = 0.0 if is_zero and not awake else 0.5 if ".wings." in name else 0.1
        parameter.data.normal_(std=std)
        if "norm" in name:
            parameter.data.add_(1.0)
    model.zero_grad(set_to_none=True)
    return model


def hash_of(name):
    """A number that is the same in every process."""
    return sum(ord(letter) * 31**place for place, letter in enumerate(name)) % 2**31


def rows_of(seed, count, senses=("image", "tone", "hum"), longest=7, most=3):
    """Random rows: lists of "text" (one token) and names of senses (one whole item)."""
    draw = random.Random(seed)
    rows = []
    for _ in range(count):
        items = [draw.choice(senses) for _ in range(draw.randint(0, most))]
        parts = items + ["text"] * draw.randint(1, longest)
        draw.shuffle(parts)
        rows.append(parts)
    return rows


def row_of(model, parts, generator):
    """Token ids `[1, T]` and items by name of one row."""
    senses, ids, items = model.config.senses, [], {}
    for part in parts:
        if part == "text":
            ids.append(int(torch.randint(3, VOCABULARY, (1,), generator=generator)))
            continue
        sense = senses[part]
        ids += [sense.token_id] * sense.seq_length
        shape = model.model.encoder(sense).item_shape
        items.setdefault(sense.values_name, []).append(torch.randn(shape, generator=generator))
    return torch.tensor([ids]), {name: torch.stack(one) for name, one in items.items()}


def batch_of(model, rows, seed=0, side="right", extra=0):
    """A padded batch; also each row's own ids and items, `[(ids, {name: items})]`."""
    generator = torch.Generator().manual_seed(seed)
    alone = [row_of(model, parts, generator) for parts in rows]
    width = max(ids.shape[1] for ids, _ in alone) + extra
    input_ids = torch.zeros(len(rows), width, dtype=torch.long)
    mask = torch.zeros_like(input_ids)
    for row, (ids, _) in enumerate(alone):
        length = ids.shape[1]
        where = slice(0, length) if side == "right" else slice(width - length, width)
        input_ids[row, where], mask[row, where] = ids[0], 1
    names = {name for _, items in alone for name in items}
    joined = {
        name: torch.cat([items[name] for _, items in alone if name in items]) for name in names
    }
    return {"input_ids": input_ids, "attention_mask": mask, **joined}, alone


def logits(model, batch, **more):
    with torch.no_grad():
        return model(**batch, use_cache=False, **more).logits


def chunked_logits(model, batch, cache, draw):
    """Logits `[B, T, V]` of a batch that goes through the cache in chunks of a drawn length."""
    ids, mask, pieces, start = batch["input_ids"], batch["attention_mask"], [], 0
    owners = {}
    for sense in model.config.senses.values():
        is_item = (ids == sense.token_id) & mask.bool()
        begins = is_item & ((is_item.cumsum(1) - 1) % sense.seq_length == 0)
        owners[sense.values_name] = begins.nonzero()[:, 1]
    while start < ids.shape[1]:
        stop = min(ids.shape[1], start + draw.choice([1, 1, 2, 5]))
        items = {}
        for name, owner in owners.items():
            here = (owner >= start) & (owner < stop)
            if here.any():
                items[name] = batch[name][here]
        with torch.no_grad():
            out = model(
                ids[:, start:stop], attention_mask=mask[:, :stop], cache=cache, use_cache=True,
                **items,
            )  # fmt: skip
        pieces.append(out.logits)
        start = stop
    return torch.cat(pieces, 1)


def own_logits(model, batch):
    """The bare decoder on the very embeddings that the model would give it."""
    ids = batch["input_ids"]
    with torch.no_grad():
        bare = model.extract_language_model()
        embeddings = model.get_input_embeddings()(ids.clamp(max=VOCABULARY - 1))
        for sense in model.config.senses.values():
            if sense.values_name in batch:
                features = model.model.features(sense, batch[sense.values_name])
                where = (ids == sense.token_id)[..., None]
                embeddings = embeddings.masked_scatter(where, features)
        mask = batch["attention_mask"]
        return bare(
            inputs_embeds=embeddings, attention_mask=mask,
            position_ids=(mask.cumsum(1) - 1).clamp(min=0), use_cache=False,
        ).logits  # fmt: skip


def aligned(model):
    """The model with weights in memory of their own.

    Tensors of a loaded file begin anywhere, and on some CPUs products round by where they begin.
    """
    for parameter in model.parameters():
        parameter.data = parameter.data.clone()
    return model
