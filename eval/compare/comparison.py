"""Answers of two models to the same items: accuracies and paired differences by kind.

A question is one item, or the items of one circle: the same question with its choices rotated by
one from item to item, as in MMBench's circular evaluation (Liu et al. 2023, arXiv 2307.06281).
Such a question counts twice: by its first item, and as circular, by the worst of its items.
"""

import random
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from wings.eval.items import Item
from wings.eval.report.report import SAMPLES, Sample, Section
from wings.eval.scoring.accuracy import Accuracy
from wings.eval.scoring.score import is_exact, score
from wings.eval.senses import SENSES, names_in
from wings.processing.audio_reader import describe_sound
from wings.processing.item_encoder import AUDIO
from wings.processing.video_parts import VIDEO
from wings.processing.video_reader import load_video
from wings.processing.video_sampling import VideoSampling
from wings.processing.web_file import is_address
from wings.records.formats import text_of
from wings.sense import IMAGE

from .clusters import cluster_accuracy, cluster_items
from .paired import PairedScores, paired_plot, paired_table

ALL = "all"
CIRCULAR = "circular"
# Letters of an address of a picture or sound that the JSON report keeps.
SHOWN = 200
# Frames of a sample's video in a report.
FRAMES = 4
CIRCULAR_SENTENCE = (
    " A question that is asked once for each rotation of its choices counts by the first rotation,"
    " and as circular only if all rotations are right."
)


def kinds_of(names: Iterable[str]) -> list[str]:
    """Kinds in the order in which they first appear; `all` comes first if there are several."""
    kinds = list(dict.fromkeys(names))
    return kinds if len(kinds) == 1 else [ALL, *(kind for kind in kinds if kind != ALL)]


