"""The benchmark's clock, memory meter and heap, on calls with known results."""

import itertools
import platform
import subprocess
import sys

import pytest
import torch
from torch.nn.functional import scaled_dot_product_attention

from wings.attention.token_layout import IMAGE, TEXT
from wings.kernels.bench.inputs import layout, learner_inputs
from wings.kernels.bench.measure import Clock, Timing, budget, orders, peak_bytes, relative_error
from wings.kernels.bench.operations import FORWARDS, recomputing, several
from wings.kernels.bench.setting import QUICK

CPU = torch.device("cpu")
MEGA = 2**20
# Four tensors at once, as an MLP of 2,048 tokens makes them; the last of several rounds counts.
PROGRAM = """
import resource, torch
from wings.kernels.bench.measure import keep_heap
assert keep_heap()
faults = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(6):
    before = faults()
    tensors = [torch.zeros(2048, 2304) for _ in range(4)]
    new = faults() - before
    del tensors
print(new * resource.getpagesize() / (4 * 2048 * 2304 * 4))
"""


def test_memory_meter_adds_up_what_is_held_at_once():
    def pattern():
        a = torch.empty(3 * MEGA, dtype=torch.uint8)
        b = torch.empty(5 * MEGA, dtype=torch.uint8)
        del a
        c = torch.empty(4 * MEGA, dtype=torch.uint8)
        del b, c
        return torch.empty(6 * MEGA, dtype=torch.uint8)

    assert peak_bytes(pattern, CPU) == 9 * MEGA


def test_memory_meter_sees_inside_operators_and_not_what_was_there():
    q = torch.randn(1, 1, 1024, 64)
    mask = torch.ones(1024, 1024, dtype=torch.bool)
    weights = 4 * 1024 * 1024
    # Gradients of an attention that keeps its matrix, and of one that does not.
    plain = peak_bytes(lambda: (q @ q.mT).softmax(-1) @ q, CPU)
    fused = peak_bytes(lambda: scaled_dot_product_attention(q, q, q, is_causal=True), CPU)
    assert 2 * weights <= plain < 2.5 * weights
    assert q.numel() * 4 < fused < weights
    # A boolean mask is converted inside of the operator, and no tensor shows it outside.
    assert peak_bytes(lambda: scaled_dot_product_attention(q, q, q, mask), CPU) >= weights


def test_memory_of_a_training_step_is_the_same_twice():
    weight = torch.randn(64, 64, requires_grad=True)
    x = torch.randn(1000, 64)

    def one():
        weight.grad = None
        (x @ weight).relu().sum().backward()

    peaks = {peak_bytes(one, CPU) for _ in range(3)}
    # Products, their activation and its gradient at once, and no more than one further copy.
    assert len(peaks) == 1 and 2 * 256_000 <= peaks.pop() <= 4 * 256_000


@pytest.mark.parametrize(("kind", "tensors"), [(IMAGE, 2.5), (TEXT, 4)])
def test_a_learner_saves_little_but_queries_and_their_output(kind, tensors):
    """In units of x; text queries are saved twice, as an image interrupts them."""
    (shape,), length = QUICK.shapes, 300
    given = learner_inputs(shape, layout(shape, 1, length, CPU), kind, torch.float32)
    saved = peak_bytes(several(recomputing, given), CPU) / FORWARDS
    assert saved < tensors * given.x.nbytes


def test_a_ratio_compares_within_rounds():
    # The machine slows down threefold; the second call always takes twice as long.
    slow, fast = Timing([2.0, 6.0, 6.0]), Timing([1.0, 3.0, 3.0])
    assert slow.over(fast) == (2.0, 2.0, 2.0)
    assert slow.median == 6.0


def test_no_version_comes_always_early():
    names = ["a", "b", "c", "d"]
    found = list(itertools.islice(orders(names), 12))
    assert len({tuple(order) for order in found}) > 6
    for there, back in zip(found[::2], found[1::2], strict=True):
        assert sorted(there) == names
        assert {there.index(name) + back.index(name) for name in names} == {len(names) - 1}


def test_a_machine_that_slows_down_all_the_time_favours_none(monkeypatch):
    """Four calls that are the same, each of which takes a tenth of a second more than the last."""
    now = 0.0
    monkeypatch.setattr("time.perf_counter", lambda: now)
    calls = 0

    def call():
        nonlocal now, calls
        calls += 1
        now += 10 + calls / 10

    timings = Clock(CPU, rounds=8, seconds=1e6).whole(dict.fromkeys("abcd", call))
    ratios = [timings[name].over(timings["a"])[0] for name in "bcd"]
    assert ratios == pytest.approx([1, 1, 1], abs=2e-3)


def test_nan_and_large_errors_fail():
    exact = torch.randn(50, dtype=torch.float64)
    plain = exact.float()
    assert relative_error(plain, exact) <= budget(plain, exact)
    assert not relative_error(plain * 1.001, exact) <= budget(plain, exact)
    broken = plain.clone()
    broken[3] = torch.nan
    assert not relative_error(broken, exact) <= budget(plain, exact)


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="the C library has no such setting")
def test_freed_memory_stays_with_the_process():
    done = subprocess.run([sys.executable, "-c", PROGRAM], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    # Without the setting all of it is new in every round.
    assert float(done.stdout) < 0.05
