"""Fixtures of the model's tests."""

import pytest
from processors import make_processor


@pytest.fixture
def processor():
    """A processor with the template that most families have."""
    return make_processor()
