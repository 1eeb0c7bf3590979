"""The client that Autobahn|Testsuite tests: a `Fleet` that echoes its messages.

`python -m tools.autobahn.client URL compiled|python` runs all cases of the fuzzing server at URL, one after
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
"""Time limit of one case: longer than that of the server for each case."""

ONCE = Reconnect(fatal=lambda error: True)
"""A case is one connection: when it ends, the case has ended."""

MAX_SIZE = 2**24
"""The largest message of all cases has 16 MiB."""


def endpoint(url: str, path: str, **query: object) -> Endpoint:
    """The endpoint of one request to the fuzzing server: connected once, with undecoded messages."""
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
    """Echo all messages, until the server has closed the connection."""

    async def echo(message: Message[str | bytes]) -> None:
        try:
            await connection.send(message.data)
        except (NotOpen, ConnectionLost):
            pass  # many cases close, or violate the protocol, before they have read all

    async with asyncio.timeout(CASE_S), Fleet() as fleet:
        connection = fleet.connect(endpoint(url, "runCase", case=case, agent=agent), echo)
        await fleet.wait()


async def ask(url: str, path: str, **query: object) -> list[str]:
    """Return the server's answer to a request that is no case."""
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
            print(f"{agent}: case number {case} did not end within {CASE_S:g} s", flush=True)
        if case % 50 == 0 or case == count:
            print(f"{agent}: {case} of {count} cases", flush=True)
    await ask(url, "updateReports", agent=agent)


def main() -> None:
    url, agent = sys.argv[1:]
    if accelerated != (agent == "compiled"):
        raise SystemExit(f"{agent}: wsfleet runs {'with' if accelerated else 'without'} its compiled parts")
    logging.disable()  # errors are intended
    asyncio.run(run_all(url, agent))


if __name__ == "__main__":
    main()
