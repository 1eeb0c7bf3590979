"""A fixed number of connections to one endpoint: send on the least busy one, request and reply."""

from __future__ import annotations

import asyncio
import dataclasses
from collections.abc import Callable, Coroutine, Hashable, Mapping
from functools import partial
from typing import Any, Generic, NamedTuple, Protocol, TypeVar

import msgspec

from wsfleet.core.checks import check_arguments, check_count, refuse
from wsfleet.core.context import Context, loop_thread_only
from wsfleet.core.errors import ConnectionLost, EndpointFailed, NotOpen, RequestLost, RequestTimeout
from wsfleet.core.message import State, T_co
from wsfleet.core.options import Endpoint
from wsfleet.endpoint.connection import Connection
from wsfleet.endpoint.requests import Match, PendingRequests
from wsfleet.endpoint.supervisor import Supervisor

__all__ = ["Identify", "Pool", "check_pool", "match_json_rpc"]

T = TypeVar("T")

Identify = Callable[[Any], tuple[Hashable, Any]]

MOST = 65_536
"""Maximum size of a pool, so that a typing error in a file does not exhaust the memory."""


class PoolOwner(Protocol):
    """What a pool asks of its fleet."""

    context: Context

    async def close_pool(self, pool: Pool) -> None: ...


def match_json_rpc(data: Any) -> Hashable:
    """Return the id of a JSON-RPC 2.0 response (https://www.jsonrpc.org/specification, section 5), or None.

    An object with a method is a request (section 4), for example an echo of our own.
    """
    get = data.get if type(data) is dict or isinstance(data, Mapping) else partial(getattr, data)
    if isinstance(get("method", None), str):
        return None
    number = get("id", None)
    return number if isinstance(number, int | str) and not isinstance(number, bool) else None


def check_pool(endpoint: Endpoint, size: object, identify: object, match: object) -> None:
    """Raise ConfigError for invalid arguments of a pool."""
    faults = [("size", check_count(size, most=MOST))]
    for name, function, result in (("identify", identify, "(id, data)"), ("match", match, "an id or None")):
        if function is not None:
            must = f"must be a function of the data that returns {result}"
            faults.append((name, check_arguments(function) if callable(function) else must))
    if match is None and endpoint.decode in ("text", "bytes"):
        faults.append(("decode", f"= {endpoint.decode!r} gives no ids to match replies by; use 'json', or give match"))
    refuse("pool", faults)


class _Member(NamedTuple):
    """A member of a pool, and its outstanding requests."""

    connection: Connection[Any]
    supervisor: Supervisor
    replies: PendingRequests

    @property
    def is_overfull(self) -> bool:
        """Whether reading is paused although replies are awaited."""
        ingest = self.supervisor.ingest
        return not ingest.reading and any(mailbox.overfull for mailbox in ingest.paused_by)

    @property
    def load(self) -> tuple[bool, bool, int]:
        """Compared to find the least busy member."""
        return self.is_overfull, bool(self.supervisor.ingest.paused_by), len(self.replies)


