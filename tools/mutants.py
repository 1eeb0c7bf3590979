"""Plants faults in the core, one at a time, and checks whether the tests find each: `make mutants`.

    python -m tools.mutants [MODULE ...] [--jobs N] [--list]

Each fault is a small change to one place of one module: another comparison, a number one larger, a statement left
out. It is planted in a copy of the sources, and the tests for that module run until the first failure.
A fault without a visible effect is listed in `mutants.txt`, with the reason. Prints a table, and every
fault that no test found.
"""

from __future__ import annotations

import argparse
import gc
import multiprocessing
import os
import resource
import shutil
import signal
import sys
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from tools.faults import Fault, faults

ROOT = Path(__file__).parents[1]
EQUIVALENT = Path(__file__).with_name("mutants.txt")

# The fast ones first: most faults are found before the slow ones run.
TESTS = {
    "core/retry": ["core/test_retry.py"],
    "pipeline/latest": [
        "pipeline/test_overflow.py",
        "pipeline/test_overflow_fleet.py",
        "pipeline/test_key_order.py",
        "endpoint/test_edge_failures.py",
    ],
    "pipeline/backpressure": [
        "pipeline/test_mailbox.py",
        "pipeline/test_overflow_fleet.py",
        "pipeline/test_unread.py",
    ],
    "pipeline/mailbox": [
        "pipeline/test_overflow.py",
        "pipeline/test_mailbox.py",
        "pipeline/test_replay.py",
        "pipeline/test_overflow_fleet.py",
        "pipeline/test_subscription.py",
        "pipeline/test_next.py",
    ],
    "pipeline/queue": [
        "pipeline/test_mailbox.py",
        "pipeline/test_next.py",
        "pipeline/test_calls.py",
        "pipeline/test_subscription.py",
        "pipeline/test_overflow.py",
        "pipeline/test_processor.py",
    ],
    "pipeline/hub": [
        "pipeline/test_hub.py",
        "pipeline/test_replay.py",
        "pipeline/test_overflow_fleet.py",
        "endpoint/test_pool_edges.py",
    ],
    "endpoint/pool": ["endpoint/test_pool.py", "endpoint/test_pool_loss.py", "endpoint/test_pool_edges.py"],
    "endpoint/requests": [
        "endpoint/test_requests.py",
        "endpoint/test_pool.py",
        "endpoint/test_pool_loss.py",
        "endpoint/test_pool_edges.py",
    ],
}

# Minutes of simulated time, or tests of a whole fleet: too slow for a thousand runs.
SLOW = ["ten_minutes", "after_the_pause", "hundred_thousand", "million"]

WAIT_S = 20
"""Limit for one test; one that takes longer waits for an event that never comes."""

WALL_S = 180.0
"""Limit for one run of the tests, because not every hanging test can be ended by its own limit."""

FOUND, HUNG, MISSED = "found", "hung", "missed"


@dataclass(frozen=True)
class Result:
    fault: Fault
    verdict: str
    seconds: float


def equivalents() -> dict[str, str]:
    """Return the faults without a visible effect, each with its reason: pairs of lines, the second one indented."""
    found: dict[str, str] = {}
    fault = ""
    for line in EQUIVALENT.read_text("utf-8").splitlines():
        if line.startswith("    "):
            found[fault] = line.strip()
        elif line and not line.startswith("#"):
            fault = line
    return found


