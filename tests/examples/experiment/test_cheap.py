"""The study `cheap`: its rule, the measurement of costs, and its page."""

import json
from dataclasses import replace

import pytest
import torch
from experiment_runs import LLM, SIZE, everything, mean, rows_of, value_of
from transformers import AutoModelForCausalLM

from wings.examples.experiment import cost
from wings.examples.experiment.cells import BY_KEY, CHEAP, FIRST
from wings.examples.experiment.cheap import CheapRow, winner
from wings.examples.experiment.cheap_page import write_cheap_page
from wings.examples.experiment.cost import (
    MEASURED,
    alternate,
    costed_model,
    measure_cost,
    one_image,
    orders,
    ratios,
)
from wings.examples.experiment.runs import percent
from wings.examples.quickstart.jobs import ASSETS

TOWER = {"image_size": 28, "patch_size": 14, "width": 16, "layers": 2, "head_width": 8}
SMALL = ("learner-both-attended", "both-third-16-shared", "lora-both-attended")


def small(key):
    """A cell for a model of few blocks."""
    cell = BY_KEY[key]
    wings = dict(cell.stage_2["wings"])
    if wings["learners"]:
        wings |= {"learner_layers": [0], "rank": 4}
    return replace(cell, stage_2={**cell.stage_2, "wings": wings})


@pytest.fixture(scope="module")
def llm():
    return AutoModelForCausalLM.from_pretrained(ASSETS / "llm", dtype=torch.float32).eval()


@pytest.mark.parametrize("key", SMALL)
def test_a_costed_model_is_the_cells_on_the_weights_of_the_llm(key, llm):
    model = costed_model(small(key), llm, TOWER)
    own = dict(llm.named_parameters())
    shared = {p.data_ptr() for p in model.parameters()} & {p.data_ptr() for p in own.values()}
    assert len(shared) == len({p.data_ptr() for p in own.values()})
    wings = BY_KEY[key].stage_2["wings"]
    assert model.config.learners == tuple(wings["learners"])
    assert model.config.share_factors == wings.get("share_factors", False)
    assert (model.config.lora is not None) == (key == "lora-both-attended")
    # Its branch acts: the logits after the image are not the LLM's on the same embeddings.
    row = one_image(model, 24)
    with torch.no_grad():
        changed = model(**row).logits
        for name, group in model.parameter_groups().items():
            if name in ("image_learners", "text_learners", "lora"):
                for parameter in group:
                    parameter.zero_()
        plain = model(**row).logits
    assert not torch.allclose(changed[:, -1], plain[:, -1], atol=1e-4)
    assert torch.allclose(changed[:, : cost.BEFORE], plain[:, : cost.BEFORE], atol=1e-5)


def test_costs_are_ratios_of_rounds_that_alternate(llm, monkeypatch):
    cells = [small(key) for key in SMALL]
    found = measure_cost(llm, cells, lengths=(20, 24), rounds=2, tower=TOWER)
    assert set(found) == {"20", "24"}
    for at in found.values():
        assert set(at) == {"again", *SMALL}
        assert all(0 < low <= median <= high for median, low, high in at.values())
    # Every call once a round, and each as often before another as after it.
    calls = []
    seconds = alternate({n: lambda n=n: calls.append(n) for n in "abc"}, 4)
    assert calls[:3] == list("abc") and {n: len(s) for n, s in seconds.items()} == {
        "a": 4, "b": 4, "c": 4
    }  # fmt: skip
    rounds = [calls[n : n + 3] for n in range(3, 15, 3)]
    assert rounds[0] == rounds[1][::-1] and rounds[2] == rounds[3][::-1]
    assert all(sorted(order) == list("abc") for order in rounds)
    first = orders("abc")
    assert [next(first) for _ in range(4)] == rounds
    assert ratios([2.0, 3.0, 8.0], [1.0, 1.0, 2.0]) == [3.0, 2.5, 3.5]


