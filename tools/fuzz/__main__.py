"""Fuzzing for a limited time: `make fuzz`, or `python -m tools.fuzz --help`.

- `frames`: random frames for the compiled scanner, under gcc's address sanitizer.
- `wire` and `handshake`: recorded and mutated bytes for the wire, guided by atheris.

A finding is written to `build/fuzz`. Once fixed, it is saved in `tests/support/fuzz_corpus`, and `make test` runs it.
"""

from __future__ import annotations

import argparse
import importlib.util
import random
import subprocess
import sys
from pathlib import Path

from tools.fuzz import frames

ROOT = Path(__file__).parents[2]
CORPUS = ROOT / "tests" / "support" / "fuzz_corpus"
BUILD = ROOT / "build" / "fuzz"
PARTS = ("frames", "wire", "handshake")

INPUT_BYTES = 4096
INPUT_S = 30
"""Time limit for one input, which normally takes milliseconds."""

MEMORY_MB = 1024
TAIL = 60
"""Number of lines of libFuzzer's log that are shown with a finding; the complete log is in `build/fuzz`."""


def guided(target: str, seed: int, seconds: float) -> int:
    """Run one target under atheris; its corpus stays in the build folder, for the next run."""
    learnt, found = BUILD / target, BUILD / "found"
    learnt.mkdir(parents=True, exist_ok=True)
    found.mkdir(exist_ok=True)
    options = {
        "max_total_time": max(1, round(seconds)),
        "seed": seed,
        "max_len": INPUT_BYTES,
        "timeout": INPUT_S,
        "rss_limit_mb": MEMORY_MB,
        "dict": CORPUS / f"{target}.dict",
        "artifact_prefix": f"{found}/{target}-",
        "print_final_stats": 1,
        "verbosity": 0,
    }
    command = [sys.executable, "-m", "tools.fuzz.guided", target]
    command += [f"-{name}={value}" for name, value in options.items()]
    log = BUILD / f"{target}.log"
    with log.open("wb") as file:
        code = subprocess.run(
            [*command, learnt, CORPUS / target], cwd=ROOT, stdout=file, stderr=subprocess.STDOUT, check=False
        ).returncode
    lines = log.read_text(errors="replace").splitlines()
    if code:
        print(*lines[-TAIL:], sep="\n")
    else:
        print(*(line.removeprefix("stat::") for line in lines if line.startswith("stat::")), sep="\n")
    return code


def missing(part: str) -> str | None:
    """Report the missing requirements of a part, if any."""
    if part == "frames":
        return frames.missing()
    return None if importlib.util.find_spec("atheris") else "atheris, which is there for Linux and Python up to 3.13"


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="make fuzz", description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--seconds", type=float, default=60.0, help="duration of each part (default: 60)")
    parser.add_argument("--seed", type=int, default=random.SystemRandom().randrange(1, 2**32))
    parser.add_argument("--only", choices=PARTS, help="run only this part")
    args = parser.parse_args()
    outcomes: dict[str, str] = {}
    for part in [args.only] if args.only else PARTS:
        lacking = missing(part)
        if lacking is not None:
            outcomes[part] = f"skipped: needs {lacking}"
            continue
        print(f"== {part}: {args.seconds:g} s, seed {args.seed} ==", flush=True)
        options = args.seed, args.seconds
        code = frames.run(*options) if part == "frames" else guided(part, *options)
        outcomes[part] = "FAILED" if code else "nothing found"
    print(*(f"{part}: {outcome}" for part, outcome in outcomes.items()), sep="\n")
    return 1 if "FAILED" in outcomes.values() else 0


if __name__ == "__main__":
    sys.exit(main())
