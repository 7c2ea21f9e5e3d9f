"""The processor has the defaults, the meaning and the results of transformers' own processors."""

import base64
import inspect
import io
from copy import deepcopy
from itertools import product

import numpy as np
import pytest
import torch
import transformers
from packaging.version import Version
from processors import (
    CHATML,
    GENERATION,
    LLAMA3,
    SPECIAL,
    assistant,
    make_processor,
    picture,
    train_tokenizer,
    user,
)  # fmt: skip
from tokenizers import processors as post_processors
from transformers import CLIPImageProcessor, LlavaProcessor, ProcessorMixin

from wings.errors import WingsError

TEXTS = ["a red circle", "<image> on the left, what is it?", "is it<image><image> a circle"]
PICTURES = [picture("red"), picture("blue"), picture("white")]
TALK = [
    {"role": "system", "content": "on the left"},
    {"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "what is it?"}]},
    {"role": "assistant", "content": [{"type": "text", "text": "a red circle"}]},
    {"role": "user", "content": [{"type": "text", "text": "is it?"}]},
]
IN_PARTS = """{{ bos_token }}{% for message in messages %}\
{{ '<|im_start|>' + message['role'] + '\n' }}\
{% if message['role'] == 'assistant' %}{% generation %}{% for part in message['content'] %}\
{{ part['text'] }}{% endfor %}{{ '<|im_end|>' }}{% endgeneration %}{{ '\n' }}{% else %}\
{% if message['content'] is string %}{{ message['content'] }}{% else %}\
{% for part in message['content'] %}\
{{ '<image>' if part['type'] == 'image' else part['text'] }}{% endfor %}{% endif %}\
{{ '<|im_end|>\n' }}{% endif %}{% endfor %}\
{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"""


def bos_tokenizer(adds_bos=True):
    """A tokenizer that writes a BOS before every text, as Llama's does."""
    tokenizer = train_tokenizer([*SPECIAL, "<image>"])
    tokenizer.bos_token, tokenizer.pad_token = "<s>", "<|endoftext|>"
    tokenizer.model_max_length = 40
    if adds_bos:
        tokenizer.backend_tokenizer.post_processor = post_processors.TemplateProcessing(
            single="<s> $A", special_tokens=[("<s>", tokenizer.bos_token_id)]
        )
    return tokenizer


@pytest.fixture(scope="module")
def pair():
    """Our processor and LLaVA's, which expands `<image>` to as many tokens."""
    ours = make_processor(IN_PARTS, bos_tokenizer())
    tokenizer = bos_tokenizer()
    tokenizer.padding_side = "left"
    side = {"height": 28, "width": 28}
    images = CLIPImageProcessor(size=side, crop_size=side, do_center_crop=False)
    theirs = LlavaProcessor(
        images, tokenizer, patch_size=14, vision_feature_select_strategy="full",
        chat_template=IN_PARTS,
    )  # fmt: skip
    return ours, theirs


def plain(batch):
    """The lists of a batch, without its pixels."""
    return {
        name: [np.asarray(one).tolist() for one in value]
        for name, value in batch.items()
        if name != "pixel_values"
    }


def result_of(call):
    """What a call returns, or that it refuses."""
    try:
        return plain(call())
    except (ValueError, RuntimeError):
        return "refused"


@pytest.mark.parametrize("function", ["__call__", "apply_chat_template"])
def test_the_signature_is_that_of_transformers(function, pair):
    own, theirs = (
        inspect.signature(getattr(one, function)).parameters
        for one in (type(pair[0]), ProcessorMixin)
    )
    shared = [name for name in own if name in theirs and name != "kwargs"]
    assert shared == [name for name in theirs if name != "kwargs"]
    for name in shared:
        # "auto", which means None unless `processor_kwargs` say otherwise, is the newer name.
        assert own[name].default == theirs[name].default or name == "return_tensors"
    # What is added can be given by name only; older releases lack some names at the end.
    for name in {"images", "audio", "videos", "return_labels"} & set(own) - set(theirs):
        assert own[name].kind is inspect.Parameter.KEYWORD_ONLY
    assert set(own) - set(theirs) <= {
        "images", "audio", "videos", "return_labels", "sanitize_control_tokens",
    }  # fmt: skip


OPTIONS = {
    "padding": (None, True, "longest", "max_length", "do_not_pad"),
    "truncation": (None, True, False, "longest_first"),
    "max_length": (None, 30, 9, 3),
    "padding_side": (None, "right"),
    "return_tensors": (None, "pt", "np"),
    "add_special_tokens": (None, False),
    "pad_to_multiple_of": (None, 8),
    "return_mm_token_type_ids": (None, True),
    "return_attention_mask": (None, True),
}


def combinations():
    """Every pair of two options' values, with the others at their defaults."""
    names = list(OPTIONS)
    for first, second in product(names, names):
        if first < second:
            for values in product(OPTIONS[first], OPTIONS[second]):
                yield {
                    name: value
                    for name, value in zip((first, second), values, strict=True)
                    if value is not None
                }
    for padding, truncation, length in product(*(OPTIONS[n] for n in list(OPTIONS)[:3])):
        given = {"padding": padding, "truncation": truncation, "max_length": length}
        yield {name: value for name, value in given.items() if value is not None}


@pytest.mark.filterwarnings("ignore:.max_length. is")
def test_options_of_text_mean_what_they_mean_in_transformers(pair):
    ours, theirs = pair
    differs = []
    for options in combinations():
        want, got = (
            result_of(lambda one=one, o=options: one(images=PICTURES, text=TEXTS, **o))
            for one in (theirs, ours)
        )
        if got != want:
            differs.append((options, got, want))
    assert not differs, differs[:3]


@pytest.mark.parametrize("tensors", ["pt", "np", None])
def test_one_text_and_no_image(pair, tensors):
    for call in ({"text": "a circle"}, {"text": ["a circle"]}):
        ours, theirs = (one(**call, return_tensors=tensors) for one in pair)
        assert plain(ours) == plain(theirs)
        kind = {"pt": torch.Tensor, "np": np.ndarray, None: list}[tensors]
        assert isinstance(ours["input_ids"], kind)
    pixels = pair[0](images=PICTURES, return_tensors=tensors)
    assert list(pixels) == ["pixel_values"] and len(pixels["pixel_values"]) == 3


CALLS = [
    {}, {"tokenize": True}, {"add_generation_prompt": True},
    {"tokenize": True, "return_dict": True},
    {"tokenize": True, "return_dict": True, "return_tensors": "pt", "add_generation_prompt": True},
    {"tokenize": True, "return_dict": True, "return_assistant_tokens_mask": True},
    {"tokenize": True, "return_dict": True, "processor_kwargs": {"padding": True}},
    {"tokenize": True, "return_dict": True, "return_tensors": "pt",
     "processor_kwargs": {"text_kwargs": {"padding": True, "padding_side": "right"}}},
    {"tokenize": True, "return_dict": True, "return_assistant_tokens_mask": True,
     "processor_kwargs": {"padding": True, "truncation": True, "max_length": 42}},
    {"tokenize": True, "return_dict": True, "processor_kwargs": {"return_tensors": "np"}},
]  # fmt: skip


@pytest.mark.parametrize("options", CALLS, ids=str)
def test_chats_are_what_transformers_makes_of_them(pair, options):
    question = [part if part["type"] == "text" else part | {"image": picture()}
                for part in TALK[1]["content"]]  # fmt: skip
    talk = [TALK[0], {**TALK[1], "content": question}, *TALK[2:]]
    for conversation in (talk, [talk], [talk, talk[2:]]):
        results = []
        for one in pair:
            try:
                found = one.apply_chat_template(conversation, **deepcopy(options))
            except ValueError:
                found = "refused"
            results.append(plain(found) if hasattr(found, "items") else found)
        ours, theirs = results
        if Version(transformers.__version__) < Version("5.24") and "assistant_masks" in ours:
            # Older releases put the mask elsewhere where a row has an image.
            ours.pop("assistant_masks"), theirs.pop("assistant_masks")
        assert ours == theirs


@pytest.mark.parametrize("adds_bos", [True, False])
@pytest.mark.parametrize("template", [IN_PARTS, CHATML, LLAMA3, GENERATION])
def test_two_steps_give_what_one_step_gives(template, adds_bos):
    processor = make_processor(template, bos_tokenizer(adds_bos))
    writes_bos = template in (IN_PARTS, LLAMA3)
    if template == LLAMA3:
        processor.tokenizer.bos_token = "<|begin_of_text|>"
    messages = [user(picture(), "what is it?")]
    one = processor.apply_chat_template(
        messages, add_generation_prompt=True, tokenize=True, return_dict=True
    )
    text = processor.apply_chat_template(messages, add_generation_prompt=True)
    two = processor(text=text, images=[picture()])
    assert one["pixel_values"].equal(two["pixel_values"])
    bos = processor.tokenizer.bos_token_id
    assert two["input_ids"][0].count(bos) == (writes_bos or adds_bos)
    plain_two = processor(text=text, images=[picture()], add_special_tokens=False)
    assert plain_two["input_ids"] == one["input_ids"]
    # As in training.
    row = processor.encode(messages, add_generation_prompt=True)
    assert one["input_ids"] == [row["input_ids"].tolist()]


def image_parts():
    """The same picture in every form that a message may have it in."""
    held = io.BytesIO()
    picture().save(held, "PNG")
    coded = base64.b64encode(held.getvalue()).decode()
    address = f"data:image/png;base64,{coded}"
    yield {"type": "image", "image": picture()}
    yield {"type": "image", "image": address}
    yield {"type": "image", "url": address}
    yield {"type": "image", "base64": coded}
    yield {"type": "image", "base64": address}
    yield {"type": "image_url", "image_url": {"url": address}}
    yield {"type": "image_url", "image_url": address}
    yield {"type": "image", "image": None, "text": None, "path": "PATH"}


def test_every_form_of_an_image_part(processor, tmp_path):
    picture().save(tmp_path / "a.png")
    batches = []
    for part in image_parts():
        part = {key: str(tmp_path / "a.png") if value == "PATH" else value
                for key, value in part.items()}  # fmt: skip
        content = [part, {"type": "text", "text": "what is it?", "image": None}]
        batches.append(
            processor.apply_chat_template(
                [{"role": "user", "content": content, "name": None}],
                tokenize=True,
                return_dict=True,
                return_tensors="pt",
            )
        )
    for batch in batches[1:]:
        assert batch["pixel_values"].equal(batches[0]["pixel_values"])
        assert batch["input_ids"].equal(batches[0]["input_ids"])
    for part in (
        {"type": "image_url"}, {"type": "image_url", "image_url": {}}, {"type": "video_url"},
        {"type": "smell"}, {"type": ["image"]},
    ):  # fmt: skip
        with pytest.raises(WingsError, match=r"Message 0 has the part .*; parts are"):
            processor.apply_chat_template([{"role": "user", "content": [part]}])
    with pytest.raises(WingsError, match="Image"):
        bad = {"type": "image", "base64": "no picture"}
        processor.apply_chat_template([{"role": "user", "content": [bad]}], tokenize=True)


def test_an_image_is_not_cut(processor):
    for options in ({"truncation": True, "max_length": 3}, {"max_length": 3}):
        with pytest.raises(WingsError, match=r"'max_length' of 3 would cut an image"):
            processor(text="<image>", images=[picture()], **options)
        with pytest.raises(WingsError, match=r"Row 1: .*would cut an image"):
            processor.apply_chat_template(
                [[user("a")], [user(picture(), "a")]], tokenize=True, processor_kwargs=options
            )


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"max_lenght": 8}, r"no option 'max_lenght' \(did you mean 'max_length'\?\)"),
        ({"text_kwargs": {"paddding": True}}, r"no option 'paddding' \(did you mean 'padding'"),
        ({"images_kwargs": {"do_resize": False}}, r"images_kwargs has 'do_resize'"),
        ({"padding": "most"}, r"'padding' is 'most'; it must be one of False, True"),
        ({"padding": 1}, r"'padding' is 1"),
        ({"padding_side": "up"}, r"'padding_side' is 'up'"),
        ({"truncation": "all"}, r"'truncation' is 'all'"),
        ({"max_length": 0}, r"'max_length' is 0; it must be 1 or more"),
        ({"max_length": 2.5}, r"'max_length' is 2.5; it must be a whole number"),
        ({"max_length": True}, r"'max_length' is True"),
        ({"return_tensors": "tf"}, r"'return_tensors' is 'tf'"),
        ({"padding": "max_length"}, r"needs 'max_length'"),
        ({"return_tensors": "pt"}, r"Rows have \d+ to \d+ tokens and are not padded"),
        ({"return_length": True}, r"'return_length' is not supported"),
        ({"text_pair": "a"}, r"'text_pair' is not supported"),
    ],
)
def test_an_option_that_cannot_hold(processor, options, sentence):
    with pytest.raises(WingsError, match=sentence):
        processor(text=["a", "a red circle is on the left"], **options)
    with pytest.raises(WingsError, match=sentence):
        processor.apply_chat_template(
            [[user("a")], [user("a red circle is on the left")]],
            tokenize=True, return_dict=True, processor_kwargs=options,
        )  # fmt: skip


