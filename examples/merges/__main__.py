"""`python -m wings.examples.merges`: trains children and measures their merges, two core-hours."""

import argparse
from pathlib import Path

parser = argparse.ArgumentParser(prog="python -m wings.examples.merges", description=__doc__)
parser.add_argument("--output", type=Path, default=Path("wings-merges"), help="data, checkpoints")
parser.add_argument("--results", type=Path, help="folder of the page (default: OUTPUT/results)")
parser.add_argument(
    "--base", choices=("quickstart", "smollm2"), help="the LLM (default: one after the other)"
)

if __name__ == "__main__":
    options = parser.parse_args()
    from .merges_run import run_merges

    bases = {"bases": (options.base,)} if options.base else {}
    run_merges(options.output, options.results or options.output / "results", **bases)
