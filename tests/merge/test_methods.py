"""Each method against its definition in float64, against mergekit, and at its ends to the bit."""

import math

import pytest
import torch

from wings.errors import WingsError
from wings.merge import chunks
from wings.merge.methods.method import Values
from wings.merge.methods.registry import OF_MERGEKIT, OWN, find_method

SHAPE = (23, 7)


@pytest.fixture(autouse=True)
def small_chunks(monkeypatch):
    """Chunks that cut a tensor several times, at places that are no whole rows."""
    monkeypatch.setattr(chunks, "CHUNK", 50)


def tensors(count, dtype=torch.float32, seed=0):
    """A base and children that moved from it by different amounts."""
    generator = torch.Generator().manual_seed(seed)
    base = torch.randn(SHAPE, generator=generator)
    children = [
        base + torch.randn(SHAPE, generator=generator) * 0.01 * (1 + n) for n in range(count)
    ]
    return base.to(dtype), [child.to(dtype) for child in children]


def merged(name, base, children, per_child=(), base_values=None, **shared):
    method = find_method(name)
    own = [{} for _ in children]
    for parameter in method.parameters:
        if parameter.per_model:
            given = dict(per_child).get(parameter.name, parameter.default)
            for n, values in enumerate(own):
                values[parameter.name] = given[n] if isinstance(given, list) else given
        else:
            shared.setdefault(parameter.name, parameter.default)
    values = Values(shared, own, base_values or {})
    method.validate(values)
    run = method.prepare("model.layers.0.x", base, children, values)
    wide = chunks.compute_dtype([base, *children])
    parts = [
        run(base.reshape(-1)[p].to(wide), [c.reshape(-1)[p].to(wide) for c in children], p)
        for p in chunks.chunks(base.numel())
    ]
    return torch.cat(parts).reshape(base.shape)


def largest(move, density):
    """The definition: keep the share of the largest elements, by an order of all of them."""
    kept = max(1, int(density * move.numel())) if density > 0 else 0
    order = move.abs().flatten().sort(descending=True, stable=True).indices[:kept]
    result = torch.zeros_like(move).flatten()
    result[order] = move.flatten()[order]
    return result.reshape(move.shape)


def test_linear_is_the_average_of_its_definition():
    base, children = tensors(2)
    found = merged("linear", base, children, {"weight": [0.3, 0.25]})
    expected = 0.45 * base.double() + 0.3 * children[0].double() + 0.25 * children[1].double()
    assert torch.allclose(found.double(), expected, atol=1e-6)


@pytest.mark.parametrize("weight", [-1.5, -0.3, 0.4, 1.7])
@pytest.mark.parametrize("density", [0.0, 0.001, 0.2, 0.77, 1.0])
@pytest.mark.parametrize("start", ["base", "child"])
def test_task_arithmetic_adds_and_takes_back_the_largest_moves(start, density, weight):
    base, (child,) = tensors(1)
    found = merged(
        "task_arithmetic", base, [child], {"weight": weight, "density": density}, start=start
    )
    before, after = base.double(), child.double()
    first = before if start == "base" else after
    expected = first + weight * largest((child - base).double(), density)
    assert torch.allclose(found.double(), expected, atol=1e-6)


def test_taking_all_moves_back_gives_the_language_model_to_the_bit():
    base, (child,) = tensors(1, torch.bfloat16)
    found = merged("task_arithmetic", base, [child], {"weight": -1.0}, start="child")
    assert torch.equal(found.bfloat16(), base)
    some = merged(
        "task_arithmetic", base, [child], {"weight": -1.0, "density": 0.3}, start="child"
    ).bfloat16()
    back, kept = some == base, some == child
    assert bool((back | kept).all()) and bool(kept.any()) and bool((back & ~kept).any())


def test_of_equal_moves_as_many_are_kept_as_the_density_says():
    base = torch.zeros(SHAPE)
    child = torch.ones(SHAPE)
    child[0] = -2
    found = merged("task_arithmetic", base, [child], {"weight": 1.0, "density": 0.5})
    assert int((found != 0).sum()) == int(0.5 * base.numel())
    assert torch.equal(found[0], child[0])


@pytest.mark.parametrize("a0", [0.0, 0.5, 0.9, 1.0])
@pytest.mark.parametrize("temperature", [0.0, 20.0, 1000.0])
def test_weighted_is_the_softmax_of_the_mean_moves(a0, temperature):
    base, children = tensors(3)
    found = merged("weighted", base, children, a0=a0, temperature=temperature)
    shifts = [float((base - child).abs().double().mean()) for child in children]
    powers = [math.exp(temperature * (shift - max(shifts))) for shift in shifts]
    mixed = sum(p / sum(powers) * c.double() for p, c in zip(powers, children, strict=True))
    expected = a0 * base.double() + (1 - a0) * mixed
    assert torch.allclose(found.double(), expected, atol=1e-6)


