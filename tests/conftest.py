"""Kernels run in Triton's interpreter where there is no GPU; it must be asked for beforehand."""

import os
import sys
from pathlib import Path

import torch

# What tests of several folders share stands here, importable by its plain name.
sys.path.insert(0, str(Path(__file__).parent))

if not torch.cuda.is_available():
    os.environ.setdefault("TRITON_INTERPRET", "1")


def pytest_collection_modifyitems(items):
    import pytest

    if not torch.cuda.is_available():
        for item in items:
            if "gpu" in item.keywords:
                item.add_marker(pytest.mark.skip(reason="needs a GPU"))
