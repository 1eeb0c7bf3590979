"""Tells a service manager how we are: systemd's protocol, one datagram to `$NOTIFY_SOCKET` (sd_notify(3)).

Where the variable is not set, nothing is done. Nothing here waits: a manager that does not read misses a line, the
fleet no time.
"""

from __future__ import annotations

import asyncio
import logging
import os
import socket
import time
from collections.abc import Callable, Mapping

__all__ = ["ENDING", "Notifier", "without_notifier"]

logger = logging.getLogger("wsfleet.run")

STATUS_S = 5.0
"""How often the status line is told anew, where no watchdog asks for news more often."""

ENDING = "ending: what came in is processed first"

_VARIABLES = ("NOTIFY_SOCKET", "WATCHDOG_USEC", "WATCHDOG_PID")


def without_notifier(environ: Mapping[str, str]) -> dict[str, str]:
    """Return the environment for a process that is not the service itself, and must not speak for it."""
    return {name: value for name, value in environ.items() if name not in _VARIABLES}


class Notifier:
    """Speaks to the service manager that started us, if one did.

    `watchdog_s` is how long it waits for a sign of life before it takes us for dead, or None.
    """

    def __init__(self, environ: Mapping[str, str] = os.environ) -> None:
        self._address = _address(environ.get("NOTIFY_SOCKET", ""))
        self.watchdog_s = _watchdog_s(environ) if self._address else None

    def ready(self, status: str) -> None:
        """The fleet runs; also at the end of a reload."""
        self._send("READY=1", f"STATUS={status}")

    def reloading(self) -> None:
        """A reload begins; `ready` ends it. The time tells it from an earlier one (`Type=notify-reload`)."""
        now = time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000
        self._send("RELOADING=1", f"MONOTONIC_USEC={now}", "STATUS=reloading")

    def stopping(self) -> None:
        """The end has begun."""
        self._send("STOPPING=1", f"STATUS={ENDING}")

    async def keep(self, status: Callable[[], str]) -> None:
        """Tell what `status()` returns, and that the loop we run in still turns, until cancelled.

        It must be the fleet's own loop: that is what a sign of life is about. It comes twice within the time that
        the watchdog allows.
        """
        if self._address is None:
            return
        pause_s = STATUS_S if self.watchdog_s is None else min(STATUS_S, self.watchdog_s / 2)
        ping = [] if self.watchdog_s is None else ["WATCHDOG=1"]
        while True:
            self._send(*ping, f"STATUS={status()}")
            await asyncio.sleep(pause_s)

    def _send(self, *lines: str) -> None:
        if self._address is None:
            return
        text = "\n".join(line.replace("\n", " ") for line in lines)
        try:
            with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
                sock.setblocking(False)
                sock.sendto(text.encode(errors="replace"), self._address)
        except OSError as exc:
            logger.warning("the service manager could not be told %s: %s", lines[0], exc)


def _address(name: str) -> str | None:
    """Return what to send to: a path, or a name in Linux's abstract namespace, which is written with an `@`."""
    if name.startswith("/"):
        return name
    return f"\0{name[1:]}" if name.startswith("@") else None  # vsock: is for the init of a virtual machine


def _watchdog_s(environ: Mapping[str, str]) -> float | None:
    if environ.get("WATCHDOG_PID", str(os.getpid())) != str(os.getpid()):
        return None
    microseconds = environ.get("WATCHDOG_USEC", "")
    return int(microseconds) / 1e6 if microseconds.isdecimal() and int(microseconds) else None
