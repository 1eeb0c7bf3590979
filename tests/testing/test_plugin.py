"""The plugin, run in a separate pytest as users do, and the tests of the example project."""

import os
import re
import shutil
import subprocess
import sys
from importlib.metadata import entry_points
from pathlib import Path

import pytest

import wsfleet
from wsfleet import Fleet
from wsfleet.testing import Chaos, FeedServer

SOURCE = Path(wsfleet.__file__).parents[1]
EXAMPLE = Path(__file__).parents[2] / "examples" / "testing"

AUTO = "[pytest]\nasyncio_mode = auto\nasyncio_default_fixture_loop_scope = function\n"
STRICT = AUTO.replace("auto", "strict")

USING = """
import pytest

@pytest.mark.asyncio
async def test_it(feed_server, fleet, chaos):
    fleet.connect(feed_server.uri, name="feed", decode="json", proxy=False)
    async with fleet.subscribe("feed") as feed:
        await feed_server.send_numbered(1)
        assert (await anext(feed)).data == {"n": 1}
"""

FAILING = """
async def test_it(feed_server, chaos):
    with chaos:
        next(feed_server._script)
        raise AssertionError("the program did not survive")
"""

UNBALANCED = """
async def test_it(fleet):
    fleet._registry.hub.published += 1
"""

FAILING_PROCESSOR = """
import pytest
from wsfleet import Fleet

%s
@pytest.mark.asyncio
async def test_it(fleet: Fleet) -> None:
    @fleet.process("numbers")
    async def halves(message):
        assert message.data %% 2 == 0
    for number in (1, 2, 3):
        fleet.publish("numbers", number)
    await fleet.idle()
"""


def run(folder: Path, *options: str) -> subprocess.CompletedProcess[str]:
    """Run pytest in a folder, with warnings as errors."""
    command = [sys.executable, "-W", "error", "-m", "pytest", "-p", "no:cacheprovider", *options]
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PYTEST_")}
    return subprocess.run(
        command, cwd=folder, env=environment | {"PYTHONPATH": str(SOURCE)},
        stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=250, check=False,
    )  # fmt: skip


def project(folder: Path, settings: str, test: str) -> Path:
    (folder / "pytest.ini").write_text(settings)
    (folder / "test_it.py").write_text(test)
    return folder


def test_the_plugin_is_announced() -> None:
    """pytest loads the plugin by the name of its entry point."""
    (entry,) = entry_points(group="pytest11", name="wsfleet")
    assert entry.value == "wsfleet.testing.pytest_plugin"


async def test_the_fixtures_are_ready_to_use(feed_server: FeedServer, fleet: Fleet, chaos: Chaos) -> None:
    """The fixtures are a listening server, a running fleet, and chaos on that server."""
    assert chaos.server is feed_server
    fleet.connect(feed_server.uri, name="feed", proxy=False)
    await feed_server.wait_clients(1)


def test_the_example_project_passes(tmp_path: Path) -> None:
    """The tests of examples/testing pass with plain `pytest` outside this repository."""
    folder = shutil.copytree(EXAMPLE, tmp_path / "project", ignore=shutil.ignore_patterns("__pycache__"))
    done = run(folder)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "4 passed" in done.stdout


@pytest.mark.parametrize("settings", [AUTO, STRICT], ids=["auto", "strict"])
def test_works_in_both_modes_of_pytest_asyncio(tmp_path: Path, settings: str) -> None:
    """The fixtures work in both modes of pytest-asyncio, without an import."""
    done = run(project(tmp_path, settings, USING))
    assert done.returncode == 0, done.stdout + done.stderr


def test_a_failure_reports_the_seed(tmp_path: Path) -> None:
    """A failed test with chaos reports its seed and faults, and the seed reproduces them."""
    done = run(project(tmp_path, AUTO, FAILING))
    assert done.returncode == 1
    found = re.search(r"- wsfleet chaos -.*\nseed (\d+), 1 faults\n(.+)\n.*--wsfleet-seed=\1\n", done.stdout)
    assert found is not None, done.stdout
    again = run(tmp_path, f"--wsfleet-seed={found[1]}")
    assert f"seed {found[1]}, 1 faults\n{found[2]}\n" in again.stdout


def test_an_unbalanced_fleet_fails_its_test(tmp_path: Path) -> None:
    """A fleet that does not balance fails its test."""
    done = run(project(tmp_path, AUTO, UNBALANCED))
    assert done.returncode == 1
    assert "messages are unaccounted for" in done.stdout


def test_a_failed_processor_fails_its_test(tmp_path: Path) -> None:
    """A test in which a processor of the fixture's fleet failed has an error that names the processor."""
    done = run(project(tmp_path, STRICT, FAILING_PROCESSOR % ""))
    assert done.returncode == 1
    assert "processors failed: halves (2); see the log" in done.stdout


def test_a_failure_can_be_expected(tmp_path: Path) -> None:
    """With the marker, processors may fail. The plugin has registered it, so strict markers accept it."""
    done = run(project(tmp_path, STRICT, FAILING_PROCESSOR % "@pytest.mark.processors_may_fail"), "--strict-markers")
    assert done.returncode == 0, done.stdout + done.stderr


def test_wsfleet_needs_no_pytest(tmp_path: Path) -> None:
    """The test kit can be imported without pytest."""
    code = "import sys; sys.modules['pytest'] = None; import wsfleet.testing, wsfleet.testing.faults"
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, env=os.environ | {"PYTHONPATH": str(SOURCE)}, check=False
    )
    assert done.returncode == 0
