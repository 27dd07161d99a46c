"""``python -m minivar.cli``."""

import sys

from minivar.cli import main

sys.exit(main())
