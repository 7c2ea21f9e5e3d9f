"""`EvalSense`: a sense, or several together, in the words and names of an evaluation."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from wings.processing.item_encoder import AUDIO
from wings.records.formats import items_of
from wings.sense import IMAGE


@dataclass(frozen=True)
class EvalSense:
    """Words of reports, and keys of report.json.

    Attributes:
        names: of the senses, in the order of `SENSES`.
        one, many: of its items in figures, such as "an image" and "images".
        noun, nouns: of its items in files, such as "picture" and "pictures".
        gain: what a model with the sense does, such as "seeing".
        verb: what it does to an item, such as "see".
        preamble: text before an item that starts a conversation, for the attention shift.
        placeholder: words in an item's place for a model without the sense.
    """

    names: tuple[str, ...]
    one: str
    many: str
    noun: str
    nouns: str
    gain: str
    verb: str
    preamble: str
    placeholder: str

    @property
    def key(self) -> str:
        """In names of measurements: `image`, `audio`, `image_audio`."""
        return "_".join(self.names)

    @property
    def noun_in_words(self) -> str:
        """`one` without its article: `image`, `sound`."""
        return self.one.split(" ", 1)[1]

    @property
    def suffix(self) -> str:
        """Ends the names of measurements that have none of the sense: "" for images alone."""
        return "" if self.names == (IMAGE,) else f"_{self.key}"

    @property
    def questions(self) -> str:
        """Option of `wings eval`, and measurement, of the questions about its items."""
        return self.nouns

    @property
    def conversations(self) -> str:
        """Measurement of conversations with its items whose last question is about text."""
        return f"conversations{self.suffix}"

    @property
    def after(self) -> str:
        """Measurement of these questions by kind, alone and after the items."""
        return f"after_{self.key}"

    @property
    def attention(self) -> str:
        """Measurement of the attention shift."""
        return f"attention{self.suffix}"

    @property
    def drift(self) -> str:
        """Measurement of the drift after its items."""
        return f"drift_after_{self.key}"


SEEN = EvalSense(
    (IMAGE,), "an image", "images", "picture", "pictures", "seeing", "see",
    "Look at the picture, then answer the question.", "[a picture]",
)  # fmt: skip
HEARD = EvalSense(
    (AUDIO,), "a sound", "sounds", "sound", "sounds", "hearing", "hear",
    "Listen to the sound, then answer the question.", "[a sound]",
)  # fmt: skip
SENSES = {IMAGE: SEEN, AUDIO: HEARD}


def together(names: Sequence[str]) -> EvalSense:
    """The words of one sense, or of several whose items are in the same conversations."""
    senses = [SENSES[name] for name in names]
    if len(senses) == 1:
        return senses[0]
    joined = {
        field: " and ".join(getattr(sense, field) for sense in senses)
        for field in ("one", "many", "nouns", "gain", "verb")
    }
    first, noun = senses[0], " and a ".join(sense.noun for sense in senses)
    return EvalSense(
        tuple(names), noun=noun, preamble=first.preamble, placeholder=first.placeholder, **joined
    )


def names_in(messages: Iterable[Mapping[str, Any]]) -> tuple[str, ...]:
    """The senses of a conversation's items, in the order of `SENSES`."""
    found = {kind for kind, _ in items_of(messages)}
    return tuple(name for name in SENSES if name in found)


# Every set of senses that a conversation can have.
EVERY = (SEEN, HEARD, together((IMAGE, AUDIO)))
