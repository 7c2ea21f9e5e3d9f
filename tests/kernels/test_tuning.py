"""How many programs a grid has: enough to keep a GPU busy, and no more partial sums than that."""

import heapq
from types import SimpleNamespace

import pytest
import torch

from wings.kernels import tuning
from wings.kernels.routed_attention.backward import splits_of_group
from wings.kernels.tuning import (
    FEWEST_KEYS,
    Blocks,
    descriptor_loads,
    enough_programs,
    for_few_keys,
    loads_by_descriptors,
)

BLOCKS, CPU = Blocks(64, 128, 8, 3), torch.device("cpu")


@pytest.fixture
def card(monkeypatch):
    """A GPU with as many multiprocessors as an H100."""
    about = SimpleNamespace(multi_processor_count=132)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device: about)
    return SimpleNamespace(type="cuda")


def busiest(lengths, processors):
    """The time of the busiest of the processors, which take programs in their order."""
    times = [0.0] * processors
    for length in lengths:
        heapq.heapreplace(times, times[0] + length)
    return max(times)


def test_without_a_gpu_the_blocks_are_the_tables():
    assert enough_programs(CPU) == 0
    assert for_few_keys(BLOCKS, 1, 1, CPU) is BLOCKS and splits_of_group(8, 1, CPU) == 1


def test_the_tokens_of_one_image_fill_a_gpu(card):
    """729 of 32 heads: 192 programs of 128 keys leave 60 of 132 multiprocessors with two."""
    blocks = for_few_keys(BLOCKS, 729, 32, card)
    assert blocks == Blocks(64, 64, 8, 3)
    before, after = busiest([128] * 6 * 32, 132), busiest([64] * 12 * 32, 132)
    assert after <= 0.75 * before


@pytest.mark.parametrize("heads", [1, 8, 9, 32, 64, 256])
def test_smaller_blocks_never_take_longer_and_are_not_made_in_vain(card, heads):
    for keys in (1, 63, 64, 65, 200, 256, 576, 729, 1024, 2048, 4096, 16384):
        blocks = for_few_keys(BLOCKS, keys, heads, card)
        programs = {size: -(-keys // size) * heads for size in (FEWEST_KEYS, 128)}
        times = {size: busiest([size] * count, 132) for size, count in programs.items()}
        assert times[blocks.keys] <= times[128]
        if programs[128] >= enough_programs(card):
            assert blocks is BLOCKS


@pytest.mark.parametrize("group", [1, 2, 4, 8])
@pytest.mark.parametrize("key_heads", [1, 2, 8, 32])
@pytest.mark.parametrize("blocks", [4, 8, 16, 64])
def test_splits_of_a_group_are_few_and_fill_the_gpu(card, group, key_heads, blocks):
    """Causal rows: the first keys have the longest programs, which start first."""
    splits = splits_of_group(group, blocks * key_heads, card)
    assert group % splits == 0
    chosen, most = (
        busiest([left / n for left in range(blocks, 0, -1) for _ in range(key_heads * n)], 132)
        for n in (splits, group)
    )
    assert chosen <= 1.15 * most


def test_two_thousand_keys_of_eight_heads_write_half_of_the_partial_sums(card):
    """Four query heads a key head: two programs share them, where a program each wrote 67 MB."""
    assert splits_of_group(4, 16 * 8, card) == 2


@pytest.mark.parametrize(("generation", "allowed"), [(8, False), (9, True), (10, True)])
def test_older_gpus_load_without_descriptors(card, monkeypatch, generation, allowed):
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (generation, 0))
    assert not loads_by_descriptors(card)
    with descriptor_loads():
        assert loads_by_descriptors(card) == allowed
    assert not loads_by_descriptors(card)


def test_the_number_of_programs_is_a_constant_of_a_compiled_graph():
    compiled = torch.compile(tuning.enough_programs, backend="eager", fullgraph=True)
    assert compiled(CPU) == tuning.enough_programs(CPU)
