"""Drift on held-out text: KL divergence and perplexity of a model relative to its LLM."""

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
from .compare.paired import WIDTH
from .divergence import divergence_terms
from .documents import Document
from .fingerprint import fingerprint
from .models import EvalModel, tokenizer_difference
from .report.report import Section
from .report.style import COLOURS, DASHED, GROUND, STYLE, draw_grid
from .runner import EvalRunner
from .text_positions import text_positions

WINDOW = 1024  # tokens of a piece; longer documents are cut into pieces
BATCH = 8192  # tokens of a batch, with padding
MAX_LOGITS = 2**24  # of one model at a time
SENTENCE = (
    "Held-out text, token by token; in conversations only the assistant's turns. KL(LLM || model) "
    "is the divergence of the next-token distributions, in nats a token. Intervals are "
    "bootstrapped over documents."
)
Piece = tuple[list[int], list[bool]]  # token ids, and True for those to be predicted


@dataclass(frozen=True)
class DocumentDrift:
    """Sums over the predicted tokens of one document.

    Attributes:
        name: of the document.
        tokens: number of predicted tokens.
        kl: sum of KL(LLM || model) in nats.
        before: sum of the LLM's -log p of the next token.
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
        """The model's perplexity over the LLM's; 1 if nothing was lost."""
        rises = [document.after - document.before for document in self.documents]
        return self._per_token(rises).map(math.exp)

    @property
    def perplexities(self) -> tuple[float, float]:
        """The LLM's and the model's."""
        tokens = sum(document.tokens for document in self.documents)
        before = math.fsum(document.before for document in self.documents)
        after = math.fsum(document.after for document in self.documents)
        return math.exp(before / tokens), math.exp(after / tokens)

    def to_dict(self) -> dict[str, Any]:
        """All figures, and the sums of every document, for JSON."""
        before, after = self.perplexities
        return {
            "kl": self.kl.to_dict(),
            "perplexity_ratio": self.perplexity_ratio.to_dict(),
            "perplexity": {"before": before, "after": after},
            "tokens": sum(document.tokens for document in self.documents),
            "documents": [vars(document) for document in self.documents],
        }

    def section(self) -> Section:
        """The report's section."""
        before, after = self.perplexities
        tokens = sum(document.tokens for document in self.documents)
        rows = [
            ("", "value", "95% interval"),
            ("KL(LLM || model), nats a token", *format_estimate(self.kl, ".3g")),
            ("perplexity, model / LLM", *format_estimate(self.perplexity_ratio, ".4f")),
            ("perplexity of the LLM", f"{before:.4g}", ""),
            ("perplexity of the model", f"{after:.4g}", ""),
            ("documents; tokens predicted", f"{len(self.documents):,}; {tokens:,}", ""),
        ]
        return Section("Drift on held-out text", SENTENCE, rows, self._figure())

    def _per_token(self, sums: Sequence[float]) -> Estimate:
        return bootstrap(sums, [document.tokens for document in self.documents], self.seed)

    def _figure(self) -> Figure:
        """A scatter plot of documents: KL against the LLM's own loss."""
        with matplotlib.rc_context(STYLE):
            figure = Figure(figsize=(WIDTH, 2.7), facecolor=GROUND)
            axes = figure.subplots()
            figure.subplots_adjust(left=0.15, right=0.97, top=0.9, bottom=0.19)
            losses = [document.before / document.tokens for document in self.documents]
            axes.scatter(
                losses, [document.kl / document.tokens for document in self.documents],
                s=14, alpha=0.5, color=COLOURS[0], edgecolor="none", clip_on=False,
            )  # fmt: skip
            axes.axhline(self.kl.value, **DASHED)
            axes.set_ylim(bottom=0)
            draw_grid(axes)
            axes.tick_params(labelsize=9)
            axes.set_xlabel("the LLM's own loss on a document, nats a token", fontsize=10)
            axes.set_title(
                "KL(LLM || model), nats a token; dashed: the mean", loc="left", fontsize=10
            )
        return figure


def format_estimate(estimate: Estimate, form: str) -> tuple[str, str]:
    """The value, and `low to high`."""
    if estimate.low is None or estimate.high is None:
        return f"{estimate.value:{form}}", "(one document: none)"
    return f"{estimate.value:{form}}", f"{estimate.low:{form}} to {estimate.high:{form}}"


