"""`python -m wings.commands`: the same as `wings`."""

import sys

from wings.commands import main

sys.exit(main())
