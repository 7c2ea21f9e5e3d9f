"""Text after an image while training: its figures, its early stop, and fixed questions."""

import json
from pathlib import Path

import pytest
import torch
from faults import killed_at
from processors import ask
from safetensors.torch import load_file

from wings.model.causal_lm import WingsForCausalLM
from wings.processing.processor import WingsProcessor
from wings.train.data.after_item import TextAfterItem, choose_conversations
from wings.train.data.dataset import ConversationDataset
from wings.train.data.text_turns import TextExchanges
from wings.train.recipe import DataSource, EarlyStop, Evaluate, HeldOutSource, TextTurns
from wings.train.run import train

NAME = "text_after_image"
QUICK = {"projector": 1e-2, "image_learners": 1e-2, "text_learners": 1e-2}
FROZEN = {"freeze_llm": True, "wings": {"router": None}, "learning_rates": QUICK}


def pairs(recipe, held_out=None):
    """The samples of the evaluation, chosen again from the recipe."""
    processor = WingsProcessor.from_pretrained(recipe.start)
    training = ConversationDataset.of(recipe, processor)
    count = recipe.evaluate.text_after_image
    found = choose_conversations(held_out, training, count, recipe.seed)
    return TextAfterItem(found, count, processor, recipe.max_length, bool(recipe.freeze_llm))


@torch.no_grad()
def by_definition(data, model):
    """(loss, KL) over all tokens of the last answers, pair by pair, from whole logits."""
    loss = kl = tokens = 0
    for sample in data:
        after = sample["labels"][1:] != -100
        logits = model(sample["input_ids"][None], pixel_values=sample["pixel_values"]).logits
        found = logits[0, :-1][after].double().log_softmax(-1)
        answer = sample["input_ids"][1:][after]
        loss -= found.gather(1, answer[:, None]).sum().item()
        tokens += len(answer)
        words = sample["base_inputs"]
        places = words["labels"][1:] != -100
        assert torch.equal(words["input_ids"][1:][places], answer)
        llm = model.extract_language_model().float()
        expected = llm(words["input_ids"][None]).logits[0, :-1][places].double().log_softmax(-1)
        kl += (expected.exp() * (expected - found)).sum().item()
    return loss / tokens, kl / tokens


def test_loss_and_kl_are_those_of_the_definition(make_recipe):
    recipe = make_recipe("instruct", evaluate=Evaluate(text_after_image=5, answers=0), **FROZEN)
    result = train(recipe)
    data = pairs(recipe)
    assert len(data) == 5
    # Every step, as a tenth of four is less than one.
    assert [entry["step"] for entry in result.evaluations] == [0, 1, 2, 3, 4]
    model = WingsForCausalLM.from_pretrained(result.folder, dtype=torch.float32)
    loss, kl = by_definition(data, model)
    last = result.evaluations[-1]
    assert last[f"eval/{NAME}/loss"] == pytest.approx(loss, rel=1e-4)
    assert last[f"eval/{NAME}/kl"] == pytest.approx(kl, rel=1e-3) and kl > 1e-3
    # By the definition of the pairs the LLM reads no image.
    for sample in data:
        assert "pixel_values" in sample and "pixel_values" not in sample["base_inputs"]
        assert len(sample["base_inputs"]["input_ids"]) < len(sample["input_ids"])


def test_held_out_records_are_used_where_there_are_some(make_recipe, data, tmp_path):
    lines = (data / "text.jsonl").read_text().splitlines()
    turns = [{"from": "human", "value": "held?"}, {"from": "gpt", "value": "out"}]
    (tmp_path / "held.jsonl").write_text(json.dumps({"conversations": turns}) + "\n" + lines[0])
    source = HeldOutSource(str(tmp_path / "held.jsonl"), limit=1, name="text")
    recipe = make_recipe("instruct", evaluate=Evaluate([source], 4), **FROZEN)
    held_out = ConversationDataset([source], None)
    found = choose_conversations(held_out, ConversationDataset.of(recipe, None), 24, 0)
    assert [text[0]["content"][0]["text"] for text in found.texts] == ["held?"]
    assert len(found.items) == 16
    assert set(train(recipe).evaluations[0]) >= {"eval/text/loss", f"eval/{NAME}/kl"}


