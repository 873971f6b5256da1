"""`python -m netpolq`, the form in which the pool starts the supervisor."""

import sys

from netpolq.cli import main

sys.exit(main())
