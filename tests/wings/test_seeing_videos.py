"""Videos in messages, texts and records: time stamps and images, as if they were written so."""

import json

import pytest
import torch
from audio_models import tiny_audio
from composites import llava_processor
from PIL import Image
from tiny import VISION, tiny_tokenizer
from videos import level, make_video

from wings import WingsError, WingsProcessor
from wings.processing.image_limits import ImageLimits
from wings.processing.vision_language import encode_conversations
from wings.train.data.dataset import ConversationDataset
from wings.train.data.inspect import BROKEN, MISSING, SurveyDataset
from wings.train.data.lengths import LengthEstimator
from wings.train.recipe import DataSource

BATCH = {"tokenize": True, "return_dict": True, "return_tensors": "pt"}
PADDED = {**BATCH, "processor_kwargs": {"padding": True}}
RED = {"type": "image", "image": Image.new("RGB", (28, 28), "red")}


@pytest.fixture(scope="module")
def processor():
    return WingsProcessor.from_vision_text_pretrained(VISION, tiny_tokenizer())


@pytest.fixture(scope="module")
def file(tmp_path_factory):
    path = tmp_path_factory.mktemp("videos") / "a.mov"
    path.write_bytes(make_video(format="mov", codec="png", pixels="rgb24"))
    return str(path)


def user(*parts):
    parts = [{"type": "text", "text": part} if isinstance(part, str) else part for part in parts]
    return [{"role": "user", "content": parts}]


def seen(number):
    return {"type": "image", "image": Image.new("RGB", (64, 48), (level(number),) * 3)}


def video(source=None, **options):
    return {"type": "video", "video": source, **options}


# Three frames of three seconds.
THREE = ["[0:00.5]", seen(5), "[0:01.5]", seen(15), "[0:02.5]", seen(25)]


def assert_same(first, second):
    assert first.keys() == second.keys()
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_a_video_is_the_stamps_and_images_that_someone_could_write(processor, file):
    by_hand = processor.apply_chat_template(user("a", RED, *THREE, "b"), **BATCH)
    for part in (
        video(file, max_frames=3), video(file, fps=1),
        {"type": "video", "path": file, "fps": 1, "video": None, "max_frames": None},
        {"type": "video_url", "video_url": {"url": file}, "fps": 1.0},
    ):  # fmt: skip
        assert_same(processor.apply_chat_template(user("a", RED, part, "b"), **BATCH), by_hand)
    frames = [seen(n)["image"] for n in (5, 15)]
    listed = ["[0:00.0]", seen(5), "[0:00.5]", seen(15)]
    found, by_hand = (
        processor.apply_chat_template(user(*parts), **BATCH)
        for parts in ([video(frames, fps=2)], listed)
    )
    assert_same(found, by_hand)


def test_labels_are_those_of_the_written_conversation(processor, file):
    answer = [{"role": "assistant", "content": "yes"}]
    found = processor.encode([*user(video(file, fps=1), "b"), *answer])
    assert_same(found, processor.encode([*user(*THREE, "b"), *answer]))
    assert len(found["pixel_values"]) == 3 and (found["labels"] != -100).sum() == 4


def test_videos_may_be_given_apart_and_as_plain_text(processor, file):
    processor.video_sampling = {"fps": 1}
    try:
        rows = [user("a", video()), user(RED, video(), "b", video())]
        by_hand = processor.apply_chat_template(
            [user("a", *THREE), user(RED, *THREE, "b", *THREE)], **PADDED
        )
        assert_same(processor.apply_chat_template(rows, **PADDED, videos=[file] * 3), by_hand)
        nested = processor.apply_chat_template(rows, **PADDED, videos=[[file], [file, file]])
        assert_same(nested, by_hand)
        # As programs of transformers do it: the text of the template, and the sources apart.
        texts = processor.apply_chat_template(rows)
        assert texts[1] == "<|user|><image><video>b<video><|end|>"
        plain = processor(
            text=texts, images=[RED["image"]], videos=[[file], [file, file]], padding=True,
            return_tensors="pt",
        )  # fmt: skip
        assert_same(plain, by_hand)
        alone = processor(images=[RED["image"]], videos=file, return_tensors="pt")
        assert_same(alone, {"pixel_values": by_hand["pixel_values"][3:7]})
    finally:
        processor.video_sampling = {}


@pytest.mark.parametrize(
    ("videos", "words"),
    [
        ([], "has 3 places for a video without a source and 0 videos were given"),
        (["a"], "has 3 places for a video without a source and 1 videos were given"),
        ([["a", "b"], ["c"]], "Row 0 has 1 places for a video .* and 2 videos were given"),
    ],
)
def test_videos_and_their_places_agree(processor, videos, words):
    rows = [user("a", video()), user(video(), "b", video())]
    with pytest.raises(WingsError, match=words):
        processor.apply_chat_template(rows, **PADDED, videos=videos)
    with pytest.raises(WingsError, match=words):
        processor(text=["a<video>", "<video>b<video>"], videos=videos, padding=True)


def test_errors_name_the_row_and_the_source(processor, file):
    with pytest.raises(WingsError, match=r"Row 1: Video 'nowhere.mp4' does not exist"):
        processor.apply_chat_template([user(video(file)), user(video("nowhere.mp4"))], **PADDED)
    with pytest.raises(WingsError, match=r"1 places for an image .* and 0 images were given"):
        processor(text="<image><video>", videos=[file])
    with pytest.raises(WingsError, match="'max_frames' is 0"):
        processor.apply_chat_template(user(video(file, max_frames=0)), **BATCH)
    processor.image_processor.limits = ImageLimits(video_bytes=10)
    try:
        with pytest.raises(WingsError, match="more than video_bytes allows, 10"):
            processor.encode(user(video(file)), add_generation_prompt=True)
    finally:
        processor.image_processor.limits = ImageLimits()


