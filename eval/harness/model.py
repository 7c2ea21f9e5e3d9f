"""Wings as a model of lm-evaluation-harness: `lm_eval --model wings --model_args pretrained=...`.

Extends the harness's own `hf` model, so a language model has the same results with both. It adds
that `<image>` and `<audio>` in a text are only text, and one-sentence errors.
"""

from typing import Any

import torch
from transformers import PreTrainedModel

import wings  # noqa: F401  registers Wings with transformers' Auto classes
from wings.config import WingsConfig
from wings.errors import WingsError
from wings.processing.item_encoder import token_of
from wings.upstream.harness import HarnessModel, register_model

NAME = "wings"


class WingsLM(HarnessModel):
    """A Wings checkpoint or any other causal LM, for text tasks.

    Args:
        pretrained: a folder, a Hub id or a loaded model.
        **options: those of the harness's `hf` model (dtype, device, batch_size, max_length, peft,
            tokenizer, ...).

    Raises:
        WingsError: no model can be loaded from `pretrained`.
    """

    def __init__(self, pretrained: str | PreTrainedModel, **options: Any) -> None:
        super().__init__(pretrained, **{"backend": "causal", **options})
        config, added = self.model.config, self.tokenizer.get_added_vocab()
        senses = config.senses if isinstance(config, WingsConfig) else ()
        tokens = {token: added.get(token) for token in map(token_of, senses)}
        # The placeholders that no text may write, by their ids.
        self.placeholders = {number: token for token, number in tokens.items() if number}

    def on_load_error(self, pretrained: Any, error: Exception) -> WingsError:
        """The error to raise if no model can be loaded."""
        reason = str(error).strip().partition("\n")[0].rstrip(".")
        return WingsError(
            f"No language model can be loaded from {pretrained!r} ({reason}); set pretrained= to "
            "the folder of a Wings checkpoint or of any causal LM."
        )

    def tok_encode(self, string: str, *args: Any, **options: Any) -> list[int]:
        """Token ids of a text; placeholders in it are plain text, as for a model without senses."""
        return self._as_text(super().tok_encode(string, *args, **options))

    def tok_batch_encode(
        self,
        strings: list[str],
        padding_side: str = "left",
        left_truncate_len: int | None = None,
        truncation: bool = False,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Padded `input_ids` and `attention_mask` [B, T]; each placeholder is plain text."""
        ids, mask = super().tok_batch_encode(strings, padding_side, left_truncate_len, truncation)
        if not torch.isin(ids, torch.tensor([*self.placeholders], dtype=ids.dtype)).any():
            return ids, mask
        rows = [
            self._as_text(row[real.bool()].tolist()) for row, real in zip(ids, mask, strict=True)
        ]
        rows = [row[-left_truncate_len:] if left_truncate_len else row for row in rows]
        padded = self.tokenizer.pad({"input_ids": rows}, padding_side=padding_side)
        return torch.tensor(padded["input_ids"]), torch.tensor(padded["attention_mask"])

    def _as_text(self, ids: list[int]) -> list[int]:
        """Replaces each placeholder by the tokens of its two halves, so that it is no item."""
        pieces = {
            number: [
                token
                for part in (self.placeholders[number][:1], self.placeholders[number][1:])
                for token in self.tokenizer.encode(part, add_special_tokens=False)
            ]
            for number in self.placeholders.keys() & set(ids)
        }
        return [new for token in ids for new in pieces.get(token, [token])]


def register() -> None:
    """Registers the model `wings`; not needed in versions that read entry points."""
    register_model(NAME, WingsLM)
