"""Asks pip-audit whether known weaknesses are in the versions of constraints.txt, and tells apart what it answers.

Exit codes: 0 none is known; 1 some are, and listed; 3 its data could not be reached, for one package or for all.
"""

import json
import subprocess
import sys
from pathlib import Path

CONSTRAINTS = Path(__file__).resolve().parent.parent / "constraints.txt"
NONE_KNOWN, SOME_KNOWN, NOT_REACHED = 0, 1, 3


def main(command: list[str]) -> int:
    """Run `command`, which is pip-audit, over the constraints; return the exit code."""
    # All versions are pinned there, so nothing has to be resolved or installed to know them.
    options = ["--requirement", str(CONSTRAINTS), "--no-deps", "--disable-pip", "--progress-spinner=off"]
    done = subprocess.run([*command, *options, "--format=json"], capture_output=True, text=True, check=False)
    try:
        found = json.loads(done.stdout)["dependencies"]
    except (ValueError, KeyError, TypeError):
        why = (done.stderr.strip().splitlines() or ["it said nothing"])[-1]
        print(f"audit: nothing learnt, as pip-audit did not reach its data: {why}", file=sys.stderr)
        return NOT_REACHED
    skipped = [each for each in found if "skip_reason" in each]  # of which pip-audit itself says that all is well
    faults = [
        f"{each['name']} {each['version']}: {fault['id']}, mended in {', '.join(fault['fix_versions']) or 'no version'}"
        for each in found
        for fault in each.get("vulns", ())
    ]
    if skipped:
        few = f"{len(skipped)} of {len(found)} packages"
        why = skipped[0]["skip_reason"]
        print(f"audit: nothing learnt of {few}, as pip-audit did not reach its data: {why}", file=sys.stderr)
    elif not faults:
        print(f"audit: no weakness is known of {len(found)} packages")
    for fault in faults:
        print(fault)
    return SOME_KNOWN if faults else NOT_REACHED if skipped else NONE_KNOWN


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:] or ["pip-audit"]))
