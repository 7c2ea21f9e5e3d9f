"""The folder of a command that writes a checkpoint."""

from wings.errors import WingsError
from wings.output_folder import OutputFolder

CONFIG = "config.json"


def validate_new_checkpoint(target: OutputFolder) -> None:
    """Raises a `WingsError` if the folder has a checkpoint, or is not for one.

    One that was not saved to its end has no config.json; it is replaced.
    """
    target.validate()
    if (target.path / CONFIG).exists():
        raise WingsError(f"{target.option}: {target.path} has a checkpoint; choose a new folder.")
