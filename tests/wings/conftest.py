"""The helpers of this folder, importable by their plain names."""

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))


@pytest.fixture
def processor():
    """A processor with the template that most families have."""
    from processors import make_processor

    return make_processor()
