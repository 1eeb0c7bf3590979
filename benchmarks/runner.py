"""Runs the contenders of a scenario in turn, round after round, each in its own process with its own server.

They are all connected at the same time, but only one of them receives: slices of some ten milliseconds alternate.
The speed of a shared machine changes within a second; programs that are compared in a ratio must
run within the same one.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory

from benchmarks.feed import expected_total
from benchmarks.scenarios import Contender, Load

__all__ = ["Runs", "run_rounds"]

ROOT = Path(__file__).parents[1]
TIMEOUT_S = 60.0


FRESH = 14
"""Number of rounds after which all processes are restarted, because memory layout and hashes differ by process."""


@dataclass
class Runs:
    """One contender in all rounds: the nanoseconds of CPU time per message, and the reference's just before and after
    each.
    """

    costs: list[float] = field(default_factory=list)
    references: list[float] = field(default_factory=list)
    server_shares: list[float] = field(default_factory=list)


class Client:
    """A contender connected to its own server, and idle until it is asked for a slice."""

    def __init__(self, contender: Contender, load: Load, certificates: tuple[str, str] | None) -> None:
        self._name = contender.name
        self._count = load.connections * load.messages
        self._total = 0 if contender.counts else load.connections * expected_total(load.messages, load.size)
        self._cpu_s = 0.0
        serving, connecting = _commands(load, certificates)
        self._server = _start(serving)
        self._client = _start(["benchmarks.contender", self._name, self._answer(self._server), *connecting])
        self._answer(self._client)

    def slice(self) -> float:
        """Let messages flow once; return the cost of each. Raises if one is missing."""
        assert self._client.stdin is not None
        self._client.stdin.write("\n")
        self._client.stdin.flush()
        count, total, cpu_s = json.loads(self._answer(self._client))
        if (count, total) != (self._count, self._total):
            raise SystemExit(f"{self._name} was sent {self._count} messages and handled {count}, worth {total}")
        self._cpu_s += cpu_s
        return float(cpu_s / count * 1e9)

    def close(self) -> float:
        """End both processes; return the server's CPU time as a fraction of the client's."""
        self._client.communicate(timeout=TIMEOUT_S)
        report, _ = self._server.communicate(timeout=TIMEOUT_S)
        if self._client.returncode:
            raise SystemExit(f"{self._name} failed at its end")
        return float(json.loads(report)["cpu_s"] / self._cpu_s)

    def abort(self) -> None:
        """Close everything, in any state."""
        for process in (self._client, self._server):
            process.kill()
            process.communicate()

    def _answer(self, process: subprocess.Popen[str]) -> str:
        assert process.stdout is not None
        line = process.stdout.readline()
        if not line:
            raise SystemExit(f"{self._name} failed")
        return line.strip()


def run_rounds(
    load: Load, contenders: Sequence[Contender], rounds: int, report: Callable[[str], None]
) -> dict[str, Runs]:
    """Return the cost of each contender in each round, and that of its reference right before and after it."""
    runs = {each.name: Runs() for each in contenders}
    with TemporaryDirectory() as folder:
        certificates = _make_certificates(Path(folder)) if load.tls else None
        for first in range(0, rounds, FRESH):
            clients: dict[str, Client] = {}
            try:
                for each in contenders:
                    report(f"start {each.name}")
                    clients[each.name] = Client(each, load, certificates)
                    clients[each.name].slice()  # warm-up
                for number in range(first, min(first + FRESH, rounds)):
                    report(f"round {number + 1} of {rounds}")
                    _round(contenders, clients, runs)
                for name, client in clients.items():
                    runs[name].server_shares.append(client.close())
            finally:
                for client in clients.values():
                    client.abort()
    return runs


def _round(contenders: Sequence[Contender], clients: Mapping[str, Client], runs: Mapping[str, Runs]) -> None:
    """Give each contender a slice, and its reference one before and one after it.

    So each slice follows one of another process, with equally cold caches. The difference of the reference's costs
    before and after a contender shows how unsteady the machine is.
    """
    last: dict[str, float] = {}
    for each in contenders:
        if each.name == each.beside and any(other.beside == each.name for other in contenders if other is not each):
            continue
        before = last[each.beside] if each.beside in last else clients[each.beside].slice()
        cost = clients[each.name].slice()
        after = last[each.beside] = clients[each.beside].slice() if each.name != each.beside else cost
        for name, own, reference in ((each.name, cost, (before + after) / 2), (each.beside, after, before)):
            runs[name].costs.append(own)
            runs[name].references.append(reference)


def _make_certificates(folder: Path) -> tuple[str, str]:
    """Return the files of a temporary CA and of a server's key and certificate."""
    import trustme

    authority, server = folder / "authority.pem", folder / "server.pem"
    made = trustme.CA()
    made.cert_pem.write_to_path(str(authority))
    made.issue_cert("127.0.0.1").private_key_and_cert_chain_pem.write_to_path(str(server))
    return str(authority), str(server)


def _start(command: Sequence[str]) -> subprocess.Popen[str]:
    # A proxy from the environment must not be used between the two.
    return subprocess.Popen(
        [sys.executable, "-m", *command],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        cwd=ROOT,
        env=os.environ | {"no_proxy": "*", "NO_PROXY": "*"},
    )


def _commands(load: Load, certificates: tuple[str, str] | None) -> tuple[list[str], list[str]]:
    """Return the command of the server, and the client's arguments after the address."""
    serving = ["benchmarks.feed", str(load.messages), str(load.size)]
    connecting = [json.dumps(asdict(load))]
    if load.deflate:
        serving.append("--deflate")
    if load.single:
        serving.append("--single")
    if certificates is not None:
        authority, server = certificates
        serving += ["--certificate", server]
        connecting.append(authority)
    return serving, connecting
