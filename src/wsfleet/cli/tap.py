"""`wsfleet tap URI`: stay connected to one server and print its messages.

Messages are written to standard output. State changes of the connection are written to standard error, so that the
output can be piped.
"""

from __future__ import annotations

import argparse
import logging
import os
import ssl
import sys
import time
from collections.abc import Sequence
from functools import partial

from wsfleet.cli.arguments import count, seconds
from wsfleet.cli.output import OutputStream, Render, lines_for
from wsfleet.core.checks import check_uri
from wsfleet.core.error_text import advice
from wsfleet.core.errors import ConfigError, ConnectFailed, ConnectionLost, FleetError, HandshakeRejected
from wsfleet.core.message import Message, State, StateChange
from wsfleet.core.options import Endpoint, Reconnect
from wsfleet.core.redact import redact_uri
from wsfleet.core.text import plural, printable
from wsfleet.endpoint.session import Session
from wsfleet.fleet.fleet import Fleet
from wsfleet.pipeline.subscription import Subscription
from wsfleet.runtime.loop import FAILED, MISUSED
from wsfleet.runtime.run import run_fleet

__all__ = ["add_arguments", "main"]

NAME = "tap"
MAX_SIZE = 16 * 2**20  # larger than the default, to show large messages too
MAX_DELAY_S = 10.0  # shorter than the default, since a person is waiting

USAGE = """\
Binary messages are printed as hexadecimal on a terminal, and as one line of base64 in a pipe, or as
{"base64": "..."} with --json. With --json, a text message that is not JSON is printed as a JSON string in a pipe.
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of `wsfleet tap` to `parser`."""
    parser.epilog = USAGE
    parser.add_argument("uri", metavar="URI", help="ws://... or wss://...")
    parser.add_argument("--count", type=count, metavar="N", help="end after N messages")
    parser.add_argument("--duration", type=seconds, metavar="SECONDS", help='end after this time; also "5 min"')
    parser.add_argument("--json", action="store_true", help="pretty-print JSON messages")
    parser.add_argument(
        "--send", action="append", default=[], metavar="PAYLOAD", help="send this after every connect (repeatable)"
    )
    parser.add_argument(
        "--header", action="append", default=[], metavar="'NAME: VALUE'", help="send this header (repeatable)"
    )


def main(args: argparse.Namespace) -> int:
    """Run `wsfleet tap` and return the exit code."""
    fault = check_uri(args.uri)
    if fault:
        advice = suggest(args.uri)
        _print_error(f"{redact_uri(args.uri)!r} {fault}" + (f"; did you mean {redact_uri(advice)} ?" if advice else ""))
        return MISUSED
    tap = Tap(args.uri, args.count)
    try:
        fleet = tap.fleet(parse_headers(args.header), args.send)
    except ConfigError as exc:
        _print_error("; ".join(text for _, text in exc.faults) or str(exc))
        return MISUSED
    # The command prints its own messages about the connection in place of the log.
    logging.getLogger("wsfleet").setLevel(logging.CRITICAL)
    logging.getLogger("wsfleet.run").setLevel(logging.ERROR)
    started = time.monotonic()
    code = run_fleet(fleet, duration=args.duration, watch=partial(tap.show, lines_for(sys.stdout, args.json)))
    if tap.fatal is not None:
        _print_error(explain(tap.fatal))
        return FAILED
    connects = fleet.stats().endpoints[0].connects
    reconnects = f", connected {connects} times" if connects > 1 else ""
    _note(f"{plural(tap.shown, 'message')} in {time.monotonic() - started:.1f} s{reconnects}")
    return code


