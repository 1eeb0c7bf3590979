"""Notifies the service manager with systemd's protocol: datagrams to `$NOTIFY_SOCKET` (sd_notify(3)).

Does nothing if the variable is not set. Sending never blocks: if the manager does not read, the notification is lost.
"""

from __future__ import annotations

import asyncio
import logging
import os
import socket
import time
from collections.abc import Callable, Mapping

__all__ = ["DRAINING", "Notifier", "without_notifier"]

logger = logging.getLogger("wsfleet.run")

STATUS_S = 5.0
"""Seconds between status lines, unless the watchdog needs them more often."""

DRAINING = "draining: processing the messages already received"

_VARIABLES = ("NOTIFY_SOCKET", "WATCHDOG_USEC", "WATCHDOG_PID")


def without_notifier(environ: Mapping[str, str]) -> dict[str, str]:
    """Return the environment without systemd's variables, for a child that must not send notifications."""
    return {name: value for name, value in environ.items() if name not in _VARIABLES}


class Notifier:
    """Sends notifications to the service manager that started this process, if any.

    `watchdog_s` is the watchdog's timeout in seconds, or None.
    """

    def __init__(self, environ: Mapping[str, str] = os.environ) -> None:
        self._address = _address(environ.get("NOTIFY_SOCKET", ""))
        self.watchdog_s = _watchdog_s(environ) if self._address else None

    def ready(self, status: str) -> None:
        """Report that the fleet runs, or that a reload has finished."""
        self._send("READY=1", f"STATUS={status}")

    def reloading(self) -> None:
        """Report that a reload has started; `ready` reports its end. `Type=notify-reload` requires the timestamp."""
        now = time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000
        self._send("RELOADING=1", f"MONOTONIC_USEC={now}", "STATUS=reloading")

    def stopping(self) -> None:
        """Report that the shutdown has started."""
        self._send("STOPPING=1", f"STATUS={DRAINING}")

    async def keep(self, status: Callable[[], str]) -> None:
        """Send `status()` and the watchdog's keep-alive periodically, until cancelled.

        It must run in the fleet's event loop, since the keep-alive shows that this loop is not blocked. It is sent
        twice within the watchdog's timeout.
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
            logger.warning(
                "cannot notify the service manager (%s): %s", lines[0], exc, extra={"event": "systemd.notify_failed"}
            )


def _address(name: str) -> str | None:
    """Return the socket's address: a path, or a name in Linux's abstract namespace, written with a leading `@`."""
    if name.startswith("/"):
        return name
    return f"\0{name[1:]}" if name.startswith("@") else None  # vsock: is used only by the init of a virtual machine


def _watchdog_s(environ: Mapping[str, str]) -> float | None:
    if environ.get("WATCHDOG_PID", str(os.getpid())) != str(os.getpid()):
        return None
    microseconds = environ.get("WATCHDOG_USEC", "")
    return int(microseconds) / 1e6 if microseconds.isdecimal() and int(microseconds) else None
