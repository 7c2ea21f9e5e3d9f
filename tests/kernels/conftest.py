"""Makes the modules of this folder importable, as in `from compiled import report`."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))
