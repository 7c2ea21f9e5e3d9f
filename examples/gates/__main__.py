"""`python -m wings.examples.gates`: the gate experiment, an hour of one core."""

import argparse
from pathlib import Path

parser = argparse.ArgumentParser(prog="python -m wings.examples.gates", description=__doc__)
parser.add_argument("--output", type=Path, default=Path("wings-gates"), help="data and checkpoints")
parser.add_argument("--results", type=Path, help="folder of the page (default: OUTPUT/results)")
parser.add_argument("--measure-only", action="store_true", help="train nothing that is missing")

if __name__ == "__main__":
    options = parser.parse_args()
    from .gates_run import run_gates

    run_gates(
        options.output, options.results or options.output / "results", not options.measure_only
    )