ENDS = {
    "linear": ({"weight": 0.0}, {"weight": 1.0}),
    "task_arithmetic": ({"weight": 0.0}, {"weight": 1.0}),
    "ties": ({"weight": 0.0}, {"weight": 1.0}),
    "weighted": ({"a0": 1.0}, {"a0": 0.0}),
}


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16, torch.float64])
@pytest.mark.parametrize("name", OWN)
def test_the_ends_are_the_language_model_and_the_child_to_the_bit(name, dtype):
    base, (child,) = tensors(1, dtype)
    # The sign of zero is a bit too.
    base.view(-1)[:4] = torch.tensor([0.0, -0.0, 1.0, -1.0])
    child.view(-1)[:4] = torch.tensor([-0.0, 0.0, -0.0, 0.0])
    for values, expected in zip(ENDS[name], (base, child), strict=True):
        shared = values if "a0" in values else {}
        found = merged(name, base, [child], {} if shared else values, **shared).to(dtype)
        assert torch.equal(found.view(torch.uint8), expected.view(torch.uint8)), values


@pytest.mark.parametrize(
    ("name", "values", "shared", "said"),
    [
        ("linear", {"weight": [0.7, 0.6]}, {}, "add up to 1.3"),
        ("task_arithmetic", {"weight": 1.0}, {"start": "child"}, "there are several"),
    ],
)
def test_values_that_do_not_go_together_are_refused(name, values, shared, said):
    base, children = tensors(2)
    with pytest.raises(WingsError, match=said):
        merged(name, base, children, values, **shared)


# mergekit ---------------------------------------------------------------------------------------


def theirs(name, base, children, **parameters):
    from mergekit.merge_methods import merge_tensors

    return merge_tensors([base, *children], name, base_index=0, parameters=parameters)


@pytest.fixture
def mergekit():
    return pytest.importorskip("mergekit", reason="mergekit is not installed")


@pytest.mark.parametrize("weights", [[0.5, 0.3], [0.0, 1.0], [0.2, 2.5]])
@pytest.mark.parametrize("normalize", [True, False])
def test_linear_agrees_with_mergekit(weights, normalize, mergekit):
    base, children = tensors(2)
    own = merged(
        "linear", base, children, {"weight": weights}, {"weight": 0.4}, normalize=normalize
    )
    expected = theirs("linear", base, children, weight=[0.4, *weights], normalize=normalize)
    assert torch.allclose(own, expected, atol=1e-6)


@pytest.mark.parametrize("weights", [[0.5, 0.3], [-0.7, 1.0], [1.0, -1.0], [0.0, 0.4]])
@pytest.mark.parametrize("normalize", [True, False])
@pytest.mark.parametrize("scale", [1.0, 0.6])
def test_task_arithmetic_agrees_with_mergekit(weights, normalize, scale, mergekit):
    base, children = tensors(2)
    shared = {"normalize": normalize, "lambda": scale}
    own = merged("task_arithmetic", base, children, {"weight": weights}, **shared)
    expected = theirs(
        "task_arithmetic", base, children, weight=dict(enumerate(weights, 1)), **shared
    )
    assert torch.allclose(own, expected, atol=1e-5)


@pytest.mark.parametrize("weights", [[1.0], [-0.5], [0.5, 0.3], [-0.7, 1.0], [1.0, 0.0, 0.4]])
@pytest.mark.parametrize("density", [0.0, 0.001, 0.2, 0.77, 1.0])
@pytest.mark.parametrize("normalize", [True, False])
def test_ties_agrees_with_mergekit(weights, density, normalize, mergekit):
    base, children = tensors(len(weights))
    densities = [min(1.0, density * (1 + n)) for n in range(len(weights))]
    shared = {"normalize": normalize, "lambda": 0.8}
    own = merged("ties", base, children, {"weight": weights, "density": densities}, **shared)
    expected = theirs(
        "ties",
        base,
        children,
        weight=dict(enumerate(weights, 1)),
        density=dict(enumerate(densities, 1)),
        **shared,
    )
    assert torch.allclose(own, expected, atol=1e-5)


def test_the_list_of_mergekits_methods_is_that_of_mergekit(mergekit):
    from wings.upstream.mergekit import mergekit_methods

    assert set(OF_MERGEKIT) == set(mergekit_methods()) - set(OWN)


@pytest.mark.parametrize(
    ("name", "values", "shared"),
    [
        ("slerp", {}, {"t": 0.3}),
        ("dare_ties", {"weight": 0.5, "density": 0.5}, {}),
        ("nearswap", {}, {"t": 0.002}),
        ("model_stock", {}, {}),
    ],
)
def test_other_methods_are_mergekits_and_the_same_in_every_run(name, values, shared, mergekit):
    count = 2 if name == "model_stock" else 1
    base, children = tensors(count)
    own = merged(name, base, children, values, **shared)
    assert torch.equal(own, merged(name, base, children, values, **shared))
    assert own.shape == base.shape and not torch.equal(own, base)
    if name in ("slerp", "nearswap", "model_stock"):
        assert torch.equal(own, theirs(name, base, children, **shared))


def test_a_method_of_mergekit_names_the_extra_where_it_is_missing(monkeypatch):
    import sys

    monkeypatch.setitem(sys.modules, "mergekit", None)
    with pytest.raises(WingsError, match=r'pip install "wings-lorra\[mergekit\]"'):
        find_method("slerp")
    with pytest.raises(WingsError, match=r"no merge method 'linaer' \(did you mean 'linear'\?\)"):
        find_method("linaer")
