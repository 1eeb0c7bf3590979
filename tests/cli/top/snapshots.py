"""Screens recorded as SVG, and their comparison.

`WSFLEET_RENEW_SNAPSHOTS=1` before pytest records them anew: check each changed one before it is committed.
"""

import os
import re
from pathlib import Path

import pytest
from textual.app import App
from textual.pilot import Pilot

FOLDER = Path(__file__).parent / "snapshots"
SHOWN = Path(__file__).parents[3] / "docs" / "top.svg"
"""The screen that the documentation shows."""
TRIES = 200
"""Time limit for a screen to become the expected one; only a wrong screen uses it up."""


def picture(app: App[int]) -> str:
    """Return the screen as an SVG that loads no font."""
    svg = re.sub(r"\s*@font-face \{.*?\}", "", app.export_screenshot(), flags=re.DOTALL)
    return "\n".join(line.rstrip() for line in svg.splitlines()) + "\n"


def text(app: App[int]) -> str:
    """Return the screen as plain text."""
    return "\n".join(strip.text.rstrip() for strip in app.screen._compositor.render_strips(app.size))


async def compare(pilot: Pilot[int], name: str, tmp_path: Path) -> None:
    """Wait until the screen equals the one that is recorded under `name`."""
    file = SHOWN if name == "top" else FOLDER / f"{name}.svg"
    if os.environ.get("WSFLEET_RENEW_SNAPSHOTS"):
        await pilot.pause(1.0)
        file.write_text(picture(pilot.app), encoding="utf-8")
        return
    kept = file.read_text(encoding="utf-8")
    for _ in range(TRIES):
        if picture(pilot.app) == kept:
            return
        await pilot.pause(0.05)
    actual = tmp_path / file.name
    actual.write_text(picture(pilot.app), encoding="utf-8")
    pytest.fail(f"{file.name} has changed: {actual}; WSFLEET_RENEW_SNAPSHOTS=1 records it anew", pytrace=False)
