"""What is measured on which kind of machine: decoder shapes, lengths, rounds."""

from dataclasses import dataclass, replace

import torch

PATCH = 14


@dataclass(frozen=True)
class Shape:
    """A decoder of Llama's form with wings.

    `layers`: of the model that is trained and runs forward; `decoding_layers`: of the one that
    decodes, where what a pass costs once would otherwise stand beside too few blocks.
    """

    width: int
    heads: int
    key_heads: int
    inner: int
    layers: int
    decoding_layers: int
    vocabulary: int = 4096
    rank: int = 64
    pixels: int = 224

    @property
    def name(self) -> str:
        """`D 4096`, or `D 576, ungrouped` where every head has keys of its own."""
        return f"D {self.width}" + ", ungrouped" * (self.heads == self.key_heads)

    @property
    def head_width(self) -> int:
        """d."""
        return self.width // self.heads

    @property
    def image_tokens(self) -> int:
        """Patches of the one picture in each row."""
        return (self.pixels // PATCH) ** 2


@dataclass(frozen=True)
class Preset:
    """One run of the bench.

    `lengths`: of operations, forward passes and timed training steps. `memory`: of training steps
    whose peak memory is taken. `contexts`: tokens before the decoded ones. `main`: lengths that
    every shape runs, and with every number of rows in `batches`; the others come after them, for
    the first shape and one row. `flex`: lengths at which flex_attention is compiled. `rounds`: of
    interleaved repeats, fewer where one case would take much longer than `seconds`. `steps`: tokens
    decoded. `ceiling`: edge of the matrices whose product shows what the machine does at best.
    """

    name: str
    dtype: torch.dtype
    shapes: tuple[Shape, ...]
    lengths: tuple[int, ...]
    memory: tuple[int, ...]
    contexts: tuple[int, ...]
    batches: tuple[int, ...] = (1,)
    main: tuple[int, ...] = ()
    flex: tuple[int, ...] = ()
    rounds: int = 7
    seconds: float = 20.0
    steps: int = 25
    ceiling: int = 2048


CPU = Preset(
    name="cpu",
    dtype=torch.float32,
    # What wings cost is nearly the same beside both blocks: beside SmolLM2's, small for its width,
    # that is the largest ratio; beside the form of the first Llama it is an ordinary one.
    shapes=(
        Shape(576, 9, 3, 1536, layers=12, decoding_layers=12),
        Shape(576, 9, 9, 2304, layers=12, decoding_layers=12),
    ),
    lengths=(512, 1024, 2048),
    memory=(512, 1024, 2048, 4096),
    contexts=(500, 1000, 2000),
    main=(1024, 2048),
    flex=(1024, 2048),
    rounds=16,
    seconds=60.0,
)

GPU = Preset(
    name="gpu",
    dtype=torch.bfloat16,
    shapes=(
        Shape(4096, 32, 8, 14336, layers=4, decoding_layers=32, pixels=378),
        Shape(2048, 32, 8, 8192, layers=8, decoding_layers=16, pixels=378),
        Shape(576, 9, 3, 1536, layers=12, decoding_layers=30, pixels=378),
    ),
    lengths=(1024, 2048, 4096, 8192, 16384),
    memory=(1024, 2048, 4096, 8192, 16384),
    contexts=(1024, 4096, 16384),
    batches=(1, 4),
    main=(2048, 8192),
    flex=(2048, 8192),
    rounds=10,
    seconds=3.0,
    steps=30,
    ceiling=8192,
)

# Shows that everything runs; its ratios say nothing.
QUICK = Preset(
    name="quick",
    dtype=torch.float32,
    shapes=(Shape(64, 4, 2, 128, 2, 2, vocabulary=256, rank=8, pixels=28),),
    lengths=(24, 48),
    memory=(24, 48),
    contexts=(24,),
    rounds=2,
    seconds=1.0,
    steps=2,
    ceiling=128,
)


def with_lengths(preset: Preset, lengths: list[int]) -> Preset:
    """The same timed at other lengths, all of which every shape and every number of rows runs."""
    chosen = tuple(sorted(lengths))
    return replace(preset, lengths=chosen, main=chosen)
