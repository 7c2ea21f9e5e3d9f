"""Estimates memory and FLOPs of a training step with fake tensors.

The model's own code runs, forward and backward, on tensors that have a shape and dtype but no data.
Allocations and frees on the way are added up. So nothing here repeats what a block saves for its
backward, and decoders of any family are counted.
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
from wings.sense import Sense
from wings.train.param_groups import ParamGroup
from wings.upstream.flops import flop_counter
from wings.upstream.mixed_precision import convert_outputs_to_fp32
from wings.upstream.weights import checkpoint_blocks


@dataclass(frozen=True)
class StepMemory:
    """Peak bytes of one micro-batch beyond weights and gradients, forward and backward.

    `forward` and `backward` include the copies of trained weights that autocast keeps.
    `sharded_forward` and `sharded_backward` do not: shards are gathered in the dtype of use.
    """

    forward: float
    backward: float
    sharded_forward: float
    sharded_backward: float

    def extrapolate(self, other: "StepMemory", times: float) -> "StepMemory":
        """`self + times * (other - self)`, field by field."""
        pairs = zip(astuple(self), astuple(other), strict=True)
        return StepMemory(*(a + times * (b - a) for a, b in pairs))

    def peak(self, sharded: bool) -> float:
        """Peak bytes of the whole step."""
        if sharded:
            return max(self.sharded_forward, self.sharded_backward)
        return max(self.forward, self.backward)


@dataclass(frozen=True)
class FakeBatch:
    """Rows of `length` tokens: an item of each sense that fits, then text, all of it trained.

    trained: number of trained tokens at the end of a row; None for all text.
    """

    rows: int
    length: int
    trained: int | None = None

    def senses(self, model: WingsForCausalLM) -> list[Sense]:
        """The senses with an item in a row: each one that fits after those before it."""
        found, left = [], self.length - 2
        for sense in model.config.senses.values():
            if (sense.seq_length or 0) <= left:
                found.append(sense)
                left -= sense.seq_length or 0
        return found

    def tokens(self, model: WingsForCausalLM) -> dict[str, int]:
        """Tokens of a row that are of each sense."""
        present = {sense.name: sense.seq_length or 0 for sense in self.senses(model)}
        return {name: present.get(name, 0) for name in model.config.senses}

    def text(self, model: WingsForCausalLM) -> int:
        """Trained tokens of a row."""
        room = self._room(model)
        return room if self.trained is None else min(self.trained, room)

    def _room(self, model: WingsForCausalLM) -> int:
        """Tokens of a row after its items, but for the first."""
        return self.length - 1 - sum(self.tokens(model).values())

    def inputs(self, model: WingsForCausalLM, mode: FakeTensorMode) -> dict[str, Any]:
        """The keywords that `WingsTrainer.compute_loss` passes: real indices, fake items.

        Row lengths differ by one token, as in a padded batch, because a mask costs memory.
        """
        used = {sense.token_id for sense in model.config.senses.values()}
        word = next(token for token in range(len(used) + 1) if token not in used)
        ids = torch.full((self.rows, self.length), word)
        values, place = {}, 1
        for sense in self.senses(model):
            ids[:, place : place + (sense.seq_length or 0)] = sense.token_id
            place += sense.seq_length or 0
            shape = model.model.encoder(sense).item_shape
            with mode:
                values[sense.values_name] = torch.empty(self.rows, *shape)
        mask = torch.ones_like(ids)
        # Of many rows each has text left.
        for row in range(1, self.rows):
            mask[row, self.length - row % self._room(model) :] = 0
        labels = ids.clone()
        labels[:, : self.length - self.text(model)] = -100
        columns = torch.arange(self.length - self.text(model) - 1, self.length - 1)
        return {
            "input_ids": ids,
            "attention_mask": mask,
            "labels": labels,
            "num_items_in_batch": torch.tensor(labels.numel()),
            # As many logits as `loss_tokens` keeps; a mask would give a size that is not known.
            "logits_to_keep": columns,
            "shift_labels": labels[:, columns + 1],
            **values,
        }


class FakeStepRunner:
    """Runs training steps of a meta-device model on fake tensors.

    Args:
        model: on the meta device; its tensors are replaced.
        groups: its parameter groups, trained and frozen.
        types: dtype of use of each group's weights.
        bf16: whether steps run under autocast.
        loss_chunk: tokens whose logits exist at one time; None for all.

    Raises:
        WingsError: the decoder's code reads the value of a tensor.
    """

    def __init__(
        self,
        model: WingsForCausalLM,
        groups: Iterable[ParamGroup],
        types: dict[str, torch.dtype],
        bf16: bool,
        loss_chunk: int | None = None,
    ) -> None:
        self.model, self.bf16, self.loss_chunk = model.train(), bf16, loss_chunk
        # Only results of fake tensors become fake: the model reads values of indices and layouts.
        self.mode = FakeTensorMode(allow_non_fake_inputs=True)
        self.held: list[Tensor] = []
        made = {
            id(parameter): self._fake_parameter(parameter, types[group.name], group.rate)
            for group in groups
            for parameter in group.parameters
        }
        for module in model.modules():
            for name, parameter in module._parameters.items():
                if parameter is not None:
                    module._parameters[name] = made[id(parameter)]
            for name, buffer in module._buffers.items():
                if buffer is not None:
                    module._buffers[name] = self._empty(buffer, buffer.dtype)

    def step(self, batch: FakeBatch, checkpointing: bool) -> StepMemory:
        """Peak memory of one micro-batch; gradients of earlier ones already exist."""
        tracker = MemoryTracker(self.held)
        with tracker:
            # As in `Trainer`: all outputs but the loss are freed before the backward.
            loss = self._loss(batch, checkpointing)
            forward = tracker.pop_peaks()
            loss.backward()
            backward = tracker.pop_peaks()
        return StepMemory(forward[0], backward[0], forward[1], backward[1])

    def flops(self, batch: FakeBatch, checkpointing: bool) -> int:
        """FLOPs of matrix products and attention; a multiply-add counts as two.

        This needs its own pass: torch's counter keeps tensors alive that a step would free.
        """
        counter = flop_counter()
        with counter:
            self._loss(batch, checkpointing).backward()
        return counter.get_total_flops()

    def _loss(self, batch: FakeBatch, checkpointing: bool) -> Tensor:
        checkpoint_blocks(self.model, checkpointing)
        inputs = batch.inputs(self.model, self.mode)
        forward: Any = self.model.forward
        if self.bf16:
            forward = convert_outputs_to_fp32(torch.autocast("cpu", torch.bfloat16)(forward))
        try:
            return forward(**inputs, loss_chunk=self.loss_chunk).loss
        except (RuntimeError, NotImplementedError, TypeError) as error:
            name = type(self.model.model.language_model).__name__
            raise WingsError(
                f"A training step of {name} does not run on fake tensors, so its memory cannot be"
                f" estimated ({type(error).__name__}: {str(error).splitlines()[0]})."
            ) from error

    def _fake_parameter(
        self, parameter: nn.Parameter, dtype: torch.dtype, rate: float | None
    ) -> nn.Parameter:
        fake = nn.Parameter(self._empty(parameter, dtype), requires_grad=rate is not None)
        if rate is not None:
            fake.grad = self._empty(parameter, dtype)
        self.held.append(fake)
        return fake

    def _empty(self, like: Tensor, dtype: torch.dtype) -> Tensor:
        with self.mode:
            made = torch.empty(like.shape, dtype=dtype, device="cpu")
        self.held.append(made)
        return made


class MemoryTracker(TorchDispatchMode):
    """Tracks bytes of live tensors: of all, and of all but dtype copies of held tensors.

    Args:
        held: tensors that exist already and do not count.
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
                self._add(leaf.untyped_storage(), is_copy)
        return out

    def pop_peaks(self) -> tuple[int, int]:
        """Both peaks since the last call."""
        everything, without_copies = self.highest
        self.highest = list(self.now)
        return everything, without_copies

    def _holds(self, tensor: Tensor) -> bool:
        return tensor.untyped_storage()._cdata in self.held

    def _add(self, storage: torch.UntypedStorage, is_copy: bool) -> None:
        if storage._cdata in self.known:
            return
        self.known.add(storage._cdata)
        sizes = storage.nbytes(), 0 if is_copy else storage.nbytes()
        for n, size in enumerate(sizes):
            self.now[n] += size
            self.highest[n] = max(self.highest[n], self.now[n])
        weakref.finalize(storage, self._remove, storage._cdata, sizes)

    def _remove(self, key: int, sizes: tuple[int, int]) -> None:
        self.known.discard(key)
        for n, size in enumerate(sizes):
            self.now[n] -= size
