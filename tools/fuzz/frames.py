"""Random bytes for the compiled scanner and inflater, under the address sanitizer.

Builds the compiled parts with gcc's sanitizers into a temporary folder. For streams of frames, mutated and cut
anywhere, the compiled scanner must return the same as its Python version and as websockets' own parser; the
decompressor is compared with its Python version, including errors.
The bytes before and after each buffer are poisoned: reading one ends the program, with a report.
"""

from __future__ import annotations

import ctypes
import importlib.util
import os
import random
import shutil
import subprocess
import sys
import tempfile
import time
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from websockets.exceptions import PayloadTooBig, ProtocolError
from websockets.frames import Frame
from websockets.streams import StreamReader

from tests.support.wirekit import BINARY, CONT, PING, TEXT, frame
from wsfleet.transport import scanner

ROOT = Path(__file__).parents[2]
PART = "wsfleet.transport._scanner"
SANITIZE = "-fsanitize=address,undefined -fno-sanitize-recover=all -fno-omit-frame-pointer -g -O1"

Scan = Callable[[bytes, int, int, int, bool, list[str | bytes]], int]
Inflate = Callable[[Any, int, bytes, int, int, int, bool, list[str | bytes]], int]

SIZES = [0, 1, 2, 3, 7, 8, 9, 15, 16, 17, 124, 125, 126, 127, 128, 300]
LENGTHS = [0, 1, 125, 126, 2**16, 2**31 - 1, 2**31, 2**32, 2**63 - 1, 2**63, 2**64 - 10, 2**64 - 1]
LIMITS = [*[2**20] * 20, 0, 1, 125, 126, 300, 2**63 - 1, 2**63, 2**64, 2**100, -1]
COUNTS = [*[1000] * 10, 0, 1, 2, 3, 2**64, -1]
CHARACTERS = ["a", "z", "\x7f", "\x80", "é", "\u07ff", "\u0800", "價", "\ud7ff", "\uffff", "\U00010000", "\U0010ffff"]
NOT_UTF8 = [b"\x80", b"\xc0\xaf", b"\xc3", b"\xe0\x9f\xbf", b"\xed\xa0\x80", b"\xf0\x8f\xbf\xbf", b"\xf4\x90\x80\x80"]
HEADER = 32
"""Bytes of a bytes object before its first byte; the last 8 of them are its hash, which is not used here."""


# Input


def payload(chance: random.Random) -> bytes:
    size = chance.choice(SIZES)
    kind = chance.randrange(10)
    if kind == 0:
        return chance.randbytes(size)
    text = "".join(chance.choices(CHARACTERS[: chance.choice([2, 2, 3, 12])], k=size)).encode()
    if kind == 1:
        place = chance.randint(0, len(text))
        return text[:place] + chance.choice(NOT_UTF8) + text[place:]
    return text[: len(text) - chance.choice([0, 0, 0, 1])]


def piece(chance: random.Random) -> bytes:
    """A frame, mostly a plain one; or a header with any length; or random bytes."""
    kind = chance.randrange(10)
    if kind == 0:
        return chance.randbytes(chance.randrange(12))
    if kind == 1:
        return bytes([chance.choice([0x81, 0x82]), 127]) + chance.choice(LENGTHS).to_bytes(8, "big")
    if kind == 2:
        options = {"fin": chance.random() < 0.5, "reserved": chance.choice([0, 0, 1, 4])}
        return frame(chance.choice([CONT, TEXT, PING, 3]), payload(chance), **options)
    return frame(chance.choice([TEXT, BINARY]), payload(chance), form=chance.choice([0, 0, 0, 16, 64]))


def compressed(chance: random.Random, wbits: int, shared: bool) -> Callable[[], bytes]:
    """Return a generator of frames: mostly compressed, sometimes a bomb, sometimes a result of `piece`."""
    kept = zlib.compressobj(wbits=wbits)

    def make() -> bytes:
        if chance.randrange(12) == 0:
            return piece(chance)
        coder = kept if shared else zlib.compressobj(wbits=wbits)
        content = payload(chance) * chance.choice([*[1] * 8, 1000])
        packed = (coder.compress(content) + coder.flush(zlib.Z_SYNC_FLUSH))[:-4]
        return frame(chance.choice([TEXT, BINARY]), packed, reserved=4, form=chance.choice([0, 0, 0, 16, 64]))

    return make


