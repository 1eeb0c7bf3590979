"""Name resolution: a slow name delays neither other names nor the loop."""

import asyncio
import gc
import socket
import threading

import pytest

from wsfleet.transport import resolver
from wsfleet.transport.resolver import Resolver, in_thread

FOUND = [(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP, "", ("192.0.2.1", 80))]


class Names:
    """Replaces getaddrinfo: records calls; names that begin with "slow" wait until they are released."""

    def __init__(self):
        self.asked = []
        self.go = threading.Event()

    def __call__(self, host, port, **options):
        self.asked.append((host, threading.current_thread()))
        if host.startswith("slow"):
            self.go.wait(10)
        if "unknown" in host:
            raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")
        return FOUND


@pytest.fixture
async def names(monkeypatch):
    names = Names()
    monkeypatch.setattr(socket, "getaddrinfo", names)
    yield names
    names.go.set()


async def test_concurrent_lookups_of_a_name_share_one_thread(names):
    """Concurrent requests for a name share one lookup; a later request starts a new one."""
    resolver = Resolver()
    lookups = [asyncio.create_task(resolver.resolve("slow.example", 80)) for _ in range(10)]
    await asyncio.sleep(0.02)
    names.go.set()
    assert await asyncio.gather(*lookups) == [FOUND] * 10
    assert len(names.asked) == 1
    assert names.asked[0][1].daemon
    assert names.asked[0][1] is not threading.main_thread()
    await resolver.resolve("slow.example", 80)
    assert len(names.asked) == 2


async def test_a_hanging_lookup_delays_no_other_name(names):
    """A lookup that hangs delays no other name."""
    resolver = Resolver()
    slow = asyncio.create_task(resolver.resolve("slow.example", 80))
    await asyncio.sleep(0)
    for number in range(5):
        assert await resolver.resolve(f"fast{number}.example", 80) == FOUND
    assert not slow.done()
    names.go.set()
    assert await slow == FOUND


@pytest.mark.parametrize(
    ("host", "family", "where"),
    [
        ("192.0.2.7", socket.AF_INET, ("192.0.2.7", 80)),
        ("::1", socket.AF_INET6, ("::1", 80, 0, 0)),
        ("2001:DB8::1", socket.AF_INET6, ("2001:db8::1", 80, 0, 0)),
    ],
)
async def test_an_address_needs_no_lookup(names, host, family, where):
    """An IP address is returned without a thread."""
    assert await Resolver().resolve(host, 80) == [(family, socket.SOCK_STREAM, socket.IPPROTO_TCP, "", where)]
    assert names.asked == []


async def test_an_address_with_a_zone_is_left_to_the_system(names):
    """A link-local address with a scope is resolved by getaddrinfo, which returns the interface number."""
    await Resolver().resolve("fe80::1%eth0", 80)
    assert [host for host, _ in names.asked] == ["fe80::1%eth0"]


async def test_a_cancelled_waiter_leaves_the_others_and_no_warning(names):
    """Cancelling one caller does not affect others, and a later error is not reported as never retrieved."""
    reported = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: reported.append(context))
    resolver = Resolver()
    first, second = (asyncio.create_task(resolver.resolve("slow.unknown.example", 80)) for _ in range(2))
    await asyncio.sleep(0)
    first.cancel()
    await asyncio.wait([first])
    assert not second.done()
    second.cancel()
    await asyncio.wait([second])
    names.go.set()
    await resolver.aclose()
    del first, second
    gc.collect()
    await asyncio.sleep(0)
    assert reported == []


async def test_every_waiter_gets_the_error(names):
    """All callers receive the error of an unknown name."""
    resolver = Resolver()
    results = await asyncio.gather(*(resolver.resolve("unknown.example", 80) for _ in range(3)), return_exceptions=True)
    assert [type(result) for result in results] == [socket.gaierror] * 3
    assert len(names.asked) == 1


async def test_there_are_never_more_threads_than_allowed(names, monkeypatch):
    """At the limit of threads, lookups wait and all complete; waiting ones are cancelled at the end."""
    monkeypatch.setattr(resolver, "MAX_THREADS", 3)
    lookups = Resolver()
    tasks = [asyncio.create_task(lookups.resolve(f"slow{number}.example", 80)) for number in range(8)]
    while len(names.asked) < 3:
        await asyncio.sleep(0.005)
    await asyncio.sleep(0.01)
    assert len(names.asked) == 3
    names.go.set()
    assert await asyncio.gather(*tasks) == [FOUND] * 8
    assert len(names.asked) == 8

    names.go.clear()
    tasks = [asyncio.create_task(lookups.resolve(f"slow{number}.example", 80)) for number in range(5)]
    await asyncio.sleep(0)
    closing = asyncio.create_task(lookups.aclose())
    await asyncio.wait(tasks[3:])
    assert [task.cancelled() for task in tasks[3:]] == [True, True]
    names.go.set()
    await closing
    await asyncio.wait(tasks)


async def test_a_system_without_threads_fails_the_lookup(names, monkeypatch):
    """If no thread can be started, the lookup fails with OSError."""

    def no_more(self):
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(threading.Thread, "start", no_more)
    with pytest.raises(OSError, match="can't start new thread"):
        await Resolver().resolve("fast.example", 80)


async def test_closing_does_not_wait_for_a_hanging_lookup(names):
    """The end of a fleet waits for a limited time for a lookup that hangs."""
    resolver = Resolver()
    slow = asyncio.create_task(resolver.resolve("slow.example", 80))
    await asyncio.sleep(0)
    await resolver.aclose()
    assert not names.go.is_set()
    slow.cancel()
    await asyncio.wait([slow])


def test_a_call_that_outlives_its_loop_harms_nothing():
    """A thread whose loop has been closed ends without an exception."""
    go, failed = threading.Event(), []
    before = threading.excepthook
    threading.excepthook = failed.append
    try:

        async def begin():
            in_thread(lambda: go.wait(10), "late")

        asyncio.run(begin())
        go.set()
        for thread in threading.enumerate():
            if thread.name == "late":
                thread.join()
    finally:
        threading.excepthook = before
    assert failed == []