@pytest.mark.parametrize("only", ["pictures.json", "text.jsonl"])
def test_without_both_kinds_nothing_is_evaluated(make_recipe, data, only):
    source = DataSource(str(data / only), str(data))
    result = train(make_recipe("instruct", data=[source], evaluate=Evaluate()))
    assert result.evaluations == [] and not (result.folder / "answers.jsonl").exists()


def test_a_trained_llm_has_no_kl(make_recipe):
    result = train(make_recipe("instruct", evaluate=Evaluate(every=4)))
    assert f"eval/{NAME}/kl" not in result.evaluations[0]
    assert f"eval/{NAME}/rise" in result.evaluations[0]


def test_a_run_whose_text_after_images_collapses_is_stopped_by_default(
    make_recipe, make_model, data, tmp_path, capsys
):
    """The LLM is frozen and guarded: text alone stays exact while text after an image falls."""
    model, processor = make_model(router=None, text_guard=True)
    with torch.no_grad():
        # A fresh head is nearly uniform, so nothing could fall.
        model.lm_head.weight *= 20
    model.save_pretrained(tmp_path / "start")
    processor.save_pretrained(tmp_path / "start")
    records = json.loads((data / "pictures.json").read_text())
    for record in records:
        for turn in record["conversations"]:
            turn["value"] = "Z" * 9 if turn["from"] == "gpt" else turn["value"]
    (tmp_path / "odd.json").write_text(json.dumps(records))
    sources = [
        DataSource(str(tmp_path / "odd.json"), str(data)),
        DataSource(str(data / "text.jsonl")),
    ]
    held_out = HeldOutSource(str(data / "text.jsonl"), name="text")
    recipe = make_recipe(
        "instruct", start=str(tmp_path / "start"), data=sources, steps=60, warmup_ratio=0.0,
        freeze_llm=True, learning_rates=dict.fromkeys(QUICK, 0.1), evaluate=Evaluate([held_out]),
    )  # fmt: skip
    result = train(recipe)
    first, last = result.evaluations[0], result.evaluations[-1]
    assert result.steps < 60 and "the loss on text_after_image rose by" in result.stopped
    assert "stop: false turns it off" in result.stopped
    assert last[f"eval/{NAME}/rise"] > 1 and last[f"eval/{NAME}/kl"] > first[f"eval/{NAME}/kl"]
    assert last["eval/text/rise"] == 0
    said = capsys.readouterr().out
    assert "evaluating text (8 records), text_after_image (16 records) every 12 steps" in said
    assert "ends if the loss on text_after_image rises by more than 1 nats" in said
    assert result.stopped in " ".join(said.split())
    assert f"text after an image is {last[f'eval/{NAME}/kl']:.2f} nats per token from" in said


@pytest.mark.parametrize(
    ("changes", "warns"),
    [
        ({"freeze_llm": True, "wings": {"router": None, "text_guard": True}}, True),
        ({"freeze_llm": True, "wings": {"learners": ["image"], "router": None}}, True),
        ({"freeze_llm": True, "wings": {"router": None}}, False),
        (
            {"freeze_llm": True, "wings": {"prefix_length": 2, "router": None, "text_guard": True}},
            False,
        ),
        ({"lora": {"rank": 2}, "wings": {"router": None, "text_guard": True}}, False),
        ({"lora": {"rank": 2, "guard": True}, "wings": {"learners": ["image"]}}, True),
        ({}, False),
    ],
)
def test_a_stop_that_cannot_end_the_run_is_named(make_recipe, data, capsys, changes, warns):
    source = HeldOutSource(str(data / "text.jsonl"), name="text")
    stop = Evaluate([source], 2, 0, 0, EarlyStop("text", 0.1))
    result = train(make_recipe("instruct", steps=2, evaluate=stop, **changes))
    said = capsys.readouterr().out
    assert ("warning: evaluate.stop cannot end the run" in said) == warns
    if warns:
        assert result.evaluations[-1]["eval/text/rise"] == 0


