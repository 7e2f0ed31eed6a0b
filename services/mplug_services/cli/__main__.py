"""`python -m mplug_services.cli` is the `mplug` command."""

import sys

from mplug_services.cli import main

sys.exit(main())
