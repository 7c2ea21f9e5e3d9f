"""`SavedProcessor`: a processor whose folder brings along its code and its version."""

import os
from typing import Any

from transformers import ProcessorMixin

from wings.saved_code import (
    OF_IMAGES,
    OF_SENSES,
    PROCESSOR_CLASSES,
    auto_map,
    stamp,
    validate_format,
    write_code,
)


class SavedProcessor(ProcessorMixin):
    """Base of the processor: saving and loading, see `wings/saved_code.py`."""

    other_senses: dict[str, Any]

    def to_dict(self) -> dict[str, Any]:
        """As in transformers, with the class for `AutoProcessor`, the version and the format."""
        number = OF_SENSES if self.other_senses else OF_IMAGES
        return {**super().to_dict(), "auto_map": auto_map(PROCESSOR_CLASSES), **stamp(number)}

    def save_pretrained(self, save_directory: str | os.PathLike, *args: Any, **kwargs: Any) -> Any:
        """As in transformers; also writes the code that `auto_map` names."""
        write_code(save_directory)
        return super().save_pretrained(save_directory, *args, **kwargs)

    @classmethod
    def get_processor_dict(cls, *args: Any, **kwargs: Any) -> tuple[dict[str, Any], dict[str, Any]]:
        """As in transformers, without the version.

        Raises:
            WingsError: a format that only a newer release can read.
        """
        fields, options = super().get_processor_dict(*args, **kwargs)
        validate_format(fields)
        return {name: fields[name] for name in fields if name not in stamp()}, options

    @classmethod
    def register_for_auto_class(cls, auto_class: Any = "AutoProcessor") -> None:
        """Does nothing: every folder is saved with its code."""
