"""The small checkpoint and its data, for the tests of this folder."""

from small_checkpoint import checkpoint, data, llm  # noqa: F401
