"""Runs Autobahn|Testsuite against wsfleet: `make autobahn`, or `python -m tools.autobahn --help`.

Its fuzzing server sends valid and invalid data, and rates the client's behaviour. The client runs twice, at once and
each with its own server: with the compiled parts, and with WSFLEET_NO_EXTENSIONS. The servers' findings must
equal `expected.json`. Their reports, a page for each case, are in `build/autobahn`. A server writes them when it
ends, so each group of cases has its own server: a run that was stopped can continue with the current group.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import platform
import re
import shutil
import signal
import sys
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from importlib.metadata import version
from pathlib import Path

from tools.autobahn.results import (
    Result,
    Results,
    chosen,
    differences,
    others,
    read_expected,
    read_report,
    table,
    write_expected,
)

HERE = Path(__file__).parent
ROOT = HERE.parent.parent
EXPECTED = HERE / "expected.json"
PAGE = ROOT / "docs" / "autobahn.md"
REPORTS = ROOT / "build" / "autobahn"
SUMMARY = "index.json"

CLIENTS = {"compiled": "", "python": "1"}
"""The clients, and the value of WSFLEET_NO_EXTENSIONS for each."""

LONG = [f"{section}.{part}" for section, parts in ((12, 5), (13, 7)) for part in range(1, parts + 1)]
"""Compression, which takes most of the time: a thousand messages in each case."""

GROUPS = {"1-7": [f"{section}.*" for section in range(1, 8)], "9-10": ["9.*", "10.*"]} | {p: [f"{p}.*"] for p in LONG}

RUN_S = 7200.0
"""Time limit of a group: minutes, if the machine is idle."""

START, STOP = "<!-- results: written by make autobahn -->", "<!-- end of results -->"


@asynccontextmanager
async def fuzzing_server(python2: str, folder: Path, cases: Sequence[str]) -> AsyncIterator[str]:
    """Run a fuzzing server that reports into `folder`, with its log; yield its URL."""
    process = await asyncio.create_subprocess_exec(
        python2, str(HERE / "server.py"), str(folder), *cases, stdout=asyncio.subprocess.PIPE
    )
    assert process.stdout is not None
    logging = None
    try:
        async for line in process.stdout:
            found = re.fullmatch(rb"listening on (\d+)\n", line)
            if found:
                logging = asyncio.create_task(copy(process.stdout, folder / "server.log"))
                yield f"ws://127.0.0.1:{int(found[1])}"
                break
        else:
            raise SystemExit("the fuzzing server ended before it listened")
    finally:
        if process.returncode is None:
            process.terminate()
        await process.wait()
        if logging is not None:
            await logging


async def copy(stream: asyncio.StreamReader, path: Path) -> None:
    with path.open("wb") as file:
        while data := await stream.read(2**16):
            file.write(data)


async def run_client(name: str, url: str) -> None:
    """Run one client through all cases of a server."""
    env = {**os.environ, "WSFLEET_NO_EXTENSIONS": CLIENTS[name]}
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "tools.autobahn.client", url, name, cwd=ROOT, env=env
    )
    try:
        async with asyncio.timeout(RUN_S):
            if await process.wait():
                raise SystemExit(f"the client {name} failed")
    finally:
        if process.returncode is None:
            process.terminate()
            await process.wait()


async def run(name: str, python2: str, groups: Mapping[str, Sequence[str]]) -> None:
    """Run one client through the groups that have no report."""
    for group, cases in groups.items():
        folder = REPORTS / name / group
        if (folder / SUMMARY).exists():
            continue
        folder.mkdir(parents=True, exist_ok=True)
        async with fuzzing_server(python2, folder, cases) as url:
            await run_client(name, url)
        print(f"{name}: {group} done", flush=True)


def read_reports(name: str) -> Results:
    """Read the findings of all servers of one client."""
    found: dict[str, Result] = {}
    for path in (REPORTS / name).glob(f"*/{SUMMARY}"):
        found |= read_report(path, name)
    return found


async def run_all(python2: str, groups: Mapping[str, Sequence[str]]) -> None:
    """Run both clients at once, because in each run two programs mostly wait for one another."""
    try:
        async with asyncio.TaskGroup() as tasks:
            for name in CLIENTS:
                tasks.create_task(run(name, python2, groups))
    except* TimeoutError:
        raise SystemExit(f"not done after {RUN_S:g} s") from None


def write_page(clients: Mapping[str, Results]) -> None:
    """Write the results into the page of the documentation."""
    head, _, rest = PAGE.read_text().partition(START)
    tail = rest.partition(STOP)[2]
    names = ("Python", platform.python_version()), ("websockets", version("websockets"))
    ran = f"{min(map(len, clients.values()))} of {len(read_expected(EXPECTED))} cases"
    by = f"Autobahn|Testsuite {suite_version()}; {', '.join(map(' '.join, names))}; {ran}."
    PAGE.write_text("\n\n".join([f"{head}{START}", by, table(clients), others(clients), f"{STOP}{tail}"]))


def suite_version() -> str:
    found = re.search(r"^autobahntestsuite==(.+)$", (HERE / "constraints.txt").read_text(), re.MULTILINE)
    assert found is not None
    return found[1]


def main() -> int:
    parser = argparse.ArgumentParser(prog="make autobahn", description=__doc__, allow_abbrev=False)
    parser.add_argument("--server-python", metavar="PATH", help="a Python 2.7 with Autobahn|Testsuite")
    parser.add_argument(
        "--cases", nargs="+", default=["*"], metavar="CASE", help="for example 7.1.5 or '9.*' (default: all)"
    )
    parser.add_argument("--last", action="store_true", help="run nothing: evaluate the reports of the last run again")
    parser.add_argument("--go-on", action="store_true", help="continue the last run of all cases")
    parser.add_argument("--write", action="store_true", help=f"write the table into {PAGE.relative_to(ROOT)}")
    parser.add_argument(
        "--accept", action="store_true", help="save the results of the compiled client as the expected ones"
    )
    options = parser.parse_args()
    every = options.cases == ["*"]
    if not every and (options.write or options.accept or options.go_on):
        parser.error("--go-on, --write and --accept require all cases")
    if not options.last:
        signal.signal(signal.SIGTERM, signal.default_int_handler)  # so that the servers are ended
        if not options.go_on:
            shutil.rmtree(REPORTS, ignore_errors=True)
        asyncio.run(run_all(options.server_python, GROUPS if every else {"chosen": options.cases}))
    clients = {name: read_reports(name) for name in CLIENTS}
    if options.accept:
        before = read_expected(EXPECTED)
        write_expected(EXPECTED, {c: before[c] if r.fits(before.get(c)) else r for c, r in clients["compiled"].items()})
    if options.write:
        write_page(clients)
    expected = chosen(read_expected(EXPECTED), options.cases)
    faults = [f"{name} {fault}" for name, results in clients.items() for fault in differences(results, expected)]
    print(table(clients), others(clients), sep="\n\n")
    print("", *(faults or ["as expected"]), sep="\n")
    return 1 if faults else 0


if __name__ == "__main__":
    sys.exit(main())