def stream(chance: random.Random, make: Callable[[], bytes]) -> bytes:
    """Some frames, a few of their bytes changed, cut anywhere."""
    made = bytearray(b"".join(make() for _ in range(chance.randrange(8))))
    for _ in range(chance.choice([0, 0, 0, 1, 3]) if made else 0):
        made[chance.randrange(len(made))] = chance.randrange(256)
    return bytes(made[: chance.choice([len(made), chance.randint(0, len(made))])])


# Expected results


def parsed(data: bytes, pos: int, limit: int) -> Iterator[tuple[int, bytes, bool]]:
    """The plain frames from `pos` on as websockets parses them: the end of each, its payload, whether it is text."""
    reader = StreamReader()
    reader.feed_data(data[pos:])
    reader.feed_eof()
    while True:
        left = len(reader.buffer)
        parser = Frame.parse(reader.read_exact, mask=False, max_size=limit)
        try:
            next(parser)
        except StopIteration as done:
            found = done.value
        except (EOFError, PayloadTooBig, ProtocolError):
            return
        pos += left - len(reader.buffer)
        if not found.fin or found.rsv1 or found.rsv2 or found.rsv3 or found.opcode not in (TEXT, BINARY):
            return
        if found.opcode == TEXT:
            try:
                bytes(found.data).decode()
            except UnicodeDecodeError:
                return
        yield pos, bytes(found.data), found.opcode == TEXT


def oracle(data: bytes, pos: int, limit: int, most: int, as_text: bool, out: list[str | bytes]) -> int:
    """The scanner, implemented with websockets' parser."""
    frames = parsed(data, pos, limit)
    for _ in range(most):
        found = next(frames, None)
        if found is None:
            break
        pos, content, text = found
        out.append(content.decode() if text and as_text else content)
    return pos


# Comparison


class Poison:
    """Forbids reading beside a buffer, whose allocation is larger than its bytes."""

    def __init__(self) -> None:
        library = ctypes.CDLL(None)  # the process itself, with the sanitizer
        names = ("poison_memory_region", "unpoison_memory_region", "address_is_poisoned")
        self._poison, self._unpoison, self._is_poisoned = (getattr(library, f"__asan_{name}") for name in names)
        self._poison.argtypes = self._unpoison.argtypes = [ctypes.c_void_p, ctypes.c_size_t]
        self._is_poisoned.argtypes = [ctypes.c_void_p]

    @contextmanager
    def around(self, data: bytes) -> Iterator[None]:
        first = id(data) + HEADER
        edges = [(first - 8, 8), (first + len(data), 1)]
        for edge in edges:
            self._poison(*edge)
        if not (self._is_poisoned(first - 1) and self._is_poisoned(first + len(data))):
            raise RuntimeError("the sanitizer does not guard the buffer")
        try:
            yield
        finally:
            for edge in edges:
                self._unpoison(*edge)


def compare(scan: Scan, poison: Poison, chance: random.Random) -> int:
    """Parse one buffer with all three; return the number of frames. Raises AssertionError if the results differ."""
    # Two bytes at least: Python shares the shorter ones. Some buffers end in a header, some with a frame.
    data = stream(chance, lambda: piece(chance)) + chance.choice([b"\x82\x7e", b"\x82\x00", b"\x82\x00\x81"])
    pos = chance.choice([*[0] * 9, chance.randint(0, len(data) + 2)])
    arguments = (pos, chance.choice(LIMITS), chance.choice(COUNTS), chance.random() < 0.5)
    out: list[str | bytes] = []
    with poison.around(data):
        end = scan(data, *arguments, out)
    for name, other in (("Python", scanner.scan), ("websockets", oracle)):
        theirs: list[str | bytes] = []
        there = other(data, *arguments, theirs)
        if (end, out, [*map(type, out)]) != (there, theirs, [*map(type, theirs)]):
            raise AssertionError(f"scan({data!r}, {arguments}): {end} {out}; {name}: {there} {theirs}")
    return len(out)


