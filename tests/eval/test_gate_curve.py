"""Gates on a finished model: what is chosen, learners off in the last turn, and files."""

import csv

import pytest
import torch
from tiny import tiny_model

from wings.errors import WingsError
from wings.eval.fingerprint import model_fingerprint
from wings.eval.gates.gate_curve import GateCurve, GateResult, measure_curve
from wings.eval.gates.gate_setting import GateSetting, all_settings, has_gate, validate_can_be_gated
from wings.eval.gates.text_turns_off import (
    answers_with_last_turn_off,
    last_turn,
    learners_off_from,
)
from wings.eval.generate import answer_items, encode
from wings.eval.items import Item
from wings.eval.models import EvalModel
from wings.eval.scoring.accuracy import Accuracy
from wings.layers.router import AttendedRouter


def result(gate, value, text, pictures):
    return GateResult(
        GateSetting(gate, value),
        {"a": Accuracy(text, 200), "b": Accuracy(0, 200)},
        {"c": Accuracy(pictures, 200)},
    )


CURVE = [
    result("none", None, 100, 150),  # 75.0% of pictures
    result("off", None, 200, 150),
    result("tanh", 8.0, 160, 147),
    result("tanh", 4.0, 170, 146),  # 73.0: the fewest that 2 points allow
    result("tanh", 2.0, 180, 145),
    result("hill", 0.1, 170, 147),
]


@pytest.mark.parametrize(
    ("keep", "chosen"),
    [(2.0, "hill, tau 0.1"), (1.5, "hill, tau 0.1"), (2.5, "tanh, gain 2"), (0.0, "no gate")],
)
def test_the_most_text_of_those_that_keep_the_pictures_is_chosen(keep, chosen):
    curve = GateCurve(CURVE, keep)
    assert curve.chosen.setting.name == chosen
    assert GateCurve(CURVE[:-1], 2.0).chosen.setting.name == "tanh, gain 4"
    assert curve.question_floor == 75.0 - keep


def test_the_floor_is_that_of_the_better_of_ungated_and_saved():
    saved = result("saved", None, 120, 160)
    assert GateCurve([saved, *CURVE], 2.0).question_floor == 78.0
    assert GateCurve([saved, *CURVE], 2.0).chosen.setting.name == "as saved"


def test_equal_ones_are_told_apart_by_pictures_and_then_by_openness():
    rows = [result("none", None, 1, 100), result("tanh", 8.0, 9, 99), result("tanh", 4.0, 9, 99)]
    assert GateCurve(rows, 2.0).chosen.setting.value == 8.0
    rows.append(result("hill", 0.1, 9, 100))
    assert GateCurve(rows, 2.0).chosen.setting.name == "hill, tau 0.1"


