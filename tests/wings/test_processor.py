"""The processor: the model is given what the template writes, and labels are the answers."""

import warnings

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
from transformers import AutoProcessor, PreTrainedTokenizerFast

import wings  # noqa: F401  (registers the processor)
from wings.errors import WingsError
from wings.images import WingsImageProcessor
from wings.processor import WingsProcessor

TINY = {
    "vision_cfg": {"image_size": 28, "patch_size": 14, "width": 32, "layers": 2, "head_width": 16}
}
SPECIAL = [
    "<|endoftext|>", "<|im_start|>", "<|im_end|>", "<s>", "</s>", "[INST]", "[/INST]",
    "<|begin_of_text|>", "<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>", "<bos>",
    "<start_of_turn>", "<end_of_turn>", "<|user|>", "<|assistant|>", "<|end|>",
]  # fmt: skip

CHATML = """{% for message in messages %}{% if loop.first and messages[0]['role'] != 'system' %}\
{{ '<|im_start|>system\nYou are a helpful assistant<|im_end|>\n' }}{% endif %}\
{{ '<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>' + '\n' }}\
{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"""

LLAMA3 = """{{ '<|begin_of_text|>' }}{% for message in messages %}\
{{ '<|start_header_id|>' + message['role'] + '<|end_header_id|>\n\n' + message['content'] | trim \
+ '<|eot_id|>' }}{% endfor %}{% if add_generation_prompt %}\
{{ '<|start_header_id|>assistant<|end_header_id|>\n\n' }}{% endif %}"""

MISTRAL = """{{ '<s>' }}{% for message in messages %}\
{% if (message['role'] == 'user') != (loop.index0 % 2 == 0) %}\
{{ raise_exception('Conversation roles must alternate user/assistant/user/assistant/...') }}\
{% endif %}{% if message['role'] == 'user' %}{{ '[INST] ' + message['content'] + ' [/INST]' }}\
{% else %}{{ ' ' + message['content'] + '</s>' }}{% endif %}{% endfor %}"""

GEMMA = """{{ '<bos>' }}{% if messages[0]['role'] == 'system' %}\
{{ raise_exception('System role not supported') }}{% endif %}{% for message in messages %}\
{% set role = 'model' if message['role'] == 'assistant' else message['role'] %}\
{{ '<start_of_turn>' + role + '\n' + message['content'] | trim + '<end_of_turn>\n' }}\
{% endfor %}{% if add_generation_prompt %}{{ '<start_of_turn>model\n' }}{% endif %}"""

# Writes an end of text where it writes no prompt, so that no shorter rendering is a prefix.
PHI3 = """{% for message in messages %}\
{{ '<|' + message['role'] + '|>\n' + message['content'] + '<|end|>\n' }}{% endfor %}\
{% if add_generation_prompt %}{{ '<|assistant|>\n' }}{% else %}{{ '<|endoftext|>' }}{% endif %}"""

# Writes empty thoughts before the newest answer only.
THINKING = """{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\n' }}\
{% if message['role'] == 'assistant' and loop.last %}{{ '<think>\n\n</think>\n\n' }}{% endif %}\
{{ message['content'] + '<|im_end|>\n' }}{% endfor %}\
{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"""

# Prompts with thoughts that no older answer keeps.
FORGETFUL = """{% for message in messages %}\
{{ '<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>\n' }}{% endfor %}\
{% if add_generation_prompt %}{{ '<|im_start|>assistant\n<think>\n' }}{% endif %}"""

NO_PROMPT = """{% for message in messages %}\
{{ '<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>\n' }}{% endfor %}"""

PLAIN = """{% for message in messages %}{{ message['role'] | upper + ': ' + message['content'] + \
'\n' }}{% endfor %}{% if add_generation_prompt %}{{ 'ASSISTANT:' }}{% endif %}"""

