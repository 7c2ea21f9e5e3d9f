"""Prepares a forward pass: builds the `WingsPass` that the blocks read."""

from collections.abc import Collection, Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from wings.attention.learner_mask import LearnerMask
from wings.attention.main_keys import MainKeys
from wings.attention.rotary import CosSin, RotaryEmbedding
from wings.attention.source_tokens import (
    DecodeSource,
    LayerZero,
    NewTokens,
    SourceTokens,
    pick,
    wanted_columns,
)
from wings.attention.token_layout import TEXT, TokenLayout
from wings.cache.learner_cache import LearnerCache, ProductsOfLearner
from wings.layers.combination import constant_shares
from wings.layers.dispatch import choose, lorra_impl
from wings.layers.router import GateMask, attended_columns, is_of, modality_columns
from wings.layers.wings_pass import (
    AdapterInputs,
    LearnerInputs,
    PassOptions,
    RouterTrace,
    SenseInputs,
    WingsPass,
)
from wings.lora_options import LoraOptions
from wings.sense import Sense, SourceKind


def prepare(
    rotary: RotaryEmbedding,
    queries: TokenLayout,
    embeddings: Tensor,
    cache: LearnerCache | None,
    later: Mapping[int, tuple[TokenLayout, Tensor]],
    *,
    beginning: Collection[int],
    acting: list[Sense],
    rule: str,
    adapters: LoraOptions | None,
    adapter_kinds: tuple[int, ...],
    is_packed: bool,
    is_plain: bool,
    windows: tuple[int | None, ...],
    recompute_kv: bool,
    options: PassOptions,
) -> WingsPass:
    """The record of a pass over `embeddings [B, T, D]`, which the cache takes in.

    Args:
        rotary: the learners' rotary positions.
        queries: layout of the T tokens.
        embeddings: layer-0 embeddings with features in place, `[B, T, D]`.
        cache: of the tokens before; None in a pass without a cache.
        later: by kind, layout and features `[B, P, D]` of items that go on in the next chunk.
        beginning: the kinds of the items that begin among the tokens.
        acting: the senses whose learners act.
        rule: how the learners of several senses share a token.
        adapters: their options; None where they do not act.
        adapter_kinds: kinds of the items that their guard and gate look for.
        is_packed: whether a row holds several sequences.
        is_plain: see `MainKeys`.
        windows: of the decoder's layers, see `windows_of`.
        recompute_kv: whether a backward recomputes the learners' keys and values.
        options: of the caller and the model.
    """
    past_length = 0 if cache is None else cache.length
    is_first = cache is None or cache.layout is None
    layout, tokens, new = queries, LayerZero(embeddings), {}
    if cache is not None:
        names = {sense.name for sense in acting}
        new = cache.append(queries, tokens, later, rotary, names, beginning)
        layout = cache.layout or queries
    held = None if cache is None or isinstance(past_length, int) else cache.length
    assert not isinstance(held, int)
    # Without a GPU no block needs to ask again whether a kernel can run.
    impl = options.impl if choose(options.impl, embeddings, lambda: None) == "triton" else "torch"
    learners = None
    if acting:
        maker = SourceMaker(queries, tokens, rotary, is_first, recompute_kv, beginning)
        senses = {}
        for sense in acting:
            learner_impl = "torch"
            # The kernels of one token a row have no gradient.
            may_fuse = impl != "torch" and (queries.length > 1 or not torch.is_grad_enabled())
            if may_fuse and sense.learner_form == "lorra":
                has_gaps = not is_first and queries.length > 1
                learner_impl = lorra_impl(impl, embeddings, rotary.width, sense.rank, has_gaps)
            sources: dict[str, SourceTokens | None] = {}
            for module, reads in zip(sense.modules, sense.reads, strict=True):
                if cache is None:
                    sources[module] = maker.fresh(reads, learner_impl)
                else:
                    products = cache.products[module]
                    if learner_impl == "triton":
                        products.leave_keys_out()
                    sources[module] = maker.cached(products, new[module], learner_impl)
            in_kernel = learner_impl == "triton" and (
                sense.router == "attended" or not sense.is_routed
            )
            # Senses that share a token, and a caller who asks for them, read the weights too.
            in_kernel &= len(acting) == queries.length == 1 and not options.output_router_weights
            senses[sense.name] = _sense_inputs(sense, queries, sources, in_kernel)
        weighs_masses = False
        if len(acting) > 1:
            kinds = [sense.kind for sense in acting]
            weighs_masses = rule == "attended"
            shares = constant_shares(rule, queries, kinds)
            for sense, share in zip(acting, shares or [], strict=shares is not None):
                senses[sense.name] = replace(senses[sense.name], share=share)
        rope = rotary.at(queries.position, embeddings.dtype)
        learners = LearnerInputs(rope, senses, weighs_masses)
    inputs = None
    if adapters is not None:
        inputs = _adapter_inputs(adapters, queries, adapter_kinds)
    keys = MainKeys(queries, layout, held, is_plain)
    routed = [sense for sense in acting if sense.is_routed]
    is_gated = inputs is not None and inputs.is_gated
    if impl != "torch" and queries.length > 1 and (routed or is_gated):
        keys.make_ranges(windows)
    # The first pass of a static cache reads its own tokens, not all of the cache's room. In the
    # dtype of the blocks, which would else cast them one by one; 0 and 1 are exact in each.
    for sense in routed if held is None or queries.length == 1 else []:
        kind = sense.kind
        if sense.router == "attended":
            columns = attended_columns(layout, (kind,))
            keys.columns["attended", kind] = columns.to(embeddings.dtype)
        elif sense.router == "modality":
            columns = modality_columns(layout, queries, kind)
            keys.columns["modality", kind] = columns.to(embeddings.dtype)
    return WingsPass(
        queries,
        keys,
        is_first,
        is_packed,
        learners,
        inputs,
        replace(options, impl=impl),
        RouterTrace(),
    )


