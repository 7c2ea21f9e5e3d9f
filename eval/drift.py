"""How far the next-token distribution has drifted from the LLM's on held-out text."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import matplotlib
import torch
from matplotlib.figure import Figure
from torch import Tensor
from transformers import PreTrainedModel

from wings.errors import WingsError
from wings.upstream.cache_name import cache_name, cache_of

from .compare.bootstrap import Estimate, bootstrap
from .compare.paired_plot import WIDTH
from .documents import Document
from .fingerprint import fingerprint
from .models import EvalModel
from .report.plot import COLOURS, GROUND, INK, STYLE
from .report.section import Section
from .runner import EvalRunner
from .vocabulary import tokenizers_differ

WINDOW = 1024  # tokens that are read in one go; a longer document is cut into such pieces
BATCH = 8192  # tokens, padding included, that go through the models together
NUMBERS = 2**24  # logits of one model that exist at a time
SENTENCE = (
    "Held-out text, token by token, of conversations the assistant's turns: how far the model's "
    "distribution of the next token lies from the LLM's (KL(LLM || model), in nats a token), and "
    "how much more perplexed it is. Intervals come from drawing documents again."
)
Piece = tuple[list[int], list[bool]]  # tokens, and which of them are asked for


@dataclass(frozen=True)
class DocumentDrift:
    """Sums over the predicted tokens of one document.

    Attributes:
        name: of the document.
        tokens: how many were predicted.
        kl: sum of KL(LLM || model) in nats.
        before: sum of the LLM's -log p of the token that comes.
        after: sum of the model's.
    """

    name: str
    tokens: int
    kl: float
    before: float
    after: float


@dataclass(frozen=True)
class Drift:
    """The drift on all documents."""

    documents: Sequence[DocumentDrift]
    seed: int = 0

    @property
    def kl(self) -> Estimate:
        """Mean KL(LLM || model) in nats a token."""
        return self._per_token([document.kl for document in self.documents])

    @property
    def perplexity_ratio(self) -> Estimate:
        """The model's perplexity over the LLM's: 1 where nothing was lost."""
        rises = [document.after - document.before for document in self.documents]
        return self._per_token(rises).through(math.exp)

    @property
    def perplexities(self) -> tuple[float, float]:
        """The LLM's and the model's."""
        tokens = sum(document.tokens for document in self.documents)
        before = math.fsum(document.before for document in self.documents)
        after = math.fsum(document.after for document in self.documents)
        return math.exp(before / tokens), math.exp(after / tokens)

    def to_dict(self) -> dict[str, Any]:
        """All figures, and the sums of every document."""
        before, after = self.perplexities
        return {
            "kl": self.kl.to_dict(),
            "perplexity_ratio": self.perplexity_ratio.to_dict(),
            "perplexity": {"before": before, "after": after},
            "tokens": sum(document.tokens for document in self.documents),
            "documents": [vars(document) for document in self.documents],
        }

    def section(self) -> Section:
        """As a part of a report."""
        before, after = self.perplexities
        tokens = sum(document.tokens for document in self.documents)
        rows = [
            ("", "value", "95% interval"),
            ("KL(LLM || model), nats a token", *spelled(self.kl, ".3g")),
            ("perplexity, model / LLM", *spelled(self.perplexity_ratio, ".4f")),
            ("perplexity of the LLM", f"{before:.4g}", ""),
            ("perplexity of the model", f"{after:.4g}", ""),
            ("documents; tokens predicted", f"{len(self.documents):,}; {tokens:,}", ""),
        ]
        return Section("Drift on held-out text", SENTENCE, rows, self._figure())

    def _per_token(self, sums: Sequence[float]) -> Estimate:
        return bootstrap(sums, [document.tokens for document in self.documents], self.seed)

    def _figure(self) -> Figure:
        """Every document: its KL over the perplexity that the LLM has with it."""
        with matplotlib.rc_context(STYLE):
            figure = Figure(figsize=(WIDTH, 2.7), facecolor=GROUND)
            axes = figure.subplots()
            figure.subplots_adjust(left=0.15, right=0.97, top=0.9, bottom=0.19)
            surprise = [document.before / document.tokens for document in self.documents]
            axes.scatter(
                surprise, [document.kl / document.tokens for document in self.documents],
                s=14, alpha=0.5, color=COLOURS[0], edgecolor="none", clip_on=False,
            )  # fmt: skip
            axes.axhline(self.kl.value, color=INK, linewidth=1, linestyle=(0, (5, 4)))
            axes.set_ylim(bottom=0)
            axes.tick_params(length=0, labelsize=9)
            axes.grid(color="#eef1f4", linewidth=1)
            axes.set_axisbelow(True)
            axes.set_xlabel("the LLM's own loss on a document, nats a token", fontsize=10)
            axes.set_title(
                "KL(LLM || model), nats a token; dashed: the mean", loc="left", fontsize=10
            )
        return figure


def spelled(estimate: Estimate, form: str) -> tuple[str, str]:
    """The value and `low to high`."""
    if estimate.low is None or estimate.high is None:
        return f"{estimate.value:{form}}", "(one document: none)"
    return f"{estimate.value:{form}}", f"{estimate.low:{form}} to {estimate.high:{form}}"


def measure_drift(
    llm: EvalModel, model: EvalModel, documents: Sequence[Document], runner: EvalRunner
) -> Drift:
    """Both models' next-token distributions on the same tokens.

    Raises:
        WingsError: tokenizers that differ, a document of less than two tokens, or logits that are
            no numbers.
    """
    difference = tokenizers_differ(llm.tokenizer, model.tokenizer)
    if difference:
        raise WingsError(
            f"{llm.name} and {model.name} have different tokenizers ({difference}), so their next "
            "tokens cannot be compared; name the LLM that it grew from"
        )
    window = min(window_of(subject.model) for subject in (llm, model))
    pieces: list[Piece] = []
    numbers: list[int] = []
    for number, document in enumerate(documents):
        ids, asked = document.tokens(llm.tokenizer)
        cuts = [slice(start, start + window) for start in range(0, len(ids), window)]
        # Of each piece, the first token has nothing before it.
        own = [(ids[cut], asked[cut]) for cut in cuts if any(asked[cut][1:])]
        if not own:
            raise WingsError(f"{document.name} is too short: nothing in it is to be predicted")
        pieces += own
        numbers += [number] * len(own)
    sums = _sums(llm, model, pieces, runner)
    of_document: dict[int, list[tuple[float, ...]]] = {}
    for number, row in zip(numbers, sums, strict=True):
        of_document.setdefault(number, []).append(row)
    found = []
    for number, document in enumerate(documents):
        columns = zip(*of_document[number], strict=True)
        tokens, kl, before, after = (math.fsum(column) for column in columns)
        if not math.isfinite(kl + before + after):
            raise WingsError(
                f"on {document.name} the logits of {llm.name} or {model.name} are no finite "
                "numbers; try another dtype or save the checkpoint again"
            )
        found.append(DocumentDrift(document.name, int(tokens), kl, before, after))
    return Drift(found, runner.seed)


def window_of(model: PreTrainedModel) -> int:
    """How many tokens are read in one go: no more than the model knows positions for."""
    known = model.config.get_text_config().to_dict().get("max_position_embeddings")
    return min(WINDOW, known or WINDOW)


def _sums(
    llm: EvalModel, model: EvalModel, pieces: Sequence[Piece], runner: EvalRunner
) -> list[tuple[float, ...]]:
    """Tokens, KL and both losses of every piece; batches are dealt and kept as answers are."""
    what = "drift on held-out text"
    settings = (llm.fingerprint, model.fingerprint, runner.ranks.device.type)
    keys = [fingerprint("drift", *settings, *piece) for piece in pieces]
    mine = runner.ranks.share(batches_of([len(ids) for ids, _ in pieces]))
    done, total = 0, sum(map(len, mine))
    runner.progress(what, 0, total)
    found: dict[str, tuple[float, ...]] = {}
    for batch in mine:
        missing = [n for n in batch if keys[n] not in runner.cache]
        if missing:
            ids, mask, asked = padded([pieces[n] for n in missing], runner.ranks.device)
            sums = batch_sums(llm.model, model.model, ids, mask, asked)
            runner.cache.add({keys[n]: row for n, row in zip(missing, sums.tolist(), strict=True)})
        found |= {keys[n]: tuple(runner.cache[keys[n]]) for n in batch}
        done += len(batch)
        runner.progress(what, done, total)
    everyone = runner.ranks.together(found)
    return [everyone[key] for key in keys]


def batches_of(lengths: Sequence[int]) -> list[list[int]]:
    """Numbers of pieces, batch by batch, each of at most `BATCH` tokens with its padding."""
    batches: list[list[int]] = []
    for n in sorted(range(len(lengths)), key=lambda n: (lengths[n], n)):
        if not batches or (len(batches[-1]) + 1) * lengths[n] > BATCH:
            batches.append([])
        batches[-1].append(n)
    return batches


def padded(pieces: Sequence[Piece], device: torch.device) -> tuple[Tensor, Tensor, Tensor]:
    """Ids, where a token is, and where one is asked for; all [B, T] int64, padded on the right."""
    length = max(len(ids) for ids, _ in pieces)
    batch = torch.zeros(3, len(pieces), length, dtype=torch.long)
    for row, (ids, asked) in enumerate(pieces):
        batch[:, row, : len(ids)] = torch.tensor([ids, [1] * len(ids), asked])
    return tuple(batch.to(device))


@torch.inference_mode()
def batch_sums(
    llm: PreTrainedModel,
    model: PreTrainedModel,
    ids: Tensor,
    mask: Tensor,
    asked: Tensor,
    numbers: int = NUMBERS,
) -> Tensor:
    """Sums over each row's tokens that are asked for: how many, KL(LLM || model), both losses.

    Both models read a few positions at a time and go on from their caches, so that of each no more
    than `numbers` logits ever exist.

    Args:
        llm: the first.
        model: the second.
        ids: [B, T] int64, padded on the right.
        mask: [B, T] of 1 where a token is.
        asked: [B, T] of 1 where a token is to be predicted; the first never is.
        numbers: see above; at least one position is read at a time.

    Returns:
        [B, 4] float64.
    """
    rows, length = ids.shape
    # Rows of padding behind a vocabulary differ between checkpoints; no token has them.
    common = min(m.get_output_embeddings().weight.shape[0] for m in (llm, model))
    step = max(1, numbers // (rows * common))
    caches: list[Any] = [None, None]
    names = [cache_name(one) for one in (llm, model)]
    sums = torch.zeros(rows, 4, dtype=torch.float64)
    for start in range(0, length - 1, step):
        end = min(start + step, length - 1)
        logs = []
        for n, one in enumerate((llm, model)):
            out = one(
                input_ids=ids[:, start:end],
                attention_mask=mask[:, :end],
                use_cache=end < length - 1 or start > 0,
                **{names[n]: caches[n]},
            )
            caches[n] = cache_of(out)
            logs.append(out.logits[..., :common].float().log_softmax(-1))
            del out
        p, q = logs
        following = ids[:, start + 1 : end + 1, None]
        counts = asked[:, start + 1 : end + 1].bool().cpu()
        losses = [-log.gather(2, following)[..., 0].double().cpu() for log in logs]
        # Where the LLM gives a token no chance at all, it adds nothing.
        kl = torch.where(p > -math.inf, p.exp() * (p - q), 0).sum(-1).double().cpu()
        parts = (torch.ones_like(kl), kl, *losses)
        sums += torch.stack([torch.where(counts, x, 0).sum(1) for x in parts], 1)
    return sums
