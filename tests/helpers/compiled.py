"""Compiles kernels for GPUs that need not be present: shared memory, registers, spills.

As a program it reads jobs from its standard input: the interpreter, which the tests run kernels in,
is chosen when triton is imported, so the compiler needs a process of its own.
"""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from types import SimpleNamespace

import pytest
import torch

from wings.kernels.tuning import blocks_for

POINTERS = {
    torch.float32: "*fp32", torch.float16: "*fp16", torch.bfloat16: "*bf16", torch.int32: "*i32",
    torch.uint8: "*u8",
}  # fmt: skip
# Bytes of shared memory that one program may use, by compute capability.
SHARED_LIMIT = {80: 163 * 1024, 90: 227 * 1024}


@dataclass
class Job:
    """One kernel to compile.

    `module`, `kernel`: its place, such as `wings.kernels.routed_attention.forward`. `signature`:
    types of the arguments that are not constexpr, by name (`"*bf16"`, `"i32"`, `"fp32"`); pointers
    are taken as aligned to 16 bytes. `constants`: the constexpr arguments, and others that would be
    specialised (strides of 1, None). `divisible`: numbers that 16 divides. `target`: 80 or 90.
    """

    module: str
    kernel: str
    signature: dict[str, str]
    constants: dict[str, object]
    target: int = 90
    warps: int = 4
    stages: int = 2
    divisible: tuple[str, ...] = field(default=())


@dataclass
class Report:
    """Bytes of shared memory per program; registers and spilled bytes per thread."""

    shared: int
    registers: int
    spilled: int


class Recorder:
    """Replaces a kernel and adds the arguments of each launch to `jobs`.

    So what is compiled is what the host code asks for; call that with tensors on device "meta".
    """

    def __init__(self, kernel: object, target: int, jobs: list[Job]) -> None:
        self.kernel, self.target, self.jobs = kernel, target, jobs

    def __getitem__(self, grid: tuple[int, ...]) -> Callable[..., None]:
        return self.record

    def record(self, *args: object, num_warps: int, num_stages: int, **constants: object) -> None:
        signature, divisible = {}, []
        for name, value in zip(self.kernel.arg_names, args, strict=False):
            if isinstance(value, int) and value == 1:
                constants[name] = 1
            elif isinstance(value, int):
                signature[name] = "i32"
                divisible += [name] * (value % 16 == 0)
            elif isinstance(value, float):
                signature[name] = "fp32"
            else:
                signature[name] = POINTERS[value.dtype]
        function = self.kernel.fn
        self.jobs.append(
            Job(
                function.__module__,
                function.__name__,
                signature,
                constants,
                self.target,
                num_warps,
                num_stages,
                tuple(divisible),
            )
        )


def launched(
    file: object, kernels: list[str], target: int, launch: Callable[[], None]
) -> list[Job]:
    """The jobs of `launch`, whose kernels are in `file`, with the table's blocks for a target."""
    card, jobs = SimpleNamespace(type="cuda"), []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch.cuda, "get_device_capability", lambda _: divmod(target, 10))
        patch.setattr(file, "blocks_for", lambda *given: blocks_for(*given[:3], card))
        patch.setattr(file, "validate_decode", lambda *_: None)
        for name in kernels:
            patch.setattr(file, name, Recorder(getattr(file, name), target, jobs))
        launch()
    return jobs


def report(*jobs: Job) -> list[Report]:
    """Compiles all jobs in one process."""
    environment = {key: value for key, value in os.environ.items() if key != "TRITON_INTERPRET"}
    environment["PYTHONPATH"] = os.pathsep.join(path for path in sys.path if path)
    done = subprocess.run(
        [sys.executable, __file__],
        input=json.dumps([asdict(job) for job in jobs]),
        capture_output=True,
        text=True,
        env=environment,
    )
    assert done.returncode == 0, done.stderr
    return [Report(**answer) for answer in json.loads(done.stdout.splitlines()[-1])]


def compile_one(job: Job) -> Report:
    """Compiles one job, in a process without the interpreter."""
    import importlib

    import triton
    from triton import knobs
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    kernel = getattr(importlib.import_module(job.module), job.kernel)
    signature = {name: job.signature.get(name, "constexpr") for name in kernel.arg_names}
    bare = [name for name, kind in signature.items() if kind == "constexpr"]
    aligned = [
        place
        for place, name in enumerate(kernel.arg_names)
        if signature[name].startswith("*") or name in job.divisible
    ]
    source = ASTSource(
        kernel,
        signature,
        {(kernel.arg_names.index(name),): job.constants[name] for name in bare},
        {(place,): [["tt.divisibility", 16]] for place in aligned},
    )
    built = triton.compile(
        source,
        target=GPUTarget("cuda", job.target, 32),
        options={"num_warps": job.warps, "num_stages": job.stages},
    )
    return Report(built.metadata.shared, *usage(built.asm["cubin"], knobs.nvidia.cuobjdump.path))


def usage(cubin: bytes, tool: str) -> tuple[int, int]:
    """Registers and bytes of stack per thread; only spilled registers need a stack."""
    import re
    import tempfile

    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(cubin)
        file.flush()
        command = [tool, "--dump-resource-usage", file.name]
        text = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    found = re.search(r"REG:(\d+) STACK:(\d+)", text)
    return int(found[1]), int(found[2])


if __name__ == "__main__":
    answers = [asdict(compile_one(Job(**job))) for job in json.load(sys.stdin)]
    print(json.dumps(answers))