def _adapter_inputs(
    options: LoraOptions, queries: TokenLayout, kinds: tuple[int, ...]
) -> AdapterInputs:
    if not options.needs_images:
        return AdapterInputs(None, is_gated=False)
    if options.gate == "image_tokens":
        acts = is_of(queries, kinds)
    else:
        acts = queries.sees_sense(kinds[0])
        for kind in kinds[1:]:
            acts = acts | queries.sees_sense(kind)
    return AdapterInputs(GateMask(acts[..., None]), is_gated=options.gate == "attended")


def _sense_inputs(
    sense: Sense,
    queries: TokenLayout,
    sources: dict[str, SourceTokens | None],
    gates_in_kernel: bool,
) -> SenseInputs:
    nothing = torch.zeros_like(queries.kind, dtype=torch.bool)
    visible = [nothing if one is None else one.mask.sees_any for one in sources.values()]
    guard = queries.sees_sense(sense.kind) if sense.guard else None
    gate_mask = GateMask(torch.stack(visible, dim=-1), guard)
    return SenseInputs(sources, gate_mask, gates_in_kernel=gates_in_kernel)


class SourceMaker:
    """The source tokens of a pass; the learners of several senses share what is equal."""

    def __init__(
        self,
        queries: TokenLayout,
        tokens: LayerZero,
        rotary: RotaryEmbedding,
        is_first: bool,
        recompute_kv: bool,
        beginning: Collection[int],
    ) -> None:
        self.queries, self.tokens, self.rotary = queries, tokens, rotary
        self.is_first, self.recompute_kv, self.beginning = is_first, recompute_kv, beginning
        self._made: dict[Any, SourceTokens | None] = {}

    def fresh(self, reads: SourceKind, impl: str) -> SourceTokens | None:
        """The tokens of one kind in a pass without a cache; None where there are none."""
        if (reads, impl) not in self._made:
            self._made[reads, impl] = self._fresh(reads, impl)
        return self._made[reads, impl]

    def _fresh(self, reads: SourceKind, impl: str) -> SourceTokens | None:
        queries = self.queries
        wanted = queries.kind == reads.kind
        if reads.kind != TEXT and reads.kind not in self.beginning:
            return None
        columns = wanted_columns(wanted)
        if columns is None:
            return None
        keys, picked = pick(queries, self.tokens.of(reads), wanted, columns)
        rope = self.rotary.at(keys.position, picked.dtype)
        is_step = queries.length == 1
        return SourceTokens(
            keys,
            picked,
            None if is_step else rope,
            LearnerMask(queries, keys, continued=False, fused=impl == "triton"),
            impl,
            self.recompute_kv,
            decode=DecodeSource.of(picked, rope.table, False, impl) if is_step else None,
        )

    def cached(
        self, products: ProductsOfLearner, new: NewTokens | None, impl: str
    ) -> SourceTokens | None:
        """All tokens in the cache that a learner reads; None where there are none."""
        source, keeps = products.source, products.keeps_keys
        keys, tokens, ropes = source.layout, source.tokens.value, source.ropes.value
        if keys is None or tokens is None or ropes is None:
            return None
        made = self._made.get((id(source), impl, keeps))
        if made is None:
            is_step = self.queries.length == 1
            made = self._made[id(source), impl, keeps] = SourceTokens(
                keys,
                tokens,
                None if is_step else CosSin.of(ropes),
                LearnerMask(self.queries, keys, not self.is_first, fused=impl == "triton"),
                impl,
                decode=DecodeSource.of(tokens, ropes, keeps, impl) if is_step else None,
            )
        return replace(made, new=new, blocks=products.blocks)
