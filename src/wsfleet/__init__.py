"""Keep many outgoing WebSocket connections alive in one event loop, and account for every message.

    from wsfleet import Fleet

    fleet = Fleet()
    fleet.connect("wss://feed.example/trades", name="trades", decode="json", topic="trades.{symbol}")

    @fleet.process("trades.*")
    async def on_trade(message):
        print(message.topic, message.data)

    fleet.run()

To read the code, follow a message through the packages: `fleet` (the public object), `endpoint` (one server kept
alive), `transport` (sockets and frames), `pipeline` (hub, mailboxes, processors); `core` holds the data they share.
"""

import sys

if sys.argv[:1] == ["-m"]:  # only while `python -m wsfleet` imports the package
    from _wsfleet import handle_early_signals

    handle_early_signals()

from wsfleet.core import __version__, accel, errors, message
from wsfleet.core.attempt import Attempt
from wsfleet.core.errors import (
    Busy,
    ConfigError,
    ConnectFailed,
    ConnectionLost,
    EndpointFailed,
    Fatal,
    FleetError,
    HandshakeRejected,
    NotOpen,
    Overflowed,
    RequestLost,
    RequestTimeout,
)
from wsfleet.core.message import DeadLetter, Gap, Malformed, Message, Slow, State, StateChange
from wsfleet.core.options import Buffer, Endpoint, Limits, Liveness, Overflow, Reconnect, Retry
from wsfleet.core.retry import is_fatal
from wsfleet.core.stats import FleetStats
from wsfleet.endpoint.connection import Connection
from wsfleet.endpoint.credentials import Credentials
from wsfleet.endpoint.pool import Pool
from wsfleet.endpoint.session import Session
from wsfleet.fleet.fleet import Fleet
from wsfleet.pipeline.subscription import Subscription

# Programs also import from `wsfleet.errors` and `wsfleet.message`; both modules live in `wsfleet.core`.
sys.modules[f"{__name__}.errors"] = errors
sys.modules[f"{__name__}.message"] = message

accelerated = accel.accelerated()
"""Whether all compiled modules are in use."""

__all__ = [
    "Attempt",
    "Buffer",
    "Busy",
    "ConfigError",
    "ConnectFailed",
    "Connection",
    "ConnectionLost",
    "Credentials",
    "DeadLetter",
    "Endpoint",
    "EndpointFailed",
    "Fatal",
    "Fleet",
    "FleetError",
    "FleetStats",
    "Gap",
    "HandshakeRejected",
    "Limits",
    "Liveness",
    "Malformed",
    "Message",
    "NotOpen",
    "Overflow",
    "Overflowed",
    "Pool",
    "Reconnect",
    "RequestLost",
    "RequestTimeout",
    "Retry",
    "Session",
    "Slow",
    "State",
    "StateChange",
    "Subscription",
    "__version__",
    "accelerated",
    "errors",
    "is_fatal",
]