def compare_inflated(inflate: Inflate, poison: Poison, chance: random.Random) -> int:
    """Decompress messages with both versions, in one buffer and another one that continues with the same state."""
    wbits, shared = -chance.randint(9, 15), chance.random() < 0.7
    make = compressed(chance, wbits, shared)
    ours, theirs = ((zlib.decompressobj(wbits) if shared else None) for _ in range(2))
    count = 0
    for _ in range(2):
        data = stream(chance, make) + chance.choice([b"\xc2\x7e", b"\xc2\x00", b"\xc2\x00\xc1"])
        arguments = (0, chance.choice([limit for limit in LIMITS if 0 <= limit < 2**31]), chance.choice(COUNTS[:-2]))
        arguments = (*arguments, chance.random() < 0.5)
        with poison.around(data):
            here = outcome(inflate, ours, wbits, data, *arguments)
        there = outcome(inflate.inflate, theirs, wbits, data, *arguments)
        if here != there:
            raise AssertionError(f"inflate({wbits}, {data!r}, {arguments}): {here}; Python: {there}")
        count += len(here[0])
    return count


def outcome(inflate: Inflate, decoder: Any, *arguments: Any) -> tuple[list[str | bytes], int | str]:
    """The result: the messages, and where it ended or the exception."""
    out: list[str | bytes] = []
    try:
        return out, inflate(decoder, *arguments, out)
    except (zlib.error, PayloadTooBig, UnicodeDecodeError) as exc:
        return out, repr(exc)


def fuzz(folder: Path, seed: int, seconds: float) -> None:
    """The inner program, which runs under the sanitizer."""
    (path,) = (folder / Path(*PART.split("."))).parent.glob("_scanner.*.so")
    spec = importlib.util.spec_from_file_location(PART, path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    chance, poison = random.Random(seed), Poison()
    until = time.monotonic() + seconds
    buffers = frames = messages = 0
    while time.monotonic() < until:
        buffers += 3
        frames += compare(module.scan, poison, chance)
        messages += compare_inflated(module.inflate, poison, chance)
    print(
        f"{buffers:,} buffers, {frames:,} frames and {messages:,} compressed messages taken out of them: "
        "no difference, nothing read beside them"
    )


def build(folder: Path) -> None:
    """Compile with the sanitizers; ends the program if this is impossible."""
    environment = {**os.environ, "CC": "gcc", "CFLAGS": SANITIZE, "LDFLAGS": SANITIZE, "WSFLEET_NO_EXTENSIONS": ""}
    command = [sys.executable, "setup.py", "-q", "build_ext", "--build-lib", folder, "--build-temp", folder / "temp"]
    subprocess.run(command, cwd=ROOT, env=environment, check=True)
    if not list(folder.rglob("_scanner.*.so")):
        sys.exit(f"{PART} could not be compiled with the sanitizers")


def missing() -> str | None:
    """Report the missing requirements, if any."""
    return None if sys.platform == "linux" and shutil.which("gcc") else "gcc with its address sanitizer, on Linux"


def run(seed: int, seconds: float) -> int:
    """Build, and run the inner program; return its exit code."""
    with tempfile.TemporaryDirectory(prefix="wsfleet-fuzz-") as name:
        build(Path(name))
        library = subprocess.run(["gcc", "-print-file-name=libasan.so"], capture_output=True, text=True, check=True)
        environment = {
            **os.environ,
            "LD_PRELOAD": library.stdout.strip(),
            "ASAN_OPTIONS": "detect_leaks=0:quarantine_size_mb=16:abort_on_error=0",
            "PYTHONMALLOC": "malloc",
            "WSFLEET_NO_EXTENSIONS": "1",
        }
        inner = [sys.executable, "-m", "tools.fuzz.frames", name, str(seed), str(seconds)]
        return subprocess.run(inner, cwd=ROOT, env=environment, check=False).returncode


if __name__ == "__main__":
    fuzz(Path(sys.argv[1]), int(sys.argv[2]), float(sys.argv[3]))
