"""Checks the versions in constraints.txt for known vulnerabilities with pip-audit, and distinguishes its failures.

Exit codes: 0 no known vulnerability; 1 some, which are listed; 3 the data of at least one package were unreachable.
"""

import json
import subprocess
import sys
from pathlib import Path

CONSTRAINTS = Path(__file__).resolve().parent.parent / "constraints.txt"
NONE_KNOWN, SOME_KNOWN, NOT_REACHED = 0, 1, 3


def main(command: list[str]) -> int:
    """Run `command`, which is pip-audit, over the constraints; return the exit code."""
    # All versions are pinned there, so nothing needs to be resolved or installed.
    options = ["--requirement", str(CONSTRAINTS), "--no-deps", "--disable-pip", "--progress-spinner=off"]
    done = subprocess.run([*command, *options, "--format=json"], capture_output=True, text=True, check=False)
    try:
        found = json.loads(done.stdout)["dependencies"]
    except (ValueError, KeyError, TypeError):
        why = (done.stderr.strip().splitlines() or ["no output"])[-1]
        print(f"audit: not checked, because pip-audit could not reach its data: {why}", file=sys.stderr)
        return NOT_REACHED
    skipped = [each for each in found if "skip_reason" in each]  # pip-audit itself ignores these
    faults = [
        f"{each['name']} {each['version']}: {fault['id']}, fixed in {', '.join(fault['fix_versions']) or 'no version'}"
        for each in found
        for fault in each.get("vulns", ())
    ]
    if skipped:
        few = f"{len(skipped)} of {len(found)} packages"
        why = skipped[0]["skip_reason"]
        print(f"audit: {few} not checked, because pip-audit could not reach its data: {why}", file=sys.stderr)
    elif not faults:
        print(f"audit: no known vulnerability in {len(found)} packages")
    for fault in faults:
        print(fault)
    return SOME_KNOWN if faults else NOT_REACHED if skipped else NONE_KNOWN


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:] or ["pip-audit"]))
