"""Log-probabilities of given tokens after a prompt, by the model's own generation."""

from collections.abc import Mapping
from itertools import count
from typing import Any

import torch
from torch import Tensor
from transformers import GenerationMixin, LogitsProcessor, LogitsProcessorList, PreTrainedModel


class ForcedTokens(LogitsProcessor):
    """Lets generation write given tokens and no others.

    Attributes:
        start: tokens of the prompt.
        tokens: ids that follow it.
    """

    def __init__(self, start: int, tokens: list[int]) -> None:
        self.start = start
        self.tokens = tokens

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        """`scores` [B, V] with minus infinity at all but the next of the tokens."""
        forced = torch.full_like(scores, -torch.inf)
        forced[:, self.tokens[input_ids.shape[1] - self.start]] = 0
        return forced


@torch.inference_mode()
def continuation_log_probs(
    model: PreTrainedModel, prompt: Mapping[str, Any], tokens: Tensor
) -> Tensor:
    """Log-probabilities of the vocabulary before each of the tokens that follow a prompt.

    Generation knows how a family continues: its positions after an image, its masks, and which
    inputs belong to the prompt alone. So no input of a processor has to be extended here.

    Args:
        model: any model that generates.
        prompt: inputs of one conversation on the model's device, with `input_ids` [1, T].
        tokens: [N] int64 ids.

    Returns:
        [N, V] float32 on the CPU.
    """
    # True for every model that is asked here, but not declared by PreTrainedModel.
    assert isinstance(model, GenerationMixin)
    ids = tokens.tolist()
    out = model.generate(
        **prompt,
        max_new_tokens=len(ids),
        do_sample=False,
        num_beams=1,
        logits_processor=LogitsProcessorList([ForcedTokens(prompt["input_ids"].shape[1], ids)]),
        # One that does not occur, so that nothing ends in the middle.
        eos_token_id=next(n for n in count() if n not in ids),
        output_logits=True,
        return_dict_in_generate=True,
    )
    return torch.cat(out.logits).float().log_softmax(-1).cpu()
