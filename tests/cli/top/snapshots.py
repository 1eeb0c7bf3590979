"""Screens kept as SVG, and compared.

`WSFLEET_RENEW_SNAPSHOTS=1` before pytest writes them anew: look at each that changed before it is committed.
"""

import os
import re
from pathlib import Path

import pytest
from textual.app import App
from textual.pilot import Pilot

FOLDER = Path(__file__).parent / "snapshots"
SHOWN = Path(__file__).parents[3] / "docs" / "top.svg"
"""The one that the documents show."""
TRIES = 200
"""A bound on waiting for a screen to become what it should be; used up by one that looks otherwise alone."""


def picture(app: App[int]) -> str:
    """Return the screen as an SVG that asks nobody for its font."""
    svg = re.sub(r"\s*@font-face \{.*?\}", "", app.export_screenshot(), flags=re.DOTALL)
    return "\n".join(line.rstrip() for line in svg.splitlines()) + "\n"


def text(app: App[int]) -> str:
    """Return the screen as plain text."""
    return "\n".join(strip.text.rstrip() for strip in app.screen._compositor.render_strips(app.size))


async def compare(pilot: Pilot[int], name: str, tmp_path: Path) -> None:
    """Compare the screen, once it has become it, with the one that is kept under `name`."""
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
    pytest.fail(f"{file.name} looks otherwise now: {actual}; WSFLEET_RENEW_SNAPSHOTS=1 keeps it", pytrace=False)