def row(key, pictures, text, cost, seeds=3):
    return CheapRow(key, pictures, text, cost, seeds)


def test_the_rule_asks_for_text_then_pictures_then_cost():
    rows = [
        row("dear", 60.0, 99.0, 1.40),
        row("cheap", 58.5, 96.0, 1.05),
        row("cheapest", 57.9, 99.0, 1.01),  # more than two points of pictures below
        row("forgets", 70.0, 94.9, 1.00),
    ]
    keys = [one.key for one in rows]
    assert winner(rows, keys, 3, 95).key == "cheap"
    # Costs that differ by less than 0.01 are equal, and then pictures decide.
    near = [*rows, row("near", 59.0, 95.0, 1.059)]
    assert winner(near, [*keys, "near"], 3, 95).key == "near"
    apart = [*rows, row("near", 59.0, 95.0, 1.061)]
    assert winner(apart, [*keys, "near"], 3, 95).key == "cheap"
    # If no row keeps the text, those within a point of the best stay.
    assert winner(rows, keys, 3, 100).key == "dear"
    # Nothing wins before every row has all seeds and a cost.
    assert winner(rows[:-1], keys, 3, 95) is None
    assert winner([*rows[:-1], row("forgets", 1, 1, 2, seeds=2)], keys, 3, 95) is None
    assert winner([*rows[:-1], row("forgets", 1, 1, None)], keys, 3, 95) is None


def some_cost():
    keys = ["again", *(cell.key for cell in MEASURED)]
    at = {
        str(length): {key: [1 + n / 50, 1.0, 2.0] for n, key in enumerate(keys)}
        for length in (1024, 2048)
    }
    about = {"device": "a machine", "threads": 1, "dtype": "float32", "rounds": 8, "torch": "2",
             "command": "python", "date": "2026-11-30", "commit": "a" * 40}  # fmt: skip
    return {**about, "ratios": at}


def test_the_page_of_costs_is_that_of_the_runs(tmp_path):
    (tmp_path / "llm.json").write_text(json.dumps(LLM))
    write_cheap_page(tmp_path, [], SIZE)
    assert "No row wins yet" in (tmp_path / "cheap.md").read_text()
    _, done = everything(tmp_path, cells=[*CHEAP, FIRST[5]])
    write_cheap_page(tmp_path, done, SIZE)
    page = (tmp_path / "cheap.md").read_text()
    assert "No row wins yet" in page and "not measured yet" in page and "Not done" not in page
    costs = some_cost()
    (tmp_path / "cost.json").write_text(json.dumps(costs))
    write_cheap_page(tmp_path, done, SIZE)
    page = (tmp_path / "cheap.md").read_text()
    header, table = rows_of(page, "row | pictures")
    figures = []
    for cell in MEASURED:
        records = [r.record for r in done if r.run.part == "run" and r.run.cell == cell.key]
        shown = dict(zip(header[1:], table[cell.name], strict=True))
        pictures = mean(percent(r["scores"]["pictures"]) for r in records)
        assert value_of(shown["pictures"]) == pytest.approx(pictures, abs=0.06)
        text = mean(
            100 * sum(map(sum, r["scores"]["mixed"].values()))
            / sum(map(sum, LLM["test"]["scores"]["mixed"].values()))
            for r in records
        )  # fmt: skip
        assert value_of(shown["text after"]) == pytest.approx(text, abs=0.06)
        ratio = costs["ratios"]["1024"][cell.key][0]
        assert value_of(shown["cost at 1,024"]) == pytest.approx(ratio, abs=0.006)
        assert shown["seeds"] == "3"
        if cell in CHEAP:
            figures.append(row(cell.key, pictures, text, ratio))
    best = winner(figures, [cell.key for cell in CHEAP], 3, 95)
    assert f"**{BY_KEY[best.key].name}** wins by the rule" in page
