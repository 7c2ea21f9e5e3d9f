"""`python -m wings.eval.harness ...`: `lm_eval ...` with the model `wings` and the shipped tasks.

The shipped tasks are added unless `--include_path` is given. Versions of lm-evaluation-harness that
read entry points (group `lm_eval.models`) know the model without this command.
"""

import sys

from wings.endings import run_command


def main() -> int:
    """Runs lm_eval's own command line; returns the exit code, see `wings/endings.py`."""
    debug = "--debug" in sys.argv
    sys.argv = [word for word in sys.argv if word != "--debug"]
    return run_command("lm_eval", run, debug)


def run() -> None:
    """Registers the model, adds the shipped tasks and hands over to lm_eval."""
    # Importing it registers the model.
    from wings.eval.harness.tasks import TASK_FILES
    from wings.upstream.harness import command_line

    given = {word.partition("=")[0] for word in sys.argv}
    if given & {"-t", "--tasks"} and "--include_path" not in given:
        sys.argv += ["--include_path", str(TASK_FILES)]
    command_line()()


if __name__ == "__main__":
    sys.exit(main())
