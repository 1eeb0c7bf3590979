"""The build: compiled parts are optional."""

import os
import shutil
import subprocess
import sys
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.support.compiled import compiled
from wsfleet.core.accel import PARTS

ROOT = Path(__file__).parents[2]
SOURCES = [part.replace(".", "/") + ".pyx" for part in PARTS]

pytest.importorskip("setuptools")


@pytest.fixture
def build(tmp_path):
    """Build a wheel and a source archive from a copy; return the names in each, and the warnings of the build."""
    for name in ("setup.py", "pyproject.toml", "MANIFEST.in", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, tmp_path)
    left_out = shutil.ignore_patterns("*.so", "*.c", "*.egg-info", "__pycache__")
    shutil.copytree(ROOT / "src", tmp_path / "src", ignore=left_out)

    def run(**variables: str) -> tuple[list[str], list[str], str]:
        # The result is not run, so the compiler need not optimize.
        environment = {**os.environ, "WSFLEET_NO_EXTENSIONS": "", "CFLAGS": "-O0", **variables}
        command = [sys.executable, "setup.py", "-q", "sdist", "bdist_wheel"]
        made = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=True)
        (wheel,), (archive,) = (tmp_path / "dist").glob("*.whl"), (tmp_path / "dist").glob("*.tar.gz")
        with zipfile.ZipFile(wheel) as opened, tarfile.open(archive) as unpacked:
            return opened.namelist(), [name.partition("/")[2] for name in unpacked.getnames()], made.stderr

    return run


def compiled_in(names: list[str]) -> list[str]:
    return [name.partition(".")[0].replace("/", ".") for name in names if name.endswith((".so", ".pyd"))]


def test_every_compiled_part_is_known():
    """Each .pyx file is a part whose use is monitored, and each monitored part has a .pyx file."""
    assert sorted(str(path.relative_to(ROOT / "src")) for path in (ROOT / "src").rglob("*.pyx")) == sorted(SOURCES)


def test_a_wheel_contains_compiled_parts_and_an_archive_their_sources(build):
    """The wheel can be installed without Cython and a compiler; the archive can be compiled."""
    for part in PARTS:
        compiled(part)
    wheel, archive, complaints = build()
    assert sorted(compiled_in(wheel)) == sorted(PARTS)
    assert {f"src/{source}" for source in SOURCES} <= set(archive)
    assert not [name for name in (*wheel, *archive) if name.endswith(".c")]
    assert not [name for name in wheel if name.endswith(".pyx")]
    assert "could not be compiled" not in complaints


def test_without_a_compiler_a_wheel_is_built(build):
    """Without a compiler the wheel has everything else, and the build warns once for each part that is not compiled."""
    wheel, archive, complaints = build(CC=str(ROOT / "no-such-compiler"))
    assert not compiled_in(wheel)
    assert "wsfleet/transport/scanner.py" in wheel
    assert {f"src/{source}" for source in SOURCES} <= set(archive)
    assert [complaints.count(f"{part} could not be compiled") for part in PARTS] == [1] * len(PARTS)


def test_without_cython_a_wheel_is_built(build, tmp_path):
    """If Cython is missing or broken, nothing is compiled; the archive still has the sources."""
    broken = tmp_path / "broken" / "Cython"
    broken.mkdir(parents=True)
    (broken / "__init__.py").write_text("raise ImportError('broken')")
    wheel, archive, complaints = build(PYTHONPATH=str(broken.parent))
    assert not compiled_in(wheel)
    assert {f"src/{source}" for source in SOURCES} <= set(archive)
    assert "could not be compiled" in complaints


def test_nothing_is_compiled_with_wsfleet_no_extensions(build):
    """With WSFLEET_NO_EXTENSIONS the wheel is platform-independent, without a warning."""
    wheel, archive, complaints = build(WSFLEET_NO_EXTENSIONS="1")
    assert not compiled_in(wheel)
    assert {f"src/{source}" for source in SOURCES} <= set(archive)
    assert "could not be compiled" not in complaints


@pytest.fixture
def make(tmp_path: Path) -> Callable[..., subprocess.CompletedProcess[str]]:
    """Runs make in a folder that contains only the Makefile."""
    for name in ("Makefile", "pyproject.toml", "constraints.txt"):
        shutil.copy(ROOT / name, tmp_path)
    (tmp_path / "src").mkdir()

    def run(*arguments: str) -> subprocess.CompletedProcess[str]:
        command = ["make", "--no-print-directory", "PYTHON=false", *arguments]
        return subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)

    return run


@pytest.mark.skipif(shutil.which("make") is None, reason="make is not installed")
def test_a_venv_not_created_by_make_is_kept(
    tmp_path: Path, make: Callable[..., subprocess.CompletedProcess[str]]
) -> None:
    """An environment that make did not create is neither replaced nor removed, with an explanation; its own one is."""
    for name in (".venv", ".venv-old"):
        (tmp_path / name).mkdir()
    done = make("demo")
    assert done.returncode == 2
    assert ".venv was not created by make: remove it, or choose another directory" in done.stderr
    make("clean")
    assert (tmp_path / ".venv").is_dir()
    assert make("demo", "VENV=.venv-make").returncode == 2  # PYTHON is not a Python
    assert (tmp_path / ".venv-make" / ".made").exists()
    assert "not made by make" not in make("demo", "VENV=.venv-make").stderr
    (tmp_path / ".venv-old" / ".library").touch()  # created by an earlier Makefile
    make("clean")
    assert {each.name for each in tmp_path.iterdir() if each.name.startswith(".venv")} == {".venv"}
