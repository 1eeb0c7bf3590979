"""The configuration reference, generated from the code, has exactly the keys that a file may have."""

import re
from dataclasses import fields
from pathlib import Path

import pytest

from tools import config_reference
from wsfleet import Buffer, Endpoint, Limits, Liveness, Reconnect, Retry
from wsfleet.config import check
from wsfleet.core.keywords import ProcessorOptions

PAGE = config_reference.reference()
TABLES = {title: re.findall(r"^\| `(\w+)` \|", part, re.MULTILINE) for title, _, part in
          (each.partition("\n") for each in PAGE.removeprefix("## ").split("\n## "))}  # fmt: skip
TABLES = {title.strip(): keys for title, keys in TABLES.items()}


@pytest.mark.parametrize(
    ("title", "options"),
    [("[[connect]]", Endpoint), ("reconnect", Reconnect), ("liveness", Liveness), ("limits", Limits),
     ("buffer", Buffer), ("retry", Retry)],
)  # fmt: skip
def test_every_option_is_a_row(title: str, options: type) -> None:
    """Each field of an options class is a row of its table, in the same order, and nothing else is."""
    assert TABLES[title] == [each.name for each in fields(options)]


def test_every_option_of_a_processor_is_a_row() -> None:
    """The keywords of `process` are rows of [[process]]."""
    assert set(ProcessorOptions.__annotations__) <= set(TABLES["[[process]]"])


def test_every_accepted_key_is_a_row() -> None:
    """The keys that a section accepts are in its table, or in the tables that its text names."""
    also = {"[[connect]]": ["[[process]]"], "[[pool]]": ["[[connect]]", "[[process]]"]}
    for name, keys in config_reference.sections().items():
        title = config_reference.SECTIONS[name]
        shown = {key for each in [title, *also.get(title, [])] for key in TABLES[each]}
        assert set(keys) <= shown, title


def test_every_section_is_described(tmp_path: Path) -> None:
    """Each section that the checker lists as known has a table."""
    (tmp_path / "wrong.toml").write_text("[quite_another]\n")
    fault = next(str(fault) for fault in check(tmp_path / "wrong.toml").faults if "unknown section" in str(fault))
    known = re.split(r", | and ", fault.partition("there are ")[2])
    assert set(known) == set(config_reference.sections()), fault


def test_a_key_without_a_meaning_is_an_error() -> None:
    """An option without a `#:` comment raises an error."""
    with pytest.raises(LookupError, match="'new' has no description"):
        config_reference.meaning(["Endpoint"], "new")


def written(title: str) -> str:
    """Return the defaults of a table as lines of a file."""
    part = PAGE.split(f"## {title}\n")[1].split("\n## ")[0]
    rows = re.findall(r"^\| `(\w+)` \|[^|]*\|[^|]*\| `([^`]+)` \|", part, re.MULTILINE)
    assert rows
    return "".join(f"{key} = {value}\n" for key, value in rows)


def test_the_defaults_that_are_shown_are_valid(tmp_path: Path) -> None:
    """A file that contains every default that is shown as a number or text is accepted."""
    text = f'[[connect]]\nuri = "wss://feed.example"\n{written("[[connect]]")}'
    text += "".join(f"[connect.{title}]\n{written(title)}" for title in ("reconnect", "liveness"))
    (tmp_path / "defaults.toml").write_text(text)
    assert check(tmp_path / "defaults.toml").faults == ()
