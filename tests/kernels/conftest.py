"""Lets these tests import the modules that stand beside them, as `from compiled import report`."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))