class Tap:
    """Prints the messages and the state changes of one endpoint."""

    def __init__(self, uri: str, limit: int | None) -> None:
        self.fatal: Exception | None = None
        self.shown = 0
        self._uri = uri
        self._limit = limit
        self._subscription: Subscription | None = None

    def fleet(self, headers: dict[str, str], payloads: Sequence[str]) -> Fleet:
        """Return the fleet to run. Raises ConfigError for headers that cannot be sent."""

        async def send(session: Session) -> None:
            for payload in payloads:
                await session.send(payload)

        fleet = Fleet(name=NAME, drain_s=1.0)
        fleet.process("$state.*", name="states")(self.print_state)
        fleet.connect(
            Endpoint(
                self._uri,
                name=NAME,
                headers=headers or None,
                on_open=send if payloads else None,
                max_size=MAX_SIZE,
                reconnect=Reconnect(max_s=MAX_DELAY_S),
            )
        )
        # Afterwards: if the arguments are not valid, nobody would close it.
        self._subscription = fleet.subscribe(NAME)
        _note(f"connecting to {redact_uri(self._uri)}")
        return fleet

    async def show(self, render: Render, fleet: Fleet) -> None:
        """Print messages until the limit is reached or the reader of standard output has closed the pipe."""
        subscription = self._subscription
        if subscription is None:
            return
        with OutputStream(sys.stdout.fileno(), render) as outlet:
            async for batch in subscription.batches():
                if self._limit is not None:
                    batch = batch[: self._limit - self.shown]
                try:
                    await outlet.write([message.data for message in batch])
                except BrokenPipeError:
                    return
                self.shown += len(batch)
                if self.shown == self._limit:
                    return

    async def print_state(self, message: Message[StateChange]) -> None:
        """Print one state change. Used as a processor."""
        change = message.data
        if change.state is State.OPEN:
            _note("connected")
        elif change.state is State.FAILED:
            self.fatal = change.error or FleetError("the connection failed")
        elif change.state is State.BACKOFF:
            _note(f"{describe(change.error, self._uri)}; next attempt in {change.delay_s:.1f} s")


def parse_headers(texts: Sequence[str]) -> dict[str, str]:
    """Parse 'Name: value' texts. Raises ConfigError."""
    headers: dict[str, str] = {}
    for text in texts:
        name, colon, value = text.partition(":")
        if not colon or not name.strip():
            raise ConfigError("--header must be 'Name: value'")  # does not show the text, which may be a secret
        if name.strip().lower() in (known.lower() for known in headers):
            raise ConfigError(f"--header {name.strip()} is given twice")
        headers[name.strip()] = value.strip()
    return headers


def suggest(uri: str) -> str | None:
    """Return a WebSocket URI that was probably meant by `uri`, or None."""
    scheme, separator, rest = uri.partition("://")
    if separator:
        scheme = {"http": "ws", "https": "wss"}.get(scheme.lower(), "")
    else:
        rest = uri.removeprefix("//")
        host = rest.split("/")[0]
        local = host.startswith(("localhost", "127.", "[::1]")) or (":" in host and not host.endswith(":443"))
        scheme = "ws" if local else "wss"
    meant = f"{scheme}://{rest}"
    return meant if scheme and check_uri(meant) is None else None


def explain(error: Exception) -> str:
    """Return one line that explains why the connection failed for good, and a remedy."""
    cause = error.__cause__
    hint = advice(error, "use --header 'Authorization: ...'")
    if isinstance(cause, ssl.SSLCertVerificationError):
        return f"cannot verify the server's certificate: {cause.verify_message}; {hint}"
    return str(error) if hint is None else f"{error.message if isinstance(error, ConnectFailed) else error}: {hint}"


def describe(error: Exception | None, uri: str) -> str:
    """Return a short description of why `uri` is not connected at the moment."""
    if isinstance(error, ConnectionLost):
        if error.code == 1006:  # no close frame came (RFC 6455, section 7.1.5)
            return f"connection lost: {error.reason or 'no close frame was received'}"
        return f"connection lost: the server closed with {error.code} {error.reason}".rstrip()
    if isinstance(error, HandshakeRejected):
        is_temporary = error.retry_after_s is not None or error.status == 429 or error.status >= 500
        return error.message if is_temporary else f"{error.message} (no WebSocket at this path?)"
    if not isinstance(error, ConnectFailed):
        return str(error)
    cause = error.__cause__
    if error.stage == "dns":
        return f"cannot find the host: {getattr(cause, 'strerror', None) or error.message}"
    if error.stage == "tcp" and isinstance(cause, OSError) and cause.errno:
        return f"cannot connect: {os.strerror(cause.errno)}"
    no_tls = isinstance(cause, ssl.SSLError) and cause.reason == "WRONG_VERSION_NUMBER"
    if error.stage == "tls" and (no_tls or isinstance(cause, ConnectionError)):
        return "the server does not use TLS (a ws:// server?)"
    if error.stage == "http" and uri.startswith("ws:"):
        return f"WebSocket handshake failed: {error.message} (a wss:// server?)"
    return str(error)


def _note(text: str) -> None:
    """Print a line about the connection on standard error, with the time."""
    from rich.console import Console

    line = f"{time.strftime('%H:%M:%S')} {printable(text)}"
    Console(stderr=True).print(line, style="dim", markup=False, highlight=False, soft_wrap=True)


def _print_error(text: str) -> None:
    print(f"wsfleet tap: {printable(text)}", file=sys.stderr)
