"""The Python code passes the tests of the compiled modules."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize(
    "tests",
    [
        "tests/pipeline/test_mailbox.py",
        "tests/pipeline/test_subscription.py tests/pipeline/test_next.py tests/pipeline/test_calls.py",
        "tests/pipeline/test_overflow.py",
        "tests/pipeline/test_processor.py tests/pipeline/test_processor_order.py"
        " tests/pipeline/test_processor_failures.py",
        "tests/fleet/test_balance.py tests/endpoint/test_ingest.py",
    ],
)
def test_the_reference_passes_the_same_tests(tests: str) -> None:
    """The code that each message passes through passes its tests without compiled modules."""
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-p", "no:xdist", *tests.split()],
        cwd=ROOT,
        env={key: value for key, value in os.environ.items() if not key.startswith("PYTEST_")}
        | {"WSFLEET_NO_EXTENSIONS": "1", "WSFLEET_HYPOTHESIS": "brief"},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=250,
    )
    assert done.returncode == 0, done.stdout + done.stderr
