"""The end of an assistant's turn: one token, which training teaches and at which `generate` stops.

Most templates write it in the turn (`<|im_end|>`). Some end a turn by the header of the next
message alone; then the first token of that header is learned as the end.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor
from transformers import GenerationConfig, PreTrainedTokenizerBase

from wings.errors import WingsError

from .tokenization import IGNORED

Encode = Callable[[list[dict]], Mapping[str, Tensor]]
# Two answers that end in different tokens.
ANSWERS = ("yes", "no 7")


@dataclass(frozen=True)
class TurnEnd:
    """The token that ends an assistant's turn.

    Attributes:
        id: of the token.
        token: its letters.
        is_own: the template writes it in the turn; else it begins the next message's header.
    """

    id: int
    token: str
    is_own: bool


def find_turn_end(tokenizer: PreTrainedTokenizerBase, encode: Encode) -> TurnEnd | None:
    """Returns the end of a turn, or None for a template that ends no turn by a control token.

    Args:
        tokenizer: of the template.
        encode: messages -> `input_ids` and `labels` [T], as the template alone says.
    """
    user = {"role": "user", "content": "1"}
    runs: list[list[int]] = []
    following: int | None = None
    try:
        for answer in ANSWERS:
            turn = {"role": "assistant", "content": answer}
            row = encode([user, turn, user, turn])
            ids, labels = row["input_ids"].tolist(), row["labels"].tolist()
            start, end = next(trained_runs(labels))
            runs.append(ids[start:end])
            following = ids[end] if end < len(ids) else None
    except (WingsError, StopIteration):
        # A template that refuses such a talk, or one without anything learned: nothing is known.
        return None
    special = {*tokenizer.all_special_ids, *tokenizer.get_added_vocab().values()}
    shared: list[int] = []
    for one, other in zip(*map(reversed, runs), strict=False):
        if one != other:
            break
        shared.insert(0, one)
    for token in shared:
        if token in special:
            return TurnEnd(token, str(tokenizer.convert_ids_to_tokens(token)), True)
    if following is not None and following in special and not shared:
        return TurnEnd(following, str(tokenizer.convert_ids_to_tokens(following)), False)
    return None


def trained_runs(labels: list[int]) -> Iterator[tuple[int, int]]:
    """Yields `(start, end)` of each run of trained tokens."""
    start = None
    for place, label in enumerate([*labels, IGNORED]):
        if label != IGNORED and start is None:
            start = place
        elif label == IGNORED and start is not None:
            yield start, place
            start = None


def learn_end(row: dict[str, Tensor], end: TurnEnd | None, most: int | None) -> dict[str, Tensor]:
    """Returns a row in which every turn's end is learned.

    Args:
        row: `input_ids`, `labels` [T].
        end: of a turn; where the template writes it, or there is none, the row is returned as is.
        most: tokens that a row may have; a row of that length gets no end after its last turn.
    """
    if end is None or end.is_own:
        return row
    ids, labels = row["input_ids"].clone(), row["labels"].clone()
    for _, after in list(trained_runs(labels.tolist())):
        if after < len(ids):
            # Another role's header is no end that `generate` stops at.
            if int(ids[after]) == end.id:
                labels[after] = end.id
        elif most is None or len(ids) < most:
            last = torch.tensor([end.id])
            ids, labels = torch.cat([ids, last]), torch.cat([labels, last])
    return {**row, "input_ids": ids, "labels": labels}


def stops_of(generation_config: GenerationConfig | None) -> list[int]:
    """The ids at which `generate` stops."""
    ids = None if generation_config is None else generation_config.eos_token_id
    return [] if ids is None else [ids] if isinstance(ids, int) else list(ids)


def settle_turn_end(generation_config: GenerationConfig, end: TurnEnd | None) -> str | None:
    """Lets `generate` stop at what is learned; returns a sentence where the two differed."""
    stops = stops_of(generation_config)
    if end is None:
        return (
            "The chat template ends an assistant's turn by no control token, so nothing is learned "
            "about stopping: add the language model's end of turn after the assistant's content."
        )
    if end.id in stops:
        return None
    generation_config.eos_token_id = [*stops, end.id]
    return (
        f"Training teaches {end.token!r} ({end.id}) as the end of a turn, but the language model's "
        f"generation_config stops at {stops or 'nothing'}: the finished model stops at both."
    )
