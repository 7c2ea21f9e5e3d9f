"""`WingsConfig`: every field with values of other types and out of bounds, also from a file."""

import dataclasses
import json

import pytest
from tiny import TEXT, VISION
from transformers import LlamaConfig, PreTrainedConfig

from wings.config import WingsConfig
from wings.config_values import CHECKS
from wings.errors import WingsError

VALUES = [
    None, True, False, 0, 1, 3, -1, 2**40, 10**5000, 2.5, 1e-9, float("nan"), float("inf"),
    float("-inf"), "", "no", "a", "\ud800", [], [1], ["image"], ["image", "image"], [True], [[]],
    (0.5,), {}, {"a": 1}, {"image"}, b"x", object(),
]  # fmt: skip
GOOD = {
    "rank": [1, 3],
    "router": [None],
    "gate_shape": [],
    "gate_power": [1, 3, 2**40, 2.5, 1e-9],
    "gate_detach": [True, False],
    "share_factors": [True, False],
    "learner_form": ["lorra", "cross_attention"],
    "learners": [[], ["image"]],
    "learner_layers": [None, [], [1]],
    "prefix_length": [0, 1, 3],
    "normalize_sources": [True, False],
    "init_std": [1, 3, 2**40, 2.5, 1e-9],
    "projector": [],
    "text_guard": [True, False],
    "image_token_id": [None, 0, 1, 3],
    "image_seq_length": [None, 1, 3],
    "router_positions": [1, 3],
}
# Objects that other tests give, and what the decoder decides.
BY_OTHERS = {"text_config", "vision_config", "tie_word_embeddings", "lora", "other_senses"}


def make(**changes):
    base = {"text_config": LlamaConfig(**TEXT), "vision_config": VISION, "rank": 4}
    return WingsConfig(**{**base, **changes})


def test_every_field_is_looked_at():
    theirs = {field.name for field in dataclasses.fields(PreTrainedConfig)}
    own = {field.name for field in dataclasses.fields(WingsConfig)} - theirs - BY_OTHERS
    assert own <= set(CHECKS), f"no bounds for {sorted(own - set(CHECKS))}"
    assert set(GOOD) <= own


@pytest.mark.parametrize("name", GOOD)
def test_a_value_of_another_type_or_out_of_bounds_is_refused(name):
    for value in VALUES:
        # By letters, because True == 1; huge numbers have none.
        is_good = value != 10**5000 and repr(value) in map(repr, GOOD[name])
        if is_good:
            make(**{name: value})
            continue
        with pytest.raises(WingsError, match=rf"^{name} ") as error:
            make(**{name: value})
        sentence = str(error.value)
        assert len(sentence) < 300 and "\n" not in sentence and sentence.endswith(".")
        sentence.encode()


@pytest.mark.parametrize("name", GOOD)
def test_a_file_is_looked_at_too(tmp_path, name):
    make().save_pretrained(tmp_path)
    fields = json.loads((tmp_path / "config.json").read_text())
    for value in ("no", {"a": 1}, float("nan"), [[]]):
        (tmp_path / "config.json").write_text(json.dumps({**fields, name: value}))
        with pytest.raises(WingsError, match=f"^{name} "):
            WingsConfig.from_pretrained(tmp_path)


@pytest.mark.parametrize(
    "value",
    [
        3, "llama", [], True, {}, {"model_type": 3}, {"model_type": "nope"}, {"model_type": None},
        {"model_type": "llama", "vocab_size": "x"}, {"model_type": "llama", "hidden_size": [1]},
        {"vocab_size": 3},
    ],
)  # fmt: skip
def test_a_decoder_that_is_none_is_refused(value):
    with pytest.raises(WingsError, match=r"^text_config ") as error:
        make(text_config=value)
    assert len(str(error.value)) < 500 and "\n" not in str(error.value)
