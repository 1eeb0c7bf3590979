"""`python -m wsfleet` is the command `wsfleet`."""

import sys

from _wsfleet import main

__all__ = ["main"]

if __name__ == "__main__":
    sys.exit(main())
