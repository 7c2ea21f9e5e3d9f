"""A training step without numbers: what it would keep in memory, and what it would compute.

The model's own code runs, forward and backward, on tensors that have shapes and types and nothing
in them; what is allocated and freed on the way is added up. So nothing here repeats what a block
keeps for its backward, and a decoder of any family is counted as it is.
"""

import weakref
from collections.abc import Iterable
from dataclasses import astuple, dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from wings.errors import WingsError
from wings.model.causal_lm import WingsForCausalLM
from wings.train.param_groups import Row
from wings.upstream.flops import flop_counter
from wings.upstream.mixed_precision import convert_outputs_to_fp32
from wings.upstream.weights import checkpoint_blocks


@dataclass(frozen=True)
class Step:
    """One micro-batch, forward and backward.

    Bytes at the highest point of each, beyond weights and their gradients: `forward` and `backward`
    with the copies of trained weights that autocast keeps, `sharded_forward` and `sharded_backward`
    without, as shards are gathered in the type that is used.
    """

    forward: float
    backward: float
    sharded_forward: float
    sharded_backward: float

    def toward(self, other: "Step", times: float) -> "Step":
        """This and so many times the way to another: each figure grows in a straight line."""
        mine, theirs = astuple(self), astuple(other)
        return Step(*(a + times * (b - a) for a, b in zip(mine, theirs, strict=True)))

    def peak(self, sharded: bool) -> float:
        """Bytes at the highest point of both."""
        if sharded:
            return max(self.sharded_forward, self.sharded_backward)
        return max(self.forward, self.backward)


@dataclass(frozen=True)
class Batch:
    """Rows of `length` tokens: an image first where one fits, then text, of which all is trained.

    trained: how many tokens at a row's end are trained, or None for all of the text.
    """

    rows: int
    length: int
    trained: int | None = None

    def images(self, model: WingsForCausalLM) -> int:
        """Images in a row: one, or none where it does not fit."""
        return int(model.config.image_seq_length + 2 <= self.length)

    def text(self, model: WingsForCausalLM) -> int:
        """Trained tokens of a row."""
        text = self.length - 1 - self.images(model) * model.config.image_seq_length
        return text if self.trained is None else min(self.trained, text)

    def inputs(self, model: WingsForCausalLM, mode: FakeTensorMode) -> dict[str, Any]:
        """What `WingsTrainer.compute_loss` gives the model: real indices, pictures without numbers.

        Rows differ in length by a token, as in any batch that is padded: a mask costs memory.
        """
        ids = torch.full((self.rows, self.length), 0 if model.config.image_token_id else 1)
        asked = {}
        if self.images(model):
            ids[:, 1 : 1 + model.config.image_seq_length] = model.config.image_token_id
            size = model.model.vision_tower.config["image_size"]
            height, width = (size, size) if isinstance(size, int) else size
            with mode:
                asked["pixel_values"] = torch.empty(self.rows, 3, height, width)
        mask = torch.ones_like(ids)
        for row in range(1, self.rows):
            mask[row, -row:] = 0
        labels = ids.clone()
        labels[:, : self.length - self.text(model)] = -100
        columns = torch.arange(self.length - self.text(model) - 1, self.length - 1)
        return {
            "input_ids": ids,
            "attention_mask": mask,
            "labels": labels,
            "logits_to_keep": columns,
            "shift_labels": labels[:, 1:][:, columns],
            "num_items_in_batch": torch.tensor(labels.numel()),
            **asked,
        }