def test_without_videos_nothing_changes(processor):
    """`<video>` that someone typed is text, in messages and in plain texts."""
    plain = processor(text="a<video>b")["input_ids"][0]
    said = processor.apply_chat_template(user("a<video>b"), tokenize=True)[0][1:-1]
    assert processor.decode(plain) == processor.decode(said) == "a<video>b"
    messages = user("a", RED)
    assert processor.video_input.in_messages([messages])[0][0] is messages[0]


def test_the_option_is_saved(processor, file, tmp_path):
    processor.save_pretrained(tmp_path / "plain")
    fields = json.loads((tmp_path / "plain" / "processor_config.json").read_text())
    assert not [name for name in fields if "video" in name]
    processor.video_sampling = {"max_frames": 3}
    processor.save_pretrained(tmp_path / "three")
    processor.video_sampling = {}
    again = WingsProcessor.from_pretrained(tmp_path / "three")
    assert again.video_sampling == {"max_frames": 3}
    batch = again.apply_chat_template(user(video(file)), **BATCH)
    assert_same(batch, processor.apply_chat_template(user(*THREE), **BATCH))
    with pytest.raises(WingsError, match="'fps' is 0"):
        again.video_sampling = {"fps": 0}
    assert again.video_sampling == {"max_frames": 3}


def test_the_options_of_transformers_are_taken(processor, file):
    by_hand = processor.apply_chat_template(user(*THREE), **BATCH)
    for options in (
        {"num_frames": 3}, {"fps": 1}, {"processor_kwargs": {"videos_kwargs": {"num_frames": 3}}},
        {"processor_kwargs": {"fps": 1.0}},
    ):  # fmt: skip
        found = processor.apply_chat_template(user(video(file)), **BATCH, **options)
        assert_same(found, by_hand)
    plain = processor(text="<video>", videos=[file], videos_kwargs={"fps": 1}, return_tensors="pt")
    assert torch.equal(plain["pixel_values"], by_hand["pixel_values"])
    # As the server of transformers asks; the part's own options come first.
    with pytest.warns(UserWarning, match="The sound of a video is not read; give it as audio"):
        found = processor.apply_chat_template(
            user(video(file, max_frames=3)), **BATCH, num_frames=32, load_audio_from_video=True
        )
    assert_same(found, by_hand)
    with pytest.raises(WingsError, match="'max_frames' is 0"):
        processor(text="<video>", videos=[file], num_frames=0)


def test_lengths_are_known_before_a_video_is_decoded(processor, file):
    for part, count in ((video(file), 8), (video(file, fps=1), 3), (video([1] * 5), 5),
                        (video("nowhere"), 8), (video(file, fps=0), 8)):  # fmt: skip
        assert processor.estimate(part) == count * (processor.image_seq_length + 8)
    batch = processor.apply_chat_template(user(video(file)), **BATCH)
    assert batch["input_ids"].shape[1] == 8 * (processor.image_seq_length + 8) + 2
    assert processor.estimate(RED) == processor.image_seq_length


def test_a_model_that_only_hears_refuses_videos(file):
    ears = WingsProcessor.from_pretrained_parts(text=tiny_tokenizer(), audio=tiny_audio("whisper"))
    with pytest.raises(WingsError, match="has a video, and this model has no encoder for images"):
        ears.apply_chat_template(user(video(file)), **BATCH)
    with pytest.raises(WingsError, match="'videos' was given, and this model has no encoder"):
        ears(text="<video>", videos=[file])
    assert ears.estimate(video(file)) == 0


def test_models_of_transformers_see_the_same_frames(file):
    processor = llava_processor()
    found, by_hand = (
        encode_conversations(processor, [user(*parts, "b")])
        for parts in ([video(file, fps=1)], THREE)
    )
    assert_same(found, by_hand)


def test_records_with_videos_are_trained_on_and_surveyed(processor, file, tmp_path):
    turns = [{"from": "human", "value": "<video>\nb"}, {"from": "gpt", "value": "yes"}]
    records = [{"video": name, "conversations": turns} for name in (file, "no.mp4", "bad.mp4")]
    (tmp_path / "bad.mp4").write_bytes(b"bad")
    path = tmp_path / "records.json"
    path.write_text(json.dumps(records))
    data = ConversationDataset([DataSource(str(path))], processor, on_bad_record="skip")
    answer = [{"role": "assistant", "content": "yes"}]
    expected = processor.encode([*user(video(file), "b"), *answer])
    assert_same(data[0], expected)
    (number, sentence), *_ = data[1]["skipped"]
    assert number == 1 and "record 1: Video" in sentence and "no.mp4' does not exist" in sentence
    found = [SurveyDataset(data, 10_000)[n] for n in range(3)]
    assert [report.images for report in found] == [8, 0, 0]
    assert found[0].tokens == len(expected["input_ids"])
    assert [report.problem[0] for report in found[1:]] == [MISSING, BROKEN]
    length = LengthEstimator(data, processor, 10_000)(0)
    assert length.senses == ("image",) and abs(length.tokens - found[0].tokens) < 12
