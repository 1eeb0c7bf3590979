"""docs/faults.md mentions existing tests, and all those of the matrix."""

import re
from pathlib import Path

TESTS = Path(__file__).parents[1]
PAGE = (TESTS.parent / "docs" / "faults.md").read_text("utf-8")


def defined(*files: Path) -> set[str]:
    return {name for file in files for name in re.findall(r"^(?:async )?def (test_\w+)", file.read_text("utf-8"), re.M)}


def test_the_page_of_faults_names_its_tests() -> None:
    """Each test in the tables exists, and each test of the matrix is in the tables."""
    named = set(re.findall(r"`(test_\w+)`", PAGE))
    assert named <= defined(*TESTS.rglob("test_*.py"))
    rows = [file for file in Path(__file__).parent.glob("test_*.py") if file.stem not in ("test_kit", "test_page")]
    assert defined(*rows) <= named
