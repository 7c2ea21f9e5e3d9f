"""Shapes and presets: decoders, lengths and rounds to measure on each kind of machine."""

from dataclasses import dataclass, replace

import torch

PATCH = 14
# Text tokens before the image.
BEFORE = 10
# Columns of routed attention: the router needs one for each learner.
COLUMNS = 2


@dataclass(frozen=True)
class Shape:
    """A decoder of Llama's form with wings.

    `layers` blocks are trained and run forward, `decoding_layers` decode: with few blocks, the cost
    of a pass outside of the blocks would dominate a decoded token.
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
        """`D 4096`, or `D 576, ungrouped` if every head has its own keys."""
        return f"D {self.width}" + ", ungrouped" * (self.heads == self.key_heads)

    @property
    def head_width(self) -> int:
        """d."""
        return self.width // self.heads

    @property
    def image_tokens(self) -> int:
        """Patches of the one image in each row."""
        return (self.pixels // PATCH) ** 2

    def fits(self, length: int) -> bool:
        """True if a row of `length` tokens holds the image and some text around it."""
        return length >= BEFORE + self.image_tokens + 2

    def learner_sizes(self, length: int) -> list[tuple[int, int]]:
        """Keys of the image learner and of the text learner in such a row, and visible pairs."""
        image = self.image_tokens
        after = length - BEFORE - image
        text_pairs = causal_pairs(BEFORE) + (image + after) * BEFORE + causal_pairs(after)
        return [(image, (length - BEFORE) * image), (length - image, text_pairs)]


def causal_pairs(length: int) -> int:
    """Visible pairs of causal attention, T (T + 1) / 2."""
    return length * (length + 1) // 2


@dataclass(frozen=True)
class Preset:
    """Settings of one run.

    Attributes:
        lengths: of operations, forward passes and timed training steps.
        memory: lengths of training steps whose peak memory is taken.
        contexts: tokens before the decoded ones.
        main: lengths measured for every shape and every batch size. The other lengths follow, for
            the first shape and batch size only.
        flex: lengths for flex_attention, which is compiled for each.
        rounds: rounds of interleaved calls; fewer if a case takes longer than `seconds`.
        steps: tokens decoded.
        ceiling: edge of the matrices whose product and copy give the speed of the machine.
        compile_backend: backend of torch.compile for decoding on a CPU.
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
    compile_backend: str = "inductor"


CPU = Preset(
    name="cpu",
    dtype=torch.float32,
    # Wings cost nearly the same with both decoders. SmolLM2's block is small for its width, which
    # gives the largest ratio; the block of the first Llama gives an ordinary one.
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

# Shows within seconds that everything runs; its ratios mean nothing.
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
    # The graph is traced whole, and no C++ compiler runs.
    compile_backend="eager",
)


def with_lengths(preset: Preset, lengths: list[int]) -> Preset:
    """The preset with other timed lengths, for every shape and batch size."""
    chosen = tuple(sorted(lengths))
    return replace(preset, lengths=chosen, main=chosen)
