"""The client that Autobahn|Testsuite looks at: a `Fleet` that sends back what it gets.

`python -m tools.autobahn.client URL compiled|python` runs every case that the fuzzing server at URL has, one after
another, and makes it write its reports.
"""

from __future__ import annotations

import asyncio
import json
import logging
import sys
from urllib.parse import urlencode

from wsfleet import Endpoint, Fleet, Message, Reconnect, accelerated
from wsfleet.core.errors import ConnectionLost, NotOpen

CASE_S = 600.0
"""How long one case may take: longer than the server, which has a limit of its own for each that may not end."""

ONCE = Reconnect(fatal=lambda error: True)
"""A case is one connection: whatever ends it is its end."""

MAX_SIZE = 2**24
"""The largest message of all cases has 16 MiB."""


def endpoint(url: str, path: str, **query: object) -> Endpoint:
    """The endpoint of one request to the fuzzing server: connected once, with messages left as they came."""
    return Endpoint(
        f"{url}/{path}?{urlencode(query)}",
        name=path,
        compression="deflate",
        proxy=False,
        max_size=MAX_SIZE,
        reconnect=ONCE,
        close_s=10.0,
    )


async def run_case(url: str, case: int, agent: str) -> None:
    """Send back whatever comes, until the server has closed the connection."""

    async def echo(message: Message[str | bytes]) -> None:
        try:
            await connection.send(message.data)
        except (NotOpen, ConnectionLost):
            pass  # many cases close, or break the rules, before they have read all

    async with asyncio.timeout(CASE_S), Fleet() as fleet:
        connection = fleet.connect(endpoint(url, "runCase", case=case, agent=agent), echo)
        await fleet.wait()


async def ask(url: str, path: str, **query: object) -> list[str]:
    """Return the messages with which the server answers a request that is no case."""
    answers: list[str] = []
    async with asyncio.timeout(CASE_S), Fleet() as fleet:

        async def keep(message: Message[str]) -> None:
            answers.append(message.data)

        fleet.connect(endpoint(url, path, **query), keep)
        await fleet.wait()
    return answers


async def run_all(url: str, agent: str) -> None:
    """Run every case, and have the reports written."""
    count = int(json.loads((await ask(url, "getCaseCount"))[0]))
    for case in range(1, count + 1):
        try:
            await run_case(url, case, agent)
        except TimeoutError:
            print(f"{agent}: case number {case} has not ended after {CASE_S:g} s", flush=True)
        if case % 50 == 0 or case == count:
            print(f"{agent}: {case} of {count} cases", flush=True)
    await ask(url, "updateReports", agent=agent)


def main() -> None:
    url, agent = sys.argv[1:]
    if accelerated != (agent == "compiled"):
        raise SystemExit(f"{agent}: wsfleet runs {'with' if accelerated else 'without'} its compiled parts")
    logging.disable()  # what goes wrong is meant
    asyncio.run(run_all(url, agent))


if __name__ == "__main__":
    main()
