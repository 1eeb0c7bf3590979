"""Thousands of fleets run and end under random faults; each is determined by a seed, and a failing seed is reported."""

import os
import subprocess
import sys

import pytest

from tests.simulation.lifetime import simulate
from tools.simulate import summary

LIVES = int(os.environ.get("WSFLEET_LIVES", "400"))
"""Number of runs in the suite; those with the compiled parts, if there are any, are in addition."""

SHARDS = 4


def run(*arguments: object, **environment: str) -> str:
    """Run tools.simulate in another process; return its output, and fail if it fails."""
    made = subprocess.run(
        [sys.executable, "-m", "tools.simulate", *map(str, arguments)],
        env=os.environ | {"PYTHONASYNCIODEBUG": "", "WSFLEET_NO_EXTENSIONS": "1"} | environment,
        capture_output=True,
        text=True,
        check=False,
    )
    if made.returncode:
        pytest.fail(made.stdout + made.stderr, pytrace=False)
    return made.stdout


@pytest.mark.parametrize("shard", range(SHARDS))
def test_every_run_keeps_the_invariants(shard: int) -> None:
    """Balance, order, valid states, an end in time, and no leak hold in any run with the Python parts."""
    count = -(-LIVES // SHARDS)
    assert "\n0 failed" in run("--first", shard * count, "--lives", count, "--jobs", 1)


@pytest.mark.parametrize("shard", range(4))
def test_every_run_keeps_the_invariants_with_the_compiled_parts(shard: int) -> None:
    """The same invariants hold with the installed parts."""
    for seed in range(shard * LIVES // 16, (shard + 1) * LIVES // 16):
        outcome = simulate(seed)
        assert not outcome.faults, summary(outcome, compiled=True)


def test_the_same_seed_gives_the_same_run() -> None:
    """The log of all events, to the microsecond, is the same in another process with other hashes."""
    for seed in (1, 7, 17):
        one, two = (run("--seed", seed, "--log", PYTHONHASHSEED=hashes) for hashes in ("1", "2"))
        assert one.count("\n") > 20
        assert one == two


def test_a_fault_is_found_and_its_seed_reported(monkeypatch: pytest.MonkeyPatch) -> None:
    """If a message is dropped without being counted, runs fail, and the output contains the command to repeat one."""
    from wsfleet.pipeline.mailbox import Mailbox

    def drop(mailbox: Mailbox, message: object) -> None:
        mailbox.pending_bytes -= message.size  # type: ignore[attr-defined]

    monkeypatch.setattr(Mailbox, "_drop", drop)
    failing = next(outcome for outcome in map(simulate, range(100)) if outcome.faults)
    shown = summary(failing, compiled=False)
    assert f"python -m tools.simulate --seed {failing.seed} --log" in shown
    assert "not balanced" in shown
