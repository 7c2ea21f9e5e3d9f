"""The id of `<image>`: model and processor come to the same one, and a difference is named."""

import copy
import json
from collections import Counter

import pytest
from processors import SPECIAL, TINY, ask, picture, train_tokenizer, user
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import AutoModelForCausalLM, AutoProcessor, AutoTokenizer, LlamaConfig
from transformers import PreTrainedTokenizerFast as FastTokenizer

from wings.errors import WingsError
from wings.model.causal_lm import WingsForCausalLM
from wings.processing.image_token import add_image_token
from wings.processing.processor import WingsProcessor

CHATML = """{% for m in messages %}<|im_start|>{{ m.role }}
{{ m.content }}<|im_end|>
{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant
{% endif %}"""
LLM = {
    "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 1, "num_attention_heads": 2,
    "num_key_value_heads": 2, "max_position_embeddings": 128,
}  # fmt: skip


def llm(folder, vocab_size, change=None, special=SPECIAL):
    """A folder with a random LLM of this many embeddings, and a tokenizer that may be changed."""
    tokenizer = train_tokenizer(special)
    tokenizer.chat_template = CHATML
    config = LlamaConfig(vocab_size=vocab_size, **LLM)
    AutoModelForCausalLM.from_config(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    if change is not None:
        parts = json.loads((folder / "tokenizer.json").read_text())
        change(parts)
        (folder / "tokenizer.json").write_text(json.dumps(parts))
    return folder


def prune(parts):
    """Three words of the vocabulary are gone; ids stay as they are."""
    words = parts["model"]["vocab"]
    gone = {word for word, number in words.items() if number in (100, 101, 102)}
    parts["model"]["vocab"] = {word: n for word, n in words.items() if word not in gone}
    parts["model"]["merges"] = [pair for pair in parts["model"]["merges"] if not gone & {*pair}]


def gap(parts):
    """The last token is far behind the others."""
    number = len(parts["model"]["vocab"]) + 9
    parts["model"]["vocab"]["<|turn|>"] = number
    token = {"id": number, "content": "<|turn|>", "special": True}
    token |= dict.fromkeys(("single_word", "lstrip", "rstrip", "normalized"), False)
    parts["added_tokens"].append(token)


def has_image(parts):
    parts["model"]["vocab"]["<image>"] = len(parts["model"]["vocab"])


def plain_tokenizer(folder):
    return AutoTokenizer.from_pretrained(folder)


def add_point(folder):
    tokenizer = plain_tokenizer(folder)
    tokenizer.add_tokens(["<point>"])
    return tokenizer


SIZE = len(train_tokenizer())


@pytest.mark.parametrize("change", [None, prune, gap, has_image])
@pytest.mark.parametrize("vocab_size", [SIZE, SIZE + 10, SIZE + 64])
@pytest.mark.parametrize("how", ["names", "object", "token added"])
def test_model_and_processor_agree(tmp_path, change, vocab_size, how):
    if change in (gap, has_image) and vocab_size == SIZE:
        pytest.skip("the LLM has no embedding for its last token")
    folder = llm(tmp_path / "llm", vocab_size, change)
    text, tokenizer = str(folder), str(folder)
    if how == "object":
        text = AutoModelForCausalLM.from_pretrained(folder)
        text.config._name_or_path = text.name_or_path = ""
        if change is has_image:
            pytest.skip("such a model cannot know the tokenizer's token")
    if how == "token added":
        if vocab_size == SIZE:
            pytest.skip("the LLM has no embedding for another token")
        tokenizer = add_point(folder)
    model = WingsForCausalLM.from_vision_text_pretrained(TINY, text, rank=4)
    processor = WingsProcessor.from_vision_text_pretrained(TINY, tokenizer)
    number = processor.image_token_id
    assert model.config.image_token_id == number
    vocabulary = processor.tokenizer.get_vocab()
    assert [word for word, n in vocabulary.items() if n == number] == ["<image>"]
    batch = ask(processor, [user(picture(), "a red circle on the left")])
    assert (batch["input_ids"] == number).sum() == 4
    model.generate(**batch, max_new_tokens=2)
    # A copy, because copying a tokenizer with gaps may give added tokens other ids.
    given = add_point(folder) if how == "token added" else plain_tokenizer(folder)
    before = copy.deepcopy(given).get_vocab()
    times = Counter(before.values())
    before = {word: number for word, number in before.items() if times[number] == 1}
    assert {word: vocabulary.get(word) for word in before} == before
    # Every word reads as before.
    plain = plain_tokenizer(folder)
    for words in ("a red circle on the left of the image", "what is it?"):
        assert processor.tokenizer(words)["input_ids"] == plain(words)["input_ids"]
    model.save_pretrained(tmp_path / "saved")
    processor.save_pretrained(tmp_path / "saved")
    for loaded in (WingsProcessor, AutoProcessor):
        again = loaded.from_pretrained(tmp_path / "saved")
        assert again.image_token_id == number
        assert ask(again, [user(picture(), "x")])["input_ids"].max() >= number


@pytest.mark.parametrize("name", ["image_token_id", "image_seq_length"])
def test_a_checkpoint_of_two_models_is_refused(tmp_path, name):
    folder = llm(tmp_path / "llm", SIZE + 10)
    model = WingsForCausalLM.from_vision_text_pretrained(TINY, str(folder), rank=4)
    processor = WingsProcessor.from_vision_text_pretrained(TINY, str(folder))
    model.save_pretrained(tmp_path / "saved")
    processor.save_pretrained(tmp_path / "saved")
    fields = json.loads((tmp_path / "saved" / "config.json").read_text())
    fields[name] += 1
    (tmp_path / "saved" / "config.json").write_text(json.dumps(fields))
    for loaded in (WingsProcessor, AutoProcessor):
        with pytest.raises(WingsError, match=rf"{name} is {fields[name]} in the model's"):
            loaded.from_pretrained(tmp_path / "saved")


def test_vocabularies_of_every_kind():
    """Whatever makes the ids, the new one is free, or the tokenizer is refused."""
    words = {"a": 0, "<unk>": 1, "b": 7}
    pieces = [("<unk>", 0.0), ("a", -1.0), ("b", -2.0)]
    kinds = {
        "words": models.WordLevel(words, unk_token="<unk>"),
        "pieces": models.WordPiece(words, unk_token="<unk>"),
        "merges": models.BPE(words, [], unk_token="<unk>"),
        "unigram": models.Unigram(pieces, 0),
    }
    for name, kind in kinds.items():
        core = Tokenizer(kind)
        core.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
        tokenizer = FastTokenizer(tokenizer_object=core, unk_token="<unk>")
        before = tokenizer.get_vocab()
        number = add_image_token(tokenizer)
        assert number not in before.values() and number > max(before.values()), name
        got = tokenizer("a<image>b", add_special_tokens=False)["input_ids"]
        assert got == [before["a"], number, before["b"]], name
        assert add_image_token(tokenizer, 999) == number, "it has one already"


def test_a_word_is_never_the_image():
    """A tokenizer whose ids cannot be chosen, with a gap: refused, not silently wrong."""

    class Odd:
        """Gives a new token the id of a word, as slow tokenizers with gaps do."""

        added = False

        def get_vocab(self):
            return {"a": 0, "b": 2} | ({"<image>": 2} if self.added else {})

        def get_added_vocab(self):
            return {}

        def add_tokens(self, *_, **__):
            self.added = True

    with pytest.raises(WingsError, match="which 'b' has"):
        add_image_token(Odd())
