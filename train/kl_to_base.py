"""KL to the base LLM: answers to text are held to what the language model itself would say."""

import contextlib
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from accelerate import Accelerator
from torch import Tensor, nn
from torch.nn import functional

from wings.model.causal_lm import WingsForCausalLM
from wings.train.lora import without_adapters

from .loss import asked


class KLToBaseLoss:
    r"""KL(LLM || model) of the retained tokens, in nats a token.

    With p_i what the language model expects at retained token i of the global batch, q_i what the
    model does, V entries and N such tokens over all accumulated batches and processes::

        weight / N  sum_i  sum_v  p_i(v) (log p_i(v) - log q_i(v))

    The language model is the model itself with learners and adapters off, in evaluation mode and
    without gradients, on `alone` (see `with_retained`). N has nothing to do with the number of
    trained tokens that the loss beside it is divided by, so the weight means the same however
    little of the data is text.

    Args:
        weight: of the term.
        has_adapters: whether LoRA hangs in the language model.
        is_sharded: whether processes gather weights from one another in every forward.
        accelerator: of the run.
    """

    def __init__(
        self, weight: float, has_adapters: bool, is_sharded: bool, accelerator: Accelerator
    ) -> None:
        self.weight, self.has_adapters, self.is_sharded = weight, has_adapters, is_sharded
        self.accelerator = accelerator
        self.tokens = 1
        self._forget()

    def expect(self, batches: Sequence[dict[str, Any]]) -> None:
        """Count the retained tokens of a step's micro-batches, over all processes."""
        device = self.accelerator.device
        mine = torch.zeros((), dtype=torch.long, device=device)
        for batch in batches:
            if "retained" in batch:
                mine += batch["retained"].sum().to(device)
        self.tokens = self.accelerator.reduce(mine, reduction="sum").clamp(min=1)

    def take(self, model: nn.Module, inputs: dict[str, Any]) -> tuple[Tensor, Tensor] | None:
        """Take what is retained out of a batch and ask the language model for it.

        Args:
            model: in training, wrapped or not.
            inputs: what it will be given, with the columns of `asked`.

        Returns:
            which of its logits are retained, `[B, C]` bool, and what the language model says there:
            log-probabilities `[K, V]` float32. None where nothing is.
        """
        retained, alone = inputs.pop("retained", None), inputs.pop("alone", None)
        if alone is None:
            if self.is_sharded:
                # Others may have text, and wait for this process's shards.
                self._llm(model, {"input_ids": inputs["input_ids"].new_zeros(1, 1)})
            return None
        columns, following = asked(alone["labels"]).values()
        asking = {name: tensor for name, tensor in alone.items() if name != "labels"}
        logits = self._llm(model, {**asking, "logits_to_keep": columns})
        expected = logits[following != -100].float().log_softmax(-1)
        where = functional.pad(retained[:, 1:], (0, 1))[:, inputs["logits_to_keep"]]
        return where, expected

    def term(self, taken: tuple[Tensor, Tensor] | None, logits: Tensor) -> Tensor:
        """The weighted term of one micro-batch, for `Trainer` to add up over processes as a mean.

        Args:
            taken: what `take` gave.
            logits: the model's `[B, C, V]`.
        """
        if taken is None:
            return logits.new_zeros(())
        where, expected = taken
        found = logits[where].float().log_softmax(-1)
        kl = functional.kl_div(found, expected, reduction="sum", log_target=True)
        self._sum += kl.detach()
        self._tokens += len(expected)
        return self.weight * kl / self.tokens * self.accelerator.num_processes

    def totals(self) -> list[float]:
        """Sum of the KL since it was last read and its tokens, over all processes."""
        sums = torch.stack([self._sum.double(), self._tokens.double()])
        return self.accelerator.reduce(sums, reduction="sum").tolist()

    def take_up(self, totals: list[float]) -> None:
        """Go on with the totals of a checkpoint."""
        if self.accelerator.is_main_process:
            self._sum += totals[0]
            self._tokens += int(totals[1])

    def read(self) -> dict[str, float]:
        """`kl_to_base`, the mean KL per token since the last call; empty without such tokens.

        Every process must ask.
        """
        total, tokens = self.totals()
        self._forget()
        return {"kl_to_base": total / tokens} if tokens else {}

    def _forget(self) -> None:
        device = self.accelerator.device
        self._sum = torch.zeros((), device=device)
        self._tokens = torch.zeros((), dtype=torch.long, device=device)

    @torch.no_grad()
    def _llm(self, model: nn.Module, inputs: dict[str, Any]) -> Tensor:
        """Logits of the language model itself; not by way of DDP, which prepares for a backward."""
        own = self.accelerator.unwrap_model(model)
        with as_llm(own, self.has_adapters):
            return own(**inputs, use_cache=False).logits


@contextlib.contextmanager
def as_llm(model: WingsForCausalLM, has_adapters: bool) -> Iterator[None]:
    """A model that is its language model for text, in evaluation mode, and then as it was."""
    adapters_off = without_adapters(model) if has_adapters else contextlib.nullcontext()
    was_training = model.training
    with model.without_wings(), adapters_off:
        model.eval()
        try:
            yield
        finally:
            model.train(was_training)
