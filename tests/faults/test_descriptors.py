"""A process without free file descriptors."""

import contextlib
import errno
import os
import resource
import sys
from collections.abc import Callable, Iterator

import pytest

from tests.faults.kit import Numbered, suffering, until
from wsfleet.core.errors import ConnectFailed

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="has no limit of this kind")


@contextlib.contextmanager
def scarce() -> Iterator[Callable[[], None]]:
    """In this block the process can open no further descriptors; the given function uses those that become free."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    taken: list[int] = []

    def take() -> None:
        with contextlib.suppress(OSError):
            while True:
                taken.append(os.open(os.devnull, os.O_RDONLY))

    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (max(map(int, os.listdir("/dev/fd"))) + 1, hard))
        yield take
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        for fd in taken:
            os.close(fd)


async def test_no_descriptor_is_left() -> None:
    """Attempts fail at stage tcp with advice; open connections continue; with free descriptors, attempts succeed."""
    async with Numbered() as server, suffering(server.uri) as case:
        await case.flows()
        await server.stop()
        with scarce() as take:

            def is_logged() -> bool:
                take()  # including those released by the last attempt
                return "Too many open files" in case.shown

            await until(is_logged, "attempts get no descriptors")
            await case.flows("calm")
        await server.start()
        await case.comes_back()
        error = next(error for error in case.errors if "Too many open files" in str(error))
        assert isinstance(error, ConnectFailed)
        assert isinstance(error.__cause__, OSError)
        assert (error.stage, error.__cause__.errno) == ("tcp", errno.EMFILE)
        assert "ulimit -n" in str(error)
    case.destroyed(server.handed)
