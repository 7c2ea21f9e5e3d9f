"""`python -m wings.upstream` verifies every contract with the installed libraries.

Prints one line for each. The exit code is 1 where one is broken.
"""

import sys

from ..endings import run_command
from .contract import BrokenContract, contracts


def main() -> int:
    """Verifies all contracts whose libraries are installed."""
    broken = 0
    for module, contract in contracts(importable_only=True):
        try:
            contract.verify()
        except BrokenContract as error:
            broken += 1
            print(f"broken  {module}: {error}")
        else:
            print(f"holds   {module}: {contract.sentence}.")
    return int(broken > 0)


if __name__ == "__main__":
    sys.exit(run_command("wings.upstream", main))
