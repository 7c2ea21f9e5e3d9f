"""The merges that are measured: names, recipes and questions."""

import pytest

from wings.eval.fronts.questions import PARTS
from wings.examples.merges import questions
from wings.examples.merges.children import QUICKSTART, SEEDS, SMOLLM2, Family
from wings.examples.merges.questions import questions_of
from wings.examples.merges.variants import GROUPS, SWEPT, merges_of, points_of
from wings.output_folder import OutputFolder


@pytest.mark.parametrize("base", [QUICKSTART, SMOLLM2])
@pytest.mark.parametrize("group", GROUPS)
def test_every_merge_has_values_for_every_tensor(base, group, tmp_path):
    folders = {name: tmp_path / name for name in ("full", "gentle", "wings")}
    points = points_of(base, group, tmp_path / "llm", folders)
    assert [point.name for point in points] == [merge.name for merge in merges_of(base, group)]
    assert len({point.name for point in points}) == len(points)
    names = ("model.embed_tokens.weight", "model.layers.3.mlp.up_proj.weight", "lm_head.weight")
    for point in points:
        values = [point.recipe.values(name) for name in names]
        assert len(values[0].children) == (2 if group == "two" else 1)
        table, inner = (value.children[0].get("weight") for value in values[:2])
        assert (table != inner) == ("table" in point.name)
    assert any(SWEPT.fullmatch(point.name) for point in points) == (group != "two")


def test_what_smollm2_is_asked_is_among_what_the_quickstart_is_asked():
    for group in GROUPS:
        short = merges_of(SMOLLM2, group)
        assert set(merge.name for merge in short) < {m.name for m in merges_of(QUICKSTART, group)}
    assert len(SEEDS[QUICKSTART]) == 3


def test_all_seeds_of_the_quickstart_get_the_same_questions(tmp_path, monkeypatch):
    monkeypatch.setattr(questions, "COUNT", 12)
    work = OutputFolder(tmp_path / "work", "wings.examples.merges")
    work.claim()
    one, two = (
        questions_of(work, Family(QUICKSTART, seed, tmp_path, tmp_path, {})) for seed in (21, 22)
    )
    assert one == two and set(one.items) == {"text", "conversations", "pictures"}
    assert all(set(parts) == set(PARTS) for parts in one.parts.values())