GENERATION = """{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\n' }}\
{% if message['role'] == 'assistant' %}{% generation %}{{ message['content'] + '<|im_end|>' }}\
{% endgeneration %}{{ '\n' }}{% else %}{{ message['content'] + '<|im_end|>\n' }}{% endif %}\
{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"""

# template -> what a learned turn reads like
TEMPLATES = {
    "chatml": (CHATML, "{}<|im_end|>"),
    "llama3": (LLAMA3, "{}<|eot_id|>"),
    "mistral": (MISTRAL, " {}</s>"),
    "gemma": (GEMMA, "{}<end_of_turn>"),
    "phi3": (PHI3, "{}<|end|>"),
    "forgetful": (FORGETFUL, "{}<|im_end|>"),
    "no prompt": (NO_PROMPT, "{}<|im_end|>"),
    "plain": (PLAIN, " {}\n"),
    "generation": (GENERATION, "{}<|im_end|>"),
}


def train_tokenizer(special=SPECIAL, vocab_size=420):
    """A byte-level BPE, made on the spot."""
    core = Tokenizer(models.BPE())
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    core.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=special,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
    )
    core.train_from_iterator(["a red circle is on the left of the image, what is it?"] * 4, trainer)
    return PreTrainedTokenizerFast(tokenizer_object=core, eos_token="<|endoftext|>")