def measure_drift(
    llm: EvalModel, model: EvalModel, documents: Sequence[Document], runner: EvalRunner
) -> Drift:
    """Compares both models' next-token distributions on the same tokens.

    Raises:
        WingsError: different tokenizers, a document of less than two tokens, or logits that are not
            finite.
    """
    difference = tokenizer_difference(llm.tokenizer, model.tokenizer)
    if difference:
        raise WingsError(
            f"{llm.name} and {model.name} have different tokenizers ({difference}), so their next "
            "tokens cannot be compared; name the LLM that the model was built from."
        )
    window = min(max_window(one.model) for one in (llm, model))
    pieces: list[Piece] = []
    spans = []
    for document in documents:
        ids, targets = document.tokens(llm.tokenizer)
        cuts = [slice(start, start + window) for start in range(0, len(ids), window)]
        # The first token of a piece has no context, so it is not predicted.
        new = [(ids[cut], targets[cut]) for cut in cuts if any(targets[cut][1:])]
        if not new:
            raise WingsError(
                f"{document.name} is too short: it has no token to predict; remove it."
            )
        spans.append(slice(len(pieces), len(pieces) + len(new)))
        pieces += new
    sums = _sums(llm, model, pieces, runner)
    drifts = []
    for document, span in zip(documents, spans, strict=True):
        columns = zip(*sums[span], strict=True)
        tokens, kl, before, after = (math.fsum(column) for column in columns)
        if not math.isfinite(kl + before + after):
            raise WingsError(
                f"On {document.name} the logits of {llm.name} or {model.name} are not finite; try "
                "another dtype or save the checkpoint again."
            )
        drifts.append(DocumentDrift(document.name, int(tokens), kl, before, after))
    return Drift(drifts, runner.seed)


def max_window(model: PreTrainedModel) -> int:
    """Tokens of a piece: `WINDOW`, or the model's number of positions if that is smaller."""
    known = model.config.get_text_config().to_dict().get("max_position_embeddings")
    return min(WINDOW, known or WINDOW)


def _sums(
    llm: EvalModel, model: EvalModel, pieces: Sequence[Piece], runner: EvalRunner
) -> list[tuple[float, ...]]:
    """Token count, KL and both losses of every piece; batches are shared and cached."""
    settings = (llm.fingerprint, model.fingerprint, runner.processes.device.type)
    keys = [fingerprint("drift", *settings, *piece) for piece in pieces]

    def compute(batch: Sequence[Piece]) -> list[list[float]]:
        ids, mask, targets = pad_pieces(batch, runner.processes.device)
        return batch_sums(llm.model, model.model, ids, mask, targets).tolist()

    results = runner.compute_items(
        "drift on held-out text", pieces, keys, compute,
        lambda different: batch_by_tokens([len(ids) for ids, _ in different]),
    )  # fmt: skip
    return [tuple(sums) for sums in results]


def batch_by_tokens(lengths: Sequence[int]) -> list[list[int]]:
    """Indices of pieces in batches of at most `BATCH` tokens with padding."""
    batches: list[list[int]] = []
    for n in sorted(range(len(lengths)), key=lambda n: (lengths[n], n)):
        if not batches or (len(batches[-1]) + 1) * lengths[n] > BATCH:
            batches.append([])
        batches[-1].append(n)
    return batches


def pad_pieces(pieces: Sequence[Piece], device: torch.device) -> tuple[Tensor, Tensor, Tensor]:
    """Ids, attention mask and target mask; all [B, T] int64, padded on the right."""
    length = max(len(ids) for ids, _ in pieces)
    batch = torch.zeros(3, len(pieces), length, dtype=torch.long)
    for row, (ids, targets) in enumerate(pieces):
        batch[:, row, : len(ids)] = torch.tensor([ids, [1] * len(ids), targets])
    return tuple(batch.to(device))


@torch.inference_mode()
def batch_sums(
    llm: PreTrainedModel,
    model: PreTrainedModel,
    ids: Tensor,
    mask: Tensor,
    targets: Tensor,
    max_logits: int = MAX_LOGITS,
) -> Tensor:
    """Sums over the target tokens of each row: token count, KL(LLM || model), both losses.

    Both models read a few positions at a time and continue from their caches, so that at most
    `max_logits` logits of each exist at once.

    Args:
        llm: the reference.
        model: the model to compare.
        ids: [B, T] int64, padded on the right.
        mask: [B, T], 1 at tokens.
        targets: [B, T], 1 at tokens to be predicted; the first column is ignored.
        max_logits: see above; at least one position is read at a time.

    Returns:
        [B, 4] float64.
    """
    rows, length = ids.shape
    # Checkpoints pad their vocabularies differently; no token has these rows.
    common = min(m.get_output_embeddings().weight.shape[0] for m in (llm, model))
    step = max(1, max_logits // (rows * common))
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
                **text_positions(one, start, end),
            )
            caches[n] = cache_of(out)
            logs.append(out.logits[..., :common].float().log_softmax(-1))
            del out
        p, q = logs
        following = ids[:, start + 1 : end + 1, None]
        counts = targets[:, start + 1 : end + 1].bool().cpu()
        losses = [-log.gather(2, following)[..., 0].double().cpu() for log in logs]
        kl = divergence_terms(p, q).sum(-1).double().cpu()
        parts = (torch.ones_like(kl), kl, *losses)
        sums += torch.stack([torch.where(counts, x, 0).sum(1) for x in parts], 1)
    return sums
