"""The files in deploy/, checked with the tools that read them, if they are installed."""

import json
import os
import re
import shutil
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import pytest

from wsfleet.cli.main import build_parser
from wsfleet.config import check
from wsfleet.runtime.sharding import Shard

ROOT = Path(__file__).parents[2]
DEPLOY = ROOT / "deploy"


def parsed(arguments: list[str]) -> Any:
    """The parsed command line; an invalid one raises SystemExit."""
    return build_parser(arguments).parse_args(arguments)


# ---- systemd ----


def unit_lines() -> list[str]:
    return (DEPLOY / "wsfleet.service").read_text().splitlines()


def unit_value(key: str) -> str:
    (value,) = [line.partition("=")[2] for line in unit_lines() if line.startswith(f"{key}=")]
    return value


def test_the_unit_runs_a_command_line_that_parses() -> None:
    """ExecStart is a valid `wsfleet run`."""
    program, *arguments = unit_value("ExecStart").split()
    assert program == "/opt/wsfleet/bin/wsfleet"
    args = parsed(arguments)
    assert (args.target, str(args.report)) == ("/etc/wsfleet/feeds.toml", "${STATE_DIRECTORY}/report.json")


def test_the_unit_lets_a_fleet_drain() -> None:
    """The stop timeout is longer than that of wsfleet, and only the main process gets the signal."""
    from wsfleet import Fleet
    from wsfleet.runtime.run import ending_limit_s

    fleet = Fleet()
    fleet.connect("ws://h")
    assert int(unit_value("TimeoutStopSec")) > ending_limit_s(fleet)
    assert unit_value("KillMode") == "mixed"
    assert (unit_value("Type"), unit_value("RestartPreventExitStatus")) == ("notify", "2")


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="systemd-analyze is not installed")
def test_systemd_accepts_the_unit(tmp_path: Path) -> None:
    """`systemd-analyze verify` reports nothing; the program is replaced by one that exists here."""
    unit = tmp_path / "wsfleet.service"
    text = (DEPLOY / "wsfleet.service").read_text().replace("/opt/wsfleet/bin/wsfleet", sys.executable)
    unit.write_text(text)
    found = subprocess.run(
        ["systemd-analyze", "verify", "--man=no", "--recursive-errors=no", str(unit)],
        capture_output=True,
        text=True,
        check=False,
    )
    ours = [line for line in found.stderr.splitlines() if "wsfleet" in line]
    assert (found.returncode, ours) == (0, [])


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="systemd-analyze is not installed")
def test_systemd_rates_the_unit_as_safe() -> None:
    """`systemd-analyze security` rates it below 2 of 10."""
    found = subprocess.run(
        ["systemd-analyze", "security", "--offline=true", "--threshold=20", str(DEPLOY / "wsfleet.service")],
        capture_output=True,
        text=True,
        check=False,
    )
    if "unrecognized option" in found.stderr:
        pytest.skip("this systemd-analyze cannot look at a file")
    assert found.returncode == 0, found.stdout[-2000:] + found.stderr


# ---- the container ----


def instructions() -> list[tuple[str, str]]:
    """The instructions of the Containerfile, by keyword."""
    text = re.sub(r"\\\n", " ", (DEPLOY / "Containerfile").read_text())
    lines = [line for line in text.splitlines() if line and not line.startswith("#")]
    return [(keyword, rest.strip()) for keyword, _, rest in (line.partition(" ") for line in lines)]


def instruction(keyword: str) -> str:
    return [rest for each, rest in instructions() if each == keyword][-1]


def test_files_that_the_image_copies_exist() -> None:
    """The sources of each COPY exist, and include the files that the build needs."""
    copies = [rest.split() for keyword, rest in instructions() if keyword == "COPY" and "--from" not in rest]
    sources = [source for *found, _ in copies for source in found]
    assert sources
    assert all((ROOT / source).exists() for source in sources), sources
    assert {"pyproject.toml", "setup.py", "src", "constraints.txt"} <= set(sources)
    assert {"README.md", "LICENSE"} <= set(sources)  # pyproject.toml mentions them


def test_the_image_installs_existing_extras() -> None:
    """The installed extras exist."""
    import tomllib

    (extras,) = re.findall(r'"\.\[([a-z,]+)\]"', (DEPLOY / "Containerfile").read_text())
    known = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    assert set(extras.split(",")) <= known.keys()


def test_the_image_gets_signals_and_does_not_run_as_root() -> None:
    """The command is a list, so that it is not run by a shell; it parses; the user is a number other than 0."""
    entry, command = json.loads(instruction("ENTRYPOINT")), json.loads(instruction("CMD"))
    assert entry == ["wsfleet"]
    assert parsed(command).target == "/etc/wsfleet/feeds.toml"
    assert re.fullmatch(r"[1-9]\d*:[1-9]\d*", instruction("USER"))
    assert instruction("STOPSIGNAL") == "SIGTERM"
    assert instructions()[0][0] == "FROM"


