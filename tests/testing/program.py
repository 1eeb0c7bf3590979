"""A program under test: a fleet with one feed that records numbers and errors."""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from typing import Any

from wsfleet import Fleet, Message, Reconnect, State, Subscription
from wsfleet.core.message import StateChange
from wsfleet.testing import FeedServer

QUICK = Reconnect(initial_s=0.01, max_s=0.05)


class Program:
    """`seen` lists the numbers, in order."""

    def __init__(self, fleet: Fleet, states: Subscription) -> None:
        self.fleet = fleet
        self.seen: list[int] = []
        self._numbers = fleet.subscribe("feed", name="numbers")
        self._states = states

    async def goes_through(self, server: FeedServer, count: int = 20) -> Exception:
        """Receive `count` numbers over the loss of a connection, and return the error of the loss."""
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(server.send_numbered(count))
            tasks.create_task(self.until(count))
            return await self.error()

    async def until(self, number: int) -> None:
        """Receive up to this number."""
        async for message in self._numbers:
            if "n" in message.data:
                self.seen.append(message.data["n"])
                if message.data["n"] == number:
                    return

    async def change_to(self, state: State) -> Message[StateChange]:
        """Wait for the next change to this state."""
        async for message in self._states:
            if message.data.state is state:
                return message
        raise AssertionError(f"the fleet ended before it was {state}")

    async def error(self) -> Exception:
        """Wait for the next loss or failed attempt, and return its error."""
        error = (await self.change_to(State.BACKOFF)).data.error
        assert error is not None
        return error


@contextlib.asynccontextmanager
async def program(server: FeedServer, path: str = "", **options: Any) -> AsyncIterator[Program]:
    """Run the program with this server. Afterwards all messages must be accounted for."""
    fleet = Fleet(drain_s=1.0)
    states = fleet.subscribe("$state.feed", name="states")
    running = Program(fleet, states)
    options = {"decode": "json", "reconnect": QUICK, "proxy": False} | options
    fleet.connect(server.uri + path, name="feed", **options)
    async with fleet:
        yield running
        assert fleet.stats().balanced
    assert fleet.stats().balanced
