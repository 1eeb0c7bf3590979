"""Reading a fleet's file again while it runs: changed entries are replaced, and no others."""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from wsfleet import Fleet, FleetStats
from wsfleet.config import load
from wsfleet.core.errors import ConfigError, FleetError
from wsfleet.fleet.reloading import reload_and_log
from wsfleet.testing import FeedServer

HANDLERS = """
seen = []

async def one(message):
    seen.append(message.data)

async def two(message):
    seen.append(message.data)
"""


@pytest.fixture
def file(tmp_path: Path, request: pytest.FixtureRequest) -> Path:
    """A configuration file, with its own module of handlers beside it."""
    (tmp_path / f"h{tmp_path.name.replace('-', '_')}.py").write_text(HANDLERS)
    return tmp_path / "fleet.toml"


def write(file: Path, *tables: str) -> None:
    module = next(file.parent.glob("h*.py")).stem
    file.write_text("\n".join(tables).replace("HANDLERS", module))


def connect(server: FeedServer, name: str, more: str = 'handler = "HANDLERS:one"') -> str:
    return f'[[connect]]\nuri = "{server.uri}"\nname = "{name}"\n{more}\n'


@asynccontextmanager
async def running(file: Path) -> AsyncIterator[Fleet]:
    async with load(file) as fleet:
        await asyncio.gather(*(each.wait_open() for each in fleet.connections.values()))
        yield fleet


def sessions(fleet: Fleet) -> dict[str, Any]:
    """The object of each open session; a different object means a different socket."""
    return {name: each._supervisor.session for name, each in fleet.connections.items()}


async def test_an_unchanged_entry_keeps_its_socket(file: Path) -> None:
    """One endpoint is added, one removed and one changed; the socket of the fourth one stays open."""
    async with FeedServer() as server:
        write(file, *(connect(server, name) for name in ("same", "gone", "other")))
        async with running(file) as fleet:
            before = sessions(fleet)
            write(
                file,
                connect(server, "same"),
                connect(server, "other", 'handler = "HANDLERS:two"'),
                connect(server, "fresh"),
            )
            lines = await fleet.reload()
            await asyncio.gather(*(each.wait_open() for each in fleet.connections.values()))
            after = sessions(fleet)
            await server.send("x")
            while sum(row.processed for row in fleet.stats().subscriptions) < 3:
                await asyncio.sleep(0.01)
    assert lines == ["[[connect]] gone: removed", "[[connect]] other: changed", "[[connect]] fresh: added"]
    assert set(after) == {"same", "other", "fresh"}
    assert after["same"] is before["same"]
    assert after["other"] is not before["other"]
    assert fleet.stats().balanced


@pytest.mark.parametrize("pool", [False, True])
async def test_a_changed_entry_goes_on_and_reports_its_gap(file: Path, pool: bool) -> None:
    """After a reload a changed endpoint goes on with session and index, and its gap is reported; a new one begins."""
    table = '[[pool]]\nuri = "{}"\nname = "p"\nsize = {}\n'
    async with FeedServer() as server:
        write(file, table.format(server.uri, 1) if pool else connect(server, "p-1"))
        async with running(file) as fleet, fleet.subscribe("$gap.*") as gaps, fleet.subscribe(">") as messages:
            await server.send("1", "2")
            before = [await messages.next() for _ in range(2)]
            changed = connect(server, "p-1", 'handler = "HANDLERS:two"') + connect(server, "new")
            write(file, table.format(server.uri, 2) if pool else changed)
            result = await fleet.reload()
            await asyncio.gather(*(each.wait_open() for each in fleet.connections.values()))
            gap = (await gaps.next()).data
            await server.send("3")
            after = {message.endpoint: message for message in [await messages.next() for _ in range(2)]}
            assert gaps.stats().pending == 0
    assert (gap.endpoint, gap.previous_session, gap.session, gap.last_index) == ("p-1", 1, 2, 2)
    assert (gap.exact, gap.last_message_at) == (True, before[-1].received_at)
    assert gap.down_s > 0.0
    assert {name: (each.session, each.index) for name, each in after.items()} == {
        "p-1": (2, 3),
        "p-2" if pool else "new": (1, 1),
    }
    assert result.kept == {}
    assert fleet.stats().balanced


