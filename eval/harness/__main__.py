"""`python -m wings.eval.harness ...` is `lm_eval ...` with the model `wings` known to it.

Versions of lm-evaluation-harness that read entry points (group `lm_eval.models`) need it not.
"""

import sys

from wings.errors import WingsError


def main() -> int:
    """lm_eval's own command line; what is refused is one sentence and the exit code 2."""
    try:
        from wings.eval.harness.model import register

        register()
        from lm_eval.__main__ import cli_evaluate

        cli_evaluate()
    except WingsError as error:
        print(f"lm_eval: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
