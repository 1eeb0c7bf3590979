"""Header fields: any spelling of a name, and all values of a field."""

import pytest

from wsfleet.core.errors import HandshakeRejected
from wsfleet.core.headers import Headers

PAIRS = [("Set-Cookie", "a=1"), ("X-Plan", "basic"), ("set-cookie", "b=2")]


def test_a_name_is_found_in_any_spelling():
    """Names are case-insensitive (RFC 9110, section 5.1), in a refusal too."""
    for headers in (Headers(PAIRS), HandshakeRejected(400, dict(PAIRS)).headers):
        assert headers["x-plan"] == headers["X-PLAN"] == headers.get("X-Plan") == "basic"
        assert "x-PLAN" in headers
        assert headers.get("X-Other") is None
        with pytest.raises(KeyError):
            headers["X-Other"]


def test_no_value_of_a_field_is_lost():
    """`get_all` returns every value; a lookup joins them and does not raise."""
    headers = Headers(PAIRS)
    assert headers.get_all("SET-COOKIE") == ["a=1", "b=2"]
    assert headers["Set-Cookie"] == "a=1, b=2"
    assert HandshakeRejected(400, headers).headers.get_all("Set-Cookie") == ["a=1", "b=2"]


def test_names_keep_their_spelling():
    """Iteration gives each name once, as it was first written."""
    assert dict(Headers(PAIRS)) == {"Set-Cookie": "a=1, b=2", "X-Plan": "basic"}
