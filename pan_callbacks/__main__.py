"""``python -m pan_callbacks``: the command line."""

import sys

from pan_callbacks.cli.main import main

sys.exit(main())
