"""KL to the base LLM: keeps answers to text close to those of the frozen language model."""

import contextlib
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from accelerate import Accelerator
from torch import Tensor, nn
from torch.nn import functional

from wings.model.causal_lm import WingsForCausalLM
from wings.train.lora import without_adapters

from .data.collator import before_mask, loss_tokens


class BaseLLM:
    """The frozen language model inside the model in training.

    It is the model itself with learners and adapters off, in evaluation mode and without gradients,
    on `base_inputs` (see `with_kl_mask`).

    Args:
        has_adapters: whether the language model has LoRA adapters.
        is_sharded: whether processes gather weights from each other in every forward.
        accelerator: accelerator of the run.
    """

    def __init__(self, has_adapters: bool, is_sharded: bool, accelerator: Accelerator) -> None:
        self.has_adapters, self.is_sharded = has_adapters, is_sharded
        self.accelerator = accelerator

    def target(self, model: nn.Module, inputs: dict[str, Any]) -> tuple[Tensor, Tensor] | None:
        """Remove the KL keys from a batch and run the language model on them.

        Args:
            model: the model in training, wrapped or not.
            inputs: its keywords, with those of `loss_tokens`.

        Returns:
            which of its logits are under the mask, `[N]` bool, and the log-probabilities of the
            language model there, `[K, V]` float32. None without such tokens.
        """
        kl_mask, base_inputs = inputs.pop("kl_mask", None), inputs.pop("base_inputs", None)
        if base_inputs is None:
            if self.is_sharded:
                # Other processes may have text and wait for the shards of this one.
                self._logits(model, {"input_ids": inputs["input_ids"].new_zeros(1, 1)})
            return None
        kept = loss_tokens(base_inputs["labels"])["logits_to_keep"]
        question = {name: tensor for name, tensor in base_inputs.items() if name != "labels"}
        logits = self._logits(model, {**question, "logits_to_keep": kept})
        places = before_mask(kl_mask)[inputs["logits_to_keep"]]
        return places, logits.float().log_softmax(-1)

    @torch.no_grad()
    def _logits(self, model: nn.Module, inputs: dict[str, Any]) -> Tensor:
        """Logits of the language model, not through DDP, which would prepare a backward."""
        bare = self.accelerator.unwrap_model(model)
        with as_llm(bare, self.has_adapters):
            return bare(**inputs, use_cache=False).logits


def kl_sum(target: tuple[Tensor, Tensor], logits: Tensor) -> Tensor:
    """Sum of KL(LLM || model) over the masked tokens, in nats, a scalar.

    Args:
        target: the return value of `BaseLLM.target`.
        logits: logits of the model, `[N, V]`.
    """
    places, expected = target
    actual = logits[places].float().log_softmax(-1)
    return functional.kl_div(actual, expected, reduction="sum", log_target=True)


class KLToBaseLoss:
    r"""KL(LLM || model) on the tokens of `kl_mask`, in nats per token.

    With p_i the distribution of the language model at masked token i of the global batch, q_i that
    of the model, V entries and N such tokens over all accumulated batches and processes::

        weight / N  sum_i  sum_v  p_i(v) (log p_i(v) - log q_i(v))

    N is not the number of trained tokens that divides the other loss, so the weight does not depend
    on the share of text in the data.

    Args:
        weight: weight of the term.
        llm: the language model p.
        accelerator: accelerator of the run.
    """

    def __init__(self, weight: float, llm: BaseLLM, accelerator: Accelerator) -> None:
        self.weight, self.llm, self.accelerator = weight, llm, accelerator
        self.tokens = 1
        self._reset()

    def count_tokens(self, batches: Sequence[dict[str, Any]]) -> None:
        """Count the masked tokens of a step's micro-batches over all processes."""
        device = self.accelerator.device
        mine = torch.zeros((), dtype=torch.long, device=device)
        for batch in batches:
            if "kl_mask" in batch:
                mine += batch["kl_mask"].sum().to(device)
        self.tokens = self.accelerator.reduce(mine, reduction="sum").clamp(min=1)

    def term(self, target: tuple[Tensor, Tensor] | None, logits: Tensor) -> Tensor:
        """The weighted term of one micro-batch, for `Trainer` to add up over processes as a mean.

        Args:
            target: the return value of `BaseLLM.target`.
            logits: logits of the model, `[N, V]`.
        """
        if target is None:
            return logits.new_zeros(())
        kl = kl_sum(target, logits)
        self._sum += kl.detach()
        self._tokens += len(target[1])
        return self.weight * kl / self.tokens * self.accelerator.num_processes

    def totals(self) -> list[float]:
        """Sum of the KL since the last `pop` and its tokens, over all processes."""
        sums = torch.stack([self._sum.double(), self._tokens.double()])
        return self.accelerator.reduce(sums, reduction="sum").tolist()

    def restore(self, totals: list[float]) -> None:
        """Add the totals of a checkpoint."""
        if self.accelerator.is_main_process:
            self._sum += totals[0]
            self._tokens += int(totals[1])

    def pop(self) -> dict[str, float]:
        """`kl_to_base`, the mean KL per token since the last call; empty without such tokens.

        Every process must call this.
        """
        total, tokens = self.totals()
        self._reset()
        return {"kl_to_base": total / tokens} if tokens else {}

    def _reset(self) -> None:
        device = self.accelerator.device
        self._sum = torch.zeros((), device=device)
        self._tokens = torch.zeros((), dtype=torch.long, device=device)


@contextlib.contextmanager
def as_llm(model: WingsForCausalLM, has_adapters: bool) -> Iterator[None]:
    """Runs the model as its base language model, in evaluation mode, inside the block."""
    adapters_off = without_adapters(model) if has_adapters else contextlib.nullcontext()
    was_training = model.training
    with model.without_wings(), adapters_off:
        model.eval()
        try:
            yield
        finally:
            model.train(was_training)
