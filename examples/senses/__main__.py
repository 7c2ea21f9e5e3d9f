"""`python -m wings.examples.senses`: senses together, after each other, composed and merged."""

import argparse
import sys
from pathlib import Path

parser = argparse.ArgumentParser(
    prog="python -m wings.examples.senses",
    description=__doc__,
    epilog="Takes about 23 core-hours. Finished rows are not repeated, so it can be stopped.",
)
parser.add_argument("--output", type=Path, default=Path("wings-senses"), help="data and models")
parser.add_argument("--results", type=Path, help="folder of the page (default: OUTPUT/results)")
parser.add_argument("--rows", nargs="+", metavar="ROW", help="rows of the table (default: all)")
parser.add_argument("--seeds", nargs="+", type=int, metavar="N", help="default: 0 1 2")
parser.add_argument("--workers", type=int, metavar="N", help="processes of one thread (default: 2)")
parser.add_argument("--keep", action="store_true", help="keep the models of finished seeds")
parser.add_argument("--trial", action="store_true", help="every row once on a few samples")

if __name__ == "__main__":
    options = parser.parse_args()
    from wings.errors import WingsError

    from .rows import ROWS
    from .senses_run import SEEDS, run_senses, validate_keys
    from .senses_size import TRIAL

    given = {"workers": options.workers} if options.workers else {}
    try:
        validate_keys(options.rows or ())
        run_senses(
            options.output,
            options.results or options.output / "results",
            options.rows or tuple(ROWS),
            options.seeds or SEEDS[: 1 if options.trial else None],
            size=TRIAL if options.trial else None,
            keep=options.keep,
            **given,
        )
    except WingsError as error:
        sys.exit(f"Error: {error}")