async def test_a_fault_changes_nothing(file: Path) -> None:
    """All faults are reported with their places, and every socket stays open, even if most of the file is valid."""
    async with FeedServer() as server:
        write(file, connect(server, "a"), connect(server, "b"))
        async with running(file) as fleet:
            before = sessions(fleet)
            write(file, connect(server, "c"), '[[connect]]\nname = "d"\n', connect(server, "e", "ping = 1"))
            with pytest.raises(ConfigError) as raised:
                await fleet.reload()
            assert sessions(fleet) == before
            assert len(raised.value.faults) == 2
            file.unlink()
            with pytest.raises(ConfigError, match=r"fleet\.toml"):
                await fleet.reload()
            write(file, connect(server, "a"), connect(server, "b"))
            assert await fleet.reload() == []
            assert sessions(fleet) == before


async def test_a_function_added_later_needs_a_restart(file: Path) -> None:
    """Modules are not imported again: a function that was added to its file, or does not exist, is reported as a
    fault.
    """
    async with FeedServer() as server:
        write(file, connect(server, "a"))
        async with running(file) as fleet:
            module = next(file.parent.glob("h*.py"))
            module.write_text("from functools import partial\n" + HANDLERS + "\nasync def later(message): ...\n")
            write(file, connect(server, "a", 'handler = "HANDLERS:later"'))
            with pytest.raises(ConfigError) as raised:
                await fleet.reload()
            assert f"this process imported {module} before it had 'later'; restart to use it" in str(raised.value)
            write(file, connect(server, "a", 'handler = "HANDLERS:latter"'))
            with pytest.raises(ConfigError, match=r"has no 'latter'; there are one, two$"):
                await fleet.reload()


async def test_all_endpoints_may_change_at_once(file: Path) -> None:
    """The fleet does not end between the removal of the old endpoints and the declaration of the new ones."""
    async with FeedServer() as server:
        write(file, connect(server, "a"))
        async with running(file) as fleet:
            waiting = asyncio.create_task(fleet.wait())
            write(file, connect(server, "b"))
            await fleet.reload()
            await fleet.connections["b"].wait_open()
            assert not waiting.done()
            waiting.cancel()