@pytest.mark.parametrize("size", [4, 9, 40])
@pytest.mark.parametrize("wanted", [0, 1, 3, 24])
def test_texts_of_the_evaluation_are_never_trained_on(tmp_path, size, wanted):
    lines = [{"messages": [{"role": "user", "content": f"q{n}"}, {"role": "assistant",
              "content": f"a{n}"}]} for n in range(size)]  # fmt: skip
    (tmp_path / "t.jsonl").write_text("\n".join(map(json.dumps, lines)))
    exchanges = TextExchanges(TextTurns(str(tmp_path / "t.jsonl"), 1.0), 0, wanted)
    chosen = [text[1]["content"][0]["text"] for text in exchanges.evaluated_texts(24)]
    count = min(wanted, size // 5)
    # Of a file that is too small for any, all are evaluated and trained on.
    assert len(chosen) == len(set(chosen)) == (count or min(size, 24))
    aside = chosen if count else []
    picture = [{"role": "user", "content": [{"type": "image", "image": "a.png"}]},
               {"role": "assistant", "content": [{"type": "text", "text": "x"}]}]  # fmt: skip
    drawn = {exchanges.after(n, picture)[1]["content"][0]["text"] for n in range(40 * size)}
    assert not drawn & set(aside) and len(drawn) == size - len(aside)


def answers(folder):
    return [json.loads(line) for line in (Path(folder) / "answers.jsonl").read_text().splitlines()]


def test_fixed_questions_are_answered_as_the_finished_model_answers(make_recipe, tmp_path):
    settings = {"steps": 6, "save_every": 2, "trackers": ["tensorboard"], **FROZEN,
                "evaluate": Evaluate(every=2, text_after_image=3, answers=2)}  # fmt: skip
    whole = train(make_recipe("instruct", output=str(tmp_path / "whole"), **settings))
    lines = answers(whole.folder)
    kinds = ["image", "image", "text", "text", "text after image", "text after image"]
    assert [line["kind"] for line in lines] == kinds * 4
    assert [line["step"] for line in lines] == [step for step in (0, 2, 4, 6) for _ in range(6)]
    assert all(line["expected"] for line in lines)
    model = WingsForCausalLM.from_pretrained(whole.folder, dtype=torch.float32)
    processor = WingsProcessor.from_pretrained(whole.folder)
    for line in lines[-4:-2]:
        batch = ask(processor, [{"role": "user", "content": line["question"]}])
        output = model.generate(**batch, max_new_tokens=32, do_sample=False)
        said = processor.decode(output[0, batch["input_ids"].shape[1] :], skip_special_tokens=True)
        assert line["answer"] == said
    # A kill after an evaluation and before its checkpoint leaves no answer twice.
    recipe = make_recipe("instruct", **settings)
    with killed_at(3):
        train(recipe)
    again = train(recipe)
    assert answers(again.folder) == lines and again.evaluations == whole.evaluations
    assert all(
        torch.equal(tensor, load_file(again.folder / "model.safetensors")[name])
        for name, tensor in load_file(whole.folder / "model.safetensors").items()
    )


def test_tensorboard_shows_the_answers(make_recipe):
    accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    evaluate = Evaluate(every=4, text_after_image=2, answers=1)
    result = train(make_recipe("instruct", trackers=["tensorboard"], evaluate=evaluate, **FROZEN))
    events = accumulator.EventAccumulator(str(result.folder / "tensorboard")).Reload()
    assert len(events.Images("answers/0 image")) == 1
    for number, kind in enumerate(["image", "text", "text after image"]):
        assert len(events.Tensors(f"answers/{number} {kind}/text_summary")) == 2
    assert [event.step for event in events.Scalars(f"eval/{NAME}/kl")] == [0, 4]
