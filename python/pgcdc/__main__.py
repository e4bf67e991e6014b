"""`python -m pgcdc`, for where the command `pgcdc` is not on PATH."""

import sys

from pgcdc.cli import main

if __name__ == "__main__":
    sys.exit(main())
