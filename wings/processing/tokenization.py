"""Turns rendered text into token ids and labels, expands placeholders and pads rows."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate, pairwise

import torch
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from wings.errors import WingsError
from wings.sense import VALUES

from .conversation import IMAGES_ONLY, Span
from .typed_letters import TypedLetters

IGNORED = -100
# Padding of a row's tensors, where it is not 0.
_FILLS = {"labels": IGNORED}


@dataclass(frozen=True)
class Places:
    """The placeholders of one sense in a text.

    Attributes:
        token_id: of the placeholder; below 0 where it has none.
        lengths: how often the id is written for each placeholder, in reading order.
    """

    token_id: int
    lengths: Iterable[int]


# Text around a piece, for tokenizers that put a space before every text.
_ANCHORS = ("\n", ".", "a")


def tokenize(
    tokenizer: PreTrainedTokenizerBase,
    text: str,
    spans: Sequence[Span] | None,
    places: Mapping[str, Places],
    add_special_tokens: bool = False,
    letters: TypedLetters = IMAGES_ONLY,
) -> tuple[list[int], list[int]]:
    """Returns ids and labels of a text.

    A prompt is tokenised without the answer that follows it, so text is cut at the borders of the
    spans wherever the tokenizer would join letters of both sides.

    Args:
        tokenizer: has placeholders as tokens of its own.
        text: `<image>` stands for an image, a stand-in for a token that someone typed.
        spans: letters [start, end) to learn; None for no labels.
        places: by placeholder.
        add_special_tokens: the tokenizer's own, around the text; a BOS is not written twice.
        letters: the tokens that may have been typed.

    Returns:
        ids, and labels of the same length (-100 where nothing is learned, and for items).

    Raises:
        WingsError: a tokenizer that splits a placeholder, or that cannot be cut at a span.
    """
    text, written = letters.restore(text)
    number_of = {token: _id(tokenizer, token) for token in letters.tokens}
    number_of |= {token: one.token_id for token, one in places.items()}
    lengths = {token: iter(one.lengths) for token, one in places.items()}
    has_typed = any(is_typed for _, is_typed in written)
    watched = [token for token in letters.tokens if has_typed or token in places]
    watched = [token for token in watched if number_of[token] >= 0]
    written = [(token, is_typed) for token, is_typed in written if token in watched]
    cuts = [letter for span in spans or () for letter in span]
    ids = _ids(tokenizer, [text], add_special_tokens)[0]
    if add_special_tokens and len(ids) > 1 and ids[0] == ids[1] == tokenizer.bos_token_id:
        del ids[0]
    ids, bounds = _cut(tokenizer, text, ids, cuts)
    learned = [False] * len(ids)
    for start, end in zip(bounds[::2], bounds[1::2], strict=True):
        learned[start:end] = [True] * (end - start)

    numbers = {number_of[token] for token in watched}
    if [number_of[token] for token, _ in written] != [one for one in ids if one in numbers]:
        for token, place in places.items():
            read = sum(one == place.token_id for one in ids)
            count = sum(one == token for one, _ in written)
            if read != count or len(places) == 1:
                raise WingsError(
                    f"The tokenizer reads {read} of {count} {token} as one token, or joins other "
                    "special tokens with letters; add it as a special token."
                )
        raise WingsError("The tokenizer joins special tokens with letters; add them as special.")
    kinds = iter(written)
    out, labels = [], []
    for number, learn in zip(ids, learned, strict=True):
        if number not in numbers:
            new = [number]
        else:
            token, is_typed = next(kinds)
            if is_typed:
                # Tokenised in two parts, so that the letters do not become the token.
                new = [part for piece in _ids(tokenizer, [token[:1], token[1:]]) for part in piece]
            elif token in places:
                new, learn = [number] * next(lengths[token]), False
            else:
                new = [number]
        out += new
        labels += new if learn else [IGNORED] * len(new)
    return out, labels


def pad_rows(
    rows: Sequence[Mapping[str, Tensor]],
    pad_id: int,
    padding_side: str,
    width: int | None = None,
) -> dict[str, Tensor]:
    """Pads rows `input_ids`, `labels` and others [T], `pixel_values` [n, 3, H, W] to one batch.

    Args:
        rows: all with the same keys, but for `pixel_values` and the items of other senses.
        pad_id: of `input_ids`; other tensors are padded with their own neutral value.
        padding_side: "left" or "right".
        width: tokens of the batch; default: of the longest row.

    Returns:
        `input_ids`, `attention_mask` [B, T] and the rows' other tensors of tokens [B, T],
        `pixel_values` [N, 3, H, W] and the like, of all rows in order where any row has them.

    Raises:
        WingsError: no rows, or a padding side that is neither "left" nor "right".
    """
    if padding_side not in ("left", "right"):
        raise WingsError(f"'padding_side' is {padding_side!r}; it must be 'left' or 'right'.")
    if not rows:
        raise WingsError("A batch needs at least one row.")
    lengths = [len(row["input_ids"]) for row in rows]
    longest = max(lengths) if width is None else width

    def padded(name: str) -> Tensor:
        fill = pad_id if name == "input_ids" else _FILLS.get(name, 0)
        batch = torch.full((len(rows), longest), fill, dtype=torch.long)
        for into, row, length in zip(batch, rows, lengths, strict=True):
            into[slice(longest - length, None) if padding_side == "left" else slice(length)] = row[
                name
            ]
        return batch

    rows = [{"attention_mask": torch.ones_like(row["input_ids"]), **row} for row in rows]
    names = [
        name
        for name in rows[0]
        if name not in ("input_ids", "attention_mask") and not VALUES.fullmatch(name)
    ]
    batch = {name: padded(name) for name in ("input_ids", "attention_mask", *names)}
    return batch | stacked_items(rows)


def stacked_items(rows: Sequence[Mapping[str, Tensor]]) -> dict[str, Tensor]:
    """The items of each sense, such as `pixel_values` [N, 3, H, W], of all rows in order."""
    names = dict.fromkeys(name for row in rows for name in row if VALUES.fullmatch(name))
    return {name: torch.cat([row[name] for row in rows if name in row]) for name in names}


def _ids(
    tokenizer: PreTrainedTokenizerBase, texts: list[str], add_special_tokens: bool = False
) -> list[list[int]]:
    # Not verbose: a row longer than the tokenizer's model_max_length is the caller's to judge.
    encoded = tokenizer(
        texts,
        add_special_tokens=add_special_tokens,
        return_attention_mask=False,
        verbose=False,
    )
    return [list(ids) for ids in encoded["input_ids"]]


def _cut(
    tokenizer: PreTrainedTokenizerBase, text: str, ids: list[int], cuts: list[int]
) -> tuple[list[int], list[int]]:
    """Returns ids of the text in which no token crosses a cut, and how many are before each cut.

    Args:
        tokenizer: of the ids.
        text: the whole text.
        ids: of the text in one piece.
        cuts: letters of the text, ascending.

    Raises:
        WingsError: the text cannot be put together of tokens of its pieces.
    """
    if not cuts:
        return ids, []
    pieces = [text[start:end] for start, end in pairwise([0, *cuts, len(text)])]
    parts = _ids(tokenizer, pieces)
    whole = [token for part in parts for token in part]
    if whole == ids:
        return ids, _counts(parts)
    # Some tokenizers put a space before every text, so a piece has other ids than within the text.
    # The text before a cut is the prompt that a model would continue, so compare that.
    prefixes = _ids(tokenizer, [text[:cut] for cut in cuts])
    if all(ids[: len(prefix)] == prefix for prefix in prefixes):
        return ids, [len(prefix) for prefix in prefixes]
    # A token crosses a cut. In use the prompt ends there, and the model answers in new tokens.
    want = _decoded(tokenizer, ids)
    for anchor in (None, *_ANCHORS):
        if anchor is not None:
            first, start = parts[0], _ids(tokenizer, [anchor])[0]
            after = _ids(tokenizer, [anchor + piece for piece in pieces[1:]])
            parts = [first, *(part[len(start) :] for part in after)]
        whole = [token for part in parts for token in part]
        if _decoded(tokenizer, whole) == want:
            return whole, _counts(parts)
    wrong = next(cut for cut, one in zip(cuts, prefixes, strict=True) if ids[: len(one)] != one)
    raise WingsError(
        f"The tokenizer joins {text[max(0, wrong - 12) : wrong]!r} and "
        f"{text[wrong : wrong + 12]!r} into one token, so the border of the assistant's turn is "
        "within a token; put a special token or a line break between them in the chat template."
    )


def _id(tokenizer: PreTrainedTokenizerBase, token: str) -> int:
    number = tokenizer.convert_tokens_to_ids(token)
    return number if isinstance(number, int) else -1


def _counts(parts: list[list[int]]) -> list[int]:
    return list(accumulate(len(part) for part in parts[:-1]))


def _decoded(tokenizer: PreTrainedTokenizerBase, ids: list[int]) -> str:
    text = tokenizer.decode(ids, skip_special_tokens=False, clean_up_tokenization_spaces=False)
    return str(text)
