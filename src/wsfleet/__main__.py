"""`python -m wsfleet` is the command `wsfleet`."""

import sys

from wsfleet.cli.main import main

if __name__ == "__main__":
    sys.exit(main())
