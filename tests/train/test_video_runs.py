"""Recipes on videos: how many frames are taken, and what keeps the number."""

import json

import pytest
from audio_models import tiny_audio
from PIL import Image
from tiny import tiny_tokenizer

from wings.errors import WingsError
from wings.processing.processor import WingsProcessor
from wings.train.build import load_processor
from wings.train.data.dataset import ConversationDataset
from wings.train.recipe import DataSource, ModelNames, Recipe
from wings.train.run import train


@pytest.fixture
def videos(tmp_path):
    """A file of records with videos of five frames."""
    folder = tmp_path / "videos"
    folder.mkdir()
    frames = [f"{n}.png" for n in range(5)]
    for n, name in enumerate(frames):
        Image.new("RGB", (28, 28), (50 * n, 0, 0)).save(folder / name)
    turns = [{"from": "human", "value": "<video>\nWhat?"}, {"from": "gpt", "value": "red"}]
    records = [{"video": frames, "conversations": turns} for _ in range(4)]
    (folder / "v.json").write_text(json.dumps(records))
    return [DataSource(str(folder / "v.json"), str(folder))]


@pytest.mark.parametrize(("sampling", "frames"), [(None, 5), ({"max_frames": 2}, 2)])
def test_a_recipe_says_how_many_frames_are_taken(make_recipe, videos, tmp_path, sampling, frames):
    values = {
        **make_recipe("align", data=videos, max_length=256, steps=1).to_dict(),
        "video_sampling": sampling,
    }
    recipe = Recipe.from_dict(values)
    sample = ConversationDataset.of(recipe, load_processor(recipe))[0]
    assert len(sample["pixel_values"]) == frames
    kept = WingsProcessor.from_pretrained(train(recipe).folder)
    assert kept.video_sampling == (sampling or {})
    # Stage 2 goes on with what its start has.
    later = make_recipe("instruct", start=recipe.output, data=videos, output=str(tmp_path / "b"))
    assert load_processor(later).video_sampling == (sampling or {})


@pytest.mark.parametrize(
    ("sampling", "words"),
    [
        ({"max_frames": 0}, "'max_frames' is 0; it must be a whole number from 1"),
        ({"frames": 3}, "video_sampling.frames: no such key"),
        ({"fps": -1.0}, "'fps' is -1.0; it must be"),
    ],
)
def test_bad_sampling_is_refused(make_recipe, sampling, words):
    values = {**make_recipe("align").to_dict(), "video_sampling": sampling}
    with pytest.raises(WingsError, match=words):
        Recipe.from_dict(values)


def test_a_model_that_does_not_see_takes_no_frames(make_recipe, tmp_path):
    tiny_tokenizer().save_pretrained(tmp_path / "llm")
    names = ModelNames(text=str(tmp_path / "llm"), audio=tiny_audio("whisper"))
    values = make_recipe("align", start=None, model=names).to_dict()
    with pytest.raises(WingsError, match="video_sampling: a video is images, and this model has"):
        load_processor(Recipe.from_dict({**values, "video_sampling": {"max_frames": 2}}))
