"""The conditions of the figures, apart from the code."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import re
from pathlib import Path
from typing import Any

import wsfleet

__all__ = ["machine"]

PACKAGES = ("websockets", "picows", "aiohttp", "uvloop", "msgspec")


def machine() -> dict[str, Any]:
    """Return the machine, its Python, and the versions of the packages involved."""
    info = Path("/proc/cpuinfo")
    found = re.search(r"(?m)^model name\s*: (.*)", info.read_text()) if info.exists() else None
    return {
        "cpu": f"{os.cpu_count()} x {found[1] if found else platform.processor() or platform.machine()}",
        "system": f"{platform.system()} {platform.machine()}",
        "python": f"{platform.python_implementation()} {platform.python_version()}",
        **{name: version(name) for name in PACKAGES},
        "wsfleet.accelerated": wsfleet.accelerated,
    }


def version(package: str) -> str:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return "not installed"
