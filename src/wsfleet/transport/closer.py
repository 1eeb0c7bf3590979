"""Closing of a connection: the closing handshake, protocol failures, and the error of the loss."""

from __future__ import annotations

import asyncio

from websockets.frames import CloseCode
from websockets.protocol import Protocol

from wsfleet.core.errors import ConnectionLost
from wsfleet.transport.fragments import TOO_MANY
from wsfleet.transport.writer import Writing

__all__ = ["Closing"]

REASON_MAX = 123
"""Maximum size of a close reason, in bytes: 125 for a control frame (RFC 6455, section 5.5), minus 2 for the code."""


class Closing(Writing):
    """The part of a wire that closes the connection. The subclass continues to read in `_continue_soon`."""

    __slots__ = ("_aborted", "_close_s", "_failed", "_failure", "_paused", "_source", "_timer")

    def __init__(
        self, transport: asyncio.Transport, protocol: Protocol, source: asyncio.Transport, close_s: float
    ) -> None:
        super().__init__(transport, protocol)
        self._source = source
        self._close_s = close_s
        self._paused = False
        self._failed: tuple[int, str] | None = None
        self._failure: Exception | None = None
        self._aborted: str | None = None
        self._timer: asyncio.TimerHandle | None = None

    def _continue_soon(self) -> None:
        """Schedule, for an iteration of the loop: deliver deferred data, then resume reading or report the loss."""
        raise NotImplementedError

    def close(self, code: int, reason: str = "") -> None:
        if self._open:
            # errors="ignore" removes a character that was cut in the middle.
            reason = reason.encode()[:REASON_MAX].decode(errors="ignore")
            self._protocol.send_close(code, reason)
            self._flush()
        self._begin_close()

    def abort(self, reason: str = "") -> None:
        if self._lost is not None:
            self._begin_close()  # the loss waits for the delivery of the rest
        elif self._aborted is None:
            self._aborted = reason
            self._closing = True
            self._source.abort()

    @property
    def _discarding(self) -> bool:
        """Whether further data must be ignored (RFC 6455, sections 1.4 and 7.1.7)."""
        return self._failed is not None or self._protocol.close_rcvd is not None

    def _begin_close(self) -> None:
        """Wait for the peer's close frame, at most `close_s`. Reading continues so that the frame is received."""
        if self._closing:
            return
        self._closing = True
        self._paused = False
        self._limit_close()
        self._continue_soon()

    def _limit_close(self) -> None:
        if self._timer is None and self._lost is None:
            self._timer = self._loop.call_later(self._close_s, self._source.abort)

    def _fail(self, code: CloseCode, reason: str, failure: Exception | None = None) -> None:
        # RFC 6455, section 7.1.7: fail the connection, and process no further data.
        if self._failed is None:
            self._failed, self._failure = (int(code), reason), failure
            self._protocol.fail(code, reason)
            self._flush()
            self._begin_close()

    def _loss(self, exc: Exception | None) -> ConnectionLost:
        protocol = self._protocol
        if self._failed is not None:
            code, reason = self._failed
            if code == CloseCode.MESSAGE_TOO_BIG:
                option = "max_fragments" if reason == TOO_MANY else "max_size"
                reason = f"{reason}; limited by the option {option}"
            error = ConnectionLost(code, reason)
        elif protocol.close_rcvd is not None:
            error = ConnectionLost(int(protocol.close_rcvd.code), protocol.close_rcvd.reason)
        elif protocol.close_sent is not None:
            error = ConnectionLost(int(protocol.close_sent.code), "closed by us; the peer did not answer")
        else:
            why = self._aborted or (exc and str(exc)) or "the peer closed the connection without a close frame"
            error = ConnectionLost(int(CloseCode.ABNORMAL_CLOSURE), why)
        error.__cause__ = self._failure or exc
        return error
