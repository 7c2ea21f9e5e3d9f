"""IIT: what is built from any two sets of items, and in which order."""

import random
from collections import Counter
from dataclasses import replace

import pytest
import torch
from draws import examples
from hypothesis import given
from hypothesis import strategies as st
from transformers import LlamaConfig, LlamaForCausalLM

from wings.errors import WingsError
from wings.eval.iit import KINDS, build_iit, embed_texts, question_of, write_iit
from wings.eval.items import Item, pictures_of, read_items
from wings.eval.scoring.score import score

LETTERS = "abcdef"


def text_item(asked, answer="yes"):
    return Item("text", ({"role": "user", "content": asked},), answer)


def picture_item(asked, path="img/1.png", answer="red"):
    parts = [{"type": "image", "image": path}, {"type": "text", "text": asked}]
    return Item("see", ({"role": "user", "content": parts},), answer)


def counts(texts):
    """How often each letter is in a text, as a unit vector: many ties."""
    rows = torch.tensor([[text.count(letter) for letter in LETTERS] for text in texts]).double()
    return torch.nn.functional.normalize(rows, dim=-1)


def random_sets(seed, text=14, pictures=9):
    draw = random.Random(seed)

    def word():
        return "".join(draw.choice(LETTERS) for _ in range(draw.randint(1, 3)))

    return [text_item(word()) for _ in range(text)], [picture_item(word()) for _ in range(pictures)]


@examples(60)
@given(
    seed=st.integers(0, 10_000), size=st.integers(1, 5), uses=st.integers(3, 5), draw=st.integers()
)
def test_every_conversation_is_as_promised(seed, size, uses, draw):
    text, pictures = random_sets(seed)
    try:
        built = build_iit(text, pictures, counts, size=size, uses=uses, seed=draw)
    except WingsError as error:
        # Few letters make few different questions.
        assert "raise uses" in str(error)
        return
    sets = {"text": text, "pictures": pictures}
    assert [one.kind for one in built] == [kind for kind in KINDS for _ in range(size)]
    scored = {kind: [one.turns[-1] for one in built if one.kind == kind] for kind in KINDS}
    for kind, turns in scored.items():
        # The same items, in the same order, in every kind that ends alike; none twice.
        assert turns == scored["T" if kind.endswith("T") else "V"]
        assert len(set(turns)) == size
        before = Counter(turn for one in built if one.kind == kind for turn in one.turns[:-1])
        assert all(count <= uses for count in before.values())
    for one in built:
        names = ["text" if letter == "T" else "pictures" for letter in one.kind.split(",")]
        assert [name for name, _ in one.turns] == names
        items = [sets[name][number] for name, number in one.turns]
        assert len({question_of(item) for item in items}) == len(items)
        assert one.item.answer == items[-1].answer
        assert one.item.messages[-1] == items[-1].messages[-1]
        roles = [message["role"] for message in one.item.messages]
        assert roles == ["user", "assistant"] * (len(items) - 1) + ["user"]
        answers = [m["content"] for m in one.item.messages if m["role"] == "assistant"]
        assert answers == [item.answer for item in items[:-1]]
    # One turn more, the others as they were.
    by_kind = {kind: [one.turns for one in built if one.kind == kind] for kind in KINDS}
    for short, long in (("T", "T,T"), ("T,T", "T,T,T"), ("V", "T,V"), ("T,V", "T,T,V")):
        assert by_kind[short] == [turns[1:] for turns in by_kind[long]]


def test_the_nearest_stands_next_and_ties_go_to_the_earlier():
    text = [text_item(word) for word in ("ab", "c", "abc", "ba", "f", "d")]
    pictures = [picture_item("abcc"), picture_item("ddd")]
    built = build_iit(text, pictures, counts, size=2, uses=2)
    turns = {one.turns for one in built if one.kind == "T,T,V"}
    # "abc" is nearest to "abcc", then "c"; to "ddd" is "d", then all others alike: the first.
    assert turns == {
        (("text", 1), ("text", 2), ("pictures", 0)), (("text", 0), ("text", 5), ("pictures", 1)),
    }  # fmt: skip


def test_a_question_is_never_matched_with_its_own_words():
    text = [
        text_item("ab"),
        text_item("ab", "no"),
        text_item(" ab "),
        text_item("c"),
        text_item("d"),
    ]
    for one in build_iit(text, [picture_item("ab")] * 5, counts, uses=5):
        if len(one.turns) > 1:
            assert all(number >= 3 for _, number in one.turns[:-1]) or question_of(one.item) != "ab"
            asked = [m["content"] for m in one.item.messages if m["role"] == "user"]
            texts = [t if isinstance(t, str) else t[-1]["text"] for t in asked]
            assert len({text.strip() for text in texts}) == len(texts)


