"""The bench: its quick run, its memory meter, its textbook and its formulas."""

import json
import math
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch.nn.functional import scaled_dot_product_attention

from wings.kernels.bench import floor, inputs, table, textbook, variants
from wings.kernels.bench.batch import sources, tokens
from wings.kernels.bench.clock import Timing
from wings.kernels.bench.error import budget, relative_error
from wings.kernels.bench.memory import peak_on_a_cpu
from wings.kernels.bench.preset import CPU, GPU, QUICK, Shape, with_lengths
from wings.kernels.bench.row import (
    AGAIN,
    BACKWARD,
    DECODING,
    FORWARD,
    IMAGES,
    MEMORY,
    ROUTED,
    SDPA,
    STEP,
    TEXTBOOK,
    TEXTS,
    WINGS,
    Row,
)  # fmt: skip
from wings.layout import IMAGE, TEXT, Layout
from wings.routed_attention import Rule, routed_attention

ROOT = Path(__file__).parents[2]
CPU_DEVICE = torch.device("cpu")
MEGA = 2**20


@pytest.fixture(scope="module")
def quick(tmp_path_factory):
    folder = tmp_path_factory.mktemp("bench")
    command = [sys.executable, "-m", "wings.kernels.bench", "--quick", "--output", str(folder)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return folder, done.stdout, json.loads((folder / "bench.json").read_text())


def test_quick_run_has_the_rows_it_promises(quick):
    _, _, record = quick
    found = {
        (row["what"], row["variant"], row["length"]): row
        for row in record["rows"]
        if row["skipped"] is None
    }
    operations = [f"{what}{way}" for what in (ROUTED, IMAGES, TEXTS) for way in ("", BACKWARD)]
    for what in (FORWARD, STEP, MEMORY, *operations):
        for length in QUICK.lengths:
            for variant in (WINGS, TEXTBOOK):
                assert (what, variant, length) in found
    for variant in (WINGS, TEXTBOOK, AGAIN):
        assert (DECODING, variant, QUICK.contexts[0]) in found
    for row in found.values():
        numbers = [row[name] for name in ("ratio", "low", "high", "value", "base")]
        assert all(math.isfinite(number) and number > 0 for number in numbers), row
        assert row["low"] <= row["ratio"] <= row["high"]


def test_quick_run_says_where_and_how_it_was_made(quick):
    folder, printed, record = quick
    for name in ("device", "python", "torch", "transformers", "threads", "date", "command"):
        assert record[name], name
    assert "--quick" in record["command"]
    assert record["checks"] and all(check["green"] for check in record["checks"])
    assert all(check["error"] <= check["budget"] for check in record["checks"])
    assert (folder / "curves.png").stat().st_size > 10_000
    page = (folder / "README.md").read_text()
    assert record["command"] in page and "curves.png" in page
    # Ratios first, what only this machine can say after them.
    assert 0 < printed.index("in units of the bare LLM") < printed.index("Medians on this machine")


def test_memory_meter_adds_up_what_is_held_at_once():
    def pattern():
        a = torch.empty(3 * MEGA, dtype=torch.uint8)
        b = torch.empty(5 * MEGA, dtype=torch.uint8)
        del a
        c = torch.empty(4 * MEGA, dtype=torch.uint8)
        del b, c
        return torch.empty(6 * MEGA, dtype=torch.uint8)

    assert peak_on_a_cpu(pattern) == 9 * MEGA


def test_memory_meter_sees_inside_operators_and_not_what_was_there():
    q = torch.randn(1, 1, 1024, 64)
    mask = torch.ones(1024, 1024, dtype=torch.bool)
    weights = 4 * 1024 * 1024
    # Gradients of an attention that keeps its matrix, and of one that does not.
    plain = peak_on_a_cpu(lambda: (q @ q.mT).softmax(-1) @ q)
    fused = peak_on_a_cpu(lambda: scaled_dot_product_attention(q, q, q, is_causal=True))
    assert 2 * weights <= plain < 2.5 * weights
    assert q.numel() * 4 < fused < weights
    # A boolean mask becomes numbers inside of the operator, and no tensor shows it outside.
    assert peak_on_a_cpu(lambda: scaled_dot_product_attention(q, q, q, mask)) >= weights


def test_memory_of_a_training_step_is_the_same_twice():
    weight = torch.randn(64, 64, requires_grad=True)
    x = torch.randn(1000, 64)

    def one():
        weight.grad = None
        (x @ weight).relu().sum().backward()

    peaks = {peak_on_a_cpu(one) for _ in range(3)}
    # Products, their activation and its gradient at once, and no more than one further copy.
    assert len(peaks) == 1 and 2 * 256_000 <= peaks.pop() <= 4 * 256_000


@pytest.mark.parametrize("seed", range(4))
def test_textbook_routed_attention_equals_the_torch_one(seed):
    torch.manual_seed(seed)
    batch, heads, groups, length, width, columns = 2, 4, (1, 2, 4, 2)[seed], 37, 8, 3
    make = dict(dtype=torch.float64, requires_grad=True)
    q = torch.randn(batch, heads, length, width, **make)
    k = torch.randn(batch, groups, length, width, **make)
    v = torch.randn(batch, groups, length, width, **make)
    w = torch.randn(batch, length, columns, **make)
    sees = torch.ones(length, length, dtype=torch.bool).tril()[None]
    mask = None
    if seed % 2:
        sees = sees & (torch.rand(batch, length, length) < 0.7) | torch.eye(length).bool()
        mask = sees[:, None]
    ours = routed_attention(q, k, v, w, Rule(mask, 0.4))
    books = textbook.routed_attention(q, k, v, w, sees, 0.4)
    same_with_gradients(ours, books, dict(q=q, k=k, v=v, columns=w))


@pytest.mark.parametrize("kind", [IMAGE, TEXT])
@pytest.mark.parametrize("seed", range(4))
def test_textbook_learner_attention_equals_the_torch_one(seed, kind):
    torch.manual_seed(seed)
    given = inputs.learner(SHAPE, random_layout(seed), kind, torch.float64)
    leaves = {name: tensor.requires_grad_() for name, tensor in given.tensors.items()}
    given = given.holding(leaves)
    (ours,) = variants.ours(CPU_DEVICE, IMAGES).values()
    found = variants.as_tuple(ours(given))
    same_with_gradients(found, variants.as_tuple(variants.textbook_of(given)(given)), leaves)
    assert not found[0][~given.sees().any(-1)].any()


def random_layout(seed):
    """Rows of a picture each, some padded, some of several sequences, longer ones in turn."""
    length = (25, 300)[seed % 2]
    is_image = torch.zeros(3, length, dtype=torch.bool)
    mask = torch.ones(3, length, dtype=torch.long)
    for row, start in enumerate(torch.randint(0, length - 8, (3,)).tolist()):
        is_image[row, start : start + SHAPE.image_tokens] = True
    mask[0, :3], mask[1, -5:] = 0, 0
    positions = None
    if seed >= 2:
        mask[:] = 1
        cut = int(torch.randint(5, length - 5, ()))
        positions = torch.cat([torch.arange(cut), torch.arange(length - cut)]).expand(3, -1)
    return Layout.read(is_image, mask, positions, SHAPE.image_tokens)


def same_with_gradients(ours, books, inputs):
    weights = [torch.randn_like(out) for out in ours]
    found, exact = (
        torch.autograd.grad(outs, list(inputs.values()), weights) for outs in (ours, books)
    )
    for out, book in zip(ours, books, strict=True):
        torch.testing.assert_close(out, book)
    for name, a, b in zip(inputs, found, exact, strict=True):
        torch.testing.assert_close(a, b, msg=lambda text, name=name: f"d{name}: {text}")


SHAPE = Shape(24, 4, 2, 40, layers=2, decoding_layers=2, vocabulary=11, rank=3, pixels=28)


def test_work_of_routed_attention_by_hand():
    # One row, two heads of width 3 on one key head, two tokens: three pairs, and one column.
    at = floor.Attended(1, 2, 2, 3, size=2)
    work = floor.routed_attention(at, heads=2, groups=1, width=3, columns=1)
    # q k^T 3, P v 3, P w 1 multiplications a head and pair.
    assert work.operations == 2 * (2 * 3) * (3 + 3 + 1)
    # q and out 12 numbers each, k and v 6 each, columns 2; sums 2 in four bytes.
    assert work.bytes == 2 * (12 + 12 + 6 + 6 + 2) + 4 * 2
    back = floor.routed_attention_backward(at, heads=2, groups=1, width=3, columns=1)
    # Scores, dP, dq, dk, dv of 3, dP by the column and its gradient of 1.
    assert back.operations == 2 * (2 * 3) * (5 * 3 + 2)
    # q, k, v, columns, out, d out, d sums in; dq, dk, dv, d columns out.
    assert back.bytes == 2 * (12 + 6 + 6 + 2 + 12 + 12) + 4 * 2 + 2 * (12 + 6 + 6 + 2)


def test_work_of_a_learner_by_hand():
    # D 24 in 4 heads, rank 3; two rows of five tokens that see seven pairs of four keys.
    at = floor.Attended(2, 5, 4, 7, size=2)
    work = floor.learner_attention(at, SHAPE)
    products = 2 * (5 * 24 * 3 + 4 * 24 * 3 + 4 * 24 * 3)
    plain = products + 2 * 5 * 24 * 3 + 2 * 7 * 24
    folded = products + 2 * 4 * 4 * 3 * 3 + 2 * 7 * 4 * 3
    assert work.operations == 2 * (2 * 7 * 24 + min(plain, folded))
    assert work.bytes == 2 * (2 * (5 * (24 + 3 + 3) + 4 * (24 + 6)) + 4 * 24 * 3)


def test_floor_is_the_slower_of_arithmetic_and_memory():
    ceilings = floor.Ceilings(operations=100.0, bytes=10.0)
    assert floor.Work(300, 20).floor(ceilings) == 3.0
    assert floor.Work(300, 50).floor(ceilings) == 5.0


@pytest.mark.parametrize("length", [17, 40])
def test_pairs_of_sources_are_those_that_layouts_see(length):
    ids = tokens(SHAPE, 1, length, CPU_DEVICE)["input_ids"]
    layout = Layout.read(ids == SHAPE.vocabulary, None, None, SHAPE.image_tokens)
    for kind, (keys, pairs) in zip((IMAGE, TEXT), sources(SHAPE, length), strict=True):
        of_kind = layout.gather((layout.kind == kind).nonzero()[:, 1][None])
        assert (len(of_kind), int(layout.sees(of_kind).sum())) == (keys, pairs)


def test_step_ratio_grows_with_rank_and_falls_with_width():
    narrow, wide = CPU.shapes[0], GPU.shapes[0]
    assert 1 < floor.step_ratio(wide, 2048) < floor.step_ratio(narrow, 2048) < 2


def test_a_ratio_compares_within_rounds():
    # The machine slows down threefold; the second call always takes twice as long.
    slow, fast = Timing([2.0, 6.0, 6.0]), Timing([1.0, 3.0, 3.0])
    assert slow.over(fast) == (2.0, 2.0, 2.0)
    assert slow.median == 6.0


def test_errors_of_nothing_are_no_pass():
    exact = torch.randn(50, dtype=torch.float64)
    plain = exact.float()
    assert relative_error(plain, exact) <= budget(plain, exact)
    assert not relative_error(plain * 1.001, exact) <= budget(plain, exact)
    broken = plain.clone()
    broken[3] = torch.nan
    assert not relative_error(broken, exact) <= budget(plain, exact)


def test_lengths_replace_those_of_a_preset():
    preset = with_lengths(GPU, [4096, 512])
    assert preset.lengths == preset.memory == preset.main == (512, 4096)


def test_what_was_skipped_shows_as_a_dash_and_no_number():
    place = (STEP, "D 64", "float32", 1, 32)
    what, rest = place[0], place[1:]
    rows = [
        Row(what, WINGS, "bare LLM", *rest, ratio=1.25, value=2.5, base=2.0),
        Row(what, TEXTBOOK, "bare LLM", *rest, skipped="out of memory"),
        Row(ROUTED, TEXTBOOK, SDPA, *rest, ratio=3.0, value=3.0, base=1.0),
    ]
    whole, operations = table.split(rows).values()
    header, (cells,) = table.ratio_cells([*whole])
    assert dict(zip(header, cells, strict=True))[WINGS] == "1.25"
    assert TEXTBOOK not in header
    assert "-" in table.ratio_cells([*whole, operations[0]])[1][0]
