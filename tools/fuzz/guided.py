"""Recorded and mutated bytes for the wire, guided by coverage: atheris, based on libFuzzer.

`python -m tools.fuzz.guided wire|handshake [libFuzzer's options] FOLDER...`; `tools.fuzz` runs it. Inputs are
described in `tests/support/fuzzing.py`. A failing one is saved, and ends the program.
"""

from __future__ import annotations

import asyncio
import logging
import sys

import atheris

with atheris.instrument_imports(include=["wsfleet.transport", "websockets"]):
    from tests.support.fuzzing import TARGETS, fails_loudly
    from wsfleet.transport import protocol, scanner

SCANNERS = [scanner.scan]
try:
    from wsfleet.transport import _scanner

    SCANNERS.append(_scanner.scan)
except ImportError:  # not compiled: only Python
    pass


def main() -> None:
    target = TARGETS[sys.argv.pop(1)]
    logging.disable()  # errors are intended
    loop = asyncio.new_event_loop()
    asyncio.set_event_loop(loop)

    def once(data: bytes) -> None:
        for scan in SCANNERS:
            protocol.scan = scan
            with fails_loudly(loop):
                loop.run_until_complete(target(data))

    atheris.Setup(sys.argv, once)
    atheris.Fuzz()


if __name__ == "__main__":
    main()
