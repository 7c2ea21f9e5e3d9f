"""`Sweep`: its values, and the recipe at each of them."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from wings.errors import WingsError
from wings.merge.recipe_file import merge_recipe, recipe_fields
from wings.merge.recipe_of_command import recipe_of_command
from wings.merge.sweep import Sweep


@pytest.mark.parametrize(
    ("text", "parameter", "values"),
    [
        ("0,.1,...,1", "weight", [n / 10 for n in range(11)]),
        ("1, 0.75, ..., 0", "weight", [1, 0.75, 0.5, 0.25, 0]),
        ("-1,-.5,...,0.5", "weight", [-1, -0.5, 0, 0.5]),
        (".3", "weight", [0.3]),
        ("density=.1,.2,1", "density", [0.1, 0.2, 1]),
        ("a0=0,.25,...,1", "a0", [0, 0.25, 0.5, 0.75, 1]),
    ],
)
def test_values_are_read(text, parameter, values):
    sweep = Sweep.parse(text)
    assert sweep.parameter == parameter and list(sweep.values) == values


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "'' is no number"),
        ("0,,1", "'' is no number"),
        ("0,a", "'a' is no number"),
        ("0,nan", "'nan' is no number"),
        ("1e999", "is no number"),
        ("0,.1,...", "write two values, ... and the last"),
        ("...,1", "write two values, ... and the last"),
        ("0,.3,...,1", "steps of 0.3 from 0 do not reach 1"),
        ("0,0,...,1", "steps of 0 from 0 do not reach 1"),
        ("0,1e-9,...,1", "do not reach"),
        ("0,-.1,...,1", "do not reach"),
        ("0,.5,0", "a value is given twice"),
        ("a b=1", "name another parameter"),
        ("=1", "name another parameter"),
    ],
)
def test_other_values_are_one_sentence(text, said):
    with pytest.raises(WingsError) as caught:
        Sweep.parse(text)
    message = str(caught.value)
    assert said in message and message.endswith(".") and "\n" not in message


def recipe(method="linear", children=1, weights=(), dtype=None, keep=None, **parameters):
    models = ["LLM", *(f"CHILD{n}" for n in range(children))]
    return recipe_of_command(models, method, list(weights), parameters, dtype, keep)


def of_tensor(recipe, name="model.norm.weight"):
    values = recipe.values(name)
    return dict(values.shared), [dict(one) for one in values.children]


@pytest.mark.parametrize("children", [1, 2, 4])
def test_weights_that_are_not_given_are_divided_among_the_children(children):
    for value, one in zip(
        (0, 0.5, 1), Sweep.parse("0,.5,1").recipes(recipe(children=children)), strict=True
    ):
        assert [c["weight"] for c in of_tensor(one)[1]] == [value / children] * children


def test_values_multiply_what_is_given():
    own = recipe(children=2, weights=(0.2, 0.6))
    (one,) = Sweep.parse(".5").recipes(own)
    assert [c["weight"] for c in of_tensor(one)[1]] == pytest.approx([0.1, 0.3])
    filtered = [{"filter": "mlp", "value": 0.0}, {"filter": "blocks 3-", "value": 1.0}]
    (one,) = Sweep.parse(".5").recipes(recipe(weight=[*filtered, {"value": 0.4}]))
    for tensor, weight in (
        ("model.layers.4.mlp.up_proj.weight", 0),
        ("model.layers.4.self_attn.q_proj.weight", 0.5),
        ("model.layers.2.self_attn.q_proj.weight", 0.2),
    ):
        assert of_tensor(one, tensor)[1][0]["weight"] == pytest.approx(weight)


def test_other_parameters_are_swept():
    own = recipe("task_arithmetic", weights=(-1,), start="child")
    first, second = Sweep.parse("density=.1,.5").recipes(own)
    shared, (child,) = of_tensor(first)
    assert child == {"weight": -1, "density": 0.1} and shared["start"] == "child"
    assert of_tensor(second)[1][0]["density"] == 0.5
    (one,) = Sweep.parse("a0=.25").recipes(recipe("weighted"))
    assert of_tensor(one)[0]["a0"] == 0.25
    (one,) = Sweep.parse("lambda=.25").recipes(recipe("ties", weights=(1,), density=0.2))
    assert of_tensor(one)[0]["lambda"] == 0.25 and of_tensor(one)[1][0]["density"] == 0.2


@pytest.mark.parametrize(
    ("method", "text", "said"),
    [
        ("linear", "wieght=1", "no number 'wieght' .did you mean"),
        ("linear", "normalize=1", "no number 'normalize'"),
        ("task_arithmetic", "start=1", "no number 'start'"),
        ("weighted", "0,1", "no number 'weight'"),
        ("ties", "0,1", "sweep lambda or density"),
        ("linear", "-1,0", "must be a number of 0 or more"),
        ("ties", "density=2", "must be a number from 0 to 1"),
    ],
)
def test_what_has_no_effect_or_no_sense_is_refused(method, text, said):
    with pytest.raises(WingsError, match=said):
        Sweep.parse(text).recipes(recipe(method))


def test_weights_of_a_method_that_divides_them_are_swept_where_it_does_not():
    (one,) = Sweep.parse(".5").recipes(recipe("ties", normalize=False))
    assert of_tensor(one)[1] == [{"weight": 0.5, "density": 1.0}]


@given(
    method=st.sampled_from(["linear", "task_arithmetic", "ties"]),
    children=st.integers(1, 3),
    value=st.floats(0, 1),
    filters=st.lists(st.sampled_from(["mlp", "blocks 2-", "norm"]), unique=True),
    dtype=st.sampled_from([None, "bfloat16"]),
    keep=st.sampled_from([None, "CHILD0"]),
)
def test_a_recipe_is_read_from_what_is_written(method, children, value, filters, dtype, keep):
    given = [{"filter": one, "value": 0.1} for one in filters] + [{"value": 0.2}]
    extra = {} if method == "linear" else {"density": 0.3}
    own = recipe(method, children, dtype=dtype, keep=keep, weight=given, **extra)
    (one,) = Sweep("weight", (value,)).recipes(own) if method != "ties" else (own,)
    again = merge_recipe(recipe_fields(one))
    assert (again.dtype, again.keep) == (dtype, keep)
    assert [c.source for c in again.children] == [c.source for c in one.children]
    for tensor in ("model.layers.2.mlp.up_proj.weight", "model.norm.weight", "lm_head.weight"):
        assert of_tensor(again, tensor) == of_tensor(one, tensor)
