"""The compiled parts, for tests that use both versions."""

import importlib
import os
from types import ModuleType

import pytest

from wsfleet.core.accel import wanted


def compiled(part: str) -> ModuleType:
    """Return the compiled module; skip if it was not built, fail if all parts of the suite are required."""
    if not wanted():
        pytest.skip("WSFLEET_NO_EXTENSIONS is set")
    try:
        return importlib.import_module(part)
    except ImportError as exc:
        if os.environ.get("WSFLEET_REQUIRE_SERVERS"):
            pytest.fail(f"{part} is not compiled: {exc}")
        pytest.skip(f"{part} is not compiled")
