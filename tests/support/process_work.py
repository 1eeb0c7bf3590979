"""Functions and data that tests send to other processes, which must be able to import them."""

import asyncio
import os
import signal
import time
from pathlib import Path
from typing import Any

from wsfleet import Message


class Awkward(Exception):
    """An exception that pickle cannot rebuild."""

    def __init__(self, a: str, b: str) -> None:
        super().__init__(f"{a} and {b}")


class Unreadable:
    """Data that can be pickled, but not unpickled."""

    def __reduce__(self) -> Any:
        return _refuse, ()


def _refuse() -> None:
    raise ValueError("not to be read")


def note(path: str, line: object) -> None:
    with Path(path).open("a") as file:
        file.write(f"{line}\n")


def work(message: Message[Any]) -> None:
    """Do the action of the message: (verb, argument)."""
    verb, argument = message.data
    if verb == "note":
        note(argument, os.getpid())
    elif verb == "raise":
        raise ValueError(argument)
    elif verb == "awkward":
        raise Awkward(argument, argument)
    elif verb == "exit":
        os._exit(argument)
    elif verb == "sys.exit":
        raise SystemExit(argument)
    elif verb == "kill":
        os.kill(os.getpid(), signal.SIGKILL)
    elif verb == "hang":
        note(argument, os.getpid())
        time.sleep(600)
    elif verb == "sleep":
        note(argument, os.getpid())
        time.sleep(1)
        note(argument, "done")


async def async_work(message: Message[Any]) -> None:
    await asyncio.sleep(0)
    work(message)


async def async_hang(message: Message[Any]) -> None:
    await asyncio.sleep(600)


def batch_work(messages: list[Message[Any]]) -> None:
    note(messages[0].data, [m.index for m in messages])