def metaspace_tokenizer():
    """Llama 2's way: a space is written before every text, so pieces read otherwise than wholes."""
    core = Tokenizer(models.BPE(unk_token="<unk>", byte_fallback=True, fuse_unk=True))
    core.normalizer = normalizers.Sequence(
        [normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")]
    )
    core.decoder = decoders.Replace("▁", " ")
    special = ["<unk>", *SPECIAL]
    trainer = trainers.BpeTrainer(vocab_size=400, special_tokens=special)
    core.train_from_iterator(
        ["▁a▁red▁circle", "▁is▁on▁the▁left?.,\n", "USER:", "ASSISTANT:"] * 4, trainer
    )
    return PreTrainedTokenizerFast(tokenizer_object=core, unk_token="<unk>")


TOKENIZER = train_tokenizer()


def make_processor(template=CHATML, tokenizer=TOKENIZER, **options):
    processor = WingsProcessor.from_vision_text_pretrained({**TINY, **options}, tokenizer)
    processor.chat_template = template
    return processor


@pytest.fixture
def processor():
    return make_processor()


def picture(colour="red", size=(20, 10)):
    return Image.new("RGB", size, colour)


def user(*parts):
    content = [
        {"type": "text", "text": part}
        if isinstance(part, str)
        else {"type": "image", "image": part}
        for part in parts
    ]
    return {"role": "user", "content": content}


def assistant(text):
    return {"role": "assistant", "content": text}


def learned(processor, row):
    """The texts of the runs of labels."""
    runs, labels = [[]], row["labels"].tolist()
    for token, label in zip(row["input_ids"].tolist(), labels, strict=True):
        assert label in (-100, token)
        if label == -100:
            runs.append([])
        else:
            runs[-1].append(label)
    return [processor.tokenizer.decode(run) for run in runs if run]


@pytest.mark.parametrize("name", TEMPLATES)
@pytest.mark.parametrize("tokenizer", [TOKENIZER, metaspace_tokenizer()], ids=["bytes", "space"])
def test_labels_are_the_answers_and_their_end(name, tokenizer):
    template, reads = TEMPLATES[name]
    processor = make_processor(template, tokenizer)
    answers = ["a red circle", "the left", "on"]
    messages = []
    for answer in answers:
        messages += [user(picture(), "what is it?"), assistant(answer)]
    row = processor.encode(messages)
    found = [text.strip(" ") for text in learned(processor, row)]
    assert found == [reads.format(answer).strip(" ") for answer in answers]
    assert row["pixel_values"].shape == (3, 3, 28, 28)


WORDS = st.text(max_size=12) | st.sampled_from(
    [
        "<|im_end|>",
        "\n\n",
        " ",
        "assistant",
        "<image",
        "<image>",
        "[INST]",
        "中🙂\u200b",
        "</think>",
    ]
)


@settings(max_examples=40, deadline=None)
@given(
    name=st.sampled_from(sorted(TEMPLATES)),
    turns=st.lists(st.tuples(WORDS, st.booleans(), WORDS, WORDS), min_size=1, max_size=3),
)
def test_any_conversation(name, turns):
    """Ids are the tokenizer's own for the template's text, and every answer is learned whole."""
    processor = make_processor(TEMPLATES[name][0])
    messages, plain = [], []
    for before, has_image, after, answer in turns:
        parts = [before, picture(), after] if has_image else [before, after]
        messages += [user(*parts), assistant(answer)]
        plain += [{"role": "user", "content": before + after}, assistant(answer)]
    try:
        row = processor.encode(messages)
    except WingsError as error:
        # The templates without a special token before the answer may join it with a letter.
        assert "joins" in str(error) and name in ("plain", "mistral", "no prompt")
        return
    images = sum(has_image for _, has_image, _, _ in turns)
    ids = row["input_ids"]
    assert (ids == processor.image_token_id).sum() == 4 * images
    assert len(row.get("pixel_values", ())) == images
    # A typed <image> is an image to the tokenizer alone.
    if not images and "<image>" not in "".join(message["content"] for message in plain):
        own = processor.tokenizer.apply_chat_template(plain, return_dict=False)
        assert ids.tolist() == own
    found = "".join(learned(processor, row))
    for _, _, _, answer in turns:
        assert answer.strip() in found


@pytest.mark.parametrize("name", TEMPLATES)
def test_what_is_learned_follows_what_is_prompted(name):
    """The ids before a learned turn are those that the model is given when it has to answer."""
    processor = make_processor(TEMPLATES[name][0])
    messages = [user(picture(), "what is it?"), assistant("a circle")]
    row = processor.encode(messages)
    prompt = processor.encode(messages[:1], add_generation_prompt=True)
    start = (row["labels"] != -100).nonzero()[0].item()
    if name not in ("forgetful", "no prompt"):
        assert row["input_ids"][:start].tolist() == prompt["input_ids"].tolist()
    assert (prompt["labels"] == -100).all()


def test_thoughts_before_the_newest_answer_are_part_of_it():
    processor = make_processor(THINKING)
    messages = [user("it?"), assistant("left"), user("it?"), assistant("on")]
    row = processor.encode(messages)
    assert learned(processor, row) == ["left<|im_end|>", "<think>\n\n</think>\n\non<|im_end|>"]


def test_what_a_template_leaves_out_of_an_answer_is_not_learned():
    """Thoughts of an older answer are cut by the template, those of the newest are kept."""
    template = THINKING.replace(
        "{{ message['content'] + ",
        "{{ (message['content'] if loop.last else message['content'].split('</think>')[-1]) + ",
    ).replace("and loop.last %}", "and loop.last and '</think>' not in message['content'] %}")
    processor = make_processor(template)
    thoughts = "<think>it is</think>"
    messages = [user("it?"), assistant(thoughts + "left"), user("it?"), assistant(thoughts + "on")]
    row = processor.encode(messages)
    assert learned(processor, row) == ["left<|im_end|>", thoughts + "on<|im_end|>"]


def test_an_answer_in_its_own_header_is_not_confused():
    """Answers that occur in the template's own words, empty ones, ones that look like markup."""
    processor = make_processor(CHATML)
    answers = ["a", "assistant", "\n", "", "im_end", "user\nassistant", "circle " * 50, " é中🙂"]
    messages = []
    for answer in answers:
        messages += [user("assistant"), assistant(answer)]
    row = processor.encode(messages)
    assert learned(processor, row) == [f"{answer}<|im_end|>" for answer in answers]


def test_a_template_that_hides_the_turn_is_refused():
    hides = "{% for m in messages %}{{ m['content'] | reverse }}{{ messages | length }}{% endfor %}"
    drops = "{% for m in messages %}{{ m['role'] }}{% endfor %}"
    for template in (hides, drops, drops + "{% if add_generation_prompt %}assistant{% endif %}"):
        with pytest.raises(WingsError, match="cannot be found for certain"):
            make_processor(template).encode(
                [user("a"), assistant("b c"), user("d"), assistant("e")]
            )


def test_a_boundary_within_a_token_is_refused():
    """Else the mask would cover a letter of the prompt."""
    joins = "{% for m in messages %}{{ m['content'] }}{% endfor %}"
    with pytest.raises(WingsError, match="joins"):
        make_processor(joins).encode([user("the im"), assistant("age is")])


def test_generation_marks_must_cover_every_turn():
    template = GENERATION.replace("'assistant' %}{% gen", "'assistant' and loop.last %}{% gen")
    messages = [user("a"), assistant("left"), user("b"), assistant("on")]
    with pytest.raises(WingsError, match="marks 1 of 2"):
        make_processor(template).encode(messages)


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
    assert batch["input_ids"].tolist() == [[0, 1, 1, 1, 1, 2]]


def test_no_tokenizer(tmp_path):
    with pytest.raises(WingsError, match="no tokenizer can be loaded"):
        WingsProcessor.from_vision_text_pretrained(TINY, str(tmp_path))
    with pytest.raises(WingsError, match="text is a Linear"):
        WingsProcessor.from_vision_text_pretrained(TINY, torch.nn.Linear(2, 2))


@pytest.mark.parametrize("side", ["left", "right"])
def test_a_batch_is_its_rows(processor, side):
    conversations = [
        [user("what is it?")],
        [user(picture("red"), "a", picture("blue")), assistant("x"), user("left?")],
        [user(picture("green"), "on the left or on the right?")],
    ]
    batch = processor.apply_chat_template(conversations, padding_side=side)
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
    text_only = processor.apply_chat_template(conversations[:1])
    assert "pixel_values" not in text_only


def test_labels_of_a_batch(processor):
    conversations = [
        [user("a"), assistant("left")],
        [user(picture(), "what is it?"), assistant("a red circle")],
    ]
    batch = processor.apply_chat_template(conversations, return_labels=True, padding_side="right")
    rows = [processor.encode(messages) for messages in conversations]
    want = processor.pad(rows)
    assert torch.equal(batch["labels"], want["labels"])
    assert (batch["labels"][batch["attention_mask"] == 0] == -100).all()
    assert batch["labels"].shape == batch["input_ids"].shape


def test_images_given_apart(processor):
    one = [{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "?"}]}]
    red, blue = picture("red"), picture("blue")
    batch = processor.apply_chat_template([one, one], images=[red, blue])
    named = processor.apply_chat_template([[user(red, "?")], [user(blue, "?")]])
    assert torch.equal(batch["pixel_values"], named["pixel_values"])
    nested = processor.apply_chat_template([one, one], images=[[red], [blue]])
    assert torch.equal(batch["pixel_values"], nested["pixel_values"])
    with pytest.raises(WingsError, match=r"2 places .* 1 images"):
        processor.apply_chat_template([one, one], images=[red])
    with pytest.raises(WingsError, match=r"1 places .* 0 images"):
        processor.encode(one, add_generation_prompt=True)
    with pytest.raises(WingsError, match=r"row 0 has 1 places .* 2 images"):
        processor.apply_chat_template([one, one], images=[[red, blue], []])
    with pytest.raises(WingsError, match=r"0 places .* 1 images"):
        processor.apply_chat_template([user("<image>?")], images=[red])


