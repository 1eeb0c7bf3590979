"""Thousands of fleets live and end under random faults; a seed decides everything, and a failing one is named."""

import os
import subprocess
import sys

import pytest

from tests.simulation.lifetime import simulate
from tools.simulate import tell

LIVES = int(os.environ.get("WSFLEET_LIVES", "2000"))
"""How many lives the suite lives; those with the compiled parts, where there are any, come on top of it."""

SHARDS = 4


def run(*arguments: object, **environment: str) -> str:
    """Run tools.simulate in a process of its own; return what it prints, and fail where it does."""
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
def test_every_fleet_keeps_its_promises(shard: int) -> None:
    """Balance, order, legal states, an end in time, and nothing left, whatever happens; in Python alone."""
    count = -(-LIVES // SHARDS)
    assert "\n0 failed" in run("--first", shard * count, "--lives", count, "--jobs", 1)


@pytest.mark.parametrize("shard", range(4))
def test_it_keeps_them_with_the_compiled_parts(shard: int) -> None:
    """The same with the parts that are in use here."""
    for seed in range(shard * LIVES // 40, (shard + 1) * LIVES // 40):
        outcome = simulate(seed)
        assert not outcome.faults, tell(outcome, compiled=True)


def test_the_same_seed_is_the_same_life() -> None:
    """The log of everything that happens, to the microsecond, is the same in another process with other hashes."""
    for seed in (1, 7, 17):
        one, two = (run("--seed", seed, "--log", PYTHONHASHSEED=hashes) for hashes in ("1", "2"))
        assert one.count("\n") > 20
        assert one == two


def test_a_fault_is_found_and_its_seed_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    """A message dropped uncounted turns lives bad, and the command that lives one again is in what is told."""
    from wsfleet.pipeline.mailbox import Mailbox

    def drop(mailbox: Mailbox, message: object) -> None:
        mailbox.pending_bytes -= message.size  # type: ignore[attr-defined]

    monkeypatch.setattr(Mailbox, "_drop", drop)
    failing = next(outcome for outcome in map(simulate, range(100)) if outcome.faults)
    told = tell(failing, compiled=False)
    assert f"python -m tools.simulate --seed {failing.seed} --log" in told
    assert "not balanced" in told
