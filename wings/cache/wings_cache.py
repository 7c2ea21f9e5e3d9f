"""Caches of a Wings model: the decoder's keys and values, and the learners' cache."""

from torch import LongTensor, Tensor
from transformers import Cache, DynamicCache, StaticCache

from wings.config import WingsConfig
from wings.errors import WingsError
from wings.upstream.cache_layers import replace_plain_layers

from .block_cache import GrowingLayer
from .learner_cache import LearnerCache

# Numbers a token may cost for the keys of all learners; the design's cache at D 4096 has as many.
MOST_KEYS = 8192


def keeps_keys(config: WingsConfig) -> list[str]:
    """The senses whose learners are so small that their cache keeps whole keys."""
    # Cross-attention has no rotary positions, so its cached products are its keys.
    return [
        name
        for name, sense in config.senses.items()
        if config.hidden_size * len(sense.layers) <= MOST_KEYS and sense.learner_form == "lorra"
    ]


class LearnerCacheMixin(Cache):
    """Put before a cache of transformers: the learners' cache follows every change to it."""

    learners: LearnerCache

    def reset(self) -> None:
        """Drops every token."""
        super().reset()
        self.learners.reset()

    def crop(self, tokens_to_remove: int) -> None:
        """Drops the newest tokens: `-n` takes n away; n, as long ago, keeps the first n."""
        length = int(self.learners.length)
        # Older transformers passed the length to keep, as a positive number.
        keep = tokens_to_remove if tokens_to_remove > 0 else length + tokens_to_remove
        super().crop(min(keep - length, 0))
        self.learners.cut(keep)

    def reorder_cache(self, beam_idx: LongTensor) -> None:
        """Puts rows of the batch into the order `beam_idx [B]`."""
        super().reorder_cache(beam_idx)
        self.learners.change_batch(lambda rows: rows.index_select(0, beam_idx.to(rows.device)))

    def batch_repeat_interleave(self, repeats: int) -> None:
        """Repeats every row of the batch."""
        super().batch_repeat_interleave(repeats)
        self.learners.change_batch(lambda rows: rows.repeat_interleave(repeats, dim=0))

    def batch_select_indices(self, indices: Tensor) -> None:
        """Keeps only the rows `indices` of the batch."""
        super().batch_select_indices(indices)
        self.learners.change_batch(lambda rows: rows[indices.to(rows.device)])


class WingsCache(LearnerCacheMixin, DynamicCache):
    """A `DynamicCache` with the learners' cache; it grows in place.

    So it holds up to an eighth, or 64 tokens, more than the text. Layers with a window stay
    transformers' own.
    """

    def __init__(self, config: WingsConfig) -> None:
        super().__init__(config=config.text_config)
        replace_plain_layers(self, GrowingLayer)
        self.learners = LearnerCache(config.senses.values(), keeps_keys(config))


class WingsStaticCache(LearnerCacheMixin, StaticCache):
    """A `StaticCache` with the learners' cache: its capacity is allocated at the first token.

    So a decoding step can be compiled, or recorded as a CUDA graph.

    Raises:
        WingsError: more room than the position router knows positions.
    """

    def __init__(self, config: WingsConfig, max_cache_len: int) -> None:
        positions = config.position_limit
        if positions is not None and max_cache_len > positions:
            raise WingsError(
                f"a static cache of {max_cache_len} tokens reaches beyond the {positions} "
                f"positions that the position router knows: give it fewer, or build the model with "
                f"larger router_positions or router='modality'."
            )
        super().__init__(config=config.text_config, max_cache_len=max_cache_len)
        self.room = max_cache_len
        self.learners = LearnerCache(config.senses.values(), keeps_keys(config), max_cache_len)

    def crop(self, tokens_to_remove: int) -> None:
        """Refused, as by transformers' own static cache."""
        raise WingsError(
            "a static cache cannot be cropped: use wings.WingsCache to take back tokens."
        )