async def test_a_changed_secret_is_a_change(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Values from the environment and from files are compared too, and never shown."""
    async with FeedServer() as server:
        monkeypatch.setenv("FEED_TOKEN", "one-secret")
        write(file, connect(server, "a", 'headers = { Authorization = "Bearer ${FEED_TOKEN}" }'))
        async with running(file) as fleet:
            monkeypatch.setenv("FEED_TOKEN", "another-secret")
            lines = await fleet.reload()
    assert lines == ["[[connect]] a: changed"]


async def test_a_changed_processor_finishes_its_messages(file: Path) -> None:
    """If a processor's table changes, no message is dropped: the old one gets the earlier ones, the new
    one the rest.
    """
    async with FeedServer() as server:
        process = '[[process]]\npattern = ">"\nname = "p"\nhandler = "HANDLERS:one"\n'
        write(file, connect(server, "a", ""), process)
        async with running(file) as fleet:
            for number in range(100):
                await server.send(str(number))
                if number == 50:
                    write(file, connect(server, "a", ""), process + "concurrency = 2\n")
                    assert await fleet.reload() == ["[[process]] p: changed"]
            while sum(row.processed for row in fleet.stats().subscriptions) < 100:
                await asyncio.sleep(0.01)
    stats = fleet.stats()
    assert sum(row.dropped for row in stats.subscriptions) == 0
    assert stats.balanced


async def test_a_reload_is_logged_in_fields(file: Path, caplog: pytest.LogCaptureFixture) -> None:
    """The log contains each entry and its change, the settings that need a restart, and the number of unchanged
    entries.
    """
    caplog.set_level(logging.INFO)
    async with FeedServer() as server:
        pool = f'[[pool]]\nuri = "{server.uri}"\nname = "p"\nsize = 2\n'
        write(file, connect(server, "a"), connect(server, "b"), pool)
        async with running(file) as fleet:
            write(file, "[fleet]\ndrain_s = 1\n", connect(server, "a"), connect(server, "c"), pool)
            await reload_and_log(fleet.reload)
    names = ("event", "section", "entry", "change", "kept")
    logged = [
        (record.levelname, *(getattr(record, name, None) for name in names))
        for record in caplog.records
        if record.name == "wsfleet.run"
    ]
    assert logged == [
        ("INFO", "fleet.reload", "connect", "b", "removed", None),
        ("INFO", "fleet.reload", "connect", "c", "added", None),
        ("WARNING", "fleet.restart_needed", "fleet", None, None, None),
        ("INFO", "fleet.reload", None, None, None, 3),
    ]


async def test_a_changed_pool_is_replaced(file: Path) -> None:
    """A pool of another size is replaced; one that is unchanged keeps its members' sockets."""
    async with FeedServer() as server:
        pools = '[[pool]]\nuri = "{0}"\nname = "p"\nsize = {1}\n[[pool]]\nuri = "{0}"\nname = "q"\nsize = 2\n'
        write(file, pools.format(server.uri, 2))
        async with running(file) as fleet:
            before = sessions(fleet)
            write(file, pools.format(server.uri, 3))
            assert await fleet.reload() == ["[[pool]] p: changed"]
            await asyncio.gather(*(each.wait_open() for each in fleet.connections.values()))
            after = sessions(fleet)
    assert set(after) == {"p-1", "p-2", "p-3", "q-1", "q-2"}
    assert [after[name] is before[name] for name in ("q-1", "q-2", "p-1")] == [True, True, False]


async def test_settings_of_the_fleet_need_a_restart(file: Path) -> None:
    """Changes that need a restart are reported, each time."""
    async with FeedServer() as server:
        write(file, connect(server, "a"))
        async with running(file) as fleet:
            write(file, "[fleet]\ndrain_s = 1\n", connect(server, "a"))
            for _ in range(2):
                assert await fleet.reload() == ["[fleet] has changed: takes effect after a restart"]


async def test_a_fleet_that_cannot_be_reloaded_raises(file: Path) -> None:
    """A fleet without a file, or that does not run, or that is being reloaded, raises an error."""
    with pytest.raises(ConfigError, match="was not read from a file"):
        await Fleet().reload()
    async with FeedServer() as server:
        write(file, connect(server, "a"))
        with pytest.raises(FleetError, match="is declared"):
            await load(file).reload()
        async with running(file) as fleet:
            first = asyncio.create_task(fleet.reload())
            await asyncio.sleep(0)
            with pytest.raises(FleetError, match="already in progress"):
                await fleet.reload()
            await first


Tables = dict[str, tuple[int, bool]]
TABLES = st.dictionaries(st.sampled_from("abcdef"), st.tuples(st.integers(1, 2), st.booleans()), min_size=1)


@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(TABLES, TABLES)
def test_after_a_reload_the_fleet_is_like_its_file(file: Path, old: Tables, new: Tables) -> None:
    """For any two files, the fleet of the first becomes that of the second, and unchanged sockets stay open."""

    def tables(server: FeedServer, all_of: Tables) -> list[str]:
        return [
            connect(server, name, f"close_s = {close_s}" + ('\nhandler = "HANDLERS:one"' if handled else ""))
            for name, (close_s, handled) in all_of.items()
        ]

    def described(stats: FleetStats) -> tuple[set[str], set[str]]:
        rows = (stats.endpoints, stats.subscriptions)
        names, processors = ({row.name for row in each if row.name != "$retired"} for each in rows)
        return names, processors

    async def check() -> None:
        async with FeedServer() as server:
            write(file, *tables(server, old))
            async with running(file) as fleet:
                before = sessions(fleet)
                write(file, *tables(server, new))
                lines = await fleet.reload()
                await asyncio.gather(*(each.wait_open() for each in fleet.connections.values()))
                after = sessions(fleet)
                stats = fleet.stats()
                assert described(stats) == described(load(file).stats())
                same = {name for name in new if old.get(name) == new[name]}
                assert {name for name in new if after[name] is before.get(name)} == same
                assert len(lines) == len(old.keys() | new.keys()) - len(same)
                assert stats.balanced

    asyncio.run(check())


@pytest.mark.skipif(not hasattr(signal, "SIGHUP"), reason="no SIGHUP here")
async def test_the_command_reloads_at_sighup(file: Path) -> None:
    """On SIGHUP, an invalid file is rejected in the log, a valid one applied, and the unchanged socket stays open."""
    async with FeedServer() as server:
        write(file, connect(server, "a"), connect(server, "b"))
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "wsfleet", "run", str(file)), stderr=asyncio.subprocess.PIPE
        )
        assert process.stderr is not None
        log: list[str] = []

        async def until(text: str) -> None:
            assert process.stderr is not None
            async with asyncio.timeout(100):
                while not any(text in line for line in log):
                    log.append((await process.stderr.readline()).decode())

        try:
            await server.wait_clients(2)
            await until("b: open")
            write(file, connect(server, "a"), "[[connect]]\n")
            os.kill(process.pid, signal.SIGHUP)
            await until("nothing was changed")
            write(file, connect(server, "a"), connect(server, "c"))
            os.kill(process.pid, signal.SIGHUP)
            await until("[[connect]] c: added")
            await until("c: open")
        finally:
            process.terminate()
            code = await process.wait()
            log += (await process.stderr.read()).decode().splitlines()
    assert code == 0
    assert sum("a: open" in line for line in log) == 1
    assert any("fleet.toml:6" in line and "uri" in line for line in log)
    assert any("[[connect]] b: removed" in line for line in log)
