"""`python -m wings.eval.harness ...` is `lm_eval ...` with the model `wings` known to it, and the
tasks that ship with Wings where no other `--include_path` is given.

Versions of lm-evaluation-harness that read entry points (group `lm_eval.models`) need it not.
"""

import sys

from wings.errors import WingsError
from wings.eval.harness.paper import TASKS


def main() -> int:
    """lm_eval's own command line; what is refused is one sentence and the exit code 2."""
    try:
        from wings.eval.harness.model import register

        register()
        given = {word.partition("=")[0] for word in sys.argv}
        if given & {"-t", "--tasks"} and "--include_path" not in given:
            sys.argv += ["--include_path", str(TASKS)]
        from wings.upstream.harness import command_line

        command_line()()
    except WingsError as error:
        print(f"lm_eval: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
