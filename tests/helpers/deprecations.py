"""Deprecations that our calls meet are failures of the test that makes the call.

Those that Python knows as warnings are turned into errors by pyproject.toml. transformers logs
others; this handler collects them.
"""

import logging

import pytest
from transformers.utils import logging as transformers_logging

# transformers says so of its own image processors, and of its own calls of an assistant model.
NOT_OURS = ("Image decoding with `torchvision`", "Passing `generation_config` together with gener")


class Deprecations(logging.Handler):
    """Keeps what transformers logs about names that will go."""

    def __init__(self):
        super().__init__(logging.WARNING)
        self.said = []

    def emit(self, record):
        text = record.getMessage()
        if "deprecated" in text.lower() and not text.startswith(NOT_OURS):
            self.said.append(text)


HANDLER = Deprecations()
logging.getLogger("transformers").addHandler(HANDLER)


@pytest.fixture(autouse=True)
def no_deprecated_call():
    """Fails a test in which transformers logged that something is deprecated."""
    HANDLER.said.clear()
    # Each sentence is logged once a process: every test shall hear it.
    transformers_logging.warning_once.cache_clear()
    yield
    said, HANDLER.said = HANDLER.said, []
    assert not said, f"transformers logged: {said}"
