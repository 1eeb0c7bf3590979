"""`python -m wsfleet` is the command `wsfleet`."""

import signal
import sys

__all__ = ["main"]


def main() -> int:
    """Import the command and run it; return the exit code. An interrupt during the import shows no traceback."""
    if sys.argv[1:2] == ["run"] and hasattr(signal, "SIGHUP"):
        # Until the run handles SIGHUP, a reload has nothing to do: the file will be read anyway. Unlike SIG_IGN, a
        # handler is not inherited by programs that user code starts.
        signal.signal(signal.SIGHUP, lambda number, frame: None)
    try:
        from wsfleet.cli.main import main

        return main()
    except KeyboardInterrupt:
        return 130


if __name__ == "__main__":
    sys.exit(main())
