"""Builds the compiled parts, every `src/**/_*.pyx`, where that is possible; pyproject.toml has everything else.

Each has a twin in Python, so no failure here is an error: no compiler, no Python.h, no Cython or one that is broken.
With WSFLEET_NO_EXTENSIONS set, nothing is compiled.
"""

import os
import sys
from pathlib import Path

from setuptools import Extension, setup
from setuptools.command.build_ext import build_ext

FAILED = """
wsfleet: WARNING: {} could not be compiled ({}: {}).
wsfleet works without it, in Python alone, but each message costs more CPU time. To compile it, install a C compiler
and Python's headers (on Debian and Ubuntu: gcc and python3-dev), and install wsfleet again.
"""


class OptionalBuild(build_ext):
    """Compiles what it can, and says so where it can't."""

    def initialize_options(self) -> None:
        super().initialize_options()
        self.cython_c_in_temp = True  # the C code is of no use once it is compiled

    def build_extension(self, ext: Extension) -> None:
        try:
            super().build_extension(ext)
        except Exception as exc:
            Path(self.get_ext_fullpath(ext.name)).unlink(missing_ok=True)  # one of an older source
            print(FAILED.format(ext.name, type(exc).__name__, exc), file=sys.stderr)


def extension(path: Path) -> Extension:
    """The extension module of one .pyx file; optional, so that nothing misses it where it was not built."""
    return Extension(".".join(path.relative_to("src").with_suffix("").parts), [str(path)], optional=True)


sources = [] if os.environ.get("WSFLEET_NO_EXTENSIONS") else sorted(Path("src").rglob("_*.pyx"))
setup(ext_modules=[extension(path) for path in sources], cmdclass={"build_ext": OptionalBuild})