def test_plain_text(processor):
    batch = processor(text=["<image> it?", "left<image><image>"], images=[picture()] * 3)
    assert batch["pixel_values"].shape == (3, 3, 28, 28)
    counts = (batch["input_ids"] == processor.image_token_id).sum(1)
    assert counts.tolist() == [4, 8]
    alone = processor(text="it?")
    assert set(alone) == {"input_ids", "attention_mask"}
    with pytest.raises(WingsError, match=r"3 places .* 2 images"):
        processor(text=["<image> it?", "left<image><image>"], images=[picture()] * 2)
    with pytest.raises(WingsError, match=r"row 1 has 2 places .* 1 images"):
        processor(text=["<image>", "<image><image>"], images=[[picture()], [picture()]])


def test_truncation_drops_whole_exchanges(processor):
    messages = [{"role": "system", "content": "be brief"}]
    for answer in ("red", "blue", "green"):
        messages += [user(picture(answer), "what is it?"), assistant(answer)]
    whole = processor.encode(messages)
    length = len(whole["input_ids"])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        kept = processor.encode(messages, max_length=length)
    assert torch.equal(kept["input_ids"], whole["input_ids"])
    with pytest.warns(UserWarning, match="the 1 oldest of 3 exchanges") as caught:
        shorter = processor.encode(messages, max_length=length - 1)
    assert len(caught) == 1
    want = processor.encode([messages[0], *messages[3:]])
    assert all(torch.equal(shorter[name], want[name]) for name in want)
    assert shorter["pixel_values"].shape[0] == 2
    newest = processor.encode([messages[0], *messages[5:]])
    with pytest.warns(UserWarning, match="the 2 oldest"):
        got = processor.encode(messages, max_length=len(newest["input_ids"]))
    assert torch.equal(got["input_ids"], newest["input_ids"])
    with pytest.raises(WingsError, match=r"newest exchange takes .* 1 images"):
        processor.encode(messages, max_length=len(newest["input_ids"]) - 1)