class Pool(Generic[T_co]):
    """`size` connections to one endpoint, each with its own supervisor.

    The members are also in `Fleet.connections`, as `name-1` and so on. `connections` is a tuple of them.
    """

    def __init__(
        self,
        name: str,
        members: list[tuple[Connection[T_co], Supervisor]],
        owner: PoolOwner,
        identify: Identify | None,
        match: Match | None,
    ) -> None:
        self.name = name
        self.size = len(members)
        self.connections: tuple[Connection[T_co], ...] = tuple(connection for connection, _ in members)
        self._supervisors = [supervisor for _, supervisor in members]
        self._owner = owner
        self._context = owner.context
        self._identify = identify
        self._order: list[_Member] = []  # the member used last is at the end
        for connection, supervisor in members:
            replies = PendingRequests(match or match_json_rpc, supervisor.ingest.set_reading)
            supervisor.ingest.replies = replies
            self._order.append(_Member(connection, supervisor, replies))

    def __repr__(self) -> str:
        is_open = sum(s.can_send for s in self._supervisors)
        return f"<Pool {self.name!r} {is_open} of {self.size} open>"

    @loop_thread_only
    async def wait_open(self) -> None:
        """Wait until a member is OPEN, without a time limit. Safe to cancel.

        Raises EndpointFailed or NotOpen if no member can open any more, and FleetError if the fleet has not been
        started.
        """
        await self._context.check_started(lambda: all(s.state is State.CLOSED for s in self._supervisors))
        while not any(s.can_send for s in self._supervisors):
            await self._some_member_changes()

    @loop_thread_only
    async def close(self) -> None:
        """Close all members. Idempotent.

        The pool's own processor finishes the pending messages for at most the fleet's `drain_s` seconds. Called by a
        processor or `on_open`, it returns at once and the pool closes afterwards. Cancelling it only stops the waiting.
        """
        await self._owner.close_pool(self)

    @loop_thread_only
    async def send(self, data: Any) -> None:
        """Send one message on the least busy open member. Raises NotOpen if none is open.

        Waits, raises ConnectionLost, and can be cancelled like `Connection.send`.
        """
        while True:
            member = self._least_busy()
            if member is None:
                raise NotOpen(f"{self.name}: no member is open")
            try:
                return await member.connection.send(data)
            except NotOpen:
                pass  # it is closing and sent nothing, so try another member

    @loop_thread_only
    async def request(self, data: Any, timeout_s: float = 10.0, wait: bool = True) -> T_co:
        """Send `data` as a request on the least busy open member, and return the reply's decoded data.

        Error replies are returned like others. Waits for an open member, within `timeout_s`; with `wait=False` raises
        NotOpen if none is open. Raises RequestTimeout after `timeout_s` seconds. Raises RequestLost if the connection
        is lost before the reply; whether the server acted is then unknown. If cancelled, the request may have been
        sent; a later reply is counted as `answered` and dropped.
        """
        if not isinstance(timeout_s, int | float):
            raise TypeError(f"timeout_s must be a number of seconds, not {timeout_s!r}")
        if self._identify is None:
            data = _json_object(data)
        until = asyncio.get_running_loop().time() + timeout_s
        while True:
            member = self._least_busy()
            if member is None:
                if not wait:
                    raise NotOpen(f"{self.name}: no member is open")
                late = f"{self.name}: no member was open within {timeout_s:g} s; nothing was sent"
                await _by(until, self.wait_open(), late)
                continue
            if member.is_overfull:
                await asyncio.sleep(0)  # let the mailbox empty before a caller tries again
                raise RequestLost(f"{member.connection.name} had to stop reading: no reply would come")
            try:
                return await self._ask(member, data, until, f"{self.name}: no reply within {timeout_s:g} s")
            except NotOpen:
                pass  # as in send()

    def _check_thread(self) -> None:
        self._context.check_thread()

    async def _ask(self, member: _Member, data: Any, until: float, late: str) -> T_co:
        """Send the request on one member and wait for the reply. Raises NotOpen if nothing was sent."""
        replies, session = member.replies, member.supervisor.session
        if session is None:
            raise NotOpen(member.connection.name)
        number, payload = self._identify(data) if self._identify is not None else _numbered(data, replies)
        reply = replies.issue(number)
        timer = reply.get_loop().call_at(until, _expire, reply, late)
        try:
            if not session.send_now(payload):
                await _by(until, session.send(payload), late)
            answer = await reply
        except ConnectionLost as exc:
            raise RequestLost(f"{member.connection.name}: {exc}") from exc
        finally:
            timer.cancel()
            replies.forget(number, reply)
            if reply.done() and not reply.cancelled():
                reply.exception()  # mark it as retrieved, also if send() failed first
        made: T_co = answer if self._identify is not None or "id" not in data else _with_id(answer, data["id"])
        return made

    def _least_busy(self) -> _Member | None:
        """Return the open member with the least load, of several the one that was used least recently."""
        members = [member for member in self._order if member.supervisor.can_send]
        if not members:
            return None
        member = min(members, key=lambda each: each.load) if len(members) > 1 else members[0]
        self._order.remove(member)
        self._order.append(member)
        return member

    async def _some_member_changes(self) -> None:
        if all(s.state in (State.CLOSED, State.FAILED) for s in self._supervisors):
            failed = next((s for s in self._supervisors if s.state is State.FAILED), None)
            if failed is not None:
                raise EndpointFailed(self.name, str(failed.last_error)) from failed.last_error
            raise NotOpen(f"{self.name} is closed")
        news: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        for supervisor in self._supervisors:  # one that is FAILED may be restarted
            supervisor.open_waiters.add(news)
        await news


async def _by(until: float, doing: Coroutine[Any, Any, T], late: str) -> T:
    """Await `doing` until the loop's time `until` at most; then raise RequestTimeout with the text `late`."""
    scope = asyncio.timeout_at(until)
    try:
        async with scope:
            return await doing
    except TimeoutError:
        if scope.expired():
            raise RequestTimeout(late) from None
        raise


def _expire(reply: asyncio.Future[Any], late: str) -> None:
    if not reply.done():
        reply.set_exception(RequestTimeout(late))


def _json_object(data: Any) -> Mapping[str, Any]:
    if type(data) is dict:
        return data
    made = msgspec.to_builtins(data) if isinstance(data, msgspec.Struct) or dataclasses.is_dataclass(data) else data
    if not isinstance(made, Mapping):
        raise TypeError(f"a request is a JSON object, not {type(data).__name__}; or give the pool `identify`")
    return made


def _numbered(data: Mapping[str, Any], replies: PendingRequests) -> tuple[int, dict[str, Any]]:
    number = replies.number()
    return number, {"jsonrpc": "2.0", **data, "id": number}


def _with_id(reply: Any, number: Any) -> Any:
    """Give `reply` the id that the caller's own request had."""
    if isinstance(reply, dict):
        return {**reply, "id": number}
    if isinstance(reply, msgspec.Struct):
        return msgspec.structs.replace(reply, id=number)
    if dataclasses.is_dataclass(reply) and not isinstance(reply, type):
        return dataclasses.replace(reply, id=number)
    return reply
