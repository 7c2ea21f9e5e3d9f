"""Prepares a forward pass: builds the `WingsPass` that the blocks read."""

import torch
from torch import Tensor

from wings.attention.learner_mask import LearnerMask
from wings.attention.main_keys import MainKeys
from wings.attention.rotary import CosSin, RotaryEmbedding
from wings.attention.source_tokens import (
    DecodeSource,
    NewTokens,
    SourceTokens,
    normalized,
    pick,
    wanted_columns,
)
from wings.attention.token_layout import IMAGE, KINDS, TokenLayout
from wings.cache.learner_cache import LearnerCache, SourceCache
from wings.config import LoraOptions, WingsConfig
from wings.layers.dispatch import choose, lorra_impl
from wings.layers.router import GateMask
from wings.layers.wings_pass import (
    AdapterInputs,
    LearnerInputs,
    PassOptions,
    RouterTrace,
    WingsPass,
)


def prepare(
    config: WingsConfig,
    rotary: RotaryEmbedding,
    queries: TokenLayout,
    embeddings: Tensor,
    cache: LearnerCache | None,
    later: tuple[TokenLayout, Tensor] | None,
    *,
    has_pictures: bool,
    enabled: bool,
    adapters: LoraOptions | None,
    is_packed: bool,
    is_plain: bool,
    recompute_kv: bool,
    impl: str,
    output_attentions: bool,
) -> WingsPass:
    """The record of a pass over `embeddings [B, T, D]`, which the cache takes in.

    Args:
        config: of the model.
        rotary: the learners' rotary positions.
        queries: layout of the T tokens.
        embeddings: layer-0 embeddings with image features in place, `[B, T, D]`.
        cache: of the tokens before; None in a pass without a cache.
        later: layout and features `[B, P, D]` of images that go on in the next chunk.
        has_pictures: whether an image begins among the tokens.
        enabled: whether the learners act.
        adapters: their options; None where they do not act.
        is_packed: whether a row holds several sequences.
        is_plain: see `MainKeys`.
        recompute_kv: whether a backward recomputes the learners' keys and values.
        impl: how the operations run, "auto", "triton" or "torch".
        output_attentions: whether the main attention's weights are asked for.
    """
    past_length = 0 if cache is None else cache.length
    is_first = cache is None or cache.layout is None
    tokens = normalized(embeddings) if config.normalize_sources else embeddings
    layout, new = queries, {}
    if cache is not None:
        if later is not None and config.normalize_sources:
            later = later[0], normalized(later[1])
        new = cache.append(queries, tokens, later, rotary, enabled, has_pictures)
        layout = cache.layout or queries
    held = None if cache is None or isinstance(past_length, int) else cache.length
    assert not isinstance(held, int)
    # Without a GPU no block needs to ask again whether a kernel can run.
    resolved = impl if choose(impl, embeddings.device, lambda: None) == "triton" else "torch"
    learners = None
    if enabled:
        learner_impl = "torch"
        if queries.length > 1 and config.learner_form == "lorra":
            learner_impl = lorra_impl(impl, embeddings, rotary.width, config.rank, not is_first)
        sources: dict[str, SourceTokens | None] = {}
        for name in config.learners:
            if cache is None:
                sources[name] = _fresh_source(
                    queries, tokens, KINDS[name], rotary, learner_impl, recompute_kv, has_pictures
                )
            else:
                sources[name] = _cached_source(
                    queries, cache.sources[name], new[name], learner_impl, not is_first
                )
        nothing = torch.zeros_like(queries.kind, dtype=torch.bool)
        visible = [nothing if s is None else s.mask.sees_any for s in sources.values()]
        learners = LearnerInputs(
            rotary.at(queries.position, embeddings.dtype),
            sources,
            GateMask(torch.stack(visible, dim=-1)),
            queries.sees_image if config.text_guard else None,
        )
    return WingsPass(
        queries,
        MainKeys(queries, layout, held, is_plain),
        is_first,
        is_packed,
        learners,
        None if adapters is None else _adapter_inputs(adapters, queries),
        PassOptions(resolved, output_attentions),
        RouterTrace(),
    )


def _adapter_inputs(options: LoraOptions, queries: TokenLayout) -> AdapterInputs:
    if not options.needs_images:
        return AdapterInputs(None, is_gated=False)
    acts = queries.kind == IMAGE if options.gate == "image_tokens" else queries.sees_image
    return AdapterInputs(GateMask(acts[..., None]), is_gated=options.gate == "attended")


def _fresh_source(
    queries: TokenLayout,
    tokens: Tensor,
    kind: int,
    rotary: RotaryEmbedding,
    impl: str,
    recompute_kv: bool,
    has_pictures: bool,
) -> SourceTokens | None:
    """The tokens of one kind in a pass without a cache; None where there are none."""
    wanted = queries.kind == kind
    if kind == IMAGE and not has_pictures:
        return None
    columns = wanted_columns(wanted)
    if columns is None:
        return None
    keys, picked = pick(queries, tokens, wanted, columns)
    rope = rotary.at(keys.position, picked.dtype)
    is_step = queries.length == 1
    return SourceTokens(
        keys,
        picked,
        None if is_step else rope,
        LearnerMask(queries, keys, continued=False, fused=impl == "triton"),
        impl,
        recompute_kv,
        decode=DecodeSource.of(picked, rope.table, has_keys=False) if is_step else None,
    )


def _cached_source(
    queries: TokenLayout,
    cache: SourceCache,
    new: NewTokens | None,
    impl: str,
    continued: bool,
) -> SourceTokens | None:
    """All tokens of one kind in the cache; None where there are none."""
    keys, tokens, ropes = cache.layout, cache.tokens.value, cache.ropes.value
    if keys is None or tokens is None or ropes is None:
        return None
    is_step = queries.length == 1
    return SourceTokens(
        keys,
        tokens,
        None if is_step else CosSin.of(ropes),
        LearnerMask(queries, keys, continued, fused=impl == "triton"),
        impl,
        new=new,
        blocks=cache.blocks,
        decode=DecodeSource.of(tokens, ropes, cache.keeps_keys) if is_step else None,
    )
