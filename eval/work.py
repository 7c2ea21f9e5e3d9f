"""The common ground of all measurements: who does the work, what is kept, how it is shown."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from .answers import answer_items, batches_of
from .fingerprint import fingerprint, item_fingerprint
from .items import Item
from .kept import Kept
from .ranks import Ranks
from .subject import Subject

Tell = Callable[[str, int, int], None]  # what is done, how much of it, of how much


def nothing(what: str, done: int, total: int) -> None:
    """Shows no progress."""


@dataclass(frozen=True)
class Work:
    """How measurements are made.

    Attributes:
        ranks: the processes that share the work.
        kept: what is measured already.
        batch_size: conversations that are answered together.
        max_new_tokens: where an answer is cut.
        seed: of the bootstrap's draws.
        tell: is told how far a measurement is.
    """

    ranks: Ranks
    kept: Kept
    batch_size: int = 64
    max_new_tokens: int = 32
    seed: int = 0
    tell: Tell = field(default=nothing)

    def answers(self, subject: Subject, items: Sequence[Item], what: str) -> list[str]:
        """A model's greedy answers, in the order of the items.

        Batches are made of all items before they are dealt to the ranks, and a batch is kept whole
        or not at all: so neither the number of ranks nor a break changes what a model is shown.
        """
        settings = (subject.fingerprint, self.max_new_tokens, self.ranks.device.type)
        keys = [fingerprint("answer", *settings, item_fingerprint(item)) for item in items]
        # Questions about pictures often read the same once the pictures are gone.
        unique = dict(zip(keys, items, strict=True))
        names, different = list(unique), list(unique.values())
        mine = self.ranks.share(batches_of(different, self.batch_size))
        done, total = 0, sum(map(len, mine))
        self.tell(what, 0, total)
        found: dict[str, str] = {}
        for batch in mine:
            missing = [n for n in batch if names[n] not in self.kept]
            if missing:
                said = answer_items(
                    subject.model,
                    subject.processor,
                    [different[n] for n in missing],
                    batch_size=len(missing),
                    max_new_tokens=self.max_new_tokens,
                )
                self.kept.add(dict(zip([names[n] for n in missing], said, strict=True)))
            found |= {names[n]: self.kept[names[n]] for n in batch}
            done += len(batch)
            self.tell(what, done, total)
        everyone = self.ranks.together(found)
        return [everyone[key] for key in keys]
