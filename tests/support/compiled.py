"""The compiled parts, for tests that look at both twins."""

import importlib
import os
from types import ModuleType

import pytest

from wsfleet.core.accel import wanted


def compiled(part: str) -> ModuleType:
    """Return the compiled module; skip where it was not built, fail where every part of the suite is to run."""
    if not wanted():
        pytest.skip("WSFLEET_NO_EXTENSIONS is set")
    try:
        return importlib.import_module(part)
    except ImportError as exc:
        if os.environ.get("WSFLEET_REQUIRE_SERVERS"):
            pytest.fail(f"{part} is not compiled: {exc}")
        pytest.skip(f"{part} is not compiled")
