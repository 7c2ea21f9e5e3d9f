"""`python -m wings.eval.harness ...`: `lm_eval ...` with the model `wings` and the shipped tasks.

The shipped tasks are added unless `--include_path` is given. Versions of lm-evaluation-harness that
read entry points (group `lm_eval.models`) know the model without this command.
"""

import sys

from wings.errors import WingsError


def main() -> int:
    """Runs lm_eval's own command line; invalid input is one sentence on stderr and exit code 2."""
    try:
        # Importing it registers the model.
        from wings.eval.harness.tasks import TASK_FILES
        from wings.upstream.harness import command_line

        given = {word.partition("=")[0] for word in sys.argv}
        if given & {"-t", "--tasks"} and "--include_path" not in given:
            sys.argv += ["--include_path", str(TASK_FILES)]
        command_line()()
    except WingsError as error:
        print(f"lm_eval: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
