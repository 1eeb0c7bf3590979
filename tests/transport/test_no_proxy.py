"""Which hosts NO_PROXY exempts."""

import pytest

from wsfleet.transport.no_proxy import is_exempt


@pytest.mark.parametrize(
    ("no_proxy", "host", "exempt"),
    [
        ("", "feed.example", False),
        ("*", "feed.example", True),
        ("other.example, feed.example", "feed.example", True),
        ("other.example feed.example", "feed.example", True),
        ("example", "feed.example", True),
        (".example", "feed.example", True),
        ("*.example", "feed.example", True),
        ("Feed.Example.", "feed.example", True),
        ("eed.example", "feed.example", False),
        ("feed.example:80", "feed.example", True),
        ("feed.example:81", "feed.example", False),
        ("127.0.0.1", "127.0.0.1", True),
        ("127.0.0.0/8", "127.1.2.3", True),
        ("127.0.0.0/8:80", "127.1.2.3", True),
        ("127.0.0.0/8:81", "127.1.2.3", False),
        ("10.0.0.0/8", "127.0.0.1", False),
        ("localhost", "127.0.0.1", False),
        ("10.0.0.0/99", "10.0.0.1", False),
        ("::1", "::1", True),
        ("[::1]", "::1", True),
        ("[::1]:80", "::1", True),
        ("[::1]:81", "::1", False),
        ("fe80::/10", "fe80::1", True),
        ("[fe80::/10]", "fe80::1", True),
        ("127.0.0.0/8", "::1", False),
    ],
)
def test_no_proxy(no_proxy: str, host: str, exempt: bool) -> None:
    """Names, domains, addresses, networks and `*` exempt a host, with or without a port."""
    assert is_exempt(host, 80, no_proxy) is exempt
