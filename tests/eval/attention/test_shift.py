"""Attention shift: the score, its choices, its prompts and its plots."""

import json

import pytest
import torch
from matplotlib.collections import PathCollection
from PIL import Image
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import (
    AutoConfig,
    AutoModelForImageTextToText,
    CLIPImageProcessor,
    LlamaConfig,
    LlamaForCausalLM,
    LlavaProcessor,
    PreTrainedTokenizerFast,
)

from wings.config import WingsConfig
from wings.errors import WingsError
from wings.eval.attention.masses import Masses
from wings.eval.attention.prompts import add_preamble, encode_prompts
from wings.eval.attention.shift import (
    Curves,
    ModelShift,
    ShiftOptions,
    measure_shift,
    one_minus_pearson,
)
from wings.eval.attention.shift_plot import ShiftPoint, curves_figure, score_figure
from wings.eval.items import Item
from wings.eval.scoring.accuracy import Accuracy
from wings.model.causal_lm import WingsForCausalLM
from wings.processing.processor import WingsProcessor

WORDS = ["<pad>", "<end>", "<user>", "<bot>", "<image>", "[a", "picture]", "Look", *"abcdefghij"]
TEMPLATE = (
    "{% for m in messages %}{{ '<user> ' if m['role'] == 'user' else '<bot> ' }}"
    "{% if m['content'] is string %}{{ m['content'] }}{% else %}{% for p in m['content'] %}"
    "{{ '<image>' if p['type'] == 'image' else p['text'] }} {% endfor %}{% endif %}"
    " <end> {% endfor %}{% if add_generation_prompt %}<bot>{% endif %}"
)
# Masses are sums in float64 of what models in float32 look at, row by row or padded together.
ROUNDING = {"atol": 1e-6, "rtol": 1e-5}
TEXT = {
    "vocab_size": 40,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "initializer_range": 0.4,
    "pad_token_id": 0,
}
VISION = {
    "vision_cfg": {"image_size": 16, "patch_size": 8, "width": 32, "layers": 2, "head_width": 16}
}


def tokenizer():
    table = {word: n for n, word in enumerate(WORDS)}
    words = Tokenizer(models.WordLevel(table, unk_token="<pad>"))
    words.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return PreTrainedTokenizerFast(
        tokenizer_object=words,
        pad_token="<pad>",
        eos_token="<end>",
        additional_special_tokens=["<image>"],
        chat_template=TEMPLATE,
    )


def seen(path, *words):
    """An item that begins with its picture."""
    parts = [{"type": "image", "image": str(path)}]
    parts += [{"type": "text", "text": text} for text in words]
    return Item("all", ({"role": "user", "content": parts},), "a")


@pytest.fixture
def picture(tmp_path):
    path = tmp_path / "red.png"
    Image.new("RGB", (16, 16), "red").save(path)
    return path


@pytest.fixture
def items(picture):
    after = [{"type": "text", "text": "a b"}, {"type": "image", "image": str(picture)}]
    later = (
        {"role": "user", "content": "c d e"},
        {"role": "assistant", "content": "f"},
        {"role": "user", "content": [*after, {"type": "text", "text": "g"}]},
    )
    return [
        seen(picture, "a b c"),
        Item("text", ({"role": "user", "content": "a"},), "b"),
        Item("all", later, "h"),
    ]


def wings_model(**options):
    torch.manual_seed(0)
    processor = WingsProcessor.from_vision_text_pretrained(VISION, tokenizer())
    config = WingsConfig(
        text_config=LlamaConfig(**TEXT),
        vision_config=VISION,
        rank=4,
        image_token_id=processor.image_token_id,
        **options,
    )
    return WingsForCausalLM(config).eval(), processor


def curves(before, after, sink=(0.5, 0.5, 0.5), counted="apart"):
    masses = torch.zeros(1, len(before), 5).double()
    masses[0, :, 0], masses[0, :, 1] = torch.tensor(sink), torch.tensor(before)
    masses[0, :, 4] = torch.tensor(after)
    return Curves(masses, counted)


