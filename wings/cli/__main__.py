"""`python -m wings.cli`: the same as `wings`."""

import sys

from . import main

sys.exit(main())