@pytest.mark.parametrize(
    ("messages", "says"),
    [
        ([], "at least one"),
        ({"role": "user", "content": "a"}, "a list"),
        ([{"role": "user"}], "message 0 has no content"),
        ([{"role": "user", "content": []}], "message 0 has no content"),
        ([{"role": "usr", "content": "a"}], "did you mean 'user'"),
        (
            [{"role": "user", "content": [{"type": "video", "video": "x"}]}],
            "message 0 has the part",
        ),
        ([user("a")], "no assistant's turn"),
    ],
)
def test_bad_conversations_get_a_sentence(processor, messages, says):
    with pytest.raises(WingsError, match=says):
        processor.encode(messages)


def test_an_unreadable_image_is_named(processor):
    messages = [{"role": "user", "content": [{"type": "image", "url": "/nowhere/cat.png"}]}]
    with pytest.raises(WingsError, match=r"row 1: image '/nowhere/cat\.png' does not exist"):
        processor.apply_chat_template([[user("a")], messages])


def test_nothing_to_answer(processor):
    with pytest.raises(WingsError, match="nothing to answer"):
        processor.apply_chat_template([user("a"), assistant("b")], add_generation_prompt=True)
    continued = processor.apply_chat_template(
        [user("a"), assistant("the le")], continue_final_message=True, tokenize=False
    )
    assert continued.endswith("assistant\nthe le")


def test_templates_that_say_no():
    with pytest.raises(WingsError, match="System role not supported"):
        make_processor(GEMMA).encode(
            [{"role": "system", "content": "a"}, user("b"), assistant("c")]
        )
    with pytest.raises(WingsError, match="roles must alternate"):
        make_processor(MISTRAL).encode([user("b"), user("c"), assistant("d")])
    bare = WingsProcessor.from_vision_text_pretrained(TINY, train_tokenizer())
    with pytest.raises(WingsError, match=r"set processor\.chat_template"):
        bare.encode([user("b"), assistant("c")])
    drops = "{% for m in messages %}{{ m['role'] }}{% endfor %}"
    with pytest.raises(WingsError, match="writes 0 <image> for 1 images"):
        make_processor(drops).encode([user(picture()), assistant("c")])


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


def test_a_long_text_is_one_row(processor):
    text = "a red circle 中🙂 " * 5000
    row = processor.encode([user(text), assistant(text)])
    assert learned(processor, row) == [f"{text}<|im_end|>"]
