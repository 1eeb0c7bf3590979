"""The compiled modules are used if they are built and allowed, and a missing one is logged once."""

import asyncio
import logging
import subprocess
import sys
from types import ModuleType

import pytest

import wsfleet
from tests.support.compiled import compiled
from wsfleet.core import accel
from wsfleet.testing import FakeTransport

WHICH = "import wsfleet, wsfleet.transport.protocol as c; print(wsfleet.accelerated, c.scan is c.scanner.scan)"


@pytest.fixture
def parts(monkeypatch):
    """Set the list of compiled modules, with the state of a process that has just started."""

    def declare(*names: str) -> None:
        monkeypatch.setattr(accel, "PARTS", names)
        forget()

    def forget() -> None:
        for function in (accel.accelerated, accel.note_once, accel._in_use):
            function.cache_clear()

    yield declare
    monkeypatch.undo()
    forget()


@pytest.fixture
def present(monkeypatch) -> str:
    """The name of a compiled module that exists on every machine."""
    monkeypatch.delenv("WSFLEET_NO_EXTENSIONS", raising=False)
    module = ModuleType("present")
    module.twin = len
    module.len = sum
    monkeypatch.setitem(sys.modules, "present", module)
    return "present"


def which(**environment: str) -> str:
    made = subprocess.run([sys.executable, "-c", WHICH], env=environment, capture_output=True, text=True, check=True)
    return made.stdout.strip()


def test_the_compiled_scanner_is_in_use_where_it_was_built():
    """A process that finds all compiled modules uses them, and reports this."""
    for part in accel.PARTS:
        compiled(part)
    assert which() == "True False"


def test_nothing_compiled_is_used_where_that_is_not_wanted():
    """With WSFLEET_NO_EXTENSIONS, the Python scanner is used, whether or not the compiled one is built."""
    assert which(WSFLEET_NO_EXTENSIONS="1") == "False True"


def test_an_empty_variable_means_nothing():
    """An empty WSFLEET_NO_EXTENSIONS has no effect."""
    assert which(WSFLEET_NO_EXTENSIONS="") == which()


def test_accelerated_agrees_with_the_stats():
    """`accelerated` has the same value in the package and in the stats."""
    assert wsfleet.accelerated is accel.accelerated()
    assert wsfleet.Fleet(transport=FakeTransport()).stats().accelerated is wsfleet.accelerated


def test_one_missing_part_is_enough_to_be_not_accelerated(parts, present):
    """`accelerated` is true only if all modules are in use; a missing one does not disable the others."""
    parts(present)
    assert accel.accelerated()
    assert accel.fastest(len, present) is sum
    parts(present, "wsfleet._no_such_part")
    assert not accel.accelerated()
    assert accel.fastest(len, present) is sum
    assert accel.fastest(len, "wsfleet._no_such_part") is len


async def start_a_fleet() -> None:
    async with wsfleet.Fleet(transport=FakeTransport()):
        await asyncio.sleep(0)


async def test_a_missing_module_is_logged_once(parts, present, caplog):
    """A missing module is logged once, with its name, regardless of the number of fleets."""
    caplog.set_level(logging.INFO, "wsfleet")
    parts(present, "wsfleet._no_such_part")
    await start_a_fleet()
    await start_a_fleet()
    (text,) = [record.getMessage() for record in caplog.records if "compiled" in record.getMessage()]
    assert text.startswith("wsfleet._no_such_part not compiled")


async def test_nothing_is_logged_if_compiled_modules_are_excluded(parts, present, caplog, monkeypatch):
    """Nothing is logged if the environment excludes compiled modules, or if all are present."""
    caplog.set_level(logging.INFO, "wsfleet")
    parts(present)
    await start_a_fleet()
    monkeypatch.setenv("WSFLEET_NO_EXTENSIONS", "1")
    parts(present, "wsfleet._no_such_part")
    await start_a_fleet()
    assert "compiled" not in caplog.text