def test_the_score_is_one_minus_pearson():
    assert curves([0.1, 0.2, 0.3], [0.2, 0.4, 0.6]).score == pytest.approx(0, abs=1e-12)
    assert curves([0.1, 0.2, 0.3], [0.6, 0.4, 0.2]).score == pytest.approx(2)
    # r of (1, 2, 3) and (1, 3, 2) is 1/2.
    assert curves([0.1, 0.2, 0.3], [0.1, 0.3, 0.2]).score == pytest.approx(0.5)
    # With the sink (2, 0, 0) the text before is (3, 2, 3), whose r with (1, 3, 2) is -sqrt(3) / 2.
    with_sink = curves([0.1, 0.2, 0.3], [0.1, 0.3, 0.2], [0.2, 0.0, 0.0], "before")
    assert with_sink.score == pytest.approx(1 + 3**0.5 / 2)


@pytest.mark.parametrize(
    "pair",
    [([0.2, 0.2, 0.2], [0.1, 0.2, 0.3]), ([0.1, 0.2, 0.3], [0, 0, 0]), ([0.2], [0.1])],
)
def test_a_flat_curve_has_no_score(pair):
    before, after = (torch.tensor(curve).double() for curve in pair)
    assert one_minus_pearson(before, after) is None
    # Nor has what rounding makes of a flat one.
    assert one_minus_pearson(before + 1e-9 * torch.rand(len(before)), after) is None


def test_samples_without_a_score_are_left_out_and_counted():
    masses = torch.cat(
        [curves([0.1, 0.2, 0.3], [0.1, 0.3, 0.2]).masses, curves([0.1, 0.1, 0.1], [0, 0, 0]).masses]
    )
    both = Curves(masses, "apart")
    assert both.score == pytest.approx(0.5) and both.scores[1] is None
    assert both.to_dict()["without a score"] == 1
    none = Curves(masses[1:], "apart")
    assert none.score is None and none.interval is None and none.to_dict()["score"] is None


def test_the_interval_is_that_of_the_mean():
    torch.manual_seed(0)
    many = Curves(torch.rand(200, 6, 5).double(), "apart")
    low, high = many.interval
    scores = torch.tensor(many.scores)
    assert low < many.score < high
    assert (high - low) / 2 == pytest.approx(1.96 * float(scores.std()) / 200**0.5, rel=0.15)


def test_a_picture_that_begins_a_conversation_gets_a_preamble(picture, items):
    said = [add_preamble(item.messages, "Look") for item in items]
    assert said[0][0]["content"][0] == {"type": "text", "text": "Look"}
    assert said[1:] == [list(item.messages) for item in items[1:]]
    assert add_preamble(items[0].messages, "") == list(items[0].messages)
    assert items[0].messages[0]["content"][0]["type"] == "image"


def test_a_blind_model_reads_words_in_the_picture_s_place(items):
    batch, is_image = encode_prompts(tokenizer(), items, "Look", "[a picture]")
    ids = batch["input_ids"]
    words = [[WORDS[n] for n in row] for row in ids]
    assert words[0][-9:] == ["<user>", "Look", "[a", "picture]", "a", "b", "c", "<end>", "<bot>"]
    found = zip(ids, is_image[..., 0], strict=True)
    assert [[WORDS[n] for n in row[flags]] for row, flags in found] == [
        ["[a", "picture]"], [], ["[a", "picture]"],
    ]  # fmt: skip
    # Words that look the same and are none are not taken for it.
    typed = Item("all", ({"role": "user", "content": "[a picture]"},), "")
    assert not encode_prompts(tokenizer(), [typed], "", "[a picture]")[1].any()


def test_measuring_a_blind_model(items):
    torch.manual_seed(0)
    model = LlamaForCausalLM(LlamaConfig(**TEXT))
    found = measure_shift(model, tokenizer(), items, ShiftOptions(preamble="Look"))
    assert found.plus_learners is None and len(found.main.scores) == 2
    assert all(0 <= score <= 2 for score in found.main.scores)
    together = measure_shift(model, tokenizer(), items, ShiftOptions(preamble="Look"), batch_size=2)
    torch.testing.assert_close(together.masses.main, found.masses.main, **ROUNDING)


