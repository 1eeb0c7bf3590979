"""Many WebSocket connections, kept alive in one event loop, and every message accounted for.

    from wsfleet import Fleet

    fleet = Fleet()
    fleet.connect("wss://feed.example/trades", name="trades", decode="json", topic="trades.{symbol}")

    @fleet.process("trades.*")
    async def on_trade(message):
        print(message.topic, message.data)

    fleet.run()

The way through the code: `fleet` (the front door), `supervisor` (keeps one endpoint alive), `session` (one socket's
life), and from there `feed`, `hub`, `mailbox`, `processor`, in the order in which a message passes them.
"""

from wsfleet import accel, errors
from wsfleet.connection import Connection
from wsfleet.errors import FleetError
from wsfleet.fleet import Fleet
from wsfleet.message import Message, State
from wsfleet.options import Buffer, Endpoint, Limits, Liveness, Overflow, Reconnect, Retry
from wsfleet.pool import Pool
from wsfleet.session import Session
from wsfleet.stats import FleetStats
from wsfleet.subscription import Subscription

__version__ = "0.1.0"

accelerated = accel.accelerated()
"""Whether all compiled parts are in use."""

__all__ = [
    "Buffer",
    "Connection",
    "Endpoint",
    "Fleet",
    "FleetError",
    "FleetStats",
    "Limits",
    "Liveness",
    "Message",
    "Overflow",
    "Pool",
    "Reconnect",
    "Retry",
    "Session",
    "State",
    "Subscription",
    "accelerated",
    "errors",
]