def test_calls_that_make_no_sense(processor):
    for call, sentence in (
        ({}, "Nothing was given"),
        ({"text": []}, "'text' must be a string or a list of strings"),
        ({"text": [["a"]]}, "'text' must be a string or a list of strings"),
        ({"text": "a", "videos": [1]}, "0 places for a video without a source and 1 videos"),
        ({"text": "a", "audio": [1]}, "'audio' was given"),
    ):
        with pytest.raises(WingsError, match=sentence):
            processor(**call)
    with pytest.warns(UserWarning, match="'max_length' is 8 and has no effect"):
        processor(text="a", padding=True, max_length=8)
    for options, sentence in (
        ({"return_labels": True}, "Labels and masks need tokenize=True"),
        ({"continue_final_message": True, "add_generation_prompt": True}, "does not go with"),
        ({"chat_template": "missing {{ x"}, "chat template"),
    ):
        with pytest.raises(WingsError, match=sentence):
            processor.apply_chat_template([user("a"), assistant("b")], **options)


@pytest.mark.parametrize(
    "options",
    [
        {"max_length": 8}, {"padding": True}, {"return_tensors": "pt"}, {"images": [picture()]},
        {"processor_kwargs": {"truncation": True}}, {"processor_kwargs": {"images": [picture()]}},
    ],
    ids=["max_length", "padding", "tensors", "images", "truncation", "images inside"],
)  # fmt: skip
def test_what_has_no_effect_on_a_text_is_said(processor, options):
    place = [{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "a"}]}]
    ((name, value),) = options.items()
    name = next(iter(value)) if name == "processor_kwargs" else name
    with pytest.warns(UserWarning, match=f"so {name} had no effect"):
        text = processor.apply_chat_template(place, **options)
    assert text == processor.apply_chat_template(place)
    with pytest.raises(WingsError, match="'images' was given twice"):
        twice = {"images": [picture()], "processor_kwargs": {"images": [picture()]}}
        processor.apply_chat_template(place, tokenize=True, **twice)


def test_a_mask_without_marks_covers_what_is_learned():
    for template in (CHATML, GENERATION, LLAMA3):
        processor = make_processor(template)
        batch = processor.apply_chat_template(
            [user(picture(), "what is it?"), assistant("a red circle")],
            tokenize=True, return_dict=True, return_tensors="pt",
            return_assistant_tokens_mask=True, return_labels=True,
        )  # fmt: skip
        assert (batch["labels"] != -100).long().equal(batch["assistant_masks"])
        assert batch["assistant_masks"].sum() > 2
