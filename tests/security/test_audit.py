"""`make audit` reports known vulnerabilities of the pinned versions, and does not pass if it cannot check them."""

import sys

import pytest

from tools.audit import NONE_KNOWN, NOT_REACHED, SOME_KNOWN, main

GOOD = '{"dependencies": [{"name": "a", "version": "1", "vulns": []}], "fixes": []}'
BAD = '{"dependencies": [{"name": "a", "version": "1", "vulns": [{"id": "X-1", "fix_versions": ["2"]}]}], "fixes": []}'

SKIPPED = '{"dependencies": [{"name": "a", "skip_reason": "not found"}], "fixes": []}'


@pytest.mark.parametrize(
    ("output", "code", "message"),
    [
        (GOOD, NONE_KNOWN, "no known vulnerability in 1 packages"),
        (BAD, SOME_KNOWN, "a 1: X-1, fixed in 2"),
        (SKIPPED, NOT_REACHED, "1 of 1 packages not checked, because pip-audit could not reach its data: not found"),
        ("", NOT_REACHED, "could not reach its data: the network is away"),
        ("[]", NOT_REACHED, "could not reach its data: the network is away"),
    ],
)
def test_results_of_pip_audit_are_distinguished(
    output: str, code: int, message: str, capfd: pytest.CaptureFixture[str]
) -> None:
    """No known vulnerability, a known one, and a failed check have different exit codes, and a line each."""
    program = f"import sys; print({output!r}); print('the network is away', file=sys.stderr); sys.exit(1)"
    assert main([sys.executable, "-c", program]) == code
    out, err = capfd.readouterr()
    assert message in out + err
    assert len((out + err).splitlines()) == 1
