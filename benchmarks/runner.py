"""Runs the contenders of a scenario in turn, round after round, each against a fresh server."""

from __future__ import annotations

import importlib.metadata
import json
import os
import platform
import re
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import wsfleet
from benchmarks.feed import expected_total
from benchmarks.scenarios import Contender, Load, Scenario

__all__ = ["Run", "machine", "run_rounds"]

ROOT = Path(__file__).parents[1]
PACKAGES = ("websockets", "picows", "aiohttp", "uvloop", "msgspec")


@dataclass(frozen=True)
class Run:
    """One contender in one round."""

    ns_per_message: float
    server_share: float


def run_rounds(
    scenario: Scenario, contenders: Sequence[Contender], rounds: int, tell: Callable[[str], None]
) -> dict[str, list[Run]]:
    """Return what each contender cost in each round.

    Every second round runs in the opposite order, so that a machine that grows slower is unfair to nobody.
    """
    runs: dict[str, list[Run]] = {each.name: [] for each in contenders}
    with TemporaryDirectory() as folder:
        certificates = _make_certificates(Path(folder)) if scenario.load.tls else None
        for number in range(rounds):
            for contender in contenders[:: 1 if number % 2 == 0 else -1]:
                tell(f"round {number + 1} of {rounds}: {contender.name}")
                runs[contender.name].append(_run(contender, scenario.load, certificates))
    return runs


def _make_certificates(folder: Path) -> tuple[str, str]:
    """Return the files of a throw-away authority and of a server's key and certificate."""
    import trustme

    authority, server = folder / "authority.pem", folder / "server.pem"
    made = trustme.CA()
    made.cert_pem.write_to_path(str(authority))
    made.issue_cert("127.0.0.1").private_key_and_cert_chain_pem.write_to_path(str(server))
    return str(authority), str(server)


def _run(contender: Contender, load: Load, certificates: tuple[str, str] | None) -> Run:
    """Start a fresh server and a fresh client, and return what the flow cost. Raises where a message is missing."""
    name = contender.name
    serving, connecting = _commands(load, certificates)
    server = subprocess.Popen(serving, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=ROOT)
    with server:
        assert server.stdout is not None
        uri = server.stdout.readline().strip()
        client = subprocess.run(
            [sys.executable, "-m", "benchmarks.contender", name, uri, *connecting],
            stdout=subprocess.PIPE,
            text=True,
            cwd=ROOT,
            # A proxy from the environment must not stand between the two.
            env=os.environ | {"no_proxy": "*", "NO_PROXY": "*"},
        )
        report, _ = server.communicate()
    if client.returncode:
        raise SystemExit(f"{name} failed")
    got, server_cpu = json.loads(client.stdout), json.loads(report)["cpu_s"]
    count = load.connections * load.messages
    total = 0 if contender.counts else load.connections * expected_total(load.messages, load.size)
    if (got["count"], got["total"]) != (count, total):
        raise SystemExit(f"{name} was sent {count} messages and handled {got}")
    return Run(got["cpu_s"] / count * 1e9, server_cpu / got["cpu_s"])


def _commands(load: Load, certificates: tuple[str, str] | None) -> tuple[list[str], list[str]]:
    """Return the command of the server, and the client's arguments after the address."""
    serving = [sys.executable, "-m", "benchmarks.feed", str(load.messages), str(load.size)]
    connecting = [json.dumps(asdict(load))]
    if load.deflate:
        serving.append("--deflate")
    if certificates is not None:
        authority, server = certificates
        serving += ["--certificate", server]
        connecting.append(authority)
    return serving, connecting


def machine() -> dict[str, Any]:
    """Return what the figures depend on, apart from the code."""
    info = Path("/proc/cpuinfo")
    found = re.search(r"(?m)^model name\s*: (.*)", info.read_text()) if info.exists() else None
    versions = {name: importlib.metadata.version(name) for name in PACKAGES}
    return {
        "cpu": f"{os.cpu_count()} x {found[1] if found else platform.processor() or platform.machine()}",
        "system": f"{platform.system()} {platform.machine()}",
        "python": f"{platform.python_implementation()} {platform.python_version()}",
        **versions,
        "wsfleet.accelerated": wsfleet.accelerated,
    }
