"""What the endpoints of one fleet share."""

from __future__ import annotations

from wsfleet.core.context import Context
from wsfleet.core.loop_watchdog import Watchdog
from wsfleet.core.options import Limits
from wsfleet.endpoint.connect_limiter import ConnectLimiter
from wsfleet.endpoint.liveness import Sweep
from wsfleet.endpoint.outages import Outages
from wsfleet.pipeline.hub import Hub
from wsfleet.transport.base import Transport

__all__ = ["Services"]


class Services:
    """The hub, the limits and the outages per host, the liveness sweep, the watchdog and the transport of one fleet."""

    def __init__(self, context: Context, limits: Limits, transport: Transport | None) -> None:
        self.context = context
        self.hub = Hub(context.request_exit)
        self.limiter = ConnectLimiter(limits)
        self.outages = Outages()
        self.sweep = Sweep(self.hub.unread)
        self.watchdog = Watchdog()
        self._transport = transport

    @property
    def transport(self) -> Transport:
        """What dials. Set by the user, or when the fleet starts."""
        assert self._transport is not None  # noqa: S101 - no supervisor runs before the start
        return self._transport

    @transport.setter
    def transport(self, transport: Transport) -> None:
        self._transport = transport

    @property
    def has_transport(self) -> bool:
        """Whether there is a transport already."""
        return self._transport is not None