def test_the_same_seed_gives_the_same_file(tmp_path):
    text, pictures = random_sets(3)
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        write_iit(build_iit(text, pictures, counts, uses=5, seed=seed), tmp_path / f"{name}.jsonl")
    a, b, c = ((tmp_path / f"{name}.jsonl").read_bytes() for name in "abc")
    assert a == b != c


def test_the_file_is_read_as_items_with_its_pictures(tmp_path):
    pictures = [picture_item(word, str(tmp_path / "img" / f"{word}.png")) for word in "abc"]
    text = [text_item(word) for word in ("ab", "bc", "ca", "def")]
    built = build_iit(text, pictures, counts, uses=3)
    path = tmp_path / "deep" / "iit.jsonl"
    write_iit(built, path)
    read = read_items(path)
    assert [(item.kind, item.answer) for item in read] == [
        (one.kind, one.item.answer) for one in built
    ]
    for item, one in zip(read, built, strict=True):
        assert question_of(item) == question_of(one.item)
        if one.kind.endswith("V"):
            found = item.messages[-1]["content"][0]["image"]
            assert (tmp_path / "deep" / found).resolve().parent == tmp_path / "img"
            # Nothing of this machine is in the file, so that the folder can be moved.
    assert str(tmp_path) not in path.read_text(encoding="utf-8")


def test_the_last_turn_is_scored_as_its_item_is(tmp_path):
    """Choices stay choices, and a picture within its record stays there."""
    drawn = "data:image/png;base64,AAAA"
    pictures = [
        replace(picture_item(word, drawn), scoring="choice", choices=("red", "blue"))
        for word in "abc"
    ]
    checks = ({"rule": "words", "at_most": 2},)
    text = [replace(text_item(w), scoring="checks", checks=checks) for w in ("ab", "bc", "ca", "d")]
    write_iit(build_iit(text, pictures, counts, uses=3), tmp_path / "iit.jsonl")
    for item in read_items(tmp_path / "iit.jsonl"):
        if item.kind.endswith("V"):
            assert (item.scoring, item.choices) == ("choice", ("red", "blue"))
            assert pictures_of(item) == [drawn] and score(item, "A") == 1
        else:
            assert score(item, "two words") == 1 and score(item, "more than two") == 0


def test_it_is_told_how_far_it_is():
    text, pictures = random_sets(3)
    told = []
    build_iit(text, pictures, counts, size=3, uses=5, progress=lambda *what: told.append(what))
    assert told == [
        (f"turns before {name}", done, 3) for name in ("text", "pictures") for done in range(4)
    ]


def test_embeddings_of_a_model():
    class Characters:
        def encode(self, text, add_special_tokens):
            return [LETTERS.index(letter) for letter in text]

    torch.manual_seed(0)
    model = LlamaForCausalLM(
        LlamaConfig(vocab_size=6, hidden_size=16, num_hidden_layers=1, num_attention_heads=2)
    )
    vectors = embed_texts(model, Characters(), ["ab", "ba", "abb", "f", "", "ab"])
    assert vectors.dtype == torch.float64
    assert torch.equal(vectors[0], vectors[5])
    near = vectors @ vectors[0]
    assert near[1] == pytest.approx(1) and near[2] > near[3]
    torch.testing.assert_close(vectors.norm(dim=-1), torch.ones(6).double())
    assert embed_texts(model, Characters(), ["a", "a"]).abs().max() == 0


def test_what_cannot_be_built_is_said(tmp_path):
    text, pictures = [text_item(letter) for letter in LETTERS], [picture_item("ab")]
    with pytest.raises(WingsError, match="Item 1 of text has a picture"):
        build_iit([text[0], pictures[0]], pictures, counts)
    with pytest.raises(WingsError, match="Item 0 of pictures has no picture"):
        build_iit(text, text, counts)
    with pytest.raises(WingsError, match="size is 2, but pictures has 1 items"):
        build_iit(text, pictures, counts, size=2)
    with pytest.raises(WingsError, match="size is 0"):
        build_iit([], pictures, counts)
    with pytest.raises(WingsError, match="raise uses"):
        build_iit(text[:2], pictures, counts)
    system = Item("all", ({"role": "system", "content": "s"}, *text[0].messages), "a")
    with pytest.raises(WingsError, match="Item 0 of text has a system message"):
        build_iit([system], pictures, counts)
    drawn = picture_item("ab", path=object())
    with pytest.raises(WingsError, match="A picture is of type object"):
        write_iit(build_iit(text, [drawn], counts), tmp_path / "x.jsonl")


def test_the_defaults_suffice_for_two_sets_of_one_size():
    text = [text_item(f"{letter}{'a' * n}") for letter in "bcdef" for n in range(8)]
    pictures = [picture_item(letter) for letter in LETTERS for _ in range(7)][:40]
    assert len(build_iit(text, pictures, counts)) == 6 * 40
