"""A configuration file runs only code that its author named, whatever the environment and referenced files contain."""

import os
from pathlib import Path

import pytest

from wsfleet.config import check


def faults(folder: Path, lines: str, **environ: str) -> list[str]:
    (folder / "feeds.toml").write_text(f'[[connect]]\nuri = "ws://a.example"\n{lines}\n')
    return [fault.text for fault in check(folder / "feeds.toml", environ=environ).faults]


@pytest.mark.parametrize("key", ["uri", "topic", "decode"])
def test_a_referenced_value_is_never_imported(key: str, tmp_path: Path) -> None:
    """A value of the form `module:function` from outside is text if text is allowed."""
    (tmp_path / "planted.py").write_text("raise SystemExit('imported')\n")
    file = tmp_path / "feeds.toml"
    uri = "" if key == "uri" else 'uri = "ws://a.example"\n'
    file.write_text(f'[[connect]]\n{uri}name = "a"\n{key} = "${{PLANTED}}"\n')
    report = check(file, environ={"PLANTED": "planted:run"})
    assert not [fault for fault in report.faults if "import" in fault.text]
    assert report.faults or key == "topic"


@pytest.mark.parametrize("key", ["handler", "on_open", "key", "match", "topic = { function", "reconnect = { fatal"])
def test_a_referenced_value_is_no_function(key: str, tmp_path: Path) -> None:
    """If only a function is allowed, it is a fault, and nothing is imported."""
    (tmp_path / "planted.py").write_text("raise SystemExit('imported')\n")
    section, end = ("pool", 'size = 2\ndecode = "json"') if key == "match" else ("connect", 'sink = "stdout"')
    (tmp_path / "feeds.toml").write_text(
        f'[[{section}]]\nuri = "ws://a.example"\n{key} = "${{PLANTED}}"{" }" * key.count("{")}\n'
        f"{end if key != 'handler' else ''}\n"
    )
    report = check(tmp_path / "feeds.toml", environ={"PLANTED": "planted:run"})
    (fault,) = report.faults
    assert fault.text == "must be a function, and a function must be written in the file without substitution"


def test_a_file_that_is_too_long_is_a_fault(tmp_path: Path) -> None:
    """A value from a file is a short secret: not more than the limit is read."""
    (tmp_path / "long").write_bytes(b"x")
    os.truncate(tmp_path / "long", 2**40)
    (fault,) = faults(tmp_path, 'headers = { X = "${file:long}" }')
    assert "is larger than 65536 bytes" in fault


@pytest.mark.skipif(not os.path.exists("/dev/zero"), reason="a file without an end")
@pytest.mark.parametrize("name", ["/dev/zero", "pipe"])
def test_a_file_without_an_end_is_a_fault(name: str, tmp_path: Path) -> None:
    """Pipes and devices are not read, so that a check never waits for them."""
    os.mkfifo(tmp_path / "pipe")
    (fault,) = faults(tmp_path, f'headers = {{ X = "${{file:{name}}}" }}')
    assert f"{name} is not a regular file" in fault


@pytest.mark.parametrize("content", [b"a\r\nX-Forged: 1", b"a\nb", b"a\x00b", b"\xff\xfe"])
def test_a_file_cannot_forge_a_header(content: bytes, tmp_path: Path) -> None:
    """Line ends and control characters in a secret's file are a fault, which does not quote it."""
    (tmp_path / "secret").write_bytes(content)
    (fault,) = faults(tmp_path, 'headers = { X = "${file:secret}" }')
    assert "Forged" not in fault


def test_a_folder_is_a_fault(tmp_path: Path) -> None:
    """A file that cannot be read is reported with its path."""
    (fault,) = faults(tmp_path, 'headers = { X = "${file:.}" }')
    assert "cannot be read" in fault
