"""`python -m wings.eval.benchmarks FORMAT FILES... OUTPUT` converts benchmarks to JSON Lines."""

import inspect
import sys
from collections.abc import Callable, Sequence

from wings.endings import run_command
from wings.errors import WingsError, nearest
from wings.eval.items import Item, write_items

from .gqa import read_gqa
from .mmbench import read_mmbench
from .mmmu import read_mmmu
from .scienceqa import read_scienceqa
from .vqav2 import read_vqav2

READERS: dict[str, Callable[..., list[Item]]] = {
    "vqav2": read_vqav2,
    "gqa": read_gqa,
    "scienceqa": read_scienceqa,
    "mmbench": read_mmbench,
    "mmmu": read_mmmu,
}


def main(words: Sequence[str]) -> str:
    """Converts files; returns a summary.

    Raises:
        WingsError: an unknown format, or the wrong number of files.
    """
    name = words[0] if words else ""
    if name not in READERS:
        raise WingsError(
            f"{name!r} is no format{nearest(name, READERS)}; use one of {', '.join(READERS)}."
        )
    takes = [*inspect.signature(READERS[name]).parameters.values()]
    least = sum(one.default is one.empty for one in takes)
    if not least <= len(words) - 2 <= len(takes):
        named = " ".join(
            one.name.upper() if one.default is one.empty else f"[{one.name.upper()}]"
            for one in takes
        )
        raise WingsError(f"usage: python -m wings.eval.benchmarks {name} {named} OUTPUT")
    items = READERS[name](*words[1:-1])
    write_items(words[-1], items)
    return f"{len(items)} items in {words[-1]}"


if __name__ == "__main__":
    name = "wings.eval.benchmarks"
    sys.exit(run_command(name, lambda: print(main(sys.argv[1:]))))
