"""Runs every part, each in its own process, and prints all figures as one table."""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from benchmarks import buffers, exchange, fairness, growth, latency, scale, storm, throughput
from benchmarks.figures import Part, table
from benchmarks.scenarios import CONTENDERS, SCENARIOS

RESULTS = Path(__file__).parent / "results"
FILE = "bench.json"

MODULES = (throughput, exchange, buffers, scale, storm, fairness, latency, growth)
PARTS = {module.PART.name: module.PART for module in MODULES}
"""In the order of the runs and of the table."""


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    add = parser.add_argument
    add("--part", metavar="NAME[,NAME...]", help=f"run only these parts, of {', '.join(PARTS)}")
    add("--pairs", type=int, metavar="N", help="number of rounds, in every part that has rounds")
    add("--scenario", action="append", choices=SCENARIOS, help="run only this scenario of throughput; can be repeated")
    add("--only", action="append", choices=[each.name for each in CONTENDERS], metavar="NAME",
        help="run only this contender of throughput; can be repeated")  # fmt: skip
    add("--json", type=Path, metavar="FILE", help="write all figures to this file")
    add("--write", type=Path, nargs="?", const=RESULTS, metavar="FOLDER",
        help=f"save the figures as {FILE} in this folder (default: {RESULTS.name}), and draw them")  # fmt: skip
    add("--charts", type=Path, nargs="?", const=RESULTS / FILE, metavar="FILE",
        help="run nothing; draw the figures of this file, next to it")  # fmt: skip
    add("--quick", action="store_true", help="check that everything works, in seconds; the figures are meaningless")
    options = parser.parse_args(arguments)
    narrow = options.scenario or options.only
    options.parts = options.part.split(",") if options.part else ["throughput"] if narrow else list(PARTS)
    if unknown := set(options.parts) - PARTS.keys():
        parser.error(f"--part: unknown: {', '.join(sorted(unknown))}; choose from {', '.join(PARTS)}")
    if narrow and "throughput" not in options.parts:
        parser.error("--scenario and --only belong to throughput, which --part excludes")
    if options.write == RESULTS and (narrow or options.quick):
        parser.error(
            "--write: only complete parts are saved there; use --write FOLDER or --json FILE for these figures"
        )
    return options


def command(part: Part, options: argparse.Namespace) -> list[str]:
    """Return the arguments of a part's own command."""
    given = part.quick.split() if options.quick else []
    if options.pairs is not None and part.pairs:
        given += ["--pairs", str(options.pairs)]
    if part is throughput.PART:
        only = options.only or (["websockets_queue"] if options.quick else [])
        scenarios = options.scenario or (["default"] if options.quick else list(SCENARIOS))
        for name, values in (("--scenario", scenarios), ("--only", only)):
            given += [word for value in values for word in (name, value)]
    return given


def estimate_s(part: Part, options: argparse.Namespace) -> float:
    """Return the estimated duration."""
    if options.quick:
        return 5.0
    share = len(options.scenario) / len(SCENARIOS) if part is throughput.PART and options.scenario else 1.0
    return part.seconds(options.pairs) * share


def minutes(seconds: float) -> str:
    return f"{seconds / 60:.0f} min" if seconds >= 90 else f"{seconds:.0f} s"


def run(options: argparse.Namespace) -> tuple[dict[str, Any], list[str]]:
    """Run the parts one after the other; return their figures, and the names of those that failed."""
    parts = [part for name, part in PARTS.items() if name in options.parts]
    total_s = sum(estimate_s(part, options) for part in parts)
    print(f"{len(parts)} parts, about {minutes(total_s)} in total: {', '.join(part.name for part in parts)}")
    found: dict[str, Any] = {}
    failed = []
    with TemporaryDirectory() as folder:
        for number, part in enumerate(parts, 1):
            about_s = estimate_s(part, options)
            print(f"\n[{number}/{len(parts)}] {part.name}: {part.about}; about {minutes(about_s)}", flush=True)
            file, began = Path(folder) / f"{part.name}.json", time.monotonic()
            module = [sys.executable, "-m", f"benchmarks.{part.name}"]
            done = subprocess.run([*module, *command(part, options), "--json", str(file)], cwd=RESULTS.parents[1])
            if done.returncode == 0:
                found[part.name] = json.loads(file.read_text()) | {"took_s": round(time.monotonic() - began, 1)}
            else:
                failed.append(part.name)
    return found, failed


def keep(found: dict[str, Any], folder: Path) -> None:
    """Write the figures into `folder`, next to those of parts that were not run, and draw them."""
    from benchmarks.charts import draw

    file = folder / FILE
    save(file, (json.loads(file.read_text()) if file.exists() else {}) | found)
    for path in draw(found, folder):
        print(path)


def save(file: Path, found: dict[str, Any]) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    ordered = {name: found[name] for name in PARTS if name in found}
    file.write_text(json.dumps(ordered, indent=2) + "\n")


def main(arguments: Sequence[str] | None = None) -> None:
    options = parse(arguments)
    if options.charts:
        from benchmarks.charts import draw

        for path in draw(json.loads(options.charts.read_text()), options.charts.parent):
            print(path)
        return
    found, failed = run(options)
    print(f"\n{table(found)}")
    if options.json:
        save(options.json, found)
    if options.write:
        keep(found, options.write)
    if failed:
        sys.exit(f"failed: {', '.join(failed)}")


if __name__ == "__main__":
    main()
