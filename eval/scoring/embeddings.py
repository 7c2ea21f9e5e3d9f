"""What a text is about, as a vector: the mean of a language model's own token embeddings.

They come with the model at hand, need neither network nor forward pass, and compare two questions
by the words that they have in common, or that the model holds to be alike: for short questions that
is their subject. Hidden states of a causal model see only what stands before, and their means lie
close together whatever is said; text features of a vision tower are cut after some 77 tokens, and
know captions. The mean over all texts is taken out, as what every question has (a question mark,
"Answer with a letter") says nothing of its subject.
"""

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn.functional import normalize
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from wings.eval.runner import ProgressCallback, no_progress


@torch.no_grad()
def embed_texts(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    texts: Sequence[str],
    progress: ProgressCallback = no_progress,
) -> Tensor:
    """Unit vectors `[N, D]` float64 on the CPU; zeros for a text that is empty or like all others.

    Args:
        model: any model with token embeddings; only their table is used.
        tokenizer: the model's.
        texts: what to embed.
        tell: is told how many texts are embedded.
    """
    table = model.get_input_embeddings().get_parameter("weight")
    rows = []
    for number, text in enumerate(texts, 1):
        ids = torch.tensor(tokenizer.encode(text, add_special_tokens=False), dtype=torch.long)
        # float64 of one order of additions: equal texts give equal vectors, and so equal ties.
        rows.append(table[ids.to(table.device)].double().sum(0).cpu() / max(1, len(ids)))
        progress("embedding", number, len(texts))
    vectors = torch.stack(rows)
    return normalize(vectors - vectors.mean(0), dim=-1, eps=1e-9)
