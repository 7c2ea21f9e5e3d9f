"""The processor: the model is given what the template writes, and pictures where they stand."""

import pytest
import torch
from processors import (
    CHATML,
    SPECIAL,
    TINY,
    TOKENIZER,
    ask,
    assistant,
    learned,
    make_processor,
    picture,
    train_tokenizer,
    user,
)
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import AutoProcessor, PreTrainedTokenizerFast

import wings  # noqa: F401  (registers the processor)
from wings.errors import WingsError
from wings.processing.image_processor import WingsImageProcessor
from wings.processing.processor import WingsProcessor


def test_image_tokens_stand_where_images_stand(processor):
    messages = [user("a ", picture(), " b ", picture(), " c"), assistant("two")]
    ids = processor.encode(messages)["input_ids"].tolist()
    image = processor.image_token_id
    n = processor.image_seq_length
    assert n == 4 and ids.count(image) == 2 * n
    text = processor.tokenizer.decode([token for token in ids if token != image])
    assert "user\na  b  c<|im_end|>" in text
    first = ids.index(image)
    assert ids[first : first + n] == [image] * n
    assert processor.tokenizer.decode(ids[first + n : first + n + 2]).startswith(" b")


def test_pixels_are_in_reading_order_and_right(processor):
    red, blue = picture("red"), picture("blue")
    messages = [user(red, "a"), assistant("x"), user("b", blue), assistant("y")]
    got = processor.encode(messages)["pixel_values"]
    want = processor.image_processor([red, blue])["pixel_values"]
    assert torch.equal(got, want) and not torch.equal(got[0], got[1])


def test_a_typed_placeholder_is_only_letters(processor):
    messages = [user("is <image> an ", picture(), " image?"), assistant("no, <image> is text")]
    row = processor.encode(messages)
    ids = row["input_ids"].tolist()
    assert ids.count(processor.image_token_id) == processor.image_seq_length
    assert learned(processor, row) == ["no, <image> is text<|im_end|>"]
    text = processor.tokenizer.decode([i for i in ids if i != processor.image_token_id])
    assert "is <image> an  image?" in text
    plain = processor.encode([{"role": "user", "content": "<image>"}, assistant("a")])
    assert "pixel_values" not in plain
    assert processor.image_token_id not in plain["input_ids"].tolist()
    shown = processor.apply_chat_template(messages, tokenize=False, add_generation_prompt=False)
    assert shown.count("<image>") == 3


def test_an_existing_image_token_keeps_its_id():
    tokenizer = train_tokenizer([*SPECIAL, "<image>"])
    processor = make_processor(tokenizer=tokenizer)
    assert processor.image_token_id == len(SPECIAL) == tokenizer.convert_tokens_to_ids("<image>")
    fresh = make_processor()
    assert fresh.image_token_id == len(TOKENIZER)
    assert "<image>" not in TOKENIZER.get_vocab(), "the tokenizer handed in must stay as it was"


def test_a_word_of_the_vocabulary_is_the_image_token_too():
    """Else the id would not be the one that the model is given."""
    core = Tokenizer(models.WordLevel({"a": 0, "<image>": 1, "b": 2, "<unk>": 3}, "<unk>"))
    core.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    processor = make_processor(tokenizer=PreTrainedTokenizerFast(tokenizer_object=core))
    assert processor.image_token_id == 1
    batch = processor(text="a<image>b", images=picture())
    assert batch["input_ids"] == [[0, 1, 1, 1, 1, 2]]


def test_no_tokenizer(tmp_path):
    with pytest.raises(WingsError, match="No tokenizer can be read"):
        WingsProcessor.from_vision_text_pretrained(TINY, str(tmp_path))
    with pytest.raises(WingsError, match="'text' is a Linear"):
        WingsProcessor.from_vision_text_pretrained(TINY, torch.nn.Linear(2, 2))


