"""`wsfleet tap URI`: stay connected to one server and print what it says.

Messages go to the standard output, one after the other; everything about the connection goes to the standard error,
so that the output can be piped.
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
from wsfleet.core.errors import ConfigError, ConnectFailed, ConnectionLost, FleetError, HandshakeRejected
from wsfleet.core.message import Message, State, StateChange
from wsfleet.core.options import Endpoint, Reconnect
from wsfleet.core.redact import redact_uri
from wsfleet.core.text import printable
from wsfleet.endpoint.session import Session
from wsfleet.fleet.fleet import Fleet
from wsfleet.pipeline.subscription import Subscription
from wsfleet.runtime.loop import FAILED, MISUSED
from wsfleet.runtime.run import run_fleet

__all__ = ["add_arguments", "main"]

NAME = "tap"
MAX_SIZE = 16 * 2**20  # a person who looks wants to see large messages too
PATIENCE_S = 10.0  # the longest wait between attempts: somebody is watching

USAGE = """\
Binary messages are shown as hexadecimal on a terminal, and as one line of base64 each in a pipe; with --json as
{"base64": "..."}. With --json a text that is not JSON becomes a JSON string where the output is no terminal.
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of `wsfleet tap` to `parser`."""
    parser.epilog = USAGE
    parser.add_argument("uri", metavar="URI", help="ws://... or wss://...")
    parser.add_argument("--count", type=count, metavar="N", help="end after so many messages")
    parser.add_argument("--duration", type=seconds, metavar="SECONDS", help='end after so long, also "5 min"')
    parser.add_argument("--json", action="store_true", help="pretty-print messages that are JSON")
    parser.add_argument(
        "--send", action="append", default=[], metavar="PAYLOAD", help="send this after every connect (repeatable)"
    )
    parser.add_argument(
        "--header", action="append", default=[], metavar="'NAME: VALUE'", help="send this header (repeatable)"
    )


def main(args: argparse.Namespace) -> int:
    """Tap as `add_arguments` declares it; return the exit code."""
    fault = check_uri(args.uri)
    if fault:
        advice = suggest(args.uri)
        _complain(f"{redact_uri(args.uri)!r} {fault}" + (f"; did you mean {redact_uri(advice)} ?" if advice else ""))
        return MISUSED
    tap = Tap(args.uri, args.count)
    try:
        fleet = tap.fleet(parse_headers(args.header), args.send)
    except ConfigError as exc:
        _complain("; ".join(text for _, text in exc.faults) or str(exc))
        return MISUSED
    # What the library would log is told here in a person's words.
    logging.getLogger("wsfleet").setLevel(logging.CRITICAL)
    logging.getLogger("wsfleet.run").setLevel(logging.ERROR)
    started = time.monotonic()
    code = run_fleet(fleet, duration=args.duration, watch=partial(tap.show, lines_for(sys.stdout, args.json)))
    if tap.fatal is not None:
        _complain(explain(tap.fatal))
        return FAILED
    connects = fleet.stats().endpoints[0].connects
    again = f", connected {connects} times" if connects > 1 else ""
    _note(f"{tap.shown:,} message{'s' * (tap.shown != 1)} in {time.monotonic() - started:.1f} s{again}")
    return code


class Tap:
    """One endpoint, its messages printed and its changes of state told."""

    def __init__(self, uri: str, limit: int | None) -> None:
        self.fatal: Exception | None = None
        self.shown = 0
        self._uri = uri
        self._limit = limit
        self._subscription: Subscription | None = None

    def fleet(self, headers: dict[str, str], payloads: Sequence[str]) -> Fleet:
        """Return the fleet to run; raises ConfigError for headers that cannot be sent."""

        async def send(session: Session) -> None:
            for payload in payloads:
                await session.send(payload)

        fleet = Fleet(name=NAME, drain_s=1.0)
        self._subscription = fleet.subscribe(NAME)
        fleet.process("$state.*", name="states")(self.tell)
        fleet.connect(
            Endpoint(
                self._uri,
                name=NAME,
                headers=headers or None,
                on_open=send if payloads else None,
                max_size=MAX_SIZE,
                reconnect=Reconnect(max_s=PATIENCE_S),
            )
        )
        _note(f"connecting to {redact_uri(self._uri)}")
        return fleet

    async def show(self, render: Render, fleet: Fleet) -> None:
        """Print until there were enough messages, or nobody reads them any more."""
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

    async def tell(self, message: Message[StateChange]) -> None:
        """Tell about one change of state; a processor."""
        change = message.data
        if change.state is State.OPEN:
            _note("connected")
        elif change.state is State.FAILED:
            self.fatal = change.error or FleetError("the connection failed")
        elif change.state is State.BACKOFF:
            _note(f"{describe(change.error, self._uri)}; next attempt in {change.delay_s:.1f} s")


def parse_headers(texts: Sequence[str]) -> dict[str, str]:
    """Return 'Name: value' lines as a mapping; raises ConfigError for what is none."""
    headers: dict[str, str] = {}
    for text in texts:
        name, colon, value = text.partition(":")
        if not colon or not name.strip():
            raise ConfigError("--header wants 'Name: value'")  # without the text: it may be a secret
        if name.strip().lower() in (known.lower() for known in headers):
            raise ConfigError(f"--header gives {name.strip()} twice")
        headers[name.strip()] = value.strip()
    return headers


def suggest(uri: str) -> str | None:
    """Return what was probably meant by a URI without a WebSocket scheme, or None."""
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
    """Say in one line why there will be no further attempt, and what to do about it."""
    cause = error.__cause__
    if isinstance(error, HandshakeRejected) and error.status in (401, 403):
        return f"{error.message}: it wants other credentials; --header 'Authorization: ...' gives some"
    if isinstance(error, HandshakeRejected) and error.status in (404, 410):
        return f"{error.message}: it has nothing at this path; look at the part after the host again"
    if isinstance(cause, ssl.SSLCertVerificationError):
        return (
            f"the server's certificate is not to be trusted: {cause.verify_message}; "
            "for a certificate authority of your own, set SSL_CERT_FILE to its certificate"
        )
    return str(error)


def describe(error: Exception | None, uri: str) -> str:
    """Say in a person's words why there is no connection to `uri` at the moment."""
    if isinstance(error, ConnectionLost):
        if error.code == 1006:  # no close frame came (RFC 6455, section 7.1.5)
            return f"lost: {error.reason or 'the connection was cut'}"
        return f"lost: the server closed with {error.code} {error.reason}".rstrip()
    if isinstance(error, HandshakeRejected):
        usual = error.retry_after_s is not None or error.status == 429 or error.status >= 500
        return error.message if usual else f"{error.message} (no WebSocket at this path?)"
    if not isinstance(error, ConnectFailed):
        return str(error)
    cause = error.__cause__
    if error.stage == "dns":
        return f"cannot find the host: {getattr(cause, 'strerror', None) or error.message}"
    if error.stage == "tcp" and isinstance(cause, OSError) and cause.errno:
        return f"cannot connect: {os.strerror(cause.errno)}"
    no_tls = isinstance(cause, ssl.SSLError) and cause.reason == "WRONG_VERSION_NUMBER"
    if error.stage == "tls" and (no_tls or isinstance(cause, ConnectionError)):
        return "no TLS is spoken there (a ws:// server?)"
    if error.stage == "http" and uri.startswith("ws:"):
        return f"no WebSocket handshake: {error.message} (a wss:// server?)"
    return str(error)


def _note(text: str) -> None:
    """Say something about the connection, dimly: on the standard error, with the time."""
    from rich.console import Console

    line = f"{time.strftime('%H:%M:%S')} {printable(text)}"
    Console(stderr=True).print(line, style="dim", markup=False, highlight=False, soft_wrap=True)


def _complain(text: str) -> None:
    print(f"wsfleet tap: {printable(text)}", file=sys.stderr)
