"""The layers of a transformers cache, as far as `WingsCache` replaces and reads them."""

import torch
from torch import Tensor
from transformers import Cache, DynamicCache, PreTrainedConfig
from transformers.cache_utils import DynamicLayer, LinearAttentionCacheLayerMixin

from .contract import Contract
from .tiny import tiny_config

__all__ = ["DynamicLayer"]


def replace_plain_layers(cache: DynamicCache, kind: type[DynamicLayer]) -> None:
    """Puts a `kind` in place of each layer that keeps all tokens; windowed layers stay."""
    cache.layers = [kind() if type(layer) is DynamicLayer else layer for layer in cache.layers]


def is_recurrent(text_config: PreTrainedConfig) -> bool:
    """True where some block of the decoder keeps a state instead of keys and values."""
    layers = DynamicCache(config=text_config).layers
    return any(isinstance(layer, LinearAttentionCacheLayerMixin) for layer in layers)


def _check_layers() -> None:
    class Counting(DynamicLayer):
        updates = 0

        def update(
            self, key_states: Tensor, value_states: Tensor, *args: object, **kwargs: object
        ) -> tuple[Tensor, Tensor]:
            type(self).updates += 1
            return super().update(key_states, value_states, *args, **kwargs)

    cache = DynamicCache(config=tiny_config(num_hidden_layers=2))
    assert len(cache.layers) == 2, "a cache does not make a layer a block from the configuration"
    replace_plain_layers(cache, Counting)
    keys = torch.arange(24.0).view(2, 1, 3, 4)
    cache.update(keys, keys + 1, 0)
    layer, second = cache.layers
    assert isinstance(layer, Counting) and isinstance(second, Counting)
    assert Counting.updates == 1, "a layer that was put into the list is not updated"
    assert layer.is_initialized and not second.is_initialized
    assert layer.keys is not None and layer.values is not None
    assert torch.equal(layer.keys, keys) and torch.equal(layer.values, keys + 1)
    assert layer.get_seq_length() == cache.get_seq_length() == 3
    cache.update(keys, keys, 1)
    cache.crop(-1)
    assert layer.get_seq_length() == 2, "crop(-1) does not take one token away"
    cache.batch_select_indices(torch.tensor([1]))
    cache.batch_repeat_interleave(2)
    cache.reorder_cache(torch.LongTensor([1, 0]))
    assert torch.equal(layer.keys, keys[[1, 1], :, :2]), "rows are not those that were asked for"
    cache.reset()
    assert cache.get_seq_length() == 0 or not layer.keys.any(), "reset() leaves tokens"


def _check_recurrent() -> None:
    from transformers import AutoConfig

    lfm2 = AutoConfig.for_model(
        "lfm2", hidden_size=32, num_hidden_layers=2, num_attention_heads=4, vocab_size=16,
        layer_types=["conv", "full_attention"], intermediate_size=32,
    )  # fmt: skip
    assert is_recurrent(lfm2), "the cache of a hybrid decoder has no recurrent layer"
    assert not is_recurrent(tiny_config()), "the cache of a plain decoder has a recurrent layer"
    assert issubclass(DynamicCache, Cache)


CONTRACTS = (
    Contract(
        "transformers",
        "5.17",
        "a DynamicCache has in `layers` one layer a block, made from the configuration; a "
        "DynamicLayer keeps keys and values [B, heads, S, width] as `keys` and `values` and grows "
        "in update(); crop(-n) takes the n newest tokens away",
        (
            "transformers:DynamicCache(config)",
            "transformers:StaticCache(config, max_cache_len)",
            "transformers.cache_utils:DynamicLayer.update(key_states, value_states)",
            "transformers.cache_utils:DynamicLayer.get_seq_length",
            "transformers:Cache.crop",
            "transformers:Cache.reset",
            "transformers:Cache.reorder_cache(beam_idx)",
            "transformers:Cache.batch_repeat_interleave(repeats)",
            "transformers:Cache.batch_select_indices(indices)",
        ),
        check=_check_layers,
    ),
    Contract(
        "transformers",
        "5.17",
        "layers of a cache that hold a recurrent state are LinearAttentionCacheLayerMixin",
        ("transformers.cache_utils:LinearAttentionCacheLayerMixin",),
        check=_check_recurrent,
    ),
)
