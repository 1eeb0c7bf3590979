"""The entry point of the command `wsfleet`.

It is outside the package, so that signals are handled while the package is imported, which takes up to half a second.
"""

import os
import signal
import sys

__all__ = ["handle_early_signals", "main"]

INTERRUPTED = 130


def handle_early_signals() -> None:
    """Ignore SIGHUP in `wsfleet run`, and let SIGINT end the process without a traceback."""
    if sys.argv[1:2] == ["run"] and hasattr(signal, "SIGHUP"):
        # Until the run handles SIGHUP, a reload has nothing to do: the file will be read anyway. Unlike SIG_IGN, a
        # handler is not inherited by programs that user code starts.
        signal.signal(signal.SIGHUP, lambda number, frame: None)
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, lambda number, frame: os._exit(INTERRUPTED))


def main() -> int:
    """Import the command and run it; return the exit code."""
    handle_early_signals()
    from wsfleet.cli.main import main

    if signal.getsignal(signal.SIGINT) is not signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        return main()
    except KeyboardInterrupt:
        return INTERRUPTED
