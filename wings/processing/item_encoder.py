"""`ItemEncoder`: the items of one sense for a processor, and their placeholder in a text."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from wings.errors import WingsError
from wings.sense import IMAGE, values_name

from .audio_length import seconds_of
from .audio_processor import WingsAudioProcessor, flatten_sounds
from .image_processor import WingsImageProcessor, flatten_images
from .video_parts import VIDEO, flatten_videos

AUDIO = "audio"
# transformers' numbers of the kinds of tokens; text is 0.
TYPE_IDS = {IMAGE: 1, AUDIO: 3}
_NOUNS = {IMAGE: ("an image", "images"), AUDIO: ("a sound", "sounds"), VIDEO: ("a video", "videos")}


@dataclass(frozen=True)
class ItemEncoder:
    """The items of one sense; one source may be several of them, such as stretches of a sound.

    Attributes:
        sense: `"image"` or `"audio"`.
        token_id: of its placeholder, written `seq_length` times per item.
        seq_length: features per item.
        processor: from sources to values.
    """

    sense: str
    token_id: int
    seq_length: int
    processor: Any

    @property
    def token(self) -> str:
        """The placeholder of one source in a text."""
        return token_of(self.sense)

    @property
    def values_name(self) -> str:
        """The model's tensor with all items of the sense."""
        return values_name(self.sense)

    def load(self, source: Any) -> Any:
        """A source as `count` and `values` take it; a sound is read, as its length counts."""
        return source if self.sense == IMAGE else self.processor([source])[0]

    def count(self, loaded: Any) -> int:
        """Items of one source."""
        return 1 if self.sense == IMAGE else len(loaded)

    def estimate(self, source: Any) -> int:
        """Items of a source that is not loaded, by its header; 1 where that is not known."""
        seconds = None if self.sense == IMAGE else seconds_of(source)
        return 1 if seconds is None else max(1, math.ceil(seconds / self.processor.seconds))

    def values(self, loaded: list) -> dict[str, Tensor]:
        """All items of some sources, `[N, *item shape]` float32, by name; none without sources."""
        if not loaded:
            return {}
        if self.sense == IMAGE:
            return dict(self.processor(loaded))
        return {self.values_name: torch.cat(loaded)}


def token_of(sense: str) -> str:
    """The letters of a sense's placeholder, such as `<image>`."""
    return f"<{sense}>"


def make_item_processor(sense: str, encoder: Mapping[str, Any]) -> Any:
    """The processor of the items of a sense whose encoder has this configuration.

    Raises:
        WingsError: a sense whose sources no processor here reads.
    """
    if sense == IMAGE:
        return WingsImageProcessor.from_vision_config(encoder)
    if sense == AUDIO:
        return WingsAudioProcessor.from_audio_config(encoder)
    raise WingsError(
        f"No processor here reads sources of the sense {sense!r}: make its values yourself and "
        f"give them to the model as {sense}_values."
    )


def flatten(sense: str, sources: Any) -> list:
    """Lists the sources of a sense, or of videos, in any nesting of lists, in reading order."""
    flat = {IMAGE: flatten_images, VIDEO: flatten_videos}.get(sense, flatten_sounds)
    return flat(sources)


def check_counts(places: Sequence[int], sources: Any, sense: str = IMAGE) -> None:
    """Raises a `WingsError` where the number of sources differs from that of their places.

    Args:
        places: per row of a batch, how many sources it needs.
        sources: in any nesting; with one list per row, each row is checked alone.
        sense: of the sources, or `"video"`.

    Raises:
        WingsError: both counts, and the row where it is known.
    """
    given = [len(flatten(sense, sources))]
    # A tuple may be one sound, its samples and their rate.
    lists = (list, tuple) if sense == IMAGE else (list,)
    if isinstance(sources, lists) and len(sources) == len(places):
        by_row = [len(flatten(sense, one)) for one in sources if isinstance(one, lists)]
        given = by_row if len(by_row) == len(places) else given
    wanted = places if len(given) == len(places) else [sum(places)]
    for row, (place_count, count) in enumerate(zip(wanted, given, strict=True)):
        if place_count != count:
            where = f"Row {row}" if len(wanted) > 1 else "The text"
            noun, many = _NOUNS.get(sense, (f"an item of {sense}", f"items of {sense}"))
            raise WingsError(
                f"{where} has {place_count} places for {noun} without a source and {count} {many} "
                f"were given; a place is {token_of(sense)} in plain text and a "
                f"{{'type': '{sense}'}} part in chat messages."
            )


def type_ids(input_ids: Tensor, token_ids: Mapping[str, int]) -> Tensor:
    """transformers' number of the kind of each token, `[T]`."""
    kinds = torch.zeros_like(input_ids)
    for name, number in token_ids.items():
        kinds[input_ids == number] = TYPE_IDS.get(name, 0)
    return kinds