@dataclass(frozen=True)
class Comparison:
    """Answers of two models to the same items.

    Attributes:
        title: of the report's section.
        sentence: explains how each of the two was asked.
        items: as the model was asked them.
        before: the LLM's answers.
        after: the model's answers.
        seed: of the bootstrap and of the samples.
    """

    title: str
    sentence: str
    items: Sequence[Item]
    before: Sequence[str]
    after: Sequence[str]
    seed: int = 0

    @property
    def questions(self) -> list[list[int]]:
        """Indices of the items of each question."""
        questions: dict[tuple[str, str], list[int]] = {}
        for n, item in enumerate(self.items):
            key = (item.kind, item.circle) if item.circle else ("", str(n))
            questions.setdefault(key, []).append(n)
        return list(questions.values())

    @property
    def is_circular(self) -> bool:
        """True if any question has several items."""
        return any(item.circle for item in self.items)

    @property
    def kinds(self) -> list[str]:
        """Kinds in the order in which they first appear; `all` comes first if there are several."""
        return kinds_of(item.kind for item in self.items)

    def scores(self, predictions: Sequence[str], kind: str, circular: bool = False) -> list[float]:
        """The score of each question of a kind, from 0 to 1.

        Args:
            predictions: one answer an item.
            kind: one of `kinds`.
            circular: the lowest score of a question's items instead of the first item's.
        """
        return [
            min(score(self.items[n], predictions[n]) for n in (group if circular else group[:1]))
            for group in self.questions
            if kind in (ALL, self.items[group[0]].kind)
        ]

    @cached_property
    def item_clusters(self) -> list[int]:
        """The number of the cluster of each item."""
        return cluster_items(self.items)

    def clusters(self, kind: str = ALL) -> list[int]:
        """The number of the cluster of each question of a kind: that of its first item."""
        return [self.item_clusters[n] for n in self._firsts(kind)]

    def paired(self, kind: str, circular: bool = False) -> PairedScores:
        """Scores of the questions of a kind, before and after."""
        before, after = (self.scores(one, kind, circular) for one in (self.before, self.after))
        return PairedScores(before, after, self.seed, self.clusters(kind))

    def same_answers(self, kind: str) -> Accuracy:
        """The questions of a kind that both answered alike, but for spaces and a full stop."""
        same = [float(is_exact(self.after[n], self.before[n])) for n in self._firsts(kind)]
        return cluster_accuracy(same, self.clusters(kind), self.seed)

    def _firsts(self, kind: str) -> list[int]:
        """The index of the first item of each question of a kind."""
        firsts = (numbers[0] for numbers in self.questions)
        return [n for n in firsts if kind in (ALL, self.items[n].kind)]

    @property
    def cluster_sentence(self) -> str:
        """Explains the clusters if questions share any; else empty."""
        clusters = self.clusters()
        count = len(set(clusters))
        if count == len(clusters):
            return ""
        return (
            f" Questions that share {self._shared} or a cluster depend on each other: intervals "
            f"resample {count:,} clusters of {len(clusters):,} questions."
        )

    @property
    def _shared(self) -> str:
        """The items that questions may share: "an image", or those of further senses too."""
        found = {name for item in self.items for name in names_in(item.messages)}
        return ", ".join(SENSES[name].one for name in SENSES if name in (found or {IMAGE}))

    def to_dict(self) -> dict[str, Any]:
        """All figures, circular ones apart, and every item with both answers, for JSON."""
        figures = {"kinds": {kind: self.paired(kind).to_dict() for kind in self.kinds}}
        if self.is_circular:
            figures[CIRCULAR] = {kind: self.paired(kind, True).to_dict() for kind in self.kinds}
        answers = [
            {
                "kind": item.kind,
                "messages": [_shortened(message) for message in item.messages],
                "answer": item.answer,
                "before": before,
                "after": after,
                "right": [score(item, before), score(item, after)],
                "cluster": cluster,
                **({"circle": item.circle} if item.circle else {}),
            }
            for item, before, after, cluster in zip(
                self.items, self.before, self.after, self.item_clusters, strict=True
            )
        ]
        return {**figures, "answers": answers}

    def section(self) -> Section:
        """The report's section."""
        named = {}
        for kind in self.kinds:
            named[kind] = self.paired(kind)
            if self.is_circular:
                named[f"{kind}, {CIRCULAR}"] = self.paired(kind, circular=True)
        sentence = self.sentence + (CIRCULAR_SENTENCE if self.is_circular else "")
        sentence += self.cluster_sentence
        return Section(self.title, sentence, paired_table(named), paired_plot(named))

    def samples(self) -> list[Sample]:
        """Random questions with both answers, in the order of the items.

        The draw is random because files often alternate their kinds; equal steps would then show
        only one kind.
        """
        firsts = self._firsts(ALL)
        drawn = random.Random(self.seed).sample(firsts, min(SAMPLES, len(firsts)))
        return [self._sample(n) for n in sorted(drawn)]

    def _sample(self, n: int) -> Sample:
        item, before, after = self.items[n], self.before[n], self.after[n]
        turns = [_turn(message) for message in item.messages]
        right = score(item, before) == 1, score(item, after) == 1
        return Sample(item.kind, turns, item.answer, before, after, right)


def _turn(message: dict) -> tuple[str, str, list]:
    content = message["content"]
    parts = [] if isinstance(content, str) else content
    shown = [one for part in parts if part["type"] != "text" for one in _shown(part)]
    return message["role"], text_of(content), shown


def _shown(part: dict) -> list[tuple[str, Any]]:
    """The kind and source of a part, or of each of a few frames of a video."""
    source = part[part["type"]]
    if part["type"] != VIDEO:
        return [(part["type"], source)]
    frames = load_video(source, VideoSampling(max_frames=FRAMES))
    return [(IMAGE, frame.image) for frame in frames]


def _shortened(message: dict) -> dict:
    """The message without the bytes of its pictures and sounds."""
    if isinstance(message["content"], str):
        return message
    return message | {"content": [_short_part(part) for part in message["content"]]}


def _short_part(part: dict) -> dict:
    kind = part["type"]
    source = part[kind]
    if kind == AUDIO and not isinstance(source, str):
        return part | {kind: describe_sound(source)}
    if kind != "text" and isinstance(source, str) and len(source) > SHOWN and is_address(source):
        return part | {kind: f"{source[:SHOWN]}... ({len(source):,} letters)"}
    return part