def test_files_hold_every_setting_once(tmp_path):
    curve = GateCurve(CURVE, 2.0)
    curve.write_csv(tmp_path / "gate.csv")
    with (tmp_path / "gate.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["gate"] for row in rows] == [one.setting.gate for one in CURVE]
    assert [row["chosen"] for row in rows] == ["0", "0", "0", "0", "0", "1"]
    assert float(rows[2]["text_after_image"]) == 40.0 and float(rows[2]["pictures"]) == 73.5
    document = curve.to_dict()
    assert document["chosen"] == {"gate": "hill", "value": 0.1}
    assert document["results"][0]["text_after_image"]["kinds"]["b"]["right"] == 0


@pytest.fixture
def seeing(picture):
    """A tiny model whose learners matter, and conversations about text and pictures."""
    model, processor = tiny_model(router=None, text_guard=True)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if ".wings." in name or "projector" in name:
                parameter.add_(torch.randn_like(parameter) * 0.3)
    shown = {"role": "user", "content": [
        {"type": "image", "image": picture}, {"type": "text", "text": "Which?"},
    ]}  # fmt: skip
    said = {"role": "assistant", "content": "red"}
    text = [
        Item("sums", (shown, said, {"role": "user", "content": f"{n}+{'1' * n}?"}), f"{n + 1}")
        for n in range(1, 5)
    ]
    pictures = [Item("pictures", (shown,), "red")] * 2
    fingerprint = model_fingerprint(model, processor)
    return EvalModel("tiny", "wings", model.eval(), processor, fingerprint), text, pictures


def test_the_last_turn_begins_after_the_last_answer(seeing):
    model, text, pictures = seeing
    ids = encode(model.processor, [list(text[0].messages)])["input_ids"][0]
    start = last_turn(model.processor, text[0])
    assert model.tokenizer.decode(ids[start:]).startswith("<|user|>1+1?")
    assert last_turn(model.processor, pictures[0]) == 0


@torch.no_grad()
def test_learners_act_before_a_position_and_nowhere_after_it(seeing):
    one, text, _ = seeing
    model = one.model
    batch = encode(one.processor, [list(item.messages) for item in text])
    starts = torch.tensor([last_turn(one.processor, item) for item in text])
    padding = (batch["attention_mask"] == 0).sum(1)
    with learners_off_from(model, starts):
        off = model(**batch, output_router_weights=True)
    on = model(**batch, output_router_weights=True)
    for row, first in enumerate((padding + starts).tolist()):
        for mine, free in zip(off.router_weights, on.router_weights, strict=True):
            assert torch.equal(mine[row, :first], free[row, :first])
            assert not mine[row, first:].any() and free[row, first:].any()
        assert torch.equal(off.logits[row, :first], on.logits[row, :first])
        assert not torch.equal(off.logits[row, first:], on.logits[row, first:])
    # Nothing is left on the model.
    assert torch.equal(model(**batch).logits, on.logits)


@torch.no_grad()
def test_generation_with_the_last_turn_off_is_a_full_pass_with_it_off(seeing):
    """Decoding goes on without learners: token by token equals one pass over everything."""
    one, text, _ = seeing
    answers = answers_with_last_turn_off(one, text, batch_size=2, max_new_tokens=4)
    for item, answer in zip(text, answers, strict=True):
        batch = encode(one.processor, [list(item.messages)])
        start = torch.tensor([last_turn(one.processor, item)])
        for _ in range(4):
            with learners_off_from(one.model, start):
                logits = one.model(**batch, use_cache=False).logits[:, -1]
            new = logits.argmax(-1, keepdim=True)
            if new.item() == one.tokenizer.eos_token_id:
                break
            batch["input_ids"] = torch.cat([batch["input_ids"], new], 1)
            batch["attention_mask"] = torch.ones_like(batch["input_ids"])
        whole = one.tokenizer.decode(batch["input_ids"][0][-4:], skip_special_tokens=True)
        assert whole.endswith(answer) and answer
    free = answer_items(one.model, one.processor, text, max_new_tokens=4)
    assert free != answers


def test_a_curve_is_measured_and_goes_on_from_its_cache(seeing, make_runner):
    one, text, pictures = seeing
    settings = all_settings(False, (8.0, 0.5), (0.2,))
    assert [s.gate for s in settings] == ["none", "off", "tanh", "tanh", "hill"]
    runner = make_runner()
    curve = measure_curve(one, text, pictures, settings, runner, 2.0)
    assert len(curve.results) == 5 and len(curve.results[0].text) == 1
    # Four text items a setting, and one picture item, asked twice, for all but "off".
    assert len(runner.cache.results) == 5 * 4 + 4
    assert curve.results[1].questions == curve.results[0].questions
    routers = [part for part in one.model.modules() if isinstance(part, AttendedRouter)]
    assert [router.values()["image"] for router in routers] == pytest.approx([0.2, 0.2])
    before = dict(runner.cache.results)
    again = measure_curve(one, text, pictures, settings, make_runner(), 2.0)
    assert again.to_dict() == curve.to_dict()
    assert make_runner().cache.results == before


def test_models_that_a_gate_does_not_fit_are_refused():
    for options, said in (
        ({"learners": ()}, "no learners"),
        ({"learners": (), "lora": {"gate": "image_tokens"}}, "no learners and no adapters"),
        ({"learners": (), "lora": {"guard": False}}, "without lora.guard"),
        ({"router": "position", "text_guard": False}, "text learners without text_guard"),
    ):
        model, _ = tiny_model(**options)
        with pytest.raises(WingsError, match=said):
            validate_can_be_gated("it", model)
    for options in (
        {"router": "attended", "text_guard": False},
        {"router": None, "text_guard": True},
        {"router": None, "learners": ("image",), "text_guard": False},
        {"learners": (), "lora": {"guard": True}},
    ):
        validate_can_be_gated("it", tiny_model(**options)[0])


@torch.no_grad()
@pytest.mark.parametrize("gate", [None, "attended"])
def test_adapters_are_off_in_the_last_turn_and_get_the_gate(gate, seeing):
    _, text, _ = seeing
    model, processor = tiny_model(learners=(), lora={"rank": 2, "guard": True, "gate": gate})
    model.eval()
    for name, parameter in model.named_parameters():
        if name.endswith("lora_b"):
            parameter.normal_()
    batch = encode(processor, [list(text[0].messages)])
    start = last_turn(processor, text[0])
    on = model(**batch).logits
    with learners_off_from(model, torch.tensor([start])):
        off = model(**batch).logits
    assert torch.equal(off[:, :start], on[:, :start])
    assert not torch.equal(off[:, start:], on[:, start:])
    with learners_off_from(model, torch.tensor([0])):
        nothing = model(**batch).logits
    lora = model.config.lora
    bare = tiny_model(learners=())[0].eval()
    torch.testing.assert_close(nothing, bare(**batch).logits)

    GateSetting("hill", 0.2).put_on(model)
    routers = [part for part in model.modules() if isinstance(part, AttendedRouter)]
    assert [router.values()["lora"] for router in routers] == pytest.approx([0.2] * len(routers))
    assert has_gate(model) and not torch.equal(model(**batch).logits, on)
    GateSetting("none").put_on(model)
    assert not has_gate(model) and model.config.lora == {**lora, "gate": None, "gate_layers": []}
