"""The common ground of all measurements: who does the work, what is kept, how it is shown."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from .fingerprint import fingerprint, item_fingerprint
from .generate import answer_items, batches_of
from .items import Item
from .loglikelihood import likeliest
from .models import EvalModel
from .processes import Ranks
from .result_cache import ResultCache

LIKELIHOOD = "likelihood"  # the scoring of items whose choices are ranked and not spoken
ProgressCallback = Callable[[str, int, int], None]  # what is done, how much of it, of how much


def no_progress(what: str, done: int, total: int) -> None:
    """Shows no progress."""


@dataclass(frozen=True)
class EvalRunner:
    """How measurements are made.

    Attributes:
        ranks: the processes that share the work.
        cache: results that are measured already.
        batch_size: conversations that are answered together.
        max_new_tokens: where an answer is cut.
        seed: of the bootstrap's draws.
        tell: is told how far a measurement is.
    """

    ranks: Ranks
    cache: ResultCache
    batch_size: int = 64
    max_new_tokens: int = 32
    seed: int = 0
    progress: ProgressCallback = field(default=no_progress)

    def answers(self, subject: EvalModel, items: Sequence[Item], what: str) -> list[str]:
        """A model's greedy answers, or likeliest choices, in the order of the items.

        Batches are made of all items before they are dealt to the ranks, and a batch is kept whole
        or not at all: so neither the number of ranks nor a break changes what a model is shown.
        """
        settings = (subject.fingerprint, self.max_new_tokens, self.ranks.device.type)
        keys = [
            fingerprint("answer", *settings, item_fingerprint(item), *choices_of(item))
            for item in items
        ]
        # Questions about pictures often read the same once the pictures are gone.
        unique = dict(zip(keys, items, strict=True))
        names, different = list(unique), list(unique.values())
        mine = self.ranks.share(batches_of(different, self.batch_size))
        done, total = 0, sum(map(len, mine))
        self.progress(what, 0, total)
        found: dict[str, str] = {}
        for batch in mine:
            missing = [n for n in batch if names[n] not in self.cache]
            if missing:
                said = self._said(subject, [different[n] for n in missing])
                self.cache.add(dict(zip([names[n] for n in missing], said, strict=True)))
            found |= {names[n]: self.cache[names[n]] for n in batch}
            done += len(batch)
            self.progress(what, done, total)
        everyone = self.ranks.together(found)
        return [everyone[key] for key in keys]

    def _said(self, subject: EvalModel, items: Sequence[Item]) -> list[str]:
        """What a model says to items of one batch, or finds the likeliest."""
        said = dict.fromkeys(range(len(items)), "")
        ranked = [n for n, item in enumerate(items) if item.scoring == LIKELIHOOD]
        spoken = [n for n in said if n not in ranked]
        asked = subject.model, subject.processor
        if spoken:
            answers = answer_items(
                *asked,
                [items[n] for n in spoken],
                batch_size=len(spoken),
                max_new_tokens=self.max_new_tokens,
            )
            said |= zip(spoken, answers, strict=True)
        if ranked:
            of = [items[n] for n in ranked]
            said |= zip(ranked, likeliest(*asked, of, batch_size=self.batch_size), strict=True)
        return list(said.values())


def choices_of(item: Item) -> tuple[str, ...]:
    """What else an answer depends on: only likelihood knows the choices."""
    return (LIKELIHOOD, *item.choices) if item.scoring == LIKELIHOOD else ()