class Rehearsal:
    """A model on the meta device, made ready to rehearse steps.

    Args:
        model: on the meta device; its tensors are replaced.
        rows: its groups, trained and frozen.
        types: the type in which each group's weights are used.
        bf16: whether steps run under autocast.

    Raises:
        WingsError: a decoder whose code asks for the value of a number.
    """

    def __init__(
        self,
        model: WingsForCausalLM,
        rows: Iterable[Row],
        types: dict[str, torch.dtype],
        bf16: bool,
    ) -> None:
        self.model, self.bf16 = model.train(), bf16
        # Only what meets such a tensor becomes one: indices and layouts stay real, as code looks
        # at them.
        self.mode = FakeTensorMode(allow_non_fake_inputs=True)
        self.held: list[Tensor] = []
        made = {}
        for row in rows:
            for parameter in row.parameters:
                trains = row.rate is not None
                made[id(parameter)] = self._blank(parameter, types[row.group], trains)
        for module in model.modules():
            for name, own in module._parameters.items():
                if own is not None:
                    module._parameters[name] = made[id(own)]
            for name, buffer in module._buffers.items():
                if buffer is not None:
                    module._buffers[name] = self._empty(buffer, buffer.dtype)

    def step(self, batch: Batch, checkpointing: bool) -> Step:
        """What a micro-batch of a step takes; gradients of earlier ones are there already."""
        ledger = Ledger(self.held)
        with ledger:
            # As in `Trainer`: all but the loss is dropped before the backward.
            loss = self._loss(batch, checkpointing)
            forward = ledger.turn_page()
            loss.backward()
            backward = ledger.turn_page()
        return Step(forward[0], backward[0], forward[1], backward[1])

    def flops(self, batch: Batch, checkpointing: bool) -> int:
        """Of matrix products and attentions, a product of two numbers and its sum counted as two.

        A pass of its own: torch's counter keeps tensors alive that a step would free.
        """
        counter = flop_counter()
        with counter:
            self._loss(batch, checkpointing).backward()
        return counter.get_total_flops()

    def _loss(self, batch: Batch, checkpointing: bool) -> Tensor:
        checkpoint_blocks(self.model, checkpointing)
        inputs = batch.inputs(self.model, self.mode)
        forward = self.model.forward
        if self.bf16:
            forward = convert_outputs_to_fp32(_autocast(forward))
        try:
            return forward(**inputs).loss
        except (RuntimeError, NotImplementedError, TypeError) as error:
            name = type(self.model.model.language_model).__name__
            raise WingsError(
                f"a step of {name} cannot be rehearsed without numbers "
                f"({type(error).__name__}: {str(error).splitlines()[0]})."
            ) from error

    def _blank(self, parameter: nn.Parameter, kind: torch.dtype, trains: bool) -> nn.Parameter:
        blank = nn.Parameter(self._empty(parameter, kind), requires_grad=trains)
        if trains:
            blank.grad = self._empty(parameter, kind)
        self.held.append(blank)
        return blank

    def _empty(self, like: Tensor, kind: torch.dtype) -> Tensor:
        with self.mode:
            made = torch.empty(like.shape, dtype=kind, device="cpu")
        self.held.append(made)
        return made


class Ledger(TorchDispatchMode):
    """Adds up the memory of tensors as they come and go.

    Two sums: of everything, and of everything but what is a held tensor in another type.

    Args:
        held: tensors that are there already and do not count.
    """

    def __init__(self, held: list[Tensor]) -> None:
        super().__init__()
        self.now, self.highest = [0, 0], [0, 0]
        self.held = {tensor.untyped_storage()._cdata for tensor in held}
        self.known: set[int] = set()

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple = (), kwargs: dict | None = None
    ) -> Any:
        out = func(*args, **(kwargs or {}))
        is_copy = func is torch.ops.aten._to_copy.default and self._holds(args[0])
        for leaf in tree_leaves(out):
            if isinstance(leaf, Tensor) and not self._holds(leaf):
                self._take(leaf.untyped_storage(), is_copy)
        return out

    def turn_page(self) -> tuple[int, int]:
        """The highest points of both sums since the last page."""
        everything, without_copies = self.highest
        self.highest = list(self.now)
        return everything, without_copies

    def _holds(self, tensor: Tensor) -> bool:
        return tensor.untyped_storage()._cdata in self.held

    def _take(self, storage: torch.UntypedStorage, is_copy: bool) -> None:
        if storage._cdata in self.known:
            return
        self.known.add(storage._cdata)
        sizes = storage.nbytes(), 0 if is_copy else storage.nbytes()
        for n, size in enumerate(sizes):
            self.now[n] += size
            self.highest[n] = max(self.highest[n], self.now[n])
        weakref.finalize(storage, self._leave, storage._cdata, sizes)

    def _leave(self, key: int, sizes: tuple[int, int]) -> None:
        self.known.discard(key)
        for n, size in enumerate(sizes):
            self.now[n] -= size


def _autocast(forward: Any) -> Any:
    def run(**inputs: Any) -> Any:
        with torch.autocast("cpu", torch.bfloat16):
            return forward(**inputs)

    return run
