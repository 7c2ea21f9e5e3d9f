"""`Prefix`: learned keys and values of a block that every token attends to, a baseline.

It does not depend on images. Learners must be better than the same frozen language model with a
few free weights a block.
"""

import torch
from torch import Tensor, nn
from torch.nn.functional import scaled_dot_product_attention

from wings.config import WingsConfig
from wings.errors import WingsError
from wings.upstream.weights import init

# Std of keys and values. Zero values would leave the gates without a gradient, and zero gates leave
# keys and values without one: only the gates start at zero.
STD = 0.02


class Prefix(nn.Module):
    r"""Attention to P keys that belong to no token, gated head by head.

    With q_h a query of the main attention, after its rotary positions and its norms, and G pairs of
    K and V for its H heads, as many heads to a pair as the decoder's own::

        out_h += tanh(g_h) softmax(scale q_h K^T) V

    Prefix tuning (Li and Liang 2021, arXiv 2101.00190) learns such keys and values and lets them
    compete with the text's in one softmax, which changes a model before anything is trained.
    LLaMA-Adapter (Zhang et al. 2023, arXiv 2303.16199) gives them a softmax of their own with
    gates that start at zero: a fresh prefix adds exact zeros. That is the form here. Keys and
    values are weights, as in prefix tuning, not embeddings that the decoder projects.

    Keys are constants, so masks, caches, padding and packing do not affect them. A soft cap of the
    main attention is not applied.
    """

    def __init__(self, config: WingsConfig) -> None:
        super().__init__()
        text = config.text_config
        fields = text.to_dict()
        self.heads = text.num_attention_heads
        self.width = fields.get("head_dim") or config.hidden_size // self.heads
        # A decoder that does not say how many has one for each head.
        groups = fields.get("num_key_value_heads") or self.heads
        self.keys = nn.Parameter(torch.empty(groups, config.prefix_length, self.width))
        self.values = nn.Parameter(torch.empty(groups, config.prefix_length, self.width))
        self.gates = nn.Parameter(torch.empty(self.heads))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Keys and values from a normal, gates zero; loaded tensors stay."""
        init.normal_(self.keys, std=STD)
        init.normal_(self.values, std=STD)
        init.zeros_(self.gates)

    def forward(self, query: Tensor, scale: float) -> Tensor:
        """Returns what is added to the main attention's output.

        Args:
            query: `[B, H, T, d]`, the main attention's.
            scale: the factor of its scores.

        Returns:
            `[B, T, H, d]` in query's dtype, or autocast's.

        Raises:
            WingsError: queries of another shape than the decoder's configuration says.
        """
        if query.shape[1] != self.heads or query.shape[-1] != self.width:
            raise WingsError(
                f"The decoder's attention has {query.shape[1]} heads of width {query.shape[-1]} "
                f"where its configuration says {self.heads} of {self.width}, so a prefix does not "
                f"fit it: use prefix_length=0 with this decoder."
            )
        key, value = (
            part.to(query.dtype).expand(len(query), -1, -1, -1) for part in (self.keys, self.values)
        )
        out = scaled_dot_product_attention(query, key, value, scale=scale, enable_gqa=True)
        return (out * torch.tanh(self.gates).to(out.dtype)[:, None, None]).transpose(1, 2)
