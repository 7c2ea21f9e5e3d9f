"""Gives a token of a tokenizer an id of choice, and takes one out, which transformers cannot do."""

import json
from typing import Any

from tokenizers import Tokenizer
from transformers import PreTrainedTokenizerBase

from .contract import Contract


def place_token(tokenizer: PreTrainedTokenizerBase, token: str, number: int) -> bool:
    """Put a token into the vocabulary with this id; it is not added as a special token.

    Relied on since tokenizers 0.22: the JSON of a tokenizer has a dict `model.vocab` of ids, except
    for models without ids of their own (Unigram). Relied on since transformers 5.17: `_tokenizer`
    is the tokenizer that `backend_tokenizer` returns.

    Returns:
        False for a tokenizer without such a vocabulary, which is unchanged.
    """
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is None:
        return False
    parts = json.loads(backend.to_str())
    vocabulary = parts["model"].get("vocab")
    if not isinstance(vocabulary, dict) or number in vocabulary.values():
        return False
    # Added tokens outside of the vocabulary are numbered anew when a tokenizer is read.
    used = {*vocabulary.values()}
    for one in parts["added_tokens"]:
        # Where the words' ids have gaps, an added token may have got the id of a word.
        if one["id"] not in used:
            vocabulary.setdefault(one["content"], one["id"])
    vocabulary[token] = number
    tokenizer._tokenizer = Tokenizer.from_str(json.dumps(parts))
    return True


def remove_token(tokenizer: PreTrainedTokenizerBase, token: str) -> bool:
    """Take an added token out of a tokenizer in place; its letters are encoded as any text then.

    Relied on as in `place_token`; the JSON also has a list `added_tokens` with their `content`.

    Returns:
        False for a tokenizer that is not a fast one, which is unchanged.
    """
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is None:
        return False
    parts = json.loads(backend.to_str())
    parts["added_tokens"] = [one for one in parts["added_tokens"] if one["content"] != token]
    vocabulary = parts["model"].get("vocab")
    if isinstance(vocabulary, dict):
        vocabulary.pop(token, None)
    tokenizer._tokenizer = Tokenizer.from_str(json.dumps(parts))
    return True


def _check_place() -> None:
    """A placed token has its id, and so it has once it is added as a special one."""
    from tokenizers import models
    from transformers import AddedToken, PreTrainedTokenizerFast

    core: Any = Tokenizer(models.WordLevel({"a": 0, "<unk>": 7}, unk_token="<unk>"))
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=core, unk_token="<unk>")
    assert place_token(tokenizer, "<x>", 30), "its vocabulary is not found"
    tokenizer.add_tokens([AddedToken("<x>", special=True)], special_tokens=True)
    assert tokenizer("a<x>")["input_ids"] == [0, 30], "the token has another id"
    assert remove_token(tokenizer, "<x>") and "<x>" not in tokenizer.get_vocab(), "it stays"


CONTRACTS = (
    Contract(
        library="transformers",
        since="5.17",
        sentence="a fast tokenizer is its attribute _tokenizer, whose JSON has the ids of a "
        "vocabulary in model.vocab and the content of added tokens in added_tokens",
        members=("transformers:PreTrainedTokenizerFast.backend_tokenizer",),
        check=_check_place,
    ),
)
