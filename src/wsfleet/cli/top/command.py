"""`wsfleet top [URL]`: the status page of a running fleet, in the terminal."""

from __future__ import annotations

import argparse
import asyncio
import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from types import FrameType

__all__ = ["add_arguments", "main"]

URL = "http://127.0.0.1:9464"
TOKEN = "WSFLEET_TOKEN"

USAGE = """\
The fleet must have an HTTP interface: listen in [http] of its file, or Fleet.serve_http(). A fleet on another machine
requires a token. It is read from a file or from the environment variable WSFLEET_TOKEN; the command line has no option
for it, since other users can read command lines.
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of `wsfleet top` to `parser`."""
    parser.epilog = USAGE
    parser.add_argument(
        "url", metavar="URL", nargs="?", default=URL, help="the fleet's HTTP URL (default: %(default)s)"
    )
    parser.add_argument("--token-file", type=Path, metavar="FILE", help="a file that contains only the fleet's token")


def main(args: argparse.Namespace) -> int:
    """Show the fleet until the user quits; return the exit code."""
    from wsfleet.cli.top.client import check_url
    from wsfleet.runtime.loop import MISUSED

    try:
        url = check_url(args.url)
    except ValueError as exc:
        return _misused(f"the URL {exc}")
    try:
        token = tokens(args.token_file)
        token()
    except (OSError, ValueError) as exc:
        return _misused(f"--token-file: {getattr(exc, 'strerror', None) or exc}")
    if not (sys.stdin.isatty() and sys.stderr.isatty()) or os.environ.get("TERM", "dumb") == "dumb":
        return _misused(f"requires a terminal; programs can use {url}/api/stats")
    code = asyncio.run(_show(url, token))
    return MISUSED if code is None else code


def tokens(file: Path | None) -> Callable[[], str | None]:
    """Return a function that reads the token on each call, because the file may be changed meanwhile."""

    def token() -> str | None:
        text = os.environ.get(TOKEN, "") if file is None else file.read_text(encoding="utf-8")
        text = text.strip()
        if not all(33 <= ord(letter) <= 126 for letter in text):
            raise ValueError("is not one line of printable ASCII")  # as required for a header
        return text or None

    return token


async def _show(url: str, token: Callable[[], str | None]) -> int | None:
    from wsfleet.cli.top.client import Client
    from wsfleet.cli.top.terminal import Top
    from wsfleet.runtime.loop import EXIT_TIMEOUT_S, daemon_timer

    top = Top(Client(url, token))
    loop = asyncio.get_running_loop()

    def leave(number: int, frame: FrameType | None) -> None:
        # Exit through Textual, which restores the terminal's mode. If the terminal is gone, or Textual has not started
        # or is ending already, that may take no effect.
        daemon_timer(EXIT_TIMEOUT_S, os._exit, 128 + number).start()
        loop.call_soon_threadsafe(top.exit, 128 + number)

    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, leave)
    return await top.run_async()


def _misused(text: str) -> int:
    from wsfleet.runtime.loop import MISUSED

    print(f"wsfleet top: {text}", file=sys.stderr)
    return MISUSED
