"""The limit of open files is raised, and a limit that is too low is logged."""

import resource
import subprocess
import sys
from collections.abc import Callable

PROGRAM = """
import asyncio, resource, socket, sys
from wsfleet import Fleet

async def main(endpoints):
    with socket.create_server(("127.0.0.1", 0), backlog=256) as listening:  # which accepts, and never answers
        fleet = Fleet()
        for _ in range(endpoints):
            fleet.connect(f"ws://127.0.0.1:{listening.getsockname()[1]}/", proxy=False)
        async with fleet:
            print(*resource.getrlimit(resource.RLIMIT_NOFILE))
            errors = []
            while endpoints > 1 and not errors:
                await asyncio.sleep(0.01)
                errors = [row.last_error for row in fleet.stats().endpoints if row.last_error]
            print(*errors[:1])

asyncio.run(main(int(sys.argv[1])))
"""


def run(endpoints: int, limit: Callable[[], None]) -> tuple[list[str], list[str]]:
    command = [sys.executable, "-c", PROGRAM, str(endpoints)]
    done = subprocess.run(command, preexec_fn=limit, capture_output=True, text=True, check=True)
    return done.stdout.splitlines(), done.stderr.splitlines()


def test_a_fleet_that_starts_raises_the_soft_limit_to_the_hard_one() -> None:
    """The start of a fleet raises the soft limit to the hard limit."""
    hard = min(resource.getrlimit(resource.RLIMIT_NOFILE)[1], 4096)
    out, err = run(1, lambda: resource.setrlimit(resource.RLIMIT_NOFILE, (64, hard)))
    assert out[0] == f"{hard} {hard}"
    assert not any("need about" in line for line in err)


def test_a_limit_that_is_too_low_is_logged_and_in_errors() -> None:
    """A limit that is too low is logged once with advice, which errors of attempts repeat."""
    out, err = run(100, lambda: resource.setrlimit(resource.RLIMIT_NOFILE, (50, 50)))
    (line,) = [line for line in err if "need about" in line]
    assert line.startswith("100 endpoints need about 164 open files, but the limit is 50: ")
    assert "ulimit -n" in line
    assert out[1].startswith("tcp: Too many open files: ")
    assert "ulimit -n" in out[1]