def test_measuring_wings(items):
    model, processor = wings_model()
    counted = []
    found = measure_shift(model, processor, items, batch_size=2, on_batch=counted.append)
    assert counted == [2] and list(found.branches) == ["main", "plus learners"]
    alone = measure_shift(model, processor, items)
    torch.testing.assert_close(alone.masses.main, found.masses.main, **ROUNDING)
    torch.testing.assert_close(alone.masses.learners, found.masses.learners, **ROUNDING)
    read = json.loads(json.dumps(found.to_dict()))
    assert read["branches"]["main"]["score"] == pytest.approx(found.main.score)
    assert read["effect"] == [0, 0, 0] and read["layers"] == [0, 1, 2]
    assert [row[0] for row in found.table()] == ["main", "plus learners"]


def test_measuring_a_vision_language_model(items):
    torch.manual_seed(0)
    own = tokenizer()
    size = {"height": 16, "width": 16}
    images = CLIPImageProcessor(size=size, crop_size=size)
    processor = LlavaProcessor(
        images,
        own,
        patch_size=8,
        vision_feature_select_strategy="default",
        chat_template=TEMPLATE,
        num_additional_image_tokens=1,
    )
    vision = {
        "model_type": "clip_vision_model",
        "hidden_size": 32,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "intermediate_size": 48,
        "image_size": 16,
        "patch_size": 8,
    }
    config = AutoConfig.for_model(
        "llava",
        text_config={"model_type": "llama", **TEXT},
        vision_config=vision,
        image_token_id=WORDS.index("<image>"),
    )
    model = AutoModelForImageTextToText.from_config(config)
    found = measure_shift(model, processor, items, batch_size=2)
    alone = measure_shift(model, processor, items)
    assert len(found.main.scores) == 2
    torch.testing.assert_close(alone.masses.main, found.masses.main, **ROUNDING)


def test_what_cannot_be_measured_is_said(items, picture):
    model, processor = wings_model(learners=())
    with pytest.raises(WingsError, match="None of the 1 items has a picture"):
        measure_shift(model, processor, items[1:2])
    with pytest.raises(WingsError, match="sink is 'away'"):
        ShiftOptions(sink="away")
    with pytest.raises(WingsError, match="placeholder is empty"):
        ShiftOptions(placeholder=" ")
    blank = tokenizer()
    blank.chat_template = None
    with pytest.raises(WingsError, match="chat template"):
        measure_shift(LlamaForCausalLM(LlamaConfig(**TEXT)), blank, items)


def two_branches(count=6):
    torch.manual_seed(1)
    main = torch.rand(count, 4, 5).double() / 5
    return ModelShift(
        ShiftOptions(), (0, 1, 2, 5), Masses((0, 1, 2, 5), main, main * 2, main[..., 0])
    )


def test_the_curves_stand_where_the_masses_are():
    shift = two_branches()
    figure = curves_figure(shift)
    left, right = figure.axes
    for axes, branch in ((left, shift.main), (right, shift.plus_learners)):
        lines = {line.get_label(): line for line in axes.get_lines()}
        assert list(lines["text before"].get_xdata()) == [0, 1, 2, 5]
        assert list(lines["text before"].get_ydata()) == branch.before.mean(0).tolist()
        assert list(lines["text after"].get_ydata()) == branch.after.mean(0).tolist()
        # Nothing is drawn outside of what is shown.
        low, high = axes.get_ylim()
        assert low == 0 and max(max(line.get_ydata()) for line in lines.values()) < high
    before = ModelShift(ShiftOptions(sink="before"), shift.layers, shift.masses)
    labels = {line.get_label() for line in curves_figure(before).axes[0].get_lines()}
    assert "sink" not in labels


def test_checkpoints_stand_at_their_scores(tmp_path):
    shift = two_branches()
    figure = score_figure(
        [ShiftPoint("one", shift.main.score, shift.main.interval, Accuracy(90, 120))]
    )
    (axes,) = figure.axes
    (point,) = [one for one in axes.collections if isinstance(one, PathCollection)]
    assert point.get_offsets().tolist() == [[shift.main.score, 75.0]]
    figure.savefig(tmp_path / "score.png")
    with Image.open(tmp_path / "score.png") as image:
        assert len(set(image.convert("L").tobytes())) > 20
