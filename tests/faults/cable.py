"""Two network namespaces, and a cable between them whose packets are passed on by the test.

Each namespace has a TUN device; packets from one kernel end are written to the other, late, twice, out of order, or
not at all. Both ends use the kernel's own TCP, as over a bad line, without tc and netem. A thread can be in
another namespace than the rest of its process, and a socket stays in the one in which it was created: so server and
fleet run in the test's own loop.
"""

import asyncio
import contextlib
import ctypes
import errno
import fcntl
import os
import random
import struct
import subprocess
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from types import TracebackType
from typing import Self

import pytest

from tests.support.servers.base import lacking, require

CLONE_NEWNET = 0x40000000
TUNSETIFF = 0x400454CA
IFF_TUN, IFF_NO_PI = 0x0001, 0x1000
PACKET_BYTES = 2**16

NEAR, FAR = "10.77.0.1", "10.77.0.2"

_TUN = "/dev/net/tun"


def _call(name: str, *arguments: int) -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    if getattr(libc, name)(*arguments) != 0:
        raise OSError(ctypes.get_errno(), name)


def _unshare() -> None:
    """Enter a new namespace. If this is impossible, the test is skipped; it fails if only permissions are missing."""
    if not sys.platform.startswith("linux") or not Path(_TUN).exists():
        pytest.skip("this system has no network namespaces with TUN devices")
    try:
        _call("unshare", CLONE_NEWNET)
    except OSError as exc:
        if exc.errno != errno.EPERM or os.geteuid() == 0:
            pytest.skip(f"network namespaces are not to be had here, not even for root: {exc}")
        lacking("only root may make network namespaces")


def _namespace(undo: contextlib.ExitStack) -> int:
    """A descriptor of the namespace of this thread."""
    fd = os.open("/proc/thread-self/ns/net", os.O_RDONLY | os.O_CLOEXEC)
    undo.callback(os.close, fd)
    return fd


def _tun(undo: contextlib.ExitStack, own: str, other: str) -> int:
    """A descriptor of a new TUN device in this thread's namespace, with its address and that of the other end."""
    fd = os.open(_TUN, os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC)
    undo.callback(os.close, fd)
    fcntl.ioctl(fd, TUNSETIFF, struct.pack("16sH22x", b"cable", IFF_TUN | IFF_NO_PI))
    _configure(["link set lo up", f"addr add {own} peer {other} dev cable", "link set cable up"])
    return fd


def _configure(commands: Iterable[str]) -> None:
    ip = require("ip")
    for command in commands:
        subprocess.run([ip, *command.split()], check=True, capture_output=True)


class _Way:
    """One direction of the cable: from the descriptor `source` to `sink`."""

    def __init__(self, cable: "Cable", source: int, sink: int) -> None:
        self._cable = cable
        self._source, self._sink = source, sink
        self._sent = self._arrived = 0

    def read(self) -> None:
        with contextlib.suppress(BlockingIOError):
            while True:
                self._send(os.read(self._source, PACKET_BYTES))

    def _send(self, packet: bytes) -> None:
        cable = self._cable
        if cable.is_cut or cable.random() < cable.loss:
            cable.lost += 1
            return
        for _ in range(1 + (cable.random() < cable.twice)):
            self._sent += 1
            delay_s = cable.delay_s + cable.spread_s * cable.random()
            asyncio.get_running_loop().call_later(delay_s, self._arrive, packet, self._sent)

    def _arrive(self, packet: bytes, place: int) -> None:
        cable = self._cable
        if cable.is_cut or cable.is_closed:
            return
        cable.overtaken += place < self._arrived
        self._arrived = max(place, self._arrived)
        with contextlib.suppress(OSError):  # a full queue, or a device that is down
            os.write(self._sink, packet)


class Cable:
    """While it is entered, the test's thread is at the near end; sockets created within `far_end()` are at the far one.

    `loss` and `twice` are fractions of the packets, `delay_s` is the minimum delay, and `spread_s` the maximum
    additional delay, by which consecutive packets may be reordered. `lost` and `overtaken` count these
    packets.
    """

    def __init__(self, seed: int) -> None:
        self.random = random.Random(seed).random
        self.loss = self.twice = self.delay_s = self.spread_s = 0.0
        self.is_cut = self.is_closed = False
        self.lost = self.overtaken = 0
        self._undo = contextlib.ExitStack()

    async def __aenter__(self) -> Self:
        with contextlib.ExitStack() as undo:
            home = _namespace(undo)
            undo.callback(_call, "setns", home, CLONE_NEWNET)
            _unshare()
            far, self._far = _tun(undo, FAR, NEAR), _namespace(undo)
            _unshare()
            near, self._near = _tun(undo, NEAR, FAR), _namespace(undo)
            loop = asyncio.get_running_loop()
            for source, sink in ((near, far), (far, near)):
                loop.add_reader(source, _Way(self, source, sink).read)
                undo.callback(loop.remove_reader, source)
            self._undo = undo.pop_all()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.is_closed = True
        self._undo.close()

    @contextlib.contextmanager
    def far_end(self) -> Iterator[None]:
        """Sockets created in this block are at the far end."""
        _call("setns", self._far, CLONE_NEWNET)
        try:
            yield
        finally:
            _call("setns", self._near, CLONE_NEWNET)

    def unplug(self) -> None:
        """The near end's device goes down, with the route to the far one."""
        _configure(["link set cable down"])

    def plug(self) -> None:
        _configure(["link set cable up"])
