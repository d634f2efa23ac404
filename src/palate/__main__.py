"""`python -m palate`."""

import sys

from palate.cli import main

sys.exit(main())
