"""The trackers of transformers' `Trainer` by name, and its TensorBoard callback."""

from collections.abc import Collection, Mapping
from typing import Any

from transformers import TrainerCallback
from transformers.integrations.integration_utils import (
    INTEGRATION_TO_CALLBACK,
    TensorBoardCallback,
    get_available_reporting_integrations,
)

from .contract import Contract

TRACKERS: Mapping[str, type[TrainerCallback]] = INTEGRATION_TO_CALLBACK


def installed_trackers() -> Collection[str]:
    """Names of the trackers whose library is installed."""
    return get_available_reporting_integrations()


class EventFileCallback(TensorBoardCallback):
    """`TensorBoardCallback` whose event file is opened by its subclass."""

    @property
    def is_open(self) -> bool:
        """True while an event file is being written."""
        return self.tb_writer is not None

    def open_events(self, folder: str, next_step: int) -> Any:
        """Opens an event file; hides metrics of later steps in older files."""
        self.tb_writer = self._SummaryWriter(folder, purge_step=next_step)
        return self.tb_writer

    @property
    def folder(self) -> str | None:
        """The folder that the environment names for event files, if any."""
        return self.logging_dir


def _check_events() -> None:
    import inspect

    callback = EventFileCallback()
    assert callback.folder is None or isinstance(callback.folder, str)
    assert callback.tb_writer is None, "an event file is open before the training begins"
    accepted = inspect.signature(callback._SummaryWriter).parameters
    assert "purge_step" in accepted, "a writer of events cannot hide later steps"


CONTRACTS = (
    Contract(
        "transformers",
        "5.17",
        "INTEGRATION_TO_CALLBACK maps names of trackers to callbacks, and TensorBoardCallback "
        "writes with tb_writer, which is made by _SummaryWriter",
        (
            "transformers.integrations.integration_utils:INTEGRATION_TO_CALLBACK",
            "transformers.integrations.integration_utils:get_available_reporting_integrations",
            "transformers.integrations.integration_utils:TensorBoardCallback.on_train_begin"
            "(args, state, control)",
        ),
        check=_check_events,
    ),
)
