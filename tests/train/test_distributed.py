"""Two gloo processes on the CPU: the same curve as one, and no hang."""

import json
import textwrap

import pytest
import yaml
from forked import run_ranks

from wings.train.run import train

# Long enough for two processes to import torch on a busy machine, short enough to name a hang.
HANG = 240


@pytest.fixture
def in_two_processes(tmp_path):
    """A function of recipes: runs them one after the other in two processes, returns the losses."""

    def run(*recipes):
        for n, recipe in enumerate(recipes):
            (tmp_path / f"recipe-{n}.yaml").write_text(recipe.to_yaml())
        (tmp_path / "script.py").write_text(
            textwrap.dedent(
                f"""
                import torch
                from wings.train.recipe import Recipe
                from wings.train.run import train

                for n in range({len(recipes)}):
                    recipe = Recipe.from_yaml(f"recipe-{{n}}.yaml")
                    train(recipe, watch=lambda *call: None)
                torch.distributed.destroy_process_group()
                """
            )
        )
        code, _, errors = run_ranks(2, "script.py", cwd=tmp_path, timeout=HANG)
        assert code == 0, errors[-3000:]
        folders = [tmp_path / recipe.output for recipe in recipes]
        results = [json.loads((folder / "result.json").read_text()) for folder in folders]
        return [[entry["loss"] for entry in result["history"]] for result in results]

    return run


def test_two_processes_give_the_curve_of_one_over_shuffled_epochs(
    make_recipe, in_two_processes, tmp_path
):
    # Rates at which four steps are seen in the loss; 24 samples fill whole batches of 8.
    quick = {"batch_size": 8, "steps": None, "epochs": 2, "learning_rates": {"projector": 1e-2}}
    recipes, expected = [], []
    for name, stage, changes in [
        ("align", "align", {"device_batch_size": 1}),
        ("frozen", "instruct", {"freeze_llm": True, "wings": {"text_guard": True}}),
    ]:
        one = make_recipe(stage, output=str(tmp_path / f"{name}-1"), **quick, **changes)
        recipes.append(make_recipe(stage, output=str(tmp_path / f"{name}-2"), **quick, **changes))
        expected.append(train(one).losses)
    for single, double in zip(expected, in_two_processes(*recipes), strict=True):
        assert len(single) == 6 and single[0] != pytest.approx(single[-1], rel=1e-3)
        assert double == pytest.approx(single, rel=2e-5)


def test_the_command_in_two_processes_counts_what_both_skip(make_recipe, data, tmp_path):
    """Ranks with pictures only and with text only, and a record to skip."""
    recipe = make_recipe("align", batch_size=2, on_bad_record="skip", save_every=2, steps=4)
    values = recipe.to_dict()
    pictures = [json.loads(json.dumps(r)) for r in json.loads((data / "pictures.json").read_text())]
    texts = [json.loads(line) for line in (data / "text.jsonl").read_text().splitlines()]
    pictures[1]["image"] = "gone.png"
    values["data"] = [{"path": "mixed.jsonl", "images": str(data)}]
    values["output"] = "run"
    alternating = [record for pair in zip(pictures, texts, strict=False) for record in pair]
    (tmp_path / "mixed.jsonl").write_text("\n".join(map(json.dumps, alternating)))
    (tmp_path / "r.yaml").write_text(yaml.safe_dump(values))
    command = ("-m", "wings.train", "r.yaml", "steps=8")
    code, printed, errors = run_ranks(2, *command, cwd=tmp_path, timeout=HANG)
    assert code == 0, errors[-3000:]
    # Printed once, not by every process.
    assert printed.count("stage align") == 1 and printed.count("8 steps") == 1
    assert "1 records were skipped" in printed and "gone.png" in printed
    assert (tmp_path / "run" / "checkpoint-8" / "rng_state_1.pth").is_file()