@contextmanager
def answering(status: int) -> Iterator[tuple[int, list[tuple[str, str | None]]]]:
    """A server that gives one answer, and records the requests."""
    asked: list[tuple[str, str | None]] = []

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            asked.append((self.path, self.headers["Authorization"]))
            self.send_response(status)
            self.end_headers()
            self.wfile.write(b"two are down")

        def log_message(self, format: str, *args: object) -> None: ...

    with HTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield server.server_port, asked
        server.shutdown()
        thread.join()


def health(port: int, *arguments: str, **environ: str) -> subprocess.CompletedProcess[str]:
    """Run the HEALTHCHECK command, with this interpreter and the script from the repository."""
    command = json.loads(instruction("HEALTHCHECK").partition("CMD")[2])
    assert command == ["python", "/opt/wsfleet/healthcheck.py"]
    return subprocess.run(
        [sys.executable, DEPLOY / "healthcheck.py", *arguments],
        env={**os.environ, "WSFLEET_PORT": str(port), "http_proxy": "http://127.0.0.1:1", **environ},
        capture_output=True,
        text=True,
        check=False,
    )


def test_the_health_check(tmp_path: Path) -> None:
    """The exit code is 0 if the fleet is healthy, 1 if it is not or the request fails; a token is sent."""
    (tmp_path / "token").write_text("secret\n")
    with answering(200) as (port, asked):
        assert health(port).returncode == 0
        assert health(port, "/readyz", WSFLEET_TOKEN_FILE=str(tmp_path / "token")).returncode == 0
    assert asked == [("/healthz", None), ("/readyz", "Bearer secret")]
    with answering(503) as (port, _):
        ill = health(port)
    assert (ill.returncode, ill.stdout) == (1, "/healthz: 503 two are down\n")
    assert health(port).returncode == 1


# ---- Kubernetes ----


@pytest.fixture
def documents() -> dict[str, Any]:
    yaml = pytest.importorskip("yaml", reason="PyYAML is not installed")
    return {each["kind"]: each for each in yaml.safe_load_all((DEPLOY / "kubernetes.yaml").read_text())}


def test_the_stateful_set_gives_each_pod_its_share(documents: dict[str, Any]) -> None:
    """The command line parses for each ordinal, and there are as many shares as pods."""
    spec = documents["StatefulSet"]["spec"]
    (container,) = spec["template"]["spec"]["containers"]
    environ = {each["name"]: each for each in container["env"]}
    assert "pod-index" in environ["ORDINAL"]["valueFrom"]["fieldRef"]["fieldPath"]
    assert int(environ["SHARDS"]["value"]) == spec["replicas"]
    for ordinal in range(spec["replicas"]):
        shards = environ["SHARDS"]["value"]
        args = parsed(
            [each.replace("$(ORDINAL)", str(ordinal)).replace("$(SHARDS)", shards) for each in container["args"]]
        )
        assert args.shard == Shard(ordinal, spec["replicas"])


def test_the_stateful_set_fits_the_image(documents: dict[str, Any]) -> None:
    """Its user, its probes and its grace period agree with the image and with wsfleet."""
    pod = documents["StatefulSet"]["spec"]["template"]["spec"]
    (container,) = pod["containers"]
    context = pod["securityContext"]
    assert f"{context['runAsUser']}:{context['runAsGroup']}" == instruction("USER")
    for probe in ("livenessProbe", "readinessProbe"):
        assert container[probe]["exec"]["command"][:2] == ["python", "/opt/wsfleet/healthcheck.py"]
    assert pod["terminationGracePeriodSeconds"] == int(unit_value("TimeoutStopSec"))
    assert f"EXPOSE {container['ports'][0]['containerPort']}" in (DEPLOY / "Containerfile").read_text()
    assert {each["name"] for each in container["volumeMounts"]} == {each["name"] for each in pod["volumes"]}


def test_the_file_in_the_config_map_is_valid(documents: dict[str, Any], tmp_path: Path) -> None:
    """`wsfleet check` accepts the configuration."""
    (tmp_path / "token").write_text("t" * 32)
    text = documents["ConfigMap"]["data"]["feeds.toml"].replace("/run/secrets/wsfleet/token", str(tmp_path / "token"))
    (tmp_path / "feeds.toml").write_text(text)
    report = check(tmp_path / "feeds.toml")
    assert (report.faults, report.warnings) == ((), ())