class Bench:
    """A copy of the sources and tests in which one fault after the other is planted."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        for name in ("src", "tests", "examples", "pyproject.toml"):
            place = ROOT / name
            if place.is_dir():
                shutil.copytree(place, folder / name, ignore=shutil.ignore_patterns("node_modules", "*.egg-info"))
            else:
                shutil.copy2(place, folder / name)

    def module(self, name: str) -> Path:
        return self.folder / "src" / "wsfleet" / f"{name}.py"

    def run(self, tests: list[str], limit_s: float) -> str:
        """Run `tests` up to the first failure; after `limit_s` seconds of CPU time they count as hanging.

        It is CPU time, because the machine may be busy. A test that waits has its own limit.
        """
        child = os.fork()
        if child == 0:
            resource.setrlimit(resource.RLIMIT_CPU, (int(limit_s), int(limit_s) + 5))
            self._test(tests)
        until = time.monotonic() + WALL_S
        while time.monotonic() < until:
            done, status = os.waitpid(child, os.WNOHANG)
            if done:
                return MISSED if status == 0 else HUNG if os.WIFSIGNALED(status) else FOUND
            time.sleep(0.02)
        os.killpg(child, signal.SIGKILL)
        os.waitpid(child, 0)
        return HUNG

    def _test(self, tests: list[str]) -> None:
        """In the child: run pytest, and never return."""
        code = 99
        try:
            os.setpgid(0, 0)
            os.chdir(self.folder)
            log = os.open(self.folder / "log", os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
            os.dup2(log, 1)
            os.dup2(log, 2)
            source = str(self.folder / "src")
            sys.path.insert(0, source)
            os.environ |= {"PYTHONPATH": source, "PYTHONASYNCIODEBUG": "", "PYTHONDONTWRITEBYTECODE": "1"}
            # The Python version is changed, and the compiled one would hide it.
            os.environ |= {"WSFLEET_NO_EXTENSIONS": "1", "WSFLEET_HYPOTHESIS": "usual"}
            sys.dont_write_bytecode = True
            import pytest

            chosen = " and ".join(f"not {name}" for name in SLOW)
            options = [
                "-x",
                "-q",
                "--assert=plain",
                "-p",
                "no:cacheprovider",
                "-o",
                "asyncio_debug=false",
                "-o",
                f"timeout={WAIT_S}",
                "-k",
                chosen,
            ]
            code = int(pytest.main([*options, *(f"tests/{name}" for name in tests)]))
        except BaseException:
            traceback.print_exc()
        finally:
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(code)

    def plant(self, fault: Fault) -> None:
        path = self.module(fault.module)
        for compiled in path.parent.glob(f"__pycache__/{path.stem}.*"):
            compiled.unlink()
        path.write_text(fault.source, "utf-8")

    def restore(self, name: str) -> None:
        shutil.copy2(ROOT / "src" / "wsfleet" / f"{name}.py", self.module(name))


def prepare() -> None:
    """Import the requirements of all runs, and nothing of wsfleet, so that each run only costs its tests."""
    import hypothesis
    import looptime  # noqa: F401
    import msgspec  # noqa: F401
    import pytest  # noqa: F401
    import pytest_asyncio  # noqa: F401
    import websockets.asyncio.client
    import websockets.asyncio.server  # noqa: F401

    # The same examples in every run, and no time spent on minimizing a failing one.
    phases = [hypothesis.Phase.explicit, hypothesis.Phase.generate]
    hypothesis.settings.register_profile("mutants", derandomize=True, database=None, max_examples=50, phases=phases)
    hypothesis.settings.load_profile("mutants")
    # The tests collect garbage repeatedly; loaded modules need not be searched each time.
    gc.freeze()


def work(
    todo: multiprocessing.Queue[Fault | None], done: multiprocessing.Queue[Result | None], limits: dict[str, float]
) -> None:
    """One of several workers: plant a fault, run the tests, report, until no fault is left."""
    prepare()
    with tempfile.TemporaryDirectory(prefix="mutants-") as folder:
        bench = Bench(Path(folder))
        while (fault := todo.get()) is not None:
            began = time.monotonic()
            bench.plant(fault)
            verdict = bench.run(TESTS[fault.module], limits[fault.module])
            bench.restore(fault.module)
            done.put(Result(fault, verdict, time.monotonic() - began))
    done.put(None)


def baseline(modules: list[str]) -> dict[str, float]:
    """Check that the tests pass without a fault; return the time limit of each module's tests."""
    prepare()
    limits = {}
    with tempfile.TemporaryDirectory(prefix="mutants-") as folder:
        bench = Bench(Path(folder))
        for name in modules:
            began = sum(os.times()[2:4])
            if bench.run(TESTS[name], 600.0) != MISSED:
                sys.exit((bench.folder / "log").read_text() + f"\nthe tests of {name} fail as they are")
            took = sum(os.times()[2:4]) - began
            limits[name] = 10.0 + 3 * took
            print(f"{name}: the tests pass, in {took:.1f} s of CPU time", flush=True)
    return limits


def results(chosen: list[Fault], jobs: int, limits: dict[str, float]) -> Iterator[Result]:
    """Test the faults, `jobs` at a time."""
    todo: multiprocessing.Queue[Fault | None] = multiprocessing.Queue()
    done: multiprocessing.Queue[Result | None] = multiprocessing.Queue()
    for fault in [*chosen, *[None] * jobs]:
        todo.put(fault)
    workers = [multiprocessing.Process(target=work, args=(todo, done, limits)) for _ in range(jobs)]
    for worker in workers:
        worker.start()
    left = jobs
    while left:
        result = done.get()
        if result is None:
            left -= 1
        else:
            yield result
    for worker in workers:
        worker.join()


def table(modules: list[str], known: Counter[str], tested: list[Result]) -> None:
    line = "{:<22}{:>8}{:>8}{:>8}{:>12}{:>8}".format
    print(line("module", "faults", FOUND, HUNG, "equivalent", MISSED))
    rows = [(r.fault.module, r.verdict) for r in tested]
    for name in [*modules, ""]:
        counts = Counter(verdict for module, verdict in rows if name in ("", module))
        equal = known[name] if name else sum(known.values())
        total = equal + sum(counts.values())
        print(line(name or "in all", total, counts[FOUND], counts[HUNG], equal, counts[MISSED]))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("modules", nargs="*", help=f"of {', '.join(TESTS)}; default all")
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 2)
    parser.add_argument("--list", action="store_true", help="print the faults and test none")
    parser.add_argument("--only", default="", help="only faults whose description contains this text")
    options = parser.parse_args()
    modules = options.modules or list(TESTS)
    everything = [f for name in modules for f in faults(name, (ROOT / f"src/wsfleet/{name}.py").read_text("utf-8"))]
    reasons = equivalents()
    chosen = [f for f in everything if options.only in str(f)]
    known = Counter(f.module for f in chosen if str(f) in reasons)
    stale = [name for name in reasons if name.split()[0] in modules and name not in map(str, everything)]
    if options.list:
        print(*chosen, sep="\n")
        return 0
    began = time.monotonic()
    tested = []
    limits = baseline(modules)
    for result in results([f for f in chosen if str(f) not in reasons], options.jobs, limits):
        tested.append(result)
        if result.verdict != FOUND:
            where = f"(line {result.fault.line}, {result.seconds:.0f} s)"
            print(f"{result.verdict}: {result.fault}  {where}", flush=True)
    table(modules, known, tested)
    print(f"{(time.monotonic() - began) / 60:.1f} minutes")
    print(*(f"in {EQUIVALENT.name}, but no longer generated: {name}" for name in stale), sep="\n", end="")
    return 1 if stale or any(result.verdict == MISSED for result in tested) else 0


if __name__ == "__main__":
    sys.exit(main())