@pytest.mark.parametrize("side", ["left", "right"])
def test_a_batch_is_its_rows(processor, side):
    conversations = [
        [user("what is it?")],
        [user(picture("red"), "a", picture("blue")), assistant("x"), user("left?")],
        [user(picture("green"), "on the left or on the right?")],
    ]
    batch = ask(processor, conversations, processor_kwargs={"padding_side": side})
    assert set(batch) == {"input_ids", "attention_mask", "pixel_values"}
    pixels = []
    for row, messages in enumerate(conversations):
        one = processor.encode(messages, add_generation_prompt=True)
        mask = batch["attention_mask"][row].bool()
        assert batch["input_ids"][row][mask].tolist() == one["input_ids"].tolist()
        outside = mask[0] if side == "right" else mask[-1]
        assert outside, "padding stands on the wrong side"
        pixels += [one["pixel_values"]] if "pixel_values" in one else []
    assert torch.equal(batch["pixel_values"], torch.cat(pixels))
    text_only = ask(processor, conversations[:1])
    assert "pixel_values" not in text_only


def test_images_given_apart(processor):
    one = [{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "?"}]}]
    red, blue = picture("red"), picture("blue")
    batch = ask(processor, [one, one], images=[red, blue])
    named = ask(processor, [[user(red, "?")], [user(blue, "?")]])
    assert torch.equal(batch["pixel_values"], named["pixel_values"])
    nested = ask(processor, [one, one], images=[[red], [blue]])
    assert torch.equal(batch["pixel_values"], nested["pixel_values"])
    with pytest.raises(WingsError, match=r"2 places .* 1 images"):
        ask(processor, [one, one], images=[red])
    with pytest.raises(WingsError, match=r"1 places .* 0 images"):
        processor.encode(one, add_generation_prompt=True)
    with pytest.raises(WingsError, match=r"Row 0 has 1 places .* 2 images"):
        ask(processor, [one, one], images=[[red, blue], []])
    with pytest.raises(WingsError, match=r"0 places .* 1 images"):
        ask(processor, [user("<image>?")], images=[red])


def test_plain_text(processor):
    batch = processor(
        text=["<image> it?", "left<image><image>"],
        images=[picture()] * 3,
        padding=True,
        return_tensors="pt",
    )
    assert batch["pixel_values"].shape == (3, 3, 28, 28)
    counts = (batch["input_ids"] == processor.image_token_id).sum(1)
    assert counts.tolist() == [4, 8]
    alone = processor(text="it?")
    assert set(alone) == {"input_ids", "attention_mask"}
    with pytest.raises(WingsError, match=r"3 places .* 2 images"):
        processor(text=["<image> it?", "left<image><image>"], images=[picture()] * 2)
    with pytest.raises(WingsError, match=r"Row 1 has 2 places .* 1 images"):
        processor(text=["<image>", "<image><image>"], images=[[picture()], [picture()]])


def test_an_unreadable_image_is_named(processor):
    messages = [{"role": "user", "content": [{"type": "image", "url": "/nowhere/cat.png"}]}]
    with pytest.raises(WingsError, match=r"Row 1: Image '/nowhere/cat\.png' does not exist"):
        ask(processor, [[user("a")], messages])


def test_round_trip(processor, tmp_path):
    processor.save_pretrained(tmp_path)
    messages = [user(picture("red"), "what <image> is it?"), assistant("a circle")]
    want = processor.encode(messages)
    for loaded in (
        WingsProcessor.from_pretrained(tmp_path),
        AutoProcessor.from_pretrained(tmp_path),
    ):
        assert type(loaded) is WingsProcessor
        assert type(loaded.image_processor) is WingsImageProcessor
        assert loaded.image_seq_length == 4
        assert loaded.image_token_id == processor.image_token_id
        assert loaded.chat_template == CHATML
        got = loaded.encode(messages)
        assert all(torch.equal(got[name], want[name]) for name in want)


def test_pooling_shortens_an_image():
    processor = make_processor(pool=2)
    assert processor.image_seq_length == 1
    ids = processor.encode([user(picture()), assistant("a")])["input_ids"]
    assert (ids == processor.image_token_id).sum() == 1
