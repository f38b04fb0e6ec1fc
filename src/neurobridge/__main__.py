"""python -m neurobridge is the neurobridge command."""

import sys

from neurobridge.cli import main

sys.exit(main())
